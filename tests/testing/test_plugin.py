"""The pytest plugin, as somebody uses it who has xe-mock installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xedev.testing.mounts import MountedNodes, MountFailure, run_command, wait_until_empty
from xedev.testing.target import Target

ROOT = Path(__file__).parents[2]
fuse = pytest.mark.fuse


def run_pytest(directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a test file, in a project of its own."""
    (directory / "test_it.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"]
    # Where xe-mock is installed the entry point loads the plugin.
    installed = subprocess.run(
        [sys.executable, "-c", _IS_INSTALLED], cwd="/", check=False, capture_output=True
    )
    if installed.returncode:
        command += ["-p", "xedev.testing.plugin"]
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


_IS_INSTALLED = """
import sys
from importlib.metadata import entry_points
sys.exit(not any(e.value == "xedev.testing.plugin" for e in entry_points(group="pytest11")))
"""


def test_a_device_in_the_process(tmp_path: Path) -> None:
    ran = run_pytest(
        tmp_path,
        """
from xedev.client import Device
from xedev.node.local import LocalTransport

def test(xe_device):
    device = Device(LocalTransport(xe_device))
    assert device.vm_create() == 1
    device.close()
""",
    )
    assert ran.returncode == 0, ran.stdout


@fuse
def test_a_mount_is_shared_by_the_tests_of_a_module(tmp_path: Path) -> None:
    ran = run_pytest(
        tmp_path,
        """
import os
from pathlib import Path

seen = set()

def test_one(mounted_node):
    seen.add(mounted_node())
    assert os.path.exists(mounted_node() + "/dev/dri/renderD128")

def test_two(mounted_node):
    assert {mounted_node()} == seen
    assert mounted_node(profile="lnl") not in seen
    assert mounted_node(fresh=True) not in seen

def test_three(mounted_node):
    mounts = Path("/proc/self/mountinfo").read_text()
    assert mounts.count(str(Path(mounted_node()).parent.parent / "xe-mock-test-")) >= 2
    Path("left").write_text(mounted_node())
""",
    )
    assert ran.returncode == 0, ran.stdout
    assert not Path((tmp_path / "left").read_text()).exists()


@fuse
def test_a_device_reached_in_three_ways(tmp_path: Path) -> None:
    ran = run_pytest(
        tmp_path,
        """
import pytest
from xedev.client import Device

def test_open_node(transport):
    assert Device(transport).vm_create() == 1

@pytest.mark.parametrize("way", ["in-process", "ioctl", "frames"])
def test_device_and_its_debug_files(xe_target, way):
    target = xe_target(way)
    target.device().vm_create()
    assert len(target.state()["vms"]) == 1
    assert target.debug("name").startswith("xe dev=")
    assert target.control("pressure", "region system 4096 shrink")
""",
    )
    assert "6 passed" in ran.stdout, ran.stdout


@fuse
def test_several_cards_of_one_machine(tmp_path: Path) -> None:
    ran = run_pytest(
        tmp_path,
        """
import pytest

@pytest.mark.parametrize("way", ["in-process", "ioctl", "frames"])
def test_cards(xe_targets, way):
    cards = xe_targets(way, 3)
    for card in cards:
        card.device().vm_create()
    assert [card.state()["devices"][0]["index"] for card in cards] == [0, 1, 2]
    assert [len(card.state()["vms"]) for card in cards] == [1, 1, 1]
""",
    )
    assert "3 passed" in ran.stdout, ran.stdout


@fuse
def test_what_a_test_leaves_behind_fails_it(tmp_path: Path) -> None:
    ran = run_pytest(
        tmp_path,
        """
import os, pytest

kept = []

def keep(target, way):
    transport = target.open()
    if way == "ioctl":
        kept.append(os.dup(transport.fileno()))
    else:
        kept.append(transport.pass_fd(transport.fileno()))

@pytest.mark.parametrize("way", ["in-process", "ioctl"])
def test(xe_target, way):
    keep(xe_target(way), way)

@pytest.mark.parametrize("way", ["in-process", "ioctl"])
def test_second_card(xe_targets, way):
    keep(xe_targets(way, 2)[1], way)
""",
    )
    assert "4 passed, 4 errors" in ran.stdout, ran.stdout
    assert "left behind" in ran.stdout


@fuse
def test_a_daemon_that_dies_fails_its_test_alone(tmp_path: Path) -> None:
    ran = run_pytest(
        tmp_path,
        """
import json, os, signal, time

def pid(directory):
    return json.load(open(directory + "/debug/dri/0/daemon"))["pid"]

def test_one(mounted_node):
    number = pid(mounted_node())
    os.kill(number, signal.SIGKILL)
    while os.path.exists(f"/proc/{number}"):
        time.sleep(0.01)

def test_two(mounted_node):
    assert pid(mounted_node())
""",
    )
    assert "2 passed, 1 error" in ran.stdout, ran.stdout
    assert "the daemon does not answer" in ran.stdout


@fuse
def test_daemons_end_with_the_process(tmp_path: Path) -> None:
    ran = run_pytest(
        tmp_path,
        """
import os, signal
from pathlib import Path

def test(mounted_node):
    Path("where").write_text(mounted_node())
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert ran.returncode == -9
    where = (tmp_path / "where").read_text()
    for _ in range(500):
        if where not in Path("/proc/self/mountinfo").read_text():
            break
        run_command("show", where)
    else:
        pytest.fail(f"{where} is still mounted")


@fuse
def test_a_wrong_option_is_told(tmp_path: Path) -> None:
    nodes = MountedNodes()
    with pytest.raises(MountFailure, match="unrecognized arguments: --colour blue"):
        nodes.get({"colour": "blue"})
    nodes.end()


@fuse
def test_options_become_arguments() -> None:
    nodes = MountedNodes()
    options = {"profile": "lnl", "debug_kernel": True, "allow_other": False, "system": 1 << 28}
    directory = nodes.get(options)
    assert nodes.get(dict(reversed(options.items()))) == directory
    assert nodes.get(options, fresh=True) != directory
    wait_until_empty(directory)
    nodes.check()
    nodes.end()


def test_a_target_of_another_policy(xe_target: object) -> None:
    assert callable(xe_target)
    target: Target[Any] = xe_target("in-process", purgeability="walk")
    assert target.state()["devices"][0]["purgeability"] == "walk"


def test_the_plugin_costs_little() -> None:
    """It is imported in every run of pytest: not so the driver."""
    program = "import sys, xedev.testing.plugin; sys.exit('xedev.xe' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
