"""Typed reader of ``errno_memory.json``: what each ioctl answers, row by row of the specification.

The file is data for two runners, a C program (`tests.errno.cgen`) and one in Python
(`tests.errno.executor`), so it names things as the C header does.

``bases``   argument sets that the driver accepts; a case overrides a few fields of one
``structs`` the same for structs that arguments point to
``steps``   ioctls that prepare a case; each may save one output under its own name
``cases``   one ioctl under test each, what comes before it, what it must answer
``tables``  the rows that must have a case, by section of memory.md (or of the file named)
``subjects`` what cases can be blocked by, and the issue that brings it

A case's ``profile`` is one, or ``both`` for Battlemage and Lunar Lake, the default. An ioctl's
``file`` is ``drm``, ``other`` for the same node opened once more, or ``far`` for the node of the
machine's second card.

A case's ``row`` is ``section/row``. Where two faults meet, it is the row that must win.

Values are integers or expressions in the syntax that C and Python share::

    "PAGE * 2"              names of the header and of the file's own "names"
    "$bo"                   what the step "bo" saved
    "&ops", "&ext[1]"       address of memory of this call
    "DRM_FD", "FAR_FD"      descriptors of the case's files ``drm`` and ``far``
    "NULL_FD"               descriptor of /dev/null
    "RO_PTR"                address of a page of zeros that cannot be written

A misspelt key, name or field is an error.
"""

from __future__ import annotations

import ctypes
import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from uapi import drm, registry, xe_drm, xe_mock
from uapi.base import Mirror, Struct

__all__ = (
    "RUN_TIME_NAMES",
    "Call",
    "Case",
    "Close",
    "Control",
    "Errno",
    "Expr",
    "Memory",
    "OpenToken",
    "Out",
    "Profile",
    "Scope",
    "Step",
    "Token",
    "field_type",
    "item_type",
    "load_errno",
    "split_path",
)

_HERE = Path(__file__).parent

Profile: TypeAlias = Literal["bmg", "lnl", "dg2"]
Place: TypeAlias = Literal["plain", "page", "page_end"]

RUN_TIME_NAMES = frozenset({"DRM_FD", "FAR_FD", "NULL_FD", "RO_PTR"})
"""Names whose values are known only while a case runs."""

FILES = ("drm", "other", "far")
"""The nodes that a case can ask."""

_MODULES = (xe_drm, drm, xe_mock)
_SCALARS: dict[str, type[Any]] = {
    "u8": ctypes.c_uint8,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
}


# ---- expressions -----------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(?:(?P<number>0x[0-9a-f]+|\d+)|(?P<saved>\$\w+)|(?P<address>&\w+(?:\[\d+\])?)"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<operator><<|[-+*|~()]))",
)

Kind: TypeAlias = Literal["number", "saved", "address", "name", "operator"]


@dataclass(frozen=True, slots=True)
class Token:
    """One word of an expression; ``index`` belongs to the address of an array's element."""

    kind: Kind
    text: str
    index: int = 0


Scope: TypeAlias = Callable[[Token], int]
"""The value of a saved output, an address or a name."""


@dataclass(frozen=True, slots=True)
class Expr:
    """An integer expression."""

    tokens: tuple[Token, ...]

    @classmethod
    def parse(cls, value: int | str) -> Expr:
        """From JSON: an integer or the text of an expression."""
        if isinstance(value, int):
            sign = [Token("operator", "-")] if value < 0 else []
            return cls((*sign, Token("number", str(abs(value)))))
        return cls(tuple(_tokens(value)))

    @property
    def is_constant(self) -> bool:
        """Whether its value is known before a case runs."""
        return not any(
            token.kind in ("saved", "address") or token.text in RUN_TIME_NAMES
            for token in self.tokens
        )

    def uses(self, text: str) -> bool:
        """Whether a word occurs in it."""
        return any(token.text == text for token in self.tokens)

    def value(self, scope: Scope) -> int:
        """Its value; may be negative, as ``-1`` is."""
        words = (
            token.text if token.kind in ("number", "operator") else f"({scope(token)})"
            for token in self.tokens
        )
        # Only digits and operators are left, so nothing can be called or looked up.
        return int(eval(" ".join(words), {"__builtins__": {}}))


def _tokens(text: str) -> Iterator[Token]:
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"not an expression: {text!r}")
        at = match.end()
        word, kind = match[match.lastgroup], cast(Kind, match.lastgroup)
        if kind == "saved":
            yield Token(kind, word[1:])
        elif kind == "address":
            name, _, index = word[1:].rstrip("]").partition("[")
            yield Token(kind, name, int(index or 0))
        else:
            yield Token(kind, word)


def _header_constant(name: str) -> int | None:
    for module in _MODULES:
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None


# ---- fields ----------------------------------------------------------------------------------


def split_path(path: str) -> list[str | int]:
    """``"bind.reserved[1]"`` -> ``["bind", "reserved", 1]``."""
    parts: list[str | int] = []
    for part in path.split("."):
        name, _, index = part.rstrip("]").partition("[")
        parts.append(name)
        if index:
            parts.append(int(index))
    return parts


def field_type(struct: type[Any], path: str) -> type[Any]:
    """ctypes type of a field; KeyError when there is none of that name."""
    current = struct
    for part in split_path(path):
        if isinstance(part, int):
            if part >= current._length_:
                raise KeyError(f"{struct.__name__}.{path}")
            current = current._type_
        elif issubclass(current, Mirror) and part in current._members_:
            current = current._members_[part]
        else:
            raise KeyError(f"{struct.__name__}.{path}")
    return current


@cache
def item_type(name: str) -> type[Any]:
    """ctypes type of memory: ``u8``, ``u32``, ``u64`` or a struct of the header."""
    if name in _SCALARS:
        return _SCALARS[name]
    for module in _MODULES:
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, Struct):
            return found
    raise KeyError(name)


Fields: TypeAlias = Mapping[str, Expr]


# ---- the parts of a case ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Errno:
    """An expected answer: ``OK`` or the name of an errno."""

    name: str

    @property
    def number(self) -> int:
        """0 for OK."""
        return 0 if self.name == "OK" else int(getattr(errno, self.name))


@dataclass(frozen=True, slots=True)
class Memory:
    """An array that the argument points to: of structs (fields) or of numbers."""

    name: str
    type: str
    items: tuple[Fields | Expr, ...]
    count: int
    """Elements; those behind ``items`` are zero."""
    place: Place
    """``page``: on a page boundary; ``page_end``: nothing is mapped behind its last byte."""

    def expressions(self) -> Iterator[Expr]:
        """Everything that is put into it."""
        for item in self.items:
            yield from [item] if isinstance(item, Expr) else item.values()


@dataclass(frozen=True, slots=True)
class Out:
    """A value to be found after the call at ``path``: in ``arg`` or in memory of the call."""

    path: str
    relation: Literal["==", ">="]
    value: Expr

    @property
    def place(self) -> str:
        """``arg`` or the name of the memory."""
        return cast(str, split_path(self.path)[0])


@dataclass(frozen=True, slots=True)
class Call:
    """One ioctl: argument, memory behind it, answer."""

    label: str
    ioctl: str
    struct: type[Struct]
    file: str
    """Which of the case's open files: ``drm``, or ``other`` for a second one."""
    fields: Fields
    memory: tuple[Memory, ...]
    errno: Errno
    out: tuple[Out, ...]
    save: str
    """Output field that later calls know as ``$label``; empty: none."""

    def expressions(self) -> Iterator[Expr]:
        """Everything that goes into the call."""
        yield from self.fields.values()
        for memory in self.memory:
            yield from memory.expressions()


@dataclass(frozen=True, slots=True)
class Control:
    """A line written to a control file of the mock."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class OpenToken:
    """Turn a token into a descriptor, ``$label``."""

    label: str
    token: Expr


@dataclass(frozen=True, slots=True)
class Close:
    """Close a descriptor that `OpenToken` made."""

    fd: Expr


Step: TypeAlias = Call | Control | OpenToken | Close


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the specification."""

    id: str
    row: str
    """``section/row``, as in ``tables``."""
    profiles: tuple[Profile, ...]
    setup: tuple[Step, ...]
    call: Call | None
    """The ioctl under test; None only in blocked cases."""
    then: tuple[Step, ...]
    """What must hold afterwards."""
    blocked_by: str
    """What must be there before it can be reached; empty: it can."""
    reason: str

    def steps(self) -> Iterator[Step]:
        """All of them, in order."""
        yield from self.setup
        if self.call is not None:
            yield self.call
        yield from self.then


@dataclass(frozen=True, slots=True)
class ErrnoVectors:
    """The whole file."""

    vram: int
    """Bytes of VRAM that the device must be made with, where it has any."""
    system: int
    """Bytes of system memory."""
    names: Mapping[str, Expr]
    tables: Mapping[str, tuple[str, ...]]
    """Section of the specification -> its rows."""
    subjects: Mapping[str, str]
    """What blocks cases -> the issue that brings it."""
    cases: tuple[Case, ...]

    def reachable(self, profile: Profile) -> list[Case]:
        """The cases that a device of this profile can be asked."""
        return [case for case in self.cases if profile in case.profiles and not case.blocked_by]

    def constant(self, token: Token) -> int:
        """The value of a name; `Scope` of expressions that are constant."""
        if token.text in self.names:
            return self.names[token.text].value(self.constant)
        value = _header_constant(token.text)
        if token.kind != "name" or value is None:
            raise ValueError(f"no constant {token.text}")
        return value


# ---- reading ---------------------------------------------------------------------------------


@cache
def load_errno(path: Path = _HERE / "errno_memory.json") -> ErrnoVectors:
    """Read and check the file."""
    data = json.loads(path.read_text(), object_pairs_hook=_no_duplicates)
    parts = ("bases", "structs", "steps", "cases")
    _known(data, "format", "device", "names", "tables", "subjects", *parts)
    if data["format"] != 1:
        raise ValueError(f"{path} has format {data['format']}")
    reader = _Reader(data)
    vectors = ErrnoVectors(
        vram=data["device"]["vram"],
        system=data["device"]["system"],
        names={name: Expr.parse(value) for name, value in data["names"].items()},
        tables={name: tuple(rows.split()) for name, rows in data["tables"].items()},
        subjects=data["subjects"],
        cases=tuple(reader.case(raw) for raw in data["cases"]),
    )
    _check(vectors)
    return vectors


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError(f"a key occurs twice among {[key for key, _ in pairs]}")
    return table


def _known(raw: Mapping[str, Any], *keys: str) -> None:
    if unknown := set(raw) - set(keys):
        raise ValueError(f"unknown keys {sorted(unknown)} in {raw}")


class _Reader:
    """Puts bases, steps and overrides together."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._bases = data["bases"]
        self._structs = data["structs"]
        self._steps = data["steps"]

    def case(self, raw: dict[str, Any]) -> Case:
        _known(
            raw,
            *("id", "row", "profile", "setup", "base", "set", "memory", "file", "errno", "out"),
            *("then", "blocked_by", "reason"),
        )
        if ("blocked_by" in raw) != ("reason" in raw):
            raise ValueError(f"{raw['id']}: blocked_by and reason belong together")
        profile = raw.get("profile", "both")
        call = None
        setup: list[Any] = raw.get("setup", [])
        if "base" in raw:
            keys = ("base", "set", "memory", "file", "errno", "out")
            call = self._call("arg", {key: raw[key] for key in keys if key in raw})
            setup = raw.get("setup", self._base(raw["base"]).get("setup", []))
        return Case(
            id=raw["id"],
            row=raw["row"],
            profiles=("bmg", "lnl") if profile == "both" else (profile,),
            setup=tuple(self._step(step) for step in setup),
            call=call,
            then=tuple(self._step(step) for step in raw.get("then", [])),
            blocked_by=raw.get("blocked_by", ""),
            reason=raw.get("reason", ""),
        )

    def _base(self, name: str) -> dict[str, Any]:
        """A base with all that it extends."""
        raw = self._bases[name]
        _known(raw, "ioctl", "extends", "set", "memory", "setup")
        below = self._base(raw["extends"]) if "extends" in raw else {}
        return {
            **below,
            **raw,
            "set": {**below.get("set", {}), **raw.get("set", {})},
            "memory": {**below.get("memory", {}), **raw.get("memory", {})},
        }

    def _call(self, label: str, raw: Mapping[str, Any]) -> Call:
        _known(raw, "base", "set", "memory", "file", "errno", "out", "save")
        base = self._base(raw["base"])
        struct = registry.BY_NAME[base["ioctl"]].struct
        assert struct is not None
        memory = dict(base["memory"])
        for name, value in raw.get("memory", {}).items():
            memory[name] = {**memory.get(name, {}), **value}
        fields = _fields(struct, {**base["set"], **raw.get("set", {})})
        out = tuple(_out(path, value) for path, value in raw.get("out", {}).items())
        used = _used([*fields.values()], [self._memory(*item) for item in memory.items()], out)
        if idle := set(raw.get("memory", {})) - {item.name for item in used}:
            raise ValueError(f"nothing points to {sorted(idle)} in {raw}")
        return Call(
            label=label,
            ioctl=base["ioctl"],
            struct=struct,
            file=raw.get("file", "drm"),
            fields=fields,
            memory=used,
            errno=Errno(raw.get("errno", "OK")),
            out=out,
            save=raw.get("save", ""),
        )

    def _memory(self, name: str, raw: Mapping[str, Any]) -> Memory:
        _known(raw, "type", "items", "count", "place", "chain", "end")
        items: list[Any] = raw.get("items", [])
        if "chain" in raw:
            items = _chain(name, items[0], raw["chain"], raw.get("end", 0))
        ctype = item_type(raw["type"])
        return Memory(
            name=name,
            type=raw["type"],
            items=tuple(self._item(ctype, item) for item in items),
            count=raw.get("count", len(items)),
            place=raw.get("place", "plain"),
        )

    def _item(self, ctype: type[Any], raw: Any) -> Fields | Expr:
        if not isinstance(raw, Mapping):
            return Expr.parse(raw)
        fields = dict(raw)
        base = fields.pop("base", None)
        return _fields(ctype, {**(self._structs[base] if base else {}), **fields})

    def _step(self, raw: str | dict[str, Any]) -> Step:
        if isinstance(raw, str):
            named = self._steps[raw]
            raw = {"step": raw} if "base" in named else named
        if "control" in raw:
            _known(raw, "control", "text")
            return Control(raw["control"], raw["text"])
        if "open_token" in raw:
            _known(raw, "open_token", "as")
            return OpenToken(raw["as"], Expr.parse(raw["open_token"]))
        if "close" in raw:
            _known(raw, "close")
            return Close(Expr.parse(raw["close"]))
        return self._named_step(raw)

    def _named_step(self, raw: dict[str, Any]) -> Call:
        fields = {key: value for key, value in raw.items() if key not in ("step", "as")}
        if "step" not in raw:
            return self._call(raw["as"], fields)
        named = self._steps[raw["step"]]
        merged = {**named, **fields, "set": {**named.get("set", {}), **fields.get("set", {})}}
        return self._call(raw.get("as", raw["step"]), merged)


def _used(reached: list[Expr], memory: list[Memory], out: tuple[Out, ...]) -> tuple[Memory, ...]:
    """The memory that the argument leads to; a case may have turned a base's pointer away."""
    names: set[str] = set()
    while reached:
        found = {t.text for expr in reached for t in expr.tokens if t.kind == "address"} - names
        names |= found
        reached = [expr for item in memory if item.name in found for expr in item.expressions()]
    names |= {item.place for item in out}
    return tuple(item for item in memory if item.name in names)


def _fields(struct: type[Any], raw: Mapping[str, Any]) -> Fields:
    for path in raw:
        field_type(struct, path)
    return {path: Expr.parse(value) for path, value in raw.items()}


def _chain(name: str, item: Mapping[str, Any], length: int, end: int | str) -> list[Any]:
    """Extensions, each of which points to the next one and the last one to ``end``."""
    following = [*(f"&{name}[{index}]" for index in range(1, length)), end]
    return [{**item, "base.next_extension": address} for address in following]


def _out(path: str, value: int | str) -> Out:
    if isinstance(value, str) and value.startswith(">="):
        return Out(path, ">=", Expr.parse(value.removeprefix(">=")))
    return Out(path, "==", Expr.parse(value))


# ---- checks of the data ----------------------------------------------------------------------


def _check(vectors: ErrnoVectors) -> None:
    seen: set[str] = set()
    for case in vectors.cases:
        if case.id in seen:
            raise ValueError(f"two cases are called {case.id}")
        seen.add(case.id)
        section, _, row = case.row.rpartition("/")
        if row not in vectors.tables.get(section, ()):
            raise ValueError(f"{case.id}: no row {case.row}")
        try:
            _check_case(vectors, case)
        except (KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"{case.id}: {error}") from error


def _check_case(vectors: ErrnoVectors, case: Case) -> None:
    if case.blocked_by and case.blocked_by not in vectors.subjects:
        raise ValueError(f"no subject {case.blocked_by}")
    if case.call is None and not case.blocked_by:
        raise ValueError("a case that can be reached needs an ioctl")
    known: set[str] = set()
    for step in case.steps():
        if isinstance(step, Call):
            _check_call(vectors, step, known)
        if isinstance(step, (Call, OpenToken)):
            if step.label in known:
                raise ValueError(f"two steps are called {step.label}")
            known.add(step.label)


def _check_call(vectors: ErrnoVectors, call: Call, saved: set[str]) -> None:
    if call.file not in FILES:
        raise ValueError(f"no file {call.file}")
    memory = {item.name for item in call.memory}
    for expr in [*call.expressions(), *(out.value for out in call.out)]:
        for token in expr.tokens:
            if token.kind == "saved" and token.text not in saved:
                raise ValueError(f"no earlier step {token.text}")
            if token.kind == "address" and token.text not in memory:
                raise ValueError(f"no memory {token.text}")
            if token.kind == "name" and token.text not in RUN_TIME_NAMES:
                vectors.constant(token)
    _ = call.errno.number
    if call.save:
        field_type(call.struct, call.save)
    for out in call.out:
        if out.place not in {"arg", *memory}:
            raise ValueError(f"no place {out.path}")
