"""When checks are due: no clock, no socket."""

from dataclasses import replace

from flyproxy.control.health.plan import Check, Plan, clamped, spread

CHECK = Check("m1", "hello", "services[0].checks[0]", "127.0.0.1", 8080, interval=10.0, timeout=2.0, grace=1.0)


def plan(*checks: Check, now: float = 0.0, jitter: float = 0.0) -> Plan:
    made = Plan(jitter=lambda key: jitter)
    made.replace(checks, now)
    return made


def test_a_new_check_waits_for_its_grace_period():
    made = plan(CHECK, now=100.0)
    assert made.next_due() == 101.0
    assert made.take_due(100.9) == []
    assert made.take_due(101.0) == [CHECK]


def test_new_checks_are_probed_soon_and_spread_over_their_interval_from_then_on():
    made = plan(CHECK, jitter=0.5)
    assert made.next_due() == 1.0 + 0.5
    made.take_due(1.5)
    made.finished(CHECK, 1.6)
    assert made.next_due() == 1.5 + 7.5
    made.take_due(9.0)
    made.finished(CHECK, 9.1)
    assert made.next_due() == 9.0 + 10.0
    assert 0.0 <= spread(("m1", "a")) < 1.0
    assert spread(("m1", "a")) == spread(("m1", "a")) != spread(("m2", "a"))


def test_a_check_that_is_out_is_not_due_again():
    made = plan(CHECK)
    assert made.take_due(1.0) == [CHECK]
    assert made.take_due(1000.0) == []
    assert made.next_due() is None


def test_the_next_probe_is_one_interval_after_the_start_of_the_last():
    made = plan(CHECK, jitter=1.0)
    made.take_due(2.0)
    assert made.finished(CHECK, 3.5)
    assert made.next_due() == 12.0


def test_a_probe_that_took_longer_than_the_interval_is_followed_at_once():
    made = plan(CHECK)
    made.take_due(1.0)
    assert made.finished(CHECK, 50.0)
    assert made.next_due() == 50.0


def test_an_unchanged_check_keeps_its_place():
    made = plan(CHECK)
    made.replace([CHECK, replace(CHECK, machine="m2")], now=0.5)
    assert made.take_due(1.0) == [CHECK]


def test_a_running_probe_survives_a_replan_that_leaves_it_alone():
    made = plan(CHECK)
    made.take_due(1.0)
    made.replace([CHECK], now=2.0)
    assert made.take_due(5.0) == []
    assert made.finished(CHECK, 3.0)


def test_the_verdict_of_a_changed_or_removed_check_is_thrown_away():
    moved = replace(CHECK, port=9090)
    made = plan(CHECK)
    made.take_due(1.0)
    made.replace([moved], now=2.0)
    assert not made.finished(CHECK, 3.0)
    assert made.take_due(3.0) == [moved]
    made.replace([], now=4.0)
    assert not made.finished(moved, 5.0)
    assert made.next_due() is None


def test_checks_are_taken_in_the_order_they_are_due():
    slow, fast = replace(CHECK, machine="slow", grace=3.0), replace(CHECK, machine="fast", grace=2.0)
    assert [check.machine for check in plan(slow, fast).take_due(10.0)] == ["fast", "slow"]


def test_replans_do_not_let_the_heap_grow():
    made = plan()
    for turn in range(1000):
        made.replace([replace(CHECK, port=turn + 1)], now=float(turn))
    assert len(made.heap) < 200
    assert len(made.take_due(2000.0)) == 1


def test_durations_are_clamped_to_what_fly_toml_documents():
    assert [clamped(seconds) for seconds in (0.2, 1.0, 15.0, 60.0, 600.0)] == [1.0, 1.0, 15.0, 60.0, 60.0]
