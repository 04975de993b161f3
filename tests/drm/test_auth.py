"""Masters, magic numbers, and whose file it is (kernel: drm_auth.c, drm_file.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from tests.drm.raw_ioctl import NULL, answer, answer_as
from uapi import drm
from uapi.ioctl import IOWR
from xedev.client import Device, IoctlError
from xedev.kernel.caller import CAP_SYS_ADMIN, CAP_SYS_NICE
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

SET, DROP = drm.DRM_IOCTL_SET_MASTER, drm.DRM_IOCTL_DROP_MASTER
STRANGER = 1 << 22  # no process of the machine has so large an id
OTHER = STRANGER + 1

card_ways = pytest.mark.parametrize(
    "way", ["in-process", pytest.param("ioctl", marks=pytest.mark.fuse)]
)


def card(xe: XeDevice, *caps: int, tgid: int | None = None) -> LocalTransport:
    """Open the primary node with just these capabilities."""
    return LocalTransport(xe, "card0", caps=caps, tgid=tgid)


def shown(xe: XeDevice) -> list[dict[str, Any]]:
    """The open files in the order of their opening."""
    state: Any = xe.show()
    files: list[dict[str, Any]] = state["files"]
    return files


def masters(xe: XeDevice) -> list[bool]:
    return [file["master"] for file in shown(xe)]


def trusted(xe: XeDevice) -> list[bool]:
    return [file["authenticated"] for file in shown(xe)]


def magic_of(transport: LocalTransport) -> int:
    return Device(transport).get_magic()


def authenticate(master: LocalTransport, magic: int) -> int:
    return answer(master, drm.DRM_IOCTL_AUTH_MAGIC, magic.to_bytes(4, "little"))


# ---- open and close ----------------------------------------------------------------------------


def test_the_first_opener_is_master(xe_device: XeDevice) -> None:
    render = LocalTransport(xe_device, caps=())
    first, second = card(xe_device), card(xe_device)
    assert masters(xe_device) == [False, True, False]
    assert trusted(xe_device) == [False, True, False]
    for transport in (render, first, second):
        transport.close()


@pytest.mark.parametrize("node", ["card0", "renderD128", "xe-mock"])
@pytest.mark.parametrize(("caps", "expected"), [((), False), ((CAP_SYS_ADMIN,), True)])
def test_whoever_opens_with_cap_sys_admin_is_trusted(
    xe_device: XeDevice, node: str, caps: tuple[int, ...], expected: bool
) -> None:
    card(xe_device)
    LocalTransport(xe_device, node, caps=caps)
    assert trusted(xe_device) == [True, expected]


def test_nobody_inherits_from_a_master_that_closes(xe_device: XeDevice) -> None:
    first, second = card(xe_device), card(xe_device, CAP_SYS_ADMIN)
    first.close()
    assert masters(xe_device) == [False]
    third = card(xe_device)
    assert masters(xe_device) == [False, True]
    assert answer(second, SET) == errno.EBUSY
    third.close()
    assert answer(second, SET) == 0
    assert masters(xe_device) == [True]


def test_closing_another_file_leaves_the_master(xe_device: XeDevice) -> None:
    card(xe_device)
    card(xe_device).close()
    LocalTransport(xe_device).close()
    assert masters(xe_device) == [True]


def test_clients_are_counted_over_all_nodes(xe_device: XeDevice) -> None:
    nodes = ["card0", "renderD128", "card0", "xe-mock"]
    opened = [LocalTransport(xe_device, node) for node in nodes]
    assert [(file["id"], file["node"]) for file in shown(xe_device)] == [*enumerate(nodes, 1)]
    opened[1].close()
    LocalTransport(xe_device)
    assert [file["id"] for file in shown(xe_device)] == [1, 3, 4, 5], "a number is never reused"


def test_each_open_has_tables_of_its_own(xe_device: XeDevice) -> None:
    one, two = (Device(LocalTransport(xe_device, node)) for node in ("card0", "renderD128"))
    assert one.gem_create(4096, 1) == two.gem_create(4096, 1) == 1
    assert one.vm_create() == two.vm_create() == 1
    assert [(file["handles"], file["vms"]) for file in shown(xe_device)] == [(1, 1), (1, 1)]
    one.close()
    assert [(file["handles"], file["vms"]) for file in shown(xe_device)] == [(1, 1)]
    two.gem_close(1)
    two.close()
    state: Any = xe_device.show()
    assert (state["files"], state["vms"], state["bos"]) == ([], [], [])


# ---- SET_MASTER, DROP_MASTER -------------------------------------------------------------------


def never_master(xe: XeDevice, *caps: int) -> LocalTransport:
    """A file that joined somebody else, who is gone: nobody is master."""
    first = card(xe)
    transport = card(xe, *caps)
    first.close()
    return transport


def current(xe: XeDevice, *caps: int) -> LocalTransport:
    return card(xe, *caps)


def stepped_down(xe: XeDevice, *caps: int) -> LocalTransport:
    transport = card(xe, *caps)
    assert answer(transport, DROP) == 0
    return transport


def beside_another(xe: XeDevice, *caps: int) -> LocalTransport:
    card(xe)
    return card(xe, *caps)


def replaced(xe: XeDevice, *caps: int) -> LocalTransport:
    """Was master once, and another one is now."""
    transport = stepped_down(xe, *caps)
    card(xe)
    return transport


Situation = Callable[..., LocalTransport]
EACCES, EBUSY, EINVAL = errno.EACCES, errno.EBUSY, errno.EINVAL

# situation, caller has CAP_SYS_ADMIN, SET_MASTER, DROP_MASTER
MASTER_ROWS: list[tuple[Situation, bool, int, int]] = [
    (never_master, False, EACCES, EACCES),
    (never_master, True, 0, EINVAL),
    (current, False, 0, 0),
    (current, True, 0, 0),
    (stepped_down, False, 0, EINVAL),
    (stepped_down, True, 0, EINVAL),
    (beside_another, False, EACCES, EACCES),
    (beside_another, True, EBUSY, EINVAL),
    (replaced, False, EBUSY, EINVAL),
    (replaced, True, EBUSY, EINVAL),
]
master_rows = pytest.mark.parametrize(
    ("situation", "admin", "set_", "drop"),
    MASTER_ROWS,
    ids=[f"{row[0].__name__}-{'admin' if row[1] else 'user'}" for row in MASTER_ROWS],
)


@master_rows
def test_set_master(
    xe_device: XeDevice, situation: Situation, admin: bool, set_: int, drop: int
) -> None:
    transport = situation(xe_device, *([CAP_SYS_ADMIN] if admin else [CAP_SYS_NICE]))
    before = masters(xe_device)
    assert answer(transport, SET) == set_
    assert masters(xe_device) == (before if set_ else [False] * (len(before) - 1) + [True])


@master_rows
def test_drop_master(
    xe_device: XeDevice, situation: Situation, admin: bool, set_: int, drop: int
) -> None:
    transport = situation(xe_device, *([CAP_SYS_ADMIN] if admin else [CAP_SYS_NICE]))
    before = masters(xe_device)
    assert answer(transport, DROP) == drop
    assert masters(xe_device) == (before if drop else [False])


@pytest.mark.parametrize("situation", [current, stepped_down, replaced])
def test_a_descriptor_that_was_handed_on(xe_device: XeDevice, situation: Situation) -> None:
    """Having been master counts only in the process that opened the file."""
    owner = situation(xe_device)
    for caps in ((), (CAP_SYS_ADMIN,)):
        stranger = LocalTransport(xe_device, caps=caps, tgid=STRANGER)
        for cmd in (SET, DROP):
            assert (answer_as(stranger, owner, cmd, NULL) == EACCES) == (not caps)
        stranger.close()
    assert masters(xe_device)[0] is False


def test_set_and_drop_in_turn(xe_device: XeDevice) -> None:
    one, two = card(xe_device), card(xe_device, CAP_SYS_ADMIN)
    for _ in range(3):
        assert answer(one, DROP) == 0
        assert masters(xe_device) == [False, False]
        assert answer(two, SET) == 0
        assert masters(xe_device) == [False, True]
        assert answer(one, SET) == EBUSY
        assert answer(two, DROP) == 0
        assert answer(one, SET) == 0
        assert masters(xe_device) == [True, False]


def test_a_new_master_is_trusted_from_then_on(xe_device: XeDevice) -> None:
    """A file that was opened without the right gets it by becoming master."""
    first, second = card(xe_device), card(xe_device)
    admin = LocalTransport(xe_device, caps=(CAP_SYS_ADMIN,), tgid=STRANGER)
    first.close()
    assert trusted(xe_device) == [False, True]
    assert answer_as(admin, second, SET, NULL) == 0
    assert trusted(xe_device) == [True, True]
    assert masters(xe_device) == [True, False]
    assert answer_as(admin, second, DROP, NULL) == 0
    assert trusted(xe_device) == [True, True], "trust is for good"


def test_a_new_master_has_a_new_bus_id_and_new_numbers(xe_device: XeDevice) -> None:
    """It gets a master object of its own; going back to the old master brings the old one."""
    one, two = Device(card(xe_device)), Device(card(xe_device, CAP_SYS_ADMIN))
    one.set_version()
    assert two.get_unique() != ""
    one.drop_master()
    two.set_master()
    assert two.get_unique() == ""
    three = Device(card(xe_device))
    assert (three.get_magic(), one.get_magic()) == (1, 1), "two masters count independently"
    assert three.get_unique() == ""
    two.drop_master()
    one.set_master()
    assert one.get_unique() != ""


@pytest.mark.parametrize("node", ["renderD128", "xe-mock"])
@pytest.mark.parametrize("cmd", [SET, DROP, drm.DRM_IOCTL_GET_MAGIC, drm.DRM_IOCTL_AUTH_MAGIC])
def test_render_nodes_have_no_master(xe_device: XeDevice, node: str, cmd: int) -> None:
    transport = LocalTransport(xe_device, node, caps=(CAP_SYS_ADMIN,))
    assert answer(transport, cmd) == EACCES
    assert masters(xe_device) == [False]


# ---- GET_MAGIC, AUTH_MAGIC ---------------------------------------------------------------------


def test_magic_is_the_lowest_free_number(xe_device: XeDevice) -> None:
    files = [card(xe_device) for _ in range(4)]
    assert [magic_of(files[index]) for index in (2, 0, 1)] == [1, 2, 3]
    assert [magic_of(files[index]) for index in (0, 1, 2)] == [2, 3, 1], "and stays the same"
    files[2].close()
    assert magic_of(files[3]) == 1
    assert magic_of(card(xe_device)) == 4


def test_magic_lets_in_once(xe_device: XeDevice) -> None:
    master, other = card(xe_device), card(xe_device)
    magic = magic_of(other)
    assert trusted(xe_device) == [True, False]
    assert authenticate(master, magic) == 0
    assert trusted(xe_device) == [True, True]
    assert authenticate(master, magic) == EINVAL
    assert magic_of(other) == magic, "the number stays the file's"
    assert authenticate(master, magic) == EINVAL


def test_a_used_number_is_not_given_out_again(xe_device: XeDevice) -> None:
    master, one, two = card(xe_device), card(xe_device), card(xe_device)
    assert magic_of(one) == 1
    assert authenticate(master, 1) == 0
    assert magic_of(two) == 2
    one.close()
    assert authenticate(master, 1) == EINVAL, "gone with its file"
    assert magic_of(card(xe_device)) == 1
    assert authenticate(master, 1) == 0


@pytest.mark.parametrize("magic", [0, 1, 7, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_unknown_magic(xe_device: XeDevice, magic: int) -> None:
    assert authenticate(card(xe_device), magic) == EINVAL


def test_the_master_may_let_itself_in(xe_device: XeDevice) -> None:
    master = card(xe_device)
    magic = magic_of(master)
    assert authenticate(master, magic) == 0
    assert authenticate(master, magic) == EINVAL


@pytest.mark.parametrize("admin", [False, True])
def test_only_the_current_master_lets_in(xe_device: XeDevice, admin: bool) -> None:
    caps = (CAP_SYS_ADMIN,) if admin else ()
    master, other, third = card(xe_device), card(xe_device, *caps), card(xe_device)
    magic = magic_of(third)
    assert authenticate(other, magic) == EACCES
    assert answer(master, DROP) == 0
    assert authenticate(master, magic) == EACCES
    assert answer(master, SET) == 0
    assert authenticate(master, magic) == 0


def test_a_master_knows_only_its_own_numbers(xe_device: XeDevice) -> None:
    old, client = card(xe_device), card(xe_device)
    magic = magic_of(client)
    assert answer(old, DROP) == 0
    new = card(xe_device)
    assert authenticate(new, magic) == EINVAL
    new.close()
    assert answer(old, SET) == 0
    assert authenticate(old, magic) == 0


def test_what_being_let_in_opens(xe_device: XeDevice) -> None:
    master, other = card(xe_device), card(xe_device)
    client = Device(other)
    handle = client.gem_create(4096, 1)
    arg = bytes(drm.drm_gem_flink(handle=handle))
    assert answer(other, drm.DRM_IOCTL_GEM_FLINK, arg) == EACCES
    assert client.get_client().auth == 0
    assert authenticate(master, magic_of(other)) == 0
    assert answer(other, drm.DRM_IOCTL_GEM_FLINK, arg) == 0
    assert client.get_client().auth == 1
    client.gem_close(handle)


@card_ways
def test_magic_through(xe_target: Callable[..., Target[Any]], way: str) -> None:
    target = xe_target(way)
    master, other = target.device("card0"), target.device("card0")
    magic = other.get_magic()
    assert magic == other.get_magic() == 1
    master.auth_magic(magic)
    with pytest.raises(IoctlError) as caught:
        master.auth_magic(magic)
    assert caught.value.errno == EINVAL
    assert [file["master"] for file in target.state()["files"]] == [True, False]


# ---- pids --------------------------------------------------------------------------------------

GET_CAP = drm.DRM_IOCTL_GET_CAP


def pids(xe: XeDevice) -> list[int]:
    return [file["pid"] for file in shown(xe)]


@pytest.mark.parametrize("node", ["card0", "renderD128", "xe-mock"])
def test_the_pid_is_the_openers(xe_device: XeDevice, node: str) -> None:
    LocalTransport(xe_device, node, tgid=STRANGER, comm="somebody", uid=1234)
    (file,) = shown(xe_device)
    assert (file["pid"], file["comm"], file["uid"]) == (STRANGER, "somebody", 1234)


def test_the_pid_follows_the_descriptor(xe_device: XeDevice) -> None:
    """comm and uid stay the opener's."""
    owner = LocalTransport(xe_device, tgid=STRANGER, comm="opener", uid=1)
    user = LocalTransport(xe_device, tgid=OTHER, comm="user", uid=2)
    assert pids(xe_device) == [STRANGER, OTHER]
    answer_as(user, owner, GET_CAP)
    assert pids(xe_device) == [OTHER, OTHER]
    assert (shown(xe_device)[0]["comm"], shown(xe_device)[0]["uid"]) == ("opener", 1)
    answer(owner, GET_CAP)
    assert pids(xe_device) == [STRANGER, OTHER]


def test_the_pid_of_a_joined_primary_file_follows_too(xe_device: XeDevice) -> None:
    card(xe_device)
    joined = card(xe_device, tgid=STRANGER)
    user = LocalTransport(xe_device, tgid=OTHER)
    answer_as(user, joined, GET_CAP)
    assert pids(xe_device)[1] == OTHER


def test_the_pid_of_one_that_was_master_stays(xe_device: XeDevice) -> None:
    master = card(xe_device, tgid=STRANGER)
    user = LocalTransport(xe_device, tgid=OTHER)
    answer_as(user, master, GET_CAP)
    assert answer(master, DROP) == 0
    answer_as(user, master, GET_CAP)
    assert pids(xe_device)[0] == STRANGER


# An ioctl, and whether it comes as far as the place where the pid is taken.
PID_ROWS: list[tuple[str, int, bytes | None, bool]] = [
    ("good", GET_CAP, bytes(16), True),
    ("refused by its handler", drm.DRM_IOCTL_GEM_CLOSE, bytes(8), True),
    ("no right", drm.DRM_IOCTL_GEM_FLINK, bytes(8), True),
    ("another size", IOWR("d", 0x0C, 24), bytes(24), True),
    ("bad argument", GET_CAP, NULL, False),
    ("bad argument and no right", drm.DRM_IOCTL_GEM_FLINK, NULL, False),
    ("empty slot", IOWR("d", 0x03, 8), bytes(8), False),
    ("beyond the table", IOWR("d", 0x50, 8), bytes(8), False),
    ("foreign type", IOWR("T", 0x0C, 8), bytes(8), False),
]


@pytest.mark.parametrize(("what", "cmd", "data", "taken"), PID_ROWS, ids=[r[0] for r in PID_ROWS])
def test_when_the_pid_is_taken(
    xe_device: XeDevice, what: str, cmd: int, data: bytes | None, taken: bool
) -> None:
    """After copy-in, before the check of rights."""
    owner = LocalTransport(xe_device, tgid=STRANGER)
    user = LocalTransport(xe_device, tgid=OTHER)
    answer_as(user, owner, cmd, data)
    assert pids(xe_device)[0] == (OTHER if taken else STRANGER)
