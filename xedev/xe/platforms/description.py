"""What a device is, as data (kernel: the descriptor structs of drivers/gpu/drm/xe/xe_pci.c)."""

from __future__ import annotations

from dataclasses import dataclass, field

from xedev.xe.xe_pat import PatEntry

__all__ = ("CacheLevels", "Engine", "Frequencies", "Gt", "OaUnit", "Pci", "Platform", "UcFirmware")

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine that clients may use: uAPI class and logical instance."""

    engine_class: int
    instance: int


@dataclass(frozen=True, slots=True)
class CacheLevels:
    """PAT indices that the driver itself uses (kernel: ``xe->pat.idx``)."""

    none: int
    wt: int
    wb: int
    none_compression: int | None


@dataclass(frozen=True, slots=True)
class Frequencies:
    """What a GT can run at, in MHz: least, most efficient, most."""

    rpn: int
    rpe: int
    rp0: int


@dataclass(frozen=True, slots=True)
class Pci:
    """The device's place on its bus, apart from its own slot."""

    bridges: tuple[str, ...]
    """Slots of the bridges that lead to the first card, from the root on."""
    subsystem: tuple[int, int]
    """Vendor and device."""
    class_code: int
    link: tuple[str, int] | None
    """Speed and width of the PCI Express link."""


@dataclass(frozen=True, slots=True)
class Gt:
    """One GT: engines in hardware-id order, and its fuses."""

    gt_id: int
    type: int
    tile_id: int
    ip_version: tuple[int, int, int]
    """Major, minor, revision; zeros where the hardware has no register to tell them."""
    engines: tuple[Engine, ...]
    dss_geometry: int
    dss_compute: int
    """Masks of dual sub-slices."""
    l3_bank: int
    """Mask of L3 banks."""
    eu_per_dss: int
    """Mask of execution units, by their number of lanes that `Platform.simd16_eus` tells."""
    frequencies: Frequencies
    multi_queue_classes: frozenset[int] = frozenset()
    """Engine classes whose queues may form groups."""


@dataclass(frozen=True, slots=True)
class OaUnit:
    """An observation unit and the engines that it watches."""

    unit_id: int
    type: int
    gt_id: int
    engines: tuple[Engine, ...]


@dataclass(frozen=True, slots=True)
class UcFirmware:
    """Version of a microcontroller's firmware."""

    major: int
    minor: int
    patch: int


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything about a device that does not change while it runs."""

    key: str
    """Name on the command line."""
    name: str
    """Name for people."""
    codename: str
    """Name in debugfs ``info``."""
    pci_slot: str
    pci: Pci
    device_id: int
    revision: int
    is_dgfx: bool
    graphics_ver: int
    """Major graphics version."""
    graphics_verx100: int
    media_verx100: int
    va_bits: int
    vm_max_level: int
    gts: tuple[Gt, ...]
    reference_clock: int
    """Hz of the GT timestamp."""
    vram_size: int
    """Usable bytes, 0 without VRAM."""
    pat: tuple[PatEntry, ...]
    cache_levels: CacheLevels
    has_flat_ccs: bool
    has_usm: bool
    """Whether VMs may take page faults."""
    needs_scratch: bool
    """Whether a faulting VM may have scratch pages."""
    has_device_atomics_on_smem: bool
    has_pxp: bool
    l2_flush_optimised: bool
    needs_64k_vram: bool
    """Whether VRAM is given and mapped in multiples of 64 KiB."""
    guc_submission: UcFirmware
    huc: UcFirmware | None
    oa_units: tuple[OaUnit, ...]
    eu_stall: bool
    workarounds: frozenset[int] = frozenset()
    """Active workarounds that clients can notice, by their numbers in xe_wa_oob.rules."""
    hwconfig: tuple[tuple[int, int], ...] = field(default=())
    """Key and value pairs of the GuC's table, each value one dword."""

    @property
    def simd16_eus(self) -> bool:
        """Whether execution units have 16 lanes, not 8 (kernel: ``load_eu_mask``)."""
        return self.graphics_ver >= 20

    @property
    def timestamp_bits(self) -> int:
        """Width of the engines' counters (kernel: ``query_engine_cycles``)."""
        return 64 if self.graphics_ver >= 20 else 36
