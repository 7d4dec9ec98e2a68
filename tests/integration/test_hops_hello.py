"""Forged hellos: nobody gets further with one than its refusal, and every one is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.hops import ADDRESS, ELSEWHERE, FarHost
from tests.kit import edge
from tests.kit.edge import Hello, Status, Wire, now_ms

SILENCE_S = 5.0
QUIET_S = 1.0  # after which a transport is probed in any case
PING = 6  # RFC 9113 6.7
HELLOS_MAX = 256  # that a worker waits for at once
Says = Callable[[FarHost], bytes]


@pytest.fixture(scope="module")
def far() -> Iterator[FarHost]:
    with FarHost() as host:
        yield host


def refusal(far: FarHost, wire: Wire, said: bytes, status: Status) -> edge.Answer:
    """What the host answers to ``said``, which it must refuse with ``status``, count so, and end the connection."""
    before = far.refused()
    with wire:
        wire.send(said)
        answer = wire.answer()
        assert (answer.status, answer.code) == (status, "")
        assert wire.closed()
    after = far.refused()
    reason = status.name.lower()
    assert after == {**before, reason: before.get(reason, 0) + 1}
    return answer


def accepted(far: FarHost, hello: Hello, port: int = 0) -> None:
    with far.wire(port=port) as wire:
        assert wire.greet(hello, far.key) == (Status.OK, "", far.row["epoch"])


def test_what_is_true_is_accepted_on_every_port(far: FarHost) -> None:
    before = far.refused()
    for at, port in enumerate(far.row["ports"]):
        accepted(far, far.hello(dest_port=port), at)
    assert far.refused() == before


def changed(**changes: Any) -> Says:
    return lambda far: far.hello(**changes).encode(far.key)


def epoch(name: str, by: int) -> Says:
    return lambda far: far.hello(**{name: getattr(far.hello(), name) + by}).encode(far.key)


def other_port(far: FarHost) -> bytes:
    return far.hello(dest_port=far.row["ports"][1]).encode(far.key)


def bad_mac(far: FarHost) -> bytes:
    said = far.hello().encode(far.key)
    return said[:-1] + bytes([said[-1] ^ 1])


def spoofed_client(far: FarHost) -> bytes:
    """Another client's address in a relay's hello that was true."""
    said = far.hello(kind=edge.TCP, app="a", machine="m", internal_port=1, edge_port=1).encode(far.key)
    assert said[16:20] == bytes([198, 51, 100, 7])
    return said[:16] + bytes([192, 0, 2, 1]) + said[20:]


def more_hops(far: FarHost) -> bytes:
    said = far.hello(hops=0).encode(far.key)
    assert said[24:28] == b"\xe2\0\1\0"
    return said[:27] + b"\1" + said[28:]


FORGED: dict[str, tuple[Says, Status]] = {
    "of another host": (changed(dest="syd-1"), Status.WRONG_HOST),
    "of another port": (other_port, Status.WRONG_HOST),
    "of a boot before": (epoch("dest_epoch", -1), Status.OLD_DESTINATION),
    "with a MAC that has one bit wrong": (bad_mac, Status.NOT_AUTHENTIC),
    "under another key": (lambda far: far.hello().encode(edge.key_of("another secret")), Status.NOT_AUTHENTIC),
    "under no key": (lambda far: far.hello().encode(b""), Status.NOT_AUTHENTIC),
    "with another client's address": (spoofed_client, Status.NOT_AUTHENTIC),
    "with more hops than were signed": (more_hops, Status.NOT_AUTHENTIC),
    "of an unknown host": (changed(source="nobody-1"), Status.NOT_AUTHENTIC),
    "of the host that is asked": (lambda far: far.hello(source="dfw-1", source_epoch=far.row["epoch"]).encode(far.key),
                                  Status.NOT_AUTHENTIC),
    "from 31 seconds ago": (lambda far: far.hello(time_ms=now_ms() - 31_000).encode(far.key), Status.STALE),
    "from in 31 seconds": (lambda far: far.hello(time_ms=now_ms() + 31_000).encode(far.key), Status.STALE),
    "from the end of time": (changed(time_ms=(1 << 64) - 1), Status.STALE),
    "of a boot of its source before": (epoch("source_epoch", -1), Status.OLD_SOURCE),
    "with bytes behind it": (lambda far: far.hello().encode(far.key) + b"PRI", Status.MALFORMED),
    "of three hops": (changed(hops=3), Status.MALFORMED),
    "of an unknown kind": (changed(kind=3), Status.MALFORMED),
    "that is garbage": (lambda far: b"\0" * 64, Status.MALFORMED),
    "that is TLS, which this host does not speak": (
        lambda far: b"\x16\x03\x01\x00\xc4\x01\0\0\xc0\x03\x03" + b"\0" * 190, Status.MALFORMED,
    ),
    "that is longer than any": (lambda far: far.hello().encode(far.key)[:16] + b"\xe0" * 1008, Status.MALFORMED),
    "that is HTTP/1": (lambda far: b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n", Status.MALFORMED),
    "that is HTTP/2": (lambda far: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Status.MALFORMED),
    "that is a client's PROXY header": (
        lambda far: edge.SIGNATURE + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 2, 2]),
        Status.MALFORMED,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("says", "status"), FORGED.values(), ids=FORGED.keys())
def test_a_hello_is_refused(far: FarHost, says: Says, status: Status) -> None:
    answer = refusal(far, far.wire(), says(far), status)
    assert answer.epoch == far.row["epoch"], "so that who is right but late can say it again"


def test_a_hello_from_another_address_than_its_source_has_is_refused(far: FarHost) -> None:
    refusal(far, far.wire(ELSEWHERE), far.hello().encode(far.key), Status.NOT_AUTHENTIC)


@pytest.mark.parametrize("skew", [-29_000, 29_000])
def test_clocks_may_differ_a_little(far: FarHost, skew: int) -> None:
    accepted(far, far.hello(time_ms=now_ms() + skew))


def test_a_hello_is_taken_once(far: FarHost) -> None:
    hello = far.hello()
    accepted(far, hello)
    refusal(far, far.wire(), hello.encode(far.key), Status.STALE)


def test_a_nonce_is_taken_once_whatever_else_is_signed_with_it(far: FarHost) -> None:
    hello = far.hello()
    accepted(far, hello)
    again = hello.but(nonce=hello.nonce, dest_port=far.row["ports"][1])
    refusal(far, far.wire(port=1), again.encode(far.key), Status.STALE)


def test_a_hello_is_taken_once_across_a_reload_of_the_workers(far: FarHost) -> None:
    hello = far.hello()
    accepted(far, hello)
    before = far.daemon.workers()
    far.daemon.ctl("reload", "--workers")
    assert set(far.daemon.workers()) != set(before)
    refusal(far, far.wire(), hello.encode(far.key), Status.STALE)


def test_a_newer_boot_of_the_source_is_learnt_and_the_one_before_refused(far: FarHost) -> None:
    far.add_host("ghost-2", ADDRESS)
    hello = far.hello(source="ghost-2", source_epoch=far.epoch + 1)
    accepted(far, hello)
    refusal(far, far.wire(), hello.but(source_epoch=far.epoch).encode(far.key), Status.OLD_SOURCE)
    accepted(far, hello.but())


@pytest.mark.parametrize("n", [1, 16, 100, -1])
def test_a_hello_may_come_in_two_pieces(far: FarHost, n: int) -> None:
    said = far.hello().encode(far.key)
    with far.wire() as wire:
        wire.send(said[:n])
        far.refused()  # a turn of the host's, so that it reads the pieces one by one
        wire.send(said[n:])
        assert wire.answer().status == Status.OK


def test_who_is_silent_is_closed_after_five_seconds(far: FarHost) -> None:
    """Who says nothing, and who says half of a true hello and leaves it at that."""
    begun, before = time.monotonic(), far.refused().get("silent", 0)
    with far.wire() as mute, far.wire() as half:
        half.send(far.hello().encode(far.key)[:100])
        for wire in (mute, half):
            assert wire.closed()
            assert SILENCE_S - 1 < time.monotonic() - begun < SILENCE_S + 2
    assert far.refused()["silent"] == before + 2


def test_a_crowd_that_does_not_say_who_it_is_is_bounded_and_keeps_nobody_out_for_long(far: FarHost) -> None:
    reached = far.daemon.metric("flyproxy_limit_reached_total", limit="hellos")
    with ExitStack() as stack:
        crowd = [stack.enter_context(far.wire()) for _ in range(HELLOS_MAX + 20)]
        turned_away = [wire for wire in crowd[HELLOS_MAX:] if wire.answer().status == Status.BUSY]
        assert len(turned_away) == 20
        assert far.daemon.metric("flyproxy_limit_reached_total", limit="hellos") == reached + 20
    far.transport()


def test_the_round_trip_of_a_transport_is_measured_at_once(far: FarHost) -> None:
    """Else the windows of a transport that is busy from the beginning, so never probed, would not grow."""
    wire = far.transport().wire
    begun, kind = time.monotonic(), -1
    while kind != PING:
        size, kind = int.from_bytes(wire.exactly(3), "big"), wire.exactly(1)[0]
        wire.exactly(5 + size)
    assert time.monotonic() - begun < QUIET_S
