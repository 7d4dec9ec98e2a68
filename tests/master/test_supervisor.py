"""The supervisor's decisions, one by one, without processes."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

from flyproxy.master import model as m
from flyproxy.master.model import CONTROL, STATE, Action, Beat, Phase, Policy, State
from flyproxy.master.supervisor import DRAIN_GRACE, STOP_GRACE, WATCHDOG_GAP, step

T = TypeVar("T")
POLICY = Policy(count=2, slots=4, procs=16)


class World:
    """A supervisor with a clock and a record of what it asked for."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.state = State(policy)
        self.now = 100.0
        self.actions: list[Action] = []
        self.all: list[Action] = []
        self.do(m.Begin())

    def do(self, event: m.Event, after: float = 0.0) -> list[Action]:
        self.now += after
        self.state, self.actions = step(self.state, event, self.now)
        self.all += self.actions
        return self.actions

    def of(self, kind: type[T]) -> list[T]:
        return [action for action in self.actions if isinstance(action, kind)]

    def id_at(self, role: str, index: int = 0) -> int:
        child = self.state.child_at((role, index))
        assert child is not None, f"nobody holds {role} {index}"
        return child.id

    def ready(self, *ids: int) -> None:
        for child_id in ids:
            self.do(m.Ready(child_id))

    def up(self) -> World:
        self.ready(self.id_at("state"), self.id_at("control"))
        self.ready(*(self.id_at("worker", n) for n in range(self.state.policy.count)))
        return self

    def owners(self) -> list[int | None]:
        return [self.state.children[owner].post[1] if owner else None for owner in self.state.owners]

    def tick(self, after: float = 0.1, on_time: bool = True, **ages: tuple[float, float]) -> list[Action]:
        """Beats of the seated workers: w0=(engine age, python age) ...; the others are fresh."""
        beats = {child.id: Beat(0.01, 0.01) for child in self.state.workers()}
        for name, (engine, python) in ages.items():
            beats[self.id_at("worker", int(name[1:]))] = Beat(engine, python)
        return self.do(m.Tick(beats, on_time), after)

    def reload(self, workers: bool = True, wait: bool = False, **changes: object) -> list[Action]:
        return self.do(m.Reload(replace(self.state.policy, **changes), 7, workers, wait))  # type: ignore[arg-type]

    def pending(self) -> list[int]:
        assert self.state.pending is not None
        return list(self.state.pending.children.values())


def test_the_start_spawns_state_control_and_the_workers() -> None:
    world = World()
    assert [spawn.post for spawn in world.of(m.Spawn)] == [STATE, CONTROL, ("worker", 0), ("worker", 1)]
    assert [spawn.proc for spawn in world.of(m.Spawn)] == [None, None, 0, 1]


def test_ready_is_announced_once_when_the_table_is_loaded_and_all_workers_accept() -> None:
    world = World()
    world.ready(world.id_at("worker", 0), world.id_at("worker", 1))
    assert not any(isinstance(action, m.Announce) for action in world.all)
    world.ready(world.id_at("state"))
    assert world.of(m.Announce)
    world.tick()
    assert not world.of(m.Announce)


def test_one_worker_that_cannot_start_does_not_hold_ready_back_for_ever() -> None:
    world = World()
    world.ready(world.id_at("state"), world.id_at("worker", 0))
    assert not world.of(m.Announce)
    world.tick(after=POLICY.ready_timeout)
    assert world.of(m.Announce)


def test_workers_are_given_time_while_there_is_no_table() -> None:
    world = World()
    world.tick(after=1000)
    assert not world.of(m.Kill)
    world.ready(world.id_at("state"))
    world.tick(after=POLICY.ready_timeout - 0.1)
    assert not world.of(m.Kill)
    world.tick(after=0.2)
    assert len(world.of(m.Kill)) == 2


def test_slots_are_owned_by_ready_workers_only() -> None:
    world = World()
    assert world.state.owners == (None,) * 4
    world.ready(world.id_at("worker", 1))
    assert world.owners() == [1, 1, 1, 1]
    world.ready(world.id_at("worker", 0))
    assert world.owners() == [0, 1, 0, 1]


def test_a_dead_worker_s_slots_are_taken_over_at_once_and_given_back_when_it_returns() -> None:
    world = World().up()
    dead = world.state.children[world.id_at("worker", 0)]
    world.do(m.Exited(dead.id, "was killed by SIGKILL", "killed"))
    assert world.owners() == [1, 1, 1, 1]
    assert world.of(m.Reclaim) == [m.Reclaim(dead.proc or 0)]
    world.tick(after=POLICY.respawn_min)
    assert [spawn.post for spawn in world.of(m.Spawn)] == [("worker", 0)]
    assert world.owners() == [1, 1, 1, 1]
    world.ready(world.id_at("worker", 0))
    assert world.owners() == [0, 1, 0, 1]


def test_back_off_doubles_up_to_the_limit_and_is_forgotten_after_a_stable_time() -> None:
    world = World().up()
    delays = []
    for _ in range(9):
        world.do(m.Exited(world.id_at("worker", 0), "exited with 1"))
        delays.append(world.state.seats["worker", 0].spawn_at - world.now)
        world.tick(after=delays[-1] + 0.001)
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    world.ready(world.id_at("worker", 0))
    world.do(m.Exited(world.id_at("worker", 0), "exited with 1"), after=POLICY.respawn_max)
    assert world.state.seats["worker", 0].spawn_at - world.now == pytest.approx(0.1)


@pytest.mark.parametrize("post", [STATE, CONTROL])
def test_state_and_control_are_restarted_and_take_nothing_from_traffic(post: m.Post) -> None:
    world = World().up()
    before = world.owners()
    world.do(m.Exited(world.id_at(*post), "exited with 1"))
    world.tick(after=0.2)
    assert [spawn.post for spawn in world.of(m.Spawn)] == [post]
    assert world.owners() == before


def test_a_new_state_waits_for_the_death_of_the_old_one() -> None:
    world = World().up()
    old = world.id_at("state")
    world.do(m.ChannelLost(old))
    world.tick(after=1.1)
    assert [kill.id for kill in world.of(m.Kill)] == [old]
    world.tick(after=5)
    assert not world.of(m.Spawn)
    world.do(m.Exited(old, "was killed by SIGKILL", "killed"))
    assert [spawn.post for spawn in world.of(m.Spawn)] == [STATE]


def test_an_engine_that_stands_still_loses_its_slots_after_half_a_second_and_gets_them_back() -> None:
    world = World().up()
    world.tick(w0=(0.45, 0.01))
    assert world.owners() == [0, 1, 0, 1]
    world.tick(w0=(0.55, 0.01))
    assert world.owners() == [1, 1, 1, 1]
    world.tick()
    assert world.owners() == [0, 1, 0, 1]


def test_late_beats_are_not_judged_when_the_master_itself_was_late() -> None:
    world = World().up()
    world.tick(on_time=False, w0=(60.0, 60.0), w1=(60.0, 60.0))
    assert world.owners() == [0, 1, 0, 1]
    assert not world.of(m.Kill)


def test_slots_stay_where_they_are_when_every_worker_stands_still() -> None:
    world = World().up()
    world.tick(w0=(1.0, 0.0), w1=(1.0, 0.0))
    assert world.owners() == [0, 1, 0, 1]


def test_stuck_engines_are_dumped_and_killed_one_at_a_time() -> None:
    world = World().up()
    first, second = world.id_at("worker", 0), world.id_at("worker", 1)
    world.tick(w0=(3.2, 0.0), w1=(3.1, 0.0))
    assert world.of(m.Kill) == [m.Kill(first, "its engine has not turned for 3.2 s", dump=True)]
    beats = {second: Beat(3.2, 0.0)}
    world.do(m.Tick(beats), after=WATCHDOG_GAP - 0.1)
    assert not world.of(m.Kill)
    world.do(m.Tick(beats), after=0.2)
    assert [kill.id for kill in world.of(m.Kill)] == [second]


def test_a_stuck_python_side_costs_a_drain_and_no_kill() -> None:
    world = World().up()
    old = world.id_at("worker", 0)
    world.tick(w0=(0.0, 3.1))
    assert [drain.id for drain in world.of(m.Drain)] == [old]
    assert not world.of(m.Kill)
    assert world.owners() == [1, 1, 1, 1]
    world.tick()
    assert [spawn.post for spawn in world.of(m.Spawn)] == [("worker", 0)]


def test_settings_alone_replace_nobody() -> None:
    world = World().up()
    world.reload(workers=False, drain_timeout=5.0)
    assert world.actions == [m.ReloadDone(7)]
    assert world.state.policy.drain_timeout == 5.0


def test_a_new_generation_takes_over_only_when_all_of_it_is_ready() -> None:
    world = World().up()
    old = [world.id_at("worker", 0), world.id_at("worker", 1)]
    world.reload()
    fresh = world.pending()
    assert [spawn.generation for spawn in world.of(m.Spawn)] == [2, 2]
    world.ready(fresh[0])
    assert [owner for owner in world.state.owners if owner in fresh] == []
    world.ready(fresh[1])
    assert world.state.owners == (fresh[0], fresh[1], fresh[0], fresh[1])
    assert [drain.id for drain in world.of(m.Drain)] == old
    assert world.of(m.ReloadDone) == [m.ReloadDone(7)]


def test_the_old_generation_drains_after_its_slots_have_moved() -> None:
    world = World().up()
    world.reload()
    world.ready(*world.pending())
    kinds = [type(action) for action in world.actions]
    assert max(n for n, kind in enumerate(kinds) if kind is m.SetOwner) < kinds.index(m.Drain)


def test_a_drain_that_takes_too_long_is_ended() -> None:
    world = World().up()
    world.reload()
    world.ready(*world.pending())
    old = [drain.id for drain in world.of(m.Drain)]
    world.tick(after=POLICY.drain_timeout)
    assert not world.of(m.Kill)
    world.tick(after=DRAIN_GRACE)
    assert [kill.id for kill in world.of(m.Kill)] == old


@pytest.mark.parametrize("how", ["silent", "refused", "dead", "stuck"])
def test_a_generation_that_never_gets_ready_is_given_up_and_the_old_one_goes_on(how: str) -> None:
    world = World().up()
    owners = world.state.owners
    world.reload()
    fresh = world.pending()
    world.ready(fresh[0])
    if how == "silent":
        world.tick(after=POLICY.ready_timeout)
    elif how == "refused":
        world.do(m.Refused(fresh[1], "another layout"))
    elif how == "dead":
        world.do(m.Exited(fresh[1], "exited with 3"))
    else:
        world.do(m.Tick({fresh[0]: Beat(3.1, 0.0)}))
    assert world.state.pending is None
    assert world.state.owners == owners
    (done,) = world.of(m.ReloadDone)
    assert done.error is not None and "generation 2" in done.error
    assert {kill.id for kill in world.of(m.Kill)} >= set(fresh) - ({fresh[1]} if how == "dead" else set())
    assert not world.of(m.Drain)


def test_a_reload_during_a_reload_is_refused() -> None:
    world = World().up()
    world.reload()
    world.reload()
    assert world.of(m.ReloadDone) == [m.ReloadDone(7, "another reload is still in progress")]
    assert len(world.pending()) == 2


def test_a_reload_may_wait_until_the_old_generation_is_gone() -> None:
    world = World().up()
    old = [world.id_at("worker", 0), world.id_at("worker", 1)]
    world.reload(wait=True)
    world.ready(*world.pending())
    assert not world.of(m.ReloadDone)
    world.do(m.Exited(old[0], "drained", clean=True))
    assert not world.of(m.ReloadDone)
    world.do(m.Exited(old[1], "drained", clean=True))
    assert world.of(m.ReloadDone) == [m.ReloadDone(7)]


def test_a_drained_worker_is_not_replaced() -> None:
    world = World().up()
    old = world.id_at("worker", 0)
    world.reload()
    world.ready(*world.pending())
    world.do(m.Exited(old, "drained", clean=True))
    world.tick(after=20)
    assert not world.of(m.Spawn)


def test_the_oldest_generation_is_cut_when_there_would_be_too_many() -> None:
    world = World(replace(POLICY, max_generations=3)).up()
    first = [world.id_at("worker", 0), world.id_at("worker", 1)]
    for _ in range(2):
        world.reload()
        world.ready(*world.pending())
    world.reload()
    assert [quit.id for quit in world.of(m.Quit)] == first
    assert world.pending() == []
    world.tick()
    assert not world.of(m.Quit), "the next one is not cut while room is on its way"
    for child_id in first:
        world.do(m.Exited(child_id, "stopped", clean=True))
    assert len(world.pending()) == 2
    world.ready(*world.pending())
    assert world.of(m.ReloadDone) == [m.ReloadDone(7)]


def test_process_indexes_run_out_and_are_made_room_for() -> None:
    world = World(replace(POLICY, procs=4)).up()
    old = [world.id_at("worker", 0), world.id_at("worker", 1)]
    world.reload()
    world.ready(*world.pending())
    world.reload()
    assert [quit.id for quit in world.of(m.Quit)] == old
    for child_id in old:
        world.do(m.Exited(child_id, "stopped", clean=True))
    assert sorted(world.state.children[child_id].proc or 0 for child_id in world.pending()) == [0, 1]


def test_fewer_workers_drain_the_last_ones_and_more_are_spawned() -> None:
    world = World(replace(POLICY, count=4)).up()
    leaving = [world.id_at("worker", 2), world.id_at("worker", 3)]
    world.reload(workers=False, count=2)
    assert [drain.id for drain in world.of(m.Drain)] == leaving
    assert world.owners() == [0, 1, 0, 1]
    world.reload(workers=False, count=4)
    assert [spawn.post for spawn in world.of(m.Spawn)] == [("worker", 2), ("worker", 3)]
    world.ready(world.id_at("worker", 2), world.id_at("worker", 3))
    assert world.owners() == [0, 1, 2, 3]


def test_a_graceful_stop_drains_workers_then_ends_state_and_control_then_leaves() -> None:
    world = World().up()
    world.do(m.Stop())
    workers = [drain.id for drain in world.of(m.Drain)]
    assert len(workers) == 2 and world.of(m.CloseListeners)
    assert not world.of(m.Quit)
    for child_id in workers:
        world.do(m.Exited(child_id, "drained", clean=True))
    others = [quit.id for quit in world.of(m.Quit)]
    assert [world.state.children[child_id].post for child_id in others] == [STATE, CONTROL]
    for child_id in others:
        assert not world.of(m.Leave)
        world.do(m.Exited(child_id, "stopped", clean=True))
    assert world.of(m.Leave)


@pytest.mark.parametrize("stops", [[m.Stop(quick=True)], [m.Stop(), m.Stop()], [m.Stop(), m.Stop(quick=True)]])
def test_a_quick_or_second_stop_waits_for_nobody(stops: list[m.Stop]) -> None:
    world = World().up()
    for stop in stops:
        world.do(stop)
    assert len(world.of(m.Quit)) == 4
    world.tick(after=STOP_GRACE)
    assert len(world.of(m.Kill)) == 4
    for child in list(world.state.children.values()):
        world.do(m.Exited(child.id, "gone"))
    assert world.of(m.Leave)


def test_a_stop_ends_a_reload_and_nothing_is_spawned_any_more() -> None:
    world = World().up()
    world.reload()
    fresh = world.pending()
    world.do(m.Stop())
    assert {kill.id for kill in world.of(m.Kill)} == set(fresh)
    assert [done.error is not None for done in world.of(m.ReloadDone)] == [True]
    world.do(m.Exited(world.id_at("state"), "exited with 1"))
    world.tick(after=30)
    assert not world.of(m.Spawn)


def test_messages_of_the_dead_are_ignored() -> None:
    world = World().up()
    before = world.state
    for event in (m.Ready(999), m.Refused(999, "x"), m.Exited(999, "x"), m.ChannelLost(999)):
        assert world.do(event) == []
    assert world.state == before


def test_a_step_leaves_the_given_state_alone() -> None:
    world = World().up()
    before = world.state
    copy = replace(before, children=dict(before.children), seats=dict(before.seats))
    step(before, m.Exited(world.id_at("worker", 0), "gone"), world.now)
    assert before == copy


def test_a_worker_that_refuses_is_tried_again_with_back_off() -> None:
    world = World()
    refusing = world.id_at("worker", 0)
    world.do(m.Refused(refusing, "no layout"))
    assert [quit.id for quit in world.of(m.Quit)] == [refusing]
    assert world.state.children[refusing].phase is Phase.ENDING
    world.tick(after=0.2)
    assert [spawn.post for spawn in world.of(m.Spawn)] == [("worker", 0)]


def test_the_time_before_ready_is_not_stable_time() -> None:
    world = World()
    for failures in (1, 2):
        world.do(m.Exited(world.id_at("worker", 0), "exited with 1"), after=POLICY.respawn_max * 2)
        assert world.state.seats["worker", 0].failures == failures
        world.tick(after=0.3)
    world.tick(after=POLICY.respawn_max * 2)
    world.ready(world.id_at("worker", 0))
    world.do(m.Exited(world.id_at("worker", 0), "exited with 1"))
    assert world.state.seats["worker", 0].failures == 3


def test_a_worker_on_its_way_up_helps_out_when_every_other_one_stands_still() -> None:
    world = World().up()
    world.reload()
    fresh = world.pending()[0]
    world.ready(fresh)
    world.tick(w0=(1.0, 0.0), w1=(1.0, 0.0))
    assert world.state.owners == (fresh,) * 4


def test_a_respawn_waits_while_it_would_be_one_generation_too_many() -> None:
    world = World(replace(POLICY, max_generations=2)).up()
    world.reload()
    world.ready(*world.pending())
    for index in range(2):
        world.do(m.Exited(world.id_at("worker", index), "exited with 1"))
    world.reload()
    assert {child.generation for child in world.state.workers()} == {1, 3}
    world.tick(after=1.0)
    assert not world.of(m.Spawn)
    assert {child.generation for child in world.state.workers()} == {1, 3}


def test_who_waits_for_a_drain_is_told_of_a_stop() -> None:
    world = World().up()
    world.reload(wait=True)
    world.ready(*world.pending())
    world.do(m.Stop())
    assert world.of(m.ReloadDone) == [m.ReloadDone(7, "the proxy is stopping")]
