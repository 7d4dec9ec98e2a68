"""What always holds, whatever happens in whatever order: a random world of processes drives the supervisor."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flyproxy.master import model as m
from flyproxy.master.model import Beat, Phase, Policy, State
from flyproxy.master.supervisor import WATCHDOG_GAP, step


class RandomWorld(RuleBasedStateMachine):
    """Keeps its own books of living processes and owner words, from the actions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.alive: dict[int, m.Spawn] = {}
        self.killed: set[int] = set()
        self.words: dict[int, int | None] = {}
        self.verdicts: list[float] = []
        self.tokens: dict[int, int] = {}
        self.token = 0
        self.left = False
        self.stopped = False
        self.may_hand_over = False

    @initialize(
        count=st.integers(1, 4), slots=st.integers(4, 6), procs=st.sampled_from([8, 16]), generations=st.integers(2, 4)
    )
    def begin(self, count: int, slots: int, procs: int, generations: int) -> None:
        self.state = State(Policy(count, slots, procs, max_generations=generations))
        self.words = dict.fromkeys(range(slots))
        self.do(m.Begin())

    def do(self, event: m.Event) -> None:
        self.state, actions = step(self.state, event, self.now)
        for action in actions:
            self.note(action)

    def note(self, action: m.Action) -> None:
        if isinstance(action, m.Spawn):
            assert not self.stopped, "spawned after a stop"
            assert action.proc is None or action.proc not in [child.proc for child in self.alive.values()]
            assert action.post[0] == "worker" or action.post not in [child.post for child in self.alive.values()]
            self.alive[action.id] = action
        elif isinstance(action, m.SetOwner):
            self.words[action.slot] = action.proc
        elif isinstance(action, m.Kill):
            assert action.id in self.alive, "killed a process that is not there"
            self.killed.add(action.id)
            if action.dump:
                self.verdicts.append(self.now)
        elif isinstance(action, m.Drain | m.Quit):
            assert action.id in self.alive
        elif isinstance(action, m.HandOver):
            self.may_hand_over = True
        elif isinstance(action, m.ReloadDone):
            self.tokens[action.token] += 1
        elif isinstance(action, m.Leave):
            assert not self.alive, "left with children alive"
            self.left = True

    def pick(self, data: st.DataObject) -> int | None:
        return data.draw(st.sampled_from(sorted(self.alive))) if self.alive else None

    @rule(data=st.data())
    def somebody_is_ready(self, data: st.DataObject) -> None:
        if (child := self.pick(data)) is not None:
            self.do(m.Ready(child))

    @rule()
    def everybody_is_ready(self) -> None:
        for child in sorted(self.alive):
            self.do(m.Ready(child))

    @rule(data=st.data())
    def somebody_dies(self, data: st.DataObject) -> None:
        if (child := self.pick(data)) is not None:
            del self.alive[child]
            self.do(m.Exited(child, "died"))

    @rule()
    def the_killed_die(self) -> None:
        for child in sorted(self.killed & set(self.alive)):
            del self.alive[child]
            self.do(m.Exited(child, "was killed", "killed"))

    @rule(data=st.data(), lost=st.booleans())
    def somebody_fails(self, data: st.DataObject, lost: bool) -> None:
        if (child := self.pick(data)) is not None:
            self.do(m.ChannelLost(child) if lost else m.Refused(child, "why not"))

    @rule(seconds=st.sampled_from([0.05, 0.1, 0.3, 1.0, 11.0, 70.0]), data=st.data(), on_time=st.booleans())
    def time_passes(self, seconds: float, data: st.DataObject, on_time: bool) -> None:
        self.now += seconds
        ages = st.sampled_from([0.01, 0.6, 4.0])
        beats = {child.id: Beat(data.draw(ages), data.draw(ages)) for child in self.state.workers()}
        singles = [child for child in self.state.children.values() if child.post[0] != "worker"]
        silences = {child.id: m.Silence(data.draw(st.sampled_from([0.0, 11.0])), data.draw(st.booleans()))
                    for child in singles}  # fmt: skip
        self.do(m.Tick(beats, on_time, silences))

    @rule(workers=st.booleans(), wait=st.booleans(), count=st.integers(1, 4))
    def reload(self, workers: bool, wait: bool, count: int) -> None:
        self.token += 1
        self.tokens[self.token] = 0
        self.do(m.Reload(replace(self.state.policy, count=count), self.token, workers, wait))

    @rule(wait=st.booleans())
    def upgrade(self, wait: bool) -> None:
        """The next program goes on with the state as it is, and replaces every child."""
        self.may_hand_over = False
        self.do(m.Upgrade())
        if self.may_hand_over:
            self.token += 1
            self.tokens[self.token] = 0
            self.do(m.Reload(self.state.policy, self.token, workers=True, wait_drained=wait, program=True))

    @precondition(lambda self: self.token > 3)
    @rule(quick=st.booleans(), sure=st.integers(0, 4))
    def stop(self, quick: bool, sure: int) -> None:
        if sure == 0:
            self.stopped = True
            self.do(m.Stop(quick))

    @invariant()
    def every_slot_has_one_ready_owner_while_anybody_is_ready(self) -> None:
        if not self.words:
            return
        ready = [child for child in self.state.workers() if child.phase is Phase.READY]
        if not ready:
            assert set(self.words.values()) == {None}
            return
        assert set(self.words.values()) <= {child.proc for child in ready}
        assert {child.id for child in ready} <= set(self.alive)

    @invariant()
    def generations_and_indexes_are_bounded(self) -> None:
        if not self.words:
            return
        workers = [child for child in self.alive.values() if child.post[0] == "worker"]
        assert len({child.generation for child in workers}) <= self.state.policy.max_generations
        assert len(workers) <= self.state.policy.procs

    @invariant()
    def the_books_agree(self) -> None:
        if self.words:
            assert set(self.state.children) == set(self.alive)

    @invariant()
    def verdicts_keep_their_distance(self) -> None:
        gaps = [later - earlier for earlier, later in zip(self.verdicts, self.verdicts[1:], strict=False)]
        assert all(gap >= WATCHDOG_GAP - 1e-9 for gap in gaps)

    @invariant()
    def a_reload_is_answered_once(self) -> None:
        assert all(count <= 1 for count in self.tokens.values())

    def teardown(self) -> None:
        """However it went: a quick stop ends, and every reload has its answer."""
        if not self.words:
            return
        self.stopped = True
        self.do(m.Stop(quick=True))
        for _ in range(6):
            for child in sorted(self.alive):
                del self.alive[child]
                self.do(m.Exited(child, "gone"))
            self.now += 3
            self.do(m.Tick())
        assert self.left and not self.alive
        assert set(self.tokens.values()) <= {1}


RandomWorld.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRandomWorld = RandomWorld.TestCase
