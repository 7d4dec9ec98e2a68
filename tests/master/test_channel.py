"""The channel: whole messages, descriptors with them, no blocking, and an end that is noticed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from flyproxy.channel import Channel, ChannelClosed


def run(test: Callable[[Channel, Channel], Awaitable[None]]) -> None:
    async def inner() -> None:
        left, sock = Channel.pair()
        right = Channel(sock)
        try:
            await asyncio.wait_for(test(left, right), 10)
        finally:
            left.close()
            right.close()

    asyncio.run(inner())


def test_messages_arrive_whole_and_in_order() -> None:
    async def test(left: Channel, right: Channel) -> None:
        for number in range(50):
            left.send({"t": "n", "number": number})
        assert [(await right.recv())[0]["number"] for _ in range(50)] == list(range(50))

    run(test)


@pytest.mark.parametrize("size", [65_535, 65_536, 70_000, 3_000_000])
def test_a_message_larger_than_any_packet_arrives_whole(size: int) -> None:
    async def test(left: Channel, right: Channel) -> None:
        left.send({"t": "big", "text": "x" * size})
        left.send({"t": "next"})
        assert len((await right.recv())[0]["text"]) == size
        assert (await right.recv())[0] == {"t": "next"}

    run(test)


@pytest.mark.parametrize("count", [1, 200, 201, 650])
def test_descriptors_arrive_in_order_close_on_exec_and_also_more_than_fit_into_one_packet(count: int) -> None:
    async def test(left: Channel, right: Channel) -> None:
        ours = [os.memfd_create(str(number)) for number in range(count)]
        left.send({"t": "fds"}, ours)
        message, fds = await right.recv()
        assert message == {"t": "fds"}
        names = [os.readlink(f"/proc/self/fd/{fd}").split("memfd:")[1].split(" ")[0] for fd in fds]
        assert names == [str(number) for number in range(count)]
        assert not any(os.get_inheritable(fd) for fd in fds)
        for fd in ours + fds:
            os.close(fd)

    run(test)


def test_a_reader_that_stands_still_does_not_block_the_sender_and_loses_nothing() -> None:
    async def test(left: Channel, right: Channel) -> None:
        fd = os.memfd_create("kept")
        for number in range(500):
            left.send({"number": number, "text": "x" * 2000}, [fd])
        os.close(fd)
        for number in range(500):
            message, fds = await right.recv()
            assert message["number"] == number and len(fds) == 1
            os.close(fds[0])

    run(test)


def test_a_reader_that_never_reads_is_given_up_before_memory_is() -> None:
    async def test(left: Channel, right: Channel) -> None:
        with pytest.raises(ChannelClosed, match="does not read"):
            for _ in range(10_000):
                left.send({"text": "x" * 2000})

    run(test)


def test_the_end_of_the_other_side_is_noticed_after_its_last_words() -> None:
    async def test(left: Channel, right: Channel) -> None:
        left.send({"t": "last"})
        left.close()
        assert (await right.recv())[0] == {"t": "last"}
        with pytest.raises(ChannelClosed):
            await right.recv()
        with pytest.raises(ChannelClosed):
            right.send({"t": "into the void"})

    run(test)


def test_last_words_can_be_taken_without_waiting() -> None:
    async def test(left: Channel, right: Channel) -> None:
        assert right.rest() == []
        left.send({"t": "refused"})
        left.close()
        assert right.rest() == [{"t": "refused"}]

    run(test)


def test_closing_ends_a_waiting_recv() -> None:
    async def test(left: Channel, right: Channel) -> None:
        waiting = asyncio.ensure_future(right.recv())
        await asyncio.sleep(0)
        right.close()
        with pytest.raises(ChannelClosed):
            await waiting

    run(test)


def test_a_program_that_was_not_started_by_the_master_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLYPROXY_CHANNEL_FD", raising=False)
    with pytest.raises(ChannelClosed, match="flyproxy run"):
        Channel.inherited()


def test_the_inherited_end_is_not_inherited_further(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number = theirs.detach()
    os.set_inheritable(number, True)
    monkeypatch.setenv("FLYPROXY_CHANNEL_FD", str(number))
    channel = Channel.inherited()
    assert not os.get_inheritable(number) and "FLYPROXY_CHANNEL_FD" not in os.environ
    channel.close()
    ours.close()
