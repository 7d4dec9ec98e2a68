"""Which checks there are: the services of the apps times the machines of this host. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from flyproxy.apps import model
from flyproxy.control.health.judge import Health
from flyproxy.control.health.plan import Check, HttpRequest, clamped


class Machine(Protocol):
    """What health reads of a machine's record; ``port`` 0: the service's internal port."""

    @property
    def id(self) -> str: ...
    @property
    def app(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def host(self) -> str: ...
    @property
    def health(self) -> Health: ...


def ours(machines: Iterable[Machine], host: str) -> list[Machine]:
    """The machines that this host answers for: its own, and those that name no host."""
    return [machine for machine in machines if machine.host in ("", host)]


def checks_of(machine: Machine, apps: Mapping[str, model.App]) -> Iterator[Check]:
    """The checks of one machine; none when its app is unknown or has none."""
    app = apps.get(machine.app)
    for at, service in enumerate(app.services if app else ()):
        for index, check in enumerate(service.checks):
            yield Check(
                machine.id, machine.app, f"services[{at}].checks[{index}]", machine.address,
                machine.port or service.internal_port, clamped(check.interval), clamped(check.timeout),
                check.grace_period, _request(check))


def _request(check: model.Check) -> HttpRequest | None:
    if check.type != "http":
        return None
    # An empty value stands for `NAME = false`: the header is not sent.
    headers = tuple((name, value) for name, value in check.headers if value)
    return HttpRequest(check.method, check.path, headers, check.protocol == "https", check.tls_server_name,
                       not check.tls_skip_verify)
