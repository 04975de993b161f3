"""The mirrors against the golden table, which the C compiler made of the real headers."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import pytest

from tests.uapi.make_golden import GOLDEN, MODULES, mirror_table, mirrors
from uapi import drm, xe_drm

TABLE: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
PARTS = list(MODULES)
STRUCTS = [(part, name) for part in PARTS for name in TABLE[part]["structs"]]
MIRRORED = {part: mirror_table(module) for part, module in MODULES.items()}


def test_table_is_of_linux_7_2() -> None:
    assert TABLE["linux_version_code"] == 7 << 16 | 2 << 8


@pytest.mark.parametrize("part", PARTS)
def test_no_struct_is_missing_or_invented(part: str) -> None:
    assert set(MIRRORED[part]["structs"]) == set(TABLE[part]["structs"])


@pytest.mark.parametrize(("part", "name"), STRUCTS)
def test_struct_has_the_compilers_layout(part: str, name: str) -> None:
    assert MIRRORED[part]["structs"][name] == TABLE[part]["structs"][name]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["constants", "enums", "strings"])
def test_names_and_values(part: str, kind: str) -> None:
    assert MIRRORED[part][kind] == TABLE[part][kind]


@pytest.mark.parametrize("part", PARTS)
def test_every_mirror_tells_what_it_is(part: str) -> None:
    undocumented = [n for n, cls in mirrors(MODULES[part]).items() if "__doc__" not in vars(cls)]
    assert not undocumented


def test_enumerators_are_in_their_enums() -> None:
    for members in xe_drm.ENUMS.values():
        assert members == {name: getattr(xe_drm, name) for name in members}


def test_flexible_arrays_start_where_the_struct_ends() -> None:
    flexible = [
        (cls, field.name)
        for cls in mirrors(xe_drm).values()
        for field in cls._own_fields_
        if issubclass(field.ctype, ctypes.Array) and ctypes.sizeof(field.ctype) == 0
    ]
    assert len(flexible) == 8
    for cls, name in flexible:
        assert getattr(cls, name).offset == ctypes.sizeof(cls)


def test_members_of_unnamed_unions_are_reached_as_in_c() -> None:
    madvise = xe_drm.drm_xe_madvise()
    madvise.purge_state_val.val = 1
    assert bytes(madvise)[32] == 1
    bind = xe_drm.drm_xe_vm_bind()
    bind.bind.obj_offset = 0x1234
    assert bind.bind.userptr == 0x1234
    bind.vector_of_binds = 7
    assert bind.bind.extensions == 7
    sync = xe_drm.drm_xe_sync()
    sync.addr = 0x1_0000_0002
    assert sync.handle == 2
    vblank = drm.drm_wait_vblank()
    vblank.request.sequence = 5
    assert vblank.reply.sequence == 5
