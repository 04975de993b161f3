"""Base classes of all mirrors: C structs and unions that can be read, compared and built.

A mirror is written like its C original, a line per field, and laid out by :func:`layout`::

    @layout
    class drm_gem_open(Struct):
        name: u32  # in: global name
        handle: u32  # out: new handle of the caller
        size: u64  # out: bytes

``u32`` is ``int`` for the type checker and ``c_uint32`` for ctypes; ``x64`` is a ``u64`` that is
printed in hex (addresses, offsets, masks). An unnamed member of C gets a name that starts with an
underscore and is listed in ``_anonymous_``; its own members are then reached as in C. Three
optional tables make a mirror readable:

``_enums_``      field -> {value: constant's name}
``_flags_``      field -> {bit: constant's name}
``_selectors_``  union field -> (field that tells which member is meant, {value: member}[, default])

``Cls.from_address()`` and ``Cls.from_buffer()`` run no Python code of this module.
"""

from __future__ import annotations

import ctypes
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar, cast

__all__ = (
    "HEX",
    "Mirror",
    "Names",
    "Struct",
    "Union",
    "c_array",
    "layout",
    "names",
    "s32",
    "s64",
    "u8",
    "u16",
    "u32",
    "u64",
    "x32",
    "x64",
)

#: Marks a field that reads better in hex.
HEX = "hex"

u8 = Annotated[int, ctypes.c_uint8]
u16 = Annotated[int, ctypes.c_uint16]
u32 = Annotated[int, ctypes.c_uint32]
u64 = Annotated[int, ctypes.c_uint64]
s32 = Annotated[int, ctypes.c_int32]
s64 = Annotated[int, ctypes.c_int64]
x32 = Annotated[int, ctypes.c_uint32, HEX]
x64 = Annotated[int, ctypes.c_uint64, HEX]

#: Type of an array field for the type checker; the ctypes type stands beside it in Annotated.
c_array = ctypes.Array

Names: TypeAlias = Mapping[int, str]
_Selector: TypeAlias = tuple[str, Names] | tuple[str, Names, str]
_M = TypeVar("_M", bound="type[Mirror]")

#: Fields that say nothing while they are zero.
_QUIET = re.compile(r"(pad|reserved)\d*|extensions")


def names(namespace: Mapping[str, object], *prefixes: str) -> dict[int, str]:
    """Table value -> name of the integer constants that start with one of ``prefixes``.

    Only constants already defined are seen; the first of two equal values wins.
    """
    table: dict[int, str] = {}
    for name, value in namespace.items():
        if name.startswith(prefixes) and isinstance(value, int):
            table.setdefault(value, name)
    return table


@dataclass(frozen=True, slots=True)
class _Field:
    """What repr, asdict and the constructor need to know about one field."""

    name: str
    ctype: type[Any]
    hex: bool
    quiet: bool
    anonymous: bool
    enum: Names | None
    flags: Names | None
    selector: _Selector | None

    def text(self, value: Any) -> str:
        """The value as shown in a repr."""
        if isinstance(value, ctypes.Array):
            return f"[{', '.join(map(str, value))}]"
        if not isinstance(value, int):
            return repr(value)
        if self.enum is not None and value in self.enum:
            return self.enum[value]
        if self.flags is not None:
            return _flags_text(value, self.flags)
        return f"{value:#x}" if self.hex else str(value)


def _flags_text(value: int, table: Names) -> str:
    known = [(bit, name) for bit, name in table.items() if bit and value & bit == bit]
    rest = value
    for bit, _ in known:
        rest &= ~bit
    parts = [name for _, name in known]
    if rest or not parts:
        parts.append(f"{rest:#x}" if rest else "0")
    return "|".join(parts)


def _plain(value: Any) -> Any:
    """A field's value without ctypes: int, str (char arrays), list or dict."""
    if isinstance(value, Mirror):
        return value.asdict()
    if isinstance(value, ctypes.Array):
        return [_plain(item) for item in value]
    return list(value) if isinstance(value, bytes) else value


def _is_zero(value: Any) -> bool:
    return not value if isinstance(value, int) else not any(bytes(value))


def _is_chars(ctype: type[Any]) -> bool:
    return issubclass(ctype, ctypes.Array) and cast(Any, ctype)._type_ is ctypes.c_char


def _is_raw(ctype: type[Any], value: object) -> bool:
    """Whether a value stands for the bytes of a field."""
    if issubclass(ctype, Union):
        return isinstance(value, (bytes, list))
    if issubclass(ctype, ctypes.Array):
        return isinstance(value, (str, bytes)) or (_is_chars(ctype) and isinstance(value, list))
    return False


class Mirror:
    """What structs and unions share. Use :class:`Struct` or :class:`Union`."""

    _enums_: ClassVar[Mapping[str, Names]] = {}
    _flags_: ClassVar[Mapping[str, Names]] = {}
    _selectors_: ClassVar[Mapping[str, _Selector]] = {}
    #: Own fields in order; set by layout(). Not "_layout_": that means something to ctypes 3.14.
    _own_fields_: ClassVar[tuple[_Field, ...]] = ()
    #: Every name the constructor takes, with its type; members of anonymous fields included.
    _members_: ClassVar[Mapping[str, type[Any]]] = {}

    def __init__(self, **fields: Any) -> None:
        self._fill(fields)

    def _fill(self, fields: Mapping[str, Any]) -> None:
        """Set fields by name. Values may be ints, mirrors, dicts, sequences, bytes, str."""
        for name, value in fields.items():
            ctype = self._members_.get(name)
            if ctype is None:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            if isinstance(value, Mapping):
                target = getattr(self, name)
                if not isinstance(target, Mirror):
                    raise TypeError(f"{type(self).__name__}.{name} takes no dict")
                target._fill(value)
            elif _is_raw(ctype, value):
                self._fill_raw(name, value)
            elif issubclass(ctype, ctypes.Array):
                _fill_array(getattr(self, name), value, f"{type(self).__name__}.{name}")
            else:
                setattr(self, name, value)

    def _fill_raw(self, name: str, value: str | bytes | list[int]) -> None:
        """Set a field byte by byte, the rest of it to zero."""
        data = value.encode("latin-1") if isinstance(value, str) else bytes(value)
        place = getattr(type(self), name)
        if len(data) > place.size:
            where = f"{type(self).__name__}.{name}"
            raise ValueError(f"{where} holds {place.size} bytes, not {len(data)}")
        address = ctypes.addressof(cast(Any, self)) + place.offset
        ctypes.memmove(address, data.ljust(place.size, b"\0"), place.size)

    def _read(self, field: _Field) -> Any:
        """A field's value; a char array as text, with what follows a NUL, as ctypes does not."""
        if not _is_chars(field.ctype):
            return getattr(self, field.name)
        place = getattr(type(self), field.name)
        data = bytes(cast(Any, self))[place.offset : place.offset + place.size]
        return data.rstrip(b"\0").decode("latin-1")

    def _visible(self) -> Iterator[tuple[_Field, Any]]:
        """Fields with their values; an anonymous member is replaced by what it stands for.

        A union whose selector fits no member comes as its bytes.
        """
        for field in self._own_fields_:
            value = self._read(field)
            if not isinstance(value, Mirror):
                yield field, value
            elif field.selector is not None:
                yield self._selected(field, value)
            elif field.anonymous:
                yield from value._visible()
            else:
                yield field, value

    def _selected(self, field: _Field, union: Mirror) -> tuple[_Field, Any]:
        assert field.selector is not None
        by, table, *default = field.selector
        member = table.get(getattr(self, by), default[0] if default else None)
        for candidate in union._own_fields_:
            if candidate.name == member:
                return candidate, getattr(union, candidate.name)
        return field, bytes(cast(Any, union))

    def asdict(self) -> dict[str, Any]:
        """All fields as plain, JSON-ready values; of a union only the member meant.

        ``Cls(**x.asdict()) == x`` holds unless bytes outside the member meant are set. A union
        whose selector fits no member becomes the list of its bytes.
        """
        return {field.name: _plain(value) for field, value in self._visible()}

    def __repr__(self) -> str:
        parts = []
        for field, value in self._visible():
            if isinstance(value, bytes):
                parts.append(f"{field.name}=0x{value[::-1].hex()}")
            elif not (isinstance(value, ctypes.Array) and not len(value)) and not (
                field.quiet and _is_zero(value)
            ):
                parts.append(f"{field.name}={field.text(value)}")
        # A type that C leaves unnamed is not named here either.
        name = type(self).__name__
        return f"{'' if name.startswith('_') else name}({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return bytes(cast(Any, self)) == bytes(cast(Any, other))

    __hash__ = None  # type: ignore[assignment]


def _fill_array(target: ctypes.Array[Any], value: object, where: str) -> None:
    if not isinstance(value, (Sequence, ctypes.Array)):
        raise TypeError(f"{where} takes a sequence, not {type(value).__name__}")
    if len(value) > len(target):
        raise ValueError(f"{where} holds {len(target)} elements, not {len(value)}")
    for index, item in enumerate(value):
        if isinstance(item, Mapping):
            target[index]._fill(item)
        else:
            target[index] = item


class Struct(Mirror, ctypes.Structure):
    """A C struct."""


class Union(Mirror, ctypes.Union):
    """A C union."""


def _masked(table: Names | None, ctype: type[Any]) -> Names | None:
    """The table as an unsigned field shows it: -1 in a u32 reads back as 0xffffffff."""
    if table is None or ctype(-1).value < 0:
        return table
    top = 8 * ctypes.sizeof(ctype)
    return {value % (1 << top): name for value, name in table.items()}


def layout(cls: _M) -> _M:
    """Class decorator: turn the annotated fields into ctypes fields."""
    fields: list[_Field] = []
    members: dict[str, type[Any]] = {}
    anonymous = getattr(cls, "_anonymous_", ())
    for name, annotation in inspect.get_annotations(cls, eval_str=True).items():
        ctype, *marks = getattr(annotation, "__metadata__", (annotation,))
        enum, flags = cls._enums_.get(name), cls._flags_.get(name)
        field = _Field(
            name=name,
            ctype=ctype,
            hex=HEX in marks,
            quiet=_QUIET.fullmatch(name) is not None,
            anonymous=name in anonymous,
            enum=_masked(enum, ctype),
            flags=flags,
            selector=cls._selectors_.get(name),
        )
        fields.append(field)
        members[name] = ctype
        if field.anonymous:
            members.update(ctype._members_)
    known = {field.name for field in fields}
    for table in (cls._enums_, cls._flags_, cls._selectors_):
        if unknown := set(table) - known:
            raise TypeError(f"{cls.__name__}: no such field: {sorted(unknown)}")
    cls._own_fields_ = tuple(fields)
    cls._members_ = members
    # Assigning _fields_ is what makes ctypes compute the layout.
    cast(Any, cls)._fields_ = [(field.name, field.ctype) for field in fields]
    return cls
