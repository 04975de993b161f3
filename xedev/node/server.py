"""The daemon's inside: devices, their tree, and the adapter that serves it until told to end."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xedev.drm.drm_device import DebugfsFile
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError, report_bug
from xedev.kernel.shmem import MemoryKind, ShmemConfig
from xedev.node.fuse_adapter import FuseAdapter
from xedev.node.options import MountOptions
from xedev.node.tree import Tree
from xedev.xe.xe_device import XeConfig, XeDevice, xe_probe, xe_probe_again

__all__ = ("DAEMON_FILE", "ErrorLog", "serve", "start_time")

DAEMON_FILE = "daemon"
"""Debug file that tells about the daemon, and takes ``exit FD``."""

_KEPT_ERRORS = 20
_OTHER_DESCRIPTORS = 512
"""Left for all that is no pages: libfuse, the log, looking into /proc."""
_PLENTY_OF_DESCRIPTORS = 1 << 20
_SWITCH_INTERVAL = 1e-4  # seconds
_LAST_GRACE = 10.0  # seconds for an orderly end when the process to die with has died

_log = logging.getLogger("xedev")


class ErrorLog(logging.Handler):
    """Counts what is logged as an error: bugs of the mock, never a client's mistakes."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        self.first: list[str] = []
        """The first few messages, with tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Note one error."""
        self.count += 1
        if len(self.first) < _KEPT_ERRORS:
            self.first.append(self.format(record))

    def report(self) -> dict[str, object]:
        """Number and texts, ready for JSON."""
        return {"errors": self.count, "messages": self.first}


class _ExitRequest:
    """The command ``exit FD``: end, and tell the writer's descriptor FD (a pipe) how it went.

    The descriptor is held until this process is gone, so that its end of file says just that.
    """

    def __init__(self) -> None:
        self._pipe: int | None = None

    def write(self, command: str, caller: Caller) -> str:
        """Run the command: ``EINVAL`` when it is another one, ``EBADF`` no such descriptor."""
        match command.split():
            case ["exit", number] if number.isdecimal():
                self._open(caller.tgid, int(number))
            case _:
                raise KernelError(errno.EINVAL, "the one command is: exit FD")
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    def _open(self, pid: int, fd: int) -> None:
        try:
            self._pipe = os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY)
        except OSError as error:
            raise KernelError(errno.EBADF, f"descriptor {fd} of {pid}: {error.strerror}") from None

    def answer(self, report: dict[str, object]) -> None:
        """Tell the one who asked, if anybody did."""
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, json.dumps(report).encode())
        except OSError:
            _log.info("nobody waits any more to hear of the end")


class Server:
    """One mount from its making to its end."""

    def __init__(
        self, point: str, options: MountOptions, errors: ErrorLog, on_ready: Callable[[], None]
    ) -> None:
        self._point = point
        self._options = options
        self._errors = errors
        self._exit = _ExitRequest()
        config = XeConfig(
            profile=options.profile,
            vram=options.vram,
            visible_vram=options.visible_vram,
            system=options.system,
            purgeability=options.purgeability,
            debug_kernel=options.debug_kernel,
            job_timeout_ms=options.job_timeout_ms,
            deterministic=options.deterministic,
            memory=_memory_config(options),
        )
        self.devices = list(xe_probe(config, options.devices))
        about = DebugfsFile(DAEMON_FILE, 0o600, self._about, self._exit.write)
        self._adapter = FuseAdapter(
            Tree(self.devices, [about], self._probe),
            point,
            backend=options.backend,
            allow_other=options.is_shared,
            on_ready=on_ready,
        )

    def _probe(self, index: int) -> XeDevice:
        """Another device instead of one that was unbound."""
        device = self.devices[index] = xe_probe_again(self.devices[index])
        return device

    def _about(self) -> str:
        """The text of the daemon's debug file."""
        about = {
            "pid": os.getpid(),
            "start_time": start_time(os.getpid()),
            "version": _version(),
            "mountpoint": self._point,
            "backend": self._adapter.binding.name,
            "options": self._options.asdict(),
            **self._errors.report(),
        }
        return json.dumps(about, indent=1) + "\n"

    def run(self) -> None:
        """Serve until unmounted, or told to end."""
        # A handler that computes must not keep other clients waiting for Python's usual 5 ms.
        sys.setswitchinterval(_SWITCH_INTERVAL)
        # The driver's objects hold each other in no cycles, so that reference counts free them
        # all.  A collection would find nothing, and with a million VMAs stop every client for as
        # long as it takes to look.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self._adapter.run()
        finally:
            for device in self.devices:
                _shut_down(device)
            self._exit.answer(self._errors.report())


def _memory_config(options: MountOptions) -> ShmemConfig:
    fds = options.memory_fds
    return ShmemConfig(
        kind=MemoryKind(options.memory),
        fd_budget=_descriptors_for_pages() if fds is None else fds,
        directory=options.memory_dir,
        is_shared=options.is_shared,
    )


def _descriptors_for_pages() -> int:
    """Raise the limit on our descriptors as far as we may; how many of them may hold pages."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return _PLENTY_OF_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - min(_OTHER_DESCRIPTORS, hard // 2)


def _shut_down(device: XeDevice) -> None:
    try:
        device.shutdown()
    except Exception:  # noqa: BLE001 - logged as the bug it is; the rest must be done too
        report_bug("the device's shutdown")


def serve(point: str, options: MountOptions, on_ready: Callable[[], None]) -> int:
    """Serve a mount in this process, from its main thread; returns the number of errors logged.

    ``on_ready`` is called when the mount answers.  Raises `MountError` or what the device says
    about its options when there will be no mount.
    """
    errors = ErrorLog()
    _log.addHandler(errors)
    _log.setLevel(logging.INFO)
    if options.die_with is not None:
        _end_with(options.die_with)
    with _fusermount_in_path():
        server = Server(point, options, errors, on_ready)
        _log.info("serving %s at %s", options.profile, point)
        server.run()
    _log.info("%s has ended", point)
    return errors.count


@contextmanager
def _fusermount_in_path() -> Iterator[None]:
    """libfuse2 wants ``fusermount``, where there may be ``fusermount3`` alone, its equal."""
    helper = shutil.which("fusermount3")
    if shutil.which("fusermount") is not None or helper is None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="xe-mock-") as directory:
        os.symlink(helper, os.path.join(directory, "fusermount"))
        path = os.environ.get("PATH", os.defpath)
        os.environ["PATH"] = f"{directory}{os.pathsep}{path}"
        try:
            yield
        finally:
            os.environ["PATH"] = path


def _end_with(pid: int) -> None:
    """End this process when ``pid`` ends."""
    pidfd = os.pidfd_open(pid)

    def watch() -> None:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LAST_GRACE)
        os._exit(1)

    threading.Thread(target=watch, name="die-with", daemon=True).start()


def start_time(pid: int) -> int:
    """When a process started, in ticks since boot: tells it from a later one of the same id."""
    # The name in field 2 may hold anything, but no ")" comes after it.
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return int(fields[19])


def _version() -> str:
    try:
        return version("xe-mock")
    except PackageNotFoundError:
        return "unknown"
