"""The records of the state store: their shapes, their keys, and what makes one valid.

A record is a JSON array whose first field is the version of its schema. It is always replaced whole, its fields are
append-only, and a reader that knows fewer fields than were written leaves the rest aside. A raised version says that an
old reader must not try. Keys live in scopes, the units of order and authority: ``g`` for what is the same everywhere,
``r-REGION`` for the machines of a region.

    g         app.NAME  host.NAME  ip.HEX  region.CODE  node.ID    (a wildcard host is written host._.example.com)
    r-REGION  machine.ID  health.ID
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal

import idna
import msgspec

from flyproxy.apps import rules
from flyproxy.apps.model import VERSION, App
from flyproxy.settings import BACKHAUL_PORTS_MAX
from flyproxy.units import canonical_ip, ip16

MAX_BYTES = 64 << 10
GLOBAL = "g"

HostRole = Literal["edge", "worker"]
HealthStatus = Literal["unknown", "passing", "critical"]

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,38}", re.ASCII)
_REGION = re.compile(r"[a-z][a-z0-9-]{0,14}", re.ASCII)
_HOST = re.compile(r"[a-z0-9][a-z0-9-]{0,30}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


class Machine(msgspec.Struct, array_like=True, frozen=True):
    """A process that serves an app; ``port`` 0: the service's internal port."""

    v: int
    id: str
    app: str
    address: str
    port: int
    region: str
    host: str
    cordoned: bool = False


class Hostname(msgspec.Struct, array_like=True, frozen=True):
    """A host name, or ``*.`` and the name below which every label counts, and its app."""

    v: int
    host: str
    app: str


class Ip(msgspec.Struct, array_like=True, frozen=True):
    """A public address of one app, or of every app that has a host name (``app`` None)."""

    v: int
    address: str
    app: str | None = None


class Region(msgspec.Struct, array_like=True, frozen=True):
    """A region that has machines: tells readers which scopes there are."""

    v: int
    code: str


class Host(msgspec.Struct, array_like=True, frozen=True):
    """A host of the mesh, as it tells of itself: mesh address, the backhaul port of each slot, boot epoch, whether it
    speaks TLS with hosts that do."""

    v: int
    id: str
    region: str
    address: str
    ports: tuple[int, ...] = ()
    epoch: int = 0
    roles: tuple[HostRole, ...] = ()
    tls: bool = False


class Health(msgspec.Struct, array_like=True, frozen=True):
    """What the checks say of a machine, and why."""

    v: int
    machine: str
    status: HealthStatus
    reason: str = ""


Record = App | Machine | Hostname | Ip | Region | Host | Health

TYPES: dict[str, type[Record]] = {
    "app": App, "host": Hostname, "ip": Ip, "region": Region, "node": Host, "machine": Machine, "health": Health,
}
_DECODERS: dict[str, msgspec.json.Decoder[Record]] = {
    kind: msgspec.json.Decoder(struct) for kind, struct in TYPES.items()
}
_ENCODER = msgspec.json.Encoder()


class Invalid(Exception):
    """A record that must not be applied; the message says why."""


def encode(record: Record) -> bytes:
    """The record as it is stored. Raises Invalid when it is too large."""
    data = _ENCODER.encode(record)
    if len(data) > MAX_BYTES:
        raise Invalid(f"the record has {len(data)} bytes, more than the {MAX_BYTES} allowed")
    return data


def decode(scope: str, key: str, data: bytes) -> Record:
    """The typed, valid record at ``key``. Raises Invalid with the first reason why not."""
    if len(data) > MAX_BYTES:
        raise Invalid(f"the record has {len(data)} bytes, more than the {MAX_BYTES} allowed")
    decoder = _DECODERS.get(key.partition(".")[0])
    if decoder is None:
        raise Invalid(f"no record has a key like {key[:80]!r}")
    try:
        record = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse_newer(data)
        raise Invalid(f"cannot be read: {error}") from None
    if record.v != VERSION:
        raise Invalid(_newer(record.v))
    own_scope, own_key = key_of(record)
    if own_key != key or (own_scope or scope) != scope:
        raise Invalid(f"the record belongs to {own_key[:80]!r} in scope {own_scope or scope!r}, not here")
    for problem in problems(record):
        raise Invalid(problem)
    return record


def _refuse_newer(data: bytes) -> None:
    """A newer version may have any shape, so it is named as the reason before the shape is."""
    try:
        fields = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if isinstance(fields, list) and fields and type(fields[0]) is int and fields[0] != VERSION:
        raise Invalid(_newer(fields[0]))


def _newer(version: int) -> str:
    return f"version {version} of the record is not known here; this proxy reads version {VERSION}"


def key_of(record: Record) -> tuple[str, str]:
    """Scope and key of a record; Health does not know its scope (its machine's) and gives ""."""
    match record:
        case App():
            return GLOBAL, f"app.{record.name}"
        case Hostname():
            return GLOBAL, host_key(record.host)
        case Ip():
            return GLOBAL, ip_key(record.address)
        case Region():
            return GLOBAL, f"region.{record.code}"
        case Host():
            return GLOBAL, node_key(record.id)
        case Machine():
            return region_scope(record.region), f"machine.{record.id}"
        case Health():
            return "", f"health.{record.machine}"


def region_scope(region: str) -> str:
    """The scope of a region's machines."""
    return f"r-{region}"


def node_key(host: str) -> str:
    """The key of a host of the mesh; ``host.`` is the host names'."""
    return f"node.{host}"


def host_key(host: str) -> str:
    """The key of a host name; ``*`` may not stand in the subjects that other stores use."""
    return "host." + ("_." + host[2:] if host.startswith("*.") else host)


def ip_key(address: str) -> str:
    """The key of an address: its 16 bytes in hex, so that one address has one key. ``ip.`` alone when it is none."""
    try:
        return f"ip.{ip16(address).hex()}"
    except ValueError:
        return "ip."


def problems(record: Record) -> Iterator[str]:
    """What is impossible in a record, beyond its types."""
    match record:
        case App():
            for path, message in rules.check(record):
                yield f"{'.'.join(map(str, path))}: {message}"
        case Machine():
            yield from _machine(record)
        case Hostname():
            yield from _app_name(record.app)
            if normal_host(record.host) != record.host:
                yield f"{record.host[:80]!r} is not a normal host name"
        case Ip():
            yield from _app_name(record.app) if record.app is not None else ()
            yield from _address(record.address)
        case Region():
            yield from _region(record.code)
        case Host():
            yield from _mesh_host(record)
        case Health():
            yield from _id(record.machine)


def _machine(record: Machine) -> Iterator[str]:
    yield from _id(record.id)
    yield from _app_name(record.app)
    yield from _address(record.address)
    yield from _region(record.region)
    if not 0 <= record.port <= 65535:
        yield f"the port must be from 1 to 65535, or 0 for the service's own, not {record.port}"
    if record.host and _HOST.fullmatch(record.host) is None:
        yield f"the host must be 1 to 31 of a-z, 0-9 and '-', not {record.host[:80]!r}"


def _mesh_host(record: Host) -> Iterator[str]:
    if not is_host_id(record.id):
        yield f"a host's id must be 1 to 31 of a-z, 0-9 and '-', not {record.id[:80]!r}"
    yield from _region(record.region)
    yield from _address(record.address)
    if not 1 <= record.epoch < 1 << 32:
        yield f"the epoch must be unix seconds in 32 bits, not {record.epoch}"
    if not record.roles or len(set(record.roles)) < len(record.roles):
        yield "a host has each of its roles once, and at least one"
    if len(record.ports) > BACKHAUL_PORTS_MAX:
        yield f"a host has at most {BACKHAUL_PORTS_MAX} backhaul ports, not {len(record.ports)}"
    if not all(1 <= port <= 65535 for port in record.ports):
        yield "backhaul ports must be from 1 to 65535"
    if bool(record.ports) != ("worker" in record.roles):
        yield "hosts with the role worker have backhaul ports, and only these"


def is_host_id(text: str) -> bool:
    """Whether a host may be called so."""
    return _HOST.fullmatch(text) is not None


def is_app_name(text: str) -> bool:
    """Whether an app may be called so."""
    return not any(_app_name(text))


def is_machine_id(text: str) -> bool:
    """Whether a machine may be called so."""
    return not any(_id(text))


def _app_name(name: str) -> Iterator[str]:
    for _, message in rules.name_findings(name, ()):
        yield message


def _id(text: str) -> Iterator[str]:
    if _ID.fullmatch(text) is None:
        yield f"a machine's id must be 1 to 39 of a-z, 0-9 and '-', not {text[:80]!r}"


def _region(text: str) -> Iterator[str]:
    if _REGION.fullmatch(text) is None:
        yield f"a region must be 1 to 15 of a-z, 0-9 and '-', beginning with a letter, not {text[:80]!r}"


def _address(text: str) -> Iterator[str]:
    try:
        canonical = canonical_ip(text)
    except ValueError:
        yield f"{text[:80]!r} is not an IP address"
        return
    if canonical != text:
        yield f"the address {text[:80]!r} is not in its one spelling, {canonical!r}"
    address = ipaddress.ip_address(canonical)
    if address.is_unspecified or address.is_multicast:
        yield f"{text} is no address that a connection can be made to"


def normal_host(text: str) -> str:
    """The one spelling of a host name: lower case, punycode, no final dot; ``*.`` may lead. "" when it is none."""
    name = text.removesuffix(".")
    prefix = "*." if name.startswith("*.") else ""
    name = name.removeprefix(prefix)
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError:
            return ""
    name = name.lower()
    labels = name.split(".")
    valid = all(_LABEL.fullmatch(label) and label != "_" for label in labels)
    return prefix + name if valid and len(prefix + name) <= 253 else ""
