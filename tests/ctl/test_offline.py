"""Nouns on the real SQLite store while nothing runs."""

import asyncio
import socket

import pytest

from flyproxy.apps.model import VERSION
from flyproxy.state import records
from flyproxy.state.sqlite import SqliteStore

FLY_TOML = """\
app = "hello"
[build]
image = "x"
[http_service]
internal_port = 8080
[http_service.concurrency]
hard_limit = 5
soft_limit = 3
[[http_service.checks]]
path = "/up"
"""


@pytest.fixture
def host(ctl, tmp_path):
    """Call with words; settings of its own, always --offline."""
    config = tmp_path / "flyproxy.toml"
    config.write_text(f'region = "ams"\nhost = "h1"\n[paths]\nruntime = "{tmp_path}/run"\nstate = "{tmp_path}/state"\n')
    (tmp_path / "run").mkdir()
    (tmp_path / "fly.toml").write_text(FLY_TOML)

    def call(*words):
        return ctl("-c", config, "--offline", *words)
    call.folder = tmp_path
    return call


@pytest.fixture
def with_app(host):
    assert host("apps", "apply", host.folder / "fly.toml").status == 0
    return host


def test_applying_says_what_changed_and_what_is_ignored(host):
    ran = host("apps", "apply", host.folder / "fly.toml")
    assert ran.status == 0, ran.err
    first, *rest = ran.out.splitlines()
    assert first.startswith("app hello applied from ") and "revision 1, stored" in first
    assert rest == ["not the proxy's, ignored: build", "  80 (http, unknown), 443 (tls+http, waiting: tls) -> "
                    "machines' port 8080"]


def test_verbs_are_idempotent_and_say_so(with_app):
    again = with_app("--json", "apps", "apply", with_app.folder / "fly.toml").data
    assert again["changed"] is False and again["revision"] == 1
    for words in (["machines", "add", "-a", "hello", "--address", "10.0.0.7:8080"],
                  ["hostnames", "add", "hello.test", "-a", "hello"],
                  ["ips", "add", "192.0.2.1", "-a", "hello"], ["ips", "share", "192.0.2.2"]):
        assert with_app("--json", *words).data["changed"] is True
        assert with_app("--json", *words).data["changed"] is False
        assert "it was so already" in with_app(*words).out
    for words in (["machines", "remove", "m-nosuch"], ["hostnames", "remove", "nosuch.test"],
                  ["ips", "remove", "192.0.2.9"], ["apps", "remove", "nosuch", "--yes"]):
        assert with_app("--json", *words).data["changed"] is False


def test_an_app_is_listed_and_shown_in_the_shape_of_the_interface(with_app):
    with_app("hostnames", "add", "hello.test", "-a", "hello")
    app = with_app("--json", "apps", "show", "hello").data
    assert with_app("--json", "apps", "list").data == [app]
    assert (app["name"], app["hostnames"], app["ignored_keys"]) == ("hello", ["hello.test"], ["build"])
    service = app["services"][0]
    assert service["concurrency"] == {"type": "connections", "soft_limit": 3, "hard_limit": 5}
    assert [port["port"] for port in service["ports"]] == [80, 443]
    assert service["ports"][1]["state"] == "waiting: tls"
    shown = with_app("apps", "show", "hello").out
    assert "hello.test" in shown and "waiting: tls" in shown
    assert with_app("apps", "list").out.splitlines()[0].split() == ["NAME", "HOSTNAMES", "PORTS"]


def test_a_machine_gets_region_host_and_id_when_none_are_given(with_app):
    name = with_app("--json", "machines", "add", "-a", "hello", "--address", "10.0.0.7:8081").data["machine"]
    assert with_app("--json", "machines", "show", name).data == {
        "id": name, "app": "hello", "address": "10.0.0.7", "port": 8081, "region": "ams", "host": "h1",
        "health": "unknown", "cordoned": False, "in_flight": None}
    other = ["machines", "add", "m2", "-a", "hello", "--address", "fd00::7", "--region", "syd", "--host", "h2"]
    assert with_app(*other).status == 0
    rows = with_app("--json", "machines", "list", "-a", "hello").data
    assert {(row["region"], row["host"]) for row in rows} == {("ams", "h1"), ("syd", "h2")}
    assert with_app("--json", "machines", "list", "-a", "nosuch").data == []


def test_cordoning_outlives_a_change_of_the_machine(with_app):
    add = ["machines", "add", "m1", "-a", "hello", "--address"]
    with_app(*add, "10.0.0.7")
    assert with_app("machines", "cordon", "m1").status == 0
    with_app(*add, "10.0.0.8")
    machine = with_app("--json", "machines", "show", "m1").data
    assert (machine["address"], machine["cordoned"]) == ("10.0.0.8", True)
    with_app("machines", "uncordon", "m1")
    assert with_app("--json", "machines", "show", "m1").data["cordoned"] is False


def test_removing_an_app_needs_yes_and_shows_what_goes_with_it(with_app):
    with_app("machines", "add", "m1", "-a", "hello", "--address", "10.0.0.7")
    with_app("hostnames", "add", "hello.test", "-a", "hello")
    ran = with_app("apps", "remove", "hello")
    assert ran.status == 2
    assert "1 machines (m1), 1 hostnames (hello.test), 0 ips" in ran.err and "--yes" in ran.err
    assert with_app("--json", "apps", "list").data != []
    assert with_app("apps", "remove", "hello", "--yes").status == 0
    for noun in ("apps", "machines", "hostnames", "ips"):
        assert with_app("--json", noun, "list").data == []


@pytest.mark.parametrize(("words", "code"), [
    (["machines", "add", "-a", "nosuch", "--address", "10.0.0.7"], "app-not-found"),
    (["hostnames", "add", "x.test", "-a", "nosuch"], "app-not-found"),
    (["hostnames", "add", "not a host", "-a", "hello"], "invalid-hostname"),
    (["ips", "add", "not-an-ip", "-a", "hello"], "invalid-ip"),
    (["machines", "add", "UPPER", "-a", "hello", "--address", "10.0.0.7"], "invalid-machine"),
    (["machines", "add", "-a", "hello", "--address", "10.0.0.7", "--region", "9"], "invalid-machine"),
    (["machines", "cordon", "nosuch"], "machine-not-found"),
    (["machines", "show", "nosuch"], "machine-not-found"),
    (["apps", "show", "nosuch"], "app-not-found"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else value)
def test_what_is_refused_is_told_with_where_and_fix(with_app, words, code):
    ran = with_app("--json", *words)
    assert ran.status == 1
    assert ran.error["code"] == code and ran.error["where"] and ran.error["fix"] and ran.error["message"]


def test_a_name_that_another_app_has_is_not_taken_over(with_app):
    with_app("apps", "apply", with_app.folder / "fly.toml", "-a", "world")
    with_app("hostnames", "add", "hello.test", "-a", "hello")
    assert with_app("--json", "hostnames", "add", "hello.test", "-a", "world").error["code"] == "hostname-taken"


def test_hosts_of_the_mesh_are_listed_shown_and_removed(host):
    record = records.Host(VERSION, "h1", "ams", "10.9.0.1", (7443, 7444), 1_800_000_000, ("edge", "worker"))
    other = records.Host(VERSION, "h2", "syd", "10.9.0.2", (40001, 40007), 1_800_000_001, ("worker",), True)
    assert "no hosts; each with [backhaul] address" in host("hosts", "list").out

    async def put():
        store = SqliteStore(str(host.folder / "state" / "state.db"))
        for one in (record, other):
            await store.put(*records.key_of(one), records.encode(one))
        await store.close()
    asyncio.run(put())
    assert host("--json", "hosts", "list").data == [
        {"id": "h1", "region": "ams", "address": "10.9.0.1", "ports": [7443, 7444], "epoch": 1_800_000_000,
         "roles": ["edge", "worker"], "tls": False, "here": True, "closeness": None},
        {"id": "h2", "region": "syd", "address": "10.9.0.2", "ports": [40001, 40007], "epoch": 1_800_000_001,
         "roles": ["worker"], "tls": True, "here": False, "closeness": None},
    ]
    _, first, second = host("hosts", "list").out.splitlines()
    assert first.split() == ["h1", "ams", "10.9.0.1", "7443-7444", "edge,", "worker", "no", "here", "-", "-"]
    assert second.split() == ["h2", "syd", "10.9.0.2", "40001,", "40007", "worker", "yes", "-", "-", "-"]
    assert host("--json", "hosts", "show", "h2").data["region"] == "syd"
    assert "epoch    1800000001" in host("hosts", "show", "h2").out
    assert [host("--json", "hosts", "remove", "h2").data["changed"] for _ in range(2)] == [True, False]
    assert host("--json", "hosts", "show", "h2").error["code"] == "host-not-found"
    assert host("--json", "hosts", "remove", "No Host").error["code"] == "invalid-host"


def test_offline_is_refused_while_a_master_runs(host):
    with socket.socket(socket.AF_UNIX) as master:
        master.bind(str(host.folder / "run" / "ctl.sock"))
        master.listen()
        ran = host("--json", "apps", "list")
    assert (ran.status, ran.error["code"]) == (1, "running")
    assert "--offline" in ran.error["fix"]


def test_a_state_folder_that_cannot_be_made_is_told(ctl, tmp_path):
    config = tmp_path / "flyproxy.toml"
    config.write_text(f'[paths]\nruntime = "{tmp_path}"\nstate = "{tmp_path}/a/b"\n')
    assert ctl("-c", config, "--offline", "--json", "apps", "list").error["code"] == "store-unreachable"


def test_hostile_text_does_not_reach_the_terminal(with_app):
    text = FLY_TOML.replace("[build]", '["evil\\u001b[31m"]')
    (with_app.folder / "evil.toml").write_text(text)
    assert "\x1b" not in with_app("apps", "apply", with_app.folder / "evil.toml").out
    assert "\x1b" not in with_app("apps", "show", "hello").out
