"""CPU mappings through the client library, over every way to reach a device."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.node.fake_mount import eventually
from uapi import drm, xe_drm
from uapi.xe_mock import XE_MOCK_IOCTL_MMAP, xe_mock_mmap
from xedev.client import Buffer, Device, IoctlError
from xedev.client.memory import op_map
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

PAGE = mmap.PAGESIZE
SYSTEM, VRAM = 1, 2
ADDR = 0x10000000
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED

MakeTarget = Callable[..., Target[Any]]

WAYS = [
    "in-process",
    pytest.param("ioctl", marks=pytest.mark.fuse),
    pytest.param("frames", marks=pytest.mark.fuse),
]


@pytest.fixture(params=WAYS)
def target(request: pytest.FixtureRequest, xe_target: MakeTarget) -> Target[Any]:
    return xe_target(request.param)


@pytest.fixture
def device(target: Target[Any]) -> Device:
    return target.device()


def refused(error: int, call: Callable[[], Any]) -> OSError:
    with pytest.raises(OSError) as raised:
        call()
    assert raised.value.errno == error
    return raised.value


def bo_count(target: Target[Any]) -> int:
    return len(target.state()["bos"])


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def dontneed(device: Device, handle: int, size: int) -> None:
    vm = device.vm_create()
    device.vm_bind(vm, [op_map(handle, 0, ADDR, size)])
    device.madvise_purgeable(vm, ADDR, size, DONTNEED)


# ---- contents --------------------------------------------------------------------------------


def test_a_new_bo_is_zero_and_keeps_what_is_stored(device: Device) -> None:
    handle = device.gem_create(2 * PAGE, SYSTEM)
    with device.map(handle, 2 * PAGE) as mapping:
        assert mapping[:] == bytes(2 * PAGE)
        mapping[PAGE - 2 : PAGE + 2] = b"over"
        mapping[0] = 7
    with device.map(handle, 2 * PAGE) as mapping:
        assert mapping.read(PAGE - 2, 4) == b"over"
        assert (mapping[0], mapping[-1]) == (7, 0)


def test_two_mappings_show_the_same_memory(device: Device) -> None:
    handle = device.gem_create(2 * PAGE, VRAM)
    with device.map(handle, 2 * PAGE) as one, device.map(handle, PAGE) as two:
        assert (len(one), len(two)) == (2 * PAGE, PAGE)
        one.write(5, b"seen")
        assert two.read(5, 4) == b"seen"
        two.write(5, b"back")
        assert one.read(5, 4) == b"back"


def test_each_bo_has_its_own_memory(device: Device) -> None:
    handles = [device.gem_create(PAGE, SYSTEM) for _ in range(3)]
    mappings = [device.map(handle, PAGE) for handle in handles]
    for number, mapping in enumerate(mappings):
        mapping[:] = bytes([number]) * PAGE
    assert [set(mapping[:]) for mapping in mappings] == [{0}, {1}, {2}]
    for mapping in mappings:
        mapping.close()


def test_a_mapping_outlives_handle_and_file(target: Target[Any]) -> None:
    device = target.device()
    handle = device.gem_create(PAGE, SYSTEM)
    mapping = device.map(handle, PAGE)
    mapping.write(0, b"still here")
    device.gem_close(handle)
    assert bo_count(target) == 1
    device.close()
    assert mapping.read(0, 10) == b"still here"
    assert bo_count(target) == 1
    mapping.close()
    assert eventually(lambda: bo_count(target) == 0)


def test_a_closed_handle_leaves_the_offset_to_nobody(device: Device) -> None:
    handle = device.gem_create(PAGE, SYSTEM)
    offset = device.gem_mmap_offset(handle)
    with device.mmap(offset, PAGE):
        device.gem_close(handle)
        refused(errno.EACCES, lambda: device.mmap(offset, PAGE))


def test_offset_and_length_in_bytes(device: Device) -> None:
    handle = device.gem_create(2 * PAGE, SYSTEM)
    offset = device.gem_mmap_offset(handle)
    with device.mmap(offset, PAGE + 10) as mapping:
        assert len(mapping) == PAGE + 10
        mapping[PAGE + 9] = 1
    refused(errno.EINVAL, lambda: device.mmap(offset + PAGE, PAGE))
    refused(errno.EINVAL, lambda: device.mmap(offset + 1, PAGE))


def test_a_mapping_takes_no_descriptor(device: Device) -> None:
    handle = device.gem_create(PAGE, SYSTEM)
    device.map(handle, PAGE).close()
    before = open_fds()
    mappings = [device.map(handle, PAGE) for _ in range(20)]
    assert open_fds() == before
    for mapping in mappings:
        mapping.close()


def test_threads_map_at_the_same_time(device: Device) -> None:
    handle = device.gem_create(PAGE, SYSTEM)

    def work(number: int) -> None:
        for _ in range(20):
            with device.map(handle, PAGE) as mapping:
                mapping[number] = number + 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with device.map(handle, PAGE) as mapping:
        assert mapping.read(0, 4) == b"\1\2\3\4"


# ---- the object ------------------------------------------------------------------------------


def test_a_closed_mapping_is_of_no_use(device: Device) -> None:
    mapping = device.map(device.gem_create(PAGE, SYSTEM), PAGE)
    assert f"{PAGE:#x} bytes" in repr(mapping)
    mapping.close()
    mapping.close()
    assert mapping.closed
    assert "closed" in repr(mapping)
    uses: list[Callable[[], object]] = [
        lambda: mapping[0],
        lambda: mapping[:4],
        lambda: mapping.read(0, 1),
        lambda: mapping.write(0, b"x"),
        lambda: mapping.view,
    ]
    for use in uses:
        with pytest.raises(ValueError):
            use()


def test_a_view_keeps_the_mapping(device: Device) -> None:
    mapping = device.map(device.gem_create(PAGE, SYSTEM), PAGE)
    view = mapping.view
    part = view[8:12]
    part[:] = b"part"
    view.release()
    with pytest.raises(BufferError):
        mapping.close()
    assert mapping.read(8, 4) == b"part"
    part.release()
    mapping.close()


def test_a_view_is_enough_to_keep_the_memory(target: Target[Any]) -> None:
    device = target.device()
    view = device.map(device.gem_create(PAGE, SYSTEM), PAGE).view
    device.close()
    gc.collect()
    view[:4] = b"mine"
    assert bytes(view[:4]) == b"mine"
    assert bo_count(target) == 1
    view.release()
    gc.collect()
    assert eventually(lambda: bo_count(target) == 0)


def test_a_forgotten_mapping_ends(target: Target[Any]) -> None:
    device = target.device()
    mapping = device.map(device.gem_create(PAGE, SYSTEM), PAGE)
    device.close()
    assert bo_count(target) == 1
    del mapping
    gc.collect()
    assert eventually(lambda: bo_count(target) == 0)


def test_what_leaves_the_mapping_is_refused(device: Device) -> None:
    with device.map(device.gem_create(PAGE, SYSTEM), PAGE) as mapping:
        for offset, size in ((PAGE, 1), (-1, 1), (0, PAGE + 1), (0, -1)):
            with pytest.raises(ValueError):
                mapping.read(offset, size)
        with pytest.raises(ValueError):
            mapping.write(PAGE - 1, b"ab")
        with pytest.raises(IndexError):
            mapping[PAGE]
        with pytest.raises(ValueError):
            mapping[0:2] = b"three"


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_a_read_only_mapping_shows_but_takes_no_stores(device: Device, flags: int) -> None:
    handle = device.gem_create(PAGE, SYSTEM)
    mapping = device.map(handle, PAGE, prot=mmap.PROT_READ, flags=flags)
    with mapping, device.map(handle, PAGE) as other:
        other.write(0, b"later")
        assert mapping.read(0, 5) == b"later"
        assert mapping.readonly and mapping.view.readonly
        with pytest.raises(TypeError):
            mapping[0] = 1
        with pytest.raises(TypeError):
            mapping.write(0, b"x")


# ---- what is refused -------------------------------------------------------------------------


def test_length_and_type(device: Device) -> None:
    offset = device.gem_mmap_offset(device.gem_create(PAGE, SYSTEM))
    refused(errno.EINVAL, lambda: device.mmap(offset, PAGE + 1))
    refused(errno.EINVAL, lambda: device.mmap(offset, 0))
    refused(errno.EINVAL, lambda: device.mmap(offset, PAGE, flags=mmap.MAP_PRIVATE))
    refused(errno.EINVAL, lambda: device.mmap(offset, PAGE, flags=0))
    refused(errno.ENOENT, lambda: device.map(77, PAGE))


def test_another_files_bo(target: Target[Any]) -> None:
    device, stranger = target.device(), target.device()
    offset = device.gem_mmap_offset(device.gem_create(PAGE, SYSTEM))
    refused(errno.EACCES, lambda: stranger.mmap(offset, PAGE))
    device.mmap(offset, PAGE).close()


def test_dontneed_and_purged(target: Target[Any]) -> None:
    device = target.device()
    handle = device.gem_create(PAGE, VRAM)
    with device.map(handle, PAGE) as mapping:
        mapping[0] = 1
        dontneed(device, handle, PAGE)
        refused(errno.EBUSY, lambda: device.map(handle, PAGE))
    target.control("pressure", f"bo {device.bo_info(handle).id} evict")
    refused(errno.EINVAL, lambda: device.map(handle, PAGE))


def test_a_refusal_leaves_nothing(target: Target[Any]) -> None:
    device = target.device()
    handle = device.gem_create(PAGE, SYSTEM)
    before = open_fds()
    for _ in range(3):
        refused(errno.EINVAL, lambda: device.map(handle, 2 * PAGE))
    device.gem_close(handle)
    assert open_fds() == before
    assert bo_count(target) == 0


def test_asking_does_not_map(target: Target[Any]) -> None:
    device = target.device()
    handle = device.gem_create(PAGE, SYSTEM)
    device.mmap_gate(device.gem_mmap_offset(handle), PAGE)
    device.gem_close(handle)
    assert eventually(lambda: bo_count(target) == 0)


# ---- dma-bufs --------------------------------------------------------------------------------


@contextmanager
def exported(device: Device, handle: int, flags: int = drm.DRM_RDWR) -> Iterator[int]:
    fd = device.prime_handle_to_fd(handle, flags | drm.DRM_CLOEXEC)
    try:
        yield fd
    finally:
        device.close_fd(fd)


def test_a_dma_buf_is_the_bos_memory(device: Device) -> None:
    handle = device.gem_create(3 * PAGE, SYSTEM)
    with exported(device, handle) as fd, device.map(handle, 3 * PAGE) as bo:
        whole = device.map_dma_buf(fd)
        part = device.map_dma_buf(fd, offset=PAGE)
        page = device.map_dma_buf(fd, PAGE, offset=2 * PAGE)
        assert [len(m) for m in (whole, part, page)] == [3 * PAGE, 2 * PAGE, PAGE]
        bo.write(2 * PAGE, b"third")
        assert whole.read(2 * PAGE, 5) == part.read(PAGE, 5) == page.read(0, 5) == b"third"
        page.write(0, b"THIRD")
        assert bo.read(2 * PAGE, 5) == b"THIRD"
        for mapping in (whole, part, page):
            mapping.close()


def test_a_mapping_of_a_dma_buf_outlives_all_else(target: Target[Any]) -> None:
    device = target.device()
    handle = device.gem_create(PAGE, SYSTEM)
    with exported(device, handle) as fd:
        mapping = device.map_dma_buf(fd)
    mapping.write(0, b"alone")
    device.gem_close(handle)
    device.close()
    assert mapping.read(0, 5) == b"alone"
    assert bo_count(target) == 1
    mapping.close()
    assert eventually(lambda: bo_count(target) == 0)


def test_what_a_dma_buf_refuses(device: Device) -> None:
    handle = device.gem_create(PAGE, SYSTEM)
    with exported(device, handle) as fd:
        refused(errno.EINVAL, lambda: device.map_dma_buf(fd, 2 * PAGE))
        refused(errno.EINVAL, lambda: device.map_dma_buf(fd, offset=PAGE))
        refused(errno.EINVAL, lambda: device.map_dma_buf(fd, PAGE, offset=PAGE))
        refused(errno.EINVAL, lambda: device.map_dma_buf(fd, flags=mmap.MAP_PRIVATE))
    refused(errno.EBADF, lambda: device.map_dma_buf(fd, PAGE))


def test_a_dma_buf_exported_for_reading(device: Device) -> None:
    handle = device.gem_create(PAGE, SYSTEM)
    with exported(device, handle, flags=0) as fd, device.map(handle, PAGE) as bo:
        refused(errno.EACCES, lambda: device.map_dma_buf(fd))
        bo.write(0, b"shown")
        with device.map_dma_buf(fd, prot=mmap.PROT_READ) as mapping:
            assert mapping.read(0, 5) == b"shown"


# ---- answers that are hard to use ------------------------------------------------------------


class Doctored(LocalTransport):
    """Changes answers to MMAP."""

    times = 0
    change: Callable[[xe_mock_mmap], None]

    def doctor(self, change: Callable[[xe_mock_mmap], None], times: int) -> None:
        """Change the next so many answers to MMAP."""
        self.change, self.times = change, times

    def ioctl(self, cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer] = ()) -> int:
        result = super().ioctl(cmd, arg, buffers)
        if cmd == XE_MOCK_IOCTL_MMAP and self.times:
            self.times -= 1
            assert isinstance(arg, xe_mock_mmap)
            self.change(arg)
        return result


def other_inode(answer: xe_mock_mmap) -> None:
    answer.ino += 1


def no_such_path(answer: xe_mock_mmap) -> None:
    answer.path = b"/proc/0/fd/0"


def a_directory(answer: xe_mock_mmap) -> None:
    answer.path = b"/"


@pytest.fixture
def doctored(xe_device: XeDevice) -> Doctored:
    return Doctored(xe_device)


@pytest.fixture
def doctored_device(doctored: Doctored) -> Iterator[Device]:
    device = Device(doctored)
    yield device
    device.close()


@pytest.mark.parametrize("change", [other_inode, no_such_path])
def test_a_replaced_file_is_asked_for_once_more(
    doctored: Doctored, doctored_device: Device, change: Callable[[xe_mock_mmap], None]
) -> None:
    handle = doctored_device.gem_create(PAGE, SYSTEM)
    doctored.doctor(change, times=1)
    with doctored_device.map(handle, PAGE) as mapping:
        assert mapping[0] == 0
    assert doctored.times == 0


@pytest.mark.parametrize(
    ("change", "error", "advice"),
    [
        (other_inode, errno.ENXIO, ""),
        (no_such_path, errno.ENOENT, "--memory tmpfs"),
        (a_directory, errno.EISDIR, ""),
    ],
)
def test_memory_out_of_reach(
    xe_device: XeDevice,
    doctored: Doctored,
    doctored_device: Device,
    change: Callable[[xe_mock_mmap], None],
    error: int,
    advice: str,
) -> None:
    handle = doctored_device.gem_create(PAGE, SYSTEM)
    doctored_device.map(handle, PAGE).close()
    before = open_fds()
    doctored.doctor(change, times=2)
    text = str(refused(error, lambda: doctored_device.map(handle, PAGE)))
    assert advice in text if advice else "--memory" not in text
    assert open_fds() == before
    doctored_device.gem_close(handle)
    assert not xe_device.show()["bos"], "no lease is left"


# ---- no mock ---------------------------------------------------------------------------------


class RealNode(LocalTransport):
    """Knows no private ioctls, and has a descriptor that can be mapped."""

    def __init__(self, xe: XeDevice, error: int) -> None:
        super().__init__(xe)
        self.error = error
        self.memory = os.memfd_create("real")
        os.ftruncate(self.memory, 2 * PAGE)
        os.pwrite(self.memory, b"real", PAGE)

    def fileno(self) -> int:
        return self.memory

    def ioctl(self, cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer] = ()) -> int:
        raise IoctlError(self.error, cmd)

    def fd_ioctl(self, fd: int, cmd: int, arg: ctypes.Structure | None) -> int:
        raise IoctlError(errno.ENOTTY, cmd)


@pytest.mark.parametrize("error", [errno.ENOTTY, errno.ECANCELED])
def test_a_real_device_is_mapped_itself(xe_device: XeDevice, error: int) -> None:
    transport = RealNode(xe_device, error)
    device = Device(transport)
    with device.mmap(PAGE, PAGE) as mapping, device.map_dma_buf(transport.memory, PAGE) as first:
        assert mapping.read(0, 4) == b"real"
        first.write(0, b"shared")
    assert os.pread(transport.memory, 6, 0) == b"shared"
    with device.mmap(0, PAGE, flags=mmap.MAP_PRIVATE) as copy:
        copy.write(0, b"kept")
    assert os.pread(transport.memory, 6, 0) == b"shared"
    refused(errno.EINVAL, lambda: device.mmap(1, PAGE))
    os.close(transport.memory)
    device.close()
