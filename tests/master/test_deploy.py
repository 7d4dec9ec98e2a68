"""The files for systemd: the example settings are valid, and the unit fits what the processes rely on."""

from __future__ import annotations

import re
from pathlib import Path

from flyproxy.settings import load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def unit() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "flyproxy.service").read_text(), re.MULTILINE))


def test_the_example_settings_are_valid() -> None:
    assert load(str(DEPLOY / "flyproxy.toml"), {}).listeners[0].bind == ("::", 80)


def test_systemd_gives_a_drain_the_time_it_may_take() -> None:
    drain = load(str(DEPLOY / "flyproxy.toml"), {}).workers.drain_timeout
    assert int(unit()["TimeoutStopSec"].removesuffix("s")) > drain


def test_workers_survive_a_killed_master_and_what_it_left_is_there_for_the_next_one() -> None:
    found = unit()
    assert (found["Type"], found["KillMode"], found["Restart"]) == ("notify", "process", "always")
    assert found["RuntimeDirectoryPreserve"] == "restart" and int(found["FileDescriptorStoreMax"]) >= 256
    assert "pidfd_getfd" in found["SystemCallFilter"]


def test_the_only_right_is_the_one_to_bind_ports() -> None:
    found = unit()
    assert found["AmbientCapabilities"] == found["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert found["User"] == "flyproxy" and found["NoNewPrivileges"] == "yes"
