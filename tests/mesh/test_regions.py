"""Several regions on one machine: each is a host of its own, and all serve what one store holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.netns import Network
from tests.kit.region import Regions
from tests.kit.vm import ScriptedVM

NAMES = ("yyz", "dfw", "syd")


@pytest.fixture(scope="module")
def regions() -> Iterator[Regions]:
    with Regions(*NAMES) as started:
        yield started


def test_each_region_is_a_host_of_its_own(regions: Regions) -> None:
    told = [(status["region"], status["host"]) for status in (regions[name].status() for name in NAMES)]
    assert told == [("yyz", "yyz-1"), ("dfw", "dfw-1"), ("syd", "syd-1")]
    assert len({regions[name].address() for name in NAMES}) == 3
    assert list(regions.mesh.values()) == ["127.0.0.11", "127.0.0.12", "127.0.0.13"]


def test_what_is_said_in_one_region_holds_in_all(regions: Regions) -> None:
    vm = ScriptedVM()
    ids = regions.add_app("web", {"yyz": [vm.address], "syd": [vm.address]}, hostnames=["web.localhost"])
    assert ids == {"yyz": ["web-yyz-1"], "syd": ["web-syd-1"]}
    try:
        for name in NAMES:
            rows = regions[name].ctl("machines", "list", "-a", "web")
            placed = {row["id"]: (row["region"], row["host"]) for row in rows}
            assert placed == {"web-yyz-1": ("yyz", "yyz-1"), "web-syd-1": ("syd", "syd-1")}
        with regions["yyz"].client() as client:
            assert client.get(host="web.localhost").status == 200
    finally:
        vm.stop()


def test_regions_run_in_namespaces() -> None:
    with Network(2) as network, Regions("yyz", "dfw", places=network.hosts) as regions:
        assert list(regions.mesh.values()) == [host.address for host in network.hosts]
        host, daemon = network.hosts[1], regions["dfw"]
        with host.inside(), daemon.client() as client:
            assert client.get(host="nobody.localhost").error == "PE03"
        with pytest.raises(ConnectionRefusedError):
            daemon.client()


def test_a_host_that_is_no_edge_has_no_public_listener() -> None:
    with Regions("yyz", "dfw", roles={"dfw": ["worker"]}) as regions:
        public = {
            name: [row for row in regions[name].status()["listeners"] if row["port"] == 80] for name in ("yyz", "dfw")
        }
        assert len(public["yyz"]) == 1 and public["dfw"] == []


def test_a_region_that_cannot_start_takes_the_others_with_it() -> None:
    with pytest.raises(AssertionError, match="ended before it was ready"):
        Regions("yyz", "dfw", workers={"count": 2, "slots": 1}).start()
