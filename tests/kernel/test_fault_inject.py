from __future__ import annotations

import errno

import pytest

from xedev.kernel.errors import KernelError
from xedev.kernel.fault_inject import FaultInjector


@pytest.fixture
def faults() -> FaultInjector:
    injector = FaultInjector()
    injector.declare("one", "two")
    return injector


def _passages(faults: FaultInjector, point: str, count: int) -> list[int]:
    """The errno of each of ``count`` passages, 0 for those that got through."""
    answers = []
    for _ in range(count):
        try:
            faults.check(point)
            answers.append(0)
        except KernelError as error:
            answers.append(error.errno or -1)
    return answers


@pytest.mark.parametrize("nth", [1, 2, 4])
def test_the_nth_passage_fails_and_no_other(faults: FaultInjector, nth: int) -> None:
    faults.arm("one", nth, errno.ENOSPC)
    expected = [0] * 5
    expected[nth - 1] = errno.ENOSPC
    assert _passages(faults, "one", 5) == expected
    assert _passages(faults, "two", 5) == [0] * 5


def test_points_count_by_themselves(faults: FaultInjector) -> None:
    faults.arm("one", 2, errno.ENOMEM)
    faults.arm("two", 1, errno.EIO)
    assert _passages(faults, "two", 1) == [errno.EIO]
    assert _passages(faults, "one", 2) == [0, errno.ENOMEM]


def test_arming_again_starts_over(faults: FaultInjector) -> None:
    faults.arm("one", 1, errno.ENOMEM)
    faults.arm("one", 2, errno.ENOSPC)
    assert _passages(faults, "one", 3) == [0, errno.ENOSPC, 0]


def test_disarming(faults: FaultInjector) -> None:
    faults.arm("one", 1, errno.ENOMEM)
    faults.arm("two", 1, errno.ENOMEM)
    faults.arm("one", 0, errno.ENOMEM)
    assert _passages(faults, "one", 1) == [0]
    faults.clear()
    assert _passages(faults, "two", 1) == [0]


@pytest.mark.parametrize(
    ("point", "nth", "error"),
    [("three", 1, errno.ENOMEM), ("one", -1, errno.ENOMEM), ("one", 1, 0), ("one", 1, 512)],
)
def test_nonsense_is_refused(faults: FaultInjector, point: str, nth: int, error: int) -> None:
    with pytest.raises(KernelError) as caught:
        faults.arm(point, nth, error)
    assert caught.value.errno == errno.EINVAL


def test_it_tells_what_is_armed(faults: FaultInjector) -> None:
    faults.arm("two", 3, errno.ENOMEM)
    faults.check("two")
    assert faults.describe() == "one -\ntwo 2 ENOMEM\n"


def test_passages_are_counted_on_demand(faults: FaultInjector) -> None:
    faults.check("one")
    faults.counting = True
    faults.check("one")
    faults.check("one")
    faults.check("two")
    assert faults.passed == {"one": 2, "two": 1}
