"""The chunked coding: strict, incremental, and the same wherever the bytes are cut."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from flyproxy._speedups import _testing_proto as proto


def decode(data: bytes, **options: Any) -> dict[str, Any]:
    """Decodes whole, cut at every byte, in single bytes and in random pieces; all must agree."""
    whole = proto.decode_chunked([data], **options)
    cuts = [[data[:k], data[k:]] for k in (range(1, len(data)) if len(data) < 400 else (1, 7, len(data) // 2,
        len(data) - 1))]
    if len(data) < 20000:
        cuts.append([data[i:i + 1] for i in range(len(data))])
    dice = random.Random(len(data))
    for _ in range(5):
        edges = sorted({0, len(data), *(dice.randrange(len(data) + 1) for _ in range(4))})
        cuts.append([data[a:b] for a, b in pairwise(edges)])
    for pieces in cuts:
        part = proto.decode_chunked(pieces, **options)
        if whole["result"] in ("more", "end"):
            assert part == whole, pieces
        else:
            assert part["result"] == whole["result"], pieces
    return whole


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_body_of_many_chunks() -> None:
    parts = [b"a", b"b" * 15, b"c" * 16, b"d" * 4096, b"\r\n0\r\n\r\n"]
    got = decode(b"".join(map(chunk, parts)) + b"0\r\n\r\n")
    assert (got["result"], got["body"], got["emitted"]) == ("end", b"".join(parts), b"\r\n")


@pytest.mark.parametrize("last", [b"0\r\n\r\n", b"000\r\n\r\n", b"0;a=b\r\n\r\n", b"0\r\nA: b\r\n\r\n"])
def test_what_follows_the_body_is_left_alone(last: bytes) -> None:
    data = chunk(b"hello") + last
    assert proto.decode_chunked([data + b"GET / HTTP/1.1\r\n"])["used"] == len(data)


@pytest.mark.parametrize("cut", range(len(chunk(b"hello") + b"0\r\n\r\n")))
def test_a_truncated_body_is_never_complete(cut: int) -> None:
    assert decode((chunk(b"hello") + b"0\r\n\r\n")[:cut])["result"] == "more"


@pytest.mark.parametrize("size", [b"0x3", b"+3", b"-3", b"3_0", b"", b" 3", b"\t3", b"g", b"3 ", b"3\t", b"3,",
    b"\xef\xbc\x93", b"3.0"])
def test_case_16_a_size_that_is_no_hex_number_is_refused(size: bytes) -> None:
    assert decode(size + b"\r\nabc\r\n0\r\n\r\n")["result"] == "PH01"


@pytest.mark.parametrize("size", [
    b"8000000000000000", b"ffffffffffffffff", b"10000000000000000", b"1" + b"0" * 40, b"0" * 17, b"00000000000000003",
])
def test_case_17_a_size_of_2_63_or_more_or_endless_zeros_is_refused_at_once(size: bytes) -> None:
    assert decode(size)["result"] == "PH01"


def test_case_17_the_largest_size_is_taken() -> None:
    assert decode(b"7fffffffffffffff\r\nabc")["body"] == b"abc"
    assert decode(b"0000000000000003\r\nabc\r\n0\r\n\r\n")["result"] == "end"


@pytest.mark.parametrize("data", [
    b"3\nabc\r\n0\r\n\r\n", b"3;a\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"3\r\nabc\r\n0\n\r\n",
    b"3\r\nabc\r\n0\r\n\n", b"3\r\nabc\r\n0\n\n",
    b"3\r\nabc\r\n0\r\nA: b\n\r\n", b"3\r\nabc\r\n0\r\nA: b\r\n\n", b"3\r\nabc\r\n0\r\nA: b\n\n",
    b"0\r\nA: b\nC: d\r\n\r\n",
])
def test_case_18_a_bare_lf_is_refused_wherever_it_stands(data: bytes) -> None:
    assert decode(data)["result"] == "PH01"


@pytest.mark.parametrize("line", [b"3;a\rb", b"3;a=\r", b'3;a="\r"', b"3\r\r\n", b"3;\r\r\n"])
def test_case_19_a_bare_cr_in_a_chunk_line_is_refused(line: bytes) -> None:
    assert decode(line + b"\r\nabc\r\n0\r\n\r\n")["result"] == "PH01"


@pytest.mark.parametrize("data", [b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"3\r\nabc\r0\r\n\r\n",
    b"3\r\nab\r\n0\r\n\r\n", b"0\r\n\rX"])
def test_case_20_data_longer_than_its_size_is_refused(data: bytes) -> None:
    assert decode(data)["result"] == "PH01"


def test_case_21_an_extension_over_the_limit_is_refused_before_it_ends() -> None:
    assert decode(b"3;" + b"a" * 4095 + b"\r\nabc\r\n0\r\n\r\n")["result"] == "end"
    assert decode(b"3;" + b"a" * 4097)["result"] == "PH01"
    assert decode(b"3;" + b"a" * (64 << 10) + b"\r\nabc\r\n0\r\n\r\n")["result"] == "PH01"
    assert decode((b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 3 + b"0\r\n\r\n")["body"] == b"xxx", "the limit is per chunk"


def test_case_22_trailers_over_the_limit_are_refused_before_they_end() -> None:
    room = (16 << 10) - len(b"A: \r\n\r\n")
    assert decode(b"0\r\nA: " + b"b" * room + b"\r\n\r\n")["result"] == "end"
    assert decode(b"0\r\nA: " + b"b" * (room + 1) + b"\r\n\r\n")["result"] == "PH14"
    assert decode(b"0\r\nA: " + b"b" * (256 << 10))["result"] == "PH14"
    assert decode(b"0\r\n" + b"A: b\r\n" * 257 + b"\r\n")["result"] == "PH14"


@pytest.mark.parametrize("name", [
    b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection", b"TE", b"Trailer", b"Upgrade", b"Authorization",
    b"Cookie", b"Set-Cookie",
    b"Content-Type", b"Content-Encoding", b"Content-Range", b"Fly-Client-IP", b"flyproxy-error", b"X-Forwarded-For",
    b"X-Forwarded-Host",
    b"Transfer_Encoding", b"Expect", b"Keep-Alive", b"Forwarded", b"Via", b"fly_region", b"traceparent",
    b"Cache-Control",
])
def test_case_23_forbidden_trailers_are_dropped(name: bytes) -> None:
    got = decode(b"0\r\nX-Sum: 1\r\n" + name + b": 3\r\nX-End:2\r\n\r\n")
    assert (got["result"], got["emitted"]) == ("end", b"X-Sum: 1\r\nX-End:2\r\n\r\n")


@pytest.mark.parametrize("line", [
    b"A", b"A : b", b": b", b"A: b\x00", b"A: b\x01c", b"A\xff: b", b" A: b", b"A: b\r\n folded", b"A: b\rC: d",
    b"A: b\x7f", b"GET / HTTP/1.1",
])
def test_case_24_malformed_trailers_are_refused(line: bytes) -> None:
    assert decode(b"0\r\n" + line + b"\r\n\r\n")["result"] == "PH01"


@pytest.mark.parametrize("extension", [
    b";a", b";a=b", b';a="b"', b";a;b;c=d", b' ; a = "b c" ;d', b"\t;a", b';a=""', b';a="\\"\\\\"', b';a="\xff;\t"',
    b";!#$%&'*+-.^_`|~=x",
])
def test_case_25_valid_extensions_pass(extension: bytes) -> None:
    got = decode(b"3" + extension + b"\r\nabc\r\n0" + extension + b"\r\n\r\n")
    assert (got["result"], got["body"]) == ("end", b"abc")


@pytest.mark.parametrize("extension", [
    b";", b"; ;a", b";a=", b";=b", b';a="b', b';a="b"c', b";a b", b";a=b c", b";a=b ", b";a ", b';a="b" ', b";\x00",
    b";a=\x7f", b';a="\x01"',
    b" a", b";a==b", b";a=b=c", b'"', b';"a"', b';a="\\\x01"', b";a,b",
])
def test_case_25_malformed_extensions_are_refused(extension: bytes) -> None:
    assert decode(b"3" + extension + b"\r\nabc\r\n0\r\n\r\n")["result"] == "PH01"


def test_case_25_valid_trailers_pass_in_their_order() -> None:
    got = decode(chunk(b"x") + b"0\r\nX-B: 1\r\nx-a:2\r\nX-C: \t3 \r\nX-Empty:\r\nX-B: 4\r\n\r\n")
    assert got["emitted"] == b"X-B: 1\r\nx-a:2\r\nX-C: 3\r\nX-Empty:\r\nX-B: 4\r\n\r\n"


def test_memory_for_trailers_is_asked_for_only_when_they_come() -> None:
    assert not proto.decode_chunked([b"0\r\n"], give_trailer=False)["wants_trailer"]
    assert not proto.decode_chunked([b"0\r\n\r"], give_trailer=False)["wants_trailer"]
    got = proto.decode_chunked([b"0\r\nA: b\r\n\r\n"], give_trailer=False)
    assert (got["wants_trailer"], got["result"], got["used"]) == (True, "more", 3)
