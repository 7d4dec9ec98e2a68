"""Draining: what has been promised to a client is still delivered."""

from __future__ import annotations

import socket
import threading
import time

import msgspec

from flyproxy.settings import Settings
from tests.engine.kit import running, wait_until
from tests.kit.client import RawClient

PIECE = bytes(range(256)) * 256
PIECES = 80


def test_answer_that_waits_for_a_slow_client_outlives_the_start_of_a_drain() -> None:
    """The exchange is over and the connection idle but for bytes that the client has not taken yet."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def vm() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(PIECES):
                peer.sendall(b"10000\r\n" + PIECE + b"\r\n")
            peer.sendall(b"0\r\n\r\n")
            peer.recv(1)  # the proxy ends it with the exchange
        ended.set()

    threading.Thread(target=vm, daemon=True).start()
    settings = Settings()
    settings = msgspec.structs.replace(settings, limits=msgspec.structs.replace(settings.limits, buffer=16 << 20))
    with (
        listener,
        running(listener.getsockname()[1], settings) as on,
        RawClient(("127.0.0.1", on.port), rcvbuf=4096) as client,
    ):
        client.request(host="app.test")
        assert ended.wait(10)
        start = time.monotonic()
        on.engine.drain()
        wait_until(lambda: time.monotonic() > start + 2.3, what="more than idle connections get")
        got = client.response()
        assert got.complete
        assert got.body == PIECE * PIECES
