"""Two threads of one process, the second of which acts in the worst moment of the first.

Each test names a moment between two steps of the driver.  The driver is stopped there until the
other thread is done, or until it is plain that a lock makes it wait for the first one, which is as
good.  What is looked at in the end must hold either way.
"""

from __future__ import annotations

import errno
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hostile.children import errno_of
from xedev.client import Device
from xedev.client.memory import op_map, op_unmap
from xedev.drm import drm_prime
from xedev.drm.drm_prime import DrmPrimeFile
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeDevice
from xedev.xe.xe_shrinker import xe_pressure

SIZE = 1 << 16
BLOCKED = 0.3  # seconds after which a thread that got no further waits for a lock
SECONDS = 2.0


@pytest.fixture
def xe() -> Iterator[XeDevice]:
    xe = XeDevice()
    yield xe
    for file in list(xe.filelist.values()):
        file.release()
    state = xe.show()
    assert (state["vms"], state["bos"]) == ([], [])
    assert not len(xe.tokens) and not xe.live_exports and not len(xe.object_names)
    assert all(manager.used == 0 for manager in xe.ttm.managers.values())


@pytest.fixture
def device(xe: XeDevice) -> Device:
    return Device(LocalTransport(xe))


class Other:
    """The other thread; `act` at the moment, `join` at the end."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=self._run, args=[action])
        self._error: BaseException | None = None

    def _run(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - told by `join`
            self._error = error

    def act(self) -> None:
        """Act, once."""
        if self._thread.ident is None:
            self._thread.start()
            self._thread.join(BLOCKED)

    def join(self) -> None:
        """See it end; raises what it did."""
        assert self._thread.ident is not None, "the moment never came"
        self._thread.join()
        if self._error is not None:
            raise self._error


def before(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, action: Callable[[], object]
) -> Other:
    """Let another thread act just before the first call of ``place.name``."""
    other = Other(action)
    original = getattr(place, name)

    def stopped(*args: Any, **kwargs: Any) -> Any:
        other.act()
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, stopped)
    return other


def test_import_while_the_descriptor_is_closed(
    monkeypatch: pytest.MonkeyPatch, xe: XeDevice, device: Device
) -> None:
    """Between the look-up of the descriptor and the import of its memory."""
    importer = Device(LocalTransport(xe))
    handle = device.gem_create(SIZE, 1)
    fd = device.prime_handle_to_fd(handle)

    def close() -> None:
        device.gem_close(handle)
        device.close_fd(fd)

    other = before(monkeypatch, drm_prime, "drm_gem_prime_import_dma_buf", close)
    # Too late is a good answer, if it is the kernel's.
    assert errno_of(lambda: importer.prime_fd_to_handle(fd)) in ("", "EBADF")
    other.join()


def test_vm_is_destroyed_while_it_is_made(
    monkeypatch: pytest.MonkeyPatch, xe: XeDevice, device: Device
) -> None:
    """Between the id of a new VM and its place in the device's list."""
    other = before(monkeypatch, XeDevice, "note_vm", lambda: device.vm_destroy(1))
    assert device.vm_create() == 1
    other.join()
    assert xe.show()["vms"] == []


def test_export_while_the_handle_is_closed(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    """Between the look-up of the object and its new entry in the PRIME table."""
    handle = device.gem_create(SIZE, 1)
    other = before(monkeypatch, drm_prime, "_export", lambda: device.gem_close(handle))
    fds: list[int] = []
    code = errno_of(lambda: fds.append(device.prime_handle_to_fd(handle)))
    assert code in ("", "ENOENT")
    other.join()
    assert device.gem_create(2 * SIZE, 1) == handle
    check_export(device, handle, 2 * SIZE)
    for fd in fds:
        device.close_fd(fd)


def test_handle_is_used_again_while_it_is_closed(
    monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    """Between the end of a handle and the end of its entry in the PRIME table: the number may name
    another object by then, whose export must be its own."""
    handle = device.gem_create(SIZE, 1)
    fd = device.prime_handle_to_fd(handle)

    def make_another() -> None:
        check_export(device, device.gem_create(2 * SIZE, 1), 2 * SIZE)

    other = before(monkeypatch, DrmPrimeFile, "remove_handle", make_another)
    device.gem_close(handle)
    other.join()
    device.close_fd(fd)


def check_export(device: Device, handle: int, size: int) -> None:
    """A handle's dma-buf is that of its object."""
    fd = device.prime_handle_to_fd(handle)
    transport = device.transport
    assert isinstance(transport, LocalTransport)
    assert transport.fd_size(fd) == size
    device.close_fd(fd)


# ---- without a moment in mind ----------------------------------------------------------------


@pytest.fixture
def short_switches() -> Iterator[None]:
    """Let threads change places often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def race(*steps: Callable[[], object], allowed: tuple[int, ...]) -> None:
    """Repeat each step in a thread of its own; an errno that is not allowed fails the test."""
    end = time.monotonic() + SECONDS
    surprises: list[BaseException] = []

    def run(step: Callable[[], object]) -> None:
        while time.monotonic() < end and not surprises:
            try:
                step()
            except OSError as error:
                if error.errno not in allowed:
                    surprises.append(error)
            except BaseException as error:  # noqa: BLE001 - told by the thread that can fail
                surprises.append(error)

    threads = [threading.Thread(target=run, args=[step]) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if surprises:
        raise surprises[0]


@pytest.mark.usefixtures("short_switches")
def test_names_while_handles_close(xe: XeDevice) -> None:
    device = Device(LocalTransport(xe, "card0"))

    def make() -> None:
        handle = device.gem_create(SIZE, 1)
        device.gem_flink(handle)
        device.gem_close(handle)

    def take() -> None:
        handle, size = device.gem_open(1)
        assert size == SIZE
        device.gem_close(handle)

    race(make, take, take, allowed=(errno.ENOENT, errno.EINVAL))


@pytest.mark.usefixtures("short_switches")
def test_binds_while_bos_and_vms_go(xe: XeDevice, device: Device) -> None:
    rng = random.Random(7)

    def make() -> None:
        device.vm_create()
        device.gem_create(SIZE, rng.choice((1, 2, 3)))
        device.vm_destroy(rng.randint(1, 3))
        device.gem_close(rng.randint(1, 3))

    def bind() -> None:
        vm, handle = rng.randint(1, 3), rng.randint(1, 3)
        address = rng.randrange(4) * SIZE
        device.vm_bind(vm, [op_map(handle, 0, address, SIZE), op_unmap(address ^ SIZE, SIZE)])
        device.madvise_purgeable(vm, address, SIZE, rng.randrange(2))

    def share() -> None:
        device.close_fd(device.prime_handle_to_fd(rng.randint(1, 3)))

    def press() -> None:
        xe_pressure(xe, "region vram0 1 evict")
        xe_pressure(xe, "region system 1 shrink")
        xe.show()

    race(make, bind, bind, share, press, allowed=(errno.EINVAL, errno.ENOENT, errno.EBUSY))
