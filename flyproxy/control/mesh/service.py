"""Probing as control starts, follows and stops it, and what it reports to the metrics page."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from flyproxy import log
from flyproxy.boot import Boot
from flyproxy.control.mesh.node import DROPPED, Me, Node
from flyproxy.control.mesh.peers import Host, Published, Word, other_hosts
from flyproxy.control.mesh.probe import Prober, probe_socket
from flyproxy.control.mesh.wire import probe_key
from flyproxy.settings import Settings
from flyproxy.units import split_address

BIND_AGAIN = 1.0        # seconds until a port that was taken is tried again
REACHABLE: Mapping[str, float] = {"direct": 1.0, "via": 0.5, "down": 0.0}


class Table(Protocol):
    """What probing reads of the VM table."""

    @property
    def generation(self) -> int: ...
    def hosts(self) -> list[dict[str, Any]]: ...


class Words(Protocol):
    """The load segment's words of hosts: ``flyproxy._speedups.shm.closeness.Closeness``."""

    def set(self, slot: int, state: Published, rtt_us: int, via: int | None) -> None: ...


class Reached(NamedTuple):
    """One measured host: ``rtt`` in seconds, None when it cannot be reached; 1 direct, 0.5 via a third host, 0 down."""

    host: str
    region: str
    rtt: float | None
    reachable: float


class Report(NamedTuple):
    """For metrics; ``dropped`` counts datagrams by reason."""

    hosts: Sequence[Reached] = ()
    dropped: Mapping[str, int] = dict.fromkeys(DROPPED, 0)


class Mesh:
    """Measures while this host has a cluster key and an address on the mesh; ``words`` opens the segment for that."""

    def __init__(self, boot: Boot, table: Table, words: Callable[[], Words]) -> None:
        self.boot = boot
        self.table = table
        self.words = words
        self._prober: Prober | None = None
        self._built_on: tuple[str, str] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._plain: set[str] = set()  # hosts of which it was said that they have no TLS

    def follow(self, settings: Settings) -> None:
        """Begin, end or begin anew, as the settings want it."""
        wanted = (settings.backhaul.address, settings.host)
        if wanted != self._built_on:
            self.close()
            self._built_on = wanted
            if self.boot.cluster_key and settings.backhaul.address:
                self._open(self._node(settings), settings)

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        if self._prober is not None:
            self._prober.close()
        self._again = self._prober = None

    def report(self) -> Report:
        if self._prober is None:
            return Report()
        node = self._prober.node
        return Report([_reached(peer.host, peer.word) for peer in node.peers.values() if peer.word is not None],
                      dict(node.dropped))

    def _node(self, settings: Settings) -> Node:
        me = Me(settings.host, self.boot.epoch, probe_key(self.boot.cluster_key))
        return Node(me, self.words().set, random.random)

    def _open(self, node: Node, settings: Settings, said: bool = False) -> None:
        """The UDP port that others know is the number of our first backhaul port; a host without one takes any."""
        address, _ = split_address(settings.backhaul.address)
        port = self.boot.backhaul_ports[0] if self.boot.backhaul_ports else 0
        try:
            sock = probe_socket(address, port)
        except OSError as error:
            if not said:
                log.error("mesh-bind", f"probes cannot use UDP port {port} of {address}: {error.strerror}; nobody "
                          "measures this host and it measures nobody; tried again every second",
                          fix="free the port, or give this host the address in backhaul.address")
            self._again = asyncio.get_running_loop().call_later(BIND_AGAIN, self._open, node, settings, True)
            return
        self._prober = Prober(node, sock, lambda: self.table.generation,
                              lambda: self._others(settings))

    def _others(self, settings: Settings) -> dict[str, Host]:
        rows = self.table.hosts()
        plain = {row["id"] for row in rows if settings.backhaul.cert and not row["tls"]}
        for host in sorted(plain - self._plain):
            log.warning("mesh-plain", f"host {host} has no certificate: what it and this host tell each other is not "
                        "in TLS", host_id=host, fix="give it 'ca', 'cert' and 'key' in [backhaul] and restart it")
        self._plain = plain
        return other_hosts(rows, settings.host)


def _reached(host: Host, word: Word) -> Reached:
    return Reached(host.id, host.region, word.rtt_us / 1e6 if word.rtt_us else None, REACHABLE[word.state])
