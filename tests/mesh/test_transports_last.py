"""What holds a transport for long takes nothing from others: full ones, leaving ones, and ones that lead elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.kit.crowd import Crowd, EchoServer
from tests.kit.region import Regions
from tests.kit.wait import until

HOST = "ws.localhost"
STREAMS = 10
RELOADS = 2


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServer]:
    with EchoServer() as started:
        yield started


@pytest.fixture(scope="module")
def narrow(start_regions: Callable[..., Regions], server: EchoServer) -> Regions:
    """One backhaul port, few streams on a transport: the next request always needs another transport."""
    regions = start_regions(
        "yyz", "dfw", roles={"yyz": ["edge"], "dfw": ["worker"]},
        workers={"count": 1, "slots": 1}, backhaul={"streams": STREAMS},
    )  # fmt: skip
    regions.add_app("ws", {"dfw": [server.address]}, hostnames=[HOST])
    return regions


def ask(regions: Regions) -> int:
    with regions["yyz"].client() as client:
        return client.get(host=HOST).status


def test_more_streams_than_a_transport_may_carry(narrow: Regions) -> None:
    with Crowd(narrow["yyz"].address(), HOST, 5 * STREAMS) as crowd:
        crowd.gather()
        assert [ask(narrow) for _ in range(20)] == [200] * 20
        crowd.say("hello")
        crowd.leave()


def test_a_leaving_worker_that_is_held_is_in_nobodys_way(narrow: Regions) -> None:
    """Its old transport lives as long as the WebSocket on it; requests go to the new worker."""
    with Crowd(narrow["yyz"].address(), HOST, 1) as crowd:
        crowd.gather()
        for number in range(RELOADS):
            narrow["dfw"].ctl("reload", "--workers")
            assert [ask(narrow) for _ in range(20)] == [200] * 20
            crowd.say(f"after reload {number}")
        crowd.leave()


@pytest.fixture(scope="module")
def wide(start_regions: Callable[..., Regions], server: EchoServer) -> Regions:
    """Two workers on each host."""
    regions = start_regions(
        "yyz", "dfw", roles={"yyz": ["edge"], "dfw": ["worker"]}, workers={"count": 2, "slots": 2}
    )  # fmt: skip
    regions.add_app("ws", {"dfw": [server.address]}, hostnames=[HOST])
    return regions


def test_websockets_live_through_reloads_of_both_hosts(wide: Regions) -> None:
    with Crowd(wide["yyz"].address(), HOST, 20) as crowd:
        crowd.gather()
        for number in range(RELOADS):
            for region in ("yyz", "dfw"):
                wide[region].ctl("reload", "--workers")
                crowd.say(f"reload {number} of {region}")
        assert crowd.lost() == []
        crowd.leave()
    for region in ("yyz", "dfw"):
        until(lambda one=wide[region]: len(one.workers()) == 2, f"the old workers of {region} leave")  # type: ignore[misc]


@pytest.mark.parametrize("region", ["yyz", "dfw"])
def test_at_the_drain_deadline_websockets_are_cut_and_no_goodbye_is_made_up(wide: Regions, region: str) -> None:
    """The peers must learn that something broke: a close frame would say that one of them wished it."""
    daemon = wide[region]
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[workers]\n", '[workers]\ndrain_timeout = "1s"\n'))
    try:
        daemon.ctl("reload")
        with Crowd(wide["yyz"].address(), HOST, 20) as crowd:
            crowd.gather()
            daemon.ctl("reload", "--workers")
            until(lambda: len(crowd.lost()) == 20, "all are cut")
            assert {one.ended for one in crowd.members} <= {"end after b''", "ConnectionResetError"}
    finally:
        daemon.config.write_text(text)
        daemon.ctl("reload")
