"""Mirror of the parts of ``drm.h`` and ``drm_mode.h`` (Linux 7.2) that an Xe client meets.

Layouts are those of a 64-bit caller: ``size_t``, ``long`` and pointers are ``u64``. In the
comments "in" is written by the caller, "out" by the kernel. The argument of a display ioctl has a
mirror only if a device without display looks into it.
"""

# ruff: noqa: RUF012 - the tables of a mirror are class constants by the contract of uapi.base

import os
from ctypes import c_uint32, c_uint64
from typing import Annotated

from uapi.base import (
    Struct,
    Union,
    c_array,
    layout,
    names,
    s32,
    s64,
    u32,
    u64,
    x32,
    x64,
)
from uapi.ioctl import IO, IOR, IOW, IOWR, Argument

DRM_IOCTL_BASE = ord("d")
#: Driver ioctls are numbered from BASE up to, not including, END; all others are core.
DRM_COMMAND_BASE = 0x40
DRM_COMMAND_END = 0xA0

# Capabilities of the device (GET_CAP).
DRM_CAP_DUMB_BUFFER = 0x1
DRM_CAP_VBLANK_HIGH_CRTC = 0x2
DRM_CAP_DUMB_PREFERRED_DEPTH = 0x3
DRM_CAP_DUMB_PREFER_SHADOW = 0x4
DRM_CAP_PRIME = 0x5
DRM_PRIME_CAP_IMPORT = 0x1
DRM_PRIME_CAP_EXPORT = 0x2
DRM_CAP_TIMESTAMP_MONOTONIC = 0x6
DRM_CAP_ASYNC_PAGE_FLIP = 0x7
DRM_CAP_CURSOR_WIDTH = 0x8
DRM_CAP_CURSOR_HEIGHT = 0x9
DRM_CAP_ADDFB2_MODIFIERS = 0x10
DRM_CAP_PAGE_FLIP_TARGET = 0x11
DRM_CAP_CRTC_IN_VBLANK_EVENT = 0x12
DRM_CAP_SYNCOBJ = 0x13
DRM_CAP_SYNCOBJ_TIMELINE = 0x14
DRM_CAP_ATOMIC_ASYNC_PAGE_FLIP = 0x15

# What a client claims to understand (SET_CLIENT_CAP).
DRM_CLIENT_CAP_STEREO_3D = 1
DRM_CLIENT_CAP_UNIVERSAL_PLANES = 2
DRM_CLIENT_CAP_ATOMIC = 3
DRM_CLIENT_CAP_ASPECT_RATIO = 4
DRM_CLIENT_CAP_WRITEBACK_CONNECTORS = 5
DRM_CLIENT_CAP_CURSOR_PLANE_HOTSPOT = 6
DRM_CLIENT_CAP_PLANE_COLOR_PIPELINE = 7

# Flags of PRIME_HANDLE_TO_FD, those of open(2).
DRM_RDWR = os.O_RDWR
DRM_CLOEXEC = os.O_CLOEXEC

DRM_SYNCOBJ_CREATE_SIGNALED = 1 << 0
DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE = 1 << 0
DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_TIMELINE = 1 << 1
DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE = 1 << 0
DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_TIMELINE = 1 << 1
DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL = 1 << 0
DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT = 1 << 1
DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE = 1 << 2
DRM_SYNCOBJ_WAIT_FLAGS_WAIT_DEADLINE = 1 << 3
DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED = 1 << 0

DRM_CRTC_SEQUENCE_RELATIVE = 0x00000001
DRM_CRTC_SEQUENCE_NEXT_ON_MISS = 0x00000002

#: Longest client name in bytes.
DRM_CLIENT_NAME_MAX_LEN = 64

# enum drm_vblank_seq_type: two kinds of number, the rest are bits and a CRTC field.
_DRM_VBLANK_ABSOLUTE = 0x0
_DRM_VBLANK_RELATIVE = 0x1
_DRM_VBLANK_HIGH_CRTC_MASK = 0x0000003E
_DRM_VBLANK_EVENT = 0x4000000
_DRM_VBLANK_FLIP = 0x8000000
_DRM_VBLANK_NEXTONMISS = 0x10000000
_DRM_VBLANK_SECONDARY = 0x20000000
_DRM_VBLANK_SIGNAL = 0x40000000
_DRM_VBLANK_HIGH_CRTC_SHIFT = 1
_DRM_VBLANK_TYPES_MASK = _DRM_VBLANK_ABSOLUTE | _DRM_VBLANK_RELATIVE
_DRM_VBLANK_FLAGS_MASK = (
    _DRM_VBLANK_EVENT | _DRM_VBLANK_SIGNAL | _DRM_VBLANK_SECONDARY | _DRM_VBLANK_NEXTONMISS
)

# Events read(2) from the descriptor; numbers from 0x80000000 on are the drivers'.
DRM_EVENT_VBLANK = 0x01
DRM_EVENT_FLIP_COMPLETE = 0x02
DRM_EVENT_CRTC_SEQUENCE = 0x03

_VBLANK_BITS = {
    value: name
    for value, name in names(globals(), "_DRM_VBLANK_").items()
    if value in (1, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
}
_CAPS = names(globals(), "DRM_CAP_")
_WAIT_FLAGS = names(globals(), "DRM_SYNCOBJ_WAIT_FLAGS_")

# --- device, client, master ----------------------------------------------------------------


@layout
class drm_version(Struct):
    """VERSION. Each length goes in as the room at the address, comes out as the true length."""

    version_major: s32  # out
    version_minor: s32  # out
    version_patchlevel: s32  # out
    name_len: u64  # in/out
    name: x64  # in: address
    date_len: u64  # in/out
    date: x64  # in: address
    desc_len: u64  # in/out
    desc: x64  # in: address


@layout
class drm_unique(Struct):
    """GET_UNIQUE and SET_UNIQUE: the bus id."""

    unique_len: u64  # in/out: bytes
    unique: x64  # in: address


@layout
class drm_auth(Struct):
    """GET_MAGIC (out) and AUTH_MAGIC (in)."""

    magic: u32


@layout
class drm_client(Struct):
    """GET_CLIENT."""

    idx: s32  # in
    auth: s32  # out: 1 when authenticated
    pid: u64  # out
    uid: u64  # out
    magic: u64  # out
    iocs: u64  # out


@layout
class _stats_data(Struct):
    value: u64  # out
    type: u32  # out: enum drm_stat_type


@layout
class drm_stats(Struct):
    """GET_STATS; nothing fills it any more."""

    count: u64  # out: used elements
    data: Annotated[c_array[_stats_data], _stats_data * 15]  # out


@layout
class drm_set_version(Struct):
    """SET_VERSION: interface and driver version wanted, -1 for any; come back as they are."""

    drm_di_major: s32  # in/out
    drm_di_minor: s32  # in/out
    drm_dd_major: s32  # in/out
    drm_dd_minor: s32  # in/out


@layout
class drm_get_cap(Struct):
    """GET_CAP."""

    capability: u64  # in
    value: u64  # out

    _enums_ = {"capability": _CAPS}


@layout
class drm_set_client_cap(Struct):
    """SET_CLIENT_CAP."""

    capability: u64  # in
    value: u64  # in

    _enums_ = {"capability": names(globals(), "DRM_CLIENT_CAP_")}


@layout
class drm_set_client_name(Struct):
    """SET_CLIENT_NAME."""

    name_len: u64  # in: bytes, no NUL; 0 removes the name
    name: x64  # in: address


@layout
class drm_block(Struct):
    """BLOCK and UNBLOCK, long without effect."""

    unused: s32


@layout
class drm_draw(Struct):
    """ADD_DRAW and RM_DRAW, long without effect."""

    handle: u32


@layout
class drm_update_draw(Struct):
    """UPDATE_DRAW, long without effect."""

    handle: u32
    type: u32
    num: u32
    data: x64


@layout
class drm_lock(Struct):
    """FINISH, long without effect."""

    context: s32
    flags: x32  # enum drm_lock_flags


# --- buffers: handles, names, PRIME --------------------------------------------------------


@layout
class drm_gem_close(Struct):
    """GEM_CLOSE."""

    handle: u32  # in
    pad: u32


@layout
class drm_gem_flink(Struct):
    """GEM_FLINK."""

    handle: u32  # in
    name: u32  # out: global name


@layout
class drm_gem_open(Struct):
    """GEM_OPEN."""

    name: u32  # in: global name
    handle: u32  # out: new handle of the caller
    size: u64  # out: bytes


@layout
class drm_gem_change_handle(Struct):
    """GEM_CHANGE_HANDLE."""

    handle: u32  # in
    new_handle: u32  # in


@layout
class drm_prime_handle(Struct):
    """PRIME_HANDLE_TO_FD and PRIME_FD_TO_HANDLE."""

    handle: u32  # in or out
    flags: u32  # in: DRM_CLOEXEC, DRM_RDWR; export only
    fd: s32  # out or in: dma-buf

    _flags_ = {"flags": {DRM_RDWR: "DRM_RDWR", DRM_CLOEXEC: "DRM_CLOEXEC"}}


# --- sync objects --------------------------------------------------------------------------


@layout
class drm_syncobj_create(Struct):
    """SYNCOBJ_CREATE."""

    handle: u32  # out
    flags: u32  # in

    _flags_ = {"flags": names(globals(), "DRM_SYNCOBJ_CREATE_")}


@layout
class drm_syncobj_destroy(Struct):
    """SYNCOBJ_DESTROY."""

    handle: u32  # in
    pad: u32


@layout
class drm_syncobj_handle(Struct):
    """SYNCOBJ_HANDLE_TO_FD and SYNCOBJ_FD_TO_HANDLE; bit 0 of flags means a sync_file."""

    handle: u32  # in or out
    flags: u32  # in
    fd: s32  # out or in
    pad: u32
    point: u64  # in: timeline point, with TIMELINE and a sync_file

    _flags_ = {"flags": {1: "SYNC_FILE", 2: "TIMELINE"}}


@layout
class drm_syncobj_transfer(Struct):
    """SYNCOBJ_TRANSFER: copies a fence from one point to another. All fields are inputs."""

    src_handle: u32
    dst_handle: u32
    src_point: u64
    dst_point: u64
    flags: u32
    pad: u32

    _flags_ = {"flags": _WAIT_FLAGS}


@layout
class drm_syncobj_wait(Struct):
    """SYNCOBJ_WAIT."""

    handles: x64  # in: address of u32 handles
    timeout_nsec: s64  # in: CLOCK_MONOTONIC, absolute
    count_handles: u32  # in
    flags: u32  # in
    first_signaled: u32  # out: index, when not waiting for all
    pad: u32
    deadline_nsec: u64  # in: hint, with WAIT_DEADLINE; absolute

    _flags_ = {"flags": _WAIT_FLAGS}


@layout
class drm_syncobj_timeline_wait(Struct):
    """SYNCOBJ_TIMELINE_WAIT."""

    handles: x64  # in: address of u32 handles
    points: x64  # in: address of as many u64 points
    timeout_nsec: s64  # in: CLOCK_MONOTONIC, absolute
    count_handles: u32  # in
    flags: u32  # in
    first_signaled: u32  # out: index, when not waiting for all
    pad: u32
    deadline_nsec: u64  # in: hint, with WAIT_DEADLINE; absolute

    _flags_ = {"flags": _WAIT_FLAGS}


@layout
class drm_syncobj_eventfd(Struct):
    """SYNCOBJ_EVENTFD: has an eventfd counted up when a point is reached. All inputs."""

    handle: u32
    flags: u32
    point: u64
    fd: s32
    pad: u32

    _flags_ = {"flags": _WAIT_FLAGS}


@layout
class drm_syncobj_array(Struct):
    """SYNCOBJ_RESET and SYNCOBJ_SIGNAL. All fields are inputs."""

    handles: x64  # address of u32 handles
    count_handles: u32
    pad: u32


@layout
class drm_syncobj_timeline_array(Struct):
    """SYNCOBJ_TIMELINE_SIGNAL and SYNCOBJ_QUERY. All inputs; a query writes the points."""

    handles: x64  # address of u32 handles
    points: x64  # address of as many u64 points
    count_handles: u32
    flags: u32

    _flags_ = {"flags": names(globals(), "DRM_SYNCOBJ_QUERY_FLAGS_")}


# --- vblank and events ---------------------------------------------------------------------


@layout
class drm_wait_vblank_request(Struct):
    """What WAIT_VBLANK is asked."""

    type: u32  # in: enum drm_vblank_seq_type
    sequence: u32  # in: vblank number
    signal: u64  # in: handed back in the event

    _flags_ = {"type": _VBLANK_BITS}


@layout
class drm_wait_vblank_reply(Struct):
    """What WAIT_VBLANK answers."""

    type: u32  # out
    sequence: u32  # out: vblank number
    tval_sec: s64  # out
    tval_usec: s64  # out

    _flags_ = {"type": _VBLANK_BITS}


@layout
class _wait_vblank(Union):
    request: drm_wait_vblank_request
    reply: drm_wait_vblank_reply


@layout
class drm_wait_vblank(Struct):
    """WAIT_VBLANK. A union in C; here a struct around it, so that all arguments are structs."""

    _anonymous_ = ("_u",)

    _u: _wait_vblank


@layout
class drm_crtc_get_sequence(Struct):
    """CRTC_GET_SEQUENCE."""

    crtc_id: u32  # in
    active: u32  # out
    sequence: u64  # out: frame counter
    sequence_ns: s64  # out: when that frame began


@layout
class drm_crtc_queue_sequence(Struct):
    """CRTC_QUEUE_SEQUENCE."""

    crtc_id: u32  # in
    flags: u32  # in
    sequence: u64  # in/out: frame to report
    user_data: x64  # in: handed back in the event

    _flags_ = {"flags": names(globals(), "DRM_CRTC_SEQUENCE_")}


@layout
class drm_event(Struct):
    """Head of every event."""

    type: u32
    length: u32  # bytes, head included


@layout
class drm_event_vblank(Struct):
    """Vblank or page flip event."""

    base: drm_event
    user_data: x64
    tv_sec: u32
    tv_usec: u32
    sequence: u32
    crtc_id: u32


@layout
class drm_event_crtc_sequence(Struct):
    """Event of CRTC_QUEUE_SEQUENCE."""

    base: drm_event
    user_data: x64
    time_ns: s64
    sequence: u64


# --- display, as far as a device without display answers it --------------------------------


@layout
class drm_mode_rmfb_arg(Struct):
    """RMFB, a bare ``unsigned int`` in C; the struct's name is ours."""

    fb_id: u32  # in


@layout
class drm_mode_closefb(Struct):
    """CLOSEFB."""

    fb_id: u32  # in
    pad: u32


@layout
class drm_mode_fb_cmd2(Struct):
    """ADDFB2 and GETFB2."""

    fb_id: u32
    width: u32
    height: u32
    pixel_format: x32  # fourcc
    flags: u32
    handles: Annotated[c_array[c_uint32], c_uint32 * 4]
    pitches: Annotated[c_array[c_uint32], c_uint32 * 4]  # bytes per line
    offsets: Annotated[c_array[c_uint32], c_uint32 * 4]
    modifier: Annotated[c_array[c_uint64], c_uint64 * 4]


@layout
class drm_mode_create_dumb(Struct):
    """CREATE_DUMB: a plain buffer for the CPU to draw into."""

    height: u32  # in
    width: u32  # in
    bpp: u32  # in: bits per pixel
    flags: x32  # in
    handle: u32  # out
    pitch: u32  # out: bytes per line
    size: u64  # out: bytes


@layout
class drm_mode_map_dumb(Struct):
    """MAP_DUMB."""

    handle: u32  # in
    pad: u32
    offset: x64  # out: to be passed to mmap(2)


@layout
class drm_mode_destroy_dumb(Struct):
    """DESTROY_DUMB."""

    handle: u32  # in


@layout
class drm_mode_create_lease(Struct):
    """CREATE_LEASE."""

    object_ids: x64  # in: address of u32 ids
    object_count: u32  # in
    flags: x32  # in: those of open(2)
    lessee_id: u32  # out
    fd: u32  # out


@layout
class drm_mode_list_lessees(Struct):
    """LIST_LESSEES."""

    count_lessees: u32  # in/out
    pad: u32
    lessees_ptr: x64  # in: address of u32 ids


@layout
class drm_mode_get_lease(Struct):
    """GET_LEASE."""

    count_objects: u32  # in/out
    pad: u32
    objects_ptr: x64  # in: address of u32 ids


@layout
class drm_mode_revoke_lease(Struct):
    """REVOKE_LEASE."""

    lessee_id: u32  # in


# --- ioctls --------------------------------------------------------------------------------


def DRM_IO(nr: int) -> int:
    """A DRM request without an argument."""
    return IO(DRM_IOCTL_BASE, nr)


def DRM_IOR(nr: int, argument: Argument) -> int:
    """A DRM request that only answers."""
    return IOR(DRM_IOCTL_BASE, nr, argument)


def DRM_IOW(nr: int, argument: Argument) -> int:
    """A DRM request that only takes."""
    return IOW(DRM_IOCTL_BASE, nr, argument)


def DRM_IOWR(nr: int, argument: Argument) -> int:
    """A DRM request that takes and answers."""
    return IOWR(DRM_IOCTL_BASE, nr, argument)


DRM_IOCTL_VERSION = DRM_IOWR(0x00, drm_version)
DRM_IOCTL_GET_UNIQUE = DRM_IOWR(0x01, drm_unique)
DRM_IOCTL_GET_MAGIC = DRM_IOR(0x02, drm_auth)
DRM_IOCTL_GET_CLIENT = DRM_IOWR(0x05, drm_client)
DRM_IOCTL_GET_STATS = DRM_IOR(0x06, drm_stats)
DRM_IOCTL_SET_VERSION = DRM_IOWR(0x07, drm_set_version)
DRM_IOCTL_GEM_CLOSE = DRM_IOW(0x09, drm_gem_close)
DRM_IOCTL_GEM_FLINK = DRM_IOWR(0x0A, drm_gem_flink)
DRM_IOCTL_GEM_OPEN = DRM_IOWR(0x0B, drm_gem_open)
DRM_IOCTL_GET_CAP = DRM_IOWR(0x0C, drm_get_cap)
DRM_IOCTL_SET_CLIENT_CAP = DRM_IOW(0x0D, drm_set_client_cap)
DRM_IOCTL_SET_UNIQUE = DRM_IOW(0x10, drm_unique)
DRM_IOCTL_AUTH_MAGIC = DRM_IOW(0x11, drm_auth)
DRM_IOCTL_BLOCK = DRM_IOWR(0x12, drm_block)
DRM_IOCTL_UNBLOCK = DRM_IOWR(0x13, drm_block)
DRM_IOCTL_SET_MASTER = DRM_IO(0x1E)
DRM_IOCTL_DROP_MASTER = DRM_IO(0x1F)
DRM_IOCTL_ADD_DRAW = DRM_IOWR(0x27, drm_draw)
DRM_IOCTL_RM_DRAW = DRM_IOWR(0x28, drm_draw)
DRM_IOCTL_FINISH = DRM_IOW(0x2C, drm_lock)
DRM_IOCTL_PRIME_HANDLE_TO_FD = DRM_IOWR(0x2D, drm_prime_handle)
DRM_IOCTL_PRIME_FD_TO_HANDLE = DRM_IOWR(0x2E, drm_prime_handle)
DRM_IOCTL_WAIT_VBLANK = DRM_IOWR(0x3A, drm_wait_vblank)
DRM_IOCTL_CRTC_GET_SEQUENCE = DRM_IOWR(0x3B, drm_crtc_get_sequence)
DRM_IOCTL_CRTC_QUEUE_SEQUENCE = DRM_IOWR(0x3C, drm_crtc_queue_sequence)
DRM_IOCTL_UPDATE_DRAW = DRM_IOW(0x3F, drm_update_draw)

# Display. A bare size stands for a struct that is not mirrored.
DRM_IOCTL_MODE_GETRESOURCES = DRM_IOWR(0xA0, 64)
DRM_IOCTL_MODE_GETCRTC = DRM_IOWR(0xA1, 104)
DRM_IOCTL_MODE_SETCRTC = DRM_IOWR(0xA2, 104)
DRM_IOCTL_MODE_CURSOR = DRM_IOWR(0xA3, 28)
DRM_IOCTL_MODE_GETGAMMA = DRM_IOWR(0xA4, 32)
DRM_IOCTL_MODE_SETGAMMA = DRM_IOWR(0xA5, 32)
DRM_IOCTL_MODE_GETENCODER = DRM_IOWR(0xA6, 20)
DRM_IOCTL_MODE_GETCONNECTOR = DRM_IOWR(0xA7, 80)
DRM_IOCTL_MODE_ATTACHMODE = DRM_IOWR(0xA8, 72)
DRM_IOCTL_MODE_DETACHMODE = DRM_IOWR(0xA9, 72)
DRM_IOCTL_MODE_GETPROPERTY = DRM_IOWR(0xAA, 64)
DRM_IOCTL_MODE_SETPROPERTY = DRM_IOWR(0xAB, 16)
DRM_IOCTL_MODE_GETPROPBLOB = DRM_IOWR(0xAC, 16)
DRM_IOCTL_MODE_GETFB = DRM_IOWR(0xAD, 28)
DRM_IOCTL_MODE_ADDFB = DRM_IOWR(0xAE, 28)
DRM_IOCTL_MODE_RMFB = DRM_IOWR(0xAF, drm_mode_rmfb_arg)
DRM_IOCTL_MODE_PAGE_FLIP = DRM_IOWR(0xB0, 24)
DRM_IOCTL_MODE_DIRTYFB = DRM_IOWR(0xB1, 24)
DRM_IOCTL_MODE_CREATE_DUMB = DRM_IOWR(0xB2, drm_mode_create_dumb)
DRM_IOCTL_MODE_MAP_DUMB = DRM_IOWR(0xB3, drm_mode_map_dumb)
DRM_IOCTL_MODE_DESTROY_DUMB = DRM_IOWR(0xB4, drm_mode_destroy_dumb)
DRM_IOCTL_MODE_GETPLANERESOURCES = DRM_IOWR(0xB5, 16)
DRM_IOCTL_MODE_GETPLANE = DRM_IOWR(0xB6, 32)
DRM_IOCTL_MODE_SETPLANE = DRM_IOWR(0xB7, 48)
DRM_IOCTL_MODE_ADDFB2 = DRM_IOWR(0xB8, drm_mode_fb_cmd2)
DRM_IOCTL_MODE_OBJ_GETPROPERTIES = DRM_IOWR(0xB9, 32)
DRM_IOCTL_MODE_OBJ_SETPROPERTY = DRM_IOWR(0xBA, 24)
DRM_IOCTL_MODE_CURSOR2 = DRM_IOWR(0xBB, 36)
DRM_IOCTL_MODE_ATOMIC = DRM_IOWR(0xBC, 56)
DRM_IOCTL_MODE_CREATEPROPBLOB = DRM_IOWR(0xBD, 16)
DRM_IOCTL_MODE_DESTROYPROPBLOB = DRM_IOWR(0xBE, 4)

DRM_IOCTL_SYNCOBJ_CREATE = DRM_IOWR(0xBF, drm_syncobj_create)
DRM_IOCTL_SYNCOBJ_DESTROY = DRM_IOWR(0xC0, drm_syncobj_destroy)
DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD = DRM_IOWR(0xC1, drm_syncobj_handle)
DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE = DRM_IOWR(0xC2, drm_syncobj_handle)
DRM_IOCTL_SYNCOBJ_WAIT = DRM_IOWR(0xC3, drm_syncobj_wait)
DRM_IOCTL_SYNCOBJ_RESET = DRM_IOWR(0xC4, drm_syncobj_array)
DRM_IOCTL_SYNCOBJ_SIGNAL = DRM_IOWR(0xC5, drm_syncobj_array)
DRM_IOCTL_MODE_CREATE_LEASE = DRM_IOWR(0xC6, drm_mode_create_lease)
DRM_IOCTL_MODE_LIST_LESSEES = DRM_IOWR(0xC7, drm_mode_list_lessees)
DRM_IOCTL_MODE_GET_LEASE = DRM_IOWR(0xC8, drm_mode_get_lease)
DRM_IOCTL_MODE_REVOKE_LEASE = DRM_IOWR(0xC9, drm_mode_revoke_lease)
DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT = DRM_IOWR(0xCA, drm_syncobj_timeline_wait)
DRM_IOCTL_SYNCOBJ_QUERY = DRM_IOWR(0xCB, drm_syncobj_timeline_array)
DRM_IOCTL_SYNCOBJ_TRANSFER = DRM_IOWR(0xCC, drm_syncobj_transfer)
DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL = DRM_IOWR(0xCD, drm_syncobj_timeline_array)
DRM_IOCTL_MODE_GETFB2 = DRM_IOWR(0xCE, drm_mode_fb_cmd2)
DRM_IOCTL_SYNCOBJ_EVENTFD = DRM_IOWR(0xCF, drm_syncobj_eventfd)
DRM_IOCTL_MODE_CLOSEFB = DRM_IOWR(0xD0, drm_mode_closefb)
DRM_IOCTL_SET_CLIENT_NAME = DRM_IOWR(0xD1, drm_set_client_name)
DRM_IOCTL_GEM_CHANGE_HANDLE = DRM_IOWR(0xD2, drm_gem_change_handle)
