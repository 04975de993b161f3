"""The ordered channel between the driver and the GPU (kernel: xe_guc_ct.c has one to the firmware).

A message is a tuple whose first member says what it is; `xedev.gpu.abi` lists them all.  Both ends
are processes of the mock, so what arrives is trusted.
"""

from __future__ import annotations

import contextlib
import marshal
import math
import select
import socket
import struct
import threading
from typing import Any

__all__ = ("Channel", "Closed", "Message")

Message = tuple[Any, ...]

_HEADER = struct.Struct("<I")
_PIECE = 1 << 18
_FD_SETSIZE = 1024
"""First descriptor that select(2) does not know; poll(2) does, but counts milliseconds."""


class Closed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a stream socket.

    `send` may be called by several threads, `receive` by one.  An end that must never be stopped by
    the other one, lest both wait, uses `post` and `flush` in place of `send`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._input = bytearray()
        self._output = bytearray()

    def send(self, message: Message) -> None:
        """Send, and wait for room if there is none.  `Closed`."""
        data = _pack(message)
        with self._lock:
            try:
                self._sock.sendall(data)
            except OSError:
                raise Closed from None

    def post(self, message: Message) -> None:
        """Have it sent by the next `flush`."""
        self._output += _pack(message)

    def flush(self) -> bool:
        """Send what there is room for; True when that was all.  `Closed`."""
        while self._output:
            try:
                sent = self._sock.send(self._output, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                raise Closed from None
            del self._output[:sent]
        return True

    def receive(self) -> list[Message]:
        """Wait for at least a piece of a message; all messages that are whole.  `Closed`."""
        try:
            data = self._sock.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            raise Closed
        self._input += data
        return list(self._unpack())

    def wait(self, timeout: float | None) -> bool:
        """Until there is something to receive, or room for what `flush` left; False when
        ``timeout`` seconds passed, or milliseconds for a descriptor that select(2) does not know.
        """
        fd = self._sock.fileno()
        if fd < _FD_SETSIZE:
            writers = [fd] if self._output else []
            return bool(select.select([fd], writers, [], timeout)[0])
        poll = select.poll()
        poll.register(fd, select.POLLIN | (select.POLLOUT if self._output else 0))
        found = poll.poll(None if timeout is None else math.ceil(timeout * 1000))
        return any(events & ~select.POLLOUT for _, events in found)

    def shutdown(self) -> None:
        """End the talk: either side finds the channel `Closed`, a thread that sleeps here, too."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the descriptor; for who receives."""
        self._sock.close()

    def _unpack(self) -> list[Message]:
        messages: list[Message] = []
        data, start = self._input, 0
        while len(data) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(data, start)
            end = start + _HEADER.size + length
            if len(data) < end:
                break
            messages.append(marshal.loads(memoryview(data)[start + _HEADER.size : end]))
            start = end
        del data[:start]
        return messages


def _pack(message: Message) -> bytes:
    data = marshal.dumps(message)
    return _HEADER.pack(len(data)) + data
