"""The order of the regions: by round trip, and steady within the margin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyproxy.state.region_order import MARGIN, MARGIN_US, Closeness, reordered, round_trips

MS = 1000


@pytest.mark.parametrize(("before", "ms", "after"), [
    ([], {}, []),
    ([], {"syd": 200, "ams": 10, "fra": 20}, ["ams", "fra", "syd"]),
    ([], {"b": 10, "a": 10}, ["a", "b"]),
    (["ams", "fra"], {"ams": 20, "fra": 18.5}, ["ams", "fra"]),  # nearer by 1.5 ms, but not by 10 %
    (["ams", "fra"], {"ams": 20, "fra": 18}, ["ams", "fra"]),  # by 10 %, not by more
    (["ams", "fra"], {"ams": 20, "fra": 17.9}, ["fra", "ams"]),
    (["ams", "fra"], {"ams": 2, "fra": 1}, ["ams", "fra"]),  # by half, but not by more than 1 ms
    (["ams", "fra"], {"ams": 2.1, "fra": 1}, ["fra", "ams"]),
    (["ams", "fra", "syd"], {"fra": 15, "syd": 200}, ["fra", "syd"]),  # none of ams can be reached
    (["fra", "syd"], {"fra": 15, "syd": 200, "ams": 14.9}, ["ams", "fra", "syd"]),  # it is back
    (["a", "b", "c", "d"], {"a": 120, "b": 112, "c": 105, "d": 98}, ["c", "d", "a", "b"]),
    (["a", "b", "c"], {"a": 120, "b": 90, "c": 100}, ["b", "c", "a"]),
])
def test_regions_change_places_only_when_it_pays(before: list[str], ms: dict[str, float], after: list[str]) -> None:
    rtt_us = {region: round(value * MS) for region, value in ms.items()}
    assert reordered(before, rtt_us) == after
    assert reordered(after, rtt_us) == after, "it is steady"


NAMES = st.sampled_from(["ams", "fra", "lhr", "syd", "yyz"])


@given(st.lists(NAMES, unique=True), st.dictionaries(NAMES, st.integers(0, 300 * MS)))
def test_every_measured_region_has_a_place_and_none_stands_behind_a_clearly_farther_one(
    before: list[str], rtt_us: dict[str, int]
) -> None:
    order = reordered(before, rtt_us)
    assert sorted(order) == sorted(rtt_us)
    for index, far in enumerate(order):
        for near in order[index + 1:]:
            assert rtt_us[far] - rtt_us[near] <= max(MARGIN_US, MARGIN * rtt_us[far])


def test_a_region_is_as_near_as_its_nearest_host_that_can_be_reached() -> None:
    hosts = [{"slot": slot, "region": region} for slot, region in enumerate(["ams", "ams", "ams", "syd", "fra", "yyz"])]
    words: list[Closeness] = [
        ("down", 1, None), ("direct", 30 * MS, None), ("via", 20 * MS, 3), ("direct", 200 * MS, None),
        ("unknown", 0, None), ("down", 5 * MS, None),
    ]
    assert round_trips(hosts, lambda slot: words[slot]) == {"ams": 20 * MS, "syd": 200 * MS}
