"""Frequencies of a GT (kernel: xe_gt_freq.c, xe_gt_throttle.c, xe_guc_pc.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from xedev.kernel.errors import KernelError
from xedev.kernel.sysfs import Attribute, kstrtou32
from xedev.xe.platforms.description import Frequencies

__all__ = ("XeGucPc", "freq_attributes")

READ_WRITE = 0o644
_PROFILES = ("base", "power_saving")
_THROTTLE_REASONS = (
    *("pl1", "pl2", "pl4", "thermal", "prochot", "ratl", "vr_thermalert", "vr_tdc"),
)


class XeGucPc:
    """What the administrator asks of a GT's power conservation (kernel: ``struct xe_guc_pc``).

    All frequencies are MHz.
    """

    def __init__(
        self, info: Frequencies, is_busy: Callable[[], bool], is_awake: Callable[[], bool]
    ) -> None:
        self.info = info
        self.min = info.rpn
        self.max = info.rp0
        self.profile = _PROFILES[0]
        self._is_busy = is_busy
        self._is_awake = is_awake

    @property
    def cur(self) -> int:
        """What is asked of the hardware: all that is allowed, while there is work.

        A minimum above the maximum wins.
        """
        return max(self.min, self.max if self._is_busy() else min(self.info.rpn, self.max))

    @property
    def act(self) -> int:
        """What it runs at; 0 while it sleeps."""
        return self.cur if self._is_awake() else 0

    def set_min(self, text: str) -> None:
        """``EINVAL`` outside of what the hardware can do."""
        self.min = self._within(text)

    def set_max(self, text: str) -> None:
        """As `set_min`; it may be below the minimum, and means nothing then."""
        self.max = self._within(text)

    def set_profile(self, text: str) -> None:
        """``EINVAL`` unknown."""
        if text not in _PROFILES:
            raise KernelError(errno.EINVAL, f"no power profile {text[:20]!r}")
        self.profile = text

    def show_profile(self) -> str:
        """All of them, the one that is set in brackets."""
        names = (f"[{name}]" if name == self.profile else name for name in _PROFILES)
        return "    ".join(names) + "\n"

    def _within(self, text: str) -> int:
        number = kstrtou32(text)
        if not self.info.rpn <= number <= self.info.rp0:
            raise KernelError(
                errno.EINVAL, f"{number} MHz is not from {self.info.rpn} to {self.info.rp0}"
            )
        return number


def freq_attributes(pc: XeGucPc, directory: str) -> Iterator[Attribute]:
    """The files of ``freq0``."""
    shown: dict[str, Callable[[], int]] = {
        "act_freq": lambda: pc.act,
        "cur_freq": lambda: pc.cur,
        "rp0_freq": lambda: pc.info.rp0,
        "rpa_freq": lambda: pc.info.rpe,
        "rpe_freq": lambda: pc.info.rpe,
        "rpn_freq": lambda: pc.info.rpn,
    }
    for name, number in shown.items():
        yield Attribute(f"{directory}/{name}", _line(number))
    settable = (("min_freq", lambda: pc.min, pc.set_min), ("max_freq", lambda: pc.max, pc.set_max))
    for name, number, store in settable:
        yield Attribute(f"{directory}/{name}", _line(number), store, READ_WRITE)
    yield Attribute(f"{directory}/power_profile", pc.show_profile, pc.set_profile, READ_WRITE)
    yield from _throttle_attributes(f"{directory}/throttle")


def _throttle_attributes(directory: str) -> Iterator[Attribute]:
    """Nothing here is ever too hot."""
    yield Attribute(f"{directory}/reasons", lambda: "none\n")
    for name in ("status", *(f"reason_{reason}" for reason in _THROTTLE_REASONS)):
        yield Attribute(f"{directory}/{name}", lambda: "0\n")


def _line(number: Callable[[], int]) -> Callable[[], str]:
    return lambda: f"{number()}\n"
