"""An app as the proxy knows it, typed. The same Structs are stored in the state store.

They are written as arrays, so their fields are append-only: new ones come last and have a default; none is moved,
renamed in meaning or taken away. ``flyproxy.apps.rules`` says which values are possible.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Handler = Literal["http", "tls", "proxy_proto", "pg_tls"]
HANDLERS: tuple[Handler, ...] = ("http", "tls", "proxy_proto", "pg_tls")
VERSION = 1
"""Schema version of the records; raised only when old readers must not read a new record."""


class Concurrency(msgspec.Struct, array_like=True, frozen=True):
    """What is counted for a machine, and how much of it is wanted (soft) and possible (hard; 0: no limit)."""

    type: Literal["connections", "requests"] = "connections"
    soft_limit: int = 20
    hard_limit: int = 0


class TlsOptions(msgspec.Struct, array_like=True, frozen=True):
    """Kept for the ports that wait for TLS."""

    alpn: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    default_self_signed: bool = False


class Port(msgspec.Struct, array_like=True, frozen=True):
    """A public port, or a range of them; timeouts in whole seconds, 0: the proxy's own. With ``h2_backend``
    machines are spoken to in HTTP/2 without TLS."""

    start: int
    end: int
    handlers: tuple[Handler, ...] = ()
    force_https: bool = False
    pristine: bool = False
    proxy_version: int = 1
    idle_timeout: int = 0
    headers_read_timeout: int = 0
    tls_options: TlsOptions = TlsOptions()
    h2_backend: bool = False

    @property
    def state(self) -> str | None:
        """Why the port is not served by design; None when it can be."""
        return "waiting: tls" if "tls" in self.handlers or "pg_tls" in self.handlers else None


class Check(msgspec.Struct, array_like=True, frozen=True):
    """A health check of a service; durations in seconds."""

    type: Literal["tcp", "http"]
    interval: float = 15.0
    timeout: float = 2.0
    grace_period: float = 1.0
    method: str = "GET"
    path: str = "/"
    protocol: Literal["http", "https"] = "http"
    tls_server_name: str = ""
    tls_skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = ()


class Service(msgspec.Struct, array_like=True, frozen=True):
    """Public ports that lead to one port of the app's machines."""

    protocol: Literal["tcp", "udp"] = "tcp"
    internal_port: int = 8080
    ports: tuple[Port, ...] = ()
    concurrency: Concurrency = Concurrency()
    balance: Literal["least", "hash"] = "least"
    balance_key: str = "ip"
    half_close: bool = False
    checks: tuple[Check, ...] = ()

    def port_state(self, port: Port) -> str | None:
        """Why a port of this service is not served by design; None when it can be."""
        return "not served: udp" if self.protocol == "udp" else port.state


class App(msgspec.Struct, array_like=True, frozen=True):
    """One app; ``ignored_keys`` are the keys of its fly.toml that this proxy leaves aside."""

    v: int
    name: str
    services: tuple[Service, ...] = ()
    ignored_keys: tuple[str, ...] = ()
