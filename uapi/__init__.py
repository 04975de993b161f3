"""The contract: what a client and the driver exchange, as ctypes mirrors and numbers.

No behaviour and no I/O. This is the one place that spells ioctl numbers and field offsets.

=============  ========================================================================
``base``       base classes of the mirrors: repr, dict, equality, construction by keyword
``ioctl``      packing and unpacking of request numbers
``drm``        the part of ``drm.h`` and ``drm_mode.h`` that an Xe client meets
``xe_drm``     all of ``xe_drm.h`` (Linux 7.2)
``dma_buf``    ``linux/dma-buf.h``
``xe_mock``    xe-mock's own ioctls and the frames of its write/read protocol
``registry``   request number -> name, struct, direction, size
=============  ========================================================================

Import the modules one by one; the package itself loads none of them.
"""

__all__ = ("base", "dma_buf", "drm", "ioctl", "registry", "xe_drm", "xe_mock")
