"""What a client sees when something runs out, or the daemon dies: an errno, and no hang."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.children import NOBODY, Rights, errno_of, eventually, run
from tests.memory.actor import Actor
from xedev.client import Device, FrameTransport, IoctlTransport
from xedev.node.daemon import MountOptions, start, stop

pytestmark = pytest.mark.fuse

MIB = 1 << 20
SIZE = 1 << 16
Actors = Callable[[str], Actor]


def daemon_of(directory: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(directory, "debug/dri/0/daemon").read_text())
    return found


def page_files(directory: str) -> int:
    state = json.loads(Path(directory, "debug/dri/0/state").read_text())
    return int(state["devices"][0]["page_files"])


def descriptors(directory: str) -> int:
    """How many the daemon has."""
    return len(os.listdir(f"/proc/{daemon_of(directory)['pid']}/fd"))


def node(directory: str, name: str = "renderD128") -> str:
    return os.path.join(directory, "dev/dri", name)


# ---- memory ----------------------------------------------------------------------------------


def test_no_system_memory_is_enomem_and_comes_back(
    mounted_node: Callable[..., str], actors: Actors
) -> None:
    directory = mounted_node(system=8 * MIB)
    greedy, modest = actors(directory), actors(directory)
    handles = [greedy.create(MIB) for _ in range(8)]
    with pytest.raises(OSError, match="memory") as refused:
        modest.create(MIB)
    assert refused.value.errno == errno.ENOMEM
    greedy.close(handles[0])
    modest.map(modest.create(MIB), MIB)


def test_pages_of_a_deferred_bo_are_taken_when_it_is_mapped(
    mounted_node: Callable[..., str], actors: Actors
) -> None:
    directory = mounted_node(system=8 * MIB)
    client = actors(directory)
    deferred = client.create(4 * MIB, 1, 1)
    assert client.create(6 * MIB)
    with pytest.raises(OSError, match="memory") as refused:
        client.map(deferred, 4 * MIB)
    assert refused.value.errno == errno.ENOMEM


# ---- descriptors -----------------------------------------------------------------------------


def test_untouched_bos_cost_the_daemon_nothing(
    mounted_node: Callable[..., str], actors: Actors
) -> None:
    directory = mounted_node(vram=1 << 34)
    client = actors(directory)
    before = descriptors(directory)
    for _ in range(200):
        client.create(12 * MIB, 2)
    assert descriptors(directory) == before
    assert page_files(directory) == 0


@pytest.mark.parametrize("way", [IoctlTransport, FrameTransport])
def test_beyond_the_budget_bos_are_files_without_a_descriptor(
    mounted_node: Callable[..., str], tmp_path: Path, way: Callable[[str], Any]
) -> None:
    directory = mounted_node(memory_fds=3, memory_dir=str(tmp_path))
    name = "xe-mock" if way is FrameTransport else "renderD128"
    with Device(way(node(directory, name))) as device:
        mappings = []
        for number in range(50):
            mappings.append(device.map(device.gem_create(SIZE, 1), SIZE))
            mappings[-1][0] = number
        before = descriptors(directory)
        for number in range(50, 100):
            mappings.append(device.map(device.gem_create(SIZE, 1), SIZE))
            mappings[-1][0] = number
        assert descriptors(directory) == before
        assert [mapping[0] for mapping in mappings] == list(range(100))
        assert len(list(tmp_path.glob("*/bo-*"))) == 97
        for mapping in mappings:
            mapping.close()
    assert eventually(lambda: page_files(directory) == 0)
    assert not list(tmp_path.glob("*/bo-*"))


def test_a_daemon_with_few_descriptors_serves_many_mapped_bos(tmp_path: Path) -> None:
    directory, memory = tmp_path / "mnt", tmp_path / "memory"
    directory.mkdir()
    memory.mkdir()
    program = [
        *("prlimit", "--nofile=64", sys.executable, "-m", "xedev.cli", "mount", str(directory)),
        *("--memory-dir", str(memory), "--die-with", str(os.getpid())),
    ]
    subprocess.run(program, check=True, capture_output=True, timeout=60)
    try:
        with Device.open(node(str(directory))) as device:
            for _ in range(200):
                device.map(device.gem_create(SIZE, 1), SIZE).write(0, b"x")
            assert descriptors(str(directory)) < 64
        assert daemon_of(str(directory))["errors"] == 0
    finally:
        stop(directory)


def test_no_file_for_pages_is_enomem_with_the_reason(
    mounted_node: Callable[..., str], tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    directory = mounted_node(memory="tmpfs", memory_dir=str(missing))
    with Device(FrameTransport(node(directory, "xe-mock"))) as device:
        handle = device.gem_create(SIZE, 1)
        with pytest.raises(OSError, match="No such file or directory") as refused:
            device.map(handle, SIZE)
        assert refused.value.errno == errno.ENOMEM
        missing.mkdir()
        device.map(handle, SIZE).close()


# ---- other users -----------------------------------------------------------------------------


@pytest.mark.root
def test_another_user_maps_what_it_makes(mounted_node: Callable[..., str]) -> None:
    directory = mounted_node()

    def client() -> bytes:
        with Device.open(node(directory, "xe-mock"), "frames") as device:
            handle = device.gem_create(SIZE, 1)
            with device.map(handle, SIZE) as mapping:
                mapping.write(100, b"as nobody")
                return device.map(handle, SIZE).read(100, 9)

    assert run(client, Rights(uid=NOBODY)) == b"as nobody"


@pytest.mark.root
def test_pages_that_root_has_mapped_by_descriptor_cannot_get_a_name(
    mounted_node: Callable[..., str],
) -> None:
    directory = mounted_node()
    with Device.open(node(directory)) as device:
        name = 0
        with Device.open(node(directory, "card0")) as card:
            handle = card.gem_create(SIZE, 1)
            name = card.gem_flink(handle)
            mapping = card.map(handle, SIZE)
            mapping.write(0, b"root's")

            def other() -> str:
                # Another user gets at it by a descriptor that it inherited.
                shared, _ = card.gem_open(name)
                return errno_of(lambda: card.map(shared, SIZE))

            assert run(other, Rights(uid=NOBODY)) == "EACCES"
            mapping.close()
            assert eventually(lambda: run(other, Rights(uid=NOBODY)) == "")
            with card.map(handle, SIZE) as again:
                assert again.read(0, 6) == b"root's"
        assert device.gem_create(SIZE, 1)


# ---- the daemon dies -------------------------------------------------------------------------


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[str]:
    """A mount whose daemon may be killed."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    start(str(directory), MountOptions(die_with=os.getpid(), memory_dir=str(tmp_path)))
    yield str(directory)
    stop(directory)


def test_a_killed_daemon_leaves_mappings_and_clear_errors(mortal: str) -> None:
    device = Device.open(node(mortal))
    handle = device.gem_create(SIZE, 1)
    mapping = device.map(handle, SIZE)
    mapping.write(0, b"still mine")
    os.kill(daemon_of(mortal)["pid"], signal.SIGKILL)
    assert eventually(lambda: errno_of(lambda: device.bo_info(handle)) != "")
    assert errno_of(lambda: device.gem_create(SIZE, 1)) in ("ENOTCONN", "ECONNABORTED")
    assert errno_of(lambda: device.map(handle, SIZE)) in ("ENOTCONN", "ECONNABORTED")
    # The pages belong to whoever has mapped them.
    assert mapping.read(0, 10) == b"still mine"
    mapping.close()
    device.close()

    start(mortal, MountOptions(die_with=os.getpid()))
    with Device.open(node(mortal)) as again:
        fresh = again.map(again.gem_create(SIZE, 1), SIZE)
        assert fresh.read(0, 10) == bytes(10)
        fresh.close()
