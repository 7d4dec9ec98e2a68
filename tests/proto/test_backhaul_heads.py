"""Heads between our own proxies: what enters a transport leaves it as it was, and what must not pass does not."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_backhaul as backhaul
from flyproxy._speedups import _testing_proto as proto

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
CHANGING = {
    b"fly-request-id", b"x-request-start", b"traceparent", b"tracestate", b"fly-traceparent", b"fly-tracestate",
    b"fly-client-ip", b"x-forwarded-for", b"sec-websocket-key", b"cookie", b"authorization",
}  # fmt: skip


def request(*lines: bytes, start: bytes = b"GET /a?b HTTP/1.1", host: bytes = b"a.test") -> bytes:
    return b"\r\n".join([start, b"Host: " + host, *lines, b"", b""])


def meaning(head: bytes) -> list[bytes]:
    """The lines, names in lower case, several cookies as one."""
    assert head.endswith(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    fields = [(line.split(b": ", 1)[0].lower(), line.split(b": ", 1)[1]) for line in lines]
    cookies = [value for name, value in fields if name == b"cookie"]
    kept, seen = [first], False
    for name, value in fields:
        if name != b"cookie" or not seen:
            kept.append(name + b": " + (b"; ".join(cookies) if name == b"cookie" else value))
        seen = seen or name == b"cookie"
    return kept


def carried(client: bytes, transport: backhaul.Transport | None = None) -> bytes:
    """The head for the machine that a client's request becomes, behind a transport."""
    head, _, _ = (transport or backhaul.Transport()).carry(proto.emit_request(client))
    assert head is not None
    return head


@pytest.mark.parametrize(
    "client",
    [
        GET,
        request(b"Content-Length: 0", start=b"POST / HTTP/1.1"),
        request(b"Content-Length: 9223372036854775807", start=b"PUT /x HTTP/1.1"),
        request(b"Transfer-Encoding: chunked", b"Expect: 100-continue", start=b"PATCH /x HTTP/1.1"),
        request(b"TE: trailers", b"Connection: TE"),
        request(b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13",
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Protocol: chat, superchat"),
        request(b"Upgrade: tcp-tunnel", b"Connection: Upgrade, TE", b"TE: trailers"),
        request(start=b"OPTIONS * HTTP/1.1"), request(start=b"BREW /pot HTTP/1.1"), request(start=b"HEAD / HTTP/1.1"),
        request(start=b"GET http://a.test?q HTTP/1.1"), request(host=b"[2001:DB8::1]:8443"),
        request(host=b"A.TEST.:81"), b"GET / HTTP/1.0\r\n\r\n",
        request(b"Cookie: a=1", b"X: ", b"Cookie: b=2", b"Accept: */*", b"X: \xc3\xa9\ty"),
        request(b"Via: 1.1 other", b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Port: 81", b"tracestate: a=b",
                b"traceparent: 00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01"),
    ],
)  # fmt: skip
def test_head_is_the_same_behind_a_transport(client: bytes) -> None:
    assert meaning(carried(client)) == meaning(proto.emit_request(client))


def test_heads_that_repeat_are_the_same_while_the_tables_change() -> None:
    transport = backhaul.Transport()
    for i in range(60):
        client = request(b"X-Page: %d" % (i % 7), b"X-Long-%d: " % i + b"v" * 200, b"Authorization: Bearer %d" % i)
        assert meaning(carried(client, transport)) == meaning(proto.emit_request(client))


TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12).map(str.encode)
VALUE = st.lists(st.sampled_from([bytes([c]) for c in [9, *range(32, 127), *range(128, 256)]]), max_size=40).map(
    lambda parts: b"".join(parts).strip(b" \t")
)
KNOWN = st.sampled_from(
    [b"Cookie: a=b", b"Accept: text/html", b"Range: bytes=0-1", b"Via: 1.0 x", b"tracestate: a=1", b"Origin: null",
     b"X-Forwarded-For: 1.2.3.4", b"Authorization: Basic eDp5", b"Forwarded: for=1", b"Fly-Region: x", b"fly_x: y",
     b"flyproxy-app: x", b"Date: now", b"User-Agent: test", b"Sec-WebSocket-Key: x", b"Proxy-Authorization: x"]
)  # fmt: skip
LINES = st.lists(st.one_of(KNOWN, st.tuples(TOKEN, VALUE).map(lambda pair: pair[0] + b": " + pair[1])), max_size=12)
FRAMING = st.sampled_from(
    [[], [b"Content-Length: 5"], [b"Transfer-Encoding: chunked"], [b"Content-Length: 7", b"Expect: 100-continue"],
     [b"TE: trailers", b"Connection: TE"], [b"Upgrade: websocket", b"Connection: Upgrade"]]
)  # fmt: skip


@given(
    LINES, FRAMING, st.sampled_from([b"GET", b"POST", b"DELETE", b"M-SEARCH"]),
    st.text("abc019-._~!$&'()*+,;=:@%/?", max_size=30).map(str.encode),
    st.sampled_from([b"a.test", b"xn--a.b:8080", b"[::1]", b"192.0.2.1:81"]),
)  # fmt: skip
@settings(derandomize=True, max_examples=600, deadline=None)
def test_any_head_is_the_same_behind_a_transport(
    lines: list[bytes], framing: list[bytes], method: bytes, path: bytes, host: bytes
) -> None:
    client = request(*lines, *framing, start=method + b" /" + path + b" HTTP/1.1", host=host)
    assume(proto.parse_request(client)[0] > 0)
    head = proto.emit_request(client)
    if b"\r\nUpgrade: " in head:
        head = head.replace(method, b"GET", 1)
    assert meaning(carried(client)) == meaning(head)


def test_fields_that_clients_may_not_send_arrive_and_control_fields_do_not() -> None:
    extra = [(b"flyproxy-app", b"hello"), (b"flyproxy-machine", b"m1"), (b"flyproxy-port", b"8080")]
    head, arrived, values = backhaul.Transport().carry(proto.emit_request(GET), extra)
    assert head is not None
    assert values == dict(extra)
    assert {b"flyproxy-app", b"fly-request-id", b"x-forwarded-ssl"} <= set(arrived)
    assert b"flyproxy" not in head.replace(b"via: 1.1 flyproxy", b"")
    for name in (b"fly-client-ip", b"fly-request-id", b"fly-region", b"x-forwarded-for", b"x-forwarded-proto", b"via"):
        assert head.count(b"\r\n" + name + b": ") == 1, name


@pytest.mark.parametrize(
    "name", [b"flyproxy-", b"flyproxy-anything", b"flyproxy_app", b"fly_client_ip", b"x_forwarded_for",
             b"content_length", b"proxy-authorization", b"http2-settings", b"proxy-authenticate"],
)  # fmt: skip
def test_what_a_host_may_not_say_about_a_request_does_not_reach_the_machine(name: bytes) -> None:
    head, arrived, _ = backhaul.Transport().carry(proto.emit_request(GET), [(name, b"forged"), (b"x-y", b"kept")])
    assert head is not None
    assert name in arrived
    assert b"forged" not in head
    assert b"\r\nx-y: kept\r\n" in head


def test_control_field_that_is_there_twice_counts_as_absent() -> None:
    extra = [(b"flyproxy-app", b"one"), (b"flyproxy-app", b"two"), (b"flyproxy-apps", b"x"), (b"flyproxy-ap", b"y")]
    assert backhaul.Transport().carry(proto.emit_request(GET), extra)[2] == {
        b"flyproxy-app": None, b"flyproxy-apps": b"x", b"flyproxy-ap": b"y",
    }  # fmt: skip


@pytest.mark.parametrize("drop", [False, True])
def test_control_field_is_found_by_its_exact_name(drop: bool) -> None:
    pairs = [(b"x", b"0", False), (b"Flyproxy-app", b"1", drop), (b"flyproxy-app", b"2", drop), (b"app", b"3", False)]
    assert backhaul.relay_field(pairs, b"flyproxy-app") == b"2"
    assert backhaul.relay_field(pairs[:2], b"flyproxy-app") is None
    assert backhaul.relay_field([(b"flyproxy-app", b"", False)], b"flyproxy-app") == b""


def test_values_that_change_are_kept_out_of_the_tables() -> None:
    client = request(b"Cookie: a=b", b"Authorization: x", b"User-Agent: y", b"tracestate: a=b",
                     b"traceparent: 00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01",
                     b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
    _, head = backhaul.relay_parse(proto.emit_request(client))
    assert head is not None
    assert {name.lower() for name, _, never in head["headers"] if never} == CHANGING
    assert {b"user-agent", b"fly-region", b"via"} <= {name.lower() for name, _, never in head["headers"] if not never}


def test_head_ends_where_its_text_ends() -> None:
    head = proto.emit_request(request(b"Content-Length: 4", start=b"POST / HTTP/1.1"))
    used, found = backhaul.relay_parse(head + b"body")
    assert used == len(head)
    assert found is not None
    assert (found["method"], found["target"], found["host"], found["content_length"]) == (b"POST", b"/", b"a.test", 4)


def test_head_that_is_cut_is_none() -> None:
    head = proto.emit_request(request(b"Cookie: a=b", b"Transfer-Encoding: chunked"))
    for n in range(len(head)):
        assert backhaul.relay_parse(head[:n]) == (0, None), n


@pytest.mark.parametrize(
    "head",
    [
        b"", b"\n", b" \n", b"GET\r\n\r\n", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nx:\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", b"HTTP/1.1 200 OK\r\nHost: a\r\n\r\n",
    ],
)  # fmt: skip
def test_text_that_is_no_head_of_ours_is_none(head: bytes) -> None:
    assert backhaul.relay_parse(head) == (0, None)


def test_head_has_as_many_fields_as_the_array() -> None:
    lines = [b"x-%d: y" % i for i in range(257)]
    assert len((backhaul.relay_parse(request(*lines[:256]))[1] or {})["headers"]) == 256
    assert backhaul.relay_parse(request(*lines)) == (0, None)


def test_text_is_written_when_it_fits_and_not_otherwise() -> None:
    head = proto.emit_request(request(b"X: " + b"y" * 100, b"Upgrade: a", b"Connection: Upgrade"))
    transport = backhaul.Transport()
    whole = transport.carry(head)[0]
    assert whole is not None
    fitting = [cap for cap in range(len(whole) + 400) if transport.carry(head, cap=cap)[0] == whole]
    assert fitting == list(range(fitting[0], len(whole) + 400))
    assert all(transport.carry(head, cap=cap)[0] is None for cap in range(0, fitting[0], 50))


def test_head_too_large_for_a_transport_is_not_sent() -> None:
    transport = backhaul.Transport()
    small, large = request(b"X: " + b"y" * 60000), request(*[b"X-%d: " % i + b"y" * 700 for i in range(90)])
    assert transport.fits(small)
    assert transport.carry(small)[0] is not None
    assert not transport.fits(large)
    with pytest.raises(ValueError, match="cannot be opened"):
        transport.carry(large)
    assert meaning(carried(GET, transport)) == meaning(proto.emit_request(GET))  # the transport lives on


def test_code_of_an_error_is_found() -> None:
    for number, (code, _) in enumerate(proto.error_numbers(), 1):
        assert backhaul.error_by_code(code.encode()) == number
    for code in (b"", b"PR0", b"PR066", b"pr06", b"XX00", b"\0\0\0\0"):
        assert backhaul.error_by_code(code) == 0
