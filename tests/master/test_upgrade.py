"""Upgrades with fake children: this process, another program, and nobody outside notices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kit.wait import stand_still, until
from tests.master.conftest import TWO
from tests.master.harness import Hammer, RunningMaster, hello
from tests.master.test_life import PROMPT, alive, dead

UPGRADE_S = 40.0  # seconds: two trials and a start on a machine that has other work
KIB = 1024

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def master(make_master: Callable[..., RunningMaster]) -> RunningMaster:
    """Two workers on four slots, which may take their time to start."""
    return make_master(TWO, env={"FPM_READY_S": "20"}).start()


def upgrade(master: RunningMaster, **fields: Any) -> dict[str, Any]:
    """The data of the answer."""
    answer = master.ask("upgrade", UPGRADE_S, **fields)
    assert "data" in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


def refusal(master: RunningMaster, **fields: Any) -> dict[str, Any]:
    error: dict[str, Any] = master.ask("upgrade", UPGRADE_S, **fields)["error"]
    return error


def children(master: RunningMaster) -> set[int]:
    status = master.status()
    return {row["pid"] for row in status["workers"]} | {status["state"]["pid"], status["control"]["pid"]}


def descriptors(pid: int) -> list[str]:
    """What each open descriptor is, and whether it would survive an execve; without the numbers of inodes."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
            flags = int(next(line.split()[1] for line in lines if line.startswith("flags:")), 8)
            survives = int(number) > 2 and not flags & os.O_CLOEXEC
            found.append(f"{os.readlink(f'/proc/{pid}/fd/{number}').partition('[')[0]} {survives}")
    return sorted(found)


def memory(pid: int) -> int:
    """Resident bytes of its own (smaps_rollup(5): private and anonymous)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return KIB * int(next(line.split()[1] for line in text.splitlines() if line.startswith("Anonymous:")))


def test_an_upgrade_keeps_the_pid_replaces_every_child_and_loses_no_connection(master: RunningMaster) -> None:
    held, held_by = master.connect()
    for generation in (2, 3):
        before = children(master)
        with Hammer(master.addresses()[0]) as hammer:
            done = upgrade(master)
            hammer.until_served(20)
        assert not hammer.failures and hammer.slowest < PROMPT
        assert (done["generation"], done["segments"], done["restart"]) == (generation, "kept", [])
        until(lambda: {row["state"] for row in (master.status()["state"], master.status()["control"])} == {"ready"},
              "state and control are there")  # fmt: skip
        ready = {row["pid"] for row in master.workers()}
        assert len(ready) == 2 and ready.isdisjoint(before)
        assert master.status()["state"]["pid"] not in before and master.status()["master"]["pid"] == master.pid
    (draining,) = until(lambda: len(rows := master.workers("draining")) == 1 and rows, "the idle ones have left")
    assert (draining["pid"], draining["generation"]) == (held_by, 1), "it was there before both upgrades"
    held.close()
    until(lambda: not alive(held_by), "the last one of the first program leaves with its last connection")
    assert master.stop() == 0
    assert master.family() == []


def test_five_upgrades_keep_exactly_the_descriptors_that_are_needed_and_no_memory(master: RunningMaster) -> None:
    upgrade(master, wait_drained=True)
    before, memory_before = quiet(master), memory(master.pid)
    assert not [line for line in before if line.endswith("True")], "they are close-on-exec again"
    for _ in range(5):
        upgrade(master, wait_drained=True)
    assert quiet(master) == before
    assert memory(master.pid) < memory_before + 4 * KIB * KIB
    assert not zombies(master.pid)


def quiet(master: RunningMaster) -> list[str]:
    """The descriptors when all children are there and nobody asks."""
    until(lambda: {master.status()[name]["state"] for name in ("state", "control")} == {"ready"}, "all is there")
    return until(lambda: stable(master.pid), "nobody asks")


def stable(pid: int) -> list[str]:
    """The same ten times in a row, or nothing."""
    looks = [(descriptors(pid), time.sleep(0.01))[0] for _ in range(10)]
    return looks[0] if all(look == looks[0] for look in looks) else []


def zombies(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if not alive(int(child))]


def test_new_settings_are_in_force_after_an_upgrade(master: RunningMaster) -> None:
    port = master.addresses()[0][1]
    config = TWO.replace("127.0.0.1:0", f"127.0.0.1:{port}").replace("respawn_min = '50ms'", "respawn_min = '60ms'")
    master.configure(config + "[[listeners]]\naddress = '127.0.0.2:0'\nport = 443\n")
    done = upgrade(master)
    assert sorted(done["changed"]) == ["listeners", "workers.respawn_min"] and done["segments"] == "kept"
    assert [row["port"] for row in master.status()["listeners"]] == [port, 443]
    for address in master.addresses():
        with socket.create_connection(address, 5) as sock:
            assert hello(sock)


def test_settings_that_a_reload_keeps_are_in_force_too_but_for_the_folders(master: RunningMaster) -> None:
    port, old = master.addresses()[0][1], children(master)
    config = TWO.replace("127.0.0.1:0", f"127.0.0.1:{port}").replace("slots = 4", "slots = 6")
    master.configure(config + "[table]\napps = 77\n")
    master.file.write_text(master.file.read_text().replace(f"{master.runtime}", f"{master.runtime}-other"))
    held, held_by = master.connect()
    with Hammer(("127.0.0.1", port)) as hammer:
        done = upgrade(master)
        hammer.until_served(20)
    assert not hammer.failures and hammer.slowest < PROMPT
    assert (done["generation"], done["segments"], done["restart"]) == (2, "new", ["paths.runtime"])
    assert sorted(slot for row in master.workers() for slot in row["slots"]) == list(range(6))
    until(lambda: master.status()["orphans"] == 1, "only the one with a connection is left")
    assert alive(held_by)
    held.close()
    until(lambda: not any(map(alive, old)), "the old children are gone")
    until(lambda: master.status()["orphans"] == 0 and not zombies(master.pid), "and forgotten")
    assert upgrade(master, wait_drained=True)["segments"] == "kept"
    assert master.stop() == 0
    assert master.family() == []


def test_who_begins_anew_can_wait_for_the_old_workers_too(master: RunningMaster) -> None:
    old = children(master)
    held, _ = master.connect()
    master.configure(TWO + "[table]\napps = 77\n")

    def let_go() -> None:
        until(lambda: len(master.of("ready")) == 2, "the new program serves", UPGRADE_S)
        held.close()

    with_connection = threading.Thread(target=let_go)
    with_connection.start()
    assert upgrade(master, wait_drained=True)["segments"] == "new"
    assert not any(map(alive, old))
    with_connection.join()


def test_settings_that_are_refused_change_nothing(master: RunningMaster) -> None:
    before = children(master)
    (master.folder / "try").touch()
    master.configure("[workers]\ncuont = 1\n")
    error = refusal(master)
    assert (error["code"], error["where"]) == ("upgrade_refused", f"{master.file}:2:1") and "cuont" in error["message"]
    assert children(master) == before and master.of("upgrade-refused") and not master.of("upgrading")


def test_a_listener_that_cannot_be_opened_leaves_the_old_workers_in_place(master: RunningMaster) -> None:
    old = {row["pid"] for row in master.workers()}
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        config = TWO.replace("127.0.0.1:0", f"127.0.0.1:{master.addresses()[0][1]}")
        master.configure(f"{config}[[listeners]]\naddress = '127.0.0.1:{taken}'\n")
        error = refusal(master)
    assert error["code"] == "upgrade_incomplete" and "Address already in use" in error["message"]
    assert {row["pid"] for row in master.workers()} == old
    assert upgrade(master)["generation"] == 2


def test_what_cannot_be_executed_changes_nothing(make_master: Callable[..., RunningMaster]) -> None:
    master = make_master(TWO)
    (master.folder / "missing").touch()
    master.start()
    before, open_before = children(master), quiet(master)
    error = refusal(master)
    assert error["code"] == "upgrade_refused" and "cannot execute" in error["message"] and error["fix"]
    assert children(master) == before
    assert quiet(master) == open_before, "nothing stays open"
    master.kill(signal.SIGHUP)
    until(lambda: master.of("reloaded"), "signals are heard again")


def test_a_program_that_breaks_at_its_start_leaves_the_workers_to_the_next_master(master: RunningMaster) -> None:
    port, orphans = master.addresses()[0][1], {row["pid"] for row in master.workers()}
    (master.folder / "broken").touch()
    held, held_by = master.connect()
    with Hammer(("127.0.0.1", port)) as hammer:
        with pytest.raises(ValueError, match="Expecting value"):  # the connection is closed unanswered
            master.ask("upgrade", UPGRADE_S)
        assert master.process is not None and master.process.wait(10) == 1
        hammer.until_served(50)
        (master.folder / "broken").unlink()
        master.configure(TWO.replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        master.start()
        until(lambda: len([pid for pid in orphans if alive(pid)]) == 1, "the idle orphan drains")
        hammer.until_served(50)
    assert not hammer.failures and hammer.slowest < PROMPT
    until(lambda: master.status()["orphans"] == 1, "only the one with a connection is left")
    assert alive(held_by)
    held.close()
    until(partial(dead, held_by), "the last orphan leaves")


def test_of_a_state_in_an_unknown_format_the_sockets_are_kept(master: RunningMaster) -> None:
    old = children(master)
    (master.folder / "format").write_text("2")
    port = master.addresses()[0][1]
    master.configure(TWO.replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    with Hammer(("127.0.0.1", port)) as hammer:
        before = len(master.of("ready"))
        master.kill(signal.SIGUSR2)
        until(lambda: len(master.of("ready")) > before, "the new program serves", UPGRADE_S)
        until(lambda: not any(map(alive, old)), "the old children are gone")
        hammer.until_served(20)
    assert not hammer.failures and hammer.slowest < PROMPT
    assert master.of("handover-unknown") and master.status()["master"]["pid"] == master.pid
    assert not zombies(master.pid)
    assert upgrade(master, wait_drained=True)["segments"] == "kept", "it understands its own"
    assert not [line for line in descriptors(master.pid) if line.endswith("True")]


def test_a_generation_that_never_gets_ready_leaves_the_old_workers_in_place(master: RunningMaster) -> None:
    old = {row["pid"] for row in master.workers()}
    master.behave("exit")
    with Hammer(master.addresses()[0]) as hammer:
        error = refusal(master)
        hammer.until_served(10)
    assert error["code"] == "upgrade_incomplete" and "exited with 3" in error["message"]
    assert not hammer.failures and hammer.slowest < PROMPT
    assert {row["pid"] for row in master.workers()} == old
    master.behave("good")
    assert upgrade(master, wait_drained=True)["generation"] == 2
    assert not any(map(alive, old))


def test_a_reload_in_progress_refuses_an_upgrade(make_master: Callable[..., RunningMaster]) -> None:
    master = make_master(TWO, env={"FPM_READY_S": "100"}).start()
    master.behave("silent")
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(master.runtime / "ctl.sock"))
        line.sendall(b'{"v":1,"cmd":"reload","workers":true}\n')
        until(lambda: len(master.status()["workers"]) == 4, "the reload has begun")
        error = refusal(master)
        assert (error["code"], error["message"]) == ("upgrade_refused", "another reload is still in progress")
        os.kill(master.workers("starting")[0]["pid"], signal.SIGKILL)
        assert b"reload_refused" in line.makefile("rb").readline(), "the reload was not touched"
    assert master.status()["generation"] == 1


def test_one_upgrade_at_a_time(master: RunningMaster) -> None:
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(master.ask("upgrade", UPGRADE_S))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [answer["error"]["message"] for answer in answers if "error" in answer]
    # Who comes late meets the new program, which replaces the workers as a reload does.
    assert refused in (["another upgrade is still in progress"], ["another reload is still in progress"])
    assert master.status()["generation"] == 2


def test_sigusr2_upgrades_too(master: RunningMaster) -> None:
    master.kill(signal.SIGUSR2)
    until(lambda: master.of("upgraded"), "the upgrade is done", UPGRADE_S)
    assert master.status()["generation"] == 2 and not master.ended()


def test_signals_between_two_programs_wait_for_the_second(master: RunningMaster) -> None:
    (master.folder / "hold").touch()
    master.kill(signal.SIGUSR2)
    until(lambda: held(master.pid), "the new program begins, and cannot hear anything yet", UPGRADE_S)
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM):
        master.kill(number)
    (master.folder / "hold").unlink()
    assert master.process is not None and master.process.wait(UPGRADE_S) == 0
    assert master.of("stopped") and master.family() == []


def held(pid: int, thread: int = 0) -> bool:
    """Whether SIGTERM is blocked (proc(5), a mask in hex); in the first thread: the process is between the programs."""
    blocked = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(blocked, 16) >> (signal.SIGTERM - 1) & 1)


def test_no_thread_but_the_first_takes_a_signal_that_the_next_program_must_hear(master: RunningMaster) -> None:
    """It would be taken by a program that ends in the same moment."""
    (master.folder / "try").touch()
    master.configure("[workers]\ncount = 'many'\n")
    refusal(master)  # tried by a thread, which stays
    threads = [int(task.name) for task in Path(f"/proc/{master.pid}/task").iterdir()]
    assert len(threads) > 1
    assert [thread for thread in threads if not held(master.pid, thread)] == [master.pid]


def test_who_waits_for_old_workers_is_answered_by_the_new_program(master: RunningMaster) -> None:
    held, _ = master.connect()
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(UPGRADE_S)
        line.connect(str(master.runtime / "ctl.sock"))
        line.sendall(b'{"v":1,"cmd":"reload","workers":true,"wait_drained":true}\n')
        until(lambda: master.status()["generation"] == 2, "the reload waits for the old workers")
        upgrade(master)
        held.close()
        answers = line.makefile("rb")
        assert json.loads(answers.readline())["data"]["changed"] == []
        line.sendall(b'{"v":1,"cmd":"status"}\n')
        assert json.loads(answers.readline())["data"]["generation"] == 3


def test_who_waits_for_old_workers_of_an_upgrade_is_answered_after_the_next_one(master: RunningMaster) -> None:
    held, _ = master.connect()
    answers: list[dict[str, Any]] = []
    first = threading.Thread(target=lambda: answers.append(upgrade(master, wait_drained=True)))
    first.start()
    until(lambda: master.status()["generation"] == 2, "the first one waits for the old workers", UPGRADE_S)
    assert upgrade(master)["generation"] == 3
    assert not answers
    held.close()
    first.join(UPGRADE_S)
    assert answers and answers[0]["segments"] == "kept"


def test_the_single_writer_is_dead_before_the_next_one_begins(master: RunningMaster) -> None:
    old = master.status()["state"]["pid"]
    stand_still(old)
    upgrade(master)
    assert master.status()["state"]["pid"] == 0 or not alive(old)
    until(lambda: master.status()["state"]["state"] == "ready", "the next one is there")
    assert not alive(old)


def test_systemd_hears_of_a_reload_with_its_time_and_of_no_other_pid(
    make_master: Callable[..., RunningMaster], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "n"))
        notify.settimeout(10)
        master = make_master(TWO, env={"NOTIFY_SOCKET": str(tmp_path / "n")}).start()
        until(lambda: "READY=1" in notify.recv(4096).decode(), "the start")
        master.kill(signal.SIGUSR2)
        notify.settimeout(UPGRADE_S)
        heard = [notify.recv(4096).decode()]
        while "READY=1" not in heard[-1]:
            heard.append(notify.recv(4096).decode())
    assert heard[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert f"MAINPID={master.pid}" in heard[-1] or "MAINPID" not in heard[-1]
    assert not [text for text in heard if "FDSTORE" in text or "STOPPING" in text]


def test_an_upgraded_master_that_is_killed_leaves_orphans_like_any_other(master: RunningMaster) -> None:
    port = master.addresses()[0][1]
    upgrade(master)
    master.configure(TWO.replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    orphans = {row["pid"] for row in master.workers()}
    with Hammer(("127.0.0.1", port)) as hammer:
        master.stop(signal.SIGKILL)
        hammer.until_served(20)
        master.start()
        until(lambda: not any(map(alive, orphans)), "the orphans drain")
        hammer.until_served(20)
    assert not hammer.failures and hammer.slowest < PROMPT
