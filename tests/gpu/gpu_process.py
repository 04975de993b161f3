"""The GPU's process with the test as its driver: over a real channel, without a device."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xedev.client.batch import BatchBuilder
from xedev.gpu import abi
from xedev.gpu.abi import Ask, Placement, RangeKind
from xedev.gpu.channel import Channel, Message

__all__ = ("ENGINES", "PAGE", "TIMEOUT", "GpuProcess", "gpu_process")

RENDER, COPY, VIDEO_DECODE = 0, 1, 2
ENGINES = (
    (0, RENDER, 0, 0x2000),
    (0, COPY, 0, 0x22000),
    (0, VIDEO_DECODE, 0, 0x1C0000),
    (0, VIDEO_DECODE, 1, 0x1C4000),
)
REFERENCE_CLOCK = 19_200_000
PAGE = 4096
TIMEOUT = 30.0
"""Seconds after which a test gives up."""

_NAMES = {
    getattr(abi, name): name
    for name in ("ACK", "STARTED", "DONE", "FAILED", "ENDED", "STATS", "BUG")
}


class GpuProcess:
    """What the driver is to the process: memory in files, page tables, queues, answers."""

    def __init__(self, seed: int = -1) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "xedev.gpu", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        self.channel = Channel(ours)
        self._socket = ours
        self.files: dict[int, int] = {}
        """Descriptors of the contents of BOs."""
        self.messages: list[Message] = []
        """Those that nobody asked for yet, oldest first."""
        self.asked: list[Message] = []
        """All questions, oldest first."""
        self.clients: dict[int, bytearray] = {}
        """Memory of processes, from address 0 on, by key."""
        self.process_of: Callable[[int], int] = lambda key: 0
        """Whose it is, if the GPU may reach it itself."""
        self.mend: Callable[[int, int, int], bool] = lambda queue, address, access: False
        """What page faults lead to."""
        self.silent: set[int] = set()
        """Kinds of questions that are not answered."""
        self._token = 0
        self.send(abi.HELLO, (REFERENCE_CLOCK, ENGINES, seed))
        self.send(abi.VM, 1, 48, False, False, False)

    # ---- messages ----

    def send(self, *message: Any) -> None:
        """Send one."""
        self.channel.send(message)

    def next(self, kind: int, queue: int = 0, timeout: float = TIMEOUT) -> Message:
        """The next message of a kind, about a queue if one is given; later ones may come first."""
        deadline = time.monotonic() + timeout
        while True:
            for index, message in enumerate(self.messages):
                if message[0] == kind and queue in (0, message[1]):
                    return self.messages.pop(index)
            left = deadline - time.monotonic()
            assert left > 0, f"no {_NAMES[kind]} of queue {queue}: {self.messages}"
            self.pump(left)

    def pump(self, timeout: float = 0.05) -> None:
        """Take what comes within a time, and answer questions."""
        if not self.channel.wait(timeout):
            return
        for message in self.channel.receive():
            assert message[0] != abi.BUG, message[1]
            if message[0] == abi.ASK:
                self._asked(message)
            else:
                self.messages.append(message)

    def seen(self, kind: int) -> list[Message]:
        """What has come of a kind, and was not asked for."""
        return [message for message in self.messages if message[0] == kind]

    def acknowledged(self, *message: Any) -> None:
        """Send with a token, and wait until it has taken effect."""
        self._token += 1
        self.send(*message, self._token)
        while self.next(abi.ACK)[1] != self._token:
            pass

    def ticks(self) -> dict[int, int]:
        """Of all queues."""
        self._token += 1
        self.send(abi.STAT, self._token)
        return dict(self.next(abi.STATS)[2])

    def _asked(self, message: Message) -> None:
        self.asked.append(message)
        _, request, what, *details = message
        if what in self.silent:
            return
        answers: dict[int, Callable[..., Any]] = {
            Ask.PAGES: self._pages,
            Ask.FAULT: lambda *fault: self.mend(*fault),
            Ask.READ: self._read,
            Ask.WRITE: self._write,
            Ask.SWAP: self._swap,
            Ask.SETTLE: lambda: True,
            Ask.PROCESS: lambda key: self.process_of(key),
        }
        self.send(abi.REPLY, request, answers[what](*details))

    def _pages(self, bo: int) -> tuple[str, int] | None:
        fd = self.files.get(bo)
        return None if fd is None else (f"/proc/{os.getpid()}/fd/{fd}", os.fstat(fd).st_ino)

    def _read(self, key: int, address: int, length: int) -> bytes | None:
        data = bytes(self.clients[key][address : address + length])
        return data if len(data) == length else None

    def _write(self, key: int, address: int, data: bytes) -> bool:
        self.clients[key][address : address + len(data)] = data
        return True

    def _swap(self, key: int, address: int, old: bytes, new: bytes) -> bytes | None:
        found = self._read(key, address, len(old))
        if found == old:
            self._write(key, address, new)
        return found

    # ---- memory ----

    def bo(self, number: int, address: int, size: int = PAGE, vm: int = 1) -> None:
        """Memory with zeros in it, mapped at a GPU address."""
        fd = os.memfd_create(f"bo{number}", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        self.files[number] = fd
        self.map(address, address + size, RangeKind.BO, number, vm=vm)

    def map(
        self, start: int, end: int, kind: int, key: int = 0, offset: int = 0, vm: int = 1
    ) -> None:
        """One entry of the page tables."""
        self.send(abi.MAP, vm, ((start, end, int(kind), key, offset, 0, 0),), 0)

    def poke(self, bo: int, offset: int, value: int) -> None:
        """Store 32 bits, as a CPU mapping does."""
        os.pwrite(self.files[bo], value.to_bytes(4, "little"), offset)

    def peek(self, bo: int, offset: int) -> int:
        """Load 32 bits."""
        return int.from_bytes(os.pread(self.files[bo], 4, offset), "little")

    def load(self, bo: int, offset: int, batch: BatchBuilder) -> None:
        """Put a batch there."""
        os.pwrite(self.files[bo], bytes(batch), offset)

    def wait_for(self, bo: int, offset: int, value: int) -> None:
        """Until memory is so."""
        deadline = time.monotonic() + TIMEOUT
        while self.peek(bo, offset) != value:
            assert time.monotonic() < deadline, f"{self.peek(bo, offset):#x} in bo {bo}"
            self.pump(0.001)

    # ---- queues ----

    def queue(
        self,
        number: int,
        engine_class: int = RENDER,
        *,
        mask: int = 1,
        width: int = 1,
        priority: int = 1,
        timeslice_us: int = 1000,
        timeout_ms: int = 0,
        vm: int = 1,
    ) -> None:
        """Make a queue."""
        placement = Placement(0, engine_class, mask, width, priority, timeslice_us, timeout_ms)
        self.send(abi.QUEUE, number, vm, tuple(placement))

    def job(
        self, queue: int, seqno: int, *batches: int, fence: tuple[int, int] | None = None
    ) -> None:
        """Submit one."""
        self.send(abi.JOB, queue, seqno, batches, fence)

    def close(self) -> None:
        """The driver goes; the process has to follow."""
        self.channel.shutdown()
        try:
            status = self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self.process.wait()
            self.channel.close()
            for fd in self.files.values():
                os.close(fd)
        assert status == 0


@contextmanager
def gpu_process(seed: int = -1) -> Iterator[GpuProcess]:
    """A process that has ended afterwards."""
    process = GpuProcess(seed)
    try:
        yield process
    finally:
        process.close()
