"""PROXY protocol: strict, in any split, and written as it is read."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_proto as proto

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
REFUSED = "PH16"


def ip(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def v2(payload: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload) if length is None else length) + payload


TCP4 = bytes([1, 2, 3, 4, 5, 6, 7, 8]) + struct.pack("!HH", 1234, 443)
TCP6 = ip("2001:db8::1") + ip("2001:db8::2") + struct.pack("!HH", 0, 65535)
GOOD = [
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 443\r\n", (1, True, ip("1.2.3.4"), 1234, ip("5.6.7.8"), 443)),
    (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", (1, True, ip("2001:db8::1"), 0, ip("::1"), 65535)),
    (b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
     (1, True, b"\xff" * 16, 65535, b"\xff" * 16, 65535)),
    (b"PROXY UNKNOWN\r\n", (1, False, bytes(16), 0, bytes(16), 0)),
    (b"PROXY UNKNOWN ffff::1 x 1 2 anything\r\n", (1, False, bytes(16), 0, bytes(16), 0)),
    (v2(TCP4), (2, True, ip("1.2.3.4"), 1234, ip("5.6.7.8"), 443)),
    (v2(TCP6, family=0x21), (2, True, ip("2001:db8::1"), 0, ip("2001:db8::2"), 65535)),
    (v2(TCP4 + b"\x04\x00\x00" + b"\x02\x00\x03abc"), (2, True, ip("1.2.3.4"), 1234, ip("5.6.7.8"), 443)),
    (v2(b"", command=0x20, family=0), (2, False, bytes(16), 0, bytes(16), 0)),
    (v2(b"\x01\x02anything", command=0x20, family=0x11), (2, False, bytes(16), 0, bytes(16), 0)),
    (v2(b"", family=0), (2, False, bytes(16), 0, bytes(16), 0)),
    (v2(TCP4 + b"\xee" + struct.pack("!H", 4096 - 15) + b"x" * (4096 - 15)), (2, True, ip("1.2.3.4"), 1234,
    ip("5.6.7.8"), 443)),
]


@pytest.mark.parametrize(("data", "header"), GOOD, ids=range(len(GOOD)))
def test_case_96_a_header_is_read_in_any_split(data: bytes, header: tuple[object, ...]) -> None:
    assert proto.proxy_parse(data) == (len(data), header)
    assert proto.proxy_parse(data + b"GET / HTTP/1.1\r\n") == (len(data), header)
    for n in range(len(data)):
        assert proto.proxy_parse(data[:n]) == (0, None), f"after {n} bytes"


BAD_V1 = [
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 0443\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 443\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
    b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n", b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
    b"PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY UNKNOWNX\r\n", b"PROXY \r\n", b"PROXY UNKNOWN \n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1\x00 2\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
    b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY UNKNOWN a\x00b\r\n", b"PROXY TCP6 ::1%lo ::1 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
]
BAD_V2 = [
    v2(TCP4, command=0x11), v2(TCP4, command=0x22), v2(TCP4, command=0x01), v2(TCP4[:-1]), v2(TCP4, family=0x21),
    v2(TCP4, family=0x12),
    v2(TCP4, family=0x31), v2(TCP4, family=0x10), v2(TCP4 + b"\x01"), v2(TCP4 + b"\x01\x00"),
    v2(TCP4 + b"\x01\x00\x05abcd"),
    v2(b"\x01\x00\x05", family=0), v2(b"", length=4097), v2(b"", length=65535),
]
NO_HEADER = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\r\n\r\nGET", b"proxy TCP4", b"PROXZ", b"\x00", b"\r\r",
    b" PROXY", b"PROXY\tTCP4"]


@pytest.mark.parametrize("data", [*BAD_V1, *BAD_V2, *NO_HEADER])
def test_case_96_anything_else_is_refused_in_any_split(data: bytes) -> None:
    assert proto.code(proto.proxy_parse(data)[0]) == REFUSED
    for n in range(len(data)):
        assert proto.code(proto.proxy_parse(data[:n])[0]) in (None, REFUSED)
        assert proto.proxy_parse(data[:n])[0] <= 0


def test_case_96_a_line_without_end_is_refused_after_107_bytes() -> None:
    assert proto.proxy_parse(b"PROXY UNKNOWN " + b"x" * 92)[0] == 0
    assert proto.code(proto.proxy_parse(b"PROXY UNKNOWN " + b"x" * 93)[0]) == REFUSED


def test_case_96_a_missing_header_is_refused_at_its_first_wrong_byte() -> None:
    for data in NO_HEADER:
        first = next(n for n in range(1, len(data) + 1) if proto.proxy_parse(data[:n])[0])
        assert first <= 6


addresses = st.integers(0, 2**32 - 1).map(lambda n: bytes(10) + b"\xff\xff" + n.to_bytes(4,
    "big")) | st.binary(min_size=16, max_size=16)
ports = st.integers(0, 65535)


@given(st.sampled_from([1, 2]), addresses, ports, addresses, ports)
@settings(derandomize=True, max_examples=500)
def test_what_is_written_is_read_back(version: int, source: bytes, source_port: int, dest: bytes,
dest_port: int) -> None:
    data = proto.proxy_write(version, source, source_port, dest, dest_port)
    assert proto.proxy_parse(data) == (len(data), (version, True, source, source_port, dest, dest_port))


def test_the_written_forms_are_exactly_these() -> None:
    assert proto.proxy_write(1, ip("1.2.3.4"), 1, ip("5.6.7.8"), 2) == b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"
    assert proto.proxy_write(1, ip("::1"), 1, ip("2001:db8::"), 2) == b"PROXY TCP6 ::1 2001:db8:: 1 2\r\n"
    assert proto.proxy_write(1, ip("1.2.3.4"), 1, ip("::1"), 2) == b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n"
    assert proto.proxy_write(2, ip("1.2.3.4"), 1234, ip("5.6.7.8"), 443) == v2(TCP4)
    assert proto.proxy_write(2, ip("2001:db8::1"), 0, ip("2001:db8::2"), 65535) == v2(TCP6, family=0x21)


@given(st.builds(bytes.__add__, st.sampled_from([b"", SIGNATURE, b"PROXY "]), st.binary(max_size=40)))
@settings(derandomize=True, max_examples=2000)
def test_any_bytes_end_in_a_verdict(data: bytes) -> None:
    result, header = proto.proxy_parse(data)
    assert result <= len(data)
    assert (header is not None) == (result > 0)
