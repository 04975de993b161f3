"""The commands that look at a mount, and the command line itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import xedev
from tests.node.fake_mount import Child, eventually
from tests.xe.gpu_work import RCS
from uapi import xe_drm
from xedev.cli import common, demo, main, sizes, trace
from xedev.cli.show import state_text
from xedev.client import Device, IoctlError, IoctlTransport, sync_signal, sync_wait
from xedev.client.memory import op_map
from xedev.client.spinner import Cork
from xedev.node.daemon import MountError
from xedev.testing.mounts import run_command, wait_until_empty

fuse = pytest.mark.fuse

ROOT = Path(__file__).parents[2]
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
ADDRESS = 0x100000
SIZE = 0x10000
BIND_ENGINE = xe_drm.drm_xe_engine_class_instance(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND)


# ---- small parts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64K", 64 << 10),
        ("256M", 256 << 20),
        ("12g", 12 << 30),
        ("1T", 1 << 40),
        ("2 GiB", 2 << 30),
        ("3MB", 3 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert sizes.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0G", "-1", "1.5G", "G", "12X", "1 2"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(Exception, match="is no size"):
        sizes.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1"), (4096, "4K"), (4097, "4097"), (12216 << 20, "12216M"), (1 << 40, "1T")],
)
def test_size_texts(size: int, text: str) -> None:
    assert sizes.size_text(size) == text


def test_tables_have_their_numbers_to_the_right() -> None:
    text = common.table(["name", "n"], [["a", 5], ["longer", 123]])
    assert text == "name      n\na         5\nlonger  123"
    assert common.table(["name"], []) == "name"


IOCTL = {
    "event": "ioctl",
    "time": 1,
    "pid": 17,
    "tid": 18,
    "comm": "glxgears",
    "client": 3,
    "name": "DRM_IOCTL_XE_MADVISE",
    "args_text": "drm_xe_madvise(vm_id=1, purge_state_val=(val=DONTNEED))",
    "result": 0,
    "errno": None,
    "reason": "",
}


JOB = {"time": 1, "queue": 4, "vm": 5, "engine_class": 0, "seqno": 2}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            IOCTL,
            "     17 glxgears          3  "
            "DRM_IOCTL_XE_MADVISE(vm_id=1, purge_state_val=(val=DONTNEED)) = 0",
        ),
        (
            {**IOCTL, "args_text": "", "result": -22, "errno": "EINVAL", "reason": "no such VM"},
            "     17 glxgears          3  DRM_IOCTL_XE_MADVISE() = -22 [EINVAL: no such VM]",
        ),
        (
            {
                "event": "bo_state",
                "time": 1,
                "bo": 3,
                "old": "WILLNEED",
                "new": "DONTNEED",
                "by": 1,
            },
            "bo 3: WILLNEED -> DONTNEED (by=1)",
        ),
        (
            {"event": "bo_state", "time": 1, "bo": 3, "old": "DONTNEED", "new": "PURGED"},
            "bo 3: DONTNEED -> PURGED",
        ),
        ({"event": "wedged", "time": 1, "device": "x"}, "wedged: device=x"),
        (
            {**JOB, "event": "job_submit", "context": 9, "batches": ["0x1000"], "waits": ["7:3"]},
            "queue 4 job 2: submitted, batches 0x1000 (rcs, vm 5), waits for 7:3",
        ),
        (
            {**JOB, "event": "job_begin", "engine": [0, 1, 0], "monotonic": 5},
            "queue 4 job 2: begins on rcs1 of gt0",
        ),
        (
            {**JOB, "event": "job_end", "error": 0, "monotonic": 6},
            "queue 4 job 2: ends",
        ),
        (
            {
                **JOB,
                "event": "job_end",
                "error": 5,
                "reason": "fault",
                "address": 4096,
                "dump": ["at 0x1000", "after 0x2000"],
            },
            "queue 4 job 2: fails with EIO, fault at 0x1000\n  at 0x1000\n  after 0x2000",
        ),
        (
            {"event": "job_done", "time": 1, "context": 9, "seqno": 2, "error": 0},
            "fence 9:2: signalled",
        ),
        (
            {"event": "job_done", "time": 1, "context": 9, "seqno": 2, "error": 125},
            "fence 9:2: signalled with ECANCELED",
        ),
        (
            {"event": "bind_submit", "time": 1, "context": 3, "seqno": 1, "pid": 7, "waits": []},
            "      7                 bind 3:1: submitted",
        ),
        (
            {"event": "bind_end", "time": 1, "context": 3, "seqno": 1},
            "bind 3:1: takes effect",
        ),
        (
            {"event": "lost", "time": 1, "count": 7},
            "lost: 7 events came faster than they were read",
        ),
    ],
)
def test_event_texts(event: dict[str, Any], text: str) -> None:
    assert trace.event_text(event) == text


# ---- usage and errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["mount"],
        ["mount", "x", "--vram", "much"],
        ["mount", "x", "--system", "5000"],
        ["mount", "x", "--profile", "i915"],
        ["mount", "x", "--purgeability", "never"],
        ["mount", "x", "--devices", "0"],
        ["mount", "x", "--devices", "17"],
        ["mount", "x", "--devices", "two"],
        ["mount", "x", "--memory", "disk"],
        ["mount", "x", "--memory-fds", "-1"],
        ["mount", "x", "--job-timeout", "0"],
        ["mount", "x", "--job-timeout", "10001"],
        ["mount", "x", "--job-timeout", "long"],
        ["mount", "x", "--deterministic"],
        ["mount", "x", "--deterministic", "-1"],
        ["show", "x", "--device", "-1"],
        ["trace", "x", "--device", "all"],
        ["trace", "x", "--count", "0"],
        ["pressure", "x", "--by", "evict"],
        ["pressure", "x", "--bo", "1"],
        ["pressure", "x", "--bo", "1", "--region", "system", "--bytes", "1", "--by", "evict"],
        ["pressure", "x", "--region", "system", "--by", "shrink"],
        ["pressure", "x", "--bo", "1", "--bytes", "4K", "--by", "shrink"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main(arguments)
    assert raised.value.code == 2
    assert "usage: xe-mock" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["show"], ["trace"], ["pressure", "--bo", "1", "--by", "evict"]]
)
def test_nothing_is_mounted_there(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = arguments
    assert main.main([command, str(tmp_path), *options]) == 1
    assert capsys.readouterr().err == f"xe-mock: {tmp_path}: no xe-mock is mounted there\n"


def test_a_traceback_only_for_those_who_want_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XE_MOCK_DEBUG", "1")
    assert main.main(["umount", str(tmp_path)]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("XE_MOCK_DEBUG", "0")
    assert main.main(["umount", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_even_a_bug_of_the_command_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("xedev.cli.umount.stop", broken)
    assert main.main(["umount", "x"]) == 1
    assert capsys.readouterr().err == "xe-mock: two lines\n"


# ---- on a mount ------------------------------------------------------------------------------


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node(vram="64M", system="256M")
    yield directory
    wait_until_empty(directory)


@pytest.fixture
def device(directory: str) -> Iterator[Device]:
    with Device(IoctlTransport(f"{directory}/dev/dri/renderD128")) as device:
        yield device


def command(*arguments: str) -> str:
    ran = run_command(*arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def bind(device: Device, placement: int = 1) -> int:
    """A VM with one BO in it; the BO's id."""
    vm = device.vm_create()
    handle = device.gem_create(SIZE, placement=placement)
    device.vm_bind(vm, [op_map(handle, 0, ADDRESS, SIZE, pat_index=2)])
    return device.bo_info(handle).id


def advise(device: Device, state: int) -> int | None:
    return device.madvise_purgeable(1, ADDRESS, SIZE, state)


@fuse
def test_show_of_a_fresh_device(directory: str) -> None:
    state = json.loads(command("show", directory, "--json"))
    assert set(state) == {"devices", "files", "vms", "exec_queues", "bos"}
    assert [state[kind] for kind in ("files", "vms", "bos")] == [[], [], []]
    text = command("show", directory)
    assert text.startswith("device 0: ")
    assert "open files: 0\n" in text
    assert "64M" in text


@fuse
def test_show(directory: str, device: Device) -> None:
    device.set_client_name("painter")
    bo = bind(device)
    advise(device, DONTNEED)
    state = json.loads(command("show", directory, "--json"))
    (shown,) = state["bos"]
    assert shown["id"] == bo
    assert (shown["size"], shown["state"], shown["handles"]) == (SIZE, "DONTNEED", 1)
    assert (shown["vma_count"], shown["willneed_count"], shown["exported"]) == (1, 0, False)
    assert state["files"][0]["pid"] == os.getpid()
    lines = command("show", directory).splitlines()
    (file_line,) = (line for line in lines if "renderD128" in line)
    assert str(os.getpid()) in file_line
    assert "painter" in file_line
    (vma_line,) = (line for line in lines if f"{ADDRESS:#014x}" in line)
    assert f"bo {bo}+0x0" in vma_line
    (bo_line,) = (line for line in lines if line.split()[:2] == [str(bo), "64K"])
    assert "DONTNEED" in bo_line


@fuse
def test_show_of_queues(directory: str, device: Device) -> None:
    vm = device.vm_create()
    device.exec_queue_create(vm, [BIND_ENGINE])
    with Cork(device, [RCS], vm) as cork:
        behind = device.syncobj_create()
        device.exec(cork.exec_queue, 0, [sync_wait(cork.syncobj), sync_signal(behind)])
        state = json.loads(command("show", directory, "--json"))
        lines = command("show", directory).splitlines()
    binds, shown = state["exec_queues"]
    assert (binds["class"], binds["jobs"], binds["ticks"]) == ("bind", 0, 0)
    assert (shown["client"], shown["id"], shown["vm"]) == (state["files"][0]["id"], 2, vm)
    assert (shown["class"], shown["gt"], shown["engines"], shown["width"]) == ("rcs", 0, [0], 1)
    assert (shown["jobs"], shown["running"], shown["banned"]) == (2, True, False)
    assert shown["ticks"] > 0
    gpu = state["devices"][0]["gpu_pid"]
    assert Path(f"/proc/{gpu}/cmdline").read_bytes().split(b"\0")[2:4] == [b"-m", b"xedev.gpu"]
    assert f"GPU process {gpu}" in lines[0]
    place = next(number for number, line in enumerate(lines) if line.startswith("exec queues: 2"))
    assert lines[place + 1].split() == [
        *("client", "id", "number", "vm", "engine", "priority", "jobs", "state", "ticks")
    ]
    assert lines[place + 2].split()[4:8] == ["bind", "1", "0", "idle"]
    assert lines[place + 3].split()[4:8] == ["rcs[0]", "1", "2", "running"]


def a_queue(**changes: object) -> dict[str, Any]:
    who = {"device": 0, "client": 1, "id": 1, "number": 1, "vm": 1, "priority": 1}
    engines = {"class": "vcs", "gt": 1, "engines": [0, 1], "width": 1}
    progress = {"jobs": 0, "running": False, "banned": False, "ticks": 0}
    return {**who, **engines, **progress, **changes}


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        (a_queue(), ["vcs[0,1]", "1", "0", "idle"]),
        (a_queue(engines=[0], width=2, jobs=3), ["vcs[0]x2", "1", "3", "waiting"]),
        (a_queue(jobs=1, running=True), ["vcs[0,1]", "1", "1", "running"]),
        (a_queue(banned=True), ["vcs[0,1]", "1", "0", "banned"]),
    ],
)
def test_the_text_of_a_queue(queue: dict[str, Any], words: list[str]) -> None:
    text = state_text({**EMPTY, "exec_queues": [queue]})
    assert text.split("ticks\n")[1].splitlines()[0].split()[4:8] == words


DEVICE = {
    "index": 0,
    "name": "GPU",
    "profile": "bmg",
    "pci": "0000:03:00.0",
    "purgeability": "walk",
    "wedged": False,
    "unplugged": False,
    "regions": [],
    "gpu_pid": 0,
}
EMPTY: dict[str, Any] = {"devices": [DEVICE], "files": [], "vms": [], "exec_queues": [], "bos": []}


def test_the_text_names_troubles_and_gaps() -> None:
    device = {**DEVICE, "wedged": True, "unplugged": True}
    text = state_text({**EMPTY, "devices": [device]})
    assert "(bmg, purgeability walk, wedged, unplugged)" in text


@pytest.fixture
def cards(mounted_node: Callable[..., str]) -> Iterator[tuple[str, list[Device]]]:
    """A mount with two cards, and a file of each."""
    directory = mounted_node(devices=2, vram="64M", system="256M")
    nodes = [f"{directory}/dev/dri/{name}" for name in ("renderD128", "renderD129")]
    devices = [Device(IoctlTransport(node)) for node in nodes]
    yield directory, devices
    for device in devices:
        device.close()
    wait_until_empty(directory)


@fuse
def test_two_cards_have_nodes_and_debug_files(cards: tuple[str, list[Device]]) -> None:
    directory, _ = cards
    assert sorted(os.listdir(f"{directory}/dev/dri")) == [
        *("card0", "card1", "renderD128", "renderD129", "xe-mock", "xe-mock1")
    ]
    first, second = (set(os.listdir(f"{directory}/debug/dri/{index}")) for index in (0, 1))
    assert first - second == {"daemon"}
    assert second < first
    stats = [os.stat(f"{directory}/dev/dri/card{index}") for index in (0, 1)]
    assert stats[0].st_dev == stats[1].st_dev
    assert stats[0].st_ino != stats[1].st_ino


@fuse
def test_show_of_two_cards(cards: tuple[str, list[Device]]) -> None:
    directory, devices = cards
    for device in devices:
        bind(device)
    state = json.loads(command("show", directory, "--json"))
    assert set(state) == {"devices", "files", "vms", "exec_queues", "bos"}
    assert [(card["index"], card["pci"]) for card in state["devices"]] == [
        (0, "0000:03:00.0"),
        (1, "0000:04:00.0"),
    ]
    for kind in ("files", "vms", "bos"):
        assert [entry["device"] for entry in state[kind]] == [0, 1]
    (one,) = json.loads(command("show", directory, "--device", "1", "--json"))["files"]
    assert one == state["files"][1]
    text = command("show", directory)
    titles = ("device", "open", "exec", "buffers")
    heads = [line for line in text.splitlines() if line.startswith(titles)]
    sections = ("open files", "exec queues", "buffers")
    assert [head.split(" at ")[0].split(":")[0] for head in heads] == [
        *("device 0", *sections, "device 1", *sections)
    ]
    (file_line,) = (line for line in text.splitlines() if "renderD129" in line)
    assert text.index(file_line) > text.index("device 1")
    assert "device 0" not in command("show", directory, "--device", "1")


@fuse
def test_pressure_and_trace_of_the_second_card(cards: tuple[str, list[Device]]) -> None:
    directory, devices = cards
    bos = [bind(device) for device in devices]
    for device in devices:
        advise(device, DONTNEED)
    tracer = Tracer(directory, "--device", "1", "--json", "--count", "1")
    shrink = ("--region", "system", "--bytes", "64K", "--by", "shrink")
    text = command("pressure", directory, "--device", "1", *shrink)
    assert text == f"bo {bos[1]}: purged, 64K\n"
    status, lines, _ = tracer.wait()
    assert status == 0
    assert json.loads(lines[0])["event"] == "bo_state"
    assert [advise(device, WILLNEED) for device in devices] == [1, 0]


@fuse
def test_a_card_that_is_not_there(cards: tuple[str, list[Device]]) -> None:
    directory, _ = cards
    for arguments in (["show"], ["trace"], ["pressure", "--bo", "1", "--by", "evict"]):
        ran = run_command(arguments[0], directory, *arguments[1:], "--device", "2")
        assert ran.returncode == 1
        assert f"{directory}: it has no card 2" in ran.stderr


@fuse
def test_pressure_purges_what_is_not_needed_and_nothing_else(
    directory: str, device: Device
) -> None:
    bo = bind(device)
    evict = ("pressure", directory, "--bo", str(bo), "--by", "shrink")
    assert "purged" not in command(*evict)
    assert advise(device, DONTNEED) == 1
    answer = json.loads(command(*evict, "--json"))
    assert [(v["bo"], v["action"]) for v in answer["victims"]] == [(bo, "purged")]
    assert advise(device, WILLNEED) == 0
    assert "nothing to do" in command(*evict) or "skipped" in command(*evict)


@fuse
def test_pressure_on_a_region(directory: str, device: Device) -> None:
    bo = bind(device)
    advise(device, DONTNEED)
    text = command(
        *("pressure", directory, "--region", "system", "--bytes", "64K", "--by", "shrink")
    )
    assert text == f"bo {bo}: purged, 64K\n"


@fuse
def test_pressure_on_what_is_not_there(directory: str) -> None:
    ran = run_command("pressure", directory, "--bo", "4711", "--by", "evict")
    assert ran.returncode == 1
    assert "there is no such buffer or region" in ran.stderr


class Tracer:
    """A running ``xe-mock trace``."""

    def __init__(self, directory: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xedev.cli", "trace", directory, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        assert self.process.stderr.readline().startswith("xe-mock: tracing")

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, list[str], str]:
        """Exit status, output, what was said at the end."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, list[str], str]:
        output, said = self.process.communicate(timeout=20)
        return self.process.returncode, output.splitlines(), said


@fuse
@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show"], "only the user who mounted it may do that"),
        (["trace"], "only the user who mounted it may do that"),
        (["pressure", "--bo", "1", "--by", "evict"], "only the user who mounted it may do that"),
        (["umount"], "only the user who mounted it may end it"),
        (["mount"], "something is mounted there already"),
    ],
)
def test_other_users_are_told_so(
    directory: str, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    def user() -> int:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        name, *options = arguments
        return main.main([name, directory, *options])

    assert Child(user).wait() == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line


@fuse
def test_trace_shows_ioctls_and_changes_of_state(directory: str, device: Device) -> None:
    tracer = Tracer(directory)
    bo = bind(device)
    advise(device, DONTNEED)
    with pytest.raises(IoctlError):
        device.vm_destroy(99)
    device.get_cap(5)
    assert tracer.process.stdout is not None
    lines: list[str] = []
    while "GET_CAP" not in (lines or [""])[-1]:
        lines.append(tracer.process.stdout.readline())
    status, rest, _ = tracer.end()
    assert (status, rest) == (0, [])
    ioctls = [line for line in lines if f"{os.getpid():>7} " in line and "DRM_IOCTL" in line]
    assert [line.split("(")[0].split()[-1] for line in ioctls][-3:] == [
        "DRM_IOCTL_XE_MADVISE",
        "DRM_IOCTL_XE_VM_DESTROY",
        "DRM_IOCTL_GET_CAP",
    ]
    assert any("= -2 [ENOENT: " in line for line in ioctls)
    assert any(line.startswith(f"bo {bo}: WILLNEED -> DONTNEED") for line in lines), lines


@fuse
def test_trace_shows_jobs(directory: str, device: Device) -> None:
    tracer = Tracer(directory, "--json")
    with Cork(device, [RCS]) as cork:
        pass
    device.get_cap(5)
    assert tracer.process.stdout is not None
    events: list[dict[str, Any]] = []
    while not any("GET_CAP" in event.get("name", "") for event in events):
        events.append(json.loads(tracer.process.stdout.readline()))
    assert tracer.end()[0] == 0
    jobs = {event["event"]: event for event in events if event["event"].startswith("job_")}
    submitted, begun, ended = (jobs[f"job_{what}"] for what in ("submit", "begin", "end"))
    assert submitted["batches"] == [f"{cork.addr:#x}"]
    assert begun["engine"] == [RCS.engine_class, 0, 0]
    assert ended["error"] == 0
    assert len({(event["queue"], event["seqno"]) for event in (submitted, begun, ended)}) == 1
    assert submitted["time"] < ended["time"]
    assert begun["monotonic"] < ended["monotonic"]


@fuse
def test_trace_as_json_for_a_number_of_events(directory: str, device: Device) -> None:
    tracer = Tracer(directory, "--json", "--count", "2")
    for _ in range(3):
        device.get_cap(5)
    status, lines, _ = tracer.wait()
    assert status == 0
    assert [json.loads(line)["name"] for line in lines] == ["DRM_IOCTL_GET_CAP"] * 2


@fuse
def test_trace_opens_no_drm_file_and_leaves_no_listener(directory: str) -> None:
    tracer = Tracer(directory)
    assert json.loads(command("show", directory, "--json"))["files"] == []
    assert tracer.end()[0] == 0


@fuse
def test_trace_ends_with_the_mount(mounted_node: Callable[..., str], tmp_path: Path) -> None:
    directory = tmp_path / "mnt"
    directory.mkdir()
    command("mount", str(directory), "--die-with", str(os.getpid()))
    tracer = Tracer(str(directory))
    command("umount", str(directory))
    status, _, said = tracer.wait()
    assert status == 0
    assert "the mount has ended" in said


@fuse
def test_a_reader_that_has_seen_enough_ends_the_trace(directory: str, device: Device) -> None:
    tracer = Tracer(directory)
    assert tracer.process.stdout is not None
    device.get_cap(5)
    tracer.process.stdout.readline()
    tracer.process.stdout.close()
    assert eventually(lambda: bool(device.get_cap(5)) and tracer.process.poll() is not None, 5)
    assert tracer.process.returncode == 0
    assert tracer.process.stderr is not None
    assert tracer.process.stderr.read() == ""
    tracer.process.stderr.close()


# ---- demo ------------------------------------------------------------------------------------

PROGRAM = "import sys; print('example on', *sys.argv[1:]); sys.exit(3 if 'fail' in __file__ else 0)"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another checkout, with a simpler example."""
    package = tmp_path / "xedev"
    package.mkdir()
    monkeypatch.setattr(xedev, "__file__", str(package / "__init__.py"))
    example = tmp_path / "examples" / "purgeable.py"
    example.parent.mkdir()
    example.write_text(PROGRAM)
    return example


@fuse
def test_the_demo_runs_on_a_mount(example: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["demo", "--profile", "lnl"]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("example on /tmp/xe-mock-demo-")
    assert said.out.endswith("/dev/dri/renderD128\n")
    directory = said.out.split()[2].removesuffix("/dev/dri/renderD128")
    assert not Path(directory).exists()
    assert said.err == ""


@fuse
def test_a_failing_example_is_unmounted_too(
    example: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    example.write_text("import sys; print(sys.argv[1]); sys.exit(3)")
    assert main.main(["demo"]) == 3
    directory = capfd.readouterr().out.strip().removesuffix("/dev/dri/renderD128")
    assert not Path(directory).exists()


def test_without_a_mount_the_demo_runs_in_process(
    example: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> int:
        raise MountError("it is forbidden")

    monkeypatch.setattr(demo, "start", start)
    assert main.main(["demo"]) == 0
    said = capfd.readouterr()
    assert said.out == "example on in-process\n"
    assert said.err == "xe-mock: no mount, so the device is in-process: it is forbidden\n"


def test_without_the_example_there_is_no_demo(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.unlink()
    assert main.main(["demo"]) == 1
    assert "needs a checkout" in capsys.readouterr().err
