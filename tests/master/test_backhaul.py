"""The backhaul's listeners, with real masters: one port for each slot, and what of them outlives whom."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kit.pki import DAY, Authority, now
from tests.kit.wait import stand_still, until
from tests.master.harness import RunningMaster, hello

PID = os.getpid()
MESH = f"127.{64 + PID % 128}.{PID >> 8 & 255}.{PID & 255}"  # an address of this test run's own
SECRET = "0123456789abcdef-secret"
MakeMesh = Callable[..., RunningMaster]


@pytest.fixture
def make_mesh(make_master: Callable[..., RunningMaster], tmp_path: Path) -> Iterator[MakeMesh]:
    """A master of two workers on three slots with a backhaul; not started."""
    (tmp_path / "cluster.key").write_text(SECRET + "\n")

    def make(
        port: int = 0, roles: str = '["worker"]', certificate: Mapping[str, str] | None = None, **options: Any
    ) -> RunningMaster:
        workers = "[workers]\ncount = 2\nslots = 3\nrespawn_min = '50ms'\n"
        backhaul = f"[backhaul]\naddress = '{MESH}:{port}'\nkey_file = '{tmp_path}/cluster.key'\n"
        backhaul += "".join(f"{key} = '{file}'\n" for key, file in (certificate or {}).items())
        return make_master(f"roles = {roles}\n{workers}{backhaul}[[listeners]]\naddress = '127.0.0.1:0'\n", **options)

    yield make


def rows(master: RunningMaster) -> list[dict[str, Any]]:
    return [row for row in master.status()["listeners"] if row["source"] == "backhaul"]


def ports(master: RunningMaster) -> list[int]:
    told: list[int] = master.status()["backhaul"]["ports"]
    assert [row["address"] for row in rows(master)] == [f"{MESH}:{port}" for port in told]
    return told


def greeted(port: int) -> int:
    with socket.create_connection((MESH, port), 5) as sock:
        return hello(sock)


def test_every_slot_has_a_port_of_its_own_from_the_base_on(make_mesh: MakeMesh) -> None:
    master = make_mesh(port=7443).start()
    assert ports(master) == [7443, 7444, 7445]
    owners = {slot: row["pid"] for row in master.workers() for slot in row["slots"]}
    assert [greeted(port) for port in ports(master)] == [owners[slot] for slot in range(3)]


def test_the_children_learn_epoch_ports_and_key(make_mesh: MakeMesh) -> None:
    master = make_mesh().start()
    status = master.status()["backhaul"]
    assert status["address"] == MESH
    for role in ("state", "control", "worker"):
        path = master.runtime / f"boot-{role}.json"
        until(path.exists, f"{role} has booted")
        told = json.loads(path.read_text())
        assert told == {"epoch": status["epoch"], "backhaul_ports": status["ports"], "cluster_key": SECRET}
    assert SECRET not in master.text()


def test_a_dead_worker_s_port_is_served_by_its_sibling(make_mesh: MakeMesh) -> None:
    master = make_mesh().start()
    first = ports(master)[0]
    master.behave("silent")  # its successor never gets ready
    os.kill(greeted(first), signal.SIGKILL)
    (survivor,) = until(lambda: len(left := master.workers()) == 1 and left, "one worker is left")
    until(lambda: master.workers()[0]["slots"] == [0, 1, 2], "it owns every slot")
    assert {greeted(port) for port in ports(master)} == {survivor["pid"]}


def test_a_restart_keeps_free_ports_and_gives_a_greater_epoch(make_mesh: MakeMesh) -> None:
    master = make_mesh().start()
    before, epoch = ports(master), master.status()["backhaul"]["epoch"]
    assert master.stop() == 0
    master.start()
    assert ports(master) == before
    assert master.status()["backhaul"]["epoch"] > epoch


def test_a_remembered_port_that_is_taken_is_replaced_by_a_free_one(make_mesh: MakeMesh) -> None:
    master = make_mesh().start()
    before = ports(master)
    assert master.stop() == 0
    with socket.create_server((MESH, before[1])):
        master.start()
        after = ports(master)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] not in before


def test_a_killed_master_s_ports_go_to_the_next_one_with_what_is_queued(make_mesh: MakeMesh) -> None:
    master = make_mesh().start()
    before, epoch = ports(master), master.status()["backhaul"]["epoch"]
    workers = [row["pid"] for row in master.workers()]
    master.kill(signal.SIGKILL)
    until(master.ended, "the master is dead")
    for pid in workers:
        stand_still(pid)  # what connects now waits in the queue
    with socket.create_connection((MESH, before[2]), 5) as sock:
        sock.settimeout(20)
        master.start()
        assert hello(sock) not in workers
    assert ports(master) == before and master.status()["backhaul"]["epoch"] > epoch


def test_an_edge_opens_no_backhaul_and_tells_no_ports(make_mesh: MakeMesh) -> None:
    master = make_mesh(roles='["edge"]').start()
    assert rows(master) == [] and ports(master) == []


def test_without_an_address_there_is_none(master: RunningMaster) -> None:
    assert master.status()["backhaul"] is None and rows(master) == []


def test_a_port_of_the_backhaul_is_none_for_apps(make_mesh: MakeMesh) -> None:
    master = make_mesh().start()
    port = ports(master)[0]
    (master.runtime / "ports").write_text(f"{port}")
    os.kill(master.status()["state"]["pid"], signal.SIGUSR1)

    def state() -> list[str]:
        return [row["state"] for row in master.status()["listeners"] if row["source"] == "app"]

    assert until(state, "the port is known") == ["not allowed: the backhaul listens on it"]


def test_a_reload_leaves_it_and_says_that_it_needs_a_restart(make_mesh: MakeMesh) -> None:
    master = make_mesh().start()
    before = ports(master)
    master.configure(master.file.read_text().partition("[paths]")[0].replace(f"{MESH}:0", f"{MESH}:7443"))
    assert master.ask("reload")["data"]["restart"] == ["backhaul.address"]
    assert ports(master) == before


def test_a_start_with_a_certificate_that_cannot_be_used_is_refused(make_mesh: MakeMesh, tmp_path: Path) -> None:
    files = Authority(tmp_path).sign("ams-1")
    Path(files["key"]).write_text("hello")
    master = make_mesh(certificate=files)
    master.launch()
    until(master.ended, "the master gives up", 20)
    (refusal,) = master.of("start-failed")
    assert f"'key' in [backhaul]: {files['key']} holds no private key" in refusal["message"] and refusal["fix"]


def test_a_certificate_that_has_expired_is_said_and_keeps_nobody_from_starting(
    make_mesh: MakeMesh, tmp_path: Path
) -> None:
    files = Authority(tmp_path).sign("ams-1", begins=now() - 2 * DAY, ends=now() - DAY)
    master = make_mesh(certificate=files).start()
    (said,) = master.of("certificate-not-valid")
    assert "expired on " in said["message"] and "reload --workers" in said["fix"]
    assert master.status()["backhaul"]["certificate_expires"].startswith(f"{now() - DAY:%Y-%m-%dT%H:}")


def test_a_start_without_a_usable_key_is_refused(make_mesh: MakeMesh, tmp_path: Path) -> None:
    master = make_mesh()
    (tmp_path / "cluster.key").write_text("short")
    master.launch()
    until(master.ended, "the master gives up", 20)
    (refusal,) = master.of("start-failed")
    assert "has 5 bytes; it needs at least 16" in refusal["message"] and "head -c 32" in refusal["fix"]
