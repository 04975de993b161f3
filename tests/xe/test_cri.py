"""The profile ``cri``: what a Crescent Island tells of itself, and what it takes of clients."""

from __future__ import annotations

from typing import Any

import pytest

from tests.xe.gate import error_of
from tests.xe.gpu_work import FAULT, SCRATCH
from uapi import xe_drm
from xedev.client import Device
from xedev.client.memory import op_map
from xedev.client.xe_query import xe_dev_id, xe_va_bits
from xedev.xe.xe_device import XeDevice

COPY, COMPUTE = xe_drm.DRM_XE_ENGINE_CLASS_COPY, xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE
DECODE = xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE
ENHANCE = xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE
TOP = 1 << 57
PAGE = 4096
WB, RESERVED, UC = 2, 11, 3


@pytest.fixture
def xe_options() -> dict[str, Any]:
    return {"profile": "cri"}


def text_of(xe: XeDevice, name: str) -> str:
    file = xe.debugfs[name]
    assert file.read is not None
    return file.read()


def test_what_it_is(local: Device) -> None:
    assert xe_dev_id(local) == 0x674C
    assert xe_va_bits(local) == 57
    versions = [(gt.ip_ver_major, gt.ip_ver_minor) for gt in local.query_gt_list()]
    assert versions == [(35, 11), (35, 3)]
    engines = [
        (e.instance.engine_class, e.instance.engine_instance, e.instance.gt_id)
        for e in local.query_engines()
    ]
    assert engines == [
        *((COPY, instance, 0) for instance in range(7)),
        (COMPUTE, 0, 0),
        *((DECODE, instance, 1) for instance in range(2)),
        *((ENHANCE, instance, 1) for instance in range(2)),
    ]


def test_addresses_have_57_bits(local: Device) -> None:
    vm = local.vm_create()
    bo = local.gem_create(PAGE, 1)
    local.vm_bind(vm, [op_map(bo, 0, TOP - PAGE, PAGE, pat_index=WB)])
    above = [op_map(bo, 0, TOP, PAGE, pat_index=WB)]
    assert error_of(lambda: local.vm_bind(vm, above)) == "EINVAL"


@pytest.mark.parametrize(
    ("pat_index", "error"), [(WB, ""), (UC, ""), (RESERVED, "EINVAL"), (31, ""), (32, "EINVAL")]
)
def test_pat_indices(local: Device, pat_index: int, error: str) -> None:
    vm = local.vm_create()
    bo = local.gem_create(PAGE, 2)
    op = op_map(bo, 0, PAGE, PAGE, pat_index=pat_index)
    assert error_of(lambda: local.vm_bind(vm, [op])) == error


def test_a_faulting_vm_has_no_scratch_pages(local: Device) -> None:
    assert error_of(lambda: local.vm_create(FAULT)) == ""
    assert error_of(lambda: local.vm_create(FAULT | SCRATCH)) == "EINVAL"


def test_the_page_attributes_have_no_compression(xe: XeDevice) -> None:
    lines = text_of(xe, "gt0/pat_sw_config").splitlines()
    assert lines[1] == "PAT[ 0] = [ 0, 0, 0, 0, 0 ]  (       0)"
    assert lines[4] == "PAT[ 3] = [ 0, 0, 3, 3, 0 ]  (    0x3c)"
    assert lines[12] == "PAT[11] = [ 0, 0, 0, 0, 0 ]  (       0) *"
    assert lines[32] == "PAT[31] = [ 0, 3, 0, 0, 3 ]  (    0xc3)"
    cache_levels = ["XE_CACHE_NONE] = 3", "XE_CACHE_WT] = 3", "XE_CACHE_WB] = 2"]
    assert [line for line in lines if line.removeprefix("IDX[") in cache_levels] == [
        f"IDX[{level}" for level in cache_levels
    ]


@pytest.mark.parametrize(
    ("xe_options", "classes"), [({"profile": "cri"}, " bcs ccs"), ({"profile": "bmg"}, "")]
)
def test_debugfs_tells_which_engines_have_groups(xe: XeDevice, classes: str) -> None:
    lines = text_of(xe, "info").splitlines()
    assert "multi_lrc_engine_classes vcs vecs" in lines
    assert f"gt0 multi_queue_engine_classes{classes}" in lines
    assert "gt1 multi_queue_engine_classes" in lines
