"""``xe-mock run``: the program's view of the machine, its end, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xedev.node.mounts import read_mounts
from xedev.testing.mounts import run_command

ROOT = Path(__file__).parents[2]
EXIT_TIMEOUT = 30.0

pytestmark = [pytest.mark.fuse, pytest.mark.root]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("run", "--no-preload", *arguments)


def shell(script: str, *options: str) -> str:
    """What a script says on a machine with the mock."""
    ran = run(*options, "--", "sh", "-ec", script)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(autouse=True)
def machine_stays_as_it_is() -> Iterator[None]:
    """No mount and no file of ours is left."""
    before = machine()
    yield
    assert machine() == before


def machine() -> tuple[list[str], list[str], list[str]]:
    # Other tests mount at the same time, but not there.
    ours = ("/dev", "/sys", "/proc")
    mounts = [mount.point for mount in read_mounts() if mount.point.startswith(ours)]
    return mounts, sorted(os.listdir("/dev")), sorted(os.listdir("/sys/class"))


# ---- its end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 128 + 9)]
)
def test_the_programs_exit_code(script: str, status: int) -> None:
    assert run("--", "sh", "-c", script).returncode == status


def test_options_after_the_program_are_the_programs() -> None:
    assert run("printf", "%s", "--vram").stdout == "--vram"


@pytest.mark.parametrize(
    ("program", "status"), [("no-such-program", 127), ("/dev/null/x", 127), ("/etc/passwd", 126)]
)
def test_a_program_that_cannot_be_run(program: str, status: int) -> None:
    ran = run("--", program)
    assert ran.returncode == status
    assert ran.stderr.startswith(f"xe-mock: {program}: ")


def test_a_root_without_the_directories() -> None:
    ran = run("--root", "/dev/shm", "--", "true")
    assert ran.returncode == 125
    assert "there is no directory dev in it" in ran.stderr


def test_options_that_make_no_device() -> None:
    ran = run("--profile", "lnl", "--vram", "1G", "--", "true")
    assert ran.returncode == 125
    assert "no VRAM" in ran.stderr


class Running:
    """A program under xe-mock run that has started."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xedev.cli", "run", "--no-preload", "--", "sh", "-c", script],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().split()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def gone(pid: int) -> bool:
    """Whether a process ends before long; one that nobody has waited for has ended."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


DAEMON = "/sys/kernel/debug/dri/0/daemon"
TELL = f"echo $$ $(grep -o '\"pid\": [0-9]*' {DAEMON} | grep -o '[0-9]*')"


def test_a_signal_goes_to_the_program() -> None:
    running = Running(f"trap 'exit 7' TERM; {TELL}; while :; do sleep 0.01; done")
    try:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_TIMEOUT) == 7
        assert all(gone(int(pid)) for pid in running.said)
    finally:
        running.close()


def test_killed_it_takes_program_and_device_along() -> None:
    running = Running(f"{TELL}; exec sleep 1000")
    program, daemon = map(int, running.said)
    running.close()
    assert gone(program)
    assert gone(daemon)


# ---- the view --------------------------------------------------------------------------------


def test_the_nodes_are_in_dev() -> None:
    said = shell("cd /dev/dri; echo *; readlink -f /dev/fd/0 >/dev/null; echo x > /dev/null")
    assert said == "card0 renderD128 xe-mock\n"


def test_sys_has_the_mocks_device_and_the_machines_rest() -> None:
    said = shell(
        "cat /sys/class/drm/card1/device/uevent; cat /sys/dev/char/226:129/dev;"
        "test -d /sys/devices/system/cpu/cpu0; test -e /sys/kernel/mm;"
        "basename $(readlink -f /sys/bus/pci/devices/0000:04:00.0/driver)",
        *("--devices", "2"),
    )
    assert "PCI_SLOT_NAME=0000:04:00.0" in said
    assert said.endswith("226:129\nxe\n")


def test_sys_is_set_for_the_mock_and_not_for_the_machine() -> None:
    shell(
        "cd /sys/class/drm/card0/device/tile0/gt0/engines/rcs; echo 9 > job_timeout_ms;"
        "test $(cat job_timeout_ms) = 9;"
        "! echo 1 > /sys/kernel/mm/transparent_hugepage/khugepaged/defrag"
    )


def test_what_is_shielded() -> None:
    said = shell(
        "test ! -e /sys/class/vtconsole; echo secret > /dev/kmsg; cat /dev/kmsg;"
        "test $(stat -c %d /sys/kernel/debug) != $(stat -c %d /sys/kernel);"
        "test ! -e /sys/kernel/debug/tracing;"
        "f=/proc/sys/kernel/ftrace_dump_on_oops; test ! -e $f || { echo 1 > $f; cat $f; }"
    )
    assert said in ("", "1\n")


def test_compacting_memory_is_swallowed() -> None:
    """The file is the null device: nothing reaches the machine's."""
    place = "/proc/sys/vm/compact_memory"
    if not os.path.exists(place):
        pytest.skip("this kernel does not compact memory")
    assert shell(f"echo 1 > {place}; stat -c %t:%T {place}") == "1:3\n"


def test_the_mask_of_unbound_work_is_a_copy() -> None:
    place = Path("/sys/devices/virtual/workqueue/cpumask")
    if not place.exists():
        pytest.skip("this kernel has no work queues in sysfs")
    before = place.read_text()
    assert shell(f"cat {place}; echo 5a > {place}; cat {place}") == f"{before}5a\n"
    assert place.read_text() == before


def test_drop_caches_is_the_mocks() -> None:
    said = shell("echo 2 > /proc/sys/vm/drop_caches; stat -fc %T /proc/sys/vm/drop_caches")
    assert said == "fuseblk\n"


def test_somebody_else_is_master_unless_told_otherwise() -> None:
    look = "exec 3<>/dev/dri/card0; awk '{print $4}' /sys/kernel/debug/dri/0/clients"
    assert shell(look).split() == ["master", "y", "n"]
    assert shell(look, "--no-master").split() == ["master", "y"]


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGT_FORCE_DRIVER", "mine")
    said = shell("echo $SYSTEMD_DEVICE_VERIFY_SYSFS $IGT_FORCE_DRIVER; ls $XE_MOCK_MOUNT")
    assert said.split() == ["0", "mine", "debug", "dev", "proc", "sys"]


def test_the_preload_library_is_in_the_view_before_the_users_own() -> None:
    ran = run_command("run", "--", "sh", "-c", "echo $LD_PRELOAD; stat -c %F /dev/dri/card0")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "/dev/.xe-mock/preload.so\ncharacter special file\n"


def test_a_strict_barrier_is_told_to_the_preload_library() -> None:
    ask = ("--", "sh", "-c", "echo $XE_MOCK_STRICT_BARRIER")
    assert run_command("run", "--strict-barrier", *ask).stdout == "1\n"
    assert run_command("run", *ask).stdout == "\n"
    refused = run("--strict-barrier", "--", "true")
    assert refused.returncode == 125
    assert "--no-preload" in refused.stderr


def test_another_root(tmp_path: Path) -> None:
    """A bind mount of / is a complete root: with nothing in its /proc, /sys and little in /dev."""
    inner = (
        f"mount --bind / {tmp_path} && exec {sys.executable} -m xedev.cli run --no-preload "
        f"--root {tmp_path} -- sh -ec 'ls /dev/dri /proc/self/fd /dev/null; "
        "cat /sys/class/drm/version; pwd'"
    )
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inner],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "renderD128" in ran.stdout
    assert ran.stdout.endswith("drm 1.1.0 20060810\n/\n")


def test_an_ordinary_user(tmp_path: Path) -> None:
    """Needs no rights of root: a user namespace in which nobody becomes anybody else."""
    script = (
        f"mknod {tmp_path}/fuse c 10 229 && chmod 666 {tmp_path}/fuse && "
        f"mount --bind {tmp_path}/fuse /dev/fuse && exec setpriv --reuid 65534 --regid 65534 "
        f"--clear-groups {sys.executable} -m xedev.cli run --no-preload -- "
        "sh -ec 'id -u; echo 2 > /proc/sys/vm/drop_caches; cat /sys/class/drm/card0/dev; "
        "grep CapEff /proc/self/status'"
    )
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT,
        check=False,
    )
    if ran.returncode == 125 and "namespace" in ran.stderr:
        pytest.skip(ran.stderr)
    assert ran.stdout.split() == ["65534", "226:0", "CapEff:", "0" * 16], ran.stderr


def test_an_ordinary_user_who_may_have_no_namespace_is_told_the_cure() -> None:
    """Where they are forbidden: here by the limit of a user namespace around it."""
    script = (
        "echo 0 > /proc/sys/user/max_user_namespaces && "
        "exec setpriv --bounding-set=-all --inh-caps=-all "
        f"{sys.executable} -m xedev.cli run --no-preload -- true"
    )
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT,
        check=False,
    )
    assert ran.returncode == 125
    assert "may make no mount namespace here" in ran.stderr
    assert "sysctl user.max_user_namespaces=" in ran.stderr


def test_the_program_has_no_rights_over_the_machine_itself() -> None:
    """Not to its kernel modules (bit 16), its ports (17) and its power switch (22)."""
    has = int(shell("sed -n 's/^CapEff:\t//p' /proc/self/status"), 16)
    assert not has & (1 << 16 | 1 << 17 | 1 << 22)
    assert has >> 21 & 1, "CAP_SYS_ADMIN stays"


def test_env_is_for_a_shell() -> None:
    ran = run_command("env", "/some where")
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert all(line.startswith(("#", "export ")) for line in lines)
    assert "#   mount --bind '/some where/dev/dri' /dev/dri" in lines
    exported = {line.split()[1].partition("=")[0] for line in lines if line[0] != "#"}
    assert {"LD_PRELOAD", "SYSTEMD_DEVICE_VERIFY_SYSFS"} <= exported
