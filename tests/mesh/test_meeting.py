"""Hosts that share a store learn of each other, wherever they stand, and can be led a long way round."""

from __future__ import annotations

from pathlib import Path

from tests.kit.bulk import View
from tests.kit.netns import Network
from tests.kit.region import Detour, Regions
from tests.kit.wireguard import Mesh


def test_regions_meet() -> None:
    with Regions("yyz", "dfw", "syd") as regions:
        regions.meet()


def test_regions_meet_over_wireguard(tmp_path: Path) -> None:
    with Network(3) as network:
        mesh = Mesh(network.hosts, tmp_path)
        with Regions("yyz", "dfw", "syd", places=network.hosts, mesh=mesh.addresses) as regions:
            regions.meet()


def test_a_detour_leads_to_the_relay_on_the_host_s_own_ports() -> None:
    roles = {"yyz": ["edge"], "dfw": ["worker"]}
    with Regions("yyz", "dfw", roles=roles, allowed=["host-id-taken"]) as regions:
        regions.meet()
        reader = regions["yyz"].process
        assert reader is not None
        with Detour(regions.database, reader.pid, "dfw-1") as far:
            rows = {row["id"]: row for row in View(reader.pid).table.hosts()}
            assert bytes(rows["dfw-1"]["address"][-4:]) == bytes((127, 0, 1, 12))
            ports = rows["dfw-1"]["ports"]
            assert far.addresses == [("127.0.1.12", port) for port in (*ports, ports[0])], "the last one is for probes"
            assert bytes(rows["yyz-1"]["address"][-4:]) == bytes((127, 0, 0, 11)), "others stay where they are"
