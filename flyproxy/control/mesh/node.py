"""This host's part in measuring the mesh: datagrams and time in, datagrams and published words out.

Knows no socket and no clock, so that whole networks of nodes run in a simulation (tests/control/mesh). ``now`` is
CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from flyproxy.control.mesh import wire
from flyproxy.control.mesh.board import Board, Publish
from flyproxy.control.mesh.judge import FAST, Link
from flyproxy.control.mesh.peers import Host, Peer
from flyproxy.control.mesh.vector import Hearsay, Telling

DROPPED = ("malformed", "not_for_us", "unknown_host", "wrong_address", "not_authentic", "old_epoch", "replayed",
           "unexpected")
JITTER = 0.1            # pings come up to this share of the interval early or late
SPREAD = 0.005          # seconds that each host adds to the time over which first pings are spread, at most 1 s
REWRITE, REWRITE_NEWS = 1.0, 0.1    # seconds between two writings of what we tell; when somebody came or went


class Me(NamedTuple):
    """This host as others know it, and the key of probes."""

    id: str
    epoch: int
    key: bytes


class Out(NamedTuple):
    """A datagram to send."""

    data: bytes
    address: str
    port: int


class Dropped(Exception):
    """A datagram that counts for nothing; the argument is one of DROPPED."""


class Node:
    """All links of this host. ``random`` gives numbers in [0, 1)."""

    def __init__(self, me: Me, publish: Publish, random: Callable[[], float]) -> None:
        self.me = me
        self.random = random
        self.peers: dict[str, Peer] = {}
        self.dropped: Counter[str] = Counter(dict.fromkeys(DROPPED, 0))
        self.board = Board(self.peers, publish, self._again)
        self._due: list[tuple[float, str]] = []
        self._telling = Telling()
        self._written = -math.inf

    # -- who is there

    def follow(self, hosts: Mapping[str, Host], now: float) -> None:
        """Make ``hosts`` all that there are. One that changed its address or ports keeps what is known of it."""
        for peer in list(self.peers.values()):
            host = hosts.get(peer.host.id)
            if host is None or (host.slot, host.probed) != (peer.host.slot, peer.host.probed):
                del self.peers[peer.host.id]
                self.board.gone(peer, now)
        for host in hosts.values():
            if host.id not in self.peers:
                self._add(host, now, min(len(hosts) * SPREAD, 1.0))
            elif self.peers[host.id].host != host:
                self._change(self.peers[host.id], host, now)
        self.board.news = True

    def close(self, now: float) -> None:
        """Nobody measures from here on: published words, which would only grow old, are taken back."""
        self.follow({}, now)

    def _add(self, host: Host, now: float, spread: float) -> None:
        # At most a few pings go to a host in a second, so this is above every sequence sent before in this epoch,
        # by this process or by the one before it.
        first = round(now * 1000) + 1
        peer = self.peers[host.id] = Peer(host, wire.host_hash(host.id), Link(first), host.epoch)
        if host.probed:
            peer.next_ping = now + self.random() * spread
            self._schedule(peer, now)

    def _change(self, peer: Peer, host: Host, now: float) -> None:
        peer.host = host
        peer.link.hasten()
        if host.epoch > peer.epoch:
            self._restarted(peer, host.epoch)
        self._schedule(peer, now)

    # -- datagrams

    def receive(self, data: bytes, address: str, now: float) -> bytes | None:
        """A datagram came from ``address``; what to answer to where it came from, if anything."""
        try:
            peer, probe = self._believed(data, address)
            if probe.epoch > peer.epoch:
                self._restarted(peer, probe.epoch)
                self._schedule(peer, now)
            if probe.kind == wire.PING:
                return self._on_ping(peer, probe, now)
            self._on_pong(peer, probe, now)
        except Dropped as dropped:
            self.dropped[str(dropped)] += 1
        return None

    def _believed(self, data: bytes, address: str) -> tuple[Peer, wire.Datagram]:
        """Cheap questions first: a flood of nonsense costs little. Raises Dropped."""
        try:
            probe = wire.decode(data)
        except wire.Malformed:
            raise Dropped("malformed") from None
        if probe.destination != self.me.id:
            raise Dropped("not_for_us")
        peer = self.peers.get(probe.source)
        if peer is None:
            raise Dropped("unknown_host")
        if address != peer.host.address:
            raise Dropped("wrong_address")
        if not wire.authentic(data, self.me.key):
            raise Dropped("not_authentic")
        if probe.epoch < peer.epoch:
            raise Dropped("old_epoch")
        return peer, probe

    def _on_ping(self, peer: Peer, probe: wire.Datagram, now: float) -> bytes:
        link = peer.link
        if not link.hear(probe.sequence, now):
            raise Dropped("replayed")
        link.reported(probe.heard, probe.heard_bits, probe.heard_n)
        peer.hearsay.take(probe.part, probe.parts, probe.vector)
        self.board.told(peer, now)
        return wire.encode(wire.Datagram(
            wire.PONG, self.me.id, self.me.epoch, peer.host.id, probe.sequence, probe.sent,
            link.heard.high, link.heard.bits, link.heard.count), self.me.key)

    def _on_pong(self, peer: Peer, probe: wire.Datagram, now: float) -> None:
        if not peer.link.answered(probe.sequence, now):
            raise Dropped("unexpected")
        peer.link.reported(probe.heard, probe.heard_bits, probe.heard_n)
        self.board.settle(peer, now)
        self._schedule(peer, now)

    def refused(self, datagram: bytes, now: float) -> None:
        """The kernel of the host that this ping of ours went to says that nobody listens there."""
        found = wire.quoted(datagram)
        peer = self.peers.get(found[0]) if found else None
        if found is not None and peer is not None:
            peer.link.refused(found[1], now)
            self.board.settle(peer, now)
            self._schedule(peer, now)

    def _restarted(self, peer: Peer, epoch: int) -> None:
        peer.epoch, peer.hearsay = epoch, Hearsay()
        peer.link.restarted()

    # -- time

    def next_due(self) -> float:
        """When ``take_due`` has something to do; infinite while there is nobody."""
        while self._due:
            due, name = self._due[0]
            if name in self.peers and self.peers[name].due == due:
                return due
            heapq.heappop(self._due)
        return math.inf

    def take_due(self, now: float, limit: int) -> Iterator[Out]:
        """Judge what is lost and give the pings to send now, for at most ``limit`` links."""
        for _ in range(limit):
            if self.next_due() > now:
                return
            peer = self.peers[heapq.heappop(self._due)[1]]
            peer.due = math.inf
            peer.link.expire(now)
            peer.look = math.inf
            if peer.next_ping <= now:
                yield self._ping(peer, now)
            self.board.settle(peer, now)
            self._schedule(peer, now)

    def forget(self) -> None:
        """This process stood still: what is out may have been answered unheard."""
        for peer in self.peers.values():
            peer.link.forget()

    def _ping(self, peer: Peer, now: float) -> Out:
        link, host = peer.link, peer.host
        self._write(now)
        part, parts, vector = peer.told.next(self._telling)
        probe = wire.Datagram(wire.PING, self.me.id, self.me.epoch, host.id, link.ping(now), round(now * 1e9),
                              link.heard.high, link.heard.bits, link.heard.count, part, parts, vector)
        peer.next_ping = now + self._jittered(link.interval)
        return Out(wire.encode(probe, self.me.key), host.address, host.port)

    def _jittered(self, interval: float) -> float:
        return interval * (1 - JITTER + 2 * JITTER * self.random())

    def _again(self, peer: Peer, now: float) -> None:
        peer.look = now
        self._schedule(peer, now)

    def _schedule(self, peer: Peer, now: float) -> None:
        """Note when this peer is due; in a hurry its next ping does not wait for the slow rate's turn."""
        if peer.link.hurry and peer.host.probed:
            peer.next_ping = min(peer.next_ping, now + self._jittered(FAST))
        due = min(peer.next_ping, peer.link.next_loss, peer.look)
        if due != peer.due:
            peer.due = due
            heapq.heappush(self._due, (due, peer.host.id))

    def _write(self, now: float) -> None:
        """Bring what we tell up to date, not too often."""
        if now - self._written >= (REWRITE_NEWS if self.board.news else REWRITE):
            self._written, self.board.news = now, False
            self._telling.write([(peer.name, peer.link.distance) for _, peer in sorted(self.peers.items())
                                 if peer.host.probed])
