"""What the device tells of itself, and the control files (kernel: xe_debugfs.c, drm_debugfs.c)."""

from __future__ import annotations

import errno
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from xedev.drm.drm_auth import drm_is_current_master
from xedev.drm.drm_device import DebugfsFile
from xedev.drm.drm_file import DrmFile
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.sysfs import kstrtou32
from xedev.xe.xe_bo import as_xe_bo
from xedev.xe.xe_hw_engine import ENGINE_CLASSES, MULTI_LRC_CLASSES
from xedev.xe.xe_shrinker import xe_pressure

if TYPE_CHECKING:
    from xedev.drm.ttm import MemType
    from xedev.xe.xe_bo import XeBo
    from xedev.xe.xe_device import XeDevice, XeFile
    from xedev.xe.xe_exec_queue import XeExecQueue
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = ("debugfs_files", "show")

READ_ONLY = 0o400
CONTROL = 0o600
GPU_PATIENCE = 1.0
"""Seconds to wait for the GPU's answer."""


def debugfs_files(xe: XeDevice) -> list[DebugfsFile]:
    """Every file of the device's debugfs directory."""
    made = time.monotonic()
    return [
        DebugfsFile("name", READ_ONLY, lambda: _name(xe)),
        DebugfsFile("clients", READ_ONLY, lambda: _clients(xe)),
        DebugfsFile("gem_names", READ_ONLY, lambda: _gem_names(xe)),
        DebugfsFile("gem", READ_ONLY, lambda: _gem(xe)),
        DebugfsFile("vms", READ_ONLY, lambda: _vms(xe)),
        DebugfsFile("info", READ_ONLY, lambda: _info(xe)),
        DebugfsFile("state", READ_ONLY, lambda: json.dumps(_state(xe, made)) + "\n"),
        DebugfsFile("forcewake_all", READ_ONLY, open=lambda: _forcewake_open(xe)),
        _wedged_mode(xe),
        _switch("wedge", lambda: xe.wedged, xe.declare_wedged),
        _switch("unplug", lambda: xe.unplugged, xe.unplug),
        DebugfsFile("fail", CONTROL, xe.faults.describe, lambda text, _: _fail(xe, text)),
        DebugfsFile("pressure", CONTROL, lambda: "", lambda text, _: _pressure(xe, text)),
    ]


# ---- text for people, in the kernel's formats where it has one ----


def _name(xe: XeDevice) -> str:
    with xe.master_mutex:
        unique = xe.master.unique.decode() if xe.master is not None else ""
    master = f"master={unique} " if unique else ""
    return f"{xe.driver_name} dev={xe.unique} {master}unique={xe.unique}\n"


def _files(xe: XeDevice) -> list[DrmFile]:
    with xe.filelist_lock:
        return [file for _, file in sorted(xe.filelist.items())]


def _clients(xe: XeDevice) -> str:
    lines = [
        f"{'command':>20s} {'tgid':>5s} {'dev':>3s} master a {'uid':>5s} {'magic':>10s} "
        f"{'name':>64s} {'id':>20s}"
    ]
    for file in _files(xe):
        master = "y" if drm_is_current_master(file) else "n"
        auth = "y" if file.authenticated else "n"
        lines.append(
            f"{file.comm:>20s} {file.pid:5d} {file.minor.index:3d}   {master}    {auth} "
            f"{file.uid:5d} {file.magic:10d} {file.client_name or '<unset>':>64s} "
            f"{file.client_id:20d}"
        )
    return "\n".join(lines) + "\n"


def _gem_names(xe: XeDevice) -> str:
    lines = ["  name     size handles refcount"]
    with xe.object_name_lock:
        for name, obj in xe.object_names.ascending():
            lines.append(f"{name:6d} {obj.size:8d} {obj.handle_count:7d} {obj.refs:8d}")
    return "\n".join(lines) + "\n"


def _bos(xe: XeDevice) -> list[XeBo]:
    with xe.bos_lock:
        return [bo for _, bo in sorted(xe.bos.items())]


def _gem(xe: XeDevice) -> str:
    lines = [
        f"{'bo':>6s} {'size':>12s} {'place':>8s} {'state':>8s} {'vmas':>5s} {'willneed':>8s} "
        f"{'handles':>7s} {'exported':>8s}"
    ]
    for bo in _bos(xe):
        counts = bo.purgeable
        lines.append(
            f"{bo.id:6d} {bo.size:12d} {_place(xe, bo):>8s} {counts.state.name:>8s} "
            f"{counts.vma_count:5d} {counts.willneed_count:8d} {bo.handle_count:7d} "
            f"{'yes' if xe.has_live_export(bo) else 'no':>8s}"
        )
    return "\n".join(lines) + "\n"


def _place(xe: XeDevice, bo: XeBo) -> str:
    """Region name; a BO whose pages were never made, or are gone, is in ``none``."""
    return xe.region_name(bo.mem_type) if bo.populated or bo.imported else "none"


def _all_vms(xe: XeDevice) -> list[XeVm]:
    with xe.vms_lock:
        return [vm for _, vm in sorted(xe.vms.items())]


def _vms(xe: XeDevice) -> str:
    lines = []
    for vm in _all_vms(xe):
        vmas = _vmas(vm)
        lines.append(f"vm {vm.id} of client {vm.client_id}: {vm.mode.value}, {len(vmas)} vmas")
        for vma in vmas:
            bo = vma.bo
            what = f"bo {bo.id}+{vma.offset:#x}" if bo is not None else vma.kind
            lines.append(
                f"  {vma.start:#014x}-{vma.end:#014x} {what} pat {vma.attr.pat_index} "
                f"{vma.attr.purgeable_state.name}"
            )
    return "\n".join(lines) + "\n" if lines else ""


def _vmas(vm: XeVm) -> list[XeVma]:
    vm.lock.down_read()
    try:
        return list(vm.gpuvm)
    finally:
        vm.lock.up_read()


def _info(xe: XeDevice) -> str:
    platform = xe.platform
    facts: list[tuple[str, object]] = [
        ("graphics_verx100", platform.graphics_verx100),
        ("media_verx100", platform.media_verx100),
        ("is_dgfx", "yes" if platform.is_dgfx else "no"),
        ("platform", platform.codename),
        ("devid", f"{platform.device_id:#x}"),
        ("revid", platform.revision),
        ("tile_count", 1),
        ("vm_max_level", platform.vm_max_level),
        ("has_flat_ccs", "yes" if platform.has_flat_ccs else "no"),
        ("has_usm", "yes" if platform.has_usm else "no"),
        ("multi_lrc_engine_classes", _class_names(MULTI_LRC_CLASSES)),
    ]
    facts += [
        (f"gt{gt.gt_id} multi_queue_engine_classes", _class_names(gt.multi_queue_classes))
        for gt in platform.gts
    ]
    return "".join(f"{key} {value}".rstrip() + "\n" for key, value in facts)


def _class_names(classes: frozenset[int]) -> str:
    return " ".join(name for number, name in ENGINE_CLASSES.items() if number in classes)


# ---- the same for programs ----


def show(xe: XeDevice) -> dict[str, object]:
    """Devices, open DRM files, VMs with their VMAs, exec queues and BOs, as plain data."""
    return {
        "devices": [_show_device(xe)],
        "files": [_show_file(xe, file) for file in _files(xe)],
        "vms": [_show_vm(xe, vm) for vm in _all_vms(xe)],
        "exec_queues": [
            _show_queue(xe, file, queue_id, queue) for file, queue_id, queue in _queues(xe)
        ],
        "bos": [_show_bo(xe, bo) for bo in _bos(xe)],
    }


def _state(xe: XeDevice, made: float) -> dict[str, object]:
    """What exists, and beside it what changes all the time: seconds since the device was ``made``,
    its clock, how much each file uses, and how far each queue is."""
    xe.guc.update_ticks(GPU_PATIENCE)
    device = {
        **_show_device(xe),
        "uptime": round(time.monotonic() - made, 3),
        "page_files": xe.shmem.files,
        "gpu_pid": xe.guc.ct.pid,
        "gt_ticks": xe.gt_timestamp(time.monotonic_ns()),
    }
    files = [{**_show_file(xe, file), **_usage(file)} for file in _files(xe)]
    queues = [
        {**_show_queue(xe, file, queue_id, queue), **_progress(queue)}
        for file, queue_id, queue in _queues(xe)
    ]
    return {**show(xe), "devices": [device], "files": files, "exec_queues": queues}


def _show_device(xe: XeDevice) -> dict[str, object]:
    return {
        "index": xe.index,
        "name": xe.platform.name,
        "profile": xe.platform.key,
        "pci": xe.unique,
        "purgeability": xe.policy.name,
        "wedged": xe.wedged,
        "unplugged": xe.unplugged,
        "regions": _show_regions(xe),
        "engines": _show_engines(xe),
        "pending_fds": xe.tokens.count(lambda owner: _is_of(owner, xe)),
    }


def _show_engines(xe: XeDevice) -> dict[str, int]:
    """How many engines there are of each class, by its name."""
    count = Counter(engine.engine_class for gt in xe.platform.gts for engine in gt.engines)
    return {name: count[number] for number, name in ENGINE_CLASSES.items() if count[number]}


def _show_regions(xe: XeDevice) -> list[dict[str, object]]:
    """Sizes in bytes; ``purgeable`` is what reclaim may drop: DONTNEED BOs that have pages."""
    victims: defaultdict[MemType | None, list[int]] = defaultdict(list)
    for bo in _bos(xe):
        if bo.populated and bo.is_dontneed():
            victims[bo.mem_type].append(bo.size)
    return [
        {
            "name": manager.name,
            "size": manager.size,
            "used": manager.used,
            "purgeable": sum(victims[mem_type]),
            "purgeable_bos": len(victims[mem_type]),
            "cpu_visible_size": manager.visible_size,
            "cpu_visible_used": manager.visible_used,
        }
        for mem_type, manager in xe.ttm.managers.items()
    ]


def _is_of(owner: object, xe: XeDevice) -> bool:
    """Whether a token of ``owner``, a DRM file or a dma-buf, is one of this device."""
    return getattr(owner, "device", None) is xe


def _show_file(xe: XeDevice, file: DrmFile) -> dict[str, object]:
    xef = _xef(file)
    return {
        "device": xe.index,
        "id": file.client_id,
        "node": file.minor.name,
        "pid": file.pid,
        "comm": file.comm,
        "uid": file.uid,
        "name": file.client_name,
        "authenticated": file.authenticated,
        "master": drm_is_current_master(file),
        "handles": len(file.object_idr),
        "vms": len(xef.vms),
        "exec_queues": len(xef.exec_queues),
    }


def _usage(file: DrmFile) -> dict[str, object]:
    """Ioctls so far, bytes with pages, counted for each handle as in fdinfo, and ticks of the GT's
    clock that it had engines of each class."""
    with file.table_lock:
        handles = list(file.object_idr.ascending())
    resident = sum(obj.size for _, obj in handles if as_xe_bo(obj).populated)
    spent = _xef(file).run_ticks
    ticks = {name: spent[number] for number, name in ENGINE_CLASSES.items() if spent[number]}
    return {"resident": resident, "ioctls": file.ioctl_count, "ticks": ticks}


def _xef(file: DrmFile) -> XeFile:
    return file.driver_priv  # type: ignore[return-value]


def _queues(xe: XeDevice) -> list[tuple[DrmFile, int, XeExecQueue]]:
    """Those that have an id, with their files."""
    found = []
    for file in _files(xe):
        xef = _xef(file)
        with xef.vm_lock:
            queues = list(xef.exec_queues.ascending())
        found += [(file, queue_id, queue) for queue_id, queue in queues]
    return found


def _show_queue(
    xe: XeDevice, file: DrmFile, queue_id: int, queue: XeExecQueue
) -> dict[str, object]:
    mask = queue.logical_mask
    return {
        "device": xe.index,
        "id": queue_id,
        "client": file.client_id,
        "number": queue.number,
        "vm": queue.vm.id,
        "class": ENGINE_CLASSES.get(queue.engine_class, "bind"),
        "gt": queue.gt_id,
        "engines": [bit for bit in range(mask.bit_length()) if mask >> bit & 1],
        "width": queue.width,
        "priority": queue.priority,
        "timeslice_us": queue.timeslice,
    }


def _progress(queue: XeExecQueue) -> dict[str, object]:
    """Jobs that are not done, whether the first of them has begun, and what became of others."""
    with queue.jobs_lock:
        jobs = len(queue.jobs)
        is_running = bool(jobs) and queue.jobs[0].has_begun
    return {
        "jobs": jobs,
        "running": is_running,
        "banned": queue.is_banned,
        "ticks": queue.ticks,
    }


def _show_vm(xe: XeDevice, vm: XeVm) -> dict[str, object]:
    return {
        "device": xe.index,
        "id": vm.id,
        "client": vm.client_id,
        "mode": vm.mode.value,
        "flags": vm.flags,
        "vmas": [_show_vma(vma) for vma in _vmas(vm)],
    }


def _show_vma(vma: XeVma) -> dict[str, object]:
    bo = vma.bo
    return {
        "start": vma.start,
        "end": vma.end,
        "kind": vma.kind,
        "bo": bo.id if bo is not None else None,
        "offset": vma.offset,
        "flags": vma.flags,
        "pat_index": vma.attr.pat_index,
        "atomic": vma.attr.atomic_access,
        "preferred_loc": vma.attr.devmem_fd,
        "state": vma.attr.purgeable_state.name,
    }


def _show_bo(xe: XeDevice, bo: XeBo) -> dict[str, object]:
    return {
        "device": xe.index,
        "id": bo.id,
        "size": bo.size,
        "placement": _place(xe, bo),
        "regions": bo.placement,
        "handles": bo.handle_count,
        "state": bo.purgeable.state.name,
        "vma_count": bo.purgeable.vma_count,
        "willneed_count": bo.purgeable.willneed_count,
        "exported": xe.has_live_export(bo),
        "imported": bo.imported,
        "private_vm": bo.vm.id if bo.vm is not None else None,
    }


# ---- control files ----


def _forcewake_open(xe: XeDevice) -> Callable[[], None]:
    """No GT sleeps until this open file ends (kernel: ``forcewake_all_fops``)."""
    for gt in xe.gts:
        gt.fw.get()

    def release() -> None:
        for gt in xe.gts:
            gt.fw.put()

    return release


def _wedged_mode(xe: XeDevice) -> DebugfsFile:
    """When the device is declared wedged (kernel: ``wedged_mode_set``)."""

    def write(text: str, caller: Caller) -> str:
        xe.set_wedged_mode(kstrtou32(text))
        return ""

    return DebugfsFile("wedged_mode", CONTROL, lambda: f"{xe.wedged_mode}\n", write)


def _switch(name: str, state: Callable[[], bool], turn_on: Callable[[], None]) -> DebugfsFile:
    """A file that reads 0 or 1, and that a written 1 turns on for good."""

    def write(text: str, caller: Caller) -> str:
        if text.strip() != "1":
            raise KernelError(errno.EINVAL, f"write 1 to {name}; there is no way back")
        turn_on()
        return "1\n"

    return DebugfsFile(name, CONTROL, lambda: f"{int(state())}\n", write)


def _fail(xe: XeDevice, text: str) -> str:
    """``POINT NTH ERRNO`` arms a point, ``POINT 0`` disarms it, ``clear`` all of them."""
    match text.split():
        case ["clear"]:
            xe.faults.clear()
        case [point, "0"]:
            xe.faults.arm(point, 0, errno.ENOMEM)
        case [point, nth] if nth.isdecimal():
            xe.faults.arm(point, int(nth), errno.ENOMEM)
        case [point, nth, error] if nth.isdecimal():
            xe.faults.arm(point, int(nth), _errno_number(error))
        case _:
            raise KernelError(errno.EINVAL, "write 'POINT NTH [ERRNO]' or 'clear'")
    return xe.faults.describe()


def _errno_number(text: str) -> int:
    if text.isdecimal():
        return int(text)
    for number, name in errno.errorcode.items():
        if name == text:
            return number
    raise KernelError(errno.EINVAL, f"no errno {text!r}")


def _pressure(xe: XeDevice, text: str) -> str:
    result = xe_pressure(xe, text)
    return json.dumps({"victims": result.victims, "skipped": result.skipped}) + "\n"
