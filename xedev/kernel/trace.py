"""Tracepoints: every ioctl and every change of state as one event."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from xedev.kernel.caller import Caller
from xedev.kernel.wait import WaitQueue

__all__ = ("Event", "Subscription", "Tracepoints")

Event = dict[str, object]


class Subscription:
    """One listener with a bounded backlog; the oldest events are kept, later ones counted lost."""

    def __init__(self, owner: Tracepoints, limit: int) -> None:
        self._owner = owner
        self._limit = limit
        self._events: deque[Event] = deque()
        self._wait = WaitQueue()
        self.lost = 0
        self.on_event: Callable[[], None] | None = None
        """Called after an event arrived (for poll(2))."""

    def pending(self) -> bool:
        """Whether `get` would return at once."""
        return bool(self._events) or self.lost > 0

    def get(self, caller: Caller, timeout: float | None = None) -> list[Event]:
        """All waiting events; sleeps for the first (``EINTR`` on interruption)."""
        self._wait.wait_event(self.pending, caller, timeout)
        return self.drain()

    def drain(self) -> list[Event]:
        """All waiting events without sleeping, then one ``lost`` event if some were dropped."""
        events: list[Event] = []
        while self._events:
            events.append(self._events.popleft())
        lost, self.lost = self.lost, 0
        if lost:
            events.append({"event": "lost", "time": time.time_ns(), "count": lost})
        return events

    def put(self, event: Event) -> None:
        """Append an event, or count it as lost when the backlog is full."""
        if len(self._events) >= self._limit:
            self.lost += 1
        else:
            self._events.append(event)
        self._wait.wake_up()
        if self.on_event is not None:
            self.on_event()

    def close(self) -> None:
        """Stop listening."""
        self._owner.unsubscribe(self)


class Tracepoints:
    """Where events are emitted.  Test ``enabled`` first: without a listener that is the cost."""

    def __init__(self) -> None:
        self.enabled = False
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription, ...] = ()

    def subscribe(self, limit: int = 65536) -> Subscription:
        """Start listening, with room for ``limit`` events."""
        subscription = Subscription(self, limit)
        with self._lock:
            self._subscriptions += (subscription,)
            self.enabled = True
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Take a listener off the list."""
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
            self.enabled = bool(self._subscriptions)

    def emit(self, event: str, **fields: object) -> None:
        """Hand one event to every listener."""
        record: Event = {"event": event, "time": time.time_ns(), **fields}
        for subscription in self._subscriptions:
            subscription.put(record)
