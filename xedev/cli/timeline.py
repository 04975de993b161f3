"""Trace events as a timeline that the Perfetto UI opens (https://ui.perfetto.dev).

The format is Chrome's JSON trace events: all that is drawn here fits, and ``json`` of the standard
library writes it.  Perfetto's own protos would come as 1.7 MB of generated code, on top of
protobuf, for the same picture.

Rows, in groups as Perfetto has them for processes:

=========  =======================================================================================
engines    jobs, from begin to end; several rows for an engine whose queues take turns
queues     two rows for each: jobs submitted, jobs on engines, with arrows between the two
binds      those that had to wait, from the ioctl to their effect
fences     of jobs and binds, by context and number, from the ioctl to the signal
clients    ioctls and changes of state, at the moment when they were told
=========  =======================================================================================
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from xedev.xe.xe_hw_engine import ENGINE_CLASSES

__all__ = ("Timeline", "TimelineFile")

Event = dict[str, Any]
Record = dict[str, Any]

_GROUPS = ("engines", "queues", "binds", "fences", "clients")
_SUBMIT_TIME = 1000
"""Nanoseconds that a submission is drawn as: an arrow begins at something that takes time."""
_LATE = 1_000_000_000
"""Nanoseconds that an event may come behind later ones."""


@dataclass(slots=True, eq=False)
class _Row:
    """What is drawn one after the other."""

    pid: int
    tid: int
    last: int = 0
    """Time of its latest record: times of different processes must not cross here."""
    is_busy: bool = False


@dataclass(slots=True)
class _Job:
    """A job that is not done."""

    name: str
    fence: str
    """Context and number; empty for one that was submitted before anybody listened."""
    flow: int
    """Number of the arrow from its submission; 0 for none."""
    submitted: int
    args: dict[str, Any] = field(default_factory=dict)
    rows: list[_Row] = field(default_factory=list)
    """Where it is drawn as running."""


class Timeline:
    """Makes records of events.  ``put`` is called with a time and a record, in no strict order."""

    def __init__(self, put: Callable[[int, Record], None], clock_offset: int = 0) -> None:
        """``clock_offset``: nanoseconds of CLOCK_REALTIME beyond CLOCK_MONOTONIC, which all times
        are drawn by."""
        self._put = put
        self._offset = clock_offset
        self._flows = itertools.count(1)
        self._rows: dict[tuple[str, object], _Row] = {}
        self._jobs: dict[tuple[int, int], _Job] = {}
        self._keys: dict[str, tuple[int, int]] = {}
        """Of jobs, by their fences."""
        self._open: dict[tuple[str, str], Record] = {}
        """Binds and fences that have begun, by group and id."""
        self._now = 0
        for pid, name in enumerate(_GROUPS, 1):
            self._meta(pid, 0, "process_name", {"name": name})
            self._meta(pid, 0, "process_sort_index", {"sort_index": pid})

    def add(self, event: Event) -> None:
        """Draw an event; one that it does not know is a moment in ``clients``."""
        now = event["time"] - self._offset
        self._now = max(self._now, now)
        _DRAW.get(event["event"], Timeline._moment)(self, now, event)

    def end(self) -> None:
        """Nothing more will come: end what is still open, and say so."""
        for job in list(self._jobs.values()):
            self._stop(job, self._now, {"unfinished": True})
        for group, name in list(self._open):
            self._close(group, name, self._now, {"unfinished": True})

    # ---- jobs ----

    def _job_submit(self, now: int, event: Event) -> None:
        fence = f"{event['context']}:{event['seqno']}"
        job = _Job(
            f"job {event['seqno']}",
            fence,
            next(self._flows),
            now,
            {name: event[name] for name in ("vm", "batches", "waits")},
        )
        key = event["queue"], event["seqno"]
        self._jobs[key] = job
        self._keys[fence] = key
        row = self._queue_row(event, "submitted")
        start = self._record(row, now, "X", job.name, args=job.args, dur=_SUBMIT_TIME / 1000)
        self._record(row, start, "s", "job", cat="job", id=job.flow)
        self._open_one("fences", fence, now, {"of": f"queue {event['queue']} {job.name}"})

    def _job_begin(self, now: int, event: Event) -> None:
        key = event["queue"], event["seqno"]
        job = self._jobs.get(key)
        if job is None:  # submitted before anybody listened
            job = self._jobs[key] = _Job(f"job {event['seqno']}", "", 0, 0)
        start = max(event["monotonic"], job.submitted)
        queue_row, engine_row = self._queue_row(event, "running"), self._engine_row(event)
        job.rows = [queue_row, engine_row]
        args = {"engine": _engine_name(event["engine"]), **job.args}
        begun = self._record(queue_row, start, "B", job.name, args=args)
        if job.flow:
            self._record(queue_row, begun, "f", "job", cat="job", id=job.flow, bp="e")
        name = f"queue {event['queue']} {job.name}"
        self._record(engine_row, start, "B", name, args={"queue": event["queue"], **job.args})

    def _job_end(self, now: int, event: Event) -> None:
        known = ("error", "reason", "address", "dump")
        args = {name: event[name] for name in known if name in event}
        self._finish((event["queue"], event["seqno"]), event["monotonic"], args)

    def _job_done(self, now: int, event: Event) -> None:
        """Its fence is signalled; of a job that never ended, killed or cancelled, all there is."""
        key = self._keys.get(f"{event['context']}:{event['seqno']}")
        if key is not None:
            self._finish(key, now, {"error": event["error"]})

    def _finish(self, key: tuple[int, int], now: int, args: dict[str, Any]) -> None:
        job = self._jobs.pop(key, None)
        if job is None:
            return
        self._keys.pop(job.fence, None)
        self._stop(job, now, args)
        self._close("fences", job.fence, max(now, job.submitted), args)

    def _stop(self, job: _Job, now: int, args: dict[str, Any]) -> None:
        """Draw it as running no more."""
        rows, job.rows = job.rows, []
        for row in rows:
            self._record(row, now, "E", job.name, args=args)
            row.is_busy = False

    # ---- binds ----

    def _bind_submit(self, now: int, event: Event) -> None:
        name = f"{event['context']}:{event['seqno']}"
        self._open_one("binds", name, now, {"pid": event["pid"], "waits": event["waits"]})
        self._open_one("fences", name, now, {"of": "bind"})

    def _bind_end(self, now: int, event: Event) -> None:
        name = f"{event['context']}:{event['seqno']}"
        for group in ("binds", "fences"):
            self._close(group, name, now, {})

    # ---- what has no duration ----

    def _ioctl(self, now: int, event: Event) -> None:
        row = self._row("clients", event["pid"], f"{event['comm']} {event['pid']}")
        known = ("client", "node", "tid", "args_text", "result", "errno", "reason")
        args = {name: event[name] for name in known}
        self._record(row, now, "i", event["name"], s="t", args=args)

    def _moment(self, now: int, event: Event) -> None:
        row = self._row("clients", 0, "device")
        args = {name: value for name, value in event.items() if name not in ("event", "time")}
        self._record(row, now, "i", event["event"], s="t", args=args)

    # ---- rows ----

    def _queue_row(self, event: Event, what: str) -> _Row:
        engine_class = ENGINE_CLASSES.get(event["engine_class"], "?")
        name = f"queue {event['queue']} ({engine_class}, vm {event['vm']}): {what}"
        return self._row("queues", (event["queue"], what), name)

    def _engine_row(self, event: Event) -> _Row:
        """A row of the engine that has nothing on it: a queue that gave way is still on one."""
        name = _engine_name(event["engine"])
        for number in itertools.count(1):
            title = name if number == 1 else f"{name} ({number})"
            row = self._row("engines", title, title)
            if not row.is_busy:
                row.is_busy = True
                return row
        raise AssertionError  # there is always a next row

    def _row(self, group: str, key: object, name: str) -> _Row:
        row = self._rows.get((group, key))
        if row is None:
            pid, tid = _GROUPS.index(group) + 1, len(self._rows) + 1
            row = self._rows[group, key] = _Row(pid, tid)
            self._meta(pid, tid, "thread_name", {"name": name})
        return row

    # ---- records ----

    def _meta(self, pid: int, tid: int, what: str, args: dict[str, Any]) -> None:
        self._put(0, {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": args})

    def _record(self, row: _Row, now: int, phase: str, name: str, **fields: Any) -> int:
        """Draw something in a row, not before what is there; when that is."""
        row.last = max(row.last, now)
        where = {"pid": row.pid, "tid": row.tid}
        self._put(row.last, {"ph": phase, **where, "name": name, **fields})
        return row.last

    def _open_one(self, group: str, name: str, now: int, args: dict[str, Any]) -> None:
        """Begin something that others of its group may overlap."""
        pid = _GROUPS.index(group) + 1
        record = {"pid": pid, "tid": 0, "cat": group, "id": name, "name": name}
        self._open[group, name] = record
        self._put(now, {"ph": "b", **record, "args": args})

    def _close(self, group: str, name: str, now: int, args: dict[str, Any]) -> None:
        record = self._open.pop((group, name), None)
        if record is not None:
            self._put(now, {"ph": "e", **record, "args": args})


_DRAW: dict[str, Callable[[Timeline, int, Event], None]] = {
    "job_submit": Timeline._job_submit,
    "job_begin": Timeline._job_begin,
    "job_end": Timeline._job_end,
    "job_done": Timeline._job_done,
    "bind_submit": Timeline._bind_submit,
    "bind_end": Timeline._bind_end,
    "ioctl": Timeline._ioctl,
}


def _engine_name(engine: list[int]) -> str:
    engine_class, instance, gt = engine
    return f"gt{gt} {ENGINE_CLASSES.get(engine_class, '?')}{instance}"


class TimelineFile:
    """A file of records in the order of their times; `close` makes it whole."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._separator = "[\n"
        self._waiting: list[tuple[int, int, Record]] = []
        """A heap: what may have to let others go first."""
        self._count = itertools.count()
        self._newest = 0
        self._written = 0
        self._timeline = Timeline(self._put, _realtime_offset())

    def add(self, event: Event) -> None:
        """Draw an event."""
        self._timeline.add(event)
        for record in self._settled(self._newest - _LATE):
            self._write(record)

    def close(self) -> None:
        """End what is open, and the file."""
        self._timeline.end()
        for record in self._settled(None):
            self._write(record)
        self._file.write("\n]\n")
        self._file.flush()

    def _put(self, now: int, record: Record) -> None:
        self._newest = max(self._newest, now)
        # One that comes too late is drawn late.
        now = max(now, self._written) if now else 0
        heapq.heappush(self._waiting, (now, next(self._count), record))

    def _settled(self, before: int | None) -> Iterator[Record]:
        """Those that nothing can come before any more."""
        while self._waiting and (before is None or self._waiting[0][0] <= before):
            now, _, record = heapq.heappop(self._waiting)
            if record["ph"] == "M":
                yield record
            else:
                self._written = now
                yield {**record, "ts": now / 1000}

    def _write(self, record: Record) -> None:
        self._file.write(self._separator + json.dumps(record))
        self._separator = ",\n"


def _realtime_offset() -> int:
    """CLOCK_REALTIME less CLOCK_MONOTONIC, as seen in the quickest of some looks."""

    def look() -> tuple[int, int]:
        before = time.monotonic_ns()
        now = time.time_ns()
        after = time.monotonic_ns()
        return after - before, now - (before + after) // 2

    return min(look() for _ in range(10))[1]
