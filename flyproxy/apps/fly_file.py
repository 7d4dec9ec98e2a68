"""``fly.toml`` as it is written: the sections that are the proxy's, typed.

Other sections ([build], [env], [vm] ...) belong to other tools and are left aside. Keys listed in NO_EFFECT are the
proxy's but do nothing in this version: they are checked like all others, and named in the app's ``ignored_keys``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from flyproxy.apps.model import Handler
from flyproxy.toml_positions import Path
from flyproxy.toml_schema import dotted
from flyproxy.units import Kind

OTHER_SECTIONS = frozenset({
    "build", "checks", "console_command", "consul", "deploy", "env", "experimental", "files", "host_dedicated_id",
    "kill_signal", "kill_timeout", "machine_checks", "machine_config", "metrics", "mount", "mounts",
    "personalized_stop", "primary_region", "processes", "restart", "runtime", "statics", "swap_size_mb", "vm",
})
NO_EFFECT = frozenset({
    "auto_stop_machines", "auto_start_machines", "min_machines_running", "machine_checks", "processes",
    "http_options.compress", "http_options.replay_cache", "http_options.response.headers",
})

_GO_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+", re.ASCII)
_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)", re.ASCII)
_GO_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _go_duration(value: int | str) -> float:
    """Seconds; a bare number means milliseconds, as in fly.toml."""
    if isinstance(value, int) or value.isdecimal():
        milliseconds = int(value)
        if milliseconds < 0:
            raise ValueError
        return min(milliseconds / 1000, 1e9)
    if _GO_DURATION.fullmatch(value) is None:
        raise ValueError
    return sum(float(number) * _GO_SECONDS[unit] for number, unit in _GO_PART.findall(value))


def _auto_stop(value: bool | str) -> str:
    choice = {True: "stop", False: "off"}.get(value, value) if isinstance(value, bool) else value
    if choice not in ("off", "stop", "suspend"):
        raise ValueError
    return choice


def _headers(value: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Pairs of name and text; ``false`` (take the header away) has an empty text."""
    pairs = []
    for name, texts in value.items():
        for text in texts if isinstance(texts, list) else [texts]:
            if not isinstance(text, str) and text is not False:
                raise ValueError
            pairs.append((name, text or ""))
    return tuple(pairs)


DURATION = Kind('a duration such as "1m30s", or a whole number of milliseconds', _go_duration, accepts=(int, str))
AUTO_STOP = Kind('"off", "stop", "suspend", true or false', _auto_stop, accepts=(bool, str))
HEADERS = Kind('a table of NAME = "text", an array of texts, or false', _headers, accepts=(dict,))
Headers = tuple[tuple[str, str], ...]


class FileConcurrency(msgspec.Struct):
    type: Literal["connections", "requests"] = "connections"
    soft_limit: int | None = None
    hard_limit: int | None = None


class FileTls(msgspec.Struct):
    alpn: list[str] = []
    versions: list[Literal["TLSv1.2", "TLSv1.3"]] = []
    default_self_signed: bool = False


class FileResponse(msgspec.Struct):
    pristine: bool = False
    headers: Annotated[Headers, HEADERS] = ()


class FileHttp(msgspec.Struct):
    compress: bool = False
    response: FileResponse = msgspec.field(default_factory=FileResponse)
    h2_backend: bool = False
    idle_timeout: int | None = None
    headers_read_timeout: int | None = None
    replay_cache: list[Any] = []


class FileProxyProto(msgspec.Struct):
    version: Literal["v1", "v2"] = "v1"


class FilePort(msgspec.Struct):
    port: int | None = None
    start_port: int | None = None
    end_port: int | None = None
    handlers: list[Handler] = []
    force_https: bool = False
    tls_options: FileTls = msgspec.field(default_factory=FileTls)
    http_options: FileHttp = msgspec.field(default_factory=FileHttp)
    proxy_proto_options: FileProxyProto = msgspec.field(default_factory=FileProxyProto)


class FileTcpCheck(msgspec.Struct):
    interval: Annotated[float, DURATION] = 15.0
    timeout: Annotated[float, DURATION] = 2.0
    grace_period: Annotated[float, DURATION] = 1.0


class FileHttpCheck(msgspec.Struct):
    interval: Annotated[float, DURATION] = 15.0
    timeout: Annotated[float, DURATION] = 2.0
    grace_period: Annotated[float, DURATION] = 1.0
    method: str = "GET"
    path: str = "/"
    protocol: Literal["http", "https"] = "http"
    tls_server_name: str = ""
    tls_skip_verify: bool = False
    headers: Annotated[Headers, HEADERS] = ()


class FileBase(msgspec.Struct, kw_only=True):
    """What [http_service] and [[services]] have in common."""

    internal_port: int = 8080
    concurrency: FileConcurrency = msgspec.field(default_factory=FileConcurrency)
    balance: Literal["least", "hash"] = "least"
    balance_key: str = "ip"
    half_close: bool = False
    auto_stop_machines: Annotated[str, AUTO_STOP] = "off"
    auto_start_machines: bool = True
    min_machines_running: int = 0
    processes: list[str] = []
    machine_checks: list[Any] = []


class FileHttpService(FileBase, kw_only=True):
    force_https: bool = False
    http_options: FileHttp = msgspec.field(default_factory=FileHttp)
    tls_options: FileTls = msgspec.field(default_factory=FileTls)
    checks: list[FileHttpCheck] = []


class FileService(FileBase, kw_only=True):
    protocol: Literal["tcp", "udp"] = "tcp"
    ports: list[FilePort] = []
    tcp_checks: list[FileTcpCheck] = []
    http_checks: list[FileHttpCheck] = []


class FlyFile(msgspec.Struct):
    app: str | None = None
    http_service: FileHttpService | None = None
    services: list[FileService] = []


def is_others(path: Path) -> bool:
    """Whether an unknown key is another tool's section, and not one of ours misspelt."""
    if len(path) != 1:
        return False
    name = str(path[0])
    return name in OTHER_SECTIONS or not difflib.get_close_matches(name, FlyFile.__struct_fields__, 1, 0.75)


def without_effect(values: dict[str, Any]) -> Iterator[str]:
    """The keys of the proxy's own sections that do nothing in this version, dotted."""
    for section in ("http_service", "services"):
        if section in values:
            yield from _no_effect(values[section], (section,), ())


def _no_effect(value: Any, path: Path, inside: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _no_effect(item, (*path, index), inside)
    elif isinstance(value, dict):
        for key, inner in value.items():
            name = (*inside, key) if key != "ports" else ()
            if ".".join(name) in NO_EFFECT:
                yield dotted((*path, key))
            else:
                yield from _no_effect(inner, (*path, key), name)
