"""The probe datagram: bytes to fields and back. Pure; docs/mesh.md has the same layout in words.

Integers are in network byte order. A ping asks, a pong answers with the ping's sequence and time. Both tell which of
the receiver's last pings reached the sender; a ping also carries one part of what its sender reaches directly.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import NamedTuple

PING, PONG = 1, 2
MAGIC, VERSION = b"fp", 1
SIZE_MAX = 1200         # bytes; fits WireGuard's MTU of 1420 and IPv6's least of 1280 minus 80 of WireGuard over IPv6
ID_MAX = 31
TAG = 16                # bytes of the truncated HMAC (RFC 2104 section 5 allows half of the digest)

# magic, version, kind, epoch, sequence, sent, heard, heard_bits, heard_n, source_n, destination_n, part, parts
_HEAD = struct.Struct("!2sBBIQQQIBBBBB")
_ENTRY = struct.Struct("!8sI")
ENTRIES_MAX = (SIZE_MAX - _HEAD.size - 2 * ID_MAX - TAG) // _ENTRY.size
PARTS_MAX = 255
NOT_REACHED = 0xFFFFFFFF


class Malformed(Exception):
    """No datagram of this protocol and version."""


class Datagram(NamedTuple):
    """One probe. ``sent`` is the pinger's CLOCK_MONOTONIC in ns; ``heard`` the highest sequence of the receiver's pings
    that reached the sender (0: none); bit i of ``heard_bits`` says that this one minus i did, for i below ``heard_n``.
    ``vector`` is part ``part`` of ``parts``, entries as ``entries`` makes them; parts 0: none.
    """

    kind: int
    source: str
    epoch: int
    destination: str
    sequence: int
    sent: int
    heard: int = 0
    heard_bits: int = 0
    heard_n: int = 0
    part: int = 0
    parts: int = 0
    vector: bytes = b""


def probe_key(cluster_key: bytes) -> bytes:
    """The HMAC key of probes: 32 bytes that nothing else uses."""
    return hashlib.sha256(b"flyproxy-probe\0" + cluster_key).digest()


def host_hash(host: str) -> bytes:
    """A host's 8-byte name inside vectors."""
    return hashlib.sha256(host.encode()).digest()[:8]


def encode(probe: Datagram, key: bytes) -> bytes:
    """At most SIZE_MAX bytes, the tag last."""
    source, destination = probe.source.encode(), probe.destination.encode()
    body = b"".join((
        _HEAD.pack(MAGIC, VERSION, probe.kind, probe.epoch, probe.sequence, probe.sent, probe.heard, probe.heard_bits,
                   probe.heard_n, len(source), len(destination), probe.part, probe.parts),
        source, destination, probe.vector))
    return body + _tag(body, key)


def decode(data: bytes) -> Datagram:
    """The fields, not yet to be believed: see ``authentic``. Raises Malformed."""
    if not _HEAD.size + TAG < len(data) <= SIZE_MAX:
        raise Malformed
    (magic, version, kind, epoch, sequence, sent, heard, heard_bits, heard_n, source_n, destination_n, part,
     parts) = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION or kind not in (PING, PONG):
        raise Malformed
    middle = _HEAD.size + source_n
    end = middle + destination_n
    vector = data[end:-TAG]
    if not (0 < source_n <= ID_MAX and 0 < destination_n <= ID_MAX and end + TAG <= len(data)
            and len(vector) % _ENTRY.size == 0 and (part < parts or not (parts or part or vector))):
        raise Malformed
    try:
        source, destination = data[_HEAD.size:middle].decode("ascii"), data[middle:end].decode("ascii")
    except UnicodeDecodeError:
        raise Malformed from None
    return Datagram(kind, source, epoch, destination, sequence, sent, heard, heard_bits, heard_n, part, parts, vector)


def authentic(data: bytes, key: bytes) -> bool:
    """Whether the tag is that of somebody who has the cluster key."""
    return hmac.compare_digest(data[-TAG:], _tag(data[:-TAG], key))


def quoted(data: bytes) -> tuple[str, int] | None:
    """(destination, sequence) of a ping of ours as an ICMP error quotes it, which may be cut short; None: no ping."""
    if len(data) < _HEAD.size:
        return None
    magic, version, kind, _, sequence, _, _, _, _, source_n, destination_n, _, _ = _HEAD.unpack_from(data)
    middle = _HEAD.size + source_n
    if (magic, version, kind) != (MAGIC, VERSION, PING) or len(data) < middle + destination_n:
        return None
    return data[middle:middle + destination_n].decode("ascii", "replace"), sequence


def entries(reached: Sequence[tuple[bytes, float | None]]) -> bytes:
    """One part of a vector: (host hash, distance in seconds or None: not reached directly), at most ENTRIES_MAX."""
    return b"".join(
        _ENTRY.pack(name, NOT_REACHED if far is None else microseconds(far)) for name, far in reached)


def distance_in(vector: bytes, name: bytes) -> tuple[bool, float | None]:
    """(whether the host is named in this part, its distance in seconds or None: not reached)."""
    at = vector.find(name)
    while at % _ENTRY.size:         # -1 also: it is no multiple of the entry's size
        if at < 0:
            return False, None
        at = vector.find(name, at + 1)
    far = _ENTRY.unpack_from(vector, at)[1]
    return True, None if far == NOT_REACHED else far / 1e6


def microseconds(seconds: float) -> int:
    """As published and sent: at least 1, below NOT_REACHED."""
    return min(max(round(seconds * 1e6), 1), NOT_REACHED - 1)


def _tag(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:TAG]
