"""Who serves a revision: the real root segment, no processes."""

import asyncio
import os

import pytest

from flyproxy._speedups.shm.beat import Root, create_segments
from flyproxy.control.barrier import Behind, behind, served


@pytest.fixture
def root():
    fds = create_segments(apps=16, hostnames=16, addresses=16, machines=16, procs=16, slots=2)
    yield Root(fds, writable=True)
    for fd in fds.values():
        os.close(fd)


def with_worker(root, proc, state):
    root.claim_proc(proc, 1000 + proc)
    root.set_proc_state(proc, state)


def test_nobody_is_behind_when_the_table_has_it_and_no_worker_runs(root):
    assert behind(root, lambda: 5, 5) == []


@pytest.mark.parametrize("state", ["ready", "draining"])
def test_a_worker_that_serves_counts(root, state):
    with_worker(root, 3, state)
    assert behind(root, lambda: 5, 5) == ["worker process 1003 (revision 0)"]
    assert behind(root, lambda: 5, 0) == []


def test_a_starting_worker_does_not_count(root):
    with_worker(root, 3, "starting")
    assert behind(root, lambda: 5, 5) == []


def test_a_dead_worker_does_not_count(root):
    with_worker(root, 3, "ready")
    root.reclaim_proc(3)
    assert behind(root, lambda: 5, 5) == []


def test_all_that_are_behind_are_named_after_the_deadline(root):
    with_worker(root, 1, "ready")
    with pytest.raises(Behind) as raised:
        asyncio.run(served(root, lambda: 5, 5, deadline=0.05))
    assert raised.value.code == "workers-behind" and "1001" in str(raised.value)
    with pytest.raises(Behind) as raised:
        asyncio.run(served(root, lambda: 4, 5, deadline=0.05))
    assert raised.value.code == "table-behind" and "the table (revision 4)" in str(raised.value)


def test_it_returns_as_soon_as_the_last_one_follows(root):
    revision = 0

    async def go():
        nonlocal revision
        waiting = asyncio.create_task(served(root, lambda: revision, 1, deadline=10))
        await asyncio.sleep(0)
        assert not waiting.done()
        revision = 1
        await asyncio.wait_for(waiting, 5)
    asyncio.run(go())
