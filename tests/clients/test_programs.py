"""Unmodified programs, each on a device of its own, in the chroot that scripts/clients makes."""

from __future__ import annotations

import pytest

from tests.clients.chroot import default_directory
from tests.clients.others import OTHERS
from tests.clients.outcome import Outcome, Verdict
from tests.clients.programs import Program

pytestmark = [pytest.mark.chroot, pytest.mark.fuse, pytest.mark.root]


@pytest.mark.parametrize("program", OTHERS, ids=lambda program: program.name)
def test_program(program: Program) -> None:
    assert program.run(default_directory()) == {program.name: Verdict(Outcome.PASS)}
