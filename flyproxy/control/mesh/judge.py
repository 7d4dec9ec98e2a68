"""From pings and their answers to the state of one link. Pure: ``now`` is CLOCK_MONOTONIC seconds, handed in.

*State.* Unknown until the first answer (direct) or the third loss (down). Direct goes down after three losses with no
answer between them or to a later ping; down goes direct after three answers in a row in time, and after twice as many,
up to 24, each time it falls again within a minute: a link that loses half of everything stays down instead of coming
and going.

*Loss.* A ping is lost when no answer came in three round trips and 100 ms, at least 300 ms, at most 1 s. An answer that
comes later takes the loss back, so that a path that became slower is not a path that is cut; to a link that is down it
is as good as none. A refusal (the peer's kernel says that nobody listens) proves that the link works while the
process that answers is being started: for ten seconds it counts for nothing, then as a loss.

*Distance.* The round trip is an average that follows the lower quartile of the last 16 samples: queues only ever
add to a round trip, so the low ones are the path. It is stretched by loss: ``rtt * (1 + 4 * loss)``; with loss p a lost
segment waits for a retransmission of a few round trips, so one of ten lost costs about what 40 % more distance does.
``loss`` is the worst of three shares of the last 16: our pings without an answer, our pings that the peer did not hear
(it says so), the peer's pings that we did not hear.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from flyproxy.control.mesh.heard import Heard, missing

State = Literal["unknown", "direct", "down"]

NORMAL, FAST = 1.0, 0.2                 # seconds between two pings
BURST = 5                               # fast pings at the start and after a change
DOWN_AFTER = 3                          # losses
UP_AFTER, UP_AFTER_MAX = 3, 24          # answers in a row
CALM = 60.0                             # seconds after which a fall is held to be the first one
LAST = 16                               # pings that loss is counted over, samples that the quartile is taken of
SMOOTH = 0.25                           # of the way to the quartile, with each sample
LOSS_COSTS = 4
PATIENCE_MIN, PATIENCE_MAX = 0.3, 1.0   # seconds
OVERDUE_KEPT = 2.0                      # seconds after which an answer is no answer
REFUSAL_GRACE = 10.0                    # seconds that a control process may take to come, or to come back


@dataclass(slots=True)
class Link:
    """The link to one peer. ``sequence`` is that of the next ping; ``first`` the first one ever sent."""

    sequence: int
    state: State = "unknown"
    rtt: float | None = None
    hurry: int = BURST
    heard: Heard = field(default_factory=Heard)
    first: int = field(init=False)
    _waiting: dict[int, float] = field(default_factory=dict)    # sequence -> when sent, oldest first; not judged
    _overdue: dict[int, float] = field(default_factory=dict)    # likewise, judged to be lost
    _outcomes: dict[int, bool] = field(default_factory=dict)    # of the last 16 judged: whether it was answered
    _samples: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))
    _reported: tuple[int, int, int] = (0, 0, 0)                 # the peer's high, bits and count of our pings
    _good: int = 0
    _lost: int = 0
    _newest: int = -1                                           # of the pings that were answered
    _needed: int = UP_AFTER
    _recovered: float = -math.inf
    _answered: float = -math.inf
    _began: float = math.inf                                    # the first ping went out
    _heard_at: float = -math.inf

    def __post_init__(self) -> None:
        self.first = self.sequence

    # -- what happens

    def ping(self, now: float) -> int:
        """A ping goes out; its sequence."""
        sequence = self.sequence
        self.sequence += 1
        self.hurry = max(self.hurry - 1, 0)
        self._waiting[sequence] = now
        self._began = min(self._began, now)
        return sequence

    def answered(self, sequence: int, now: float) -> bool:
        """A pong came. False: for no ping that is out."""
        late = sequence in self._overdue
        sent = (self._overdue if late else self._waiting).pop(sequence, None)
        if sent is None:
            return False
        self._answered = now
        self._newest = max(self._newest, sequence)
        self._sample(max(now - sent, 0.0))
        self._judge(sequence, True)
        if self.state != "down":
            self.state, self._lost = "direct", 0
        elif not late:
            self._count_up(now)
        return True

    def refused(self, sequence: int, now: float) -> None:
        """The peer's kernel says that nobody listens."""
        sent = self._waiting.pop(sequence, None)
        if sent is not None and now - max(self._answered, self._began) > REFUSAL_GRACE:
            self._overdue[sequence] = sent
            self._count_lost(sequence, now)

    def expire(self, now: float) -> None:
        """Time has passed: count what is lost."""
        while self.next_loss <= now:
            sequence = next(iter(self._waiting))
            self._overdue[sequence] = self._waiting.pop(sequence)
            self._count_lost(sequence, now)
        while self._overdue and now - next(iter(self._overdue.values())) >= OVERDUE_KEPT:
            self._overdue.pop(next(iter(self._overdue)))

    def forget(self) -> None:
        """We were not there to hear answers: no verdict on what is out."""
        self._waiting.clear()

    def hear(self, sequence: int, now: float) -> bool:
        """The peer's ping came. False: it is a replay."""
        fresh = self.heard.take(sequence)
        if fresh:
            self._heard_at = now
        return fresh

    def reported(self, high: int, bits: int, count: int) -> None:
        """The peer says which of our pings it heard; reports may overtake each other."""
        if high >= self._reported[0]:
            self._reported = (high, bits, count)

    def hasten(self) -> None:
        """Something about the peer changed: look closely for a while."""
        self.hurry = BURST

    def restarted(self) -> None:
        """The peer has a new epoch: what it heard and sent before means nothing now."""
        self.heard, self._reported = Heard(), (0, 0, 0)
        self.hasten()

    # -- what it comes to

    @property
    def patience(self) -> float:
        """Seconds after which a ping is lost."""
        if self.rtt is None:
            return PATIENCE_MAX
        return min(max(3 * self.rtt + 0.1, PATIENCE_MIN), PATIENCE_MAX)

    @property
    def interval(self) -> float:
        """Seconds to the next ping, without jitter."""
        return FAST if self.hurry else NORMAL

    @property
    def next_loss(self) -> float:
        """When the oldest ping that is out will be lost; infinite for none."""
        return next(iter(self._waiting.values()), math.inf) + self.patience

    def hears(self, now: float) -> bool:
        """Whether the peer's own pings arrive."""
        return now - self._heard_at < DOWN_AFTER * NORMAL

    @property
    def loss(self) -> float:
        """0 to 1; see above."""
        unanswered = 1 - sum(self._outcomes.values()) / len(self._outcomes) if self._outcomes else 0.0
        high, bits, count = self._reported
        ours = min(count, high - self.first + 1)        # without those of the control process before this one
        return max(unanswered, missing(bits, ours, LAST), missing(self.heard.bits, self.heard.count, LAST))

    @property
    def distance(self) -> float | None:
        """Seconds, stretched by loss; None unless the link is direct."""
        return self.rtt * (1 + LOSS_COSTS * self.loss) if self.state == "direct" and self.rtt is not None else None

    # -- below

    def _sample(self, rtt: float) -> None:
        self._samples.append(rtt)
        low = sorted(self._samples)[(len(self._samples) - 1) // 4]
        self.rtt = low if self.rtt is None else self.rtt + SMOOTH * (low - self.rtt)

    def _judge(self, sequence: int, answered: bool) -> None:
        self._outcomes[sequence] = answered
        if len(self._outcomes) > LAST:
            del self._outcomes[min(self._outcomes)]

    def _count_up(self, now: float) -> None:
        self._good += 1
        if self._good == 1:
            self.hurry = max(self._needed, BURST)
        if self._good >= self._needed:
            self.state, self._lost, self._recovered = "direct", 0, now
            self.hurry = BURST

    def _count_lost(self, sequence: int, now: float) -> None:
        self._judge(sequence, False)
        self._good = 0
        if sequence < self._newest:     # the first answer shortens the patience with all that went before it
            return
        self._lost += 1
        if self._lost == 1:
            self.hurry = BURST
        if self._lost >= DOWN_AFTER and self.state != "down":
            again = now - self._recovered < CALM
            self._needed = min(2 * self._needed, UP_AFTER_MAX) if again else UP_AFTER
            self.state, self.hurry = "down", BURST
