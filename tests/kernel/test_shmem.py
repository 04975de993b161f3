"""Files of pages: sparse, dropped at once and for good, named where nobody sees our /proc."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xedev.kernel import shmem
from xedev.kernel.errors import KernelError
from xedev.kernel.shmem import MemoryKind, ShmemConfig, ShmemFile, ShmemStore

MIB = 1 << 20


@pytest.fixture(params=MemoryKind, ids=lambda kind: kind.value)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShmemStore]:
    """A store of either kind."""
    store = ShmemStore(ShmemConfig(kind=request.param, directory=str(tmp_path)))
    yield store
    store.close()


def _refused(call: Callable[[], object]) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call()
    assert caught.value.reason
    return caught.value


def _files(store: ShmemStore) -> tuple[int, int]:
    return store.memfds, store.named


def test_new_pages_are_zero_and_take_no_memory(store: ShmemStore) -> None:
    pages = store.create(64 * MIB)
    assert pages.read(63 * MIB, 16) == bytes(16)
    assert pages.allocated() == 0


def test_what_is_written_is_read_back_by_whoever_opens_the_path(store: ShmemStore) -> None:
    pages = store.create(MIB)
    pages.write(4090, b"over a page's end")
    assert pages.read(4090, 17) == b"over a page's end"
    assert Path(pages.path).read_bytes()[4090:4107] == b"over a page's end"
    assert os.stat(pages.path).st_ino == pages.ino


def test_a_store_by_a_client_is_seen(store: ShmemStore) -> None:
    pages = store.create(MIB)
    with open(pages.path, "r+b") as client:
        client.write(b"from outside")
    assert pages.read(0, 12) == b"from outside"


@pytest.mark.parametrize("offset", [MIB - 4, MIB, 1 << 40])
def test_beyond_the_end_there_are_no_pages(store: ShmemStore, offset: int) -> None:
    pages = store.create(MIB)
    assert _refused(lambda: pages.read(offset, 8)).errno == errno.EFAULT
    assert _refused(lambda: pages.write(offset, bytes(8))).errno == errno.EFAULT
    assert os.stat(pages.path).st_size == MIB


def test_dropped_pages_are_gone_for_every_holder(store: ShmemStore) -> None:
    pages = store.create(MIB)
    pages.write(0, b"secret")
    with open(pages.path, "r+b") as client:
        pages.drop()
        assert os.fstat(client.fileno()).st_size == 0
        assert os.fstat(client.fileno()).st_blocks == 0
    assert _refused(lambda: pages.read(0, 1)).errno == errno.EFAULT
    assert _refused(lambda: pages.write(0, b"x")).errno == errno.EFAULT
    assert _files(store) == (0, 0)


def test_a_client_that_cuts_its_pages_harms_itself_alone(store: ShmemStore) -> None:
    pages = store.create(MIB)
    os.truncate(pages.path, 4096)
    assert pages.read(0, 8) == bytes(8)
    assert _refused(lambda: pages.read(4092, 8)).errno == errno.EFAULT
    assert _refused(lambda: pages.write(8192, b"x")).errno == errno.EFAULT
    pages.drop()


def test_dropped_memfds_never_grow_again_and_take_no_seals(tmp_path: Path) -> None:
    pages = ShmemStore(ShmemConfig(directory=str(tmp_path))).create(MIB)
    with open(pages.path, "r+b") as client:
        with pytest.raises(PermissionError):
            fcntl.fcntl(client, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        pages.drop()
        with pytest.raises(PermissionError):
            os.ftruncate(client.fileno(), MIB)
        with pytest.raises(PermissionError):
            os.pwrite(client.fileno(), b"x", 0)


def test_beyond_the_budget_files_cost_no_descriptor(tmp_path: Path) -> None:
    store = ShmemStore(ShmemConfig(fd_budget=2, directory=str(tmp_path)))
    store.create(4096)  # the directory has a descriptor of its own, once
    store.create(4096)
    store.create(4096)
    before = len(os.listdir("/proc/self/fd"))
    files = [store.create(4096) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert _files(store) == (2, 51)
    assert all(file.is_named for file in files)
    store.close()


def test_a_dropped_memfd_makes_room_in_the_budget(tmp_path: Path) -> None:
    store = ShmemStore(ShmemConfig(fd_budget=1, directory=str(tmp_path)))
    store.create(4096).drop()
    assert not store.create(4096).is_named


def test_without_descriptors_there_are_named_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", none_left)
    store = ShmemStore(ShmemConfig(directory=str(tmp_path)))
    assert store.create(4096).is_named
    assert _files(store) == (0, 1)
    store.close()


def test_no_file_at_all_is_enomem_with_the_reason(tmp_path: Path) -> None:
    missing = ShmemConfig(kind=MemoryKind.TMPFS, directory=str(tmp_path / "missing"))
    error = _refused(lambda: ShmemStore(missing).create(4096))
    assert error.errno == errno.ENOMEM
    assert "No such file" in error.reason


def test_a_file_larger_than_the_process_may_make_is_enomem(store: ShmemStore) -> None:
    # Python ignores SIGXFSZ, so the limit is an error of ftruncate(2).
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        assert _refused(lambda: store.create(2 * MIB)).errno == errno.ENOMEM
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _files(store) == (0, 0)


def test_giving_a_name_keeps_contents_and_holes(tmp_path: Path) -> None:
    store = ShmemStore(ShmemConfig(directory=str(tmp_path)))
    pages = store.create(64 * MIB)
    pages.write(3 * MIB + 5, b"here")
    pages.write(64 * MIB - 4, b"last")
    named = store.name(pages)
    assert named.is_named
    assert named.read(3 * MIB + 5, 4) == b"here"
    assert named.read(64 * MIB - 4, 4) == b"last"
    assert named.allocated() == 2 * 4096
    assert store.name(named) is named
    assert _files(store) == (0, 1)
    store.close()


@pytest.mark.parametrize(("is_shared", "mode"), [(False, 0o600), (True, 0o666)])
def test_named_files_are_for_others_only_where_others_are_let_in(
    tmp_path: Path, is_shared: bool, mode: int
) -> None:
    config = ShmemConfig(kind=MemoryKind.TMPFS, directory=str(tmp_path), is_shared=is_shared)
    store = ShmemStore(config)
    path = Path(store.create(4096).path)
    assert path.stat().st_mode & 0o777 == mode
    assert path.parent.stat().st_mode & 0o777 == 0o711
    store.close()


def test_the_end_of_a_store_leaves_nothing(tmp_path: Path) -> None:
    store = ShmemStore(ShmemConfig(kind=MemoryKind.TMPFS, directory=str(tmp_path)))
    pages = store.create(4096)
    store.close()
    assert not list(tmp_path.iterdir())
    pages.drop()  # whoever comes late finds nothing, and that is no error


def _age(directory: Path) -> None:
    os.utime(directory, (0, 0))


def _directory_of(pages: ShmemFile) -> Path:
    return Path(pages.path).parent


def test_what_a_killed_mock_left_is_removed_by_the_next(tmp_path: Path) -> None:
    config = ShmemConfig(kind=MemoryKind.TMPFS, directory=str(tmp_path))
    if (child := os.fork()) == 0:
        ShmemStore(config).create(4096)
        os._exit(0)  # without any clean-up
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    _age(left)
    store = ShmemStore(config)
    store.create(4096)
    assert not left.exists()
    store.close()


def test_directories_of_the_living_and_of_others_stay(tmp_path: Path) -> None:
    config = ShmemConfig(kind=MemoryKind.TMPFS, directory=str(tmp_path))
    alive = ShmemStore(config)
    old = _directory_of(alive.create(4096))
    _age(old)
    stranger = tmp_path / "stranger"
    young = tmp_path / f"{shmem._PREFIX}young"
    stranger.mkdir()
    young.mkdir()
    _age(stranger)
    other = ShmemStore(config)
    other.create(4096)
    assert old.exists()
    assert stranger.exists()
    assert young.exists()
    other.close()
    alive.close()
