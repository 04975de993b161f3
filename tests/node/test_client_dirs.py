"""``debug/dri/client-ID``: a directory for each open DRM file, for as long as it is open."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.node.fake_mount import eventually
from xedev.client import Device, IoctlTransport
from xedev.drm.drm_file import DrmFile
from xedev.kernel.errors import KernelError
from xedev.node.debug_files import ControlFile
from xedev.node.local import LocalTransport
from xedev.node.tree import Tree
from xedev.xe.xe_device import XeConfig, XeDevice, xe_probe

fuse = pytest.mark.fuse

FILES = ["proc_info", "fdinfo"]


@pytest.fixture
def cards() -> Iterator[tuple[XeDevice, ...]]:
    cards = xe_probe(XeConfig(), 2)
    yield cards
    for card in cards:
        card.shutdown()


@pytest.fixture
def tree(cards: tuple[XeDevice, ...]) -> Tree:
    return Tree(cards)


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(KernelError) as raised:
        call()
    assert raised.value.errno == error


def test_they_come_and_go_with_the_file(tree: Tree, cards: tuple[XeDevice, ...]) -> None:
    assert tree.readdir("/debug/dri") == ["0", "1"]
    first = LocalTransport(cards[0])
    second = LocalTransport(cards[1], "card1")
    assert tree.readdir("/debug/dri") == ["0", "1", "client-1", "client-2"]
    assert tree.readdir("/debug/dri/client-2") == FILES
    first.close()
    assert tree.readdir("/debug/dri") == ["0", "1", "client-2"]
    for path in ("/debug/dri/client-1", "/debug/dri/client-1/fdinfo"):
        refused(errno.ENOENT, partial(tree.getattr, path))
        refused(errno.ENOENT, partial(tree.open, path, os.O_RDONLY, second.caller()))
    refused(errno.ENOENT, lambda: tree.readdir("/debug/dri/client-1"))
    second.close()
    assert tree.readdir("/debug/dri") == ["0", "1"]


@pytest.mark.parametrize(
    "name",
    [
        *("client-2", "client-0", "client-01", "client-", "client--1", "client-1x", "client-1 "),
        *("client-1/", "client-1/nothing", "client-1/fdinfo/x", "client-99999999999", "0/client-1"),
    ],
)
def test_other_names_are_none(tree: Tree, cards: tuple[XeDevice, ...], name: str) -> None:
    client = LocalTransport(cards[0])
    assert tree.getattr("/debug/dri/client-1").ino
    refused(errno.ENOENT, lambda: tree.getattr(f"/debug/dri/{name}"))
    client.close()


def test_kinds_and_inode_numbers(tree: Tree, cards: tuple[XeDevice, ...]) -> None:
    clients = [LocalTransport(cards[0]) for _ in range(40)]
    directories = [f"/debug/dri/client-{number}" for number in range(1, 41)]
    assert {tree.getattr(path).mode for path in directories} == {stat.S_IFDIR | 0o755}
    files = [f"{path}/{name}" for path in directories for name in FILES]
    assert {tree.getattr(path).mode for path in files} == {stat.S_IFREG | 0o400}
    numbers = [tree.getattr(path).ino for path in directories + files]
    assert len(set(numbers)) == 120
    assert numbers == [tree.getattr(path).ino for path in directories + files]
    refused(errno.EISDIR, lambda: tree.open(directories[0], os.O_RDONLY, clients[0].caller()))
    refused(errno.ENOTDIR, lambda: tree.readdir(files[0]))
    for client in clients:
        client.close()


def test_a_text_that_was_opened_stays(tree: Tree, cards: tuple[XeDevice, ...]) -> None:
    client = LocalTransport(cards[1], "renderD129", comm="painter")
    caller = client.caller()
    file = tree.open("/debug/dri/client-1/proc_info", os.O_RDONLY, caller)
    assert isinstance(file, ControlFile)
    client.close()
    assert file.read(999, 0, True, caller).decode() == f"pid: {os.getpid()}\ncomm: painter\n"
    refused(errno.EINVAL, lambda: file.write(b"x", 0, True, caller))


def test_clients_that_come_and_go_meanwhile(tree: Tree, cards: tuple[XeDevice, ...]) -> None:
    """A reader sees whole files or none."""
    ended = threading.Event()

    def churn(card: XeDevice, node: str) -> None:
        while not ended.is_set():
            LocalTransport(card, node).close()

    nodes = ("renderD128", "renderD129")
    threads = [threading.Thread(target=churn, args=pair) for pair in zip(cards, nodes, strict=True)]
    for thread in threads:
        thread.start()
    keeper = LocalTransport(cards[0])
    assert isinstance(keeper.file, DrmFile)
    caller = keeper.caller()
    seen = set()
    refusals = []
    for _ in range(300):
        for name in tree.readdir("/debug/dri")[2:]:
            try:
                file = tree.open(f"/debug/dri/{name}/fdinfo", os.O_RDONLY, caller)
            except KernelError as error:
                refusals.append(error.errno)
                continue
            assert f"drm-client-id:\t{name[7:]}\n".encode() in file.read(4096, 0, True, caller)
            seen.add(name)
    ended.set()
    for thread in threads:
        thread.join()
    assert set(refusals) <= {errno.ENOENT}
    assert f"client-{keeper.file.client_id}" in seen
    keeper.close()


@fuse
def test_on_a_mount(mounted_node: Callable[..., str]) -> None:
    directory = mounted_node(devices=2)
    dri = Path(directory, "debug/dri")

    def names() -> list[str]:
        return sorted(path.name for path in dri.iterdir())

    assert names() == ["0", "1"]
    with Device(IoctlTransport(f"{directory}/dev/dri/renderD129")) as device:
        (name,) = (name for name in names() if name not in "01")
        assert sorted(path.name for path in (dri / name).iterdir()) == sorted(FILES)
        assert (dri / name / "proc_info").read_text().startswith(f"pid: {os.getpid()}\n")
        device.set_client_name("painter")
        assert "drm-client-name:\tpainter\n" in (dri / name / "fdinfo").read_text()
        assert "drm-pdev:\t0000:04:00.0\n" in (dri / name / "fdinfo").read_text()
        with (dri / name / "fdinfo").open() as kept:
            device.close()
            # The name was looked up a moment ago; that must not keep it.
            assert eventually(lambda: not (dri / name).exists())
            assert not (dri / name / "fdinfo").exists()
            assert names() == ["0", "1"]
            assert "painter" in kept.read()
            assert os.fstat(kept.fileno()).st_size == 0
