"""Clients of the tests here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.memory.actor import Actor
from xedev.testing.mounts import wait_until_empty


@pytest.fixture
def actors() -> Iterator[Callable[[str], Actor]]:
    """``actors(directory)``: a client of that mount in a process of its own."""
    made: list[tuple[str, Actor]] = []

    def make(directory: str) -> Actor:
        made.append((directory, Actor(directory)))
        return made[-1][1]

    yield make
    for _, actor in made:
        with contextlib.suppress(ValueError, OSError):
            actor.kill()
    for directory in {directory for directory, _ in made}:
        wait_until_empty(directory, 10)
