"""Runs the vectors of ``tests/vectors/syncobj.json`` on one open file, however it is reached."""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from tests.vectors.syncobj_load import SyncobjVector, VectorStep, target
from uapi import drm
from uapi.base import Struct
from xedev.client import IN, OUT, Buffer, Device
from xedev.client.igt_syncobj import (
    sw_sync_timeline_create,
    sw_sync_timeline_create_fence,
    sw_sync_timeline_inc,
    sync_fence_status,
)
from xedev.client.syncobj import deadline_ns
from xedev.node.local import LocalTransport

__all__ = ("Late", "Runner", "is_readable")

FIRST_BEFORE = 0xA5A5
"""What stands in ``first_signaled`` before a call; an error leaves it alone."""
PATIENCE = 20.0  # seconds
SETTLING = 0.1  # seconds in which a thread falls asleep


def is_readable(device: Device, fd: int) -> bool:
    """What poll(2) says of a sync_file at once."""
    if isinstance(device.transport, LocalTransport):
        return sync_fence_status(device, fd) != 0
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


class Late:
    """A call in a thread."""

    def __init__(self, call: Callable[[], Any], settling: float = SETTLING) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._thread.join(settling)

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error

    def sleeps(self) -> bool:
        """It has not come back."""
        self._thread.join(SETTLING)
        return self._thread.is_alive()

    def result(self) -> Any:
        """Its value, or what it raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the call does not end"
        if self._error is not None:
            raise self._error
        return self._result


class Runner:
    """One file with named objects, fences, descriptors, eventfds and calls under way."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.handles: dict[str, int] = {}
        self.timelines: dict[str, int] = {}
        self.fds: dict[str, int] = {"drm": device.transport.fileno()}
        self.eventfds: dict[str, int] = {}
        self.late: dict[str, Late] = {}
        self._ends = ExitStack()

    def run(self, vector: SyncobjVector) -> None:
        """Every step of a vector."""
        try:
            for number, step in enumerate(vector.steps):
                self._step(step, f"step {number}: {step.op} {step.operand} {dict(step.options)}")
        finally:
            self._ends.close()

    def _step(self, step: VectorStep, where: str) -> None:
        try:
            getattr(self, step.op)(step)
        except OSError as error:
            if error.errno != step.errno:
                raise AssertionError(f"{where}: {error}") from error
            return
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        assert not step.errno, f"{where}: succeeds"

    # ---- what a step names ----

    def _handle(self, text: str) -> int:
        goal = target(text)
        return self.handles[goal.name] if goal.name else goal.handle

    def _handles(self, texts: Sequence[str]) -> list[int]:
        return [self._handle(text) for text in texts]

    def _points(self, texts: Sequence[str]) -> list[int]:
        return [target(text).point for text in texts]

    def _fd(self, name: str | int) -> int:
        return name if isinstance(name, int) else self.fds[name]

    def _eventfd(self, name: str | int) -> int:
        if isinstance(name, int):
            return name
        if name not in self.eventfds:
            is_path = name.startswith("/")
            fd = os.open(name, os.O_RDWR) if is_path else os.eventfd(0, os.EFD_NONBLOCK)
            self._ends.callback(os.close, fd)
            self.eventfds[name] = fd
        return self.eventfds[name]

    # ---- objects ----

    def create(self, step: VectorStep) -> None:
        handle = self.handles[step.operand] = self.device.syncobj_create(step.flags)
        assert handle == step.options.get("handle", handle)

    def destroy(self, step: VectorStep) -> None:
        pad = step.options.get("pad", 0)
        arg = drm.drm_syncobj_destroy(handle=self._handle(step.operand), pad=pad)
        self.device.ioctl(drm.DRM_IOCTL_SYNCOBJ_DESTROY, arg)

    def differ(self, step: VectorStep) -> None:
        handles = self._handles(step.operand)
        assert len(set(handles)) == len(handles)

    # ---- descriptors ----

    def handle_to_fd(self, step: VectorStep) -> None:
        handle, options = self._handle(step.operand), step.options
        if options.get("pad"):
            arg = drm.drm_syncobj_handle(handle=handle, flags=step.flags, pad=1)
            self.device.ioctl(drm.DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, arg)
            return
        fd = self.device.syncobj_handle_to_fd(handle, step.flags, options.get("point", 0))
        self.fds[options["fd"]] = fd
        self._ends.callback(self._close_if_open, fd)

    def fd_to_handle(self, step: VectorStep) -> None:
        options = step.options
        name = options.get("s", "")
        imports = bool(step.flags & drm.DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE)
        arg = drm.drm_syncobj_handle(
            handle=self._handle(name) if imports and name else 0,
            fd=self._fd(step.operand),
            flags=step.flags,
            pad=options.get("pad", 0),
            point=options.get("point", 0),
        )
        self.device.ioctl(drm.DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, arg)
        if not imports:
            self.handles[name] = arg.handle

    def close(self, step: VectorStep) -> None:
        self.device.close_fd(self.fds.pop(step.operand))

    def _close_if_open(self, fd: int) -> None:
        if fd in self.fds.values():
            self.device.close_fd(fd)

    def readable(self, step: VectorStep) -> None:
        assert is_readable(self.device, self.fds[step.operand]) == step.options["is"]

    # ---- fences ----

    def attach(self, step: VectorStep) -> None:
        timeline = sw_sync_timeline_create(self.device)
        self.timelines[step.options["fence"]] = timeline
        self._ends.callback(self.device.close_fd, timeline)
        fence = sw_sync_timeline_create_fence(self.device, timeline, 1)
        goal = target(step.operand)
        self.device.syncobj_import_sync_file(self.handles[goal.name], fence, goal.point)
        self.device.close_fd(fence)

    def done(self, step: VectorStep) -> None:
        sw_sync_timeline_inc(self.device, self.timelines[step.operand], 1)

    # ---- waits ----

    def _wait(self, cmd: int, arg: Any, buffers: list[Buffer], step: VectorStep) -> None:
        arg.first_signaled = FIRST_BEFORE
        try:
            self.device.ioctl(cmd, arg, buffers)
        except OSError:
            assert arg.first_signaled == FIRST_BEFORE
            raise
        assert arg.first_signaled == step.options.get("first", FIRST_BEFORE)

    def wait(self, step: VectorStep, timeout: int = 0) -> None:
        handles = (ctypes.c_uint32 * len(step.operand))(*self._handles(step.operand))
        arg = drm.drm_syncobj_wait(
            handles=ctypes.addressof(handles),
            timeout_nsec=step.options.get("timeout", timeout),
            count_handles=len(handles),
            flags=step.flags,
        )
        buffers = [Buffer(handles, IN)] if step.operand else []
        self._wait(drm.DRM_IOCTL_SYNCOBJ_WAIT, arg, buffers, step)

    def timeline_wait(self, step: VectorStep) -> None:
        handles = (ctypes.c_uint32 * len(step.operand))(*self._handles(step.operand))
        points = (ctypes.c_uint64 * len(step.operand))(*self._points(step.operand))
        arg = drm.drm_syncobj_timeline_wait(
            handles=ctypes.addressof(handles),
            points=ctypes.addressof(points),
            timeout_nsec=step.options.get("timeout", 0),
            count_handles=len(handles),
            flags=step.flags,
        )
        buffers = [Buffer(handles, IN), Buffer(points, IN)] if step.operand else []
        self._wait(drm.DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, arg, buffers, step)

    def begin(self, step: VectorStep) -> None:
        calls: dict[str, Callable[[], Any]] = {
            "wait": partial(self._begin_wait, step),
            "transfer": partial(self.transfer, step, step.options.get("transfer", "")),
        }
        (kind,) = calls.keys() & step.options.keys()
        self.late[step.operand] = Late(calls[kind])

    def _begin_wait(self, step: VectorStep) -> int:
        handles = self._handles(step.options["wait"])
        return self.device.syncobj_wait(handles, deadline_ns(PATIENCE), step.flags)

    def sleeps(self, step: VectorStep) -> None:
        assert self.late[step.operand].sleeps(), "it has ended"

    def end(self, step: VectorStep) -> None:
        assert self.late[step.operand].result() == step.options.get("first")

    # ---- changing and asking ----

    def _array(self, cmd: int, step: VectorStep) -> None:
        handles = (ctypes.c_uint32 * len(step.operand))(*self._handles(step.operand))
        arg = drm.drm_syncobj_array(
            handles=ctypes.addressof(handles),
            count_handles=len(handles),
            pad=step.options.get("pad", 0),
        )
        self.device.ioctl(cmd, arg, [Buffer(handles, IN)] if step.operand else [])

    def reset(self, step: VectorStep) -> None:
        self._array(drm.DRM_IOCTL_SYNCOBJ_RESET, step)

    def signal(self, step: VectorStep) -> None:
        self._array(drm.DRM_IOCTL_SYNCOBJ_SIGNAL, step)

    def timeline_signal(self, step: VectorStep) -> None:
        if not step.flags:
            handles, points = self._handles(step.operand), self._points(step.operand)
            self.device.syncobj_timeline_signal(handles, points)
            return
        arg = drm.drm_syncobj_timeline_array(count_handles=len(step.operand), flags=step.flags)
        self.device.ioctl(drm.DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, arg)

    def query(self, step: VectorStep) -> None:
        texts = [step.operand] if isinstance(step.operand, str) else step.operand
        assert self.device.syncobj_query(self._handles(texts), step.flags) == [step.options["is"]]

    def transfer(self, step: VectorStep, source: str = "") -> None:
        src, dst = source or step.operand, step.options["to"]
        arg = drm.drm_syncobj_transfer(
            src_handle=self._handle(src),
            dst_handle=self._handle(dst),
            src_point=target(src).point,
            dst_point=target(dst).point,
            flags=step.flags,
            pad=step.options.get("pad", 0),
        )
        self.device.ioctl(drm.DRM_IOCTL_SYNCOBJ_TRANSFER, arg)

    def fault(self, step: VectorStep) -> None:
        row, struct = _ARRAYS[step.operand]
        handles = (ctypes.c_uint32 * 1)(self.handles["s"])
        points = (ctypes.c_uint64 * 1)()
        arg = struct(count_handles=1, handles=ctypes.addressof(handles))
        with suppress(AttributeError):
            arg.points = ctypes.addressof(points)
        setattr(arg, step.options["pointer"], 8)
        self.device.ioctl(row, arg, [Buffer(handles, IN), Buffer(points, IN | OUT)])

    # ---- eventfds ----

    def eventfd(self, step: VectorStep) -> None:
        goal = target(step.operand)
        arg = drm.drm_syncobj_eventfd(
            handle=self._handle(step.operand),
            point=goal.point,
            flags=step.flags,
            fd=self._eventfd(step.options["to"]),
            pad=step.options.get("pad", 0),
        )
        self.device.ioctl(drm.DRM_IOCTL_SYNCOBJ_EVENTFD, arg)

    def counter(self, step: VectorStep) -> None:
        value = 0
        with suppress(BlockingIOError):
            value = os.eventfd_read(self._eventfd(step.operand))
        assert value == step.options["is"], f"it counts {value}"


_ARRAYS: dict[str, tuple[int, type[Struct]]] = {
    "wait": (drm.DRM_IOCTL_SYNCOBJ_WAIT, drm.drm_syncobj_wait),
    "timeline_wait": (drm.DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, drm.drm_syncobj_timeline_wait),
    "reset": (drm.DRM_IOCTL_SYNCOBJ_RESET, drm.drm_syncobj_array),
    "signal": (drm.DRM_IOCTL_SYNCOBJ_SIGNAL, drm.drm_syncobj_array),
    "timeline_signal": (drm.DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, drm.drm_syncobj_timeline_array),
    "query": (drm.DRM_IOCTL_SYNCOBJ_QUERY, drm.drm_syncobj_timeline_array),
}
"""Name -> number and struct of the calls with arrays."""
