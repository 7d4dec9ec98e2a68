"""``flyproxy doctor``: what the daemon needs of the machine, looked at one by one.

Each finding has a level (``ok``, ``warning``: it works, but less well or only for small loads, ``error``: it will not
work), what was found, and for everything that is not ok the command that mends it. Nothing is changed here.
"""

from __future__ import annotations

import errno
import importlib.metadata
import mmap
import os
import platform
import resource
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flyproxy import certificates, cluster_key
from flyproxy.master.children import child_environment
from flyproxy.master.listeners import has_ipv6
from flyproxy.settings import Settings, resolved

KERNEL_MIN = (5, 6)  # pidfd_getfd(2); memfds, pidfds and SO_REUSEPORT are older
FILES_GOOD = 65_536  # a proxied connection takes two descriptors, and four while it is spliced
BACKLOG = 4096
OPENSSL_MIN = (3, 0)
SEAL_ADD, SEAL_SHRINK = 1033, 0x2  # F_ADD_SEALS, F_SEAL_SHRINK (fcntl(2))
PACKAGES = ("uvloop", "msgspec", "setproctitle", "prometheus-client", "aiohttp", "click", "rich", "tree-sitter",
            "tree-sitter-toml")  # fmt: skip


class Finding(NamedTuple):
    """``fix`` is a command or a sentence; empty when all is well."""

    name: str
    level: str
    found: str
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which a start would need it."""
    return [finding for examination in _EXAMINATIONS for finding in examination(settings)]


def line(finding: Finding) -> str:
    """For people."""
    mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[finding.level]
    return f"{mark}  {finding.name}: {finding.found}" + (f"\n         fix: {finding.fix}" if finding.fix else "")


def _kernel(settings: Settings) -> Iterator[Finding]:
    release = platform.release()
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    if platform.system() != "Linux":
        yield Finding("kernel", "error", platform.system(), "run flyproxy on Linux")
    elif version < KERNEL_MIN:
        wanted = ".".join(map(str, KERNEL_MIN))
        yield Finding("kernel", "error", release, f"install {wanted} or newer: apt install linux-image-amd64")
    else:
        yield Finding("kernel", "ok", release)


def _memfd(settings: Settings) -> Iterator[Finding]:
    import fcntl

    try:
        fd = os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            fcntl.fcntl(fd, SEAL_ADD, SEAL_SHRINK)
            mmap.mmap(fd, mmap.PAGESIZE).close()
        finally:
            os.close(fd)
    except OSError as error:
        yield Finding("shared memory", "error", f"sealed memfds do not work: {error.strerror}",
                      "allow memfd_create and F_ADD_SEALS in the container's seccomp profile")  # fmt: skip
    else:
        yield Finding("shared memory", "ok", "sealed memfds work")


def _engine(settings: Settings) -> Iterator[Finding]:
    """In a process of its own: only workers load the engine into theirs."""
    trial = subprocess.run([sys.executable, "-c", "import flyproxy._speedups.engine"], env=child_environment(),
                           capture_output=True, text=True, check=False)  # fmt: skip
    if trial.returncode == 0:
        yield Finding("engine", "ok", "the compiled part loads")
        return
    why = (trial.stderr.strip().splitlines() or [f"status {trial.returncode}"])[-1]
    yield Finding("engine", "error", f"the compiled part cannot be loaded: {why}",
                  "make build (in a checkout), or pip install --force-reinstall flyproxy")  # fmt: skip


def _packages(settings: Settings) -> Iterator[Finding]:
    missing = []
    for name in PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("python packages", "error", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Finding("python packages", "ok", f"all {len(PACKAGES)} there")


def _openssl(settings: Settings) -> Iterator[Finding]:
    if ssl.OPENSSL_VERSION_INFO[:2] < OPENSSL_MIN:
        yield Finding("openssl", "warning", ssl.OPENSSL_VERSION, "apt install libssl3")
    else:
        yield Finding("openssl", "ok", ssl.OPENSSL_VERSION)


def _files(settings: Settings) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_GOOD:
        yield Finding("open files", "warning", f"at most {hard}, which is about {hard // 2} connections a worker",
                      "LimitNOFILE=1048576 in the unit, or: ulimit -Hn 1048576")  # fmt: skip
    else:
        yield Finding("open files", "ok", f"up to {hard}")


_SYSCTLS: dict[str, tuple[Callable[[int], bool], int, str]] = {
    "net.core.somaxconn": (lambda value: value >= BACKLOG, BACKLOG, "bursts of new connections are cut"),
    "net.ipv4.tcp_max_syn_backlog": (lambda value: value >= 1024, 4096, "bursts of new connections are cut"),
    "net.ipv4.tcp_tw_reuse": (lambda value: value != 0, 1, "ports towards busy machines may run out"),
}


def _sysctls(settings: Settings) -> Iterator[Finding]:
    for name, (good, wanted, why) in _SYSCTLS.items():
        try:
            value = int(Path("/proc/sys", name.replace(".", "/")).read_text())
        except (OSError, ValueError):
            continue  # a container may hide it; then it is the host's business
        if good(value):
            yield Finding(name, "ok", str(value))
        else:
            yield Finding(name, "warning", f"{value}: {why}", f"sysctl -w {name}={wanted}")


def _ipv6(settings: Settings) -> Iterator[Finding]:
    if has_ipv6():
        yield Finding("ipv6", "ok", "there")
    else:
        yield Finding("ipv6", "warning", "off: only IPv4 is served", "sysctl -w net.ipv6.conf.all.disable_ipv6=0")


def _folders(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("runtime folder", settings.paths.runtime), ("state folder", settings.paths.state)):
        existing = Path(folder)
        while not existing.exists():
            existing = existing.parent
        if os.access(existing, os.W_OK | os.X_OK):
            yield Finding(name, "ok", folder)
        else:
            yield Finding(name, "error", f"{folder}: {existing} cannot be written by uid {os.geteuid()}",
                          f"sudo install -d -o {os.geteuid()} {folder}")  # fmt: skip


def _listeners(settings: Settings) -> Iterator[Finding]:
    if not settings.listeners:
        yield Finding("listeners", "warning", "none: only ports of apps are served",
                      "add [[listeners]] with address = \"[::]:80\" to flyproxy.toml")  # fmt: skip
    for listener in settings.listeners:
        yield from _bindable(f"listener {listener.address}", socket.SOCK_STREAM, *listener.bind)


def _bindable(name: str, kind: int, address: str, port: int) -> Iterator[Finding]:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
        if kind == socket.SOCK_STREAM:  # among UDP sockets it would let two share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError as error:
            yield _cannot_bind(name, port, error)
        else:
            yield Finding(name, "ok", "can be bound")


def _cannot_bind(name: str, port: int, error: OSError) -> Finding:
    fixes = {
        errno.EACCES: "run as root, or with AmbientCapabilities=CAP_NET_BIND_SERVICE (deploy/flyproxy.service has it)",
        errno.EADDRINUSE: f"fine if it is flyproxy itself; else end who has it: ss -lntup 'sport = :{port}'",
        errno.EADDRNOTAVAIL: "this host has no such address: ip address show; of a mesh: wg-quick up wg0",
    }
    level = "warning" if error.errno == errno.EADDRINUSE else "error"
    return Finding(name, level, error.strerror or str(error), fixes.get(error.errno or 0, "ip address show"))


def _backhaul(settings: Settings) -> Iterator[Finding]:
    """Only where there is one: the key, the mesh address, a TCP port for each slot, and the UDP port of the probes."""
    if not settings.backhaul.address:
        return
    try:
        cluster_key.read(settings.backhaul.key_file)
    except cluster_key.KeyFileError as error:
        yield Finding("cluster key", "error", str(error), error.fix)
    else:
        yield from _key_mode(settings.backhaul.key_file)
    yield from _certificate(settings)
    address, first = settings.backhaul.bind
    yield from _bindable(f"mesh address {address}", socket.SOCK_STREAM, address, 0)
    if first and (slots := resolved(settings).backhaul_slots):
        for port in range(first, first + slots):
            yield from _bindable(f"backhaul port {port}/tcp", socket.SOCK_STREAM, address, port)
        yield from _bindable(f"backhaul port {first}/udp", socket.SOCK_DGRAM, address, first)


def _key_mode(key_file: str) -> Iterator[Finding]:
    if os.stat(key_file).st_mode & 0o077:
        yield Finding("cluster key", "warning", f"{key_file} can be read by others than its owner",
                      f"chmod 600 {key_file}")  # fmt: skip
    else:
        yield Finding("cluster key", "ok", key_file)


def _certificate(settings: Settings) -> Iterator[Finding]:
    """Only where there is one."""
    try:
        found = certificates.read(settings.backhaul)
        problem = certificates.judge(found, settings.host) if found else None
    except certificates.CertificateError as error:
        problem, found = error, None
    if problem is not None:
        yield Finding("certificate", "error", str(problem), problem.fix)
    elif found is not None and (days := (found.expires - datetime.now(UTC)).days) < certificates.WARN_DAYS:
        yield Finding("certificate", "warning", f"{settings.backhaul.cert} expires in {days} days",
                      "have a new one signed, then: flyproxyctl reload --workers")  # fmt: skip
    elif found is not None:
        yield Finding("certificate", "ok", f"{settings.backhaul.cert}, until {found.expires:{certificates.DATE}}")


def _tools(settings: Settings) -> Iterator[Finding]:
    if shutil.which("eu-stack"):
        yield Finding("eu-stack", "ok", "there: a stuck worker's stacks can be logged")
    else:
        yield Finding("eu-stack", "warning", "missing: a stuck worker is killed without its C stacks",
                      "apt install elfutils")  # fmt: skip


_EXAMINATIONS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _kernel, _memfd, _engine, _packages, _openssl, _files, _sysctls, _ipv6, _folders, _listeners, _backhaul,
    _tools,
)  # fmt: skip
