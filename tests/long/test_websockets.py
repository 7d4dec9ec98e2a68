"""Ten thousand WebSockets over two hosts live through reloads of both: none is lost, and what one costs is told."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.crowd import Crowd, EchoServer
from tests.kit.daemon import ProxyDaemon
from tests.kit.region import Regions

pytestmark = [pytest.mark.long, pytest.mark.timeout(0)]
COUNT = int(os.environ.get("WEBSOCKETS", "10000"))
RELOADS = 5
FILES = COUNT + 4000  # the descriptors of the clients' process and of the server's
HOST = "ws.localhost"


@pytest.fixture
def files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), max(hard, FILES)))


@pytest.fixture
def regions(files: None) -> Iterator[Regions]:
    """Two workers each, and time to drain for the whole test."""
    with Regions("yyz", "dfw", roles={"yyz": ["edge"], "dfw": ["worker"]}, allowed=["generation-ended"],
                 workers={"count": 2, "slots": 2, "drain_timeout": "1h"}) as started:  # fmt: skip
        started.meet()
        yield started


def private(daemon: ProxyDaemon) -> int:
    """Bytes of memory that the workers have for themselves."""
    total = 0
    for pid in daemon.workers():
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(row.split()[1]) << 10 for row in rows if row.startswith(("Private_Dirty", "Private_Clean")))
    return total


def test_ten_thousand_websockets_live_through_reloads_of_both_hosts(regions: Regions) -> None:
    edge, far = regions["yyz"], regions["dfw"]
    with EchoServer() as server, Crowd(edge.address(), HOST, COUNT, patience=120) as crowd:
        regions.add_app("ws", {"dfw": [server.address]}, hostnames=[HOST])
        before = {daemon: private(daemon) for daemon in (edge, far)}
        begun = time.monotonic()
        crowd.gather()
        opened = time.monotonic() - begun
        for daemon, name in ((edge, "edge"), (far, "worker host")):
            print(f"{name}: {(private(daemon) - before[daemon]) / COUNT:.0f} bytes for an idle WebSocket")
        print(f"{COUNT} opened in {opened:.1f} s")
        crowd.say("before")
        for number in range(RELOADS):
            for region in ("yyz", "dfw"):
                regions[region].ctl("reload", "--workers")
                begun = time.monotonic()
                crowd.say(f"reload {number} of {region}")
                print(f"reload {number} of {region}: all {COUNT} echoed in {time.monotonic() - begun:.1f} s, "
                      f"{len(regions[region].workers())} workers")  # fmt: skip
        assert crowd.lost() == []
        crowd.leave()
