"""What a master is to other hosts from one start to the next: its boot epoch, and the ports of its backhaul.

The epoch is the start's time in unix seconds, raised if needed so that it grows with every start: a host that knows the
newer one refuses whoever still goes by the older. The ports are remembered so that free ones stay the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flyproxy import log
from flyproxy.state.files import write_whole

FILE = "incarnation.json"
EPOCH_MAX = (1 << 32) - 1


class Known(msgspec.Struct, frozen=True):
    """The file in the state folder: what the last master was."""

    epoch: int = 0
    backhaul_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Incarnation:
    """``ports``: those of the last master; this one's are known once they are bound."""

    folder: str
    epoch: int
    ports: tuple[int, ...]

    def remember(self, ports: tuple[int, ...]) -> None:
        """For the next master; before anybody is told of this one. Raises OSError."""
        write_whole(os.path.join(self.folder, FILE), msgspec.json.encode(Known(self.epoch, ports)))


def begin(folder: str, now: float) -> Incarnation:
    """A new start at ``now`` (unix seconds). Raises OSError when what the last one was cannot be read."""
    known = _read(Path(folder, FILE))
    return Incarnation(folder, min(max(int(now), known.epoch + 1), EPOCH_MAX), known.backhaul_ports)


def _read(path: Path) -> Known:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Known)
    except FileNotFoundError:
        return Known()
    except msgspec.DecodeError as error:
        log.warning("incarnation-lost", f"{path} is damaged, so the clock alone gives the epoch: {error}",
                    fix="nothing, unless the clock was set back since the last start")  # fmt: skip
        return Known()
