"""``xe-mock top``: what it computes from two looks, and the command on a mount."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.xe.gpu_work import RCS
from uapi import xe_drm
from xedev.cli import main
from xedev.cli.top import Snapshot, picture, picture_text
from xedev.client import Device, IoctlTransport
from xedev.client.memory import op_map
from xedev.client.spinner import Cork
from xedev.testing.mounts import run_command, wait_until_empty

fuse = pytest.mark.fuse

ROOT = Path(__file__).parents[2]
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
ADDRESS = 0x100000
MIB = 1 << 20


# ---- rows from snapshots ---------------------------------------------------------------------


def a_region(name: str = "vram0", **changes: object) -> dict[str, Any]:
    region = {"name": name, "size": 64 * MIB, "used": 8 * MIB, "purgeable": MIB}
    more = {"purgeable_bos": 2, "cpu_visible_size": 32 * MIB, "cpu_visible_used": 4 * MIB}
    return {**region, **more, **changes}


def a_device(**changes: object) -> dict[str, Any]:
    facts = {"index": 0, "name": "GPU", "profile": "bmg", "pci": "0000:03:00.0"}
    state = {"purgeability": "walk", "wedged": False, "unplugged": False, "uptime": 61.5}
    clock = {"gt_ticks": 0, "engines": {"rcs": 1, "vcs": 2}}
    return {**facts, **state, **clock, "regions": [a_region()], "pending_fds": 0, **changes}


def a_file(number: int, ioctls: int = 0, **changes: object) -> dict[str, Any]:
    who = {"device": 0, "id": number, "node": "renderD128", "pid": 17, "uid": 0, "comm": "gears"}
    rights = {"name": "", "authenticated": True, "master": False}
    use = {"handles": 3, "vms": 1, "resident": 2 * MIB, "ioctls": ioctls, "ticks": {}}
    return {**who, **rights, **use, **changes}


def look(time: float, *files: dict[str, Any], **state: Any) -> Snapshot:
    return Snapshot(time, {"devices": [a_device()], "bos": [], "files": files, **state})


def rates(now: Snapshot, before: Snapshot | None) -> dict[int, float | None]:
    return {file["id"]: file["ioctls_per_second"] for file in picture(now, before)["files"]}


def test_one_look_tells_no_rate() -> None:
    assert rates(look(1.0, a_file(1, 500)), None) == {1: None}


def test_a_rate_is_the_increase_over_the_time() -> None:
    assert rates(look(3.0, a_file(1, 1500)), look(1.0, a_file(1, 500))) == {1: 500.0}
    assert rates(look(1.3, a_file(1, 501)), look(1.0, a_file(1, 500))) == {1: 3.3}


def test_an_idle_file_has_the_rate_zero() -> None:
    assert rates(look(2.0, a_file(1, 500)), look(1.0, a_file(1, 500))) == {1: 0.0}


def test_all_of_a_new_file_is_new() -> None:
    assert rates(look(2.0, a_file(2, 40)), look(1.0, a_file(1, 500))) == {2: 40.0}


def test_a_mount_made_anew_starts_at_zero() -> None:
    assert rates(look(2.0, a_file(1, 7)), look(1.0, a_file(1, 500))) == {1: 7.0}


def use_of(now: dict[str, Any], before: dict[str, Any] | None, ticks: int = 1000) -> Any:
    """What file 1 had of the engines, when the GT's clock went on by ``ticks``."""
    after = look(2.0, now, devices=[a_device(gt_ticks=5000 + ticks)])
    first = look(1.0, *filter(None, [before]), devices=[a_device(gt_ticks=5000)])
    return picture(after, first)["files"][0]["engines"]


def test_the_use_of_engines_is_a_part_of_all_of_their_class() -> None:
    before = a_file(1, ticks={"rcs": 100})
    now = a_file(1, ticks={"rcs": 600, "vcs": 1000})
    assert use_of(now, before) == {"rcs": 50.0, "vcs": 50.0}
    assert use_of(a_file(1, ticks={"rcs": 250}), None) == {"rcs": 25.0}


def test_idle_engines_and_none_at_all() -> None:
    idle = a_file(1, ticks={"rcs": 100})
    assert use_of(idle, idle) == {"rcs": 0.0}
    assert use_of(a_file(1), a_file(1)) == {}


def test_one_look_tells_no_use() -> None:
    shown = picture(look(1.0, a_file(1, ticks={"rcs": 100})), None)
    assert shown["files"][0]["engines"] is None


def test_a_clock_that_stands_still_tells_no_use() -> None:
    assert use_of(a_file(1, ticks={"rcs": 100}), a_file(1), ticks=0) == {}


def test_who_has_the_engines_is_first() -> None:
    files = (a_file(1, 500), a_file(2, ticks={"rcs": 10}))
    before = look(1.0, a_file(1), a_file(2))
    now = look(2.0, *files, devices=[a_device(gt_ticks=1000)])
    assert [file["id"] for file in picture(now, before)["files"]] == [2, 1]


def test_the_busiest_file_is_first_then_the_largest_then_the_oldest() -> None:
    before = look(1.0, *(a_file(number) for number in range(1, 6)))
    now = look(
        2.0,
        a_file(1),
        a_file(2, 10),
        a_file(3, resident=3 * MIB),
        a_file(4, 99),
        a_file(5),
    )
    assert list(rates(now, before)) == [4, 2, 3, 1, 5]
    assert list(rates(now, None)) == [3, 1, 2, 4, 5]


def test_buffers_are_counted_by_state() -> None:
    bos = [("WILLNEED", MIB), ("PURGED", 2 * MIB), ("WILLNEED", 4 * MIB)]
    shown = picture(look(1.0, bos=[{"state": state, "size": size} for state, size in bos]), None)
    assert shown["bos"] == [
        {"state": "WILLNEED", "count": 2, "bytes": 5 * MIB},
        {"state": "DONTNEED", "count": 0, "bytes": 0},
        {"state": "PURGED", "count": 1, "bytes": 2 * MIB},
    ]


def test_the_text() -> None:
    file = a_file(7, 30, ticks={"rcs": 980, "vcs": 500, "bcs": 0})
    card = a_device(gt_ticks=1000, engines={"rcs": 1, "vcs": 2, "bcs": 1})
    now = look(2.0, file, bos=[{"state": "DONTNEED", "size": MIB}], devices=[card])
    assert picture_text(picture(now, look(1.0, a_file(7)))).splitlines() == [
        "device 0: GPU at 0000:03:00.0 (bmg, purgeability walk), up 0:01:01",
        "  region  size  used  purgeable  purgeable BOs  CPU-visible used",
        "  vram0    64M    8M         1M              2                4M",
        "",
        "buffers: 1",
        "  state     count  size",
        "  WILLNEED      0     0",
        "  DONTNEED      1    1M",
        "  PURGED        0     0",
        "",
        "open files: 1",
        "  client  pid  comm   node        handles  VMs  resident  ioctls/s  engines",
        "       7   17  gears  renderD128        3    1        2M      30.0  rcs 98% vcs 25%",
    ]


def test_the_text_of_each_device_and_its_troubles() -> None:
    second = a_device(index=1, wedged=True, unplugged=True, uptime=90061.0)
    text = picture_text(picture(look(1.0, devices=[a_device(), second]), None))
    assert "device 1: GPU at 0000:03:00.0 (bmg, purgeability walk, wedged, unplugged), up " in text
    assert "up 1d 1:01:01\n" in text
    assert text.endswith("open files: 0")


def test_a_name_cannot_move_the_cursor() -> None:
    text = picture_text(picture(look(1.0, a_file(1, comm="\x1b[2Jevil")), None))
    assert "?[2Jevil" in text
    assert "\x1b" not in text


# ---- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "1e9", "soon", ""])
def test_no_intervals(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main(["top", "x", "--interval", interval])
    assert raised.value.code == 2
    assert "is no number of seconds" in capsys.readouterr().err


def test_nothing_is_mounted_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["top", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"xe-mock: {tmp_path}: no xe-mock is mounted there\n"


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node(vram="64M", system="256M")
    yield directory
    wait_until_empty(directory)


@pytest.fixture
def device(directory: str) -> Iterator[Device]:
    with Device(IoctlTransport(f"{directory}/dev/dri/renderD128")) as device:
        yield device


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``xe-mock top`` in a process of its own, which ends with the test."""
    started = []

    def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "xedev.cli", "top", *arguments],
            cwd=ROOT,
            env={**os.environ, "XE_MOCK_DEBUG": "0", "TERM": "xterm"},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@fuse
def test_once_as_json_with_a_client(directory: str, device: Device) -> None:
    vm = device.vm_create()
    for number in range(2):
        handle = device.gem_create(MIB, placement=2)
        device.vm_bind(vm, [op_map(handle, 0, ADDRESS + number * MIB, MIB)])
    device.madvise_purgeable(vm, ADDRESS, MIB, DONTNEED)
    ran = run_command("top", directory, "--once", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    (line,) = ran.stdout.splitlines()
    shown = json.loads(line)
    (card,) = shown["devices"]
    regions = {region["name"]: region for region in card["regions"]}
    assert list(regions) == ["system", "gtt", "vram0"]
    vram = regions["vram0"]
    assert (vram["size"], vram["used"]) == (64 * MIB, 2 * MIB)
    assert (vram["purgeable"], vram["purgeable_bos"]) == (MIB, 1)
    assert (regions["gtt"]["purgeable"], regions["gtt"]["purgeable_bos"]) == (0, 0)
    assert card["uptime"] > 0
    assert [row["count"] for row in shown["bos"]] == [1, 1, 0]
    (file,) = shown["files"]
    assert (file["pid"], file["node"]) == (os.getpid(), "renderD128")
    assert (file["handles"], file["vms"], file["resident"]) == (2, 1, 2 * MIB)
    assert (file["ioctls"], file["ioctls_per_second"]) == (6, None)


@fuse
def test_ioctls_count_whatever_they_answer(directory: str, device: Device) -> None:
    for _ in range(3):
        device.get_cap(5)
    with pytest.raises(OSError, match="No such file"):
        device.vm_destroy(99)
    (file,) = json.loads(run_command("top", directory, "--once", "--json").stdout)["files"]
    assert file["ioctls"] == 4


@fuse
def test_it_opens_no_drm_file(directory: str) -> None:
    assert json.loads(run_command("top", directory, "--once", "--json").stdout)["files"] == []


@fuse
def test_once_where_no_terminal_is(directory: str, device: Device) -> None:
    device.gem_create(MIB, placement=1)
    ran = run_command("top", directory, "--once")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("device 0: ")
    assert "\x1b" not in ran.stdout
    (line,) = (line for line in ran.stdout.splitlines() if "renderD128" in line)
    assert line.split()[-3:] == ["1M", "-", "-"]


@fuse
def test_a_line_for_each_look_until_interrupted(
    directory: str, device: Device, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(directory, "--json", "--interval", "0.05")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    device.get_cap(5)
    seen: list[float] = []
    while not any(seen):
        (file,) = json.loads(process.stdout.readline())["files"]
        seen.append(file["ioctls_per_second"])
    assert first["files"][0]["ioctls_per_second"] is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "")


@fuse
def test_a_spinner_has_its_engine(
    directory: str, device: Device, start: Callable[..., subprocess.Popen[str]]
) -> None:
    with Cork(device, [RCS]):
        process = start(directory, "--json", "--interval", "0.2")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["files"][0]["engines"] is None
        (file,) = json.loads(process.stdout.readline())["files"]
    assert list(file["engines"]) == ["rcs"]
    assert 0 < file["engines"]["rcs"] < 200
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


@fuse
def test_on_a_terminal_it_is_drawn_in_its_place(
    directory: str, device: Device, start: Callable[..., subprocess.Popen[str]]
) -> None:
    ours, its = pty.openpty()
    process = start(directory, "--interval", "0.05", stdout=its)
    os.close(its)
    shown = b""
    while shown.count(b"open files: 1") < 3:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # EIO: nobody has the other end any more
            break
    os.close(ours)
    assert process.wait(20) == 0
    alternate_screen_on, alternate_screen_off = b"\x1b[?1049h", b"\x1b[?1049l"
    assert shown.count(alternate_screen_on) == 1
    assert shown.rstrip().find(alternate_screen_off) > shown.find(b"vram0")


@fuse
def test_it_ends_with_the_mount(
    tmp_path: Path, mounted_node: Callable[..., str], start: Callable[..., subprocess.Popen[str]]
) -> None:
    directory = tmp_path / "mnt"
    directory.mkdir()
    assert run_command("mount", str(directory), "--die-with", str(os.getpid())).returncode == 0
    process = start(str(directory), "--json", "--interval", "0.05")
    assert process.stdout is not None
    process.stdout.readline()
    assert run_command("umount", str(directory)).returncode == 0
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    (line,) = said.splitlines()
    assert line.startswith("xe-mock: the mount has ended: ")


@fuse
def test_the_client_files_on_a_mount(directory: str, device: Device) -> None:
    device.gem_create(MIB, placement=2)
    (file,) = json.loads(run_command("top", directory, "--once", "--json").stdout)["files"]
    client = Path(directory, "debug/dri", f"client-{file['id']}")
    assert (client / "proc_info").read_text().startswith(f"pid: {os.getpid()}\ncomm: ")
    fdinfo = dict(line.split(":\t") for line in (client / "fdinfo").read_text().splitlines())
    assert fdinfo["drm-client-id"] == str(file["id"])
    assert fdinfo["drm-resident-vram0"] == "1 MiB"
