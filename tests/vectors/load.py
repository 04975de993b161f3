"""Typed readers of the vectors beside this module. A misspelt key is an error, never ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tests.model.purgeability_ops import (
    ARRAY_OPS,
    DEFAULT_FILE,
    STEPS,
    Array,
    BoState,
    Policy,
    Result,
    State,
    Step,
)

__all__ = (
    "Outcome",
    "PurgeVector",
    "VectorStep",
    "load_purgeability",
)

_HERE = Path(__file__).parent


# --- purgeability.json ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step must answer and what must be seen of the BOs after it (None: freed)."""

    result: Result
    bos: Mapping[str, BoState | None]


@dataclass(frozen=True, slots=True)
class VectorStep:
    """One step and its outcome under each policy."""

    step: Step
    outcomes: Mapping[Policy, Outcome]


@dataclass(frozen=True, slots=True)
class PurgeVector:
    """One purgeable life: the VMs it needs, each with its file, and its steps."""

    id: str
    title: str
    vms: Mapping[str, str]
    steps: tuple[VectorStep, ...]

    def files(self) -> list[str]:
        """DRM files that take part, sorted."""
        named = {getattr(step.step, "file", DEFAULT_FILE) for step in self.steps}
        return sorted(named | set(self.vms.values()) | {DEFAULT_FILE})


def load_purgeability(path: Path = _HERE / "purgeability.json") -> list[PurgeVector]:
    """All vectors of memory.md 4.7."""
    data = json.loads(path.read_text())
    if data["format"] != 1:
        raise ValueError(f"{path} has format {data['format']}")
    return [_vector(raw) for raw in data["vectors"]]


def _vector(raw: dict[str, Any]) -> PurgeVector:
    _known(raw, "id", "title", "note", "vms", "bos", "steps")
    for bo in raw["bos"].values():
        _known(bo, "vm", "foreign", "pages")
    return PurgeVector(
        id=raw["id"],
        title=raw["title"],
        vms=raw["vms"],
        steps=tuple(_vector_step(step, raw["bos"]) for step in raw["steps"]),
    )


def _vector_step(raw: dict[str, Any], bos: Mapping[str, Any]) -> VectorStep:
    fields = {key: value for key, value in raw.items() if key not in ("op", "expect")}
    expect = raw["expect"]
    _known(expect, "errno", "retained", "bos", "seed", "walk")
    outcomes: dict[Policy, Outcome] = {
        "counters": _outcome(expect, bos, counted=True),
        "seed": _outcome(expect.get("seed", expect), bos, counted=True),
        "walk": _outcome(expect.get("walk", expect), bos, counted=False),
    }
    return VectorStep(_step(raw["op"], fields, bos), outcomes)


def _step(op: str, fields: dict[str, Any], bos: Mapping[str, Any]) -> Step:
    if op == "array":
        (raws,) = fields.values()
        return Array(tuple(ARRAY_OPS[raw.pop("op")](**raw) for raw in map(dict, raws)))
    if op == "create":
        fields |= {"pages": bos[fields["bo"]]["pages"], "vm": bos[fields["bo"]]["vm"]}
    elif op == "import_foreign":
        fields |= {"pages": bos[fields["bo"]]["pages"]}
    return STEPS[op](**fields)


def _outcome(raw: Mapping[str, Any], bos: Mapping[str, Any], *, counted: bool) -> Outcome:
    states: dict[str, BoState | None]
    if raw["bos"] == "freed":
        states = dict.fromkeys(bos)
    else:
        states = {name: _state(state, counted) for name, state in raw["bos"].items()}
    return Outcome(Result(raw.get("errno"), raw.get("retained")), states)


def _state(raw: Mapping[str, Any], counted: bool) -> BoState:
    _known(raw, "state", "vma", "willneed")
    state = cast(State, raw["state"])
    return BoState(state, raw["vma"], raw["willneed"]) if counted else BoState(state, None, None)


def _known(raw: Mapping[str, Any], *keys: str) -> None:
    if unknown := set(raw) - set(keys):
        raise ValueError(f"unknown keys {sorted(unknown)} in {raw}")
