"""The queue of a service whose machines are all full: in order, bounded, and with an end."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.integration.deployed import Askers, Deployed, StartVM, counting_vms
from tests.kit.counting import CountingVM
from tests.kit.daemon import ProxyDaemon
from tests.kit.wait import until

QUEUE_S = 3.0
QUEUE_MAX = 1024  # waiting requests per service and worker
ONE = 'type = "requests"\nsoft_limit = 1\nhard_limit = 1'


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon]) -> ProxyDaemon:
    """One worker, so that there is one queue; what waits in it gives up soon."""
    return start_daemon(workers={"count": 1}, timeouts={"queue": f"{QUEUE_S:g}s"})


@pytest.fixture(scope="module")
def patient(start_daemon: Callable[..., ProxyDaemon]) -> ProxyDaemon:
    """One queue, too, for who needs longer to fill it than the other lets wait."""
    return start_daemon(workers={"count": 1}, timeouts={"queue": "30s"})


@pytest.fixture(scope="module")
def pair(start_daemon: Callable[..., ProxyDaemon]) -> ProxyDaemon:
    """Two workers, each with a queue of its own."""
    return start_daemon(workers={"count": 2}, timeouts={"queue": "30s"})


@pytest.fixture
def vms() -> Iterator[StartVM]:
    with counting_vms() as start:
        yield start


@pytest.fixture
def barrier(daemon: ProxyDaemon, vms: StartVM) -> Iterator[Callable[[], None]]:
    """Returns once the one worker has read everything that was sent to it before."""
    app = Deployed(daemon, "barrier", [vms("barrier")])
    with daemon.client() as client:

        def ping() -> None:
            app.get(client)

        yield ping


def served(vm: CountingVM, count: int) -> None:
    """Until so many requests have come to the machine, answered or not."""
    until(lambda: len(vm.seen) >= count, f"{count} requests have come", every=0.002)


def test_who_waits_is_served_in_order(
    daemon: ProxyDaemon, vms: StartVM, barrier: Callable[[], None]
) -> None:
    vm = vms("one", hold=True)
    app = Deployed(daemon, "order", [vm], limits=ONE)
    targets = [f"/{number}" for number in range(20)]
    with Askers(app) as askers:
        for target in targets:
            askers.ask(target=target)
            barrier()
        for count in range(1, len(targets) + 1):
            served(vm, count)
            vm.answer()
        assert {answer.status for answer in askers.answers()} == {200}
    assert vm.seen == targets and vm.most_busy == 1


def test_a_new_request_does_not_overtake_those_that_wait(
    daemon: ProxyDaemon, vms: StartVM, barrier: Callable[[], None]
) -> None:
    vm = vms("one", hold=True)
    app = Deployed(daemon, "overtake", [vm], limits=ONE)
    with Askers(app) as askers, daemon.client() as kept:
        kept.request("GET", "/kept-1", app.host)
        barrier()
        askers.ask(target="/waits-1")
        barrier()
        askers.ask(target="/waits-2")
        barrier()
        vm.wait_busy(1)
        vm.answer()
        assert kept.response().status == 200
        kept.request("GET", "/kept-2", app.host)
        barrier()
        vm.release()
        assert kept.response().status == 200
    assert vm.seen == ["/kept-1", "/waits-1", "/waits-2", "/kept-2"]


def test_waiting_ends_with_pr06_after_the_queue_timeout(daemon: ProxyDaemon, vms: StartVM) -> None:
    vm = vms("one", hold=True)
    app = Deployed(daemon, "late", [vm], limits=ONE)
    with Askers(app) as askers:
        askers.ask()
        vm.wait_busy(1)
        begun = time.monotonic()
        waiting = askers.ask()
        answer = waiting.response()
        waited = time.monotonic() - begun
        assert (answer.status, answer.error) == (503, "PR06") and answer.header("retry-after")
        assert waited >= QUEUE_S - 0.1
        vm.answer()
        assert askers.clients[0].response().status == 200
        assert waiting.sock.fileno() >= 0 and vm.seen == ["/"]


def test_who_goes_away_gives_its_place_up(
    daemon: ProxyDaemon, vms: StartVM, barrier: Callable[[], None]
) -> None:
    vm = vms("one", hold=True)
    app = Deployed(daemon, "away", [vm], limits=ONE)
    with Askers(app) as askers:
        for target in ("/first", "/gone", "/reset", "/last"):
            askers.ask(target=target)
            barrier()
        askers.clients[1].sock.close()
        askers.clients[2].reset()
        barrier()
        vm.release()
        assert askers.clients[3].response().status == 200
    assert vm.seen == ["/first", "/last"]


def test_the_queue_is_bounded_and_serves_those_it_took(patient: ProxyDaemon, vms: StartVM) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * QUEUE_MAX), hard))
    vm = vms("one", hold=True)
    app = Deployed(patient, "bounded", [vm], limits=ONE)
    with Askers(app) as askers:
        askers.ask()
        vm.wait_busy(1)
        before = patient.metric("flyproxy_errors_total", code="PR06")
        askers.ask(QUEUE_MAX + 20)
        until(lambda: patient.metric("flyproxy_errors_total", code="PR06") == before + 20, "those beyond are refused")
        vm.release()
        errors = Counter(answer.error for answer in askers.answers())
    assert errors == {None: 1 + QUEUE_MAX, "PR06": 20}
    assert vm.most_busy == 1


def test_a_machine_that_comes_serves_those_that_wait(
    daemon: ProxyDaemon, vms: StartVM, barrier: Callable[[], None]
) -> None:
    full, back, added = vms("full", hold=True), vms("back"), vms("added")
    app = Deployed(daemon, "woken", [full, back], limits=ONE)
    app.cordon(back)
    with Askers(app) as askers:
        askers.ask()
        full.wait_busy(1)
        waiting = askers.ask(target="/for-back")
        barrier()
        app.cordon(back, "uncordon")
        assert waiting.response().status == 200 and back.seen == ["/for-back"]
        app.cordon(back)
        waiting = askers.ask(target="/for-added")
        barrier()
        daemon.ctl("machines", "add", app.id(added), "-a", app.name, "--address", added.address)
        assert waiting.response().status == 200 and added.seen == ["/for-added"]


def test_a_machine_that_goes_ends_the_wait_of_those_it_left(
    daemon: ProxyDaemon, vms: StartVM, barrier: Callable[[], None]
) -> None:
    vm = vms("one", hold=True)
    app = Deployed(daemon, "left", [vm], limits=ONE)
    with Askers(app) as askers:
        askers.ask()
        vm.wait_busy(1)
        waiting = askers.ask()
        barrier()
        app.cordon(vm)
        assert waiting.response().error == "PR01"
        vm.answer()
        assert askers.clients[0].response().status == 200


def test_an_app_that_goes_ends_the_wait_of_its_requests(
    daemon: ProxyDaemon, vms: StartVM, barrier: Callable[[], None]
) -> None:
    vm = vms("one", hold=True)
    app = Deployed(daemon, "removed", [vm], limits=ONE)
    with Askers(app) as askers:
        askers.ask()
        vm.wait_busy(1)
        waiting = askers.ask()
        barrier()
        daemon.ctl("apps", "remove", app.name, "--yes")
        assert waiting.response().error == "PR04"
        vm.answer()
        assert askers.clients[0].response().status == 200


def test_every_worker_gets_its_turn_at_a_full_machine(pair: ProxyDaemon, vms: StartVM) -> None:
    """Requests on both workers wait for one machine; each release goes to somebody until nobody waits."""
    vm = vms("one", hold=True)
    app = Deployed(pair, "turns", [vm], limits='type = "requests"\nsoft_limit = 1\nhard_limit = 2')
    with Askers(app) as askers:
        askers.ask(60, "/each")
        for answered in range(60):
            served(vm, min(60, answered + 2))
            vm.answer()
        assert {answer.status for answer in askers.answers()} == {200}
    assert vm.most_busy == 2
