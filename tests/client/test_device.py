"""Every method of Device, over each transport, against the driver."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from uapi import drm, xe_drm, xe_mock
from xedev.client import Device, IoctlError, Transport, UserFence
from xedev.client.ioctls import Call
from xedev.client.memory import (
    PAT_INDEX_WB,
    op_map,
    op_map_null,
    op_map_userptr,
    op_prefetch,
    op_unmap,
    op_unmap_all,
)

PAGE = 4096
SYSTEM = 1 << 0
VRAM = 1 << 1
ADDR = 0x1A0000
WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
FAULT_MODE = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE


@pytest.fixture
def device(transport: Transport) -> Device:
    """A device with the profile bmg; the fixture of the transport closes it."""
    return Device(transport)


def refused(error: int, call: Callable[[], object]) -> str:
    """The reason of a call that must fail with ``error``."""
    with pytest.raises(IoctlError) as caught:
        call()
    assert caught.value.errno == error, caught.value
    return caught.value.reason


# --- the DRM core --------------------------------------------------------------------------


def test_version(device: Device) -> None:
    version = device.version()
    assert (version.name, version.desc) == ("xe", "Intel Xe Graphics")
    assert (version.major, version.minor, version.patchlevel, version.date) == (1, 1, 0, "0")


def test_caps_and_name(device: Device) -> None:
    assert device.get_cap(drm.DRM_CAP_PRIME) == 3
    refused(errno.EOPNOTSUPP, lambda: device.get_cap(drm.DRM_CAP_DUMB_BUFFER))
    device.set_client_name("tester")
    refused(errno.EINVAL, lambda: device.set_client_name("no spaces"))
    refused(errno.EINVAL, lambda: device.set_client_name("x" * 65))
    device.set_client_name("")


def test_render_node_has_few_core_ioctls(device: Device) -> None:
    handle = device.gem_create(PAGE, SYSTEM)
    calls: list[Callable[[], object]] = [
        device.get_magic,
        device.get_unique,
        device.get_client,
        device.get_stats,
        device.set_version,
        device.set_master,
        device.drop_master,
        lambda: device.auth_magic(1),
        lambda: device.set_client_cap(drm.DRM_CLIENT_CAP_ATOMIC, 1),
        lambda: device.gem_flink(handle),
        lambda: device.gem_open(1),
        lambda: device.create_dumb(64, 64, 32),
        lambda: device.map_dumb(handle),
        lambda: device.destroy_dumb(handle),
    ]
    for call in calls:
        refused(errno.EACCES, call)
    refused(errno.EINVAL, lambda: device.gem_change_handle(handle, handle + 1))


def test_handles(device: Device) -> None:
    assert [device.gem_create(PAGE, SYSTEM) for _ in range(3)] == [1, 2, 3]
    device.gem_close(2)
    refused(errno.EINVAL, lambda: device.gem_close(2))
    assert device.gem_create(PAGE, SYSTEM) == 2


# --- DEVICE_QUERY --------------------------------------------------------------------------


def test_queries(device: Device) -> None:
    assert [region.instance for region in device.query_mem_regions()] == [0, 1]
    assert device.query_config()[xe_drm.DRM_XE_QUERY_CONFIG_VA_BITS] == 48
    assert [gt.gt_id for gt in device.query_gt_list()] == [0, 1]
    assert device.query_hwconfig()[1] == (5,)
    dss = device.query_topology()[0]
    assert (dss.type, dss.mask.bit_count()) == (xe_drm.DRM_XE_TOPO_DSS_GEOMETRY, 20)
    assert device.query_uc_fw_version(xe_drm.XE_QUERY_UC_TYPE_GUC_SUBMISSION).major_ver == 1
    assert [len(unit.engines) for unit in device.query_oa_units()] == [2, 0, 2, 2]
    assert device.query_eu_stall().sampling_rates[0] == 251
    refused(errno.ENODEV, device.query_pxp_status)
    refused(errno.EINVAL, lambda: device.query(99))


def test_engine_cycles_advance(device: Device) -> None:
    engine = device.query_engines()[0].instance
    first = device.query_engine_cycles(engine)
    second = device.query_engine_cycles(engine)
    assert second.engine_cycles > first.engine_cycles
    assert second.cpu_timestamp > first.cpu_timestamp
    refused(errno.EINVAL, lambda: device.query_engine_cycles(engine, clockid=77))


# --- binds ---------------------------------------------------------------------------------


def test_purgeable_life(device: Device) -> None:
    handle = device.gem_create(2 * PAGE, VRAM)
    vm = device.vm_create()
    fence = UserFence(0xABCD)
    device.vm_bind(vm, [op_map(handle, 0, ADDR, 2 * PAGE)], [fence])
    fence.wait()
    assert device.madvise_purgeable(vm, ADDR, PAGE, DONTNEED) == 1
    info = device.bo_info(handle)
    assert (info.state, info.vma_count, info.willneed_count) == (1, 1, 0)
    reason = refused(errno.EBUSY, lambda: device.vm_bind(vm, [op_map(handle, 0, 2 * ADDR, PAGE)]))
    assert bool(reason) == (device.transport.name != "ioctl(2)")
    assert device.madvise_purgeable(vm, ADDR, PAGE, WILLNEED, retained=False) is None
    assert device.bo_info(handle).state == xe_mock.XE_MOCK_BO_WILLNEED
    device.vm_bind(vm, [op_unmap(ADDR, 2 * PAGE)])
    assert device.bo_info(handle).vma_count == 0
    device.vm_destroy(vm)
    device.gem_close(handle)


def test_array_of_binds(device: Device) -> None:
    handle = device.gem_create(4 * PAGE, SYSTEM)
    vm = device.vm_create()
    fence = UserFence()
    maps = [op_map(handle, n * PAGE, ADDR + 2 * n * PAGE, PAGE) for n in range(4)]
    device.vm_bind(vm, [*maps, op_map_null(4 * ADDR, PAGE)], [fence])
    assert fence.signaled
    assert device.bo_info(handle).vma_count == 4
    assert len(device.vm_query_mem_range_attrs(vm, 0, 1 << 40)) == 5
    refused(
        errno.ENOENT, lambda: device.vm_bind(vm, [op_unmap_all(handle), op_map(99, 0, ADDR, PAGE)])
    )
    assert device.bo_info(handle).vma_count == 4, "all or nothing"
    device.vm_bind(vm, [op_unmap_all(handle), op_unmap(4 * ADDR, PAGE)])
    assert not device.vm_query_mem_range_attrs(vm, 0, 1 << 40)
    device.vm_bind(vm, [])


def test_only_one_user_fence(device: Device) -> None:
    vm = device.vm_create()
    fences = [UserFence(), UserFence()]
    refused(errno.EINVAL, lambda: device.vm_bind(vm, [op_unmap(ADDR, PAGE)], fences))
    assert not any(fence.signaled for fence in fences)
    misplaced = fences[0].sync()
    misplaced.addr += 1
    refused(errno.EINVAL, lambda: device.vm_bind(vm, [op_unmap(ADDR, PAGE)], [misplaced]))


def test_unreachable_pointers(device: Device) -> None:
    vm = device.vm_create()
    wild = xe_drm.drm_xe_sync(
        type=xe_drm.DRM_XE_SYNC_TYPE_USER_FENCE, flags=xe_drm.DRM_XE_SYNC_FLAG_SIGNAL, addr=8
    )
    refused(errno.EFAULT, lambda: device.vm_bind(vm, [op_unmap(ADDR, PAGE)], [wild]))
    advice = xe_drm.drm_xe_madvise(
        vm_id=vm,
        start=ADDR,
        range=PAGE,
        type=xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE,
        purge_state_val={"retained_ptr": 16},
    )
    refused(errno.EFAULT, lambda: device.madvise(advice))


def test_userptr(device: Device) -> None:
    vm = device.vm_create()
    memory = mmap.mmap(-1, 2 * PAGE)
    pages = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(pages)
    device.vm_bind(vm, [op_map_userptr(address, ADDR, 2 * PAGE)])
    (attr,) = device.vm_query_mem_range_attrs(vm, ADDR, PAGE)
    assert (attr.start, attr.end) == (ADDR, ADDR + 2 * PAGE)
    device.vm_bind(vm, [op_unmap(ADDR, 2 * PAGE)])
    del pages
    memory.close()
    refused(errno.EFAULT, lambda: device.vm_bind(vm, [op_map_userptr(address, ADDR, PAGE)]))


def test_prefetch(device: Device) -> None:
    handle = device.gem_create(PAGE, SYSTEM | VRAM)
    vm = device.vm_create()
    device.vm_bind(vm, [op_map(handle, 0, ADDR, PAGE)])
    device.vm_bind(vm, [op_prefetch(ADDR, PAGE, region=0)])
    assert device.bo_info(handle).placement == 0
    device.vm_bind(vm, [op_prefetch(ADDR, PAGE, region=1)])
    assert device.bo_info(handle).placement == 1
    refused(errno.EINVAL, lambda: device.vm_bind(vm, [op_prefetch(ADDR, PAGE, region=7)]))


def pxp_type(value: int) -> xe_drm.drm_xe_ext_set_property:
    return xe_drm.drm_xe_ext_set_property(
        base={"name": xe_drm.DRM_XE_GEM_CREATE_EXTENSION_SET_PROPERTY},
        property=xe_drm.DRM_XE_GEM_CREATE_SET_PROPERTY_PXP_TYPE,
        value=value,
    )


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([], 0),
        ([xe_drm.DRM_XE_PXP_TYPE_NONE] * 16, 0),
        ([xe_drm.DRM_XE_PXP_TYPE_NONE, xe_drm.DRM_XE_PXP_TYPE_HWDRM], errno.ENODEV),
        ([xe_drm.DRM_XE_PXP_TYPE_NONE, 7], errno.EINVAL),
        ([xe_drm.DRM_XE_PXP_TYPE_NONE] * 17, errno.E2BIG),
    ],
)
def test_extensions_are_chained(device: Device, values: list[int], error: int) -> None:
    chain = [pxp_type(value) for value in values]
    if error:
        refused(error, lambda: device.gem_create(PAGE, SYSTEM, extensions=chain))
    else:
        assert device.gem_create(PAGE, SYSTEM, extensions=chain) == 1


# --- advice --------------------------------------------------------------------------------


def test_attributes(device: Device) -> None:
    vm = device.vm_create(FAULT_MODE)
    mirror = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
    device.vm_bind(vm, [op_map(0, 0, ADDR, 4 * PAGE, flags=mirror)])
    system = xe_drm.DRM_XE_PREFERRED_LOC_DEFAULT_SYSTEM
    policy = xe_drm.DRM_XE_MIGRATE_ONLY_SYSTEM_PAGES
    device.madvise_preferred_loc(vm, ADDR, 4 * PAGE, system, migration_policy=policy)
    device.madvise_atomic(vm, ADDR, 4 * PAGE, xe_drm.DRM_XE_ATOMIC_CPU)
    device.madvise_pat(vm, ADDR, 4 * PAGE, PAT_INDEX_WB)
    (attr,) = device.vm_query_mem_range_attrs(vm, ADDR, 4 * PAGE)
    assert attr.preferred_mem_loc.devmem_fd == system & 0xFFFFFFFF
    assert attr.preferred_mem_loc.migration_policy == policy
    assert attr.atomic.val == xe_drm.DRM_XE_ATOMIC_CPU
    assert attr.pat_index.val == PAT_INDEX_WB
    refused(errno.EINVAL, lambda: device.madvise_atomic(vm, ADDR, 4 * PAGE, 4))
    refused(errno.EINVAL, lambda: device.madvise_preferred_loc(vm, ADDR, PAGE, -2))
    assert device.madvise_purgeable(vm, ADDR, PAGE, DONTNEED) == 1, "nothing to purge there"
    assert device.vm_get_faults(vm) == []
    refused(errno.ENOENT, lambda: device.vm_get_faults(99))


# --- mmap and foreign memory ---------------------------------------------------------------


def test_mmap_gate(device: Device) -> None:
    handle = device.gem_create(PAGE, VRAM)
    vm = device.vm_create()
    offset = device.gem_mmap_offset(handle)
    device.vm_bind(vm, [op_map(handle, 0, ADDR, PAGE)])
    device.mmap_gate(offset, PAGE)
    refused(errno.EINVAL, lambda: device.mmap_gate(offset, 2 * PAGE))
    refused(errno.EINVAL, lambda: device.mmap_gate(offset, PAGE, flags=mmap.MAP_PRIVATE))
    assert not device.fault(offset)
    assert not device.fault(offset, write=True)
    device.madvise_purgeable(vm, ADDR, PAGE, DONTNEED)
    assert device.gem_mmap_offset(handle) == offset
    refused(errno.EBUSY, lambda: device.mmap_gate(offset, PAGE))
    assert device.fault(offset)


def test_foreign_bo(device: Device) -> None:
    handle = device.import_foreign(2 * PAGE)
    info = device.bo_info(handle)
    assert (info.imported, info.size) == (1, 2 * PAGE)
    refused(errno.ENOENT, lambda: device.bo_info(99))


# --- PRIME ---------------------------------------------------------------------------------


def test_export_and_import(device: Device) -> None:
    handle = device.gem_create(2 * PAGE, SYSTEM)
    fd = device.prime_handle_to_fd(handle)
    assert fd < xe_mock.XE_MOCK_TOKEN_BASE or device.transport.name == "in-process"
    assert device.bo_info(handle).exported == 1
    assert device.prime_fd_to_handle(fd) == handle, "the file knows this dma-buf"
    device.gem_close(handle)
    again = device.prime_fd_to_handle(fd)
    assert device.bo_info(again).size == 2 * PAGE
    device.close_fd(fd)
    refused(errno.EBADF, lambda: device.prime_fd_to_handle(fd))
    refused(errno.ENOENT, lambda: device.prime_handle_to_fd(99))
    refused(errno.EINVAL, lambda: device.prime_handle_to_fd(again, 0x40))


def test_descriptor_is_a_real_one(device: Device) -> None:
    if device.transport.name == "in-process":
        pytest.skip("there are no descriptors without a mount")
    handle = device.gem_create(3 * PAGE, SYSTEM)
    fd = device.prime_handle_to_fd(handle)
    assert not os.get_inheritable(fd)
    assert os.lseek(fd, 0, os.SEEK_END) == 3 * PAGE
    device.gem_close(handle)
    copy = os.dup(fd)
    device.close_fd(fd)
    handle = device.prime_fd_to_handle(copy)
    assert device.bo_info(handle).exported == 1
    os.close(copy)
    inheritable = device.prime_handle_to_fd(handle, drm.DRM_RDWR)
    assert os.get_inheritable(inheritable)
    device.close_fd(inheritable)
    with open(os.devnull) as other:
        refused(errno.EINVAL, lambda: device.prime_fd_to_handle(other.fileno()))


def test_token_opens_once(device: Device) -> None:
    token = device.prime_handle_to_token(device.gem_create(PAGE, SYSTEM))
    assert token >= xe_mock.XE_MOCK_TOKEN_BASE
    device.close_fd(device.transport.open_fd(token, os.O_RDWR | os.O_CLOEXEC))
    with pytest.raises(OSError) as caught:
        device.transport.open_fd(token, os.O_RDWR | os.O_CLOEXEC)
    assert caught.value.errno == errno.ENOENT


# --- the Device itself ---------------------------------------------------------------------


def test_observer(device: Device) -> None:
    calls: list[Call] = []
    device.observer = calls.append
    handle = device.gem_create(PAGE, SYSTEM)
    refused(errno.ENOENT, lambda: device.gem_mmap_offset(99))
    good, bad = calls
    assert (good.name, good.result, good.error) == ("DRM_IOCTL_XE_GEM_CREATE", 0, None)
    assert isinstance(good.arg, xe_drm.drm_xe_gem_create)
    assert good.arg.handle == handle
    assert bad.error is not None and bad.error.errno == errno.ENOENT
    assert "drm_xe_gem_mmap_offset(handle=99" in str(bad)


def test_unknown_request(device: Device) -> None:
    refused(errno.ENOTTY, lambda: device.ioctl(0x1234))
    assert IoctlError(errno.ENOTTY, 0x1234).name == "0x1234"


@pytest.fixture
def threads(device: Device) -> Iterator[list[threading.Thread]]:
    """Threads that map and unmap, each a BO of its own in a VM of its own."""
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            vm = device.vm_create()
            handle = device.gem_create(PAGE, VRAM)
            for _ in range(20):
                fence = UserFence()
                device.vm_bind(vm, [op_map(handle, 0, ADDR, PAGE)], [fence])
                assert fence.signaled
                assert device.madvise_purgeable(vm, ADDR, PAGE, DONTNEED) == 1
                assert device.madvise_purgeable(vm, ADDR, PAGE, WILLNEED) == 1
                device.vm_bind(vm, [op_unmap(ADDR, PAGE)])
            device.gem_close(handle)
            device.vm_destroy(vm)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            wrong.append(error)

    yield [threading.Thread(target=work) for _ in range(6)]
    assert not wrong


def test_threads_share_a_device(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
