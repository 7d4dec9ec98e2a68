"""State and control that do not answer any more are replaced; those that only work hard are not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flyproxy.master import model as m
from flyproxy.master.model import CONTROL, STATE, Phase, Post, Silence
from flyproxy.master.pulse import ASK_EVERY, Pulse, cpu_seconds
from flyproxy.master.supervisor import WATCHDOG_GAP, WORK_FACTOR
from tests.kit.region import halted
from tests.kit.wait import stand_still, until
from tests.master.conftest import TWO
from tests.master.harness import Hammer, RunningMaster
from tests.master.test_life import alive
from tests.master.test_supervisor import POLICY, World

LIMIT = POLICY.silent_after


def silent(world: World, after: float = 0.1, on_time: bool = True, **seconds: Silence) -> list[m.Kill]:
    """One look at silent posts, by role; what it kills."""
    silences = {world.id_at(role): silence for role, silence in seconds.items()}
    world.do(m.Tick({}, on_time, silences), after)
    return world.of(m.Kill)


@pytest.mark.parametrize("post", [STATE, CONTROL])
def test_a_silent_one_is_dumped_killed_and_followed_once_it_is_dead(post: Post) -> None:
    world = World().up()
    child = world.id_at(post[0])
    assert silent(world, **{post[0]: Silence(LIMIT, working=False)}) == []
    (kill,) = silent(world, **{post[0]: Silence(LIMIT + 0.1, working=False)})
    assert (kill.id, kill.dump) == (child, True)
    assert [note.restart for note in world.of(m.Note)] == [f"stuck-{post[0]}"]
    assert silent(world, after=WATCHDOG_GAP) == [] and not world.of(m.Spawn)
    world.do(m.Exited(child, "was killed", "killed"))
    world.tick(after=POLICY.respawn_max)
    assert [spawn.post for spawn in world.all if isinstance(spawn, m.Spawn)][-1] == post


def test_one_that_works_has_much_more_time() -> None:
    world = World().up()
    assert silent(world, state=Silence(LIMIT * WORK_FACTOR, working=True)) == []
    assert len(silent(world, state=Silence(LIMIT * WORK_FACTOR + 0.1, working=True))) == 1


def test_it_counts_before_it_is_ready_too() -> None:
    assert len(silent(World(), state=Silence(LIMIT + 0.1, working=False))) == 1


def test_nobody_is_judged_by_a_master_that_was_late_or_who_is_ending_already() -> None:
    world = World().up()
    long = Silence(LIMIT + 0.1, working=False)
    assert silent(world, on_time=False, state=long) == []
    world.do(m.Stop(quick=True))
    assert world.state.children[world.id_at("state")].phase is Phase.ENDING
    assert silent(world, state=long) == []


def test_a_graceful_stop_waits_for_workers_not_for_verdicts() -> None:
    world = World().up()
    world.do(m.Stop())
    assert silent(world, state=Silence(LIMIT + 0.1, working=False)) == []


def test_verdicts_keep_their_distance() -> None:
    world, long = World().up(), Silence(LIMIT + 0.1, working=False)
    assert len(silent(world, state=long, control=long)) == 1
    assert len(silent(world, control=long)) == 0
    assert len(silent(world, after=WATCHDOG_GAP, control=long)) == 1


def test_who_owes_an_answer_is_not_asked_again_and_time_lost_is_not_counted() -> None:
    pulse = Pulse(os.getpid(), 100.0)
    assert not pulse.due(100.5) and pulse.silence(100.5).seconds == 0
    assert pulse.due(100.0 + ASK_EVERY) and not pulse.due(105.0)
    assert pulse.silence(105.0).seconds == pytest.approx(105.0 - 100.0 - ASK_EVERY)
    pulse.forgive(160.0)
    assert pulse.silence(161.0).seconds == pytest.approx(1.0)
    pulse.answered()
    assert pulse.silence(170.0).seconds == 0 and pulse.due(170.0)


def test_work_is_time_on_a_cpu() -> None:
    before = cpu_seconds(os.getpid())
    pulse = Pulse(os.getpid(), 0.0)
    assert pulse.due(ASK_EVERY)
    while time.process_time() < before + 0.2:
        pass
    assert cpu_seconds(os.getpid()) > before
    assert pulse.silence(2 * ASK_EVERY).working is (cpu_seconds(os.getpid()) - before > 0.1 * ASK_EVERY)
    assert not pulse.silence(1000.0).working
    assert cpu_seconds(2**22 + 1) == 0.0


@pytest.mark.parametrize("role", ["state", "control"])
def test_a_stopped_one_is_replaced_while_traffic_goes_on(
    make_master: Callable[..., RunningMaster], role: str
) -> None:
    master = make_master(TWO.replace("[workers]", "[workers]\nstuck_after = '500ms'")).start()
    stopped = master.status()[role]["pid"]
    with Hammer(master.addresses()[0]) as hammer:
        stand_still(stopped)
        until(lambda: master.status()[role]["pid"] not in (0, stopped), f"{role} is replaced", 15)
        until(lambda: master.status()[role]["state"] == "ready", "the next one is ready")
        hammer.until_served(10)
    assert hammer.failures == [] and hammer.slowest < 1.0
    assert master.status()["restarts"] == {f"stuck-{role}": 1}
    (seen,) = master.of("stuck")
    assert seen["child_pid"] == stopped and seen["threads"][0]["state"].startswith("T")
    assert not Path(f"/proc/{stopped}").exists()


def test_one_that_works_hard_for_longer_is_left_alone(make_master: Callable[..., RunningMaster]) -> None:
    master = make_master(TWO.replace("[workers]", "[workers]\nstuck_after = '500ms'")).start()
    working = master.status()["state"]["pid"]
    os.kill(working, signal.SIGUSR2)
    until(lambda: master.of("worked"), "it has worked for seconds without an answer", 60)
    assert master.status()["state"]["pid"] == working and not master.of("stuck")


def test_an_answer_that_is_read_after_its_sender_died_is_nobodys(master: RunningMaster) -> None:
    """The master learns of both at once; it follows the death, and ends as told."""
    control = master.status()["control"]["pid"]
    with halted(master.pid):
        os.kill(control, signal.SIGUSR1)
        until(lambda: not alive(control), "control has answered and died")
    until(lambda: master.of("exited"), "the master follows the death")
    until(lambda: master.status()["control"]["pid"] not in (0, control), "control is replaced")
    assert master.stop(signal.SIGINT) == 0
