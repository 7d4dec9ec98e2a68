"""Which record was being applied when the process last died; one that killed it twice is not touched again.

The place is noted before a record is read and before it goes into the table, in a file that outlives the process (not a
power cut, and it need not). The next start finds the note, counts, and skips what has CRASHES to its name until its
record has a new revision.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from flyproxy.state.files import make_file, write_whole
from flyproxy.state.guard import Place

APPLYING = "applying"
POISONED = "poisoned.json"
CRASHES = 2
REMEMBERED = 100


class Suspect(msgspec.Struct):
    """A record, and how often the process died on it."""

    scope: str
    key: str
    revision: int
    crashes: int = 0


_LIST: msgspec.json.Decoder[list[Suspect]] = msgspec.json.Decoder(list[Suspect])
_ONE: msgspec.json.Decoder[Suspect] = msgspec.json.Decoder(Suspect)


class Poison:
    """The notes in ``state_dir``. Without a folder that can be written it works as if nothing had ever crashed."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, POISONED)
        self._fd = -1
        self.suspects: list[Suspect] = []
        with contextlib.suppress(OSError, msgspec.DecodeError), open(self._path, "rb") as file:
            self.suspects = _LIST.decode(file.read())
        with contextlib.suppress(OSError):
            applying = os.path.join(state_dir, APPLYING)
            make_file(applying)
            self._fd = os.open(applying, os.O_RDWR | os.O_CLOEXEC)
            self._count(os.pread(self._fd, 4096, 0).partition(b"\n")[0])
            self.done()

    @property
    def poisoned(self) -> dict[Place, int]:
        """What must not be touched: places with the revision that is poison."""
        return {(one.scope, one.key): one.revision for one in self.suspects if one.crashes >= CRASHES}

    def touching(self, place: Place, revision: int) -> None:
        """This record is next."""
        if self._fd >= 0:
            note = msgspec.json.encode(Suspect(place[0], place[1], revision))
            os.pwrite(self._fd, note[:4095] + b"\n", 0)

    def done(self) -> None:
        """Whatever was touched did no harm."""
        if self._fd >= 0:
            os.pwrite(self._fd, b"\n", 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _count(self, note: bytes) -> None:
        if not note:
            return
        try:
            found = _ONE.decode(note)
        except msgspec.DecodeError:
            return
        known = [one for one in self.suspects if (one.scope, one.key) == (found.scope, found.key)]
        before = next((one.crashes for one in known if one.revision == found.revision), 0)
        found.crashes = before + 1
        others = [one for one in self.suspects if one not in known]
        self.suspects = [*others[-REMEMBERED + 1:], found]
        write_whole(self._path, msgspec.json.encode(self.suspects))
