from __future__ import annotations

import errno
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kernel.fakes import FakeCaller
from uapi import xe_drm
from uapi.drm import DRM_IOCTL_GEM_CLOSE
from xedev.client.memory import op_map
from xedev.kernel.errors import KernelError
from xedev.kernel.trace import Tracepoints
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import XeDevice

PAGE = 4096
_TIMEOUT = 10.0  # seconds


def test_nothing_is_told_while_nobody_listens() -> None:
    trace = Tracepoints()
    enabled = [trace.enabled]
    trace.emit("before")
    listener = trace.subscribe()
    enabled.append(trace.enabled)
    trace.emit("during", number=1)
    listener.close()
    enabled.append(trace.enabled)
    trace.emit("after")
    assert enabled == [False, True, False]
    (event,) = listener.drain()
    assert (event["event"], event["number"]) == ("during", 1)
    assert isinstance(event["time"], int)


def test_every_listener_hears_everything() -> None:
    trace = Tracepoints()
    one, two = trace.subscribe(), trace.subscribe()
    trace.emit("both")
    one.close()
    trace.emit("two")
    assert trace.enabled
    assert [event["event"] for event in one.drain()] == ["both"]
    assert [event["event"] for event in two.drain()] == ["both", "two"]


def test_what_does_not_fit_is_counted() -> None:
    trace = Tracepoints()
    listener = trace.subscribe(limit=3)
    for number in range(8):
        trace.emit("n", number=number)
    assert listener.lost == 5
    *kept, lost = listener.drain()
    assert [event["number"] for event in kept] == [0, 1, 2]
    assert (lost["event"], lost["count"]) == ("lost", 5)
    assert not listener.pending()
    trace.emit("n", number=8)
    assert [event["number"] for event in listener.drain()] == [8]


def test_a_listener_sleeps_for_the_first_event() -> None:
    trace = Tracepoints()
    listener = trace.subscribe()
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(listener.get, FakeCaller(), _TIMEOUT)
        trace.emit("now")
        assert [event["event"] for event in got.result(_TIMEOUT)] == ["now"]
    assert listener.get(FakeCaller(), timeout=0) == []


def test_a_signal_wakes_the_listener() -> None:
    caller = FakeCaller()
    caller.signalled = True
    with pytest.raises(KernelError) as caught:
        Tracepoints().subscribe().get(caller, _TIMEOUT)
    assert caught.value.errno == errno.EINTR


def test_poll_is_told() -> None:
    trace = Tracepoints()
    listener = trace.subscribe()
    heard = []
    listener.on_event = lambda: heard.append(listener.pending())
    trace.emit("one")
    assert heard == [True]


# --- what a device tells -------------------------------------------------------------------


def test_ioctls_and_changes_of_state_are_told(xe_device: XeDevice) -> None:
    target = LocalTarget(xe_device)
    device = target.device()
    handle = device.gem_create(PAGE, 1)
    vm = device.vm_create()
    device.vm_bind(vm, [op_map(handle, 0, 0, PAGE)])
    listener = xe_device.trace.subscribe()
    dontneed = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
    device.madvise_purgeable(vm, 0, PAGE, dontneed)
    with pytest.raises(OSError):
        device.gem_close(handle + 1)
    bo = device.bo_info(handle).id
    target.control("pressure", f"bo {bo} shrink")
    events = [json.loads(json.dumps(event)) for event in listener.drain()]
    listener.close()
    target.close_all()

    changed = [(e["bo"], e["old"], e["new"]) for e in events if e["event"] == "bo_state"]
    assert changed == [(bo, "WILLNEED", "DONTNEED"), (bo, "DONTNEED", "PURGED")]
    madvise, close, *_ = (event for event in events if event["event"] == "ioctl")
    assert madvise["name"] == "DRM_IOCTL_XE_MADVISE"
    assert madvise["node"] == "renderD128"
    assert madvise["args"]["vm_id"] == vm
    assert (madvise["result"], madvise["errno"], madvise["reason"]) == (0, None, "")
    assert close["cmd"] == DRM_IOCTL_GEM_CLOSE
    assert (close["result"], close["errno"]) == (-errno.EINVAL, "EINVAL")
    assert str(handle + 1) in close["reason"]
    assert "handle" in close["args_text"]
