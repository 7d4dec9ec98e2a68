"""The kinds of value that are written as text: durations, sizes, addresses, networks, port ranges, names.

Each kind reads what stands in a file (``parse``, raising ValueError with what is expected), checks what came from
elsewhere, and writes it back (``show``). The same objects describe the settings in the documentation.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)", re.ASCII)
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PORT_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds of ``"250ms"``, ``"10s"``, ``"5m"``, ``"1h"`` or ``"0"``; ValueError for anything else."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError
    return float(match[1]) * _SECONDS[match[2]]


def show_duration(seconds: float) -> str:
    """The shortest exact way to write it: ``60.0`` is ``"1m"``, ``0.25`` is ``"250ms"``."""
    if seconds == 0:
        return "0"
    for unit in ("h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{seconds * 1000:.10g}ms"


def parse_size(text: str) -> int:
    """Bytes of ``"512B"``, ``"64KiB"``, ``"1MiB"``, ``"2GiB"`` or ``"0"``; ValueError for anything else."""
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError
    return int(match[1]) * _BYTES[match[2]]


def show_size(size: int) -> str:
    """The largest unit that divides it: ``65536`` is ``"64KiB"``."""
    if size == 0:
        return "0"
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size % _BYTES[unit] == 0)
    return f"{size // _BYTES[unit]}{unit}"


def split_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """``"127.0.0.1:80"`` and ``"[::1]:80"`` as (canonical IP, port); without a port only where a default is given.

    v4-mapped v6 addresses become v4, so that one address has one spelling. Raises ValueError.
    """
    host, port = text, default_port
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError
        port = _port(rest[1:]) if rest else default_port
    elif text.count(":") == 1:
        host, _, rest = text.partition(":")
        port = _port(rest)
    elif ":" in text and default_port is None:
        raise ValueError
    if port is None:
        raise ValueError
    return canonical_ip(host), port


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise ValueError
    return int(text)


def canonical_ip(text: str) -> str:
    """The one spelling of an IP address; zones are refused, v4-mapped becomes v4. Raises ValueError."""
    if "%" in text:
        raise ValueError
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


def join_address(ip: str, port: int) -> str:
    """The reverse of split_address."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def ip16(text: str) -> bytes:
    """The 16 bytes of an address, v4 as v4-mapped. Raises ValueError."""
    packed = ipaddress.ip_address(text).packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed


def parse_port_range(text: str) -> tuple[int, int]:
    """``"80"`` or ``"1024-65535"`` as (first, last). Raises ValueError."""
    match = _PORT_RANGE.fullmatch(text)
    if match is None:
        raise ValueError
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError
    return first, last


@dataclass(frozen=True)
class Kind:
    """A value with a form of its own: ``expects`` completes "must be ...", ``parse`` takes a value of one of the types
    in ``accepts`` and raises ValueError, ``show`` is its reverse."""

    expects: str
    parse: Callable[[Any], Any]
    show: Callable[[Any], Any] = str
    accepts: tuple[type, ...] = (str,)


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    @property
    def expects(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


def duration(low: str, high: str, zero: str = "") -> Kind:
    """A duration between two others; ``zero`` says what "0" means where it is allowed."""
    least, most = parse_duration(low), parse_duration(high)

    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if not (zero and seconds == 0) and not least <= seconds <= most:
            raise ValueError
        return seconds

    extra = f' (or "0": {zero})' if zero else ""
    return Kind(f'a duration from "{low}" to "{high}"{extra}', parse, show_duration)


def size(low: str, high: str, zero: str = "") -> Kind:
    """A size in bytes between two others; ``zero`` says what "0" means where it is allowed."""
    least, most = parse_size(low), parse_size(high)

    def parse(text: str) -> int:
        count = parse_size(text)
        if not (zero and count == 0) and not least <= count <= most:
            raise ValueError
        return count

    extra = f' (or "0": {zero})' if zero else ""
    return Kind(f'a size from "{low}" to "{high}"{extra}', parse, show_size)


def pattern(regex: str, expects: str) -> Kind:
    """Text that matches ``regex`` as a whole."""
    compiled = re.compile(regex, re.ASCII)

    def parse(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError
        return text

    return Kind(expects, parse)


def _address(text: str) -> str:
    return join_address(*split_address(text))


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _ports(text: str) -> str:
    first, last = parse_port_range(text)
    return f"{first}-{last}" if last > first else str(first)


ADDRESS = Kind('an address such as "127.0.0.1:8080" or "[::]:8080"', _address)
NETWORK = Kind('a network such as "10.0.0.0/8" or "fd00::/8", host bits zero', _network)
PORT_RANGE = Kind('a port or a range of ports from 1 to 65535, such as "1024-65535"', _ports)


def optional(kind: Kind) -> Kind:
    """The same kind, or empty text."""
    return Kind(f"{kind.expects}, or empty", lambda text: kind.parse(text) if text else "", kind.show)
