"""Several cards of one machine: what they share, what each has for itself, PRIME between them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.node.fake_mount import eventually
from uapi import xe_drm
from xedev.client import Device, IoctlError
from xedev.client.memory import op_map, op_unmap
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeConfig, xe_probe

PAGE = 4096
SYSTEM, VRAM = 1, 2
SIZE = 16 * PAGE
ADDRESS = 0x10000
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED

WAYS = (
    "in-process",
    pytest.param("ioctl", marks=pytest.mark.fuse),
    pytest.param("frames", marks=pytest.mark.fuse),
)
Targets = tuple[Target[Any], Target[Any]]


@pytest.fixture(params=WAYS)
def cards(request: pytest.FixtureRequest, xe_targets: Callable[..., list[Target[Any]]]) -> Targets:
    near, far = xe_targets(request.param, 2, vram=64 << 20, system=256 << 20)
    return near, far


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(IoctlError) as caught:
        call()
    assert caught.value.errno == error


def bos(target: Target[Any]) -> list[tuple[int, int, bool, bool]]:
    """(size, handles, exported, imported) of every BO of a card."""
    return [
        (bo["size"], bo["handles"], bo["exported"], bo["imported"]) for bo in target.state()["bos"]
    ]


def used(target: Target[Any]) -> dict[str, int]:
    """Bytes in use, by region."""
    (device,) = target.state()["devices"]
    return {region["name"]: region["used"] for region in device["regions"]}


def shared(exporter: Device, importer: Device, placement: int = SYSTEM) -> tuple[int, int, int]:
    """A BO of the one on the other: (their handle, descriptor, our handle)."""
    theirs = exporter.gem_create(SIZE, placement)
    fd = exporter.prime_handle_to_fd(theirs)
    return theirs, fd, importer.prime_fd_to_handle(fd)


# ---- cards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "slots"),
    [
        ("bmg", ["0000:03:00.0", "0000:04:00.0", "0000:05:00.0"]),
        ("lnl", ["0000:00:02.0", "0000:00:03.0", "0000:00:04.0"]),
    ],
)
def test_minors_and_slots(profile: str, slots: list[str]) -> None:
    cards = xe_probe(XeConfig(profile=profile), 3)
    assert [card.unique for card in cards] == slots
    assert [[(m.name, m.index) for m in card.minors] for card in cards] == [
        [("card0", 0), ("renderD128", 128), ("xe-mock", 128)],
        [("card1", 1), ("renderD129", 129), ("xe-mock1", 129)],
        [("card2", 2), ("renderD130", 130), ("xe-mock2", 130)],
    ]


def test_sixteen_cards_have_names_and_slots_of_their_own() -> None:
    cards = xe_probe(XeConfig(), 16)
    assert len({card.unique for card in cards}) == 16
    assert cards[15].unique == "0000:12:00.0"
    assert len({minor.name for card in cards for minor in card.minors}) == 48


def test_clients_are_counted_over_all_cards(cards: Targets) -> None:
    near, far = cards
    opened = [near.device(), far.device(), near.device()]
    assert len(opened) == 3
    ids = [file["id"] for file in near.state()["files"]]
    (between,) = (file["id"] for file in far.state()["files"])
    assert ids == [between - 1, between + 1]


def test_other_machines_count_for_themselves() -> None:
    assert next(xe_probe(XeConfig(), 2)[1].client_ids) == 1
    assert next(xe_probe(XeConfig(), 2)[1].client_ids) == 1


def test_state_tells_whose_it_is(cards: Targets) -> None:
    for index, target in enumerate(cards):
        device = target.device()
        device.vm_create()
        device.gem_create(PAGE, SYSTEM)
        state = target.state()
        assert [entry["index"] for entry in state["devices"]] == [index]
        assert [x["device"] for kind in ("files", "vms", "bos") for x in state[kind]] == [index] * 3


def test_each_card_has_memory_of_its_own(cards: Targets) -> None:
    near, far = cards
    one, other = near.device(), far.device()
    one.gem_create(48 << 20, VRAM)
    other.gem_create(48 << 20, VRAM)
    one.gem_create(8 << 20, SYSTEM)
    assert used(near)["vram0"] == used(far)["vram0"] == 48 << 20
    assert [sum(used(card).values()) >> 20 for card in cards] == [56, 48]
    other.gem_create(SIZE, SYSTEM)
    assert sum(used(near).values()) >> 20 == 56


def test_a_handle_is_of_one_card(cards: Targets) -> None:
    near, far = cards[0].device(), cards[1].device()
    handle = near.gem_create(PAGE, SYSTEM)
    refused(errno.EINVAL, lambda: far.gem_close(handle))


def test_one_card_can_be_lost_alone(
    xe_targets: Callable[..., list[Target[Any]]],
) -> None:
    near, far = xe_targets("in-process", 2)
    one, other = near.device(), far.device()
    near.control("wedge", "1")
    refused(errno.ECANCELED, one.vm_create)
    assert other.vm_create() == 1
    far.control("unplug", "1")
    refused(errno.ENODEV, other.vm_create)
    assert near.debug("unplug") == "0\n"


# ---- PRIME between cards ----------------------------------------------------------------------


def test_a_bo_of_the_other_card_is_foreign(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    theirs, fd, ours = shared(exporter, importer)
    assert bos(near) == [(SIZE, 1, False, True)]
    assert bos(far) == [(SIZE, 1, True, False)]
    assert importer.prime_fd_to_handle(fd) == ours
    again = importer.prime_handle_to_fd(ours)
    assert exporter.prime_fd_to_handle(again) == theirs, "home again"
    importer.close_fd(again)
    exporter.close_fd(fd)


def test_the_importer_keeps_it_when_handle_and_descriptor_go(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    theirs, fd, ours = shared(exporter, importer)
    exporter.gem_close(theirs)
    exporter.close_fd(fd)
    assert bos(far) == [(SIZE, 0, True, False)]
    vm = importer.vm_create()
    importer.vm_bind(vm, [op_map(ours, 0, ADDRESS, SIZE)])
    importer.gem_close(ours)
    assert bos(near) == [(SIZE, 0, False, True)]
    assert bos(far) == [(SIZE, 0, True, False)]
    importer.vm_destroy(vm)
    assert bos(near) == bos(far) == []


def test_the_importer_keeps_it_when_the_exporters_file_goes(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    _, fd, _ = shared(exporter, importer)
    importer.close_fd(fd)
    exporter.close()
    assert eventually(lambda: not far.state()["files"])
    assert bos(far) == [(SIZE, 0, True, False)]
    importer.close()
    assert eventually(lambda: bos(far) == [] and bos(near) == [])


def test_the_exporter_keeps_it_when_the_importer_goes(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    theirs, fd, _ = shared(exporter, importer)
    exporter.close_fd(fd)
    importer.close()
    assert eventually(lambda: bos(near) == [])
    # As with one card: the handle's entry in the PRIME table keeps the dma-buf.
    assert bos(far) == [(SIZE, 1, True, False)]
    exporter.gem_close(theirs)
    assert bos(far) == []


def test_the_exporter_may_not_purge_what_another_card_has(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    theirs, fd, ours = shared(exporter, importer)
    exporter.close_fd(fd)
    vm = exporter.vm_create()
    exporter.vm_bind(vm, [op_map(theirs, 0, ADDRESS, SIZE)])
    assert exporter.madvise_purgeable(vm, ADDRESS, SIZE, DONTNEED) == 1
    exporter.gem_close(theirs)
    assert [bo["state"] for bo in far.state()["bos"]] == ["WILLNEED"]
    assert far.control("pressure", f"region system {SIZE} shrink").find("purged") < 0
    importer.gem_close(ours)
    assert [bo["state"] for bo in far.state()["bos"]] == ["DONTNEED"]
    assert "purged" in far.control("pressure", f"region system {SIZE} shrink")


@pytest.mark.parametrize("placement", [VRAM, VRAM | SYSTEM])
def test_only_what_may_live_in_system_memory_can_be_reached(cards: Targets, placement: int) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    fd = exporter.prime_handle_to_fd(exporter.gem_create(SIZE, placement))
    if placement == VRAM:
        refused(errno.EOPNOTSUPP, lambda: importer.prime_fd_to_handle(fd))
        assert bos(near) == []
    else:
        assert importer.bo_info(importer.prime_fd_to_handle(fd)).imported == 1
    exporter.close_fd(fd)


def test_sharing_both_ways_at_once(
    xe_targets: Callable[..., list[Target[Any]]],
) -> None:
    """Each card frees what the other one exported while that does the same."""
    near, far = xe_targets("in-process", 2)
    failures: list[BaseException] = []

    def share(exporter: Device, importer: Device, rounds: int) -> None:
        vm = importer.vm_create()
        for _ in range(rounds):
            theirs, fd, ours = shared(exporter, importer)
            importer.vm_bind(vm, [op_map(ours, 0, ADDRESS, SIZE)])
            importer.gem_close(ours)
            exporter.gem_close(theirs)
            exporter.close_fd(fd)
            importer.vm_bind(vm, [op_unmap(ADDRESS, SIZE)])

    def run(exporter: Device, importer: Device) -> None:
        try:
            share(exporter, importer, 100)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    pairs = [
        pair
        for _ in range(2)
        for pair in ((near.device(), far.device()), (far.device(), near.device()))
    ]
    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
    assert bos(near) == bos(far) == []


def places(target: Target[Any]) -> list[str]:
    return [bo["placement"] for bo in target.state()["bos"]]


def bind(device: Device, *handles: int) -> int:
    """Map BOs one after the other in a new VM, in one call."""
    vm = device.vm_create()
    device.vm_bind(vm, [op_map(h, 0, ADDRESS + i * SIZE, SIZE) for i, h in enumerate(handles)])
    return vm


def test_pages_leave_vram_when_the_other_card_maps_them(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    theirs, fd, ours = shared(exporter, importer, VRAM | SYSTEM)
    assert (places(far), places(near)) == (["vram0"], ["system"])
    bind(importer, ours)
    assert (places(far), places(near)) == (["gtt"], ["gtt"])
    assert [used(card)["gtt"] for card in cards] == [SIZE, SIZE]
    # At its next use there it goes home, and the other card has to map it anew.
    bind(exporter, theirs)
    assert (places(far), places(near)) == (["vram0"], ["system"])
    assert [used(card)["gtt"] for card in cards] == [0, 0]
    bind(importer, ours)
    assert (places(far), places(near)) == (["gtt"], ["gtt"])
    exporter.close_fd(fd)


def test_eviction_of_the_exporter_is_told(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    _, fd, ours = shared(exporter, importer)
    bind(importer, ours)
    big = exporter.gem_create(64 << 20, VRAM | SYSTEM)
    assert places(near) == ["gtt"], "nothing of ours has moved"
    exporter.gem_close(big)
    exporter.close_fd(fd)


def test_the_exporter_has_no_memory_for_others(cards: Targets) -> None:
    near, far = cards
    exporter, importer = far.device(), near.device()
    _, fd, ours = shared(exporter, importer, VRAM | SYSTEM)
    exporter.gem_create(256 << 20, SYSTEM)
    refused(errno.ENOMEM, lambda: bind(importer, ours))
    assert (places(far)[0], places(near)) == ("vram0", ["system"])
    assert used(near)["gtt"] == 0
    exporter.close_fd(fd)


def test_two_imports_of_one_bo_in_one_bind(cards: Targets) -> None:
    """Each file of the importing card has an object of its own; their reservation is one."""
    near, far = cards
    exporter, importer = far.device(), near.device("card0" if near.name != "frames" else None)
    _, fd, ours = shared(exporter, importer)
    second = near.device()
    again = second.prime_fd_to_handle(fd)
    third = second.prime_fd_to_handle(fd)
    assert third == again
    vm = bind(second, again, again)
    assert second.madvise_purgeable(vm, ADDRESS, 2 * SIZE, DONTNEED) == 1
    bind(importer, ours)
    assert places(near) == ["gtt", "gtt"]
    assert used(near)["gtt"] == 2 * SIZE
    exporter.close_fd(fd)


def test_an_unplugged_card_is_no_place_for_memory(
    xe_targets: Callable[..., list[Target[Any]]],
) -> None:
    near, far = xe_targets("in-process", 2)
    one, other = near.device(), far.device()
    vm = one.vm_create()

    def advise() -> None:
        fd = other.transport.fileno()
        one.madvise_preferred_loc(vm, ADDRESS, SIZE, fd, region_instance=1)

    refused(errno.ENOLINK, advise)
    far.control("unplug", "1")
    refused(errno.ENODEV, advise)


def test_tokens_of_two_cards_do_not_collide(cards: Targets) -> None:
    near, far = cards[0].device(), cards[1].device()
    sizes = {
        near.prime_handle_to_token(near.gem_create(PAGE, SYSTEM)): PAGE,
        far.prime_handle_to_token(far.gem_create(2 * PAGE, SYSTEM)): 2 * PAGE,
    }
    assert len(sizes) == 2
    # There is one directory of tokens, whatever node the client found it by.
    for token, size in sizes.items():
        fd = near.transport.open_fd(token, 0o2)
        assert far.bo_info(far.prime_fd_to_handle(fd)).size == size
        near.close_fd(fd)


def test_two_imports_of_one_bo_are_advised_together() -> None:
    """Both have the exporter's reservation, which is locked once."""
    near, far = xe_probe(XeConfig(), 2)
    first = Device(LocalTransport(near, "card0"))
    second = Device(LocalTransport(near, "card0", caps={21}))
    exporter = Device(LocalTransport(far))
    _, fd, ours = shared(exporter, first)
    other, _ = first.gem_open(second.gem_flink(second.prime_fd_to_handle(fd)))
    vm = bind(first, ours, other)
    assert first.madvise_purgeable(vm, ADDRESS, 2 * SIZE, DONTNEED) == 1
    first.vm_bind(vm, [op_unmap(ADDRESS, 2 * SIZE)])
    for device in (first, second, exporter):
        device.close()
    exporter.close_fd(fd)
