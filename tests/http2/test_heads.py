"""Which messages are well formed, and what becomes of them (RFC 9113 8; cases 55 to 61 of bad input)."""

from __future__ import annotations

import pytest

from tests.http2.kit import (
    HEADERS,
    POST,
    PROTOCOL,
    REQUEST,
    block,
    client,
    data,
    fails,
    frame,
    headers,
    one,
    resets,
    server,
)

Fields = list[tuple[bytes, bytes]]


def without(name: bytes) -> Fields:
    return [field for field in REQUEST if field[0] != name]


def test_request_becomes_a_neutral_head() -> None:
    fields = [*REQUEST[:3], (b":path", b"/a?b=100%"), (b"accept", b"application/json"), (b"fly-region", b"x"),
              (b"x_forwarded_for", b"1"), (b"te", b"trailers"), (b"via", b"2.0 flyproxy"), (b"x-y", b"z")]
    found = one(server().receive(headers(1, fields)), "request")
    assert (found["method"], found["target"], found["host"], found["port"]) == (b"GET", b"/a?b=100%", b"a.test", 0)
    assert found["headers"] == [(b"accept", b"application/json"), (b"x-y", b"z")]
    assert found["flags"] == {"keep_alive", "idempotent", "te_trailers"}
    assert (found["own_via"], found["end"], found["content_length"]) == (1, True, -1)


def test_body_of_unknown_length_goes_on_chunked() -> None:
    assert "chunked" in one(server().receive(headers(1, POST, end=False)), "request")["flags"]


def test_cookie_crumbs_are_joined() -> None:
    crumbs = [(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3")]
    found = one(server().receive(headers(1, REQUEST + crumbs)), "request")
    assert found["headers"] == [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]


@pytest.mark.parametrize(
    "fields",
    [
        without(b":method"), without(b":scheme"), without(b":path"), [*REQUEST, (b":path", b"/")],
        [*REQUEST, (b":status", b"200")], [*REQUEST, (b":unknown", b"x")], [*REQUEST[:3], (b"x", b"y"), REQUEST[3]],
        [*REQUEST[:3], (b":path", b"")], [*REQUEST[:3], (b":path", b"a")], [*REQUEST[:3], (b":path", b"/\r\n")],
        [(b":method", b"G T"), *REQUEST[1:]], [(b":method", b""), *REQUEST[1:]], [(b":method", b"G" * 33),
        *REQUEST[1:]],
        [*REQUEST[:2], (b":authority", b"a\0b"), REQUEST[3]], [*REQUEST, (b"X", b"y")], [*REQUEST, (b"", b"y")],
        [*REQUEST, (b"a b", b"y")], [*REQUEST, (b"a:", b"y")], [*REQUEST, (b"a", b"b\nc")], [*REQUEST, (b"a", b"\0")],
        [*REQUEST, (b"a", b" b")], [*REQUEST, (b"connection", b"close")], [*REQUEST, (b"transfer-encoding",
        b"chunked")],
        [*REQUEST, (b"upgrade", b"h2c")], [*REQUEST, (b"keep-alive", b"1")], [*REQUEST, (b"proxy-connection", b"x")],
        [*REQUEST, (b"te", b"gzip")], [*REQUEST, (b"content-length", b"-1")], [*REQUEST, (b"content-length", b"5")],
        [*REQUEST, (b"content-length", b"0"), (b"content-length", b"1")], [*REQUEST, (b"host", b"a.test")] * 2,
        [(b":method", b"CONNECT"), (b":authority", b"a:1"), (b":path", b"/")], [*REQUEST, (b":protocol", b"websocket")],
    ],
)
def test_malformed_request_resets_its_stream_alone(fields: Fields) -> None:
    connection = server()
    resets(connection, headers(1, fields), 1, PROTOCOL)
    assert connection.state["streams"] == 0
    assert one(connection.receive(headers(3)), "request")["error"] is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([*REQUEST, (b"host", b"b.test")], "PH12"), (without(b":authority"), "PH12"),
        ([*REQUEST[:2], (b":authority", b"user@a.test"), REQUEST[3]], "PH12"),
        ([REQUEST[0], (b":scheme", b"ftp"), *REQUEST[2:]], "PH01"),
        ([*REQUEST[:3], (b":path", b"/a/../b")], "PH01"), ([*REQUEST[:3], (b":path", b"/" + b"a" * 20000)], "PH04"),
        ([(b":method", b"CONNECT"), (b":authority", b"a.test:22")], "PH10"), ([*REQUEST, (b"expect", b"x")], "PH11"),
        ([*REQUEST, *[(b"x", b"y")] * 200], "PH02"), ([*REQUEST, *[(b"x", b"y" * 15000)] * 4], "PH02"),
    ],
)
def test_what_only_we_refuse_is_answered(fields: Fields, code: str) -> None:
    connection = server(list_max=60000)
    text = block(fields)
    frames = [text[i:i + 16384] for i in range(0, len(text), 16384)]
    sent = b"".join(frame(HEADERS if i == 0 else 9, (i == 0) | 4 * (i == len(frames) - 1), 1, piece)
                    for i, piece in enumerate(frames))
    assert one(connection.receive(sent), "request")["error"] == code
    assert connection.response(1, 400, end=True)


def test_host_without_authority_counts() -> None:
    found = one(server().receive(headers(1, [*without(b":authority"), (b"host", b"B.test:8080")])), "request")
    assert (found["host"], found["port"]) == (b"b.test", 8080)


WEBSOCKET = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *REQUEST[1:]]


def test_extended_connect_is_an_upgrade() -> None:
    found = one(server().receive(headers(1, WEBSOCKET, end=False)), "request")
    assert found["upgrade"] == b"websocket"
    assert {"upgrade", "websocket"} <= found["flags"]
    assert "chunked" not in found["flags"]


def test_extended_connect_that_was_not_offered_is_malformed() -> None:
    resets(server(connect_protocol=False), headers(1, WEBSOCKET, end=False), 1, PROTOCOL)


@pytest.mark.parametrize(("length", "pieces"), [(3, [b"ab"]), (3, [b"ab", b"cd"]), (0, [b"a"])])
def test_content_length_must_be_what_comes(length: int, pieces: list[bytes]) -> None:
    connection = server()
    connection.receive(headers(1, [*POST, (b"content-length", b"%d" % length)], end=False))
    sent = b"".join(data(1, piece, end=i == len(pieces) - 1) for i, piece in enumerate(pieces))
    resets(connection, sent, 1, PROTOCOL)


def test_body_that_stops_short_at_its_trailers_is_malformed() -> None:
    connection = server()
    connection.receive(headers(1, [*POST, (b"content-length", b"3")], end=False) + data(1, b"ab"))
    resets(connection, headers(1, [(b"x", b"y")]), 1, PROTOCOL)


def test_trailers_pass_without_what_must_not_be_there() -> None:
    connection = server()
    connection.receive(headers(1, POST, end=False))
    fields = [(b"grpc-status", b"0"), (b"host", b"x"), (b"fly-x", b"y"), (b"content-length", b"1")]
    assert one(connection.receive(headers(1, fields)), "trailers")["headers"] == [(b"grpc-status", b"0")]


@pytest.mark.parametrize("fields", [[(b":path", b"/")], [(b"X", b"y")], [(b"connection", b"close")]])
def test_malformed_trailers_reset_the_stream(fields: Fields) -> None:
    connection = server()
    connection.receive(headers(1, POST, end=False))
    resets(connection, headers(1, fields), 1, PROTOCOL)


def test_trailers_end_the_stream() -> None:
    connection = server()
    connection.receive(headers(1, POST, end=False))
    resets(connection, headers(1, [(b"x", b"y")], end=False), 1, PROTOCOL)


# -- responses

OK = [(b":status", b"200")]


@pytest.mark.parametrize(
    "fields",
    [[], [(b":status", b"20")], [(b":status", b"0200")], [(b":status", b"600")], [*OK, *OK], [*OK, (b":path", b"/")],
     [(b"x", b"y"), *OK], [(b":status", b"101")], [*OK, (b"connection", b"x")], [*OK, (b"content-length", b"x")],
     [*OK, (b"content-length", b"1"), (b"content-length", b"1")], [*OK, (b"X", b"")]],
)
def test_malformed_response_resets_its_stream_alone(fields: Fields) -> None:
    ours = client()
    stream = ours.request()
    assert stream == 1
    resets(ours, headers(1, fields, end=False), 1, PROTOCOL)
    assert ours.request() == 3


def test_response_framing() -> None:
    cases: list[tuple[bytes, bytes, Fields, bool, set[str], int]] = [
        (b"GET", b"200", [(b"content-length", b"7")], False, {"keep_alive"}, 7),
        (b"GET", b"200", [], False, {"keep_alive", "chunked"}, -1), (b"GET", b"200", [], True, {"keep_alive"}, 0),
        (b"HEAD", b"200", [(b"content-length", b"7")], True, {"keep_alive", "no_body"}, 7),
        (b"GET", b"304", [(b"content-length", b"7")], True, {"keep_alive", "no_body"}, 7),
        (b"GET", b"204", [(b"content-length", b"7")], True, {"keep_alive", "no_body"}, -1),
        (b"GET", b"103", [], False, {"keep_alive", "no_body"}, -1),
    ]
    for method, status, fields, end, flags, length in cases:
        ours = client()
        ours.request(method=method)
        found = one(ours.receive(headers(1, [(b":status", status), *fields], end=end)), "response")
        assert (found["flags"], found["content_length"]) == (flags, length), (method, status)


def test_flyproxy_fields_are_told_and_dropped() -> None:
    ours = client()
    ours.request()
    found = one(ours.receive(headers(1, [*OK, (b"flyproxy-error", b"PU01"), (b"x", b"y")])), "response")
    assert found["proxy_error"]
    assert found["headers"] == [(b"x", b"y")]


def test_body_of_an_answer_to_head_is_malformed() -> None:
    ours = client()
    ours.request(method=b"HEAD")
    ours.receive(headers(1, [*OK, (b"content-length", b"7")], end=False))
    resets(ours, data(1, b"x"), 1, PROTOCOL)


def test_data_before_the_head_is_malformed() -> None:
    ours = client()
    ours.request()
    resets(ours, data(1, b"x"), 1, PROTOCOL)


def test_stream_that_we_never_opened_breaks_the_connection() -> None:
    fails(client(), headers(1, OK), PROTOCOL)
    fails(client(), headers(2, OK), PROTOCOL)


def test_tunnel_is_open_after_the_answer() -> None:
    ours = client()
    assert ours.request(upgrade=b"websocket", end=False) == 1
    assert "switched" in one(ours.receive(headers(1, OK, end=False)), "response")["flags"]
    assert ours.data(1, b"frame")
    assert one(ours.receive(data(1, b"frame")), "data")["data"] == b"frame"


def test_empty_block_is_a_block() -> None:
    resets(server(), headers(1, []), 1, PROTOCOL)
