"""DEVICE_QUERY (kernel: drivers/gpu/drm/xe/xe_query.c)."""

from __future__ import annotations

import ctypes
import errno
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from uapi import xe_drm
from uapi.base import Struct
from xedev.kernel.caller import CAP_SYS_NICE, Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.user_memory import copy_struct_from_user
from xedev.xe.platforms.description import Engine, Gt, OaUnit

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_query_ioctl",)

BYTES_PER_DSS_MASK = 16
BYTES_PER_L3_MASK = 8
BYTES_PER_EU_MASK = 8
MEDIA_WITHOUT_L3 = 30
PXP_READY = 1
OA_CAPS = (
    xe_drm.DRM_XE_OA_CAPS_BASE
    | xe_drm.DRM_XE_OA_CAPS_SYNCS
    | xe_drm.DRM_XE_OA_CAPS_OA_BUFFER_SIZE
    | xe_drm.DRM_XE_OA_CAPS_WAIT_NUM_REPORTS
    | xe_drm.DRM_XE_OA_CAPS_OAM
    | xe_drm.DRM_XE_OA_CAPS_OA_UNIT_GT_ID
)
EU_STALL_RECORD_SIZE = 64
EU_STALL_BUFFER_SIZE = 512 * 1024
EU_STALL_RATES = tuple(251 * step for step in range(1, 8))
CLOCKS = (
    time.CLOCK_REALTIME,
    time.CLOCK_MONOTONIC,
    time.CLOCK_MONOTONIC_RAW,
    time.CLOCK_BOOTTIME,
    time.CLOCK_TAI,
)

Args = xe_drm.drm_xe_device_query


def xe_query_ioctl(xe: XeDevice, query: Args, file: DrmFile, caller: Caller) -> None:
    """``DEVICE_QUERY``: with ``size`` 0 tells the size, with that size fills ``data``.

    ``EINVAL`` reserved fields, an unknown query or any other size; ``EFAULT`` (``ENOSPC`` for
    memory regions) when ``data`` cannot be written; ``ENODEV`` for what the device lacks.
    """
    if query.extensions or query.reserved[0] or query.reserved[1]:
        raise KernelError(errno.EINVAL, "extensions and reserved must be zero")
    answer = _QUERIES.get(query.query)
    if answer is None:
        raise KernelError(errno.EINVAL, f"no query {query.query}")
    answer(xe, query, caller)


def _reply(query: Args, caller: Caller, data: bytes, unwritable: int = errno.EFAULT) -> None:
    """The size protocol for answers that do not depend on the input."""
    if not query.size:
        query.size = len(data)
        return
    _check_size(query, len(data))
    try:
        caller.memory.write(query.data, data)
    except KernelError as error:
        raise KernelError(unwritable, error.reason) from None


def _check_size(query: Args, size: int) -> None:
    if query.size != size:
        raise KernelError(errno.EINVAL, f"size is {query.size}, must be {size}")


def _query_engines(xe: XeDevice, query: Args, caller: Caller) -> None:
    engines = [
        xe_drm.drm_xe_engine(instance=_instance(gt, engine))
        for gt in xe.platform.gts
        for engine in gt.engines
    ]
    head = xe_drm.drm_xe_query_engines(num_engines=len(engines))
    _reply(query, caller, _join(head, engines))


def _instance(gt: Gt, engine: Engine) -> xe_drm.drm_xe_engine_class_instance:
    return xe_drm.drm_xe_engine_class_instance(
        engine_class=engine.engine_class, engine_instance=engine.instance, gt_id=gt.gt_id
    )


def _join(head: Struct, items: list[Struct] | list[xe_drm.drm_xe_engine]) -> bytes:
    return bytes(head) + b"".join(bytes(item) for item in items)


def _query_mem_regions(xe: XeDevice, query: Args, caller: Caller) -> None:
    regions: list[Struct] = [
        xe_drm.drm_xe_mem_region(
            mem_class=xe_drm.DRM_XE_MEM_REGION_CLASS_SYSMEM,
            instance=0,
            min_page_size=4096,
            total_size=xe.system_size,
            used=xe.tt_manager.used,
        )
    ]
    for index, vram in enumerate(xe.vram_managers):
        regions.append(
            xe_drm.drm_xe_mem_region(
                mem_class=xe_drm.DRM_XE_MEM_REGION_CLASS_VRAM,
                instance=1 + index,
                min_page_size=xe.vram_page_size,
                total_size=vram.size,
                used=vram.used,
                cpu_visible_size=vram.visible_size,
                cpu_visible_used=vram.visible_used,
            )
        )
    head = xe_drm.drm_xe_query_mem_regions(num_mem_regions=len(regions))
    _reply(query, caller, _join(head, regions), unwritable=errno.ENOSPC)


def _query_config(xe: XeDevice, query: Args, caller: Caller) -> None:
    platform = xe.platform
    info = {
        xe_drm.DRM_XE_QUERY_CONFIG_REV_AND_DEVICE_ID: platform.device_id | platform.revision << 16,
        xe_drm.DRM_XE_QUERY_CONFIG_FLAGS: _config_flags(xe),
        xe_drm.DRM_XE_QUERY_CONFIG_MIN_ALIGNMENT: xe.vram_page_size,
        xe_drm.DRM_XE_QUERY_CONFIG_VA_BITS: platform.va_bits,
        xe_drm.DRM_XE_QUERY_CONFIG_MAX_EXEC_QUEUE_PRIORITY: (
            2 if caller.capable(CAP_SYS_NICE) else 1
        ),
    }
    head = xe_drm.drm_xe_query_config(num_params=len(info))
    _reply(query, caller, bytes(head) + struct.pack(f"<{len(info)}Q", *info.values()))


def _config_flags(xe: XeDevice) -> int:
    flags = (
        xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_LOW_LATENCY
        | xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_DISABLE_STATE_CACHE_PERF_FIX
        | xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_PURGING_SUPPORT
    )
    if xe.vram_managers:
        flags |= xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_VRAM
    if xe.platform.has_usm:
        flags |= xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_CPU_ADDR_MIRROR
    if xe.platform.graphics_ver >= 20:
        flags |= xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_NO_COMPRESSION_HINT
    return flags


def _query_gt_list(xe: XeDevice, query: Args, caller: Caller) -> None:
    gts: list[Struct] = []
    for gt in xe.platform.gts:
        near = 1 << (1 + gt.tile_id) if xe.platform.is_dgfx else 1
        major, minor, rev = gt.ip_version
        gts.append(
            xe_drm.drm_xe_gt(
                type=gt.type,
                tile_id=gt.tile_id,
                gt_id=gt.gt_id,
                reference_clock=xe.platform.reference_clock,
                near_mem_regions=near,
                far_mem_regions=xe.mem_region_mask ^ near,
                ip_ver_major=major,
                ip_ver_minor=minor,
                ip_ver_rev=rev,
            )
        )
    _reply(query, caller, _join(xe_drm.drm_xe_query_gt_list(num_gt=len(gts)), gts))


def _query_hwconfig(xe: XeDevice, query: Args, caller: Caller) -> None:
    words = [word for key, value in xe.platform.hwconfig for word in (key, 1, value)]
    _reply(query, caller, struct.pack(f"<{len(words)}I", *words))


def _query_gt_topology(xe: XeDevice, query: Args, caller: Caller) -> None:
    data = b""
    simd16 = xe.platform.simd16_eus
    eus = xe_drm.DRM_XE_TOPO_SIMD16_EU_PER_DSS if simd16 else xe_drm.DRM_XE_TOPO_EU_PER_DSS
    for gt in xe.platform.gts:
        masks = [
            (xe_drm.DRM_XE_TOPO_DSS_GEOMETRY, BYTES_PER_DSS_MASK, gt.dss_geometry),
            (xe_drm.DRM_XE_TOPO_DSS_COMPUTE, BYTES_PER_DSS_MASK, gt.dss_compute),
            (xe_drm.DRM_XE_TOPO_L3_BANK, BYTES_PER_L3_MASK, gt.l3_bank),
            (eus, BYTES_PER_EU_MASK, gt.eu_per_dss),
        ]
        is_media = gt.type == xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA
        if is_media and gt.ip_version[0] >= MEDIA_WITHOUT_L3:
            del masks[2]
        for kind, length, mask in masks:
            head = xe_drm.drm_xe_query_topology_mask(gt_id=gt.gt_id, type=kind, num_bytes=length)
            data += bytes(head) + mask.to_bytes(length, "little")
    _reply(query, caller, data)


def _query_engine_cycles(xe: XeDevice, query: Args, caller: Caller) -> None:
    cls = xe_drm.drm_xe_query_engine_cycles
    size = ctypes.sizeof(cls)
    if not query.size:
        query.size = size
        return
    _check_size(query, size)
    resp = copy_struct_from_user(caller.memory, query.data, cls)
    if resp.clockid not in CLOCKS:
        raise KernelError(errno.EINVAL, f"clock {resp.clockid} is not offered")
    _find_engine(xe, resp.eci)
    resp.cpu_timestamp = time.clock_gettime_ns(resp.clockid)
    before = time.monotonic_ns()
    resp.engine_cycles = xe.gt_timestamp(before) & ((1 << xe.platform.timestamp_bits) - 1)
    resp.cpu_delta = time.monotonic_ns() - before
    resp.width = xe.platform.timestamp_bits
    caller.memory.write(query.data, bytes(resp))


def _find_engine(xe: XeDevice, eci: xe_drm.drm_xe_engine_class_instance) -> None:
    # The kernel's lookup takes the GT id as one byte.
    gt = next((gt for gt in xe.platform.gts if gt.gt_id == eci.gt_id & 0xFF), None)
    if gt is None:
        raise KernelError(errno.EINVAL, f"no GT {eci.gt_id}")
    if Engine(eci.engine_class, eci.engine_instance) not in gt.engines:
        raise KernelError(
            errno.EINVAL, f"GT {gt.gt_id} has no engine {eci.engine_class}:{eci.engine_instance}"
        )


def _query_uc_fw_version(xe: XeDevice, query: Args, caller: Caller) -> None:
    cls = xe_drm.drm_xe_query_uc_fw_version
    size = ctypes.sizeof(cls)
    if not query.size:
        query.size = size
        return
    _check_size(query, size)
    resp = copy_struct_from_user(caller.memory, query.data, cls)
    if resp.pad or resp.pad2 or resp.reserved:
        raise KernelError(errno.EINVAL, "pad and reserved must be zero")
    versions = {
        xe_drm.XE_QUERY_UC_TYPE_GUC_SUBMISSION: xe.platform.guc_submission,
        xe_drm.XE_QUERY_UC_TYPE_HUC: xe.platform.huc,
    }
    if resp.uc_type not in versions:
        raise KernelError(errno.EINVAL, f"no microcontroller {resp.uc_type}")
    version = versions[resp.uc_type]
    if version is None:
        raise KernelError(errno.ENODEV, "that firmware is not running")
    resp.branch_ver = 0
    resp.major_ver, resp.minor_ver, resp.patch_ver = version.major, version.minor, version.patch
    caller.memory.write(query.data, bytes(resp))


def _query_oa_units(xe: XeDevice, query: Args, caller: Caller) -> None:
    data = bytes(xe_drm.drm_xe_query_oa_units(num_oa_units=len(xe.platform.oa_units)))
    _reply(query, caller, data + b"".join(_oa_unit(xe, unit) for unit in xe.platform.oa_units))


def _oa_unit(xe: XeDevice, unit: OaUnit) -> bytes:
    head = xe_drm.drm_xe_oa_unit(
        oa_unit_id=unit.unit_id,
        oa_unit_type=unit.type,
        capabilities=OA_CAPS,
        oa_timestamp_freq=xe.platform.reference_clock,
        gt_id=unit.gt_id,
        num_engines=len(unit.engines),
    )
    gt = next(gt for gt in xe.platform.gts if gt.gt_id == unit.gt_id)
    return bytes(head) + b"".join(bytes(_instance(gt, engine)) for engine in unit.engines)


def _query_pxp_status(xe: XeDevice, query: Args, caller: Caller) -> None:
    cls = xe_drm.drm_xe_query_pxp_status
    if not query.size:
        query.size = ctypes.sizeof(cls)
        return
    _check_size(query, ctypes.sizeof(cls))
    if not xe.platform.has_pxp:
        raise KernelError(errno.ENODEV, "the device has no protected content")
    resp = cls(status=PXP_READY, supported_session_types=1 << xe_drm.DRM_XE_PXP_TYPE_HWDRM)
    caller.memory.write(query.data, bytes(resp))


def _query_eu_stall(xe: XeDevice, query: Args, caller: Caller) -> None:
    if not xe.platform.eu_stall:
        raise KernelError(errno.ENODEV, "the device cannot sample EU stalls")
    head = xe_drm.drm_xe_query_eu_stall(
        capabilities=xe_drm.DRM_XE_EU_STALL_CAPS_BASE,
        record_size=EU_STALL_RECORD_SIZE,
        per_xecore_buf_size=EU_STALL_BUFFER_SIZE,
        num_sampling_rates=len(EU_STALL_RATES),
    )
    rates = struct.pack(f"<{len(EU_STALL_RATES)}Q", *EU_STALL_RATES)
    _reply(query, caller, bytes(head) + rates)


_QUERIES: dict[int, Callable[[XeDevice, Args, Caller], None]] = {
    xe_drm.DRM_XE_DEVICE_QUERY_ENGINES: _query_engines,
    xe_drm.DRM_XE_DEVICE_QUERY_MEM_REGIONS: _query_mem_regions,
    xe_drm.DRM_XE_DEVICE_QUERY_CONFIG: _query_config,
    xe_drm.DRM_XE_DEVICE_QUERY_GT_LIST: _query_gt_list,
    xe_drm.DRM_XE_DEVICE_QUERY_HWCONFIG: _query_hwconfig,
    xe_drm.DRM_XE_DEVICE_QUERY_GT_TOPOLOGY: _query_gt_topology,
    xe_drm.DRM_XE_DEVICE_QUERY_ENGINE_CYCLES: _query_engine_cycles,
    xe_drm.DRM_XE_DEVICE_QUERY_UC_FW_VERSION: _query_uc_fw_version,
    xe_drm.DRM_XE_DEVICE_QUERY_OA_UNITS: _query_oa_units,
    xe_drm.DRM_XE_DEVICE_QUERY_PXP_STATUS: _query_pxp_status,
    xe_drm.DRM_XE_DEVICE_QUERY_EU_STALL: _query_eu_stall,
}
