"""What the supervisor and a worker tell each other comes whole, in order, and with its sockets."""

from __future__ import annotations

import os
import resource
import socket

from mirror.server.channel import Channel, Message


def received(channel: Channel, other: Channel, number: int) -> list[Message]:
    found: list[Message] = []
    while len(found) < number:
        other.flush()
        messages, ended = channel.receive()
        assert not ended
        found += messages
    return found


def test_messages_larger_than_the_kernels_buffer_come_whole_and_in_order() -> None:
    one, other = Channel.pair()
    bodies = [bytes([number]) * 1_500_000 for number in range(3)]
    for number, body in enumerate(bodies):
        one.send("report", body=body, number=number)
    assert one.waits
    found = received(other, one, 3)
    assert [(message.kind, message.told, message.body) for message in found] == [
        ("report", {"number": number}, body) for number, body in enumerate(bodies)
    ]
    assert not one.waits
    one.close()
    other.close()


def test_sockets_come_with_their_message_though_the_sender_closes_them_at_once() -> None:
    one, other = Channel.pair()
    one.send("report", body=b"x" * 3_000_000)  # so that the next one has to wait
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    names = [sock.getsockname() for sock in listening]
    one.send("prepare", sockets=listening[:2], counts=[[0, 2]])
    one.send("prepare", sockets=listening[2:])
    for sock in listening:
        sock.close()
    _, first, second = received(other, one, 3)
    assert [sock.getsockname() for sock in (*first.sockets, *second.sockets)] == names
    for sock in (*first.sockets, *second.sockets):
        sock.close()
    one.close()
    other.close()


def test_the_end_of_the_other_process_is_heard_behind_its_last_words() -> None:
    one, other = Channel.pair()
    one.send("report", body=b"last")
    one.close()
    messages, ended = other.receive()
    assert ([message.body for message in messages], ended) == ([b"last"], True)
    other.send("stop")  # to nobody
    assert not other.waits
    other.close()


def test_a_message_whose_sockets_find_no_descriptor_free_says_so_and_the_next_ones_come() -> None:
    one, other = Channel.pair()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        one.send("prepare", sockets=[sock] * 20)
        one.send("stop")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0) + 4, before[1]))
    try:
        prepare, stop = received(other, one, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (prepare.lost, prepare.sockets, stop.kind) == (True, (), "stop")
    one.close()
    other.close()
