"""Timelines as drm-core.md 3.2 to 3.5 describes them: nothing is forgotten, nothing is cached."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ("Node", "SyncobjModel")

_streams = itertools.count(1)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A fence of a timeline.  ``stream`` 0: a plain one, which is no point."""

    own: frozenset[int]
    """The fences that it is made of; signalled when they are."""
    stream: int = 0
    seqno: int = 0
    prev_seqno: int = 0
    prev: Node | None = None

    def back(self) -> Iterator[Node]:
        """This one and all before it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.prev


@dataclass(slots=True)
class SyncobjModel:
    """Objects by name, and which fences are signalled."""

    current: dict[str, Node | None] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    # ---- changes ----

    def replace(self, name: str, node: Node | None) -> None:
        """RESET, SIGNAL, a binary fence."""
        self.current[name] = node

    def add(self, name: str, point: int, own: frozenset[int]) -> None:
        """A point on top."""
        prev = self.current[name]
        if prev is None or not prev.stream:
            node = Node(own, next(_streams), point, 0, prev)
        elif point > prev.seqno:
            node = Node(own, prev.stream, point, prev.seqno, prev)
        else:
            node = Node(own, next(_streams), max(point, prev.seqno), 0, prev)
        self.current[name] = node

    def transfer(self, src: str, src_point: int, dst: str, dst_point: int) -> bool:
        """False when there is no fence."""
        found = self.find(src, src_point)
        if found is None:
            return False
        if dst_point:
            parts = [fence for node in found.back() for fence in node.own]
            self.add(dst, dst_point, frozenset(parts) - self.done)
        else:
            self.replace(dst, found)
        return True

    # ---- questions ----

    def _is_pending(self, node: Node) -> bool:
        return not node.own <= self.done

    def is_signalled(self, node: Node) -> bool:
        """It and all before it."""
        return not any(map(self._is_pending, node.back()))

    def _pending_behind(self, head: Node) -> list[Node]:
        return [node for node in head.back() if node is not head and self._is_pending(node)]

    def find(self, name: str, point: int) -> Node | None:
        """What to wait for; None when it is not there."""
        head = self.current[name]
        if head is None or not point:
            return head
        if not head.stream or head.seqno < point:
            return None
        for node in (head, *self._pending_behind(head)):
            if node.stream != head.stream or node.prev_seqno < point:
                return node
        return Node(frozenset())

    def query(self, name: str) -> int:
        """How far the newest stream is."""
        head = self.current[name]
        if head is None or not head.stream:
            return 0
        same = [node for node in self._pending_behind(head) if node.stream == head.stream]
        oldest = same[-1] if same else head
        return oldest.seqno if self.is_signalled(oldest) else oldest.prev_seqno

    def last_submitted(self, name: str) -> int:
        """The number of the newest point."""
        head = self.current[name]
        return head.seqno if head is not None and head.stream else 0
