"""The user's side: open a device, make its ioctls, IGT's helpers on top (`xedev.client.xe_ioctl`).

Knows nothing of the mock but its uAPI: it drives a real Xe device as well.
"""

from xedev.client.batch import Alu, AtomicOp, BatchBuilder, Compare
from xedev.client.device import Device, allow_memory_access
from xedev.client.mapping import Mapping
from xedev.client.memory import GpuUserFence, UserFence, sync_signal, sync_wait
from xedev.client.transport import (
    IN,
    OUT,
    Buffer,
    FrameTransport,
    IoctlError,
    IoctlTransport,
    Transport,
)

__all__ = (
    "IN",
    "OUT",
    "Alu",
    "AtomicOp",
    "BatchBuilder",
    "Buffer",
    "Compare",
    "Device",
    "FrameTransport",
    "GpuUserFence",
    "IoctlError",
    "IoctlTransport",
    "Mapping",
    "Transport",
    "UserFence",
    "allow_memory_access",
    "sync_signal",
    "sync_wait",
)
