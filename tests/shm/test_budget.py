"""Budgets: exact at the limit over all processes, given back when a process dies, and nobody waits for ever."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from flyproxy._speedups.shm import beat
from tests.kit.wait import until
from tests.shm.children import in_child, status_of
from tests.shm.world import World


class TestAdmit:
    def test_up_to_the_limit_over_all_processes(self, world: World) -> None:
        workers = [world.worker(proc) for proc in range(3)]
        assert [workers[i % 3].admit("inflight", 7, 4) for i in range(6)] == [True] * 4 + [False] * 2
        assert [worker.sum("inflight", 7) for worker in workers] == [4] * 3
        assert [worker.own("inflight", 7) for worker in workers] == [2, 1, 1]
        workers[1].release("inflight", 7)
        assert workers[2].admit("inflight", 7, 4)
        assert not workers[0].admit("inflight", 7, 4)

    def test_no_limit_counts_without_end(self, world: World) -> None:
        worker = world.worker()
        assert all(worker.admit("app", 3, 0) for _ in range(100))
        assert worker.sum("app", 3) == 100

    def test_kinds_and_indexes_are_apart(self, world: World) -> None:
        worker = world.worker()
        for kind in ("inflight", "open", "app"):
            assert worker.admit(kind, 2, 1)
            assert not worker.admit(kind, 2, 1)
            assert worker.admit(kind, 3, 1)
        assert worker.admit("proxy", 0, 1)

    def test_an_index_that_does_not_exist_is_refused(self, world: World) -> None:
        worker = world.worker()
        assert not worker.admit("proxy", 1, 0)
        assert not worker.admit("inflight", 0xFFFFFFFF, 0)
        assert worker.sum("inflight", 0xFFFFFFFF) == 0

    def test_a_release_too_many_does_not_go_below_zero(self, world: World) -> None:
        worker = world.worker()
        worker.release("inflight", 0)
        assert worker.sum("inflight", 0) == 0
        assert worker.admit("inflight", 0, 1)

    def test_the_dead_do_not_count(self, world: World) -> None:
        one, two = world.worker(0), world.worker(1)
        assert one.admit("inflight", 5, 1)
        assert not two.admit("inflight", 5, 1)
        world.root.reclaim_proc(0)
        assert two.admit("inflight", 5, 1)
        again = world.worker(0)
        assert again.own("inflight", 5) == 0

    def test_reclaiming_zeroes_every_kind_and_leaves_the_others(self, world: World) -> None:
        one, two = world.worker(0), world.worker(1)
        for worker in (one, two):
            for kind, index in (("inflight", 63), ("open", 0), ("app", 15), ("proxy", 0)):
                worker.admit(kind, index, 0)
        world.root.reclaim_proc(0)
        world.worker(0)
        assert [two.sum(kind, index) for kind, index in (("inflight", 63), ("open", 0), ("app", 15), ("proxy", 0))] == [
            1
        ] * 4

    def test_reclaiming_touches_only_what_was_used(self, make_world: Callable[..., World]) -> None:
        world = make_world(machines=100_000)
        world.worker(0).admit("inflight", 100, 0)
        world.root.reclaim_proc(0)
        assert os.fstat(world.fds["load"]).st_blocks * 512 < 1 << 20

    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_processes_that_compete_never_pass_the_limit(self, world: World, limit: int) -> None:
        for proc in range(4):
            world.root.claim_proc(proc, 1)
        held = mmap.mmap(-1, 4096)

        def compete(proc: int) -> int:
            admitted, over = world.worker(proc).admit_loop(9, limit, 30_000, held)
            return 1 if over else 2 if not admitted else 0

        pids = [in_child(lambda proc=proc: compete(proc)) for proc in range(4)]
        assert [status_of(pid) for pid in pids] == [0] * 4
        assert world.worker(0).sum("inflight", 9) == 0

    def test_a_contended_unit_is_always_somebodys(self, world: World) -> None:
        """Two processes try for the last unit again and again: at least one of them gets it each time."""
        for proc in range(2):
            world.root.claim_proc(proc, 1)
        assert beat.Root(world.fds, False).live() == [0, 1]
        rounds = 300
        to_child, to_parent = os.pipe(), os.pipe()

        def rival() -> int:
            worker = world.worker(1)
            for _ in range(rounds):
                os.read(to_child[0], 1)
                won = worker.admit("inflight", 3, 1)
                os.write(to_parent[1], b"1" if won else b"0")
                os.read(to_child[0], 1)
                if won:
                    worker.release("inflight", 3)
            return 0

        pid = in_child(rival)
        worker = world.worker(0)
        winners = 0
        for _ in range(rounds):
            os.write(to_child[1], b"g")
            won = worker.admit("inflight", 3, 1)
            theirs = os.read(to_parent[0], 1) == b"1"
            assert won + theirs == 1
            winners += won
            if won:
                worker.release("inflight", 3)
            os.write(to_child[1], b"n")
        assert status_of(pid) == 0
        for fd in (*to_child, *to_parent):
            os.close(fd)

    def test_killed_at_random_while_they_compete(self, world: World) -> None:
        rng = random.Random(7)
        watcher = world.worker(5)
        for _ in range(12):
            for proc in range(3):
                world.root.claim_proc(proc, 1)

            def compete(proc: int) -> int:
                worker, held = world.worker(proc), mmap.mmap(-1, 4096)
                while True:
                    worker.admit_loop(4, 2, 1000, held)

            pids = [in_child(lambda proc=proc: compete(proc)) for proc in range(3)]
            stop = time.monotonic() + rng.uniform(0.001, 0.03)
            until(lambda stop=stop: time.monotonic() > stop, "a random moment", every=0.0005)
            for proc, pid in enumerate(pids):
                os.kill(pid, signal.SIGKILL)
                assert status_of(pid) == -signal.SIGKILL
                world.root.reclaim_proc(proc)
            assert watcher.sum("inflight", 4) == 0
            assert [watcher.admit("inflight", 4, 2) for _ in range(3)] == [True, True, False]
            watcher.release("inflight", 4)
            watcher.release("inflight", 4)


class TestWaiters:
    @pytest.fixture
    def waiting(self, world: World) -> World:
        world.wakes.update({proc: os.eventfd(0, os.EFD_NONBLOCK) for proc in range(5)})
        return world

    def woken(self, world: World) -> list[int]:
        found = []
        for proc, fd in world.wakes.items():
            try:
                found += [proc] * os.eventfd_read(fd)
            except BlockingIOError:
                continue
        return found

    def test_one_at_a_time_in_turn(self, waiting: World) -> None:
        workers = [waiting.worker(proc) for proc in range(5)]
        for proc in (0, 1, 3):
            workers[proc].wait(2)
        order = []
        for _ in range(9):
            workers[4].wake(2)
            woken = self.woken(waiting)
            assert len(woken) == 1
            order += woken
            workers[woken[0]].wait(2)  # its queue is longer
        assert order == [1, 3, 0] * 3

    def test_nobody_waits_nobody_is_woken(self, waiting: World) -> None:
        workers = [waiting.worker(proc) for proc in range(2)]
        workers[0].wait(1)
        workers[1].wake(2)
        assert self.woken(waiting) == []
        workers[1].wake(1)
        workers[1].wake(1)
        assert self.woken(waiting) == [0]

    def test_the_dead_are_passed_over(self, waiting: World) -> None:
        workers = [waiting.worker(proc) for proc in range(3)]
        workers[1].wait(0)
        workers[2].wait(0)
        waiting.root.reclaim_proc(1)
        workers[0].wake(0)
        assert self.woken(waiting) == [2]

    def test_a_service_that_does_not_exist_is_ignored(self, waiting: World) -> None:
        worker = waiting.worker()
        worker.wait(0xFFFFFFFF)
        worker.wake(0xFFFFFFFF)
        assert self.woken(waiting) == []
