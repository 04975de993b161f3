"""The channel between the driver and the GPU's process."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from xedev.gpu.channel import Channel, Closed

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = (Channel(end) for end in socket.socketpair())
    yield left, right
    for channel in (left, right):
        channel.shutdown()
        channel.close()


def received(channel: Channel, count: int) -> list[tuple[object, ...]]:
    """So many messages."""
    messages: list[tuple[object, ...]] = []
    while len(messages) < count:
        messages += channel.receive()
    return messages


def test_messages_arrive_as_they_were_sent(pair: Pair) -> None:
    message = (1, 1 << 64, -1, "text", b"bytes", (2, (3, None)), True, 0.5)
    pair[0].send(message)
    assert received(pair[1], 1) == [message]


def test_messages_of_one_thread_keep_their_order(pair: Pair) -> None:
    def send() -> None:
        for number in range(1000):
            pair[0].send((number, b"x" * (number % 50)))

    sender = threading.Thread(target=send)
    sender.start()
    assert [message[0] for message in received(pair[1], 1000)] == list(range(1000))
    sender.join()


def test_a_message_larger_than_the_buffers_of_the_socket(pair: Pair) -> None:
    message = (1, os.urandom(8 << 20))
    sender = threading.Thread(target=pair[0].send, args=(message,))
    sender.start()
    assert received(pair[1], 1) == [message]
    sender.join()


def test_messages_of_several_threads_do_not_mix(pair: Pair) -> None:
    def send(thread: int) -> None:
        for number in range(200):
            pair[0].send((thread, number, bytes([thread]) * 5000))

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    messages = received(pair[1], 800)
    for thread in threads:
        thread.join()
    for number in range(4):
        mine = [message for message in messages if message[0] == number]
        assert [message[1] for message in mine] == list(range(200))
        assert all(message[2] == bytes([number]) * 5000 for message in mine)


def test_who_posts_never_waits_for_the_other_end(pair: Pair) -> None:
    data = b"x" * 100_000
    for number in range(50):
        pair[0].post((number, data))
    assert not pair[0].flush()
    # It wakes when there is room, and has nothing to receive.
    got: list[tuple[object, ...]] = []
    while not pair[0].flush():
        got += pair[1].receive()
        assert not pair[0].wait(30)
    got += received(pair[1], 50 - len(got))
    assert [message[0] for message in got] == list(range(50))


def test_a_wait_ends_with_a_message_or_with_its_time(pair: Pair) -> None:
    assert not pair[1].wait(0)
    assert not pair[1].wait(0.001)
    pair[0].send((1,))
    assert pair[1].wait(None)


@pytest.mark.parametrize("end", [0, 1])
def test_the_end_wakes_who_receives(pair: Pair, end: int) -> None:
    ended = threading.Event()

    def receive() -> None:
        with pytest.raises(Closed):
            pair[0].receive()
        ended.set()

    thread = threading.Thread(target=receive)
    thread.start()
    pair[end].shutdown()
    assert ended.wait(30)
    thread.join()


def test_sending_to_nobody(pair: Pair) -> None:
    pair[1].shutdown()
    pair[1].close()
    with pytest.raises(Closed):
        pair[0].send((1,))
    pair[0].post((1,))
    with pytest.raises(Closed):
        pair[0].flush()


def test_a_channel_whose_end_was_let_go_is_closed(pair: Pair) -> None:
    pair[0].shutdown()
    pair[0].close()
    with pytest.raises(Closed):
        pair[0].send((1,))
    with pytest.raises(Closed):
        pair[0].receive()


def test_a_descriptor_that_select_does_not_know(pair: Pair) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("no descriptors of that size")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    ours, theirs = socket.socketpair()
    os.dup2(ours.fileno(), 1500)
    ours.close()
    high, low = Channel(socket.socket(fileno=1500)), Channel(theirs)
    try:
        assert not high.wait(0.001)
        low.send((1,))
        assert high.wait(None)
        assert high.receive() == [(1,)]
        low.shutdown()
        assert high.wait(None)
        with pytest.raises(Closed):
            high.receive()
    finally:
        high.close()
        low.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
