"""The cases of ``errno_memory.json``, asked by a C program that was built against Linux's headers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.errno.cgen import compile_program
from tests.errno.device import device_options
from tests.vectors.errno_load import Profile, load_errno

VECTORS = load_errno()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(VECTORS, tmp_path_factory.mktemp("errno"))


@pytest.mark.fuse
@pytest.mark.header
@pytest.mark.timeout(900)  # the first run builds a C library
@pytest.mark.parametrize("profile", ["bmg", "lnl"])
def test_c_program(profile: Profile, program: Path, mounted_node: Callable[..., str]) -> None:
    node = Path(mounted_node(**device_options(VECTORS, profile)), "dev/dri/renderD128")
    ran = subprocess.run(
        [program, node, profile], capture_output=True, text=True, timeout=300, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), "\n".join(
        line for line in ran.stdout.splitlines() if not line.startswith("ok ")
    )
    assert ran.stdout.splitlines()[-1] == f"{len(VECTORS.reachable(profile))} cases, 0 failed"
