"""``xe-mock trace --perfetto``: what is drawn of which events, and the file of a real trace."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.xe.gpu_work import BCS, RCS, Board, wait_for
from xedev.cli import main
from xedev.cli.timeline import TimelineFile
from xedev.client import Device, IoctlTransport, sync_signal, sync_wait
from xedev.client.memory import op_map
from xedev.client.spinner import Cork
from xedev.testing.mounts import run_command, wait_until_empty

fuse = pytest.mark.fuse

ROOT = Path(__file__).parents[2]
US = 1000
"""Nanoseconds."""

Record = dict[str, Any]


# ---- what every file keeps to ----------------------------------------------------------------


class Picture:
    """A file's records, checked for what the format asks of all of them."""

    def __init__(self, text: str) -> None:
        self.records: list[Record] = json.loads(text)
        self.names = self._names()
        self.drawn = [record for record in self.records if record["ph"] != "M"]
        self._check_times()
        self._check_rows()
        self._check_pairs("b", "e", lambda record: (record["pid"], record["cat"], record["id"]))
        self._check_pairs("s", "f", lambda record: (record["cat"], record["id"]), may_dangle=True)

    def _names(self) -> dict[tuple[int, int], str]:
        """Of rows by process and thread; of groups by process and 0."""
        kinds = {"process_name", "thread_name"}
        named = [record for record in self.records if record["name"] in kinds]
        return {(record["pid"], record["tid"]): record["args"]["name"] for record in named}

    def _check_times(self) -> None:
        times = [record["ts"] for record in self.drawn]
        assert times == sorted(times)
        assert all(time > 0 for time in times)

    def _check_rows(self) -> None:
        """Each begin has its end, one within the other at most."""
        stacks: dict[tuple[int, int], list[str]] = defaultdict(list)
        for record in self.drawn:
            row = record["pid"], record["tid"]
            assert (record["pid"], 0) in self.names
            assert row in self.names
            if record["ph"] == "B":
                stacks[row].append(record["name"])
            elif record["ph"] == "E":
                stacks[row].pop()
        assert not any(stacks.values())

    def _check_pairs(
        self,
        begin: str,
        end: str,
        key: Callable[[Record], tuple[Any, ...]],
        may_dangle: bool = False,
    ) -> None:
        begun = [key(record) for record in self.drawn if record["ph"] == begin]
        ended = [key(record) for record in self.drawn if record["ph"] == end]
        assert len(set(begun)) == len(begun)
        assert set(ended) <= set(begun) if may_dangle else sorted(ended) == sorted(begun)

    def rows(self, group: str) -> set[str]:
        """Names of the rows of a group."""
        (pid,) = (pid for (pid, tid), name in self.names.items() if not tid and name == group)
        return {name for (owner, tid), name in self.names.items() if owner == pid and tid}

    def row(self, name: str) -> list[Record]:
        """What is drawn in a row."""
        (where,) = (where for where, found in self.names.items() if found == name)
        return [record for record in self.drawn if (record["pid"], record["tid"]) == where]

    def spans(self, name: str) -> list[tuple[str, float, float]]:
        """Begin and end of what is drawn in a row, microseconds."""
        begins = [record for record in self.row(name) if record["ph"] == "B"]
        ends = [record["ts"] for record in self.row(name) if record["ph"] == "E"]
        return [(b["name"], b["ts"], end) for b, end in zip(begins, ends, strict=True)]

    def floating(self, group: str) -> dict[str, tuple[Record, Record]]:
        """Begin and end of binds or fences, by their ids."""
        found: dict[str, list[Record]] = defaultdict(list)
        for record in self.drawn:
            if record.get("cat") == group:
                found[record["id"]].append(record)
        return {name: (begin, end) for name, (begin, end) in found.items()}


# ---- from events -----------------------------------------------------------------------------

JOB = {"queue": 4, "vm": 5, "engine_class": 0, "seqno": 2}


def submit(time: int, **changes: object) -> Record:
    more = {"event": "job_submit", "context": 9, "batches": ["0x1000"], "waits": []}
    return {**JOB, **more, "time": time * US, **changes}


def begin(time: int, **changes: object) -> Record:
    more = {"event": "job_begin", "engine": [0, 0, 0], "monotonic": time * US}
    return {**JOB, **more, "time": time * US, **changes}


def end(time: int, **changes: object) -> Record:
    more = {"event": "job_end", "error": 0, "monotonic": time * US}
    return {**JOB, **more, "time": time * US, **changes}


def done(time: int, **changes: object) -> Record:
    more = {"event": "job_done", "context": 9, "seqno": 2, "error": 0}
    return {**more, "time": time * US, **changes}


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Picture]:
    """The picture of some events, whose times are of one clock."""
    monkeypatch.setattr("xedev.cli.timeline._realtime_offset", lambda: 0)

    def draw(*events: Record) -> Picture:
        text = io.StringIO()
        file = TimelineFile(text)
        for event in events:
            file.add(event)
        file.close()
        return Picture(text.getvalue())

    return draw


def test_nothing_happened(draw: Callable[..., Picture]) -> None:
    picture = draw()
    assert picture.drawn == []
    groups = [name for (_, tid), name in picture.names.items() if not tid]
    assert groups == ["engines", "queues", "binds", "fences", "clients"]


def test_a_job(draw: Callable[..., Picture]) -> None:
    picture = draw(submit(10), begin(20), end(50), done(51))
    assert picture.rows("engines") == {"gt0 rcs0"}
    assert picture.spans("gt0 rcs0") == [("queue 4 job 2", 20.0, 50.0)]
    running = "queue 4 (rcs, vm 5): running"
    assert picture.spans(running) == [("job 2", 20.0, 50.0)]
    shown, arrow = picture.row("queue 4 (rcs, vm 5): submitted")
    assert (shown["ph"], shown["ts"], shown["args"]["batches"]) == ("X", 10.0, ["0x1000"])
    (head,) = (record for record in picture.row(running) if record["ph"] == "f")
    assert (arrow["ts"], head["ts"], head["id"]) == (10.0, 20.0, arrow["id"])
    (fence,) = picture.floating("fences").values()
    assert [record["ts"] for record in fence] == [10.0, 50.0]
    assert fence[0]["args"] == {"of": "queue 4 job 2"}


def test_a_job_that_failed_takes_others_with_it(draw: Callable[..., Picture]) -> None:
    failed = end(50, error=5, reason="fault", address=4096, dump=["at 0x1000"])
    picture = draw(
        submit(10),
        submit(11, seqno=3),
        begin(20),
        failed,
        done(51, error=5),
        done(52, seqno=3, error=125),
    )
    (last,) = (record for record in picture.row("gt0 rcs0") if record["ph"] == "E")
    assert last["args"] == {"error": 5, "reason": "fault", "address": 4096, "dump": ["at 0x1000"]}
    fences = picture.floating("fences")
    assert fences["9:3"][1]["args"] == {"error": 125}
    assert fences["9:3"][1]["ts"] == 52.0


def test_a_job_that_was_killed_ends_with_its_fence(draw: Callable[..., Picture]) -> None:
    picture = draw(submit(10), begin(20), done(60, error=62))
    assert picture.spans("gt0 rcs0") == [("queue 4 job 2", 20.0, 60.0)]


def test_the_next_job_begins_before_the_driver_says_that_the_last_one_was_killed(
    draw: Callable[..., Picture],
) -> None:
    other = {"queue": 6, "context": 10}
    picture = draw(
        submit(10),
        begin(20),
        submit(21, **other),
        done(60, error=62),
        begin(58, queue=6),
        end(70, queue=6),
    )
    assert picture.rows("engines") == {"gt0 rcs0"}
    assert [span[1:] for span in picture.spans("gt0 rcs0")] == [(20.0, 60.0), (60.0, 70.0)]


def test_queues_that_take_turns_on_an_engine_have_rows_of_their_own(
    draw: Callable[..., Picture],
) -> None:
    other = {"queue": 6, "context": 10}
    picture = draw(
        submit(10),
        submit(11, **other),
        begin(20),
        begin(30, queue=6),
        end(50),
        end(60, queue=6),
        submit(70, seqno=3),
        begin(80, seqno=3),
        end(90, seqno=3),
    )
    assert picture.rows("engines") == {"gt0 rcs0", "gt0 rcs0 (2)"}
    assert [name for name, *_ in picture.spans("gt0 rcs0")] == ["queue 4 job 2", "queue 4 job 3"]
    assert picture.spans("gt0 rcs0 (2)") == [("queue 6 job 2", 30.0, 60.0)]


def test_a_clock_that_is_a_little_behind(draw: Callable[..., Picture]) -> None:
    picture = draw(submit(10), begin(9), end(9), done(9))
    assert picture.spans("gt0 rcs0") == [("queue 4 job 2", 10.0, 10.0)]


def test_what_was_on_its_way_before_is_drawn_as_far_as_it_is_known(
    draw: Callable[..., Picture],
) -> None:
    picture = draw(begin(20), end(30), end(40, queue=6), done(50, context=11))
    assert picture.spans("gt0 rcs0") == [("queue 4 job 2", 20.0, 30.0)]
    assert not picture.floating("fences")


def test_what_is_not_over_at_the_end_says_so(draw: Callable[..., Picture]) -> None:
    bind = {"event": "bind_submit", "context": 3, "seqno": 1, "pid": 7, "waits": ["9:2"]}
    wedged = {"event": "wedged", "time": 99 * US, "device": "x"}
    picture = draw(submit(10), begin(20), {**bind, "time": 30 * US}, wedged)
    ends = [record for record in picture.drawn if record["ph"] in "Ee"]
    assert len(ends) == 2 + 3  # of an engine and a queue; of two fences and the bind
    assert all((r["ts"], r["args"]) == (99.0, {"unfinished": True}) for r in ends)


def test_a_bind_that_waits(draw: Callable[..., Picture]) -> None:
    bind = {"context": 3, "seqno": 1}
    asked = {"event": "bind_submit", "pid": 7, "waits": ["9:2"], "time": 10 * US}
    picture = draw({**asked, **bind}, {"event": "bind_end", "time": 40 * US, **bind})
    for group in ("binds", "fences"):
        ((first, last),) = picture.floating(group).values()
        assert (first["ts"], last["ts"], first["id"]) == (10.0, 40.0, "3:1")
    assert picture.floating("binds")["3:1"][0]["args"] == {"pid": 7, "waits": ["9:2"]}


def test_moments(draw: Callable[..., Picture]) -> None:
    state = {"event": "bo_state", "time": 5 * US, "bo": 3, "old": "WILLNEED", "new": "DONTNEED"}
    picture = draw(state, {"event": "lost", "time": 6 * US, "count": 7})
    first, second = picture.row("device")
    assert (first["ph"], first["name"], first["args"]["bo"]) == ("i", "bo_state", 3)
    assert (second["name"], second["args"]) == ("lost", {"count": 7})


def test_late_events_find_their_places(draw: Callable[..., Picture]) -> None:
    told = {"event": "lost", "time": 50 * US, "count": 1}
    picture = draw(told, begin(20), end(60))
    assert [record["ts"] for record in picture.drawn] == [20.0, 20.0, 50.0, 60.0, 60.0]


def test_nothing_is_drawn_before_what_was_written_long_ago(draw: Callable[..., Picture]) -> None:
    moments = [{"event": "lost", "time": time * US, "count": time} for time in (50, 3_000_000)]
    picture = draw(*moments, begin(20), end(60))
    assert picture.spans("gt0 rcs0") == [("queue 4 job 2", 50.0, 60.0)]


# ---- a real trace ----------------------------------------------------------------------------


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node()
    yield directory
    wait_until_empty(directory)


@pytest.fixture
def device(directory: str) -> Iterator[Device]:
    with Device(IoctlTransport(f"{directory}/dev/dri/renderD128")) as device:
        yield device


class Tracer:
    """A running ``xe-mock trace --perfetto``."""

    def __init__(self, directory: str, file: Path, *options: str) -> None:
        self.file = file
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "xedev.cli", "trace", directory),
                "--perfetto",
                file,
                *options,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        assert self.process.stderr.readline().startswith("xe-mock: tracing")

    def end(self, number: signal.Signals | None = signal.SIGINT) -> Picture:
        """End it, or wait until it ends, and look at what it wrote."""
        if number is not None:
            self.process.send_signal(number)
        output, said = self.process.communicate(timeout=20)
        assert (self.process.returncode, output) == (0, ""), said
        return Picture(self.file.read_text())


@pytest.fixture
def trace(directory: str, tmp_path: Path) -> Iterator[Callable[..., Tracer]]:
    started: list[Tracer] = []

    def start(*options: str) -> Tracer:
        started.append(Tracer(directory, tmp_path / "trace.json", *options))
        return started[-1]

    yield start
    for tracer in started:
        tracer.process.kill()
        tracer.process.communicate()


@fuse
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_file_of_a_trace(
    device: Device, trace: Callable[..., Tracer], number: signal.Signals
) -> None:
    tracer = trace()
    board = Board(device)
    with Cork(device, [RCS]) as cork:
        copy = board.queue([BCS])
        fence = board.exec(copy, board.storing(1), sync_wait(cork.syncobj))
        bound = device.syncobj_create()
        syncs = [sync_wait(cork.syncobj), sync_signal(bound)]
        device.vm_bind(board.vm, [op_map(board.bo, 0, 1 << 32, board.size)], syncs)
    wait_for(device, fence, bound)
    device.set_client_name("painter")
    picture = tracer.end(number)
    assert {"gt0 rcs0", "gt0 bcs0"} <= picture.rows("engines")
    ((_, begun, ended),) = picture.spans("gt0 rcs0")
    assert begun < ended
    ((_, after, _),) = picture.spans("gt0 bcs0")
    assert after >= ended
    assert len(picture.rows("queues")) == 4
    (bind,) = (pair for pair in picture.floating("binds").values() if pair[0]["args"]["waits"])
    assert bind[0]["ts"] < ended <= bind[1]["ts"]
    assert len(picture.floating("fences")) >= 3
    arrows = [record for record in picture.drawn if record["ph"] == "f"]
    assert len(arrows) == 2
    (client,) = (name for name in picture.rows("clients") if name.endswith(f" {os.getpid()}"))
    names = [record["name"] for record in picture.row(client)]
    assert names.count("DRM_IOCTL_XE_EXEC") == 2
    assert names[-1] == "DRM_IOCTL_SET_CLIENT_NAME"


@fuse
def test_work_that_goes_on_when_the_trace_ends(
    device: Device, trace: Callable[..., Tracer]
) -> None:
    tracer = trace()
    with Cork(device, [RCS]):
        picture = tracer.end()
    (last,) = (record for record in picture.row("gt0 rcs0") if record["ph"] == "E")
    assert last["args"] == {"unfinished": True}


@fuse
def test_a_number_of_events(device: Device, trace: Callable[..., Tracer]) -> None:
    tracer = trace("--count", "2")
    for _ in range(3):
        device.get_cap(5)
    picture = tracer.end(None)
    assert [record["name"] for record in picture.drawn] == ["DRM_IOCTL_GET_CAP"] * 2


@fuse
def test_the_mount_ends_first(tmp_path: Path) -> None:
    mount = tmp_path / "mnt"
    mount.mkdir()
    assert run_command("mount", str(mount), "--die-with", str(os.getpid())).returncode == 0
    tracer = Tracer(str(mount), tmp_path / "trace.json")
    with Device(IoctlTransport(f"{mount}/dev/dri/renderD128")) as device:
        device.get_cap(5)
    assert run_command("umount", str(mount)).returncode == 0
    picture = tracer.end(None)
    assert "DRM_IOCTL_GET_CAP" in [record["name"] for record in picture.drawn]


@fuse
def test_a_file_that_cannot_be_written(directory: str, tmp_path: Path) -> None:
    ran = run_command("trace", directory, "--perfetto", str(tmp_path / "no" / "where"))
    assert ran.returncode == 1
    assert "No such file or directory" in ran.stderr.splitlines()[-1]


def test_one_form_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main(["trace", "x", "--json", "--perfetto", "y"])
    assert raised.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
