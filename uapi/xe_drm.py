"""Mirror of ``xe_drm.h`` as of Linux 7.2: every struct, constant and ioctl of the Xe driver.

Names are the header's. In the comments "in" is written by the caller, "out" by the driver,
"in/out" by both; addresses are user addresses unless called GPU addresses; sizes are bytes.
All fields named ``pad`` or ``reserved`` must be zero on input, and so must ``extensions`` where
an ioctl knows no extension. A flexible array member has length 0 here: its elements start at
``Struct.<field>.offset``, which is also ``sizeof``.

Two constants are -1 in C but live in unsigned fields, where they read back as ``0xffffffff``:
``DRM_XE_PREFERRED_LOC_DEFAULT_SYSTEM`` and ``DRM_XE_CONSULT_MEM_ADVISE_PREF_LOC``.
"""

# ruff: noqa: RUF012 - the tables of a mirror are class constants by the contract of uapi.base

from ctypes import c_char, c_uint8, c_uint16, c_uint64
from typing import Annotated

from uapi.base import (
    Struct,
    Union,
    c_array,
    layout,
    names,
    s32,
    s64,
    u8,
    u16,
    u32,
    u64,
    x32,
    x64,
)
from uapi.drm import DRM_COMMAND_BASE, DRM_IOCTL_BASE
from uapi.ioctl import IO, IOW, IOWR

# --- ioctl numbers, relative to DRM_COMMAND_BASE -------------------------------------------

DRM_XE_DEVICE_QUERY = 0x00
DRM_XE_GEM_CREATE = 0x01
DRM_XE_GEM_MMAP_OFFSET = 0x02
DRM_XE_VM_CREATE = 0x03
DRM_XE_VM_DESTROY = 0x04
DRM_XE_VM_BIND = 0x05
DRM_XE_EXEC_QUEUE_CREATE = 0x06
DRM_XE_EXEC_QUEUE_DESTROY = 0x07
DRM_XE_EXEC_QUEUE_GET_PROPERTY = 0x08
DRM_XE_EXEC = 0x09
DRM_XE_WAIT_USER_FENCE = 0x0A
DRM_XE_OBSERVATION = 0x0B
DRM_XE_MADVISE = 0x0C
DRM_XE_VM_QUERY_MEM_RANGE_ATTRS = 0x0D
DRM_XE_EXEC_QUEUE_SET_PROPERTY = 0x0E
DRM_XE_VM_GET_PROPERTY = 0x0F

# --- constants -----------------------------------------------------------------------------

# Engine classes. VM_BIND is no hardware: its queues order bind operations.
DRM_XE_ENGINE_CLASS_RENDER = 0
DRM_XE_ENGINE_CLASS_COPY = 1
DRM_XE_ENGINE_CLASS_VIDEO_DECODE = 2
DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE = 3
DRM_XE_ENGINE_CLASS_COMPUTE = 4
DRM_XE_ENGINE_CLASS_VM_BIND = 5

# enum drm_xe_memory_class
DRM_XE_MEM_REGION_CLASS_SYSMEM = 0
DRM_XE_MEM_REGION_CLASS_VRAM = 1

# Indices into drm_xe_query_config.info, and the bits of its FLAGS element.
DRM_XE_QUERY_CONFIG_REV_AND_DEVICE_ID = 0
DRM_XE_QUERY_CONFIG_FLAGS = 1
DRM_XE_QUERY_CONFIG_FLAG_HAS_VRAM = 1 << 0
DRM_XE_QUERY_CONFIG_FLAG_HAS_LOW_LATENCY = 1 << 1
DRM_XE_QUERY_CONFIG_FLAG_HAS_CPU_ADDR_MIRROR = 1 << 2
DRM_XE_QUERY_CONFIG_FLAG_HAS_NO_COMPRESSION_HINT = 1 << 3
DRM_XE_QUERY_CONFIG_FLAG_HAS_DISABLE_STATE_CACHE_PERF_FIX = 1 << 4
DRM_XE_QUERY_CONFIG_FLAG_HAS_PURGING_SUPPORT = 1 << 5
DRM_XE_QUERY_CONFIG_MIN_ALIGNMENT = 2
DRM_XE_QUERY_CONFIG_VA_BITS = 3
DRM_XE_QUERY_CONFIG_MAX_EXEC_QUEUE_PRIORITY = 4

DRM_XE_QUERY_GT_TYPE_MAIN = 0
DRM_XE_QUERY_GT_TYPE_MEDIA = 1

# Kinds of topology mask.
DRM_XE_TOPO_DSS_GEOMETRY = 1
DRM_XE_TOPO_DSS_COMPUTE = 2
DRM_XE_TOPO_L3_BANK = 3
DRM_XE_TOPO_EU_PER_DSS = 4
DRM_XE_TOPO_SIMD16_EU_PER_DSS = 5

XE_QUERY_UC_TYPE_GUC_SUBMISSION = 0
XE_QUERY_UC_TYPE_HUC = 1

DRM_XE_DEVICE_QUERY_ENGINES = 0
DRM_XE_DEVICE_QUERY_MEM_REGIONS = 1
DRM_XE_DEVICE_QUERY_CONFIG = 2
DRM_XE_DEVICE_QUERY_GT_LIST = 3
DRM_XE_DEVICE_QUERY_HWCONFIG = 4
DRM_XE_DEVICE_QUERY_GT_TOPOLOGY = 5
DRM_XE_DEVICE_QUERY_ENGINE_CYCLES = 6
DRM_XE_DEVICE_QUERY_UC_FW_VERSION = 7
DRM_XE_DEVICE_QUERY_OA_UNITS = 8
DRM_XE_DEVICE_QUERY_PXP_STATUS = 9
DRM_XE_DEVICE_QUERY_EU_STALL = 10

# Name of GEM_CREATE's only extension, and the property it can set.
DRM_XE_GEM_CREATE_EXTENSION_SET_PROPERTY = 0
DRM_XE_GEM_CREATE_SET_PROPERTY_PXP_TYPE = 0
DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING = 1 << 0
DRM_XE_GEM_CREATE_FLAG_SCANOUT = 1 << 1
DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM = 1 << 2
DRM_XE_GEM_CREATE_FLAG_NO_COMPRESSION = 1 << 3
DRM_XE_GEM_CPU_CACHING_WB = 1
DRM_XE_GEM_CPU_CACHING_WC = 2

DRM_XE_MMAP_OFFSET_FLAG_PCI_BARRIER = 1 << 0

DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE = 1 << 0
DRM_XE_VM_CREATE_FLAG_LR_MODE = 1 << 1
DRM_XE_VM_CREATE_FLAG_FAULT_MODE = 1 << 2
DRM_XE_VM_CREATE_FLAG_NO_VM_OVERCOMMIT = 1 << 3

DRM_XE_VM_BIND_OP_MAP = 0x0
DRM_XE_VM_BIND_OP_UNMAP = 0x1
DRM_XE_VM_BIND_OP_MAP_USERPTR = 0x2
DRM_XE_VM_BIND_OP_UNMAP_ALL = 0x3
DRM_XE_VM_BIND_OP_PREFETCH = 0x4
DRM_XE_VM_BIND_FLAG_READONLY = 1 << 0
DRM_XE_VM_BIND_FLAG_IMMEDIATE = 1 << 1
DRM_XE_VM_BIND_FLAG_NULL = 1 << 2
DRM_XE_VM_BIND_FLAG_DUMPABLE = 1 << 3
DRM_XE_VM_BIND_FLAG_CHECK_PXP = 1 << 4
DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR = 1 << 5
DRM_XE_VM_BIND_FLAG_MADVISE_AUTORESET = 1 << 6
DRM_XE_VM_BIND_FLAG_DECOMPRESS = 1 << 7
#: Prefetch target: where madvise said, instead of a region instance.
DRM_XE_CONSULT_MEM_ADVISE_PREF_LOC = -1

# Fault report of VM_GET_PROPERTY.
FAULT_ACCESS_TYPE_READ = 0
FAULT_ACCESS_TYPE_WRITE = 1
FAULT_ACCESS_TYPE_ATOMIC = 2
FAULT_TYPE_NOT_PRESENT = 0
FAULT_TYPE_WRITE_ACCESS = 1
FAULT_TYPE_ATOMIC_ACCESS = 2
FAULT_LEVEL_PTE = 0
FAULT_LEVEL_PDE = 1
FAULT_LEVEL_PDP = 2
FAULT_LEVEL_PML4 = 3
FAULT_LEVEL_PML5 = 4
DRM_XE_VM_GET_PROPERTY_FAULTS = 0

# Extension and properties of EXEC_QUEUE_CREATE; MULTI_GROUP_CREATE is a bit of a value.
DRM_XE_EXEC_QUEUE_EXTENSION_SET_PROPERTY = 0
DRM_XE_EXEC_QUEUE_SET_PROPERTY_PRIORITY = 0
DRM_XE_EXEC_QUEUE_SET_PROPERTY_TIMESLICE = 1
DRM_XE_EXEC_QUEUE_SET_PROPERTY_PXP_TYPE = 2
DRM_XE_EXEC_QUEUE_SET_HANG_REPLAY_STATE = 3
DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_GROUP = 4
DRM_XE_MULTI_GROUP_CREATE = 1 << 63
DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_QUEUE_PRIORITY = 5
DRM_XE_EXEC_QUEUE_SET_DISABLE_STATE_CACHE_PERF_FIX = 6
DRM_XE_EXEC_QUEUE_LOW_LATENCY_HINT = 1 << 0
DRM_XE_EXEC_QUEUE_GET_PROPERTY_BAN = 0

DRM_XE_SYNC_TYPE_SYNCOBJ = 0x0
DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ = 0x1
DRM_XE_SYNC_TYPE_USER_FENCE = 0x2
DRM_XE_SYNC_FLAG_SIGNAL = 1 << 0
#: Most syncs one ioctl may carry.
DRM_XE_MAX_SYNCS = 1024

# WAIT_USER_FENCE: how memory is compared with the value, after both were masked.
DRM_XE_UFENCE_WAIT_OP_EQ = 0x0
DRM_XE_UFENCE_WAIT_OP_NEQ = 0x1
DRM_XE_UFENCE_WAIT_OP_GT = 0x2
DRM_XE_UFENCE_WAIT_OP_GTE = 0x3
DRM_XE_UFENCE_WAIT_OP_LT = 0x4
DRM_XE_UFENCE_WAIT_OP_LTE = 0x5
DRM_XE_UFENCE_WAIT_FLAG_ABSTIME = 1 << 0

# enum drm_xe_observation_type
DRM_XE_OBSERVATION_TYPE_OA = 0
DRM_XE_OBSERVATION_TYPE_EU_STALL = 1

# enum drm_xe_observation_op
DRM_XE_OBSERVATION_OP_STREAM_OPEN = 0
DRM_XE_OBSERVATION_OP_ADD_CONFIG = 1
DRM_XE_OBSERVATION_OP_REMOVE_CONFIG = 2

# enum drm_xe_observation_ioctls: requests on the descriptor of an open stream
DRM_XE_OBSERVATION_IOCTL_ENABLE = IO("i", 0x0)
DRM_XE_OBSERVATION_IOCTL_DISABLE = IO("i", 0x1)
DRM_XE_OBSERVATION_IOCTL_CONFIG = IO("i", 0x2)
DRM_XE_OBSERVATION_IOCTL_STATUS = IO("i", 0x3)
DRM_XE_OBSERVATION_IOCTL_INFO = IO("i", 0x4)

# enum drm_xe_oa_unit_type
DRM_XE_OA_UNIT_TYPE_OAG = 0
DRM_XE_OA_UNIT_TYPE_OAM = 1
DRM_XE_OA_UNIT_TYPE_OAM_SAG = 2
DRM_XE_OA_UNIT_TYPE_MERT = 3

DRM_XE_OA_CAPS_BASE = 1 << 0
DRM_XE_OA_CAPS_SYNCS = 1 << 1
DRM_XE_OA_CAPS_OA_BUFFER_SIZE = 1 << 2
DRM_XE_OA_CAPS_WAIT_NUM_REPORTS = 1 << 3
DRM_XE_OA_CAPS_OAM = 1 << 4
DRM_XE_OA_CAPS_OA_UNIT_GT_ID = 1 << 5

# enum drm_xe_oa_format_type
DRM_XE_OA_FMT_TYPE_OAG = 0
DRM_XE_OA_FMT_TYPE_OAR = 1
DRM_XE_OA_FMT_TYPE_OAM = 2
DRM_XE_OA_FMT_TYPE_OAC = 3
DRM_XE_OA_FMT_TYPE_OAM_MPEC = 4
DRM_XE_OA_FMT_TYPE_PEC = 5

# enum drm_xe_oa_property_id, carried by drm_xe_ext_set_property under this extension name
DRM_XE_OA_EXTENSION_SET_PROPERTY = 0
DRM_XE_OA_PROPERTY_OA_UNIT_ID = 1
DRM_XE_OA_PROPERTY_SAMPLE_OA = 2
DRM_XE_OA_PROPERTY_OA_METRIC_SET = 3
DRM_XE_OA_PROPERTY_OA_FORMAT = 4
DRM_XE_OA_PROPERTY_OA_PERIOD_EXPONENT = 5
DRM_XE_OA_PROPERTY_OA_DISABLED = 6
DRM_XE_OA_PROPERTY_EXEC_QUEUE_ID = 7
DRM_XE_OA_PROPERTY_OA_ENGINE_INSTANCE = 8
DRM_XE_OA_PROPERTY_NO_PREEMPT = 9
DRM_XE_OA_PROPERTY_NUM_SYNCS = 10
DRM_XE_OA_PROPERTY_SYNCS = 11
DRM_XE_OA_PROPERTY_OA_BUFFER_SIZE = 12
DRM_XE_OA_PROPERTY_WAIT_NUM_REPORTS = 13
# The four bytes of an OA_FORMAT value.
DRM_XE_OA_FORMAT_MASK_FMT_TYPE = 0xFF << 0
DRM_XE_OA_FORMAT_MASK_COUNTER_SEL = 0xFF << 8
DRM_XE_OA_FORMAT_MASK_COUNTER_SIZE = 0xFF << 16
DRM_XE_OA_FORMAT_MASK_BC_REPORT = 0xFF << 24

DRM_XE_OASTATUS_MMIO_TRG_Q_FULL = 1 << 3
DRM_XE_OASTATUS_COUNTER_OVERFLOW = 1 << 2
DRM_XE_OASTATUS_BUFFER_OVERFLOW = 1 << 1
DRM_XE_OASTATUS_REPORT_LOST = 1 << 0

# enum drm_xe_pxp_session_type
DRM_XE_PXP_TYPE_NONE = 0
DRM_XE_PXP_TYPE_HWDRM = 1
DRM_XE_PXP_HWDRM_DEFAULT_SESSION = 0xF

# enum drm_xe_eu_stall_property_id, carried like the OA properties
DRM_XE_EU_STALL_EXTENSION_SET_PROPERTY = 0
DRM_XE_EU_STALL_PROP_GT_ID = 1
DRM_XE_EU_STALL_PROP_SAMPLE_RATE = 2
DRM_XE_EU_STALL_PROP_WAIT_NUM_REPORTS = 3
DRM_XE_EU_STALL_CAPS_BASE = 1 << 0

# Attributes that MADVISE can set.
DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC = 0
DRM_XE_MEM_RANGE_ATTR_ATOMIC = 1
DRM_XE_MEM_RANGE_ATTR_PAT = 2
DRM_XE_VMA_ATTR_PURGEABLE_STATE = 3
DRM_XE_PREFERRED_LOC_DEFAULT_DEVICE = 0
DRM_XE_PREFERRED_LOC_DEFAULT_SYSTEM = -1
DRM_XE_MIGRATE_ALL_PAGES = 0
DRM_XE_MIGRATE_ONLY_SYSTEM_PAGES = 1
DRM_XE_ATOMIC_UNDEFINED = 0
DRM_XE_ATOMIC_DEVICE = 1
DRM_XE_ATOMIC_GLOBAL = 2
DRM_XE_ATOMIC_CPU = 3
DRM_XE_VMA_PURGEABLE_STATE_WILLNEED = 0
DRM_XE_VMA_PURGEABLE_STATE_DONTNEED = 1

# enum drm_xe_ras_error_severity and its node names on the RAS netlink interface
DRM_XE_RAS_ERR_SEV_CORRECTABLE = 0
DRM_XE_RAS_ERR_SEV_UNCORRECTABLE = 1
DRM_XE_RAS_ERR_SEV_MAX = 2
DRM_XE_RAS_ERROR_SEVERITY_NAMES = {
    DRM_XE_RAS_ERR_SEV_CORRECTABLE: "correctable-errors",
    DRM_XE_RAS_ERR_SEV_UNCORRECTABLE: "uncorrectable-errors",
}

# enum drm_xe_ras_error_component and its counter names
DRM_XE_RAS_ERR_COMP_CORE_COMPUTE = 1
DRM_XE_RAS_ERR_COMP_SOC_INTERNAL = 2
DRM_XE_RAS_ERR_COMP_MAX = 3
DRM_XE_RAS_ERROR_COMPONENT_NAMES = {
    DRM_XE_RAS_ERR_COMP_CORE_COMPUTE: "core-compute",
    DRM_XE_RAS_ERR_COMP_SOC_INTERNAL: "soc-internal",
}

#: The header's enums: tag -> {enumerator: value}.
ENUMS: dict[str, dict[str, int]] = {
    tag: {name: value for value, name in names(globals(), prefix).items()}
    for tag, prefix in (
        ("drm_xe_memory_class", "DRM_XE_MEM_REGION_CLASS_"),
        ("drm_xe_observation_type", "DRM_XE_OBSERVATION_TYPE_"),
        ("drm_xe_observation_op", "DRM_XE_OBSERVATION_OP_"),
        ("drm_xe_observation_ioctls", "DRM_XE_OBSERVATION_IOCTL_"),
        ("drm_xe_oa_unit_type", "DRM_XE_OA_UNIT_TYPE_"),
        ("drm_xe_oa_format_type", "DRM_XE_OA_FMT_TYPE_"),
        ("drm_xe_oa_property_id", "DRM_XE_OA_PROPERTY_"),
        ("drm_xe_pxp_session_type", "DRM_XE_PXP_TYPE_"),
        ("drm_xe_eu_stall_property_id", "DRM_XE_EU_STALL_PROP_"),
        ("drm_xe_ras_error_severity", "DRM_XE_RAS_ERR_SEV_"),
        ("drm_xe_ras_error_component", "DRM_XE_RAS_ERR_COMP_"),
    )
}

_PURGEABLE = names(globals(), "DRM_XE_VMA_PURGEABLE_STATE_")
_ATOMIC = names(globals(), "DRM_XE_ATOMIC_")
_MIGRATE = names(globals(), "DRM_XE_MIGRATE_")
_PREFERRED_LOC = names(globals(), "DRM_XE_PREFERRED_LOC_DEFAULT_")

# --- extensions ----------------------------------------------------------------------------


@layout
class drm_xe_user_extension(Struct):
    """Head of one link in a chain of optional arguments; the chain hangs off ``extensions``."""

    next_extension: x64  # in: address of the next link, 0 ends the chain
    name: u32  # in: which extension this is; numbers belong to the ioctl that is extended
    pad: u32


@layout
class _ext_set_property_value(Union):
    value: u64  # in: the value itself
    ptr: x64  # in: address of the value


@layout
class drm_xe_ext_set_property(Struct):
    """Extension that sets one property of the object being made."""

    _anonymous_ = ("_u",)

    base: drm_xe_user_extension
    property: u32  # in: which property
    pad: u32
    _u: _ext_set_property_value
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    # Nothing in the struct tells a pointer from a value: shown as the value.
    _selectors_ = {"_u": ("property", {}, "value")}


# --- DEVICE_QUERY and its answers ----------------------------------------------------------


@layout
class drm_xe_engine_class_instance(Struct):
    """Names one engine: its class, its number within the class on a GT, and the GT."""

    engine_class: u16
    engine_instance: u16
    gt_id: u16
    pad: u16

    _enums_ = {"engine_class": names(globals(), "DRM_XE_ENGINE_CLASS_")}


@layout
class drm_xe_engine(Struct):
    """One engine in the answer to the ENGINES query."""

    instance: drm_xe_engine_class_instance  # out
    reserved: Annotated[c_array[c_uint64], c_uint64 * 3]


@layout
class drm_xe_query_engines(Struct):
    """Answer to the ENGINES query."""

    num_engines: u32  # out
    pad: u32
    engines: Annotated[c_array[drm_xe_engine], drm_xe_engine * 0]  # out


@layout
class drm_xe_mem_region(Struct):
    """One memory region in the answer to the MEM_REGIONS query."""

    mem_class: u16  # out
    instance: u16  # out: bit number of this region in placement masks
    min_page_size: x32  # out: sizes and GPU addresses of BOs that may live here align to it
    total_size: x64  # out: usable bytes
    used: x64  # out: estimate, bytes
    cpu_visible_size: x64  # out: VRAM the CPU can reach, bytes; 0 for system memory
    cpu_visible_used: x64  # out: estimate, bytes; 0 for system memory
    reserved: Annotated[c_array[c_uint64], c_uint64 * 6]

    _enums_ = {"mem_class": names(globals(), "DRM_XE_MEM_REGION_CLASS_")}


@layout
class drm_xe_query_mem_regions(Struct):
    """Answer to the MEM_REGIONS query."""

    num_mem_regions: u32  # out
    pad: u32
    mem_regions: Annotated[c_array[drm_xe_mem_region], drm_xe_mem_region * 0]  # out


@layout
class drm_xe_query_config(Struct):
    """Answer to the CONFIG query: one number per DRM_XE_QUERY_CONFIG_* index."""

    num_params: u32  # out
    pad: u32
    info: Annotated[c_array[c_uint64], c_uint64 * 0]  # out


@layout
class drm_xe_gt(Struct):
    """One GT (graphics or media block of a tile) in the answer to the GT_LIST query."""

    type: u16  # out
    tile_id: u16  # out
    gt_id: u16  # out: unique within the device
    pad: Annotated[c_array[c_uint16], c_uint16 * 3]
    reference_clock: u32  # out: timestamp clock, Hz
    near_mem_regions: x64  # out: mask of region instances close to this GT's engines
    far_mem_regions: x64  # out: mask of those further away
    ip_ver_major: u16  # out: IP version, on platforms whose hardware tells it
    ip_ver_minor: u16  # out
    ip_ver_rev: u16  # out
    pad2: u16
    reserved: Annotated[c_array[c_uint64], c_uint64 * 7]

    _enums_ = {"type": names(globals(), "DRM_XE_QUERY_GT_TYPE_")}


@layout
class drm_xe_query_gt_list(Struct):
    """Answer to the GT_LIST query."""

    num_gt: u32  # out
    pad: u32
    gt_list: Annotated[c_array[drm_xe_gt], drm_xe_gt * 0]  # out


@layout
class drm_xe_query_topology_mask(Struct):
    """One record in the answer to the GT_TOPOLOGY query; records follow each other unpadded."""

    gt_id: u16  # out
    type: u16  # out
    num_bytes: u32  # out: length of the mask
    mask: Annotated[c_array[c_uint8], c_uint8 * 0]  # out: bit 0 of byte 0 is unit 0

    _enums_ = {"type": names(globals(), "DRM_XE_TOPO_")}


@layout
class drm_xe_query_engine_cycles(Struct):
    """Argument and answer of the ENGINE_CYCLES query: GPU and CPU time read together."""

    eci: drm_xe_engine_class_instance  # in: whose counter
    clockid: s32  # in: CPU clock as of clock_gettime(2)
    width: u32  # out: bits of the counter
    engine_cycles: u64  # out: counter, in ticks of the GT's reference clock
    cpu_timestamp: u64  # out: CPU time just before the counter was read, ns
    cpu_delta: u64  # out: how long reading its low half took, ns


@layout
class drm_xe_query_uc_fw_version(Struct):
    """Argument and answer of the UC_FW_VERSION query: version of a microcontroller's firmware."""

    uc_type: u16  # in
    pad: u16
    branch_ver: u32  # out
    major_ver: u32  # out
    minor_ver: u32  # out
    patch_ver: u32  # out
    pad2: u32
    reserved: u64

    _enums_ = {"uc_type": names(globals(), "XE_QUERY_UC_TYPE_")}


@layout
class drm_xe_query_pxp_status(Struct):
    """Answer to the PXP_STATUS query (protected content)."""

    status: u32  # out: 0 still initialising, 1 ready
    supported_session_types: x32  # out: bit n stands for session type n; NONE is not listed


@layout
class drm_xe_device_query(Struct):
    """Argument of DEVICE_QUERY. Asked with size 0 it answers the size, else fills ``data``."""

    extensions: x64
    query: u32  # in: what is asked
    size: u32  # in/out: bytes at data
    data: x64  # in: address of the buffer
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {"query": names(globals(), "DRM_XE_DEVICE_QUERY_")}


# --- buffer objects ------------------------------------------------------------------------


@layout
class drm_xe_gem_create(Struct):
    """Argument of GEM_CREATE: makes a buffer object (BO)."""

    extensions: x64
    size: x64  # in: bytes, multiple of the min_page_size of every region in placement
    placement: x32  # in: mask of region instances it may live in
    flags: u32  # in
    vm_id: u32  # in: VM it stays private to, 0 for none; a private BO cannot be exported
    handle: u32  # out: never 0
    cpu_caching: u16  # in: how the CPU maps it; VRAM allows WC only
    pad: Annotated[c_array[c_uint16], c_uint16 * 3]
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {"cpu_caching": names(globals(), "DRM_XE_GEM_CPU_CACHING_")}
    _flags_ = {"flags": names(globals(), "DRM_XE_GEM_CREATE_FLAG_")}


@layout
class drm_xe_gem_mmap_offset(Struct):
    """Argument of GEM_MMAP_OFFSET: asks for the mmap(2) offset of a BO."""

    extensions: x64
    handle: u32  # in: 0 with PCI_BARRIER
    flags: u32  # in
    offset: x64  # out: to be passed to mmap(2) on the same descriptor
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _flags_ = {"flags": names(globals(), "DRM_XE_MMAP_OFFSET_FLAG_")}


# --- address spaces ------------------------------------------------------------------------


@layout
class drm_xe_vm_create(Struct):
    """Argument of VM_CREATE: makes a GPU address space."""

    extensions: x64
    flags: u32  # in
    vm_id: u32  # out: never 0
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _flags_ = {"flags": names(globals(), "DRM_XE_VM_CREATE_FLAG_")}


@layout
class drm_xe_vm_destroy(Struct):
    """Argument of VM_DESTROY."""

    vm_id: u32  # in
    pad: u32
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


@layout
class _vm_bind_op_source(Union):
    obj_offset: x64  # in: where in the BO the mapping starts
    userptr: x64  # in: address of the memory to map (MAP_USERPTR)
    cpu_addr_mirror_offset: s64  # in: distance from GPU to CPU address; only 0 works


@layout
class drm_xe_vm_bind_op(Struct):
    """One bind operation. All fields are inputs."""

    _anonymous_ = ("_u",)

    extensions: x64
    obj: u32  # GEM handle; for UNMAP_ALL the BO to unmap; 0 for UNMAP and MAP_USERPTR
    pat_index: u16  # row of the platform's page attribute table
    pad: u16
    _u: _vm_bind_op_source
    range: x64  # bytes, 0 for UNMAP_ALL
    addr: x64  # GPU address, 0 for UNMAP_ALL
    op: u32
    flags: u32
    prefetch_mem_region_instance: u32  # PREFETCH: target region, a number and not a mask
    pad2: u32
    reserved: Annotated[c_array[c_uint64], c_uint64 * 3]

    _enums_ = {
        "op": names(globals(), "DRM_XE_VM_BIND_OP_"),
        "prefetch_mem_region_instance": names(globals(), "DRM_XE_CONSULT_MEM_ADVISE_"),
    }
    _flags_ = {"flags": names(globals(), "DRM_XE_VM_BIND_FLAG_")}
    _selectors_ = {"_u": ("op", {DRM_XE_VM_BIND_OP_MAP_USERPTR: "userptr"}, "obj_offset")}


@layout
class _vm_bind_ops(Union):
    bind: drm_xe_vm_bind_op  # in: the operation, when there is one
    vector_of_binds: x64  # in: address of an array of them, when there are more


@layout
class drm_xe_vm_bind(Struct):
    """Argument of VM_BIND: operations on a VM, run in order after the in-syncs."""

    _anonymous_ = ("_u",)

    extensions: x64
    vm_id: u32  # in
    exec_queue_id: u32  # in: bind queue of that VM, 0 for the VM's own
    pad: u32
    num_binds: u32  # in
    _u: _vm_bind_ops
    pad2: u32
    num_syncs: u32  # in
    syncs: x64  # in: address of an array of drm_xe_sync
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _selectors_ = {"_u": ("num_binds", {1: "bind"}, "vector_of_binds")}


@layout
class xe_vm_fault(Struct):
    """One GPU fault in the answer to VM_GET_PROPERTY_FAULTS."""

    address: x64  # out: faulting GPU address, canonical form
    address_precision: x32  # out: bytes around the address that may be meant
    access_type: u8  # out
    fault_type: u8  # out
    fault_level: u8  # out: page-table level
    pad: u8
    reserved: Annotated[c_array[c_uint64], c_uint64 * 4]

    _enums_ = {
        "access_type": names(globals(), "FAULT_ACCESS_TYPE_"),
        "fault_type": names(globals(), "FAULT_TYPE_"),
        "fault_level": names(globals(), "FAULT_LEVEL_"),
    }


@layout
class _vm_get_property_result(Union):
    data: x64  # in: address of the buffer, for properties that have a size
    value: u64  # out: a property that fits into a number


@layout
class drm_xe_vm_get_property(Struct):
    """Argument of VM_GET_PROPERTY. Asked with size 0 it answers the size, else fills ``data``."""

    _anonymous_ = ("_u",)

    extensions: x64
    vm_id: u32  # in
    property: u32  # in
    size: u32  # in/out: bytes at data
    pad: u32
    _u: _vm_get_property_result
    reserved: Annotated[c_array[c_uint64], c_uint64 * 3]

    _enums_ = {"property": names(globals(), "DRM_XE_VM_GET_PROPERTY_")}
    _selectors_ = {"_u": ("size", {0: "value"}, "data")}


# --- queues and execution ------------------------------------------------------------------


@layout
class drm_xe_exec_queue_create(Struct):
    """Argument of EXEC_QUEUE_CREATE: makes a queue that feeds one or more engines."""

    extensions: x64
    width: u16  # in: batches run in parallel by one exec
    num_placements: u16  # in: engines each of them may choose from
    vm_id: u32  # in
    flags: u32  # in
    exec_queue_id: u32  # out: never 0
    instances: x64  # in: address of width * num_placements drm_xe_engine_class_instance
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _flags_ = {"flags": names(globals(), "DRM_XE_EXEC_QUEUE_LOW_LATENCY_HINT")}


@layout
class drm_xe_exec_queue_destroy(Struct):
    """Argument of EXEC_QUEUE_DESTROY."""

    exec_queue_id: u32  # in
    pad: u32
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


@layout
class drm_xe_exec_queue_get_property(Struct):
    """Argument of EXEC_QUEUE_GET_PROPERTY."""

    extensions: x64
    exec_queue_id: u32  # in
    property: u32  # in
    value: u64  # out: BAN: 1 when the queue was banned
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {"property": names(globals(), "DRM_XE_EXEC_QUEUE_GET_PROPERTY_")}


@layout
class _sync_target(Union):
    handle: u32  # in: syncobj
    addr: x64  # in: 8-byte cell that gets timeline_value: GPU address in EXEC, else user's


@layout
class drm_xe_sync(Struct):
    """One thing to wait for, or with SIGNAL to signal. All fields are inputs."""

    _anonymous_ = ("_u",)

    extensions: x64
    type: u32
    flags: u32
    _u: _sync_target
    timeline_value: u64  # timeline point (not 0), or the value a user fence gets
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {"type": names(globals(), "DRM_XE_SYNC_TYPE_")}
    _flags_ = {"flags": names(globals(), "DRM_XE_SYNC_FLAG_")}
    _selectors_ = {
        "_u": (
            "type",
            {
                DRM_XE_SYNC_TYPE_SYNCOBJ: "handle",
                DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ: "handle",
                DRM_XE_SYNC_TYPE_USER_FENCE: "addr",
            },
        )
    }


@layout
class drm_xe_exec(Struct):
    """Argument of EXEC: submits batches to a queue. All fields are inputs."""

    extensions: x64
    exec_queue_id: u32
    num_syncs: u32
    syncs: x64  # address of an array of drm_xe_sync
    address: x64  # GPU address of the batch; of more than one: user address of an array
    num_batch_buffer: u16  # the queue's width
    pad: Annotated[c_array[c_uint16], c_uint16 * 3]
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


@layout
class drm_xe_wait_user_fence(Struct):
    """Argument of WAIT_USER_FENCE: waits until ``(*addr & mask) op (value & mask)``."""

    extensions: x64
    addr: x64  # in: 8-byte aligned
    op: u16  # in
    flags: u16  # in
    pad: u32
    value: x64  # in
    mask: x64  # in
    timeout: s64  # in: ns, negative for ever; relative ones come back as the time left
    exec_queue_id: u32  # in: queue whose end also ends the wait, 0 for none
    pad2: u32
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {"op": names(globals(), "DRM_XE_UFENCE_WAIT_OP_")}
    _flags_ = {"flags": names(globals(), "DRM_XE_UFENCE_WAIT_FLAG_")}


@layout
class drm_xe_exec_queue_set_property(Struct):
    """Argument of EXEC_QUEUE_SET_PROPERTY: changes a living queue; multi-queue priority only."""

    extensions: x64
    exec_queue_id: u32  # in
    property: u32  # in
    value: u64  # in
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {
        "property": names(globals(), "DRM_XE_EXEC_QUEUE_SET_PROPERTY_", "DRM_XE_EXEC_QUEUE_SET_")
    }


# --- observation: OA and EU stall streams --------------------------------------------------


@layout
class drm_xe_observation_param(Struct):
    """Argument of OBSERVATION. All fields are inputs; STREAM_OPEN returns a descriptor."""

    extensions: x64
    observation_type: u64
    observation_op: u64
    param: x64  # address of what the operation takes

    _enums_ = {
        "observation_type": names(globals(), "DRM_XE_OBSERVATION_TYPE_"),
        "observation_op": names(globals(), "DRM_XE_OBSERVATION_OP_"),
    }


@layout
class drm_xe_oa_unit(Struct):
    """One performance-counter unit in the answer to the OA_UNITS query."""

    extensions: x64
    oa_unit_id: u32  # out
    oa_unit_type: u32  # out
    capabilities: u64  # out
    oa_timestamp_freq: u64  # out: Hz
    gt_id: u16  # out
    reserved1: Annotated[c_array[c_uint16], c_uint16 * 3]
    reserved: Annotated[c_array[c_uint64], c_uint64 * 3]
    num_engines: u64  # out: length of eci
    eci: Annotated[  # out: engines watched by this unit
        c_array[drm_xe_engine_class_instance], drm_xe_engine_class_instance * 0
    ]

    _enums_ = {"oa_unit_type": names(globals(), "DRM_XE_OA_UNIT_TYPE_")}
    _flags_ = {"capabilities": names(globals(), "DRM_XE_OA_CAPS_")}


@layout
class drm_xe_query_oa_units(Struct):
    """Answer to the OA_UNITS query: drm_xe_oa_unit records of varying length, one by one."""

    extensions: x64
    num_oa_units: u32  # out
    pad: u32
    oa_units: Annotated[c_array[c_uint64], c_uint64 * 0]  # out: declared as u64 by the header


@layout
class drm_xe_oa_config(Struct):
    """Argument of OBSERVATION_OP_ADD_CONFIG: a metric set. All fields are inputs."""

    extensions: x64
    uuid: Annotated[c_array[c_char], c_char * 36]  # lower-case hex, 8-4-4-4-12, no NUL
    n_regs: u32  # pairs at regs_ptr
    regs_ptr: x64  # address of pairs of u32: register, value


@layout
class drm_xe_oa_stream_status(Struct):
    """Answer of the STATUS request on an OA stream."""

    extensions: x64
    oa_status: u64  # out: DRM_XE_OASTATUS_*
    reserved: Annotated[c_array[c_uint64], c_uint64 * 3]

    _flags_ = {"oa_status": names(globals(), "DRM_XE_OASTATUS_")}


@layout
class drm_xe_oa_stream_info(Struct):
    """Answer of the INFO request on an OA stream."""

    extensions: x64
    oa_buf_size: x64  # out: bytes
    reserved: Annotated[c_array[c_uint64], c_uint64 * 3]


@layout
class drm_xe_query_eu_stall(Struct):
    """Answer to the EU_STALL query: what stall sampling can do."""

    extensions: x64
    capabilities: u64  # out
    record_size: u64  # out: bytes
    per_xecore_buf_size: u64  # out: bytes
    reserved: Annotated[c_array[c_uint64], c_uint64 * 5]
    num_sampling_rates: u64  # out
    sampling_rates: Annotated[c_array[c_uint64], c_uint64 * 0]  # out: GPU cycles, ascending

    _flags_ = {"capabilities": names(globals(), "DRM_XE_EU_STALL_CAPS_")}


# --- memory attributes ---------------------------------------------------------------------


@layout
class _madvise_preferred_mem_loc(Struct):
    devmem_fd: u32  # in: descriptor of the device that owns the memory, or a DEFAULT_* value
    migration_policy: u16  # in
    region_instance: u16  # in: VRAM instance of that device; 0 with a DEFAULT_* value
    reserved: u64

    _enums_ = {"devmem_fd": _PREFERRED_LOC, "migration_policy": _MIGRATE}


@layout
class _madvise_atomic(Struct):
    val: u32  # in: who may do atomic accesses
    pad: u32
    reserved: u64

    _enums_ = {"val": _ATOMIC}


@layout
class _madvise_pat_index(Struct):
    val: u32  # in: row of the page attribute table
    pad: u32
    reserved: u64


@layout
class _madvise_purge_state_val(Struct):
    val: u32  # in
    pad: u32
    retained_ptr: x64  # in: address of a u32 that holds 0; gets 1 while the pages still exist

    _enums_ = {"val": _PURGEABLE}


@layout
class _madvise_value(Union):
    preferred_mem_loc: _madvise_preferred_mem_loc
    atomic: _madvise_atomic
    pat_index: _madvise_pat_index
    purge_state_val: _madvise_purge_state_val


@layout
class drm_xe_madvise(Struct):
    """Argument of MADVISE: sets one attribute of a GPU address range. Everything is input."""

    _anonymous_ = ("_u",)

    extensions: x64
    start: x64  # GPU address
    range: x64  # bytes
    vm_id: u32
    type: u32  # which attribute, hence which union member
    _u: _madvise_value
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {"type": names(globals(), "DRM_XE_MEM_RANGE_ATTR_", "DRM_XE_VMA_ATTR_")}
    _selectors_ = {
        "_u": (
            "type",
            {
                DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC: "preferred_mem_loc",
                DRM_XE_MEM_RANGE_ATTR_ATOMIC: "atomic",
                DRM_XE_MEM_RANGE_ATTR_PAT: "pat_index",
                DRM_XE_VMA_ATTR_PURGEABLE_STATE: "purge_state_val",
            },
        )
    }


@layout
class _range_attr_preferred_mem_loc(Struct):
    devmem_fd: u32  # out
    migration_policy: u32  # out

    _enums_ = {"devmem_fd": _PREFERRED_LOC, "migration_policy": _MIGRATE}


@layout
class _range_attr_atomic(Struct):
    val: u32  # out
    reserved: u32

    _enums_ = {"val": _ATOMIC}


@layout
class _range_attr_pat_index(Struct):
    val: u32  # out
    reserved: u32


@layout
class drm_xe_mem_range_attr(Struct):
    """One stretch of equal attributes in the answer to VM_QUERY_MEM_RANGE_ATTRS."""

    extensions: x64
    start: x64  # out: GPU address
    end: x64  # out: GPU address just after it
    preferred_mem_loc: _range_attr_preferred_mem_loc
    atomic: _range_attr_atomic
    pat_index: _range_attr_pat_index
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


@layout
class drm_xe_vm_query_mem_range_attr(Struct):
    """Argument of VM_QUERY_MEM_RANGE_ATTRS: first call counts, second one fills the array."""

    extensions: x64
    vm_id: u32  # in
    num_mem_ranges: u32  # in/out: elements; 0 asks for the count
    start: x64  # in: GPU address
    range: x64  # in: bytes
    sizeof_mem_range_attr: u64  # in/out: bytes per element; 0 in the first call
    vector_of_mem_attr: x64  # in: address of an array of drm_xe_mem_range_attr
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


# --- ioctls --------------------------------------------------------------------------------


def _iow(index: int, struct: type[Struct]) -> int:
    return IOW(DRM_IOCTL_BASE, DRM_COMMAND_BASE + index, struct)


def _iowr(index: int, struct: type[Struct]) -> int:
    return IOWR(DRM_IOCTL_BASE, DRM_COMMAND_BASE + index, struct)


DRM_IOCTL_XE_DEVICE_QUERY = _iowr(DRM_XE_DEVICE_QUERY, drm_xe_device_query)
DRM_IOCTL_XE_GEM_CREATE = _iowr(DRM_XE_GEM_CREATE, drm_xe_gem_create)
DRM_IOCTL_XE_GEM_MMAP_OFFSET = _iowr(DRM_XE_GEM_MMAP_OFFSET, drm_xe_gem_mmap_offset)
DRM_IOCTL_XE_VM_CREATE = _iowr(DRM_XE_VM_CREATE, drm_xe_vm_create)
DRM_IOCTL_XE_VM_DESTROY = _iow(DRM_XE_VM_DESTROY, drm_xe_vm_destroy)
DRM_IOCTL_XE_VM_BIND = _iow(DRM_XE_VM_BIND, drm_xe_vm_bind)
DRM_IOCTL_XE_EXEC_QUEUE_CREATE = _iowr(DRM_XE_EXEC_QUEUE_CREATE, drm_xe_exec_queue_create)
DRM_IOCTL_XE_EXEC_QUEUE_DESTROY = _iow(DRM_XE_EXEC_QUEUE_DESTROY, drm_xe_exec_queue_destroy)
DRM_IOCTL_XE_EXEC_QUEUE_GET_PROPERTY = _iowr(
    DRM_XE_EXEC_QUEUE_GET_PROPERTY, drm_xe_exec_queue_get_property
)
DRM_IOCTL_XE_EXEC = _iow(DRM_XE_EXEC, drm_xe_exec)
DRM_IOCTL_XE_WAIT_USER_FENCE = _iowr(DRM_XE_WAIT_USER_FENCE, drm_xe_wait_user_fence)
DRM_IOCTL_XE_OBSERVATION = _iow(DRM_XE_OBSERVATION, drm_xe_observation_param)
DRM_IOCTL_XE_MADVISE = _iow(DRM_XE_MADVISE, drm_xe_madvise)
DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS = _iowr(
    DRM_XE_VM_QUERY_MEM_RANGE_ATTRS, drm_xe_vm_query_mem_range_attr
)
DRM_IOCTL_XE_EXEC_QUEUE_SET_PROPERTY = _iow(
    DRM_XE_EXEC_QUEUE_SET_PROPERTY, drm_xe_exec_queue_set_property
)
DRM_IOCTL_XE_VM_GET_PROPERTY = _iowr(DRM_XE_VM_GET_PROPERTY, drm_xe_vm_get_property)
