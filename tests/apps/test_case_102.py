"""Case 102: a fly.toml with wrong types, unknown keys, overlapping ports or impossible limits is refused with line,
column and suggestion, and nothing of it is applied."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy.apps import rules
from flyproxy.apps.fly_toml import FlyTomlError, load
from flyproxy.state import commands
from flyproxy.state.sqlite import SqliteStore


def problems(text: str) -> list[str]:
    with pytest.raises(FlyTomlError) as error:
        load(text.encode(), "fly.toml")
    return str(error.value).splitlines()


def one(text: str) -> str:
    (problem,) = problems('app = "a"\n' + text)
    assert problem.startswith("fly.toml:")
    return problem.removeprefix("fly.toml:")


HTTP, SERVICE = "[http_service]\n", "[[services]]\n"
PORT = SERVICE + "[[services.ports]]\n"


@pytest.mark.parametrize(("text", "problem"), [
    (HTTP + "intenal_port = 1", "3:1: unknown key 'intenal_port' in [http_service]; did you mean 'internal_port'?"),
    (HTTP + "[http_service.concurrency]\nsoft_limt = 1",
     "4:1: unknown key 'soft_limt' in [http_service.concurrency]; did you mean 'soft_limit'?"),
    (SERVICE + "internalport = 1", "3:1: unknown key 'internalport' in [[services]]; did you mean 'internal_port'?"),
    (PORT + "prot = 1", "4:1: unknown key 'prot' in [[services.ports]]; did you mean 'port'?"),
    (HTTP + "http_options.response.pristin = true",
     "3:23: unknown key 'pristin' in [http_service.http_options.response]; did you mean 'pristine'?"),
    (HTTP + "[[http_service.checks]]\nintervall = 1",
     "4:1: unknown key 'intervall' in [[http_service.checks]]; did you mean 'interval'?"),
    (HTTP + "ports = [80]", "3:1: unknown key 'ports' in [http_service]; known keys: auto_start_machines,"),
    ("[http_servce]", "2:2: unknown key 'http_servce' at the top level; did you mean 'http_service'?"),
    ("[[service]]", "2:3: unknown key 'service' at the top level; did you mean 'services'?"),
])
def test_misspelt_keys_of_the_proxys_own_sections(text: str, problem: str) -> None:
    found = [line.removeprefix("fly.toml:") for line in problems('app = "a"\n' + text)]
    assert found[0].startswith(problem)


@pytest.mark.parametrize(("text", "where", "what"), [
    ("http_service = 1", "2:16", "'http_service' at the top level must be a table, not 1"),
    ("services = {}", "2:12", "'services' at the top level must be an array, not a table"),
    (HTTP + 'internal_port = "80"', "3:17", "must be a whole number, not \"80\""),
    (HTTP + "internal_port = 80.0", "3:17", "must be a whole number, not 80.0"),
    (HTTP + "internal_port = true", "3:17", "must be a whole number, not true"),
    (HTTP + 'force_https = "yes"', "3:15", "must be true or false, not \"yes\""),
    (HTTP + "force_https = 1", "3:15", "must be true or false, not 1"),
    (HTTP + 'concurrency = { type = "request" }', "3:24", '"connections" or "requests", not "request"; did you mean'),
    (HTTP + "concurrency = 5", "3:15", "must be a table"),
    (HTTP + 'balance = "random"', "3:11", '"least" or "hash"'),
    (HTTP + 'auto_stop_machines = "maybe"', "3:22", '"off", "stop", "suspend", true or false'),
    (SERVICE + 'protocol = "sctp"', "3:12", '"tcp" or "udp"'),
    (PORT + "port = [80]", "4:8", "must be a whole number, not an array"),
    (PORT + 'port = 80\nhandlers = "http"', "5:12", "must be an array"),
    (PORT + 'port = 80\nhandlers = ["edge_http"]', "5:13", 'not "edge_http"; did you mean "http"?'),
    (PORT + 'port = 80\nhandlers = [1]', "5:13", '"http", "tls", "proxy_proto" or "pg_tls", not 1'),
    (PORT + 'port = 80\nproxy_proto_options = { version = "v3" }', "5:35", '"v1" or "v2"'),
    (SERVICE + "[[services.tcp_checks]]\ninterval = \"soon\"", "4:12", "a duration such as"),
    (SERVICE + "[[services.tcp_checks]]\ninterval = -5", "4:12", "a duration such as"),
    (SERVICE + "[[services.http_checks]]\nheaders = [\"a\"]", "4:11", "a table of NAME"),
])
def test_wrong_types(text: str, where: str, what: str) -> None:
    problem = one(text)
    assert problem.startswith(where + ": "), problem
    assert what in problem


@pytest.mark.parametrize(("text", "where", "what"), [
    (HTTP + "internal_port = 0", "3:17", "internal_port must be from 1 to 65535, not 0"),
    (HTTP + "internal_port = 65536", "3:17", "internal_port must be"),
    (HTTP + "internal_port = -1", "3:17", "internal_port must be"),
    (HTTP + f"internal_port = {10**40}", "3:17", "internal_port must be"),
    (HTTP + "[http_service.concurrency]\nsoft_limit = 30\nhard_limit = 10", "4:14", "30 is above hard_limit 10"),
    (HTTP + "[http_service.concurrency]\nhard_limit = 0", "4:14", "hard_limit must be from 1"),
    (HTTP + "[http_service.concurrency]\nhard_limit = -5", "4:14", "hard_limit must be from 1"),
    (HTTP + "[http_service.concurrency]\nsoft_limit = 0", "4:14", "soft_limit must be from 1"),
    (HTTP + "[http_service.concurrency]\nsoft_limit = -1", "4:14", "soft_limit must be from 1"),
    (HTTP + f"[http_service.concurrency]\nsoft_limit = {10**12}", "4:14", "soft_limit must be from 1"),
    (HTTP + 'balance = "hash"\nbalance_key = "url"', "4:15", 'must be "ip", "header:NAME" or "cookie:NAME"'),
    (HTTP + 'balance = "hash"\nbalance_key = "header:"', "4:15", "not a valid header name"),
    (HTTP + 'balance = "hash"\nbalance_key = "header:a b"', "4:15", "not a valid header name"),
    (HTTP + 'balance = "hash"\nbalance_key = "cookie:a;b"', "4:15", "not a valid cookie name"),
    (HTTP + "http_options = { idle_timeout = 0 }", "3:33", "idle_timeout must be from 1"),
    (HTTP + "http_options = { headers_read_timeout = -1 }", "3:41", "headers_read_timeout must be from 1"),
    (HTTP + '[http_service.http_options.response.headers]\n"a b" = "x"', "4:1", "'a b' is not a valid header name"),
    (HTTP + '[http_service.http_options.response.headers]\nA = "x\\r\\nB: y"', "4:1", "not allowed in HTTP"),
    (HTTP + '[[http_service.checks]]\nheaders = { "a:" = "x" }', "4:13", "'a:' is not a valid header name"),
    (HTTP + '[[http_service.checks]]\npath = "up"', "4:8", "path must begin with '/'"),
    (HTTP + '[[http_service.checks]]\nmethod = "G T"', "4:10", "is not an HTTP method"),
    (HTTP + '[[http_service.checks]]\ninterval = 0', "4:12", "longer than 0"),
    (PORT + "port = 0", "3:1", "port 0: must be from 1 to 65535"),
    (PORT + "port = 65536", "3:1", "port 65536: must be"),
    (PORT + "start_port = 20\nend_port = 10", "3:1", "ports 20 to 10"),
    (PORT + "start_port = 20", "3:1", "missing key 'end_port' in [[services.ports]]"),
    (PORT + "end_port = 20", "3:1", "missing key 'start_port' in [[services.ports]]"),
    (PORT + 'handlers = ["http"]', "3:1", "missing key 'port' in [[services.ports]]"),
    (PORT + "port = 1\nstart_port = 1\nend_port = 2", "3:1", "not both"),
    (PORT + 'port = 80\nhandlers = ["http", "http"]', "5:12", "named twice"),
    (PORT + 'port = 80\nhandlers = ["pg_tls", "tls"]', "5:12", "cannot be combined"),
    (PORT + "port = 80\nforce_https = true", "5:15", "needs the http handler"),
    (PORT + 'port = 443\nhandlers = ["tls", "http"]\nforce_https = true', "6:15", "needs the http handler without tls"),
    (SERVICE + 'protocol = "udp"\n[[services.ports]]\nport = 53\nhandlers = ["http"]', "6:12", "udp has no handlers"),
    (PORT + "start_port = 1\nend_port = 2000", "2:1", "2000 ports are more than the 1024"),
    ("[[services]]\n" * 65, "2:1", "65 services are more than the 64"),
    (SERVICE + "[[services.tcp_checks]]\n" * 17, "2:1", "17 checks are more than the 16"),
])
def test_impossible_values(text: str, where: str, what: str) -> None:
    problem = one(text)
    assert problem.startswith(where + ": "), problem
    assert what in problem


@pytest.mark.parametrize("text", [
    PORT + "port = 80\n[[services.ports]]\nport = 80",
    PORT + "port = 80\n" + PORT + "port = 80",
    PORT + "start_port = 70\nend_port = 90\n" + PORT + "port = 80",
    PORT + "port = 80\n" + PORT + "start_port = 70\nend_port = 90",
    PORT + "start_port = 70\nend_port = 90\n" + PORT + "start_port = 90\nend_port = 95",
    HTTP + PORT + "port = 80",
    HTTP + PORT + "start_port = 400\nend_port = 500",
])
def test_overlapping_ports_are_refused_at_the_later_one(text: str) -> None:
    problem = one(text)
    assert "overlaps port" in problem
    line = int(problem.split(":")[0])
    assert ("app\n" + text).splitlines()[line - 1] == "[[services.ports]]"
    assert line > 3


def test_udp_and_tcp_may_have_the_same_port() -> None:
    text = 'app = "dns"\n' + SERVICE + 'protocol = "udp"\n[[services.ports]]\nport = 53\n' + PORT + "port = 53"
    assert len(load(text.encode(), "f").services) == 2


@pytest.mark.parametrize("name", ["Hello", "a_b", "a.b", "a b", "x" * 64, "../etc", "a\\n", "é"])
def test_names_that_no_app_may_have(name: str) -> None:
    (problem,) = problems(f'app = "{name}"')
    assert problem.startswith("fly.toml:1:7: an app's name must be 1 to 63 of a-z, 0-9 and '-'")


@pytest.mark.parametrize(("data", "where"), [
    (b"", "1:1"), (b"app = \n", "1:7"), (b'app = "a"\napp = "b"', "2:10"), (b"\xff", "1:1"), (b"{", "1:1"),
])
def test_what_is_no_toml_or_has_no_name(data: bytes, where: str) -> None:
    with pytest.raises(FlyTomlError) as error:
        load(data, "fly.toml")
    assert str(error.value).startswith(f"fly.toml:{where}: ")


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    found = problems('app = "A"\n[http_service]\ninternal_port = 0\n[http_service.concurrency]\nhard_limit = -1\n')
    assert [line.split(":")[1] for line in found] == ["1", "3", "5"]


def test_nothing_of_a_refused_file_is_applied(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await commands.apply_app(store, load(b'app = "a"\n[http_service]\ninternal_port = 3000', "good"))
        before = await store.snapshot("g")
        with pytest.raises(FlyTomlError):
            load(b'app = "a"\n[http_service]\ninternal_port = 4000\nforce_https = 1', "bad")
        after = await store.snapshot("g")
        assert after.values == before.values
        await store.close()
    asyncio.run(work())


WORDS = st.sampled_from([
    "[http_service]", "[[services]]", "[[services.ports]]", "[http_service.concurrency]", "port = 80", "port = 443",
    "start_port = 10", "end_port = 100", 'handlers = ["tls", "http"]', 'handlers = ["proxy_proto"]',
    "internal_port = 1", "internal_port = 99999999999999999999", "hard_limit = 5", "soft_limit = 9",
    'protocol = "udp"', "force_https = true", 'balance_key = "cookie:x"', "x = {}", "[[services.http_checks]]",
    'interval = "1s"', 'headers = { a = "b" }', "[build]",
])


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, max_size=14))
def test_any_file_is_an_app_that_keeps_the_rules_or_is_refused_with_places(lines: list[str]) -> None:
    try:
        app = load(b'app = "a"\n' + "\n".join(lines).encode(), "fly.toml")
    except FlyTomlError as error:
        assert all(problem.line >= 1 and problem.message for problem in error.problems)
    else:
        assert list(rules.check(app)) == []
