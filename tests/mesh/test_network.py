"""Whole hosts that reach each other only over a network: who serves, what a tunnel carries, and who is let in."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.client import RawClient
from tests.kit.crowd import Crowd, EchoServer
from tests.kit.edge import Hello, Status, Wire, key_of
from tests.kit.netns import Host, Network
from tests.kit.region import Detour, Regions, role_of
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until
from tests.kit.wireguard import Mesh

TCP_PORT = 7001
TCP = f"[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = {TCP_PORT}\n"
WEB = "web.localhost"
DELAY_S = 0.03
LONG_S = 0.1


def asked(regions: Regions, at: str = "yyz") -> str:
    """The machine that answers."""
    with regions[at].client() as client:
        answer = client.get(host=WEB)
        return answer.body.decode().strip() if answer.status == 200 else f"{answer.status} {answer.error}"


def named(name: str) -> ScriptedVM:
    """A machine that says its name."""
    return ScriptedVM(name=name)


def test_the_nearest_region_by_measure_serves_and_when_it_stops_the_next() -> None:
    """dfw is the first by name, and far; its machines are taken last."""
    roles = {"yyz": ["edge"], "dfw": ["worker"], "syd": ["worker"]}
    options: dict[str, Any] = {"roles": roles, "allowed": ["host-id-taken", "exited", "respawn"]}
    with Regions(*roles, **options) as regions, contextlib.ExitStack() as stack:
        regions.meet()
        reader = regions["yyz"].process
        assert reader is not None
        machines = {name: named(name) for name in ("dfw", "syd")}
        for vm in machines.values():
            stack.callback(vm.stop)
        regions.add_app("web", {name: [vm.address] for name, vm in machines.items()}, hostnames=[WEB])
        assert {asked(regions) for _ in range(20)} <= {"dfw", "syd"}
        stack.enter_context(Detour(regions.database, reader.pid, "dfw-1", delay=DELAY_S))
        os.kill(role_of(regions["yyz"], "control"), signal.SIGKILL)  # measures anew, not on from the short way
        until(lambda: [asked(regions) for _ in range(5)] == ["syd"] * 5, "the nearest serves", every=0.2)
        machines["syd"].stop()
        assert [asked(regions) for _ in range(5)] == ["dfw"] * 5
        machines["dfw"].stop()
        assert asked(regions) == "502 PC01"


def test_on_a_long_way_a_large_body_does_not_wait_a_round_trip_for_each_64_kb() -> None:
    trips = 200  # for one direction, if it did
    body = bytes(trips << 16)
    roles = {"yyz": ["edge"], "dfw": ["worker"]}
    with Regions(*roles, roles=roles, allowed=["host-id-taken"]) as regions, contextlib.ExitStack() as stack:
        regions.meet()
        reader = regions["yyz"].process
        assert reader is not None
        vm = ScriptedVM()
        stack.callback(vm.stop)
        stack.enter_context(Detour(regions.database, reader.pid, "dfw-1", delay=LONG_S / 2))
        regions.add_app("web", {"dfw": [vm.address]}, hostnames=[WEB])
        with regions["yyz"].client() as client:
            begun = time.monotonic()
            client.request("PUT", host=WEB, body=body)
            assert client.response().body == body
            assert time.monotonic() - begun < trips * LONG_S / 2


@pytest.fixture
def two_places() -> Iterator[Regions]:
    """An edge, and a machine in each of two other regions."""
    roles = {"yyz": ["edge"], "dfw": ["worker"], "syd": ["worker"]}
    with Regions(*roles, roles=roles, allowed=["respawn", "exited"]) as regions, contextlib.ExitStack() as stack:
        regions.meet()
        machines = {name: named(name) for name in ("dfw", "syd")}
        for vm in machines.values():
            stack.callback(vm.stop)
        regions.add_app("web", {name: [vm.address] for name, vm in machines.items()}, hostnames=[WEB])
        yield regions


def test_a_host_that_is_gone_is_passed_over_at_once_and_taken_again_when_it_is_back(two_places: Regions) -> None:
    first = asked(two_places)
    other = {"dfw": "syd", "syd": "dfw"}[first]
    two_places[first].kill()
    assert [asked(two_places) for _ in range(10)] == [other] * 10
    (two_places[first].dir / "notify").unlink()
    two_places[first].start()
    two_places.meet()
    two_places[other].kill()
    until(lambda: asked(two_places) == first, "the first serves again")
    assert [asked(two_places) for _ in range(10)] == [first] * 10
    (two_places[other].dir / "notify").unlink()
    two_places[other].start()


# -- over WireGuard


class Joined:
    """yyz, dfw and syd over WireGuard, with the machines on dfw; the stranger is on their network, but none of them."""

    def __init__(self, network: Network, mesh: Mesh, regions: Regions) -> None:
        *self.hosts, self.stranger = network.hosts
        self.mesh, self.regions = mesh, regions

    def address(self, port: str = "http") -> tuple[str, int]:
        return self.regions["yyz"].address(port)


def echo(conn: VMConnection) -> None:
    while data := conn.recv():
        conn.send(data)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    with Network(4) as network, contextlib.ExitStack() as stack:
        hosts = network.hosts[:3]
        mesh = Mesh(hosts, tmp_path_factory.mktemp("wg"))
        regions = stack.enter_context(
            Regions("yyz", "dfw", "syd", places=hosts, mesh=mesh.addresses, ports=(80, TCP_PORT))
        )
        regions.meet()
        with hosts[1].inside():
            web, tcp, sockets = named("dfw"), ScriptedVM(echo), EchoServer()
        for server in (web, tcp, sockets):
            stack.callback(server.stop)
        regions.add_app("web", {"dfw": [web.address]}, hostnames=[WEB])
        regions.add_app("tcp", {"dfw": [tcp.address]}, TCP)
        regions.add_app("ws", {"dfw": [sockets.address]}, hostnames=["ws.localhost"])
        yield Joined(network, mesh, regions)


def test_http_websockets_and_tcp_go_through_real_wireguard(joined: Joined) -> None:
    yyz, big = joined.hosts[0], bytes(range(256)) * 8192
    before = tunnel_bytes(joined)
    with yyz.inside():
        with RawClient(joined.address(), 20.0) as client:
            assert client.get(host=WEB).body == b"dfw\n"
            client.request("PUT", host=WEB, body=big)
            assert client.response().body == big
        with RawClient(joined.address(str(TCP_PORT)), 20.0) as client:
            client.send(b"hello" * 1000)
            assert client.exactly(5000) == b"hello" * 1000
        with Crowd(joined.address(), "ws.localhost", 50) as crowd:
            crowd.gather()
            crowd.say("through the tunnel")
            crowd.leave()
    assert tunnel_bytes(joined) - before > 2 * len(big), "it went through the tunnel"


def tunnel_bytes(joined: Joined) -> int:
    """What dfw's tunnel has carried, both ways."""
    lines = joined.hosts[1].run("wg", "show", joined.mesh.interfaces[1], "transfer").splitlines()
    return sum(int(number) for line in lines for number in line.split()[1:])


def test_a_stranger_is_refused_at_the_backhaul(joined: Joined) -> None:
    """It is on the network of the hosts, speaks the protocol and even has the key, but it is at nobody's address."""
    rows = {row["id"]: row for row in joined.regions["yyz"].ctl("hosts", "list")}
    dfw, key = rows["dfw-1"], key_of((joined.regions.dir / "cluster.key").read_text())
    to = (joined.mesh.addresses[1], dfw["ports"][0])
    hello = Hello("yyz-1", rows["yyz-1"]["epoch"], "dfw-1", dfw["epoch"], to[1])

    def greeted(host: Host, source: str, say: bytes) -> Status:
        with host.inside(), Wire(to, source) as wire:
            wire.send(say)
            return wire.answer().status

    yyz, _, syd = joined.hosts
    assert greeted(yyz, joined.mesh.addresses[0], hello.but().encode(key)) == Status.OK
    assert greeted(syd, joined.mesh.addresses[2], hello.but().encode(key)) == Status.NOT_AUTHENTIC, "not yyz's address"
    unknown = hello.but(source="gru-1")
    assert greeted(syd, joined.mesh.addresses[2], unknown.encode(key)) == Status.NOT_AUTHENTIC, "nobody's name"
    assert greeted(yyz, joined.mesh.addresses[0], b"GET / HTTP/1.1\r\n\r\n") == Status.MALFORMED
    with joined.stranger.inside(), pytest.raises(OSError):
        Wire(to, "::")  # outside the tunnel there is no way at all
    with joined.stranger.inside(), pytest.raises(ConnectionRefusedError):
        Wire((joined.hosts[1].address, to[1]), "0.0.0.0")  # and the backhaul does not listen beside it
