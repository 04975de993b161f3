"""Random programs, checked after every step: see `model_machine` and `device_machine`."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.purgeability_ops import POLICIES, Policy
from tests.purgeability.model_machine import ModelMachine

USUAL = settings(max_examples=500, stateful_step_count=60)


def _of_policy(machine, policy):
    return type(f"{policy}_{machine.__name__}", (machine,), {"policy": policy})


@pytest.mark.parametrize("policy", POLICIES)
def test_driver_and_model_agree(policy: Policy) -> None:
    run_state_machine_as_test(_of_policy(ModelMachine, policy), settings=USUAL)
