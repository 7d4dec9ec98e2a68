"""Heads that VMs send: what is read out of them, what is refused, and what is written for the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flyproxy._speedups import _testing_proto as proto

VmAccepted = Callable[..., dict[str, Any]]
VmRefused = Callable[..., None]
REQUEST_ID = b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams"


def answer(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *lines, b"", b""])


def test_the_plainest_answer(vm_accepted: VmAccepted) -> None:
    assert vm_accepted(answer(b"Content-Length: 5")) == {
        "status": 200, "reason": b"OK", "minor": 1, "content_length": 5, "flags": {"keep_alive"}, "proxy_error": False,
        "headers": [(b"Content-Length", b"5", True)],
    }


def test_the_rewritten_head_is_exactly_this() -> None:
    data = answer(b"Date: x", b"Server: nginx", b"Content-Length: 05", b"Via: 1.0 cache", b"Connection: close",
    b"Fly-Request-Id: spoof")
    assert proto.emit_response(data) == (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nVia: 1.0 cache, 1.1 flyproxy\r\nServer: flyproxy\r\n"
        b"Fly-Request-Id: " + REQUEST_ID + b"\r\nContent-Length: 5\r\n\r\n")
    assert proto.emit_response(data, pristine=True) == (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nServer: nginx\r\nVia: 1.0 cache\r\nContent-Length: 5\r\n\r\n")


# -- case 50: what breaks the head or its framing
@pytest.mark.parametrize("lines", [
    [b"Content-Length: 3", b"Transfer-Encoding: chunked"], [b"Content-Length: 3", b"Content-Length: 4"],
    [b"Content-Length: 3", b"Content-Length: 3"], [b"Content-Length: 3, 3"], [b"Content-Length: x"],
    [b"Content-Length:"],
    [b"Content-Length: -1"], [b"Content-Length: 9223372036854775808"], [b"Transfer-Encoding: gzip"],
    [b"Transfer-Encoding: gzip, chunked"], [b"Transfer-Encoding: chunked, chunked"],
    [b"Transfer-Encoding: chunked"] * 2,
    [b"Transfer-Encoding : chunked"], [b"A: b\x00c"], [b"A: b\x01"], [b"A: b\x7f"], [b"A : b"], [b": b"], [b"A"],
    [b"A: b", b" fold"],
    [b"A: b\nC: d"], [b"A: b\rC: d"], [b"A\xc3: b"],
])
def test_case_50_malformed_answers_are_refused(vm_refused: VmRefused, lines: list[bytes]) -> None:
    vm_refused(answer(*lines))


@pytest.mark.parametrize("status", [
    b"HTTP/2.0 200 OK", b"HTTP/2 200 OK", b"HTTP/1.2 200 OK", b"HTTP/0.9 200 OK", b"http/1.1 200 OK", b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 099 OK", b"HTTP/1.1 600 OK", b"HTTP/1.1 999 OK", b"HTTP/1.1 000 OK", b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK",
    b"HTTP/1.1 2 0 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 200 O\x00K", b"HTTP/1.1", b"<html>",
    b" HTTP/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK", b"HTTP/1.1 200OK", b"ICY 200 OK", b"HTTP/1.10 200 OK",
])
def test_case_50_malformed_status_lines_are_refused(vm_refused: VmRefused, status: bytes) -> None:
    vm_refused(answer(b"Content-Length: 0", status=status))


@pytest.mark.parametrize("position", range(3))
def test_case_50_a_bare_lf_is_refused_at_every_line(vm_refused: VmRefused, position: int) -> None:
    lines = answer(b"A: b").split(b"\r\n")[:-1]
    vm_refused(b"".join(line + (b"\n" if i == position else b"\r\n") for i, line in enumerate(lines)))


def test_case_50_a_truncated_head_is_never_taken_for_a_whole_one() -> None:
    data = answer(b"Content-Length: 3", b"A: b")
    assert all(proto.parse_response(data[:n]) == (0, None) for n in range(len(data)))


def test_case_50_http_1_0_answers_are_never_kept_alive(vm_accepted: VmAccepted, vm_refused: VmRefused) -> None:
    old = b"HTTP/1.0 200 OK"
    assert vm_accepted(answer(b"Content-Length: 3", b"Connection: keep-alive", status=old))["flags"] == set()
    assert vm_accepted(answer(status=old))["flags"] == {"until_close"}
    vm_refused(answer(b"Transfer-Encoding: chunked", status=old))


@pytest.mark.parametrize("status", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Early Hints"])
@pytest.mark.parametrize(("lines", "kept"), [
    ([], True), ([b"Content-Length: 0"], True), ([b"Content-Length: 5"], False), ([b"Transfer-Encoding: chunked"],
    False),
])
def test_case_50_a_body_announced_where_none_may_be_costs_the_connection(
    vm_accepted: VmAccepted, status: bytes, lines: list[bytes], kept: bool,
) -> None:
    head = vm_accepted(answer(*lines, status=status))
    assert head["flags"] == ({"no_body", "keep_alive"} if kept else {"no_body"})
    out = proto.emit_response(answer(*lines, status=status))
    assert b"ontent-Length" not in out
    assert b"ransfer-Encoding" not in out


def test_case_52_what_the_proxy_refused_is_told_from_what_the_app_said(vm_accepted: VmAccepted) -> None:
    assert vm_accepted(answer(b"Flyproxy-Error: PR01", b"flyproxy-x: y", b"Content-Length: 0"))["proxy_error"]
    assert not vm_accepted(answer(b"flyproxy-errors: PR01", b"Content-Length: 0"))["proxy_error"]
    assert b"flyproxy-" not in proto.emit_response(answer(b"Flyproxy-Error: PR01", b"flyproxy-x: y")).lower()


def test_case_53_a_head_over_the_limit_is_refused_before_it_ends(vm_refused: VmRefused) -> None:
    vm_refused(answer(b"A: " + b"b" * (64 << 10)), "PU07")
    assert proto.code(proto.parse_response(answer(b"A: " + b"b" * (64 << 10))[: 64 << 10])[0]) == "PU07"
    assert proto.parse_response(answer(b"A: " + b"b" * (64 << 10))[: (64 << 10) - 1])[0] == 0


def test_case_53_endless_headers_are_refused(vm_refused: VmRefused) -> None:
    vm_refused(answer(*[b"A: b"] * 129), "PU07")
    assert proto.code(proto.parse_response(answer(*[b"A: b"] * 129)[:-2])[0]) == "PU07"
    assert proto.parse_response(answer(*[b"A: b"] * 128))[0] > 0


# -- framing of answers that are right
@pytest.mark.parametrize(("method", "status", "lines", "length", "flags"), [
    ("GET", b"200 OK", [b"Transfer-Encoding: Chunked"], -1, {"chunked", "keep_alive"}),
    ("GET", b"200 OK", [], -1, {"until_close"}),
    ("GET", b"200 OK", [b"Content-Length: 0"], 0, {"keep_alive"}),
    ("GET", b"200 OK", [b"Content-Length: 1", b"Connection: Close"], 1, set()),
    ("HEAD", b"200 OK", [b"Content-Length: 9"], 9, {"no_body", "keep_alive"}),
    ("HEAD", b"200 OK", [b"Transfer-Encoding: chunked"], -1, {"no_body", "keep_alive"}),
    ("HEAD", b"200 OK", [], -1, {"no_body", "keep_alive"}),
    ("GET", b"304 Not Modified", [b"Content-Length: 9"], 9, {"no_body", "keep_alive"}),
    ("GET", b"304 Not Modified", [], -1, {"no_body", "keep_alive"}),
    ("POST", b"500 Oops", [b"Content-Length: 2"], 2, {"keep_alive"}),
    ("GET", b"599 ", [b"Content-Length: 2"], 2, {"keep_alive"}),
    ("GET", b"200", [b"Content-Length: 2"], 2, {"keep_alive"}),
])
def test_framing(
    vm_accepted: VmAccepted, method: str, status: bytes, lines: list[bytes], length: int, flags: set[str],
) -> None:
    head = vm_accepted(answer(*lines, status=b"HTTP/1.1 " + status), method=method)
    assert (head["content_length"], head["flags"]) == (length, flags)


def test_switching_needs_a_request_that_asked(vm_accepted: VmAccepted, vm_refused: VmRefused) -> None:
    data = answer(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: x",
    status=b"HTTP/1.1 101 Switching Protocols")
    assert vm_accepted(data, upgrade=True)["flags"] == {"no_body", "switched"}
    vm_refused(data, upgrade=False)
    vm_refused(data.replace(b"HTTP/1.1", b"HTTP/1.0"), upgrade=True)
    vm_refused(answer(b"Upgrade: websocket", status=b"HTTP/1.1 101 x"), upgrade=True)
    vm_refused(answer(b"Connection: Upgrade", status=b"HTTP/1.1 101 x"), upgrade=True)
    out = proto.emit_response(data, upgrade=True)
    assert b"\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n" in out
    assert out.count(b"Connection: Upgrade\r\n") == 1


def test_upgrade_required_keeps_its_upgrade() -> None:
    data = answer(b"Upgrade: websocket", b"Connection: upgrade", b"Content-Length: 0",
    status=b"HTTP/1.1 426 Upgrade Required")
    out = proto.emit_response(data, close=True)
    assert b"\r\nUpgrade: websocket\r\n" in out
    assert b"\r\nConnection: Upgrade\r\nConnection: close\r\n" in out
    assert b"Upgrade: h2c" not in proto.emit_response(answer(b"Upgrade: h2c", b"Content-Length: 0"))


@pytest.mark.parametrize("line", [
    b"Connection: x-secret", b"Keep-Alive: timeout=5", b"Proxy-Connection: close", b"Proxy-Authenticate: Basic",
    b"TE: trailers",
    b"Upgrade: h2c", b"Transfer_Encoding: chunked", b"Fly-Request-Id: spoof", b"fly_request_id: spoof", b"X-Secret: 1",
    b"HTTP2-Settings: x", b"flyproxy-anything: 1",
])
def test_hop_by_hop_headers_of_vms_are_dropped(line: bytes) -> None:
    out = proto.emit_response(answer(b"Connection: x-secret", line, b"Content-Length: 0"), pristine=True)
    assert b"\r\n" + line.split(b":")[0].lower() + b":" not in out.lower()


def test_other_headers_of_vms_pass() -> None:
    lines = [b"Set-Cookie: a=b", b"Set-Cookie: c=d", b"Trailer: X-Sum", b"Fly-Cache: x", b"WWW-Authenticate: Basic",
    b"X_Y: z"]
    assert b"\r\n".join([b"", *lines, b""]) in proto.emit_response(answer(*lines, b"Content-Length: 0"))


@pytest.mark.parametrize(("options", "line", "lines"), [
    ({}, None, [b"Content-Length: 1"]), ({"close": True}, b"Connection: close", [b"Content-Length: 1"]),
    ({"client_minor": 0}, b"Connection: keep-alive", [b"Content-Length: 1"]),
    ({"client_minor": 0, "close": True}, b"Connection: close", [b"Content-Length: 1"]),
    ({"chunked": True}, b"Transfer-Encoding: chunked", [b"Transfer-Encoding: chunked"]),
    ({"chunked": True}, b"Transfer-Encoding: chunked", []), ({}, b"Connection: close", []),
    ({"client_minor": 0, "chunked": True}, b"Connection: close", [b"Transfer-Encoding: chunked"]),
])
def test_connection_and_framing_for_the_client(options: dict[str, Any], line: bytes | None, lines: list[bytes]) -> None:
    out = proto.emit_response(answer(*lines), **options)
    written = [x for x in out.split(b"\r\n") if x.startswith((b"Connection", b"Transfer"))]
    assert written == ([line] if line else [])


def test_heads_without_a_body_are_never_chunked() -> None:
    for data, method in ((answer(b"Transfer-Encoding: chunked"), "HEAD"), (answer(status=b"HTTP/1.1 304 x"), "GET")):
        out = proto.emit_response(data, method=method, chunked=True)
        assert b"Transfer-Encoding" not in out
        assert b"Connection" not in out


def test_informational_answers_say_nothing_about_the_connection() -> None:
    out = proto.emit_response(answer(b"Link: </a>", status=b"HTTP/1.1 103 Early Hints"), close=True, client_minor=0)
    assert b"Connection" not in out
    assert out.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")


def test_via_tells_the_version_of_the_vm() -> None:
    assert b"\r\nVia: 1.0 flyproxy\r\n" in b"\r\n" + proto.emit_response(answer(status=b"HTTP/1.0 200 OK"))


def test_a_head_that_does_not_fit_is_not_written() -> None:
    data = answer(b"Via: " + b"x" * 300, b"A:", b"Content-Length: 9")
    smallest = next(cap for cap in range(4096) if proto.emit_response(data, cap=cap) is not None)
    assert all(proto.emit_response(data, cap=cap) == proto.emit_response(data) for cap in (smallest, smallest + 1,
        4096))
