"""Two hosts at their worst: wild clients and VMs, while machines, settings and workers of both come and go. No wrong
byte, no hang, no POST twice; and afterwards no stream, no request in flight, no buffer and no work is left.

STRESS_SECONDS lengthens the long one, STRESS_SEED replays the choices of a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.mayhem import WildClient, WildVM
from tests.kit.twohops import TwoHops
from tests.kit.wait import until

SHORT_S = 6.0
LONG_S = float(os.environ.get("STRESS_SECONDS", "60"))
SEED = int(os.environ.get("STRESS_SEED", "0")) or random.randrange(1, 1 << 20)
CLIENTS = 12
VMS = 3
IDLE_S = 1.0
IDLE_CPU_MAX = 0.02  # of one core, for each worker
SETTINGS = {
    "workers": {"count": 2, "slots": 2, "drain_timeout": "3s"},
    "timeouts": {"upstream_idle": "500ms", "queue": "8s", "keepalive": "5s", "write_stall": "15s"},
    "limits": {"buffer": "128KiB"},
    "backhaul": {"idle": f"{IDLE_S:.0f}s", "streams": 8},
}
APPS = {
    "open": "[http_service]\ninternal_port = 8080\n",
    "half": "[http_service]\ninternal_port = 8080\nhalf_close = true\n",
    "few": '[http_service]\ninternal_port = 8080\n[http_service.concurrency]\ntype = "requests"\n'
    "soft_limit = 1\nhard_limit = 2\n",
    "raw": '[[services]]\nprotocol = "tcp"\ninternal_port = 7000\n[[services.ports]]\nport = 7001\n',
}
EMPTY = ("fly_app_concurrency", "flyproxy_connections", "flyproxy_backhaul_streams", "flyproxy_backhaul_transports")


def unrest(daemon: TwoHops, stop: threading.Event, chance: random.Random, events: Counter[str]) -> None:
    """Machines are cordoned, settings reloaded, workers replaced and killed, on both hosts. What a command says while
    workers die under it does not matter here."""
    text = {host: host.config.read_text() for host in (daemon, daemon.far)}
    while not stop.wait(chance.uniform(0.1, 0.6)):
        host: ProxyDaemon = chance.choice([daemon, daemon.far])
        what = chance.choice(["cordon", "cordon", "settings", "workers", "kill"])
        events[what] += 1
        with contextlib.suppress(AssertionError, OSError):
            if what == "cordon":
                daemon.ctl("machines", chance.choice(["cordon", "uncordon"]), f"{chance.choice(list(APPS))}-2")
            elif what == "settings":
                size = chance.choice(["64KiB", "128KiB", "512KiB"])
                host.config.write_text(text[host].replace('buffer = "128KiB"', f'buffer = "{size}"'))
                host.ctl("reload")
            elif what == "workers":
                host.ctl("reload", "--workers")
            else:
                os.kill(chance.choice(host.workers()), signal.SIGKILL)


def held(host: ProxyDaemon) -> dict[str, float]:
    return {
        key: value
        for key, value in host.metrics().items()
        if value and (key.startswith(EMPTY) or (key.startswith("flyproxy_worker_memory") and "connections" not in key))
    }


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_idle(host: ProxyDaemon) -> None:
    before = {pid: cpu_seconds(pid) for pid in host.workers()}
    start = time.monotonic()
    time.sleep(3)  # a rate needs a span
    used = {pid: (cpu_seconds(pid) - cpu) / (time.monotonic() - start) for pid, cpu in before.items()}
    assert max(used.values()) < IDLE_CPU_MAX, f"idle workers use {used} of a core"


def stress(seconds: float) -> None:
    faults: list[str] = []
    events: Counter[str] = Counter()
    vms = [WildVM(faults, narrow=number == 0) for number in range(VMS)]
    daemon = TwoHops({"http": {"port": 80}, "tcp": {"port": 7001}}, allowed=["*"], **SETTINGS)
    daemon.start()
    hosts = [f"{name}.localhost" for name in APPS if name != "raw"]
    clients = [WildClient(daemon, hosts, SEED + number, faults, rough=True) for number in range(CLIENTS)]
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    threads.append(threading.Thread(target=unrest, args=(daemon, stop, random.Random(SEED), events)))
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
        print(f"seed {SEED}: {dict(events)}, {sum(outcomes.values())} outcomes: {dict(sorted(outcomes.items()))}")
        assert not faults, f"seed {SEED}:\n" + "\n".join(faults[:20])
        twice = {seed: n for seed, n in sum((vm.posts for vm in vms), Counter()).items() if n > 1}
        assert not twice, f"seed {SEED}: POST requests that reached an app more than once: {twice}"
        assert not (wrong := [text for vm in vms for text in vm.violations]), f"seed {SEED}: {wrong[:5]}"
        assert not (failed := [error for vm in vms for error in vm.failures]), f"seed {SEED}: {failed[:5]!r}"
        assert outcomes["tunnel whole"]
        for host in (daemon, daemon.far):
            until(lambda host=host: not held(host), f"seed {SEED}: nothing is left", 40, 0.2)  # type: ignore[misc]
            assert_idle(host)
    except BaseException:
        print(daemon.log())
        for host in (daemon, daemon.far):
            with contextlib.suppress(OSError):
                print("held at last:", held(host))
        daemon.kill()
        raise
    finally:
        stop.set()
        for vm in vms:
            vm.stop()
    daemon.stop()


@pytest.mark.timeout(180)
def test_short_stress_over_two_hosts() -> None:
    stress(SHORT_S)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_long_stress_over_two_hosts() -> None:
    stress(LONG_S)
