"""What the supervisor knows, what can happen to it, and what it can ask for. Data only.

Times are seconds of CLOCK_MONOTONIC, handed in by the shell; durations are seconds. Children are named by ``id``, a
number that is never used twice; ``proc`` is a worker's index in shared memory, which is used again once the kernel
has confirmed that its owner is dead.

A *post* is a job that somebody must do: ``("state", 0)``, ``("control", 0)``, ``("worker", 0)`` ... It outlives the
children that hold it, and keeps the back-off of a post whose holders keep dying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Post = tuple[str, int]

STATE: Post = ("state", 0)
CONTROL: Post = ("control", 0)


class Phase(StrEnum):
    """STARTING -> READY -> DRAINING -> ENDING -> gone; any step may be left out on the way down."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # takes no new connections, finishes what it has
    ENDING = "ending"  # told to stop or killed: nothing but its death is awaited


@dataclass(frozen=True)
class Policy:
    """The settings that the supervisor follows. ``slots`` and ``procs`` are fixed for the master's life."""

    count: int
    slots: int
    procs: int
    drain_timeout: float = 60.0
    stuck_after: float = 3.0
    respawn_min: float = 0.1
    respawn_max: float = 10.0
    max_generations: int = 8
    ready_timeout: float = 10.0
    silent_after: float = 10.0  # state and control


@dataclass(frozen=True)
class Child:
    """A living process; it is forgotten when the kernel says that it is dead, and not before."""

    id: int
    post: Post
    generation: int
    proc: int | None  # workers only
    phase: Phase
    since: float  # start of the phase
    kill_at: float | None = None
    kill_why: str = ""
    suspect: bool = False  # its engine has not turned for a while: siblings own its slots


@dataclass(frozen=True)
class Seat:
    """Who holds a post of the current generation; with ``child`` None: when the next one is spawned."""

    child: int | None = None
    spawn_at: float = 0.0
    failures: int = 0


@dataclass(frozen=True)
class Pending:
    """A generation on its way up. It takes over once all of its workers are ready, or is given up as a whole."""

    generation: int
    deadline: float
    token: int
    wait_drained: bool
    children: Mapping[int, int] = field(default_factory=dict)  # worker index -> child id


@dataclass(frozen=True)
class State:
    """Everything the supervisor knows."""

    policy: Policy
    generation: int = 1
    next_id: int = 1
    children: Mapping[int, Child] = field(default_factory=dict)
    seats: Mapping[Post, Seat] = field(default_factory=dict)
    owners: tuple[int | None, ...] = ()  # child id per slot
    pending: Pending | None = None
    begun_at: float = 0.0
    loaded_at: float | None = None  # when the state process said first that the table is there
    announced: bool = False
    stopping: str | None = None  # "graceful" or "quick"
    verdict_at: float = float("-inf")  # the watchdog's last one
    waiting: tuple[tuple[int, int], ...] = ()  # (token, generation): a reload that waits for older ones to be gone

    def child_at(self, post: Post) -> Child | None:
        """The child that holds a post now."""
        seat = self.seats.get(post)
        return self.children.get(seat.child) if seat and seat.child is not None else None

    def workers(self) -> list[Child]:
        """All living workers, by index and age."""
        found = [child for child in self.children.values() if child.post[0] == "worker"]
        return sorted(found, key=lambda child: (child.post[1], child.id))


# -- what can happen


@dataclass(frozen=True)
class Begin:
    """The master has its sockets and segments."""


@dataclass(frozen=True)
class Ready:
    """A child serves: state has a table, a worker has read it and can accept."""

    id: int


@dataclass(frozen=True)
class Refused:
    """A child says that it cannot do its work, and why."""

    id: int
    why: str


@dataclass(frozen=True)
class Exited:
    """The kernel has confirmed a child's death. ``meaning`` explains it, ``reason`` is one word for the counter."""

    id: int
    meaning: str
    reason: str = "exited"
    clean: bool = False


@dataclass(frozen=True)
class ChannelLost:
    """A child's end of the channel is closed: it cannot be told anything any more."""

    id: int


@dataclass(frozen=True)
class Beat:
    """Seconds since a worker's engine began its last turn, and since its Python side last said that it runs."""

    engine_age: float
    python_age: float


@dataclass(frozen=True)
class Silence:
    """Seconds since state or control was asked and has not answered, and whether it was on a CPU meanwhile."""

    seconds: float
    working: bool


@dataclass(frozen=True)
class Tick:
    """Time passes. ``on_time``: the master itself was not held up, so late beats are the workers' own fault."""

    beats: Mapping[int, Beat] = field(default_factory=dict)
    on_time: bool = True
    silences: Mapping[int, Silence] = field(default_factory=dict)


@dataclass(frozen=True)
class Reload:
    """New settings hold; ``workers``: replace the workers too; ``program``: this is another program than the one that
    started the children, so replace state and control as well. The answer is a ReloadDone with the same token."""

    policy: Policy
    token: int
    workers: bool = False
    wait_drained: bool = False
    program: bool = False


@dataclass(frozen=True)
class Upgrade:
    """Become the program that is installed now. The answer is HandOver or UpgradeRefused."""


@dataclass(frozen=True)
class Stop:
    """Leave: ``quick`` drops connections. A second graceful Stop counts as quick."""

    quick: bool = False


Event = Begin | Ready | Refused | Exited | ChannelLost | Tick | Reload | Upgrade | Stop

# -- what the supervisor asks for


@dataclass(frozen=True)
class Spawn:
    """Start a process."""

    id: int
    post: Post
    generation: int
    proc: int | None


@dataclass(frozen=True)
class SetOwner:
    """Write a slot's owner word: the process index that accepts, or None for nobody."""

    slot: int
    proc: int | None


@dataclass(frozen=True)
class Drain:
    """Tell a worker to accept no more and to leave when its connections are done, after ``seconds`` at the latest."""

    id: int
    seconds: float


@dataclass(frozen=True)
class Quit:
    """Tell a child to leave at once."""

    id: int


@dataclass(frozen=True)
class Kill:
    """SIGKILL; with ``dump`` the process is looked at from outside first."""

    id: int
    why: str
    dump: bool = False


@dataclass(frozen=True)
class Reclaim:
    """Zero what a dead worker's index holds in shared memory."""

    proc: int


@dataclass(frozen=True)
class CloseListeners:
    """Close the listening sockets: no new connections from now on."""


@dataclass(frozen=True)
class Announce:
    """Table loaded, workers accepting."""


@dataclass(frozen=True)
class ReloadDone:
    """The answer to a Reload; ``error`` None: the new settings (and generation) are in force."""

    token: int
    error: str | None = None


@dataclass(frozen=True)
class HandOver:
    """Write down the state as it is after this step, and execute the program that is installed now."""


@dataclass(frozen=True)
class UpgradeRefused:
    """The answer to an Upgrade that cannot be now."""

    why: str


@dataclass(frozen=True)
class Note:
    """A line for the log. ``restart`` names the reason of an unplanned restart, for its counter."""

    level: str
    event: str
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)
    restart: str | None = None


@dataclass(frozen=True)
class Leave:
    """Everything is gone: the master exits with 0."""


Action = (
    Spawn | SetOwner | Drain | Quit | Kill | Reclaim | CloseListeners | Announce | ReloadDone | HandOver
    | UpgradeRefused | Note | Leave
)
