"""Who accepts on which slot. Pure.

A slot's home is the worker with index ``slot % count``. While that one cannot accept, the sibling with the fewest
slots takes it; when it comes back, its slots come back. So the answer depends only on who accepts now, never on
history.
"""

from __future__ import annotations

from collections.abc import Mapping


def assign(slots: int, count: int, accepting: Mapping[int, int]) -> tuple[int | None, ...]:
    """The owner of each of ``slots`` slots. ``accepting``: worker index -> owner; empty: nobody owns anything."""
    owners = [accepting.get(slot % count) for slot in range(slots)]
    if not accepting:
        return tuple(owners)
    load = {owner: owners.count(owner) for _, owner in sorted(accepting.items())}
    for slot, owner in enumerate(owners):
        if owner is None:
            owners[slot] = heir = min(load, key=lambda owner: load[owner])
            load[heir] += 1
    return tuple(owners)
