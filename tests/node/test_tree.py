"""The tree of the mount: its files, their attributes, and what opening them gives."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator

import pytest

from uapi import xe_drm
from uapi.drm import DRM_CLOEXEC, DRM_RDWR
from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.client import Device, IoctlError
from xedev.drm.dma_buf import DmaBufFile
from xedev.drm.drm_device import DebugfsFile
from xedev.drm.drm_file import DrmFile
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN
from xedev.node.debug_files import CONTROL_MAX, ControlFile, TraceFile
from xedev.node.frames import FrameFile
from xedev.node.local import LocalTransport
from xedev.node.tree import Tree
from xedev.xe.xe_device import XeDevice

NODES = ["card0", "renderD128", "xe-mock"]
TOKENS = "/dev/dri/.xe-mock-fd"


@pytest.fixture
def client(xe_device: XeDevice) -> Iterator[LocalTransport]:
    transport = LocalTransport(xe_device)
    yield transport
    transport.close()


@pytest.fixture
def tree(xe_device: XeDevice) -> Tree:
    return Tree([xe_device], [DebugfsFile("extra", 0o600, lambda: "more\n")])


def refused(error: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(KernelError) as raised:
        call(*arguments)
    assert raised.value.errno == error
    assert raised.value.reason


def all_paths(tree: Tree, top: str = "") -> list[str]:
    found = [top or "/"]
    if stat.S_ISDIR(tree.getattr(top or "/").mode):
        for name in tree.readdir(top or "/"):
            found += all_paths(tree, f"{top}/{name}")
    return found


def export(client: LocalTransport) -> int:
    device = Device(client)
    handle = device.gem_create(4096, placement=1)
    return device.prime_handle_to_token(handle, DRM_CLOEXEC | DRM_RDWR)


# ---- shape -----------------------------------------------------------------------------------


def test_the_nodes_are_listed_and_the_directory_of_tokens_is_not(tree: Tree) -> None:
    assert tree.readdir("/") == ["debug", "dev", "proc", "sys"]
    assert sorted(tree.readdir("/dev/dri")) == NODES
    assert stat.S_ISDIR(tree.getattr(TOKENS).mode)
    assert tree.readdir(TOKENS) == []
    assert tree.readdir("/debug/sync") == ["sw_sync"]


def test_the_debug_directory_holds_the_devices_files_and_more(
    tree: Tree, xe_device: XeDevice
) -> None:
    names = {name.partition("/")[0] for name in {**xe_device.debugfs, **xe_device.debugfs_links}}
    assert set(tree.readdir("/debug/dri/0")) == {*names, "extra"}
    assert tree.getattr("/debug/dri/0/trace").ino  # not told, but there


def test_inode_numbers_are_distinct_and_stay(tree: Tree) -> None:
    paths = [*all_paths(tree), TOKENS]
    numbers = [tree.getattr(path).ino for path in paths]
    assert len(set(numbers)) == len(paths) > 15
    assert numbers == [tree.getattr(path).ino for path in paths]


def test_two_trees_share_no_inode_number(xe_device: XeDevice) -> None:
    one, other = Tree([xe_device]), Tree([xe_device])
    assert not {one.getattr(path).ino for path in all_paths(one)} & {
        other.getattr(path).ino for path in all_paths(other)
    }


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/", stat.S_IFDIR | 0o755),
        ("/dev/dri", stat.S_IFDIR | 0o755),
        ("/dev/dri/card0", stat.S_IFREG | 0o660),
        ("/dev/dri/renderD128", stat.S_IFREG | 0o666),
        ("/dev/dri/xe-mock", stat.S_IFREG | 0o666),
        ("/debug/dri/0/state", stat.S_IFREG | 0o400),
        ("/debug/dri/0/pressure", stat.S_IFREG | 0o600),
        ("/debug/dri/0/trace", stat.S_IFREG | 0o400),
    ],
)
def test_modes(tree: Tree, path: str, mode: int) -> None:
    attr = tree.getattr(path)
    assert attr.mode == mode
    assert attr.uid == os.geteuid()
    assert attr.nlink == (2 if stat.S_ISDIR(mode) else 1)
    assert attr.size == 0


def test_roots_nodes_get_the_groups_of_udev(
    xe_device: XeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"video": 44, "render": 105}

    class Entry:
        def __init__(self, name: str) -> None:
            self.gr_gid = groups[name]

    monkeypatch.setattr("xedev.node.tree.grp.getgrnam", Entry)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tree = Tree([xe_device])
    assert tree.getattr("/dev/dri/card0").gid == 44
    assert tree.getattr("/dev/dri/renderD128").gid == 105
    assert tree.getattr("/debug/dri/0/state").gid == os.getegid()
    del groups["render"]
    assert Tree([xe_device]).getattr("/dev/dri/renderD128").gid == os.getegid()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Tree([xe_device]).getattr("/dev/dri/card0").gid == os.getegid()


def test_chmod_and_chown_are_remembered(tree: Tree) -> None:
    tree.chmod("/dev/dri/card0", stat.S_IFREG | 0o606)
    tree.chown("/dev/dri/card0", 7, -1)
    tree.chown("/dev/dri/card0", 0xFFFFFFFF, 8)
    attr = tree.getattr("/dev/dri/card0")
    assert attr.mode == stat.S_IFREG | 0o606
    assert (attr.uid, attr.gid) == (7, 8)
    tree.chmod("/dev", 0o700)
    assert tree.getattr("/dev").mode == stat.S_IFDIR | 0o700


def test_touching_a_file_moves_its_time(tree: Tree) -> None:
    before = tree.getattr("/dev/dri/card0").mtime_ns
    tree.utimens("/dev/dri/card0")
    assert tree.getattr("/dev/dri/card0").mtime_ns > before


def test_what_is_not_there_or_not_that_kind(tree: Tree, client: LocalTransport) -> None:
    for path in ("/nothing", "/dev/dri/card0/x", "/dev/dri/.xe-mock", f"{TOKENS}/40000000"):
        refused(errno.ENOENT, tree.getattr, path)
        refused(errno.ENOENT, tree.open, path, os.O_RDWR, client.caller())
    refused(errno.ENOTDIR, tree.readdir, "/dev/dri/card0")
    refused(errno.EISDIR, tree.open, "/dev", os.O_RDONLY, client.caller())
    refused(errno.EINVAL, tree.readlink, "/dev")
    refused(errno.EISDIR, tree.truncate, "/dev", 0)
    refused(errno.EINVAL, tree.truncate, "/dev/dri/card0", 4096)
    tree.truncate("/dev/dri/card0", 0)  # open(2) with O_TRUNC


# ---- nodes and tokens ------------------------------------------------------------------------


def test_opening_a_node(tree: Tree, client: LocalTransport, xe_device: XeDevice) -> None:
    render = tree.open("/dev/dri/renderD128", os.O_RDWR, client.caller())
    framed = tree.open("/dev/dri/xe-mock", os.O_RDWR, client.caller())
    assert isinstance(render, DrmFile)
    assert isinstance(framed, FrameFile)
    assert len(xe_device.filelist) == 3
    render.release()
    framed.release()
    assert len(xe_device.filelist) == 1


def test_an_unplugged_device_opens_no_node(
    tree: Tree, client: LocalTransport, xe_device: XeDevice
) -> None:
    xe_device.unplug()
    refused(errno.ENODEV, tree.open, "/dev/dri/card0", os.O_RDWR, client.caller())


@pytest.mark.parametrize("directory", [TOKENS, "/debug/sync/.xe-mock-fd"])
def test_a_token_is_opened_once(tree: Tree, client: LocalTransport, directory: str) -> None:
    token = export(client)
    path = f"{directory}/{token:08x}"
    assert token >= XE_MOCK_TOKEN_BASE
    assert tree.getattr(path).mode == stat.S_IFREG | 0o666
    assert tree.readdir(directory) == []
    file = tree.open(path, os.O_RDWR, client.caller())
    assert isinstance(file, DmaBufFile)
    assert file.size == 4096
    assert file.seekable
    refused(errno.ENOENT, tree.getattr, path)
    for place in (directory, TOKENS):
        refused(errno.ENOENT, tree.open, f"{place}/{token:08x}", os.O_RDWR, client.caller())
    file.release()


def test_a_token_belongs_to_the_process_that_got_it(
    tree: Tree, client: LocalTransport, xe_device: XeDevice
) -> None:
    path = f"{TOKENS}/{export(client):08x}"
    stranger = LocalTransport(xe_device, tgid=1 << 22)
    refused(errno.EACCES, tree.open, path, os.O_RDWR, stranger.caller())
    stranger.close()
    tree.open(path, os.O_RDWR, client.caller()).release()


def test_a_token_dies_with_its_drm_file(tree: Tree, xe_device: XeDevice) -> None:
    client = LocalTransport(xe_device)
    path = f"{TOKENS}/{export(client):08x}"
    client.close()
    refused(errno.ENOENT, tree.getattr, path)


@pytest.mark.parametrize("name", ["4", "0x40000000", "40000000 ", "4000000G", "-0000001", "9" * 40])
def test_other_names_are_no_tokens(tree: Tree, name: str) -> None:
    refused(errno.ENOENT, tree.getattr, f"{TOKENS}/{name}")


def test_each_token_has_an_inode_of_its_own(tree: Tree, client: LocalTransport) -> None:
    tokens = [export(client) for _ in range(3)]
    numbers = {tree.getattr(f"{TOKENS}/{token:08x}").ino for token in tokens}
    assert len(numbers) == 3
    assert not numbers & {tree.getattr(path).ino for path in all_paths(tree)}


# ---- debug files -----------------------------------------------------------------------------


def read_all(file: ControlFile | TraceFile, caller: Caller, offset: int = 0) -> str:
    text = b""
    while part := file.read(7, offset + len(text), True, caller):
        text += part
    return text.decode()


def test_a_debug_file_shows_the_moment_it_was_opened(
    tree: Tree, client: LocalTransport, xe_device: XeDevice
) -> None:
    file = tree.open("/debug/dri/0/state", os.O_RDONLY, client.caller())
    other = LocalTransport(xe_device)
    assert isinstance(file, ControlFile)
    assert len(json.loads(read_all(file, client.caller()))["files"]) == 1
    again = tree.open("/debug/dri/0/state", os.O_RDONLY, client.caller())
    assert isinstance(again, ControlFile)
    assert len(json.loads(read_all(again, client.caller()))["files"]) == 2
    assert read_all(again, client.caller()) == read_all(again, client.caller())
    other.close()


class Echo:
    """A control file that says what it was told."""

    def __init__(self) -> None:
        self.reads = 0
        self.file = DebugfsFile("echo", 0o600, self.read, self.write)

    def read(self) -> str:
        self.reads += 1
        return "state before\n"

    def write(self, text: str, caller: Caller) -> str:
        if text == "bad":
            raise KernelError(errno.EBUSY, "it is bad")
        return f"<{text}>" * 3


def test_after_a_write_the_answer_is_read(client: LocalTransport) -> None:
    file = ControlFile(Echo().file, os.O_RDWR)
    caller = client.caller()
    assert file.read(99, 0, False, caller) == b"state before\n"
    assert file.write(b" one \n", 0, False, caller) == 6
    assert read_all(file, caller, 6) == "<one><one><one>"
    assert read_all(file, caller) == "<one><one><one>"  # pread from the beginning, or a seek
    assert file.write(b"two", 21, False, caller) == 3
    assert read_all(file, caller, 24) == "<two><two><two>"


def test_a_refused_command_leaves_the_text(client: LocalTransport) -> None:
    file = ControlFile(Echo().file, os.O_RDWR)
    caller = client.caller()
    refused(errno.EBUSY, file.write, b"bad", 0, False, caller)
    refused(errno.EINVAL, file.write, b"\xff\xfe", 0, False, caller)
    refused(errno.EINVAL, file.write, b"x" * (CONTROL_MAX + 1), 0, False, caller)
    assert file.read(99, 0, False, caller) == b"state before\n"


def test_what_cannot_be_read_or_written(client: LocalTransport) -> None:
    silent = ControlFile(DebugfsFile("silent", 0o200, None, lambda text, caller: ""), os.O_RDWR)
    assert silent.read(9, 0, False, client.caller()) == b""
    deaf = ControlFile(DebugfsFile("deaf", 0o400, lambda: "text"), os.O_RDONLY)
    refused(errno.EINVAL, deaf.write, b"x", 0, False, client.caller())
    assert deaf.ioctl(0, 0, client.caller()) == -errno.ENOTTY


def test_opening_for_writing_takes_no_snapshot() -> None:
    echo = Echo()
    ControlFile(echo.file, os.O_WRONLY)
    assert echo.reads == 0
    ControlFile(echo.file, os.O_RDWR)
    assert echo.reads == 1


# ---- trace -----------------------------------------------------------------------------------


@pytest.fixture
def trace(tree: Tree, client: LocalTransport) -> Iterator[TraceFile]:
    file = tree.open("/debug/dri/0/trace", os.O_RDONLY, client.caller())
    assert isinstance(file, TraceFile)
    yield file
    file.release()


def test_the_trace_gives_one_json_object_per_line(trace: TraceFile, client: LocalTransport) -> None:
    Device(client).vm_create()
    lines = trace.read(1 << 16, 0, False, client.caller()).decode().splitlines()
    events = [json.loads(line) for line in lines]
    ioctl = next(event for event in events if event["event"] == "ioctl")
    assert ioctl["name"] == "DRM_IOCTL_XE_VM_CREATE"
    assert ioctl["pid"] == os.getpid()
    assert ioctl["result"] == 0
    assert ioctl["args"]["vm_id"] == 1


def test_the_trace_can_be_read_in_small_pieces(trace: TraceFile, client: LocalTransport) -> None:
    device = Device(client)
    for _ in range(3):
        device.vm_destroy(device.vm_create())
    text = b""
    while trace.poll(None) & POLLIN:
        part = trace.read(5, 0, True, client.caller())
        assert 0 < len(part) <= 5
        text += part
    refused(errno.EAGAIN, trace.read, 5, 0, True, client.caller())
    names = [json.loads(line).get("name") for line in text.splitlines()]
    assert names.count("DRM_IOCTL_XE_VM_CREATE") == 3


def test_a_reader_of_the_trace_sleeps_until_an_event(
    trace: TraceFile, client: LocalTransport, xe_device: XeDevice
) -> None:
    got: list[bytes] = []
    caller = client.caller()
    reader = threading.Thread(target=lambda: got.append(trace.read(999, 0, False, caller)))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    xe_device.trace.emit("test")
    reader.join(5)
    assert b'"test"' in got[0]


def test_poll_on_the_trace(trace: TraceFile, client: LocalTransport, xe_device: XeDevice) -> None:
    woken: list[str] = []
    assert trace.poll(lambda: woken.append("old")) == 0
    assert trace.poll(lambda: woken.append("new")) == 0
    xe_device.trace.emit("test")
    xe_device.trace.emit("test")
    assert woken == ["new"]
    assert trace.poll(None) & POLLIN
    trace.read(1, 0, False, client.caller())
    assert trace.poll(None) & POLLIN
    trace.read(1 << 16, 0, False, client.caller())
    assert trace.poll(None) == 0


def test_a_closed_trace_costs_nothing(
    tree: Tree, client: LocalTransport, xe_device: XeDevice
) -> None:
    file = tree.open("/debug/dri/0/trace", os.O_RDONLY, client.caller())
    assert xe_device.trace.enabled
    file.release()
    assert not xe_device.trace.enabled


def test_a_slow_reader_is_told_how_much_it_missed(
    client: LocalTransport, xe_device: XeDevice
) -> None:
    file = TraceFile(xe_device.trace, limit=3)
    for _ in range(10):
        xe_device.trace.emit("test")
    lines = file.read(1 << 16, 0, False, client.caller()).splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["test"] * 3 + ["lost"]
    assert events[-1]["count"] == 7
    file.release()


def test_the_traced_madvise_is_decoded(trace: TraceFile, client: LocalTransport) -> None:
    with pytest.raises(IoctlError):
        Device(client).madvise_purgeable(1, 0, 4096, xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED)
    event = json.loads(trace.read(1 << 16, 0, False, client.caller()).splitlines()[-1])
    assert event["errno"] == "EINVAL"
    assert event["reason"]
    assert event["args"]["vm_id"] == 1
