"""The data of the vectors and the rules of the model agree, for every policy."""

from __future__ import annotations

import pytest

from tests.model.purgeability_model import Model
from tests.model.purgeability_ops import POLICIES, BoState, Map, Policy, Result
from tests.vectors.load import PurgeVector, load_purgeability

VECTORS = load_purgeability()


def test_there_are_56_vectors() -> None:
    assert [vector.id for vector in VECTORS] == [f"V{n:02}" for n in range(1, 57)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_vector(vector: PurgeVector, policy: Policy) -> None:
    model = Model(policy)
    for vm, file in vector.vms.items():
        model.create_vm(vm, file)
    for number, step in enumerate(vector.steps, 1):
        expected = step.outcomes[policy]
        where = f"{vector.id} step {number}: {step.step}"
        assert model.apply(step.step) == expected.result, where
        assert {bo: model.state(bo) for bo in expected.bos} == expected.bos, where
        model.check()


def test_the_policies_differ_where_the_data_says_so() -> None:
    """Each policy of its own right is told apart by some vector."""
    differing = {
        policy: {
            vector.id
            for vector in VECTORS
            for step in vector.steps
            if _visible(step.outcomes[policy].bos) != _visible(step.outcomes["counters"].bos)
            or step.outcomes[policy].result != step.outcomes["counters"].result
        }
        for policy in ("seed", "walk")
    }
    assert differing["seed"] == _ids(5, 13, 14, 15, 18, 20, 21, 23, 24, 25, 47, 53, 56)
    assert differing["walk"] == _ids(14, 15, 18, 23, 35, 36, 37, 39, 44, 45, 47, 51, 52, 53, 54)


def _visible(bos: object) -> list[str]:
    assert isinstance(bos, dict)
    return [state.state if isinstance(state, BoState) else "freed" for state in bos.values()]


def _ids(*numbers: int) -> set[str]:
    return {f"V{number:02}" for number in numbers}


@pytest.mark.parametrize("policy", POLICIES)
def test_unmap_all_takes_vmas_in_the_order_they_were_made(policy: Policy) -> None:
    model = Model(policy)
    model.create_vm("v1")
    model.create("A")
    model.bind("v1", 8, 4, "A")
    model.bind("v1", 0, 4, "A")
    model.madvise("v1", 0, 4, "DONTNEED")
    model.unmap_all("v1", "A")
    found = model.state("A")
    assert found is not None
    assert found.state == "D"


def test_a_failed_call_leaves_the_seed_promoted() -> None:
    """The count of a BO that nothing maps cannot fall back: the promotion outlives the call."""
    model = Model("seed")
    model.create_vm("v1")
    for bo in ("A", "B"):
        model.create(bo)
        model.bind("v1", 0, 4, bo)
        model.madvise("v1", 0, 4, "DONTNEED")
    model.pressure("B")
    model.unbind("v1", 0, 4)
    assert model.state("A") == BoState("D", 0, 0)
    assert model.state("B") == BoState("P", 0, 0)
    assert model.array([Map("v1", 0, 4, "A"), Map("v1", 8, 4, "B")]) == Result("EINVAL")
    assert model.state("A") == BoState("W", 0, 0)
