"""How long a client may have to wait while the daemon has much in its hands."""

from __future__ import annotations

import os
import subprocess
import time

from benchmarks import servers
from benchmarks.device import PAGE, fill_map
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary
from uapi import xe_drm
from xedev.client import Device

__all__ = ("WHATS", "measure")

WHATS = {
    "stall/none": "bind pair, nothing else there",
    "stall/held": "bind pair beside many VMAs (worst: longest stall)",
    "stall/ending": "bind pair while these VMAs end (worst: longest stall)",
}
_OPS_AT_ONCE = 1000
_NODE = "renderD128"
_KIND = "bind_pair"
_HEAD_START = 0.3  # seconds


class _Holder:
    """A client with many VMAs."""

    def __init__(self, node: str, vmas: int) -> None:
        self._device = Device.open(node, "ioctl")
        vm = self._device.vm_create()
        bo = self._device.gem_create(vmas * PAGE, 2)
        for start in range(0, vmas, _OPS_AT_ONCE):
            ops = [_map(bo, page) for page in range(start, min(start + _OPS_AT_ONCE, vmas))]
            self._device.vm_bind(vm, ops)

    def close(self) -> None:
        """End all of them at once."""
        self._device.close()


def _map(bo: int, page: int) -> xe_drm.drm_xe_vm_bind_op:
    op = xe_drm.drm_xe_vm_bind_op()
    fill_map(op, bo, page * PAGE, PAGE)
    return op


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines called ``names``; `servers.Unavailable`."""
    found: dict[str, Summary] = {}
    # Not pinned: with a processor for each, the daemon is all there is to wait for.
    with servers.tools("client") as programs, servers.mock(None) as nodes:
        node = os.path.join(nodes, _NODE)

        def start(name: str) -> subprocess.Popen[str]:
            say(f"{name}: {scale.stall_calls} calls")
            return servers.start_client(programs, node, _KIND, scale.stall_calls, None)

        found["stall/none"] = servers.summary_of(start("stall/none"))
        say(f"stall: making {scale.stall_vmas} VMAs")
        holder = _Holder(node, scale.stall_vmas)
        try:
            found["stall/held"] = servers.summary_of(start("stall/held"))
            client = start("stall/ending")
            time.sleep(_HEAD_START)
        finally:
            holder.close()
        found["stall/ending"] = servers.summary_of(client)
    return [_line(name, found[name], found["stall/none"], scale) for name in WHATS if name in names]


def _line(name: str, cost: Summary, quiet: Summary, scale: Scale) -> Line:
    is_base = name == "stall/none"
    return Line(
        name,
        WHATS[name],
        median=cost.median,
        p99=cost.p99,
        worst=cost.worst,
        ratio=None if is_base else cost.median / quiet.median,
        ratio_p99=None if is_base else cost.p99 / quiet.p99,
        ratio_worst=None if is_base else cost.worst / quiet.worst,
        ratio_to="" if is_base else "nothing else there",
        iterations=f"1 x {scale.stall_calls}",
        note="" if is_base else f"{scale.stall_vmas} VMAs of another client; not pinned",
    )
