"""Clients and VMs at their worst, machines and settings that change under them: no wrong byte, no hang, nothing left.

STRESS_SECONDS lengthens the long one, STRESS_SEED replays the choices of a run.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.mayhem import WildClient, WildVM
from tests.kit.wait import until

SHORT_S = 6.0
LONG_S = float(os.environ.get("STRESS_SECONDS", "60"))
SEED = int(os.environ.get("STRESS_SEED", "0")) or random.randrange(1, 1 << 20)
CLIENTS = 16
VMS = 3
SETTINGS = {
    "workers": {"count": 2, "slots": 2},
    "timeouts": {"upstream_idle": "500ms", "queue": "8s", "keepalive": "10s", "write_stall": "15s"},
    "limits": {"buffer": "128KiB"},
}
APPS = {
    "open": "[http_service]\ninternal_port = 8080\n",
    "half": "[http_service]\ninternal_port = 8080\nhalf_close = true\n",
    "few": '[http_service]\ninternal_port = 8080\n[http_service.concurrency]\ntype = "requests"\n'
    "soft_limit = 1\nhard_limit = 2\n",
    "fewer": '[http_service]\ninternal_port = 8080\n[http_service.concurrency]\ntype = "connections"\n'
    "soft_limit = 1\nhard_limit = 2\n",
    "raw": '[[services]]\nprotocol = "tcp"\ninternal_port = 7000\n[[services.ports]]\nport = 7001\n',
}


def unrest(daemon: ProxyDaemon, vms: list[WildVM], stop: threading.Event, chance: random.Random) -> None:
    """Machines come, go and are cordoned; settings are reloaded. The first machine of each app stays."""
    text = daemon.config.read_text()
    there: set[str] = set()
    while not stop.wait(0.05):
        app = chance.choice(list(APPS))
        name = f"{app}-extra"
        what = chance.choice(["machine", "machine", "cordon", "settings"])
        if what == "settings":
            size = chance.choice(["64KiB", "128KiB", "512KiB"])
            daemon.config.write_text(text.replace('buffer = "128KiB"', f'buffer = "{size}"'))
            daemon.ctl("reload")
        elif what == "cordon":
            daemon.ctl("machines", chance.choice(["cordon", "uncordon"]), f"{app}-2")
        elif name in there:
            daemon.ctl("machines", "remove", name)
            there.discard(name)
        else:
            daemon.ctl("machines", "add", name, "-a", app, "--address", chance.choice(vms).address)
            there.add(name)


def nothing_left(daemon: ProxyDaemon) -> bool:
    metrics = daemon.metrics()
    held = {
        key: value
        for key, value in metrics.items()
        if value
        and (
            key.startswith(("fly_app_concurrency", "flyproxy_connections"))
            or (key.startswith("flyproxy_worker_memory_bytes") and ("buffers" in key or "pipes" in key))
        )
    }
    nothing_left.held = held  # type: ignore[attr-defined]
    return not held


def stress(seconds: float) -> None:
    faults: list[str] = []
    vms = [WildVM(faults, narrow=number == 0) for number in range(VMS)]
    daemon = ProxyDaemon({"http": {"port": 80}, "tcp": {"port": 7001}}, allowed=["*"], **SETTINGS).start()
    hosts = [f"{name}.localhost" for name in APPS if name != "raw"]
    clients = [WildClient(daemon, hosts, SEED + number, faults) for number in range(CLIENTS)]
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    threads.append(threading.Thread(target=unrest, args=(daemon, vms, stop, random.Random(SEED))))
    try:
        for name, text in APPS.items():
            addresses = [vm.address for vm in vms[:2]]
            daemon.add_app(name, text, addresses, [] if name == "raw" else [f"{name}.localhost"])
        for listener in daemon.listeners:  # asked once, here, not by every client
            daemon.address(listener)
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        until(lambda: faults or time.monotonic() > end, "the time is over", seconds + 60, 0.1)
        stop.set()
        for thread in threads:
            thread.join(90)
            assert not thread.is_alive(), "a client hangs"
        outcomes = sum((client.outcomes for client in clients), Counter())
        print(f"seed {SEED}: {sum(outcomes.values())} outcomes: {dict(sorted(outcomes.items()))}")
        assert not faults, f"seed {SEED}:\n" + "\n".join(faults[:20])
        twice = {seed: n for seed, n in sum((vm.posts for vm in vms), Counter()).items() if n > 1}
        assert not twice, f"seed {SEED}: POST requests that reached an app more than once: {twice}"
        assert not (wrong := [text for vm in vms for text in vm.violations]), f"seed {SEED}: {wrong[:5]}"
        assert not (failed := [error for vm in vms for error in vm.failures]), f"seed {SEED}: {failed[:5]!r}"
        assert outcomes["tunnel whole"]
        until(lambda: nothing_left(daemon), f"seed {SEED}: nothing is left", 25, 0.2)
    except BaseException:
        print(daemon.log())
        print("held at last:", getattr(nothing_left, "held", None))
        daemon.kill()
        raise
    finally:
        stop.set()
        for vm in vms:
            vm.stop()
    daemon.stop()


@pytest.mark.timeout(150)
def test_short_stress() -> None:
    stress(SHORT_S)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_long_stress() -> None:
    stress(LONG_S)
