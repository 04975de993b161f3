"""What the debug files of one open file tell: formats, units, and what counts where
(kernel: xe_drm_client.c, drm_file.c)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.xe.gpu_work import ADDR, BCS, RCS, VCS, Board
from uapi import xe_drm
from xedev.client import BatchBuilder, Compare, Device
from xedev.client.memory import op_map
from xedev.client.spinner import Cork
from xedev.drm.drm_file import DrmFile
from xedev.kernel.caller import CAP_SYS_ADMIN
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice
from xedev.xe.xe_drm_client import client_debugfs_files

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4 * KIB
SYSTEM, VRAM = 1, 2
ADDRESS = 0x100000
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
DEFER = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
END = ADDR + 0x100
MEMORY = ("total", "shared", "active", "resident")


class Client(Device):
    """An open node with its debug files."""

    def __init__(self, xe: XeDevice, node: str = "renderD128", **process: Any) -> None:
        transport = LocalTransport(xe, node, caps=(CAP_SYS_ADMIN,), **process)
        super().__init__(transport)
        assert isinstance(transport.file, DrmFile)
        files = client_debugfs_files(xe, transport.file)
        self.debug = {file.name: file for file in files}

    def read(self, name: str) -> str:
        read = self.debug[name].read
        assert read is not None
        return read()

    def fdinfo(self) -> dict[str, str]:
        pairs = [line.split(":\t") for line in self.read("fdinfo").splitlines()]
        fields = dict(pairs)
        assert len(fields) == len(pairs), "a key is there twice"
        return fields

    def memory(self, region: str) -> tuple[str, ...]:
        """Total, shared, active, resident."""
        fields = self.fdinfo()
        return tuple(fields[f"drm-{what}-{region}"] for what in MEMORY)


@pytest.fixture
def xe_options() -> dict[str, Any]:
    return {"system": 64 * GIB}


@pytest.fixture
def client(xe: XeDevice) -> Iterator[Client]:
    with closing(Client(xe)) as client:
        yield client


@pytest.fixture
def card(xe: XeDevice) -> Iterator[Client]:
    """A primary node: names are given and found there only."""
    with closing(Client(xe, "card0")) as client:
        yield client


# ---- formats ---------------------------------------------------------------------------------


def test_the_process_is_named(xe: XeDevice) -> None:
    with closing(Client(xe, tgid=4321, comm="glxgears")) as client:
        assert client.read("proc_info") == "pid: 4321\ncomm: glxgears\n"


def test_the_process_is_the_one_that_uses_the_file(client: Client) -> None:
    client.get_cap(5)
    assert client.read("proc_info").splitlines()[0] == f"pid: {os.getpid()}"


def test_nobody_may_write(client: Client) -> None:
    assert sorted(client.debug) == ["fdinfo", "proc_info"]
    assert all(file.write is None and file.mode == 0o400 for file in client.debug.values())


HEAD = ["drm-driver", "drm-client-id", "drm-pdev"]


def region_keys(*regions: str) -> list[str]:
    more = {"system": ("purgeable",)}
    return [f"drm-{what}-{name}" for name in regions for what in (*MEMORY, *more.get(name, ()))]


def engine_keys(**capacity: int) -> list[str]:
    keys: list[str] = []
    for name, count in capacity.items():
        keys += [f"drm-cycles-{name}", f"drm-total-cycles-{name}"]
        keys += [f"drm-engine-capacity-{name}"] * (count > 1)
    return keys


BMG_KEYS = [
    *HEAD,
    *region_keys("system", "gtt", "vram0"),
    *engine_keys(rcs=1, vcs=2, vecs=2, bcs=1, ccs=1),
]
LNL_KEYS = [
    *HEAD,
    *region_keys("system", "gtt"),
    *engine_keys(rcs=1, vcs=1, vecs=1, bcs=1, ccs=1),
]


@pytest.mark.parametrize(("profile", "keys"), [("bmg", BMG_KEYS), ("lnl", LNL_KEYS)])
def test_keys_and_their_order(profile: str, keys: list[str]) -> None:
    with closing(Client(XeDevice(XeConfig(profile=profile)))) as client:
        assert list(client.fdinfo()) == keys


def test_the_head_identifies_device_and_client(xe: XeDevice) -> None:
    with closing(Client(xe)), closing(Client(xe)) as second:
        assert second.read("fdinfo").startswith(
            "drm-driver:\txe\ndrm-client-id:\t2\ndrm-pdev:\t0000:03:00.0\ndrm-total-system:\t0\n"
        )


def test_a_name_is_told_as_long_as_it_is_set(client: Client) -> None:
    client.set_client_name("compositor")
    assert list(client.fdinfo().items())[3] == ("drm-client-name", "compositor")
    client.set_client_name("")
    assert "drm-client-name" not in client.fdinfo()


def test_engines_have_one_clock_and_no_client_has_used_them(client: Client, xe: XeDevice) -> None:
    fields = client.fdinfo()
    totals = {value for key, value in fields.items() if key.startswith("drm-total-cycles-")}
    (first,) = totals
    assert {value for key, value in fields.items() if key.startswith("drm-cycles-")} == {"0"}
    assert fields["drm-engine-capacity-vcs"] == "2"
    assert int(client.fdinfo()["drm-total-cycles-rcs"]) > int(first) > 0


def test_an_unplugged_device_tells_nothing(client: Client, xe: XeDevice) -> None:
    client.gem_create(MIB, VRAM)
    xe.unplug()
    assert client.read("fdinfo") == ""


def test_a_wedged_device_tells_all(client: Client, xe: XeDevice) -> None:
    client.gem_create(MIB, VRAM)
    xe.declare_wedged()
    assert client.memory("vram0") == ("1 MiB", "0", "0", "1 MiB")


# ---- time on engines -------------------------------------------------------------------------


def cycles(client: Client) -> dict[str, int]:
    """Ticks of each class, and under ``total`` those that there were."""
    fields = client.fdinfo()
    start = "drm-cycles-"
    spent = {key.removeprefix(start): int(fields[key]) for key in fields if key.startswith(start)}
    return {**spent, "total": int(fields["drm-total-cycles-rcs"])}


def increase(client: Client, seconds: float = 0.2) -> dict[str, int]:
    before = cycles(client)
    time.sleep(seconds)
    return {name: now - before[name] for name, now in cycles(client).items()}


def busy(client: Client, name: str) -> float:
    """How many engines' time a client's work of a class has now."""
    spent = increase(client)
    return spent[name] / spent["total"]


def within_five_percent(measure: Callable[[], float], goal: float) -> bool:
    """As IGT has it: the two clocks are read one after the other, so that one look may be off."""
    return any(abs(measure() - goal) <= 0.05 * goal for _ in range(20))


def test_a_spinner_has_all_cycles_of_its_engine(client: Client) -> None:
    with Cork(client, [RCS]):
        assert within_five_percent(lambda: busy(client, "rcs"), 1.0)


def test_other_classes_and_other_clients_have_none(client: Client, xe: XeDevice) -> None:
    with closing(Client(xe)) as other, Cork(client, [RCS]):
        mine, its = increase(client), increase(other)
    assert mine["rcs"] > 0
    assert [mine[name] for name in ("vcs", "vecs", "bcs", "ccs")] == [0, 0, 0, 0]
    assert sum(its.values()) == its["total"] > 0


def test_a_wide_queue_counts_for_each_engine(client: Client) -> None:
    with Cork(client, VCS, width=2):
        assert within_five_percent(lambda: busy(client, "vcs"), 2.0)


def test_two_queues_share_the_cycles_of_one_engine(client: Client) -> None:
    with Cork(client, [RCS]), Cork(client, [RCS], addr=0x200000):
        assert within_five_percent(lambda: busy(client, "rcs"), 1.0)


def test_what_is_over_stays_counted(client: Client) -> None:
    with Cork(client, [RCS]):
        time.sleep(0.05)
    spent = cycles(client)["rcs"]
    assert spent > 0
    assert increase(client)["rcs"] == 0
    with Cork(client, [RCS]):
        time.sleep(0.05)
    assert cycles(client)["rcs"] > spent


def test_a_queue_destroyed_at_work_stays_counted(client: Client) -> None:
    cork = Cork(client, [BCS])
    cork.sync_start()
    running = increase(client, 0.05)["bcs"]
    cork.destroy()
    spent = cycles(client)["bcs"]
    assert spent >= running > 0
    assert increase(client)["bcs"] == 0


def test_work_of_a_banned_queue_stays_counted(client: Client, xe: XeDevice) -> None:
    cork = Cork(client, [RCS])
    cork.sync_start()
    running = increase(client, 0.05)["rcs"]
    xe.guc.reset()
    cork.wait()
    assert cycles(client)["rcs"] >= running > 0
    assert increase(client)["rcs"] == 0
    cork.destroy()


def test_buffers_are_active_while_work_runs_that_may_use_them(client: Client) -> None:
    client.gem_create(MIB, VRAM)
    cork = Cork(client, [RCS])
    assert client.fdinfo()["drm-active-vram0"] == "0"
    with cork:
        assert client.fdinfo()["drm-active-vram0"] == _size(cork.bo_size)
        # One that is shared counts wherever it is bound.
        external = client.gem_create(MIB, VRAM)
        client.vm_bind(cork.vm, [op_map(external, 0, 1 << 32, MIB)])
        assert client.fdinfo()["drm-active-vram0"] == _size(cork.bo_size + MIB)
    assert client.fdinfo()["drm-active-vram0"] == "0"


def _size(size: int) -> str:
    return f"{size // KIB} KiB" if size % MIB else f"{size // MIB} MiB"


def test_work_of_a_long_running_vm_makes_nothing_active(client: Client) -> None:
    board = Board(client, xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE)
    queue = board.queue([RCS])
    batch = BatchBuilder().store_dword(END, 1).semaphore_wait(END, 0, Compare.EQ).end()
    client.exec(queue, board.batch(batch), [])
    while not board.read(END):
        assert cycles(client)["total"]
    assert client.fdinfo()["drm-active-gtt"] == "0"
    board.write(0, END)


# ---- units -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4 * KIB, "4 KiB"),
        (1020 * KIB, "1020 KiB"),
        (MIB, "1 MiB"),
        (1028 * KIB, "1028 KiB"),
        (1536 * KIB, "1536 KiB"),
        (3 * GIB, "3072 MiB"),
    ],
)
def test_the_largest_unit_that_leaves_a_size_whole(client: Client, size: int, text: str) -> None:
    client.gem_create(size, SYSTEM)
    assert client.memory("gtt") == (text, "0", "0", text)


# ---- what counts where -----------------------------------------------------------------------


def test_only_handles_of_the_file_count(client: Client, xe: XeDevice) -> None:
    with closing(Client(xe)) as other:
        other.gem_create(MIB, VRAM)
        handle = client.gem_create(PAGE, VRAM)
        assert client.memory("vram0") == ("4 KiB", "0", "0", "4 KiB")
        client.gem_close(handle)
        assert client.memory("vram0") == ("0",) * 4


def test_without_pages_nothing_is_resident(client: Client) -> None:
    client.gem_create(MIB, VRAM, flags=DEFER)
    assert client.memory("system") == ("1 MiB", "0", "0", "0")
    assert client.fdinfo()["drm-purgeable-system"] == "0"
    assert client.memory("vram0") == ("0",) * 4


def test_the_region_is_the_one_where_it_is(client: Client, xe: XeDevice) -> None:
    vm = client.vm_create()
    handle = client.gem_create(MIB, VRAM, flags=DEFER)
    client.vm_bind(vm, [op_map(handle, 0, ADDRESS, MIB)])
    assert client.memory("system") == ("0",) * 4
    assert client.memory("vram0") == ("1 MiB", "0", "0", "1 MiB")


def test_purgeable_is_what_is_idle_in_system(client: Client) -> None:
    handle = client.gem_create(MIB, SYSTEM, flags=DEFER)
    client.close_fd(client.prime_handle_to_fd(handle))
    fields = client.fdinfo()
    assert fields["drm-resident-system"] == fields["drm-purgeable-system"] == "1 MiB"


def test_advice_changes_no_number(client: Client) -> None:
    vm = client.vm_create()
    handle = client.gem_create(MIB, VRAM)
    client.vm_bind(vm, [op_map(handle, 0, ADDRESS, MIB)])
    before = client.memory("vram0")
    client.madvise_purgeable(vm, ADDRESS, MIB, DONTNEED)
    assert client.memory("vram0") == before == ("1 MiB", "0", "0", "1 MiB")


def test_a_purged_buffer_counts_nowhere(xe: XeDevice, client: Client) -> None:
    vm = client.vm_create()
    handle = client.gem_create(MIB, VRAM)
    client.vm_bind(vm, [op_map(handle, 0, ADDRESS, MIB)])
    client.madvise_purgeable(vm, ADDRESS, MIB, DONTNEED)
    bo = client.bo_info(handle).id
    write = xe.debugfs["pressure"].write
    assert write is not None
    caller: Any = None  # a control file does not ask who writes it
    assert '"purged"' in write(f"bo {bo} evict", caller)
    for region in ("system", "gtt", "vram0"):
        assert client.memory(region) == ("0",) * 4


def test_two_handles_of_one_file_count_twice_and_as_shared(card: Client) -> None:
    handle = card.gem_create(MIB, VRAM)
    card.gem_open(card.gem_flink(handle))
    assert card.memory("vram0") == ("2 MiB", "2 MiB", "0", "2 MiB")


def test_a_handle_of_another_file_makes_it_shared_in_both(xe: XeDevice, card: Client) -> None:
    with closing(Client(xe, "card0")) as other:
        handle = card.gem_create(MIB, VRAM)
        assert card.memory("vram0") == ("1 MiB", "0", "0", "1 MiB")
        other.gem_open(card.gem_flink(handle))
        assert card.memory("vram0") == ("1 MiB", "1 MiB", "0", "1 MiB")
        assert other.memory("vram0") == ("1 MiB", "1 MiB", "0", "1 MiB")
        card.gem_close(handle)
        assert other.memory("vram0") == ("1 MiB", "0", "0", "1 MiB")


def test_an_exported_buffer_is_shared_while_it_has_a_handle(client: Client) -> None:
    handle = client.gem_create(MIB, VRAM)
    fd = client.prime_handle_to_fd(handle)
    assert client.memory("vram0") == ("1 MiB", "1 MiB", "0", "1 MiB")
    # The object knows its dma-buf as long as it has a handle, even without a descriptor.
    client.close_fd(fd)
    assert client.memory("vram0") == ("1 MiB", "1 MiB", "0", "1 MiB")


def test_a_foreign_buffer_is_shared_and_takes_no_pages_of_its_own(client: Client) -> None:
    client.import_foreign(MIB)
    assert client.memory("system") == ("1 MiB", "1 MiB", "0", "0")


def test_private_and_shared_buffers_add_up(client: Client) -> None:
    client.gem_create(3 * MIB, VRAM)
    shared = client.gem_create(MIB, VRAM)
    client.close_fd(client.prime_handle_to_fd(shared))
    assert client.memory("vram0") == ("4 MiB", "1 MiB", "0", "4 MiB")


def test_a_closed_file_has_no_memory(xe: XeDevice) -> None:
    client = Client(xe)
    client.gem_create(MIB, VRAM)
    client.close()
    assert client.memory("vram0") == ("0",) * 4
