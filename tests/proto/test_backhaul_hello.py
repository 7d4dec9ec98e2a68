"""The hello of a backhaul connection and its answer: one spelling, every byte signed, nothing forged gets through."""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_backhaul as backhaul
from flyproxy._speedups import _testing_proto as proto

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
MALFORMED = -1
DOCS = Path(__file__).resolve().parents[2] / "docs/backhaul.md"
Values = dict[str, Any]

TRANSPORT: Values = {
    "kind": 1, "hops": 1, "source": b"ams-1", "source_epoch": 1760000000, "dest": b"fra-2", "dest_epoch": 1760000123,
    "dest_port": 7001, "time_ms": 1760001000123, "nonce": 0x0123456789ABCDEF,
}
TCP: Values = TRANSPORT | {
    "kind": 2, "hops": 0, "app": b"db", "machine": b"d891e2f", "service_port": 5432, "edge_port": 15432,
    "request_id": b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams",
    "client": bytes(10) + b"\xff\xff\xc6\x33\x64\x07", "client_port": 40000,
    "local": bytes(10) + b"\xff\xff\xcb\x00\x71\x01", "local_port": 15432,
}  # fmt: skip
TCP6 = TCP | {"client": bytes.fromhex("20010db8" + "00" * 11 + "07")}
BOTH = pytest.mark.parametrize("values", [TRANSPORT, TCP, TCP6], ids=["transport", "tcp", "tcp6"])


def written(values: Values) -> bytes:
    header = backhaul.hello_write(values, KEY)
    assert header is not None
    return header


def split(header: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """A PROXY v2 header as any library reads it: all before the TLVs, and the TLVs."""
    signature, version_command, family, length = struct.unpack_from("!12sBBH", header)
    assert (signature, version_command >> 4) == (b"\r\n\r\n\0\r\nQUIT\n", 2)
    assert len(header) == 16 + length
    at = 16 + {0x00: 0, 0x11: 12, 0x21: 36}[family]
    before, tlvs = header[:at], []
    while at < len(header):
        kind, n = struct.unpack_from("!BH", header, at)
        tlvs.append((kind, header[at + 3 : at + 3 + n]))
        at += 3 + n
    return before, tlvs


def joined(before: bytes, tlvs: list[tuple[int, bytes]], *, sign: bool = True) -> bytes:
    """The inverse of split, with the right length and signature."""
    body = b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)
    header = before[:14] + struct.pack("!H", len(before) - 16 + len(body)) + before[16:] + body
    return header[:-32] + hmac.digest(KEY, header[:-32], "sha256") if sign else header


def changed(values: Values, kind: int, value: bytes) -> bytes:
    before, tlvs = split(written(values))
    return joined(before, [(k, value if k == kind else v) for k, v in tlvs])


@BOTH
def test_what_is_written_is_read(values: Values) -> None:
    header = written(values)
    used, found = backhaul.hello_parse(header + b"PRI * HTTP/2.0")
    assert used == len(header)
    assert found is not None
    absent = {"app": b"", "machine": b"", "request_id": b"", "client": bytes(16), "local": bytes(16)}
    assert found == dict.fromkeys(backhaul.NUMBERS, 0) | absent | values
    assert backhaul.hello_authentic(header, KEY)


@BOTH
def test_other_implementation_writes_the_same(values: Values) -> None:
    assert joined(*split(written(values))) == written(values)


def test_tcp_hello_is_a_proxy_header_with_the_clients_addresses() -> None:
    before, tlvs = split(written(TCP))
    assert before[12:14] == b"\x21\x11"
    assert before[16:] == b"\xc6\x33\x64\x07" + b"\xcb\x00\x71\x01" + struct.pack("!HH", 40000, 15432)
    assert [kind for kind, _ in tlvs] == list(range(0xE0, 0xF0))
    used, found = proto.proxy_parse(written(TCP))
    assert (used, found) == (len(written(TCP)), (2, True, TCP["client"], 40000, TCP["local"], 15432))


def test_transport_hello_is_a_local_proxy_header() -> None:
    before, tlvs = split(written(TRANSPORT))
    assert before[12:14] == b"\x20\x00"
    assert [kind for kind, _ in tlvs] == [*range(0xE0, 0xEA), 0xEF]
    used, found = proto.proxy_parse(written(TRANSPORT))
    assert (used, found and found[:2]) == (len(written(TRANSPORT)), (2, False))


def test_address_of_two_families_is_sent_as_v6() -> None:
    assert split(written(TCP6))[0][13] == 0x21


@BOTH
def test_header_cut_anywhere_needs_more(values: Values) -> None:
    header = written(values)
    for n in range(len(header)):
        assert backhaul.hello_parse(header[:n]) == (0, None), n


@BOTH
def test_every_flipped_bit_is_refused(values: Values) -> None:
    header = written(values)
    for at in range(len(header)):
        for bit in range(8):
            forged = bytearray(header)
            forged[at] ^= 1 << bit
            result, _ = backhaul.hello_parse(bytes(forged))
            if result > 0:
                assert result == len(header)
                assert not backhaul.hello_authentic(bytes(forged), KEY), (at, bit)
            else:
                assert result == MALFORMED or at in (14, 15), (at, bit)


@BOTH
def test_hello_of_another_key_is_not_authentic(values: Values) -> None:
    assert not backhaul.hello_authentic(written(values), OTHER_KEY)


def test_fewer_bytes_than_a_signature_are_not_authentic() -> None:
    for n in range(33):
        assert not backhaul.hello_authentic(bytes(n), KEY)


@BOTH
def test_tlv_missing_twice_cut_longer_or_out_of_order_is_malformed(values: Values) -> None:
    before, tlvs = split(written(values))
    for i, (kind, value) in enumerate(tlvs):
        for forged in (
            tlvs[:i] + tlvs[i + 1 :],
            [*tlvs[:i], tlvs[i], *tlvs[i:]],
            [*tlvs[:i], (kind, value[:-1] if kind not in (0xE3, 0xE5, 0xEA, 0xEB, 0xEE) else b""), *tlvs[i + 1 :]],
            [*tlvs[:i], (kind, value + b"x" * 65), *tlvs[i + 1 :]],
            [*tlvs[:i], (0x04, b""), *tlvs[i:]],
            [*tlvs[:i], (0x05, b"unique"), *tlvs[i:]],
            [*tlvs[:i], (kind + 1 if kind < 0xEF else 0xE0, value), *tlvs[i + 1 :]],
            tlvs[:i] + tlvs[i : i + 2][::-1] + tlvs[i + 2 :] if i + 1 < len(tlvs) else [tlvs[-1], *tlvs[:-1]],
        ):
            assert backhaul.hello_parse(joined(before, forged)) == (MALFORMED, None), hex(kind)


@BOTH
def test_bytes_behind_the_signature_are_malformed(values: Values) -> None:
    before, tlvs = split(written(values))
    assert backhaul.hello_parse(joined(before, [*tlvs, (0xF0, b"")], sign=False)) == (MALFORMED, None)
    header = written(values)
    longer = header[:14] + struct.pack("!H", len(header) - 15) + header[16:] + b"\0"
    assert backhaul.hello_parse(longer) == (MALFORMED, None)


@pytest.mark.parametrize(
    ("values", "kind", "value"),
    [
        (TRANSPORT, 0xE0, b"\0"), (TRANSPORT, 0xE0, b"\2"), (TRANSPORT, 0xE1, b"\0"), (TRANSPORT, 0xE1, b"\2"),
        (TRANSPORT, 0xE1, b"\3"), (TCP, 0xE1, b"\1"), (TRANSPORT, 0xE2, b"\2"), (TRANSPORT, 0xE2, b"\xff"),
        (TRANSPORT, 0xE7, b"\0\0"), (TCP, 0xEC, b"\0\0"), (TCP, 0xED, b"\0\0"), (TRANSPORT, 0xE3, b"Ams"),
        (TRANSPORT, 0xE3, b"a.b"), (TRANSPORT, 0xE5, b"a b"), (TRANSPORT, 0xE5, b"a\0"), (TRANSPORT, 0xE5, b"\xff"),
        (TRANSPORT, 0xE3, b"a" * 33), (TRANSPORT, 0xE5, b"a" * 33), (TCP, 0xEA, b"a" * 65), (TCP, 0xEB, b"a" * 41),
        (TCP, 0xEE, b"a" * 49), (TCP, 0xEA, b"A"), (TCP, 0xEB, b"m_1"), (TCP, 0xEE, b"01J/..".ljust(9, b"a")),
        (TCP, 0xEE, b"a\r\nb"),
    ],
)  # fmt: skip
def test_value_that_no_host_of_ours_sends_is_malformed(values: Values, kind: int, value: bytes) -> None:
    assert backhaul.hello_parse(changed(values, kind, value)) == (MALFORMED, None)


def test_every_name_may_be_as_long_as_its_field() -> None:
    longest = TCP | {
        "source": b"s" * 32, "dest": b"d" * 32, "app": b"a" * 64, "machine": b"m" * 40, "request_id": b"R" * 48,
    }
    header = written(longest | {"client": TCP6["client"]})
    assert len(header) == 381
    used, found = backhaul.hello_parse(header)
    assert used == len(header)
    assert found is not None
    assert {name: found[name] for name in ("source", "dest", "app", "machine", "request_id")} == {
        name: longest[name] for name in ("source", "dest", "app", "machine", "request_id")
    }


@pytest.mark.parametrize(
    "change",
    [
        {"source": b"s" * 33}, {"dest": b"d" * 33}, {"app": b"a" * 65}, {"machine": b"m" * 41},
        {"request_id": b"R" * 49}, {"source": b""}, {"dest": b""}, {"app": b""}, {"machine": b""},
        {"request_id": b""}, {"source": b"A"}, {"app": b"a.b"}, {"request_id": b"a b"}, {"hops": 2}, {"kind": 0},
        {"kind": 3}, {"dest_port": 0}, {"service_port": 0}, {"edge_port": 0},
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_written(change: Values) -> None:
    assert backhaul.hello_write(TCP | change, KEY) is None


@pytest.mark.parametrize(
    ("at", "value"),
    [(12, 0x21), (12, 0x22), (12, 0x11), (13, 0x11), (13, 0x21), (13, 0x01), (13, 0x12)],
)
def test_transport_hello_with_another_command_or_family_is_malformed(at: int, value: int) -> None:
    before, tlvs = split(written(TRANSPORT))
    forged = bytearray(before)
    forged[at] = value
    assert backhaul.hello_parse(joined(bytes(forged), tlvs)) == (MALFORMED, None)


def test_tcp_hello_without_addresses_is_malformed() -> None:
    before, tlvs = split(written(TCP))
    for command, family in ((0x20, 0x00), (0x21, 0x00), (0x20, 0x11)):
        forged = before[:12] + bytes([command, family]) + before[14:16]
        assert backhaul.hello_parse(joined(forged, tlvs)) == (MALFORMED, None)


def test_v4_addresses_in_the_longer_form_are_malformed() -> None:
    before, tlvs = split(written(TCP))
    longer = before[:13] + b"\x21" + before[14:16] + TCP["client"] + TCP["local"] + before[24:28]
    assert backhaul.hello_parse(joined(longer, tlvs)) == (MALFORMED, None)


@pytest.mark.parametrize(
    "data",
    [
        b"G", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\r", b"\r\r", b"\r\n\r\n\0\r\nQUIT\n\x31",
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x03\xf1", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    ],
)
def test_what_is_no_hello_is_refused_at_the_first_byte_that_shows_it(data: bytes) -> None:
    assert backhaul.hello_parse(data) == (MALFORMED, None)
    if data[:1] == b"\r" and len(data) <= 13:
        assert backhaul.hello_parse(data[:-1]) == (0, None)


def test_largest_length_is_waited_for() -> None:
    assert backhaul.hello_parse(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x03\xf0") == (0, None)


NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=32).map(str.encode)
ADDRESS = st.binary(min_size=16, max_size=16) | st.binary(min_size=4, max_size=4).map(lambda a: TCP["client"][:12] + a)
ANY: st.SearchStrategy[Values] = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([1, 2]), "hops": st.integers(0, 1), "source": NAME, "dest": NAME, "app": NAME,
        "machine": NAME, "request_id": NAME.map(bytes.upper), "client": ADDRESS, "local": ADDRESS,
        **{name: st.integers(1, 0xFFFF) for name in ("dest_port", "service_port", "edge_port")},
        **{name: st.integers(0, 0xFFFF) for name in ("client_port", "local_port")},
        **{name: st.integers(0, 0xFFFFFFFF) for name in ("source_epoch", "dest_epoch")},
        **{name: st.integers(0, 2**64 - 1) for name in ("time_ms", "nonce")},
    }
)  # fmt: skip


@given(ANY, st.binary(min_size=32, max_size=32))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_any_hello_survives_the_wire(values: Values, key: bytes) -> None:
    header = backhaul.hello_write(values, key)
    assert header is not None
    assert header[-32:] == hmac.digest(key, header[:-32], "sha256")
    used, found = backhaul.hello_parse(header)
    assert used == len(header)
    assert found is not None
    assert {name: found[name] for name in TRANSPORT} == {name: values[name] for name in TRANSPORT}
    if values["kind"] == 2:
        assert found == values
    assert backhaul.hello_write(found, key) == header


# -- the answer


@given(st.integers(0, 8), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF))
@settings(derandomize=True, deadline=None)
def test_answer_survives_the_wire(status: int, code: int, epoch: int) -> None:
    data = backhaul.answer_write(1, status, code, epoch)
    assert data == struct.pack("!BBHI", 1, status, code, epoch)
    assert backhaul.answer_parse(data) == (1, status, code, epoch)


@pytest.mark.parametrize("data", [bytes(8), b"\2" + bytes(7), b"\1\x09" + bytes(6), b"HTTP/1.1", b"\1\xff" * 4])
def test_what_is_no_answer_of_ours_is_refused(data: bytes) -> None:
    assert backhaul.answer_parse(data) is None


# -- the page that others are to implement it from


def example(name: str) -> bytes:
    """The hex digits of a block in docs/backhaul.md that is headed by this comment."""
    found = re.search(rf"^# {name}\n((?:[0-9a-f ]+(?:#.*)?\n)+)", DOCS.read_text(), re.MULTILINE)
    assert found is not None, f"docs/backhaul.md has no block '# {name}'"
    return bytes.fromhex(re.sub(r"#.*", "", found[1]))


@pytest.mark.parametrize(("name", "values"), [("transport", TRANSPORT), ("tcp", TCP)])
def test_example_of_the_page_is_what_we_write(name: str, values: Values) -> None:
    key = hashlib.sha256(b"flyproxy-backhaul\0" + b"an example of a key").digest()
    assert example("key") == key
    assert example(name) == backhaul.hello_write(values, key)


def test_example_answer_of_the_page_is_what_we_write() -> None:
    assert example("answer") == backhaul.answer_write(1, 4, 0, 1760000123)
