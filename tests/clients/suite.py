"""What is run, on which device."""

from __future__ import annotations

from collections.abc import Iterator

from tests.clients.igt import Igt
from tests.clients.known import a_class
from tests.clients.others import OTHERS
from tests.clients.programs import Program
from tests.clients.together import Together

__all__ = ("ALL", "QUICK", "Client")

Client = Igt | Program | Together

VRAM = ("--vram", "2G")
"""What xe_vm's large binds need; to fill more takes xe_madvise minutes."""
TWO = (*VRAM, "--devices", "2")
SMALL_BAR = (*VRAM, "--visible-vram", "256M")
CRI = (*VRAM, "--profile", "cri")


def _igt(names: str, seconds: float = 180.0, part: int = 40) -> Iterator[Igt]:
    for name in names.split():
        yield Igt(name, options=VRAM, seconds=seconds, part=part)


def _on_two_devices(name: str, glob: str) -> Iterator[Igt]:
    """The program on one device, and what needs two on two."""
    yield Igt(name, without=(glob,), options=VRAM)
    yield Igt(name, only=(glob,), options=TWO, on="two devices")


QUICK: tuple[Client, ...] = (
    *OTHERS,
    *_igt("core_auth core_setmaster_vs_auth xe_madvise xe_waitfence xe_exec_store"),
    *_igt("xe_exec_atomic xe_spin_batch"),
    *_igt("xe_copy_basic xe_prime_self_import syncobj_basic xe_exec_queue_property"),
    *_igt("xe_dma_buf_sync xe_exec_mix_modes"),
    *_on_two_devices("core_getversion", "all-cards"),
    *_on_two_devices("xe_query", "multigpu-*"),
    *_on_two_devices("xe_create", "multigpu-*"),
    Igt("xe_mmap", without=("small-bar",), options=(*VRAM, "--strict-barrier")),
    Igt("xe_mmap", only=("small-bar",), options=SMALL_BAR, on="a small BAR"),
    Igt("xe_vm", only=a_class("xe_vm"), options=VRAM),
    Igt("xe_exec_basic", only=("once-*",), options=VRAM),
)
"""What takes a few minutes."""

_LARGE = ("large-*-2147483648",)
_INJECTED = "bind-array-conflict-error-inject"
"""The driver injects the error that it wants only with CONFIG_DRM_XE_DEBUG."""
_WHOLE = (
    *_igt("xe_evict", part=10),
    *_igt("xe_exec_threads xe_exec_reset xe_exec_fault_mode xe_exec_compute_mode"),
    Igt("xe_vm", without=(*_LARGE, _INJECTED), options=VRAM),
    Igt("xe_vm", only=(_INJECTED,), options=(*VRAM, "--debug-kernel"), on="a debug kernel"),
    Igt("xe_vm", only=_LARGE, options=("--vram", "6G"), on="6 GiB"),
    *_igt("xe_exec_basic xe_exec_balancer xe_exec_multi_queue xe_intel_bb xe_pat"),
    *_igt("core_debugfs core_getclient core_getstats core_setmaster"),
    *_igt("core_sysfs dumb_buffer syncobj_eventfd syncobj_timeline syncobj_wait"),
    *_igt("xe_ccs xe_compute xe_debugfs xe_drm_fdinfo xe_exec_capture xe_exercise_blt xe_gt_freq"),
    *_igt("xe_noexec_ping_pong xe_page_reclaim xe_pm_residency xe_pxp xe_svm_usrptr_madvise"),
    *_igt("xe_sysfs_defaults xe_sysfs_preempt_timeout xe_sysfs_scheduler"),
    *_igt("xe_sysfs_timeslice_duration xe_tlb xe_userptr_pressure xe_wedged"),
)
_NEIGHBOURS = (
    *_igt("xe_exec_balancer xe_exec_compute_mode xe_exec_fault_mode xe_exec_store xe_exec_atomic"),
    *_igt("xe_copy_basic xe_waitfence xe_prime_self_import xe_dma_buf_sync xe_exec_mix_modes"),
    *_igt("xe_exec_queue_property syncobj_basic syncobj_eventfd"),
    Igt("syncobj_wait", without=("*-snapshot",)),
    Igt("syncobj_timeline", without=("*-snapshot",)),
    Igt("xe_vm", without=("overcommit-*", "out-of-memory", *_LARGE, _INJECTED)),
    Igt("xe_create", without=("multigpu-*",)),
    Igt("xe_query", without=("multigpu-*",)),
    Igt("xe_exec_basic", only=("*once-*", "*twice-*", "*many-*"), without=("multigpu-*",)),
)
"""Without those that want the whole memory, reset the GPU, want to be master, or measure its load:
they would disturb each other on a real device too.  And without those that have a fifth of a tenth
of a second for eight requests."""
_TOGETHER = (
    Together("8 at a time", _NEIGHBOURS, options=VRAM),
    Together("8 at a time on 4 devices", _NEIGHBOURS, devices=4, options=VRAM),
)

_TWO_DEVICES = (
    Igt("xe_multigpu_svm", options=TWO, on="two devices"),
    Igt("xe_exec_basic", only=("multigpu-*",), options=TWO, on="two devices"),
    Igt("xe_peer2peer", options=TWO, on="two devices"),
)
_ON_CRI = (
    Igt("xe_exec_multi_queue", options=CRI, on="cri"),
    *(
        Igt(name, only=("*multi-queue*",), options=CRI, on="cri")
        for name in ("xe_exec_fault_mode", "xe_exec_threads", "xe_exec_reset", "xe_evict")
    ),
)
_NOT_MODELLED = (
    *_igt("core_hotunplug device_reset dmabuf dmabuf_sync_file drm_buddy drm_mm drm_read", 60),
    *_igt("drm_virtgpu prime_busy prime_mmap prime_mmap_coherency prime_mmap_kms", 60),
    *_igt("prime_self_import prime_udl prime_vgem xe_compute_preempt xe_configfs xe_eu_stall", 60),
    Igt("xe_evict_ccs", options=("--vram", "4G"), part=1),
    *_igt("xe_exec_sip xe_fault_injection xe_gpgpu_fill xe_huc_copy", 60),
    *_igt("xe_live_ktest xe_media_fill xe_module_load xe_non_msix xe_oa xe_pm xe_pmu", 60),
    *_igt("xe_prefetch_fault xe_render_copy xe_sriov_admin xe_sriov_auto_provisioning", 60),
    *_igt("xe_sriov_flr xe_sriov_scheduling xe_sriov_vfio xe_sriov_vram xe_survivability", 60),
)
"""Shaders, display, virtual functions, power: here the mock has only not to break."""


def _is_a_part(client: Client) -> bool:
    """Whether the whole of it is run too."""
    return any(isinstance(client, Igt) and client.name == whole.name for whole in _WHOLE)


ALL: tuple[Client, ...] = (
    *(client for client in QUICK if not _is_a_part(client)),
    *_WHOLE,
    *_TWO_DEVICES,
    *_ON_CRI,
    *_NOT_MODELLED,
    *_TOGETHER,
    *_igt("xe_exec_system_allocator", 60, 100),
)
"""Every program of IGT's for the driver and for DRM's core, and the rest of the quick ones."""
