"""fly.toml: what an owner writes becomes a typed app; what is not the proxy's is left aside by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyproxy.apps.fly_toml import FlyTomlError, load
from flyproxy.apps.model import App, Check, Concurrency, Port, Service, TlsOptions

EXAMPLES = Path(__file__).parents[2] / "examples"


def app(text: str, name: str | None = None) -> App:
    return load(text.encode(), "fly.toml", name)


def only(text: str) -> Service:
    (service,) = app('app = "a"\n' + text).services
    return service


def test_http_service_is_two_ports() -> None:
    assert app('app = "hello"\n[http_service]\ninternal_port = 9000\nforce_https = true') == App(1, "hello", (Service(
        "tcp", 9000, (Port(80, 80, ("http",), force_https=True), Port(443, 443, ("tls", "http")))),))


def test_an_app_may_have_no_services() -> None:
    assert app('app = "hello"') == App(1, "hello")


def test_the_defaults_are_fly_tomls() -> None:
    service = only("[http_service]")
    assert service.internal_port == 8080
    assert service.concurrency == Concurrency("connections", 20, 0)
    assert (service.balance, service.balance_key, service.half_close) == ("least", "ip", False)
    assert only("[[services]]") == Service("tcp", 8080)


def test_every_key_of_http_service_arrives() -> None:
    service = only("""
[http_service]
internal_port = 3000
balance = "hash"
balance_key = "header:X-User"
half_close = true
[http_service.concurrency]
type = "requests"
soft_limit = 5
hard_limit = 10
[http_service.http_options]
idle_timeout = 30
headers_read_timeout = 7
response = { pristine = true }
[http_service.tls_options]
alpn = ["h2"]
versions = ["TLSv1.3"]
default_self_signed = true
[[http_service.checks]]
interval = "10s"
timeout = 2500
grace_period = "1m30s"
method = "head"
path = "/up"
protocol = "https"
tls_server_name = "x.example"
tls_skip_verify = true
headers = { X-Check = "1", Accept = ["a", "b"] }
""")
    assert service == Service(
        "tcp", 3000,
        (Port(80, 80, ("http",), False, True, 1, 30, 7),
         Port(443, 443, ("tls", "http"), False, True, 1, 30, 7, TlsOptions(("h2",), ("TLSv1.3",), True))),
        Concurrency("requests", 5, 10), "hash", "header:X-User", True,
        (Check("http", 10.0, 2.5, 90.0, "HEAD", "/up", "https", "x.example", True,
               (("X-Check", "1"), ("Accept", "a"), ("Accept", "b"))),),
    )


def test_every_key_of_services_arrives() -> None:
    service = only("""
[[services]]
protocol = "tcp"
internal_port = 5000
concurrency = { type = "connections", hard_limit = 7 }
[[services.ports]]
start_port = 100
end_port = 110
handlers = ["proxy_proto"]
proxy_proto_options = { version = "v2" }
[[services.ports]]
port = 8080
handlers = ["http"]
force_https = true
[[services.tcp_checks]]
interval = 3000
[[services.http_checks]]
path = "/h"
""")
    assert service.ports == (
        Port(100, 110, ("proxy_proto",), proxy_version=2), Port(8080, 8080, ("http",), force_https=True))
    assert service.concurrency == Concurrency("connections", 7, 7), "the soft limit's default gives way to the hard one"
    assert service.checks == (Check("tcp", 3.0), Check("http", path="/h"))


@pytest.mark.parametrize("handlers", ['["tls", "http"]', '["http", "tls"]'])
def test_the_order_of_handlers_does_not_matter(handlers: str) -> None:
    service = only(f"[[services]]\n[[services.ports]]\nport = 443\nhandlers = {handlers}")
    assert set(service.ports[0].handlers) == {"http", "tls"}
    assert service.port_state(service.ports[0]) == "waiting: tls"


def test_what_cannot_be_served_yet_is_kept_with_its_state() -> None:
    service = only('[[services]]\n[[services.ports]]\nport = 5432\nhandlers = ["pg_tls"]')
    assert service.port_state(service.ports[0]) == "waiting: tls"
    service = only('[[services]]\nprotocol = "udp"\n[[services.ports]]\nport = 53')
    assert service.port_state(service.ports[0]) == "not served: udp"
    service = only("[[services]]\n[[services.ports]]\nport = 53")
    assert service.port_state(service.ports[0]) is None


def test_other_tools_sections_are_left_aside_by_name() -> None:
    read = app("""
app = "hello"
primary_region = "ams"
kill_timeout = 5
[build]
image = "x"
[env]
PORT = "8080"
[[vm]]
size = "shared"
[[mounts]]
source = "d"
[deploy]
strategy = "rolling"
[processes]
web = "x"
[checks.one]
port = 1
[somebodys]
own = 1
""")
    assert set(read.ignored_keys) == {
        "primary_region", "kill_timeout", "build", "env", "vm", "mounts", "deploy", "processes", "checks", "somebodys"}


def test_keys_without_effect_are_accepted_and_named() -> None:
    read = app("""
app = "hello"
[http_service]
auto_stop_machines = "suspend"
auto_start_machines = true
min_machines_running = 1
processes = ["web"]
[http_service.http_options]
compress = true
h2_backend = false
[http_service.http_options.response.headers]
X-A = "b"
X-B = false
[[services]]
auto_stop_machines = false
[[services.ports]]
port = 81
handlers = ["http"]
http_options = { replay_cache = [] }
""")
    assert set(read.ignored_keys) == {
        "http_service.auto_stop_machines", "http_service.auto_start_machines", "http_service.min_machines_running",
        "http_service.processes", "http_service.http_options.compress",
        "http_service.http_options.response.headers", "services[0].auto_stop_machines",
        "services[0].ports[0].http_options.replay_cache"}


def test_h2_backend_is_a_property_of_each_port() -> None:
    read = app("""
app = "hello"
[http_service]
http_options = { h2_backend = true }
[[services]]
internal_port = 9000
[[services.ports]]
port = 81
handlers = ["http"]
[[services.ports]]
port = 82
handlers = ["http"]
http_options = { h2_backend = true }
""")
    assert [[port.h2_backend for port in service.ports] for service in read.services] == [[True, True], [False, True]]
    assert read.ignored_keys == ()


def test_the_name_comes_from_the_file_or_from_the_command() -> None:
    assert app('app = "hello"').name == "hello"
    assert app('app = "hello"', "other").name == "other"
    assert app("", "other").name == "other"
    with pytest.raises(FlyTomlError, match=r"fly\.toml:1:1: no app name: add app = "):
        app("[http_service]")
    with pytest.raises(FlyTomlError, match=r"^-a: an app's name must be"):
        app("", "No Such Name")


@pytest.mark.parametrize("name", ["hello", "world", "tcp"])
def test_the_examples_are_valid(name: str) -> None:
    path = EXAMPLES / f"{name}.toml"
    assert load(path.read_bytes(), str(path)).services
