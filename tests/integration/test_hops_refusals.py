"""What another host refuses is tried elsewhere while that is safe; clients hear of it when nobody can serve them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.deployed import StartVM, counting_vms
from tests.kit.bulk import View
from tests.kit.client import RawClient, Response
from tests.kit.region import Regions, host_of
from tests.kit.vm import ScriptedVM, Seen, VMConnection
from tests.kit.wait import stand_still, until

QUEUE_S = 2.0
AGAIN_PER_S = 10  # how often who waits asks a host that was full
WAITING = 3
ROLES = {"yyz": ["edge"], "dfw": ["edge", "worker"], "syd": ["worker"]}
ONE = '[http_service.concurrency]\ntype = "requests"\nsoft_limit = 1\nhard_limit = 1\n'
SERVICE = "[http_service]\ninternal_port = 8080\n"
NEAR, NEXT = "yyz", "syd"  # regions as the edge yyz-1 sees them: its own, and another
ACCIDENTS = ["suspect", "recovered", "stuck", "mesh-not-direct", "table-behind"]
Place = tuple[str, str, str]


@pytest.fixture(scope="module")
def regions() -> Iterator[Regions]:
    """The edge yyz-1; dfw-1, which is edge and worker host; the worker host syd-1."""
    settings = {"workers": {"count": 1, "slots": 1}, "timeouts": {"queue": f"{QUEUE_S:g}s"}}
    with Regions("yyz", "dfw", "syd", roles=ROLES, allowed=ACCIDENTS, **settings) as started:
        started.meet()
        yield started


@pytest.fixture(scope="module")
def dead(start_vm: Callable[..., ScriptedVM]) -> str:
    """An address that refuses connections."""
    vm = start_vm(name="dead")
    vm.stop()
    return vm.address


@pytest.fixture
def vms() -> Iterator[StartVM]:
    with counting_vms() as start:
        yield start


def add(regions: Regions, app: str, number: int, place: Place) -> None:
    """A machine ``APP-NUMBER``: (region, region whose host has it, address)."""
    region, host, address = place
    regions["dfw"].ctl("machines", "add", f"{app}-{number}", "-a", app, "--address", address, "--region", region,
                       "--host", host_of(host))  # fmt: skip


def deploy(regions: Regions, app: str, *machines: Place, limits: str = "") -> None:
    """An app with machines; every host serves them."""
    regions["dfw"].add_app(app, SERVICE + limits, hostnames=[f"{app}.localhost"])
    for number, place in enumerate(machines, 1):
        add(regions, app, number, place)
    regions.settle()


def ask(regions: Regions, app: str, target: str = "/", method: str = "GET", body: bytes = b"") -> Response:
    """The answer to one request at the edge yyz-1."""
    with regions["yyz"].client() as client:
        client.request(method, target, f"{app}.localhost", body=body)
        return client.response(method)


def gone_on(regions: Regions) -> float:
    return regions["yyz"].metric("flyproxy_retries_total", reason="host")


# -- the machine cannot be reached


@pytest.mark.parametrize("place", [(NEAR, "dfw"), (NEAR, "syd"), (NEXT, "dfw"), (NEXT, "syd")])
def test_a_machine_that_refuses_connections_costs_no_client_anything(
    regions: Regions, dead: str, vm: ScriptedVM, place: tuple[str, str]
) -> None:
    """The next candidate serves: in the same region on the same or another host, or in the next region."""
    app = "dead-" + "-".join(place)
    deploy(regions, app, (NEAR, "dfw", dead), (*place, vm.address))
    before = gone_on(regions)
    for _ in range(10):
        assert ask(regions, app).status == 200
    assert gone_on(regions) > before


@pytest.mark.parametrize("size", [0, 100, 40_000, 300_000])
def test_a_post_that_reached_nobody_is_sent_elsewhere_whole(
    regions: Regions, dead: str, vm: ScriptedVM, marker: str, size: int
) -> None:
    app = f"post-{size}"
    deploy(regions, app, (NEAR, "dfw", dead), (NEXT, "syd", vm.address))
    body = os.urandom(size)
    answer = ask(regions, app, f"/{marker}", "POST", body)
    assert (answer.status, answer.body) == (200, body or b"vm\n")
    (seen,) = vm.seen(marker)
    assert seen.body == body and seen.complete


@pytest.mark.parametrize("size", [100, 40_000, 300_000])
def test_a_post_of_unknown_length_is_sent_whole_or_not_at_all(
    regions: Regions, dead: str, vm: ScriptedVM, marker: str, size: int
) -> None:
    """Its chunks are not kept: once some have gone to one host, no other gets the rest."""
    app = f"chunked-{size}"
    deploy(regions, app, (NEAR, "dfw", dead), (NEXT, "syd", vm.address))
    body = os.urandom(size)
    with regions["yyz"].client() as client:
        client.send(
            f"POST /{marker} HTTP/1.1\r\nHost: {app}.localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + f"{size:x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        )  # fmt: skip
        answer = client.response("POST")
    assert (answer.status, answer.error) in ((200, None), (502, "PC01"))
    assert [seen.body for seen in vm.seen(marker)] == ([body] if answer.status == 200 else [])


def test_a_client_hears_what_is_wrong_from_its_own_edge(regions: Regions, dead: str) -> None:
    deploy(regions, "none", (NEAR, "dfw", dead), (NEXT, "syd", dead))
    answer = ask(regions, "none")
    assert (answer.status, answer.error) == (502, "PC01")
    assert [name for name, _ in answer.headers if name.lower().startswith("flyproxy-")] == ["flyproxy-error"]
    assert answer.header("via") and answer.header("fly-request-id") and answer.body
    assert regions["yyz"].metric("flyproxy_errors_total", code="PC01") >= 1


@pytest.mark.parametrize("change", ["removed", "moved"])
def test_a_machine_that_is_not_there_any_more_is_asked_elsewhere(
    regions: Regions, vm: ScriptedVM, marker: str, change: str
) -> None:
    """Its host knows before the edge does: there the state process stands still."""
    app, teller = f"old-{change}", regions["dfw"]
    deploy(regions, app, (NEAR, "dfw", vm.address), (NEXT, "syd", vm.address))
    state = regions["yyz"].status()["state"]["pid"]
    stand_still(state)
    try:
        if change == "removed":
            teller.ctl("machines", "remove", f"{app}-1")
        else:
            teller.ctl("machines", "add", f"{app}-1", "-a", app, "--address", vm.address, "--region", NEAR,
                       "--host", "nowhere-1")  # fmt: skip
        View(teller.workers()[0]).wait(teller.status()["revision"])
        before = gone_on(regions)
        assert ask(regions, app, f"/{marker}").status == 200
        assert gone_on(regions) == before + 1
        assert len(vm.seen(marker)) == 1
    finally:
        os.kill(state, signal.SIGCONT)
    regions.settle()


# -- the machine has been reached


def test_an_app_s_own_503_is_the_client_s_and_is_not_asked_for_again(
    regions: Regions, vm: ScriptedVM, marker: str
) -> None:
    path = vm.answer(
        b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nflyproxy-error: PC01\r\nflyproxy-unreached: 1\r\n\r\nmine"
    )
    deploy(regions, "own", (NEAR, "dfw", vm.address), (NEXT, "syd", vm.address))
    before = gone_on(regions)
    answer = ask(regions, "own", f"{path}?{marker}")
    assert (answer.status, answer.reason, answer.body, answer.error) == (503, "Busy", b"mine", None)
    assert len(vm.seen(marker)) == 1
    assert gone_on(regions) == before


def fall_once(vm: ScriptedVM) -> str:
    """A path on which the first request is read and then cut off without a word."""
    fallen: list[bool] = []

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        if fallen:
            conn.reply()
        else:
            fallen.append(True)
            conn.reset()

    return vm.route(script)


@pytest.mark.parametrize(("method", "times"), [("POST", 1), ("GET", 2)])
def test_only_what_is_idempotent_is_repeated_once_an_app_may_have_seen_it(
    regions: Regions, vm: ScriptedVM, marker: str, method: str, times: int
) -> None:
    app = f"fall-{method.lower()}"
    deploy(regions, app, (NEAR, "dfw", vm.address), (NEXT, "syd", vm.address))
    answer = ask(regions, app, f"{fall_once(vm)}?{marker}", method)
    assert (answer.status, answer.error) == ((502, "PC03") if times == 1 else (200, None))
    assert len(vm.seen(marker)) == times


# -- the machine is full


def asking(regions: Regions, edge: str, app: str, target: str) -> RawClient:
    """A request under way."""
    client = regions[edge].client(timeout=30)
    client.request("GET", target, f"{app}.localhost")
    return client


def test_its_host_is_the_authority_on_a_machine_s_hard_limit(regions: Regions, vms: StartVM) -> None:
    """Each edge alone would send one; the second waits in its edge until the first has been answered."""
    vm = vms("one", hold=True)
    deploy(regions, "limit", (NEAR, "dfw", vm.address), limits=ONE)
    with asking(regions, "dfw", "limit", "/first") as first:
        vm.wait_busy(1)
        before = gone_on(regions)
        with asking(regions, "yyz", "limit", "/second") as second:
            until(lambda: gone_on(regions) > before, "the edge hears that it is full")
            vm.answer()
            assert first.response().status == 200
            until(lambda: vm.seen == ["/first", "/second"], "the second has its turn")
            vm.answer()
            assert second.response().status == 200
    assert vm.most_busy == 1


def test_a_full_machine_s_requests_go_where_room_is(regions: Regions, vms: StartVM) -> None:
    full, free = vms("full", hold=True), vms("free")
    deploy(regions, "room", (NEAR, "dfw", full.address), limits=ONE)
    with asking(regions, "dfw", "room", "/") as first:
        full.wait_busy(1)
        add(regions, "room", 2, (NEXT, "syd", free.address))
        regions.settle()
        for _ in range(5):
            assert ask(regions, "room").body == b"free\n"
        full.answer()
        assert first.response().status == 200
    assert full.most_busy == 1


def test_when_all_are_full_waiting_ends_with_pr06(regions: Regions, vms: StartVM) -> None:
    """Meanwhile the host is asked again for each who waits, but ten times a second at most."""
    vm = vms("all", hold=True)
    deploy(regions, "full", (NEAR, "dfw", vm.address), limits=ONE)
    with asking(regions, "dfw", "full", "/") as first:
        vm.wait_busy(1)
        before, begun = gone_on(regions), time.monotonic()
        waiting = [asking(regions, "yyz", "full", "/") for _ in range(WAITING)]
        for client in waiting:
            answer = client.response()
            assert (answer.status, answer.error) == (503, "PR06") and answer.header("retry-after")
            client.sock.close()
        assert QUEUE_S - 0.1 <= time.monotonic() - begun < QUEUE_S + 1
        assert WAITING < gone_on(regions) - before <= WAITING * (QUEUE_S * AGAIN_PER_S + 5)
        vm.answer()
        assert first.response().status == 200
    assert vm.seen == ["/"]


def test_who_waits_for_room_on_another_host_is_served_in_order(regions: Regions, vms: StartVM) -> None:
    vm = vms("order", hold=True)
    deploy(regions, "order", (NEAR, "dfw", vm.address), limits=ONE)
    targets = ["/1", "/2", "/3"]
    with asking(regions, "dfw", "order", "/0") as first:
        vm.wait_busy(1)
        waiting = []
        for target in targets:
            before = gone_on(regions)
            waiting.append(asking(regions, "yyz", "order", target))
            until(lambda before=before: gone_on(regions) > before + len(targets),  # type: ignore[misc]
                  f"{target} has been refused")  # fmt: skip
        for client in (first, *waiting):
            vm.wait_busy(1)
            vm.answer()
            assert client.response().status == 200
            client.sock.close()
    assert vm.seen == ["/0", *targets]
    assert vm.most_busy == 1
