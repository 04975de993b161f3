"""Ask the C compiler for sizes, offsets and constants of the headers that uapi/ mirrors.

Usage, from the top of the tree::

    python tests/uapi/make_golden.py            write tests/vectors/uapi_layout.json
    python tests/uapi/make_golden.py --check    only tell whether the file is up to date

The names are read from the headers' text, not from the mirrors, so a mirror that lacks one shows.
Of ``drm.h`` only what xe-mock takes part in is kept; the other headers are whole.
The compiler and Linux 7.2's headers come with the ziglang package.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

TOP = Path(__file__).resolve().parents[2]
GOLDEN = TOP / "tests" / "vectors" / "uapi_layout.json"

if __name__ == "__main__":  # under pytest its configuration sees to this
    sys.path.insert(0, str(TOP))

from tests.c_compiler import compile_c, kernel_headers  # noqa: E402
from uapi import dma_buf, drm, sync_file, xe_drm  # noqa: E402
from uapi.base import Struct, Union  # noqa: E402

#: Mirrors by header, and the mirrors that have no original of their name.
MODULES: dict[str, ModuleType] = {
    "xe_drm": xe_drm,
    "drm": drm,
    "dma_buf": dma_buf,
    "sync_file": sync_file,
}
HEADERS = {
    "xe_drm": ("drm/xe_drm.h",),
    "drm": ("drm/drm.h", "drm/drm_mode.h"),
    "dma_buf": ("linux/dma-buf.h",),
    "sync_file": ("linux/sync_file.h",),
}
OWN_NAMES = {"drm_mode_rmfb_arg", "sw_sync_create_fence_data", "sw_sync_inc"}
OWN_CONSTANTS = re.compile(r"SW_SYNC_\w+")

#: Constants of drm.h and drm_mode.h that count.
DRM_CONSTANTS = re.compile(
    r"DRM_(CAP|PRIME_CAP|CLIENT_CAP|SYNCOBJ|CRTC_SEQUENCE|EVENT|COMMAND|CLIENT_NAME|IOCTL)_\w+"
    r"|_DRM_VBLANK_\w+|DRM_RDWR|DRM_CLOEXEC"
)
#: Core numbers whose ioctls are gone (drm-core.md 1.2).
HOLES = {
    *(0x03, 0x04, 0x08, 0x0E, 0x0F, 0x3D, 0x3E),
    *range(0x14, 0x1E),
    *range(0x20, 0x27),
    *range(0x29, 0x2C),
    *range(0x2F, 0x3A),
}

# --- what the mirrors say ------------------------------------------------------------------


def mirrors(module: ModuleType) -> dict[str, type[Struct]]:
    """The structs a mirror module defines under the header's names."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Struct)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and name not in OWN_NAMES
    }


def mirror_constants(module: ModuleType) -> dict[str, int]:
    """The integer constants a mirror module defines."""
    own = {
        name: value
        for name, value in vars(module).items()
        if re.fullmatch(r"_?[A-Z][A-Z0-9_]+", name)
        and isinstance(value, int)
        and not OWN_CONSTANTS.fullmatch(name)
    }
    if module is not drm:
        own = {name: value for name, value in own.items() if not hasattr(drm, name)}
    return own


def mirror_fields(cls: type[Any], base: int = 0, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path -> [offset, size], the way C reaches the fields."""
    anonymous = getattr(cls, "_anonymous_", ())
    for name, ctype in cls._fields_:
        offset = base + getattr(cls, name).offset
        if name in anonymous:
            yield from mirror_fields(ctype, offset, prefix)
            continue
        yield prefix + name, [offset, ctypes.sizeof(ctype)]
        if issubclass(ctype, (Struct, Union)) and ctype.__name__.startswith("_"):
            yield from mirror_fields(ctype, offset, f"{prefix}{name}.")


def mirror_table(module: ModuleType) -> dict[str, Any]:
    """All a mirror module says, in the shape of a header's part of the golden table."""
    return {
        "structs": {
            name: {"size": ctypes.sizeof(cls), "fields": dict(mirror_fields(cls))}
            for name, cls in mirrors(module).items()
        },
        "constants": mirror_constants(module),
        "enums": {tag: list(table) for tag, table in getattr(module, "ENUMS", {}).items()},
        "strings": {
            name: {str(key): text for key, text in value.items()}
            for name, value in vars(module).items()
            if name.startswith("DRM_XE_RAS_") and isinstance(value, dict)
        },
    }


# --- what the header says ------------------------------------------------------------------


@dataclass(slots=True)
class Header:
    """Names found in the text of a header."""

    constants: list[str] = field(default_factory=list)
    enums: dict[str, list[str]] = field(default_factory=dict)
    structs: dict[str, list[str]] = field(default_factory=dict)  # "struct x" -> field paths
    initialisers: list[str] = field(default_factory=list)  # macros that fill string arrays


def parse(text: str) -> Header:
    """Read the names out of a header."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S).replace("\\\n", " ")
    found = Header()
    for name, value in re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S.*)$", text, re.M):
        (found.initialisers if value.startswith("{") else found.constants).append(name)
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.M)
    for tag, body in re.findall(r"\benum\s+(\w+)\s*\{([^}]*)\}", text):
        found.enums[tag] = re.findall(r"(\w+)\s*(?:=[^,]*)?(?:,|\s*$)", body.strip())
    for match in re.finditer(r"^(struct|union)\s+(\w+)\s*\{", text, re.M):
        body = text[match.end() : _closing(text, match.end())]
        found.structs[f"{match[1]} {match[2]}"] = list(_paths(body, ""))
    return found


def _closing(text: str, start: int) -> int:
    """Position of the brace that closes the one just before ``start``."""
    depth = 1
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return match.start()
    raise ValueError("unbalanced braces")


def _paths(body: str, prefix: str) -> Iterator[str]:
    """Field paths of a struct's body. A flexible array's path ends in ``[]``."""
    at = 0
    declaration = re.compile(r"\s*(?:struct|union)?\s*(\{)|\s*([^;{}]+);")
    while match := declaration.match(body, at):
        if match[1]:
            end = _closing(body, match.end())
            inner = body[match.end() : end]
            tail = re.compile(r"\}\s*(\w*)\s*(\[[^]]*\])?\s*;").match(body, end)
            assert tail, body[end : end + 40]
            at = tail.end()
            if not tail[1]:
                yield from _paths(inner, prefix)
                continue
            yield prefix + tail[1]
            if not tail[2]:
                yield from _paths(inner, f"{prefix}{tail[1]}.")
        else:
            at = match.end()
            name = re.search(r"(\w+)\s*(\[\s*\])?(?:\[[^]]*\])*\s*$", match[2])
            assert name, match[2]
            yield prefix + name[1] + ("[]" if name[2] else "")


def header(part: str) -> Header:
    """Names of one part of the table that count."""
    whole = Header()
    for path in HEADERS[part]:
        one = parse((kernel_headers() / path).read_text(encoding="utf-8"))
        whole.constants += one.constants
        whole.enums |= one.enums
        whole.structs |= one.structs
        whole.initialisers += one.initialisers
    if part == "drm":
        everything = [*whole.constants, *(name for body in whole.enums.values() for name in body)]
        whole.constants = [name for name in everything if DRM_CONSTANTS.fullmatch(name)]
        whole.enums = {}
        whole.initialisers = []
        kept = mirrors(drm)
        whole.structs = {
            name: paths for name, paths in whole.structs.items() if name.split()[1] in kept
        }
    return whole


# --- what the compiler says ----------------------------------------------------------------

_PROLOGUE = """\
#include <stddef.h>
#include <stdio.h>
#include <fcntl.h>
#include <linux/version.h>
#include <drm/drm.h>
#include <drm/drm_mode.h>
#include <drm/xe_drm.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#define SIZE(part, t) printf("%s size %s %zu\\n", part, #t, sizeof(t));
#define FIELD(part, t, f) printf("%s field %s %s %zu %zu\\n", part, #t, #f, offsetof(t, f), \\
    sizeof(((t *)0)->f));
#define FLEXIBLE(part, t, f) printf("%s field %s %s %zu 0\\n", part, #t, #f, offsetof(t, f));
#define NUMBER(part, c) printf((c) < 0 ? "%s constant %s %lld\\n" : "%s constant %s %llu\\n", \\
    part, #c, (unsigned long long)(c));
#define STRINGS(part, c) { static const char *const s[] = c; \\
    for (size_t i = 0; i < sizeof(s) / sizeof(s[0]); i++) \\
        if (s[i]) printf("%s string %s %zu %s\\n", part, #c, i, s[i]); }
int main(void) {
printf("- version - %d\\n", LINUX_VERSION_CODE);
"""


def program(headers: dict[str, Header]) -> str:
    """C program that prints the table's numbers, a line each."""
    lines = [_PROLOGUE]
    for part, names in headers.items():
        enumerators = [name for body in names.enums.values() for name in body]
        numbers = dict.fromkeys((*names.constants, *enumerators))
        lines += [f'NUMBER("{part}", {name})' for name in numbers]
        lines += [f'STRINGS("{part}", {name})' for name in names.initialisers]
        for struct, paths in names.structs.items():
            lines.append(f'SIZE("{part}", {struct})')
            for path in paths:
                macro = "FLEXIBLE" if path.endswith("[]") else "FIELD"
                lines.append(f'{macro}("{part}", {struct}, {path.removesuffix("[]")})')
    return "\n".join([*lines, "return 0; }", ""])


def run_c(source: str) -> str:
    """Compile and run a C program."""
    with tempfile.TemporaryDirectory(prefix="xe-mock-golden-") as scratch:
        binary = Path(scratch) / "golden"
        text = Path(scratch) / "golden.c"
        text.write_text(source, encoding="utf-8")
        compile_c(text, binary, "-w")
        result = subprocess.run([str(binary)], check=True, capture_output=True, text=True)
    return result.stdout


def golden() -> dict[str, Any]:
    """The golden table, freshly made."""
    headers = {part: header(part) for part in HEADERS}
    table: dict[str, Any] = {"linux_version_code": 0} | {
        part: {"structs": {}, "constants": {}, "enums": names.enums, "strings": {}}
        for part, names in headers.items()
    }
    for line in run_c(program(headers)).splitlines():
        part, kind, rest = line.split(" ", 2)
        _KINDS[kind](table, part, rest)
    return table


def _version(table: dict[str, Any], _part: str, rest: str) -> None:
    table["linux_version_code"] = int(rest.split()[1])


def _struct_size(table: dict[str, Any], part: str, rest: str) -> None:
    _, name, size = rest.split()
    table[part]["structs"][name] = {"size": int(size), "fields": {}}


def _struct_field(table: dict[str, Any], part: str, rest: str) -> None:
    _, name, path, offset, size = rest.split()
    table[part]["structs"][name]["fields"][path] = [int(offset), int(size)]


def _constant(table: dict[str, Any], part: str, rest: str) -> None:
    name, value = rest.split()
    number = int(value)
    if not (part == "drm" and re.match("DRM_IOCTL_[^B]", name) and (number & 0xFF) in HOLES):
        table[part]["constants"][name] = number


def _string(table: dict[str, Any], part: str, rest: str) -> None:
    name, index, text = rest.split(" ", 2)
    table[part]["strings"].setdefault(name, {})[index] = text


_KINDS = {
    "version": _version,
    "size": _struct_size,
    "field": _struct_field,
    "constant": _constant,
    "string": _string,
}


def render(table: dict[str, Any]) -> str:
    """The table as JSON, a struct or constant per line."""
    text = json.dumps(table, indent=1, ensure_ascii=False)
    # Offset and size of a field stay on its line.
    return re.sub(r"\[\s+(-?\d+),\s+(-?\d+)\s+\]", r"[\1, \2]", text) + "\n"


def main() -> int:
    """Write the table or, with --check, compare."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="compare, write nothing")
    check = arguments.parse_args().check
    text = render(golden())
    if not check:
        GOLDEN.write_text(text, encoding="utf-8")
        return 0
    if GOLDEN.read_text(encoding="utf-8") == text:
        return 0
    print(f"{GOLDEN} is not what the headers say", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
