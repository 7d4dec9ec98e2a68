"""Names and single values: the table of known headers, hosts, addresses, Accept, Via, numbers."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_proto as proto

HEADER = (Path(proto.__file__).parent / "csrc/fp_headers.h").read_text()
KINDS = re.findall(r"H_[A-Z0-9_]+", HEADER.partition("enum fp_header_kind {")[2].partition("H_COUNT")[0])
NAMES = [kind[2:].lower().replace("_", "-").encode() for kind in KINDS if kind != "H_UNKNOWN"]


def test_every_known_header_is_found_under_its_own_number_in_any_case() -> None:
    assert len(NAMES) > 30
    for number, name in enumerate(NAMES, 1):
        assert {proto.header_kind(spelt) for spelt in (name, name.upper(), name.title())} == {number}, name


def test_names_that_differ_in_one_byte_are_unknown() -> None:
    for name in NAMES:
        for i in range(len(name)):
            other = name[:i] + (b"q" if name[i:i + 1] != b"q" else b"z") + name[i + 1:]
            assert other in NAMES or proto.header_kind(other) == 0, other
        assert proto.header_kind(name + b"s") == 0 or name + b"s" in NAMES
        assert proto.header_kind(name[:-1]) == 0 or name[:-1] in NAMES


def test_number_of_kinds_fits_a_word() -> None:
    assert len(KINDS) <= 64


def test_only_names_with_underscores_are_twins() -> None:
    assert all(not proto.is_twin(name) for name in NAMES)
    assert {name for name in NAMES if b"-" in name and proto.is_twin(name.replace(b"-", b"_"))} >= {
        b"content-length", b"transfer-encoding", b"x-forwarded-for", b"keep-alive", b"x-request-start"}
    assert not proto.is_twin(b"Content_Type")
    assert not proto.is_twin(b"_")
    assert not proto.is_twin(b"x" * 40 + b"_")


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**32 - 1).map(lambda v4: 0xFFFF << 32 | v4))
@settings(derandomize=True, max_examples=500)
def test_addresses_are_written_as_rfc_5952_says_and_read_back(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    text = str(address.ipv4_mapped or address).encode()
    assert proto.address_text(address.packed) == text
    assert proto.parse_address(text) == address.packed
    assert proto.parse_address(address.exploded.encode().upper()) == address.packed


@given(st.text("0123456789abcdefF:.", max_size=40) | st.from_regex(r"[0-9a-f:]{2,20}(\d{1,3}\.){3}\d{1,3}",
    fullmatch=True))
@settings(derandomize=True, max_examples=1000)
def test_what_is_no_address_is_refused_as_python_does(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        assert proto.parse_address(text.encode()) is None
        return
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    assert proto.parse_address(text.encode()) == packed


@pytest.mark.parametrize("text", [
    b"::", b"::1", b"1::", b"1:2:3:4:5:6:7::", b"::2:3:4:5:6:7:8", b"1::8", b"::ffff:1.2.3.4", b"1:2:3:4:5:6:1.2.3.4",
    b"64:ff9b::1.2.3.4",
])
def test_edges_of_ipv6_are_read(text: bytes) -> None:
    assert proto.parse_address(text) == ipaddress.IPv6Address(text.decode()).packed


@pytest.mark.parametrize("text", [
    b"", b":", b":::", b"1:::2", b"::1::", b"1:2:3:4:5:6:7", b"1:2:3:4:5:6:7:8:9", b"12345::", b"::g", b"1:", b":1",
    b"1::2:",
    b"1:2:3:4:5:6:7:1.2.3.4", b"::1.2.3", b"::1.2.3.4:5", b"1.2.3.4::", b"1.2.3", b"1.2.3.4.5", b"01.2.3.4",
    b"256.1.1.1", b"1..2.3",
    b"1.2.3.4 ", b"+1.2.3.4", b"1.2.3.", b"::%1", b"1:2:3:4:5:6:7:8::", b"::1:2:3:4:5:6:7:8",
])
def test_text_that_is_no_address_is_refused(text: bytes) -> None:
    assert proto.parse_address(text) is None


EDGES = sorted({value for power in range(20) for value in (10**power - 1, 10**power)} | {2**32, 2**64 - 1})


@given(st.integers(0, 2**64 - 1) | st.sampled_from(EDGES))
@settings(derandomize=True, max_examples=500)
def test_numbers_as_text(value: int) -> None:
    assert proto.numbers(value) == (b"%d" % value, b"%x" % value)


@given(st.integers(0, 2**64 - 1) | st.integers(0, 31).map(lambda digit: digit * 0x0842108421))
@settings(derandomize=True, max_examples=500)
def test_forty_bits_are_eight_digits_of_crockford_s_base_32(value: int) -> None:
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    assert proto.base32(value) == "".join(digits[value >> shift & 31] for shift in range(35, -1, -5)).encode()


@pytest.mark.parametrize(("accept", "kind"), [
    (b"", "text"), (b"*/*", "text"), (b"text/plain", "text"), (b"text/html", "html"), (b"Text/HTML;q=0.9, */*", "html"),
    (b"application/json", "json"), (b"application/problem+json", "json"), (b"application/xhtml+xml, text/html", "html"),
    (b"application/json, text/html", "json"), (b"text/html, application/json", "html"),
    (b"image/png, application/vnd.api+JSON", "json"),
    (b"html", "text"), (b"json", "text"), (b"text/htm", "text"), (b"x" * 600 + b"/json", "text"), (b"text/", "text"),
])
def test_the_shape_of_an_error_follows_accept(accept: bytes, kind: str) -> None:
    assert proto.accept_kind(accept) == kind


@pytest.mark.parametrize(("via", "own"), [
    (b"", 0), (b"1.1 flyproxy", 1), (b"1.1 flyproxy, 2 flyproxy", 2), (b"HTTP/1.1 FLYPROXY (x)", 1), (b"flyproxy", 0),
    (b"1.1 flyproxy2", 0),
    (b"1.1 other, 1.0 fly", 0), (b"1.1  flyproxy ,, 1.1 flyproxy", 2), (b", ".join([b"1.1 flyproxy"] * 9), 9),
])
def test_our_own_elements_of_via_are_counted(via: bytes, own: int) -> None:
    assert proto.own_via(via) == own
