"""``fly.toml`` → App, or every reason why not, each with its line and column. Nothing is ever half applied."""

from __future__ import annotations

from collections.abc import Iterable

from flyproxy import toml_schema
from flyproxy.apps import rules
from flyproxy.apps.fly_file import (
    FileBase,
    FileHttp,
    FileHttpCheck,
    FileHttpService,
    FilePort,
    FileService,
    FileTls,
    FlyFile,
    is_others,
    without_effect,
)
from flyproxy.apps.model import VERSION, App, Check, Concurrency, Handler, Port, Service, TlsOptions
from flyproxy.toml_positions import Path, Problem, TomlError, parse

DEFAULT_SOFT = 20


class FlyTomlError(Exception):
    """The file cannot be applied; ``problems`` lists why, each printed as ``FILE:LINE:COL: message``."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load(data: bytes, file: str, name: str | None = None) -> App:
    """The app that a fly.toml describes. ``name`` overrides its ``app`` key. Raises FlyTomlError with all problems."""
    try:
        document = parse(data, file)
    except TomlError as error:
        raise FlyTomlError([error.problem]) from None
    content, reader = toml_schema.read(document, FlyFile, is_others)
    if content is None:
        raise FlyTomlError(sorted(reader.problems))
    if not (name or content.app):
        raise FlyTomlError([Problem(file, 1, 1, 'no app name: add app = "NAME" at the top, or pass -a NAME')])
    conversion = _Conversion(reader)
    app = conversion.app(content, name or content.app or "")
    for path, message in rules.check(app):
        conversion.problem(path, message, from_flag=bool(name))
    if reader.problems:
        raise FlyTomlError(sorted(reader.problems))
    return app


class _Conversion:
    """Turns the sections into Services and remembers where in the file each came from."""

    def __init__(self, reader: toml_schema.Reader) -> None:
        self.reader = reader
        self.sources: list[Path] = []
        self.checks: list[list[Path]] = []

    def app(self, content: FlyFile, name: str) -> App:
        services = []
        if content.http_service is not None:
            services.append(self._http_service(content.http_service))
        for index, service in enumerate(content.services):
            services.append(self._service(service, ("services", index)))
        ignored = [toml_schema.dotted(path) for path in self.reader.ignored]
        ignored += without_effect(self.reader.document.values)
        return App(VERSION, name, tuple(services), tuple(ignored))

    def problem(self, path: Path, message: str, from_flag: bool) -> None:
        """A finding about the model, placed where its cause is written."""
        if path == ("app",) and from_flag:
            self.reader.problems.append(Problem("-a", 0, 0, message))
            return
        if len(path) > 1 and isinstance(path[1], int):
            at, rest = path[1], path[2:]
            if rest[:1] == ("checks",) and len(rest) > 1 and isinstance(rest[1], int):
                path = (*self.checks[at][rest[1]], *rest[2:])
            elif self.sources[at] == ("http_service",) and rest[:1] == ("ports",):
                # Its two ports are written nowhere; what they have comes from the section itself.
                path = (*self.sources[at], *rest[2:])
            else:
                path = (*self.sources[at], *rest)
        self._once(path, message)

    def _http_service(self, section: FileHttpService) -> Service:
        path: Path = ("http_service",)
        self._response_headers(section.http_options, path)
        self.sources.append(path)
        self.checks.append([(*path, "checks", index) for index in range(len(section.checks))])
        plain = _port(80, 80, ["http"], section.http_options, force_https=section.force_https)
        secure = _port(443, 443, ["tls", "http"], section.http_options, tls=section.tls_options)
        return _service(section, "tcp", (plain, secure), [_http_check(check) for check in section.checks])

    def _service(self, section: FileService, path: Path) -> Service:
        self.sources.append(path)
        kinds = [("tcp_checks", len(section.tcp_checks)), ("http_checks", len(section.http_checks))]
        self.checks.append([(*path, kind, index) for kind, count in kinds for index in range(count)])
        ports = []
        for index, port in enumerate(section.ports):
            self._response_headers(port.http_options, (*path, "ports", index))
            ports.append(self._port(port, (*path, "ports", index)))
        checks = [Check("tcp", one.interval, one.timeout, one.grace_period) for one in section.tcp_checks]
        checks += [_http_check(one) for one in section.http_checks]
        return _service(section, section.protocol, tuple(ports), checks)

    def _port(self, section: FilePort, path: Path) -> Port:
        start, end = section.start_port, section.end_port
        if section.port is not None and (start is not None or end is not None):
            self._once(path, "give either 'port' or 'start_port' and 'end_port', not both")
        elif section.port is None and (start is None or end is None):
            missing = "'port'" if start is None and end is None else "'end_port'" if end is None else "'start_port'"
            self._once(path, f"missing key {missing} {toml_schema.where(path)}")
        first = section.port if section.port is not None else start if start is not None else 1
        last = section.port if section.port is not None else end if end is not None else first
        version = 2 if section.proxy_proto_options.version == "v2" else 1
        return _port(
            first, last, section.handlers, section.http_options, tls=section.tls_options,
            force_https=section.force_https, proxy_version=version,
        )

    def _response_headers(self, options: FileHttp, path: Path) -> None:
        base = (*path, "http_options", "response", "headers")
        for where, message in rules.header_findings(options.response.headers, base):
            self._once(where, message)

    def _once(self, path: Path, message: str) -> None:
        """Notes a problem where its value is written, or its name for headers; a second time is passed over."""
        place = self.reader.document.key if "headers" in path else self.reader.document.value
        problem = Problem(self.reader.document.file, *place(path), message)
        if problem not in self.reader.problems:
            self.reader.problems.append(problem)


def _service(
    section: FileBase, protocol: str, ports: tuple[Port, ...], checks: Iterable[Check]
) -> Service:
    limits = section.concurrency
    # 0 is how the model writes "no limit"; in the file it would be a limit that nothing can pass.
    hard = 0 if limits.hard_limit is None else limits.hard_limit or -1
    soft = limits.soft_limit if limits.soft_limit is not None else min(DEFAULT_SOFT, hard if hard > 0 else DEFAULT_SOFT)
    return Service(
        "udp" if protocol == "udp" else "tcp", section.internal_port, ports, Concurrency(limits.type, soft, hard),
        section.balance, section.balance_key, section.half_close, tuple(checks),
    )


def _port(
    start: int, end: int, handlers: list[Handler], http: FileHttp, *, tls: FileTls | None = None,
    force_https: bool = False, proxy_version: int = 1,
) -> Port:
    options = TlsOptions(tuple(tls.alpn), tuple(tls.versions), tls.default_self_signed) if tls else TlsOptions()
    return Port(
        start, end, tuple(handlers), force_https, http.response.pristine, proxy_version,
        _seconds(http.idle_timeout), _seconds(http.headers_read_timeout), options, http.h2_backend,
    )


def _seconds(value: int | None) -> int:
    """0 is how the model writes "the proxy's own"; in the file it would be a timeout that nothing can meet."""
    return 0 if value is None else value or -1


def _http_check(check: FileHttpCheck) -> Check:
    return Check(
        "http", check.interval, check.timeout, check.grace_period, check.method.upper(), check.path, check.protocol,
        check.tls_server_name, check.tls_skip_verify, check.headers,
    )
