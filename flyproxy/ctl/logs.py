"""``flyproxyctl logs``: the access log, where it is a file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator

import click

from flyproxy.ctl.cli import Command, Run, app_option, pass_run
from flyproxy.ctl.client import Api
from flyproxy.ctl.failure import Failure, NotRunning
from flyproxy.ctl.output import plain

LAST_LINES = 20
LAST_BYTES = 1 << 20
POLL = 0.1


@click.command(cls=Command)
@app_option(text="Only this app's.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until interrupted.")
@pass_run
def command(run: Run, app: str | None, follow: bool) -> None:
    """The last requests, one a line."""
    path = access_path(run)
    wanted = belongs_to(app)
    for line in tail(path, follow, wanted):
        click.echo(plain(line))


def access_path(run: Run) -> str:
    """The file of the access log; a Failure that says what to change when there is none."""
    try:
        access = Api(run.runtime).request("GET", "/v1/config")["log"]["access"]
    except NotRunning:
        access = run.settings.log.access
    if access.startswith("/"):
        return str(access)
    where = {"off": "is off", "stderr": "goes to the daemon's stderr", "syslog": "goes to syslog"}[access]
    fix = 'set access = "/var/log/flyproxy/access.log" in [log] of flyproxy.toml, then: flyproxyctl reload'
    if access == "syslog":
        fix = "read it there, for example: journalctl -t flyproxy -f"
    raise Failure("no-access-log", f"the access log {where}", "[log] access", fix)


def belongs_to(app: str | None) -> Callable[[str], bool]:
    """Whether a line is about ``app``; every line is when none is given."""
    def check(line: str) -> bool:
        try:
            return bool(json.loads(line).get("app") == app)
        except (ValueError, AttributeError):
            return f" app={app} " in f" {line} "
    return check if app is not None else lambda line: True


def tail(path: str, follow: bool, wanted: Callable[[str], bool]) -> Iterator[str]:
    """The last wanted lines of a file and, following, each new one; goes on with the new file after a rotation."""
    file = _open(path)
    size = os.fstat(file).st_size
    start = max(size - LAST_BYTES, 0)
    lines, rest = _split(os.pread(file, size - start, start))
    yield from [line for line in (lines[1:] if start else lines) if wanted(line)][-LAST_LINES:]
    try:
        position = size
        while follow:
            data = os.pread(file, LAST_BYTES, position)
            position += len(data)
            lines, rest = _split(rest + data)
            yield from filter(wanted, lines)
            if not data:
                if _replaced(path, file, position):
                    os.close(file)
                    file, position, rest = _open(path), 0, b""
                    continue
                time.sleep(POLL)
    finally:
        os.close(file)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure("unreadable", f"the access log cannot be read: {error.strerror}", path,
                      "check its permissions, or wait for the first request") from None


def _split(data: bytes) -> tuple[list[str], bytes]:
    """Whole lines, and the bytes after the last newline."""
    *lines, rest = data.split(b"\n")
    return [line.decode("utf-8", "backslashreplace") for line in lines], rest


def _replaced(path: str, file: int, position: int) -> bool:
    """Whether the path now names another file, or ours was cut."""
    try:
        there, ours = os.stat(path), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or ours.st_size < position
