"""Every example runs as a process of its own, on a mount and without, and tells the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
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


# --- the others: work for the engines ------------------------------------------------------

ENGINES = {
    IN_PROCESS: ["rcs0", "bcs0", "ccs0", "vcs0", "vcs1", "vecs0", "vecs1"],
    "bmg": ["rcs0", "bcs0", "ccs0", "vcs0", "vcs1", "vecs0", "vecs1"],
    "lnl": ["rcs0", "bcs0", "ccs0", "vcs0", "vecs0"],
}


def test_store(node: str, request: pytest.FixtureRequest) -> None:
    ran = example("store.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(transport_line(node))
    stored = re.findall(r"^(\w+) on gt\d +stored (0x\w+)$", ran.stdout, re.M)
    profile = request.node.callspec.params["node"]
    assert stored == [(name, hex(0xC0FFEE00 + n)) for n, name in enumerate(ENGINES[profile])]


def test_mem_copy(node: str) -> None:
    ran = example("mem_copy.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(transport_line(node))
    assert re.findall(r" (\d+) of 1048576 bytes wrong$", ran.stdout, re.M) == ["0"] * 5


def test_timeline(node: str) -> None:
    ran = example("timeline.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(transport_line(node))
    assert re.findall(r"the timeline is at +(\d)$", ran.stdout, re.M) == ["0", "6"]
    ranks = re.findall(r"counts that the jobs found +(.*)$", ran.stdout, re.M)
    assert ranks == ["[0, 0, 0, 0, 0, 0]", "[1, 2, 3, 4, 5, 6]"]


def test_spinner(node: str) -> None:
    ran = example("spinner.py", node)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(transport_line(node))
    assert len(re.findall(r"50 times: make, bind and destroy", ran.stdout)) == 2
    spinning = re.findall(r"^   the spinner (runs|has ended)", ran.stdout, re.M)
    assert spinning == ["runs", "runs", "has ended"]


def test_hang_and_ban(node: str) -> None:
    ran = example("hang_and_ban.py", node)
    assert ran.returncode == 0
    assert ran.stdout.startswith(transport_line(node))
    # The mount has a log of its own.
    assert ("fault at 0x700000000" in ran.stderr) == (node == IN_PROCESS)
    seen = re.findall(r"  (\w+)$", ran.stdout, re.M)
    first_queue = ["0", "done", "done", "EIO", "0", "1", "ECANCELED"]
    second_queue = ["0", "done", "done", "done", "42"]
    assert seen == first_queue + second_queue


# --- when something is not as told ---------------------------------------------------------


@pytest.mark.fuse
def test_surprise_ends_with_1(mounted_node: MountedNode) -> None:
    """The older policy keeps no counters."""
    node = Path(mounted_node(purgeability="walk")) / "dev/dri/renderD128"
    for name in ("two_vms.py", "dma_buf.py"):
        ran = example(name, node)
        assert ran.returncode == 1
        assert ran.stderr.startswith("surprise: expected retained=- state=WILLNEED vma_count=1")


PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_node_ends_with_2(name: str) -> None:
    ran = example(name, "/nonexistent/renderD128")
    assert ran.returncode == 2
    assert "No such file or directory" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_argument_ends_with_2(name: str) -> None:
    ran = example(name, "--nonsense")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("usage: ")


# --- C -------------------------------------------------------------------------------------


def compiled(name: str, directory: Path) -> Path:
    """An example in C, compiled with warnings for errors."""
    program = directory / name
    flags = ("-I", str(resources.files("uapi")), "-Wall", "-Wextra", "-Werror")
    compile_c(EXAMPLES / f"{name}.c", program, *flags)
    return program


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("hello", tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("store", tmp_path_factory.mktemp("examples"))


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
@pytest.mark.fuse
@pytest.mark.parametrize("profile", ["bmg", "lnl"])
def test_store_in_c(store: Path, mounted_node: MountedNode, profile: str) -> None:
    ran = run([store], Path(mounted_node(profile=profile)) / "dev/dri/renderD128")
    assert (ran.returncode, ran.stderr) == (0, "")
    stored = re.findall(r"^(\w+) on gt\d stored (0x\w+)$", ran.stdout, re.M)
    assert stored == [(name, hex(0xC0FFEE00 + n)) for n, name in enumerate(ENGINES[profile])]


@pytest.mark.clients
@pytest.mark.parametrize("name", ["hello", "store"])
@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (["/dev/null"], 1, "DRM_IOCTL_{}: Inappropriate ioctl for device"),
        (["/nonexistent"], 1, "/nonexistent: No such file or directory"),
        ([], 2, "usage: "),
        (["one", "two"], 2, "usage: "),
    ],
)
def test_c_fails_loudly(
    request: pytest.FixtureRequest, name: str, args: list[str], status: int, text: str
) -> None:
    ran = run([request.getfixturevalue(name)], *args)
    first_ioctl = {"hello": "VERSION", "store": "XE_DEVICE_QUERY"}[name]
    assert ran.returncode == status
    assert ran.stderr.startswith(text.format(first_ioctl))
