"""Clients and VMs at their worst, on one host and over two, while machines, settings and workers come and go: no wrong
byte, no hang, no POST twice; and afterwards no stream, no request in flight, no buffer and no work is left.

STRESS_SECONDS lengthens the long ones, STRESS_SEED replays the choices of a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.mayhem import WildClient, WildVM
from tests.kit.twohops import TwoHops
from tests.kit.wait import until

SHORT_S = 6.0
LONG_S = float(os.environ.get("STRESS_SECONDS", "60"))
SEED = int(os.environ.get("STRESS_SEED", "0")) or random.randrange(1, 1 << 20)
VMS = 3
IDLE_S = 1.0
IDLE_CPU_MAX = 0.02  # of one core, for each worker
IDLE_SPAN_S = 3.0  # a rate needs a span
LISTENERS = {"http": {"port": 80}, "tcp": {"port": 7001}}
SETTINGS = {
    "workers": {"count": 2, "slots": 2, "drain_timeout": "3s"},
    "timeouts": {"upstream_idle": "500ms", "queue": "8s", "keepalive": "5s", "write_stall": "15s"},
    "limits": {"buffer": "128KiB"},
    "backhaul": {"idle": f"{IDLE_S:.0f}s", "streams": 8},
}
HTTP = "[http_service]\ninternal_port = 8080\n"
FEW = '[http_service.concurrency]\ntype = "{}"\nsoft_limit = 1\nhard_limit = 2\n'
APPS = {
    "open": HTTP,
    "half": HTTP + "half_close = true\n",
    "few": HTTP + FEW.format("requests"),
    "fewer": HTTP + FEW.format("connections"),
    "raw": '[[services]]\nprotocol = "tcp"\ninternal_port = 7000\n[[services.ports]]\nport = 7001\n',
}
EMPTY = ("fly_app_concurrency", "flyproxy_connections", "flyproxy_backhaul_streams", "flyproxy_backhaul_transports")


@dataclass
class Scene:
    """Who is under stress. ``daemon`` has the clients, ``hosts`` are all; ``pauses``: seconds between two disturbances,
    least and most."""

    daemon: ProxyDaemon
    hosts: Sequence[ProxyDaemon]
    disturbances: Sequence[Callable[[Scene], None]]
    pauses: tuple[float, float]
    clients: int
    rough: bool
    faults: list[str] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    events: Counter[str] = field(default_factory=Counter)
    extra: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.texts = [host.config.read_text() for host in self.hosts]
        self.vms = [WildVM(self.faults, narrow=number == 0) for number in range(VMS)]

    def unrest(self, stop: threading.Event) -> None:
        """What a command says while workers die under it does not matter here."""
        while not stop.wait(self.chance.uniform(*self.pauses)):
            disturb = self.chance.choice(self.disturbances)
            self.events[disturb.__name__] += 1
            with contextlib.suppress(AssertionError, OSError):
                disturb(self)


# -- what disturbs


def machine(scene: Scene) -> None:
    """One more machine comes or goes; the others stay."""
    app = scene.chance.choice(list(APPS))
    name = f"{app}-extra"
    if name in scene.extra:
        scene.daemon.ctl("machines", "remove", name)
    else:
        scene.daemon.ctl("machines", "add", name, "-a", app, "--address", scene.chance.choice(scene.vms).address)
    scene.extra ^= {name}


def cordon(scene: Scene) -> None:
    """The first machine of each app stays."""
    scene.daemon.ctl("machines", scene.chance.choice(["cordon", "uncordon"]), f"{scene.chance.choice(list(APPS))}-2")


def settings(scene: Scene) -> None:
    host, text = scene.chance.choice(list(zip(scene.hosts, scene.texts, strict=True)))
    size = scene.chance.choice(["64KiB", "128KiB", "512KiB"])
    host.config.write_text(text.replace('buffer = "128KiB"', f'buffer = "{size}"'))
    host.ctl("reload")


def workers(scene: Scene) -> None:
    scene.chance.choice(scene.hosts).ctl("reload", "--workers")


def kill(scene: Scene) -> None:
    if workers := scene.chance.choice(scene.hosts).workers():  # none at the moment when all have just been killed
        os.kill(scene.chance.choice(workers), signal.SIGKILL)


def one_host() -> Scene:
    """Nothing is lost but what clients, VMs and cordons themselves cut."""
    daemon = ProxyDaemon(LISTENERS, allowed=["*"], **SETTINGS)
    return Scene(daemon, [daemon], [machine, machine, cordon, settings], (0.05, 0.05), clients=16, rough=False)


def two_hosts() -> Scene:
    """Workers of both are replaced and killed."""
    daemon = TwoHops(LISTENERS, allowed=["*"], **SETTINGS)
    disturbances = [cordon, cordon, settings, workers, kill]
    return Scene(daemon, [daemon, daemon.far], disturbances, (0.1, 0.6), clients=12, rough=True)


# -- what must be true afterwards


def held(scene: Scene) -> list[dict[str, float]]:
    """What each host still holds."""

    def of(host: ProxyDaemon) -> dict[str, float]:
        return {
            key: value
            for key, value in host.metrics().items()
            if value
            and (key.startswith(EMPTY) or (key.startswith("flyproxy_worker_memory") and "connections" not in key))
        }

    return [found for host in scene.hosts if (found := of(host))]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_idle(scene: Scene) -> None:
    before = {pid: cpu_seconds(pid) for host in scene.hosts for pid in host.workers()}
    start = time.monotonic()
    time.sleep(IDLE_SPAN_S)
    used = {pid: (cpu_seconds(pid) - cpu) / (time.monotonic() - start) for pid, cpu in before.items()}
    assert max(used.values()) < IDLE_CPU_MAX, f"idle workers use {used} of a core"


def assert_faultless(scene: Scene, clients: Sequence[WildClient]) -> None:
    outcomes = sum((client.outcomes for client in clients), Counter())
    print(f"seed {SEED}: {dict(scene.events)}, {outcomes.total()} outcomes: {dict(sorted(outcomes.items()))}")
    assert not scene.faults, f"seed {SEED}:\n" + "\n".join(scene.faults[:20])
    twice = {seed: n for seed, n in sum((vm.posts for vm in scene.vms), Counter()).items() if n > 1}
    assert not twice, f"seed {SEED}: POST requests that reached an app more than once: {twice}"
    assert not (wrong := [text for vm in scene.vms for text in vm.violations]), f"seed {SEED}: {wrong[:5]}"
    assert not (failed := [error for vm in scene.vms for error in vm.failures]), f"seed {SEED}: {failed[:5]!r}"
    assert outcomes["tunnel whole"]


# -- the run


def load(scene: Scene, seconds: float) -> list[WildClient]:
    """All clients for that long, and unrest meanwhile; the clients, done."""
    daemon, stop = scene.daemon, threading.Event()
    for name, text in APPS.items():
        addresses = [vm.address for vm in scene.vms[:2]]
        daemon.add_app(name, text, addresses, [] if name == "raw" else [f"{name}.localhost"])
    for listener in daemon.listeners:  # asked once, here, not by every client
        daemon.address(listener)
    names = [f"{name}.localhost" for name in APPS if name != "raw"]
    clients = [
        WildClient(daemon, names, SEED + number, scene.faults, rough=scene.rough) for number in range(scene.clients)
    ]
    threads = [threading.Thread(target=one, args=(stop,)) for one in (*(c.run for c in clients), scene.unrest)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + seconds
        until(lambda: scene.faults or time.monotonic() > end, "the time is over", seconds + 60, 0.1)
    finally:
        stop.set()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive(), "a client hangs"
    return clients


def stress(scene: Scene, seconds: float) -> None:
    scene.daemon.start()
    try:
        assert_faultless(scene, load(scene, seconds))
        until(lambda: not held(scene), f"seed {SEED}: nothing is left", 40, 0.2)
        assert_idle(scene)
    except BaseException:
        print(scene.daemon.log())
        with contextlib.suppress(OSError):
            print("held at last:", held(scene))
        scene.daemon.kill()
        raise
    finally:
        for vm in scene.vms:
            vm.stop()
    scene.daemon.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scene", [one_host, two_hosts])
def test_short_stress(scene: Callable[[], Scene]) -> None:
    stress(scene(), SHORT_S)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("scene", [one_host, two_hosts])
def test_long_stress(scene: Callable[[], Scene]) -> None:
    stress(scene(), LONG_S)
