"""A small server and client on the codec, for real peers: asyncio carries bytes, the codec does everything else.

The server answers /N with N bytes and anything else with the request's method, target and body.
"""

from __future__ import annotations

import asyncio
from typing import Any

from flyproxy._speedups._testing_http2 import Connection


class Peer(asyncio.Protocol):
    """One connection: events go to ``on_event``; waiting bodies leave in the scheduler's order."""

    def __init__(self, server: bool, **options: Any) -> None:
        self.codec = Connection(server, **options)
        self.transport: asyncio.Transport | None = None
        self.bodies: dict[int, bytes] = {}
        self.requests: dict[int, dict[str, Any]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.codec.start()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for name, event in self.codec.receive(data):
            self.on_event(name, event)
        self.flush()

    def on_event(self, name: str, event: dict[str, Any]) -> None:
        stream = event["stream"]
        if name == "request":
            self.requests[stream] = event | {"body": b""}
        elif name == "data":
            self.requests[stream]["body"] += event["data"]
            self.codec.drained(stream, event["window"])
        elif name == "window":
            for one in [stream] if stream else list(self.bodies):
                if one in self.bodies:
                    self.codec.ready(one)
        elif name == "reset":
            self.forget(stream)
        elif name == "error" and self.transport is not None:
            self.flush()
            self.transport.close()
        if event.get("end"):
            self.answer(stream)

    def answer(self, stream: int) -> None:
        request = self.requests[stream]
        path = request["target"].lstrip(b"/")
        echo = b"%s %s " % (request["method"], request["target"]) + request["body"]
        body = bytes(int(path)) if path.isdigit() else echo
        no_body = request["method"] == b"HEAD" or not body
        self.codec.response(stream, 200, [(b"server", b"codec")], content_length=len(body), end=no_body)
        if no_body:
            self.forget(stream)
        else:
            self.bodies[stream] = body
            self.codec.ready(stream)

    def forget(self, stream: int) -> None:
        self.bodies.pop(stream, None)
        self.requests.pop(stream, None)
        self.codec.release(stream)

    def flush(self) -> None:
        while turn := self.codec.next():
            stream, room = turn
            piece, rest = self.bodies[stream][:room], self.bodies[stream][room:]
            assert self.codec.data(stream, piece, not rest)
            if rest:
                self.bodies[stream] = rest
            else:
                self.forget(stream)
            if self.transport is not None:
                self.transport.write(self.codec.take())
        if self.transport is not None:
            self.transport.write(self.codec.take())


class Client(Peer):
    """Requests one after the other or at once; ``answers`` by stream once they are whole."""

    def __init__(self, **options: Any) -> None:
        super().__init__(False, **options)
        self.answers: dict[int, tuple[int, bytes]] = {}
        self.changed = asyncio.Event()

    def on_event(self, name: str, event: dict[str, Any]) -> None:
        stream = event["stream"]
        if name == "response":
            self.answers[stream] = (event["status"], b"")
        elif name == "data":
            status, body = self.answers[stream]
            self.answers[stream] = (status, body + event["data"])
            self.codec.drained(stream, event["window"])
        if event.get("end"):
            self.codec.release(stream)
            self.requests.pop(stream)
            self.changed.set()
        if name == "error":
            raise AssertionError(f"connection error {event['code']}")

    async def get(self, *targets: bytes) -> list[tuple[int, bytes]]:
        streams = []
        for target in targets:
            stream = self.codec.request(target=target, host=b"localhost", https=False)
            assert stream is not None
            self.requests[stream] = {}
            streams.append(stream)
        self.flush()
        while self.requests:
            self.changed.clear()
            await self.changed.wait()
        return [self.answers[stream] for stream in streams]
