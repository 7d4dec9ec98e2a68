"""Which machine gets a request, through the whole daemon: regions, limits, the queue, spreading, hashing, health.

The machines count for themselves (tests/kit/counting.py), so a limit is judged where it matters.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.deployed import Askers, Deployed, StartVM, counting_vms, wait_busy
from tests.kit.bulk import View
from tests.kit.client import RawClient
from tests.kit.counting import CountingVM
from tests.kit.daemon import ProxyDaemon
from tests.kit.wait import stand_still, until

HEALTH_S = 10.0


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon]) -> ProxyDaemon:
    """Two workers; "proxied" believes what the PROXY protocol says of a client's address; "raw" is no HTTP."""
    proxied = {"address": "127.0.0.2:0", "port": 80, "proxy_protocol": True, "trusted_sources": ["127.0.0.0/8"]}
    listeners = {"http": {"port": 80}, "proxied": proxied, "raw": {"port": 9000}}
    return start_daemon(listeners, workers={"count": 2}, timeouts={"queue": "30s"}, allowed=["health"])


@pytest.fixture
def vms() -> Iterator[StartVM]:
    with counting_vms() as start:
        yield start


# -- regions


def test_the_nearest_region_serves_until_all_its_machines_are_full(daemon: ProxyDaemon, vms: StartVM) -> None:
    near, far = [vms("one", hold=True), vms("two", hold=True)], vms("far", hold=True)
    app = Deployed(daemon, "regions", near, [far], 'type = "requests"\nsoft_limit = 1\nhard_limit = 2')
    with Askers(app) as askers:
        for count in range(1, 5):
            askers.ask()
            wait_busy(near, count)
        assert [vm.busy for vm in near] == [2, 2] and far.busy == 0
        askers.ask()
        far.wait_busy(1)
        near[0].answer()
        near[0].wait_busy(1)
        until(lambda: in_flight(app) == [1, 1, 2], "the answer is out and not counted any more")
        askers.ask()
        near[0].wait_busy(2)
        assert (near[1].busy, far.busy) == (2, 1)


def in_flight(app: Deployed) -> list[int]:
    """Requests of each machine as the table counts them, lowest first."""
    return sorted(machine["in_flight"] for machine in app.daemon.ctl("machines", "list", "-a", app.name))


def answering(app: Deployed) -> set[str]:
    """The machines that answer any of some requests."""
    return {app.once() for _ in range(20)}


def test_a_far_region_serves_while_no_near_machine_can(daemon: ProxyDaemon, vms: StartVM) -> None:
    near, far = [vms("one"), vms("two")], vms("far")
    app = Deployed(daemon, "away", near, [far], checks=True)
    until(lambda: {app.health(vm) for vm in near} == {"passing"}, "the checks pass", HEALTH_S)
    assert answering(app) == {"one", "two"}
    app.cordon(near[0])
    assert answering(app) == {"two"}
    near[1].up = False
    until(lambda: answering(app) == {"far"}, "the check fails, and the far machine serves alone", HEALTH_S, every=0.1)
    app.cordon(near[0], "uncordon")
    assert answering(app) == {"one"}
    near[1].up = True
    until(lambda: answering(app) == {"one", "two"}, "the check passes, and both serve again", HEALTH_S, every=0.1)


def test_nobody_left_is_told_as_such(daemon: ProxyDaemon, vms: StartVM) -> None:
    vm = vms("one")
    app = Deployed(daemon, "nobody", [vm])
    app.cordon(vm)
    with daemon.client() as client:
        assert client.get(host=app.host).error == "PR01"
    app.cordon(vm, "uncordon")
    assert app.once() == "one"


# -- limits


def hammer(app: Deployed, clients: int, requests: int, keep: bool) -> Counter[str]:
    """So many clients at once; what was answered, by machine, and every failure."""
    results: Counter[str] = Counter()
    lock = threading.Lock()

    def run() -> None:
        for outcome in asked(app, requests, keep):
            with lock:
                results[outcome] += 1

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def asked(app: Deployed, requests: int, keep: bool) -> Iterator[str]:
    client = app.daemon.client(timeout=30)
    try:
        for _ in range(requests):
            answer = client.get(host=app.host)
            yield answer.body.decode().strip() if answer.status == 200 else f"{answer.status} {answer.error}"
            if not keep:
                client.sock.close()
                client = app.daemon.client(timeout=30)
    except (OSError, AssertionError) as error:
        yield repr(error)
    finally:
        client.sock.close()


@pytest.mark.parametrize("keep", [True, False], ids=["kept connections", "new connections"])
@pytest.mark.parametrize("kind", ["requests", "connections"])
def test_the_hard_limit_is_exact_over_all_workers(
    daemon: ProxyDaemon, vms: StartVM, kind: str, keep: bool
) -> None:
    machines = [vms("one", think=0.002), vms("two", think=0.004)]
    name = f"limit-{kind}-{'kept' if keep else 'new'}"
    app = Deployed(daemon, name, machines, limits=f'type = "{kind}"\nsoft_limit = 2\nhard_limit = 3')
    results = hammer(app, clients=24, requests=40, keep=keep)
    assert set(results) == {"one", "two"} and results.total() == 24 * 40, results
    assert [vm.most_busy for vm in machines] == [3, 3]
    if kind == "connections":
        assert [vm.most_open for vm in machines] == [3, 3]


def test_the_hard_limit_holds_for_raw_connections(daemon: ProxyDaemon, vms: StartVM) -> None:
    """Those that are too many wait; each place that becomes free is taken by one of them."""
    vm = vms("one", hold=True)
    text = "[[services]]\ninternal_port = 8080\n[[services.ports]]\nport = 9000\n[services.concurrency]\n"
    daemon.add_app("raw", text + 'type = "connections"\nsoft_limit = 3\nhard_limit = 3\n', machines=[vm.address])
    clients = [daemon.client("raw", timeout=30) for _ in range(12)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: raw\r\n\r\n")
    answered = 0
    while waiting := [client for client in clients if client.sock.fileno() >= 0]:
        vm.wait_busy(min(3, len(waiting)))
        vm.answer()
        answered += 1
        (ready, *_), _, _ = select.select([client.sock for client in waiting], [], [], 10)
        client = next(client for client in waiting if client.sock is ready)
        assert client.response().status == 200
        client.sock.close()
    assert answered == 12 and vm.most_open == 3


def test_pooled_idle_connections_count_and_give_way(daemon: ProxyDaemon, vms: StartVM) -> None:
    """Whichever worker holds idle connections: they are within the limit, and never keep a request out."""
    vm = vms("one", hold=True)
    app = Deployed(daemon, "idle", [vm], limits='type = "connections"\nsoft_limit = 4\nhard_limit = 4')
    for _ in range(8):
        with Askers(app) as askers:
            askers.ask(4)
            vm.wait_busy(4)
            vm.answer(4)
            assert {answer.status for answer in askers.answers()} == {200}
        until(lambda: vm.open() <= 2, "at most half of the limit stays open and idle")
    assert vm.most_open == 4


def test_a_stopped_workers_idle_connection_stops_no_other_worker(
    start_daemon: Callable[..., ProxyDaemon], vms: StartVM
) -> None:
    """One worker sits on an idle connection that the others need, and many requests wait for it: everybody else is
    served meanwhile, and so are they in the end."""
    daemon = start_daemon(workers={"count": 2, "stuck_after": "60s"}, allowed=["suspect", "recovered"])
    vm, other = vms("one", hold=True), vms("other")
    app = Deployed(daemon, "sits", [vm], limits='type = "connections"\nsoft_limit = 2\nhard_limit = 2')
    bystander = Deployed(daemon, "bystander", [other])
    stopped, running = worker_with_idle_connection(app, vm)
    with Askers(app) as askers, connected_to(bystander, running) as client:
        stand_still(stopped)
        try:
            askers.ask(24)
            vm.wait_busy(1)
            for _ in range(20):
                assert bystander.get(client) == "other"
        finally:
            os.kill(stopped, signal.SIGCONT)
        vm.release()
        assert {answer.status for answer in askers.answers()} == {200}
    assert vm.most_open <= 2


def worker_with_idle_connection(app: Deployed, vm: CountingVM) -> tuple[int, int]:
    """One request; the worker that keeps the machine's connection now, and the other one."""
    with Askers(app) as askers:
        askers.ask()
        vm.wait_busy(1)
        vm.answer()
        askers.answers()
    assert vm.open() == 1
    workers = app.daemon.workers()
    (holder,) = [pid for pid in workers if has_peer(pid, vm.port)]
    return holder, next(pid for pid in workers if pid != holder)


def has_peer(pid: int, port: int) -> bool:
    """Whether the process has a TCP connection to this port of 127.0.0.1."""
    inodes = set()
    for fd in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(fd.path)))
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[2].endswith(f":{port:04X}") and row[9] in inodes for row in rows)


def connected_to(app: Deployed, pid: int) -> RawClient:
    """A client of the worker ``pid``."""
    while True:
        client = app.daemon.client()
        app.get(client)
        if has_peer(pid, client.sock.getsockname()[1]):
            return client
        client.sock.close()


# -- spreading


def test_least_spreads_requests_evenly(daemon: ProxyDaemon, vms: StartVM) -> None:
    """The better of two random machines: with 10 requests each, the fullest and the emptiest differ by few."""
    machines = [vms(f"m{number}", hold=True) for number in range(4)]
    app = Deployed(daemon, "least", machines)
    with Askers(app) as askers:
        for count in range(1, 41):
            askers.ask()
            wait_busy(machines, count)
        busy = [vm.busy for vm in machines]
        assert max(busy) - min(busy) <= 5, busy
        for vm in machines:
            vm.release()
        assert {answer.status for answer in askers.answers()} == {200}


def test_a_machine_below_its_soft_limit_comes_before_one_that_is_not(
    daemon: ProxyDaemon, vms: StartVM
) -> None:
    machines = [vms(f"m{number}", hold=True) for number in range(3)]
    app = Deployed(daemon, "soft", machines, limits='type = "requests"\nsoft_limit = 2\nhard_limit = 9')
    with Askers(app) as askers:
        for count in range(1, 7):
            askers.ask()
            wait_busy(machines, count)
        assert [vm.busy for vm in machines] == [2, 2, 2]


# -- hashing

KEYS = [f"key-{number}" for number in range(80)]


def homes(app: Deployed, header: str, settle: Callable[[], None]) -> dict[str, str]:
    """The machine of each key; ``header`` has the key for {}."""
    settle()
    with app.daemon.client() as client:
        return {key: app.get(client, header.format(key) + "\r\n") for key in KEYS}


@pytest.fixture
def settle(daemon: ProxyDaemon) -> Callable[[], None]:
    """Returns once no machine has a request: an answer may be here before its worker has counted it off, and the load
    bound of hashing (1.25 of the average) sends what comes from another worker just then elsewhere."""
    assert daemon.process is not None
    table = View(daemon.process.pid).table

    def wait() -> None:
        until(lambda: not any(one["in_flight"] for one in table.machines()), "nothing is in flight", every=0)

    return wait


@pytest.mark.parametrize(
    ("balance_key", "header"), [("header:X-User", "X-User: {}"), ("cookie:session", "Cookie: a=b; session={}; c=d")],
    ids=["header", "cookie"],
)  # fmt: skip
def test_hash_keeps_a_key_at_its_machine_and_moves_only_the_keys_of_one_that_leaves(
    daemon: ProxyDaemon, vms: StartVM, settle: Callable[[], None], balance_key: str, header: str
) -> None:
    machines = [vms(f"m{number}") for number in range(5)]
    balance = f'balance = "hash"\nbalance_key = "{balance_key}"'
    app = Deployed(daemon, f"hash-{balance_key[:6]}", machines, balance=balance)
    before = homes(app, header, settle)
    assert set(before.values()) == {vm.name for vm in machines}
    for _ in range(6):
        assert homes(app, header, settle) == before
    app.cordon(machines[2])
    without = homes(app, header, settle)
    assert "m2" not in without.values()
    moved = {key for key in KEYS if before[key] != without[key]}
    assert moved == {key for key in KEYS if before[key] == "m2"}
    assert len({without[key] for key in moved}) > 1, "all keys of a machine that left went to one other"
    app.cordon(machines[2], "uncordon")
    assert homes(app, header, settle) == before


def test_hash_by_address_keeps_a_client_at_its_machine(
    daemon: ProxyDaemon, vms: StartVM, settle: Callable[[], None]
) -> None:
    """A v6 client is its /64: what one household has."""
    machines = [vms(f"m{number}") for number in range(5)]
    app = Deployed(daemon, "hash-ip", machines, balance='balance = "hash"\nbalance_key = "ip"')

    def home(family: str, address: str, proxy: str) -> str:
        settle()
        with daemon.client("proxied") as client:
            client.send(f"PROXY {family} {address} {proxy} 5000 80\r\n".encode())
            return app.get(client)

    def homes_of_clients() -> list[str]:
        v4 = [home("TCP4", f"198.51.100.{number}", "203.0.113.1") for number in range(1, 41)]
        return v4 + [home("TCP6", f"2001:db8:0:{number}::1", "2001:db8::1") for number in range(1, 41)]

    before = homes_of_clients()
    assert set(before[:40]) == set(before[40:]) == {vm.name for vm in machines}
    for _ in range(3):
        assert homes_of_clients() == before
    same_64 = {home("TCP6", f"2001:db8:0:1:{number}::9", "2001:db8::1") for number in range(1, 20)}
    assert same_64 == {before[40]}


def test_hash_overflows_to_others_when_a_machine_is_loaded(daemon: ProxyDaemon, vms: StartVM) -> None:
    """One key that everybody sends: no machine carries more than 1.25 of the average."""
    machines = [vms(f"m{number}", hold=True) for number in range(4)]
    app = Deployed(daemon, "hot", machines, balance='balance = "hash"\nbalance_key = "header:X-User"')
    with Askers(app) as askers:
        for count in range(1, 33):
            askers.ask(headers="X-User: everybody\r\n")
            wait_busy(machines, count)
        assert max(vm.busy for vm in machines) <= math.ceil(1.25 * 32 / 4)
        assert min(vm.busy for vm in machines) < max(vm.busy for vm in machines), "the key has no machine of its own"
