"""Two daemons with one store on a mesh of loopback addresses: each knows the other, as it is now."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.daemon import ProxyDaemon
from tests.kit.wait import until

PID = os.getpid()
NET = f"127.{64 + PID % 128}.{PID >> 8 & 255}"  # of this test run alone
Pair = tuple[ProxyDaemon, ProxyDaemon]


@pytest.fixture(scope="module")
def pair(start_daemon: Callable[..., ProxyDaemon], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A worker host in ams and an edge in syd."""
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "cluster.key").write_text("0123456789abcdef\n")

    def host(name: str, region: str, number: int, roles: list[str]) -> ProxyDaemon:
        return start_daemon(
            region=region, host=name, roles=roles, workers={"count": 1, "slots": 2},
            state={"url": f"{folder}/state.db"}, allowed=["exited", "respawn"],
            backhaul={"address": f"{NET}.{number}:0", "key_file": f"{folder}/cluster.key"},
        )

    return host("a", "ams", 1, ["edge", "worker"]), host("b", "syd", 2, ["edge"])


def restarted(one: ProxyDaemon, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Killed with all its processes, and started again."""
    one.kill()
    meanwhile()
    (one.dir / "notify").unlink()
    one.start()


def seen(one: ProxyDaemon) -> dict[str, Any]:
    """The hosts that a daemon's table knows: those with a closeness, and itself."""
    rows = one.ctl("hosts", "list")
    return {row["id"]: row for row in rows if row["here"] or row["closeness"] is not None}


def told(one: ProxyDaemon) -> dict[str, Any]:
    """What a daemon says of itself."""
    status = one.status()
    of_record = {key: status["backhaul"][key] for key in ("address", "ports", "epoch")}
    return {"id": status["host"], "region": status["region"], **of_record}


def test_each_host_knows_the_other_and_itself(pair: Pair) -> None:
    for one, other in (pair, pair[::-1]):
        rows = until(lambda one=one: len(now := seen(one)) == 2 and now, "both hosts are in the table")  # type: ignore[misc]
        for who, here in ((one, True), (other, False)):
            expected = told(who)
            row = rows[expected["id"]]
            assert {key: row[key] for key in expected} == expected
            assert row["here"] is here
    assert [len(told(one)["ports"]) for one in pair] == [2, 0]


def test_a_restarted_host_has_a_newer_epoch_and_its_old_ports(pair: Pair) -> None:
    one, other = pair
    before = told(one)
    restarted(one)
    after = told(one)
    assert after["epoch"] > before["epoch"] and after["ports"] == before["ports"]
    until(lambda: seen(other).get("a", {}).get("epoch") == after["epoch"], "the other knows of the restart")


def test_a_host_that_runs_comes_back_and_one_that_is_gone_does_not(pair: Pair) -> None:
    one, other = pair
    one.ctl("hosts", "remove", "b")
    until(lambda: "b" in seen(one), "the running host has written itself again")

    def forget() -> None:
        one.ctl("hosts", "remove", "b")
        assert seen(one).keys() == {"a"}

    restarted(other, forget)
    until(lambda: "b" in seen(one), "it is back")
