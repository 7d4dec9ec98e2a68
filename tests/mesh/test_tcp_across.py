"""Raw TCP to a machine of another host: who takes it, who is counted, who is told. That nothing of what TCP promises is
lost on the way tests/integration/test_tcp.py says; `make test-hops` runs it over two hosts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable

import pytest

from tests.integration.test_proxy_protocol import read_header
from tests.kit.client import RawClient
from tests.kit.region import Regions, halted, role_of
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

NAMES = ("talk", "told-v1", "told-v2", "refused", "stale", "few")
PORTS = {name: 7001 + number for number, name in enumerate(NAMES)}


def service(name: str, more: str = "") -> str:
    return f"[[services]]\ninternal_port = 7000\n{more}\n[[services.ports]]\nport = {PORTS[name]}\n"


@pytest.fixture(scope="module")
def mesh(start_regions: Callable[..., Regions]) -> Regions:
    """The edge yyz without machines, dfw that is both, the worker host syd."""
    return start_regions(
        "yyz", "dfw", "syd", roles={"yyz": ["edge"], "syd": ["worker"]}, ports=(80, *PORTS.values()),
        timeouts={"tunnel_idle": "0"}, allowed=["suspect", "recovered", "adopted"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def add(mesh: Regions, start_vm: Callable[..., ScriptedVM]) -> Callable[..., ScriptedVM]:
    """An app on its own port with one machine in dfw whose connections ``on_connect`` takes; the machine."""

    def add_app(name: str, on_connect: Callable[[VMConnection], object], more: str = "") -> ScriptedVM:
        vm = start_vm(on_connect, name=name)
        mesh.add_app(name, {"dfw": [vm.address]}, service(name, more))
        return vm

    return add_app


@pytest.fixture(scope="module")
def talk(add: Callable[..., ScriptedVM]) -> ScriptedVM:
    """The machine of app "talk"; each test says what it does."""
    return add("talk", lambda conn: None)


def to(mesh: Regions, name: str, edge: str = "yyz", timeout: float = 20.0) -> RawClient:
    return mesh[edge].client(str(PORTS[name]), timeout)


def echo(conn: VMConnection) -> None:
    while data := conn.recv():
        conn.send(data)


@pytest.fixture(scope="module")
def gone() -> str:
    """An address at which nobody listens."""
    vm = ScriptedVM()
    vm.stop()
    return vm.address


@pytest.mark.parametrize("end", [False, True], ids=["open", "ended"])
def test_what_the_client_says_before_the_machine_is_there_arrives(mesh: Regions, talk: ScriptedVM, end: bool) -> None:
    early = os.urandom(60_000)
    talk.on_connect = lambda conn: conn.send(hashlib.sha256(conn.exactly(len(early))).digest())
    before = len(talk.connections)
    with halted(*mesh["dfw"].workers()):
        client = to(mesh, "talk")
        client.send(early)
        if end:
            client.end()
        until(lambda: mesh["yyz"].ctl("machines", "show", "talk-dfw-1")["in_flight"] == 1, "the edge asks its host")
        assert len(talk.connections) == before
    with client:
        assert client.rest() == hashlib.sha256(early).digest()


def test_a_machine_that_refuses_is_passed_over(mesh: Regions, start_vm: Callable[..., ScriptedVM], gone: str) -> None:
    """Whichever region comes first, some of the connections meet a machine that refuses."""
    good = start_vm(echo, name="good")
    mesh.add_app("refused", {"dfw": [gone, good.address], "syd": [gone]}, service("refused"))
    before = mesh["yyz"].metric("flyproxy_retries_total")
    for _ in range(12):
        with to(mesh, "refused") as client:
            client.send(b"hello")
            assert client.exactly(5) == b"hello"
    assert mesh["yyz"].metric("flyproxy_retries_total") > before


def test_a_machine_that_its_host_does_not_have_is_passed_over(
    mesh: Regions, start_vm: Callable[..., ScriptedVM]
) -> None:
    """Both hosts are asked for machines that they do not know (yet): their tables stand still."""
    good = start_vm(echo, name="known")
    ids = mesh.add_app("stale", {"dfw": [good.address]}, service("stale"))
    with halted(*(role_of(mesh[region], "state") for region in ("dfw", "syd"))):
        for region in ("dfw", "syd"):
            for number in range(2):
                mesh["yyz"].ctl("machines", "add", f"unknown-{region}-{number}", "-a", "stale", "--region", region,
                                "--host", f"{region}-1", "--address", good.address)  # fmt: skip
        before = mesh["yyz"].metric("flyproxy_retries_total")
        for _ in range(12):
            with to(mesh, "stale") as client:
                client.send(b"hello")
                assert client.exactly(5) == b"hello"
        assert mesh["yyz"].metric("flyproxy_retries_total") > before
    mesh.settle()
    mesh["yyz"].ctl("machines", "remove", ids["dfw"][0])
    with to(mesh, "stale") as client:
        client.send(b"hello")
        assert client.exactly(5) == b"hello", "what was unknown is known now"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_machine_is_told_who_the_client_is(
    mesh: Regions, start_vm: Callable[..., ScriptedVM], version: str
) -> None:
    """The client's own address and port, not those of the edge or of its host."""
    got: list[tuple[str, str, int, int]] = []

    def on_connect(conn: VMConnection) -> None:
        got.append(read_header(conn))
        conn.send(conn.exactly(5))

    name = f"told-{version}"
    options = f'handlers = ["proxy_proto"]\n[services.ports.proxy_proto_options]\nversion = "{version}"\n'
    vm = start_vm(on_connect, name=name)
    mesh.add_app(name, {"dfw": [vm.address]}, service(name) + options)
    with to(mesh, name) as client:
        mine, there = client.sock.getsockname(), client.sock.getpeername()
        client.send(b"hello")
        assert client.rest() == b"hello"
    [(source, dest, source_port, dest_port)] = got
    assert (source, source_port, dest) == (*mine, there[0])
    assert dest_port in (there[1], PORTS[name])


def test_http_machines_are_told_who_the_client_is(mesh: Regions, start_vm: Callable[..., ScriptedVM]) -> None:
    """Each client its own, though the requests of all ride on one transport."""
    got: list[tuple[str, str, int, int]] = []

    def on_connect(conn: VMConnection) -> None:
        got.append(read_header(conn))
        while seen := conn.head():
            conn.body(seen)
            conn.reply(repr(got[-1][::2]).encode())

    vm = start_vm(on_connect, name="http")
    text = '[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = 80\nhandlers = ["http", "proxy_proto"]\n'
    mesh.add_app("asks", {"dfw": [vm.address]}, text, ["asks.localhost"])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(mesh["yyz"].client()) for _ in range(3)]
        for client in clients * 2:
            assert client.get(host="asks.localhost").body == repr(client.sock.getsockname()).encode()


def in_flight(mesh: Regions, region: str, machine: str) -> int:
    return int(mesh[region].ctl("machines", "show", machine)["in_flight"])


def test_the_machines_own_host_counts_who_has_a_place(mesh: Regions, add: Callable[..., ScriptedVM]) -> None:
    """Two places: one is taken at the machine's own host, one from the edge, and the next waits until one is free."""
    add("few", echo, '[services.concurrency]\ntype = "connections"\nhard_limit = 2\nsoft_limit = 1')

    def taken(edge: str) -> RawClient:
        client = to(mesh, "few", edge)
        client.send(b"x")
        assert client.exactly(1) == b"x"
        return client

    def refusals() -> float:
        return mesh["dfw"].metric("flyproxy_limit_reached_total", limit="hard_limit")

    with taken("dfw") as first, taken("yyz"):
        assert (in_flight(mesh, "dfw", "few-dfw-1"), in_flight(mesh, "yyz", "few-dfw-1")) == (2, 1)
        before = refusals()
        with to(mesh, "few") as third:
            third.send(b"y")
            until(lambda: refusals() > before, "its host refuses the third")
            first.sock.close()
            assert third.exactly(1) == b"y"
    until(lambda: not any(in_flight(mesh, edge, "few-dfw-1") for edge in ("dfw", "yyz")), "all places are free")


def set_idle(mesh: Regions, value: str) -> None:
    for daemon in mesh.daemons.values():
        text, found = re.subn(r'^tunnel_idle = .*$', f'tunnel_idle = "{value}"', daemon.config.read_text(), flags=re.M)
        assert found == 1
        daemon.config.write_text(text)
        daemon.ctl("reload")


def test_a_relay_on_which_nothing_moves_is_closed(mesh: Regions, talk: ScriptedVM) -> None:
    ends: list[bytes] = []

    def script(conn: VMConnection) -> None:
        conn.send(conn.exactly(2))
        ends.append(conn.rest())

    talk.on_connect = script
    set_idle(mesh, "1s")
    try:
        with to(mesh, "talk") as client:
            client.send(b"hi")
            assert client.exactly(2) == b"hi"
            client.assert_closed()
        assert until(lambda: ends, "the machine hears it too") == [b""]
    finally:
        set_idle(mesh, "0")
