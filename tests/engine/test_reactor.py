"""Timers fire once, in time and never early; lanes are served in turn; nothing is freed inside a turn."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups._testing_net import Loop

TICK_MS = 16
SPAN_MS = 2048 * TICK_MS


def fired_within(loop: Loop, index: int, deadline: int) -> None:
    while True:
        step = min(TICK_MS, 1000)
        fired = loop.advance(step)
        if fired:
            assert fired == [index]
            break
        assert loop.now_ms < deadline + 3 * TICK_MS, "the deadline was missed"
    assert loop.now_ms >= deadline


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(1, 3 * SPAN_MS))
def test_a_deadline_fires_once_and_never_early(delay):
    loop = Loop(1)
    index = loop.add(0)
    deadline = loop.now_ms + delay
    loop.set_timer(index, deadline)
    fired_within(loop, index, deadline)
    assert loop.advance(2 * SPAN_MS) == []


def test_a_later_deadline_replaces_an_earlier_one():
    loop = Loop(1)
    index = loop.add(0)
    loop.set_timer(index, loop.now_ms + 100)
    later = loop.now_ms + 5000
    loop.set_timer(index, later)
    fired_within(loop, index, later)


def test_an_earlier_deadline_replaces_a_later_one():
    loop = Loop(1)
    index = loop.add(0)
    loop.set_timer(index, loop.now_ms + 60_000)
    soon = loop.now_ms + 50
    loop.set_timer(index, soon)
    fired_within(loop, index, soon)


def test_no_deadline_never_fires():
    loop = Loop(1)
    index = loop.add(0)
    loop.set_timer(index, loop.now_ms + 100)
    loop.set_timer(index, 0)
    assert loop.advance(10 * SPAN_MS) == []


def test_a_long_sleep_fires_everything_that_was_due():
    loop = Loop(1)
    indexes = [loop.add(0) for _ in range(50)]
    for k, index in enumerate(indexes):
        loop.set_timer(index, loop.now_ms + 1 + k * 700)
    assert sorted(loop.advance(60_000)) == indexes


def test_lanes_are_served_in_turn():
    loop = Loop(3)
    busy = [loop.add(0) for _ in range(4)]
    other = loop.add(1)
    third = loop.add(2)
    for index in [*busy, other, third]:
        loop.queue(index)
    assert loop.serve() == [busy[0], other, third, busy[1], busy[2], busy[3]]


def test_a_source_that_wants_more_waits_for_the_next_turn():
    loop = Loop(2)
    greedy, modest = loop.add(0), loop.add(1)
    loop.queue(greedy)
    loop.queue(modest)
    assert loop.serve(again=1) == [greedy, modest]
    assert loop.serve() == [greedy]
    assert loop.serve() == []


def test_queueing_twice_is_served_once():
    loop = Loop(1)
    index = loop.add(0)
    loop.queue(index)
    loop.queue(index)
    assert loop.serve() == [index]


def test_a_closed_source_is_neither_served_nor_timed_out_and_is_freed():
    loop = Loop(1)
    index, other = loop.add(0), loop.add(0)
    loop.set_timer(index, loop.now_ms + 10)
    loop.queue(index)
    loop.queue(other)
    loop.close(index)
    assert loop.serve() == [other]
    assert loop.advance(1000) == []
    assert loop.alive == 1
