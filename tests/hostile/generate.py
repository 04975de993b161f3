"""Calls of a hostile client: valid ones, nearly valid ones, and noise.

What is valid comes from the uAPI's registry and mirrors: a field is filled by its role (a handle,
a pointer, reserved), by its table of values or flags, and for the ioctls that the driver answers by
a few lines of knowledge here.  A share of the structs then gets one to three fields mutated, and a
share of the calls another number, size, direction or address.

Everything follows from one `random.Random`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.hostile.arena import PAGE, Arena
from uapi import drm, registry, xe_drm, xe_mock
from uapi.base import Mirror, Struct, Union
from uapi.ioctl import IOC, IOC_DIR, IOC_NONE, IOC_READ, IOC_SIZE, IOC_SIZE_MAX, IOC_WRITE, IoctlDef
from uapi.xe_mock import XE_MOCK_WINDOW_IN, XE_MOCK_WINDOW_OUT, Window

__all__ = ("Call", "Generator", "control_noise", "written_ranges")

IN, OUT = XE_MOCK_WINDOW_IN, XE_MOCK_WINDOW_OUT
_U64 = (1 << 64) - 1

_POINTERS = frozenset(
    (
        *("name", "date", "desc", "unique", "handles", "points", "object_ids", "lessees_ptr"),
        *("objects_ptr", "next_extension", "ptr", "data", "userptr", "vector_of_binds", "syncs"),
        *("instances", "param", "regs_ptr", "retained_ptr", "vector_of_mem_attr"),
    )
)
"""Fields of eight bytes that hold an address."""

_QUIET = ("pad", "reserved", "extensions", "_")

_NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 255, 256, 0xFFF, 0x1000, 0x1001, 0xFFFF, 0x10000),
    *(0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF, 1 << 32, 1 << 40, 1 << 47),
    *((1 << 48) - PAGE, 1 << 48, 1 << 57, 1 << 63, _U64 - PAGE + 1, _U64),
)
"""Values at which checks tend to turn."""

_WEIGHTS = {
    "DRM_IOCTL_XE_VM_BIND": 24,
    "DRM_IOCTL_XE_MADVISE": 16,
    "DRM_IOCTL_XE_GEM_CREATE": 12,
    "DRM_IOCTL_XE_DEVICE_QUERY": 8,
    "DRM_IOCTL_XE_VM_CREATE": 6,
    "DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS": 5,
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": 5,
    "DRM_IOCTL_PRIME_FD_TO_HANDLE": 5,
    "DRM_IOCTL_GEM_CLOSE": 4,
    "DRM_IOCTL_SYNCOBJ_CREATE": 3,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": 3,
    "DRM_IOCTL_SYNCOBJ_TRANSFER": 3,
    "XE_MOCK_IOCTL_BO_INFO": 3,
    "DRM_IOCTL_VERSION": 3,
}
"""How often a call is chosen; all others count 1."""

_FEW_HANDLES, _MANY_HANDLES, _MANY_VMS = 4, 48, 8
_SLOT, _SLOTS = 0x10000, 32  # GPU addresses in use: few, so that mappings meet
_SMALL = 16 << 20
_NEVER_FITS = 1 << 41


@dataclass(slots=True)
class Call:
    """One ioctl: its number, where its argument lies, what is there, and what that points to."""

    cmd: int
    address: int
    data: bytes
    """At ``address``, if that is memory; as many bytes as the number says, or none."""
    windows: list[Window] = field(default_factory=list)
    """The memory behind the pointers, for a frame."""
    kind: str = "valid"

    def __str__(self) -> str:
        row = registry.lookup(self.cmd)
        name = row.name if row else "?"
        return f"{self.kind} {name} {self.cmd:#010x} at {self.address:#x}: {self.data[:512].hex()}"

    @property
    def copied_out(self) -> int:
        """Bytes of the argument that the kernel copies back."""
        return IOC_SIZE(self.cmd) if IOC_DIR(self.cmd) & IOC_READ else 0


@dataclass(slots=True)
class _Known:
    """Things that were made by earlier calls, and still seem to be there."""

    handles: list[int] = field(default_factory=list)
    vms: list[int] = field(default_factory=list)
    names: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    syncobjs: list[int] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    """Of DEVICE_QUERY, by the number of the query."""


class Generator:
    """An endless corpus.  Tell it the outcome of each call (`learn`), so that it stays on track.

    ``on_token`` is called with each descriptor token that an export gave; `fds` lists descriptors
    to import.
    """

    def __init__(
        self, rng: random.Random, arena: Arena, on_token: Callable[[int], None] = lambda _: None
    ) -> None:
        self.rng = rng
        self.arena = arena
        self.known = _Known()
        self._on_token = on_token
        self._next = 0
        self._windows: list[Window] = []
        self._rows = [row for row in registry.BY_NAME.values() if row.struct is not None]
        self._row_weights = [_WEIGHTS.get(row.name, 1) for row in self._rows]
        self._all_rows = list(registry.BY_NAME.values())

    def forget(self) -> None:
        """The file was closed: its handles and VMs are gone."""
        self.known.handles.clear()
        self.known.vms.clear()
        self.known.syncobjs.clear()

    # ---- calls ----

    def next(self) -> Call:
        """The next call."""
        self._next = self.arena.good + self.rng.randrange(0, 0x2000, 8)
        self._windows = []
        dice = self.rng.random()
        for limit, make in _KINDS:
            if dice < limit:
                return self._tamed(make(self))
        return self._tamed(self.valid())

    def valid(self) -> Call:
        """A call that a well-meaning program might make."""
        known = self.known
        name = ""
        if len(known.handles) > _MANY_HANDLES:
            name = "DRM_IOCTL_GEM_CLOSE"
        elif len(known.handles) < _FEW_HANDLES and self.rng.random() < 0.3:
            name = "DRM_IOCTL_XE_GEM_CREATE"
        elif not known.vms and self.rng.random() < 0.3:
            name = "DRM_IOCTL_XE_VM_CREATE"
        elif len(known.vms) > _MANY_VMS:
            name = "DRM_IOCTL_XE_VM_DESTROY"
        if name:
            row = registry.BY_NAME[name]
        else:
            row = self.rng.choices(self._rows, self._row_weights)[0]
        return self._call(row.cmd, self._struct(row), "valid")

    def mutated(self) -> Call:
        """A valid call with one to three fields changed."""
        call = self.valid()
        row = registry.lookup(call.cmd)
        assert row is not None and row.struct is not None
        data = bytearray(call.data)
        spots = _LEAVES[row.struct]
        for _ in range(self.rng.randint(1, 3)):
            offset, size = self.rng.choice(spots)
            self._mutate(data, offset, size)
        return dataclasses.replace(call, data=bytes(data), kind="mutated")

    def resized(self) -> Call:
        """A valid call under a number with another size or direction."""
        call = self.valid()
        size = self.rng.choice((0, 4, 8, len(call.data) - 1, len(call.data) + 8, 128, 4096))
        number = call.cmd & 0xFFFF
        cmd = IOC(self.rng.randrange(4), number >> 8, number & 0xFF, min(max(size, 0), 16383))
        return self._call(cmd, _cut(call.data, cmd, self.rng), "resized")

    def scrambled(self) -> Call:
        """A known number with any argument."""
        row = self.rng.choice(self._all_rows)
        return self._call(row.cmd, self.rng.randbytes(row.size), "scrambled")

    def noise(self) -> Call:
        """Any number with any argument."""
        rng = self.rng
        kind = ord(rng.choice("dddxxb\0Tf")) if rng.random() < 0.8 else rng.randrange(256)
        size = rng.choice((0, 4, 8, 16, 24, 40, 64, 136, rng.randrange(IOC_SIZE_MAX + 1)))
        cmd = IOC(rng.randrange(4), kind, rng.randrange(256), size)
        return self._call(cmd, rng.randbytes(_in_size(cmd)), "noise")

    def misplaced(self) -> Call:
        """A valid call whose argument itself lies badly."""
        call = self.valid()
        arena = self.arena
        address = self.rng.choice(
            (
                *(0, 1, arena.readonly, arena.forbidden, arena.arg_end, 1 << 63, _U64),
                arena.arg_end - self.rng.randrange(1, len(call.data) + 1),
                arena.arg_end - len(call.data),
            )
        )
        return dataclasses.replace(call, address=address, kind="misplaced")

    def _call(self, cmd: int, data: bytes, kind: str) -> Call:
        # Mostly at an odd place: the kernel's copy does not mind.
        address = self.arena.arg + self.rng.choice((0, 8, 64, 3))
        size = IOC_SIZE(cmd) if IOC_DIR(cmd) != IOC_NONE else 0
        return Call(cmd, address, data[:size].ljust(size, b"\0"), self._windows, kind)

    def _mutate(self, data: bytearray, offset: int, size: int) -> None:
        rng = self.rng
        mask = (1 << 8 * size) - 1
        old = int.from_bytes(data[offset : offset + size], "little")
        new = rng.choice(
            (
                rng.choice(_NUMBERS),
                rng.choice(_NUMBERS),
                old ^ 1 << rng.randrange(8 * size),
                old + rng.choice((-1, 1, PAGE)),
                rng.getrandbits(8 * size),
                self._pointer(64, IN | OUT),
            )
        )
        data[offset : offset + size] = (new & mask).to_bytes(size, "little")

    def _tamed(self, call: Call) -> Call:
        """Keep buffers small, or so large that they never fit, and waits short.

        What fits but just so would leave no room for the client that is watched meanwhile.
        """
        offset, size, mask = _WAITS.get(call.cmd & 0xFFFF, (0, 0, 0))
        if size and len(call.data) >= offset + size:
            data = bytearray(call.data)
            wanted = int.from_bytes(data[offset : offset + size], "little")
            data[offset : offset + size] = (wanted & mask).to_bytes(size, "little")
            call = dataclasses.replace(call, data=bytes(data))
        offset, size = _BYTES_WANTED.get(call.cmd & 0xFFFF, (0, 0))
        if not size or len(call.data) < offset + size:
            return call
        wanted = int.from_bytes(call.data[offset : offset + size], "little")
        limit, never = (_SMALL, _NEVER_FITS) if size == 8 else (1024, 1 << 32)
        if not limit < wanted <= never:
            return call
        data = bytearray(call.data)
        data[offset : offset + size] = (wanted & (limit - 1)).to_bytes(size, "little")
        return dataclasses.replace(call, data=bytes(data))

    # ---- arguments ----

    def _struct(self, row: IoctlDef) -> bytes:
        assert row.struct is not None
        struct = row.struct()
        self._fill(struct)
        refine = _REFINEMENTS.get(row.name)
        if refine is not None:
            refine(self, struct)
        return bytes(struct)

    def _fill(self, mirror: Mirror) -> None:
        for spot in mirror._own_fields_:
            if spot.name.startswith(_QUIET) and spot.selector is None:
                continue
            value = getattr(mirror, spot.name)
            if spot.selector is not None:
                by, table, *default = spot.selector
                chosen = table.get(getattr(mirror, by), default[0] if default else "")
                inner = getattr(value, chosen, None)
                if isinstance(inner, Mirror):
                    self._fill(inner)
                elif inner is not None:
                    setattr(value, chosen, self._value(spot, chosen))
            elif isinstance(value, Mirror):
                self._fill(value)
            elif isinstance(value, int):
                setattr(mirror, spot.name, self._value(spot, spot.name))

    def _value(self, spot: Any, name: str) -> int:
        rng = self.rng
        if name in _POINTERS and ctypes.sizeof(spot.ctype) == 8:
            return self._pointer(64, IN | OUT)
        if spot.enum:
            return int(rng.choice(list(spot.enum)))
        if spot.flags:
            return sum(bit for bit in spot.flags if rng.random() < 0.2)
        return _ROLES.get(name, Generator._small)(self)

    def _small(self) -> int:
        return self.rng.choice((0, 0, 1, 1, 2, 3, 64))

    def handle(self) -> int:
        """A GEM handle, most likely of a BO that is there."""
        return self._one_of(self.known.handles)

    def vm(self) -> int:
        """A VM's id."""
        return self._one_of(self.known.vms)

    def syncobj(self) -> int:
        """A sync object's handle."""
        return self._one_of(self.known.syncobjs)

    def fd(self) -> int:
        """A descriptor, most likely of something that can be imported."""
        return self._one_of(self.known.fds)

    def _one_of(self, things: list[int]) -> int:
        if things and self.rng.random() < 0.95:
            return self.rng.choice(things)
        return self.rng.choice((0, 1, 2, 99))

    def _pointer(self, length: int, flags: int, data: bytes = b"") -> int:
        """The address of ``length`` bytes for the driver, holding ``data``; or a bad one."""
        address = self._place(length)
        if data:
            self.arena.write(address, data)
        contents = data.ljust(length, b"\0") if flags & IN else b""
        self._windows.append(Window(address & _U64, length, flags, contents))
        return address & _U64

    def _place(self, length: int) -> int:
        dice = self.rng.random()
        if dice < 0.86:
            address = self._next
            self._next += -(-length // 8) * 8 + 8
            # A huge count: what is behind the end is not there, and that is the point.
            return min(address, self.arena.good_end - 8)
        if dice < 0.91:
            return self.arena.good_end - self.rng.randrange(1, max(length, 2))
        if dice < 0.95:
            return self.arena.readonly
        if dice < 0.97:
            return self.arena.forbidden
        return self.rng.choice((0, 1, 8, 0xDEAD_BEEF_0000, 0x7FFF_FFFF_FFF8, 1 << 63, _U64 - 7))

    # ---- outcomes ----

    def learn(self, call: Call, result: int, data: bytes) -> None:
        """``result`` is the ioctl's value or ``-errno``, ``data`` the argument afterwards."""
        if result < 0:
            return
        row = registry.lookup(call.cmd)
        if row is None or row.struct is None or len(data) < row.size:
            return
        made, lesson = _LESSONS.get(row.name, (False, None))
        if lesson is not None and (call.copied_out or not made):
            lesson(self, row.struct.from_buffer_copy(data))

    def _made_handle(self, args: Any) -> None:
        if args.handle not in self.known.handles:
            self.known.handles.append(args.handle)

    def _lost_handle(self, args: Any) -> None:
        if args.handle in self.known.handles:
            self.known.handles.remove(args.handle)

    def _made_vm(self, args: Any) -> None:
        self.known.vms.append(args.vm_id)

    def _lost_vm(self, args: Any) -> None:
        if args.vm_id in self.known.vms:
            self.known.vms.remove(args.vm_id)

    def _made_syncobj(self, args: Any) -> None:
        if args.handle not in self.known.syncobjs:
            self.known.syncobjs = [*self.known.syncobjs[-16:], args.handle]

    def _lost_syncobj(self, args: Any) -> None:
        if args.handle in self.known.syncobjs:
            self.known.syncobjs.remove(args.handle)

    def _made_name(self, args: Any) -> None:
        self.known.names = [*self.known.names[-8:], args.name]

    def _made_token(self, args: Any) -> None:
        self._on_token(args.fd)

    def _told_size(self, args: Any) -> None:
        self.known.sizes[args.query] = args.size


_ROLES: dict[str, Callable[[Generator], int]] = {
    "handle": Generator.handle,
    "obj": Generator.handle,
    "vm_id": Generator.vm,
    "src_handle": Generator.syncobj,
    "dst_handle": Generator.syncobj,
    "fd": Generator.fd,
    "devmem_fd": Generator.fd,
    "exec_queue_id": lambda _: 0,
    "name": lambda g: g._one_of(g.known.names),
    "start": lambda g: g.rng.randrange(_SLOTS) * _SLOT,
    "addr": lambda g: g.rng.randrange(_SLOTS) * _SLOT,
    "range": lambda g: g.rng.choice((1, 1, 2, 4)) * _SLOT,
    "size": lambda g: g.rng.choice((1, 2, 4, 4, 16)) * _SLOT,
    "pat_index": lambda g: g.rng.choice((0, 1, 2, 2, 2)),
}
"""What fields of a name are for, whatever the struct."""


# ---- knowledge of single ioctls --------------------------------------------------------------


def _gem_create(g: Generator, args: Any) -> None:
    args.placement = g.rng.choice((1, 2, 3))
    args.cpu_caching = 2 if args.placement != 1 else g.rng.choice((1, 2))
    args.flags = g.rng.choice((0, 0, 0, 1, 1, 2)) if args.cpu_caching == 2 else 0
    args.vm_id = g.vm() if g.rng.random() < 0.2 else 0
    args.handle = 0
    if g.rng.random() < 0.1:
        args.extensions = _extensions(g)


def _extensions(g: Generator) -> int:
    """A chain, sometimes a ring."""
    head = g._pointer(32, IN)
    links = [head, *(g._pointer(32, IN) for _ in range(g.rng.choice((0, 1, 3, 20))))]
    ends = (0, 0, 0, head)
    for address, following in zip(links, [*links[1:], g.rng.choice(ends)], strict=True):
        link = xe_drm.drm_xe_ext_set_property()
        link.base.next_extension = following
        g.arena.write(address, bytes(link))
    return head


def _vm_create(g: Generator, args: Any) -> None:
    lr, fault = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE, xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
    args.flags = g.rng.choice((0, 0, 0, 1, lr, lr | fault, lr | fault))
    args.vm_id = 0


def _vm_bind(g: Generator, args: Any) -> None:
    rng = g.rng
    args.exec_queue_id = 0
    args.num_binds = rng.choice((0, 1, 1, 1, 1, 2, 3, 8))
    args.num_syncs = rng.choice((0, 0, 0, 0, 1, 2)) if args.num_binds else 0
    syncs = [_sync(g) for _ in range(args.num_syncs)]
    args.syncs = g._pointer(max(len(syncs) * 64, 8), IN, b"".join(syncs)) if syncs else 0
    ops = [_bind_op(g) for _ in range(args.num_binds)]
    if len(ops) == 1:
        args.bind = ops[0]
    else:
        ctypes.memset(ctypes.addressof(args.bind), 0, ctypes.sizeof(args.bind))
        args.vector_of_binds = g._pointer(max(len(ops) * 88, 8), IN, b"".join(map(bytes, ops)))
    if rng.random() < 0.02:
        args.num_binds = rng.choice((1000, 100_000, 0xFFFF_FFFF))


def _sync(g: Generator) -> bytes:
    if g.rng.random() < 0.2:
        sync = xe_drm.drm_xe_sync()
        g._fill(sync)
        return bytes(sync)
    sync = xe_drm.drm_xe_sync(
        type=xe_drm.DRM_XE_SYNC_TYPE_USER_FENCE,
        flags=xe_drm.DRM_XE_SYNC_FLAG_SIGNAL,
        addr=g._pointer(8, IN | OUT),
        timeline_value=g.rng.getrandbits(64),
    )
    return bytes(sync)


def _bind_op(g: Generator) -> xe_drm.drm_xe_vm_bind_op:
    rng = g.rng
    op = xe_drm.drm_xe_vm_bind_op(
        op=rng.choices(range(5), (8, 4, 2, 1, 1))[0],
        pat_index=rng.choice((0, 1, 2, 2, 2, 2)),
        addr=rng.randrange(_SLOTS) * _SLOT,
        range=rng.choice((1, 1, 1, 1, 2, 4)) * _SLOT,
    )
    if op.op == xe_drm.DRM_XE_VM_BIND_OP_MAP:
        _map_op(g, op)
    elif op.op == xe_drm.DRM_XE_VM_BIND_OP_MAP_USERPTR:
        op.range = rng.choice((PAGE, 2 * PAGE))
        op.userptr = rng.choice((g.arena.good, g.arena.good_end - PAGE, g._pointer(64, IN) & ~4095))
        op.flags = rng.choice((0, xe_drm.DRM_XE_VM_BIND_FLAG_READONLY))
    elif op.op == xe_drm.DRM_XE_VM_BIND_OP_UNMAP_ALL:
        op.obj, op.addr, op.range = g.handle(), 0, 0
    elif op.op == xe_drm.DRM_XE_VM_BIND_OP_PREFETCH:
        op.prefetch_mem_region_instance = rng.choice((0, 0, 1, 0xFFFF_FFFF))
    return op


def _map_op(g: Generator, op: xe_drm.drm_xe_vm_bind_op) -> None:
    dice = g.rng.random()
    if dice < 0.1:
        op.flags = xe_drm.DRM_XE_VM_BIND_FLAG_NULL
    elif dice < 0.2:
        op.flags = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
        if dice < 0.15:
            op.flags |= xe_drm.DRM_XE_VM_BIND_FLAG_MADVISE_AUTORESET
    else:
        op.obj = g.handle()
        op.obj_offset = g.rng.choice((0, 0, 0, _SLOT))
        op.flags = g.rng.choice((0, 0, 0, xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE))


def _madvise(g: Generator, args: Any) -> None:
    if g.rng.random() < 0.7:
        args.type = xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE
        ctypes.memset(ctypes.addressof(args.purge_state_val), 0, 16)
        args.purge_state_val.val = g.rng.randrange(2)
        retained = g._pointer(4, IN | OUT, bytes(4))
        args.purge_state_val.retained_ptr = g.rng.choice((0, retained, retained))


def _device_query(g: Generator, args: Any) -> None:
    sizes = g.known.sizes
    args.query = g.rng.randrange(12)
    args.size = sizes.get(args.query, 0) if g.rng.random() < 0.9 else 0
    # The memory is as long as is said, or the driver writes where no call of ours lets it.
    args.data = g._pointer(max(args.size, 8), IN | OUT)


def _version(g: Generator, args: Any) -> None:
    for text in ("name", "date", "desc"):
        length = g.rng.choice((0, 1, 5, 32))
        setattr(args, f"{text}_len", length)
        setattr(args, text, g._pointer(max(length, 8), OUT))


def _client_name(g: Generator, args: Any) -> None:
    args.name_len = g.rng.choice((0, 5, 64, 65))
    args.name = g._pointer(64, IN, g.rng.choice((b"fuzz" * 16, b"\x7f" * 64)))


def _query_attrs(g: Generator, args: Any) -> None:
    count = g.rng.choice((0, 0, 4, 64))
    args.num_mem_ranges = count
    args.sizeof_mem_range_attr = ctypes.sizeof(xe_drm.drm_xe_mem_range_attr) if count else 0
    args.vector_of_mem_attr = g._pointer(count * 64, IN | OUT) if count else 0


def _dumb(g: Generator, args: Any) -> None:
    args.width, args.height, args.bpp = g.rng.choice((1, 64, 100)), 64, 32
    args.flags = 0


def _in_memory(g: Generator, args: Any) -> None:
    args.prot, args.flags = g.rng.randrange(8), g.rng.randrange(3)
    args.offset = g.rng.choice((0x50000, (1 << 32) + g.rng.randrange(64) * _SLOT))


def _no_flags(g: Generator, args: Any) -> None:
    args.flags = 0


def _export(g: Generator, args: Any) -> None:
    args.flags = g.rng.choice((0, os.O_CLOEXEC, os.O_RDWR, os.O_CLOEXEC | os.O_RDWR))


def _syncobj(g: Generator, args: Any) -> None:
    args.handle = g.syncobj()
    if hasattr(args, "flags"):
        args.flags = g.rng.choice((0, 0, 1, 1, 3))
    if hasattr(args, "point"):
        args.point = g.rng.choice((0, 0, 0, 1, 2, 3))


def _syncobj_array(g: Generator, args: Any) -> None:
    count = args.count_handles = g.rng.choice((0, 1, 1, 1, 2, 3, 8))
    handles = b"".join(g.syncobj().to_bytes(4, "little") for _ in range(count))
    points = b"".join(g.rng.randrange(6).to_bytes(8, "little") for _ in range(count))
    args.handles = g._pointer(max(4 * count, 8), IN, handles)
    if hasattr(args, "points"):
        args.points = g._pointer(max(8 * count, 8), IN | OUT, points)
    if g.rng.random() < 0.02:
        args.count_handles = g.rng.choice((1000, 100_000, 1 << 19, 0xFFFF_FFFF))


_REFINEMENTS: dict[str, Callable[[Generator, Any], None]] = {
    "DRM_IOCTL_VERSION": _version,
    "DRM_IOCTL_SET_CLIENT_NAME": _client_name,
    "DRM_IOCTL_MODE_CREATE_DUMB": _dumb,
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": _export,
    "DRM_IOCTL_SYNCOBJ_DESTROY": _syncobj,
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": _syncobj,
    "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE": _syncobj,
    "DRM_IOCTL_SYNCOBJ_EVENTFD": _syncobj,
    "DRM_IOCTL_SYNCOBJ_WAIT": _syncobj_array,
    "DRM_IOCTL_SYNCOBJ_RESET": _syncobj_array,
    "DRM_IOCTL_SYNCOBJ_SIGNAL": _syncobj_array,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": _syncobj_array,
    "DRM_IOCTL_SYNCOBJ_QUERY": _syncobj_array,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": _syncobj_array,
    "DRM_IOCTL_XE_GEM_CREATE": _gem_create,
    "DRM_IOCTL_XE_VM_CREATE": _vm_create,
    "DRM_IOCTL_XE_VM_BIND": _vm_bind,
    "DRM_IOCTL_XE_MADVISE": _madvise,
    "DRM_IOCTL_XE_DEVICE_QUERY": _device_query,
    "DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS": _query_attrs,
    "XE_MOCK_IOCTL_IMPORT_FOREIGN": _no_flags,
    "XE_MOCK_IOCTL_MMAP": _in_memory,
}

_LESSONS: dict[str, tuple[bool, Callable[[Generator, Any], None]]] = {
    "DRM_IOCTL_XE_GEM_CREATE": (True, Generator._made_handle),
    "DRM_IOCTL_MODE_CREATE_DUMB": (True, Generator._made_handle),
    "DRM_IOCTL_GEM_OPEN": (True, Generator._made_handle),
    "DRM_IOCTL_PRIME_FD_TO_HANDLE": (True, Generator._made_handle),
    "XE_MOCK_IOCTL_IMPORT_FOREIGN": (True, Generator._made_handle),
    "DRM_IOCTL_GEM_CLOSE": (False, Generator._lost_handle),
    "DRM_IOCTL_MODE_DESTROY_DUMB": (False, Generator._lost_handle),
    "DRM_IOCTL_XE_VM_CREATE": (True, Generator._made_vm),
    "DRM_IOCTL_XE_VM_DESTROY": (False, Generator._lost_vm),
    "DRM_IOCTL_GEM_FLINK": (True, Generator._made_name),
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": (True, Generator._made_token),
    "DRM_IOCTL_SYNCOBJ_CREATE": (True, Generator._made_syncobj),
    "DRM_IOCTL_SYNCOBJ_DESTROY": (False, Generator._lost_syncobj),
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": (True, Generator._made_token),
    "DRM_IOCTL_XE_DEVICE_QUERY": (True, Generator._told_size),
}
"""What a success tells, and whether it is the answer that tells it."""

_KINDS: tuple[tuple[float, Callable[[Generator], Call]], ...] = (
    (0.08, Generator.noise),
    (0.14, Generator.scrambled),
    (0.19, Generator.resized),
    (0.22, Generator.misplaced),
    (0.50, Generator.mutated),
)
"""Upper limits of the dice; above the last one a call is valid."""


def _size_field(name: str, struct: type[Struct], member: str) -> tuple[int, tuple[int, int]]:
    place = getattr(struct, member)
    return registry.BY_NAME[name].cmd & 0xFFFF, (place.offset, place.size)


_BYTES_WANTED = dict(
    (
        _size_field("DRM_IOCTL_XE_GEM_CREATE", xe_drm.drm_xe_gem_create, "size"),
        _size_field("XE_MOCK_IOCTL_IMPORT_FOREIGN", xe_mock.xe_mock_import_foreign, "size"),
        _size_field("DRM_IOCTL_MODE_CREATE_DUMB", drm.drm_mode_create_dumb, "height"),
    )
)
"""Type and nr -> where the argument says how much memory it wants."""

_A_MOMENT = 0xF_FFFF  # nanoseconds, and for those that take a time of day long past
_NOT_FOR_SUBMIT = 0xFFFF_FFFF & ~drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT


def _wait_field(
    name: str, struct: type[Struct], member: str, mask: int
) -> tuple[int, tuple[int, int, int]]:
    cmd, (offset, size) = _size_field(name, struct, member)
    return cmd, (offset, size, mask)


_WAITS = dict(
    (
        _wait_field("DRM_IOCTL_SYNCOBJ_WAIT", drm.drm_syncobj_wait, "timeout_nsec", _A_MOMENT),
        _wait_field(
            "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT",
            drm.drm_syncobj_timeline_wait,
            "timeout_nsec",
            _A_MOMENT,
        ),
        _wait_field(
            "DRM_IOCTL_XE_WAIT_USER_FENCE", xe_drm.drm_xe_wait_user_fence, "timeout", _A_MOMENT
        ),
        # With the flag it sleeps for five seconds.
        _wait_field(
            "DRM_IOCTL_SYNCOBJ_TRANSFER", drm.drm_syncobj_transfer, "flags", _NOT_FOR_SUBMIT
        ),
    )
)
"""Type and nr -> where the argument says how long to wait, and what may stay of that."""


# ---- layouts ---------------------------------------------------------------------------------


def _leaves(ctype: Any, base: int = 0) -> Iterator[tuple[int, int]]:
    """Offset and size of each number in a struct."""
    if issubclass(ctype, (Struct, Union)):
        for name, member in ctype._fields_:
            yield from _leaves(member, base + getattr(ctype, name).offset)
    elif issubclass(ctype, ctypes.Array):
        size = ctypes.sizeof(ctype._type_)
        for index in range(ctype._length_):
            yield from _leaves(ctype._type_, base + index * size)
    else:
        yield base, ctypes.sizeof(ctype)


_LEAVES = {
    row.struct: list(_leaves(row.struct))
    for row in registry.BY_NAME.values()
    if row.struct is not None
}


def _in_size(cmd: int) -> int:
    return IOC_SIZE(cmd) if IOC_DIR(cmd) & IOC_WRITE else 0


def _cut(data: bytes, cmd: int, rng: random.Random) -> bytes:
    size = IOC_SIZE(cmd)
    return data[:size] + rng.randbytes(max(0, min(size - len(data), 64)))


# ---- what a call may write -------------------------------------------------------------------


def written_ranges(arena: Arena, call: Call) -> list[tuple[int, int]]:
    """The (address, length) that the driver may write for a call, beside the argument itself.

    Taken from the argument as it is now, so ask before the call.
    """
    row = registry.lookup(call.cmd)
    if row is None or row.struct is None:
        return []
    writer = _WRITES.get(row.name)
    if writer is None:
        return []
    size = min(_in_size(call.cmd), row.size)
    return list(writer(arena, row.struct.from_buffer_copy(call.data[:size].ljust(row.size, b"\0"))))


def _texts(_arena: Arena, args: Any) -> Iterator[tuple[int, int]]:
    for name in ("name", "date", "desc"):
        yield getattr(args, name), getattr(args, f"{name}_len")


def _fences(arena: Arena, args: Any) -> Iterator[tuple[int, int]]:
    size = ctypes.sizeof(xe_drm.drm_xe_sync)
    for index in range(min(args.num_syncs, xe_drm.DRM_XE_MAX_SYNCS)):
        raw = arena.read(args.syncs + index * size, size)
        yield xe_drm.drm_xe_sync.from_buffer_copy(raw).addr, 8


_WRITES: dict[str, Callable[[Arena, Any], Iterator[tuple[int, int]]]] = {
    "DRM_IOCTL_VERSION": _texts,
    "DRM_IOCTL_GET_UNIQUE": lambda _, args: iter([(args.unique, args.unique_len)]),
    "DRM_IOCTL_SYNCOBJ_QUERY": lambda _, args: iter([(args.points, 8 * args.count_handles)]),
    "DRM_IOCTL_XE_DEVICE_QUERY": lambda _, args: iter([(args.data, args.size)]),
    "DRM_IOCTL_XE_VM_BIND": _fences,
    "DRM_IOCTL_XE_MADVISE": lambda _, args: iter([(args.purge_state_val.retained_ptr, 4)]),
    "DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS": lambda _, args: iter(
        [(args.vector_of_mem_attr, args.num_mem_ranges * args.sizeof_mem_range_attr)]
    ),
    "DRM_IOCTL_XE_VM_GET_PROPERTY": lambda _, args: iter([(args.data, args.size)]),
}


# ---- control files ---------------------------------------------------------------------------


def control_noise(rng: random.Random, points: list[str]) -> tuple[str, bytes]:
    """A control file and what to write to it: nothing that disturbs a client which does right.

    Failure points are only armed for a time that never comes; memory pressure is asked for BOs
    that do not exist, and for no bytes at all.
    """
    point = rng.choice(points)
    sensible = (
        f"{point} 0",
        f"{point} {10**12}",
        f"{point} {10**12} ENOSPC",
        f"bo {rng.randrange(10**9, 10**10)} {rng.choice(('evict', 'shrink'))}",
        "region vram0 0 evict",
        "region system 0 shrink",
    )
    text = rng.choice(sensible).encode()
    dice = rng.random()
    if dice < 0.3:
        data = bytearray(text)
        data[rng.randrange(len(data))] = rng.randrange(128, 256)  # no digit, no letter of a command
        text = bytes(data)
    elif dice < 0.6:
        text = rng.randbytes(rng.choice((1, 16, 4095, 4096, 5000, 70000)))
    elif dice < 0.7:
        text = rng.choice((b"", b"\n", b"\0" * 64, text + b" x" * 100, text.replace(b" ", b"\0")))
    return rng.choice(("fail", "pressure")), text
