"""The state process with the real table: ready, ports, changes, restarts, settings, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyproxy.boot import EXIT_BOOT, EXIT_MASTER, EXIT_OK
from flyproxy.state import commands, report
from flyproxy.state.records import encode
from flyproxy.state.sqlite import SqliteStore
from flyproxy.units import ip16
from tests.state.conformance import run
from tests.state.fakes import host, http_app
from tests.state.process import ROOT, Segments, StateProcess


@pytest.fixture
def segments() -> Iterator[Segments]:
    made = Segments()
    yield made
    made.close()


async def add_hello(store: SqliteStore, machines: int = 2) -> int:
    await commands.apply_app(store, http_app("hello", port=8080))
    await commands.add_hostname(store, "hello.example", "hello")
    await commands.add_ip(store, "192.0.2.1", "hello")
    last = 0
    for n in range(machines):
        last = await commands.add_machine(store, "hello", "10.0.0.1", port=9000 + n, region="ams", host="", id=f"m{n}")
    return last


def test_it_is_ready_with_an_empty_table_and_tells_no_ports(tmp_path: Path, segments: Segments) -> None:
    async def work() -> None:
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            assert segments.reader.generation == 1
            assert segments.reader.apps() == []
            await state.until(lambda: {"t": "ports", "ports": []} in state.heard)
            assert Path(f"/proc/{state.process.pid}/cmdline").read_bytes().startswith(b"flyproxy: state")
    run(work())


def test_what_commands_change_is_in_the_table_at_their_revision(tmp_path: Path, segments: Segments) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        table = segments.reader
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            revision = await add_hello(store)
            await state.until(lambda: table.revision >= revision)
            assert table.lookup_host("hello.example") == "hello"
            assert table.lookup_address(ip16("192.0.2.1")) == "hello"
            assert sorted(one["id"] for one in table.machines()) == ["m0", "m1"]
            ports = {"t": "ports", "ports": [{"port": 8080, "waiting": None, "apps": ["hello"]}]}
            await state.until(lambda: ports in state.heard)

            revision = await commands.set_health(store, "m0", "critical")
            await state.until(lambda: table.revision >= revision)
            assert {one["id"]: one["health"] for one in table.machines()} == {"m0": "critical", "m1": "unknown"}

            revision = await commands.remove_app(store, "hello")
            await state.until(lambda: table.revision >= revision)
            assert table.apps() == table.machines() == []
            assert table.lookup_host("hello.example") is None
        await store.close()
    run(work())


def test_after_a_kill_the_next_one_builds_the_other_segment_and_goes_on(tmp_path: Path, segments: Segments) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        table = segments.reader
        revision = 0
        for round in range(3):
            async with StateProcess(tmp_path, segments) as state:
                await state.ready()
                await state.until(lambda before=revision: table.revision >= before)  # type: ignore[misc]
                revision = await commands.apply_app(store, http_app(f"a{round}"))
                await state.until(lambda wanted=revision: table.revision >= wanted)  # type: ignore[misc]
                state.process.send_signal(signal.SIGKILL)
                assert await state.ended() == -signal.SIGKILL
            assert sorted(app["name"] for app in table.apps()) == [f"a{n}" for n in range(round + 1)]
        await store.close()
    run(work())


def test_a_start_without_its_store_serves_what_was_last_known(tmp_path: Path, segments: Segments) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        async with StateProcess(tmp_path, segments) as state:
            revision = await add_hello(store)
            await state.until(lambda: segments.reader.revision >= revision)
            state.channel.send({"t": "stop"})
            assert await state.ended() == EXIT_OK
        await store.close()
        (tmp_path / "state.db").write_bytes(b"this is no database " * 300)
        fresh = Segments()
        async with StateProcess(tmp_path, fresh) as state:
            await state.ready()
            assert fresh.reader.lookup_host("hello.example") == "hello"
            assert len(fresh.reader.machines()) == 2
        fresh.close()
    run(work())


def test_a_full_table_names_the_setting_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        store, small = SqliteStore(str(tmp_path / "state.db")), Segments(machines=16)
        async with StateProcess(tmp_path, small) as state:
            await state.ready()
            revision = await add_hello(store, machines=18)
            await state.until(lambda: small.reader.revision >= revision)
            assert len(small.reader.machines()) == 16
            told = await state.until(lambda: report.read(str(tmp_path)).quarantined)
            assert "[table] machines" in told[0].reason
            last = await commands.add_hostname(store, "late.example", "hello")
            for n in range(2):
                last = await commands.remove_machine(store, f"m{n}")
            await state.until(lambda: small.reader.revision >= last)
            assert small.reader.lookup_host("late.example") == "hello"
            assert {one["id"] for one in small.reader.machines()} == {f"m{n}" for n in range(2, 18)}
        await store.close()
        small.close()
    run(work())


def test_settings_that_a_session_is_built_on_are_taken_without_a_restart(tmp_path: Path, segments: Segments) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "other.db"))
        await commands.apply_app(store, http_app("elsewhere"))
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            state.send_settings('[log]\nlevel = "debug"')
            generation = segments.reader.generation
            state.send_settings(f'[state]\nurl = "{tmp_path}/other.db"')
            await state.until(lambda: [app["name"] for app in segments.reader.apps()] == ["elsewhere"])
            assert segments.reader.generation > generation
        await store.close()
    run(work())


MESH = """host = "h1"
[backhaul]
address = "10.9.0.1"
key_file = "/only/the/master/reads/it"
"""


def test_on_a_mesh_it_tells_of_its_host_and_follows_what_is_measured(tmp_path: Path, segments: Segments) -> None:
    from flyproxy._speedups.shm.closeness import Closeness

    async def work() -> None:
        store, table = SqliteStore(str(tmp_path / "state.db")), segments.reader
        async with StateProcess(tmp_path, segments, MESH) as state:
            await state.until(lambda: [one["id"] for one in table.hosts()] == ["h1"])
            (own,) = table.hosts()
            assert (own["region"], own["address"], own["epoch"]) == ("ams", ip16("10.9.0.1"), state.epoch)
            assert (own["ports"], own["roles"]) == (list(state.ports), ["edge", "worker"])
            other = host("h2", region="syd", address="10.9.0.2")
            revision = await store.put("g", "node.h2", encode(other))
            await state.until(lambda: table.revision >= revision)
            before = table.published_ns
            (slot,) = (one["slot"] for one in table.hosts() if one["id"] == "h2")
            Closeness(segments.fds, writable=True).set(slot, "direct", 9000, None)
            await state.until(lambda: table.published_ns > before)
            assert table.revision == revision
        await store.close()
    run(work())


def test_it_answers_its_master(tmp_path: Path, segments: Segments) -> None:
    async def work() -> None:
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            state.channel.send({"t": "ping"})
            await state.until(lambda: {"t": "pong"} in state.heard)
    run(work())


def test_it_ends_as_told_and_with_its_master(tmp_path: Path, segments: Segments) -> None:
    async def work() -> None:
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            state.channel.send({"t": "stop"})
            assert await state.ended() == EXIT_OK
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            state.process.send_signal(signal.SIGTERM)
            assert await state.ended() == EXIT_OK
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            state.listening.cancel()
            await asyncio.sleep(0)
            state.channel.close()
            assert await state.ended() == EXIT_MASTER
    run(work())


def test_without_a_channel_it_says_that_it_is_not_started_by_hand() -> None:
    command = [sys.executable, "-m", "flyproxy.state"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == EXIT_BOOT
    assert "flyproxy run" in done.stderr


def test_a_bad_boot_message_is_refused(
    tmp_path: Path, segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.state.process.boot_message", lambda boot, identity: ({"t": "other"}, []))
    async def work() -> None:
        async with StateProcess(tmp_path, segments) as state:
            assert await state.ended() == EXIT_BOOT
    run(work())
