"""Plays purgeable lives on a device through the client library, as a program would.

The names of a life (BO ``A``, VM ``v1``, file ``f1``, descriptor 100) become handles, ids, open
files and descriptors here. What is asked of the device goes through ioctls; what is seen of it
comes from its debug files, so that nothing depends on how the device is reached.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Collection
from collections.abc import Mapping as MappingABC
from typing import Any, Protocol

from tests.model import purgeability_ops as ops
from tests.model.purgeability_ops import ArrayOp, BoState, Policy, Result, State, Step
from tests.vectors.load import PurgeVector
from uapi import xe_drm
from xedev.client import Device
from xedev.client.mapping import Mapping
from xedev.client.memory import op_map, op_prefetch, op_unmap, op_unmap_all

__all__ = ("PAGE", "ClientDevice", "Control", "VectorDevice", "run_vector")

PAGE = 4096
#: The only region prefetch goes to that every BO accepts: where the advice says.
CONSULT_PREF_LOC = 0xFFFF_FFFF

#: A handle and an id that never exist: what a name stands for once its object is gone.
_NOBODY = 0x7FFF_FFFF
_SETTLE_STEP = 0.001  # seconds
_SYSTEM = 1  # placement: system memory, the only one that another device can read

_CONTENTS = b"contents"

_ADVICE = {
    "WILLNEED": xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED,
    "DONTNEED": xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED,
}
_STATES: dict[str, State] = {"WILLNEED": "W", "DONTNEED": "D", "PURGED": "P"}


class Control(Protocol):
    """The debug files of a device (`xedev.testing.target.Target` is one)."""

    def control(self, name: str, command: str) -> str:
        """Write a command to a control file and return its answer."""

    def state(self) -> dict[str, Any]:
        """What ``xe-mock show --json`` tells."""


class VectorDevice(Protocol):
    """What a purgeable life is played on: a device, or the reference model."""

    def create_vm(self, vm: str, file: str) -> Result:
        """VM_CREATE in a file."""

    def apply(self, step: Step) -> Result:
        """Play one step."""

    def state(self, bo: str) -> BoState | None:
        """What can be seen of a BO; None once it is freed."""


def dies_of_touching(mapping: Mapping) -> bool:
    """Whether a child that reads a byte dies of SIGBUS."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        mapping[0]
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGBUS)
    return status != 0


def run_vector(
    vector: PurgeVector, policy: Policy, device: VectorDevice, *, settle: float = 0.0
) -> None:
    """Play a vector and compare every answer and every state with the data.

    ``settle``: seconds that the effect of closing a descriptor may take. A FUSE server hears of a
    close(2) only after it returned.
    """
    for vm, file in vector.vms.items():
        assert device.create_vm(vm, file) == Result()
    patience = 0.0
    for number, step in enumerate(vector.steps, 1):
        expected = step.outcomes[policy]
        where = f"{vector.id} step {number}: {step.step}"
        assert device.apply(step.step) == expected.result, where
        if isinstance(step.step, ops.CloseFd | ops.GemClose):
            patience = settle
        assert _settled_states(device, expected.bos, patience) == expected.bos, where


def _settled_states(
    device: VectorDevice, expected: MappingABC[str, BoState | None], patience: float
) -> dict[str, BoState | None]:
    """The states once they are as expected, or as they are when ``patience`` is at its end."""
    end = time.monotonic() + patience
    while True:
        found = {bo: device.state(bo) for bo in expected}
        if found == expected or time.monotonic() >= end:
            return found
        time.sleep(_SETTLE_STEP)


class ClientDevice:
    """A device reached by the client library (`VectorDevice`).

    ``open_file`` opens a DRM file. BOs are made in the memory region with instance ``region``: 0
    is system memory, which the shrinker reclaims, others are VRAM, which eviction does.
    ``export_point`` is the step of the export that a failing one fails at. Foreign BOs are those
    of ``exporter``, a file of another card; without one those of the built-in exporter.

    ``early`` names BOs that are mapped as soon as they exist, so that a `fault` has an old mapping
    to touch.  Touches happen in forked children, which die of them.
    """

    def __init__(
        self,
        open_file: Callable[[], Device],
        control: Control,
        *,
        region: int,
        prefetch_region: int | None = None,
        export_point: str = "drm_gem_prime_export",
        exporter: Device | None = None,
        early: Collection[str] = (),
    ) -> None:
        self.region = region
        self.prefetch_region = region if prefetch_region is None else prefetch_region
        self.export_point = export_point
        self.counted = control.state()["devices"][0]["purgeability"] != "walk"
        self._exporter = exporter
        self._early = frozenset(early)
        self._open_file = open_file
        self._control = control
        self._files: dict[str, Device] = {}
        self._bos: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        self._handles: dict[tuple[str, str], int] = {}
        self._vms: dict[str, tuple[str, int]] = {}
        self._fds: dict[int, tuple[Device, int]] = {}
        self._mappings: dict[tuple[str, str], Mapping] = {}

    # --- what can be seen -----------------------------------------------------------------

    def vma_ranges(self, vm: str) -> list[tuple[int, int, str, State]]:
        """VMAs of a VM as (start, end, BO, advice), lowest address first; pages."""
        file, vm_id = self._vms[vm]
        state = self._control.state()
        client = next(entry["id"] for entry in state["files"] if entry["name"] == file)
        found = next(
            entry for entry in state["vms"] if entry["client"] == client and entry["id"] == vm_id
        )
        names = {number: name for name, number in self._bos.items()}
        return [
            (vma["start"] // PAGE, vma["end"] // PAGE, names[vma["bo"]], _STATES[vma["state"]])
            for vma in found["vmas"]
        ]

    def state(self, bo: str) -> BoState | None:
        """State and counters of a BO; None once it is freed."""
        return self.states()[bo]

    def states(self) -> dict[str, BoState | None]:
        """The same of every BO that ever was."""
        found = {entry["id"]: self._bo_state(entry) for entry in self._control.state()["bos"]}
        return {bo: found.get(number) for bo, number in self._bos.items()}

    def handle_counts(self) -> dict[str, int]:
        """Handles of every BO that exists, over all files."""
        counts = {entry["id"]: entry["handles"] for entry in self._control.state()["bos"]}
        return {bo: counts[number] for bo, number in self._bos.items() if number in counts}

    def _bo_state(self, entry: MappingABC[str, Any]) -> BoState:
        state = _STATES[entry["state"]]
        if not self.counted:
            return BoState(state, None, None)
        return BoState(state, entry["vma_count"], entry["willneed_count"])

    # --- calls ----------------------------------------------------------------------------

    def create_vm(self, vm: str, file: str) -> Result:
        """VM_CREATE in a file, which is opened when it is new."""
        self._vms[vm] = file, self.file(file).vm_create()
        return Result()

    def apply(self, step: Step) -> Result:
        """Play one step; its errno when it is refused."""
        try:
            return _CALLS[type(step)](self, step)
        except OSError as error:
            return Result(errno.errorcode[error.errno or 0])

    def file(self, name: str) -> Device:
        """The DRM file of that name, opened at its first use."""
        if name not in self._files:
            self._files[name] = self._open_file()
            # So that the debug files tell which one it is.
            self._files[name].set_client_name(name)
        return self._files[name]

    def close_file(self, name: str) -> Result:
        """The end of a DRM file, with what it owns; a mapping would put it off."""
        for owner, bo in list(self._mappings):
            if owner == name:
                self._unmap(bo, owner)
        device = self._files.pop(name, None)
        if device is not None:
            device.close()
        self._handles = {key: handle for key, handle in self._handles.items() if key[0] != name}
        self._vms = {vm: where for vm, where in self._vms.items() if where[0] != name}
        return Result()

    def close(self) -> None:
        """Close every descriptor and every file."""
        for device, fd in self._fds.values():
            device.close_fd(fd)
        self._fds.clear()
        for name in list(self._files):
            self.close_file(name)

    def _handle(self, bo: str, file: str) -> int:
        return self._handles.get((file, bo), _NOBODY)

    def _vm(self, vm: str) -> tuple[Device, int]:
        """The VM's file and its id; once it is destroyed, an id that nobody has."""
        file, vm_id = self._vms.get(vm, (ops.DEFAULT_FILE, _NOBODY))
        return self.file(file), vm_id

    def _vm_file(self, vm: str) -> str:
        return self._vms.get(vm, (ops.DEFAULT_FILE, _NOBODY))[0]

    # --- BOs ------------------------------------------------------------------------------

    def create(self, bo: str, *, pages: int, vm: str | None, file: str) -> Result:
        """GEM_CREATE in the device's region."""
        device = self.file(file)
        vm_id = 0
        if vm is not None:
            owner, vm_id = self._vms.get(vm, (file, _NOBODY))
            vm_id = vm_id if owner == file else _NOBODY
        handle = device.gem_create(pages * PAGE, 1 << self.region, vm_id=vm_id)
        return self._know(bo, file, handle)

    def import_foreign(self, bo: str, *, pages: int, file: str) -> Result:
        """A BO of the foreign exporter, which keeps no handle of it."""
        device = self.file(file)
        if self._exporter is None:
            return self._know(bo, file, device.import_foreign(pages * PAGE))
        theirs = self._exporter.gem_create(pages * PAGE, _SYSTEM)
        fd = self._exporter.prime_handle_to_fd(theirs)
        self._exporter.gem_close(theirs)
        handle = device.prime_fd_to_handle(fd)
        self._exporter.close_fd(fd)
        return self._know(bo, file, handle)

    def _know(self, bo: str, file: str, handle: int) -> Result:
        device = self.file(file)
        info = device.bo_info(handle)
        self._bos[bo], self._sizes[bo] = info.id, info.size
        self._offsets[bo] = device.gem_mmap_offset(handle)
        self._handles[file, bo] = handle
        if bo in self._early:
            self._map(bo, file)
        return Result()

    def gem_close(self, bo: str, file: str) -> Result:
        """munmap(2), and GEM_CLOSE."""
        self._unmap(bo, file)
        self.file(file).gem_close(self._handle(bo, file))
        del self._handles[file, bo]
        return Result()

    def pressure(self, bo: str) -> Result:
        """Reclaim looks at the BO: eviction at one in VRAM, the shrinker at one in system memory.

        A BO that is freed cannot be asked for.
        """
        how = "evict" if self.region else "shrink"
        self._control.control("pressure", f"bo {self._bos[bo]} {how}")
        return Result()

    def mmap(self, bo: str, file: str) -> Result:
        """GEM_MMAP_OFFSET and mmap(2); what is stored there can be read back."""
        mapping = self._map(bo, file)
        if self._is_foreign(bo):
            return Result()  # its pages cannot be reached through our device
        mapping.write(len(mapping) - 8, _CONTENTS)
        assert mapping.read(len(mapping) - 8, 8) == _CONTENTS
        return Result()

    def _map(self, bo: str, file: str) -> Mapping:
        mapping = self.file(file).map(self._handle(bo, file), self._sizes[bo])
        self._unmap(bo, file)
        self._mappings[file, bo] = mapping
        return mapping

    def _unmap(self, bo: str, file: str) -> None:
        mapping = self._mappings.pop((file, bo), None)
        if mapping is not None:
            mapping.close()

    def _is_foreign(self, bo: str) -> bool:
        entries = self._control.state()["bos"]
        return any(entry["imported"] for entry in entries if entry["id"] == self._bos[bo])

    def fault(self, bo: str, file: str) -> Result:
        """A page that an old mapping has not seen yet is touched.

        The mock can raise SIGBUS only once the contents are gone.  The driver raises it as soon
        as they may go; then only the mock's own question tells.
        """
        gone = self.file(file).fault(self._offsets[bo])
        mapping = self._mappings.get((file, bo))
        state = self.state(bo)
        if bo in self._early and mapping is not None and state is not None:
            assert dies_of_touching(mapping) == (state.state == "P")
        return Result("SIGBUS" if gone else None)

    # --- PRIME ----------------------------------------------------------------------------

    def export(self, bo: str, fd: int, file: str, *, fail: bool) -> Result:
        """HANDLE_TO_FD, and the opening of the token."""
        device = self.file(file)
        if fail:
            self._control.control("fail", f"{self.export_point} 1 ENOMEM")
        try:
            made = device.prime_handle_to_fd(self._handle(bo, file))
        finally:
            if fail:
                # The gate may have refused before the point was passed.
                self._control.control("fail", f"{self.export_point} 0")
        self._fds[fd] = device, made
        return Result()

    def import_fd(self, fd: int, file: str) -> Result:
        """FD_TO_HANDLE of one of our own dma-bufs."""
        device = self.file(file)
        handle = device.prime_fd_to_handle(self._fds[fd][1] if fd in self._fds else -1)
        bo_id = device.bo_info(handle).id
        bo = next(name for name, number in self._bos.items() if number == bo_id)
        self._handles[file, bo] = handle
        return Result()

    def close_fd(self, fd: int) -> Result:
        """close(2) of a dma-buf descriptor."""
        if fd not in self._fds:
            return Result("EBADF")
        device, made = self._fds.pop(fd)
        device.close_fd(made)
        return Result()

    # --- VMs ------------------------------------------------------------------------------

    def vm_bind(self, vm: str, *bind_ops: xe_drm.drm_xe_vm_bind_op) -> Result:
        """VM_BIND."""
        device, vm_id = self._vm(vm)
        device.vm_bind(vm_id, bind_ops)
        return Result()

    def array_op(self, step: ArrayOp | ops.Bind | ops.Unbind) -> xe_drm.drm_xe_vm_bind_op:
        """A step as an op of a VM_BIND."""
        start, length = step.start * PAGE, step.pages * PAGE
        if isinstance(step, ops.Map | ops.Bind):
            return op_map(self._handle(step.bo, self._vm_file(step.vm)), 0, start, length)
        return op_unmap(start, length)

    def array(self, steps: tuple[ArrayOp, ...]) -> Result:
        """One VM_BIND per run of ops on the same VM, until one is refused."""
        runs: list[tuple[str, list[xe_drm.drm_xe_vm_bind_op]]] = []
        for step in steps:
            if not runs or runs[-1][0] != step.vm:
                runs.append((step.vm, []))
            runs[-1][1].append(self.array_op(step))
        for vm, bind_ops in runs:
            self.vm_bind(vm, *bind_ops)
        return Result()

    def unmap_all(self, vm: str, bo: str) -> Result:
        """VM_BIND with one UNMAP_ALL."""
        return self.vm_bind(vm, op_unmap_all(self._handle(bo, self._vm_file(vm))))

    def prefetch(self, vm: str, start: int, pages: int) -> Result:
        """VM_BIND with one PREFETCH."""
        return self.vm_bind(vm, op_prefetch(start * PAGE, pages * PAGE, self.prefetch_region))

    def madvise(self, vm: str, start: int, pages: int, advice: ops.Advice) -> Result:
        """MADVISE of type PURGEABLE_STATE."""
        device, vm_id = self._vm(vm)
        retained = device.madvise_purgeable(vm_id, start * PAGE, pages * PAGE, _ADVICE[advice])
        return Result(retained=retained)

    def vm_destroy(self, vm: str) -> Result:
        """VM_DESTROY."""
        device, vm_id = self._vm(vm)
        device.vm_destroy(vm_id)
        del self._vms[vm]
        return Result()


_CALLS: dict[type[Step], Callable[[ClientDevice, Any], Result]] = {
    ops.Create: lambda device, step: device.create(
        step.bo, pages=step.pages, vm=step.vm, file=step.file
    ),
    ops.ImportForeign: lambda device, step: device.import_foreign(
        step.bo, pages=step.pages, file=step.file
    ),
    ops.Bind: lambda device, step: device.vm_bind(step.vm, device.array_op(step)),
    ops.Unbind: lambda device, step: device.vm_bind(step.vm, device.array_op(step)),
    ops.UnmapAll: lambda device, step: device.unmap_all(step.vm, step.bo),
    ops.Array: lambda device, step: device.array(step.ops),
    ops.Madvise: lambda device, step: device.madvise(step.vm, step.start, step.pages, step.advice),
    ops.Prefetch: lambda device, step: device.prefetch(step.vm, step.start, step.pages),
    ops.Pressure: lambda device, step: device.pressure(step.bo),
    ops.Mmap: lambda device, step: device.mmap(step.bo, step.file),
    ops.Fault: lambda device, step: device.fault(step.bo, step.file),
    ops.Export: lambda device, step: device.export(step.bo, step.fd, step.file, fail=step.fail),
    ops.Import: lambda device, step: device.import_fd(step.fd, step.file),
    ops.CloseFd: lambda device, step: device.close_fd(step.fd),
    ops.GemClose: lambda device, step: device.gem_close(step.bo, step.file),
    ops.VmCreate: lambda device, step: device.create_vm(step.vm, step.file),
    ops.VmDestroy: lambda device, step: device.vm_destroy(step.vm),
    ops.CloseFile: lambda device, step: device.close_file(step.file),
}
