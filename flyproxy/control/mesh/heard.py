"""Which of a peer's pings reached us: refuses replays, and is what we report back to it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 32
_ALL = (1 << WINDOW) - 1


@dataclass(slots=True)
class Heard:
    """``high`` is the highest sequence that came, bit i of ``bits`` says that ``high - i`` came, ``first`` is where
    this view begins: after a gap of a whole window (the peer's control process began anew) nothing before it is missed.
    """

    high: int = 0
    bits: int = 0
    first: int = 0

    def take(self, sequence: int) -> bool:
        """Note one. False: it came before, or is too old to tell."""
        ahead = sequence - self.high
        if not self.bits or ahead >= WINDOW:
            self.high, self.bits, self.first = sequence, 1, sequence
        elif ahead > 0:
            self.high, self.bits = sequence, (self.bits << ahead | 1) & _ALL
        elif -ahead >= WINDOW or self.bits >> -ahead & 1:
            return False
        else:
            self.bits |= 1 << -ahead
        return True

    @property
    def count(self) -> int:
        """How many of the bits stand for a ping that this view would have seen."""
        return min(self.high - self.first + 1, WINDOW) if self.bits else 0


def missing(bits: int, count: int, last: int) -> float:
    """The share of the lowest ``count`` bits, at most ``last``, that are not set; 0 for none."""
    count = min(count, last)
    return 1 - (bits & ((1 << count) - 1)).bit_count() / count if count > 0 else 0.0
