"""The same bytes to us and to h11, an independent and careful parser.

What we take, h11 must take, and read alike. What we refuse and h11 takes must show one of the known reasons below: the
list is the whole of our extra strictness.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_proto as proto

FIXED = settings(derandomize=True, max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# -- what hypothesis makes heads from: valid pieces, nasty pieces, then one byte changed
METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"get", b"CONNECT", b"G@T", b"", b"M-X"]
TARGETS = [b"/", b"/a?b=c", b"*", b"http://b/x", b"/a b", b"/\xff", b"/#x", b"/%zz", b"/../", b"a:80", b"", b"/?{}|"]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b"HTTP/1.2", b"HTTP/11"]
LINES = [
    b"Host: b", b"Host: a:80", b"Host: a b", b"Host:", b"Content-Length: 3", b"Content-Length: 3", b"Content-Length: 4",
    b"Content-Length: 3, 3",
    b"Content-Length: +3", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
    b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding: gzip", b"Transfer-Encoding : chunked", b"Transfer-Encoding: chunked, chunked",
    b"Connection: close", b"Connection: x, y",
    b"Expect: 100-continue", b"Expect: x", b"Upgrade: h2c", b"A: b", b"A:", b"A:b \t", b" fold", b"A: \xe9", b"A: \x01",
    b"A: \x00", b"A", b": b",
    b"A b: c", b"Authorization: a", b"Content-Type: t", b"X_Y: z", b"A: " + b"b" * 300,
]
ENDS = [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r"]
BYTES = [b"\x00", b"\n", b"\r", b" ", b"\t", b":", b"\x7f", b"\xff", b"a", b"0", b"\x0b"]


@st.composite
def lines_joined(draw: st.DrawFn, first: bytes) -> bytes:
    lines = [first, b"Host: a", *draw(st.lists(st.sampled_from(LINES), max_size=4))]
    if draw(st.integers(0, 5)) == 0:
        lines.pop(1)
    data = b"".join(line + draw(st.sampled_from(ENDS)) for line in lines) + b"\r\n"
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(BYTES)) + data[at + draw(st.integers(0, 1)):]
    return data


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    usual = draw(st.integers(0, 2)) > 0
    pick = (lambda values: values[0]) if usual else (lambda values: draw(st.sampled_from(values)))
    return draw(lines_joined(b" ".join([pick(METHODS), pick(TARGETS), pick(VERSIONS)])))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from([b"200 OK"] * 4 + [b"204 No Content", b"304 x", b"200", b"20 x", b"600 x",
    b"404 \xff", b"100 Continue"]))
    return draw(lines_joined(draw(st.sampled_from(VERSIONS[:1] * 6 + VERSIONS)) + b" " + status))


def as_h11_keeps(headers: list[tuple[bytes, bytes, bool]]) -> list[tuple[bytes, bytes]]:
    return [(name, value.lower() if name.lower() == b"transfer-encoding" else value) for name, value, _ in headers]


def ask_h11(role: type[h11.Sentinel] | Any, data: bytes) -> Any:
    """h11's first event, None when it refuses, NEED_DATA when it waits."""
    connection = h11.Connection(role)
    if role is h11.CLIENT:
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(data)
        return connection.next_event()
    except h11.RemoteProtocolError:
        return None


def first_line(data: bytes) -> bytes:
    return data.split(b"\r\n", 1)[0]


def lower_names(data: bytes) -> list[bytes]:
    return [line.split(b":")[0].lower() for line in data.split(b"\r\n")[1:] if b":" in line]


Reason = Callable[[bytes], object]
COMMON_REASONS: dict[str, Reason] = {
    "a bare LF ends a line": lambda data: re.search(rb"(?<!\r)\n", data),
    "obs-fold": lambda data: re.search(rb"\r\n[ \t]", data),
    "a control byte in a value": lambda data: re.search(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", data),
    "Content-Length with Transfer-Encoding": lambda data: {b"content-length",
    b"transfer-encoding"} <= set(lower_names(data)),
    "equal Content-Lengths": lambda data: lower_names(data).count(b"content-length") > 1 or b"3, 3" in data,
    "a length of 2^63 or more": lambda data: re.search(rb"\d{19}", data),
    "Transfer-Encoding in HTTP/1.0": lambda data: (
        b"HTTP/1.0" in first_line(data) and b"transfer-encoding" in lower_names(data)),
    "a version other than 1.0 and 1.1": lambda data: not re.search(rb"HTTP/1\.[01]( |$)", first_line(data)),
}
REQUEST_REASONS = COMMON_REASONS | {
    "CONNECT": lambda data: data.startswith(b"CONNECT "),
    "a target of another form, a fragment, an escape, a parent segment": lambda data: re.search(
        rb" (\*|[^/h ]\S*|h(?!ttp://)\S*|\S*(#|%|/\.\.)\S*|http://[^/a-z]\S*) ", first_line(data)),
    "a Host that is none": lambda data: re.search(
        rb"\r\nHost:[ \t]*([^a\r]|a[^\r]*[^a-z0-9:.\-_\r]|\r|\S*:(\D|\d*\D|0|\d{5}))", data, re.I),
    "Host given twice": lambda data: lower_names(data).count(b"host") > 1,
    "another expectation": lambda data: re.search(rb"\r\nExpect:(?![ \t]*100-continue[ \t]*\r)", data, re.I),
    "a second Authorization or Content-Type": lambda data: any(
        lower_names(data).count(name) > 1 for name in (b"authorization", b"content-type")),
}
RESPONSE_REASONS = COMMON_REASONS | {
    "a status of 600 or more": lambda data: re.search(rb"^HTTP/1\.. [06-9]", data),
}


def explain(data: bytes, reasons: dict[str, Reason]) -> list[str]:
    return [why for why, shows in reasons.items() if shows(data)]


@given(requests())
@FIXED
def test_requests_we_take_are_read_alike_by_h11(data: bytes) -> None:
    result, head = proto.parse_request(data)
    event = ask_h11(h11.SERVER, data)
    if head is None:
        assert event in (None, h11.NEED_DATA) or explain(data, REQUEST_REASONS), (proto.code(result), event)
        return
    assert isinstance(event, h11.Request), f"h11 refuses what we take: {event}"
    assert event.method == head["method_text"]
    assert event.target == head["target"] or event.target.startswith(b"http")
    assert event.http_version == b"1.%d" % head["minor"]
    assert list(event.headers.raw_items()) == as_h11_keeps(head["headers"])
    lengths = [int(value) for name, value in event.headers if name == b"content-length"]
    assert lengths == ([head["content_length"]] if head["content_length"] >= 0 else [])
    assert (b"transfer-encoding" in dict(event.headers)) is ("chunked" in head["flags"])


@given(responses())
@FIXED
def test_responses_we_take_are_read_alike_by_h11(data: bytes) -> None:
    result, head = proto.parse_response(data)
    event = ask_h11(h11.CLIENT, data)
    if head is None:
        assert event in (None, h11.NEED_DATA) or explain(data, RESPONSE_REASONS), (proto.code(result), event)
        return
    assert isinstance(event, (h11.Response, h11.InformationalResponse)), f"h11 refuses what we take: {event}"
    assert (event.status_code, event.reason) == (head["status"], head["reason"])
    assert list(event.headers.raw_items()) == as_h11_keeps(head["headers"])


CHUNK_PIECES = [
    b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"a\r\n0123456789\r\n", b"3;x=y\r\nabc\r\n", b"3 \r\nabc\r\n",
    b"03\r\nabc\r\n", b"3\nabc\r\n",
    b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b"3\r\nabcd\r\n", b"\r\n", b"3;\r\nabc\r\n", b"3\r\nabc\n",
    b"0\r\nA : b\r\n\r\n", b"0\r\n\n",
]
CHUNK_REASONS: dict[str, Reason] = {
    "a bare LF ends a line": COMMON_REASONS["a bare LF ends a line"],
    "obs-fold in trailers": COMMON_REASONS["obs-fold"],
    "a control byte": COMMON_REASONS["a control byte in a value"],
    "white space after a size": lambda data: re.search(rb"[0-9a-f][ \t]+\r", data),
    "an extension that is none": lambda data: re.search(rb";(?!x=y\r)", data),
    "framing in trailers": lambda data: b"ength" in data,
}


def h11_chunked(data: bytes) -> tuple[str, bytes]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body = b""
    try:
        connection.next_event()
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            else:
                return ("end" if isinstance(event, h11.EndOfMessage) else "more"), body
    except h11.RemoteProtocolError:
        return "refused", body


@given(st.lists(st.sampled_from(CHUNK_PIECES[:5] * 3 + CHUNK_PIECES), max_size=6), st.integers(0, 60),
    st.sampled_from([b"", *BYTES, b";"]))
@FIXED
def test_chunked_bodies_we_take_are_read_alike_by_h11(pieces: list[bytes], at: int, byte: bytes) -> None:
    data = b"".join(pieces)
    data = data[:at] + byte + data[at:]
    ours, (theirs, body) = proto.decode_chunked([data]), h11_chunked(data)
    if re.search(rb"[0-9a-f][ \t]+;", data):
        return  # RFC 9112 7.1.1 has a recipient parse white space before an extension; h11 does not
    if ours["result"] == "end":
        assert (theirs, body) == ("end", ours["body"])
    elif ours["result"] != "more" and theirs == "end":
        assert explain(data, CHUNK_REASONS), ours
