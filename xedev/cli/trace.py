"""``xe-mock trace``: watch ioctls and changes of state as they happen."""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xedev.cli.common import add_device_choice, open_debug, say
from xedev.cli.timeline import TimelineFile
from xedev.xe.xe_hw_engine import ENGINE_CLASSES

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to", "event_text")

_MOUNT_ENDED = (errno.ENOTCONN, errno.ECONNABORTED)
_LAST_READS = 1.0  # seconds to read what was there when told to end
_TOLD_ELSEWHERE = frozenset({"event", "time", "pid", "tid", "comm"})


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "trace",
        help="watch what clients do",
        description="Prints every ioctl, job and change of state until interrupted.",
    )
    parser.add_argument("directory", metavar="DIR")
    add_device_choice(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per line")
    form.add_argument(
        "--perfetto", metavar="FILE", help="write a timeline for https://ui.perfetto.dev"
    )
    parser.add_argument("--count", metavar="N", type=_positive, help="end after N events")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of events")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    fd = open_debug(args.directory, "trace", os.O_RDONLY, args.device)
    try:
        if args.perfetto is not None:
            return _draw(fd, args)
        return _print(fd, args)
    finally:
        os.close(fd)


def _print(fd: int, args: argparse.Namespace) -> int:
    say(f"tracing {args.directory}")
    try:
        for number, line in enumerate(_lines(fd), 1):
            print(line if args.json else event_text(json.loads(line)), flush=True)
            if number == args.count:
                break
    except KeyboardInterrupt:
        pass  # the usual end
    return 0


def _draw(fd: int, args: argparse.Namespace) -> int:
    # The signals that are the usual end are looked at between two events, so that none is lost.
    with open(args.perfetto, "w", encoding="utf-8") as file, _told_to_end() as told:
        say(f"tracing {args.directory} to {args.perfetto}")
        timeline = TimelineFile(file)
        for number, line in enumerate(_lines(fd, _Ending(fd, told).has_more), 1):
            timeline.add(json.loads(line))
            if number == args.count:
                break
        timeline.close()
    return 0


@contextmanager
def _told_to_end() -> Iterator[int]:
    """A descriptor that can be read when a signal has told this process to end."""
    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)
    }
    wakeup_before = signal.set_wakeup_fd(tell)
    try:
        yield told
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)
        os.close(tell)


class _Ending:
    """Says whether to read on, until the descriptor ``told`` can be read."""

    def __init__(self, fd: int, told: int) -> None:
        self._fd = fd
        self._told = told
        self._poll = select.poll()
        for each in (fd, told):
            self._poll.register(each, select.POLLIN)
        self._end_by = float("inf")

    def has_more(self) -> bool:
        """Wait until there is something to read; False when the end was told and all before it
        was read, or it has gone on for long."""
        ready = {fd for fd, _ in self._poll.poll()}
        if self._told not in ready:
            return True
        self._end_by = min(self._end_by, time.monotonic() + _LAST_READS)
        return self._fd in ready and time.monotonic() < self._end_by


def _always() -> bool:
    return True


def _lines(fd: int, has_more: Callable[[], bool] = _always) -> Iterator[str]:
    """The lines of the stream, until the mount ends or there is no more."""
    rest = b""
    while has_more():
        try:
            data = os.read(fd, 1 << 16)
        except OSError as error:
            if error.errno not in _MOUNT_ENDED:
                raise
            say("the mount has ended")
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)


def event_text(event: dict[str, Any]) -> str:
    """One event as a line of text."""
    make = _TEXTS.get(event["event"], _other)
    if "pid" not in event:
        return make(event)
    return f"{event['pid']:>7} {event.get('comm', ''):<15} {make(event)}"


def _ioctl(event: dict[str, Any]) -> str:
    # The repr of the struct, without its name: the ioctl's name says it already.
    arguments = event["args_text"].partition("(")[2].removesuffix(")")
    text = f"{event['client']:>3}  {event['name']}({arguments}) = {event['result']}"
    return f"{text} [{event['errno']}: {event['reason']}]" if event["errno"] else text


def _bo_state(event: dict[str, Any]) -> str:
    rest = _fields(event, {"bo", "old", "new"})
    change = f"bo {event['bo']}: {event['old']} -> {event['new']}"
    return f"{change} ({rest})" if rest else change


def _lost(event: dict[str, Any]) -> str:
    return f"lost: {event['count']} events came faster than they were read"


def _other(event: dict[str, Any]) -> str:
    return f"{event['event']}: {_fields(event, set())}"


def _fields(event: dict[str, Any], known: set[str]) -> str:
    return ", ".join(
        f"{name}={value}" for name, value in event.items() if name not in known | _TOLD_ELSEWHERE
    )


def _job(event: dict[str, Any]) -> str:
    return f"queue {event['queue']} job {event['seqno']}"


def _job_submit(event: dict[str, Any]) -> str:
    where = f"({_class_name(event['engine_class'])}, vm {event['vm']})"
    text = f"{_job(event)}: submitted, batches {' '.join(event['batches'])} {where}"
    return text + _waits(event)


def _waits(event: dict[str, Any]) -> str:
    return f", waits for {' '.join(event['waits'])}" if event["waits"] else ""


def _job_begin(event: dict[str, Any]) -> str:
    engine_class, instance, gt = event["engine"]
    return f"{_job(event)}: begins on {_class_name(engine_class)}{instance} of gt{gt}"


def _class_name(engine_class: int) -> str:
    return ENGINE_CLASSES.get(engine_class, str(engine_class))


def _job_end(event: dict[str, Any]) -> str:
    if not event["error"]:
        return f"{_job(event)}: ends"
    lines = [
        f"{_job(event)}: fails with {_errno_name(event['error'])}, {event['reason']} "
        f"at {event['address']:#x}",
        *event["dump"],
    ]
    return "\n  ".join(lines)


def _errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def _job_done(event: dict[str, Any]) -> str:
    how = f" with {_errno_name(event['error'])}" if event["error"] else ""
    return f"fence {event['context']}:{event['seqno']}: signalled{how}"


def _bind_submit(event: dict[str, Any]) -> str:
    return f"bind {event['context']}:{event['seqno']}: submitted{_waits(event)}"


def _bind_end(event: dict[str, Any]) -> str:
    return f"bind {event['context']}:{event['seqno']}: takes effect"


_TEXTS = {
    "ioctl": _ioctl,
    "bo_state": _bo_state,
    "lost": _lost,
    "job_submit": _job_submit,
    "job_begin": _job_begin,
    "job_end": _job_end,
    "job_done": _job_done,
    "bind_submit": _bind_submit,
    "bind_end": _bind_end,
}
