"""The master's decisions as one pure function: ``step(state, event, now) -> (state, actions)``.

Knows no process, socket, file or clock. Every event is handled in two strides: the handler writes down what changed,
then ``settle`` restores what must always hold, in this order: deadlines, the generation on its way up, empty posts,
slots, and last the drains, so that a worker is told to stop accepting only after its slots have a new owner.

What always holds (tests/master/test_supervisor_invariants.py):
- whenever a worker is ready, every slot has exactly one owner, and it is a ready one;
- living generations never exceed ``max_generations``, living workers never exceed the process indexes;
- an index is used again only after its last user's death; never two living ``state`` processes;
- at least WATCHDOG_GAP seconds between two verdicts of the watchdog.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flyproxy.master import model as m
from flyproxy.master.model import Action, Child, Event, Phase, Post, Seat, State
from flyproxy.master.slots import assign

SUSPECT_AFTER = 0.5  # seconds without a turn of the engine until siblings take the slots
WATCHDOG_GAP = 2.0  # seconds between two verdicts: a fault that is in all workers must not take them all at once
WORK_FACTOR = 30  # how many times longer state or control may be silent while they work: a large table takes minutes
STOP_GRACE = 2.0  # seconds from "stop" to SIGKILL
DRAIN_GRACE = 1.0  # seconds from a drain's deadline, which the worker keeps by itself, to SIGKILL
LOST_GRACE = 1.0  # seconds that a child whose channel is closed has to exit


def step(state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """What follows from ``event`` at time ``now``; the given state is not touched."""
    turn = _Turn(state, now)
    _HANDLERS[type(event)](turn, event)
    turn.settle()
    return turn.result()


class _Turn:
    """One step's working copy."""

    def __init__(self, state: State, now: float) -> None:
        self.state = state
        self.policy = state.policy
        self.now = now
        self.children = dict(state.children)
        self.seats = dict(state.seats)
        self.generation = state.generation
        self.pending = state.pending
        self.owners = state.owners or (None,) * state.policy.slots
        self.next_id = state.next_id
        self.begun_at = state.begun_at
        self.loaded_at = state.loaded_at
        self.announced = state.announced
        self.stopping = state.stopping
        self.verdict_at = state.verdict_at
        self.waiting = list(state.waiting)
        self.actions: list[Action] = []
        self.drains: list[int] = []

    def result(self) -> tuple[State, list[Action]]:
        state = State(
            policy=self.policy, generation=self.generation, next_id=self.next_id, children=self.children,
            seats=self.seats, owners=self.owners, pending=self.pending, begun_at=self.begun_at,
            loaded_at=self.loaded_at, announced=self.announced, stopping=self.stopping,
            verdict_at=self.verdict_at, waiting=tuple(self.waiting),
        )  # fmt: skip
        return state, self.actions

    # -- words

    def note(self, level: str, event: str, message: str, restart: str | None = None, **fields: Any) -> None:
        self.actions.append(m.Note(level, event, message, fields, restart))

    def workers(self) -> list[Child]:
        return [child for child in self.children.values() if child.post[0] == "worker"]

    def set(self, child: Child, **changes: Any) -> Child:
        if "phase" in changes and changes["phase"] != child.phase:
            changes.setdefault("since", self.now)
        self.children[child.id] = child = replace(child, **changes)
        return child

    def in_seat(self, child: Child) -> bool:
        seat = self.seats.get(child.post)
        return seat is not None and seat.child == child.id

    def in_pending(self, child: Child) -> bool:
        return self.pending is not None and child.id in self.pending.children.values()

    # -- deeds

    def spawn(self, post: Post, generation: int) -> int | None:
        """A new child's id; None when every process index is still in use."""
        proc = None
        if post[0] == "worker":
            used = {child.proc for child in self.workers()}
            proc = next((index for index in range(self.policy.procs) if index not in used), None)
            if proc is None:
                self.cut_oldest("every process index is in use")
                return None
        child = Child(self.next_id, post, generation, proc, Phase.STARTING, self.now)
        self.next_id += 1
        self.children[child.id] = child
        self.actions.append(m.Spawn(child.id, post, generation, proc))
        return child.id

    def kill(self, child: Child, why: str, dump: bool = False) -> None:
        self.set(child, phase=Phase.ENDING, kill_at=None)
        self.actions.append(m.Kill(child.id, why, dump))

    def quit(self, child: Child) -> None:
        self.set(child, phase=Phase.ENDING, kill_at=self.now + STOP_GRACE, kill_why="did not stop when told")
        self.actions.append(m.Quit(child.id))

    def drain(self, child: Child) -> None:
        """The order itself goes out at the end of settle, after the slots have moved."""
        seconds = self.policy.drain_timeout
        self.set(child, phase=Phase.DRAINING, kill_at=self.now + seconds + DRAIN_GRACE, kill_why="drain timeout")
        self.drains.append(child.id)

    def vacate(self, child: Child, reason: str, why: str) -> None:
        """The holder of a post is lost: the next one comes after a delay that doubles with every early death.

        ``reason`` is one of few words, for the counter; ``why`` is for people.
        """
        seat = self.seats[child.post]
        stable = child.phase is Phase.READY and self.now - child.since >= self.policy.respawn_max
        failures = 0 if stable else seat.failures
        delay = min(self.policy.respawn_max, self.policy.respawn_min * 2.0 ** min(failures, 32))
        self.seats[child.post] = Seat(None, self.now + delay, failures + 1)
        self.note(
            "warning", "respawn", f"{_name(child.post)} is started again in {delay:g} s: {why}",
            restart=reason, role=child.post[0], index=child.post[1], delay_seconds=delay, failures=failures + 1,
        )  # fmt: skip

    def cut_oldest(self, why: str) -> None:
        """Makes room: the oldest draining generation ends now instead of at its deadline."""
        if any(child.phase is Phase.ENDING for child in self.workers()):
            return  # room is on its way
        draining = [child for child in self.workers() if child.phase is Phase.DRAINING]
        if not draining:
            return
        oldest = min(child.generation for child in draining)
        self.note("warning", "generation-cut", f"generation {oldest} is cut before its drain is over: {why}",
                  generation=oldest, fix="reload less often, or lower workers.drain_timeout")  # fmt: skip
        for child in draining:
            if child.generation == oldest:
                self.quit(child)

    def give_up_pending(self, why: str) -> None:
        pending = self.pending
        if pending is None:
            return
        self.pending = None
        for child_id in pending.children.values():
            if child_id in self.children and self.children[child_id].phase is not Phase.ENDING:
                self.kill(self.children[child_id], "its generation was given up")
        text = f"generation {pending.generation} was given up, generation {self.generation} goes on: {why}"
        self.note("error", "reload-refused", text, generation=pending.generation)
        self.actions.append(m.ReloadDone(pending.token, text))

    # -- what must hold after every event

    def settle(self) -> None:
        self.keep_deadlines()
        if self.stopping:
            self.finish_stop()
        else:
            self.raise_pending()
            self.fill_seats()
        self.share_slots()
        for child_id in self.drains:
            if child_id in self.children:
                self.actions.append(m.Drain(child_id, self.policy.drain_timeout))
        self.drains = []
        self.answer_drained()
        self.announce()

    def keep_deadlines(self) -> None:
        for child in list(self.children.values()):
            if child.kill_at is not None and self.now >= child.kill_at:
                if self.in_seat(child) and not self.stopping:
                    self.vacate(child, "lost", child.kill_why)
                self.kill(child, child.kill_why)
            elif self.in_seat(child) and self.late_start(child):
                self.vacate(child, "not-ready", "not ready in time")
                self.kill(child, f"not ready within {self.policy.ready_timeout:g} s")

    def late_start(self, child: Child) -> bool:
        """A worker can only be ready once there is a table; how long that takes is not its fault."""
        if child.post[0] != "worker" or child.phase is not Phase.STARTING or self.loaded_at is None:
            return False
        return self.now - max(child.since, self.loaded_at) >= self.policy.ready_timeout

    def raise_pending(self) -> None:
        pending = self.pending
        if pending is None:
            return
        if self.now >= pending.deadline:
            self.give_up_pending(f"its workers were not ready within {self.policy.ready_timeout:g} s")
            return
        living = {child.generation for child in self.workers()} - {pending.generation}
        if len(living) >= self.policy.max_generations:
            self.cut_oldest(f"workers.max_generations is {self.policy.max_generations}")
            return
        members = dict(pending.children)
        for index in range(self.policy.count):
            if index not in members and (child_id := self.spawn(("worker", index), pending.generation)) is not None:
                members[index] = child_id
        self.pending = pending = replace(pending, children=members)
        if len(members) == self.policy.count and all(
            self.children[child_id].phase is Phase.READY for child_id in members.values()
        ):
            self.promote(pending)

    def promote(self, pending: m.Pending) -> None:
        """The new generation serves from now on, and the old one drains."""
        for child in self.workers():
            if self.in_seat(child):
                self.retire(child)
        self.seats = {post: seat for post, seat in self.seats.items() if post[0] != "worker"}
        self.seats |= {("worker", index): Seat(child_id) for index, child_id in pending.children.items()}
        self.generation, self.pending = pending.generation, None
        self.note("info", "generation", f"generation {self.generation} serves", generation=self.generation)
        if pending.wait_drained:
            self.waiting.append((pending.token, pending.generation))
        else:
            self.actions.append(m.ReloadDone(pending.token))

    def retire(self, child: Child) -> None:
        """A worker that is not wanted any more: drained if it served, killed if it never did."""
        if child.phase is Phase.READY:
            self.drain(child)
        elif child.phase is Phase.STARTING:
            self.kill(child, "not wanted any more")

    def fill_seats(self) -> None:
        """One living ``state`` (single writer of the table) and one living ``control`` at a time, whatever happens."""
        for post, seat in list(self.seats.items()):
            if seat.child is not None or self.now < seat.spawn_at:
                continue
            if post[0] != "worker" and any(child.post == post for child in self.children.values()):
                continue
            if self.over_generations():
                continue
            child_id = self.spawn(post, self.generation)
            if child_id is not None:
                self.seats[post] = replace(seat, child=child_id)

    def over_generations(self) -> bool:
        """Whether one more worker of the current generation would make one generation too many."""
        living = {child.generation for child in self.workers()} | {self.generation}
        return len(living) > self.policy.max_generations

    def share_slots(self) -> None:
        ready = [child for child in self.workers() if child.phase is Phase.READY]
        seated = [child for child in ready if self.in_seat(child) and not child.suspect]
        others = [child for child in ready if not self.in_seat(child) and not child.suspect]
        accepting = {child.post[1]: child.id for child in seated or others or ready}
        owners = assign(self.policy.slots, max(self.policy.count, 1), accepting)
        for slot, (old, new) in enumerate(zip(self.owners, owners, strict=True)):
            if old != new:
                self.actions.append(m.SetOwner(slot, self.children[new].proc if new is not None else None))
        self.owners = owners

    def answer_drained(self) -> None:
        oldest = min((child.generation for child in self.workers()), default=self.generation)
        for token, generation in self.waiting:
            if generation <= oldest:
                self.actions.append(m.ReloadDone(token))
        self.waiting = [entry for entry in self.waiting if entry[1] > oldest]

    def announce(self) -> None:
        """Once: the table is there and all workers accept; or at least one does and the others had their time."""
        if self.announced or self.stopping or self.loaded_at is None or None in self.owners:
            return
        holders = [self.children.get(seat.child or 0) for post, seat in self.seats.items() if post[0] == "worker"]
        complete = all(child is not None and child.phase is Phase.READY for child in holders)
        if complete or self.now - self.loaded_at >= self.policy.ready_timeout:
            self.announced = True
            self.actions.append(m.Announce())

    def finish_stop(self) -> None:
        """Workers first; then state and control, which still write their last words; then the master itself.

        A quick stop tells all of them at once.
        """
        if self.workers() and self.stopping != "quick":
            return
        for child in list(self.children.values()):
            if child.phase is not Phase.ENDING:
                self.quit(child)
        if not self.children:
            self.actions.append(m.Leave())


# -- one handler for each event


def _begin(turn: _Turn, event: m.Begin) -> None:
    turn.begun_at = turn.now
    posts = [m.STATE, m.CONTROL, *(("worker", index) for index in range(turn.policy.count))]
    turn.seats = {post: Seat(spawn_at=turn.now) for post in posts}


def _ready(turn: _Turn, event: m.Ready) -> None:
    child = turn.children.get(event.id)
    if child is None or child.phase is not Phase.STARTING:
        return
    turn.set(child, phase=Phase.READY)
    if child.post == m.STATE and turn.loaded_at is None:
        turn.loaded_at = turn.now


def _refused(turn: _Turn, event: m.Refused) -> None:
    child = turn.children.get(event.id)
    if child is None or child.phase is Phase.ENDING:
        return
    if turn.in_pending(child):
        turn.give_up_pending(f"{_name(child.post)} refused: {event.why}")
        return
    if turn.in_seat(child) and not turn.stopping:
        turn.vacate(child, "refused", f"it refused: {event.why}")
    turn.quit(child)


def _exited(turn: _Turn, event: m.Exited) -> None:
    child = turn.children.pop(event.id, None)
    if child is None:
        return
    if child.proc is not None:
        turn.actions.append(m.Reclaim(child.proc))
    if turn.in_pending(child):
        turn.give_up_pending(f"{_name(child.post)} {event.meaning}")
    expected = turn.stopping or child.phase in (Phase.DRAINING, Phase.ENDING)
    turn.note("info" if event.clean or expected else "error", "exited", f"{_name(child.post)} {event.meaning}",
              role=child.post[0], index=child.post[1], generation=child.generation)  # fmt: skip
    if turn.in_seat(child):
        if turn.stopping:
            del turn.seats[child.post]
        else:
            turn.vacate(child, event.reason, event.meaning)


def _channel_lost(turn: _Turn, event: m.ChannelLost) -> None:
    child = turn.children.get(event.id)
    if child is not None and child.phase is not Phase.ENDING:
        turn.set(child, kill_at=turn.now + LOST_GRACE, kill_why="closed its channel but did not exit")


def _tick(turn: _Turn, event: m.Tick) -> None:
    if not event.on_time:
        return
    _judge_silence(turn, event)
    stuck: list[tuple[float, Child, bool]] = []
    for child in turn.workers():
        beat = event.beats.get(child.id)
        if beat is None or child.phase not in (Phase.READY, Phase.DRAINING):
            continue
        suspect = beat.engine_age > SUSPECT_AFTER
        if suspect != child.suspect:
            child = turn.set(child, suspect=suspect)
            _note_suspect(turn, child, beat)
        if beat.engine_age > turn.policy.stuck_after:
            stuck.append((beat.engine_age, child, True))
        elif beat.python_age > turn.policy.stuck_after and child.phase is Phase.READY:
            stuck.append((beat.python_age, child, False))
    if stuck and turn.now - turn.verdict_at >= WATCHDOG_GAP:
        turn.verdict_at = turn.now
        _judge(turn, *max(stuck, key=lambda entry: (entry[2], entry[0])))


def _judge_silence(turn: _Turn, event: m.Tick) -> None:
    """State and control: nothing on the way of a request waits for them, so they get more time than workers."""
    for child in list(turn.children.values()):
        silence = event.silences.get(child.id)
        if silence is None or child.phase is Phase.ENDING or turn.stopping:
            continue
        if turn.now - turn.verdict_at < WATCHDOG_GAP:
            return
        if silence.seconds > turn.policy.silent_after * (WORK_FACTOR if silence.working else 1):
            turn.verdict_at = turn.now
            why = f"it has not answered for {silence.seconds:.1f} s"
            turn.vacate(child, f"stuck-{child.post[0]}", why)
            turn.kill(child, why, dump=True)


def _note_suspect(turn: _Turn, child: Child, beat: m.Beat) -> None:
    name, age = _name(child.post), round(beat.engine_age, 3)
    if child.suspect:
        turn.note("warning", "suspect", f"{name} has not turned for {age:g} s: siblings take its slots",
                  index=child.post[1], engine_age_seconds=age)  # fmt: skip
    else:
        turn.note("info", "recovered", f"{name} turns again: it gets its slots back", index=child.post[1])


def _judge(turn: _Turn, age: float, child: Child, engine: bool) -> None:
    """A stuck engine is killed; a stuck Python side only costs a drain, because its traffic goes on."""
    if turn.in_pending(child):
        turn.give_up_pending(f"{_name(child.post)} is stuck for {age:.1f} s")
        return
    if turn.in_seat(child) and not turn.stopping:
        side = "engine" if engine else "python"
        turn.vacate(child, f"stuck-{side}", f"its {side} side is stuck")
    if engine:
        turn.kill(child, f"its engine has not turned for {age:.1f} s", dump=True)
    else:
        turn.drain(child)


def busy(state: State | _Turn) -> str:
    """Why there can be no reload now; empty: there can."""
    if state.stopping:
        return "the proxy is stopping"
    return "another reload is still in progress" if state.pending else ""


def _upgrade(turn: _Turn, event: m.Upgrade) -> None:
    why = busy(turn) or ("" if turn.announced else "the proxy is still starting")
    turn.actions.append(m.UpgradeRefused(why) if why else m.HandOver())


def _renew(turn: _Turn) -> None:
    """State and control end, and the next ones begin when these are dead. What the last program was about to kill may
    have escaped it."""
    for post in (m.STATE, m.CONTROL):
        for child in [child for child in turn.children.values() if child.post == post]:
            if child.phase is not Phase.ENDING:
                turn.quit(child)
        turn.seats[post] = Seat(spawn_at=turn.now)
    for child in list(turn.children.values()):
        if child.phase is Phase.ENDING and child.kill_at is None:
            turn.set(child, kill_at=turn.now, kill_why="it was to be killed before the upgrade")


def _reload(turn: _Turn, event: m.Reload) -> None:
    if why := busy(turn):
        turn.actions.append(m.ReloadDone(event.token, why))
        return
    turn.policy = event.policy
    if event.program:
        _renew(turn)
    if event.workers:
        number = 1 + max((child.generation for child in turn.workers()), default=turn.generation)
        number = max(number, turn.generation + 1)
        deadline = turn.now + turn.policy.ready_timeout
        turn.pending = m.Pending(number, deadline, event.token, event.wait_drained)
        return
    for post in [post for post in turn.seats if post[0] == "worker" and post[1] >= turn.policy.count]:
        seat = turn.seats.pop(post)
        if seat.child in turn.children:
            turn.retire(turn.children[seat.child])
    for index in range(turn.policy.count):
        turn.seats.setdefault(("worker", index), Seat(spawn_at=turn.now))
    turn.actions.append(m.ReloadDone(event.token))


def _stop(turn: _Turn, event: m.Stop) -> None:
    quick = event.quick or turn.stopping is not None
    if not turn.stopping:
        turn.give_up_pending("the proxy is stopping")
        turn.actions.append(m.CloseListeners())
    turn.stopping = "quick" if quick else "graceful"
    for child in turn.workers():
        if quick and child.phase is not Phase.ENDING:
            turn.quit(child)
        elif not quick:
            turn.retire(child)
    for token, _ in turn.waiting:
        turn.actions.append(m.ReloadDone(token, "the proxy is stopping"))
    turn.waiting = []


def _name(post: Post) -> str:
    return f"worker {post[1]}" if post[0] == "worker" else post[0]


_HANDLERS: dict[type, Callable[[_Turn, Any], None]] = {
    m.Begin: _begin, m.Ready: _ready, m.Refused: _refused, m.Exited: _exited, m.ChannelLost: _channel_lost,
    m.Tick: _tick, m.Reload: _reload, m.Upgrade: _upgrade, m.Stop: _stop,
}  # fmt: skip
