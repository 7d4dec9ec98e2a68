"""Every named limit on an untrusted peer is reached, and none of the budgets holds for a trusted one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flyproxy._speedups import _testing_http2 as h2
from tests.http2.kit import (
    CALM,
    DATA,
    PING,
    POST,
    PRIORITY,
    data,
    frame,
    frames,
    headers,
    one,
    rst,
    server,
    setting,
    window,
)

Feed = Callable[[h2.Connection, int], bytes]
BIG = 400  # more than any bucket but two holds


def rapid_reset(connection: h2.Connection, i: int) -> bytes:
    return headers(2 * i + 1) + rst(2 * i + 1)


def own_reset(connection: h2.Connection, i: int) -> bytes:
    return headers(2 * i + 1, POST, end=False) + window(2 * i + 1, 0)  # CVE-2025-8671: we are made to reset


def empty_data(connection: h2.Connection, i: int) -> bytes:
    return (headers(1, POST, end=False) if i == 0 else b"") + data(1, b"")


FLOODS: list[tuple[str, Feed]] = [
    ("reset", rapid_reset),
    ("own_reset", own_reset),
    ("ping", lambda c, i: frame(PING, 0, 0, bytes(8))),
    ("settings", lambda c, i: setting(3, 100)),
    ("empty_data", empty_data),
    ("window", lambda c, i: window(0, 1)),
    ("ignored", lambda c, i: frame(PRIORITY, 0, 3, b"12345")),
    ("ignored", lambda c, i: frame(0xBB, 0, 0, b"")),
]


def flood(connection: h2.Connection, feed: Feed, times: int) -> int:
    """How many were taken before the connection failed; streams that are told of are released."""
    for i in range(times):
        for name, event in connection.receive(feed(connection, i)):
            if name == "error":
                assert event["code"] == CALM
                return i
            if name == "reset":
                connection.release(event["stream"])
        connection.take()
    return times


@pytest.mark.parametrize(("budget", "feed"), FLOODS)
def test_flood_of_an_untrusted_peer_is_ended_at_its_budget(budget: str, feed: Feed) -> None:
    size, _ = h2.budgets()[budget]
    taken = flood(server(), feed, 3 * size)
    assert size - 2 <= taken <= size  # the handshake may have used one


@pytest.mark.parametrize(("budget", "feed"), FLOODS)
def test_trusted_peer_has_no_budget(budget: str, feed: Feed) -> None:
    assert flood(server(trusted=True), feed, 2500) == 2500


@pytest.mark.parametrize(("budget", "feed"), FLOODS)
def test_budget_comes_back_with_time(budget: str, feed: Feed) -> None:
    size, per_second = h2.budgets()[budget]
    connection = server()
    stop = size - 3
    assert flood(connection, feed, stop) == stop
    connection.now_ms += 10_000

    def later(connection: h2.Connection, i: int) -> bytes:
        return feed(connection, i + stop)

    assert flood(connection, later, 3 * size) >= min(size, 3 + 10 * per_second) - 1


def test_refused_streams_are_counted_as_resets_of_ours() -> None:
    connection = server(streams=1)
    connection.receive(headers(1))
    size, _ = h2.budgets()["own_reset"]
    for i in range(size):
        assert connection.receive(headers(2 * i + 3)) == []
    assert one(connection.receive(headers(9001)), "error")["code"] == CALM


def test_reset_request_holds_its_place_until_its_work_has_ended() -> None:
    connection = server(streams=10)
    for i in range(10):
        connection.receive(headers(2 * i + 1) + rst(2 * i + 1))
    connection.take()
    assert connection.receive(headers(101)) == []
    assert frames(connection.take())[0][3] == (7).to_bytes(4, "big")


def test_sending_earns_window_updates() -> None:
    connection = server()
    connection.receive(headers(1))
    connection.response(1, 200)
    size, _ = h2.budgets()["window"]
    for _ in range(3 * size):
        assert connection.data(1, b"x")
        assert [name for name, _ in connection.receive(window(1, 1))] == ["window"]
        connection.take()


def test_one_settings_frame_full_of_windows_costs_one_walk() -> None:
    connection = server()
    connection.receive(headers(1))
    many = b"".join((4).to_bytes(2, "big") + n.to_bytes(4, "big") for n in range(2730))
    assert one(connection.receive(frame(4, 0, 0, many)), "settings")
    assert connection.sendable(1) == 2729


def test_acknowledgements_wait_for_room_and_are_never_queued() -> None:
    connection = server(trusted=True)
    connection.room(300)
    events = connection.receive(frame(PING, 0, 0, bytes(8)) * 10000)
    assert events[-1][0] == "blocked"
    assert len(connection.take()) <= 300


def test_memory_of_a_connection() -> None:
    sizes = h2.sizes()
    assert sizes["connection"] <= 384
    assert sizes["stream"] <= 96
    connection = server()
    assert connection.state["pool"] == 0, "an idle connection has nothing but its struct"
    connection.receive(headers(1))
    assert connection.state["pool"] == 2048
    connection.release(1)
    assert connection.state["pool"] == 0


def test_empty_data_with_an_end_is_free() -> None:
    connection = server(streams=10_000)
    for i in range(BIG):
        connection.receive(headers(2 * i + 1, POST, end=False) + frame(DATA, 1, 2 * i + 1))
        connection.release(2 * i + 1)
    assert not connection.state["failed"]
