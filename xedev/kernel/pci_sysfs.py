"""A PCI device as sysfs shows it (kernel: drivers/pci/pci-sysfs.c)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from xedev.kernel.sysfs import Attribute, BinAttribute, Link

__all__ = ("PciBar", "PciDevice")

_CONFIG_SIZE = 256
_COMMAND = 0x0406
"""Memory space, bus mastering, no INTx."""
_STATUS = 0x0010
"""Has a list of capabilities."""
_CAPABILITIES = 0x40
_PM_CAPABILITY = (0x01, 0x00, 0x0003)
_RESOURCE_COUNT = 13
_IORESOURCE_MEM = 0x200
_IORESOURCE_PREFETCH = 0x2000
_IORESOURCE_MEM_64 = 0x100000
_IORESOURCE_SIZEALIGN = 0x40000
_BAR_64 = 0x4
_BAR_PREFETCH = 0x8


@dataclass(frozen=True, slots=True)
class PciBar:
    """One window to a device's memory, which takes two registers since it is of 64 bits."""

    index: int
    start: int
    size: int
    is_prefetchable: bool
    read: Callable[[int, int], bytes] | None = None
    """What is at an offset, so many bytes; None where sysfs does not give it away."""

    @property
    def registers(self) -> int:
        """What the two of them hold."""
        return self.start | _BAR_64 | (_BAR_PREFETCH if self.is_prefetchable else 0)

    @property
    def resource_flags(self) -> int:
        """``IORESOURCE_*`` and, in the low bits, those of the register."""
        kind = _IORESOURCE_MEM | _IORESOURCE_MEM_64 | _IORESOURCE_SIZEALIGN | _BAR_64
        return kind | (_IORESOURCE_PREFETCH | _BAR_PREFETCH if self.is_prefetchable else 0)


@dataclass(frozen=True, slots=True)
class PciDevice:
    """What can be read of a device on a bus."""

    slot: str
    bridges: tuple[str, ...]
    """Slots of the bridges that lead to it, the one at the root first."""
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem_device: int
    revision: int
    class_code: int
    """24 bits: class, subclass, programming interface."""
    bars: tuple[PciBar, ...]
    driver: str
    link: tuple[str, int] | None
    """Speed and width of a PCI Express link, None without one."""

    @property
    def directory(self) -> str:
        """Its directory, below /sys."""
        return "/".join(("devices/pci0000:00", *self.bridges, self.slot))

    def attributes(self) -> list[Attribute | BinAttribute]:
        """The files of the directory."""
        texts = {
            "vendor": f"{self.vendor:#06x}",
            "device": f"{self.device:#06x}",
            "subsystem_vendor": f"{self.subsystem_vendor:#06x}",
            "subsystem_device": f"{self.subsystem_device:#06x}",
            "revision": f"{self.revision:#04x}",
            "class": f"{self.class_code:#08x}",
            "modalias": self._modalias(),
            "uevent": self._uevent(),
            "resource": self._resource(),
            "enable": "1",
            "boot_vga": "0",
            "numa_node": "-1",
            **self._link_texts(),
        }
        files = [_text(name, text) for name, text in texts.items()]
        config = self.config()
        return [
            *files,
            Attribute("config", lambda: config, size=_CONFIG_SIZE),
            *(_window(bar, bar.read) for bar in self.bars if bar.read is not None),
        ]

    def links(self) -> list[Link]:
        """Those in the directory, and those to it."""
        bus = "bus/pci"
        return [
            Link("subsystem", bus),
            Link("driver", f"{bus}/drivers/{self.driver}"),
        ]

    def _link_texts(self) -> dict[str, str]:
        if self.link is None:
            return {}
        speed, width = self.link
        return {
            f"{which}_link_{what}": text
            for which in ("current", "max")
            for what, text in (("speed", speed), ("width", str(width)))
        }

    def _modalias(self) -> str:
        base, sub, interface = self.class_code.to_bytes(3, "big")
        return (
            f"pci:v{self.vendor:08X}d{self.device:08X}sv{self.subsystem_vendor:08X}"
            f"sd{self.subsystem_device:08X}bc{base:02X}sc{sub:02X}i{interface:02X}"
        )

    def _uevent(self) -> str:
        pairs = {
            "DRIVER": self.driver,
            "PCI_CLASS": f"{self.class_code:X}",
            "PCI_ID": f"{self.vendor:04X}:{self.device:04X}",
            "PCI_SUBSYS_ID": f"{self.subsystem_vendor:04X}:{self.subsystem_device:04X}",
            "PCI_SLOT_NAME": self.slot,
            "MODALIAS": self._modalias(),
        }
        return "\n".join(f"{key}={value}" for key, value in pairs.items())

    def _resource(self) -> str:
        windows = {
            bar.index: (bar.start, bar.start + bar.size - 1, bar.resource_flags)
            for bar in self.bars
        }
        lines = (windows.get(index, (0, 0, 0)) for index in range(_RESOURCE_COUNT))
        return "\n".join(" ".join(f"{number:#018x}" for number in line) for line in lines)

    def config(self) -> bytes:
        """The configuration space, 256 bytes: the header and one capability."""
        space = bytearray(_CONFIG_SIZE)
        struct.pack_into("<HHHH", space, 0x00, self.vendor, self.device, _COMMAND, _STATUS)
        space[0x08] = self.revision
        space[0x09:0x0C] = self.class_code.to_bytes(3, "little")
        for bar in self.bars:
            struct.pack_into("<Q", space, 0x10 + 4 * bar.index, bar.registers)
        struct.pack_into("<HH", space, 0x2C, self.subsystem_vendor, self.subsystem_device)
        space[0x34] = _CAPABILITIES
        struct.pack_into("<BBH", space, _CAPABILITIES, *_PM_CAPABILITY)
        return bytes(space)


def _text(name: str, text: str) -> Attribute:
    return Attribute(name, lambda: f"{text}\n")


def _window(bar: PciBar, read: Callable[[int, int], bytes]) -> BinAttribute:
    """What a mapping of it stores stays in its pages; that is dropped here
    (kernel: ``pci_create_resource_files``)."""
    name = f"resource{bar.index}"
    return BinAttribute(name, read, lambda data: None, 0o600, bar.size, is_mappable=True)
