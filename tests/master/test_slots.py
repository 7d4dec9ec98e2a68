"""Slots: each has one owner whenever anybody accepts, the load is even, and homes come back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flyproxy.master.slots import assign


def test_everybody_accepts_on_the_own_slots() -> None:
    assert assign(4, 4, {0: 10, 1: 11, 2: 12, 3: 13}) == (10, 11, 12, 13)


def test_fewer_workers_than_slots_own_several() -> None:
    assert assign(4, 2, {0: 10, 1: 11}) == (10, 11, 10, 11)


def test_a_lost_worker_s_slots_go_to_the_sibling_with_the_fewest() -> None:
    assert assign(4, 4, {0: 10, 2: 12, 3: 13}) == (10, 10, 12, 13)
    assert assign(4, 4, {1: 11, 2: 12}) == (11, 11, 12, 12)


def test_nobody_accepts_nobody_owns() -> None:
    assert assign(3, 2, {}) == (None, None, None)


@given(slots=st.integers(1, 64), count=st.integers(1, 32), data=st.data())
def test_every_slot_has_an_accepting_owner_and_nobody_moves_without_need(
    slots: int, count: int, data: st.DataObject
) -> None:
    accepting = {n: 100 + n for n in data.draw(st.sets(st.integers(0, count - 1), min_size=1))}
    owners = assign(slots, count, accepting)
    assert set(owners) <= set(accepting.values())
    for slot, owner in enumerate(owners):
        if slot % count in accepting:
            assert owner == accepting[slot % count]
    if count == slots:
        loads = [owners.count(owner) for owner in accepting.values()]
        assert max(loads) - min(loads) <= 1
