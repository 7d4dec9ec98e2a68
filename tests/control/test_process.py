"""The real control process beside the real state process and store: what it answers, whom, and how it ends."""

import asyncio
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading

import pytest

from flyproxy._speedups.shm.table import TableReader
from flyproxy.apps.model import VERSION
from flyproxy.boot import EXIT_MASTER, EXIT_OK
from flyproxy.control.telemetry.families import FAMILIES
from flyproxy.ctl import client
from flyproxy.ctl.client import UnixConnection
from flyproxy.ctl.failure import Failure
from flyproxy.state import records
from flyproxy.state.sqlite import SqliteStore
from tests.control.boot import ROOT, Host
from tests.kit.wait import until

WEB = {"fly_toml": "[http_service]\ninternal_port = 8080\n"}
MACHINE = {"app": "web", "address": "127.0.0.1", "port": 9}


def begun(host):
    """Control and state run, and a master answers."""
    host.serve_master()
    host.start("state")
    host.start("control")
    return host


@pytest.fixture
def running(host):
    """A host of the test's own."""
    return begun(host)


@pytest.fixture(scope="module")
def shared():
    """A host for tests that leave nothing behind."""
    made = Host()
    yield begun(made)
    made.close()


def raw(host, method, target, body=None):
    """(status, content type, JSON) on api.sock."""
    connection = UnixConnection(str(host.folder / "api.sock"), 15)
    connection.request(method, target, body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers.get_content_type(), json.loads(content)


def refused(call, *arguments):
    with pytest.raises(Failure) as raised:
        call(*arguments)
    return raised.value


def test_a_write_is_in_the_table_when_it_is_answered(running):
    table = TableReader(running.fds)
    for number in range(50):
        host = f"h{number}.test"
        if number == 0:
            running.api.put("apps", "web", WEB)
        data = running.api.put("hostnames", host, {"app": "web"})
        assert data["changed"] and data["served"] and table.revision >= data["revision"]
        assert table.lookup_host(host) == "web"
        running.api.delete("hostnames", host)
        assert table.lookup_host(host) is None


def test_nouns_come_back_as_the_interface_names_them(running):
    running.api.put("apps", "web", WEB)
    running.api.put("machines", "m1", MACHINE)
    running.api.put("hostnames", "web.test", {"app": "web"})
    running.api.put("ips", "192.0.2.1", {"shared": True})
    assert running.api.list("machines") == [running.api.show("machines", "m1")] == [{
        "id": "m1", "app": "web", "address": "127.0.0.1", "port": 9, "region": "loc", "host": "h1",
        "health": "unknown", "cordoned": False, "in_flight": 0}]
    assert running.api.list("hostnames", "web") == [{"hostname": "web.test", "app": "web"}]
    assert running.api.list("ips") == [{"address": "192.0.2.1", "app": None, "shared": True}]
    app = running.api.show("apps", "web")
    assert running.api.list("apps") == [app]
    assert {"name", "hostnames", "services", "ignored_keys"} <= app.keys()
    assert running.api.list("machines", "nosuch") == []


def test_hosts_come_with_how_far_they_are(host):
    from flyproxy._speedups.shm.closeness import Closeness
    host.write_settings(backhaul={"address": "10.9.0.1", "key_file": "/only/the/master/reads/it"})
    running = begun(host)
    own = {"id": "h1", "region": "loc", "address": "10.9.0.1", "ports": [7443, 7444], "epoch": 1_800_000_000,
           "roles": ["edge", "worker"], "tls": False, "here": True, "closeness": None}
    assert until(lambda: running.api.list("hosts"), "the host has written itself") == [own]

    async def add():
        store = SqliteStore(running.settings.database)
        other = records.Host(VERSION, "h2", "syd", "10.9.0.2", (7443,), 1_800_000_001, ("worker",))
        await store.put("g", "node.h2", records.encode(other))
        await store.close()
    asyncio.run(add())
    table = TableReader(running.fds)
    slot = until(lambda: next((one["slot"] for one in table.hosts() if one["id"] == "h2"), None), "h2 is in the table")
    Closeness(running.fds, writable=True).set(slot, "direct", 12_500, None)
    assert running.api.show("hosts", "h2")["closeness"] == {"state": "direct", "rtt_ms": 12.5, "via": None}
    assert refused(running.api.put, "hosts", "h2", {}).code == "read-only"
    assert running.api.delete("hosts", "h2")["served"] and running.api.list("hosts") == [own]


def test_ports_have_the_state_that_the_master_tells(running):
    data = running.api.put("apps", "web", WEB)
    assert [port["state"] for port in data["services"][0]["ports"]] == ["listening", "waiting: tls"]
    running.status["listeners"][0]["state"] = "failed: Address already in use"
    shown = running.api.show("apps", "web")
    assert shown["services"][0]["ports"][0]["state"] == "failed: Address already in use"


def test_without_a_master_records_are_read_and_status_says_why_not(host):
    host.start("state")
    host.start("control")
    assert host.api.list("apps") == []
    error = refused(host.api.request, "GET", "/v1/status")
    assert (error.code, error.where) == ("master-down", str(host.folder / "ctl.sock"))


@pytest.mark.parametrize(("method", "target", "body", "status", "code"), [
    ("GET", "/v1/nosuch", None, 404, "not-found"),
    ("GET", "/nosuch", None, 404, "not-found"),
    ("GET", "/v1/apps/nosuch", None, 404, "app-not-found"),
    ("GET", "/v1/machines/nosuch", None, 404, "machine-not-found"),
    ("POST", "/v1/apps/web", "{}", 405, "read-only"),
    ("PUT", "/v1/apps/web", "{", 400, "bad-body"),
    ("PUT", "/v1/apps/web", "[]", 400, "bad-body"),
    ("PUT", "/v1/apps/web", '{"fly_toml": 1}', 400, "bad-body"),
    ("PUT", "/v1/apps/web", '{"flytoml": "x"}', 400, "bad-body"),
    ("PUT", "/v1/apps/web", '{"fly_toml": "["}', 422, "fly-toml"),
    ("PUT", "/v1/apps/UPPER", json.dumps(WEB), 422, "fly-toml"),
    ("PUT", "/v1/machines/m1", "{}", 400, "bad-body"),
    ("PUT", "/v1/machines/m1", json.dumps(MACHINE), 404, "app-not-found"),
    ("PUT", "/v1/machines/m1", '{"cordoned": true}', 404, "machine-not-found"),
    ("PUT", "/v1/ips/192.0.2.1", '{"app": "web", "shared": true}', 400, "bad-body"),
    ("PUT", "/v1/hostnames/a%2Fb", '{"app": "web"}', 404, "app-not-found"),
    ("DELETE", "/v1/ips/nonsense", None, 422, "invalid-ip"),
    ("PUT", "/v1/apps/web", '{"fly_toml": "' + "#" * (1 << 20) + '"}', 413, "refused"),
])
def test_every_refusal_is_an_envelope(shared, method, target, body, status, code):
    got, kind, answer = raw(shared, method, target, body)
    assert (got, kind, answer["error"]["code"]) == (status, "application/json", code)
    assert answer["v"] == 1 and answer["error"]["message"]


def test_problems_of_a_fly_toml_have_their_places(running):
    body = {"fly_toml": "[http_service]\nforce_htps = true\n", "file": "a.toml"}
    error = refused(running.api.put, "apps", "web", body)
    assert error.problems[0].startswith("a.toml:2:1: unknown key 'force_htps'")
    assert running.api.list("apps") == []


def test_a_write_that_the_table_refuses_is_told(running):
    running.api.put("apps", "web", WEB)
    capacity = running.settings.table.hostnames
    for number in range(capacity + 5):
        try:
            running.api.put("hostnames", f"h{number}.test", {"app": "web"})
        except Failure as failure:
            assert failure.code == "not-served" and "[table]" in failure.message
            assert number >= capacity // 2
            return
    raise AssertionError(f"{capacity + 5} hostnames fitted into a table for {capacity}")


def test_a_write_waits_for_the_last_worker_to_read_it(running):
    running.api.put("apps", "web", WEB)
    workers = [running.worker(proc) for proc in (0, 1)]
    answers = []
    asking = threading.Thread(target=lambda: answers.append(running.api.put("hostnames", "a.test", {"app": "web"})))
    asking.start()
    table = TableReader(running.fds)
    until(lambda: table.lookup_host("a.test"), "the change is in the table")
    workers[0].enter()
    workers[0].leave()
    asking.join(0.1)
    assert asking.is_alive() and answers == []
    workers[1].enter()
    workers[1].leave()
    asking.join(5)
    assert answers[0]["changed"] and answers[0]["revision"] == table.revision


def test_machines_show_what_is_in_flight_over_all_workers(running):
    running.api.put("apps", "web", WEB)
    running.api.put("machines", "m1", MACHINE)
    slot = TableReader(running.fds).machines()[0]["slot"]
    for proc in (0, 1):
        running.worker(proc, "starting").admit("inflight", slot, 0)
    assert running.api.show("machines", "m1")["in_flight"] == 2


def test_who_does_not_follow_is_named_and_the_change_stays(running):
    running.worker(3)
    running.stop("state")
    error = refused(running.api.put, "apps", "web", WEB)
    assert error.code == "table-behind" and "the table (revision 0), worker process 1003" in error.message
    assert "stored" in error.message
    running.root.reclaim_proc(3)
    running.start("state")
    assert running.api.put("apps", "web", WEB)["changed"] is False


def test_the_admin_address_has_the_reads_only(shared):
    assert shared.admin("/healthz") == (200, b"ok\n")
    assert shared.admin("/v1/apps") == (200, b'{"v":1,"data":[]}\n')
    for method, target in (("PUT", "/v1/apps/web"), ("DELETE", "/v1/apps/web"), ("POST", "/metrics")):
        status, body = shared.admin(target, method)
        assert status == 405 and json.loads(body)["error"]["code"] == "read-only"


def test_ready_needs_a_table_and_a_worker(running):
    assert running.admin("/readyz")[0] == 503
    running.root.claim_proc(0, os.getpid())
    running.root.set_proc_state(0, "ready")
    assert running.admin("/readyz") == (200, b'{"v":1,"data":{"table_generation":1,"workers_ready":1}}\n')


def test_config_is_what_is_in_force(running):
    assert running.api.request("GET", "/v1/config")["region"] == "loc"
    running.write_settings(region="ams")
    running.send_settings()
    until(lambda: running.api.request("GET", "/v1/config")["region"] == "ams", "the new settings are in force")


def test_the_admin_address_moves_with_the_settings(running):
    first = running.api.request("GET", "/v1/status")["admin"]["address"]
    running.write_settings(admin={"address": "[::1]:0"})
    running.send_settings()
    until(lambda: running.api.request("GET", "/v1/status")["admin"]["address"].startswith("[::1]:"), "it has moved")
    host, _, port = first.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 5)
    running.write_settings(admin={"address": ""})
    running.send_settings()
    until(lambda: running.api.request("GET", "/v1/status")["admin"]["address"] is None, "it is nowhere")


def test_a_taken_admin_address_is_told_and_taken_once_it_is_free(host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        host.write_settings(admin={"address": address})
        host.serve_master()
        host.start("state")
        host.start("control")
        assert address in host.event("control", "admin-address")["message"]
        assert host.api.list("apps") == []
    until(lambda: host.api.request("GET", "/v1/status")["admin"]["address"] == address, "the address is taken")


def test_the_api_socket_is_for_its_owner(shared):
    assert stat.S_IMODE((shared.folder / "api.sock").stat().st_mode) == 0o600


def test_another_user_is_refused_by_the_kernels_word(running):
    assert os.geteuid() == 0, "only root can play another user; fix: sudo make test"
    running.folder.chmod(0o755)
    (running.folder / "api.sock").chmod(0o666)
    done = subprocess.run(["curl", "-sS", "-w", "%{http_code}", "--unix-socket", str(running.folder / "api.sock"),
                           "http://flyproxy/v1/apps"], user=65534, group=65534, extra_groups=[], cwd="/",
                          capture_output=True, text=True, timeout=20)
    assert done.stdout.endswith("403") and '"not-allowed"' in done.stdout and "uid 65534" in done.stdout, done.stderr


def test_the_metrics_page_is_prometheus_text(shared):
    status, body = shared.admin("/metrics")
    page = body.decode()
    assert status == 200 and page.endswith("\n")
    assert 'flyproxy_worker_restarts_total{reason="stuck engine"} 2.0' in page
    assert "flyproxy_table_generation 1.0" in page
    from prometheus_client.parser import text_string_to_metric_families
    names = [family.name for family in text_string_to_metric_families(page)]
    assert len(names) == len(set(names)) > 10


def test_metrics_add_up_what_the_workers_count(running):
    running.api.put("apps", "web", WEB)
    running.api.put("machines", "m1", MACHINE)
    app, machine = (rows[0] for rows in (TableReader(running.fds).apps(), TableReader(running.fds).machines()))
    for proc in (0, 1):
        worker = running.worker(proc, "starting")
        worker.count_worker(requests=3, accepted=1, turn_us=200, error=1)
        worker.count_edge(app["id"], app["generation"], connects=1, bytes_out=10, answers=[(200, 1500)])
        worker.count_machine(machine["slot"], machine["generation"], connect_us=[300], answers=[(200, 900)])
        worker.admit("inflight", machine["slot"], 0)
    lines = running.admin("/metrics")[1].decode().splitlines()
    web = 'app="web",region="loc",host="h1"'
    assert {
        'flyproxy_requests_total{worker="0"} 3.0', 'flyproxy_requests_total{worker="1"} 3.0',
        'flyproxy_errors_total{code="PH01"} 2.0', "flyproxy_engine_turn_seconds_count 2.0",
        f'fly_edge_http_responses_count{{{web},status="200"}} 2', f'fly_edge_data_out{{{web}}} 20',
        f'fly_edge_http_response_time_seconds_bucket{{{web},status="200",le="0.002"}} 2',
        f'fly_app_http_responses_count{{{web},instance="m1",status="200"}} 2',
        f'fly_app_concurrency{{{web},instance="m1"}} 2',
    } - set(lines) == set()


def test_every_family_on_the_page_is_documented_and_the_other_way_round(running):
    running.api.put("apps", "web", WEB)
    running.api.put("machines", "m1", MACHINE)
    app, machine = (rows[0] for rows in (TableReader(running.fds).apps(), TableReader(running.fds).machines()))
    worker = running.worker(0, "starting")
    worker.count_edge(app["id"], app["generation"], connects=1, dropped=1, log_dropped=1, answers=[(200, 1)])
    worker.count_machine(machine["slot"], machine["generation"], connect_us=[1], disconnects=1, answers=[(200, 1)])
    page = running.admin("/metrics")[1].decode()
    assert set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)) == {family.name for family in FAMILIES}


def test_metrics_count_what_control_does_itself(running):
    running.root.claim_proc(0, os.getpid())
    page = running.admin("/metrics")[1].decode()
    for line in ('flyproxy_connections{side="client",worker="0"} 0.0', 'flyproxy_quarantined_records 0.0',
                 'flyproxy_access_log_lines_total{result="lost"} 0.0'):
        assert line in page.splitlines()


def test_it_answers_its_master(running):
    running.children["control"][1].send({"t": "ping"})
    assert running.hear("control", "pong") == {"t": "pong"}


def test_it_ends_when_told_and_when_the_master_is_gone(running):
    assert running.stop("control") == EXIT_OK
    running.start("control")
    assert running.api.list("apps") == []
    assert running.abandon("control") == EXIT_MASTER


def test_a_killed_one_is_followed_by_the_next(running):
    running.children["control"][0].kill()
    running.abandon("control")
    running.start("control")
    assert running.api.list("apps") == []


def test_a_command_waits_for_a_control_that_is_being_started(host):
    host.serve_master()
    host.start("state")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(host.api.list("apps")))
    asking.start()
    host.start("control")
    asking.join(10)
    assert answers == [[]]


def test_a_control_that_does_not_come_is_told(host, monkeypatch):
    monkeypatch.setattr(client, "CONTROL_STARTS", 0.1)
    assert refused(host.api.list, "apps").code == "not-running"
    host.serve_master()
    assert refused(host.api.list, "apps").code == "control-down"


def test_it_runs_only_under_a_master():
    done = subprocess.run([sys.executable, "-m", "flyproxy.control"], capture_output=True, text=True, timeout=20,
                          cwd=ROOT)
    assert done.returncode == 3 and "flyproxy run" in done.stderr


def test_many_clients_at_once_are_served(shared):
    connections = [UnixConnection(str(shared.folder / "api.sock"), 15) for _ in range(50)]
    for connection in connections:
        connection.request("GET", "/v1/apps")
    assert {connection.getresponse().status for connection in connections} == {200}
    for connection in connections:
        connection.close()
