"""The golden table and the mirrors against the real headers and a C compiler."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from typing import Any

import pytest

from tests.c_compiler import kernel_headers
from tests.uapi import make_golden
from uapi import dma_buf, xe_drm

pytestmark = [pytest.mark.header, pytest.mark.timeout(900)]  # the first run builds a C library


@pytest.fixture(scope="module", autouse=True)
def _ziglang() -> None:
    if importlib.util.find_spec("ziglang") is not None:
        return
    if "header" in os.environ.get("XE_MOCK_REQUIRE", ""):
        pytest.fail("XE_MOCK_REQUIRE wants the header tests, but ziglang cannot be imported")
    pytest.skip("ziglang is not installed: no C compiler, no headers")


@pytest.fixture(scope="module")
def fresh(_ziglang: None) -> dict[str, Any]:
    return make_golden.golden()


def header_text(path: str) -> str:
    text = (kernel_headers() / path).read_text(encoding="utf-8")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def test_golden_table_is_up_to_date(fresh: dict[str, Any]) -> None:
    assert make_golden.render(fresh) == make_golden.GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("part", list(make_golden.MODULES))
def test_mirrors_agree_with_the_compiler(part: str, fresh: dict[str, Any]) -> None:
    mirrored = json.loads(json.dumps(make_golden.mirror_table(make_golden.MODULES[part])))
    assert mirrored == fresh[part]


@pytest.mark.parametrize(
    ("path", "module"), [("drm/xe_drm.h", xe_drm), ("linux/dma-buf.h", dma_buf)]
)
@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"^\s*struct\s+(\w+)\s*\{", id="structs"),
        pytest.param(r"^\s*#\s*define\s+(\w+)[ \t]+\S", id="defines"),
        # Enumerators: upper case at the start of a line of an enum, the header's habit.
        pytest.param(r"^\s+([A-Z]\w+)\s*(?:=[^,\n]+)?,?[ \t]*$", id="enumerators"),
    ],
)
def test_every_name_of_the_header_is_mirrored(path: str, module: Any, pattern: str) -> None:
    # Much simpler than make_golden's parser, so that a fault of that one does not hide a name.
    names = set(re.findall(pattern, header_text(path), re.M))
    assert names or (pattern.startswith(r"^\s+([A-Z]") and module is dma_buf)
    assert {name for name in names if not hasattr(module, name)} == set()


def test_every_enum_of_the_header_is_mirrored() -> None:
    assert set(re.findall(r"\benum\s+(\w+)\s*\{", header_text("drm/xe_drm.h"))) == set(xe_drm.ENUMS)


def test_parser_reads_what_c_allows() -> None:
    parsed = make_golden.parse(
        """
        #define A 1 /* one */
        #define NAMES { "x", \\
                        "y" }
        #define CALL(x) (x)
        enum tag { FIRST, SECOND = 5, };
        struct s {
        #define INSIDE 3
            __u32 a, b[2];
            union { __u64 c; struct { __u8 d; } e; };
            struct { int f; } g[4];
            char *h;
            struct s2 i;
            __u8 j[];
        };
        """.replace("\n        ", "\n").replace("__u32 a, b[2]", "__u32 a; __u32 b[2]")
    )
    assert parsed.constants == ["A", "INSIDE"]
    assert parsed.initialisers == ["NAMES"]
    assert parsed.enums == {"tag": ["FIRST", "SECOND"]}
    assert parsed.structs == {"struct s": ["a", "b", "c", "e", "e.d", "g", "h", "i", "j[]"]}
