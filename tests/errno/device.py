"""The devices that the cases are made for."""

from __future__ import annotations

from tests.vectors.errno_load import ErrnoVectors, Profile

__all__ = ("CARDS", "PROFILES", "device_options")

CARDS = 2
"""The one that is asked, and one far away."""
PROFILES: tuple[Profile, ...] = ("bmg", "lnl", "dg2")


def device_options(vectors: ErrnoVectors, profile: Profile) -> dict[str, object]:
    """Options of a device or mount; an integrated one has no VRAM."""
    options: dict[str, object] = {"profile": profile, "system": vectors.system}
    return options | ({} if profile == "lnl" else {"vram": vectors.vram})
