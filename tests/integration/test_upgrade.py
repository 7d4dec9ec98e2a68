"""Upgrade: WebSocket and any other protocol become a byte tunnel after the VM's 101, and only then."""

from __future__ import annotations

import base64
import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import pytest
import websockets.sync.client
import websockets.sync.server

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat/1\r\nConnection: Upgrade\r\n\r\n"
ASK = "Upgrade: chat/1\r\nConnection: Upgrade\r\n"


@pytest.fixture(scope="module")
def socket_app(daemon: ProxyDaemon) -> Iterator[str]:
    """A real WebSocket server as the VM of host ws.localhost: it sends back what it gets."""

    def handler(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websockets.sync.server.serve(handler, "127.0.0.1", 0, max_size=1 << 24) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        daemon.add_app("ws", machines=[f"127.0.0.1:{server.socket.getsockname()[1]}"], hostnames=["ws.localhost"])
        yield "ws.localhost"
        server.shutdown()
    thread.join()


@contextlib.contextmanager
def websocket(daemon: ProxyDaemon, host: str) -> Iterator[websockets.sync.client.ClientConnection]:
    with (
        daemon.client() as raw,
        websockets.sync.client.connect(f"ws://{host}/chat", sock=raw.sock, max_size=1 << 24, proxy=None) as connection,
    ):
        yield connection


def test_websocket_both_ways(daemon: ProxyDaemon, socket_app: str) -> None:
    with websocket(daemon, socket_app) as connection:
        for message in ("hello", b"\0\1\2", "x" * 100_000, os.urandom(3_000_000)):
            connection.send(message)
            assert connection.recv(timeout=10) == message


def test_many_websockets_at_once(daemon: ProxyDaemon, socket_app: str) -> None:
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(websocket(daemon, socket_app)) for _ in range(20)]
        for number, connection in enumerate(all_of_them):
            connection.send(f"message {number}")
        assert [one.recv(timeout=10) for one in all_of_them] == [f"message {number}" for number in range(20)]


def test_any_protocol_tunnels_with_early_bytes_of_both_sides(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        assert (seen.header("upgrade"), (seen.header("connection") or "").lower()) == ("chat/1", "upgrade")
        conn.send(SWITCH + b"early from vm")
        early, _ = conn.parser.trailing_data
        conn.send(b"|" + early + conn.exactly(len(b"early from client") - len(early)) + b"|")
        conn.send(conn.exactly(5)[::-1])
        return CLOSE

    client.request(target=vm.route(script), headers=ASK)
    client.send(b"early from client")
    got = client.response()
    assert got.status == 101
    assert (got.header("upgrade"), (got.header("connection") or "").lower()) == ("chat/1", "upgrade")
    assert client.exactly(13 + 19) == b"early from vm|early from client|"
    client.send(b"abcde")
    assert client.exactly(5) == b"edcba"
    client.assert_closed()


def test_tunnel_carries_much_both_ways_at_once(vm: ScriptedVM, client: RawClient) -> None:
    size = 8 << 20
    data = os.urandom(1 << 20) * 8

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.send(SWITCH)
        while got := conn.recv():
            conn.send(got)
        return CLOSE

    client.request(target=vm.route(script), headers=ASK)
    assert client.response().status == 101
    sender = threading.Thread(target=client.send, args=(data,))
    sender.start()
    assert client.exactly(size) == data
    sender.join()


@pytest.mark.parametrize("first", ["client", "vm"])
def test_tunnel_half_close_is_true_half_close(vm: ScriptedVM, client: RawClient, first: str) -> None:
    heard: list[bytes] = []

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.send(SWITCH)
        if first == "vm":
            conn.send(b"bye")
            conn.end()
        heard.append(conn.rest())
        if first == "client":
            conn.send(b"after your end: " + heard[0])
        return CLOSE

    client.request(target=vm.route(script), headers=ASK)
    assert client.response().status == 101
    if first == "client":
        client.send(b"last words")
        client.end()
        assert client.rest() == b"after your end: last words"
    else:
        assert client.rest() == b"bye"
        client.send(b"still heard")
        client.end()
    assert until(lambda: heard, "the VM hears the end") == [b"last words" if first == "client" else b"still heard"]


@pytest.mark.parametrize("side", ["client", "vm"])
def test_reset_of_one_side_ends_the_other(vm: ScriptedVM, client: RawClient, side: str) -> None:
    open_, gone = threading.Event(), threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.send(SWITCH)
        open_.wait(10)
        if side == "vm":
            conn.reset()
        else:
            conn.wait_end()
            gone.set()
        return CLOSE

    client.request(target=vm.route(script), headers=ASK)
    assert client.response().status == 101
    open_.set()
    if side == "vm":
        client.assert_closed()
    else:
        client.reset()
        assert gone.wait(10)


def test_answer_instead_of_101_is_an_ordinary_one(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    """No tunnel: what the client pipelined after it is its next request, framed and routed as any other."""

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.reply(b"no", "426 Upgrade Required")

    client.request(target=vm.route(script), headers=ASK)
    got = client.response()
    assert (got.status, got.body) == (426, b"no")
    assert client.get(f"/{marker}").status == 200
    assert vm.wait_seen(marker).complete


@pytest.mark.parametrize(
    "headers",
    [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Upgrade: H2C\r\nConnection: upgrade\r\n",
        "Upgrade: chat/1\r\n",
    ],
)
def test_h2c_or_an_unconnected_upgrade_is_stripped(
    vm: ScriptedVM, client: RawClient, marker: str, headers: str
) -> None:
    client.request(target=f"/{marker}", headers=headers)
    assert client.response().status == 200
    seen = vm.wait_seen(marker)
    assert (seen.all("upgrade"), seen.all("http2-settings")) == ([], [])


def test_upgrade_in_http10_is_ignored(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.request(target=f"/{marker}", headers=ASK, version="HTTP/1.0")
    assert client.response().status == 200
    assert vm.wait_seen(marker).all("upgrade") == []


KEY = base64.b64encode(b"0123456789abcdef").decode()
HANDSHAKE = {"Sec-WebSocket-Key": KEY, "Sec-WebSocket-Version": "13"}


@pytest.mark.parametrize(
    ("change", "statuses"),
    [
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, {400}),
        ({"Sec-WebSocket-Key": "not base64 at all!!!!!!"}, {400}),
        ({"Sec-WebSocket-Key": ""}, {400}),
        ({"Sec-WebSocket-Version": "12"}, {400, 426}),
        ({"Sec-WebSocket-Version": ""}, {400, 426}),
    ],
    ids=["short key", "key not base64", "no key", "version 12", "no version"],
)
def test_bad_websocket_handshake_opens_no_tunnel(
    vm: ScriptedVM, client: RawClient, marker: str, change: dict[str, str], statuses: set[int]
) -> None:
    """Refused here or by a strict VM; never a tunnel."""

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.reply(b"", "400 Bad Request" if seen.header("sec-websocket-version") == "13" else "426 Upgrade Required")

    fields = {name: value for name, value in (HANDSHAKE | change).items() if value}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    client.request(
        target=vm.route(script), headers=f"Upgrade: websocket\r\nConnection: Upgrade\r\n{lines}X-Mark: {marker}\r\n"
    )
    assert client.response().status in statuses


def test_tunnel_counts_as_in_flight_until_it_ends(
    daemon: ProxyDaemon, start_vm: Callable[..., ScriptedVM], client: RawClient
) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.send(SWITCH)
        conn.wait_end()
        return CLOSE

    holder = start_vm(name="holder")
    path = holder.route(script)
    daemon.add_app("tunnels", machines=[holder.address], hostnames=["tunnels.localhost"])
    client.request(target=path, host="tunnels.localhost", headers=ASK)
    assert client.response().status == 101

    def in_flight() -> int:
        return sum(machine["in_flight"] for machine in daemon.ctl("machines", "list", "-a", "tunnels"))

    assert in_flight() == 1
    client.end()
    client.assert_closed()
    until(lambda: in_flight() == 0, "the tunnel's place is free")
