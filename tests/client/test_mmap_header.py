"""The C header that the package ships: it compiles, says what the mirrors say, and maps memory."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.c_compiler import compile_c
from tests.node.fake_mount import eventually
from uapi import xe_mock
from uapi.base import Struct
from uapi.registry import MOCK
from xedev.testing.target import MountTarget

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # the first run builds a C library

HEADER = Path(str(resources.files("uapi"))) / "xe_mock.h"
INCLUDE = ("-I", str(HEADER.parent))
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-D_POSIX_C_SOURCE=200809L")
CLIENT = Path(__file__).with_name("mmap_client.c")
ONLY_IN_C = {"xe_mock_mapping"}

USE_ALL = """
#include "xe_mock.h"
#include "xe_mock.h"

int main(void)
{
    struct xe_mock_mapping mapping;

    return xe_mock_map(&mapping, NULL, 1, PROT_READ, MAP_SHARED, 0, 0) || xe_mock_unmap(&mapping);
}
"""


LAYOUT = """
#include "xe_mock.h"

#define ROW(name, value) printf("\\"%s\\": %llu,", name, (unsigned long long)(value));

int main(void)
{
    printf("{");
    @ROWS@
    puts("\\"\\": 0}");
    return 0;
}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "use_all.c"
    path.write_text(USE_ALL)
    return path


# ---- the compiler's opinion ------------------------------------------------------------------


@pytest.mark.parametrize("standard", ["c99", "c11"])
def test_it_is_strict_c(source: Path, standard: str) -> None:
    compile_c(source, source.with_suffix(""), *INCLUDE, f"-std={standard}", *STRICT)


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_it_is_cplusplus(source: Path, standard: str) -> None:
    command = (sys.executable, "-m", "ziglang", "c++", "-xc++", f"-std={standard}", "-c")
    files = ("-o", str(source.with_suffix(".o")), str(source))
    subprocess.run([*command, *INCLUDE, *STRICT, *files], check=True, stdin=subprocess.DEVNULL)


# ---- layout ----------------------------------------------------------------------------------


def header_structs() -> set[str]:
    return set(re.findall(r"^struct (\w+) \{", HEADER.read_text(), re.M)) - ONLY_IN_C


def header_constants() -> set[str]:
    """Macros with a value that is a number."""
    names = set(re.findall(r"^#define (XE_MOCK_\w+)[ \t\\]+\S", HEADER.read_text(), re.M))
    return {name for name in names if isinstance(getattr(xe_mock, name), int)}


def mirror(name: str) -> type[Struct]:
    found: type[Struct] = getattr(xe_mock, name)
    return found


def mirrored_layout() -> dict[str, int]:
    table = {name: getattr(xe_mock, name) for name in header_constants()}
    for name in header_structs():
        struct = mirror(name)
        table[name] = ctypes.sizeof(struct)
        for field in struct._own_fields_:
            descriptor = getattr(struct, field.name)
            table[f"{name}.{field.name}"] = descriptor.offset
            table[f"{name}.{field.name} size"] = descriptor.size
    return table


def layout_program() -> str:
    rows = [(name, name) for name in header_constants()]
    for name in header_structs():
        rows.append((name, f"sizeof(struct {name})"))
        for field in mirror(name)._own_fields_:
            rows.append((f"{name}.{field.name}", f"offsetof(struct {name}, {field.name})"))
            size = f"sizeof(((struct {name} *)0)->{field.name})"
            rows.append((f"{name}.{field.name} size", size))
    return LAYOUT.replace("@ROWS@", "\n".join(f'ROW("{key}", {value})' for key, value in rows))


def test_structs_and_numbers_are_the_mirrors(tmp_path: Path) -> None:
    source, binary = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(layout_program())
    compile_c(source, binary, *INCLUDE)
    ran = subprocess.run([binary], check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout) == {"": 0, **mirrored_layout()}


def test_every_private_ioctl_is_there() -> None:
    assert {row.name for row in MOCK.values()} <= header_constants()
    assert {row.struct.__name__ for row in MOCK.values() if row.struct} == header_structs()


def test_the_directory_of_tokens() -> None:
    assert f'XE_MOCK_FD_DIR\t\t"{xe_mock.XE_MOCK_FD_DIR}"' in HEADER.read_text()


# ---- a client --------------------------------------------------------------------------------


@pytest.mark.fuse
def test_a_client_in_c_maps_memory(tmp_path: Path, xe_target: Callable[..., Any]) -> None:
    target = xe_target("ioctl")
    assert isinstance(target, MountTarget)
    binary = tmp_path / "client"
    compile_c(CLIENT, binary, *INCLUDE, "-Wall", "-Wextra", "-Werror")
    client = subprocess.Popen(
        [binary, target.node()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "mapped\n"
        assert eventually(lambda: len(target.state()["bos"]) == 1)
        client.stdin.write("\n")
        client.stdin.flush()
        assert client.stdout.readline() == "unmapped\n"
        assert eventually(lambda: not target.state()["bos"])
        client.stdin.write("\n")
    assert client.returncode == 0
