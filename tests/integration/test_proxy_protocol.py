"""PROXY protocol v1 and v2: believed from listeners that ask for it, and sent to VMs of services that ask for it."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import ScriptedVM, VMConnection

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = ("198.51.100.7", "203.0.113.9", 56324, 443)
V6 = ("2001:db8::7", "2001:db8::9", 56324, 443)
GET = "GET /{} HTTP/1.1\r\nHost: web.localhost\r\n\r\n"


def v1(addresses: tuple[str, str, int, int] = V4) -> bytes:
    family = "TCP6" if ":" in addresses[0] else "TCP4"
    return f"PROXY {family} {addresses[0]} {addresses[1]} {addresses[2]} {addresses[3]}\r\n".encode()


def v2(addresses: tuple[str, str, int, int] = V4, command: int = 0x21, tlvs: bytes = b"") -> bytes:
    source, dest = ipaddress.ip_address(addresses[0]), ipaddress.ip_address(addresses[1])
    body = source.packed + dest.packed + struct.pack("!HH", addresses[2], addresses[3]) + tlvs
    return SIGNATURE + struct.pack("!BBH", command, 0x21 if source.version == 6 else 0x11, len(body)) + body


GOOD = {
    "v1-ipv4": (v1(), V4),
    "v1-ipv6": (v1(V6), V6),
    "v2-ipv4": (v2(), V4),
    "v2-ipv6": (v2(V6), V6),
    "v2-with-tlvs": (v2(tlvs=b"\x04\0\x03abc\x02\0\x01x"), V4),
}
OWN = {
    "v1-unknown": b"PROXY UNKNOWN\r\n",
    "v1-unknown-with-rest": b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
    "v2-local": v2(command=0x20),
    "v2-unspec": SIGNATURE + b"\x21\0\0\0",
}
BAD = {
    "no header": b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n",
    "v1 lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 UDP4": b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 two spaces": b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 bare LF": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    "v1 missing port": b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    "v1 extra word": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
    "v1 port 65536": b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
    "v1 port 01": b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
    "v1 port +1": b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
    "v1 octal address": b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
    "v1 octet 256": b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
    "v1 three octets": b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
    "v1 v6 in TCP4": b"PROXY TCP4 ::1 ::2 1 2\r\n",
    "v1 v4 in TCP6": b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 two ::": b"PROXY TCP6 1::2::3 ::2 1 2\r\n",
    "v1 108 bytes without an end": b"PROXY TCP4 " + b"1" * 120,
    "v2 version 1": SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),
    "v2 command 2": SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),
    "v2 too short for v4": SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
    "v2 too short for v6": SIGNATURE + b"\x21\x21\0\x0c" + bytes(12),
    "v2 family 9": SIGNATURE + b"\x21\x91\0\x0c" + bytes(12),
    "v2 datagram": SIGNATURE + b"\x21\x12\0\x0c" + bytes(12),
    "v2 broken signature": b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\x0c" + bytes(12),
}
PORTS = "".join(f'[[services.ports]]\nport = {port}\nhandlers = ["http"]\n' for port in (80, 81, 82))


@pytest.fixture(scope="module")
def proxied(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> ProxyDaemon:
    daemon = start_daemon(
        {
            "http": {"port": 80, "proxy_protocol": True},
            "distrust": {"port": 81, "proxy_protocol": True, "trusted_sources": ["192.0.2.0/24", "2001:db8::/32"]},
            "trust": {"port": 82, "proxy_protocol": True, "trusted_sources": ["192.0.2.0/24", "127.0.0.0/8"]},
            "six": {"port": 80, "proxy_protocol": True, "address": "[::1]:0"},
            "tcp": {"port": 7001, "proxy_protocol": True},
            "out1": {"port": 7011},
            "out2": {"port": 7012},
            "plain": {"port": 8080},
        }
    )
    daemon.add_app("web", f"[[services]]\ninternal_port = 8080\n{PORTS}", [vm.address], ["web.localhost"])
    return daemon


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("listener", ["http", "six"])
def test_client_address_comes_from_the_header(
    proxied: ProxyDaemon, vm: ScriptedVM, marker: str, listener: str, name: str
) -> None:
    header, (source, dest, _, _) = GOOD[name]
    with proxied.client(listener) as client:
        client.send(header + GET.format(marker).encode())
        assert client.response().status == 200
        assert client.get(f"/{marker}/2").status == 200, "the header counts for the connection, not for a request"
    for seen in vm.seen(marker):
        assert seen.header("fly-client-ip") == source
        assert seen.header("x-forwarded-for") == f"{source}, {dest}"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("size", [1, 2, 5, 13, 16, 17])
def test_header_in_pieces(proxied: ProxyDaemon, vm: ScriptedVM, marker: str, name: str, size: int) -> None:
    header, (source, _, _, _) = GOOD[name]
    stream = header + GET.format(marker).encode()
    with proxied.client() as client:
        for at in range(0, len(stream), size):
            client.send(stream[at : at + size])
        assert client.response().status == 200
    assert vm.wait_seen(marker).header("fly-client-ip") == source


@pytest.mark.parametrize("name", OWN)
def test_header_without_addresses_leaves_the_sockets_own(
    proxied: ProxyDaemon, vm: ScriptedVM, marker: str, name: str
) -> None:
    with proxied.client() as client:
        client.send(OWN[name] + GET.format(marker).encode())
        assert client.response().status == 200
    assert vm.wait_seen(marker).header("fly-client-ip") == "127.0.0.1"


@pytest.mark.parametrize("name", BAD)
def test_missing_or_malformed_header_closes_and_is_never_data(
    proxied: ProxyDaemon, vm: ScriptedVM, marker: str, name: str
) -> None:
    before = proxied.metric("flyproxy_errors_total", code="PH16")
    with proxied.client() as client:
        client.try_send(BAD[name] + GET.format(marker).encode())
        client.assert_closed()
    assert vm.seen(marker) == []
    assert proxied.metric("flyproxy_errors_total", code="PH16") == before + 1


@pytest.mark.parametrize("name", GOOD)
def test_untrusted_source_is_refused(proxied: ProxyDaemon, vm: ScriptedVM, marker: str, name: str) -> None:
    before = proxied.metric("flyproxy_errors_total", code="PH17")
    with proxied.client("distrust") as client:
        client.try_send(GOOD[name][0] + GET.format(marker).encode())
        client.assert_closed()
    assert vm.seen(marker) == []
    assert proxied.metric("flyproxy_errors_total", code="PH17") == before + 1


def test_trusted_source_is_believed(proxied: ProxyDaemon, vm: ScriptedVM, marker: str) -> None:
    with proxied.client("trust") as client:
        client.send(v1() + GET.format(marker).encode())
        assert client.response().status == 200
    assert vm.wait_seen(marker).header("fly-client-ip") == V4[0]


def test_header_on_a_listener_that_does_not_ask_is_bad_http(proxied: ProxyDaemon) -> None:
    with proxied.client("plain") as client:
        client.send(v1() + GET.format("x").encode())
        got = client.response()
        assert (got.status, got.error) == (400, "PH01")
        client.assert_closed()


def test_header_before_raw_tcp_is_taken_off(proxied: ProxyDaemon, start_vm: Callable[..., ScriptedVM]) -> None:
    echo = start_vm(lambda conn: conn.send(conn.exactly(5)), name="echo")
    proxied.add_app("tcp", "[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = 7001\n", [echo.address])
    with proxied.client("tcp") as client:
        client.send(v2() + b"hello")
        assert client.rest() == b"hello"


def read_header(conn: VMConnection) -> tuple[str, str, int, int]:
    """The PROXY header that the proxy sent to a VM: source, destination, their ports."""
    start = conn.exactly(6)
    if start == b"PROXY ":
        line = b""
        while not line.endswith(b"\r\n"):
            line += conn.exactly(1)
        _, source, dest, source_port, dest_port = line.decode().split()
        return source, dest, int(source_port), int(dest_port)
    head = start + conn.exactly(10)
    assert head[:14] == SIGNATURE + b"\x21\x11", head
    body = conn.exactly(struct.unpack("!H", head[14:])[0])
    return (
        str(ipaddress.ip_address(body[:4])),
        str(ipaddress.ip_address(body[4:8])),
        *struct.unpack("!HH", body[8:12]),
    )


@pytest.mark.parametrize("version", ["1", "2"])
def test_header_is_sent_to_vms_that_ask(
    proxied: ProxyDaemon, start_vm: Callable[..., ScriptedVM], version: str
) -> None:
    got: list[tuple[str, str, int, int]] = []
    starts: list[bytes] = []

    def on_connect(conn: VMConnection) -> None:
        got.append(read_header(conn))
        starts.append(bytes(conn.received[:6]))
        conn.send(conn.exactly(5))

    asker = start_vm(on_connect, name=f"asker{version}")
    proxied.add_app(
        f"asker{version}",
        f"[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = 701{version}\n"
        f'handlers = ["proxy_proto"]\n[services.ports.proxy_proto_options]\nversion = "v{version}"\n',
        [asker.address],
    )
    with proxied.client(f"out{version}") as client:
        mine = client.sock.getsockname()
        client.send(b"hello")
        assert client.rest() == b"hello"
    assert starts == [b"PROXY " if version == "1" else SIGNATURE[:6]]
    [(source, dest, source_port, dest_port)] = got
    assert (source, source_port, dest) == (*mine, "127.0.0.1")
    assert dest_port in (proxied.port(f"out{version}"), 7010 + int(version))


def test_header_is_sent_before_http_and_is_the_clients_own(
    proxied: ProxyDaemon, start_vm: Callable[..., ScriptedVM]
) -> None:
    """Two clients never share an upstream connection that was opened in the name of one."""
    sources: list[str] = []

    def on_connect(conn: VMConnection) -> None:
        sources.append(read_header(conn)[0])
        while seen := conn.head():
            conn.body(seen)
            conn.reply(sources[-1].encode())

    asker = start_vm(on_connect, name="asker")
    proxied.add_app(
        "asker",
        '[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = 80\nhandlers = ["http", "proxy_proto"]\n',
        [asker.address],
        ["asker.localhost"],
    )
    for number in range(3):
        with proxied.client() as client:
            client.send(v1((f"198.51.100.{number}", "203.0.113.9", 1000, 80)))
            assert client.get(host="asker.localhost").body == f"198.51.100.{number}".encode()
    assert sources == [f"198.51.100.{number}" for number in range(3)]
