"""Programs that know nothing of the mock, under the preload library, with real mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from tests.c_compiler import compile_c
from tests.node.fake_mount import eventually
from xedev.client.control import ControlFiles
from xedev.shim import library

pytestmark = [
    pytest.mark.clients,
    pytest.mark.fuse,
    pytest.mark.timeout(900),  # the first run builds a C library
]

HERE = Path(__file__).parent
SHIM = Path(str(resources.files("xedev.shim")))
UAPI = Path(str(resources.files("uapi")))
PROGRAMS = (
    *("stat_family", "old_stat", "ioctl_descriptors", "lseek_family", "fdinfo", "processes"),
    "userptr",
)
FLAGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-pthread", "-ldl")
ADDRESS = ("-fsanitize=address", "-g", "-O1", "-pthread", "-ldl")
SHARED = ("-fPIC", "-shared", "-I", str(UAPI))
OLD_GLIBC = "2.31"  # the last but one whose stat family has other names
PATIENCE = 120.0
STRICT_BARRIER = "XE_MOCK_STRICT_BARRIER"

Mounted = Callable[..., str]

x86_64_only = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="a store is let through by x86-64's trap flag"
)


def environment(*preloaded: str | Path, **more: str) -> dict[str, str]:
    return {**os.environ, "LD_PRELOAD": ":".join(map(str, preloaded)), **more}


def build(name: str, directory: Path, *flags: str) -> Path:
    binary = directory / name
    compile_c(HERE / f"{name}.c", binary, *flags)
    return binary


def run(*command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env=environment(library(), **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def nodes(mounted_node: Mounted) -> Path:
    return Path(mounted_node(), "dev/dri")


def assert_success(ran: subprocess.CompletedProcess[str]) -> None:
    assert (ran.returncode, ran.stderr) == (0, "")


# ---- each entry point ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_entry_points(name: str, tmp_path: Path, mounted_node: Mounted) -> None:
    assert_success(run(build(name, tmp_path, *FLAGS), nodes(mounted_node)))


def test_each_card_has_numbers_of_its_own(mounted_node: Mounted) -> None:
    dri = Path(mounted_node(devices=2), "dev/dri")
    ran = run("stat", "-c", "%n %F %t:%T", *sorted(dri.iterdir()))
    said = ran.stdout.replace(f"{dri}/", "").replace("empty ", "").splitlines()
    assert said == [
        "card0 character special file e2:0",
        "card1 character special file e2:1",
        "renderD128 character special file e2:80",
        "renderD129 character special file e2:81",
        "xe-mock regular file 0:0",
        "xe-mock1 regular file 0:0",
    ]


def run_mappings(binary: Path, dri: Path, env: dict[str, str]) -> None:
    """A BO lives as long as its last mapping, and no longer."""
    state = ControlFiles.of_node(dri / "renderD128")

    def has_bo() -> bool:
        return '"bos": []' not in state.read("state")

    pipes = subprocess.PIPE
    client = subprocess.Popen([binary, dri], env=env, stdin=pipes, stdout=pipes, text=True)
    with client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "mapped\n"
        assert has_bo()
        client.stdin.write("\n")
        client.stdin.flush()
        assert client.stdout.readline() == "unmapped\n"
        assert eventually(lambda: not has_bo())
        client.stdin.write("\n")
    assert client.returncode == 0


def test_mappings(tmp_path: Path, mounted_node: Mounted) -> None:
    binary = build("mmap_family", tmp_path, *FLAGS)
    run_mappings(binary, nodes(mounted_node), environment(library()))


@x86_64_only
def test_stores_into_a_strict_barrier_vanish(tmp_path: Path, mounted_node: Mounted) -> None:
    binary = build("barrier", tmp_path, *FLAGS)
    assert_success(run(binary, nodes(mounted_node), **{STRICT_BARRIER: "1"}))


@pytest.mark.parametrize("told", [{}, {STRICT_BARRIER: "0"}])
def test_the_usual_barrier_is_an_ordinary_page(
    told: dict[str, str], tmp_path: Path, mounted_node: Mounted
) -> None:
    binary = build("barrier", tmp_path, *FLAGS)
    assert_success(run(binary, nodes(mounted_node), "usual", **told))


def test_a_program_of_an_old_c_library(tmp_path: Path, mounted_node: Mounted) -> None:
    binary = tmp_path / "stat_family"
    target = f"{os.uname().machine}-linux-gnu.{OLD_GLIBC}"
    command = (sys.executable, "-m", "ziglang", "cc", "-target", target, "-o", str(binary))
    # Its headers turn the calls into those of __xstat and its siblings.
    subprocess.run([*command, HERE / "stat_family.c"], check=True, stdin=subprocess.DEVNULL)
    assert b"__fxstat64" in binary.read_bytes()
    assert_success(run(binary, nodes(mounted_node)))


@pytest.mark.root
def test_nodes_that_are_bound_elsewhere(tmp_path: Path, mounted_node: Mounted) -> None:
    """As in a chroot; only the directory of nodes is seen there."""
    binary = build("processes", tmp_path, *FLAGS)
    script = 'mount --bind "$1" "$2" && exec "$3" "$2"'
    place = tmp_path / "dri"
    place.mkdir()
    shell = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh")
    assert_success(run(*shell, nodes(mounted_node), place, binary))


# ---- AddressSanitizer ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sanitizer's run-time library, and the preload library built for it."""
    if shutil.which("cc") is None:
        pytest.skip("there is no compiler with a sanitizer")
    directory = tmp_path_factory.mktemp("address")
    preload = directory / "preload.so"
    sources = sorted(SHIM.glob("*.c"))
    command = ["cc", *ADDRESS, *SHARED, "-o", str(preload), *map(str, sources)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the compiler has no AddressSanitizer")
    asked = ("cc", "-print-file-name=libasan.so")
    runtime = Path(subprocess.check_output(asked, text=True).strip())
    if not runtime.is_absolute():
        pytest.skip("the compiler's AddressSanitizer has no shared library")
    return runtime.resolve(), preload


@pytest.mark.parametrize(
    "name", [*PROGRAMS, "mmap_family", pytest.param("barrier", marks=x86_64_only)]
)
def test_under_address_sanitizer(
    name: str, tmp_path: Path, mounted_node: Mounted, sanitized: tuple[Path, Path]
) -> None:
    binary = build(name, tmp_path, *ADDRESS)
    env = environment(*sanitized, ASAN_OPTIONS="detect_leaks=0", **{STRICT_BARRIER: "1"})
    if name == "mmap_family":
        run_mappings(binary, nodes(mounted_node), env)
        return
    command = [binary, nodes(mounted_node)]
    ran = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert_success(ran)


# ---- programs that touch no device -----------------------------------------------------------

COMMANDS = (
    "stat -c '%n %F %s %t %T %i %h' / /etc/passwd /dev/null /proc/self",
    "ls -lan /dev /etc",
    "find /etc -maxdepth 2 -printf '%p %y %s %m\\n' 2>/dev/null | sort",
    "cp -a /etc/passwd other && cmp /etc/passwd other && stat -c %F link && stat -Lc %F link",
    "sort -R --random-source=/etc/passwd numbers | sha256sum",
    "tail -c 100 numbers; head -c -588000 numbers; split -n 3 numbers part. && sha256sum part.*",
    "dd if=numbers of=skipped bs=1000 skip=7 seek=3 count=5 status=none; sha256sum skipped",
    "tar -cf - --sort=name --mtime=@0 numbers copy link | tar -tvf - | sha256sum",
    "stat nothing; cat nothing; ls -d /proc/self/fdinfo/999; true",
    "cat /proc/self/fdinfo/0 | grep -c mnt_id; ls /proc/self/fdinfo | head -n 3",
    "grep -c . /proc/mounts >/dev/null && df / >/dev/null && echo done",
    f'{sys.executable} -c \'import mmap; f = open("numbers", "r+b");'
    ' m = mmap.mmap(f.fileno(), 0); m[:4] = b"over"; m.close()\' && head -n 2 numbers',
)


SCENE = "seq 1 100000 > numbers; cp /etc/passwd copy; ln -s copy link"


def output(command: str, directory: Path, env: dict[str, str]) -> tuple[int, str, str]:
    """What a shell command says in a directory with a few files."""
    directory.mkdir()
    subprocess.run(["sh", "-ec", SCENE], cwd=directory, check=True)
    ran = subprocess.run(
        ["sh", "-c", command], env=env, cwd=directory, capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_other_programs_run_the_same(command: str, tmp_path: Path) -> None:
    plain = output(command, tmp_path / "without", {**os.environ, "LC_ALL": "C"})
    assert output(command, tmp_path / "with", environment(library(), LC_ALL="C")) == plain
