"""``flyproxyctl`` and control with the whole daemon: what operators type, and what it does to traffic."""

import contextlib
import io
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from flyproxy.ctl.main import main
from tests.kit.daemon import free_port
from tests.kit.wait import stand_still, until

FLY_TOML = """\
[http_service]
internal_port = 8080
[[http_service.checks]]
interval = "1s"
timeout = "1s"
grace_period = "0s"
path = "/up"
[[services]]
internal_port = 9000
[[services.ports]]
port = {allowed}
[[services.ports]]
port = {refused}
"""


@pytest.fixture(scope="module")
def ports():
    """A TCP port that app_ports allows, and one that it does not."""
    return free_port(), free_port()


@pytest.fixture(scope="module")
def daemon(start_daemon, ports, tmp_path_factory):
    """Two workers; an access log that is a file; one app port allowed."""
    folder = tmp_path_factory.mktemp("log")
    started = start_daemon(workers={"count": 2}, app_ports=[str(ports[0])], log={"access": str(folder / "access.log")},
                           allowed=["health", "reload-refused", "respawn", "exited", "killing", "master-gone",
                                    "privileges-kept"])
    started.access_log = folder / "access.log"
    return started


@pytest.fixture(scope="module")
def vms(start_vm):
    """Two machines; ``up`` decides what each answers to its health check."""
    made = []
    for name in ("one", "two"):
        vm = start_vm(name=name)
        vm.up = True

        def check(conn, seen, vm=vm):
            conn.body(seen)
            conn.reply(status="200 OK" if vm.up else "503 Down")
        vm._scripts["/up"] = check
        made.append(vm)
    return made


@pytest.fixture(scope="module")
def app(daemon, vms, ports):
    text = FLY_TOML.format(allowed=ports[0], refused=ports[1])
    daemon.add_app("shop", text, machines=[vm.address for vm in vms], hostnames=["shop.localhost"])
    return "shop"


def failing(daemon, *words):
    """(exit code, error) of a command that fails."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--socket", str(daemon.dir / "run"), "--json", *words])
    assert out.getvalue() == ""
    return code, json.loads(err.getvalue())["error"]


def human(daemon, *words):
    """What a person sees."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["--socket", str(daemon.dir / "run"), *words]) == 0
    return out.getvalue()


def served_by(daemon, count=20):
    """The names of the machines that answered."""
    names = set()
    for _ in range(count):
        with daemon.client() as client:
            names.add(client.get("/", host="shop.localhost").body.decode().strip())
    return names


def http(daemon, target, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.admin_port}{target}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_status_has_the_shape_of_the_interface(daemon, app):
    status = daemon.status()
    assert {"version", "region", "host", "master", "state", "control", "workers", "listeners", "table",
            "revision"} <= status.keys()
    assert {"pid"} <= status["master"].keys() and {"pid", "state"} <= status["control"].keys()
    assert {"generation", "age_seconds", "apps", "machines"} <= status["table"].keys()
    assert (status["table"]["apps"], status["table"]["machines"]) == (1, 2)
    for worker in status["workers"]:
        assert {"index", "pid", "generation", "state", "slots", "connections"} <= worker.keys()
        assert worker["state"] == "ready"
    for listener in status["listeners"]:
        assert {"address", "port", "source", "state"} <= listener.keys()
    assert daemon.ctl("workers") == status["workers"]
    shown = human(daemon, "status")
    assert "control" in shown and "listening" in shown


def test_a_change_is_served_when_the_command_returns(daemon, app):
    for number in range(20):
        host = f"h{number}.localhost"
        revision = daemon.ctl("hostnames", "add", host, "-a", app)["revision"]
        assert daemon.status()["revision"] >= revision
        with daemon.client() as client:
            assert client.get("/", host=host).status == 200
        daemon.ctl("hostnames", "remove", host)
        with daemon.client() as client:
            assert client.get("/", host=host).error == "PE03"


def test_each_port_says_whether_it_is_served_and_why_not(daemon, app, ports):
    services = daemon.ctl("apps", "show", app)["services"]
    states = {port["port"]: port["state"] for service in services for port in service["ports"]}
    assert states[80] == "listening" and states[443] == "waiting: tls" and states[ports[0]] == "listening"
    assert states[ports[1]].startswith("not allowed")


def test_apply_returns_once_the_new_port_is_open(daemon, tmp_path, ports):
    file = tmp_path / "fly.toml"
    file.write_text(f"[[services]]\ninternal_port = 1\n[[services.ports]]\nport = {ports[0]}\n")
    data = daemon.ctl("apps", "apply", str(file), "-a", "late")
    assert data["services"][0]["ports"][0]["state"] == "listening"
    socket.create_connection(("127.0.0.1", ports[0]), timeout=5).close()
    daemon.ctl("apps", "remove", "late", "--yes")


def test_machines_show_their_load(daemon, app, vms):
    assert {machine["in_flight"] for machine in daemon.ctl("machines", "list", "-a", app)} == {0}
    path = vms[0].route(lambda conn, seen: conn.wait_end())
    vms[1]._scripts[path] = vms[0]._scripts[path]
    with daemon.client() as client:
        client.request("GET", path, host="shop.localhost")
        until(lambda: sum(m["in_flight"] for m in daemon.ctl("machines", "list")) == 1, "one request is in flight")
    until(lambda: sum(m["in_flight"] for m in daemon.ctl("machines", "list")) == 0, "it has ended")


def test_a_cordoned_machine_gets_nothing_new(daemon, app):
    until(lambda: served_by(daemon) == {"one", "two"}, "both serve")
    daemon.ctl("machines", "cordon", "shop-1")
    assert served_by(daemon) == {"two"}
    daemon.ctl("machines", "uncordon", "shop-1")
    until(lambda: served_by(daemon) == {"one", "two"}, "both serve again")


def test_a_failing_check_takes_a_machine_out_and_a_passing_one_brings_it_back(daemon, app, vms):
    def health():
        return {machine["id"]: machine["health"] for machine in daemon.ctl("machines", "list", "-a", app)}
    until(lambda: set(health().values()) == {"passing"}, "both pass", 10)
    vms[0].up = False
    until(lambda: health()["shop-1"] == "critical", "the check fails", 10)
    assert served_by(daemon) == {"two"}
    vms[0].up = True
    until(lambda: health()["shop-1"] == "passing", "the check passes", 10)
    assert "one" in served_by(daemon)
    event = next(record for record in daemon.events() if record["event"] == "health" and record["health"] == "critical")
    assert event["machine"] == "shop-1" and "status 503" in event["message"]


def test_metrics_count_requests_per_app(daemon, app):
    before = daemon.metric("fly_edge_http_responses_count", app=app, status="200")
    served_by(daemon, 10)
    until(lambda: daemon.metric("fly_edge_http_responses_count", app=app, status="200") >= before + 10, "counted")
    assert daemon.metric("flyproxy_requests_total") >= before + 10
    assert daemon.metric("flyproxy_table_generation") >= 1
    assert daemon.metric("flyproxy_health_machines", health="passing") == 2


def test_top_shows_what_apps_do(daemon, app):
    served_by(daemon, 5)
    assert app in human(daemon, "top", "--once")
    assert app in [row["app"] for row in daemon.ctl("top", "--once")]


def test_logs_show_the_requests_of_an_app(daemon, app, marker):
    with daemon.client() as client:
        client.get(f"/{marker}", host="shop.localhost")
    until(lambda: daemon.access_log.exists() and marker in daemon.access_log.read_text(), "the line is written")
    assert marker in human(daemon, "logs", "-a", app)
    assert marker not in human(daemon, "logs", "-a", "nosuch")


def test_the_admin_address_reads_and_never_writes(daemon, app):
    assert http(daemon, "/healthz") == (200, b"ok\n")
    assert http(daemon, "/readyz")[0] == 200
    assert [row["name"] for row in json.loads(http(daemon, "/v1/apps")[1])["data"]] == [app]
    status, body = http(daemon, f"/v1/apps/{app}", "DELETE")
    assert status == 405 and json.loads(body)["error"]["code"] == "read-only"


def test_a_bad_reload_is_told_with_its_place_and_changes_nothing(daemon, app):
    good = daemon.config.read_text()
    workers = daemon.ctl("workers")
    try:
        daemon.config.write_text(good + '\n[timeouts]\nconect = "1s"\n')
        code, error = failing(daemon, "reload")
    finally:
        daemon.config.write_text(good)
    assert code == 1
    assert str(daemon.config) in error["message"] and "did you mean 'connect'" in error["message"]
    assert [worker["pid"] for worker in daemon.ctl("workers")] == [worker["pid"] for worker in workers]
    assert served_by(daemon)


def test_reload_of_the_workers_replaces_them(daemon, app):
    before = {worker["pid"] for worker in daemon.ctl("workers")}
    daemon.ctl("reload", "--workers", "--wait-drained")
    after = daemon.ctl("workers")
    assert not before & {worker["pid"] for worker in after}
    assert {worker["state"] for worker in after} == {"ready"}
    assert "serving" in human(daemon, "reload")


def test_config_shows_what_holds(daemon, app):
    effective = daemon.ctl("config", "show", "--effective")
    assert effective["workers.count"] == 2 and effective["admin.address"].endswith(str(daemon.admin_port))


def test_offline_is_refused_while_it_runs(daemon, app):
    code, error = failing(daemon, "--offline", "apps", "list")
    assert (code, error["code"]) == (1, "running")


def test_processes_can_be_asked_and_traffic_goes_on_while_control_is_dead(daemon, app):
    dead = daemon.status()["control"]["pid"]
    stand_still(dead)
    try:
        assert daemon.ctl("workers") and served_by(daemon)
        begun = time.monotonic()
        daemon.ctl("reload")
        assert time.monotonic() - begun < 5
    finally:
        os.kill(dead, signal.SIGKILL)
    until(lambda: daemon.status()["control"]["pid"] not in (0, dead), "control is started again")

    def listed():
        with contextlib.suppress(AssertionError):
            return daemon.ctl("apps", "list")
    assert [row["name"] for row in until(listed, "nouns can be asked again")] == [app]
    until(lambda: daemon.metric("flyproxy_worker_restarts_total") >= 1, "the restart is counted")
