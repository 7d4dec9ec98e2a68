"""Who is there: the hosts of the table as probing sees them."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from flyproxy.control.mesh.judge import Link
from flyproxy.control.mesh.vector import Hearsay, Told

Published = Literal["unknown", "direct", "via", "down"]


class Host(NamedTuple):
    """Another host. ``port`` is its first backhaul port, 0 for a host that takes no backhaul connections."""

    id: str
    slot: int
    region: str
    address: str
    port: int
    epoch: int

    @property
    def probed(self) -> bool:
        """Only a host that can be sent requests is worth measuring; the others are only answered."""
        return self.port != 0


class Word(NamedTuple):
    """What is published of a host: its state, the round trip stretched by loss (0: none), the third host's slot."""

    state: Published
    rtt_us: int = 0
    via: int | None = None


@dataclass(slots=True)
class Peer:
    """Another host and what is known of it. ``via``: the third host that leads to it; ``carries``: whom it leads to;
    ``look``: when to look for another way, infinite mostly. ``due`` is when anything is to be done."""

    host: Host
    name: bytes
    link: Link
    epoch: int
    due: float = math.inf
    next_ping: float = math.inf
    look: float = math.inf
    told: Told = field(default_factory=Told)
    hearsay: Hearsay = field(default_factory=Hearsay)
    via: str | None = None
    carries: set[str] = field(default_factory=set)
    word: Word | None = None


def other_hosts(rows: Iterable[Mapping[str, Any]], own: str) -> dict[str, Host]:
    """By id, from ``TableReader.hosts()``, without this host."""
    return {
        row["id"]: Host(row["id"], row["slot"], row["region"], plain_address(row["address"]),
                        row["ports"][0] if row["ports"] and "worker" in row["roles"] else 0, row["epoch"])
        for row in rows if row["id"] != own
    }


def plain_address(ip16: bytes) -> str:
    """The one spelling of 16 bytes; v4-mapped becomes v4, as sockets report it."""
    address = ipaddress.IPv6Address(ip16)
    return str(address.ipv4_mapped or address)
