"""flyproxy.toml: values, precedence, and messages that say where and what instead."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from flyproxy import settings as module
from flyproxy.settings import Settings, SettingsError, diff, flat, from_json, load, load_with_origins, resolved, to_json


def write(folder: Path, text: str) -> str:
    path = folder / "flyproxy.toml"
    path.write_text(text)
    return str(path)


def loaded(folder: Path, text: str, env: Mapping[str, str] | None = None) -> Settings:
    return load(write(folder, text), env or {})


def problems(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(SettingsError) as error:
        load(path, {})
    return [line.removeprefix(path + ":") for line in str(error.value).splitlines()]


def test_an_empty_file_gives_the_documented_defaults(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "")
    assert settings.region == "loc"
    assert settings.roles == ["edge", "worker"]
    assert settings.paths.runtime == "/run/flyproxy"
    assert settings.database == "/var/lib/flyproxy/state.db"
    assert settings.workers.drain_timeout == 60.0
    assert settings.workers.respawn_min == 0.1
    assert settings.app_ports == ["1024-65535"]
    assert settings.admin.address == "127.0.0.1:9180"
    assert (settings.limits.head, settings.limits.buffer, settings.limits.memory) == (65536, 262144, 0)
    assert (settings.timeouts.upstream_idle, settings.timeouts.tunnel_idle) == (4.0, 0.0)
    assert settings.table.machines == 100_000


def test_every_section_is_read_in_its_units(tmp_path: Path) -> None:
    settings = loaded(tmp_path, """
region = "ams"
host = "edge-1"
roles = ["edge"]
app_ports = ["80", "5000-6000"]
[paths]
runtime = "/tmp/run"
[workers]
count = 2
slots = 4
drain_timeout = "1.5s"
[[listeners]]
address = "0.0.0.0:8080"
port = 80
[[listeners]]
address = "[::]:8080"
proxy_protocol = true
trusted_sources = ["10.0.0.0/8", "fd00::/8"]
[limits]
head = "1MiB"
memory = "2GiB"
body_rate = 0
[timeouts]
head = "250ms"
tunnel_idle = "2h"
queue = "0"
[log]
level = "debug"
access = "/var/log/access"
[backhaul]
address = "fd00::1"
key_file = "/etc/flyproxy/cluster.key"
""")
    assert (settings.region, settings.host, settings.roles) == ("ams", "edge-1", ["edge"])
    assert [settings.allows_port(port) for port in (80, 81, 4999, 5000, 6000, 6001)] == [
        True, False, False, True, True, False]
    assert settings.workers.drain_timeout == 1.5
    assert [(one.bind, one.service_port) for one in settings.listeners] == [
        (("0.0.0.0", 8080), 80), (("::", 8080), 8080)]
    assert settings.listeners[1].trusted_sources == ["10.0.0.0/8", "fd00::/8"]
    assert (settings.limits.head, settings.limits.memory) == (1 << 20, 2 << 30)
    assert (settings.timeouts.head, settings.timeouts.tunnel_idle, settings.timeouts.queue) == (0.25, 7200.0, 0.0)
    assert (settings.backhaul.address, settings.backhaul.bind) == ("[fd00::1]:7443", ("fd00::1", 7443))


@pytest.mark.parametrize(("text", "problem"), [
    ('[workers]\ndrain_timout = "60s"', "2:1: unknown key 'drain_timout' in [workers]; did you mean 'drain_timeout'?"),
    ('regoin = "ams"', "1:1: unknown key 'regoin' at the top level; did you mean 'region'?"),
    ("[worker]\ncount = 1", "1:2: unknown key 'worker' at the top level; did you mean 'workers'?"),
    ('[[listeners]]\naddress = "[::]:1"\nprot = 3', "3:1: unknown key 'prot' in [[listeners]]; did you mean 'port'?"),
    ('[log]\nzzz = 1', "2:1: unknown key 'zzz' in [log]; known keys: access, format, level"),
    ('workers.cuont = 1', "1:9: unknown key 'cuont' in [workers]; did you mean 'count'?"),
    ('workers = { cuont = 1 }', "1:13: unknown key 'cuont' in [workers]; did you mean 'count'?"),
    ('"wörkers" = 1', "1:1: unknown key 'wörkers' at the top level; did you mean 'workers'?"),
])
def test_unknown_keys_are_refused_with_their_place_and_a_suggestion(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


@pytest.mark.parametrize(("text", "where", "what"), [
    ('[workers]\ncount = "two"', "2:9", "whole number from 0 to 32, not \"two\""),
    ("[workers]\ncount = true", "2:9", "not true"),
    ("[workers]\ncount = 1.0", "2:9", "not 1.0"),
    ("[workers]\ncount = -1", "2:9", "from 0 to 32"),
    ("[workers]\ndrain_timeout = 60", "2:17", 'a duration from "10ms" to "24h" (or "0": at once), not 60'),
    ('[workers]\ndrain_timeout = "60"', "2:17", "a duration"),
    ('[workers]\ndrain_timeout = "60 s"', "2:17", "a duration"),
    ('[workers]\ndrain_timeout = "-1s"', "2:17", "a duration"),
    ('[workers]\ndrain_timeout = "1000h"', "2:17", "a duration"),
    ('[timeouts]\nhead = "0"', "2:8", 'a duration from "100ms" to "1h"'),
    ("[limits]\nhead = 65536", "2:8", 'a size from "1KiB" to "1MiB", not 65536'),
    ('[limits]\nhead = "64KB"', "2:8", "a size"),
    ('[limits]\nhead = "1.5KiB"', "2:8", "a size"),
    ('[limits]\nhead = "64GiB"', "2:8", "a size"),
    ('[[listeners]]\naddress = "8080"', "2:11", "an address"),
    ('[[listeners]]\naddress = "localhost:80"', "2:11", "an address"),
    ('[[listeners]]\naddress = "127.0.0.1"', "2:11", "an address"),
    ('[[listeners]]\naddress = "127.0.0.1:99999"', "2:11", "an address"),
    ('[[listeners]]\naddress = "::1:80"', "2:11", "an address"),
    ('[[listeners]]\naddress = "[::1"', "2:11", "an address"),
    ('[[listeners]]\naddress = "[fe80::1%eth0]:80"', "2:11", "an address"),
    ('[[listeners]]\naddress = "127.0.0.1:٨٠"', "2:11", "an address"),
    ("[[listeners]]\nport = 80", "1:1", "missing key 'address' in [[listeners]]"),
    ('[[listeners]]\naddress = "[::]:1"\ntrusted_sources = ["10.0.0.0/8", "10.0.0.1/8"]', "3:34", "a network"),
    ('[[listeners]]\naddress = "[::]:1"\ntrusted_sources = "10.0.0.0/8"', "3:19", "an array"),
    ('listeners = "x"', "1:13", "an array"),
    ("listeners = [1]", "1:14", "a table"),
    ('app_ports = ["1024-"]', "1:14", "a port or a range"),
    ('app_ports = ["0-10"]', "1:14", "a port or a range"),
    ('app_ports = ["20-10"]', "1:14", "a port or a range"),
    ('app_ports = ["1-70000"]', "1:14", "a port or a range"),
    ("app_ports = [80]", "1:14", "a port or a range"),
    ('region = "Amsterdam"', "1:10", "a region code"),
    ('region = "abcdefghijklmnop"', "1:10", "a region code"),
    ('host = "-x"', "1:8", "a host name"),
    ('roles = ["egde"]', "1:10", '"edge" or "worker", not "egde"; did you mean "edge"?'),
    ("roles = []", "1:9", "at least one"),
    ('roles = ["edge", "edge"]', "1:9", "once"),
    ('workers = 3', "1:11", "a table, not 3"),
    ('[log]\nlevel = "warn"', "2:9", 'did you mean "warning"?'),
    ('[log]\naccess = "access.log"', "2:10", "absolute path"),
    ('[paths]\nruntime = "run"', "2:11", "an absolute path"),
    ('[identity]\nvia = "fly proxy"', "2:7", "token"),
    ('[identity]\nserver = "a\\r\\nb: c"', "2:10", "visible ASCII"),
    ('[state]\nstore = "nats"', "2:9", "not part of this version"),
    ('[state]\nurl = "state.db"', "2:7", "absolute path"),
    ('[backhaul]\naddress = "mesh"', "2:11", "an IP address"),
    ('[admin]\naddress = "9180"', "2:11", "an address"),
    ("[table]\nmachines = 0", "2:12", "from 1 to"),
    ('[workers]\nrespawn_min = "20s"', "2:15", "longer than 'respawn_max'"),
    ("[workers]\ncount = 4\nslots = 2", "2:9", "a worker without a slot"),
])
def test_values_that_do_not_fit_are_refused_where_they_stand(tmp_path: Path, text: str, where: str, what: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(where + ": ")
    assert what in problem


@pytest.mark.parametrize(("text", "where"), [
    ('[[listeners]]\naddress = "127.0.0.1:80"\n[[listeners]]\naddress = "127.0.0.1:80"', "4:11"),
    ('[[listeners]]\naddress = "[::1]:80"\n[[listeners]]\naddress = "[0:0:0:0:0:0:0:1]:80"', "4:11"),
    ('[[listeners]]\naddress = "127.0.0.1:80"\n[[listeners]]\naddress = "[::ffff:127.0.0.1]:80"', "4:11"),
    ('[[listeners]]\naddress = "127.0.0.1:9180"', "2:11"),
])
def test_a_listener_on_a_taken_address_is_refused(tmp_path: Path, text: str, where: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(f"{where}: address ")
    assert "already taken" in problem


def test_several_listeners_may_ask_for_a_free_port(tmp_path: Path) -> None:
    text = '[[listeners]]\naddress = "127.0.0.1:0"\nport = 80\n' * 2
    assert [one.service_port for one in loaded(tmp_path, text).listeners] == [80, 80]


@pytest.mark.parametrize(("text", "where"), [
    ("region = ", "1:10"), ("a = 1\na = 2", "2:6"), ("[x\n", "1:3"), ('region = "ams', "1:14"), ("[[a]]\n[a]", "2:3"),
])
def test_what_is_not_toml_is_refused_with_its_place(tmp_path: Path, text: str, where: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(f"{where}: not valid TOML: "), problem


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = 1\n\xc3(", b"x" * (1 << 21), b"a = " + b"[" * 5000])
def test_bytes_that_are_no_settings_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "flyproxy.toml").write_bytes(data)
    with pytest.raises(SettingsError) as error:
        load(str(tmp_path / "flyproxy.toml"), {})
    assert len(error.value.problems) == 1


def test_all_problems_of_a_file_are_told_at_once_in_order(tmp_path: Path) -> None:
    found = problems(tmp_path, 'x = 1\n[log]\nlevel = 3\n[workers]\ncount = "a"\n')
    assert [line.split(":")[0] for line in found] == ["1", "3", "5"]


def test_a_missing_file_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_FILE", str(tmp_path / "default.toml"))
    with pytest.raises(SettingsError) as error:
        load(None, {})
    assert str(tmp_path / "default.toml") in str(error.value)
    assert "[[listeners]]" in str(error.value)
    with pytest.raises(SettingsError, match="no such file; check the path"):
        load(str(tmp_path / "other.toml"), {})
    with pytest.raises(SettingsError, match="Is a directory"):
        load(str(tmp_path), {})


def test_the_file_is_the_flags_then_the_environments_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flag", "environment", "default"):
        (tmp_path / name).write_text(f'region = "{name[:3]}"')
    monkeypatch.setattr(module, "DEFAULT_FILE", str(tmp_path / "default"))
    env = {"FLYPROXY_CONFIG": str(tmp_path / "environment")}
    assert load(str(tmp_path / "flag"), env).region == "fla"
    assert load(None, env).region == "env"
    assert load(None, {}).region == "def"


SYSTEMD = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/a"}


@pytest.mark.parametrize(("text", "env", "runtime", "origin"), [
    ("", {}, "/run/flyproxy", "default"),
    ("", SYSTEMD, "/run/a", "env RUNTIME_DIRECTORY"),
    ('[paths]\nruntime = "/run/file"', SYSTEMD, "/run/file", "{file}:2:1"),
    ('[paths]\nruntime = "/run/file"', {**SYSTEMD, "FLYPROXY_RUNTIME_DIR": "/run/ours"}, "/run/ours",
     "env FLYPROXY_RUNTIME_DIR"),
    ("", {"FLYPROXY_RUNTIME_DIR": "relative"}, os.path.abspath("relative"), "env FLYPROXY_RUNTIME_DIR"),
    ("", {"FLYPROXY_RUNTIME_DIR": ""}, "/run/flyproxy", "default"),
])
def test_paths_come_from_the_environment_the_file_or_systemd(
    tmp_path: Path, text: str, env: dict[str, str], runtime: str, origin: str
) -> None:
    path = write(tmp_path, text)
    got = load_with_origins(path, env)
    assert got.settings.paths.runtime == runtime
    assert got.origins["paths.runtime"] == origin.format(file=path)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FLYPROXY_RUNTIME_DIR"):
        loaded(tmp_path, "", {"FLYPROXY_RUNTIME_DIR": "/" + "x" * 120})


def test_every_key_has_an_origin(tmp_path: Path) -> None:
    path = write(tmp_path, 'region = "ams"\nworkers.count = 2\n[log]\nlevel = "debug"\n')
    got = load_with_origins(path, {})
    assert got.origins.keys() == flat(got.settings).keys()
    assert {key: origin for key, origin in got.origins.items() if origin.startswith(path)} == {
        "region": f"{path}:1:1", "workers.count": f"{path}:2:9", "log.level": f"{path}:4:1"}


def test_the_host_name_is_made_from_the_machine_id_and_stays_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    (tmp_path / "one").write_text("0123456789abcdef\n")
    (tmp_path / "two").write_text("fedcba9876543210\n")
    one, same, two, none = (
        load_with_origins(path, {}, str(tmp_path / name)) for name in ("one", "one", "two", "missing"))
    assert one.settings.host == same.settings.host != two.settings.host
    assert len(one.settings.host) == 8
    assert "01234567" not in one.settings.host, "a machine id is not shown to others"
    assert one.origins["host"] == str(tmp_path / "one")
    assert none.origins["host"] == "host name"
    assert len(none.settings.host) == 8


def test_settings_travel_as_json(tmp_path: Path) -> None:
    settings = loaded(tmp_path, '[[listeners]]\naddress = "[::]:80"\n[timeouts]\nhead = "1.5s"')
    assert from_json(to_json(settings)) == settings


def test_flat_settings_are_written_as_in_the_file(tmp_path: Path) -> None:
    shown = flat(loaded(tmp_path, '[[listeners]]\naddress = "[::]:80"'))
    assert shown["workers.drain_timeout"] == "1m"
    assert shown["workers.respawn_min"] == "100ms"
    assert shown["limits.head"] == "64KiB"
    assert shown["timeouts.tunnel_idle"] == "0"
    assert shown["listeners"] == [
        {"address": "[::]:80", "port": 0, "proxy_protocol": False, "trusted_sources": []}]


def test_workers_and_slots_left_open_become_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))

    def numbers(text: str, slots: int = 0) -> tuple[int, int]:
        workers = resolved(loaded(tmp_path, f"[workers]\n{text}"), slots).workers
        return workers.count, workers.slots

    assert numbers("") == (6, 6)
    assert numbers("count = 2") == (2, 6)
    assert numbers("count = 8") == (8, 8)
    assert numbers("slots = 4") == (4, 4)
    assert numbers("count = 2", slots=4) == (2, 4), "a running master keeps its slots"
    assert numbers("", slots=4) == (4, 4)
    assert numbers("slots = 8", slots=4) == (6, 8)


def test_a_difference_names_its_keys_and_what_needs_a_restart(tmp_path: Path) -> None:
    old = resolved(loaded(tmp_path, ""))
    new = resolved(loaded(tmp_path, """
region = "ams"
[workers]
count = 1
slots = 9
[[listeners]]
address = "[::]:80"
[table]
apps = 50
[paths]
state = "/tmp"
"""))
    change = diff(old, new)
    assert {"region", "workers.count", "workers.slots", "listeners", "table.apps", "paths.state"} == set(change.changed)
    assert set(change.restart) == {"workers.slots", "table.apps", "paths.state"}
    assert change.sections == {"region", "workers", "listeners", "table", "paths"}
    assert diff(old, old).changed == ()


@pytest.mark.parametrize(("names", "missing"), [
    (["ca"], "'cert' and 'key'"), (["cert"], "'ca' and 'key'"), (["key"], "'ca' and 'cert'"), (["ca", "key"], "'cert'"),
])
def test_tls_between_hosts_is_refused_rather_than_left_out_silently(
    tmp_path: Path, names: list[str], missing: str
) -> None:
    found = problems(tmp_path, "[backhaul]\n" + "".join(f'{name} = "/etc/flyproxy/mesh.pem"\n' for name in names))
    assert found == [
        f"2:{len(names[0]) + 4}: '{names[0]}' in [backhaul]: TLS between hosts needs 'ca', 'cert' and 'key'; add "
        f"{missing}, or leave all three out"
    ]


def test_tls_between_hosts_without_a_way_to_other_hosts_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, "".join(["[backhaul]\n", *(f'{name} = "/m.pem"\n' for name in ("ca", "cert", "key"))]))
    assert found == ["3:8: 'cert' in [backhaul] needs 'address': without one no other host is reached"]
