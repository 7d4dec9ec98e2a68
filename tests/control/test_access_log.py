"""The drain: lines that workers put into the real rings, through the real thread into real files."""

import os

import pytest

from flyproxy._speedups._testing_shm import Worker
from flyproxy._speedups.shm.beat import create_segments
from flyproxy._speedups.shm.logring import LogReader
from flyproxy.control.telemetry.access_log import AccessLog
from tests.kit.wait import until


@pytest.fixture
def fds():
    made = create_segments(apps=16, hostnames=16, addresses=16, machines=16, procs=16, slots=2)
    yield made
    for fd in made.values():
        os.close(fd)


@pytest.fixture
def workers(fds):
    """Two of the process indexes, as the engines write to them."""
    return [Worker(fds, proc) for proc in (0, 1)]


def put(worker, *lines):
    for line in lines:
        assert worker.log(line) == 1, "the ring is full"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


@pytest.fixture
def drain(fds):
    """Starts a drain to ``access``; it is stopped at the end."""
    made = []

    def start(access):
        log = AccessLog(LogReader(fds), str(access))
        log.start()
        made.append(log)
        return log
    yield start
    for log in made:
        log.stop()


def test_lines_of_all_workers_reach_the_file(workers, drain, path):
    drain(path)
    put(workers[0], b"from 0")
    put(workers[1], *[b"from 1", b"again 1"])
    until(lambda: sorted(path.read_bytes().splitlines()) == [b"again 1", b"from 0", b"from 1"], "all lines are there")


def test_nothing_is_drained_while_the_log_is_off(workers, drain, path):
    log = drain("off")
    put(workers[0], b"kept")
    log.configure(str(path))
    until(lambda: path.exists() and path.read_bytes() == b"kept\n", "the line is written once the log is on")
    assert log.counts() == (1, 0)


def test_a_switch_of_the_file_keeps_the_counts(workers, drain, path):
    log = drain(path)
    put(workers[0], b"one")
    until(lambda: log.counts() == (1, 0), "the first line is written")
    log.configure(str(path) + ".2")
    put(workers[0], b"two")
    until(lambda: log.counts() == (2, 0), "the second line is written")
    assert path.read_bytes() == b"one\n"


def test_what_is_in_the_rings_is_written_before_it_ends(fds, workers, path):
    log = AccessLog(LogReader(fds), str(path))
    put(workers[1], *[b"line"] * 12_000)
    log.start()
    log.stop()
    assert path.read_bytes().count(b"\n") == 12_000


def test_a_full_disk_is_told_once_and_so_is_its_end(workers, drain, path, capfd):
    log = drain("/dev/full")
    put(workers[0], *[b"lost"] * 3)
    until(lambda: log.counts() == (0, 3), "the lines are lost and counted")
    put(workers[0], b"lost too")
    until(lambda: log.counts() == (0, 4), "again")
    log.configure(str(path))
    told = ""

    def recovered():
        nonlocal told
        put(workers[0], b"written")
        told += capfd.readouterr().err
        return "access-log-recovered" in told
    until(recovered, "the end of the trouble is told", every=0.1)
    assert log.counts()[1] == 4
    assert told.count("access-log-failing") == 1 and "No space left on device" in told


def test_a_sink_that_blocks_holds_up_nobody_but_the_drain(fds, workers, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(LogReader(fds), str(fifo))
    log.start()
    put(workers[0], *[b"x" * 1000] * 1000)      # more than a pipe holds
    log.stop(timeout=0.1)
    assert log.counts() == (0, 0)
    os.set_blocking(reading, True)
    left = 1000 * 1001
    while left:
        left -= len(os.read(reading, 65536))
    until(lambda: log.counts() == (1000, 0), "the write went on once the pipe was read")
    os.close(reading)
