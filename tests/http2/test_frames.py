"""Frames that a peer may send, and those that it may not (RFC 9113 3.4, 4, 5, 6)."""

from __future__ import annotations

import pytest

from flyproxy._speedups._testing_http2 import Connection
from tests.http2.kit import (
    ACK,
    CALM,
    COMPRESSION,
    CONTINUATION,
    DATA,
    END_HEADERS,
    FLOW_CONTROL,
    FRAME_SIZE,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIO,
    PRIORITY,
    PROTOCOL,
    PUSH,
    REFUSED,
    REQUEST,
    RST,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW,
    block,
    client,
    data,
    exchange,
    fails,
    frame,
    frames,
    headers,
    one,
    resets,
    rst,
    server,
    setting,
    window,
)


def test_settings_come_first_from_both_sides() -> None:
    for side in (True, False):
        connection = Connection(side)
        connection.start()
        sent = connection.take().removeprefix(PREFACE)
        assert frames(sent)[0][0] == SETTINGS
        fails(connection, (PREFACE if side else b"") + frame(PING, 0, 0, b"12345678"), PROTOCOL)


@pytest.mark.parametrize("at", [0, 5, 23])
def test_wrong_preface_is_refused_at_its_first_wrong_byte(at: int) -> None:
    connection = Connection(True)
    fails(connection, PREFACE[:at] + b"\x00", PROTOCOL)


def test_settings_are_acknowledged_and_pings_answered() -> None:
    connection = server()
    assert one(connection.receive(setting(3, 7)), "settings")
    assert connection.receive(frame(PING, 0, 0, b"abcdefgh")) == []
    assert frames(connection.take()) == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"abcdefgh")]
    assert one(connection.receive(frame(PING, ACK, 0, b"abcdefgh")), "pong")["data"] == b"abcdefgh"


@pytest.mark.parametrize(
    ("bytes_", "code"),
    [
        (frame(PING, 0, 0, b"short"), FRAME_SIZE),
        (frame(PING, 0, 1, b"12345678"), PROTOCOL),
        (frame(SETTINGS, 0, 0, b"12345"), FRAME_SIZE),
        (frame(SETTINGS, ACK, 0, b"123456"), FRAME_SIZE),
        (frame(SETTINGS, 0, 1), PROTOCOL),
        (setting(2, 2), PROTOCOL),
        (setting(4, 2**31), FLOW_CONTROL),
        (setting(5, 16383), PROTOCOL),
        (setting(5, 2**24), PROTOCOL),
        (setting(8, 2), PROTOCOL),
        (setting(8, 1) + setting(8, 0), PROTOCOL),
        (frame(GOAWAY, 0, 0, b"1234567"), FRAME_SIZE),
        (frame(GOAWAY, 0, 1, b"12345678"), PROTOCOL),
        (frame(RST, 0, 1, b"123"), FRAME_SIZE),
        (frame(RST, 0, 0, b"1234"), PROTOCOL),
        (rst(1), PROTOCOL),
        (window(1, 1), PROTOCOL),
        (window(0, 0), PROTOCOL),
        (window(0, 2**31 - 1), FLOW_CONTROL),
        (frame(WINDOW, 0, 0, b"123"), FRAME_SIZE),
        (data(0, b"x"), PROTOCOL),
        (data(1, b"x"), PROTOCOL),
        (frame(DATA, PADDED, 1, b""), PROTOCOL),
        (frame(DATA, PADDED, 1, b"\x05abc"), PROTOCOL),
        (frame(HEADERS, END_HEADERS, 0, block(REQUEST)), PROTOCOL),
        (frame(HEADERS, END_HEADERS, 2, block(REQUEST)), PROTOCOL),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + block(REQUEST)), PROTOCOL),
        (frame(HEADERS, END_HEADERS | PRIO, 1, b"123"), FRAME_SIZE),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION),
        (frame(PRIORITY, 0, 0, b"12345"), PROTOCOL),
        (frame(PUSH, END_HEADERS, 1, b"1234"), PROTOCOL),
        (frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL),
        (frame(DATA, 0, 1, bytes(16385))[:9], FRAME_SIZE),
    ],
)
def test_frame_that_breaks_the_connection(bytes_: bytes, code: int) -> None:
    fails(server(), bytes_, code)


def test_trusted_peer_is_told_of_larger_frames_and_may_send_them() -> None:
    connection = Connection(True, trusted=True)
    connection.start()
    (settings,) = [payload for kind, _, _, payload in frames(connection.take()) if kind == SETTINGS]
    assert b"\0\5" + (65536).to_bytes(4, "big") in [settings[at : at + 6] for at in range(0, len(settings), 6)]
    connection.receive(PREFACE + frame(SETTINGS, 0, 0, b"") + headers(1, POST, end=False))
    assert len(one(connection.receive(data(1, bytes(65535))), "data")["data"]) == 65535
    fails(server(trusted=True), frame(DATA, 0, 1, bytes(65537))[:9], FRAME_SIZE)


@pytest.mark.parametrize("extra", [
    frame(PRIORITY, 0, 7, b"12345"), frame(PRIORITY, 0, 7, b"123"), frame(0x10, 0, 0, b"u=3"), frame(0xFA, 255, 9,
    b"x" * 99),
    frame(SETTINGS, 0, 0, b"\xff\xff\x00\x00\x00\x01"),
])
def test_what_is_unknown_is_skipped(extra: bytes) -> None:
    connection = server()
    events = connection.receive(extra + headers(1))
    assert [name for name, _ in events if name != "settings"] == ["request"]


def test_bytes_after_an_error_are_never_looked_at() -> None:
    connection = server()
    fails(connection, frame(PING, 0, 0, b"x") + headers(1), FRAME_SIZE)
    assert connection.receive(headers(3)) == []
    assert connection.take() == b""


# -- field blocks over several frames

def test_continuation_is_joined() -> None:
    text = block(POST)
    connection = server()
    whole = frame(HEADERS, PADDED | PRIO, 1, b"\x03" + b"12345" + text[:5] + b"\0\0\0") + b"".join(
        frame(CONTINUATION, END_HEADERS if last else 0, 1, piece)
        for last, piece in [(False, text[5:6]), (False, b""), (True, text[6:])]
    )
    assert one(connection.receive(whole), "request")["method"] == b"POST"


@pytest.mark.parametrize("between", [frame(PING, 0, 0, bytes(8)), frame(CONTINUATION, END_HEADERS, 3, b""), data(1,
    b"")])
def test_nothing_may_stand_inside_a_block(between: bytes) -> None:
    fails(server(), frame(HEADERS, 0, 1, b"\x82") + between, PROTOCOL)


def test_continuation_flood_is_cut_by_number_of_frames() -> None:
    connection = server(trusted=True)
    start = frame(HEADERS, 0, 1, block(REQUEST)) + frame(CONTINUATION, 0, 1) * 16
    assert connection.receive(start) == []
    fails(connection, frame(CONTINUATION, 0, 1), CALM)


def test_continuation_flood_is_cut_by_bytes() -> None:
    piece = frame(CONTINUATION, 0, 1, b"\0" * 16384)
    connection = server()
    assert connection.receive(frame(HEADERS, 0, 1, b"\0" * 16384) + piece * 3) == []
    fails(connection, piece, CALM)


# -- streams

def test_stream_ids_rise() -> None:
    connection = server()
    connection.receive(headers(5))
    fails(connection, headers(3), STREAM_CLOSED)


def test_closed_stream_takes_nothing_more() -> None:
    connection = server()
    connection.receive(headers(1))
    connection.response(1, 200, end=True)
    connection.release(1)
    connection.take()
    assert connection.receive(rst(1) + window(1, 5) + frame(PRIORITY, 0, 1, b"12345")) == []
    fails(connection, data(1, b"late"), STREAM_CLOSED)


def test_data_after_the_end_is_a_stream_error() -> None:
    connection = server()
    connection.receive(headers(1))
    resets(connection, data(1, b"x"), 1, STREAM_CLOSED)


def test_frames_that_crossed_our_reset_are_ignored() -> None:
    connection = server()
    connection.receive(headers(1, POST, end=False))
    connection.reset(1)
    connection.release(1)
    connection.take()
    assert connection.receive(data(1, b"x" * 100) + headers(1, [(b"x", b"y")]) + rst(1)) == []
    assert not connection.state["failed"]
    assert one(connection.receive(headers(3)), "request"), "the table is still in step"


def test_resets_of_long_ago_are_forgiven_too() -> None:
    connection = server(trusted=True, streams=1000)
    for stream in range(1, 201, 2):
        connection.receive(headers(stream, POST, end=False))
        connection.reset(stream)
        connection.release(stream)
    assert connection.receive(data(1, b"x") + data(99, b"x") + data(199, b"x")) == []


def test_too_many_streams_are_refused() -> None:
    connection = server(streams=2)
    connection.receive(headers(1) + headers(3))
    resets(connection, headers(5), 5, REFUSED)
    connection.response(1, 204, end=True)
    resets(connection, headers(7), 7, REFUSED)  # answered, but its work has not ended: not released
    connection.release(1)
    assert one(connection.receive(headers(9)), "request")


def test_everything_is_given_back() -> None:
    connection = server(streams=1000)
    for stream in range(1, 1001, 2):
        connection.receive(headers(stream))
    assert connection.state["slab"] == connection.state["streams"] == 500
    for stream in range(1, 1001, 2):
        connection.release(stream)
    assert connection.state["slab"] == connection.state["pool"] == 0


# -- flow control

def test_stream_window_is_enforced() -> None:
    connection = server(stream_window=70000)
    connection.receive(headers(1, POST, end=False))
    for _ in range(4):
        connection.receive(data(1, bytes(16384)))
    resets(connection, data(1, bytes(16384)), 1, FLOW_CONTROL)


def test_connection_window_is_enforced_before_it_is_credited() -> None:
    connection = server(connection_window=65535)
    for stream in (1, 3):
        connection.receive(headers(stream, POST, end=False))
    sent = b""
    for _ in range(3):
        connection.receive(data(1, bytes(16384)))
        sent += connection.take()
    assert (WINDOW, 0, 0, (32768).to_bytes(4, "big")) in frames(sent), "credited on receipt, whoever reads"


def test_drained_bytes_come_back_and_padding_at_once() -> None:
    connection = server(stream_window=1000)
    connection.receive(headers(1, POST, end=False))
    event = one(connection.receive(frame(DATA, PADDED, 1, b"\xff" + b"x" * 300 + bytes(255))), "data")
    assert event["window"] == 300
    assert connection.take() == b""
    connection.drained(1, 300)
    assert frames(connection.take()) == [(WINDOW, 0, 1, (556).to_bytes(4, "big"))]


def test_of_a_large_window_little_is_held_back() -> None:
    """A burst of a whole window on a long way: what is owed after its last byte waits for a round trip."""
    size, part = 1 << 20, 16000
    connection = server(stream_window=size)
    connection.receive(headers(1, POST, end=False))
    given = 0
    for _ in range(size // part):
        connection.receive(data(1, bytes(part)))
        connection.drained(1, part)
        given += sum(int.from_bytes(more, "big") for kind, _, to, more in frames(connection.take())
                     if (kind, to) == (WINDOW, 1))  # fmt: skip
    assert size // part * part - given < size // 16


def test_settings_move_the_windows_of_open_streams() -> None:
    connection = server()
    connection.receive(headers(1))
    connection.response(1, 200)
    assert connection.data(1, b"x" * 16384)
    connection.receive(setting(4, 100))
    assert connection.sendable(1) == 0
    connection.receive(setting(4, 20000))
    assert connection.sendable(1) == 20000 - 16384
    connection.receive(window(1, 2**31 - 1 - 3616))
    fails(connection, setting(4, 20001), FLOW_CONTROL)


def test_stream_window_overflow_is_a_stream_error() -> None:
    connection = server()
    connection.receive(headers(1))
    resets(connection, window(1, 2**31 - 1), 1, FLOW_CONTROL)
    connection.receive(headers(3))
    resets(connection, window(3, 0), 3, PROTOCOL)


def test_smaller_first_window_holds_only_after_the_acknowledgement() -> None:
    connection = Connection(True, stream_window=100)
    connection.start()
    connection.receive(PREFACE + frame(SETTINGS) + headers(1, POST, end=False))
    assert one(connection.receive(data(1, bytes(5000))), "data")
    connection.receive(frame(SETTINGS, ACK) + headers(3, POST, end=False))
    resets(connection, data(3, bytes(101)), 3, FLOW_CONTROL)


# -- graceful ends

def test_drain_is_two_steps_and_finishes_what_was_accepted() -> None:
    connection = server()
    connection.receive(headers(1))
    connection.drain()
    first, ping = frames(connection.take())
    assert (first[0], first[3]) == (GOAWAY, (2**31 - 1).to_bytes(4, "big") + bytes(4))
    assert one(connection.receive(headers(3)), "request"), "it was on its way"
    assert connection.receive(frame(PING, ACK, 0, ping[3])) == []
    assert frames(connection.take()) == [(GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4))]
    assert connection.receive(headers(5) + data(5, b"")) == []
    assert connection.response(1, 200, end=True)
    assert connection.response(3, 200, end=True)
    assert connection.state["draining"] == 2


def test_requests_that_a_goaway_left_out_may_be_repeated() -> None:
    ours = client()
    ids = [ours.request() for _ in range(3)]
    assert ids == [1, 3, 5]
    events = ours.receive(frame(GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4) + b"reason"))
    events += ours.receive(b"")
    assert [(name, event["stream"], event.get("retry")) for name, event in events] == [
        ("goaway", 0, False), ("reset", 5, True), ("reset", 3, True),
    ]
    assert ours.request() is None
    assert one(ours.receive(headers(1, [(b":status", b"200")])), "response")["status"] == 200


def test_output_without_room_stops_reading() -> None:
    connection = server()
    connection.room(200)
    pings = frame(PING, 0, 0, bytes(8)) * 50
    answered, waiting = 0, pings
    while True:
        events = connection.receive(waiting)
        waiting = b""
        answered += len(frames(connection.take()))
        if not events:
            break
        assert one(events, "blocked") == {"stream": 0}
    assert answered == 50


def test_reset_in_the_middle_of_a_frame_drops_its_rest() -> None:
    connection = server()
    connection.receive(headers(1, POST, end=False))
    text = data(1, b"a" * 1000)
    assert one(connection.receive(text[:500]), "data")["data"] == b"a" * 491
    connection.reset(1)
    assert connection.receive(text[500:] + headers(3))[-1][0] == "request"


def test_two_of_ours_understand_each_other() -> None:
    ours, theirs = Connection(False, encoder_table=4096, huffman=True), Connection(True, encoder_table=1024)
    ours.start()
    theirs.start()
    exchange(ours, theirs)
    for turn in range(5):
        stream = ours.request([(b"X-Turn", b"%d" % turn), (b"cookie", b"a=b")], method=b"PUT", end=False, te=True)
        assert stream is not None
        ours.data(stream, b"hello", True)
        _, events = exchange(ours, theirs)
        assert [name for name, _ in events] == ["request", "data"]
        assert (b"x-turn", b"%d" % turn) in events[0][1]["headers"]
        assert "te_trailers" in events[0][1]["flags"]
        theirs.response(stream, 103, [(b"link", b"</a>")])
        theirs.response(stream, 200, [(b"server", b"x")])
        theirs.data(stream, b"world")
        theirs.trailers(stream, [(b"grpc-status", b"0")])
        events, _ = exchange(ours, theirs)
        assert [name for name, _ in events] == ["response", "response", "data", "trailers"]
        assert events[-1][1]["headers"] == [(b"grpc-status", b"0")]
        ours.release(stream)
        theirs.release(stream)
    assert theirs.state["decoder"] > 0
    assert ours.state["slab"] == theirs.state["slab"] == 0
