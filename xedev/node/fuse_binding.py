"""The Python bindings of libfuse: finding one that works, and the C types of its callbacks."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Mapping
from ctypes import c_char_p, c_int, c_longlong, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

__all__ = ("BackendError", "BackendName", "Binding", "FuseContext", "load_binding", "make_session")

BackendName = Literal["fusepy", "mfusepy"]

_MODULES: dict[BackendName, str] = {"fusepy": "fuse", "mfusepy": "mfusepy"}
_LIBRARIES: dict[BackendName, tuple[str, ...]] = {
    "fusepy": ("libfuse.so.2",),
    "mfusepy": ("libfuse3.so.4", "libfuse3.so.3", "libfuse.so.2"),
}
_HOW_TO_GET = (
    "install libfuse2 (apt install libfuse2t64, or libfuse2 on older systems), "
    "or libfuse3 (apt install fuse3) and the Python package mfusepy"
)
_OLDEST_MINOR = 9  # of libfuse2: the first one with all operations of our structure


class BackendError(Exception):
    """No usable libfuse or binding.  The text says what to install."""


class FuseContext(ctypes.Structure):
    """``struct fuse_context``: who sent the request that this thread is working on.

    Alike in libfuse 2.9 and 3; one per thread, always at the same address.
    """

    _fields_ = (
        ("fuse", c_void_p),
        ("uid", c_uint),
        ("gid", c_uint),
        ("pid", c_int),
        ("private_data", c_void_p),
        ("umask", c_uint),
    )


@dataclass(frozen=True, slots=True)
class Binding:
    """A loaded binding and the libfuse under it."""

    name: BackendName
    module: Any
    path: str
    major: int
    minor: int
    calls: LibfuseCalls

    @property
    def handle_offset(self) -> int:
        """Offset of the 64-bit ``fh`` in ``struct fuse_file_info``; ``flags`` is at 0."""
        return int(self.module.fuse_file_info.fh.offset)

    def file_info(self, address: int) -> Any:
        """The ``struct fuse_file_info`` at ``address``."""
        return self.module.fuse_file_info.from_address(address)

    def configure(self, connection: int, config: int, intr_signal: int) -> None:
        """Set the options that libfuse3 only takes in its ``init`` callback.

        ``connection`` and ``config`` are the addresses of ``struct fuse_conn_info`` and ``struct
        fuse_config``.
        """
        self.module.fuse_conn_info.from_address(connection).max_readahead = 0
        settings = self.module.fuse_config.from_address(config)
        settings.use_ino = 1
        settings.nullpath_ok = 1
        settings.intr = 1
        settings.intr_signal = intr_signal

    def stat(self, address: int) -> Any:
        """The ``struct stat`` at ``address``."""
        return self.module.c_stat.from_address(address)


class LibfuseCalls:
    """libfuse's own functions that are called from inside of callbacks.

    The short ones keep the GIL: giving it up and taking it again costs more than the call.
    """

    def __init__(self, path: str) -> None:
        short, blocking = ctypes.PyDLL(path), ctypes.CDLL(path)
        self.get_context: Callable[[], int] = _function(short.fuse_get_context, c_void_p)
        self.interrupted: Callable[[], int] = _function(short.fuse_interrupted, c_int)
        self.exit: Callable[[int], None] = _function(short.fuse_exit, None, c_void_p)
        self._get_session = _function(short.fuse_get_session, c_void_p, c_void_p)
        if hasattr(short, "fuse_session_fd"):  # libfuse3
            self._session_fd = _function(short.fuse_session_fd, c_int, c_void_p)
        else:
            next_chan = _function(short.fuse_session_next_chan, c_void_p, c_void_p, c_void_p)
            chan_fd = _function(short.fuse_chan_fd, c_int, c_void_p)
            self._session_fd = lambda session: chan_fd(next_chan(session, None))
        self.notify_poll: Callable[[int], int] = _function(
            blocking.fuse_notify_poll, c_int, c_void_p
        )
        self.destroy_pollhandle: Callable[[int], None] = _function(
            short.fuse_pollhandle_destroy, None, c_void_p
        )

    def device_fd(self, fuse: int) -> int:
        """The descriptor of /dev/fuse that ``struct fuse *fuse`` reads its requests from."""
        return int(self._session_fd(self._get_session(fuse)))


def _function(function: Any, restype: Any, *argtypes: Any) -> Any:
    function.restype = restype
    function.argtypes = argtypes
    return function


# ---- finding one -----------------------------------------------------------------------------


def load_binding(name: BackendName | None = None) -> Binding:
    """The binding called ``name``; else fusepy where libfuse2 is there, else mfusepy.

    ``FUSE_LIBRARY_PATH`` in the environment names the library to use, as both bindings have it.
    Raises `BackendError`.
    """
    candidates: tuple[BackendName, ...] = (name,) if name else ("fusepy", "mfusepy")
    complaints = []
    for candidate in candidates:
        try:
            return _load(candidate)
        except BackendError as error:
            complaints.append(f"{candidate}: {error}")
    raise BackendError(f"no usable libfuse: {_HOW_TO_GET} ({'; '.join(complaints)})")


def _load(name: BackendName) -> Binding:
    path, (major, minor) = _find_library(name)
    module = _import_binding(name, path)
    return Binding(name, module, path, major, minor, LibfuseCalls(path))


def _find_library(name: BackendName) -> tuple[str, tuple[int, int]]:
    chosen = os.environ.get("FUSE_LIBRARY_PATH")
    names = (chosen,) if chosen else _LIBRARIES[name]
    for path in names:
        try:
            version = _libfuse_version(path)
        except (OSError, AttributeError):
            continue
        if name == "fusepy" and version[0] != 2:
            raise BackendError(f"{path} is libfuse{version[0]}, fusepy needs libfuse2")
        if version[0] == 2 and version[1] < _OLDEST_MINOR:
            raise BackendError(f"{path} is libfuse 2.{version[1]}, older than 2.{_OLDEST_MINOR}")
        return path, version
    raise BackendError(f"{' or '.join(names)} cannot be loaded")


def _libfuse_version(path: str) -> tuple[int, int]:
    """(2, 9), (3, 14), …: libfuse encodes 2.9 as 29 and 3.14 as 314."""
    version = int(ctypes.CDLL(path).fuse_version())
    major = int(str(version)[0])
    return major, version - (major * 10 if version < 100 else major * 100)


def _import_binding(name: BackendName, path: str) -> ModuleType:
    """Import the binding such that it takes the library at ``path``."""
    before = os.environ.get("FUSE_LIBRARY_PATH")
    os.environ["FUSE_LIBRARY_PATH"] = path
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise BackendError(f"{error} (pip install {name})") from None
    except (OSError, AttributeError) as error:
        raise BackendError(str(error)) from None
    finally:
        if before is None:
            del os.environ["FUSE_LIBRARY_PATH"]
        else:
            os.environ["FUSE_LIBRARY_PATH"] = before
    if not hasattr(module, "fuse_file_info"):
        # The distribution fuse-python has a module of the same name.
        raise BackendError(f"{module.__file__} is not {name} (pip install {name})")
    return module


# ---- C types of the callbacks ----------------------------------------------------------------

_STRUCT = _BUFFER = c_void_p
_UNUSED_PATH = c_void_p  # libfuse passes NULL, see flag_nopath
_OFFSET = c_longlong

_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "getattr": (c_char_p, _STRUCT),
    "fgetattr": (_UNUSED_PATH, _STRUCT, _STRUCT),
    "readlink": (c_char_p, _BUFFER, c_size_t),
    "mknod": (c_char_p, c_uint, c_uint64),
    "mkdir": (c_char_p, c_uint),
    "unlink": (c_char_p,),
    "rmdir": (c_char_p,),
    "symlink": (c_char_p, c_char_p),
    "rename": (c_char_p, c_char_p),
    "link": (c_char_p, c_char_p),
    "chmod": (c_char_p, c_uint),
    "chown": (c_char_p, c_uint, c_uint),
    "truncate": (c_char_p, _OFFSET),
    "ftruncate": (_UNUSED_PATH, _OFFSET, _STRUCT),
    "utimens": (c_char_p, _STRUCT),
    "create": (c_char_p, c_uint, _STRUCT),
    "open": (c_char_p, _STRUCT),
    "read": (_UNUSED_PATH, _BUFFER, c_size_t, _OFFSET, c_size_t),
    "write": (_UNUSED_PATH, _BUFFER, c_size_t, _OFFSET, c_size_t),
    "release": (_UNUSED_PATH, c_size_t),
    "fsync": (_UNUSED_PATH, c_int, _STRUCT),
    "opendir": (c_char_p, _STRUCT),
    "readdir": (_UNUSED_PATH, _BUFFER, c_void_p, _OFFSET, _STRUCT),
    "releasedir": (_UNUSED_PATH, _STRUCT),
    "ioctl": (_UNUSED_PATH, c_uint, c_size_t, c_size_t, c_uint, c_size_t),
    "poll": (_UNUSED_PATH, c_size_t, c_size_t, c_void_p),
    "init": (_STRUCT,),
    "destroy": (c_void_p,),
}
"""Callback -> types of its arguments in libfuse 2.9.

Pointers arrive as plain numbers, which is much cheaper than ctypes' pointer objects.
"""

_ARGUMENTS_ADDED_IN_3: dict[str, tuple[Any, ...]] = {
    "getattr": (_STRUCT,),
    "rename": (c_uint,),
    "chmod": (_STRUCT,),
    "chown": (_STRUCT,),
    "truncate": (_STRUCT,),
    "utimens": (_STRUCT,),
    "readdir": (c_int,),
    "init": (_STRUCT,),
}

_TAIL_OF_2_9 = ("poll", "write_buf", "read_buf", "flock", "fallocate")


def _prototype(name: str, major: int) -> Any:
    arguments = _ARGUMENTS[name]
    if major == 3:
        arguments += _ARGUMENTS_ADDED_IN_3.get(name, ())
    base = ctypes.CFUNCTYPE(c_void_p if name == "init" else c_int, *arguments)

    class Callback(base):  # type: ignore[misc, valid-type]
        """The bindings put a partial around their wrapper around each method.  A method that
        guards itself is called without these two layers."""

        _flags_ = base._flags_
        _restype_ = base._restype_
        _argtypes_ = base._argtypes_

        def __new__(cls, wrapped: Any) -> Callback:
            method = wrapped.args[0]
            return super().__new__(cls, method if is_guarded(method) else wrapped)  # type: ignore[no-any-return]

    return Callback


def is_guarded(method: Callable[..., int]) -> bool:
    """Whether ``method`` turns every exception into an answer by itself."""
    return getattr(method, "guarded", False)


def _operations_type(binding: Binding) -> type[ctypes.Structure]:
    """``struct fuse_operations`` in the binding's order, completed, with our prototypes."""
    fields: list[tuple[Any, ...]] = list(binding.module.fuse_operations._fields_)
    present = {field[0] for field in fields}
    if binding.major == 2:
        fields += [(name, c_void_p) for name in _TAIL_OF_2_9 if name not in present]
    ours = [
        (field[0], _prototype(field[0], binding.major)) if field[0] in _ARGUMENTS else field
        for field in fields
    ]
    return type("fuse_operations", (ctypes.Structure,), {"_fields_": ours})


def make_session(
    binding: Binding,
    callbacks: Mapping[str, Callable[..., int]],
    guard: Callable[..., int],
) -> Callable[[str, Mapping[str, object]], None]:
    """A function (mountpoint, options) that serves ``callbacks`` until the mount ends.

    ``callbacks`` are named as in ``struct fuse_operations``; ``guard(callback, *arguments)`` calls
    those that do not guard themselves.  The function raises RuntimeError with libfuse's status.
    """
    module = binding.module
    module.fuse_operations = _operations_type(binding)

    class Session(module.FUSE):  # type: ignore[misc, name-defined]
        """The binding's class with our methods in the place of its own."""

        def __init__(self, mountpoint: str, options: Mapping[str, object]) -> None:
            for name, callback in callbacks.items():
                # mfusepy has some methods once for each major version of libfuse.
                versioned = f"{name}_fuse_{binding.major}"
                known = hasattr(module.FUSE, versioned)
                setattr(self, versioned if known else name, callback)
            # The bindings register a callback if their operations object has its name.
            operations = SimpleNamespace(
                **dict.fromkeys(callbacks, True), use_ns=True, flag_nopath=1, flag_nullpath_ok=1
            )
            super().__init__(operations, mountpoint, raw_fi=True, **options)

        def _wrapper(self, callback: Callable[..., int], *arguments: object) -> int:
            return guard(callback, *arguments)

    def serve(mountpoint: str, options: Mapping[str, object]) -> None:
        Session(mountpoint, options)

    return serve
