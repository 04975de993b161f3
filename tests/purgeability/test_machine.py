"""Random programs, checked after every step: see `model_machine` and `device_machine`."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.model.purgeability_ops import POLICIES, Policy
from tests.purgeability.device_machine import DeviceMachine
from tests.purgeability.model_machine import ModelMachine

USUAL = settings(max_examples=100, stateful_step_count=50)


def _run(machine: type[RuleBasedStateMachine], policy: Policy, how: settings) -> None:
    chosen = type(f"{policy.title()}{machine.__name__}", (machine,), {"policy": policy})
    run_state_machine_as_test(chosen, settings=how)


@pytest.mark.parametrize("policy", POLICIES)
def test_driver_and_model_agree(policy: Policy) -> None:
    _run(ModelMachine, policy, USUAL)


@pytest.mark.parametrize("policy", POLICIES)
def test_invariants_hold(policy: Policy) -> None:
    _run(DeviceMachine, policy, USUAL)
