"""The guard: bad records are put aside one by one, the last good ones go on, and nothing vanishes wholesale."""

from __future__ import annotations

from flyproxy.apps.model import VERSION
from flyproxy.state import records, report
from flyproxy.state.guard import Guard, Update
from flyproxy.state.records import Hostname, Record, encode
from flyproxy.state.store import Change, Cursor, Snapshot
from tests.state.fakes import http_app, machine

CURSOR = Cursor("e", 100, 0.0)


def change(record: Record, revision: int = 1) -> Change:
    return Change(records.key_of(record)[1], encode(record), revision)


def snapshot(*items: Record, **raw: bytes) -> Snapshot:
    values = {records.key_of(item)[1]: (encode(item), 5) for item in items}
    return Snapshot({**values, **{key: (value, 6) for key, value in raw.items()}}, CURSOR)


def keys(updates: list[Update]) -> list[str]:
    return [update.place[1] for update in updates]


def test_case_101_a_bad_record_is_put_aside_and_the_last_good_one_is_kept() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app("a"), 1)])
    assert guard.changes("g", [Change("app.a", b"[1", 2)]) == []
    assert guard.good["g"]["app.a"].record == http_app("a")
    bad = guard.bad["g", "app.a"]
    assert (bad.revision, guard.count) == (2, 1)
    assert "truncated" in bad.reason


def test_case_101_a_bad_record_stops_none_of_its_batch() -> None:
    guard = Guard()
    updates = guard.changes("g", [
        change(http_app("a")), Change("app.b", b"\0", 2), Change("nonsense", b"x", 3), change(http_app("c"), 4),
    ])
    assert keys(updates) == ["app.a", "app.c"]
    assert guard.bad.keys() == {("g", "app.b"), ("g", "nonsense")}


def test_a_good_record_or_a_deletion_ends_a_quarantine() -> None:
    guard = Guard()
    guard.changes("g", [Change("app.a", b"", 1), Change("app.b", b"", 2)])
    updates = guard.changes("g", [change(http_app("a"), 3), Change("app.b", None, 4)])
    assert keys(updates) == ["app.a"]
    assert guard.bad == {}
    assert guard.count == 2, "the count of all that ever were is kept"


def test_case_101_a_machine_with_an_id_that_another_region_has_waits_until_that_one_goes() -> None:
    guard = Guard()
    guard.changes("r-ams", [change(machine("m", "a"))])
    assert guard.changes("r-syd", [change(machine("m", "a", region="syd"), 2)]) == []
    assert "scope r-ams" in guard.bad["r-syd", "machine.m"].reason
    updates = guard.changes("r-ams", [Change("machine.m", None, 3)])
    assert [(update.place, update.good is None) for update in updates] == [
        (("r-ams", "machine.m"), True), (("r-syd", "machine.m"), False),
    ]
    assert guard.bad == {}


def test_any_number_of_tombstones_is_obeyed() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app(f"a{n}")) for n in range(100)])
    assert len(guard.changes("g", [Change(f"app.a{n}", None, 2) for n in range(100)])) == 100
    assert guard.good["g"] == {}
    assert guard.held == {}


def test_even_the_only_app_is_held_when_a_snapshot_lacks_it() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app("a"))])
    assert guard.snapshot("g", snapshot()) == []
    assert guard.held.keys() == {("g", "app.a")}


def test_a_snapshot_that_lacks_much_of_a_scope_is_held_and_its_additions_apply() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app(f"a{n}")) for n in range(50)])
    kept = [http_app(f"a{n}") for n in range(39)]
    assert keys(guard.snapshot("g", snapshot(*kept, http_app("new")))) == ["app.new"]
    assert guard.held.keys() == {("g", f"app.a{n}") for n in range(39, 50)}
    assert len(guard.good["g"]) == 51


def test_a_snapshot_that_lacks_little_of_a_scope_is_obeyed() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app(f"a{n:03}")) for n in range(100)])
    assert len(guard.snapshot("g", snapshot(*[http_app(f"a{n:03}") for n in range(80)]))) == 20
    assert guard.held == {}


def test_a_snapshot_that_lacks_most_machines_of_one_app_is_held() -> None:
    guard = Guard()
    big = [machine(f"b{n}", "big") for n in range(200)]
    small = [machine(f"s{n}", "small") for n in range(20)]
    guard.changes("r-ams", [change(one) for one in [*big, *small]])
    assert guard.snapshot("r-ams", snapshot(*big, *small[:9])) == []
    assert len(guard.held) == 11


def test_what_is_held_is_settled_by_a_tombstone_a_record_or_a_fuller_snapshot() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app(f"a{n}")) for n in range(50)])
    guard.snapshot("g", snapshot())
    assert len(guard.held) == 50
    assert keys(guard.changes("g", [Change("app.a0", None, 9)])) == ["app.a0"]
    guard.changes("g", [change(http_app("a1", port=81), 10)])
    guard.snapshot("g", snapshot(*[http_app(f"a{n}") for n in range(1, 50)]))
    assert guard.held == {}
    assert len(guard.good["g"]) == 49


def test_case_101_a_bad_record_in_a_snapshot_is_no_removal() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app("a"))])
    assert guard.snapshot("g", snapshot(**{"app.a": b"[[["})) == []
    assert "app.a" in guard.good["g"]
    assert ("g", "app.a") in guard.bad


def test_a_snapshot_clears_the_quarantine_of_what_is_gone() -> None:
    guard = Guard()
    guard.changes("g", [Change("app.a", b"", 1)])
    guard.snapshot("g", snapshot())
    assert guard.bad == {}


def test_a_poisoned_revision_is_not_read_but_the_next_one_is() -> None:
    read: list[int] = []
    guard = Guard(poisoned={("g", "app.a"): 7}, touching=lambda place, revision: read.append(revision))
    assert guard.changes("g", [change(http_app("a"), 7)]) == []
    assert "crashed" in guard.bad["g", "app.a"].reason
    assert keys(guard.changes("g", [change(http_app("a"), 8)])) == ["app.a"]
    assert read == [7, 8]


def test_a_report_survives_a_restart() -> None:
    guard = Guard()
    guard.changes("g", [change(http_app(f"a{n}")) for n in range(50)])
    guard.snapshot("g", snapshot())
    guard.changes("g", [change(Hostname(VERSION, "x.example", "a1")), Change("app.bad", b"", 3)])
    told = report.of(guard)
    assert (told.quarantined_now, told.held_now) == (1, 50)

    again = Guard()
    again.restore("g", {key: (good.value, good.revision) for key, good in guard.good["g"].items()})
    report.restore(again, told)
    assert again.held.keys() == guard.held.keys()
    assert again.bad["g", "app.bad"].reason == guard.bad["g", "app.bad"].reason
    assert report.of(again) == told
