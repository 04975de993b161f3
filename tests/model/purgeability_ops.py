"""The steps of which purgeable lives are made, as values.

The vectors, the reference model and the runner that drives a real device all speak this alphabet.
Names stand for things: BOs ``A``, ``B``; VMs ``v1``; DRM files ``f1``; dma-buf descriptors are
small numbers that never were descriptors. Addresses and lengths count pages of 4 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

__all__ = (
    "ARRAY_OPS",
    "DEFAULT_FILE",
    "DEFAULT_PAGES",
    "POLICIES",
    "STEPS",
    "Advice",
    "Array",
    "ArrayOp",
    "Bind",
    "BoState",
    "CloseFd",
    "CloseFile",
    "Create",
    "Export",
    "Fault",
    "GemClose",
    "Import",
    "ImportForeign",
    "Madvise",
    "Map",
    "Mmap",
    "Policy",
    "Prefetch",
    "Pressure",
    "Result",
    "State",
    "Step",
    "Unbind",
    "Unmap",
    "UnmapAll",
    "VmCreate",
    "VmDestroy",
)

Policy: TypeAlias = Literal["counters", "seed", "walk"]
Advice: TypeAlias = Literal["WILLNEED", "DONTNEED"]
#: WILLNEED, DONTNEED, PURGED.
State: TypeAlias = Literal["W", "D", "P"]

POLICIES: tuple[Policy, ...] = get_args(Policy)
DEFAULT_FILE = "f1"
#: Pages of a BO when nothing else is said.
DEFAULT_PAGES = 8


@dataclass(frozen=True, slots=True)
class BoState:
    """What can be seen of one BO. The policy ``walk`` counts nothing: None, None."""

    state: State
    vma: int | None
    willneed: int | None

    def __str__(self) -> str:
        return self.state if self.vma is None else f"{self.state}{self.vma}/{self.willneed}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a step answers: an errno's name (``SIGBUS`` from a fault) and what madvise retained."""

    errno: str | None = None
    retained: int | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """GEM_CREATE of a BO, populated at once; ``vm`` makes it private to that VM."""

    bo: str
    pages: int = DEFAULT_PAGES
    vm: str | None = None
    file: str = DEFAULT_FILE


@dataclass(frozen=True, slots=True)
class ImportForeign:
    """FD_TO_HANDLE of a dma-buf that another driver exported."""

    bo: str
    pages: int = DEFAULT_PAGES
    file: str = DEFAULT_FILE


@dataclass(frozen=True, slots=True)
class Bind:
    """VM_BIND with one MAP of the BO's first ``pages`` pages."""

    vm: str
    start: int
    pages: int
    bo: str


@dataclass(frozen=True, slots=True)
class Unbind:
    """VM_BIND with one UNMAP."""

    vm: str
    start: int
    pages: int


@dataclass(frozen=True, slots=True)
class UnmapAll:
    """VM_BIND with one UNMAP_ALL."""

    vm: str
    bo: str


@dataclass(frozen=True, slots=True)
class Map:
    """MAP inside an array of binds."""

    vm: str
    start: int
    pages: int
    bo: str


@dataclass(frozen=True, slots=True)
class Unmap:
    """UNMAP inside an array of binds."""

    vm: str
    start: int
    pages: int


ArrayOp: TypeAlias = Map | Unmap


@dataclass(frozen=True, slots=True)
class Array:
    """One VM_BIND with several ops. A neighbour on another VM starts a VM_BIND of its own."""

    ops: tuple[ArrayOp, ...]


@dataclass(frozen=True, slots=True)
class Madvise:
    """MADVISE of type PURGEABLE_STATE."""

    vm: str
    start: int
    pages: int
    advice: Advice


@dataclass(frozen=True, slots=True)
class Prefetch:
    """VM_BIND with one PREFETCH to system memory."""

    vm: str
    start: int
    pages: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """Reclaim picks this BO."""

    bo: str


@dataclass(frozen=True, slots=True)
class Mmap:
    """mmap(2) of the whole BO through a file that has a handle."""

    bo: str
    file: str = DEFAULT_FILE


@dataclass(frozen=True, slots=True)
class Fault:
    """A CPU access to a page of an old mapping that is not present."""

    bo: str
    file: str = DEFAULT_FILE


@dataclass(frozen=True, slots=True)
class Export:
    """HANDLE_TO_FD. ``fail`` lets the DRM core fail after the driver became a holder."""

    bo: str
    fd: int
    file: str = DEFAULT_FILE
    fail: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """FD_TO_HANDLE of one of our own dma-bufs."""

    fd: int
    file: str


@dataclass(frozen=True, slots=True)
class CloseFd:
    """close(2) of a dma-buf descriptor."""

    fd: int


@dataclass(frozen=True, slots=True)
class GemClose:
    """GEM_CLOSE of the file's handle."""

    bo: str
    file: str = DEFAULT_FILE


@dataclass(frozen=True, slots=True)
class VmCreate:
    """VM_CREATE; a vector declares its VMs instead."""

    vm: str
    file: str = DEFAULT_FILE


@dataclass(frozen=True, slots=True)
class VmDestroy:
    """VM_DESTROY."""

    vm: str


@dataclass(frozen=True, slots=True)
class CloseFile:
    """close(2) of a DRM file, with all that it owns."""

    file: str


Step: TypeAlias = (
    Create
    | ImportForeign
    | Bind
    | Unbind
    | UnmapAll
    | Array
    | Madvise
    | Prefetch
    | Pressure
    | Mmap
    | Fault
    | Export
    | Import
    | CloseFd
    | GemClose
    | VmCreate
    | VmDestroy
    | CloseFile
)

#: Name in the data -> class.
STEPS: dict[str, type[Step]] = {
    "create": Create,
    "import_foreign": ImportForeign,
    "bind": Bind,
    "unbind": Unbind,
    "unmap_all": UnmapAll,
    "array": Array,
    "madvise": Madvise,
    "prefetch": Prefetch,
    "pressure": Pressure,
    "mmap": Mmap,
    "fault": Fault,
    "export": Export,
    "import": Import,
    "close_fd": CloseFd,
    "gem_close": GemClose,
    "vm_create": VmCreate,
    "vm_destroy": VmDestroy,
    "close_file": CloseFile,
}
ARRAY_OPS: dict[str, type[ArrayOp]] = {"map": Map, "unmap": Unmap}
