"""Real sockets: a relay that delays and cuts, a table and a load segment as probing sees them."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable

from flyproxy.control.mesh.node import Me, Node
from flyproxy.control.mesh.peers import other_hosts
from flyproxy.control.mesh.probe import Prober, probe_socket
from flyproxy.control.mesh.wire import probe_key
from flyproxy.units import ip16

KEY = probe_key(b"0123456789abcdef")
PATIENCE = 20.0


async def eventually(condition: Callable[[], object], what: str):
    """The first true value of ``condition``, looked at from the loop that it changes in."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"not within {PATIENCE} s: {what}"
        await asyncio.sleep(0.005)
    return value


class Table:
    """``TableReader`` as far as probing reads it."""

    def __init__(self) -> None:
        self.generation = 1
        self.rows: dict[str, dict] = {}

    def put(self, id: str, slot: int, address: str, ports: list[int], roles=("edge", "worker"), epoch=100) -> None:
        self.rows[id] = {"id": id, "slot": slot, "region": f"r{id}", "address": ip16(address), "ports": ports,
                         "epoch": epoch, "roles": list(roles)}
        self.generation += 1

    def remove(self, id: str) -> None:
        del self.rows[id]
        self.generation += 1

    def hosts(self) -> list[dict]:
        return list(self.rows.values())


class Words(dict):
    """``Closeness``: slot to (state, rtt_us, via)."""

    def set(self, slot, state, rtt_us, via) -> None:
        self[slot] = state, rtt_us, via

    def state(self, slot) -> str:
        return self.get(slot, ("unknown",))[0]


class Relay:
    """Stands between two hosts. ``faces[a]`` is a socket on a's address that b takes for a, and the other way round."""

    def __init__(self, a: tuple[str, int], b: tuple[str, int], delay: float = 0.0) -> None:
        self.delay = delay
        self.cut = False
        self.faces = {address: probe_socket(address, 0) for address, _ in (a, b)}
        loop = asyncio.get_running_loop()
        for here, there in ((a, b), (b, a)):
            loop.add_reader(self.faces[here[0]].fileno(), self._pass, self.faces[here[0]], self.faces[there[0]], here)

    def port(self, address: str) -> int:
        return self.faces[address].getsockname()[1]

    def close(self) -> None:
        for face in self.faces.values():
            asyncio.get_running_loop().remove_reader(face.fileno())
            face.close()

    def _pass(self, face: socket.socket, back: socket.socket, to: tuple[str, int]) -> None:
        data = face.recv(2048)
        if not self.cut:
            asyncio.get_running_loop().call_later(self.delay, self._send, back, data, to)

    def _send(self, back: socket.socket, data: bytes, to: tuple[str, int]) -> None:
        if back.fileno() >= 0:
            back.sendto(data, to)


class Place:
    """One host: a prober on 127.0.0.x, its table and its words. Used as a context manager."""

    def __init__(self, id: str, slot: int, address: str | None = None, port: int = 0, epoch: int = 100) -> None:
        self.id, self.slot, self.epoch = id, slot, epoch
        self.address = address or f"127.0.0.{slot + 1}"
        self.table, self.words = Table(), Words()
        self.socket = probe_socket(self.address, port)
        self.port = self.socket.getsockname()[1]
        self.prober: Prober | None = None

    def begin(self) -> None:
        self.node = Node(Me(self.id, self.epoch, KEY), self.words.set, random.random)
        self.prober = Prober(self.node, self.socket, lambda: self.table.generation,
                             lambda: other_hosts(self.table.hosts(), self.id))

    def knows(self, other: Place, port: int | None = None, **row) -> None:
        ports = [port if port is not None else other.port]
        self.table.put(other.id, other.slot, other.address, **{"ports": ports, "epoch": other.epoch, **row})

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_) -> None:
        if self.prober is not None:
            self.prober.close()
        self.socket.close()


def join(a: Place, b: Place, delay: float = 0.0) -> Relay:
    """Put a relay between two places and tell each of the other."""
    relay = Relay((a.address, a.port), (b.address, b.port), delay)
    a.knows(b, relay.port(b.address))
    b.knows(a, relay.port(a.address))
    return relay
