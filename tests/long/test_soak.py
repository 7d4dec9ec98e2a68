"""Hours in minutes: mixed load through a real daemon; no request may fail, no memory, file or place may leak.

`make soak MINUTES=30`; SOAK_MINUTES is 2 in `make test-long`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(0)]
MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))
CLIENTS = 8
GROWTH_MAX = 4 << 20  # bytes of resident memory that the workers may gain after the first fifth


def big(conn: VMConnection, seen: Seen) -> None:
    conn.body(seen)
    conn.reply(bytes(300_000))


def chunked(conn: VMConnection, seen: Seen) -> None:
    conn.body(seen)
    conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"800\r\n" + bytes(0x800) + b"\r\n0\r\n\r\n")


def short_lived(conn: VMConnection, seen: Seen) -> str:
    conn.body(seen)
    conn.reply(headers="Connection: close\r\n")
    return CLOSE


def tunnel(conn: VMConnection, seen: Seen) -> str:
    conn.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n")
    while data := conn.recv():
        conn.send(data)
    return CLOSE


@pytest.fixture
def vm() -> Iterator[ScriptedVM]:
    made = ScriptedVM()
    yield made
    made.stop()
    assert made.violations == []


def one_visit(daemon: ProxyDaemon, paths: dict[str, str], chance: random.Random) -> None:
    """A connection with a few requests, ended politely, by reset, or in the middle."""
    with daemon.client(timeout=30) as client:
        for _ in range(chance.randint(1, 8)):
            kind = chance.choice([*paths, "echo", "bad", "leave"])
            if kind == "echo":
                body = chance.randbytes(chance.choice([1, 1000, 70_000]))
                client.request("POST", body=body)
                assert client.response().body == body
            elif kind == "bad":
                client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX : y\r\n\r\n")
                assert client.response().status == 400
                return
            elif kind == "leave":
                client.request(target=paths["big"])
                client.reset()
                return
            elif kind == "tunnel":
                client.request(target=paths[kind], headers="Upgrade: chat\r\nConnection: Upgrade\r\n")
                assert client.response().status == 101
                client.send(b"ping")
                assert client.exactly(4) == b"ping"
                return
            else:
                got = client.get(paths[kind])
                assert (got.status, got.complete) == (200, True)


def resident(daemon: ProxyDaemon) -> int:
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in daemon.workers())


def open_files(daemon: ProxyDaemon) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in daemon.workers())


def test_soak(vm: ScriptedVM) -> None:
    daemon = ProxyDaemon(workers={"count": 2, "slots": 2}).start()
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    paths = {script.__name__: vm.route(script) for script in (big, chunked, short_lived, tunnel)}
    seed = random.randrange(1 << 32)
    print(f"seed {seed}, {MINUTES:g} minutes")
    end = time.monotonic() + MINUTES * 60
    failures: list[BaseException] = []

    def visitor(number: int) -> None:
        chance = random.Random(seed + number)
        try:
            while time.monotonic() < end and not failures:
                one_visit(daemon, paths, chance)
                vm.requests.clear()
                vm.connections.clear()
        except BaseException as error:  # noqa: BLE001  shown by the test's own assertion
            failures.append(error)

    try:
        threads = [threading.Thread(target=visitor, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        until(lambda: time.monotonic() > end - MINUTES * 48 or failures, "the first fifth", MINUTES * 60 + 60, 0.2)
        settled, files = resident(daemon), open_files(daemon)
        for thread in threads:
            thread.join()
        assert failures == []
        until(lambda: all(one["in_flight"] == 0 for one in daemon.ctl("machines", "list")), "nothing is in flight")
        assert resident(daemon) - settled < GROWTH_MAX
        assert open_files(daemon) <= files + 4
    except BaseException:
        print(daemon.log())
        daemon.kill()
        raise
    daemon.stop()
