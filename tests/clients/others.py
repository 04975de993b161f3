"""Programs that are not IGT's: Mesa's, compute-runtime's, the media driver's, and coreutils."""

from __future__ import annotations

import shlex

from tests.clients.chroot import OWN_PROGRAMS
from tests.clients.programs import Program
from tests.clients.same_output import SameOutput

__all__ = ("OTHERS",)

LNL = ("--profile", "lnl")
DG2 = ("--profile", "dg2")
TWO = ("--devices", "2")
SMALL_BAR = ("--visible-vram", "256M")
_RIGHT = "1048576 bytes are right"


def _says(
    name: str, command: str, *texts: str, never: str = "", options: tuple[str, ...] = ()
) -> Program:
    """Has to say each of ``texts``, in lines whose blanks do not count, and not ``never``."""
    checks = [f"case $said in *{shlex.quote(text)}*) ;; *) {_fail(text)} ;; esac" for text in texts]
    if never:
        checks.append(f"case $said in *{shlex.quote(never)}*) {_fail(f'no {never}')} ;; esac")
    script = "\n".join(
        [
            f'said=$({{ {command}; }} 2>&1) || {{ code=$?; echo "$said"; exit $code; }}',
            'said=$(echo "$said" | tr -s " \\t" " "); echo "$said"',
            *checks,
            "echo all is said",
        ]
    )
    return Program(name, ("sh", "-c", script), "all is said", options, seconds=100.0)


def _fail(what: str) -> str:
    return f"echo wanted: {shlex.quote(what)}; exit 1"


def _own(name: str, command: str, device: str, options: tuple[str, ...] = ()) -> Program:
    """One of ours (`chroot.SOURCES`), which fails by itself unless all bytes are right."""
    return _says(name, f"{OWN_PROGRAMS}/{command}", device, _RIGHT, options=options)


def _vainfo(name: str, options: tuple[str, ...] = ()) -> Program:
    command = "vainfo --display drm --device /dev/dri/renderD128"
    profiles = (f"VAProfile{profile} : VAEntrypointVLD" for profile in ("H264Main", "HEVCMain10"))
    return _says(name, command, "Intel iHD driver", *profiles, options=options)


def _eglinfo(name: str, platform: str, device: str, options: tuple[str, ...] = ()) -> Program:
    renderer = f"OpenGL core profile renderer: Mesa Intel(R) {device}"
    es_version = "OpenGL ES profile version: OpenGL ES 3.2"
    command = f"eglinfo -B -p {platform}"
    return _says(name, command, renderer, es_version, never="llvmpipe", options=options)


_DIRECT = "EnableDirectSubmission=1"
_FAILURES = """\
fail() {{ echo "$1 1 EINVAL" > /sys/kernel/debug/dri/0/fail; {program}; }}
fail xe_vm_create; fail xe_bo_create_user; fail xe_vma_create; {program}"""
_LIBDRM = (
    _says("drmdevice", "drmdevice", "--- Devices reported 1 ---", "device_id e20b"),
    _says("drmdevice on two devices", "drmdevice", "bus 03", "bus 04", options=TWO),
    _says(
        "lsgpu on two devices",
        "lsgpu",
        *("card0 Intel Battlemage", "└─renderD128", "card1 Intel Battlemage", "└─renderD129"),
        options=TWO,
    ),
    # At least whoever is master is there.
    _says("gputop", "gputop -n 2 -d 0.5", "DRM minor 0 Frequency(MHz) GT0-"),
)
_MESA = (
    _says("vulkaninfo", "vulkaninfo --summary", "deviceName = Intel(R) Arc(tm) B580"),
    _says("vulkaninfo on lnl", "vulkaninfo --summary", "Graphics (LNL)", options=LNL),
    _says("vulkaninfo on dg2", "vulkaninfo --summary", "A770 Graphics (DG2)", options=DG2),
    _says("vulkaninfo on two devices", "vulkaninfo --summary", "-0300-", "-0400-", options=TWO),
    # Makes a device, and asks for its displays: with somebody else as master there are none.
    _says(
        "vulkaninfo in full", "vulkaninfo", "GPU0", "VK_KHR_display ", "timelineSemaphore = true"
    ),
    _says("vulkaninfo on a small BAR", "vulkaninfo", "memoryHeaps: count = 3", options=SMALL_BAR),
    _eglinfo("eglinfo", "gbm", "Arc(tm) B580 Graphics (BMG G21)"),
    _eglinfo("eglinfo without surfaces", "surfaceless", "Arc(tm) B580 Graphics (BMG G21)"),
    _eglinfo("eglinfo on lnl", "gbm", "Graphics (LNL)", LNL),
    _eglinfo("eglinfo on dg2", "gbm", "Arc(tm) A770 Graphics (DG2)", DG2),
    _own("vulkan_transfer", "vulkan_transfer", "B580"),
    _own("vulkan_transfer on lnl", "vulkan_transfer", "LNL", LNL),
    _own("vulkan_transfer on dg2", "vulkan_transfer", "A770", DG2),
    _says(
        "vulkan_transfer after failures",
        _FAILURES.format(program=f"{OWN_PROGRAMS}/vulkan_transfer"),
        *("gave -3", "gave -2", "gave -4", _RIGHT),
    ),
)
_COMPUTE_RUNTIME = (
    _says(
        "clinfo",
        "clinfo",
        *("Device Name Intel(R) Arc(TM) B580 Graphics", "Max compute units 160"),
        *("Max clock frequency 2850MHz", "Global memory size 12168933376"),
        "Global Memory cache size 18874368",
    ),
    _says("clinfo on lnl", "clinfo", "Max compute units 64", options=LNL),
    _says("clinfo on dg2", "clinfo", "A770", "Max compute units 512", options=DG2),
    _says("clinfo on two devices", "clinfo -l", *("Device #0", "Device #1"), options=TWO),
    _says("clinfo on a small BAR", "clinfo -l", "Resizable BAR not detected", options=SMALL_BAR),
    _own("opencl_copy", "opencl_copy", "B580"),
    _own("opencl_copy on lnl", "opencl_copy", "Intel", LNL),
    _own("opencl_copy on dg2", "opencl_copy", "A770", DG2),
    # Its default: the GPU waits for work that is written to memory, without an ioctl.
    _says("opencl_copy by direct submission", f"{_DIRECT} {OWN_PROGRAMS}/opencl_copy", _RIGHT),
    _own("level_zero", "level_zero", "B580 Graphics: 5 slices"),
    _own("level_zero on lnl", "level_zero", "2 slices", LNL),
    _own("level_zero on dg2", "level_zero", "A770 Graphics: 8 slices", DG2),
)
_MEDIA_DRIVER = (_vainfo("vainfo"), _vainfo("vainfo on lnl", LNL), _vainfo("vainfo on dg2", DG2))

OTHERS: tuple[Program, ...] = (
    *_LIBDRM,
    *_MESA,
    *_COMPUTE_RUNTIME,
    *_MEDIA_DRIVER,
    SameOutput("coreutils", (), seconds=100.0),
)
