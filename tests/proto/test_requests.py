"""Request heads as they should be: what the parser reads out of them, and what is written for the VM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flyproxy._speedups import _testing_proto as proto

Accepted = Callable[..., dict[str, Any]]
Refused = Callable[..., None]
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OURS = b"00-0102030405060708090a0b0c0d0e0f10-1112131415161718-00"
CONTINUED = b"00-0af7651916cd43dd8448eb211c80319c-1112131415161718-01"


def get(*lines: bytes, first: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([first, b"Host: a.example", *lines, b"", b""])


def value(out: bytes, name: bytes) -> bytes | None:
    """The value of the one header of this name; None without one."""
    found = [line[len(name) + 2:] for line in out.split(b"\r\n")[1:] if line.lower().startswith(name.lower() + b": ")]
    assert len(found) <= 1, f"{name!r} stands {len(found)} times"
    return found[0] if found else None


def test_the_plainest_request(accepted: Accepted) -> None:
    head = accepted(get())
    assert head == {
        "method": "GET", "method_text": b"GET", "target": b"/", "minor": 1, "host": b"a.example", "port": 0,
        "content_length": -1,
        "flags": {"keep_alive", "idempotent"}, "upgrade": None, "own_via": 0, "accept": "text",
        "headers": [(b"Host", b"a.example", True)],
    }


def test_the_rewritten_head_is_exactly_this() -> None:
    assert proto.emit_request(get(b"Accept: */*", first=b"GET /a?b HTTP/1.1"), https=True, port=443) == (
        b"GET /a?b HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nFly-Client-IP: 198.51.100.7\r\n"
        b"X-Forwarded-For: 198.51.100.7, 203.0.113.1\r\nX-Forwarded-Proto: https\r\nFly-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Ssl: on\r\nFly-Forwarded-Ssl: on\r\nX-Forwarded-Port: 443\r\nFly-Forwarded-Port: 443\r\n"
        b"Fly-Region: ams\r\nFly-Request-Id: 01JABCDEFGHJKMNPQRSTVWXYZ0-ams\r\nVia: 1.1 flyproxy\r\n"
        b"X-Request-Start: t=1700000000123456\r\ntraceparent: " + OURS + b"\r\nFly-Traceparent: " + OURS + b"\r\n\r\n")


@pytest.mark.parametrize(("method", "name", "idempotent"), [
    (b"GET", "GET", True), (b"HEAD", "HEAD", True), (b"POST", "POST", False), (b"PUT", "PUT", True), (b"DELETE",
    "DELETE", True),
    (b"OPTIONS", "OPTIONS", True), (b"TRACE", "TRACE", True), (b"PATCH", "PATCH", False), (b"PURGE", "OTHER", False),
    (b"get", "OTHER", False), (b"M-SEARCH", "OTHER", False), (b"X!#$%&'*+-.^_`|~", "OTHER", False), (b"CONNECTS",
    "OTHER", False),
])
def test_methods(accepted: Accepted, method: bytes, name: str, idempotent: bool) -> None:
    head = accepted(get(first=method + b" / HTTP/1.1"))
    assert (head["method"], head["method_text"], "idempotent" in head["flags"]) == (name, method, idempotent)
    assert proto.emit_request(get(first=method + b" / HTTP/1.1")).startswith(method + b" / HTTP/1.1\r\n")


@pytest.mark.parametrize(("first", "lines", "kept"), [
    (b"GET / HTTP/1.1", [], True), (b"GET / HTTP/1.1", [b"Connection: close"], False),
    (b"GET / HTTP/1.1", [b"Connection: keep-alive, Close"], False), (b"GET / HTTP/1.1", [b"Connection: x",
    b"Connection: close"], False),
    (b"GET / HTTP/1.0", [], False), (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True),
    (b"GET / HTTP/1.0", [b"Connection: keep-alive, close"], False), (b"GET / HTTP/1.1", [b"Connection: closed"], True),
])
def test_keep_alive(accepted: Accepted, first: bytes, lines: list[bytes], kept: bool) -> None:
    assert ("keep_alive" in accepted(get(*lines, first=first))["flags"]) is kept


@pytest.mark.parametrize("empty", [0, 1, 2, 3, 4])
def test_up_to_four_empty_lines_may_come_first(accepted: Accepted, empty: int) -> None:
    assert accepted(b"\r\n" * empty + get())["host"] == b"a.example"


def test_a_fifth_empty_line_is_refused(refused: Refused) -> None:
    refused(b"\r\n" * 5 + get(), "PH01")
    refused(b"\r\n\n" + get(), "PH01")


@pytest.mark.parametrize(("host", "name", "port"), [
    (b"EXAMPLE.com", b"example.com", 0), (b"example.com.", b"example.com", 0), (b"a:1", b"a", 1), (b"a.:65535", b"a",
    65535),
    (b"[::1]", b"[::1]", 0), (b"[0:0:0::0:1]:8080", b"[::1]", 8080), (b"[2001:DB8::A]", b"[2001:db8::a]", 0),
    (b"127.0.0.1:80", b"127.0.0.1", 80), (b"my_app.internal", b"my_app.internal", 0), (b"a" * 63, b"a" * 63, 0),
    (b"xn--bcher-kva.example", b"xn--bcher-kva.example", 0), (b"a." * 126 + b"a", b"a." * 126 + b"a", 0),
    (b"[::ffff:1.2.3.4]", b"[::ffff:1.2.3.4]", 0),
])
def test_hosts_are_normalised(accepted: Accepted, host: bytes, name: bytes, port: int) -> None:
    data = b"GET / HTTP/1.1\r\nHost:  " + host + b" \t\r\n\r\n"
    head = accepted(data)
    assert (head["host"], head["port"]) == (name, port)
    assert value(proto.emit_request(data), b"Host") == name + (b":%d" % port if port else b"")


def test_http_1_0_may_have_no_host(accepted: Accepted) -> None:
    data = b"GET / HTTP/1.0\r\n\r\n"
    assert accepted(data)["host"] == b""
    assert value(proto.emit_request(data), b"Host") == b"203.0.113.1"
    assert value(proto.emit_request(data, port=8080), b"Host") == b"203.0.113.1:8080"
    assert value(proto.emit_request(data, port=443, https=True), b"Host") == b"203.0.113.1"
    assert value(proto.emit_request(data, local_ip=b"2001:db8::1", port=81), b"Host") == b"[2001:db8::1]:81"
    assert value(proto.emit_request(data), b"Via") == b"1.0 flyproxy"


@pytest.mark.parametrize(("first", "target", "written"), [
    (b"GET http://b HTTP/1.1", b"/", b"/"), (b"GET HTTPS://b/x HTTP/1.1", b"/x", b"/x"), (b"GET http://b?x=1 HTTP/1.1",
    b"?x=1", b"/?x=1"),
    (b"OPTIONS http://b HTTP/1.1", b"*", b"*"), (b"OPTIONS http://b/ HTTP/1.1", b"/", b"/"),
])
def test_absolute_forms_become_origin_forms(accepted: Accepted, first: bytes, target: bytes, written: bytes) -> None:
    head = accepted(get(first=first))
    assert (head["target"], head["host"]) == (target, b"b")
    assert proto.emit_request(get(first=first)).split(b" ")[1] == written


def test_framing_is_written_anew() -> None:
    out = proto.emit_request(get(b"content-length:  007  ", first=b"POST / HTTP/1.1"))
    assert value(out, b"Content-Length") == b"7"
    out = proto.emit_request(get(b"transfer-encoding: CHUNKED", first=b"POST / HTTP/1.1"))
    assert value(out, b"Transfer-Encoding") == b"chunked"
    assert value(proto.emit_request(get()), b"Content-Length") is None


def test_expect_is_passed_on_from_http_1_1_alone(accepted: Accepted) -> None:
    data = get(b"Expect: 100-Continue", b"Content-Length: 1")
    assert "expect" in accepted(data)["flags"]
    assert value(proto.emit_request(data), b"Expect") == b"100-continue"
    old = data.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert "expect" not in accepted(old)["flags"]
    assert value(proto.emit_request(old), b"Expect") is None


@pytest.mark.parametrize(("te", "asked"), [
    (b"trailers", True), (b"gzip, Trailers", True), (b"trailers;q=0.5", True), (b"gzip", False), (b"xtrailers", False),
    (b"", False),
])
def test_te_is_reduced_to_trailers(accepted: Accepted, te: bytes, asked: bool) -> None:
    data = get(b"TE: " + te, b"Connection: TE")
    assert ("te_trailers" in accepted(data)["flags"]) is asked
    assert value(proto.emit_request(data), b"TE") == (b"trailers" if asked else None)
    assert value(proto.emit_request(data), b"Connection") == (b"TE" if asked else None)


@pytest.mark.parametrize(("lines", "passed"), [
    ([b"Connection: Upgrade", b"Upgrade: tcp"], b"tcp"), ([b"Connection: keep-alive, upgrade", b"Upgrade: a/1, b"],
    b"a/1, b"),
    ([b"Upgrade: tcp"], None), ([b"Connection: Upgrade"], None), ([b"Connection: Upgrade", b"Upgrade: a",
    b"Upgrade: b"], None),
    ([b"Connection: Upgrade", b"Upgrade: tcp", b"Content-Length: 3"], None),
    ([b"Connection: Upgrade", b"Upgrade: tcp", b"Transfer-Encoding: chunked"], None),
    ([b"Connection: Upgrade", b"Upgrade: tcp", b"Content-Length: 0"], b"tcp"),
])
def test_upgrade_needs_connection_and_no_body(accepted: Accepted, lines: list[bytes], passed: bytes | None) -> None:
    head = accepted(get(*lines))
    assert head["upgrade"] == passed
    assert value(proto.emit_request(get(*lines)), b"Upgrade") == passed
    assert value(proto.emit_request(get(*lines)), b"Connection") == (b"Upgrade" if passed else None)


def test_upgrade_is_ignored_in_http_1_0(accepted: Accepted) -> None:
    assert "upgrade" not in accepted(get(b"Connection: Upgrade", b"Upgrade: tcp", first=b"GET / HTTP/1.0"))["flags"]


def test_upgrade_and_trailers_share_one_connection_header() -> None:
    out = proto.emit_request(get(b"Connection: Upgrade, TE", b"Upgrade: tcp", b"TE: trailers"))
    assert value(out, b"Connection") == b"Upgrade, TE"


@pytest.mark.parametrize(("lines", "ours", "state"), [
    ([], OURS, None), ([b"traceparent: " + PARENT], CONTINUED, None),
    ([b"Traceparent: " + PARENT, b"tracestate: a=1", b"tracestate: b=2"], CONTINUED, b"a=1, b=2"),
    ([b"traceparent: " + PARENT, b"tracestate:", b"tracestate: "], CONTINUED, None),
    ([b"tracestate: a=1"], OURS, None), ([b"traceparent: " + PARENT, b"traceparent: " + PARENT, b"tracestate: a=1"],
    OURS, None),
    ([b"traceparent: " + PARENT.replace(b"00-", b"ff-", 1), b"tracestate: a=1"], OURS, None),
    ([b"traceparent: " + PARENT.upper()], OURS, None), ([b"traceparent: " + PARENT + b"-x"], OURS, None),
    ([b"traceparent: 01" + PARENT[2:] + b"-x"], CONTINUED, None), ([b"traceparent: 01" + PARENT[2:] + b"x"], OURS,
    None),
    ([b"traceparent: 00-" + b"0" * 32 + PARENT[35:]], OURS, None),
    ([b"traceparent: " + PARENT[:36] + b"0" * 16 + b"-01"], OURS, None),
    ([b"traceparent: " + PARENT[:-1]], OURS, None), ([b"traceparent: " + PARENT[:-1] + b"g"], OURS, None),
])
def test_traces_are_continued_or_begun(lines: list[bytes], ours: bytes, state: bytes | None) -> None:
    out = proto.emit_request(get(*lines))
    assert (value(out, b"traceparent"), value(out, b"Fly-Traceparent")) == (ours, ours)
    assert (value(out, b"tracestate"), value(out, b"Fly-Tracestate")) == (state, state)


def test_via_is_joined_and_our_own_are_counted(accepted: Accepted) -> None:
    data = get(b"Via: 1.1 cdn, 1.1 flyproxy", b"Via: 2 FlyProxy (x)", b"Via:")
    assert accepted(data)["own_via"] == 2
    assert value(proto.emit_request(data), b"Via") == b"1.1 cdn, 1.1 flyproxy, 2 FlyProxy (x), 1.1 flyproxy"


def test_headers_keep_their_order_and_spelling() -> None:
    out = proto.emit_request(get(b"b: 1", b"A:2", b"B:  3\t", b"User-Agent: x"))
    assert b"\r\nb: 1\r\nA: 2\r\nB: 3\r\nUser-Agent: x\r\nFly-Client-IP:" in out


def test_every_length_of_name_and_value_is_copied_whole() -> None:
    for n in range(1, 300):
        name, text = b"n" * min(n, 200), bytes(65 + i % 26 for i in range(n))
        assert b"\r\n" + name + b": " + text + b"\r\n" in proto.emit_request(get(name + b": " + text))


def test_a_head_that_does_not_fit_is_not_written() -> None:
    data = get(b"X-Forwarded-For: " + b"1" * 500, b"A:", b"tracestate: a=1", b"traceparent: " + PARENT, b"Via: x",
    b"C:d")
    smallest = next(cap for cap in range(8192) if proto.emit_request(data, cap=cap) is not None)
    assert all(proto.emit_request(data, cap=cap) == proto.emit_request(data) for cap in (smallest, smallest + 1, 8192))


def test_the_promised_room_suffices_for_the_longest_of_everything() -> None:
    data = b"GET http://" + b"a." * 126 + b"a:65535?x HTTP/1.1\r\nHost: b\r\n"
    data += b"A:b\r\nVia:c\r\nTracestate:d\r\n" * 80 + b"traceparent:" + PARENT + b"\r\nConnection:upgrade\r\n"
    data += b"Upgrade:" + b"u" * 3000 + b"\r\nTE:trailers\r\nContent-Length:0\r\n\r\n"
    v6 = b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0"
    out = proto.emit_request(data, headers=256, client_ip=v6, local_ip=v6, start_us=2**64 - 1, port=65535, https=True,
                             region=b"r" * 30, request_id=b"i" * 60, via=b"v" * 60)
    assert out is not None
    assert out.endswith(b"\r\n\r\n")


def test_lookup_of_headers_and_cookies() -> None:
    data = get(b"X-Key: one", b"x-key: two", b"Cookie: a=1; session=abc; ab=2", b"Cookie: session=no; z=; q=1=2",
    b"Fly-Region: x")
    assert proto.request_header(data, b"x-key") == (True, b"one")
    assert proto.request_header(data, b"x-none") == (False, b"")
    assert proto.request_header(data, b"fly-region") == (True, b"x")
    for name, found in ((b"session", b"abc"), (b"a", b"1"), (b"ab", b"2"), (b"z", b""), (b"q", b"1=2")):
        assert proto.request_cookie(data, name) == (True, found)
    assert proto.request_cookie(data, b"Session") == (False, b"")
    assert proto.request_cookie(get(), b"a") == (False, b"")


def test_pipelined_heads_are_counted_up_to_one_with_a_body() -> None:
    plain, body = get(), get(b"Content-Length: 3")
    assert proto.count_pipelined(plain * 3) == (3, 3 * len(plain))
    assert proto.count_pipelined(plain + b"\r\n" + plain + body + plain) == (2, 2 * len(plain) + 2)
    assert proto.count_pipelined(plain + get(b"Transfer-Encoding: chunked") + plain)[0] == 1
    assert proto.count_pipelined(get(b"Content-Length: 0") * 2)[0] == 2
    data = plain * 2 + plain[:10]
    assert proto.count_pipelined(data) == (2, 2 * len(plain))
    assert proto.count_pipelined(data + plain[10:], 2 * len(plain)) == (1, 3 * len(plain))
    assert proto.count_pipelined(b"") == (0, 0)
    assert proto.count_pipelined(plain + b"\x00" + plain)[0] == 1
