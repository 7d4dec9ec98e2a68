"""Which apps are possible: the one place that judges values, for a fly.toml and for a record from the store alike.

Every rule yields the path of what is wrong, in the model's names, and a message that says what would be right. Types
are known to be correct here; the readers saw to that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from flyproxy.apps.model import App, Check, Port, Service
from flyproxy.toml_positions import Path

Finding = tuple[Path, str]

MAX_SERVICES = 64
MAX_PORTS = 1024
"""Ports that one app may open: each costs the proxy a socket for every slot and address family."""
MAX_LIMIT = 10_000_000
MAX_TIMEOUT = 86_400
MAX_CHECKS = 16
_NAME = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,63}", re.ASCII)
_TOKEN_EXPECTS = "1 to 63 letters, digits and !#$%&'*+-.^_`|~"
_VALUE = re.compile(r"[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?")


def check(app: App) -> Iterator[Finding]:
    """Everything that is impossible in ``app``, in order."""
    yield from name_findings(app.name, ("app",))
    if len(app.services) > MAX_SERVICES:
        yield ("services",), f"{len(app.services)} services are more than the {MAX_SERVICES} that one app may have"
    for index, service in enumerate(app.services):
        for path, message in _service(service):
            yield ("services", index, *path), message
    yield from _overlaps(app)
    opened = sum(max(0, port.end - port.start + 1) for service in app.services for port in service.ports)
    if opened > MAX_PORTS:
        yield ("services",), f"{opened} ports are more than the {MAX_PORTS} that one app may open; narrow the range"


def name_findings(name: str, path: Path) -> Iterator[Finding]:
    """Whether an app may have this name."""
    if _NAME.fullmatch(name) is None:
        yield path, f"an app's name must be 1 to 63 of a-z, 0-9 and '-', not {name[:80]!r}"


def is_token(text: str) -> bool:
    """Whether ``text`` is a token of HTTP (RFC 9110, section 5.6.2) of at most 63 characters, as names must be."""
    return _TOKEN.fullmatch(text) is not None


def _service(service: Service) -> Iterator[Finding]:
    if not 1 <= service.internal_port <= 65535:
        yield ("internal_port",), f"internal_port must be from 1 to 65535, not {service.internal_port}"
    yield from _concurrency(service)
    yield from _balance(service)
    for index, port in enumerate(service.ports):
        for path, message in _port(service, port):
            yield ("ports", index, *path), message
    if len(service.checks) > MAX_CHECKS:
        yield ("checks",), f"{len(service.checks)} checks are more than the {MAX_CHECKS} that one service may have"
    for index, one in enumerate(service.checks):
        for path, message in _check(one):
            yield ("checks", index, *path), message


def _concurrency(service: Service) -> Iterator[Finding]:
    limits = service.concurrency
    if not 1 <= limits.soft_limit <= MAX_LIMIT:
        yield ("concurrency", "soft_limit"), f"soft_limit must be from 1 to {MAX_LIMIT}, not {limits.soft_limit}"
    if not 0 <= limits.hard_limit <= MAX_LIMIT:
        yield ("concurrency", "hard_limit"), f"hard_limit must be from 1 to {MAX_LIMIT}; leave it out for no limit"
    elif limits.hard_limit and limits.soft_limit > limits.hard_limit:
        yield ("concurrency", "soft_limit"), (
            f"soft_limit {limits.soft_limit} is above hard_limit {limits.hard_limit}, so it could never be reached"
        )


def _balance(service: Service) -> Iterator[Finding]:
    kind, colon, name = service.balance_key.partition(":")
    if service.balance_key == "ip":
        return
    if kind not in ("header", "cookie") or not colon:
        yield ("balance_key",), (
            f'balance_key must be "ip", "header:NAME" or "cookie:NAME", not "{service.balance_key[:80]}"'
        )
    elif not is_token(name):
        yield ("balance_key",), f"{name[:80]!r} is not a valid {kind} name: {_TOKEN_EXPECTS}"


def _port(service: Service, port: Port) -> Iterator[Finding]:
    if not 1 <= port.start <= port.end <= 65535:
        what = f"port {port.start}" if port.start == port.end else f"ports {port.start} to {port.end}"
        yield ((), f"{what}: must be from 1 to 65535, the start not after the end")
    handlers = set(port.handlers)
    if len(handlers) < len(port.handlers):
        yield ("handlers",), "a handler is named twice"
    if service.protocol == "udp" and handlers:
        yield ("handlers",), "udp has no handlers; leave them out"
    if "pg_tls" in handlers and handlers & {"tls", "http"}:
        yield ("handlers",), "pg_tls cannot be combined with tls or http"
    if port.force_https and ("http" not in handlers or "tls" in handlers):
        yield ("force_https",), "force_https needs the http handler without tls: it answers plain HTTP with a redirect"
    if port.proxy_version not in (1, 2):
        yield ("proxy_proto_options", "version"), f"the PROXY protocol has versions 1 and 2, not {port.proxy_version}"
    for name, seconds in (("idle_timeout", port.idle_timeout), ("headers_read_timeout", port.headers_read_timeout)):
        if not 0 <= seconds <= MAX_TIMEOUT:
            yield ("http_options", name), f"{name} must be from 1 to {MAX_TIMEOUT} s; leave it out for the default"


def _check(check: Check) -> Iterator[Finding]:
    for name, seconds in (("interval", check.interval), ("timeout", check.timeout)):
        if not 0 < seconds <= 3600:
            yield (name,), f"{name} must be longer than 0 and at most 1h"
    if not 0 <= check.grace_period <= 3600:
        yield ("grace_period",), "grace_period must be from 0 to 1h"
    if not is_token(check.method):
        yield ("method",), f"{check.method[:80]!r} is not an HTTP method"
    if not check.path.startswith("/") or not re.fullmatch(r"[!-~]{1,2048}", check.path):
        yield ("path",), "path must begin with '/' and have only visible ASCII characters, at most 2048"
    yield from header_findings(check.headers, ("headers",))


def header_findings(headers: tuple[tuple[str, str], ...], path: Path) -> Iterator[Finding]:
    """Whether names and values may stand in an HTTP head."""
    for name, value in headers:
        if not is_token(name):
            yield (*path, name), f"{name[:80]!r} is not a valid header name: {_TOKEN_EXPECTS}"
        if value and (len(value) > 4096 or _VALUE.fullmatch(value) is None):
            yield (*path, name), f"the value of header {name[:80]!r} is too long or not allowed in HTTP"


def _overlaps(app: App) -> Iterator[Finding]:
    """Ports claimed twice, also by two services: a port leads to one service."""
    for protocol in ("tcp", "udp"):
        ranges = sorted(
            (port.start, port.end, at, index)
            for at, service in enumerate(app.services) if service.protocol == protocol
            for index, port in enumerate(service.ports) if 1 <= port.start <= port.end
        )
        reached, owner = 0, (0, 0)
        for start, end, at, index in ranges:
            if start <= reached:
                here, there = max((at, index), owner), min((at, index), owner)
                other = app.services[there[0]].ports[there[1]]
                shown = str(other.start) if other.start == other.end else f"{other.start}-{other.end}"
                yield ("services", here[0], "ports", here[1]), (
                    f"overlaps port {shown} of service {there[0] + 1}, which leads to internal port "
                    f"{app.services[there[0]].internal_port}; a port can lead to one service only"
                )
            if end > reached:
                reached, owner = end, (at, index)
