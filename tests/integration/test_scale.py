"""1 000 apps with 10 000 machines in one table, through the whole daemon: each request is answered by its own app.

Whoever answers is told by the address that was asked (tests/kit/farm.py), so a request that went to another app's
machine is seen as such, whatever the cause.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from flyproxy.apps.model import VERSION
from flyproxy.state.records import Hostname, Ip, Record
from tests.kit import world
from tests.kit.bulk import View, write
from tests.kit.client import RawClient, Response
from tests.kit.daemon import ProxyDaemon
from tests.kit.farm import Farm
from tests.kit.wait import until

APPS = 1000
WILD = 50           # apps with a wildcard host name
CHURNED = 20        # apps that come and go, numbered from APPS
SHARED = "127.8.0.1"
GONE = {"PE03", "PR01", "PR04"}  # what a request may get while its app is removed


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with Farm() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon], farm: Farm) -> ProxyDaemon:
    """Two workers; listens on every address of the host; the table is loaded."""
    table = {"apps": APPS + CHURNED, "hostnames": 2 * APPS, "addresses": 200, "machines": (APPS + CHURNED) * 10}
    listeners = {"http": {"address": "0.0.0.0:0", "port": 80}}
    started = start_daemon(listeners, workers={"count": 2}, table=table, timeouts={"upstream_idle": "1s"})
    records = [*world.whole(APPS, farm.port), Ip(VERSION, SHARED, None)]
    records += [Hostname(VERSION, f"*.wild-{n}.test", world.name(n)) for n in range(WILD)]
    records += [Ip(VERSION, own_address(n), world.name(n)) for n in range(100)]
    assert started.process is not None
    View(started.process.pid).wait(write(started.dir / "state/state.db", records), 20)
    return started


@pytest.fixture(scope="module")
def view(daemon: ProxyDaemon) -> View:
    assert daemon.process is not None
    return View(daemon.process.pid)


def own_address(n: int) -> str:
    """A public address of app ``n`` alone."""
    return f"127.9.0.{n + 1}"


def ask(client: RawClient, host: str, n: int, target: str = "/") -> str:
    """The address of the machine that answered; insists that it is app ``n``'s and the answer that was asked for."""
    answer = client.get(target, host)
    assert answer.status == 200, f"{host}: {answer.status} {answer.error}"
    return machine_of(answer, host, n, target)


def machine_of(answer: Response, host: str, n: int, target: str) -> str:
    address, *echo = answer.body.decode().split()
    assert echo == [host, target], f"the answer to another request: {echo}, not {[host, target]}"
    assert address.startswith(world.network(n)), f"{host} of {world.name(n)} was answered by {address}"
    return address


def at(daemon: ProxyDaemon, address: str) -> RawClient:
    return RawClient((address, daemon.port()))


def test_the_table_holds_everything(daemon: ProxyDaemon, view: View) -> None:
    assert daemon.status()["table"]["machines"] == APPS * 10
    assert len(view.table.apps()) == APPS and len(view.table.machines()) == APPS * 10
    assert view.table.usage()["refused"] == 0


def test_any_app_is_answered_by_its_own_machines(daemon: ProxyDaemon) -> None:
    with daemon.client() as one, daemon.client() as two:
        for n in random.Random(1).sample(range(APPS), 300):
            for client in (one, two):
                ask(client, world.host(n), n, f"/{n}")


def test_every_machine_of_an_app_gets_requests(daemon: ProxyDaemon) -> None:
    with daemon.client() as client:
        for n in (0, APPS // 2, APPS - 1):
            assert len({ask(client, world.host(n), n) for _ in range(300)}) == world.MACHINES


def test_a_wildcard_leads_to_its_app_and_a_name_of_its_own_comes_first(daemon: ProxyDaemon, view: View) -> None:
    exact = Hostname(VERSION, "own.wild-3.test", world.name(700))
    view.wait(write(daemon.dir / "state/state.db", [exact]))
    with daemon.client() as client:
        for n in range(WILD):
            ask(client, f"any{n}.wild-{n}.test", n)
        ask(client, "own.wild-3.test", 700)
        for stranger in ("wild-3.test", "two.labels.wild-3.test", f"any.wild-{WILD}.test"):
            assert client.get(host=stranger).error == "PE03"


def test_an_address_of_its_own_leads_to_an_app_whatever_the_host(daemon: ProxyDaemon) -> None:
    for n in random.Random(2).sample(range(100), 30):
        with at(daemon, own_address(n)) as client:
            ask(client, "nobody.test", n)
            ask(client, world.host(999), n)


def test_a_shared_address_asks_the_host(daemon: ProxyDaemon) -> None:
    with at(daemon, SHARED) as client:
        ask(client, world.host(5), 5)
        ask(client, world.host(995), 995)
        assert client.get(host="nobody.test").error == "PE03"


class Traffic:
    """Clients on kept connections that ask apps at random, half of them at an address of an app's own.

    ``wrong``: what another app answered, or no valid answer."""

    def __init__(self, daemon: ProxyDaemon, apps: range) -> None:
        self.daemon, self.apps = daemon, apps
        self.numbers = itertools.count()
        self.answered = self.refused = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(4)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def more(self, count: int) -> None:
        """Until so many further requests are answered, or something was wrong."""
        goal = self.answered + count
        until(lambda: self.wrong or self.answered >= goal, f"{count} more requests are answered", 20)

    def _run(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stop.is_set():
            bound = rng.choice(self.apps) if seed % 2 else None
            address = "127.0.0.1" if bound is None else churn_address(bound)
            try:
                with at(self.daemon, address) as client:
                    self._connection(client, rng, bound)
            except (OSError, AssertionError) as error:
                self.wrong.append(repr(error))
                return

    def _connection(self, client: RawClient, rng: random.Random, bound: int | None) -> None:
        """Some requests. What the address means is settled when it is opened: app ``bound``, or, while nobody has it,
        what each request names."""
        meant = set() if bound is None else {"address", "name"}
        for _ in range(20):
            n, target = rng.choice(self.apps), f"/{next(self.numbers)}"
            answer = client.get(target, world.host(n))
            if answer.status != 200:
                assert answer.error in GONE, f"{answer.status} {answer.error}"
                self.refused += 1
                continue
            by_address = bound is not None and answer.body.decode().startswith(world.network(bound))
            machine_of(answer, world.host(n), bound if by_address and bound is not None else n, target)
            self.answered += 1
            if bound is not None and n != bound:
                meant &= {"address" if by_address else "name"}
                assert meant, f"a connection to the address of {world.name(bound)} meant first one app, then another"


def churn_address(n: int) -> str:
    return f"127.10.0.{n - APPS + 1}"


def everything_of(n: int, port: int, title: str) -> list[Record]:
    return [*world.whole_app(n, port, title), Ip(VERSION, churn_address(n), title)]


def test_reused_ids_never_lead_to_another_app(daemon: ProxyDaemon, farm: Farm, view: View) -> None:
    """Apps go and come back in another order under other names while requests flow; ids and slots are used again."""
    apps = range(APPS, APPS + CHURNED)
    database = daemon.dir / "state/state.db"
    held: list[Record] = []
    users: dict[tuple[str, int], set[str]] = {}  # of an app id, of a machine slot
    order = list(apps)
    with Traffic(daemon, apps) as traffic:
        for turn in range(6):
            random.Random(turn).shuffle(order)
            fresh = [record for n in order for record in everything_of(n, farm.port, f"churn-{n}-{turn}")]
            gone = [world.app(f"churn-{n}-{turn - 1}") for n in order]
            if turn % 2:  # at once: names, addresses and machines change hands
                view.wait(write(database, fresh, delete=gone))
            elif turn:
                view.wait(write(database, delete=[*gone, *held]))
                view.wait(write(database, fresh))
            else:
                view.wait(write(database, fresh))
            held = fresh
            for app in view.table.apps():
                users.setdefault(("app", app["id"]), set()).add(app["name"].rsplit("-", 1)[0])
            for machine in view.table.machines():
                users.setdefault(("machine", machine["slot"]), set()).add(machine["app"].rsplit("-", 1)[0])
            traffic.more(400)
    assert not traffic.wrong, traffic.wrong
    assert traffic.answered > 2000
    for kind in ("app", "machine"):
        assert any(len(names) > 1 for (what, _), names in users.items() if what == kind), f"no {kind} id was used twice"
    with daemon.client() as client:
        for n in apps:
            ask(client, world.host(n), n)


def test_a_scrape_of_all_apps_holds_no_change_up(daemon: ProxyDaemon, view: View, farm: Farm) -> None:
    with daemon.client() as client:
        for n in range(APPS):
            ask(client, world.host(n), n)
    done = threading.Event()
    pages: list[dict[str, float]] = []

    def scrape() -> None:
        while not done.is_set():
            pages.append(daemon.metrics())

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        until(lambda: pages, "a first page")
        for number in range(100):
            view.wait(write(daemon.dir / "state/state.db", [world.machine(number, 0, farm.port, cordoned=True)]), 2)
    finally:
        done.set()
        scraper.join()
    assert len(pages) > 1
    counted = [key for key in pages[-1] if key.startswith("fly_edge_http_responses_count{") and 'app="app-' in key]
    assert len({key.partition('app="')[2].partition('"')[0] for key in counted}) == APPS
