"""Upgrades of the real daemon under load: the same pid, another version, and no client notices."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websockets.sync.client
import websockets.sync.server
from websockets.exceptions import ConnectionClosed

from tests.integration.steady_load import SteadyLoad
from tests.kit.daemon import ROOT, ProxyDaemon, free_port
from tests.kit.twohops import EDGE, FAR, TwoHops
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

CLIENTS = 4
EXPECTED = ["upgrade-refused", "master-gone", "not-json"]  # a test that causes others names them
ANSWER_S = 60.0  # seconds: two trials, a start and new workers on a machine that has other work

pytestmark = [pytest.mark.one_host("the daemon itself is what is tested"), pytest.mark.timeout(200)]


class Installed(ProxyDaemon):
    """Runs a copy of the package that a test may change: its Python files are its own, the compiled part is ours."""

    def __init__(self) -> None:
        listener = {"http": {"address": f"127.0.0.1:{free_port()}", "port": 80}}
        super().__init__(listener, workers={"count": 2, "slots": 2, "drain_timeout": "5s"},
                         allowed=[*EXPECTED, "adopting"])  # fmt: skip
        self.root = self.dir / "installed"
        skip = shutil.ignore_patterns("_speedups", "__pycache__")
        shutil.copytree(ROOT / "flyproxy", self.root / "flyproxy", ignore=skip)
        (self.root / "flyproxy/_speedups").symlink_to(ROOT / "flyproxy/_speedups")

    def change(self, file: str, old: str, new: str) -> None:
        path = self.root / "flyproxy" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is not once in {file}"
        path.write_text(text.replace(old, new))

    def refused(self) -> str:
        """What ``flyproxyctl upgrade`` says when it fails."""
        with pytest.raises(AssertionError, match="exited with 1") as failed:
            self.ctl("upgrade")
        return str(failed.value)


@pytest.fixture
def installed(vm: ScriptedVM) -> Iterator[Installed]:
    """Two workers on two slots."""
    daemon = Installed()
    daemon.start()
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    yield daemon
    print(daemon.log(200))
    daemon.kill()


def pid_of(daemon: ProxyDaemon) -> int:
    assert daemon.process is not None and daemon.process.poll() is None, daemon.log()
    return daemon.process.pid


def test_five_upgrades_lose_no_request_and_keep_what_was_counted(
    start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM
) -> None:
    daemon = start_daemon(workers={"count": 2, "slots": 4})
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    before = set(daemon.workers())
    with SteadyLoad(daemon, CLIENTS) as kept, SteadyLoad(daemon, CLIENTS, keep=False) as fresh:
        for number in range(5):
            done = daemon.ctl("upgrade")
            assert (done["segments"], done["generation"]) == ("kept", number + 2)
            kept.more(50)
            fresh.more(50)
    kept.assert_nothing_lost()
    fresh.assert_nothing_lost()
    assert daemon.status()["master"]["pid"] == pid_of(daemon)
    assert before.isdisjoint(daemon.workers())
    until(lambda: daemon.status()["control"]["state"] == "ready", "control is there")
    assert daemon.metric("flyproxy_requests_total") >= kept.answered, "what the first workers counted is there"
    with SteadyLoad(daemon, CLIENTS) as load:
        assert daemon.ctl("upgrade", "--wait-drained")["generation"] == 7
        assert len(daemon.workers()) == 2
    load.assert_nothing_lost()


def echo(conn: VMConnection) -> None:
    while data := conn.recv():
        conn.send(data)


@pytest.fixture
def socket_server() -> Iterator[str]:
    """A WebSocket server that sends back what it gets; its address."""

    def handler(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websockets.sync.server.serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
    thread.join()


def test_tunnels_and_raw_tcp_live_on_until_the_drain_s_deadline(
    start_daemon: Callable[..., ProxyDaemon], start_vm: Callable[..., ScriptedVM], socket_server: str
) -> None:
    daemon = start_daemon({"http": {"port": 80}, "tcp": {"port": 7007}}, workers={"count": 1, "drain_timeout": "3s"})
    raw = '[[services]]\nprotocol = "tcp"\ninternal_port = 7000\n[[services.ports]]\nport = 7007\n'
    daemon.add_app("raw", raw, [start_vm(echo).address])
    daemon.add_app("ws", machines=[socket_server], hostnames=["ws.localhost"])
    with (
        daemon.client("tcp") as tcp,
        daemon.client() as raw_socket,
        websockets.sync.client.connect("ws://ws.localhost/", sock=raw_socket.sock, proxy=None) as websocket,
    ):
        for word in ("before", "after"):
            tcp.send(word.encode())
            assert tcp.exactly(len(word)) == word.encode()
            websocket.send(word)
            assert websocket.recv(timeout=5) == word
            if word == "before":
                assert daemon.ctl("upgrade")["generation"] == 2
        assert tcp.rest() == b""
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=10)


def test_what_runs_is_what_is_installed_now(installed: Installed) -> None:
    pid = pid_of(installed)
    installed.change("_version.py", '"0.', '"7.')
    assert installed.status()["version"].startswith("0.")
    with SteadyLoad(installed, CLIENTS) as load:
        done = installed.ctl("upgrade")
        load.more(50)
    load.assert_nothing_lost()
    assert done["from"].startswith("0.") and done["to"] == installed.status()["version"] == "7." + done["from"][2:]
    assert installed.status()["master"]["pid"] == pid_of(installed) == pid


@pytest.mark.parametrize("file", ["settings.py", "master/main.py", "worker/main.py", "control/service.py"])
def test_a_version_with_a_fault_is_refused_and_the_old_one_serves(installed: Installed, file: str) -> None:
    before, path = installed.processes(), installed.root / "flyproxy" / file
    path.write_text(path.read_text() + "\nthis is no Python\n")
    said = installed.refused()
    assert "upgrade_refused" in said and "SyntaxError" in said and file in said
    assert installed.processes() == before
    with SteadyLoad(installed) as load:
        load.more(20)
    load.assert_nothing_lost()


def test_a_version_that_breaks_at_its_start_costs_no_request(installed: Installed) -> None:
    healthy = 'setproctitle.setproctitle("flyproxy: master (starting)")\n'
    installed.change("master/main.py", healthy, 'raise SystemExit("it breaks")\n')
    orphans = installed.workers()
    with SteadyLoad(installed, CLIENTS, keep=False) as load:
        assert "master-down" in installed.refused()
        assert installed.process is not None and installed.process.wait(10) == 1
        load.more(100)
        assert all(Path(f"/proc/{pid}").exists() for pid in orphans)
        installed.change("master/main.py", 'raise SystemExit("it breaks")\n', healthy)
        (installed.dir / "notify").unlink()
        installed.start()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans), "the orphans have drained", 15)
        load.more(100)
    load.assert_nothing_lost()
    installed.stop(signal.SIGTERM)


def test_sizes_of_the_table_change_with_an_upgrade_and_no_request_is_lost(installed: Installed) -> None:
    text = installed.config.read_text()
    installed.config.write_text(text.replace("machines = 500", "machines = 700"))
    before = installed.processes()[1:]
    with SteadyLoad(installed, CLIENTS) as load:
        done = installed.ctl("upgrade", "--wait-drained")
        load.more(50)
    load.assert_nothing_lost()
    assert (done["segments"], done["generation"]) == ("new", 2)
    until(lambda: set(before).isdisjoint(installed.processes()), "state and control of the old version end, too")
    assert installed.ctl("config", "show", "--effective")["table.machines"] == 700
    assert installed.ctl("upgrade")["segments"] == "kept"


def test_who_asks_for_an_upgrade_with_a_terminal_reads_versions(daemon: ProxyDaemon) -> None:
    from click.testing import CliRunner

    from flyproxy.ctl.cli import Run
    from flyproxy.ctl.main import command

    run = Run(socket=str(daemon.dir / "run"))
    said = CliRunner().invoke(command, ["upgrade"], obj=run, standalone_mode=False)
    version = daemon.status()["version"]
    assert said.output.splitlines() == [f"upgraded from {version} to {version}", "workers of generation 2 are serving"]


def test_both_sides_of_a_mesh_are_upgraded_and_stay_who_they_are(start_vm: Callable[..., ScriptedVM]) -> None:
    vm = start_vm()
    daemon = TwoHops(workers={"count": 1, "slots": 2}, allowed=EXPECTED)
    daemon.start()
    try:
        daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
        before = [each.status()["backhaul"] for each in (daemon, daemon.far)]
        assert all(side["epoch"] for side in before) and before[1]["ports"]
        with SteadyLoad(daemon, CLIENTS) as kept, SteadyLoad(daemon, CLIENTS, keep=False) as fresh:
            for each in (daemon, daemon.far):
                each.ctl("upgrade")
                kept.more(50)
                fresh.more(50)
        kept.assert_nothing_lost()
        fresh.assert_nothing_lost()
        assert [each.status()["backhaul"] for each in (daemon, daemon.far)] == before
        assert {row["id"] for row in daemon.ctl("hosts", "list")} == {EDGE, FAR}
    finally:
        daemon.stop()


def test_questions_on_the_way_are_answered_by_one_program_or_the_other(daemon: ProxyDaemon) -> None:
    generation = daemon.status()["generation"]
    os.kill(pid_of(daemon), signal.SIGUSR2)
    until(lambda: daemon.status()["generation"] == generation + 1, "it is done; status never fails", ANSWER_S, every=0)
