"""What the supervisor decides about upgrades: when they may be, and how the next program replaces every child."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flyproxy.master import model as m
from flyproxy.master.model import CONTROL, STATE
from flyproxy.master.supervisor import STOP_GRACE
from tests.master.test_supervisor import World


def test_an_upgrade_may_be_when_nothing_else_is_going_on() -> None:
    world = World().up()
    before = world.state
    assert world.do(m.Upgrade()) == [m.HandOver()]
    assert world.state == before, "the new program finds everything as it was"


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [(lambda world: world.reload(), "another reload is still in progress"),
     (lambda world: world.do(m.Stop()), "the proxy is stopping")],
)  # fmt: skip
def test_an_upgrade_is_refused_while_something_else_is_going_on(
    meanwhile: Callable[[World], object], why: str
) -> None:
    world = World().up()
    meanwhile(world)
    world.do(m.Upgrade())
    assert world.of(m.UpgradeRefused) == [m.UpgradeRefused(why)] and not world.of(m.HandOver)


def test_a_master_that_has_not_served_yet_is_not_upgraded() -> None:
    world = World()
    world.do(m.Upgrade())
    assert world.of(m.UpgradeRefused) == [m.UpgradeRefused("the proxy is still starting")]


def test_a_new_program_replaces_every_child_and_never_runs_two_writers() -> None:
    world = World().up()
    old = {post: world.id_at(*post) for post in (STATE, CONTROL, ("worker", 0), ("worker", 1))}
    world.do(m.Reload(world.state.policy, 7, workers=True, program=True))
    assert [quit.id for quit in world.of(m.Quit)] == [old[STATE], old[CONTROL]]
    assert [spawn.post for spawn in world.of(m.Spawn)] == [("worker", 0), ("worker", 1)]
    assert world.owners() == [0, 1, 0, 1], "the old workers serve until the new ones can"
    for post in (CONTROL, STATE):
        world.do(m.Exited(old[post], "exited with 0", clean=True))
        assert [spawn.post for spawn in world.of(m.Spawn)] == [post]
    assert world.state.seats[STATE].failures == 0 and not [n for n in world.all if isinstance(n, m.Note) and n.restart]
    world.ready(*world.pending())
    assert world.of(m.ReloadDone) == [m.ReloadDone(7)]
    assert {drain.id for drain in world.of(m.Drain)} == {old["worker", 0], old["worker", 1]}


def test_a_stopped_writer_is_killed_before_the_new_program_s_begins() -> None:
    world = World().up()
    state = world.id_at("state")
    world.do(m.Reload(world.state.policy, 7, workers=True, program=True))
    world.tick(after=STOP_GRACE)
    assert state in [kill.id for kill in world.of(m.Kill)] and not world.of(m.Spawn)
    world.do(m.Exited(state, "was killed by SIGKILL", "killed"))
    assert [spawn.post for spawn in world.of(m.Spawn)] == [STATE]


def test_what_the_last_program_was_about_to_kill_does_not_escape() -> None:
    world = World().up()
    world.tick(w0=(4.0, 0.0))
    (kill,) = world.of(m.Kill)
    world.do(m.Reload(world.state.policy, 7, workers=True, program=True))
    assert kill.id in [again.id for again in world.of(m.Kill)]
