"""Commands of the render, compute and video pipes (clients 3 to 5): what they write, not what they
draw.

PIPE_CONTROL: i915 gt/intel_gpu_commands.h.  COMPUTE_WALKER: Mesa's gen125.xml and gen200.xml, where
POSTSYNC_DATA has five dwords, before the last eight.  Everything else is skipped by its length.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from uapi import xe_drm
from xedev.gpu import registers
from xedev.gpu.command import Command, Dwords, dword_address, hang, no_ggtt, skip
from xedev.gpu.ports import GpuHang

if TYPE_CHECKING:
    from xedev.gpu.command_streamer import CommandStreamer

__all__ = ("decode_gfx",)

_QWORD: Final = Struct("<Q")
_FOUR_QWORDS: Final = Struct("<4Q")
_TWO_DWORDS: Final = Struct("<II")

_PIPES: Final = (xe_drm.DRM_XE_ENGINE_CLASS_RENDER, xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE)
_VIDEO: Final = (
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE,
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE,
)

_POST_SYNC_IMMEDIATE: Final = 1
_POST_SYNC_DEPTH_COUNT: Final = 2
_POST_SYNC_TIMESTAMP: Final = 3
_PIPE_CONTROL_GGTT: Final = 1 << 24
_PIPE_CONTROL_MMIO_WRITE: Final = 1 << 23
_PIPE_CONTROL_STORE_INDEX: Final = 1 << 21
_WALKER_PREDICATE: Final = 1 << 8
_WALKER_POST_SYNC: Final = -13
"""Which dword begins its post-sync: Xe2's walker has one more before it than Xe_HPG's."""


def decode_gfx(header: int, engine_class: int) -> Command:
    """The command for the upper half of a header."""
    if header >> 29 == 4:
        return _GFX_STATE
    known = _BY_UPPER_HALF.get(header >> 16)
    if known is not None:
        return known if engine_class in _PIPES else _MISPLACED[header >> 16]
    if header >> 29 == 5:
        return _UNKNOWN
    pipeline = header >> 27 & 3
    if pipeline == 1:
        return _ONE_DWORD
    if pipeline == 2 and engine_class in _VIDEO:
        return _MEDIA
    return _SKIPPED


def _pipe_control(streamer: CommandStreamer, dwords: Dwords) -> None:
    """PIPE_CONTROL: flushes, which nothing here needs, and a store after them.

    The form of two dwords stores nothing.  There is no depth pipe: its count is 0.
    """
    flags = dwords[1]
    operation = flags >> 14 & 3
    if len(dwords) < 6:
        return
    if flags & _PIPE_CONTROL_MMIO_WRITE:
        offset = registers.engine_offset(streamer.port, dwords[2], relative=False, remapped=False)
        registers.write_register(streamer.context, offset, dwords[4])
    if not operation:
        return
    no_ggtt(flags, _PIPE_CONTROL_GGTT)
    if flags & _PIPE_CONTROL_STORE_INDEX:
        raise GpuHang("PIPE_CONTROL: the status page in a batch of a user")
    streamer.memory.write(dword_address(dwords, 2), _pipe_control_value(streamer, dwords))


def _pipe_control_value(streamer: CommandStreamer, dwords: Dwords) -> bytes:
    operation = dwords[1] >> 14 & 3
    if operation == _POST_SYNC_IMMEDIATE:
        return _TWO_DWORDS.pack(dwords[4], dwords[5])
    if operation == _POST_SYNC_TIMESTAMP:
        return _QWORD.pack(streamer.timestamp())
    return bytes(8)


def _compute_walker(streamer: CommandStreamer, dwords: Dwords) -> None:
    """COMPUTE_WALKER: its post-sync as if all threads were through.

    Timestamps are four: of context and GPU at the start, and of both at the end.
    """
    predicate = registers.read_register(streamer.context, registers.MI_PREDICATE_RESULT)
    if dwords[0] & _WALKER_PREDICATE and not predicate & 1:
        return
    post_sync = dwords[_WALKER_POST_SYNC:]
    operation, address = post_sync[0] & 3, dword_address(post_sync, 1)
    if operation == _POST_SYNC_IMMEDIATE:
        streamer.memory.write(address, _TWO_DWORDS.pack(post_sync[3], post_sync[4]))
    elif operation == _POST_SYNC_TIMESTAMP:
        times = [streamer.context_timestamp(), streamer.timestamp()]
        times += [streamer.context_timestamp(), streamer.timestamp()]
        streamer.memory.write(address, _FOUR_QWORDS.pack(*times))
    elif operation == _POST_SYNC_DEPTH_COUNT:
        raise GpuHang("COMPUTE_WALKER: reserved post-sync operation")


_BY_UPPER_HALF: Final = {
    0x7A00: Command("PIPE_CONTROL", _pipe_control, minimum=2),
    0x7208: Command("COMPUTE_WALKER", _compute_walker, minimum=39),
    0x7917: Command("3DSTATE_SO_DECL_LIST", skip, length_mask=0x1FF),
    **dict.fromkeys((0xAC00, 0xAD00), Command("RESOURCE_BARRIER", skip, minimum=5)),
}
_MISPLACED: Final = {
    upper: Command(command.name, hang("not a render or compute engine"), 0, 1, is_exempt=True)
    for upper, command in _BY_UPPER_HALF.items()
}
_UNKNOWN: Final = Command("?", hang("unknown command client"), 0, 1, is_exempt=True)
_ONE_DWORD: Final = Command("GFX_?", skip, 0, 1)
_MEDIA: Final = Command("MEDIA_?", skip, length_mask=0xFFF)
_SKIPPED: Final = Command("GFX_?", skip)
_GFX_STATE: Final = Command("GFX_STATE_?", skip)
