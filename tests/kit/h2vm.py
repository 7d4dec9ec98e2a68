"""A VM that speaks HTTP/2 with prior knowledge and nothing else: the h2 package on real sockets, a script per path."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.kit.wait import PATIENCE_S

Pairs = Sequence[tuple[str, str]]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Call:
    """One request, whole when its script runs."""

    stream: int
    connection: int
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


@dataclass
class Reply:
    """What a script gives back; ``reset`` instead: RST_STREAM with this code."""

    body: bytes = b""
    headers: Pairs = ()
    status: int = 200
    trailers: Pairs = ()
    reset: int | None = None


Script = Callable[[Call], Reply]


class Http2VM:
    """Listens on a free port of 127.0.0.1. ``calls`` is every request in the order of its end."""

    def __init__(self, settings: dict[int, int] | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self.listener.getsockname()[1]
        self.settings = settings or {}
        self.calls: list[Call] = []
        self.connections = 0
        self._scripts: dict[str, Script] = {}
        self._numbers = itertools.count(1)
        self._socks: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def route(self, script: Script, path: str = "") -> str:
        """A path that is answered by ``script``: a new one unless given."""
        path = path or f"/h2/{next(self._numbers)}"
        self._scripts[path] = script
        return path

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(PATIENCE_S)
        with sock, contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
            connection = h2.connection.H2Connection(config)
            connection.initiate_connection()
            if self.settings:
                connection.update_settings(self.settings)
            _Talk(self, sock, connection, number).run()


class _Talk:
    """One connection: requests are collected, answers sent as far as the windows allow."""

    def __init__(self, vm: Http2VM, sock: socket.socket, connection: h2.connection.H2Connection, number: int) -> None:
        self.vm, self.sock, self.connection, self.number = vm, sock, connection, number
        self.calls: dict[int, Call] = {}
        self.waiting: dict[int, tuple[bytes, Pairs]] = {}

    def run(self) -> None:
        self.sock.sendall(self.connection.data_to_send())
        while data := self.sock.recv(1 << 16):
            for event in self.connection.receive_data(data):
                self.take(event)
            for stream in list(self.waiting):
                self.push(stream)
            self.sock.sendall(self.connection.data_to_send())

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=stream, headers=headers):
                self.calls[stream] = Call(stream, self.number, list(headers))
            case h2.events.DataReceived(stream_id=stream, data=data, flow_controlled_length=length):
                self.calls[stream].body += data
                self.connection.acknowledge_received_data(length, stream)
            case h2.events.TrailersReceived(stream_id=stream, headers=headers):
                self.calls[stream].trailers = list(headers)
            case h2.events.StreamEnded(stream_id=stream):
                self.answer(self.calls[stream])
            case h2.events.StreamReset(stream_id=stream):
                self.waiting.pop(stream, None)

    def answer(self, call: Call) -> None:
        self.vm.calls.append(call)
        reply = self.vm._scripts.get(call.header(":path") or "", lambda call: Reply(bytes(call.body) or b"h2\n"))(call)
        if reply.reset is not None:
            self.connection.reset_stream(call.stream, reply.reset)
            return
        bare = not reply.body and not reply.trailers
        self.connection.send_headers(call.stream, [(":status", str(reply.status)), *reply.headers], end_stream=bare)
        if not bare:
            self.waiting[call.stream] = (reply.body, reply.trailers)

    def push(self, stream: int) -> None:
        body, trailers = self.waiting[stream]
        most = self.connection.max_outbound_frame_size
        while body and (room := min(self.connection.local_flow_control_window(stream), most)):
            self.connection.send_data(stream, body[:room], end_stream=not trailers and len(body) <= room)
            body = body[room:]
        if body:
            self.waiting[stream] = (body, trailers)
            return
        del self.waiting[stream]
        if trailers:
            self.connection.send_headers(stream, list(trailers), end_stream=True)
