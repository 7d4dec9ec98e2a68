"""Another implementation of the backhaul's client side, written from docs/backhaul.md alone: hello, answer, and HTTP/2
by the h2 package. It says what a test wants, true or forged."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import TracebackType
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
TRANSPORT, TCP = 1, 2
CANCEL = 8  # RFC 9113 7
PATIENCE_S = 10.0
Fields = list[tuple[str, str]]
Address = tuple[str, int]


class Status(IntEnum):
    OK = 0
    MALFORMED = 1
    NOT_AUTHENTIC = 2
    WRONG_HOST = 3
    OLD_DESTINATION = 4
    OLD_SOURCE = 5
    STALE = 6
    REFUSED = 7
    BUSY = 8


def key_of(secret: str) -> bytes:
    return hashlib.sha256(b"flyproxy-backhaul\0" + secret.strip().encode()).digest()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Hello:
    """The fields of a hello, in the page's order. ``client`` and ``local``: IPv4 address and port, for TCP."""

    source: str
    source_epoch: int
    dest: str
    dest_epoch: int
    dest_port: int
    kind: int = TRANSPORT
    hops: int = 0
    time_ms: int = field(default_factory=now_ms)
    nonce: bytes = field(default_factory=lambda: os.urandom(8))
    client: Address = ("198.51.100.7", 40000)
    local: Address = ("203.0.113.1", 15432)
    app: str = ""
    machine: str = ""
    internal_port: int = 0
    edge_port: int = 0
    request_id: str = "01JABCDEFGHJKMNPQRSTVWXYZ0-ams"

    def but(self, **changes: Any) -> Hello:
        """The same with other values; its own time and nonce."""
        return replace(self, **{"time_ms": now_ms(), "nonce": os.urandom(8), **changes})

    def encode(self, key: bytes) -> bytes:
        values = [
            b"\1", bytes([self.kind]), bytes([self.hops]), self.source.encode(), struct.pack("!I", self.source_epoch),
            self.dest.encode(), struct.pack("!I", self.dest_epoch), struct.pack("!H", self.dest_port),
            struct.pack("!Q", self.time_ms), self.nonce,
        ]  # fmt: skip
        addresses, head = b"", b"\x20\x00"
        if self.kind == TCP:
            head = b"\x21\x11"
            addresses = b"".join(socket.inet_aton(host) for host, _ in (self.client, self.local))
            addresses += struct.pack("!HH", self.client[1], self.local[1])
            values += [
                self.app.encode(), self.machine.encode(), struct.pack("!H", self.internal_port),
                struct.pack("!H", self.edge_port), self.request_id.encode(),
            ]  # fmt: skip
        tlvs = b"".join(struct.pack("!BH", 0xE0 + at, len(value)) + value for at, value in enumerate(values))
        tlvs += struct.pack("!BH", 0xEF, 32)
        text = SIGNATURE + head + struct.pack("!H", len(addresses) + len(tlvs) + 32) + addresses + tlvs
        return text + hmac.digest(key, text, "sha256")


class Answer(NamedTuple):
    """``code``: of an error, for example "PC01"; empty unless refused."""

    status: Status
    code: str
    epoch: int


class Wire:
    """A connection to a backhaul port from an address of our own; in TLS with ``secure``, to the host ``name``."""

    def __init__(self, to: Address, source: str, secure: ssl.SSLContext | None = None, name: str = "") -> None:
        self.sock = socket.create_connection(to, PATIENCE_S, (source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure is not None:
            self.sock = secure.wrap_socket(self.sock, server_hostname=name)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            got = self.sock.recv(n - len(data))
            assert got, f"the host closed after {len(data)} bytes of {n}"
            data += got
        return data

    def answer(self) -> Answer:
        version, status, letter, number, epoch = struct.unpack("!BBBBI", self.exactly(8))
        assert version == 1, f"version {version}"
        return Answer(Status(status), f"P{chr(letter)}{number:02}" if letter else "", epoch)

    def closed(self) -> bool:
        """Whether the host ends the connection and says nothing more; a reset is an end."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def greet(self, hello: Hello, key: bytes) -> Answer:
        self.send(hello.encode(key))
        return self.answer()


@dataclass
class Reply:
    """What came on a stream so far. ``reset``: the error code of an RST_STREAM."""

    interim: list[Fields] = field(default_factory=list)
    head: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    def __getitem__(self, name: str) -> str | None:
        found = [value for key, value in self.head if key == name]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    def fields(self) -> Fields:
        """All of them, wherever they stood."""
        return [*(one for part in self.interim for one in part), *self.head, *self.trailers]


class Transport:
    """HTTP/2 over a wire whose hello was accepted."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.replies: dict[int, Reply] = {}
        self.flush()

    def flush(self) -> None:
        self.wire.send(self.h2.data_to_send())

    def request(self, fields: Fields, body: bytes | None = None, trailers: Fields | None = None) -> int:
        """Begins a request; its stream. Without a body it ends with its head."""
        stream: int = self.h2.get_next_available_stream_id()
        self.replies[stream] = Reply()
        self.h2.send_headers(stream, fields, end_stream=body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        self.flush()
        return stream

    def reply(self, stream: int) -> Reply:
        """The reply once its stream has ended."""
        reply = self.replies[stream]
        while not reply.ended:
            got = self.wire.sock.recv(65536)
            assert got, "the host ended the transport"
            for event in self.h2.receive_data(got):
                self._take(event)
            self.flush()
        return reply

    def get(self, fields: Fields) -> Reply:
        return self.reply(self.request(fields))

    def _take(self, event: h2.events.Event) -> None:
        reply = self.replies.get(getattr(event, "stream_id", None) or 0)
        if reply is None:
            return
        if isinstance(event, h2.events.InformationalResponseReceived):
            reply.interim.append(list(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            reply.head = list(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            reply.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            reply.trailers = list(event.headers)
        elif isinstance(event, h2.events.StreamReset):
            reply.reset, reply.ended = int(event.error_code), True
        elif isinstance(event, h2.events.StreamEnded):
            reply.ended = True


def get(app: str, machine: str, port: int, path: str = "/", *more: tuple[str, str], edge_port: int = 80) -> Fields:
    """The fields of a GET for a service of a machine."""
    return [
        (":method", "GET"), (":scheme", "http"), (":authority", f"{app}.localhost"), (":path", path),
        ("flyproxy-app", app), ("flyproxy-machine", machine), ("flyproxy-port", str(port)),
        ("flyproxy-edge-port", str(edge_port)), *more,
    ]  # fmt: skip
