"""The DRM core's ioctls: who is there, handles and names, PRIME."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from uapi import drm
from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.client.ioctls import Ioctls
from xedev.client.transport import IN, OUT, Buffer

__all__ = ("CoreIoctls", "Version")


@dataclass(frozen=True, slots=True)
class Version:
    """What a driver says of itself."""

    major: int
    minor: int
    patchlevel: int
    name: str
    date: str
    desc: str


class CoreIoctls(Ioctls):
    """Ioctls that every DRM driver has, as far as one without a display does."""

    # --- the device and this client -------------------------------------------------------

    def version(self) -> Version:
        """Name and version of the driver (VERSION, kernel: ``drm_version``).

        EFAULT: the driver cannot write the strings into our memory.
        """
        arg = drm.drm_version()
        self.ioctl(drm.DRM_IOCTL_VERSION, arg)
        texts = {
            field: ctypes.create_string_buffer(getattr(arg, f"{field}_len") + 1)
            for field in ("name", "date", "desc")
        }
        for field, text in texts.items():
            setattr(arg, field, ctypes.addressof(text))
        self.ioctl(drm.DRM_IOCTL_VERSION, arg, [Buffer(text, OUT) for text in texts.values()])
        return Version(
            arg.version_major,
            arg.version_minor,
            arg.version_patchlevel,
            **{field: text.value.decode() for field, text in texts.items()},
        )

    def get_unique(self) -> str:
        """The bus id, "" before `set_version` (GET_UNIQUE, kernel: ``drm_getunique``).

        EACCES on a render node.
        """
        arg = drm.drm_unique()
        self.ioctl(drm.DRM_IOCTL_GET_UNIQUE, arg)
        text = ctypes.create_string_buffer(arg.unique_len + 1)
        arg.unique = ctypes.addressof(text)
        self.ioctl(drm.DRM_IOCTL_GET_UNIQUE, arg, [Buffer(text, OUT)])
        return text.value.decode()

    def get_client(self, idx: int = 0) -> drm.drm_client:
        """This open file's place among the clients (GET_CLIENT, kernel: ``drm_getclient``).

        EACCES on a render node. EINVAL: ``idx`` is not 0.
        """
        arg = drm.drm_client(idx=idx)
        self.ioctl(drm.DRM_IOCTL_GET_CLIENT, arg)
        return arg

    def get_stats(self) -> drm.drm_stats:
        """All zero nowadays (GET_STATS, kernel: ``drm_getstats``). EACCES on a render node."""
        arg = drm.drm_stats()
        self.ioctl(drm.DRM_IOCTL_GET_STATS, arg)
        return arg

    def set_version(
        self, di_major: int = 1, di_minor: int = 4, dd_major: int = -1, dd_minor: int = -1
    ) -> drm.drm_set_version:
        """Ask for an interface version, -1 for any (SET_VERSION, kernel: ``drm_setversion``).

        Returns what the core and the driver have. EACCES: not the master. EINVAL: unknown
        version.
        """
        arg = drm.drm_set_version(
            drm_di_major=di_major,
            drm_di_minor=di_minor,
            drm_dd_major=dd_major,
            drm_dd_minor=dd_minor,
        )
        self.ioctl(drm.DRM_IOCTL_SET_VERSION, arg)
        return arg

    def get_cap(self, capability: int) -> int:
        """A DRM_CAP_* of the device (GET_CAP, kernel: ``drm_getcap``).

        EOPNOTSUPP: the device has no display, and the capability needs one.
        """
        arg = drm.drm_get_cap(capability=capability)
        self.ioctl(drm.DRM_IOCTL_GET_CAP, arg)
        return arg.value

    def set_client_cap(self, capability: int, value: int) -> None:
        """Say what this client understands (SET_CLIENT_CAP, kernel: ``drm_setclientcap``).

        EACCES on a render node. EOPNOTSUPP: no display.
        """
        self.ioctl(
            drm.DRM_IOCTL_SET_CLIENT_CAP,
            drm.drm_set_client_cap(capability=capability, value=value),
        )

    def set_client_name(self, name: str | bytes) -> None:
        """Label this open file; "" takes the label off (SET_CLIENT_NAME, kernel:
        ``drm_set_client_name``).

        EINVAL: more than 64 bytes, or one that is not printable ASCII or a space.
        """
        data = name.encode() if isinstance(name, str) else name
        text = (ctypes.c_char * len(data)).from_buffer_copy(data)
        arg = drm.drm_set_client_name(name_len=len(data), name=ctypes.addressof(text))
        self.ioctl(drm.DRM_IOCTL_SET_CLIENT_NAME, arg, [Buffer(text, IN)] if data else [])

    # --- authentication and master --------------------------------------------------------

    def get_magic(self) -> int:
        """This file's number to show to the master (GET_MAGIC, kernel: ``drm_getmagic``).

        EACCES on a render node.
        """
        arg = drm.drm_auth()
        self.ioctl(drm.DRM_IOCTL_GET_MAGIC, arg)
        return arg.magic

    def auth_magic(self, magic: int) -> None:
        """As the master, let in the file with that number (AUTH_MAGIC, kernel:
        ``drm_authmagic``).

        EACCES: not the master, or a render node. EINVAL: unknown or used number.
        """
        self.ioctl(drm.DRM_IOCTL_AUTH_MAGIC, drm.drm_auth(magic=magic))

    def set_master(self) -> None:
        """Become the master (SET_MASTER, kernel: ``drm_setmaster_ioctl``).

        EACCES: never was it, and no CAP_SYS_ADMIN. EBUSY: somebody else is. EINVAL: a lessee.
        """
        self.ioctl(drm.DRM_IOCTL_SET_MASTER)

    def drop_master(self) -> None:
        """Stop being the master (DROP_MASTER, kernel: ``drm_dropmaster_ioctl``).

        EACCES as for `set_master`. EINVAL: is not the master.
        """
        self.ioctl(drm.DRM_IOCTL_DROP_MASTER)

    # --- handles and names ----------------------------------------------------------------

    def gem_close(self, handle: int) -> None:
        """Give a handle back; the BO lives on while something holds it (GEM_CLOSE, kernel:
        ``drm_gem_close_ioctl``).

        EINVAL: unknown handle.
        """
        self.ioctl(drm.DRM_IOCTL_GEM_CLOSE, drm.drm_gem_close(handle=handle))

    def gem_flink(self, handle: int) -> int:
        """Give a BO a name that all files can open (GEM_FLINK, kernel: ``drm_gem_flink_ioctl``).

        EACCES: render node, or not authenticated. ENOENT: unknown handle.
        """
        arg = drm.drm_gem_flink(handle=handle)
        self.ioctl(drm.DRM_IOCTL_GEM_FLINK, arg)
        return arg.name

    def gem_open(self, name: int) -> tuple[int, int]:
        """New handle and size in bytes of a named BO (GEM_OPEN, kernel: ``drm_gem_open_ioctl``).

        EACCES as for `gem_flink`. ENOENT: unknown name.
        """
        arg = drm.drm_gem_open(name=name)
        self.ioctl(drm.DRM_IOCTL_GEM_OPEN, arg)
        return arg.handle, arg.size

    def gem_change_handle(self, handle: int, new_handle: int) -> None:
        """Renumber a handle (GEM_CHANGE_HANDLE); always EINVAL since Linux 7.1."""
        self.ioctl(
            drm.DRM_IOCTL_GEM_CHANGE_HANDLE,
            drm.drm_gem_change_handle(handle=handle, new_handle=new_handle),
        )

    # --- PRIME ----------------------------------------------------------------------------

    def prime_handle_to_fd(self, handle: int, flags: int = drm.DRM_RDWR | drm.DRM_CLOEXEC) -> int:
        """Export a BO as a dma-buf and return its descriptor (PRIME_HANDLE_TO_FD, kernel:
        ``drm_prime_handle_to_fd_ioctl``, ``xe_gem_prime_export``).

        The mock answers a token where a kernel installs a descriptor; it is opened here, so that
        the caller gets a real descriptor from either. Close it with `close_fd`.

        EINVAL: unknown flag; the BO was purged. ENOENT: unknown handle. EPERM: the BO is
        private to a VM. EBUSY: the BO is DONTNEED. EMFILE.
        """
        token = self.prime_handle_to_token(handle, flags)
        if token < XE_MOCK_TOKEN_BASE:
            return token
        return self.transport.open_fd(token, flags)

    def prime_handle_to_token(
        self, handle: int, flags: int = drm.DRM_RDWR | drm.DRM_CLOEXEC
    ) -> int:
        """The bare ioctl of `prime_handle_to_fd`: a token of the mock, a kernel's descriptor."""
        arg = drm.drm_prime_handle(handle=handle, flags=flags, fd=-1)
        self.ioctl(drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, arg)
        return arg.fd

    def prime_fd_to_handle(self, fd: int) -> int:
        """Import a dma-buf; the same one gives the same handle (PRIME_FD_TO_HANDLE, kernel:
        ``drm_prime_fd_to_handle_ioctl``).

        EBADF: not open. EINVAL: not a dma-buf.
        """
        arg = drm.drm_prime_handle(fd=fd)
        self.ioctl(drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, arg)
        return arg.handle

    def close_fd(self, fd: int) -> None:
        """Close a descriptor that an ioctl gave; EBADF: not open."""
        self.transport.close_fd(fd)

    # --- dumb buffers ---------------------------------------------------------------------

    def create_dumb(self, width: int, height: int, bpp: int) -> drm.drm_mode_create_dumb:
        """A buffer for the CPU to draw into (MODE_CREATE_DUMB, kernel: ``xe_bo_dumb_create``).

        ``bpp`` is in bits per pixel. EACCES on a render node. EINVAL: something is 0 or too big.
        """
        arg = drm.drm_mode_create_dumb(width=width, height=height, bpp=bpp)
        self.ioctl(drm.DRM_IOCTL_MODE_CREATE_DUMB, arg)
        return arg

    def map_dumb(self, handle: int) -> int:
        """The mmap offset of any BO of this file (MODE_MAP_DUMB, kernel:
        ``drm_gem_dumb_map_offset``).

        EACCES on a render node. ENOENT: unknown handle.
        """
        arg = drm.drm_mode_map_dumb(handle=handle)
        self.ioctl(drm.DRM_IOCTL_MODE_MAP_DUMB, arg)
        return arg.offset

    def destroy_dumb(self, handle: int) -> None:
        """Same as `gem_close` (MODE_DESTROY_DUMB). EACCES on a render node. EINVAL."""
        self.ioctl(drm.DRM_IOCTL_MODE_DESTROY_DUMB, drm.drm_mode_destroy_dumb(handle=handle))
