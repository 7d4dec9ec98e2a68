"""Raw TCP to a machine of another host: nothing of what TCP promises is lost between the two proxies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
from collections.abc import Callable

import pytest

from tests.integration.test_proxy_protocol import read_header
from tests.kit.client import RawClient
from tests.kit.region import Regions, halted, role_of
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

MEGA = 1 << 20
BULK = 50 * MEGA
NAMES = ("echo", "bulk", "talk", "told-v1", "told-v2", "refused", "stale", "few", "dead")
PORTS = {name: 7001 + number for number, name in enumerate(NAMES)}
Machines = dict[str, list[str]]


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


def test_bytes_come_back_as_they_went(mesh: Regions, add: Callable[..., ScriptedVM]) -> None:
    add("echo", echo)
    with to(mesh, "echo") as client:
        for message in (b"x", b"GET / HTTP/1.1\r\n\r\n\0\xff" + bytes(range(256)), os.urandom(300_000)):
            client.send(message)
            assert client.exactly(len(message)) == message


def test_the_clients_end_is_heard_and_the_machine_still_speaks(mesh: Regions, talk: ScriptedVM) -> None:
    talk.on_connect = lambda conn: conn.send(b"heard " + conn.rest())
    with to(mesh, "talk") as client:
        client.send(b"all of it")
        client.end()
        assert client.rest() == b"heard all of it"


def test_the_machines_end_is_heard_and_the_client_still_speaks(mesh: Regions, talk: ScriptedVM) -> None:
    heard: list[bytes] = []

    def script(conn: VMConnection) -> None:
        conn.send(b"bye")
        conn.end()
        heard.append(conn.rest())

    talk.on_connect = script
    with to(mesh, "talk") as client:
        assert client.rest() == b"bye"
        client.send(b"still heard")
        client.end()
        assert until(lambda: heard, "the machine hears the end") == [b"still heard"]


def test_a_client_that_ends_at_once_gets_the_machines_words(mesh: Regions, talk: ScriptedVM) -> None:
    talk.on_connect = lambda conn: conn.send(b"got %d bytes" % len(conn.rest()))
    with to(mesh, "talk") as client:
        client.end()
        assert client.rest() == b"got 0 bytes"


@pytest.mark.parametrize("first", [b"", b"some words"], ids=["silent", "after words"])
def test_a_reset_of_the_machine_is_a_reset_of_the_client(mesh: Regions, talk: ScriptedVM, first: bytes) -> None:
    def script(conn: VMConnection) -> None:
        conn.exactly(1)
        conn.send(first)
        conn.exactly(1)
        conn.reset()

    talk.on_connect = script
    with to(mesh, "talk") as client:
        client.send(b"x")
        assert client.exactly(len(first)) == first
        client.send(b"x")
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1)


def test_a_reset_of_the_client_is_a_reset_of_the_machine(mesh: Regions, talk: ScriptedVM) -> None:
    ends: list[bool] = []

    def script(conn: VMConnection) -> None:
        conn.send(conn.exactly(1))
        conn.wait_end()
        ends.append(conn.was_reset)

    talk.on_connect = script
    with to(mesh, "talk") as client:
        client.send(b"x")
        client.exactly(1)
        client.reset()
    assert until(lambda: ends, "the machine sees an end") == [True]


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


def test_without_a_machine_that_takes_it_the_client_is_closed(mesh: Regions, gone: str) -> None:
    mesh.add_app("dead", {"dfw": [gone], "syd": [gone]}, service("dead"))
    with to(mesh, "dead") as client:
        client.try_send(b"hello?")
        client.assert_closed()


def test_much_arrives_whole_in_both_directions_at_once(mesh: Regions, add: Callable[..., ScriptedVM]) -> None:
    block = os.urandom(MEGA)
    expected = hashlib.sha256(block * (BULK // MEGA)).digest()
    digests: dict[str, bytes] = {}

    def send(sock: socket.socket) -> None:
        for _ in range(BULK // MEGA):
            sock.sendall(block)

    def receive(sock: socket.socket, who: str) -> None:
        digest, left = hashlib.sha256(), BULK
        while left and (data := sock.recv(MEGA)):
            digest.update(data)
            left -= len(data)
        digests[who] = digest.digest()

    def both(sock: socket.socket, who: str) -> None:
        sender = threading.Thread(target=send, args=(sock,))
        sender.start()
        receive(sock, who)
        sender.join()

    add("bulk", lambda conn: both(conn.sock, "machine"))
    with to(mesh, "bulk") as client:
        both(client.sock, "client")
    assert until(lambda: len(digests) == 2 and digests, "both have all") == {"client": expected, "machine": expected}


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
