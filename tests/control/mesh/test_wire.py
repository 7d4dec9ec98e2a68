"""The datagram: what is sent is read, and nothing else is."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyproxy.control.mesh import wire
from flyproxy.control.mesh.wire import Datagram, Malformed

KEY = wire.probe_key(b"0123456789abcdef")
PROBE = Datagram(wire.PING, "edge-1", 1700000000, "worker-2", 2**40, 2**50, 77, 0b1011, 4, 1, 3,
                 wire.entries([(wire.host_hash("c"), 0.0123), (wire.host_hash("d"), None)]))

ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=wire.ID_MAX)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@given(st.sampled_from([wire.PING, wire.PONG]), ids, u32, ids, u64, u64, u64, u32, st.integers(0, wire.ENTRIES_MAX))
def test_every_datagram_is_read_as_it_was_written_and_fits(kind, source, epoch, to, sequence, sent, heard, bits, count):
    vector = wire.entries([(wire.host_hash(str(i)), i / 1000 or None) for i in range(count)])
    part, parts = (2, 5) if count else (0, 0)
    probe = Datagram(kind, source, epoch, to, sequence, sent, heard, bits, 32, part, parts, vector)
    data = wire.encode(probe, KEY)
    assert len(data) <= wire.SIZE_MAX
    assert wire.decode(data) == probe
    assert wire.authentic(data, KEY)


def test_the_layout_is_the_documented_one():
    """Byte by byte, as docs/mesh.md has it: another implementation relies on it."""
    body = (b"fp" + bytes([1, 1]) + (1700000000).to_bytes(4, "big") + (2**40).to_bytes(8, "big")
            + (2**50).to_bytes(8, "big") + (77).to_bytes(8, "big") + (0b1011).to_bytes(4, "big")
            + bytes([4, 6, 8, 1, 3]) + b"edge-1" + b"worker-2"
            + hashlib.sha256(b"c").digest()[:8] + (12300).to_bytes(4, "big")
            + hashlib.sha256(b"d").digest()[:8] + b"\xff\xff\xff\xff")
    key = hashlib.sha256(b"flyproxy-probe\0" + b"0123456789abcdef").digest()
    assert wire.encode(PROBE, KEY) == body + hmac.new(key, body, "sha256").digest()[:16]


def test_one_changed_bit_anywhere_is_not_authentic():
    data = wire.encode(PROBE, KEY)
    for at in range(len(data) * 8):
        forged = bytearray(data)
        forged[at // 8] ^= 1 << at % 8
        assert not wire.authentic(bytes(forged), KEY), at


def test_another_cluster_key_is_not_authentic():
    assert not wire.authentic(wire.encode(PROBE, KEY), wire.probe_key(b"0123456789abcdeF"))


@given(st.binary(max_size=wire.SIZE_MAX + 10))
def test_noise_is_malformed_or_a_datagram_never_another_error(noise):
    for data in (noise, b"fp\1\1" + noise, b"fp\1\2" + noise[:33] + b"\1\1\0\0" + noise[33:]):
        try:
            wire.decode(data)
        except Malformed:
            continue


def changed(at, value):
    data = bytearray(wire.encode(PROBE, KEY))
    data[at] = value
    return bytes(data)


@pytest.mark.parametrize("data", [
    b"", wire.encode(PROBE, KEY)[:41], changed(0, 0), changed(2, 2), changed(3, 0), changed(3, 3),
    changed(37, 0), changed(37, 32), changed(37, 255), changed(38, 0), changed(38, 32), changed(39, 3),
    changed(40, 0), changed(41, 0x80), wire.encode(PROBE, KEY)[:-1], wire.encode(PROBE, KEY) + b"x" * 1200,
], ids=range(16))
def test_what_breaks_the_format_is_malformed(data):
    with pytest.raises(Malformed):
        wire.decode(data)


def test_truncation_anywhere_is_malformed_or_not_authentic():
    data = wire.encode(PROBE, KEY)
    for end in range(len(data)):
        try:
            wire.decode(data[:end])
        except Malformed:
            continue
        assert not wire.authentic(data[:end], KEY)


def test_a_quoted_ping_is_recognised_though_cut_short():
    data = wire.encode(PROBE, KEY)
    assert wire.quoted(data[:55]) == ("worker-2", 2**40)
    assert wire.quoted(data[:54]) is None and wire.quoted(b"") is None
    assert wire.quoted(wire.encode(PROBE._replace(kind=wire.PONG), KEY)) is None


def test_a_distance_is_found_only_at_an_entrys_begin():
    name = wire.host_hash("x")
    straddling = wire.entries([(b"1234567" + name[:1], 1.0)])[:7] + name + b"\0" * 9
    assert len(straddling) % 12 == 0 and name in straddling
    assert wire.distance_in(straddling, name) == (False, None)
    assert wire.distance_in(straddling + wire.entries([(name, 0.5)]), name) == (True, 0.5)
    assert wire.distance_in(wire.entries([(name, None)]), name) == (True, None)
    assert wire.distance_in(b"", name) == (False, None)


@pytest.mark.parametrize(("seconds", "us"), [(0.0, 1), (1e-9, 1), (0.25, 250000), (1e9, 2**32 - 2)])
def test_microseconds_stay_within_their_field(seconds, us):
    assert wire.microseconds(seconds) == us
