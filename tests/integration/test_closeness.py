"""Daemons on a mesh of loopback addresses measure each other: what the table says of the others, and changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.wait import until

PID = os.getpid()
NET = f"127.{64 + PID % 128}.{PID >> 8 & 255}"  # of this test run alone
Three = tuple[ProxyDaemon, ProxyDaemon, ProxyDaemon]


@pytest.fixture(scope="module")
def three(start_daemon: Callable[..., ProxyDaemon], tmp_path_factory: pytest.TempPathFactory) -> Three:
    """Worker hosts a and b, and the edge c."""
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "cluster.key").write_text("0123456789abcdef\n")

    def host(name: str, number: int, roles: list[str]) -> ProxyDaemon:
        return start_daemon(
            region=f"r{name}", host=name, roles=roles, workers={"count": 1, "slots": 1},
            state={"url": f"{folder}/state.db"}, allowed=["exited", "respawn", "mesh-not-direct"],
            backhaul={"address": f"{NET}.{number}:0", "key_file": f"{folder}/cluster.key"},
        )

    return host("a", 11, ["edge", "worker"]), host("b", 12, ["edge", "worker"]), host("c", 13, ["edge"])


def closeness(one: ProxyDaemon, other: str) -> dict[str, Any]:
    row = next((row for row in one.ctl("hosts", "list") if row["id"] == other), None)
    return (row and row["closeness"]) or {"state": None}


def is_in_state(one: ProxyDaemon, other: str, state: str) -> None:
    until(lambda: closeness(one, other)["state"] == state, f"{other} is {state}", patience=20, every=0.1)


def test_worker_hosts_are_measured_by_everybody(three: Three) -> None:
    a, b, c = three
    for one, other in ((a, "b"), (b, "a"), (c, "a"), (c, "b")):
        is_in_state(one, other, "direct")
        assert 0 < closeness(one, other)["rtt_ms"] < 1000


def test_an_edge_is_not_measured(three: Three) -> None:
    a, _, c = three
    is_in_state(c, "a", "direct")
    assert closeness(a, "c")["state"] == "unknown"


def test_a_host_that_is_gone_is_down_and_comes_back(three: Three) -> None:
    a, b, c = three
    b.kill()
    for one in (a, c):
        is_in_state(one, "b", "down")
    (b.dir / "notify").unlink()
    b.start()
    for one in (a, c):
        is_in_state(one, "b", "direct")
    is_in_state(b, "a", "direct")
