"""Random programs, checked after every step: see `model_machine` and `device_machine`."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.model.purgeability_ops import POLICIES, Policy
from tests.purgeability.device_machine import DeviceMachine
from tests.purgeability.model_machine import ModelMachine

MACHINES = (ModelMachine, DeviceMachine)

USUAL = settings(max_examples=150, stateful_step_count=50)
LONG = settings(max_examples=2000, stateful_step_count=100)


def _run(machine: type[RuleBasedStateMachine], policy: Policy, how: settings) -> None:
    chosen = type(f"{policy.title()}{machine.__name__}", (machine,), {"policy": policy})
    run_state_machine_as_test(chosen, settings=how)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_random_programs(machine: type[RuleBasedStateMachine], policy: Policy) -> None:
    _run(machine, policy, USUAL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_many_long_random_programs(machine: type[RuleBasedStateMachine], policy: Policy) -> None:
    _run(machine, policy, LONG)
