"""HPACK against the ``hpack`` package: every block of either side means the same to the other."""

from __future__ import annotations

import hpack
import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_hpack as ours

QUICK = settings(derandomize=True, deadline=None, max_examples=300)
NAME = st.sampled_from([b":path", b"accept", b"x-custom", b"cookie", b"a" * 70, b"cache-control", b"content-type"])
FIELD = st.tuples(NAME, st.binary(max_size=60) | st.sampled_from([b"", b"/", b"gzip, deflate", b"x" * 300]))
BLOCKS = st.lists(st.lists(FIELD, max_size=12), min_size=1, max_size=8)
GET = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")  # RFC 7541 C.4.1


def pairs(fields: object) -> list[tuple[bytes, bytes]]:
    assert isinstance(fields, list), fields
    return [field[:2] for field in fields]


def test_example_of_the_rfc_is_understood() -> None:
    decoder = ours.Decoder()
    assert pairs(decoder.decode(GET)) == [
        (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com"),
    ]
    assert decoder.entries == 1
    assert decoder.size == 57


@QUICK
@given(BLOCKS, st.booleans())
def test_what_hpack_encodes_is_decoded(blocks: list[list[tuple[bytes, bytes]]], huffman: bool) -> None:
    encoder, decoder = hpack.Encoder(), ours.Decoder()
    for fields in blocks:
        assert pairs(decoder.decode(encoder.encode(fields, huffman=huffman))) == fields
        assert decoder.size == encoder.header_table._current_size


@QUICK
@given(BLOCKS, st.sampled_from([0, 64, 200, 4096]), st.booleans(), st.data())
def test_what_we_encode_hpack_decodes(
    blocks: list[list[tuple[bytes, bytes]]], size: int, huffman: bool, data: st.DataObject
) -> None:
    encoder, decoder, own = ours.Encoder(size, huffman), hpack.Decoder(), ours.Decoder()
    encoder.limit(size)
    for fields in blocks:
        if data.draw(st.booleans()):
            limit = data.draw(st.sampled_from([0, 100, 4096]))
            decoder.max_allowed_table_size = max(limit, decoder.header_table.maxsize)
            encoder.limit(limit)
        how = [data.draw(st.sampled_from(["index", "never", ""])) for _ in fields]
        block = encoder.encode([(*field, kind) for field, kind in zip(fields, how, strict=True)])
        assert [(bytes(n), bytes(v)) for n, v in decoder.decode(block, raw=True)] == fields
        assert pairs(own.decode(block)) == fields
        assert own.size == encoder.size


@QUICK
@given(st.binary(max_size=400))
def test_huffman_goes_there_and_back(text: bytes) -> None:
    code = ours.huffman(text)
    assert ours.unhuffman(code) == text
    assert decode_huffman(code) == text


@QUICK
@given(st.binary(max_size=40))
def test_any_bytes_are_huffman_for_both_or_for_none(code: bytes) -> None:
    try:
        expected = decode_huffman(code) if code else b""
    except hpack.HPACKDecodingError:
        expected = None
    assert ours.unhuffman(code) == expected


@pytest.mark.parametrize("symbol", range(256))
def test_every_symbol_has_its_code(symbol: int) -> None:
    bits = REQUEST_CODES_LENGTH[symbol]
    padding = -bits % 8
    code = (REQUEST_CODES[symbol] << padding | (1 << padding) - 1).to_bytes((bits + padding) // 8, "big")
    assert ours.huffman(bytes([symbol])) == code
    assert ours.unhuffman(code) == bytes([symbol])
    assert ours.unhuffman(code + b"\xff") is None, "more than 7 bits of padding"


def test_eos_is_no_symbol() -> None:
    assert ours.unhuffman(b"\xff\xff\xff\xff") is None


@settings(derandomize=True, deadline=None, max_examples=1500)
@given(st.binary(max_size=60))
def test_any_bytes_mean_the_same_as_to_hpack(block: bytes) -> None:
    found = ours.Decoder().decode(block)
    oracle = hpack.Decoder()
    oracle.max_allowed_table_size = 4096
    try:
        theirs = [(bytes(n), bytes(v)) for n, v in oracle.decode(block, raw=True)]
    except hpack.HPACKError:
        theirs = None
    assert (None if found is None else pairs(found)) == theirs


@pytest.mark.parametrize(
    "block",
    [
        b"\x80", b"\xbe", b"\xff\xff\xff\xff\xff\x0f", b"\x40", b"\x40\x01", b"\x00\x81\x00\x00", b"\x82\x20",
        b"\x3f\xe2\x1f", b"\x41\x05ab", b"\x7f\x80\x80\x80\x80\x00",
    ],
    ids=["index 0", "no such entry", "huge index", "no name", "cut name", "padding of zeros", "late update",
         "update over the limit", "cut value", "integer with zero groups"],
)
def test_broken_block_is_refused(block: bytes) -> None:
    assert ours.Decoder().decode(block) is None


def test_every_cut_of_a_block_is_whole_fields_or_broken() -> None:
    whole = pairs(ours.Decoder().decode(GET))
    for n in range(len(GET)):
        fields = ours.Decoder().decode(GET[:n])
        assert fields is None or pairs(fields) == whole[: len(fields)]


def test_smaller_limit_must_be_answered_with_an_update() -> None:
    decoder = ours.Decoder(4096)
    assert decoder.decode(GET) is not None
    decoder.limit(100)
    assert decoder.decode(b"\x82") is None
    decoder = ours.Decoder(4096)
    decoder.limit(100)
    assert pairs(decoder.decode(b"\x3f\x45\x82")) == [(b":method", b"GET")]


def test_bomb_of_indexed_fields_is_counted_and_not_kept() -> None:
    decoder = ours.Decoder(list_max=16384)
    big = b"\x40\x01x\x7f\x81\x1e" + b"y" * 3968
    assert decoder.decode(big) != "overflow"
    assert decoder.decode(b"\xbe" * 60000) == "overflow"
    assert pairs(decoder.decode(b"\xbe")) == [(b"x", b"y" * 3968)], "the table is still in step"


def test_table_follows_even_when_the_list_is_too_large() -> None:
    decoder = ours.Decoder(list_max=100)
    block = b"\x40\x01a\x01b" + b"\x40\x01c\x02dd" + b"\x40\x01e\x03fff" + b"\x40\x01g\x01h"
    assert decoder.decode(block) == "overflow"
    assert [pairs(decoder.decode(bytes([0x80 | 62 + i])))[0] for i in range(4)] == [
        (b"g", b"h"), (b"e", b"fff"), (b"c", b"dd"), (b"a", b"b"),
    ]


def test_table_takes_memory_with_its_first_entry_and_gives_it_back() -> None:
    decoder = ours.Decoder()
    decoder.decode(b"\x82\x87\x84")
    assert decoder.pool_used == 0
    decoder.decode(GET)
    assert decoder.pool_used == 2048
    decoder.decode(b"\x20")
    assert decoder.pool_used == 0


@pytest.mark.parametrize(
    ("name", "value", "malformed"),
    [
        (b"x", b"a\tb", False), (b"x", b"\xff", False), (b"x", b"a\x00", True), (b"x", b"a\rb", True),
        (b"x", b"a\nb", True), (b"x", b" a", True), (b"x", b"a\t", True), (b"X", b"a", True), (b"", b"a", True),
        (b"a b", b"", True), (b"a:b", b"", True), (b":path", b"/", False), (b":", b"", True), (b"x\x80", b"", True),
    ],
)
def test_malformed_field_is_marked_now_and_when_it_is_indexed(name: bytes, value: bytes, malformed: bool) -> None:
    decoder = ours.Decoder()
    block = b"\x40" + bytes([len(name)]) + name + bytes([len(value)]) + value
    assert decoder.decode(block) == [(name, value, False, malformed)]
    assert decoder.decode(b"\xbe") == [(name, value, False, malformed)]


def test_never_indexed_goes_out_as_such_and_is_recognised() -> None:
    block = ours.Encoder(4096).encode([(b"authorization", b"secret", "never")])
    assert block[0] & 0xF0 == 0x10
    assert ours.Decoder().decode(block) == [(b"authorization", b"secret", True, False)]


def test_a_table_that_shrank_and_grew_between_blocks_tells_both() -> None:
    encoder = ours.Encoder(4096)
    encoder.encode([(b"a", b"b", "index")])
    encoder.limit(0)
    encoder.limit(4096)
    assert encoder.encode([])[:2] == b"\x20\x3f"
