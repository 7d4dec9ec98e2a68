"""Hosts in namespaces: they reach each other alone, over veth and over WireGuard, and nothing of them stays."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.netns import FOLDER, Host, Network
from tests.kit.wait import until
from tests.kit.wireguard import SOCKETS, Mesh

PORT = 7000


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(3) as made:
        yield made


def mine() -> list[str]:
    return [entry.name for entry in FOLDER.glob(f"fpt{os.getpid()}-*")]


@contextlib.contextmanager
def echo(host: Host, address: str) -> Iterator[None]:
    """A server on ``host`` that sends back what comes, after its own name."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.inside():
        server = socket.create_server((address, PORT), family=family)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with server.accept()[0] as conn:
                    while data := conn.recv(4096):
                        conn.sendall(host.name.encode() + b" " + data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def ask(host: Host, address: str, timeout: float = 10.0) -> bytes:
    with host.inside():
        conn = socket.create_connection((address, PORT), timeout)
    with conn:
        conn.sendall(b"hello")
        return conn.recv(4096)


def test_hosts_reach_each_other_but_not_the_machine_s_own_network(network: Network) -> None:
    first, second, third = network.hosts
    with echo(second, second.address), socket.create_server(("0.0.0.0", 0)) as outside:
        assert ask(first, second.address) == ask(third, second.address) == f"{second.name} hello".encode()
        assert '"ifname":"eth0"' in first.ip("-json", "link"), "each has an eth0 of its own"
        with first.inside(), pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", outside.getsockname()[1]), timeout=5)


def test_a_process_runs_in_its_host_and_ends_with_the_network() -> None:
    with Network(1) as network:
        child = network.hosts[0].start(["sleep", "600"])
        namespace = f"/proc/{child.pid}/ns/net"
        until(lambda: Path(namespace).stat().st_ino == (FOLDER / network.hosts[0].name).stat().st_ino, "it is inside")
        assert network.hosts[0].run("cat", "/proc/self/comm") == "cat\n"
    assert child.returncode is not None


def test_a_cut_host_is_silent_and_comes_back(network: Network) -> None:
    first, second, _ = network.hosts
    with echo(second, second.address):
        ask(first, second.address)
        second.cut()
        with pytest.raises(OSError):
            ask(first, second.address, timeout=0.3)
        second.heal()
        until(lambda: _answers(first, second), "the healed host answers")


def test_one_way_between_two_hosts_can_be_lost_alone(network: Network) -> None:
    first, second, third = network.hosts
    with echo(second, second.address):
        first.lose(second)
        assert not _answers(first, second)
        assert _answers(third, second), "another host's way is not touched"
        first.find(second)
        until(lambda: _answers(first, second), "it is found again")
        second.lose(first)
        assert not _answers(first, second), "the answer is lost"
        with echo(third, third.address):
            assert _answers(first, third)


def _answers(first: Host, second: Host) -> bool:
    try:
        return bool(ask(first, second.address, timeout=0.5))
    except OSError:
        return False


def test_nothing_stays_after_a_failure() -> None:
    with pytest.raises(RuntimeError, match="inside"), Network(2) as network:
        assert len(mine()) == 3
        network.hosts[0].start(["sleep", "600"])
        raise RuntimeError("a failure inside")
    assert mine() == []


def test_nothing_stays_when_the_construction_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.kit import netns

    real = netns.ip

    def failing(*args: str) -> str:
        assert "10.77.0.2/24" not in args, "a planted failure"
        return real(*args)

    monkeypatch.setattr(netns, "ip", failing)
    with pytest.raises(AssertionError, match="a planted failure"):
        Network(3)
    assert mine() == []


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    from tests.kit import netns

    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    name = f"fpt{child}-0-hub"
    netns.ip("netns", "add", name)
    with Network(1):
        assert not (FOLDER / name).exists()


def test_three_hosts_talk_over_a_wireguard_mesh_made_by_the_generator(tmp_path: Path) -> None:
    with Network(3) as network:
        mesh = Mesh(network.hosts, tmp_path)
        for number, (host, address) in enumerate(zip(network.hosts, mesh.addresses, strict=True)):
            with echo(host, address):
                for other in network.hosts[:number] + network.hosts[number + 1 :]:
                    assert ask(other, address) == f"{host.name} hello".encode()
        for host, name in zip(network.hosts, mesh.interfaces, strict=True):
            seen = host.run("wg", "show", name, "latest-handshakes").split()
            assert len(seen) == 4 and "0" not in seen[1::2], "every pair has shaken hands, so all went through tunnels"
    left = [name for name in mesh.interfaces if (SOCKETS / f"{name}.sock").exists()]
    assert left == [], "wireguard-go ends with the network"
