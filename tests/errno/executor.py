"""Plays the cases of ``errno_memory.json`` on a device, by any transport."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import ExitStack
from typing import Any

from tests.errno.user_pages import UserPages
from tests.vectors.errno_load import (
    Call,
    Case,
    Close,
    Control,
    ErrnoVectors,
    Expr,
    Fields,
    Memory,
    OpenToken,
    Out,
    Step,
    Token,
    item_type,
    split_path,
)
from uapi import registry
from xedev.client.transport import IN, OUT, Buffer
from xedev.kernel.errors import errno_name
from xedev.testing.target import AnyTransport, Target

__all__ = ("play",)

_RO_SIZE = 4096


def play(
    vectors: ErrnoVectors, case: Case, target: Target[Any], far: Target[Any] | None = None
) -> None:
    """Open the node afresh, run all steps of a case; AssertionError at the first wrong answer.

    ``far`` is another card of the same machine, for the cases that ask two.
    """
    with ExitStack() as stack:
        player = _Player(vectors, {"drm": target, "other": target, "far": far or target}, stack)
        for step in case.steps():
            player.run(step)


class _Player:
    """The files, descriptors and saved outputs of one case."""

    def __init__(
        self, vectors: ErrnoVectors, targets: dict[str, Target[Any]], stack: ExitStack
    ) -> None:
        self._vectors = vectors
        self._targets = targets
        self._stack = stack
        self._files: dict[str, AnyTransport] = {}
        self._saved: dict[str, int] = {}
        self._open_fds: set[int] = set()
        self._memory: dict[str, ctypes.Array[Any]] = {}
        """Of the current call."""
        self._kept: list[ctypes.Array[Any]] = []
        """Pages of earlier calls, which the driver may know and later calls may point to."""
        self._null_fd = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, self._null_fd)
        self._read_only = UserPages(_RO_SIZE)
        stack.callback(self._read_only.free)
        self._read_only.make_read_only()

    def _file(self, name: str) -> AnyTransport:
        if name not in self._files:
            self._files[name] = self._targets[name].open()
            self._stack.callback(self._files[name].close)
        return self._files[name]

    def run(self, step: Step) -> None:
        """One step, whatever it is."""
        match step:
            case Call():
                self._call(step)
            case Control():
                self._targets["drm"].control(step.name, step.text)
            case OpenToken():
                token = self._value(step.token)
                fd = self._file("drm").open_fd(token, os.O_RDWR | os.O_CLOEXEC)
                self._saved[step.label] = fd
                self._open_fds.add(fd)
                self._stack.callback(self._close, fd)
            case Close():
                self._close(self._value(step.fd))

    def _close(self, fd: int) -> None:
        if fd in self._open_fds:
            self._open_fds.remove(fd)
            self._file("drm").close_fd(fd)

    # ---- values ----

    def _scope(self, token: Token) -> int:
        if token.kind == "saved":
            return self._saved[token.text]
        if token.kind == "address":
            array = self._memory[token.text]
            return ctypes.addressof(array) + token.index * ctypes.sizeof(array._type_)
        match token.text:
            case "DRM_FD":
                return self._file("drm").fileno()
            case "FAR_FD":
                return self._file("far").fileno()
            case "NULL_FD":
                return self._null_fd
            case "RO_PTR":
                return self._read_only.address
        return self._vectors.constant(token)

    def _value(self, expr: Expr) -> int:
        return expr.value(self._scope)

    # ---- ioctls ----

    def _call(self, call: Call) -> None:
        self._memory = {item.name: self._allocate(item) for item in call.memory}
        for memory in call.memory:
            self._fill_array(self._memory[memory.name], memory)
        arg = call.struct()
        self._fill(arg, call.fields)
        error = self._ioctl(call, arg)
        got = errno_name(error) if error else "OK"
        where = f"{call.label} ({call.ioctl})"
        assert error == call.errno.number, f"{where}: {got} instead of {call.errno.name}"
        for out in call.out:
            self._check(call, arg, out)
        if call.save:
            self._saved[call.label] = _get(arg, split_path(call.save))

    def _ioctl(self, call: Call, arg: ctypes.Structure) -> int:
        """The errno, or 0."""
        buffers = [Buffer(array, IN) for array in self._kept]
        buffers += [Buffer(array, IN | OUT) for array in self._memory.values()]
        self._kept += [self._memory[item.name] for item in call.memory if item.place != "plain"]
        if any(expr.uses("RO_PTR") for expr in call.expressions()):
            page = (ctypes.c_uint8 * _RO_SIZE).from_address(self._read_only.address)
            buffers.append(Buffer(page, IN))
        try:
            self._file(call.file).ioctl(registry.BY_NAME[call.ioctl].cmd, arg, buffers)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _allocate(self, memory: Memory) -> ctypes.Array[Any]:
        array: type[ctypes.Array[Any]] = item_type(memory.type) * memory.count
        if memory.place == "plain":
            return array()
        pages = UserPages(ctypes.sizeof(array))
        self._stack.callback(pages.free)
        return pages.place(array, at_end=memory.place == "page_end")

    def _fill_array(self, array: ctypes.Array[Any], memory: Memory) -> None:
        for index, item in enumerate(memory.items):
            if isinstance(item, Expr):
                array[index] = self._value(item)
            else:
                self._fill(array[index], item)

    def _fill(self, struct: ctypes.Structure, fields: Fields) -> None:
        for path, expr in fields.items():
            *parents, last = split_path(path)
            owner = _get(struct, parents)
            if isinstance(last, int):
                owner[last] = self._value(expr)
            else:
                setattr(owner, last, self._value(expr))

    def _check(self, call: Call, arg: ctypes.Structure, out: Out) -> None:
        place, *rest = split_path(out.path)
        got = _get(arg if place == "arg" else self._memory[str(place)], rest)
        expected = self._value(out.value)
        right = got == expected if out.relation == "==" else got >= expected
        where = f"{call.label} ({call.ioctl}): {out.path}"
        assert right, f"{where} is {got:#x}, not {out.relation} {expected:#x}"


def _get(owner: Any, path: list[str | int]) -> Any:
    for part in path:
        owner = owner[part] if isinstance(part, int) else getattr(owner, part)
    return owner
