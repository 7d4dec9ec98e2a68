"""A VM that does exactly what a test says: a real TCP server, a thread per connection, a script per request path.

Requests are parsed by h11, so everything that the proxy sends is checked by a strict foreign parser as well.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import h11

from tests.kit.wait import PATIENCE_S, until

RECV = 64 * 1024
HEAD_MAX = 1 << 20


@dataclass
class Seen:
    """One request as the VM saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    connection: int
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


def _pairs(headers: object) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]  # type: ignore[attr-defined]


class VMConnection:
    """One connection from the proxy, in the hands of a script."""

    def __init__(self, vm: ScriptedVM, sock: socket.socket, number: int) -> None:
        self.vm, self.sock, self.number = vm, sock, number
        self.received = bytearray()  # every byte that came, for assertions
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
        self.ended = threading.Event()  # the proxy ended its direction, or reset
        self.was_reset = False

    # -- reading

    def recv(self, n: int = RECV) -> bytes:
        """Some bytes, b"" at the end of the stream (a reset too)."""
        try:
            data = self.sock.recv(n)
        except ConnectionResetError:
            self.was_reset = True
            data = b""
        if not data:
            self.ended.set()
        self.received += data
        return data

    def exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n and (got := self.recv(n - len(data))):
            data += got
        return data

    def rest(self) -> bytes:
        return b"".join(iter(self.recv, b""))

    def wait_end(self) -> None:
        """Until the proxy closes, half-closes or resets."""
        while self.recv():
            pass

    def head(self) -> Seen | None:
        """The next request's head; None when the connection ends before it is whole."""
        event = self._event()
        if not isinstance(event, h11.Request):
            return None
        seen = Seen(event.method.decode(), event.target.decode("latin-1"), _pairs(event.headers), self.number)
        self.vm.requests.append(seen)
        return seen

    def body(self, seen: Seen) -> bytearray:
        """The rest of the request; ``seen.complete`` tells whether its end came."""
        while True:
            event = self._event()
            if isinstance(event, h11.Data):
                seen.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                seen.trailers = _pairs(event.headers)
                seen.complete = True
                break
            else:
                return seen.body
        left, _ = self.parser.trailing_data
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
        if left:
            self.parser.receive_data(left)
        return seen.body

    def some_body(self, seen: Seen, n: int) -> bytearray:
        """``seen.body`` once it has ``n`` bytes at least, or as much of it as came."""
        while len(seen.body) < n and isinstance(event := self._event(), h11.Data):
            seen.body += event.data
        return seen.body

    def _event(self) -> object:
        while True:
            try:
                event = self.parser.next_event()
            except h11.RemoteProtocolError as error:
                if not self.ended.is_set():
                    self.vm.violations.append(str(error))
                return None
            if event is not h11.NEED_DATA:
                return event
            self.parser.receive_data(self.recv())

    # -- sending and ending

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, body: bytes | bytearray = b"hello\n", status: str = "200 OK", headers: str = "") -> None:
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


Script = Callable[[VMConnection, Seen], object]
CLOSE = "close"  # a script returns it to end the connection; anything else goes on with the next request


class ScriptedVM:
    """Listens on a free port of 127.0.0.1. ``route`` gives a script a path of its own; ``on_connect``, when set,
    takes whole connections instead."""

    def __init__(
        self, on_connect: Callable[[VMConnection], object] | None = None, name: str = "vm", patience: float = PATIENCE_S
    ) -> None:
        self.name, self.on_connect, self.patience = name, on_connect, patience
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        self.requests: list[Seen] = []
        self.violations: list[str] = []  # what h11 found wrong in the proxy's own requests
        self.failures: list[BaseException] = []  # errors inside scripts
        self.connections: list[VMConnection] = []
        self._scripts: dict[str, Script] = {}
        self._numbers = itertools.count(1)
        threading.Thread(target=self._accept, daemon=True, name=f"{name}-accept").start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def route(self, script: Script) -> str:
        """A path on which requests are answered by ``script``, called once the head is there."""
        path = f"/{self.name}/{next(self._numbers)}"
        self._scripts[path] = script
        return path

    def answer(self, raw: bytes) -> str:
        """A path that is answered by these bytes once the whole request is there; then the connection is closed."""

        def script(conn: VMConnection, seen: Seen) -> str:
            conn.body(seen)
            conn.send(raw)
            return CLOSE

        return self.route(script)

    def seen(self, marker: str) -> list[Seen]:
        """Requests that carry the marker in target, headers or body."""
        return [
            seen
            for seen in self.requests
            if marker in seen.target
            or any(marker in value for _, value in seen.headers)
            or marker.encode() in seen.body
        ]

    def wait_seen(self, marker: str, patience: float = PATIENCE_S) -> Seen:
        return until(lambda: self.seen(marker), f"{self.name} sees {marker}", patience)[0]

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for conn in self.connections:
            with contextlib.suppress(OSError):
                conn.sock.close()

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.settimeout(self.patience)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn = VMConnection(self, sock, number)
            self.connections.append(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True, name=f"{self.name}-{number}").start()

    def _serve(self, conn: VMConnection) -> None:
        try:
            if self.on_connect:
                self.on_connect(conn)
            else:
                self._http(conn)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            conn.ended.set()
        except OSError:
            conn.ended.set()
        except BaseException as error:  # noqa: BLE001  a script's own assertion: shown by the fixture
            self.failures.append(error)
        finally:
            conn.ended.set()
            with contextlib.suppress(OSError):
                conn.sock.close()

    def _http(self, conn: VMConnection) -> None:
        while seen := conn.head():
            script = self._scripts.get(seen.target.partition("?")[0], echo)
            if script(conn, seen) == CLOSE:
                return


def echo(conn: VMConnection, seen: Seen) -> None:
    """The default: read the whole request, answer its body (or a greeting)."""
    body = conn.body(seen)
    if seen.complete:
        conn.reply(body or f"{conn.vm.name}\n".encode())
