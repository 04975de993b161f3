"""A device as /sys shows it (kernel: xe_device_sysfs.c, xe_tile_sysfs.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xedev.drm.drm_sysfs import drm_minor_sysfs
from xedev.kernel.pci_sysfs import PciBar, PciDevice
from xedev.kernel.sysfs import Attribute, BinAttribute, Link
from xedev.xe.xe_devcoredump import devcoredump_attribute
from xedev.xe.xe_gt import gt_attributes
from xedev.xe.xe_mmio import XeMmio

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_pci_device", "xe_sysfs")

VENDOR_INTEL = 0x8086
GTTMMADR = 0
GTTMMADR_SIZE = 16 << 20
LMEMBAR = 2
"""Numbers of the windows: registers, and VRAM."""
_REGISTERS_AT = 0x8000_0000
_VRAM_AT = 0x60_0000_0000


def xe_pci_device(xe: XeDevice) -> PciDevice:
    """The device on its bus.  Where its windows lie is made up."""
    platform = xe.platform
    pci = platform.pci
    return PciDevice(
        slot=xe.unique,
        bridges=_bridges(pci.bridges, xe.index),
        vendor=VENDOR_INTEL,
        device=platform.device_id,
        subsystem_vendor=pci.subsystem[0],
        subsystem_device=pci.subsystem[1],
        revision=platform.revision,
        class_code=pci.class_code,
        bars=_bars(xe),
        driver=xe.driver_name,
        link=pci.link,
    )


def _bridges(bridges: tuple[str, ...], index: int) -> tuple[str, ...]:
    """Each further card hangs on the next port of the last bridge."""
    if not bridges:
        return ()
    bus, _, port = bridges[-1].rpartition(":")
    device, _, function = port.partition(".")
    return *bridges[:-1], f"{bus}:{int(device, 16) + index:02x}.{function}"


def _bars(xe: XeDevice) -> tuple[PciBar, ...]:
    start = _REGISTERS_AT + xe.index * GTTMMADR_SIZE
    registers = PciBar(GTTMMADR, start, GTTMMADR_SIZE, False, XeMmio(xe.platform).read)
    if not xe.vram_managers:
        return (registers,)
    visible = xe.vram_managers[0].visible_size
    size = 1 << max(visible - 1, GTTMMADR_SIZE).bit_length()
    return registers, PciBar(LMEMBAR, _VRAM_AT + xe.index * size, size, True)


def xe_sysfs(xe: XeDevice, pci: PciDevice) -> list[Attribute | BinAttribute | Link]:
    """Everything in the directory of the device ``pci``."""
    return [
        *pci.attributes(),
        *pci.links(),
        *(
            entry
            for minor in xe.minors
            if not minor.frames
            for entry in drm_minor_sysfs(minor, pci.directory)
        ),
        devcoredump_attribute(xe.devcoredump),
        *(attribute for gt in xe.gts for attribute in gt_attributes(gt)),
    ]
