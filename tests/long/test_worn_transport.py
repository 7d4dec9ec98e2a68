"""A transport's stream ids are used up one day: before that a fresh one takes its place, and no request notices."""

from __future__ import annotations

import subprocess

import pytest

from tests.kit.farm import Farm
from tests.kit.region import Regions

REQUESTS = 1_000_000  # after which a transport is replaced


@pytest.mark.long
@pytest.mark.timeout(300)
def test_more_than_a_million_requests_wear_out_transports_and_lose_nothing() -> None:
    settings = {"workers": {"count": 1, "slots": 1}}
    roles = {"yyz": ["edge"], "dfw": ["worker"]}
    with Farm() as farm, Regions("yyz", "dfw", roles=roles, **settings) as regions:
        regions.meet()
        regions.add_app("web", {"dfw": [f"127.3.0.{n}:{farm.port}" for n in range(1, 5)]}, hostnames=["web.localhost"])
        edge = regions["yyz"]
        done = 0
        while done < 1.2 * REQUESTS:
            load = ["wrk", "-t1", "-c64", "-d10s", "-H", "Host: web.localhost", f"http://127.0.0.1:{edge.port()}/"]
            told = subprocess.run(load, capture_output=True, text=True, check=True).stdout
            assert "Socket errors" not in told and "Non-2xx" not in told, told
            done += next(int(line.split()[0]) for line in told.splitlines() if "requests in" in line)
        assert edge.metric("flyproxy_retries_total") == 0
