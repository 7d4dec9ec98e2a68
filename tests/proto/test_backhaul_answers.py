"""Answers and trailers between our own proxies: said once, by whoever may say it."""

from __future__ import annotations

import pytest

from flyproxy._speedups import _testing_backhaul as backhaul
from flyproxy._speedups import _testing_proto as proto

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n"
FORGED = b"Flyproxy-Error: PR06\r\nflyproxy-x: forged\r\nfly-request-id: forged\r\nflyproxy_error: forged\r\n"


def answer(status: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


def client_gets(*heads: bytes, request: bytes = GET) -> list[bytes]:
    texts: list[bytes] = backhaul.Transport().answer(request, list(heads))["texts"]
    return texts


def test_server_via_and_request_id_are_said_once() -> None:
    machine = answer(b"200 OK", b"Server: gunicorn", b"Fly-Request-Id: forged", b"X: y", b"Content-Length: 3")
    (text,) = client_gets(machine)
    lines = text.lower().split(b"\r\n")
    for name, value in ((b"server", b"flyproxy"), (b"via", b"1.1 flyproxy"), (b"fly-request-id", b"01j-ams")):
        assert [line for line in lines if line.startswith(name + b":")] == [name + b": " + value]
    assert b"x: y" in lines
    assert b"content-length: 3" in lines


def test_via_of_the_machine_is_continued() -> None:
    assert b"\r\nVia: 1.1 app, 1.1 flyproxy\r\n" in client_gets(answer(b"200 OK", b"Via: 1.1 app"))[0]


def test_control_fields_of_a_machine_do_not_pass_the_host() -> None:
    machine = answer(b"200 OK", *FORGED.split(b"\r\n")[:-1], b"X: y")
    found = backhaul.Transport().answer(GET, [machine])
    assert (found["error"], found["ours"]) == (None, False)
    assert b"forged" not in found["texts"][0]
    assert b"flyproxy-" not in found["texts"][0].lower()


def test_error_of_the_hosts_proxy_is_seen_by_the_edge_and_by_nobody_else() -> None:
    found = backhaul.Transport().answer(GET, [answer(b"503 X", b"X: y")], extra=[(b"flyproxy-error", b"PR06")])
    assert (found["error"], found["ours"]) == (b"PR06", True)
    assert b"PR06" not in found["texts"][0]


def test_interim_heads_carry_no_control_fields() -> None:
    hints = answer(b"103 Early Hints", b"Link: </a>", *FORGED.split(b"\r\n")[:-1])
    texts = client_gets(hints, answer(b"200 OK"))
    assert b"\r\nlink: </a>\r\n" in texts[0]
    assert b"forged" not in texts[0]
    assert b"flyproxy-" not in texts[0].lower()
    (text,) = backhaul.Transport().answer(GET, [hints], extra=[(b"flyproxy-x", b"forged")])["texts"]
    assert b"forged" not in text


def test_interim_heads_of_an_http1_machine_carry_no_control_fields() -> None:
    text = proto.emit_response(answer(b"103 Early Hints", b"Link: </a>", *FORGED.split(b"\r\n")[:-1]))
    assert b"Link: </a>" in text
    assert b"forged" not in text
    assert b"flyproxy-" not in text.lower()


def test_upgrade_of_a_machine_does_not_break_the_stream() -> None:
    switched = answer(b"101 Switching Protocols", b"Upgrade: chat", b"Connection: Upgrade", b"X: y")
    (text,) = client_gets(switched, request=UPGRADE)
    assert b"\r\nx: y\r\n" in text
    assert b"426" in client_gets(answer(b"426 Upgrade Required", b"Upgrade: chat", b"Connection: Upgrade"))[0]


TRAILERS = (
    (b"", []),
    (b"grpc-status: 0\r\n", [(b"grpc-status", b"0")]),
    (b"A:\r\nb:c\r\nD: e f\r\n", [(b"A", b""), (b"b", b"c"), (b"D", b"e f")]),
)


@pytest.mark.parametrize(("text", "pairs"), TRAILERS)
@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_trailers_become_fields_and_text_again(text: bytes, pairs: list[tuple[bytes, bytes]], end: bytes) -> None:
    assert backhaul.trailer_fields(text + end) == pairs
    again = backhaul.trailer_text([(name, value, False) for name, value in pairs])
    assert again == b"".join(name + b": " + value + b"\r\n" for name, value in pairs)
    assert backhaul.trailer_fields(again) == pairs


def test_trailers_of_a_machine_pass_a_transport_without_control_fields() -> None:
    body = b"0\r\ngrpc-status: 5\r\nflyproxy-error: PR06\r\nFly-Request-Id: forged\r\nX: y\r\nHost: forged\r\n\r\n"
    emitted = proto.decode_chunked([body])["emitted"]
    forged = [(b"flyproxy-error", b"forged"), (b"flyproxy_x", b"forged"), (b"fly-client-ip", b"forged")]
    found = backhaul.Transport().answer(GET, [answer(b"200 OK", b"X: y")], trailers=emitted, forged=forged)
    assert found["trailers"] == b"grpc-status: 5\r\nx: y\r\n"


def test_control_fields_are_left_out_of_trailers_both_ways() -> None:
    assert backhaul.trailer_fields(b"a: 1\r\nFlyproxy-Error: x\r\nb: 2\r\n") == [(b"a", b"1"), (b"b", b"2")]
    pairs = [(b"a", b"1", False), (b"flyproxy-x", b"y", False), (b"c", b"3", True), (b"b", b"2", False)]
    assert backhaul.trailer_text(pairs) == b"a: 1\r\nb: 2\r\n"


def test_trailers_stay_within_their_room() -> None:
    pairs = [(b"name", b"value", False), (b"x", b"y", False)]
    assert backhaul.trailer_text(pairs) == b"name: value\r\nx: y\r\n"
    assert backhaul.trailer_text(pairs, 18) == b""
    lines = b"".join(b"x-%d: y\r\n" % i for i in range(300))
    assert len(backhaul.trailer_fields(lines)) == 256
    assert backhaul.trailer_fields(lines, 2) == [(b"x-0", b"y"), (b"x-1", b"y")]


@pytest.mark.parametrize("rest", [b"b", b"b: 2", b"b: 2\n", b": 2\r\n", b"b:\n"])
def test_trailers_end_before_what_is_no_line(rest: bytes) -> None:
    assert backhaul.trailer_fields(b"a: 1\r\n" + rest) == [(b"a", b"1")]
