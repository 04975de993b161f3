from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from xedev.kernel.errors import KernelBug
from xedev.kernel.locking import LockLevel, Mutex, RwSem, lockdep_assert_held

T = TypeVar("T")

_TIMEOUT = 10.0  # seconds


def elsewhere(call: Callable[[], T]) -> T:
    """Run something in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(_TIMEOUT)


def take_and_give_back(mutex: Mutex) -> bool:
    """Whether a mutex can be had."""
    taken = mutex.trylock()
    if taken:
        mutex.unlock()
    return taken


def read(sem: RwSem) -> None:
    sem.down_read()
    sem.up_read()


def write(sem: RwSem) -> None:
    sem.down_write()
    sem.up_write()


# --- mutexes -------------------------------------------------------------------------------


def test_a_mutex_knows_its_owner() -> None:
    mutex = Mutex("m")
    assert not mutex.held()
    with mutex:
        assert mutex.held()
        assert not elsewhere(mutex.held)
        lockdep_assert_held(mutex)
        with pytest.raises(KernelBug, match="m must be held"):
            elsewhere(lambda: lockdep_assert_held(mutex))
    with pytest.raises(KernelBug, match="m must be held"):
        lockdep_assert_held(mutex)


def test_a_mutex_is_not_recursive() -> None:
    mutex = Mutex("m")
    with mutex, pytest.raises(KernelBug, match="taken twice"):
        mutex.lock()


def test_only_the_owner_unlocks() -> None:
    mutex = Mutex("m")
    with pytest.raises(KernelBug, match="does not hold"):
        mutex.unlock()
    with mutex, pytest.raises(KernelBug, match="does not hold"):
        elsewhere(mutex.unlock)


def test_trylock_does_not_wait() -> None:
    mutex = Mutex("m")
    assert mutex.trylock()
    assert mutex.held()
    assert not mutex.trylock(), "not even for its owner"
    assert not elsewhere(mutex.trylock)
    mutex.unlock()
    assert elsewhere(lambda: take_and_give_back(mutex))


def test_an_exception_unlocks() -> None:
    mutex = Mutex("m")
    with pytest.raises(ZeroDivisionError), mutex:
        raise ZeroDivisionError
    assert elsewhere(mutex.trylock)


# --- readers and writers -------------------------------------------------------------------


def test_readers_share_and_keep_the_writer_out() -> None:
    sem = RwSem("s")
    sem.down_read()
    elsewhere(lambda: read(sem))
    wrote = threading.Event()

    def write_late() -> None:
        sem.down_write()
        wrote.set()
        sem.up_write()

    thread = threading.Thread(target=write_late)
    thread.start()
    assert not wrote.wait(0.05)
    sem.up_read()
    assert wrote.wait(_TIMEOUT)
    thread.join()


def test_a_writer_keeps_everybody_out() -> None:
    sem = RwSem("s")
    got_in = threading.Event()

    def read_late() -> None:
        sem.down_read()
        got_in.set()
        sem.up_read()

    sem.down_write()
    assert sem.held_write()
    assert not elsewhere(sem.held_write)
    thread = threading.Thread(target=read_late)
    thread.start()
    assert not got_in.wait(0.05)
    sem.up_write()
    assert got_in.wait(_TIMEOUT)
    thread.join()
    assert not sem.held_write()


def test_a_semaphore_is_not_recursive_for_its_writer() -> None:
    sem = RwSem("s")
    sem.down_write()
    with pytest.raises(KernelBug, match="taken twice"):
        sem.down_write()
    with pytest.raises(KernelBug, match="its own writer"):
        sem.down_read()
    with pytest.raises(KernelBug, match="does not hold"):
        elsewhere(sem.up_write)
    sem.up_write()


# --- the order -----------------------------------------------------------------------------


@pytest.fixture
def vm() -> RwSem:
    return RwSem("vm->lock", LockLevel.VM)


@pytest.fixture
def resv() -> Mutex:
    return Mutex("resv", LockLevel.RESV)


def test_from_the_outside_in(vm: RwSem, resv: Mutex) -> None:
    vm.down_write()
    with resv, Mutex("another resv", LockLevel.RESV):
        pass
    vm.up_write()


@pytest.mark.parametrize("take", [RwSem.down_write, RwSem.down_read])
def test_never_the_vm_inside_a_reservation(
    vm: RwSem, resv: Mutex, take: Callable[[RwSem], None]
) -> None:
    with resv, pytest.raises(KernelBug, match="vm->lock is taken inside resv"):
        take(vm)


def test_never_the_prime_lock_inside_the_names() -> None:
    names = Mutex("names", LockLevel.OBJECT_NAME)
    with names, pytest.raises(KernelBug, match="prime is taken inside names"):
        Mutex("prime", LockLevel.FILE).lock()


def test_a_lock_without_a_level_goes_anywhere(resv: Mutex) -> None:
    with resv, Mutex("table"), Mutex("another resv", LockLevel.RESV):
        pass


def test_what_was_given_back_no_longer_counts(vm: RwSem, resv: Mutex) -> None:
    with resv:
        pass
    vm.down_write()
    vm.up_write()


def test_order_is_a_matter_of_one_thread(vm: RwSem, resv: Mutex) -> None:
    with resv:
        elsewhere(lambda: write(vm))


def test_a_refused_lock_is_not_taken(vm: RwSem, resv: Mutex) -> None:
    with resv, pytest.raises(KernelBug):
        vm.down_write()
    elsewhere(lambda: write(vm))
    vm.down_write()
    vm.up_write()


def test_a_try_may_come_in_any_order(resv: Mutex) -> None:
    names = Mutex("names", LockLevel.OBJECT_NAME)
    with resv:
        assert names.trylock()
        names.unlock()


def test_what_a_try_took_counts_as_held() -> None:
    resv = Mutex("resv", LockLevel.RESV)
    vm_lock = RwSem("vm->lock", LockLevel.VM)
    assert resv.trylock()
    with pytest.raises(KernelBug, match="inside resv"):
        vm_lock.down_write()
    resv.unlock()
    write(vm_lock)
