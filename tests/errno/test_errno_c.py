"""The cases of ``errno_memory.json``, asked by a C program built against Linux's headers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.errno.cgen import compile_program
from tests.errno.device import CARDS, PROFILES, device_options
from tests.vectors.errno_load import Profile, load_errno

VECTORS = load_errno()

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.header,
    pytest.mark.timeout(900),  # the first run builds a C library
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(VECTORS, tmp_path_factory.mktemp("errno"))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def mount(profile: Profile, mounted_node: Callable[..., str]) -> Path:
    directory = mounted_node(devices=CARDS, **device_options(VECTORS, profile))
    return Path(directory, "dev/dri/renderD128")


@pytest.mark.parametrize("profile", PROFILES)
def test_all_cases(profile: Profile, program: Path, mounted_node: Callable[..., str]) -> None:
    ran = run(program, mount(profile, mounted_node), profile)
    lines = ran.stdout.splitlines()
    assert [line for line in lines[:-1] if not line.startswith("ok ")] == []
    assert (ran.returncode, ran.stderr) == (0, "")
    assert lines[-1] == f"{len(VECTORS.reachable(profile))} cases, 0 failed"


def test_wrong_answers_are_told(program: Path, mounted_node: Callable[..., str]) -> None:
    """An integrated GPU is asked for, and a discrete one answers."""
    ran = run(program, mount("bmg", mounted_node), "lnl", "mmap_offset.[bo]*")
    assert ran.returncode == 1
    assert ran.stdout.splitlines() == [
        "ok mmap_offset.ok",
        "FAIL mmap_offset.barrier_integrated DRM_IOCTL_XE_GEM_MMAP_OFFSET: expected EINVAL, got OK",
        "ok mmap_offset.order_reserved_handle",
        "ok mmap_offset.order_flag_handle",
        "4 cases, 1 failed",
    ]


def test_no_node(program: Path) -> None:
    ran = run(program, "/nonexistent/renderD128", "bmg")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "No such file or directory" in ran.stderr
