"""When the direct way between two hosts is dead, a third host passes on what they say; and never more than one."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.client import RawClient, Response
from tests.kit.edge import Hello, Status, Wire, key_of
from tests.kit.netns import Host, Network
from tests.kit.region import Regions, halted, role_of
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

NAMES = ("yyz", "dfw", "syd")
TCP_PORT = 7001
TCP = f"[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = {TCP_PORT}\n"
ACCIDENTS = ("respawn", "exited", "adopted", "stuck", "state-stopped")
SOME = 1 << 20  # bytes that show on which way they went
NOTICE_S = 15.0
"""Until every host has noticed a change of the mesh; measured: 2 to 4 s."""


class Three:
    """A stranger, and hosts yyz, dfw and syd, all edge and worker, with an app on each; the app "tcp" is on dfw. One
    worker and one port each: what leads through a third host has to be beside what leads to that host itself."""

    def __init__(self, network: Network, regions: Regions) -> None:
        *hosts, self.stranger = network.hosts
        self.hosts: dict[str, Host] = dict(zip(NAMES, hosts, strict=True))
        self.regions = regions

    def ways(self, of: str) -> dict[str, tuple[str, str | None]]:
        """Of each other host: its state and the third host to it."""
        rows = self.regions[of].ctl("hosts", "list")
        return {row["region"]: (row["closeness"]["state"], row["closeness"]["via"]) for row in rows if not row["here"]}

    def wait_way(self, of: str, to: str, state: str, via: str | None = None) -> None:
        until(lambda: self.ways(of).get(to) == (state, via), f"{of} reaches {to} {state} {via}", NOTICE_S, 0.1)

    def wait_direct(self) -> None:
        for name in NAMES:
            for other in NAMES:
                if other != name:
                    self.wait_way(name, other, "direct")

    def client(self, at: str = "yyz", port: str = "http") -> RawClient:
        address = self.regions[at].address(port)
        with self.hosts[at].inside():
            return RawClient(address, 20.0)

    def ask(self, at: str, of: str, body: bytes = b"") -> Response:
        """A request at a host for the app of another one."""
        with self.client(at) as client:
            client.request("PUT" if body else "GET", host=f"{of}.localhost", body=body)
            return client.response()

    def carried(self, by: str, work: Callable[[], object]) -> int:
        """Bytes that came to a host while ``work`` was done."""

        def received() -> int:
            return int(self.hosts[by].run("cat", "/sys/class/net/eth0/statistics/rx_bytes"))

        before = received()
        work()
        return received() - before

    def send_some(self) -> None:
        """SOME by HTTP and as much by TCP from yyz to dfw, and back."""
        data = os.urandom(SOME)
        answer = self.ask("yyz", "dfw", data)
        assert (answer.status, answer.body) == (200, data)
        with self.client("yyz", str(TCP_PORT)) as client:
            sender = threading.Thread(target=client.send, args=(data,))
            sender.start()
            assert client.exactly(SOME) == data
            sender.join()

    @contextlib.contextmanager
    def lost(self, one: str, other: str) -> Iterator[None]:
        """What ``one`` sends to ``other`` is lost meanwhile."""
        self.hosts[one].lose(self.hosts[other])
        try:
            yield
        finally:
            self.hosts[one].find(self.hosts[other])


def echo(conn: VMConnection) -> None:
    while data := conn.recv():
        conn.send(data)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Three]:
    with Network(4) as network, contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"workers": {"count": 1, "slots": 1}, "ports": (80, TCP_PORT), "allowed": ACCIDENTS}
        regions = stack.enter_context(Regions(*NAMES, places=network.hosts[:3], **options))
        regions.meet()
        for name, host in zip(NAMES, network.hosts, strict=False):
            with host.inside():
                http, tcp = ScriptedVM(), ScriptedVM(echo)
            stack.callback(http.stop)
            stack.callback(tcp.stop)
            regions.add_app(name, {name: [http.address]}, hostnames=[f"{name}.localhost"])
            if name == "dfw":
                regions.add_app("tcp", {name: [tcp.address]}, TCP)
        yield Three(network, regions)


def test_a_stranger_with_the_key_is_refused(mesh: Three) -> None:
    """It reaches the backhaul of these hosts; what keeps it out is that it is at nobody's address."""
    rows = {row["id"]: row for row in mesh.regions["yyz"].ctl("hosts", "list")}
    key = key_of((mesh.regions.dir / "cluster.key").read_text())
    dfw = rows["dfw-1"]
    hello = Hello("yyz-1", rows["yyz-1"]["epoch"], "dfw-1", dfw["epoch"], dfw["ports"][0])
    for host, expected in ((mesh.hosts["yyz"], Status.OK), (mesh.stranger, Status.NOT_AUTHENTIC)):
        with host.inside(), Wire((mesh.hosts["dfw"].address, dfw["ports"][0]), host.address) as wire:
            assert wire.greet(hello.but(), key).status == expected
            assert expected == Status.OK or wire.closed()


@pytest.fixture
def three(mesh: Three) -> Iterator[Three]:
    """All ways are direct, at the beginning and after the end."""
    mesh.wait_direct()
    yield mesh
    mesh.wait_direct()
    mesh.send_some()


@pytest.mark.parametrize(("deaf", "dumb"), [("dfw", "yyz"), ("yyz", "dfw")], ids=["there", "back"])
def test_a_third_host_leads_round_a_way_that_is_dead_in_one_direction(three: Three, deaf: str, dumb: str) -> None:
    assert three.ask("yyz", "syd").status == 200, "the transport to the third host itself is there before"
    assert three.carried("syd", three.send_some) < SOME / 10
    with three.lost(dumb, deaf):
        three.wait_way("yyz", "dfw", "via", "syd-1")
        assert three.carried("syd", three.send_some) > 4 * SOME, "both ways by HTTP and by TCP"
        assert three.ask("yyz", "syd").status == 200
    three.wait_way("yyz", "dfw", "direct")
    assert three.carried("syd", three.send_some) < SOME / 10, "the direct way is taken again"


def test_requests_that_may_be_repeated_do_not_fail_while_the_way_changes(three: Three) -> None:
    """Not when it dies, not when it is found again. What was on its way when it died waits for the transport's end."""
    stop = threading.Event()
    results: list[tuple[int, float]] = []

    def load() -> None:
        while not stop.wait(0.02):
            begun = time.monotonic()
            results.append((three.ask("yyz", "dfw").status, time.monotonic() - begun))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with three.lost("yyz", "dfw"):
            three.wait_way("yyz", "dfw", "via", "syd-1")
            since = len(results)
            until(lambda: len(results) > since + 50, "requests go on")
        three.wait_way("yyz", "dfw", "direct")
        since = len(results)
        until(lambda: len(results) > since + 50, "requests go on")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in results} == {200}
    assert max(took for _, took in results) < 6


def test_a_third_host_whose_own_way_is_dead_refuses(three: Three) -> None:
    """Nobody passes on to a fourth, nor back: while both still believe in the other the client gets its error."""
    with three.lost("yyz", "dfw"):
        three.wait_way("yyz", "dfw", "via", "syd-1")
        assert three.ask("yyz", "dfw").status == 200
        with three.lost("syd", "dfw"):
            between = three.carried("syd", lambda: [three.ask("yyz", "dfw") for _ in range(3)])
            assert between < SOME / 10, "requests do not go in circles"
            for name in ("yyz", "syd"):
                three.wait_way(name, "dfw", "down")
            begun = time.monotonic()
            answer = three.ask("yyz", "dfw")
            assert (answer.status, answer.error) == (502, "PU03")
            assert time.monotonic() - begun < 5, "the last resort is to try the dead way, which takes 2 s"
            with three.client("yyz", str(TCP_PORT)) as client:
                client.try_send(b"hello?")
                client.assert_closed()


def test_a_third_host_that_has_just_restarted_leads_round_at_once(three: Three) -> None:
    """Also while the store has not told its new epoch yet; and that epoch is taken for nobody else's."""
    yyz, syd = three.regions["yyz"], three.regions["syd"]
    with three.lost("yyz", "dfw"):
        three.wait_way("yyz", "dfw", "via", "syd-1")
        with halted(role_of(yyz, "state")):
            syd.kill()
            (syd.dir / "notify").unlink()
            syd.start()
            three.wait_way("yyz", "syd", "direct")
            three.wait_way("yyz", "dfw", "via", "syd-1")
            with three.client("yyz", str(TCP_PORT)) as client:
                client.send(b"hello")
                assert client.exactly(5) == b"hello"
            three.send_some()
    for name in ("dfw", "syd"):
        three.wait_way(name, "yyz", "direct")
        assert three.ask(name, "yyz").status == 200
