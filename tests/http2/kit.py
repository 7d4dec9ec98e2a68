"""Frames as bytes and connections that are past their handshake."""

from __future__ import annotations

from typing import Any

import hpack

from flyproxy._speedups._testing_http2 import Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIO = 1, 1, 4, 8, 32
(NO_ERROR, PROTOCOL, INTERNAL, FLOW_CONTROL, _, STREAM_CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION, _,
 CALM) = range(12)
REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.test"), (b":path", b"/")]
POST = [(b":method", b"POST"), *REQUEST[1:]]
Event = tuple[str, dict[str, Any]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def block(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Without any dynamic table, so that blocks may be sent in any order."""
    return b"".join(
        b"\x00" + hpack.hpack.encode_integer(len(n), 7) + n + hpack.hpack.encode_integer(len(v), 7) + v
        for n, v in fields
    )


def headers(stream: int, fields: list[tuple[bytes, bytes]] | None = None, *, end: bool = True) -> bytes:
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, flags, stream, block(REQUEST if fields is None else fields))


def data(stream: int, content: bytes, *, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, content)


def rst(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST, 0, stream, code.to_bytes(4, "big"))


def window(stream: int, n: int) -> bytes:
    return frame(WINDOW, 0, stream, n.to_bytes(4, "big"))


def setting(number: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, number.to_bytes(2, "big") + value.to_bytes(4, "big"))


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each."""
    found = []
    while data:
        n = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + n, "a frame is cut"
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + n]))
        data = data[9 + n:]
    return found


def server(**options: Any) -> Connection:
    """A server whose client has sent its preface and acknowledged our SETTINGS."""
    connection = Connection(True, **options)
    connection.start()
    connection.receive(PREFACE + frame(SETTINGS) + frame(SETTINGS, ACK))
    connection.take()
    return connection


def client(**options: Any) -> Connection:
    connection = Connection(False, **options)
    connection.start()
    connection.receive(frame(SETTINGS) + setting(8, 1) + frame(SETTINGS, ACK))
    connection.take()
    return connection


def one(events: list[Event], kind: str) -> dict[str, Any]:
    """The only event, which must be of this kind."""
    assert [name for name, _ in events] == [kind], events
    return events[0][1]


def fails(connection: Connection, data: bytes, code: int) -> None:
    """These bytes are a connection error, told by GOAWAY."""
    events = connection.receive(data)
    assert events[-1:] and events[-1][0] == "error", events
    assert events[-1][1]["code"] == code
    kind, _, _, payload = frames(connection.take())[-1]
    assert kind == GOAWAY
    assert int.from_bytes(payload[4:8], "big") == code


def resets(connection: Connection, data: bytes, stream: int, code: int) -> None:
    """These bytes are a stream error, told by RST_STREAM, and the connection lives."""
    events = connection.receive(data)
    assert not any(name == "error" for name, _ in events), events
    assert (RST, 0, stream, code.to_bytes(4, "big")) in frames(connection.take())


def exchange(a: Connection, b: Connection) -> tuple[list[Event], list[Event]]:
    """Carries bytes both ways until neither has any; the events of each."""
    events: tuple[list[Event], list[Event]] = ([], [])
    while True:
        there = a.take()
        events[1].extend(b.receive(there))
        back = b.take()
        events[0].extend(a.receive(back))
        if not there and not back:
            return events
