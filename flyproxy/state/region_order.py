"""The order in which the regions are tried: nearest first, and steady.

A region is as near as its nearest host that can be reached. Round trips waver, and each change of the order moves
traffic, so two regions change places only when the farther one has become nearer by more than MARGIN of the other's
round trip and by more than MARGIN_US.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MARGIN = 0.10
MARGIN_US = 1000

Closeness = tuple[str, int, int | None]
"""What is measured of a host: "unknown", "direct", "via" or "down"; round trip in µs; the host that it is via."""


def round_trips(hosts: Iterable[Mapping[str, Any]], closeness: Callable[[int], Closeness]) -> dict[str, int]:
    """Region → round trip in µs, from the table's hosts and what is measured at each one's slot."""
    found: dict[str, int] = {}
    for host in hosts:
        state, rtt_us, _ = closeness(host["slot"])
        if state in ("direct", "via"):
            region = host["region"]
            found[region] = min(rtt_us, found.get(region, rtt_us))
    return found


def reordered(before: Sequence[str], rtt_us: Mapping[str, int]) -> list[str]:
    """The measured regions, nearest first, as near as may be to the order ``before``.

    Each is let past its forerunners until one that is nearer; it stops behind those that are farther only within the
    margin. What was not in the order before has no place to keep, and goes where its round trip puts it.
    """
    kept = [region for region in before if region in rtt_us]
    fresh = sorted(rtt_us.keys() - set(kept), key=lambda region: (rtt_us[region], region))
    order: list[str] = []
    for region in [*kept, *fresh]:
        place = at = len(order)
        while at and rtt_us[order[at - 1]] > rtt_us[region]:
            at -= 1
            if region in fresh or _clearly(rtt_us[region], rtt_us[order[at]]):
                place = at
        order.insert(place, region)
    return order


def _clearly(near_us: int, far_us: int) -> bool:
    return far_us - near_us > max(MARGIN_US, MARGIN * far_us)
