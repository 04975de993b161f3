"""A mock that may not read its clients' memory: Device.open takes frames instead."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uapi import drm, xe_drm
from xedev.client import Device, IoctlError, IoctlTransport, UserFence
from xedev.client.control import ControlFiles
from xedev.client.memory import op_map
from xedev.node.daemon import stop

pytestmark = [pytest.mark.fuse, pytest.mark.root]

PAGE = 4096
ADDR = 0x1A0000
VRAM = 1 << 1

_PR_CAPBSET_DROP = 24
_CAP_SYS_PTRACE = 19

_MOUNT = """
import sys
from xedev.node.daemon import MountOptions, start
start(sys.argv[1], MountOptions(die_with=int(sys.argv[2])))
"""


def without_ptrace() -> None:
    """For the child: a program that it executes lacks CAP_SYS_PTRACE, root or not."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_PTRACE, 0, 0, 0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """renderD128 of a mock with fewer capabilities than we have, so that it may not trace us."""
    directory = tmp_path / "mount"
    directory.mkdir()
    subprocess.run(
        [sys.executable, "-c", _MOUNT, str(directory), str(os.getpid())],
        check=True,
        timeout=60,
        preexec_fn=without_ptrace,
    )
    yield directory / "dev/dri/renderD128"
    assert not stop(str(directory)).errors


def test_auto_takes_frames(node: Path) -> None:
    with Device.open(node) as device:
        assert device.transport.name == "write/read"
        assert device.version().name == "xe"
        vm = device.vm_create()
        handle = device.gem_create(PAGE, VRAM)
        fence = UserFence()
        device.vm_bind(vm, [op_map(handle, 0, ADDR, PAGE)], [fence])
        assert fence.signaled
        dontneed = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
        assert device.madvise_purgeable(vm, ADDR, PAGE, dontneed) == 1
        os.close(device.prime_handle_to_fd(device.gem_create(PAGE, VRAM)))


def test_ioctl_alone_says_why_not(node: Path) -> None:
    with pytest.raises(IoctlError, match="may not read the memory") as caught:
        Device.open(node, "ioctl")
    assert caught.value.errno == errno.EFAULT


def test_trace_tells_a_raw_client_what_to_do(node: Path) -> None:
    device = Device(IoctlTransport(node))
    with device, ControlFiles.of_node(node).trace() as trace:
        assert device.get_cap(drm.DRM_CAP_PRIME) == 3, "what needs no pointer works"
        with pytest.raises(IoctlError) as caught:
            device.version()
        assert caught.value.errno == errno.EFAULT
        reasons = [event["reason"] for event in trace.events() if event.get("reason")]
    assert "PR_SET_PTRACER" in reasons[-1]
    assert "write/read" in reasons[-1]
