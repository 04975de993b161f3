"""A hostile process: it lives many short lives in children, half of which are killed.

``python -m tests.hostile.fuzz_client PLAN`` with a JSON object: see `Plan`.  What must not happen
is written to stdout when it does, one JSON object a line; a last line tells how much was done.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.arena import Arena
from tests.hostile.frame_noise import corrupted, frame_of, pieces, take_replies
from tests.hostile.generate import Call, Generator, control_noise, written_ranges
from uapi.xe_mock import FrameError, Reply, token_path

__all__ = ("KINDS", "Plan", "main")

NODES = ("renderD128", "card0", "xe-mock")
NODE_DIR, DEBUG_DIR = "dev/dri", "debug/dri/0"
_PR_SET_PDEATHSIG = 1
_DEAD_DAEMON = (errno.ENOTCONN, errno.ECONNABORTED)
_BUDGET = 400
"""Calls of one life of one thread, at most."""
_CALLS_OF_A_STEP = {"frames": 20, "mixed": 4}
_LIFE_LIMIT = 60.0  # seconds
_DEATH_LIMIT = 20.0
_FD_LIMIT = 40
_CONTROL_PAUSE = 0.004

_libc = ctypes.CDLL(None, use_errno=True)
_ioctl = _libc.ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_size_t)
_libc.mmap.argtypes = (
    *(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_libc.mmap.restype = ctypes.c_ssize_t
_libc.munmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one client is to do."""

    directory: str
    """Of the mount."""
    seed: str
    kind: str
    """One of `KINDS`."""
    calls: int
    """How many ioctls, frames or commands in all its lives."""


class Tally:
    """Numbers that outlive whoever counts."""

    def __init__(self) -> None:
        self._cells = mmap.mmap(-1, mmap.PAGESIZE)
        self._view = (ctypes.c_uint64 * 2).from_buffer(self._cells)

    def count(self, cell: int) -> None:
        """One more.  Without a lock, which a killed thread might keep: some get lost."""
        self._view[cell] += 1

    @property
    def calls(self) -> int:
        """Calls made."""
        return int(self._view[0])

    @property
    def successes(self) -> int:
        """Calls that were not refused."""
        return int(self._view[1])


def tell(**facts: object) -> None:
    """One line of the report, short enough to stay whole whoever else writes."""
    short = {name: fact[-3000:] if isinstance(fact, str) else fact for name, fact in facts.items()}
    os.write(1, json.dumps(short).encode() + b"\n")


class Stop(Exception):
    """There is nothing left to do it with."""


class Worker:
    """One thread of one life."""

    def __init__(self, plan: Plan, label: str, tally: Tally, fds: list[int]) -> None:
        self.plan = plan
        self.label = label
        self.rng = random.Random(label)
        self.tally = tally
        self.arena = Arena()
        self.generator = Generator(self.rng, self.arena, self.token)
        self.fds = fds
        """Descriptors of nodes, shared by the threads of a life."""
        self.shared: list[int] = []
        """Of dma-bufs, and of foreign things."""
        self.foreign = [os.open(os.devnull, os.O_RDWR), *os.pipe()]
        self.sockets: list[socket.socket] = []
        self.cookie = 0

    # ---- life ----

    def run(self, steps: int) -> None:
        """So many steps, each of which may be one call or many."""
        for _ in range(steps):
            try:
                self.step()
            except OSError as error:
                if error.errno in (errno.EIO, *_DEAD_DAEMON):
                    self.accuse(f"{error!r} from {traceback.format_exc(limit=-3)}")
                    raise Stop from None
                # Anything else is what hostile clients get.

    def step(self) -> None:
        """Something, mostly a call."""
        if not self.fds:
            self.open()
        dice = self.rng.random()
        for limit, action in _ACTIONS:
            if dice < limit:
                action(self)
                return
        self.generator.known.fds = [*self.shared, *self.fds[:2], *self.foreign, 0, -1, 9999]
        if self.plan.kind == "frames" or (self.plan.kind == "mixed" and dice > 0.8):
            self.frames()
        else:
            self.ioctl(self.pick(self.fds))

    def accuse(self, what: str) -> None:
        """Report what must not happen."""
        tell(violation=what, seed=self.label, kind=self.plan.kind)

    # ---- ioctl(2) ----

    def ioctl(self, fd: int) -> None:
        """One call by ioctl(2)."""
        call = self.generator.next()
        self.arena.write(call.address, call.data)
        if self.rng.random() < 0.05 and self.shared:
            fd = self.pick(self.shared)
        allowed = written_ranges(self.arena, call)
        before = self.arena.snapshot()
        self.tally.count(0)
        result = int(_ioctl(fd, call.cmd, call.address))
        error = ctypes.get_errno() if result < 0 else 0
        self.judge(call, -error if error else result)
        spoilt = self.arena.changed_outside(before, allowed)
        if spoilt is not None:
            self.accuse(f"{spoilt:#x} was overwritten by {call}")
        if not error:
            self.generator.learn(call, result, ctypes.string_at(call.address, len(call.data)))

    def judge(self, call: Call, result: int) -> None:
        """Look at an answer."""
        if result >= 0:
            self.tally.count(1)
        elif result == -errno.EIO or result < -511:
            self.accuse(f"errno {-result} for {call}")
        elif -result in _DEAD_DAEMON:
            self.accuse(f"the daemon is gone after {call}")
            raise Stop

    def token(self, token: int) -> None:
        """Open what an export gave; or leave it, or try it twice."""
        if self.rng.random() < 0.2:
            return
        path = token_path(self.node("renderD128"), token)
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                self.keep(self.shared, os.open(path, os.O_RDWR | os.O_CLOEXEC))

    # ---- descriptors ----

    def node(self, name: str) -> str:
        """Path of a node."""
        return os.path.join(self.plan.directory, NODE_DIR, name)

    def keep(self, where: list[int], fd: int) -> None:
        """Note a descriptor, and close another one when there are many."""
        where.append(fd)
        if len(where) > _FD_LIMIT:
            self.drop(where)

    def pick(self, *places: list[int]) -> int:
        """One of these descriptors; EBADF when the other threads have closed them all."""
        fds = [fd for where in places for fd in where]
        if not fds:
            raise OSError(errno.EBADF, "no descriptor is left")
        return self.rng.choice(fds)

    def drop(self, where: list[int]) -> None:
        """Close one, unless another thread was faster."""
        fd = self.pick(where)
        # No lock: a child forked while another thread holds it would wait for ever.
        with contextlib.suppress(ValueError):
            where.remove(fd)
            os.close(fd)

    def open(self) -> None:
        """Open a node."""
        name = "xe-mock" if self.plan.kind == "frames" else self.rng.choice(NODES)
        access = self.rng.choice((os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY))
        self.keep(self.fds, os.open(self.node(name), access | os.O_NONBLOCK))
        self.generator.forget()

    def close(self) -> None:
        """Close something."""
        for where in (self.shared, self.fds):
            if where and self.rng.random() < 0.5:
                self.drop(where)

    def dup(self) -> None:
        """Duplicate, close one of the two, now or later."""
        fd = os.dup(self.pick(self.fds))
        if self.rng.random() < 0.5:
            os.close(fd)
        else:
            self.keep(self.fds, fd)

    def send(self) -> None:
        """Put a descriptor into a message, and perhaps never take it out."""
        near, far = socket.socketpair()
        fd = self.pick(self.fds, self.shared)
        socket.send_fds(near, [b"x"], [fd])
        if self.rng.random() < 0.5:
            _, received, _, _ = socket.recv_fds(far, 1, 4)
            for number in received:
                self.keep(self.fds, number)
        if self.rng.random() < 0.5:
            # Messages within messages: only the collector of the kernel's sockets finds these.
            socket.send_fds(near, [b"x"], [near.fileno(), far.fileno()])
        self.sockets = [*self.sockets[-4:], near, far]

    def fork(self) -> None:
        """A child with all our files, which goes on for a while."""
        child = os.fork()
        if child:
            if self.rng.random() < 0.5:
                os.waitpid(child, 0)
            return
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self.rng = self.generator.rng = random.Random(f"{self.label}/child")
        with contextlib.suppress(BaseException):
            for _ in range(self.rng.randrange(30)):
                self.ioctl(self.pick(self.fds))
        os._exit(0)

    def others(self) -> None:
        """System calls that have no business here."""
        fd = self.pick(self.fds, self.shared)
        os.set_blocking(fd, False)
        choices: tuple[Callable[[], object], ...] = (
            lambda: os.read(fd, self.rng.choice((0, 1, 31, 4096, 1 << 17))),
            lambda: os.write(fd, self.rng.randbytes(self.rng.choice((0, 1, 32, 5000)))),
            lambda: os.pread(fd, 16, self.rng.choice((0, 1, 1 << 40))),
            lambda: os.pwrite(fd, b"12345678", self.rng.choice((0, 1, 1 << 40))),
            lambda: os.lseek(fd, self.rng.choice((0, 1, 1 << 40)), self.rng.randrange(5)),
            lambda: os.fstat(fd),
            lambda: os.ftruncate(fd, self.rng.choice((0, 1))),
            lambda: os.fsync(fd),
            lambda: _map_and_touch(fd),
            lambda: select.select([fd], [fd], [], 0),
            lambda: os.stat(self.node(self.rng.choice((*NODES, "nothing", ".xe-mock-fd")))),
            lambda: os.listdir(self.node(".")),
            lambda: os.open(token_path(self.node("x"), self.rng.getrandbits(32)), os.O_RDWR),
            lambda: os.mkdir(self.node("new")),
        )
        self.rng.choice(choices)()

    # ---- frames ----

    def frames(self) -> None:
        """A handful of frames on a file of their own, right ones or wrong ones."""
        fd = os.open(self.node("xe-mock"), os.O_RDWR | os.O_NONBLOCK)
        self.generator.forget()
        try:
            for _ in range(self.rng.randrange(20)):
                if self.rng.random() < 0.85:
                    self.right_frames(fd)
                else:
                    self.wrong_frames(fd)
                    # What comes next depends on what the mock makes of it: begin anew.
                    break
        finally:
            os.close(fd)

    def right_frames(self, fd: int) -> None:
        """Requests whose replies must come, all of them and in order."""
        calls = [self.generator.next() for _ in range(self.rng.choice((1, 1, 1, 2, 5, 30)))]
        first = self.cookie
        stream = b""
        for call in calls:
            stream += frame_of(self.rng, self.cookie, call)
            self.cookie += 1
            self.tally.count(0)
        replies = self.exchange(fd, stream)
        expected = [*range(first, self.cookie)]
        if [reply.cookie for reply in replies] != expected:
            self.accuse(f"cookies {expected} were answered by {replies!r}")
            return
        for call, reply in zip(calls, replies, strict=True):
            self.judge(call, reply.result)
            if reply.result < 0 and not reply.reason:
                self.accuse(f"no reason in {reply!r} for {call}")
            self.generator.learn(call, reply.result, reply.arg)

    def wrong_frames(self, fd: int) -> None:
        """Bytes that are no frames; answers, if any, must be."""
        calls = [self.generator.next() for _ in range(self.rng.choice((1, 2, 4)))]
        stream = b"".join(frame_of(self.rng, 7, call) for call in calls)
        for _ in range(self.rng.choice((1, 1, 3))):
            stream = corrupted(self.rng, stream) or b"\0"
        self.tally.count(0)
        for reply in self.exchange(fd, stream):
            if reply.result == -errno.EIO:
                self.accuse(f"{reply!r} for {stream[:200].hex()}")

    def exchange(self, fd: int, stream: bytes) -> list[Reply]:
        """Write a stream, in pieces, and read all that comes back."""
        received = bytearray()
        replies: list[Reply] = []
        for piece in pieces(self.rng, stream):
            view = memoryview(piece)
            while view:
                try:
                    view = view[os.write(fd, view) :]
                except BlockingIOError:
                    if not self.receive(fd, received):
                        raise
            if self.rng.random() < 0.3:
                self.receive(fd, received)
        self.receive(fd, received)
        try:
            replies += take_replies(received)
        except FrameError as error:
            self.accuse(f"{error} in a reply to {stream[:200].hex()}")
        if received:
            self.accuse(f"half a reply to {stream[:200].hex()}: {received[:200].hex()}")
        return replies

    def receive(self, fd: int, received: bytearray) -> bool:
        """Read what is there; False if that is nothing."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while data := os.read(fd, self.rng.choice((40, 4096, 1 << 17))):
                received += data
                found = True
        return found

    # ---- control files ----

    def control(self) -> None:
        """Write to a control file, or read a debug file."""
        directory = Path(self.plan.directory, DEBUG_DIR)
        points = [line.split()[0] for line in (directory / "fail").read_text().splitlines()]
        for _ in range(_BUDGET):
            self.tally.count(0)
            with contextlib.suppress(OSError):
                self.command(directory, points)
            time.sleep(_CONTROL_PAUSE)

    def command(self, directory: Path, points: list[str]) -> None:
        name, text = control_noise(self.rng, points)
        if self.rng.random() < 0.2:
            (directory / self.rng.choice(("state", "gem", "vms", "clients"))).read_bytes()
        if self.rng.random() < 0.1:
            self.listen(directory / "trace")
        fd = os.open(directory / name, os.O_RDWR)
        try:
            os.write(fd, text)
            os.read(fd, 4096)
        except OSError as error:
            if error.errno == errno.EIO:
                self.accuse(f"EIO for {text[:200]!r} to {name}")
        finally:
            os.close(fd)

    def listen(self, trace: Path) -> None:
        """Be a listener for a moment, and not a good one."""
        fd = os.open(trace, os.O_RDONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            for _ in range(self.rng.randrange(6)):
                os.read(fd, self.rng.choice((1, 100, 1 << 16)))
                time.sleep(_CONTROL_PAUSE)
        os.close(fd)


_ACTIONS: tuple[tuple[float, Callable[[Worker], None]], ...] = (
    (0.006, Worker.open),
    (0.012, Worker.close),
    (0.018, Worker.dup),
    (0.024, Worker.send),
    (0.0255, Worker.fork),
    (0.05, Worker.others),
)
"""Upper limits of the dice; above the last one it is a call."""


def _map_and_touch(fd: int) -> None:
    """mmap(2) as a program does that knows nothing of lengths."""
    address = _libc.mmap(0, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address != -1:
        _libc.munmap(address, mmap.PAGESIZE)


KINDS = ("ioctl", "frames", "mixed", "control")


# ---- lives -----------------------------------------------------------------------------------


def live(plan: Plan, label: str, tally: Tally) -> None:
    """One life, in a process of its own."""
    rng = random.Random(label)
    fds: list[int] = []
    count = 1 if plan.kind == "control" else rng.choice((1, 1, 2, 3))
    workers = [Worker(plan, f"{label}/{number}", tally, fds) for number in range(count)]
    steps = _BUDGET // _CALLS_OF_A_STEP.get(plan.kind, 1) // count
    for worker in workers[1:]:
        threading.Thread(target=_quietly, args=[worker, steps], daemon=True).start()
    if rng.random() < 0.3 and plan.kind != "control":
        node = os.path.join(plan.directory, NODE_DIR, rng.choice(NODES))
        threading.Thread(target=_read_for_ever, args=[node], daemon=True).start()
    if plan.kind == "control":
        workers[0].control()
    else:
        workers[0].run(steps)


def _quietly(worker: Worker, steps: int) -> None:
    try:
        worker.run(steps)
    except Stop:
        return
    except Exception:  # noqa: BLE001 - a fault of the fuzzer, to be seen by whoever runs it
        worker.accuse(traceback.format_exc())


def _read_for_ever(node: str) -> None:
    with contextlib.suppress(OSError):
        os.read(os.open(node, os.O_RDWR), 64)


def _child(plan: Plan, label: str, tally: Tally) -> None:
    status = 0
    try:
        os.setpgid(0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        live(plan, label, tally)
    except Stop:
        status = 2
    except BaseException:  # noqa: BLE001 - a fault of the fuzzer, to be seen by whoever runs it
        tell(violation=traceback.format_exc(), seed=label, kind=plan.kind)
        status = 3
    finally:
        os._exit(status)


def _end(child: int, seconds: float) -> int | None:
    """Wait for a child; its status, None when time ran out."""
    pidfd = os.pidfd_open(child)
    try:
        if not select.select([pidfd], [], [], seconds)[0]:
            return None
        return os.waitpid(child, 0)[1]
    finally:
        os.close(pidfd)


def _one_life(plan: Plan, label: str, tally: Tally, rng: random.Random) -> bool:
    """Fork a life and see it end; whether it was cut short."""
    doomed = rng.random() < 0.5
    delay = rng.expovariate(12.0) if doomed else _LIFE_LIMIT
    child = os.fork()
    if not child:
        _child(plan, label, tally)
    status = _end(child, delay)
    if status is None:
        if not doomed:
            tell(violation="a life does not end", seed=label, kind=plan.kind)
        os.kill(child, signal.SIGKILL)
        if _end(child, _DEATH_LIMIT) is None:
            tell(violation="a killed process does not go", seed=label, kind=plan.kind)
            raise Stop
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # its children, if they are still there
    if status and os.waitstatus_to_exitcode(status) == 2:
        raise Stop
    return status is None


def main(text: str) -> None:
    """Live as long as the plan says."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    plan = Plan(**json.loads(text))
    tally = Tally()
    rng = random.Random(f"{plan.seed}/lives")
    lives = killed = 0
    with contextlib.suppress(Stop):
        while tally.calls < plan.calls:
            killed += _one_life(plan, f"{plan.seed}/{lives}", tally, rng)
            lives += 1
    tell(done=plan.kind, calls=tally.calls, successes=tally.successes, lives=lives, killed=killed)


if __name__ == "__main__":
    main(sys.argv[1])
