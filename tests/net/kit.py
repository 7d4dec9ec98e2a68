"""One of our TLS connections on a socket, Python's ssl at the other end of it; bytes cross as the test wants."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from flyproxy._speedups._testing_tls import Party, Wire
from tests.kit.pki import context

AGAIN = -errno.EAGAIN
Step = Callable[[], object]


def party(files: dict[str, str]) -> Party:
    return Party(*(Path(files[name]).read_bytes() for name in ("ca", "cert", "key")))


def sockets(room: int = 0) -> tuple[socket.socket, socket.socket]:
    """Both ends, which never wait; ``room``: about so many bytes stand between them at most."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
        if room:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    return ends


class Peer:
    """Python's side; what it has for us is written ``piece`` bytes at a time, each with a look of ours between."""

    def __init__(self, sock: socket.socket, made: ssl.SSLContext, server: bool, name: str, piece: int) -> None:
        self.sock, self.piece = sock, piece
        self.come, self.go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = made.wrap_bio(self.come, self.go, server_side=server, server_hostname=None if server else name)

    def take(self) -> None:
        """What we have sent reaches Python."""
        with contextlib.suppress(BlockingIOError):
            while data := self.sock.recv(1 << 20):
                self.come.write(data)

    def give(self, step: Step) -> None:
        """What Python has written reaches us, ``step`` after each piece."""
        data = self.go.read()
        for at in range(0, len(data), self.piece):
            self.sock.sendall(data[at : at + self.piece])
            step()


class Pair:
    """``wire`` is ours, ``peer`` Python's; the handshake is done unless ``greet`` is False."""

    def __init__(
        self, ours: dict[str, str], theirs: ssl.SSLContext, *, server: bool, name: str, piece: int = 1 << 20,
        greet: bool = True, of: Party | None = None,
    ) -> None:  # fmt: skip
        self.party = of or party(ours)
        self.sock, far = sockets()
        self.wire = Wire(self.party, self.sock.fileno(), None if server else name.encode())
        self.peer = Peer(far, theirs, not server, name, piece)
        if greet:
            assert self.greet() == (1, None)

    def greet(self) -> tuple[int, ssl.SSLError | None]:
        """The handshake to its end: our result, and why Python did not like it."""
        result, error = 0, None
        for _ in range(8):
            result = result if result < 0 else self.wire.handshake()
            self.peer.take()
            try:
                self.peer.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as why:
                error = error or why

            def look() -> None:
                nonlocal result
                result = result if result < 0 else self.wire.handshake()

            self.peer.give(look)
        return result, error

    def says(self, data: bytes, step: Step = lambda: None) -> None:
        """Python sends."""
        assert self.peer.tls.write(data) == len(data)
        self.peer.give(step)

    def hears(self) -> bytes:
        """What Python has got of us since; raises what ssl says to what is no data."""
        self.peer.take()
        data = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while got := self.peer.tls.read(1 << 20):
                data += got
        return data

    def all(self, n: int = 1 << 16) -> bytes:
        """What we can read now, ``n`` bytes a time, until there is no more."""
        data = b""
        while isinstance(got := self.wire.recv(n), bytes) and got:
            data += got
        assert got in (AGAIN, b""), got
        return data


def context_of(files: dict[str, str], server: bool = False) -> ssl.SSLContext:
    """Python's context without a look at names, which are ours to check in these tests."""
    made = context(files, server)
    made.check_hostname = False
    return made
