"""Random programs of several processes, checked after every step: see `machine`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.memory.machine import OPTIONS, MemoryMachine
from tests.memory.stage import Stage

pytestmark = pytest.mark.fuse

USUAL = settings(max_examples=200, stateful_step_count=50)
LONG = settings(max_examples=1000, stateful_step_count=80)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Not a mount of the plugin's: what a failed program leaves behind shall not be reported
    beside the failure."""
    made = Stage(OPTIONS)
    yield made
    made.end()


def _run(stage: Stage, how: settings) -> None:
    machine = type("MemoryMachineOnStage", (MemoryMachine,), {"stage": stage})
    run_state_machine_as_test(machine, settings=how)
    stage.check_heap()


@pytest.mark.timeout(600)  # a failure is shrunk, and each try waits for what never comes
def test_random_programs_of_several_processes(stage: Stage) -> None:
    _run(stage, USUAL)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_long_random_programs_of_several_processes(stage: Stage) -> None:
    _run(stage, LONG)
