"""Opening nodes and tokens, and choosing a transport, without a mount."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from uapi.drm import DRM_IOCTL_VERSION, drm_version
from uapi.xe_mock import XE_MOCK_FD_DIR, XE_MOCK_TOKEN_BASE
from xedev.client import Buffer, Device, IoctlError, IoctlTransport, device, libc

TOKEN = XE_MOCK_TOKEN_BASE + 0x1F


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A file in place of a node, with a token beside it."""
    (tmp_path / XE_MOCK_FD_DIR).mkdir()
    (tmp_path / XE_MOCK_FD_DIR / f"{TOKEN:08x}").write_text("the dma-buf")
    for name in ("renderD128", "xe-mock"):
        (tmp_path / name).touch()
    return tmp_path / "renderD128"


# --- IoctlTransport ------------------------------------------------------------------------


def test_errno_of_ioctl(node: Path) -> None:
    transport = IoctlTransport(node)
    with pytest.raises(IoctlError) as caught:
        transport.ioctl(DRM_IOCTL_VERSION, drm_version())
    assert caught.value.errno == errno.ENOTTY
    assert caught.value.name == "DRM_IOCTL_VERSION"
    transport.close()
    transport.close()
    with pytest.raises(IoctlError) as caught:
        transport.ioctl(DRM_IOCTL_VERSION, drm_version())
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_interrupted_ioctl_starts_over(
    node: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    transport = IoctlTransport(node)
    answers = [-1, -1, 3]

    def ioctl(*_: object) -> int:
        ctypes.set_errno(error)
        return answers.pop(0)

    monkeypatch.setattr(libc, "ioctl", ioctl)
    assert transport.ioctl(DRM_IOCTL_VERSION, drm_version()) == 3
    assert not answers
    transport.close()


@pytest.mark.parametrize("flags", [os.O_RDWR | os.O_CLOEXEC, os.O_RDWR, os.O_CLOEXEC, 0])
def test_token_becomes_a_descriptor(node: Path, flags: int) -> None:
    transport = IoctlTransport(node)
    fd = transport.open_fd(TOKEN, flags)
    assert os.read(fd, 100) == b"the dma-buf"
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == flags & os.O_ACCMODE
    assert os.get_inheritable(fd) == (not flags & os.O_CLOEXEC)
    transport.close_fd(fd)
    with pytest.raises(OSError):
        os.fstat(fd)
    transport.close()


def test_token_is_found_after_chdir(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(node.parent)
    transport = IoctlTransport("renderD128")
    monkeypatch.chdir("/")
    transport.close_fd(transport.open_fd(TOKEN, os.O_RDWR))
    transport.close()


def test_unknown_token(node: Path) -> None:
    transport = IoctlTransport(node)
    with pytest.raises(FileNotFoundError):
        transport.open_fd(TOKEN + 1, os.O_RDWR)
    transport.close()


# --- Device.open ---------------------------------------------------------------------------


class Driver:
    """Plays VERSION as a driver that may or may not write to its caller."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Sequence[int]) -> None:
        self.answers = list(answers)
        self.permissions = 0
        monkeypatch.setattr(IoctlTransport, "ioctl", self.ioctl)
        monkeypatch.setattr(device, "allow_memory_access", self.allow)

    def ioctl(self, cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer] = ()) -> int:
        assert cmd == DRM_IOCTL_VERSION and len(buffers) == 1
        if answer := self.answers.pop(0):
            raise IoctlError(answer, cmd)
        return 0

    def allow(self) -> None:
        self.permissions += 1


@pytest.mark.parametrize(
    ("answers", "permissions", "expected"),
    [
        ([0], 0, "ioctl(2)"),
        ([errno.EFAULT, 0], 1, "ioctl(2)"),
        ([errno.EFAULT, errno.EFAULT], 1, "write/read"),
        ([errno.ECANCELED], 0, "ioctl(2)"),
    ],
    ids=["reachable", "reachable once allowed", "out of reach", "wedged device"],
)
def test_auto_looks_whether_memory_is_reachable(
    node: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int],
    permissions: int,
    expected: str,
) -> None:
    driver = Driver(monkeypatch, answers)
    with Device.open(node) as opened:
        assert opened.transport.name == expected
    assert driver.permissions == permissions
    assert not driver.answers


@pytest.mark.parametrize("transport", ["ioctl", "auto"])
def test_memory_out_of_reach_and_no_way_round(
    node: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    if transport == "auto":
        node.with_name("xe-mock").unlink()
    Driver(monkeypatch, [errno.EFAULT, errno.EFAULT])
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(IoctlError, match="may not read the memory") as caught:
        Device.open(node, transport)  # type: ignore[arg-type]
    assert caught.value.errno == errno.EFAULT
    assert os.listdir("/proc/self/fd") == descriptors


def test_frames_use_the_node_beside(node: Path) -> None:
    with Device.open(node, "frames") as opened:
        assert opened.transport.path == str(node.with_name("xe-mock"))


def test_permission_to_read_memory_is_harmless() -> None:
    device.allow_memory_access()


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("card0", "xe-mock"),
        ("renderD128", "xe-mock"),
        ("xe-mock", "xe-mock"),
        ("card2", "xe-mock2"),
        ("renderD130", "xe-mock2"),
        ("xe-mock2", "xe-mock2"),
    ],
)
def test_frames_go_to_the_same_card(tmp_path: Path, name: str, frames: str) -> None:
    for node_name in ("xe-mock", "xe-mock2"):
        (tmp_path / node_name).touch()
    with Device.open(tmp_path / name, "frames") as opened:
        assert opened.transport.path == str(tmp_path / frames)
