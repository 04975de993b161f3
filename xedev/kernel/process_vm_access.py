"""Copies to and from the memory of another process (kernel: mm/process_vm_access.c)."""

from __future__ import annotations

import ctypes

__all__ = ("process_vm_readv", "process_vm_writev")

_libc = ctypes.CDLL(None, use_errno=True)
_ARGUMENTS = (
    ctypes.c_int,  # pid_t
    ctypes.c_void_p,  # const struct iovec *, ours
    ctypes.c_ulong,
    ctypes.c_void_p,  # const struct iovec *, theirs
    ctypes.c_ulong,
    ctypes.c_ulong,
)
process_vm_readv = _libc.process_vm_readv
process_vm_readv.argtypes = _ARGUMENTS
process_vm_readv.restype = ctypes.c_ssize_t
process_vm_writev = _libc.process_vm_writev
process_vm_writev.argtypes = _ARGUMENTS
process_vm_writev.restype = ctypes.c_ssize_t
