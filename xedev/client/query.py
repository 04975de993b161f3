"""DEVICE_QUERY: what the device is made of."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from uapi import xe_drm
from uapi.base import Struct
from xedev.client.ioctls import Ioctls
from xedev.client.transport import IN, OUT, Buffer

__all__ = ("EuStall", "OaUnit", "QueryIoctls", "TopologyMask")

S = TypeVar("S", bound=Struct)


@dataclass(frozen=True, slots=True)
class TopologyMask:
    """One mask of the GT_TOPOLOGY query."""

    gt_id: int
    type: int  # DRM_XE_TOPO_*
    num_bytes: int
    mask: int  # bit n: unit n is there


@dataclass(frozen=True, slots=True)
class OaUnit:
    """One unit of the OA_UNITS query with the engines it watches."""

    unit: xe_drm.drm_xe_oa_unit
    engines: tuple[xe_drm.drm_xe_engine_class_instance, ...]


@dataclass(frozen=True, slots=True)
class EuStall:
    """The answer to the EU_STALL query."""

    info: xe_drm.drm_xe_query_eu_stall
    sampling_rates: tuple[int, ...]  # GPU cycles


class QueryIoctls(Ioctls):
    """The eleven questions of DEVICE_QUERY (kernel: ``xe_query_ioctl``)."""

    def query(self, query: int, data: bytes = b"") -> bytes:
        """The raw answer to a DRM_XE_DEVICE_QUERY_*; ``data`` is what the buffer starts with.

        Asks for the size first. EINVAL: unknown query, or the contents of ``data``. ENODEV: the
        device has no such thing. EFAULT.
        """
        arg = xe_drm.drm_xe_device_query(query=query)
        self.ioctl(xe_drm.DRM_IOCTL_XE_DEVICE_QUERY, arg)
        if not arg.size:
            return b""
        buffer = (ctypes.c_char * arg.size).from_buffer_copy(data.ljust(arg.size, b"\0"))
        arg.data = ctypes.addressof(buffer)
        self.ioctl(xe_drm.DRM_IOCTL_XE_DEVICE_QUERY, arg, [Buffer(buffer, IN | OUT)])
        return bytes(buffer)

    def query_engines(self) -> list[xe_drm.drm_xe_engine]:
        """Engines that queues can be made for (kernel: ``query_engines``)."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_ENGINES)
        head = xe_drm.drm_xe_query_engines.from_buffer_copy(data)
        return _array(data, head, "engines", head.num_engines, xe_drm.drm_xe_engine)

    def query_mem_regions(self) -> list[xe_drm.drm_xe_mem_region]:
        """Memory regions, system memory first (kernel: ``query_mem_regions``)."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_MEM_REGIONS)
        head = xe_drm.drm_xe_query_mem_regions.from_buffer_copy(data)
        return _array(data, head, "mem_regions", head.num_mem_regions, xe_drm.drm_xe_mem_region)

    def query_config(self) -> list[int]:
        """Numbers by DRM_XE_QUERY_CONFIG_* index (kernel: ``query_config``)."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_CONFIG)
        head = xe_drm.drm_xe_query_config.from_buffer_copy(data)
        cells = _array(data, head, "info", head.num_params, ctypes.c_uint64)
        return [cell.value for cell in cells]

    def query_gt_list(self) -> list[xe_drm.drm_xe_gt]:
        """Graphics and media blocks of all tiles (kernel: ``query_gt_list``)."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_GT_LIST)
        head = xe_drm.drm_xe_query_gt_list.from_buffer_copy(data)
        return _array(data, head, "gt_list", head.num_gt, xe_drm.drm_xe_gt)

    def query_hwconfig(self) -> dict[int, tuple[int, ...]]:
        """The hardware configuration table: key -> u32 values (kernel: ``query_hwconfig``)."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_HWCONFIG)
        words = memoryview(data).cast("I")
        table: dict[int, tuple[int, ...]] = {}
        at = 0
        while at + 2 <= len(words):
            key, length = words[at], words[at + 1]
            table[key] = tuple(words[at + 2 : at + 2 + length])
            at += 2 + length
        return table

    def query_topology(self) -> list[TopologyMask]:
        """Which units of each GT are there (kernel: ``query_gt_topology``)."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_GT_TOPOLOGY)
        return list(_masks(data))

    def query_engine_cycles(
        self,
        engine: xe_drm.drm_xe_engine_class_instance,
        clockid: int = time.CLOCK_MONOTONIC,
    ) -> xe_drm.drm_xe_query_engine_cycles:
        """GPU and CPU time read together (kernel: ``query_engine_cycles``).

        EINVAL: unknown clock, or no such engine.
        """
        ask = xe_drm.drm_xe_query_engine_cycles(eci=engine, clockid=clockid)
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_ENGINE_CYCLES, bytes(ask))
        return xe_drm.drm_xe_query_engine_cycles.from_buffer_copy(data)

    def query_uc_fw_version(self, uc_type: int) -> xe_drm.drm_xe_query_uc_fw_version:
        """Version of a microcontroller's firmware (kernel: ``query_uc_fw_version``).

        ``uc_type``: XE_QUERY_UC_TYPE_*. ENODEV: does not run. EINVAL: unknown type.
        """
        ask = xe_drm.drm_xe_query_uc_fw_version(uc_type=uc_type)
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_UC_FW_VERSION, bytes(ask))
        return xe_drm.drm_xe_query_uc_fw_version.from_buffer_copy(data)

    def query_oa_units(self) -> list[OaUnit]:
        """Performance-counter units (kernel: ``query_oa_units``)."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_OA_UNITS)
        head = xe_drm.drm_xe_query_oa_units.from_buffer_copy(data)
        units: list[OaUnit] = []
        at = ctypes.sizeof(head)
        for _ in range(head.num_oa_units):
            unit = xe_drm.drm_xe_oa_unit.from_buffer_copy(data, at)
            engine = xe_drm.drm_xe_engine_class_instance
            engines = _array(data[at:], unit, "eci", unit.num_engines, engine)
            units.append(OaUnit(unit, tuple(engines)))
            at += ctypes.sizeof(unit) + unit.num_engines * ctypes.sizeof(engine)
        return units

    def query_pxp_status(self) -> xe_drm.drm_xe_query_pxp_status:
        """State of protected content (kernel: ``query_pxp_status``). ENODEV: has none."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_PXP_STATUS)
        return xe_drm.drm_xe_query_pxp_status.from_buffer_copy(data)

    def query_eu_stall(self) -> EuStall:
        """What stall sampling can do (kernel: ``query_eu_stall``). ENODEV: cannot sample."""
        data = self.query(xe_drm.DRM_XE_DEVICE_QUERY_EU_STALL)
        head = xe_drm.drm_xe_query_eu_stall.from_buffer_copy(data)
        rates = _array(data, head, "sampling_rates", head.num_sampling_rates, ctypes.c_uint64)
        return EuStall(head, tuple(rate.value for rate in rates))


def _array(data: bytes, head: Struct, field: str, count: int, ctype: type[Any]) -> list[Any]:
    """The ``count`` elements of a flexible array, copied out of ``data``."""
    start = getattr(type(head), field).offset
    size = ctypes.sizeof(ctype)
    return [ctype.from_buffer_copy(data, start + index * size) for index in range(count)]


def _masks(data: bytes) -> Iterator[TopologyMask]:
    at = 0
    while at < len(data):
        head = xe_drm.drm_xe_query_topology_mask.from_buffer_copy(data, at)
        at += ctypes.sizeof(head)
        mask = int.from_bytes(data[at : at + head.num_bytes], "little")
        yield TopologyMask(head.gt_id, head.type, head.num_bytes, mask)
        at += head.num_bytes
