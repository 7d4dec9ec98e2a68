"""A table of any size whose machines are one Farm: each app has ten addresses of its own, so an answer tells its app.

App ``n`` is ``app-N`` with the host name ``app-N.test``; its machine ``m`` is 127.(16 + n // 250).(n % 250).(m + 1).
"""

from __future__ import annotations

from collections.abc import Iterator

from flyproxy.apps.model import VERSION, App, Concurrency, Port, Service
from flyproxy.state.records import Hostname, Machine, Record, Region

REGION = "loc"
MACHINES = 10
HTTP = 80


def name(n: int) -> str:
    return f"app-{n}"


def host(n: int) -> str:
    return f"app-{n}.test"


def network(n: int) -> str:
    """The first three numbers of the addresses of app ``n``; up to 60 000 apps."""
    return f"127.{16 + n // 250}.{n % 250}."


def app(title: str, *services: Service) -> App:
    return App(VERSION, title, services)


def service(
    port: int = HTTP, internal: int = 8080, handlers: tuple[str, ...] = ("http",), **options: object
) -> Service:
    limits = Concurrency("requests", 20)
    return Service("tcp", internal, (Port(port, port, handlers),), limits, **options)  # type: ignore[arg-type]


def machine(n: int, m: int, port: int, of: str = "", cordoned: bool = False) -> Machine:
    return Machine(VERSION, f"m-{n}-{m}", of or name(n), f"{network(n)}{m + 1}", port, REGION, "", cordoned)


def whole_app(n: int, port: int, title: str = "") -> Iterator[Record]:
    """App ``n`` with its host name and its machines, which listen on ``port``; ``title``: another name than usual."""
    title = title or name(n)
    yield app(title, service())
    yield Hostname(VERSION, host(n), title)
    for m in range(MACHINES):
        yield machine(n, m, port, title)


def whole(apps: int, port: int) -> Iterator[Record]:
    """Apps 0 to ``apps`` - 1."""
    yield Region(VERSION, REGION)
    for n in range(apps):
        yield from whole_app(n, port)
