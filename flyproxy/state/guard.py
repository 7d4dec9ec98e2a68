"""What of the store may be served: judges every record by itself and keeps the last good one.

A bad record never stops the others. It is put into quarantine with its reason, and what its key last held goes on being
served; a good record or a deletion at the key ends the quarantine.

A deletion that somebody made is obeyed, however many there are: it is a tombstone with a revision of its own. What is
*missing* from a snapshot is another matter: the store may have been restored, emptied or replaced by mistake. When
more than HELD_OF_SCOPE of a scope is missing, or more than HELD_OF_APP of an app's machines, all that is missing from
that scope is held: it goes on being served, additions and changes apply, and a later tombstone or record for a held key
settles it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from flyproxy.state.records import Invalid, Machine, Record, decode
from flyproxy.state.store import Change, Snapshot

HELD_OF_SCOPE = 0.20
HELD_OF_APP = 0.50

Place = tuple[str, str]
"""Scope and key."""


class Good(NamedTuple):
    """A record that is served, as it came and as it is read."""

    value: bytes
    revision: int
    record: Record


class Bad(NamedTuple):
    """Why a record is not served; ``no_room``: because the table did not take it."""

    reason: str
    revision: int
    since: float
    no_room: bool = False


class Update(NamedTuple):
    """What to serve at a place from now on; ``good`` None: nothing."""

    place: Place
    good: Good | None


@dataclass
class Guard:
    """The records that are served, those that are not, and those that only a snapshot lacks."""

    good: dict[str, dict[str, Good]] = field(default_factory=dict)
    bad: dict[Place, Bad] = field(default_factory=dict)
    held: dict[Place, float] = field(default_factory=dict)
    poisoned: dict[Place, int] = field(default_factory=dict)
    """Places whose record at this revision crashed the process more than once: see poison.py."""
    twins: dict[Place, tuple[bytes, int]] = field(default_factory=dict)
    """Machines in quarantine because their id is taken in another scope; judged again when that one goes."""
    touching: Callable[[Place, int], None] = lambda place, revision: None
    """Is told of each record, with its revision, before it is read."""
    changed: bool = False
    """Whether ``bad`` or ``held`` is other than when this was last set to False."""
    count: int = 0
    """Records ever put into quarantine."""

    def changes(self, scope: str, changes: Iterable[Change]) -> list[Update]:
        """What a batch of a watch changes in what is served."""
        updates = []
        for change in changes:
            place = (scope, change.key)
            self._settle(place)
            if change.value is None:
                updates += self._remove(place)
            else:
                updates += self._judge(place, change.value, change.revision)
        return updates

    def snapshot(self, scope: str, snapshot: Snapshot) -> list[Update]:
        """What a snapshot changes in what is served; what it lacks is removed only if it is little."""
        known = self.good.setdefault(scope, {})
        updates = []
        for key, (value, revision) in snapshot.values.items():
            self._settle((scope, key))
            served = known.get(key)
            if served is None or served.value != value:
                updates += self._judge((scope, key), value, revision)
            else:
                known[key] = served._replace(revision=revision)
                self._clear((scope, key))
        for place in [place for place in self.bad if place[0] == scope and place[1] not in snapshot.values]:
            self._clear(place)
        missing = [key for key in known if key not in snapshot.values]
        if self._too_many(known, missing):
            now = time.time()
            for key in missing:
                self.held.setdefault((scope, key), now)
            self.changed = True
            return updates
        for key in missing:
            self._settle((scope, key))
            updates += self._remove((scope, key))
        return updates

    def restore(self, scope: str, values: dict[str, tuple[bytes, int]]) -> list[Update]:
        """Takes what a last-known-good file holds."""
        updates = []
        for key, (value, revision) in values.items():
            updates += self._judge((scope, key), value, revision)
        return updates

    def quarantine(self, place: Place, revision: int, reason: str, no_room: bool = False) -> None:
        """Notes that the record at ``place`` is not served."""
        known = self.bad.get(place)
        if known is None or known.revision != revision or known.reason != reason:
            self.bad[place] = Bad(reason, revision, time.time(), no_room)
            self.changed = True
            self.count += 1

    def refuse(self, place: Place, reason: str) -> None:
        """A record that was judged good could not be served after all."""
        self.quarantine(place, self.revision(place), reason, no_room=True)

    def accept(self, place: Place) -> None:
        """The table has what is good at this place; a newer record that is bad stays in quarantine."""
        known = self.bad.get(place)
        if known is not None and known.no_room:
            self._clear(place)

    def revision(self, place: Place) -> int:
        """The revision that is served at ``place``; 0: none."""
        good = self.good.get(place[0], {}).get(place[1])
        return good.revision if good else 0

    def _judge(self, place: Place, value: bytes, revision: int) -> list[Update]:
        scope, key = place
        self.touching(place, revision)
        try:
            if self.poisoned.get(place) == revision:
                raise Invalid("this revision of the record crashed the state process twice")
            record = decode(scope, key, value)
            self._refuse_twin(place, record, value, revision)
        except Invalid as error:
            self.quarantine(place, revision, str(error))
            return []
        self._clear(place)
        good = Good(value, revision, record)
        self.good.setdefault(scope, {})[key] = good
        return [Update(place, good)]

    def _refuse_twin(self, place: Place, record: Record, value: bytes, revision: int) -> None:
        """A machine's id is one of a kind over all regions. Scopes have no common order, so the first one stays."""
        if not isinstance(record, Machine):
            return
        for scope, known in self.good.items():
            if scope != place[0] and place[1] in known:
                self.twins[place] = (value, revision)
                raise Invalid(f"there is a machine with this id in scope {scope} already")

    def _remove(self, place: Place) -> list[Update]:
        self._clear(place)
        if self.good.get(place[0], {}).pop(place[1], None) is None:
            return []
        updates = [Update(place, None)]
        for twin in [twin for twin in self.twins if twin[1] == place[1]]:
            updates += self._judge(twin, *self.twins[twin])
        return updates

    def _clear(self, place: Place) -> None:
        self.twins.pop(place, None)
        if self.bad.pop(place, None) is not None:
            self.changed = True

    def _settle(self, place: Place) -> None:
        if self.held.pop(place, None) is not None:
            self.changed = True

    @staticmethod
    def _too_many(known: dict[str, Good], missing: list[str]) -> bool:
        if len(missing) > HELD_OF_SCOPE * len(known):
            return True
        had = {key: good.record.app for key, good in known.items() if isinstance(good.record, Machine)}
        before, lost = Counter(had.values()), Counter(had[key] for key in missing if key in had)
        return any(count > HELD_OF_APP * before[app] for app, count in lost.items())
