"""Who may use which ioctl: every flags class on every kind of open file, with and without
CAP_SYS_ADMIN (kernel: ``drm_ioctl_permit``)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.drm.core_rows import CORE_ROWS, CoreRow
from tests.drm.raw_ioctl import NULL, answer, answer_as, with_size
from uapi import drm, registry
from uapi.ioctl import IOC_NR, IoctlDef
from xedev.client import Device, Transport
from xedev.drm.drm_ioctl import IoctlTable
from xedev.kernel.caller import CAP_SYS_ADMIN, CAP_SYS_NICE
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeDevice

STRANGER = 1 << 22  # no process of the machine has so large an id

# Columns: the current master, an authenticated and an unauthenticated file beside it, a render
# node.  True: the handler runs.  "admin": only for a caller with CAP_SYS_ADMIN.
MATRIX: dict[frozenset[str], tuple[bool | str, bool, bool, bool]] = {
    frozenset(): (True, True, True, False),
    frozenset({"R"}): (True, True, True, True),
    frozenset({"A"}): (True, True, False, False),
    frozenset({"A", "R"}): (True, True, False, True),
    frozenset({"M"}): (True, False, False, False),
    frozenset({"A", "M", "Ro"}): ("admin", False, False, False),
}
BITS = {"A": 1 << 0, "M": 1 << 1, "Ro": 1 << 2, "R": 1 << 5}
COLUMNS = ("master", "authenticated", "unauthenticated", "render")

# SET_MASTER and DROP_MASTER have rules of their own that say EACCES too (test_auth.py).
OWN_RULES = ("DRM_IOCTL_SET_MASTER", "DRM_IOCTL_DROP_MASTER")

Ask = Callable[[int, bytes | None], int]


def master(xe: XeDevice, admin: bool) -> Ask:
    return _asker(LocalTransport(xe, "card0", caps=_caps(admin)))


def authenticated(xe: XeDevice, admin: bool) -> Ask:
    """A file that the master let in; with CAP_SYS_ADMIN opening is enough."""
    first = Device(LocalTransport(xe, "card0"))
    second = Device(LocalTransport(xe, "card0", caps=_caps(admin)))
    if not admin:
        first.auth_magic(second.get_magic())
    return _asker(second.transport)


def unauthenticated(xe: XeDevice, admin: bool) -> Ask:
    """A file that nobody let in; with CAP_SYS_ADMIN it was opened by another process."""
    LocalTransport(xe, "card0")
    owner = LocalTransport(xe, "card0", caps=())
    user = LocalTransport(xe, caps=_caps(admin), tgid=STRANGER)
    return lambda cmd, data: answer_as(user, owner, cmd, data)


def render(xe: XeDevice, admin: bool) -> Ask:
    LocalTransport(xe, "card0")
    return _asker(LocalTransport(xe, caps=_caps(admin)))


def render_with_frames(xe: XeDevice, admin: bool) -> Ask:
    return _asker(LocalTransport(xe, "xe-mock", caps=_caps(admin)))


def _caps(admin: bool) -> tuple[int, ...]:
    return (CAP_SYS_ADMIN,) if admin else (CAP_SYS_NICE,)


def _asker(transport: Transport) -> Ask:
    return lambda cmd, data: answer(transport, cmd, data)


FILES: dict[str, tuple[str, Callable[[XeDevice, bool], Ask]]] = {
    "master": ("master", master),
    "authenticated": ("authenticated", authenticated),
    "unauthenticated": ("unauthenticated", unauthenticated),
    "render": ("render", render),
    "xe-mock": ("render", render_with_frames),
}


def may(flags: frozenset[str], column: str, admin: bool) -> bool:
    """What the matrix says."""
    cell = MATRIX[flags][COLUMNS.index(column)]
    return admin if cell == "admin" else bool(cell)


every_file = pytest.mark.parametrize("kind", FILES)
both_rights = pytest.mark.parametrize("admin", [False, True], ids=["user", "admin"])


@every_file
@both_rights
@pytest.mark.parametrize("row", [row for row in CORE_ROWS if row.name not in OWN_RULES], ids=str)
def test_core_ioctls(xe_device: XeDevice, kind: str, admin: bool, row: CoreRow) -> None:
    column, make = FILES[kind]
    ask = make(xe_device, admin)
    expected = row.answer if may(row.flags, column, admin) else errno.EACCES
    assert ask(row.cmd, row.args) == expected


@every_file
@both_rights
def test_driver_ioctls_are_for_everybody(xe_device: XeDevice, kind: str, admin: bool) -> None:
    ask = FILES[kind][1](xe_device, admin)
    for row in registry.XE.values():
        assert ask(row.cmd, b"") != errno.EACCES, row.name


@every_file
@both_rights
def test_the_order_of_the_checks(xe_device: XeDevice, kind: str, admin: bool) -> None:
    """An empty slot and a bad argument come before all rights."""
    ask = FILES[kind][1](xe_device, admin)
    assert ask(0xC0106403, NULL) == errno.EINVAL
    assert ask(0xC01064D3, NULL) == errno.EINVAL
    for row in CORE_ROWS:
        if "M" in row.flags and row.cmd >> 30:
            assert ask(row.cmd, NULL) == errno.EFAULT, row.name


def test_the_driver_has_the_flags_of_the_table(xe_device: XeDevice) -> None:

    table = xe_device.ioctls.by_nr
    assert {nr for nr in table if not 0x40 <= nr < 0xA0} == {IOC_NR(row.cmd) for row in CORE_ROWS}
    for row in CORE_ROWS:
        found = table[IOC_NR(row.cmd)]
        assert (found.name, found.cmd) == (row.name, row.cmd)
        assert found.flags == sum(BITS[flag] for flag in row.flags), row.name
    for nr in range(0x40, 0xA0):
        assert nr not in table or table[nr].flags == BITS["R"]


REACHABLE_ON_RENDER = {
    *("VERSION", "GEM_CLOSE", "GET_CAP", "PRIME_HANDLE_TO_FD", "PRIME_FD_TO_HANDLE"),
    *("SET_CLIENT_NAME", "GEM_CHANGE_HANDLE"),
    *(str(row) for row in CORE_ROWS if str(row).startswith("SYNCOBJ_")),
}


def test_what_a_render_node_can_reach_through(transport: Transport) -> None:
    for row in CORE_ROWS:
        expected = row.answer if str(row) in REACHABLE_ON_RENDER else errno.EACCES
        assert answer(transport, row.cmd, row.args) == expected, row.name


# ---- rights that change while a file is open ---------------------------------------------------


def test_a_master_that_stepped_down_stays_authenticated(xe_device: XeDevice) -> None:
    device = Device(LocalTransport(xe_device, "card0", caps=()))
    device.drop_master()
    assert answer(device.transport, drm.DRM_IOCTL_GEM_FLINK) == errno.ENOENT
    assert answer(device.transport, drm.DRM_IOCTL_FINISH) == 0
    assert answer(device.transport, drm.DRM_IOCTL_SET_VERSION) == errno.EACCES
    device.set_master()
    assert answer(device.transport, drm.DRM_IOCTL_SET_VERSION) == errno.EINVAL


def test_the_callers_rights_count_and_not_the_openers(xe_device: XeDevice) -> None:
    """ROOT_ONLY asks whoever calls; being authenticated was decided at open."""
    privileged = LocalTransport(xe_device, "card0", caps=(CAP_SYS_ADMIN,))
    plain = LocalTransport(xe_device, caps=(), tgid=STRANGER)
    assert answer(privileged, drm.DRM_IOCTL_BLOCK) == 0
    assert answer_as(plain, privileged, drm.DRM_IOCTL_BLOCK) == errno.EACCES
    assert answer_as(plain, privileged, drm.DRM_IOCTL_FINISH) == 0


@pytest.mark.parametrize("cap", [*range(21), *range(22, 41)])
def test_only_cap_sys_admin_counts(xe_device: XeDevice, cap: int) -> None:
    LocalTransport(xe_device, "card0")
    file = LocalTransport(xe_device, "card0", caps=(cap,))
    assert answer(file, drm.DRM_IOCTL_FINISH) == errno.EACCES
    assert answer(file, drm.DRM_IOCTL_SET_MASTER) == errno.EACCES


@pytest.mark.parametrize("row", registry.MOCK.values(), ids=lambda row: row.name)
@every_file
def test_private_ioctls_need_no_rights(xe_device: XeDevice, kind: str, row: IoctlDef) -> None:
    ask = FILES[kind][1](xe_device, False)
    assert ask(row.cmd, b"") in (0, errno.EINVAL, errno.ENOENT)


@every_file
@both_rights
@pytest.mark.parametrize("flags", MATRIX, ids=lambda flags: "+".join(sorted(flags)) or "none")
def test_the_matrix(xe_device: XeDevice, kind: str, admin: bool, flags: frozenset[str]) -> None:
    """Also the class that no ioctl has; told by an ioctl that does nothing but be allowed."""
    rows = [
        replace(row, flags=sum(BITS[flag] for flag in flags))
        if row.cmd == drm.DRM_IOCTL_FINISH
        else row
        for row in xe_device.ioctls.by_nr.values()
    ]
    table = xe_device.ioctls
    column, make = FILES[kind]
    ask = make(xe_device, admin)
    xe_device.ioctls = IoctlTable(rows, table.core_count, table.driver_count)
    expected = 0 if may(flags, column, admin) else errno.EACCES
    assert ask(drm.DRM_IOCTL_FINISH, b"") == expected
    # The long way through the dispatcher, which an unusual size takes, asks the same.
    assert ask(with_size(drm.DRM_IOCTL_FINISH, 24), b"") == expected
