"""The limits of the scheduler in sysfs, what they do, and the frequencies beside them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from uapi import xe_drm
from xedev.client import Device
from xedev.kernel.errors import KernelError
from xedev.kernel.sysfs import Attribute, kstrtou32
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice

ENGINES = "tile0/gt0/engines"
FREQ = "tile0/gt0/freq0"
RCS = xe_drm.DRM_XE_ENGINE_CLASS_RENDER

Read: TypeAlias = Callable[[str], str]
Write: TypeAlias = Callable[[str, str], None]


@pytest.fixture
def attributes(xe_device: XeDevice) -> dict[str, Attribute]:
    return {entry.name: entry for entry in xe_device.sysfs() if isinstance(entry, Attribute)}


@pytest.fixture
def read(attributes: dict[str, Attribute]) -> Read:
    def read(name: str) -> str:
        show = attributes[name].show
        assert show is not None
        text = show()
        assert isinstance(text, str) and text.endswith("\n")
        return text[:-1]

    return read


@pytest.fixture
def write(attributes: dict[str, Attribute]) -> Write:
    def write(name: str, text: str) -> None:
        store = attributes[name].store
        assert store is not None
        store(text)

    return write


def refused(error: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(KernelError) as raised:
        call(*arguments)
    assert raised.value.errno == error


# ---- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("42", 42), ("0x2A", 42), ("052", 42), ("+42", 42), ("4294967295", 0xFFFFFFFF)],
)
def test_numbers_are_those_of_c(text: str, number: int) -> None:
    assert kstrtou32(text) == number


@pytest.mark.parametrize("text", ["", "-1", "999abc", "1 2", " 1", "0x", "089", "1.0", "²"])
def test_what_is_no_number(text: str) -> None:
    refused(errno.EINVAL, kstrtou32, text)


def test_a_number_of_33_bits_is_out_of_range() -> None:
    refused(errno.ERANGE, kstrtou32, "4294967296")


# ---- the scheduler's limits ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "stem", "default", "highest"),
    [
        ("job_timeout_ms", "job_timeout", "5000", "10000"),
        ("timeslice_duration_us", "timeslice_duration", "1000", "10000000"),
        ("preempt_timeout_us", "preempt_timeout", "640000", "10000000"),
    ],
)
class TestProperty:
    def test_defaults(
        self,
        read: Read,
        attributes: dict[str, Attribute],
        value: str,
        stem: str,
        default: str,
        highest: str,
    ) -> None:
        for directory in (f"{ENGINES}/bcs", f"{ENGINES}/bcs/.defaults"):
            assert read(f"{directory}/{value}") == default
            assert read(f"{directory}/{stem}_min") == "1"
            assert read(f"{directory}/{stem}_max") == highest
        assert attributes[f"{ENGINES}/bcs/{value}"].mode == 0o644
        assert attributes[f"{ENGINES}/bcs/.defaults/{value}"].store is None

    def test_a_value_stays_within_the_limits_of_its_class(
        self, read: Read, write: Write, value: str, stem: str, default: str, highest: str
    ) -> None:
        rcs = f"{ENGINES}/rcs"
        write(f"{rcs}/{stem}_min", "10")
        write(f"{rcs}/{stem}_max", "9000")
        refused(errno.EINVAL, write, f"{rcs}/{value}", "9")
        refused(errno.EINVAL, write, f"{rcs}/{value}", "9001")
        write(f"{rcs}/{value}", "9000")
        assert read(f"{rcs}/{value}") == "9000"
        assert read(f"{ENGINES}/ccs/{value}") == default
        assert read(f"{rcs}/.defaults/{stem}_max") == highest

    def test_limits_do_not_cross_nor_leave_what_the_driver_can_do(
        self, read: Read, write: Write, value: str, stem: str, default: str, highest: str
    ) -> None:
        low, high = f"{ENGINES}/rcs/{stem}_min", f"{ENGINES}/rcs/{stem}_max"
        refused(errno.EINVAL, write, low, "0")
        refused(errno.EINVAL, write, high, str(int(highest) + 1))
        write(high, "500")
        refused(errno.EINVAL, write, low, "501")
        write(low, "500")
        refused(errno.EINVAL, write, high, "499")
        assert (read(low), read(high)) == ("500", "500")


@pytest.fixture
def client(xe_device: XeDevice) -> Iterator[LocalTransport]:
    transport = LocalTransport(xe_device)
    yield transport
    transport.close()


def eci(engine_class: int) -> xe_drm.drm_xe_engine_class_instance:
    return xe_drm.drm_xe_engine_class_instance(engine_class=engine_class)


def made_queue(xe: XeDevice) -> tuple[int, int]:
    """Time slice and timeout of the only queue."""
    (file,) = xe.filelist.values()
    ((_, queue),) = file.driver_priv.exec_queues.ascending()  # type: ignore[attr-defined]
    return queue.timeslice, queue.placement().timeout_ms


def test_a_new_queue_has_what_was_set_for_its_class(
    xe_device: XeDevice, client: LocalTransport, write: Write
) -> None:
    write(f"{ENGINES}/rcs/timeslice_duration_us", "123")
    write(f"{ENGINES}/rcs/job_timeout_ms", "456")
    device = Device(client)
    device.exec_queue_create(device.vm_create(), [eci(RCS)])
    assert made_queue(xe_device) == (123, 456)


def test_the_job_timeout_of_the_mount_is_the_default() -> None:
    xe = XeDevice(XeConfig(job_timeout_ms=77))
    try:
        assert xe.eclass(0, RCS).job_timeout.value == 77
    finally:
        xe.shutdown()


# ---- frequencies -----------------------------------------------------------------------------


def test_an_idle_gt_runs_at_nothing_and_asks_for_the_least(read: Read) -> None:
    assert read(f"{FREQ}/act_freq") == "0"
    assert read(f"{FREQ}/cur_freq") == read(f"{FREQ}/min_freq") == read(f"{FREQ}/rpn_freq")
    assert read(f"{FREQ}/max_freq") == read(f"{FREQ}/rp0_freq") == "2850"
    assert read("tile0/gt0/gtidle/idle_status") == "gt-c6"
    assert read("tile0/gt1/gtidle/name") == "gt1-mc"


def test_a_fixed_frequency_is_asked_for(read: Read, write: Write) -> None:
    write(f"{FREQ}/min_freq", "1000")
    write(f"{FREQ}/max_freq", "1000")
    assert read(f"{FREQ}/cur_freq") == "1000"
    write(f"{FREQ}/max_freq", "400")
    assert read(f"{FREQ}/cur_freq") == "1000"  # a maximum below the minimum means nothing


@pytest.mark.parametrize("name", ["min_freq", "max_freq"])
@pytest.mark.parametrize("mhz", ["399", "2851"])
def test_frequencies_that_the_hardware_has_not(write: Write, name: str, mhz: str) -> None:
    refused(errno.EINVAL, write, f"{FREQ}/{name}", mhz)


def test_a_power_profile(read: Read, write: Write) -> None:
    assert read(f"{FREQ}/power_profile") == "[base]    power_saving"
    write(f"{FREQ}/power_profile", "power_saving")
    assert read(f"{FREQ}/power_profile") == "base    [power_saving]"
    refused(errno.EINVAL, write, f"{FREQ}/power_profile", "turbo")


def test_time_without_work_is_counted(read: Read) -> None:
    name = "tile0/gt0/gtidle/idle_residency_ms"
    before = int(read(name))
    while int(read(name)) == before:
        pass
