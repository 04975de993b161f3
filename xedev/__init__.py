"""A mock of Intel's Xe DRM driver in user space.

The driver (``xedev.xe``) stands on a bit of kernel (``xedev.kernel``) and on the DRM core
(``xedev.drm``); ``xedev.node`` presents it as files over FUSE, ``xedev.client`` is the side of
the programs that use it.  The binary interface itself is the package ``uapi``.
"""

from __future__ import annotations

__all__ = ("__version__",)

__version__: str


def __getattr__(name: str) -> str:
    # Looked up when somebody asks: it takes longer than the rest of the GPU's process to start.
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xe-mock")
    except PackageNotFoundError:  # a checkout that is used in place
        return "0+checkout"
