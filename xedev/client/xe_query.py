"""IGT's helpers about the device, by its names (lib/xe/xe_query.c).

Where IGT takes a descriptor, these take the `Device`. Nothing is cached: sizes in use are those
of this moment. A region is a mask with one bit set, ``gt`` the id of a GT.
"""

from __future__ import annotations

from collections.abc import Iterator

from uapi import xe_drm
from xedev.client.device import Device

__all__ = (
    "all_memory_regions",
    "drm_xe_get_gt",
    "intel_get_pat_idx_wb",
    "system_memory",
    "vram_if_possible",
    "vram_memory",
    "xe_available_vram_size",
    "xe_config",
    "xe_dev_id",
    "xe_engine",
    "xe_engine_class_short_string",
    "xe_engines",
    "xe_for_each_engine",
    "xe_get_default_alignment",
    "xe_gt_list",
    "xe_has_engine_class",
    "xe_has_vram",
    "xe_mem_region",
    "xe_min_page_size",
    "xe_number_engines",
    "xe_number_gt",
    "xe_region_class",
    "xe_region_name",
    "xe_supports_faults",
    "xe_va_bits",
    "xe_visible_available_vram_size",
    "xe_visible_vram_size",
    "xe_vram_size",
)

_DEFAULT_ALIGNMENT = 4096

_CLASS_NAMES = {
    xe_drm.DRM_XE_ENGINE_CLASS_RENDER: "rcs",
    xe_drm.DRM_XE_ENGINE_CLASS_COPY: "bcs",
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE: "vcs",
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE: "vecs",
    xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE: "ccs",
}


# --- GTs and engines -----------------------------------------------------------------------


def xe_gt_list(device: Device) -> list[xe_drm.drm_xe_gt]:
    """All GTs."""
    return device.query_gt_list()


def xe_number_gt(device: Device) -> int:
    """How many GTs there are."""
    return len(device.query_gt_list())


def drm_xe_get_gt(device: Device, gt: int) -> xe_drm.drm_xe_gt:
    """The GT with id ``gt``; KeyError without one."""
    return {row.gt_id: row for row in device.query_gt_list()}[gt]


def xe_engines(device: Device) -> list[xe_drm.drm_xe_engine]:
    """All engines that queues can be made for."""
    return device.query_engines()


def xe_engine(device: Device, idx: int) -> xe_drm.drm_xe_engine:
    """Engine number ``idx`` of the list."""
    return device.query_engines()[idx]


def xe_number_engines(device: Device) -> int:
    """How many engines there are."""
    return len(device.query_engines())


def xe_for_each_engine(device: Device) -> Iterator[xe_drm.drm_xe_engine_class_instance]:
    """Each of them, as EXEC_QUEUE_CREATE wants it."""
    return (row.instance for row in device.query_engines())


def xe_engine_class_short_string(engine_class: int) -> str:
    """``rcs``, ``bcs``, ...; ``?`` for an unknown class."""
    return _CLASS_NAMES.get(engine_class, "?")


def xe_has_engine_class(device: Device, engine_class: int) -> bool:
    """Whether there is an engine of a DRM_XE_ENGINE_CLASS_*."""
    return any(row.instance.engine_class == engine_class for row in device.query_engines())


# --- memory regions ------------------------------------------------------------------------


def all_memory_regions(device: Device) -> int:
    """Mask of all regions."""
    mask = 0
    for gt in device.query_gt_list():
        mask |= gt.near_mem_regions | gt.far_mem_regions
    return mask


def system_memory(device: Device) -> int:
    """Mask of system memory."""
    return all_memory_regions(device) & 1


def vram_memory(device: Device, gt: int) -> int:
    """Mask of the VRAM of a GT, 0 on an integrated device."""
    return drm_xe_get_gt(device, gt).near_mem_regions if xe_has_vram(device) else 0


def vram_if_possible(device: Device, gt: int) -> int:
    """Mask of the VRAM of a GT, on an integrated device of system memory."""
    return vram_memory(device, gt) or system_memory(device)


def _index(region: int) -> int:
    """The number of the lowest bit."""
    return (region & -region).bit_length() - 1


def xe_mem_region(device: Device, region: int) -> xe_drm.drm_xe_mem_region:
    """The region of a mask."""
    return device.query_mem_regions()[_index(region)]


def xe_region_name(region: int) -> str:
    """``system``, ``vram0``, ``vram1``, ..."""
    index = _index(region)
    return f"vram{index - 1}" if index else "system"


def xe_region_class(device: Device, region: int) -> int:
    """DRM_XE_MEM_REGION_CLASS_* of a region."""
    return xe_mem_region(device, region).mem_class


def xe_min_page_size(device: Device, region: int) -> int:
    """What sizes of BOs in a region are multiples of, in bytes."""
    return xe_mem_region(device, region).min_page_size


def xe_get_default_alignment(device: Device) -> int:
    """A BO size in bytes that every region can hold."""
    pages = [region.min_page_size for region in device.query_mem_regions()]
    return max([_DEFAULT_ALIGNMENT, *pages])


def xe_has_vram(device: Device) -> bool:
    """Whether the device is a discrete one."""
    vram = xe_drm.DRM_XE_MEM_REGION_CLASS_VRAM
    return any(region.mem_class == vram for region in device.query_mem_regions())


def _vram(device: Device, gt: int) -> xe_drm.drm_xe_mem_region:
    """VRAM of a GT; an empty region on an integrated device."""
    mask = vram_memory(device, gt)
    return xe_mem_region(device, mask) if mask else xe_drm.drm_xe_mem_region()


def xe_vram_size(device: Device, gt: int) -> int:
    """VRAM of a GT, in bytes."""
    return _vram(device, gt).total_size


def xe_visible_vram_size(device: Device, gt: int) -> int:
    """VRAM of a GT that the CPU can reach, in bytes."""
    return _vram(device, gt).cpu_visible_size


def xe_available_vram_size(device: Device, gt: int) -> int:
    """Free VRAM of a GT, in bytes."""
    region = _vram(device, gt)
    return region.total_size - region.used


def xe_visible_available_vram_size(device: Device, gt: int) -> int:
    """Free VRAM of a GT that the CPU can reach, in bytes."""
    region = _vram(device, gt)
    return region.cpu_visible_size - region.cpu_visible_used


# --- configuration -------------------------------------------------------------------------


def xe_config(device: Device) -> list[int]:
    """Numbers by DRM_XE_QUERY_CONFIG_* index."""
    return device.query_config()


def xe_va_bits(device: Device) -> int:
    """Width of a GPU address, in bits."""
    return device.query_config()[xe_drm.DRM_XE_QUERY_CONFIG_VA_BITS]


def intel_get_pat_idx_wb(device: Device) -> int:
    """Row of the page attribute table for write-back memory (IGT: lib/intel_pat.c)."""
    version = drm_xe_get_gt(device, 0).ip_ver_major
    return 2 if version >= 20 else 0


def xe_dev_id(device: Device) -> int:
    """The PCI device id."""
    return device.query_config()[xe_drm.DRM_XE_QUERY_CONFIG_REV_AND_DEVICE_ID] & 0xFFFF


def xe_supports_faults(device: Device) -> int:
    """0 when a VM in fault mode can be made, else the errno of the refusal; makes one."""
    flags = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
    try:
        device.vm_destroy(device.vm_create(flags))
    except OSError as error:
        return error.errno or -1
    return 0
