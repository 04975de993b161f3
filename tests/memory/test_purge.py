"""Memory gets short: what is lost, what is kept, and what the clients see of it."""

from __future__ import annotations

import errno
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.children import eventually
from tests.memory.actor import Actor
from uapi import xe_drm
from uapi.xe_mock import XE_MOCK_BO_DONTNEED, XE_MOCK_BO_PURGED, XE_MOCK_BO_WILLNEED

pytestmark = pytest.mark.fuse

MIB = 1 << 20
VRAM = 2  # placement
PIECE = 8 * MIB
NEEDS_VISIBLE = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
ADDRESS = 0x1A0000
Actors = Callable[[str], Actor]


def region(directory: str, name: str) -> Any:
    state = json.loads(Path(directory, "debug/dri/0/state").read_text())
    (found,) = (r for r in state["devices"][0]["regions"] if r["name"] == name)
    return found


def placements(directory: str) -> dict[str, int]:
    """How many BOs are where."""
    counts: dict[str, int] = {}
    for bo in json.loads(Path(directory, "debug/dri/0/state").read_text())["bos"]:
        counts[bo["placement"]] = counts.get(bo["placement"], 0) + 1
    return counts


def overcommit(actor: Actor, size: int) -> int:
    """As IGT does it: VRAM-only BOs of 8 MiB in a VM of their own, mapped and touched, ``size``
    bytes in all; returns how many."""
    vm = actor.vm()
    made = 0
    while made * PIECE < size:
        handle = actor.create(PIECE, VRAM, NEEDS_VISIBLE, vm)
        actor.map(handle, PIECE)
        actor.store(handle, 0, b"\xff" * 64)
        actor.unmap(handle)
        made += 1
    return made


def test_overcommit_by_another_process_purges_what_is_dontneed(
    mounted_node: Callable[..., str], actors: Actors
) -> None:
    vram = 64 * MIB
    directory = mounted_node(fresh=True, vram=vram, system=512 * MIB)
    client, pressure = actors(directory), actors(directory)
    handle = client.create(PIECE, VRAM, NEEDS_VISIBLE)
    vm = client.vm()
    client.bind(vm, handle, ADDRESS, PIECE)
    client.map(handle, PIECE)
    client.store(handle, PIECE - 4, b"last")
    assert client.dontneed(vm, ADDRESS, PIECE) == 1
    # Pages that are there stay usable: advice takes nothing away.
    assert client.touch(handle, PIECE - 1) == 0
    with pytest.raises(OSError, match="busy"):
        client.map(handle, PIECE)

    assert overcommit(pressure, vram * 3 // 2) == 12

    assert client.state(handle) == (XE_MOCK_BO_PURGED, 1, 0)
    assert client.touch(handle) == signal.SIGBUS
    assert client.touch(handle, PIECE - 1, write=True) == signal.SIGBUS
    assert client.willneed(vm, ADDRESS, PIECE) == 0
    with pytest.raises(OSError, match="Invalid") as refused:
        client.map(handle, PIECE)
    assert refused.value.errno == errno.EINVAL
    client.unmap(handle)
    client.close(handle)


def test_the_contents_of_a_purged_bo_are_gone_from_memory(
    mounted_node: Callable[..., str], actors: Actors
) -> None:
    directory = mounted_node(fresh=True, vram=64 * MIB, system=512 * MIB)
    client = actors(directory)
    vm = client.vm()
    handle = client.create(PIECE, 1)
    client.bind(vm, handle, ADDRESS, PIECE)
    client.map(handle, PIECE)
    client.store(handle, 0, b"x" * PIECE)
    assert region(directory, "gtt")["used"] == PIECE
    client.dontneed(vm, ADDRESS, PIECE)
    Path(directory, "debug/dri/0/pressure").write_text(f"region system {PIECE} shrink")
    assert client.touch(handle) == signal.SIGBUS
    assert region(directory, "gtt")["used"] == 0
    assert placements(directory) == {"none": 1}


@pytest.mark.parametrize("neighbours", [32])
def test_neighbours_keep_every_byte_through_eviction_and_return(
    mounted_node: Callable[..., str], actors: Actors, neighbours: int
) -> None:
    """256 MiB of WILLNEED BOs, mapped all the time, go to system memory and come back."""
    size = neighbours * PIECE
    directory = mounted_node(fresh=True, vram=size + PIECE, system=1 << 30)
    client, pressure = actors(directory), actors(directory)
    vm = client.vm()
    handles = [client.create(PIECE, VRAM | 1) for _ in range(neighbours)]
    victim = client.create(PIECE, VRAM | 1)
    contents = random.Random(1).randbytes(PIECE)
    sums = {}
    for number, handle in enumerate([*handles, victim]):
        client.bind(vm, handle, ADDRESS + number * PIECE, PIECE)
        client.map(handle, PIECE)
        client.store(handle, 0, contents[number:] + contents[:number])
        sums[handle] = client.checksum(handle)
    assert len(set(sums.values())) == neighbours + 1
    assert placements(directory) == {"vram0": neighbours + 1}
    client.dontneed(vm, ADDRESS + neighbours * PIECE, PIECE)

    overcommit(pressure, (size + PIECE) * 3 // 2)
    assert placements(directory)["gtt"] >= neighbours
    assert client.touch(victim) == signal.SIGBUS
    for handle in handles:
        assert client.checksum(handle) == sums[handle]
        assert client.state(handle) == (XE_MOCK_BO_WILLNEED, 1, 1)
    client.store(handles[0], 5, b"while evicted")
    sums[handles[0]] = client.checksum(handles[0])

    pressure.kill()
    assert eventually(lambda: region(directory, "vram0")["used"] == 0)
    for number, handle in enumerate(handles):
        client.bind(vm, handle, ADDRESS + number * PIECE, PIECE)
    assert placements(directory) == {"vram0": neighbours, "none": 1}
    assert {handle: client.checksum(handle) for handle in handles} == {
        handle: sums[handle] for handle in handles
    }
    client.map(handles[0], PIECE)  # a second mapping sees the same
    assert client.load(handles[0], 5, 13) == b"while evicted"


def test_dontneed_taken_back_in_time_keeps_the_contents(
    mounted_node: Callable[..., str], actors: Actors
) -> None:
    directory = mounted_node(fresh=True, vram=64 * MIB, system=512 * MIB)
    client, pressure = actors(directory), actors(directory)
    vm = client.vm()
    handle = client.create(PIECE, VRAM | 1)
    client.bind(vm, handle, ADDRESS, PIECE)
    client.map(handle, PIECE)
    client.store(handle, 77, b"precious")
    assert client.dontneed(vm, ADDRESS, PIECE) == 1
    assert client.willneed(vm, ADDRESS, PIECE) == 1
    overcommit(pressure, 96 * MIB)
    assert client.load(handle, 77, 8) == b"precious"


def test_a_client_that_cuts_its_bo_harms_itself_alone(
    mounted_node: Callable[..., str], actors: Actors
) -> None:
    """Whoever maps a BO could truncate the file behind it."""
    directory = mounted_node(fresh=True, vram=64 * MIB, system=512 * MIB)
    vandal, neighbour = actors(directory), actors(directory)
    handle, other = vandal.create(PIECE), neighbour.create(PIECE)
    vandal.map(handle, PIECE)
    neighbour.map(other, PIECE)
    neighbour.store(other, 0, b"mine")
    assert vandal.cut(handle) == 1
    assert vandal.touch(handle) == signal.SIGBUS
    assert neighbour.load(other, 0, 4) == b"mine"
    vm = vandal.vm()
    vandal.bind(vm, handle, ADDRESS, PIECE)
    vandal.dontneed(vm, ADDRESS, PIECE)
    Path(directory, "debug/dri/0/pressure").write_text(f"region system {PIECE} shrink")
    assert vandal.state(handle)[0] == XE_MOCK_BO_PURGED
    assert XE_MOCK_BO_DONTNEED == 1


def test_equal_programs_get_equal_victims(mounted_node: Callable[..., str], actors: Actors) -> None:
    def run() -> list[tuple[str, str]]:
        directory = mounted_node(fresh=True, vram=64 * MIB, system=512 * MIB)
        client, pressure = actors(directory), actors(directory)
        vm = client.vm()
        for number in range(6):
            handle = client.create(PIECE, VRAM | 1)
            client.bind(vm, handle, ADDRESS + number * PIECE, PIECE)
        for number in (1, 4):
            client.dontneed(vm, ADDRESS + number * PIECE, PIECE)
        overcommit(pressure, 40 * MIB)
        state = json.loads(Path(directory, "debug/dri/0/state").read_text())
        seen = [(bo["state"], bo["placement"]) for bo in state["bos"]]
        client.kill()
        pressure.kill()
        return seen

    first, second = run(), run()
    assert first == second
    assert ("PURGED", "none") in first
