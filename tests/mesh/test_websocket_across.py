"""WebSockets to a machine of another host: what both peers see is what they see without any proxy between them.

Each scenario runs twice with the same server, once connected to it directly and once through the mesh, and tells what
happened; both must tell the same.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from tests.kit.region import Regions

MESSAGE_MAX = 1 << 25
WAIT_S = 20.0
Story = list[Any]


@dataclass
class Room:
    """A server whose end of each connection is in the hands of the test."""

    port: int = 0
    arrived: queue.Queue[ServerConnection] = field(default_factory=queue.Queue)

    def handler(self, connection: ServerConnection) -> None:
        self.arrived.put(connection)
        connection.left = threading.Event()  # type: ignore[attr-defined]
        connection.left.wait(WAIT_S)  # type: ignore[attr-defined]


@dataclass
class Pair:
    """Both ends of one WebSocket."""

    client: ClientConnection
    server: ServerConnection

    def client_end(self) -> tuple[int, str]:
        return end_of(self.client)

    def server_end(self) -> tuple[int, str]:
        return end_of(self.server)


def first_version(connection: ServerConnection, offered: Sequence[str]) -> Any:
    return "chat.v1" if "chat.v1" in offered else None


def end_of(side: ClientConnection | ServerConnection) -> tuple[int, str]:
    """Close code and reason as this side learns them (RFC 6455 7.1.5): 1006 when the other one vanished."""
    try:
        while True:
            side.recv(timeout=WAIT_S)
    except ConnectionClosed:
        pass
    code, reason = side.protocol.close_code, side.protocol.close_reason
    assert code is not None and reason is not None
    return code, reason


@pytest.fixture(scope="module")
def mesh(start_regions: Callable[..., Regions]) -> Regions:
    return start_regions("yyz", "dfw", roles={"yyz": ["edge"], "dfw": ["worker"]})


@pytest.fixture(scope="module")
def room(mesh: Regions) -> Iterator[Room]:
    made = Room()
    options: dict[str, Any] = {"max_size": MESSAGE_MAX, "ping_interval": None, "select_subprotocol": first_version}
    with serve(made.handler, "127.0.0.1", 0, **options) as server:
        made.port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        mesh.add_app("ws", {"dfw": [f"127.0.0.1:{made.port}"]}, hostnames=["ws.localhost"])
        yield made
        server.shutdown()
    thread.join()


class Line:
    """Opens WebSockets: directly to the server, or through the mesh."""

    def __init__(self, address: tuple[str, int], room: Room) -> None:
        self.address, self.room = address, room

    @contextlib.contextmanager
    def open(self, **options: Any) -> Iterator[Pair]:
        sock = socket.create_connection(self.address, WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        options = {"max_size": MESSAGE_MAX, "ping_interval": None, "proxy": None, "close_timeout": 5, **options}
        with connect("ws://ws.localhost/chat", sock=sock, **options) as client:
            server = self.room.arrived.get(timeout=WAIT_S)
            try:
                yield Pair(client, server)
            finally:
                server.left.set()  # type: ignore[attr-defined]


def echo(line: Line) -> Story:
    with line.open() as pair:
        story: Story = []
        for message in ("hello", "", b"", b"\0\1\2\xff", "ж" * 1000):
            pair.client.send(message)
            story.append(pair.server.recv(timeout=WAIT_S))
            pair.server.send(story[-1])
            story.append(pair.client.recv(timeout=WAIT_S))
        return story


def large_messages(line: Line) -> Story:
    with line.open() as pair:
        for size in (65_535, 65_536, (1 << 22) + 1):
            message = os.urandom(size)
            for one, other in ((pair.client, pair.server), (pair.server, pair.client)):
                sender = threading.Thread(target=one.send, args=(message,))
                sender.start()
                assert other.recv(timeout=WAIT_S) == message
                sender.join()
        return ["all of them"]


def fragments(line: Line) -> Story:
    """The pieces arrive as the pieces that were sent: nothing is joined or cut."""
    with line.open() as pair:
        pair.client.send(iter(["one ", "", "two ", "three"]))
        story: Story = list(pair.server.recv_streaming())
        pair.server.send(iter([b"\1" * 70_000, b"\2", b"\3" * 125]))
        return story + [(len(piece), piece[:1]) for piece in pair.client.recv_streaming()]


def compression(line: Line) -> Story:
    """The extension that both agreed on is in force, so what is sent is not what is on the wire."""
    with line.open(compression="deflate") as pair:
        pair.client.send("x" * 100_000)
        return [
            pair.server.recv(timeout=WAIT_S) == "x" * 100_000,
            [type(extension).__name__ for extension in pair.client.protocol.extensions],
            [type(extension).__name__ for extension in pair.server.protocol.extensions],
        ]


def subprotocol_and_path(line: Line) -> Story:
    with line.open(subprotocols=["chat.v2", "chat.v1"], additional_headers={"X-One": "two"}) as pair:
        request = pair.server.request
        assert request is not None
        asked = [request.headers[name] for name in ("Host", "X-One", "Sec-WebSocket-Protocol", "Sec-WebSocket-Version")]
        return [pair.client.subprotocol, pair.server.subprotocol, request.path, *asked]


def pings(line: Line) -> Story:
    """Each ping has its own pong with the same payload, in both directions, also between the pieces of a message."""
    with line.open() as pair:
        story: Story = []
        heard = threading.Thread(target=lambda: story.append(pair.client.recv(timeout=WAIT_S)))
        heard.start()
        for payload in (b"", b"a payload", b"x" * 125):
            story.append(pair.client.ping(payload).wait(WAIT_S))
            story.append(pair.server.ping(payload).wait(WAIT_S))
        pair.server.send("done")
        heard.join()
        return story


def client_closes(line: Line) -> Story:
    story: Story = []
    for code, reason in ((1000, ""), (1001, "going away"), (3000, "ж" * 60), (4999, "x" * 123)):
        with line.open() as pair:
            closing = threading.Thread(target=pair.client.close, args=(code, reason))
            closing.start()
            story.append(pair.server_end())
            closing.join()
            story.append(pair.client_end())
    return story


def server_closes(line: Line) -> Story:
    story: Story = []
    for code, reason in ((1000, ""), (1011, "something broke"), (1013, "later"), (4000, "x" * 123)):
        with line.open() as pair:
            closing = threading.Thread(target=pair.server.close, args=(code, reason))
            closing.start()
            story.append(pair.client_end())
            closing.join()
            story.append(pair.server_end())
    return story


def vanish(side: ClientConnection | ServerConnection, how: str) -> None:
    """The end of a peer that says no goodbye."""
    if how == "reset":
        side.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.socket.shutdown(socket.SHUT_RD)  # its reader lets go of the socket
        side.recv_events_thread.join(WAIT_S)
        side.socket.close()
    else:
        side.socket.shutdown(socket.SHUT_RDWR)


def client_vanishes(line: Line) -> Story:
    story: Story = []
    for how in ("end", "reset"):
        with line.open() as pair:
            vanish(pair.client, how)
            story.append(pair.server_end())
    return story


def server_vanishes(line: Line) -> Story:
    story: Story = []
    for how in ("end", "reset"):
        with line.open() as pair:
            pair.server.send("last words")
            assert pair.client.recv(timeout=WAIT_S) == "last words"
            vanish(pair.server, how)
            story.append(pair.client_end())
    return story


def forbidden_frame(line: Line) -> Story:
    """A frame that breaks RFC 6455 reaches the peer as it is; who judges it is the peer."""
    with line.open() as pair:
        pair.client.socket.sendall(b"\x83\x80\0\0\0\0")  # opcode 3 is reserved (5.2)
        return [pair.server_end()[0], pair.client_end()[0]]


SCENARIOS = (
    echo, large_messages, fragments, compression, subprotocol_and_path, pings, client_closes, server_closes,
    client_vanishes, server_vanishes, forbidden_frame,
)  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_the_mesh_changes_nothing(mesh: Regions, room: Room, scenario: Callable[[Line], Story]) -> None:
    directly = scenario(Line(("127.0.0.1", room.port), room))
    assert scenario(Line(mesh["yyz"].address(), room)) == directly
    assert directly, "something was seen"


def test_many_at_once_each_has_its_own_words(mesh: Regions, room: Room) -> None:
    line = Line(mesh["yyz"].address(), room)
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(line.open()) for _ in range(100)]
        for number, pair in enumerate(pairs):
            pair.client.send(f"from client {number}")
            pair.server.send(f"from server {number}")
        for number, pair in enumerate(pairs):
            assert pair.server.recv(timeout=WAIT_S) == f"from client {number}"
            assert pair.client.recv(timeout=WAIT_S) == f"from server {number}"
