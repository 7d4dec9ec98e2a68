"""Reloads, ports of apps, and the control socket, with real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from flyproxy.ctl.cli import Run
from flyproxy.ctl.main import command
from tests.kit.daemon import free_port
from tests.kit.wait import until
from tests.master.conftest import TWO
from tests.master.harness import Hammer, RunningMaster, hello
from tests.master.test_life import PROMPT, alive

FOUR = TWO.replace("count = 2", "count = 4")


def fixed(config: str, master: RunningMaster) -> str:
    """The configuration with the port that the master has chosen."""
    return config.replace("127.0.0.1:0", f"127.0.0.1:{master.addresses()[0][1]}")


def test_settings_that_fit_a_pointer_swap_replace_nobody(master: RunningMaster) -> None:
    before = {row["pid"] for row in master.workers()}
    master.configure(TWO.replace("[workers]", "[timeouts]\nhead = '3s'\n[workers]\ndrain_timeout = '7s'"))
    data = master.ask("reload")["data"]
    assert sorted(data["changed"]) == ["timeouts.head", "workers.drain_timeout"]
    assert data["generation"] == 1
    assert {row["pid"] for row in master.workers()} == before


def test_a_hangup_reloads_too(master: RunningMaster) -> None:
    master.configure(TWO.replace("[workers]", "[workers]\ndrain_timeout = '7s'"))
    master.kill(signal.SIGHUP)
    until(lambda: master.of("reloaded"), "the reload is done")
    assert master.of("reloaded")[0]["changed"] == ["workers.drain_timeout"]


@pytest.mark.parametrize("how", ["command", "signal"])
def test_bad_settings_are_refused_with_file_and_line_and_the_old_ones_go_on(master: RunningMaster, how: str) -> None:
    master.configure(TWO.replace("slots = 4", "slots = 4\ndrain_timout = '5s'"))
    if how == "command":
        error = master.ask("reload")["error"]
    else:
        master.kill(signal.SIGHUP)
        error = until(lambda: master.of("reload-refused"), "the refusal is logged")[0]
    assert re.match(rf"{re.escape(str(master.file))}:4:1$", error["where"]), error["where"]
    assert "did you mean 'drain_timeout'" in error["message"]
    master.connect()[0].close()


def test_what_needs_a_restart_is_said_and_left_alone(master: RunningMaster) -> None:
    master.configure(TWO.replace("slots = 4", "slots = 6") + "[table]\napps = 77\n")
    data = master.ask("reload")["data"]
    assert sorted(data["restart"]) == ["table.apps", "workers.slots"]
    assert sum(len(row["slots"]) for row in master.workers()) == 4


def test_who_reloads_is_told_what_only_a_restart_changes(master: RunningMaster) -> None:
    master.configure(fixed(TWO, master).replace("slots = 4", "slots = 8"))
    said = CliRunner().invoke(command, ["reload"], obj=Run(socket=str(master.runtime)), standalone_mode=False)
    assert "kept until flyproxy is restarted: workers.slots" in said.output.splitlines()


def test_a_new_generation_takes_over_without_a_lost_connection_and_the_old_one_drains(master: RunningMaster) -> None:
    old = {row["pid"] for row in master.workers()}
    held, held_by = master.connect()
    with Hammer(master.addresses()[0]) as hammer:
        for generation in range(2, 6):
            assert master.ask("reload", workers=True)["data"]["generation"] == generation
            hammer.until_served(20)
    assert not hammer.failures and hammer.slowest < PROMPT
    assert {row["generation"] for row in master.workers()} == {5}
    (draining,) = until(lambda: len(rows := master.workers("draining")) == 1 and rows, "the idle ones have left")
    assert draining["pid"] == held_by in old and draining["connections"] == 1 and draining["slots"] == []
    held.close()
    until(lambda: not alive(held_by), "the drained worker leaves")


def test_a_reload_can_wait_until_the_old_workers_are_gone(master: RunningMaster) -> None:
    old = {row["pid"] for row in master.workers()}
    assert master.ask("reload", workers=True, wait_drained=True)["data"]["generation"] == 2
    assert not any(alive(pid) for pid in old)


def test_a_drain_has_an_end(make_master: Callable[..., RunningMaster]) -> None:
    master = make_master(TWO.replace("[workers]", "[workers]\ndrain_timeout = '300ms'")).start()
    held, _ = master.connect()
    master.ask("reload", workers=True, wait_drained=True)
    assert held.recv(1) == b""


@pytest.mark.parametrize(("behaviour", "why"), [("silent", "not ready within 3 s"), ("refuse", "told to refuse"),
                                                ("exit", "exited with 3")])
def test_a_generation_that_never_gets_ready_is_refused_and_the_old_one_serves(
    master: RunningMaster, behaviour: str, why: str
) -> None:
    before = {row["pid"] for row in master.workers()}
    master.behave(behaviour)
    with Hammer(master.addresses()[0]) as hammer:
        error = master.ask("reload", workers=True)["error"]
        hammer.until_served(10)
    assert error["code"] == "reload_refused" and why in error["message"] and "generation 2" in error["message"]
    assert not hammer.failures and hammer.slowest < PROMPT
    until(lambda: {row["pid"] for row in master.status()["workers"]} == before, "only the old workers are left")


def test_the_number_of_workers_follows_the_settings_without_a_slow_connect(
    make_master: Callable[..., RunningMaster],
) -> None:
    master = make_master(FOUR).start()
    with Hammer(master.addresses()[0]) as hammer:
        for config, count in ((TWO, 2), (FOUR, 4)):
            master.configure(config)
            assert master.ask("reload")["data"]["changed"] == ["workers.count"]
            until(partial(has_workers, master, count), f"{count} workers")
            hammer.until_served(30)
    assert not hammer.failures and hammer.slowest < PROMPT
    assert [row["slots"] for row in master.workers()] == [[0], [1], [2], [3]]


def has_workers(master: RunningMaster, count: int) -> bool:
    """Exactly so many, all of them ready."""
    return [row["state"] for row in master.status()["workers"]] == ["ready"] * count


def test_listeners_come_and_go_with_the_settings(master: RunningMaster) -> None:
    base = fixed(TWO, master)
    master.configure(base + "[[listeners]]\naddress = '127.0.0.2:0'\nport = 443\n")
    master.ask("reload")
    kept, added = master.addresses()
    for address in (kept, added):
        with socket.create_connection(address, 5) as sock:
            hello(sock)
    assert [row["port"] for row in master.status()["listeners"]] == [kept[1], 443]
    master.configure(base)
    master.ask("reload")
    assert master.addresses() == [kept]
    until(lambda: is_refused(added), "the removed one is closed in every process")


def is_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_other_options_on_the_same_address_lose_no_connection(master: RunningMaster) -> None:
    base = fixed(TWO, master)
    with Hammer(master.addresses()[0]) as hammer:
        for port in (80, 81, 82):
            master.configure(base + f"port = {port}\n")
            master.ask("reload")
            hammer.until_served(10)
    assert not hammer.failures
    assert [row["port"] for row in master.status()["listeners"]] == [82]


def test_a_listener_that_cannot_be_opened_refuses_the_reload(master: RunningMaster) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        master.configure(fixed(TWO, master) + f"[[listeners]]\naddress = '127.0.0.1:{port}'\n")
        error = master.ask("reload")["error"]
    assert f"127.0.0.1:{port}: Address already in use" in error["message"] and error["fix"]
    assert len(master.addresses()) == 1


def say_ports(master: RunningMaster, words: str) -> None:
    (master.runtime / "ports").write_text(words)
    os.kill(master.status()["state"]["pid"], signal.SIGUSR1)


def port_states(master: RunningMaster) -> dict[int, str]:
    return {row["port"]: row["state"] for row in master.status()["listeners"] if row["source"] == "app"}


def test_ports_of_apps_are_opened_on_all_addresses_and_every_other_one_says_why_not(
    make_master: Callable[..., RunningMaster],
) -> None:
    one, waiting, taken = free_port(), free_port(), free_port()
    master = make_master(f"app_ports = ['{one}', '{waiting}', '{taken}']\n{TWO}").start()
    with socket.create_server(("0.0.0.0", taken)):
        say_ports(master, f"{one} {waiting}t {taken} 99")
        until(lambda: port_states(master).get(one) == "listening", "the port is open")
    states = port_states(master)
    assert states[waiting] == "waiting: tls"
    assert states[taken] == "failed: Address already in use"
    assert states[99].startswith("not allowed")
    for address in ("127.0.0.1", "::1"):
        with socket.create_connection((address, one), 5) as sock:
            hello(sock)
    assert is_refused(("127.0.0.1", waiting))
    until(lambda: port_states(master)[taken] == "listening", "a port that got free is opened", 10)
    say_ports(master, f"{waiting}t")
    until(lambda: is_refused(("127.0.0.1", one)) and is_refused(("::1", one)), "a port nobody wants is closed")
    assert port_states(master) == {waiting: "waiting: tls"}


def test_a_port_that_a_listener_stands_for_is_not_opened_twice(make_master: Callable[..., RunningMaster]) -> None:
    other = free_port()
    master = make_master(f"app_ports = ['{other}']\n{TWO}port = 80\n").start()
    say_ports(master, f"80 {other}")
    until(lambda: port_states(master) == {other: "listening"}, "only the other one is an app's own port")


def test_workers_that_start_later_know_the_ports_of_apps(make_master: Callable[..., RunningMaster]) -> None:
    port = free_port()
    master = make_master(f"app_ports = ['{port}']\n{TWO}").start()
    say_ports(master, f"{port}")
    until(lambda: port_states(master).get(port) == "listening", "the port is open")
    master.ask("reload", workers=True, wait_drained=True)
    fresh = {row["pid"] for row in master.workers()}
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        assert hello(sock) in fresh


def test_the_control_socket_answers_nonsense_with_an_error_and_goes_on(master: RunningMaster) -> None:
    lines = [b"{nonsense\n", b"[]\n", b'{"v":2,"cmd":"status"}\n', b'{"v":1,"cmd":"sing"}\n']
    lines += [b"[" * 60_000 + b"\n", b'{"v":1,"cmd":"workers"}\n']
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(master.runtime / "ctl.sock"))
        answers = line.makefile("rb")
        line.sendall(b"".join(lines))
        codes = [answers.readline().decode() for _ in lines]
    wanted = ("bad_request", "bad_request", "bad_version", "unknown_command", "bad_request", '"data":[')
    assert all(word in answer for word, answer in zip(wanted, codes, strict=True)), codes


def test_the_control_socket_is_for_its_owner_alone(master: RunningMaster) -> None:
    mode = (master.runtime / "ctl.sock").stat().st_mode
    assert mode & 0o777 == 0o600


def test_reloads_leak_no_descriptor(master: RunningMaster) -> None:
    def fds() -> int:
        return len(list(Path(f"/proc/{master.pid}/fd").iterdir()))

    master.ask("reload", workers=True, wait_drained=True)
    before = fds()
    for _ in range(3):
        master.ask("reload", workers=True, wait_drained=True)
    until(lambda: fds() <= before, f"the master has {before} descriptors again")
