"""The device that the cases are made for."""

from __future__ import annotations

from tests.vectors.errno_load import ErrnoVectors, Profile

__all__ = ("device_options",)


def device_options(vectors: ErrnoVectors, profile: Profile) -> dict[str, object]:
    """Options of the device or mount; an integrated one has no VRAM."""
    options: dict[str, object] = {"profile": profile, "system": vectors.system}
    return options | ({"vram": vectors.vram} if profile == "bmg" else {})
