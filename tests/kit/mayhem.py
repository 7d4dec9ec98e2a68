"""VMs and clients that behave at random, and a model that knows which bytes belong to which request.

A request's target says what its VM shall do, so both sides know what must come. Whatever the faults: an answer that is
complete is the right one, an upload that is complete at a VM is the right one, and no POST reaches a VM's app twice.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.kit.client import Closed, RawClient, Response
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection

BLOCK = random.Random(1).randbytes(1 << 16)
SIZES = (0, 1, 100, 5_000, 16_384, 40_000, 65_536, 200_000, 1_500_000)
PAUSE_S = 0.002
TUNNEL = "Connection: Upgrade\r\nUpgrade: mayhem\r\n"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

SOUND = ("counted", "chunked", "until-close", "http/1.0", "slow", "interim", "early", "duplex")
FAULTY = ("cut", "reset", "mute", "mute-reset", "short", "poison", "reset-after", "early-close", "flood", "garbage")
MAY_BE_CUT = (*FAULTY, "early")  # early: the proxy does not wait for ever for the end of an upload after the answer
HALF_CLOSE_HOST = "half.localhost"
# What a request to a sound VM may end in, too: no machine, no room, or (PC03) a POST that met a stale connection.
NO_ROOM = {"PR01", "PR04", "PR06", "PC01", "PC03"}
MAY_FAIL = NO_ROOM | {"PU02", "PU06"}
MAY_FAIL_ROUGH = MAY_FAIL | {"PU03", "PU08"}  # a worker, or that of the machine's host, was killed
PADDING = "x" * 40_000


def pattern(seed: int, n: int) -> bytes:
    """``n`` bytes that no other seed gives."""
    start = seed % len(BLOCK)
    repeated = BLOCK[start:] + BLOCK * (n // len(BLOCK) + 1)
    return (b"%d." % seed + repeated)[:n]


@dataclass(frozen=True)
class Plan:
    """One request and what its VM does: ``n`` bytes of answer, ``upload`` bytes of body."""

    seed: int
    how: str
    n: int
    upload: int
    chunked: bool = False

    @property
    def target(self) -> str:
        return f"/{self.seed}/{self.how.replace('/', '_')}/{self.n}/{self.upload}"

    @staticmethod
    def of(target: str) -> Plan:
        _, seed, how, n, upload = target.split("/")
        return Plan(int(seed), how.replace("_", "/"), int(n), int(upload))

    def request(self, host: str, headers: str = "") -> bytes:
        method = "POST" if self.upload else "GET"
        padding = f"X-Padding: {PADDING}\r\n" if self.seed % 13 == 0 else ""
        head = f"{method} {self.target} HTTP/1.1\r\nHost: {host}\r\n{headers}{padding}"
        body = pattern(self.seed, self.upload)
        if not self.upload:
            return f"{head}\r\n".encode()
        if not self.chunked:
            return f"{head}Content-Length: {self.upload}\r\n\r\n".encode() + body
        step = 1 + self.seed % 70_000
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


# -- VMs


class WildVM(ScriptedVM):
    """Does what each request's plan says; a connection that does not begin with a letter of HTTP is echoed."""

    def __init__(self, faults: list[str], narrow: bool = False) -> None:
        super().__init__(self._any, name="wild")
        if narrow:  # little fits into the kernels between the proxy and this VM
            self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.faults = faults  # what the model found wrong, shared by all
        self.posts: Counter[int] = Counter()

    def _any(self, conn: VMConnection) -> None:
        conn.sock.settimeout(30)
        if conn.sock.recv(1, socket.MSG_PEEK) == b"\0":
            echo(conn)
            return
        while seen := conn.head():
            if seen.target == "/tunnel":
                conn.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: mayhem\r\n\r\n")
                left, _ = conn.parser.trailing_data
                conn.send(left)
                echo(conn)
                return
            if self._answer(conn, seen, Plan.of(seen.target)) == CLOSE:
                return

    def _read(self, conn: VMConnection, seen: Seen, plan: Plan) -> None:
        body = conn.body(seen)
        if seen.complete and body != pattern(plan.seed, plan.upload):
            self.faults.append(f"{plan}: {len(body)} wrong bytes reached the VM as a whole body")

    def _answer(self, conn: VMConnection, seen: Seen, plan: Plan) -> str | None:
        body = pattern(plan.seed, plan.n)
        counted = f"HTTP/1.1 200 OK\r\nContent-Length: {plan.n}\r\n\r\n".encode()
        if plan.upload:
            self.posts[plan.seed] += 1
        if plan.how == "duplex":
            conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            time.sleep(10 * PAUSE_S)
            self._read(conn, seen, plan)
            conn.send((b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n")
            return None
        if plan.how.startswith("early"):
            conn.send(counted + body)
            if plan.how == "early-close":
                return CLOSE
            self._read(conn, seen, plan)
            return None
        self._read(conn, seen, plan)
        if not seen.complete:
            return CLOSE
        return SCRIPTS[plan.how](conn, counted, body)


def echo(conn: VMConnection) -> None:
    while data := conn.recv():
        conn.send(data)
    conn.end()


def _counted(conn: VMConnection, head: bytes, body: bytes) -> None:
    conn.send(head + body)


def _chunked(conn: VMConnection, _: bytes, body: bytes) -> None:
    step = 1 + len(body) // 7
    conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for at in range(0, len(body), step):
        piece = body[at : at + step]
        conn.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    conn.send(b"0\r\nX-Trailer: t\r\n\r\n")


def _until_close(conn: VMConnection, _: bytes, body: bytes) -> str:
    conn.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    return CLOSE


def _http10(conn: VMConnection, head: bytes, body: bytes) -> str:
    conn.send(head.replace(b"HTTP/1.1", b"HTTP/1.0") + body)
    return CLOSE


def _slow(conn: VMConnection, head: bytes, body: bytes) -> None:
    whole = head + body
    step = len(head) // 2 + len(body) // 9
    for at in range(0, len(whole), step):
        conn.send(whole[at : at + step])
        time.sleep(PAUSE_S)


def _interim(conn: VMConnection, head: bytes, body: bytes) -> None:
    conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + head + body)


def _cut(conn: VMConnection, head: bytes, body: bytes) -> str:
    conn.send((head + body)[: len(head) + len(body) // 2 - 9])
    return CLOSE


def _reset(conn: VMConnection, head: bytes, body: bytes) -> str:
    conn.send((head + body)[: len(head) + len(body) // 3])
    conn.reset()
    return CLOSE


def _mute(_conn: VMConnection, _: bytes, __: bytes) -> str:
    return CLOSE


def _mute_reset(conn: VMConnection, _: bytes, __: bytes) -> str:
    conn.reset()
    return CLOSE


def _short(conn: VMConnection, _: bytes, body: bytes) -> str:
    conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(body) + 1) + body)
    return CLOSE


def _poison(conn: VMConnection, head: bytes, body: bytes) -> None:
    conn.send(head + body + POISON)
    conn.wait_end()


def _reset_after(conn: VMConnection, head: bytes, body: bytes) -> str:
    conn.send(head + body)
    conn.reset()
    return CLOSE


def _flood(conn: VMConnection, head: bytes, body: bytes) -> str:
    conn.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40 + head + body)
    return CLOSE


def _garbage(conn: VMConnection, _: bytes, body: bytes) -> str:
    conn.send(b"\x16\x03 nonsense\r\n\r\n" + body)
    return CLOSE


SCRIPTS: dict[str, Callable[[VMConnection, bytes, bytes], str | None]] = {
    "counted": _counted,
    "chunked": _chunked,
    "until-close": _until_close,
    "http/1.0": _http10,
    "slow": _slow,
    "interim": _interim,
    "cut": _cut,
    "reset": _reset,
    "mute": _mute,
    "mute-reset": _mute_reset,
    "short": _short,
    "poison": _poison,
    "reset-after": _reset_after,
    "flood": _flood,
    "garbage": _garbage,
}


# -- clients


class WildClient:
    """One visit after the other until ``stop``; every choice comes from its own seeded generator. ``rough``: workers
    are killed meanwhile, so any answer may be cut or fail."""

    def __init__(
        self, daemon: ProxyDaemon, hosts: list[str], seed: int, faults: list[str], rough: bool = False
    ) -> None:
        self.daemon, self.hosts, self.faults, self.rough = daemon, hosts, faults, rough
        self.chance = random.Random(seed)
        self.base = seed << 20
        self.made = 0
        self.outcomes: Counter[str] = Counter()
        self.last = ""  # what a fault is reported with

    def run(self, stop: threading.Event) -> None:
        visits = [self.keep_alive, self.keep_alive, self.pipeline, self.abort, self.upgrade, self.relay]
        while not stop.is_set():
            visit = self.chance.choice(visits)
            try:
                visit()
            except TimeoutError:
                self.faults.append(f"{visit.__name__} of client {self.base >> 20}: nothing came any more")
            except (OSError, Closed):
                self.outcomes["ended by the proxy"] += 1
            except AssertionError as error:
                self.faults.append(f"{visit.__name__} of client {self.base >> 20}: {error}\n  {self.last}")

    def plan(self, uploads: float = 0.4, largest: int = SIZES[-1]) -> Plan:
        chance = self.chance
        self.made += 1
        return Plan(
            self.base + self.made,
            chance.choice(SOUND if chance.random() < 0.7 else FAULTY),
            chance.choice(SIZES),
            chance.choice([n for n in SIZES[1:] if n <= largest]) if chance.random() < uploads else 0,
            chance.random() < 0.5,
        )

    def check(self, plan: Plan, got: Response, left: bool = False) -> bool:
        """The model; ``left``: the client's end may have been taken for an abort. False: no more answers will come."""
        self.outcomes[f"{plan.how} {got.status} {got.error or ('whole' if got.complete else 'cut')}"] += 1
        if got.status >= 500:
            allowed = MAY_FAIL_ROUGH if self.rough else NO_ROOM if plan.how in SOUND else MAY_FAIL
            assert got.error in allowed, f"{plan}: {got.status} {got.error}"
        else:
            assert got.status == 200, f"{plan}: {got.status} {got.error}"
            assert got.complete or left or self.rough or plan.how in MAY_BE_CUT, f"{plan}: cut"
            body = pattern(plan.seed, plan.n)
            assert got.body == body if got.complete else body.startswith(got.body), (
                f"{plan}: wrong bytes: {len(got.body)}, {got.body[:60]!r}"
            )
        return got.complete and got.header("connection") != "close"

    def connect(self, name: str = "http") -> RawClient:
        return RawClient(self.daemon.address(name), 25, self.chance.choice([0, 0, 4096]))

    def send(self, client: RawClient, data: bytes) -> None:
        """At once, or in pieces; the proxy may have answered and closed already."""
        if self.chance.random() < 0.6:
            client.try_send(data)
            return
        at = 0
        while at < len(data):
            step = 1 + self.chance.randrange(1 + len(data) // 5)
            client.try_send(data[at : at + step])
            at += step
            time.sleep(PAUSE_S)

    def keep_alive(self) -> None:
        host = self.chance.choice(self.hosts)
        with self.connect() as client:
            for _ in range(self.chance.randint(1, 8)):
                plan = self.plan()
                self.send(client, plan.request(host))
                if self.chance.random() < 0.2:
                    time.sleep(0.05)  # the answer waits in the proxy
                if not self.check(plan, client.response()):
                    return

    def pipeline(self) -> None:
        host = self.chance.choice(self.hosts)
        plans = [self.plan(uploads=0) for _ in range(self.chance.randint(2, 6))]
        plans.append(self.plan(uploads=0.5, largest=16_384))  # all of it is sent before any answer is read
        with self.connect() as client:
            self.last = f"{host}: {[(plan.how, plan.n, plan.upload) for plan in plans]}"
            self.send(client, b"".join(plan.request(host) for plan in plans))
            if ended := self.chance.random() < 0.3:
                client.end()
            for plan in plans:
                if not self.check(plan, client.response(), left=ended and host != HALF_CLOSE_HOST):
                    return

    def abort(self) -> None:
        """Leaves at any moment, in any way."""
        plan = self.plan(uploads=0.5)
        data = plan.request(self.chance.choice(self.hosts))
        with self.connect() as client:
            client.try_send(data[: self.chance.randint(1, len(data))] if self.chance.random() < 0.5 else data)
            if self.chance.random() < 0.5:
                client.sock.settimeout(self.chance.choice([0.001, 0.02, 0.1]))
                with contextlib.suppress(TimeoutError):
                    client.fill()
            how = self.chance.choice([client.reset, client.sock.close, client.end])
            how()
            if how == client.end:
                client.sock.settimeout(25)
                client.rest()
            self.outcomes["aborted"] += 1

    def upgrade(self) -> None:
        with self.connect() as client:
            client.send(f"GET /tunnel HTTP/1.1\r\nHost: {self.chance.choice(self.hosts)}\r\n{TUNNEL}\r\n".encode())
            got = client.response()
            if got.status != 101:
                assert got.error in (MAY_FAIL_ROUGH if self.rough else MAY_FAIL), f"upgrade: {got.status} {got.error}"
                return
            self.talk(client, b"")

    def relay(self) -> None:
        with self.connect("tcp") as client:
            self.talk(client, b"\0")

    def talk(self, client: RawClient, first: bytes) -> None:
        """Everything that goes into an echo comes out of it, whole, whoever is slow."""
        self.made += 1
        data = first + pattern(self.base + self.made, self.chance.choice(SIZES[1:]))
        leaves = self.chance.random() < 0.3
        writer = threading.Thread(target=self._write, args=(client, data, leaves))
        writer.start()
        try:
            got = client.rest()
        finally:
            writer.join()
        assert data.startswith(got), f"a tunnel changed bytes: {len(got)} of {len(data)}"
        self.outcomes["tunnel left" if leaves else "tunnel whole" if got == data else "tunnel cut"] += 1

    def _write(self, client: RawClient, data: bytes, leaves: bool) -> None:
        with contextlib.suppress(OSError):
            self.send(client, data)
            if leaves:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sock.shutdown(socket.SHUT_RDWR)
            else:
                client.end()
