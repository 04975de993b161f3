"""IGT's helpers, each of them once, over each transport."""

from __future__ import annotations

import ctypes
import errno
import mmap

import pytest

from uapi import xe_drm
from xedev.client import Device, IoctlError, Transport, UserFence, xe_ioctl, xe_query
from xedev.client.memory import op_map, op_unmap

PAGE = 4096
ADDR = 0x1A0000
FAULT_MODE = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
VISIBLE_VRAM = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM


@pytest.fixture
def fd(transport: Transport) -> Device:
    return Device(transport)


def test_regions(fd: Device) -> None:
    assert xe_query.all_memory_regions(fd) == 0b11
    assert xe_query.system_memory(fd) == 0b01
    assert xe_query.vram_memory(fd, 0) == xe_query.vram_if_possible(fd, 0) == 0b10
    assert [xe_query.xe_region_name(1 << bit) for bit in range(3)] == ["system", "vram0", "vram1"]
    assert xe_query.xe_has_vram(fd)
    assert xe_query.xe_region_class(fd, 0b10) == xe_drm.DRM_XE_MEM_REGION_CLASS_VRAM
    assert xe_query.xe_min_page_size(fd, 0b10) == PAGE
    assert xe_query.xe_get_default_alignment(fd) == PAGE
    assert xe_query.xe_vram_size(fd, 0) == xe_query.xe_visible_vram_size(fd, 0)
    free = xe_query.xe_available_vram_size(fd, 0)
    xe_ioctl.xe_bo_create(fd, 0, PAGE, 0b10, VISIBLE_VRAM)
    assert xe_query.xe_available_vram_size(fd, 0) == free - PAGE
    assert xe_query.xe_visible_available_vram_size(fd, 0) == free - PAGE


def test_engines_and_configuration(fd: Device) -> None:
    assert xe_query.xe_number_gt(fd) == len(xe_query.xe_gt_list(fd)) == 2
    assert xe_query.drm_xe_get_gt(fd, 1).type == xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA
    assert xe_query.xe_number_engines(fd) == len(xe_query.xe_engines(fd)) == 7
    copy = xe_drm.DRM_XE_ENGINE_CLASS_COPY
    assert xe_query.xe_engine(fd, 1).instance.engine_class == copy
    assert xe_query.xe_has_engine_class(fd, copy)
    assert not xe_query.xe_has_engine_class(fd, xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND)
    assert xe_query.xe_va_bits(fd) == 48
    assert xe_query.xe_dev_id(fd) == 0xE20B
    flags = xe_query.xe_config(fd)[xe_drm.DRM_XE_QUERY_CONFIG_FLAGS]
    assert flags & xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_PURGING_SUPPORT
    assert xe_query.xe_supports_faults(fd) == 0


def test_buffer_objects(fd: Device) -> None:
    wb, wc = xe_drm.DRM_XE_GEM_CPU_CACHING_WB, xe_drm.DRM_XE_GEM_CPU_CACHING_WC
    assert xe_ioctl.xe_default_cpu_caching(fd, 0b01, 0) == wb
    assert xe_ioctl.xe_default_cpu_caching(fd, 0b11, 0) == wc
    scanout = xe_drm.DRM_XE_GEM_CREATE_FLAG_SCANOUT
    assert xe_ioctl.xe_default_cpu_caching(fd, 0b01, scanout) == wc
    vm = xe_ioctl.xe_vm_create(fd, 0, 0)
    private = xe_ioctl.xe_bo_create(fd, vm, PAGE, 0b10, 0)
    shared = xe_ioctl.xe_bo_create_caching(fd, 0, PAGE, 0b01, 0, wc)
    offsets = [xe_ioctl.xe_bo_mmap_offset(fd, bo) for bo in (private, shared)]
    assert offsets[0] < offsets[1]
    with pytest.raises(IoctlError) as caught:
        xe_ioctl.xe_bo_create_caching(fd, 0, PAGE, 0b10, 0, wb)
    assert caught.value.errno == errno.EINVAL
    for bo in (private, shared):
        xe_ioctl.gem_close(fd, bo)
    xe_ioctl.xe_vm_destroy(fd, vm)


def test_vm_takes_no_extension(fd: Device) -> None:
    with pytest.raises(IoctlError) as caught:
        xe_ioctl.xe_vm_create(fd, 0, ADDR)
    assert caught.value.errno == errno.EINVAL


def ranges(fd: Device, vm: int) -> list[tuple[int, int]]:
    attrs = xe_ioctl.xe_vm_get_mem_attr_values_in_range(fd, vm, 0, 1 << 40)
    return [(attr.start, attr.end) for attr in attrs]


@pytest.mark.parametrize("flags", [0, xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE, FAULT_MODE])
def test_binds(fd: Device, flags: int) -> None:
    vm = xe_ioctl.xe_vm_create(fd, flags, 0)
    bo = xe_ioctl.xe_bo_create(fd, 0, 4 * PAGE, xe_query.vram_if_possible(fd, 0), 0)
    xe_ioctl.xe_vm_bind_sync(fd, vm, bo, 0, ADDR, 4 * PAGE)
    xe_ioctl.xe_vm_unbind_sync(fd, vm, 0, ADDR + PAGE, PAGE)
    assert ranges(fd, vm) == [(ADDR, ADDR + PAGE), (ADDR + 2 * PAGE, ADDR + 4 * PAGE)]

    immediate = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE
    xe_ioctl.xe_vm_bind_lr_sync(fd, vm, bo, 0, ADDR, 4 * PAGE, immediate)
    assert ranges(fd, vm) == [(ADDR, ADDR + 4 * PAGE)]
    fence = UserFence(99)
    xe_ioctl.xe_vm_prefetch_async(fd, vm, 0, 0, ADDR, 4 * PAGE, [fence], 1)
    fence.wait()
    xe_ioctl.xe_vm_unbind_lr_sync(fd, vm, 0, ADDR, 4 * PAGE)
    assert ranges(fd, vm) == []

    xe_ioctl.xe_vm_bind_async(fd, vm, 0, bo, PAGE, ADDR, PAGE)
    readonly = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
    xe_ioctl.xe_vm_bind_async_flags(fd, vm, 0, bo, 0, 2 * ADDR, PAGE, [], readonly)
    xe_ioctl.xe_vm_unbind_all_async(fd, vm, 0, bo)
    assert ranges(fd, vm) == []

    ops = [op_map(bo, 0, ADDR, PAGE), op_map(bo, 0, 2 * ADDR, PAGE), op_unmap(ADDR, PAGE)]
    xe_ioctl.xe_vm_bind_array(fd, vm, 0, ops)
    assert ranges(fd, vm) == [(2 * ADDR, 2 * ADDR + PAGE)]
    xe_ioctl.xe_vm_unbind_async(fd, vm, 0, 0, 2 * ADDR, PAGE)
    xe_ioctl.xe_vm_destroy(fd, vm)


def test_userptr(fd: Device) -> None:
    vm = xe_ioctl.xe_vm_create(fd, 0, 0)
    memory = mmap.mmap(-1, 2 * PAGE)
    page = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(page)
    readonly = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
    xe_ioctl.xe_vm_bind_userptr_async(fd, vm, 0, address, ADDR, PAGE)
    xe_ioctl.xe_vm_bind_userptr_async_flags(fd, vm, 0, address, ADDR + PAGE, PAGE, [], readonly)
    assert len(ranges(fd, vm)) == 2
    xe_ioctl.xe_vm_unbind_sync(fd, vm, 0, ADDR, 2 * PAGE)
    del page
    memory.close()


def test_madvise(fd: Device) -> None:
    vm = xe_ioctl.xe_vm_create(fd, FAULT_MODE, 0)
    mirror = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
    xe_ioctl.xe_vm_bind_lr_sync(fd, vm, 0, 0, ADDR, PAGE, mirror)
    for type_, value, policy in (
        (xe_drm.DRM_XE_MEM_RANGE_ATTR_ATOMIC, xe_drm.DRM_XE_ATOMIC_GLOBAL, 0),
        (xe_drm.DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC, -1, 1),
        (xe_drm.DRM_XE_MEM_RANGE_ATTR_PAT, 3, 0),
        (xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE, 1, 0),
    ):
        xe_ioctl.xe_vm_madvise(fd, vm, ADDR, PAGE, 0, type_, value, policy, 0)
    (attr,) = xe_ioctl.xe_vm_get_mem_attr_values_in_range(fd, vm, ADDR, PAGE)
    assert attr.atomic.val == xe_drm.DRM_XE_ATOMIC_GLOBAL
    assert attr.preferred_mem_loc.devmem_fd == 0xFFFFFFFF
    assert attr.preferred_mem_loc.migration_policy == 1
    assert attr.pat_index.val == 3
    with pytest.raises(IoctlError) as caught:
        xe_ioctl.xe_vm_madvise(fd, vm, ADDR, PAGE, 0, 77, 0, 0, 0)
    assert caught.value.errno == errno.EINVAL


def test_purgeable(fd: Device) -> None:
    vm = xe_ioctl.xe_vm_create(fd, 0, 0)
    bo = xe_ioctl.xe_bo_create(fd, vm, PAGE, xe_query.vram_if_possible(fd, 0), VISIBLE_VRAM)
    xe_ioctl.xe_vm_bind_sync(fd, vm, bo, 0, ADDR, PAGE)
    for state in (1, 0, 1):
        assert xe_ioctl.xe_vm_madvise_purgeable(fd, vm, ADDR, PAGE, state) == 1


def test_questions_to_a_vm(fd: Device) -> None:
    vm = xe_ioctl.xe_vm_create(fd, 0, 0)
    count = xe_drm.drm_xe_vm_query_mem_range_attr(vm_id=vm, range=1 << 40)
    xe_ioctl.xe_vm_number_vmas_in_range(fd, count)
    size = ctypes.sizeof(xe_drm.drm_xe_mem_range_attr)
    assert (count.num_mem_ranges, count.sizeof_mem_range_attr) == (0, size)
    query = xe_drm.drm_xe_vm_get_property(property=xe_drm.DRM_XE_VM_GET_PROPERTY_FAULTS)
    xe_ioctl.xe_vm_get_property(fd, vm, query)
    assert (query.vm_id, query.size) == (vm, 0)
