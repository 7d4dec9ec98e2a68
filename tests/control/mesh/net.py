"""A network of nodes in simulated time: links with a delay and a fate for each datagram, no sockets, no clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from flyproxy.control.mesh.node import Me, Node
from flyproxy.control.mesh.peers import Host
from flyproxy.control.mesh.wire import probe_key

KEY = probe_key(b"0123456789abcdef")
PORT = 7443
STEP = 0.005        # the pace of the real timer
BEGIN = 1000.0


@dataclass
class Wire:
    """One direction of a link. ``passes`` decides for each datagram, by its number on this wire."""

    delay: float = 0.01
    passes: Callable[[int], bool] = lambda number: True
    sent: int = 0
    tap: list[bytes] = field(default_factory=list)

    def cut(self) -> None:
        self.passes = lambda number: False

    def mend(self) -> None:
        self.passes = lambda number: True


def losing(share: float, seed: int = 1) -> Callable[[int], bool]:
    """Loses this share of datagrams, the same ones in every run."""
    fate = random.Random(seed)
    return lambda number: fate.random() >= share


@dataclass
class Station:
    """A host of the simulation: its node, and what it has published, by host id."""

    node: Node
    host: Host
    words: dict[str, tuple[str, int, str | None]] = field(default_factory=dict)
    story: list[tuple[float, str, str]] = field(default_factory=list)
    stalled: bool = False
    backlog: list[tuple[bytes, str]] = field(default_factory=list)

    def state(self, other: str) -> str:
        return self.words.get(other, ("unknown", 0, None))[0]


class Net:
    """Hosts ``a``, ``b``, ... in slots 1, 2, ...; every pair joined. ``edges`` take no backhaul connections."""

    def __init__(self, names: str, delay: float = 0.01, edges: str = "") -> None:
        self.now = BEGIN
        self.hosts = {
            name: Host(name, slot, f"r{name}", f"10.0.0.{slot}", 0 if name in edges else PORT, 100)
            for slot, name in enumerate(names, 1)}
        self.wires = {(a, b): Wire(delay) for a, b in itertools.permutations(names, 2)}
        self.stations: dict[str, Station] = {}
        self._flying: list[tuple[float, int, str, str, bytes]] = []
        self._count = itertools.count()
        for name in names:
            self.start(name)

    def start(self, name: str, epoch: int = 100) -> Station:
        """(Re)start a host's control process; who it was is forgotten, what it published stays."""
        host = self.hosts[name]._replace(epoch=epoch)
        node = Node(Me(name, epoch, KEY), lambda *word: self._publish(name, *word), random.Random(host.slot).random)
        node.follow({other: host for other, host in self.hosts.items() if other != name}, self.now)
        before = self.stations.get(name)
        self.stations[name] = Station(node, host, before.words if before else {}, before.story if before else [])
        return self.stations[name]

    def node(self, name: str) -> Node:
        return self.stations[name].node

    def link(self, a: str, b: str):
        return self.node(a).peers[b].link

    def state(self, a: str, b: str) -> str:
        return self.stations[a].state(b)

    def both(self, a: str, b: str) -> tuple[Wire, Wire]:
        return self.wires[a, b], self.wires[b, a]

    def cut(self, a: str, b: str) -> None:
        for wire in self.both(a, b):
            wire.cut()

    def mend(self, a: str, b: str) -> None:
        for wire in self.both(a, b):
            wire.mend()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self._deliver()
            for name, station in self.stations.items():
                if not station.stalled:
                    for out in station.node.take_due(self.now, 32):
                        self._send(name, out.address, out.data)
            self.now += STEP

    def until(self, condition: Callable[[], bool], seconds: float) -> float:
        """Run until it holds; how long that took. AssertionError when it takes longer than ``seconds``."""
        begun = self.now
        while not condition():
            assert self.now - begun < seconds, f"not within {seconds} s"
            self.run(STEP)
        return self.now - begun

    def resume(self, name: str) -> None:
        """A host that stood still goes on as the real process does: it reads first, then says it was not there."""
        station = self.stations[name]
        station.stalled = False
        for data, source in station.backlog:
            self._arrive(name, source, data)
        station.backlog.clear()
        station.node.forget()

    def inject(self, name: str, source: str, data: bytes) -> bytes | None:
        """A datagram that somebody made; what the host answers."""
        return self.node(name).receive(data, self.hosts[source].address, self.now)

    def _publish(self, name: str, slot: int, state: str, rtt_us: int, via: int | None) -> None:
        names = {host.slot: other for other, host in self.hosts.items()}
        station = self.stations[name]
        if station.state(names[slot]) != state:
            station.story.append((self.now, names[slot], state))
        station.words[names[slot]] = state, rtt_us, names.get(via)

    def _send(self, source: str, address: str, data: bytes) -> None:
        target = next(name for name, host in self.hosts.items() if host.address == address)
        wire = self.wires[source, target]
        wire.sent += 1
        wire.tap.append(data)
        if wire.passes(wire.sent):
            heapq.heappush(self._flying, (self.now + wire.delay, next(self._count), source, target, data))

    def _deliver(self) -> None:
        while self._flying and self._flying[0][0] <= self.now:
            _, _, source, target, data = heapq.heappop(self._flying)
            if self.stations[target].stalled:
                self.stations[target].backlog.append((data, source))
            else:
                self._arrive(target, source, data)

    def _arrive(self, target: str, source: str, data: bytes) -> None:
        answer = self.node(target).receive(data, self.hosts[source].address, self.now)
        if answer is not None:
            self._send(target, self.hosts[source].address, answer)
