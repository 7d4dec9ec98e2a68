"""What measuring the mesh costs the control process: CPU time, and how late it makes the event loop.

``python -m bench.mesh --hosts 200 --rounds 5``: one host is measured, on the loop and the sockets that control uses; a
second process plays all the others on 127.0.x.y, each of which pings and answers it and tells of all hosts. ``--cut``
takes half of them away once they are measured, so that each needs a third host. Each round is compared with rounds of
the same loop without probing; the least of each is printed, since whatever else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping
from typing import NamedTuple

import uvloop

from flyproxy.control.mesh.node import Me, Node
from flyproxy.control.mesh.peers import Host
from flyproxy.control.mesh.probe import Prober, probe_socket
from flyproxy.control.mesh.wire import host_hash, probe_key

KEY = probe_key(b"a cluster key for measuring")
PORT = 27443
SETTLE = 5.0        # seconds: first pings at the fast rate
TICK = 0.002


def hosts(count: int) -> dict[str, Host]:
    """Host ``h0`` is the measured one."""
    return {f"h{i}": Host(f"h{i}", i, "loc", f"127.0.{1 + i // 200}.{1 + i % 200}", PORT, 1) for i in range(count)}


class Talker(Node):
    """One of the others: knows ``h0`` alone, and tells of everybody."""

    everybody: Mapping[str, Host] = {}

    def _write(self, now: float) -> None:
        if not self._telling.parts:
            self._telling.write([(host_hash(name), 0.02) for name in self.everybody])


def node_of(kind: type[Node], host: Host) -> Node:
    return kind(Me(host.id, 1, KEY), lambda *word: None, random.random)


def prober(node: Node, host: Host, others: Mapping[str, Host]) -> Prober:
    return Prober(node, probe_socket(host.address, host.port), lambda: 1, lambda: others)


async def others(everybody: dict[str, Host], cut: bool) -> None:
    Talker.everybody = everybody
    mine = [host for name, host in everybody.items() if name != "h0"]
    probers = [prober(node_of(Talker, host), host, {"h0": everybody["h0"]}) for host in mine]
    if cut:
        while not all(one.node.peers and one.node.peers["h0"].link.state == "direct" for one in probers):
            await asyncio.sleep(0.1)
        for one in probers[::2]:
            one.node.receive = lambda *_: None          # hears nothing, so answers nothing
    await asyncio.Event().wait()


class Cost(NamedTuple):
    """Share of a core, and how late a timer was: median, 99th of 100, worst; seconds."""

    cpu: float
    median: float
    p99: float
    worst: float


async def one_round(seconds: float) -> Cost:
    late: list[float] = []
    cpu, begun = time.process_time(), time.monotonic()
    while (now := time.monotonic()) - begun < seconds:
        await asyncio.sleep(TICK)
        late.append(time.monotonic() - now - TICK)
    cpu, took = time.process_time() - cpu, time.monotonic() - begun
    late.sort()
    return Cost(cpu / took, late[len(late) // 2], late[len(late) * 99 // 100], late[-1])


async def rounds(count: int, seconds: float) -> Cost:
    """The least of each over some rounds."""
    done = [await one_round(seconds) for _ in range(count)]
    return Cost(*(min(values) for values in zip(*done, strict=True)))


def shown(what: str, cost: Cost) -> None:
    print(f"{what}: {100 * cost.cpu:.2f} % of a core; a timer is late by {1000 * cost.median:.2f} ms median, "
          f"{1000 * cost.p99:.2f} ms p99, {1000 * cost.worst:.2f} ms worst")


async def measured(everybody: dict[str, Host], count: int, seconds: float) -> None:
    shown("without probing", await rounds(count, seconds))
    me = everybody["h0"]
    node = node_of(Node, me)
    running = prober(node, me, {name: host for name, host in everybody.items() if name != "h0"})
    await asyncio.sleep(SETTLE)
    shown(f"{len(everybody)} hosts", await rounds(count, seconds))
    states = [peer.word.state if peer.word else "unknown" for peer in node.peers.values()]
    print(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))), "dropped:", +node.dropped)
    running.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round")
    parser.add_argument("--cut", action="store_true")
    asked = parser.parse_args()
    everybody = hosts(asked.hosts)
    child = os.fork()
    if child == 0:
        uvloop.run(others(everybody, asked.cut))
        os._exit(0)
    try:
        uvloop.run(measured(everybody, asked.rounds, asked.seconds))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
