"""Running a program as one's own: its end becomes ours, and what is signalled to us goes to it."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Collection, Mapping, Sequence

__all__ = ("CANNOT_RUN", "NOT_FOUND", "ProgramError", "run_program")

NOT_FOUND = 127
CANNOT_RUN = 126
_SIGNALLED = 128
"""Exit codes as those of a shell."""

_FORWARDED = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_SI_KERNEL = 0x80
"""``si_code`` of a signal from the terminal, which has reached the program by itself."""
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_NOT_FOR_PROGRAMS = {"CAP_SYS_MODULE": 16, "CAP_SYS_RAWIO": 17, "CAP_SYS_BOOT": 22}
"""Rights over the machine itself, which a test of the real driver may try to use: root's program
could unload the machine's own GPU driver."""
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)

_libc = ctypes.CDLL(None, use_errno=True)


class ProgramError(Exception):
    """A program that could not be started."""

    def __init__(self, name: str, error: int) -> None:
        super().__init__(f"{name}: {os.strerror(error)}")
        self.status = NOT_FOUND if error in (errno.ENOENT, errno.ENOTDIR) else CANNOT_RUN


def run_program(command: Sequence[str], environment: Mapping[str, str], root: str) -> int:
    """Run ``command`` with ``root`` as its root directory, and return its exit code.

    That is 128 + n after signal n.  The program dies with this process.  Raises `ProgramError`
    when there is no such program, or it cannot be run.
    """
    # From here on signals wait for us; those that come before the program is there go to it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    try:
        failure, told = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if not pid:
            _child(command, environment, root, told, before)
        os.close(told)
        with open(failure, "rb") as pipe:
            data = pipe.read()
        if data:
            os.waitpid(pid, 0)
            raise ProgramError(command[0], struct.unpack("i", data)[0])
        return _wait(pid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(
    command: Sequence[str],
    environment: Mapping[str, str],
    root: str,
    told: int,
    mask: Collection[int],
) -> None:
    """Become the program; tell the errno if that is not possible."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for capability in _NOT_FOR_PROGRAMS.values():
            # Without the right to, there is nothing to drop.
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        for number in _PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        if root != "/":
            os.chroot(root)
            os.chdir("/")
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(command[0], list(command), dict(environment))
    except OSError as error:
        os.write(told, struct.pack("i", error.errno))
    finally:
        os._exit(NOT_FOUND)


def _wait(pid: int) -> int:
    """Wait for the program's end, and pass on what comes meanwhile."""
    while True:
        info = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != _SI_KERNEL:
                os.kill(pid, info.si_signo)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code
