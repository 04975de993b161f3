"""Every example runs as a process of its own, on a mount and without, and tells the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.c_compiler import compile_c

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
IN_PROCESS = "in-process"

MountedNode = Callable[..., str]

_LOOK = re.compile(r"retained=(\S+) state=(\S+) vma_count=(\S+) willneed_count=(\S+)$", re.M)


def run(program: list[str | Path], *args: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [*program, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def example(name: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, EXAMPLES / name], *args)


@pytest.fixture(
    params=[
        IN_PROCESS,
        pytest.param("bmg", marks=pytest.mark.fuse),
        pytest.param("lnl", marks=pytest.mark.fuse),
    ]
)
def node(request: pytest.FixtureRequest) -> str:
    """What an example is called with: ``in-process``, or a node of a mount."""
    if request.param == IN_PROCESS:
        return IN_PROCESS
    mounted_node: MountedNode = request.getfixturevalue("mounted_node")
    return str(Path(mounted_node(profile=request.param)) / "dev/dri/renderD128")


def transport_line(node: str, why: str = "") -> str:
    if node != IN_PROCESS:
        return f"transport: ioctl(2) on {node}"
    return f"transport: in-process device{why}"


def looks(output: str) -> list[str]:
    """Retained, state and counts of every step, in short."""
    return [f"{r} {s} {v}/{w}" for r, s, v, w in _LOOK.findall(output)]


# --- the demo ------------------------------------------------------------------------------


def test_purgeable(node: str) -> None:
    ran = example("purgeable.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(transport_line(node, " (no node was asked for)\n"))
    assert looks(ran.stdout) == [
        "- WILLNEED 0/0",
        "- WILLNEED 0/0",
        "- WILLNEED 0/0",
        "- WILLNEED 1/1",
        "1 DONTNEED 1/0",
        "- DONTNEED 1/0",
        "- PURGED 1/0",
        "- PURGED 1/0",
        "0 PURGED 1/0",
        "- PURGED 1/0",
        "- PURGED 0/0",
        "- - -/-",
    ]
    readings = re.findall(r"^   reading the mapping: (.*)$", ran.stdout, re.M)
    assert readings == ["the line is there", "SIGBUS"]
    ioctls = re.findall(r"^   (DRM_IOCTL_\w+) = (.*)$", ran.stdout, re.M)
    assert [name.removeprefix("DRM_IOCTL_").removeprefix("XE_") for name, _ in ioctls] == [
        "GEM_CREATE",
        "GEM_MMAP_OFFSET",
        "VM_CREATE",
        "VM_BIND",
        "MADVISE",
        "MADVISE",
        "VM_BIND",
        "VM_BIND",
        "GEM_CLOSE",
        "VM_DESTROY",
    ]
    refusals = [outcome for _, outcome in ioctls if outcome != "0"]
    assert len(refusals) == 1
    assert re.fullmatch(r"-1 EINVAL: bo \d+ is PURGED", refusals[0])


def test_purgeable_says_why_it_is_in_process() -> None:
    ran = example("purgeable.py", IN_PROCESS, "--why", "no /dev/fuse")
    assert ran.stdout.splitlines()[0] == "transport: in-process device (no /dev/fuse)"


@pytest.mark.fuse
@pytest.mark.parametrize("purgeability", ["seed", "walk"])
def test_purgeable_under_the_other_policies(mounted_node: MountedNode, purgeability: str) -> None:
    node = Path(mounted_node(purgeability=purgeability)) / "dev/dri/renderD128"
    ran = example("purgeable.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.fuse
@pytest.mark.parametrize("name", ["card0", "xe-mock"])
def test_purgeable_on_the_other_nodes(mounted_node: MountedNode, name: str) -> None:
    ran = example("purgeable.py", Path(mounted_node()) / "dev/dri" / name)
    assert (ran.returncode, ran.stderr) == (0, "")


# --- the others ----------------------------------------------------------------------------


def test_two_vms(node: str) -> None:
    ran = example("two_vms.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(transport_line(node))
    assert looks(ran.stdout) == [
        "- WILLNEED 1/1",
        "- WILLNEED 2/2",
        "1 WILLNEED 2/1",
        "- WILLNEED 2/1",
        "1 DONTNEED 2/0",
        "1 WILLNEED 2/1",
        "- DONTNEED 1/0",
        "- PURGED 1/0",
        "0 PURGED 1/0",
        "- PURGED 0/0",
    ]


def test_dma_buf(node: str) -> None:
    ran = example("dma_buf.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(transport_line(node))
    begin = [
        "- WILLNEED 1/1",
        "- WILLNEED 1/2",
        "1 WILLNEED 1/1",
        "- WILLNEED 1/1",
        "1 WILLNEED 1/2",
        "1 WILLNEED 1/1",
    ]
    end = ["- PURGED 1/0", "0 PURGED 1/0", "- - -/-"]
    descriptor_first = ["- WILLNEED 1/1", "- DONTNEED 1/0"]
    handle_first = ["- WILLNEED 1/1", "- WILLNEED 1/1", "- DONTNEED 1/0"]
    assert looks(ran.stdout) == begin + descriptor_first + end + begin + handle_first + end


# --- when something is not as told ---------------------------------------------------------


@pytest.mark.fuse
def test_surprise_ends_with_1(mounted_node: MountedNode) -> None:
    """The older policy keeps no counters."""
    node = Path(mounted_node(purgeability="walk")) / "dev/dri/renderD128"
    for name in ("two_vms.py", "dma_buf.py"):
        ran = example(name, node)
        assert ran.returncode == 1
        assert ran.stderr.startswith("surprise: expected retained=- state=WILLNEED vma_count=1")


@pytest.mark.parametrize("name", ["purgeable.py", "two_vms.py", "dma_buf.py"])
def test_no_node_ends_with_2(name: str) -> None:
    ran = example(name, "/nonexistent/renderD128")
    assert ran.returncode == 2
    assert "No such file or directory" in ran.stderr
    assert "Traceback" not in ran.stderr


# --- C -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hello.c, compiled with warnings for errors."""
    program = tmp_path_factory.mktemp("examples") / "hello"
    compile_c(EXAMPLES / "hello.c", program, "-Wall", "-Wextra", "-Werror")
    return program


@pytest.mark.clients
@pytest.mark.fuse
@pytest.mark.parametrize("name", ["renderD128", "card0", "xe-mock"])
def test_hello(hello: Path, mounted_node: MountedNode, name: str) -> None:
    ran = run([hello], Path(mounted_node()) / "dev/dri" / name)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        "hello from xe 1.1.0",
        "buffer object: handle 1",
        "address space: id 1",
        "mapped at 0x1a0000",
        "advised DONTNEED: retained=1",
        "advised WILLNEED: retained=1",
        "the contents are still there",
        "unmapped",
    ]


@pytest.mark.clients
@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (["/dev/null"], 1, "DRM_IOCTL_VERSION: Inappropriate ioctl for device"),
        (["/nonexistent"], 1, "/nonexistent: No such file or directory"),
        ([], 2, "usage: "),
    ],
)
def test_hello_fails_loudly(hello: Path, args: list[str], status: int, text: str) -> None:
    ran = run([hello], *args)
    assert ran.returncode == status
    assert ran.stderr.startswith(text)
