"""Every lock of the mock that is taken in this process is checked for its place in the order."""

from __future__ import annotations

import pytest

from xedev.kernel.locking import lockdep_enable

__all__ = ("lockdep",)


@pytest.fixture(scope="session", autouse=True)
def lockdep() -> None:
    """Once on, the checks stay on for the rest of the process."""
    lockdep_enable()
