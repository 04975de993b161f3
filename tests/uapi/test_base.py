"""The base classes: repr, asdict, equality, construction by keyword."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.uapi.make_golden import MODULES, mirrors
from uapi import drm, xe_drm
from uapi.base import Struct, layout, u32
from uapi.xe_drm import (
    drm_xe_device_query,
    drm_xe_ext_set_property,
    drm_xe_madvise,
    drm_xe_oa_config,
    drm_xe_sync,
    drm_xe_vm_bind,
    drm_xe_vm_bind_op,
)

ALL = [cls for module in MODULES.values() for cls in mirrors(module).values()]

REPRS = [
    (
        drm_xe_madvise(
            vm_id=1,
            start=0x1000,
            range=0x2000,
            type=xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE,
            purge_state_val={"val": 1, "retained_ptr": 0x7F00},
        ),
        "drm_xe_madvise(start=0x1000, range=0x2000, vm_id=1, "
        "type=DRM_XE_VMA_ATTR_PURGEABLE_STATE, purge_state_val="
        "(val=DRM_XE_VMA_PURGEABLE_STATE_DONTNEED, retained_ptr=0x7f00))",
    ),
    (
        drm_xe_madvise(type=1, atomic={"val": 9, "pad": 4}),
        "drm_xe_madvise(start=0x0, range=0x0, vm_id=0, type=DRM_XE_MEM_RANGE_ATTR_ATOMIC, "
        "atomic=(val=9, pad=4))",
    ),
    (
        drm_xe_madvise(preferred_mem_loc={"devmem_fd": -1}),
        "drm_xe_madvise(start=0x0, range=0x0, vm_id=0, "
        "type=DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC, preferred_mem_loc="
        "(devmem_fd=DRM_XE_PREFERRED_LOC_DEFAULT_SYSTEM, "
        "migration_policy=DRM_XE_MIGRATE_ALL_PAGES, region_instance=0))",
    ),
    (
        drm_xe_madvise(type=77, pat_index={"val": 0x102}),
        "drm_xe_madvise(start=0x0, range=0x0, vm_id=0, type=77, "
        "_u=0x00000000000000000000000000000102)",
    ),
    (
        drm_xe_vm_bind(vm_id=3, num_binds=2, vector_of_binds=0xAB, syncs=0xCD, reserved=[0, 1]),
        "drm_xe_vm_bind(vm_id=3, exec_queue_id=0, num_binds=2, vector_of_binds=0xab, "
        "num_syncs=0, syncs=0xcd, reserved=[0, 1])",
    ),
    (
        drm_xe_vm_bind_op(
            op=xe_drm.DRM_XE_VM_BIND_OP_MAP_USERPTR, userptr=0x10, flags=0x80000005, pad2=6
        ),
        "drm_xe_vm_bind_op(obj=0, pat_index=0, userptr=0x10, range=0x0, addr=0x0, "
        "op=DRM_XE_VM_BIND_OP_MAP_USERPTR, "
        "flags=DRM_XE_VM_BIND_FLAG_READONLY|DRM_XE_VM_BIND_FLAG_NULL|0x80000000, "
        "prefetch_mem_region_instance=0, pad2=6)",
    ),
    (
        drm_xe_sync(type=1, flags=1, handle=5, timeline_value=9),
        "drm_xe_sync(type=DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ, flags=DRM_XE_SYNC_FLAG_SIGNAL, "
        "handle=5, timeline_value=9)",
    ),
    (
        drm_xe_ext_set_property(base={"name": 1, "next_extension": 0x40}, property=2, value=3),
        "drm_xe_ext_set_property(base=drm_xe_user_extension(next_extension=0x40, name=1), "
        "property=2, value=3)",
    ),
    (xe_drm.drm_xe_query_config(num_params=5), "drm_xe_query_config(num_params=5)"),
    (drm_xe_oa_config(uuid="abc"), "drm_xe_oa_config(uuid='abc', n_regs=0, regs_ptr=0x0)"),
    (
        drm.drm_prime_handle(handle=1, flags=drm.DRM_CLOEXEC | drm.DRM_RDWR, fd=-1),
        "drm_prime_handle(handle=1, flags=DRM_RDWR|DRM_CLOEXEC, fd=-1)",
    ),
]


@pytest.mark.parametrize(("value", "text"), REPRS, ids=lambda x: "" if isinstance(x, str) else None)
def test_repr(value: Struct, text: str) -> None:
    assert repr(value) == text


def test_asdict_names_the_member_meant() -> None:
    query = drm_xe_device_query(query=2, size=8, data=16)
    assert query.asdict() == {
        "extensions": 0,
        "query": 2,
        "size": 8,
        "data": 16,
        "reserved": [0, 0],
    }
    bind = drm_xe_vm_bind(num_binds=1, bind=drm_xe_vm_bind_op(obj=4)).asdict()
    assert bind["bind"]["obj"] == 4
    assert "vector_of_binds" not in bind
    assert drm_xe_oa_config(uuid=b"x").asdict()["uuid"] == "x"
    assert drm.drm_stats(data=[{"value": 3}]).asdict()["data"][0] == {"value": 3, "type": 0}


@pytest.mark.parametrize("cls", ALL)
@settings(max_examples=30)
@given(data=st.data())
def test_any_bytes_can_be_shown_and_read_back(cls: type[Struct], data: st.DataObject) -> None:
    size = ctypes.sizeof(cls)
    value = cls.from_buffer_copy(data.draw(st.binary(min_size=size, max_size=size)))
    assert repr(value).startswith(f"{cls.__name__}(")
    plain = value.asdict()
    assert json.loads(json.dumps(plain)) == plain
    assert cls(**plain).asdict() == plain


@pytest.mark.parametrize("value", [value for value, _ in REPRS])
def test_asdict_makes_an_equal_struct(value: Struct) -> None:
    assert type(value)(**value.asdict()) == value


def test_equality_is_by_type_and_bytes() -> None:
    assert drm.drm_gem_close(handle=1) == drm.drm_gem_close(handle=1)
    assert drm.drm_gem_close(handle=1) != drm.drm_gem_close(handle=1, pad=1)
    assert drm.drm_gem_close(handle=1) != drm.drm_gem_flink(handle=1)
    assert drm.drm_gem_close() != 0
    with pytest.raises(TypeError, match="unhashable"):
        hash(drm.drm_gem_close())


@pytest.mark.parametrize(
    ("cls", "fields", "problem"),
    [
        (drm.drm_gem_close, {"hande": 1}, "drm_gem_close has no field 'hande'"),
        (drm.drm_gem_close, {"asdict": 1}, "no field 'asdict'"),
        (drm.drm_gem_close, {"handle": {}}, "drm_gem_close.handle takes no dict"),
        (drm.drm_gem_close, {"handle": "1"}, "int"),
        (drm_xe_vm_bind, {"bind": {"object": 1}}, "drm_xe_vm_bind_op has no field 'object'"),
        (drm_xe_vm_bind, {"bind": drm.drm_gem_close()}, "incompatible types"),
        (drm_xe_vm_bind, {"reserved": 1}, "drm_xe_vm_bind.reserved takes a sequence, not int"),
    ],
)
def test_constructor_refuses(cls: type[Struct], fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        cls(**fields)


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (drm_xe_vm_bind, {"reserved": [1, 2, 3]}),
        (drm_xe_oa_config, {"uuid": "x" * 37}),
        (xe_drm.drm_xe_query_config, {"info": [1]}),
        (drm_xe_madvise, {"_u": bytes(17)}),
    ],
)
def test_constructor_refuses_more_than_fits(cls: type[Struct], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="holds"):
        cls(**fields)


def test_constructor_takes_no_positional_arguments() -> None:
    with pytest.raises(TypeError):
        drm.drm_gem_close(1)  # type: ignore[call-arg]


def test_numbers_wrap_as_in_c() -> None:
    assert drm.drm_gem_close(handle=-1).handle == 0xFFFFFFFF


def test_from_address_runs_no_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    source = drm_xe_madvise(vm_id=7)
    monkeypatch.setattr(drm_xe_madvise, "__init__", None)
    assert drm_xe_madvise.from_address(ctypes.addressof(source)).vm_id == 7


def test_tables_must_name_fields() -> None:
    with pytest.raises(TypeError, match=r"no such field: \['b'\]"):

        @layout
        class _Wrong(Struct):
            _flags_ = {"b": {1: "ONE"}}  # noqa: RUF012
            a: u32
