"""A mock of Intel's Xe DRM driver in user space.

The driver (``xedev.xe``) stands on a bit of kernel (``xedev.kernel``) and on the DRM core
(``xedev.drm``); ``xedev.node`` presents it as files over FUSE, ``xedev.client`` is the side of
the programs that use it.  The binary interface itself is the package ``uapi``.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ("__version__",)

try:
    __version__ = version("xe-mock")
except PackageNotFoundError:  # a checkout that is used in place
    __version__ = "0+checkout"
