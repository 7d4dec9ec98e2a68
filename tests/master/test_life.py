"""Start, stop, death and replacement, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flyproxy.master.children import FIRST_NICE
from tests.kit.wait import stand_still, until
from tests.master.conftest import TWO
from tests.master.harness import Hammer, RunningMaster, hello

CAP_SYS_NICE = 23
PROMPT = 1.0  # seconds that no connect may wait longer than, whatever happens


def dead(pid: int) -> bool:
    return not alive(pid)


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent to ask (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_start_is_announced_to_log_and_systemd_when_workers_accept(
    make_master: Callable[..., RunningMaster], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "n"))
        notify.settimeout(10)
        env = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "200000"}
        master = make_master(TWO, env=env).start()
        first = notify.recv(4096).decode().splitlines()
        while "READY=1" not in first:
            first = notify.recv(4096).decode().splitlines()
        assert f"MAINPID={master.pid}" in first
        sock, _ = master.connect()
        sock.close()
        assert "WATCHDOG=1" in notify.recv(4096).decode()
        master.kill(signal.SIGHUP)
        while not (text := notify.recv(4096).decode()).startswith("RELOADING=1\nMONOTONIC_USEC="):
            assert text
        assert master.stop() == 0
        while "STOPPING=1" not in (text := notify.recv(4096).decode()):  # a silent socket ends this by its timeout
            assert text


def test_a_wildcard_listener_serves_both_families_on_one_port(make_master: Callable[..., RunningMaster]) -> None:
    master = make_master(TWO.replace("127.0.0.1:0", "[::]:0") + "port = 80\n").start()
    rows = master.status()["listeners"]
    assert [row["port"] for row in rows] == [80, 80]
    (six, port), (four, same) = master.addresses()
    assert (six, four) == ("::", "0.0.0.0") and port == same
    for address in ("::1", "127.0.0.1"):
        with socket.create_connection((address, port), 5) as sock:
            assert hello(sock)


def test_each_family_of_a_port_may_have_a_listener_of_its_own(make_master: Callable[..., RunningMaster]) -> None:
    six_and_four = TWO.replace("127.0.0.1:0", "[::]:0") + "port = 80\n"
    master = make_master(six_and_four).start()
    port = master.addresses()[0][1]
    six_and_four = six_and_four.replace("[::]:0", f"[::]:{port}")
    two_listeners = f"{six_and_four}[[listeners]]\naddress = '0.0.0.0:{port}'\nport = 81\n"
    for text, four in ((six_and_four, 80), (two_listeners, 81), (six_and_four, 80)):
        with socket.create_connection(("127.0.0.1", port), 5) as before:
            assert hello(before)
            master.configure(text)
            assert "data" in master.ask("reload")
            rows = {row["address"]: row["port"] for row in master.status()["listeners"]}
            assert rows == {f"[::]:{port}": 80, f"0.0.0.0:{port}": four}
            for address in ("::1", "127.0.0.1"):
                with socket.create_connection((address, port), 5) as sock:
                    assert hello(sock)
    master.configure(two_listeners)
    assert master.stop() == 0
    master.start()  # both in one file from the start
    assert {row["port"] for row in master.status()["listeners"]} == {80, 81}


def test_one_address_may_have_a_listener_beside_all_addresses(make_master: Callable[..., RunningMaster]) -> None:
    master = make_master(TWO).start()
    port = master.addresses()[0][1]
    both = f"address = '0.0.0.0:{port}'\n[[listeners]]\naddress = '127.0.0.1:{port}'\nport = 81"
    master.configure(TWO.replace("address = '127.0.0.1:0'", both))
    assert master.stop() == 0
    master.start()
    rows = {row["address"]: row["port"] for row in master.status()["listeners"]}
    assert rows == {f"0.0.0.0:{port}": port, f"127.0.0.1:{port}": 81}


def test_a_graceful_stop_waits_for_connections_and_leaves_nothing_behind(master: RunningMaster) -> None:
    address = master.addresses()[0]
    sock, pid = master.connect()
    master.kill(signal.SIGTERM)
    until(lambda: refused(address), "new connections are refused")
    assert alive(pid) and not master.ended()
    sock.close()
    assert master.stop() == 0
    assert master.family() == []
    assert not (master.runtime / "ctl.sock").exists()


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM] * 2, [signal.SIGTERM, signal.SIGINT]])
def test_a_quick_stop_waits_for_nobody(master: RunningMaster, signals: list[int]) -> None:
    sock, _ = master.connect()
    for number in signals[:-1]:
        master.kill(number)
        until(lambda: master.of("stopping"), "the stop has begun")
    assert master.stop(signals[-1]) == 0
    assert sock.recv(1) == b""
    assert master.family() == []


def test_a_stopped_child_cannot_hold_up_a_quick_stop(master: RunningMaster) -> None:
    for pid in (master.status()["state"]["pid"], master.workers()[0]["pid"]):
        stand_still(pid)
    assert master.stop(signal.SIGINT) == 0
    assert master.family() == []


def test_stop_is_a_command_too(master: RunningMaster) -> None:
    assert master.ask("stop")["data"] == {"stopping": "graceful"}
    assert master.process is not None and master.process.wait(20) == 0


def test_children_are_in_sessions_of_their_own_so_that_ctrl_c_reaches_the_master_alone(master: RunningMaster) -> None:
    mine = os.getsid(master.pid)
    pids = [row["pid"] for row in master.workers()] + [master.status()[name]["pid"] for name in ("state", "control")]
    assert all(os.getsid(pid) != mine for pid in pids)


@pytest.mark.alone("how long a connect waits at most")
def test_killed_workers_cost_no_connect_more_than_a_second(master: RunningMaster) -> None:
    with Hammer(master.addresses()[0]) as hammer:
        for _ in range(3):
            victim = hammer.served[-1]
            os.kill(victim, signal.SIGKILL)
            until(partial(dead, victim), "the victim is dead")
            hammer.until_served(20)
            until(lambda: len(master.workers()) == 2, "it is replaced")
    assert len(hammer.failures) <= 3, f"only what a killed worker had accepted may be lost: {hammer.failures}"
    assert hammer.slowest < PROMPT
    assert master.status()["restarts"] == {"killed": 3}


@pytest.mark.alone("how long a connect waits at most")
def test_a_worker_that_never_comes_back_leaves_its_slots_to_its_sibling(master: RunningMaster) -> None:
    master.behave("exit")
    os.kill(master.workers()[0]["pid"], signal.SIGKILL)
    with Hammer(master.addresses()[0]) as hammer:
        until(lambda: sum(master.status()["restarts"].values()) >= 4, "it is in back-off")
        hammer.until_served(50)
    assert not hammer.failures and hammer.slowest < PROMPT
    (survivor,) = master.workers()
    assert survivor["slots"] == [0, 1, 2, 3]
    master.behave("good")
    until(lambda: len(master.workers()) == 2, "it is back")
    assert sorted(len(row["slots"]) for row in master.workers()) == [2, 2]


@pytest.mark.alone("how long a connect waits at most")
def test_a_stopped_worker_loses_its_slots_and_is_dumped_killed_and_replaced(
    make_master: Callable[..., RunningMaster],
) -> None:
    master = make_master(TWO.replace("[workers]", "[workers]\nstuck_after = '1s'")).start()
    victim = master.workers()[0]["pid"]
    stand_still(victim)
    until(lambda: master.of("suspect"), "its siblings take its slots", 5)
    with Hammer(master.addresses()[0]) as hammer:
        until(lambda: not alive(victim), "the watchdog kills it", 10)
        until(lambda: len(master.workers()) == 2, "it is replaced")
        hammer.until_served(20)
    assert not hammer.failures and hammer.slowest < PROMPT
    (dump,) = master.of("stuck")
    assert dump["child_pid"] == victim
    assert any("T (stopped)" in thread["state"] for thread in dump["threads"])
    assert dump["frames"]


def test_connects_during_a_worker_s_stop_wait_less_than_a_second(master: RunningMaster) -> None:
    address = master.addresses()[0]
    stand_still(master.workers()[0]["pid"])
    socks = [socket.create_connection(address, PROMPT) for _ in range(40)]
    assert {hello(sock) for sock in socks} == {master.workers()[1]["pid"]}
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("behaviour", ["deaf-engine", "deaf-python"])
def test_each_side_of_a_worker_is_watched(make_master: Callable[..., RunningMaster], behaviour: str) -> None:
    master = make_master(TWO.replace("[workers]", "[workers]\nstuck_after = '1s'\ndrain_timeout = '1s'"))
    master.start()
    victim = master.workers()[0]["pid"]
    master.behave(behaviour)
    os.kill(victim, signal.SIGKILL)
    until(lambda: alive_worker(master, 0) not in (None, victim), "a worker that goes deaf takes its place")
    deaf = alive_worker(master, 0)
    master.behave("good")
    reason = "stuck-" + behaviour.partition("-")[2]
    until(lambda: master.status()["restarts"].get(reason), "the watchdog judges it")
    until(lambda: deaf is not None and not alive(deaf), "it ends")
    assert bool(master.of("stuck")) == (reason == "stuck-engine")


def alive_worker(master: RunningMaster, index: int) -> int | None:
    return next((row["pid"] for row in master.workers() if row["index"] == index), None)


def may_raise() -> bool:
    held = int(re.search(r"^CapEff:\s+(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1], 16)  # type: ignore[index]
    return bool(held >> CAP_SYS_NICE & 1) or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - FIRST_NICE


def test_state_alone_runs_before_the_others_where_that_is_allowed(master: RunningMaster) -> None:
    status = master.status()
    assert os.getpriority(os.PRIO_PROCESS, status["state"]["pid"]) == (FIRST_NICE if may_raise() else 0)
    others = [status["control"]["pid"], *(row["pid"] for row in master.workers())]
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in others} == {0}


@pytest.mark.parametrize("role", ["state", "control"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_traffic_goes_on_without_state_or_control(master: RunningMaster, role: str, number: int) -> None:
    old = master.status()[role]["pid"]
    workers = {row["pid"] for row in master.workers()}
    with Hammer(master.addresses()[0]) as hammer:
        os.kill(old, number)
        if number == signal.SIGKILL:
            until(lambda: master.status()[role]["pid"] not in (0, old), "it is restarted")
        hammer.until_served(50)
    assert not hammer.failures and hammer.slowest < PROMPT
    assert {row["pid"] for row in master.workers()} == workers


def test_a_second_master_of_the_same_folder_is_refused_and_told_why(master: RunningMaster) -> None:
    second = RunningMaster(TWO, folder=master.folder).launch()
    assert second.process is not None and second.process.wait(10) == 1
    (record,) = master.of("start-failed")
    assert str(master.pid) in record["message"] and "FLYPROXY_RUNTIME_DIR" in record["message"]
    assert len(master.workers()) == 2


def test_a_port_of_another_program_prevents_the_start_even_if_it_could_be_shared(
    make_master: Callable[..., RunningMaster],
) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        master = make_master(TWO.replace("127.0.0.1:0", f"127.0.0.1:{port}")).launch()
        assert master.process is not None and master.process.wait(10) == 1
    (record,) = master.of("start-failed")
    assert f"127.0.0.1:{port}: Address already in use" in record["message"]
    assert f"sport = :{port}" in record["fix"]
    assert master.family() == []


def test_workers_outlive_a_killed_master_and_the_next_one_takes_over_without_a_lost_connection(
    make_master: Callable[..., RunningMaster],
) -> None:
    first = make_master(TWO).start()
    port = first.addresses()[0][1]
    status = first.status()
    orphans = {row["pid"] for row in status["workers"]}
    held, held_by = first.connect()
    with Hammer(("127.0.0.1", port)) as hammer:
        first.kill(signal.SIGKILL)
        assert first.process is not None and first.process.wait(10) == -signal.SIGKILL
        until(lambda: not alive(status["state"]["pid"]) and not alive(status["control"]["pid"]), "state, control end")
        hammer.until_served(50)
        second = make_master(TWO.replace("127.0.0.1:0", f"127.0.0.1:{port}"), folder=first.folder)
        second.launch()
        until(lambda: len(second.of("ready")) == 2 or second.ended(), "the next master is ready", 20)
        until(lambda: len([pid for pid in orphans if alive(pid)]) == 1, "the idle orphan drains")
        hammer.until_served(100)
    assert not hammer.failures and hammer.slowest < PROMPT
    assert alive(held_by) and held_by in orphans
    assert {row["pid"] for row in second.workers()}.isdisjoint(orphans)
    held.close()
    until(lambda: not alive(held_by), "the last orphan leaves with its last connection")
    until(lambda: second.status()["orphans"] == 0, "it is forgotten")
    assert second.stop() == 0
    assert second.family() == []


def test_a_pid_that_belongs_to_somebody_else_is_never_taken_for_an_orphan(
    make_master: Callable[..., RunningMaster],
) -> None:
    first = make_master(TWO).start()
    first.kill(signal.SIGKILL)
    assert first.process is not None and first.process.wait(10)
    ledger = first.runtime / "processes.json"
    entries = json.loads(ledger.read_text())
    for entry in entries:
        with contextlib.suppress(ProcessLookupError):
            os.kill(entry["pid"], signal.SIGKILL)
        until(partial(dead, entry["pid"]), "the orphan is dead")
        entry["pid"] = os.getpid()
    ledger.write_text(json.dumps(entries))
    second = make_master(TWO, folder=first.folder)
    second.launch()
    until(lambda: len(second.of("ready")) == 2, "the next master is ready", 20)
    assert second.status()["orphans"] == 0
    assert second.stop() == 0
