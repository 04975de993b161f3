"""The channel to the GPU, which is a process of its own (kernel: xe_guc_ct.c, to the firmware).

The process is started when work comes, and ended when there was no queue for a while.  It knows of
the device what it is told: `xedev.gpu.abi` lists the messages.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import xedev
from xedev.gpu import abi
from xedev.gpu.channel import Channel, Closed, Message
from xedev.kernel.errors import KernelError, report_bug
from xedev.xe.xe_hw_engine import hw_engines

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("Handler", "XeGucCt")

logger = logging.getLogger("xedev")

IDLE_TIME = 5.0
"""Seconds without any queue after which the process ends."""
END_TIME = 5.0
"""Seconds that it has to end."""

Handler = Callable[..., None]


class _Gpu:
    """One process, the channel to it, and what it still has to answer."""

    __slots__ = ("acks", "channel", "generation", "process", "stat_waits", "thread")

    def __init__(self, generation: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.generation = generation
        self.process = process
        self.channel = channel
        self.acks: dict[int, Callable[[], None]] = {}
        self.stat_waits: dict[int, tuple[threading.Event, dict[int, int]]] = {}
        self.thread: threading.Thread | None = None
        """Who reads what it says."""


class XeGucCt:
    """The GPU's process, if there is one, and the messages to and from it."""

    def __init__(self, xe: XeDevice, handlers: dict[int, Handler], on_death: Handler) -> None:
        """``handlers`` by kind of message are called in the thread that reads, that of ASK with a
        function that replies in place of the request's number.  So is ``on_death``, after a
        process has ended for whatever reason."""
        self._xe = xe
        self._handlers: dict[int, Handler] = {abi.BUG: _bug, **handlers}
        self._own_handlers: dict[int, Handler] = {
            abi.ACK: self._ack,
            abi.ASK: self._ask,
            abi.STATS: _stats,
        }
        self._on_death = on_death
        self._lock = threading.Lock()
        self._gpu: _Gpu | None = None
        self._generations = 0
        self._token = 0
        self.users = 0
        """Living queues of work."""
        self.messages_sent = 0
        """How often something was sent, to tell whether nothing is."""

    @property
    def generation(self) -> int:
        """Which process it is, counted from 1; 0 while there is none.  What one was told, the
        next one does not know."""
        gpu = self._gpu
        return gpu.generation if gpu is not None else 0

    @property
    def pid(self) -> int:
        """Of the process; 0 for none."""
        gpu = self._gpu
        return gpu.process.pid if gpu is not None else 0

    def enable(self) -> None:
        """Start the process unless it runs; ``ENOMEM`` when the machine has none left."""
        with self._lock:
            if self._gpu is not None or self._xe.unplugged or self._xe.wedged:
                return
            try:
                process, channel = _spawn()
            except OSError as error:
                raise KernelError(errno.ENOMEM, f"no process for the GPU: {error}") from None
            self._generations += 1
            gpu = _Gpu(self._generations, process, channel)
            # Before others can send: it is the first message.
            channel.send((abi.HELLO, self._hardware()))
            gpu.thread = threading.Thread(
                target=self._read, args=(gpu,), name="guc-ct", daemon=True
            )
            gpu.thread.start()
            self._gpu = gpu

    def send(self, message: Message, generation: int = 0) -> bool:
        """Send, to the process ``generation`` if that matters; False when it will not be heard."""
        gpu = self._gpu
        self.messages_sent += 1
        return gpu is not None and generation in (0, gpu.generation) and _send(gpu, message)

    def send_with_token(
        self, message: Message, done: Callable[[], None], generation: int = 0
    ) -> bool:
        """Send with a token as last member; ``done`` is called when it has taken effect, or the
        process has ended.  False when it will not be heard, and ``done`` not be called."""
        with self._lock:
            gpu = self._gpu
            if gpu is None or generation not in (0, gpu.generation):
                return False
            self._token += 1
            token = self._token
            gpu.acks[token] = done
        self.messages_sent += 1
        if _send(gpu, (*message, token)):
            return True
        with self._lock:
            # Else the thread that reads was faster.
            return gpu.acks.pop(token, None) is None

    def query_ticks(self, timeout: float) -> dict[int, int]:
        """What each queue has spent on engines by now, in ticks of the GT's clock; nothing when
        that cannot be told in ``timeout`` seconds."""
        told = threading.Event()
        ticks: dict[int, int] = {}
        with self._lock:
            gpu = self._gpu
            if gpu is None:
                return ticks
            self._token += 1
            token = self._token
            gpu.stat_waits[token] = (told, ticks)
        if _send(gpu, (abi.STAT, token)) and told.wait(timeout):
            return ticks
        gpu.stat_waits.pop(token, None)
        return {}

    def disable(self) -> None:
        """End the process, and wait for that."""
        with self._lock:
            gpu = self._gpu
            self._stop()
        if gpu is None:
            return
        _reap(gpu.process)
        if gpu.thread is not None and gpu.thread is not threading.current_thread():
            gpu.thread.join()

    def _stop(self) -> None:
        """Let go of the process that there is; needs the lock."""
        gpu, self._gpu = self._gpu, None
        if gpu is not None:
            gpu.channel.shutdown()

    def _hardware(self) -> tuple[object, ...]:
        """What `abi.Hardware` says."""
        seed = self._xe.config.deterministic
        platform = self._xe.platform
        engines = tuple(tuple(engine) for engine in hw_engines(platform))
        return platform.reference_clock, engines, -1 if seed is None else seed

    # ---- the thread that reads ----

    def _read(self, gpu: _Gpu) -> None:
        try:
            while self._wait(gpu):
                for message in gpu.channel.receive():
                    self._handle(gpu, message)
        except Closed:
            pass
        self._end(gpu)

    def _wait(self, gpu: _Gpu) -> bool:
        """Until there is something; False when nobody needs the process any more."""
        while not gpu.channel.wait(IDLE_TIME):
            with self._lock:
                if not self.users and not gpu.acks and gpu is self._gpu:
                    self._stop()
                    return False
        return True

    def _handle(self, gpu: _Gpu, message: Message) -> None:
        kind, *details = message
        try:
            if kind in self._own_handlers:
                self._own_handlers[kind](gpu, *details)
            else:
                self._handlers[kind](*details)
        except Exception:  # noqa: BLE001 - the next message has nothing to do with it
            report_bug("a message of the GPU")

    def _end(self, gpu: _Gpu) -> None:
        with self._lock:
            died = gpu is self._gpu
            if died:
                self._stop()
        gpu.channel.shutdown()
        status = _reap(gpu.process)
        gpu.channel.close()
        if died:
            logger.error("the GPU's process ended by itself, status %d", status)
        with self._lock:
            acks, gpu.acks = gpu.acks, {}
            stat_waits, gpu.stat_waits = gpu.stat_waits, {}
        for told, _ in stat_waits.values():
            told.set()
        for done in acks.values():
            done()
        self._on_death()

    def _ask(self, gpu: _Gpu, request: int, *details: object) -> None:
        def reply(answer: object) -> None:
            _send(gpu, (abi.REPLY, request, answer))

        self._handlers[abi.ASK](reply, *details)

    def _ack(self, gpu: _Gpu, token: int) -> None:
        with self._lock:
            done = gpu.acks.pop(token, None)
        if done is not None:
            done()


def _send(gpu: _Gpu, message: Message) -> bool:
    try:
        gpu.channel.send(message)
    except Closed:
        return False
    return True


def _stats(gpu: _Gpu, token: int, ticks: tuple[tuple[int, int], ...]) -> None:
    wait = gpu.stat_waits.pop(token, None)
    if wait is not None:
        wait[1].update(ticks)
        wait[0].set()


def _bug(text: str) -> None:
    logger.error("bug in the GPU\n%s", text)


def _spawn() -> tuple[subprocess.Popen[bytes], Channel]:
    root = str(Path(xedev.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "xedev.gpu", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                # What a terminal sends to its group is meant for the driver, who then ends us.
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    return process, Channel(ours)


def _reap(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(END_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
