"""Health checks by the real control process against real machines: what the store and the table then say."""

import contextlib
import socket
import threading

import pytest

from flyproxy._speedups.shm.table import TableReader
from tests.kit.wait import until

CHECKED = """\
[http_service]
internal_port = 8080
[[http_service.checks]]
interval = "1s"
timeout = "1s"
grace_period = "0s"
path = "/up"
"""
TCP_CHECKED = """\
[[services]]
internal_port = 8080
[[services.ports]]
port = 9000
[[services.tcp_checks]]
interval = "1s"
grace_period = "0s"
"""
UNCHECKED = "[http_service]\ninternal_port = 8080\n"


class Machine:
    """Answers every connection with ``status``; counts them."""

    def __init__(self) -> None:
        self.status = 200
        self.probes = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):      # the listener was closed
            while True:
                connection, _ = self.listener.accept()
                self.probes += 1
                with connection, contextlib.suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 %d x\r\n\r\n" % self.status)

    def close(self) -> None:
        with contextlib.suppress(OSError):      # closed already
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def machine():
    made = Machine()
    yield made
    made.close()


@pytest.fixture
def running(host):
    host.serve_master()
    host.start("state")
    host.start("control")
    return host


def add(host, machine, fly_toml=CHECKED, name="m1", **fields):
    host.api.put("apps", "web", {"fly_toml": fly_toml})
    host.api.put("machines", name, {"app": "web", "address": "127.0.0.1", "port": machine.port, **fields})


def wait_health(host, health, name="m1"):
    """In the answer of the API, and in the table that workers read."""
    table = TableReader(host.fds)

    def now():
        in_table = {row["id"]: row["health"] for row in table.machines()}
        return host.api.show("machines", name)["health"] == in_table[name] == health
    until(now, f"machine {name} is {health}", 15)


def test_a_machine_is_unknown_then_passing_then_critical_then_passing(running, machine):
    add(running, machine)
    wait_health(running, "passing")
    machine.status = 500
    wait_health(running, "critical")
    told = [event for event in running.events("control") if event["event"] == "health"]
    assert told[-1]["message"].endswith("services[0].checks[0]: status 500") and told[-1]["level"] == "warning"
    machine.status = 200
    wait_health(running, "passing")


def test_a_tcp_check_passes_while_the_port_is_open(running, machine):
    add(running, machine, TCP_CHECKED)
    wait_health(running, "passing")
    machine.close()
    wait_health(running, "critical")


def test_an_app_without_checks_stays_unknown_and_loses_an_old_verdict(running, machine):
    machine.status = 404
    add(running, machine)
    wait_health(running, "critical")
    running.api.put("apps", "web", {"fly_toml": UNCHECKED})
    wait_health(running, "unknown")


def test_machines_of_other_hosts_are_left_to_them(running, machine):
    add(running, machine, name="mine")
    running.api.put("machines", "theirs", {"app": "web", "address": "127.0.0.1", "port": 1, "host": "h2"})
    wait_health(running, "passing", "mine")
    machine.status = 500
    wait_health(running, "critical", "mine")
    assert running.api.show("machines", "theirs")["health"] == "unknown"


def test_a_machine_that_moves_is_checked_where_it_is_now(running, machine):
    add(running, machine)
    wait_health(running, "passing")
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    running.api.put("machines", "m1", {"app": "web", "address": "127.0.0.1", "port": port})
    wait_health(running, "critical")


def test_a_restart_of_control_forgets_nothing(running, machine):
    machine.status = 500
    add(running, machine)
    wait_health(running, "critical")
    running.stop("control")
    before = machine.probes
    running.start("control")
    assert running.api.show("machines", "m1")["health"] == "critical"
    until(lambda: machine.probes > before, "probing goes on")
    assert running.api.show("machines", "m1")["health"] == "critical"


def test_metrics_tell_of_probes_and_machines(running, machine):
    add(running, machine)
    wait_health(running, "passing")
    page = running.admin("/metrics")[1].decode()
    assert 'flyproxy_health_machines{health="passing"} 1.0' in page
    assert 'flyproxy_health_probes_total{result="passed"}' in page
