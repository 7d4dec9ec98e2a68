"""One host's settings: ``flyproxy.toml`` as typed Structs.

In memory durations are seconds (float) and sizes bytes (int); in the file both carry their unit. Each key takes its
value from the first that has it: command-line flag, ``FLYPROXY_*``, the file, systemd's directories, the default here.
``docs/configuration.md`` is made from the annotations below.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from flyproxy import toml_schema
from flyproxy.toml_positions import Document, Path, Problem, TomlError, parse
from flyproxy.units import (
    ADDRESS,
    NETWORK,
    PORT_RANGE,
    Kind,
    Whole,
    duration,
    join_address,
    optional,
    parse_port_range,
    pattern,
    size,
    split_address,
)

DEFAULT_FILE = "/etc/flyproxy/flyproxy.toml"
MACHINE_ID = "/etc/machine-id"
BACKHAUL_PORT = 7443
BACKHAUL_PORTS_MAX = 64  # what a host's record holds

_REGION = pattern(r"[a-z][a-z0-9-]{0,14}", 'a region code such as "ams": 1 to 15 of a-z, 0-9 and "-"')
_HOST = pattern(r"(?:[a-z0-9][a-z0-9-]{0,30})?", 'a host name: 1 to 31 of a-z, 0-9 and "-", or empty')
_FOLDER = pattern(r"/[^\x00]{0,90}", "an absolute path of at most 91 bytes (a socket's path has 108)")
_TOKEN = pattern(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", "1 to 64 characters that HTTP allows in a token")
_SERVER = pattern(r"[!-~](?:[ !-~]{0,62}[!-~])?", "1 to 64 visible ASCII characters")
_ACCESS = pattern(r"off|stderr|syslog|/[^\x00]+", '"off", "stderr", "syslog" or an absolute path')
_FILE = pattern(r"(?:/[^\x00]+)?", "an absolute path, or empty")


def _mesh_address(text: str) -> str:
    return join_address(*split_address(text, BACKHAUL_PORT))


_MESH = optional(Kind(f"an IP address with an optional port (default {BACKHAUL_PORT})", _mesh_address))


class Paths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runtime: Annotated[str, _FOLDER, "Folder of the control sockets ctl.sock and api.sock."] = "/run/flyproxy"
    state: Annotated[str, _FOLDER, "Folder of the store and of the last-known-good files."] = "/var/lib/flyproxy"


class Workers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    count: Annotated[int, Whole(0, 32), "Worker processes; 0: one for each core."] = 0
    slots: Annotated[
        int, Whole(0, 256), "Sockets for each listener, shared out among the workers; 0: as many as cores or workers, "
        "whichever is more. Fixed for the master's life."
    ] = 0
    drain_timeout: Annotated[float, duration("10ms", "24h", "at once"), "How long a stopping worker may finish."] = 60.0
    stuck_after: Annotated[float, duration("0.5s", "10m"), "When a worker that stands still is replaced."] = 3.0
    respawn_min: Annotated[float, duration("10ms", "10m"), "First delay before a dead process is started again."] = 0.1
    respawn_max: Annotated[float, duration("10ms", "1h"), "Longest such delay; each further death doubles it."] = 10.0
    max_generations: Annotated[int, Whole(2, 16), "Generations of workers alive at once, draining ones too."] = 8


class Listener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: Annotated[str, ADDRESS, "Where to listen; port 0 takes a free one (see `flyproxyctl status --json`)."]
    port: Annotated[int, Whole(0, 65535), "The service port that the listener stands for; 0: its own."] = 0
    proxy_protocol: Annotated[bool, "Whether connections must begin with a PROXY header, v1 or v2."] = False
    trusted_sources: Annotated[
        list[Annotated[str, NETWORK]], "Networks whose PROXY headers are believed; others are closed. Empty: all."
    ] = []

    @property
    def bind(self) -> tuple[str, int]:
        """(IP, port) to bind; port 0 is a free one."""
        return split_address(self.address)

    @property
    def service_port(self) -> int:
        """The port it stands for; 0 when that is only known once a free one is bound."""
        return self.port or self.bind[1]


class Admin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: Annotated[str, optional(ADDRESS), "Where metrics, health and the read-only API are; empty: nowhere."] = (
        "127.0.0.1:9180"
    )


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    store: Annotated[Literal["sqlite", "nats"], "Which store holds apps, machines and host names."] = "sqlite"
    url: Annotated[str, "Where the store is; for sqlite an absolute path, empty: state.db in paths.state."] = ""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    head: Annotated[int, size("1KiB", "1MiB"), "Bytes of a request or answer head."] = 64 << 10
    headers: Annotated[int, Whole(8, 1024), "Header lines of a head."] = 128
    target: Annotated[int, size("256B", "64KiB"), "Bytes of a request target (path and query)."] = 16 << 10
    trailers: Annotated[int, size("256B", "256KiB"), "Bytes of the trailers of one body."] = 16 << 10
    chunk_extension: Annotated[int, size("64B", "64KiB"), "Bytes of the extensions of one chunk."] = 4 << 10
    pipelined: Annotated[int, Whole(1, 1024), "Unanswered requests on one HTTP/1 connection."] = 16
    buffer: Annotated[int, size("4KiB", "16MiB"), "Bytes held for one connection in each direction."] = 256 << 10
    connections: Annotated[int, Whole(1, 10_000_000), "Client connections of the proxy."] = 100_000
    app_connections: Annotated[int, Whole(1, 10_000_000), "Client connections of one app in this proxy."] = 20_000
    memory: Annotated[int, size("1MiB", "1024GiB", "off"), "Bytes of buffers over all workers."] = 0
    body_rate: Annotated[int, Whole(0, 1 << 30), "Bytes per second that a body must come with at least; 0: off."] = 256


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    head: Annotated[float, duration("100ms", "1h"), "From a request's first byte to its head's end, absolute."] = 10.0
    body_idle: Annotated[float, duration("100ms", "24h"), "Between two pieces of a body."] = 60.0
    keepalive: Annotated[float, duration("100ms", "24h"), "Between two requests on one client connection."] = 75.0
    connect: Annotated[float, duration("10ms", "10m"), "To open a connection to a machine."] = 5.0
    response_head: Annotated[float, duration("100ms", "24h"), "From the request to its answer's whole head."] = 120.0
    write_stall: Annotated[float, duration("100ms", "24h"), "How long a client may take nothing."] = 60.0
    upstream_idle: Annotated[float, duration("100ms", "1h"), "How long an idle connection to a machine is kept."] = 4.0
    tunnel_idle: Annotated[float, duration("1s", "24h", "off"), "Silence that closes tunnels and raw TCP."] = 0.0
    queue: Annotated[float, duration("10ms", "10m", "not at all"), "How long a request waits for a machine."] = 10.0


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    via: Annotated[str, _TOKEN, "The proxy's name in Via headers; loops are counted by it."] = "flyproxy"
    server: Annotated[str, _SERVER, "The Server header of answers."] = "flyproxy"


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: Annotated[Literal["debug", "info", "warning", "error"], "Least severe messages that are logged."] = "info"
    format: Annotated[Literal["json", "text"], "Form of the log lines on standard error."] = "json"
    access: Annotated[str, _ACCESS, "Where the access log goes."] = "off"


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    apps: Annotated[int, Whole(1, 1_000_000), "Apps that fit into shared memory."] = 10_000
    hostnames: Annotated[int, Whole(1, 10_000_000), "Host names that fit."] = 100_000
    addresses: Annotated[int, Whole(1, 1_000_000), "Addresses that fit."] = 10_000
    machines: Annotated[int, Whole(1, 2_000_000), "Machines that fit."] = 100_000


class Backhaul(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: Annotated[
        str, _MESH, "Address on the mesh; its port is the first of one for each slot, 0: each takes a free one. Empty: "
        "no other host is reached."
    ] = ""
    key_file: Annotated[str, _FILE, "File with the cluster key, at least 16 bytes; the same on every host."] = ""
    ca: Annotated[
        str, _FILE, "Certificates (PEM), one of which must have signed those of the other hosts. With `cert` and `key` "
        "hosts that have them speak TLS with each other."
    ] = ""
    cert: Annotated[
        str, _FILE, "This host's certificate (PEM), for the DNS name `host`; behind it those between it and `ca`."
    ] = ""
    key: Annotated[str, _FILE, "The certificate's private key (PEM), without a pass phrase."] = ""
    idle: Annotated[float, duration("1s", "1h"), "How long an idle connection to another host is kept."] = 60.0
    streams: Annotated[int, Whole(1, 100_000), "Streams at once on one connection to another host."] = 1000

    @property
    def bind(self) -> tuple[str, int]:
        """(IP, first port); only where there is an address."""
        return split_address(self.address)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    region: Annotated[str, _REGION, "The region this host stands in."] = "loc"
    host: Annotated[str, _HOST, "This host's name; empty: made from /etc/machine-id."] = ""
    roles: Annotated[list[Literal["edge", "worker"]], "What this host does."] = msgspec.field(
        default_factory=lambda: ["edge", "worker"]
    )
    app_ports: Annotated[
        list[Annotated[str, PORT_RANGE]], "Ports that apps may open at run time, on all addresses of the host."
    ] = msgspec.field(default_factory=lambda: ["1024-65535"])
    paths: Paths = Paths()
    workers: Workers = Workers()
    listeners: list[Listener] = []
    admin: Admin = Admin()
    state: State = State()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    identity: Identity = Identity()
    log: Log = Log()
    table: Table = Table()
    backhaul: Backhaul = Backhaul()

    def allows_port(self, port: int) -> bool:
        """Whether apps may open ``port`` at run time."""
        return any(first <= port <= last for first, last in map(parse_port_range, self.app_ports))

    @property
    def backhaul_slots(self) -> int:
        """How many backhaul listeners this host opens: one for each slot (resolved), none unless it has VMs."""
        return self.workers.slots if self.backhaul.address and "worker" in self.roles else 0

    @property
    def database(self) -> str:
        """Path of the SQLite store."""
        return self.state.url or f"{self.paths.state}/state.db"


class SettingsError(Exception):
    """The settings cannot be used; ``problems`` lists why, each printed as ``FILE:LINE:COL: message``."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Loaded(NamedTuple):
    """Settings, the file they were read from, and for each dotted key where its value comes from."""

    settings: Settings
    file: str
    origins: dict[str, str]


class Change(NamedTuple):
    """What differs between two settings, as dotted keys; ``restart`` are those that only a new master can take."""

    changed: tuple[str, ...]
    restart: tuple[str, ...]

    @property
    def sections(self) -> frozenset[str]:
        """First parts of the changed keys: ``workers``, ``limits``, ``region`` ..."""
        return frozenset(key.partition(".")[0] for key in self.changed)


def load(path: str | None, env: Mapping[str, str]) -> Settings:
    """The settings of this host. ``path`` is the flag's (None: FLYPROXY_CONFIG, else the default file).

    Raises SettingsError with every problem found.
    """
    return load_with_origins(path, env).settings


def load_with_origins(path: str | None, env: Mapping[str, str], machine_id: str = MACHINE_ID) -> Loaded:
    """Like load, and tells for every key which of flag, environment, file, systemd and default it comes from."""
    file = path or env.get("FLYPROXY_CONFIG") or DEFAULT_FILE
    try:
        document = parse(_content(file, named=bool(path or env.get("FLYPROXY_CONFIG"))), file)
    except TomlError as error:
        raise SettingsError([error.problem]) from None
    settings, reader = toml_schema.read(document, Settings)
    if settings is not None:
        _check(settings, document, reader)
    if settings is None or reader.problems:
        raise SettingsError(sorted(reader.problems))
    origins = {key: _file_origin(document, key) for key in flat(settings)}
    settings = _with_environment(settings, env, origins)
    if not settings.host:
        name, origins["host"] = _host_name(machine_id)
        settings = msgspec.structs.replace(settings, host=name)
    return Loaded(settings, file, origins)


def _content(file: str, named: bool) -> bytes:
    try:
        return FilePath(file).read_bytes()
    except FileNotFoundError:
        fix = "check the path" if named else (
            f"make one with at least a listener, for example: printf '[[listeners]]\\naddress = \"0.0.0.0:8080\"\\n' "
            f"> {file}, or name another with -c FILE or FLYPROXY_CONFIG"
        )
        message = f"no such file; {fix}"
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    raise SettingsError([Problem(file, 0, 0, message)])


def _check(settings: Settings, document: Document, reader: toml_schema.Reader) -> None:
    """Rules between keys."""
    def problem(path: Path, message: str) -> None:
        reader.problem(document.value(path), message)

    workers = settings.workers
    if workers.respawn_min > workers.respawn_max:
        problem(("workers", "respawn_min"), "'respawn_min' in [workers] is longer than 'respawn_max'")
    if workers.slots and workers.count > workers.slots:
        problem(("workers", "count"), f"'count' in [workers] is more than its 'slots' ({workers.slots}); "
                "a worker without a slot has nothing to do")
    if not settings.roles or len(set(settings.roles)) < len(settings.roles):
        problem(("roles",), "'roles' at the top level must name each of its roles once, and at least one")
    if settings.state.store == "nats":
        problem(("state", "store"), "'store' in [state]: the NATS store is not part of this version; use \"sqlite\"")
    elif settings.state.url and not settings.state.url.startswith("/"):
        problem(("state", "url"), "'url' in [state] must be an absolute path for the sqlite store, or empty")
    _check_listeners(settings, problem)
    _check_certificates(settings.backhaul, problem)
    if settings.backhaul.address:
        _check_backhaul(resolved(settings), problem)


def _check_listeners(settings: Settings, problem: Any) -> None:
    seen: dict[tuple[str, int], str] = {}
    if settings.admin.address and split_address(settings.admin.address)[1]:
        seen[split_address(settings.admin.address)] = "[admin]"
    for index, listener in enumerate(settings.listeners):
        path = ("listeners", index, "address")
        if listener.bind in seen and listener.bind[1]:
            problem(path, f"address {listener.address} in [[listeners]] is already taken by {seen[listener.bind]}")
        seen.setdefault(listener.bind, f"listener {index + 1}")


def _check_certificates(backhaul: Backhaul, problem: Any) -> None:
    """Silence would let an operator believe that the mesh is encrypted."""
    named = [name for name in ("ca", "cert", "key") if getattr(backhaul, name)]
    missing = [name for name in ("ca", "cert", "key") if name not in named]
    if named and missing:
        problem(("backhaul", named[0]), f"'{named[0]}' in [backhaul]: TLS between hosts needs 'ca', 'cert' and 'key'; "
                f"add {' and '.join(map(repr, missing))}, or leave all three out")
    elif named and not backhaul.address:
        problem(("backhaul", "cert"), "'cert' in [backhaul] needs 'address': without one no other host is reached")


def _check_backhaul(settings: Settings, problem: Any) -> None:
    """``settings`` are resolved: the ports depend on the number of slots."""
    (ip, first), slots, path = settings.backhaul.bind, settings.backhaul_slots, ("backhaul", "address")
    address = ipaddress.ip_address(ip)
    if not settings.backhaul.key_file:
        problem(path, "'address' in [backhaul] needs 'key_file': the file with the cluster key, the same on every host")
    if address.is_unspecified or address.is_multicast:
        problem(path, f"'address' in [backhaul]: other hosts cannot connect to {ip}; give this host's mesh address")
    if slots > BACKHAUL_PORTS_MAX:
        problem(path, f"'address' in [backhaul]: {slots} slots are more than the {BACKHAUL_PORTS_MAX} ports that a "
                "host can tell the others; set 'slots' in [workers]")
    if first + slots - 1 > 65535:
        problem(path, f"'address' in [backhaul]: there are no {slots} ports from {first} on, one for each slot")
    ports = range(first, first + slots) if first else range(0)
    mesh = {ip, "::"} if address.version == 6 else {ip, "0.0.0.0", "::"}  # [::] is IPv4 too
    for index, listener in enumerate(settings.listeners):
        if listener.bind[0] in mesh and listener.bind[1] in ports:
            problem(("listeners", index, "address"), f"address {listener.address} in [[listeners]]: the backhaul "
                    f"listens on ports {ports[0]} to {ports[-1]} of {ip}, one for each slot")
    if settings.admin.address and split_address(settings.admin.address) in ((ip, port) for port in ports):
        problem(("admin", "address"), f"'address' in [admin]: the backhaul listens on ports {ports[0]} to {ports[-1]} "
                f"of {ip}, one for each slot")


def _file_origin(document: Document, key: str) -> str:
    path: Path = tuple(key.split("."))
    if path not in document.keys:
        return "default"
    position = document.keys[path]
    return f"{document.file}:{position.line}:{position.column}"


def _with_environment(settings: Settings, env: Mapping[str, str], origins: dict[str, str]) -> Settings:
    """Paths from FLYPROXY_*_DIR (over the file) or systemd's directories (under it)."""
    chosen: dict[str, str] = {}
    problems = []
    for key, ours, systemd in (
        ("runtime", "FLYPROXY_RUNTIME_DIR", "RUNTIME_DIRECTORY"), ("state", "FLYPROXY_STATE_DIR", "STATE_DIRECTORY"),
    ):
        name = ours if env.get(ours) else systemd
        if not env.get(name) or (name == systemd and origins[f"paths.{key}"] != "default"):
            continue
        folder = env[name].split(":")[0] if name == systemd else os.path.abspath(env[name])
        try:
            chosen[key] = _FOLDER.parse(folder)
            origins[f"paths.{key}"] = f"env {name}"
        except ValueError:
            problems.append(Problem(f"env {name}", 0, 0, f"must be {_FOLDER.expects}, not {folder!r}"))
    if problems:
        raise SettingsError(problems)
    return msgspec.structs.replace(settings, paths=msgspec.structs.replace(settings.paths, **chosen))


def _host_name(machine_id: str) -> tuple[str, str]:
    """8 hex digits that stay the same over restarts; hashed, because a machine id should not be shown to others."""
    try:
        identity, origin = FilePath(machine_id).read_text().strip(), machine_id
    except OSError:
        identity, origin = "", ""
    if not identity:
        identity, origin = socket.gethostname(), "host name"
    return hashlib.sha256(b"flyproxy host " + identity.encode()).hexdigest()[:8], origin


def resolved(settings: Settings, slots: int = 0) -> Settings:
    """With real numbers for ``workers.count`` and ``workers.slots``.

    ``slots`` is what a running master has: settings that leave the number open keep it over a reload.
    """
    cores = len(os.sched_getaffinity(0))
    count = settings.workers.count or min(cores, settings.workers.slots or slots or cores, 32)
    workers = msgspec.structs.replace(
        settings.workers, count=count, slots=settings.workers.slots or slots or max(min(cores, 256), count)
    )
    return msgspec.structs.replace(settings, workers=workers)


def flat(settings: Settings) -> dict[str, Any]:
    """Every key, dotted, with its value as one would write it in the file; listeners are one list."""
    rows: dict[str, Any] = {}
    for name, value in toml_schema.shown(Settings, settings).items():
        if isinstance(value, dict):
            rows.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            rows[name] = value
    return rows


def diff(old: Settings, new: Settings) -> Change:
    """Both resolved. What ``fixed`` keeps needs a new master."""
    before, after, kept = flat(old), flat(new), flat(fixed(old, new))
    changed = tuple(key for key in after if before[key] != after[key])
    return Change(changed, tuple(key for key in changed if kept[key] != after[key]))


def fixed(old: Settings, new: Settings) -> Settings:
    """``new`` with what only a restart changes taken from ``old``: the sizes of shared memory, slots, the folders of
    sockets and store, and what other hosts know this one by."""
    replace = msgspec.structs.replace
    return replace(
        new, host=old.host if old.backhaul.address else new.host, roles=old.roles, table=old.table, paths=old.paths,
        workers=replace(new.workers, slots=old.workers.slots),
        backhaul=replace(
            new.backhaul, address=old.backhaul.address, key_file=old.backhaul.key_file, ca=old.backhaul.ca,
            cert=old.backhaul.cert, key=old.backhaul.key,
        ),
    )  # fmt: skip


def to_json(settings: Settings) -> bytes:
    """For other processes; durations in seconds, sizes in bytes."""
    return msgspec.json.encode(settings)


def from_json(data: bytes) -> Settings:
    """The reverse of to_json. Raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Settings)
