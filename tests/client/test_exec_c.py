"""A C program submits to every engine over the mount, and reads through its own mapping."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pytest

from tests.c_compiler import compile_c

pytestmark = [
    pytest.mark.clients,
    pytest.mark.fuse,
    pytest.mark.timeout(900),  # the first run builds a C library
]

SOURCE = Path(__file__).parents[2] / "examples/store.c"
INCLUDE = ("-I", str(resources.files("uapi")))

MountedNode = Callable[..., str]

ENGINES = {
    "bmg": [
        *("rcs0 on gt0", "bcs0 on gt0", "ccs0 on gt0"),
        *("vcs0 on gt1", "vcs1 on gt1", "vecs0 on gt1", "vecs1 on gt1"),
    ],
    "lnl": ["rcs0 on gt0", "bcs0 on gt0", "ccs0 on gt0", "vcs0 on gt1", "vecs0 on gt1"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("store") / "store"
    compile_c(SOURCE, program, *INCLUDE, "-Wall", "-Wextra", "-Werror")
    return program


def run(*program: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def expected(profile: str) -> list[str]:
    return [
        f"{engine} stored {0xC0FFEE00 + index:#x}" for index, engine in enumerate(ENGINES[profile])
    ]


@pytest.mark.parametrize("profile", ENGINES)
@pytest.mark.parametrize("name", ["renderD128", "card0", "xe-mock"])
def test_each_engine_stores(
    store: Path, mounted_node: MountedNode, profile: str, name: str
) -> None:
    ran = run(store, Path(mounted_node(profile=profile)) / "dev/dri" / name)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == expected(profile)


def test_several_processes_at_once(store: Path, mounted_node: MountedNode) -> None:
    node = Path(mounted_node(profile="bmg")) / "dev/dri/renderD128"
    with ThreadPoolExecutor(4) as pool:
        rans = list(pool.map(lambda _: run(store, node), range(4)))
    assert [ran.stdout.splitlines() for ran in rans] == [expected("bmg")] * 4
    assert {ran.returncode for ran in rans} == {0}
