"""Whether making and closing a BO costs more, the more BOs there are."""

from __future__ import annotations

import os

from benchmarks import servers
from benchmarks.pairs import Round, two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, last_cpu

__all__ = ("WHATS", "measure")

WHATS = {"live/gem-pair": "GEM_CREATE and GEM_CLOSE"}
_GOAL = 1.3
_NODE = "renderD128"
_KIND = "gem_pair"


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The two lines; `servers.Unavailable`."""
    (name,) = names
    few, many = scale.live_bos
    cpu = last_cpu()
    with servers.tools("client") as programs, servers.mock(cpu) as nodes:
        node = os.path.join(nodes, _NODE)

        def run(live: int) -> Summary:
            say(f"{name}: {scale.client_calls} calls beside {live} BOs")
            client = servers.start_client(programs, node, _KIND, scale.client_calls, cpu, live)
            return servers.summary_of(client)

        rounds: list[Round] = [(run(few), run(many)) for _ in range(scale.rounds)]
    what = WHATS[name]
    return two_lines(
        name,
        (f"{what} beside {few} BOs", f"{what} beside {many} BOs"),
        rounds,
        to=f"{few} BOs",
        goal=_GOAL,
        iterations=f"{scale.rounds} x {scale.client_calls}",
    )
