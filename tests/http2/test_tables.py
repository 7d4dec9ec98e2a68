"""The tables and the arithmetic of HTTP/2, each on its own: states, windows, turns."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_http2 as h2

QUICK = settings(derandomize=True, deadline=None, max_examples=300)

# RFC 9113 5.1, said once more by rules instead of rows.
REMOTE_DONE, LOCAL_DONE = {"half-remote", "closed"}, {"half-local", "closed"}


def ended(state: str, side: str) -> str:
    if side == "remote":
        return {"idle": "half-remote", "open": "half-remote", "half-local": "closed"}[state]
    return {"idle": "half-local", "open": "half-local", "half-remote": "closed"}[state]


def by_rule(state: str, step: str) -> str:
    """What must come of it: the next state, or "!" and the verdict."""
    ours = step.startswith("out-")
    plain = step.removeprefix("out-")
    content = plain in ("headers", "headers-end", "data", "data-end")
    if state == "reset":
        return "!refused" if ours else "!ignore"
    if ours:
        if state == "closed" or (state == "idle" and not plain.startswith("headers")):
            return "!refused"
        if plain == "rst":
            return "reset"
        if state in LOCAL_DONE:
            return "!refused"
        return ended(state, "local") if plain.endswith("end") else ("open" if state == "idle" else state)
    if state == "idle" and not plain.startswith("headers"):
        return "!connection"
    if state == "closed":
        return "!closed" if content else "!ignore"
    if plain == "rst":
        return "closed"
    if plain == "window":
        return state
    if state in REMOTE_DONE:
        return "!stream"
    return ended(state, "remote") if plain.endswith("end") else ("open" if state == "idle" else state)


@pytest.mark.parametrize(("state", "step"), list(h2.states()))
def test_every_pair_of_state_and_input_follows_the_rfc(state: str, step: str) -> None:
    assert h2.states()[state, step] == by_rule(state, step)


def test_the_table_is_whole() -> None:
    assert len(h2.states()) == 6 * 11


@QUICK
@given(st.integers(1, 1 << 20), st.lists(st.integers(0, 70000), max_size=60))
def test_receiving_window_never_loses_a_byte(target: int, sizes: list[int]) -> None:
    window = h2.Window(target)
    granted = target
    taken = 0
    for n in sizes:
        if not window.take(n):
            assert n > window.left
            continue
        taken += n
        granted += window.drained(n)
        assert window.left == granted - taken
        assert window.left + window.owed == target
        assert window.owed < max(target // 2, 1)


def test_window_update_is_due_at_half_of_the_target() -> None:
    window = h2.Window(1000)
    assert window.take(1000)
    assert not window.take(1)
    assert window.drained(499) == 0
    assert window.drained(1) == 500
    assert window.left == 500


def test_a_grown_target_is_granted_and_never_taken_back() -> None:
    window = h2.Window(1000)
    assert window.grow(5000) == 4000
    assert window.left == 5000
    assert window.grow(10) == 0


@pytest.mark.parametrize(
    ("left", "delta", "after"),
    [(0, 1, 1), (2**31 - 2, 1, 2**31 - 1), (2**31 - 1, 1, None), (-5, 2**31 - 1, 2**31 - 6), (10, -20, -10)],
)
def test_sending_window_stays_below_its_largest(left: int, delta: int, after: int | None) -> None:
    assert h2.window_after(left, delta) == after


def simulate(frames: list[int], quantum: int, stalls: dict[int, range], turns: int) -> list[list[int]]:
    """Bytes sent by each node after each turn of the scheduler; node i sends frames of frames[i] bytes at most, and is
    stalled during the turns stalls[i]."""
    ring = h2.Ring(len(frames), quantum)
    sent = [0] * len(frames)
    history = []
    for turn in range(turns):
        for i in range(len(frames)):
            (ring.stalled if turn in stalls.get(i, ()) else ring.ready)(i)
        found = ring.next()
        assert found is not None
        node, room = found
        n = min(room, frames[node])
        ring.sent(node, n)
        sent[node] += n
        history.append(list(sent))
    return history


@pytest.mark.parametrize("stalled", [None, 0, 1, 4])
def test_bytes_are_within_one_frame_of_the_fair_share(stalled: int | None) -> None:
    quantum, frames = 16384, [16384, 100, 1, 5000, 16383]
    stalls = {} if stalled is None else {stalled: range(1 << 30)}
    for sent in simulate(frames, quantum, stalls, 40000):
        backlogged = [n for i, n in enumerate(sent) if i != stalled]
        assert max(backlogged) - min(backlogged) <= quantum


def test_a_node_that_stalls_and_returns_costs_the_others_nothing() -> None:
    quantum, frames = 1000, [1000, 1000, 1000]
    history = simulate(frames, quantum, {2: range(100, 200)}, 400)
    for sent in history:
        assert abs(sent[0] - sent[1]) <= quantum
    away = [after[2] - before[2] for before, after in itertools.pairwise(history[99:200])]
    assert not any(away)
    back = [after[i] - before[i] for i in range(3) for before, after in [(history[200], history[-1])]]
    assert max(back) - min(back) <= quantum, "it gets no more than its share for having been away"


def test_the_order_is_the_order_of_becoming_ready() -> None:
    ring = h2.Ring(3, 10)
    for i in (2, 0, 1):
        ring.ready(i)
    order = []
    for _ in range(6):
        found = ring.next()
        assert found is not None
        order.append(found[0])
        ring.sent(found[0], 10)
    assert order == [2, 0, 1, 2, 0, 1]
    for i in range(3):
        ring.stalled(i)
    assert ring.next() is None
