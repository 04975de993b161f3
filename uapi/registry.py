"""The table of all ioctls xe-mock knows: request number -> name, struct, direction, size.

A caller's number may differ from ours in size and direction and still mean the same ioctl
(drm-core.md 1.3), so tables are keyed by the command number, per type letter:

``CORE``     nr -> row, DRM core, type ``d``, nr outside 0x40-0x9f
``XE``       nr -> row, Xe driver, type ``d``, nr from 0x40 on
``DMA_BUF``  nr -> row, dma-buf descriptors, type ``b``
``SYNC``     nr -> row, sync_file descriptors, type ``>``
``SW_SYNC``  nr -> row, the test interface ``sw_sync``, type ``W``
``MOCK``     nr -> row, xe-mock's own, type ``x``
``BY_NAME``  header name -> row, all of them
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from uapi import dma_buf, drm, sync_file, xe_drm, xe_mock
from uapi.base import Struct
from uapi.ioctl import IOC_NR, IOC_TYPE, IoctlDef, define

__all__ = (
    "BY_NAME",
    "CORE",
    "CORE_IOCTL_COUNT",
    "DMA_BUF",
    "MOCK",
    "SW_SYNC",
    "SYNC",
    "XE",
    "XE_IOCTL_COUNT",
    "lookup",
)

#: Length of the core's table in Linux 7.2: core numbers from here on do not exist.
CORE_IOCTL_COUNT = 0xD3

# The struct of every ioctl that has one; rows whose name is missing here carry none.
_STRUCTS: dict[str, type[Struct]] = {
    "DRM_IOCTL_VERSION": drm.drm_version,
    "DRM_IOCTL_GET_UNIQUE": drm.drm_unique,
    "DRM_IOCTL_GET_MAGIC": drm.drm_auth,
    "DRM_IOCTL_GET_CLIENT": drm.drm_client,
    "DRM_IOCTL_GET_STATS": drm.drm_stats,
    "DRM_IOCTL_SET_VERSION": drm.drm_set_version,
    "DRM_IOCTL_GEM_CLOSE": drm.drm_gem_close,
    "DRM_IOCTL_GEM_FLINK": drm.drm_gem_flink,
    "DRM_IOCTL_GEM_OPEN": drm.drm_gem_open,
    "DRM_IOCTL_GET_CAP": drm.drm_get_cap,
    "DRM_IOCTL_SET_CLIENT_CAP": drm.drm_set_client_cap,
    "DRM_IOCTL_SET_UNIQUE": drm.drm_unique,
    "DRM_IOCTL_AUTH_MAGIC": drm.drm_auth,
    "DRM_IOCTL_BLOCK": drm.drm_block,
    "DRM_IOCTL_UNBLOCK": drm.drm_block,
    "DRM_IOCTL_ADD_DRAW": drm.drm_draw,
    "DRM_IOCTL_RM_DRAW": drm.drm_draw,
    "DRM_IOCTL_FINISH": drm.drm_lock,
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": drm.drm_prime_handle,
    "DRM_IOCTL_PRIME_FD_TO_HANDLE": drm.drm_prime_handle,
    "DRM_IOCTL_WAIT_VBLANK": drm.drm_wait_vblank,
    "DRM_IOCTL_CRTC_GET_SEQUENCE": drm.drm_crtc_get_sequence,
    "DRM_IOCTL_CRTC_QUEUE_SEQUENCE": drm.drm_crtc_queue_sequence,
    "DRM_IOCTL_UPDATE_DRAW": drm.drm_update_draw,
    "DRM_IOCTL_MODE_RMFB": drm.drm_mode_rmfb_arg,
    "DRM_IOCTL_MODE_CREATE_DUMB": drm.drm_mode_create_dumb,
    "DRM_IOCTL_MODE_MAP_DUMB": drm.drm_mode_map_dumb,
    "DRM_IOCTL_MODE_DESTROY_DUMB": drm.drm_mode_destroy_dumb,
    "DRM_IOCTL_MODE_ADDFB2": drm.drm_mode_fb_cmd2,
    "DRM_IOCTL_MODE_CREATE_LEASE": drm.drm_mode_create_lease,
    "DRM_IOCTL_MODE_LIST_LESSEES": drm.drm_mode_list_lessees,
    "DRM_IOCTL_MODE_GET_LEASE": drm.drm_mode_get_lease,
    "DRM_IOCTL_MODE_REVOKE_LEASE": drm.drm_mode_revoke_lease,
    "DRM_IOCTL_MODE_GETFB2": drm.drm_mode_fb_cmd2,
    "DRM_IOCTL_MODE_CLOSEFB": drm.drm_mode_closefb,
    "DRM_IOCTL_SYNCOBJ_CREATE": drm.drm_syncobj_create,
    "DRM_IOCTL_SYNCOBJ_DESTROY": drm.drm_syncobj_destroy,
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": drm.drm_syncobj_handle,
    "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE": drm.drm_syncobj_handle,
    "DRM_IOCTL_SYNCOBJ_WAIT": drm.drm_syncobj_wait,
    "DRM_IOCTL_SYNCOBJ_RESET": drm.drm_syncobj_array,
    "DRM_IOCTL_SYNCOBJ_SIGNAL": drm.drm_syncobj_array,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": drm.drm_syncobj_timeline_wait,
    "DRM_IOCTL_SYNCOBJ_QUERY": drm.drm_syncobj_timeline_array,
    "DRM_IOCTL_SYNCOBJ_TRANSFER": drm.drm_syncobj_transfer,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": drm.drm_syncobj_timeline_array,
    "DRM_IOCTL_SYNCOBJ_EVENTFD": drm.drm_syncobj_eventfd,
    "DRM_IOCTL_SET_CLIENT_NAME": drm.drm_set_client_name,
    "DRM_IOCTL_GEM_CHANGE_HANDLE": drm.drm_gem_change_handle,
    "DRM_IOCTL_XE_DEVICE_QUERY": xe_drm.drm_xe_device_query,
    "DRM_IOCTL_XE_GEM_CREATE": xe_drm.drm_xe_gem_create,
    "DRM_IOCTL_XE_GEM_MMAP_OFFSET": xe_drm.drm_xe_gem_mmap_offset,
    "DRM_IOCTL_XE_VM_CREATE": xe_drm.drm_xe_vm_create,
    "DRM_IOCTL_XE_VM_DESTROY": xe_drm.drm_xe_vm_destroy,
    "DRM_IOCTL_XE_VM_BIND": xe_drm.drm_xe_vm_bind,
    "DRM_IOCTL_XE_EXEC_QUEUE_CREATE": xe_drm.drm_xe_exec_queue_create,
    "DRM_IOCTL_XE_EXEC_QUEUE_DESTROY": xe_drm.drm_xe_exec_queue_destroy,
    "DRM_IOCTL_XE_EXEC_QUEUE_GET_PROPERTY": xe_drm.drm_xe_exec_queue_get_property,
    "DRM_IOCTL_XE_EXEC": xe_drm.drm_xe_exec,
    "DRM_IOCTL_XE_WAIT_USER_FENCE": xe_drm.drm_xe_wait_user_fence,
    "DRM_IOCTL_XE_OBSERVATION": xe_drm.drm_xe_observation_param,
    "DRM_IOCTL_XE_MADVISE": xe_drm.drm_xe_madvise,
    "DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS": xe_drm.drm_xe_vm_query_mem_range_attr,
    "DRM_IOCTL_XE_EXEC_QUEUE_SET_PROPERTY": xe_drm.drm_xe_exec_queue_set_property,
    "DRM_IOCTL_XE_VM_GET_PROPERTY": xe_drm.drm_xe_vm_get_property,
    "DMA_BUF_IOCTL_SYNC": dma_buf.dma_buf_sync,
    "DMA_BUF_IOCTL_EXPORT_SYNC_FILE": dma_buf.dma_buf_export_sync_file,
    "DMA_BUF_IOCTL_IMPORT_SYNC_FILE": dma_buf.dma_buf_import_sync_file,
    "SYNC_IOC_MERGE": sync_file.sync_merge_data,
    "SYNC_IOC_FILE_INFO": sync_file.sync_file_info,
    "SYNC_IOC_SET_DEADLINE": sync_file.sync_set_deadline,
    "SW_SYNC_IOC_CREATE_FENCE": sync_file.sw_sync_create_fence_data,
    "SW_SYNC_IOC_INC": sync_file.sw_sync_inc,
    "XE_MOCK_IOCTL_MMAP": xe_mock.xe_mock_mmap,
    "XE_MOCK_IOCTL_FAULT": xe_mock.xe_mock_fault,
    "XE_MOCK_IOCTL_IMPORT_FOREIGN": xe_mock.xe_mock_import_foreign,
    "XE_MOCK_IOCTL_BO_INFO": xe_mock.xe_mock_bo_info,
    "XE_MOCK_IOCTL_FDINFO": xe_mock.xe_mock_fdinfo,
    "XE_MOCK_IOCTL_MMU_NOTIFY": xe_mock.xe_mock_mmu_notify,
}


def _rows(module: ModuleType, *prefixes: str) -> Iterator[IoctlDef]:
    """Rows of a module's request numbers, found by their names."""
    for name, value in vars(module).items():
        if name.startswith(prefixes) and not name.endswith(("_BASE", "_IOC_MAGIC")):
            yield define(name, value, _STRUCTS.get(name))


def _by_nr(rows: Iterator[IoctlDef]) -> dict[int, IoctlDef]:
    return {row.nr: row for row in rows}


CORE: dict[int, IoctlDef] = _by_nr(_rows(drm, "DRM_IOCTL_"))
XE: dict[int, IoctlDef] = _by_nr(_rows(xe_drm, "DRM_IOCTL_XE_"))
MOCK: dict[int, IoctlDef] = _by_nr(_rows(xe_mock, "XE_MOCK_IOCTL_"))

SYNC: dict[int, IoctlDef] = _by_nr(_rows(sync_file, "SYNC_IOC_"))
SW_SYNC: dict[int, IoctlDef] = _by_nr(_rows(sync_file, "SW_SYNC_IOC_"))

# SET_NAME has one nr and two sizes; the 64-bit caller's is listed, both are found by number.
_SET_NAME_A = define("DMA_BUF_SET_NAME_A", dma_buf.DMA_BUF_SET_NAME_A)
_SET_NAME_B = define("DMA_BUF_SET_NAME_B", dma_buf.DMA_BUF_SET_NAME_B)
DMA_BUF: dict[int, IoctlDef] = {
    _SET_NAME_B.nr: _SET_NAME_B,
    **_by_nr(_rows(dma_buf, "DMA_BUF_IOCTL_")),
}

#: Length of the driver's table: driver numbers from DRM_COMMAND_BASE + this on do not exist.
XE_IOCTL_COUNT = len(XE)

_TABLES = (CORE, XE, DMA_BUF, SYNC, SW_SYNC, MOCK)
_ALL = (*(row for table in _TABLES for row in table.values()), _SET_NAME_A)

BY_NAME: dict[str, IoctlDef] = {row.name: row for row in _ALL}

_BY_CMD = {row.cmd: row for row in _ALL}
_BY_TYPE_AND_NR = {(IOC_TYPE(row.cmd), row.nr): row for table in _TABLES for row in table.values()}


def lookup(cmd: int) -> IoctlDef | None:
    """Row of a request: the one with this very number, else the one of its type and nr."""
    return _BY_CMD.get(cmd) or _BY_TYPE_AND_NR.get((IOC_TYPE(cmd), IOC_NR(cmd)))
