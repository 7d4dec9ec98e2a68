"""A client made of a plain socket: sends any bytes, reads answers strictly, can end in every way that TCP knows."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass, field

from tests.kit.wait import PATIENCE_S

RECV = 64 * 1024


class ProtocolError(AssertionError):
    """What came is no valid HTTP/1.1 answer."""


class Closed(AssertionError):
    """The connection ended where more was expected."""


@dataclass
class Response:
    """One answer. ``complete`` is False when the connection ended inside the body."""

    status: int
    reason: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: list[Response] = field(default_factory=list)
    complete: bool = True
    chunked: bool = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The only value of a header; None when absent; twice is an error."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def error(self) -> str | None:
        return self.header("flyproxy-error")


def parse_headers(lines: list[bytes]) -> list[tuple[str, str]]:
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.strip() != name or b"\n" in line or b"\0" in line:
            raise ProtocolError(f"bad header line {line!r}")
        headers.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return headers


class RawClient:
    """A connection to the proxy. Every wait has the deadline ``timeout`` (seconds)."""

    def __init__(self, address: tuple[str, int], timeout: float = PATIENCE_S, rcvbuf: int = 0) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(timeout)
        self.sock.connect(address)
        self.buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # -- sending and ending

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def try_send(self, data: bytes) -> None:
        """Send what the other side may refuse to take: it may have answered and closed already."""
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        host: str = "web.localhost",
        headers: str = "",
        body: bytes = b"",
        version: str = "HTTP/1.1",
    ) -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.send(f"{method} {target} {version}\r\nHost: {host}\r\n{headers}{length}\r\n".encode() + body)

    def get(self, target: str = "/", host: str = "web.localhost", headers: str = "") -> Response:
        self.request("GET", target, host, headers)
        return self.response()

    def reset(self) -> None:
        """End by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def end(self) -> None:
        """No more bytes from us; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    # -- reading

    def fill(self) -> bool:
        """One more read; False at the end of the stream."""
        try:
            got = self.sock.recv(RECV)
        except ConnectionResetError:
            return False
        self.buffer += got
        return bool(got)

    def exactly(self, n: int) -> bytes:
        while len(self.buffer) < n:
            if not self.fill():
                raise Closed(f"wanted {n} bytes, the end came after {self.buffer!r:.200}")
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self.fill():
                raise Closed(f"the end came inside a line: {self.buffer!r:.200}")
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        while self.fill():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def assert_closed(self) -> None:
        """The proxy has ended the connection and sent nothing more."""
        left = self.rest()
        assert left == b"", f"more bytes before the end: {left!r:.300}"

    def silent(self, seconds: float) -> bool:
        """Nothing at all, not even the end, for ``seconds``. Only for promises that something does not happen."""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            return not self.buffer and self.sock.recv(1, socket.MSG_PEEK) is None
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(before)

    def response(self, method: str = "GET") -> Response:
        """The next final answer with the 1xx before it in ``interim``."""
        interim = []
        while True:
            got = self.head()
            if got.status >= 200 or got.status == 101:
                got.interim = interim
                self._body(got, method)
                return got
            interim.append(got)

    def head(self) -> Response:
        status_line = self.line()
        lines = []
        while line := self.line():
            lines.append(line)
        version, _, rest = status_line.decode("latin-1").partition(" ")
        code, space, reason = rest.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not code.isdigit() or not space:
            raise ProtocolError(f"bad status line {status_line!r}")
        return Response(int(code), reason, version, parse_headers(lines))

    def _body(self, got: Response, method: str) -> None:
        lengths, codings = got.all("content-length"), got.all("transfer-encoding")
        if (lengths and codings) or len(lengths) > 1 or codings not in ([], ["chunked"]):
            raise ProtocolError(f"ambiguous framing: {lengths} {codings}")
        if method == "HEAD" or got.status in (101, 204, 304):
            return
        try:
            if codings:
                got.chunked = True
                self._chunks(got)
            elif lengths:
                self._counted(got, int(lengths[0]))
            else:
                got.body = self.rest()
        except Closed:
            got.complete = False

    def _counted(self, got: Response, n: int) -> None:
        parts, left = [], n
        while left:
            if not self.buffer and not self.fill():
                got.complete = False
                break
            part, self.buffer = self.buffer[:left], self.buffer[left:]
            parts.append(part)
            left -= len(part)
        got.body = b"".join(parts)

    def _chunks(self, got: Response) -> None:
        parts = []
        try:
            while size := int(self.line().partition(b";")[0], 16):
                parts.append(self.exactly(size))
                if self.exactly(2) != b"\r\n":
                    raise ProtocolError("a chunk does not end in CRLF")
            lines = []
            while line := self.line():
                lines.append(line)
            got.trailers = parse_headers(lines)
        finally:
            got.body = b"".join(parts)
