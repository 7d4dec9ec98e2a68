"""Raw TCP services: bytes both ways, half-close, ends, faults."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

MEGA = 1 << 20
SENT = 64 * MEGA
HELD_MAX = 40 * MEGA
"""Of what a client does not read: what the proxies hold and the kernels' buffers of three connections, whose windows
grow with the speed before the stall (28 MiB seen over two hosts). Who reads on without a bound holds all of SENT."""
PORTS = {"echo": 7007, "bulk": 7008, "talk": 7009, "dead": 7010, "none": 7011, "nobody": 7012}


def service(port: int) -> str:
    return f'[[services]]\nprotocol = "tcp"\ninternal_port = 7000\n[[services.ports]]\nport = {port}\n'


def echo(conn: VMConnection) -> None:
    while data := conn.recv():
        conn.send(data)


def bulk(conn: VMConnection) -> None:
    """Sends 32 MiB once asked by a byte, and ends."""
    conn.exactly(1)
    block = b"".join(b"%07d\n" % number for number in range(MEGA // 8))
    for _ in range(32):
        conn.send(block)


@pytest.fixture(scope="module")
def talk(start_vm: Callable[..., ScriptedVM]) -> ScriptedVM:
    """A VM whose script each test sets."""
    return start_vm(lambda conn: None, name="talk")


@pytest.fixture(scope="module")
def tcp(start_daemon: Callable[..., ProxyDaemon], start_vm: Callable[..., ScriptedVM], talk: ScriptedVM) -> ProxyDaemon:
    daemon = start_daemon({name: {"port": port} for name, port in PORTS.items()})
    gone = start_vm()
    gone.stop()
    machines = {
        "echo": [start_vm(echo).address],
        "bulk": [start_vm(bulk).address],
        "talk": [talk.address],
        "dead": [gone.address],
        "none": [],
    }
    for name, addresses in machines.items():
        daemon.add_app(name, service(PORTS[name]), addresses)
    return daemon


def test_echo(tcp: ProxyDaemon) -> None:
    with tcp.client("echo") as client:
        for message in (b"x", b"hello" * 100, os.urandom(100_000)):
            client.send(message)
            assert client.exactly(len(message)) == message


def test_nothing_is_parsed(tcp: ProxyDaemon) -> None:
    with tcp.client("echo") as client:
        nonsense = b"GET / HTTP/1.1\r\n\r\n\0\xff\x16\x03\x01" + bytes(range(256))
        client.send(nonsense)
        assert client.exactly(len(nonsense)) == nonsense


def test_bulk_arrives_whole_and_ends(tcp: ProxyDaemon) -> None:
    with tcp.client("bulk") as client:
        client.send(b"!")
        block = b"".join(b"%07d\n" % number for number in range(MEGA // 8))
        total, digest = 0, hashlib.sha256()
        while client.buffer or client.fill():
            digest.update(client.buffer)
            total += len(client.buffer)
            client.buffer = b""
    assert total == 32 * MEGA
    assert digest.digest() == hashlib.sha256(block * 32).digest()


def test_much_both_ways_at_once(tcp: ProxyDaemon) -> None:
    data = os.urandom(MEGA) * 16
    with tcp.client("echo", timeout=20) as client:
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        got = hashlib.sha256()
        for _ in range(16):
            got.update(client.exactly(MEGA))
        sender.join()
    assert got.digest() == hashlib.sha256(data).digest()


def test_half_close_of_the_client(tcp: ProxyDaemon, talk: ScriptedVM) -> None:
    talk.on_connect = lambda conn: conn.send(b"heard " + conn.rest())
    with tcp.client("talk") as client:
        client.send(b"all of it")
        client.end()
        assert client.rest() == b"heard all of it"


def test_half_close_of_the_vm(tcp: ProxyDaemon, talk: ScriptedVM) -> None:
    heard: list[bytes] = []

    def script(conn: VMConnection) -> None:
        conn.send(b"bye")
        conn.end()
        heard.append(conn.rest())

    talk.on_connect = script
    with tcp.client("talk") as client:
        assert client.rest() == b"bye"
        client.send(b"still heard")
        client.end()
        assert until(lambda: heard, "the VM hears the end") == [b"still heard"]


def test_vm_speaks_first(tcp: ProxyDaemon, talk: ScriptedVM) -> None:
    talk.on_connect = lambda conn: conn.send(b"220 ready\r\n")
    with tcp.client("talk") as client:
        assert client.rest() == b"220 ready\r\n"


def test_client_that_ends_at_once_still_gets_the_vms_words(tcp: ProxyDaemon, talk: ScriptedVM) -> None:
    talk.on_connect = lambda conn: conn.send(b"got %d bytes" % len(conn.rest()))
    with tcp.client("talk") as client:
        client.end()
        assert client.rest() == b"got 0 bytes"


@pytest.mark.parametrize("first", [b"", b"some words"], ids=["silent", "after words"])
def test_reset_of_the_vm_is_a_reset_of_the_client(tcp: ProxyDaemon, talk: ScriptedVM, first: bytes) -> None:
    def script(conn: VMConnection) -> None:
        conn.exactly(1)
        conn.send(first)
        conn.exactly(1)
        conn.reset()

    talk.on_connect = script
    with tcp.client("talk") as client:
        client.send(b"x")
        assert client.exactly(len(first)) == first
        client.send(b"x")
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1)


def test_reset_of_the_client_is_a_reset_of_the_vm(tcp: ProxyDaemon, talk: ScriptedVM) -> None:
    ends: list[bool] = []

    def script(conn: VMConnection) -> None:
        conn.send(conn.exactly(1))
        conn.wait_end()
        ends.append(conn.was_reset)

    talk.on_connect = script
    with tcp.client("talk") as client:
        client.send(b"x")
        client.exactly(1)
        client.reset()
    assert until(lambda: ends, "the VM sees an end") == [True]


@pytest.mark.parametrize("name", ["dead", "none"])
def test_no_machine_to_talk_to_closes(tcp: ProxyDaemon, name: str) -> None:
    """A machine that refuses, an app without machines: closed without a byte."""
    with tcp.client(name) as client:
        client.try_send(b"hello?")
        client.assert_closed()


def test_port_that_is_nobodys_speaks_http(tcp: ProxyDaemon) -> None:
    with tcp.client("nobody") as client:
        assert client.get().error == "PE03"


def test_refused_machine_is_passed_over(tcp: ProxyDaemon) -> None:
    addresses = [machine["address"] for machine in tcp.ctl("machines", "list", "-a", "dead")]
    assert len(addresses) == 1
    echo_port = tcp.ctl("machines", "show", "echo-1")["port"]
    tcp.ctl("machines", "add", "dead-2", "-a", "dead", "--address", f"127.0.0.1:{echo_port}")
    try:
        for _ in range(10):
            with tcp.client("dead") as client:
                client.send(b"hello")
                assert client.exactly(5) == b"hello"
    finally:
        tcp.ctl("machines", "remove", "dead-2")


def test_slow_reader_stops_the_vm(tcp: ProxyDaemon, talk: ScriptedVM) -> None:
    sent = [0]

    def script(conn: VMConnection) -> None:
        for _ in range(SENT // MEGA):
            conn.send(bytes(MEGA))
            sent[0] += MEGA

    talk.on_connect = script
    with tcp.client("talk", timeout=20, rcvbuf=65536) as client:
        history: list[int] = []

        def stuck() -> bool:
            history.append(sent[0])
            return len(history) > 30 and history[-30] == history[-1] and sent[0] > 0

        until(stuck, "the sender is stopped by back-pressure")
        assert sent[0] < HELD_MAX
        total = 0
        while client.fill():
            total += len(client.buffer)
            client.buffer = b""
        assert total == SENT


def test_connections_are_counted(tcp: ProxyDaemon) -> None:
    before = tcp.metric("fly_edge_tcp_connects_count", app="echo")
    for _ in range(3):
        with tcp.client("echo") as client:
            client.send(b"abc")
            client.exactly(3)
    assert tcp.metric("fly_edge_tcp_connects_count", app="echo") == before + 3
    until(
        lambda: (
            tcp.metric("fly_edge_tcp_disconnects_count", app="echo")
            == tcp.metric("fly_edge_tcp_connects_count", app="echo")
        ),
        "the ends are counted",
    )


def test_many_relays_at_once(tcp: ProxyDaemon) -> None:
    clients = [tcp.client("echo") for _ in range(100)]
    for number, client in enumerate(clients):
        client.send(b"%05d" % number)
    assert [client.exactly(5) for client in clients] == [b"%05d" % number for number in range(100)]
    for client in clients:
        client.sock.close()
