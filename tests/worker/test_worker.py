"""The worker's Python side, with an engine that only takes notes: what it passes on, says, and when it leaves."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from flyproxy.boot import EXIT_ENGINE, EXIT_OK, Boot, settings_json
from flyproxy.channel import Channel
from flyproxy.settings import Backhaul, Settings, resolved
from flyproxy.worker.main import Worker


class NotingEngine:
    """Stands in for the compiled engine: blocks in ``run`` like it, and writes down every call."""

    instances: ClassVar[list[NotingEngine]] = []

    def __init__(self, proc: int, *rest: Any) -> None:
        self.proc = proc
        self.calls: list[tuple[Any, ...]] = []
        self.connections = 0
        self.error: str | None = None
        self.full = 0
        self.ended = threading.Event()
        NotingEngine.instances.append(self)

    def run(self) -> None:
        self.ended.wait()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if self.full:
                self.full -= 1
                raise BlockingIOError
            self.calls.append((name, *args))
            if name == "stop":
                self.ended.set()

        return call


class Table:
    """Stands in for the root segment."""

    generation = 0
    turns = 1

    def __init__(self, fds: dict[str, int], writable: bool) -> None:
        self.beats = 0

    def beat_python(self, proc: int) -> None:
        self.beats += 1

    def proc(self, proc: int) -> Any:
        type(self).turns += 1
        return SimpleNamespace(engine_turns=self.turns, generation=self.generation)


SETTINGS = resolved(Settings())


def run(
    test: Callable[[Worker, NotingEngine, Channel], Awaitable[None]], status: int = EXIT_OK, cluster_key: bytes = b""
) -> None:
    """Runs a worker against ``test``, which plays the master and must bring the worker to its end."""

    async def inner() -> None:
        master, sock = Channel.pair()
        folders = ("/nowhere", "/nowhere")
        backhaul = Backhaul(address="10.9.0.1:7443" if cluster_key else "")
        settings = msgspec.structs.replace(SETTINGS, backhaul=backhaul)
        boot = Boot("worker", 3, 5, 1, settings, {}, {}, *folders, epoch=1_800_000_000, cluster_key=cluster_key)
        Table.generation, Table.turns = 1, 1
        worker = Worker(boot, Channel(sock), NotingEngine, Table)
        running = asyncio.ensure_future(worker.run())
        try:
            await asyncio.wait_for(test(worker, NotingEngine.instances[-1], master), 10)
            assert await asyncio.wait_for(running, 10) == status
        finally:
            NotingEngine.instances[-1].ended.set()
            master.close()

    asyncio.run(inner())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def ready(master: Channel) -> None:
    assert (await master.recv())[0] == {"t": "ready"}


def test_it_is_ready_once_the_engine_turns_and_has_read_a_table() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        Table.generation = 0
        await asyncio.sleep(0.06)
        assert worker.state == "starting"
        Table.generation = 1
        await ready(master)
        assert worker.state == "ready"
        master.send({"t": "stop"})

    run(test)


def test_stop_ends_the_engine_and_the_worker() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        master.send({"t": "stop"})
        await until(lambda: ("stop",) in engine.calls)

    run(test)


def test_listeners_reach_the_engine_removed_ones_first() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            item = {"id": 9, "slot": 2, "service_port": 80, "proxy_protocol": True, "trusted_sources": ["10.0.0.0/8"],
                    "source": "app", "address": "127.0.0.1", "port": 1, "family": "v4"}  # fmt: skip
            master.send({"t": "listeners", "add": [item], "remove": [4, 5]}, [server.fileno()])
            await until(lambda: len(engine.calls) == 3)
            port = server.getsockname()[1]
        assert engine.calls[:2] == [("remove_listener", 4), ("remove_listener", 5)]
        name, number, slot, fd, *rest = engine.calls[2]
        assert (name, number, slot, rest) == ("add_listener", 9, 2, [80, True, ["10.0.0.0/8"], False])
        with socket.socket(fileno=fd) as passed:
            assert passed.getsockname()[1] == port
        master.send({"t": "stop"})

    run(test)


def test_the_engine_has_epoch_key_and_address_before_the_first_backhaul_listener() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        item = {"id": 9, "slot": 2, "service_port": 7443, "proxy_protocol": False, "trusted_sources": [],
                "source": "backhaul"}  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as server:
            master.send({"t": "listeners", "add": [item], "remove": []}, [server.fileno()])
            await until(lambda: len(engine.calls) == 2)
        told, (name, *_, is_backhaul) = engine.calls
        key, address = hashlib.sha256(b"flyproxy-backhaul\0secret").digest(), bytes(10) + b"\xff\xff\x0a\x09\x00\x01"
        assert told == ("set_backhaul", 1_800_000_000, key, address)
        assert (name, is_backhaul) == ("add_listener", True)
        os.close(engine.calls[1][3])
        master.send({"t": "stop"})

    run(test, cluster_key=b"secret")


def test_a_full_mailbox_of_the_engine_delays_and_loses_nothing() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        engine.full = 3
        master.send({"t": "listeners", "add": [], "remove": [1, 2]})
        await until(lambda: engine.calls == [("remove_listener", 1), ("remove_listener", 2)])
        master.send({"t": "stop"})

    run(test)


def test_settings_reach_the_engine_and_our_own_view() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        data = settings_json(SETTINGS)
        data["workers"]["drain_timeout"] = 7.0
        master.send({"t": "settings", "settings": data})
        await until(lambda: engine.calls)
        assert engine.calls == [("apply_settings", data)]
        assert worker.settings.workers.drain_timeout == 7.0
        master.send({"t": "stop"})

    run(test)


def test_a_drain_ends_with_the_last_connection() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        engine.connections = 1
        master.send({"t": "drain", "deadline": 60})
        await until(lambda: ("drain",) in engine.calls)
        before = worker._root.beats
        await until(lambda: worker._root.beats > before + 1)
        assert worker.state == "draining"
        engine.connections = 0
        assert (await master.recv())[0] == {"t": "drained"}

    run(test)


def test_a_drain_ends_at_its_deadline_whatever_is_open() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        engine.connections = 1
        master.send({"t": "drain", "deadline": 0.05})
        assert (await master.recv())[0] == {"t": "drained"}

    run(test)


def test_listeners_that_come_during_a_drain_are_closed() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        engine.connections = 1
        reader, writer = os.pipe()
        master.send({"t": "drain", "deadline": 60})
        item = {"id": 1, "slot": 0, "service_port": 80, "proxy_protocol": False, "trusted_sources": [], "source": "app"}
        master.send({"t": "listeners", "add": [item], "remove": []}, [writer])
        os.close(writer)
        assert await asyncio.to_thread(os.read, reader, 1) == b""
        os.close(reader)
        master.send({"t": "stop"})

    run(test)


def test_a_dead_engine_thread_ends_the_worker_with_a_status_of_its_own() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        engine.ended.set()

    run(test, EXIT_ENGINE)


def test_it_serves_on_when_the_master_dies() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        master.close()
        await until(lambda: worker._channel is None)
        beats = worker._root.beats
        await until(lambda: worker._root.beats > beats + 1)
        assert not engine.calls and "orphan" in worker._title()
        os.kill(os.getpid(), 15)
        await until(lambda: ("drain",) in engine.calls)

    run(test)


def test_an_unknown_message_changes_nothing() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        master.send({"t": "dance"})
        master.send({"t": "stop"})

    run(test)


def test_the_title_names_process_state_and_connections() -> None:
    async def test(worker: Worker, engine: NotingEngine, master: Channel) -> None:
        await ready(master)
        engine.connections = 12
        assert worker._title() == "flyproxy: worker 3 (ready, 12 connections)"
        master.send({"t": "stop"})

    run(test)


@pytest.mark.parametrize("module", ["aiohttp", "cryptography", "opentelemetry"])
def test_a_worker_s_imports_are_few(module: str) -> None:
    import subprocess
    import sys

    program = f"import sys, flyproxy.worker.main; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
