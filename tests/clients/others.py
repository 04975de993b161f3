"""Programs that are not IGT's."""

from __future__ import annotations

from tests.clients.programs import Program

__all__ = ("OTHERS",)

OTHERS: tuple[Program, ...] = (
    Program("drmdevice", ("drmdevice",), "bustype"),
    Program("vulkaninfo", ("vulkaninfo", "--summary"), "B580"),
    Program("vulkaninfo on lnl", ("vulkaninfo", "--summary"), "LNL", ("--profile", "lnl")),
)
