"""The drain: lines from the real rings through the real thread into real files."""

import os
from collections import deque

import pytest

from flyproxy.control.telemetry import access_log
from flyproxy.control.telemetry.access_log import AccessLog
from tests.kit.wait import until


class Rings:
    """Lines that a test put there, oldest first; as the rings of a few workers give them."""

    def __init__(self) -> None:
        self.lines = {0: deque(), 1: deque()}

    def drain(self, proc, max_lines):
        ring = self.lines[proc]
        return [ring.popleft() for _ in range(min(len(ring), max_lines))]


@pytest.fixture
def rings():
    return Rings()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


@pytest.fixture
def drain(rings):
    """Starts a drain to ``access``; it is stopped at the end."""
    made = []

    def start(access):
        log = AccessLog(rings, str(access), 2)
        log.start()
        made.append(log)
        return log
    yield start
    for log in made:
        log.stop()


def test_lines_of_all_workers_reach_the_file(rings, drain, path):
    drain(path)
    rings.lines[0].append(b"from 0")
    rings.lines[1].extend([b"from 1", b"again 1"])
    until(lambda: sorted(path.read_bytes().splitlines()) == [b"again 1", b"from 0", b"from 1"], "all lines are there")


def test_nothing_is_drained_while_the_log_is_off(rings, drain, path):
    log = drain("off")
    rings.lines[0].append(b"kept")
    log.configure(str(path))
    until(lambda: path.exists() and path.read_bytes() == b"kept\n", "the line is written once the log is on")
    assert log.counts() == (1, 0)


def test_a_switch_of_the_file_keeps_the_counts(rings, drain, path):
    log = drain(path)
    rings.lines[0].append(b"one")
    until(lambda: log.counts() == (1, 0), "the first line is written")
    log.configure(str(path) + ".2")
    rings.lines[0].append(b"two")
    until(lambda: log.counts() == (2, 0), "the second line is written")
    assert path.read_bytes() == b"one\n"


def test_what_is_in_the_rings_is_written_before_it_ends(rings, path):
    log = AccessLog(rings, str(path), 2)
    rings.lines[1].extend([b"line"] * (3 * access_log.BATCH))
    log.start()
    log.stop()
    assert path.read_bytes().count(b"\n") == 3 * access_log.BATCH


def test_a_full_disk_is_told_once_and_so_is_its_end(rings, drain, path, capfd):
    log = drain("/dev/full")
    rings.lines[0].extend([b"lost"] * 3)
    until(lambda: log.counts() == (0, 3), "the lines are lost and counted")
    rings.lines[0].append(b"lost too")
    until(lambda: log.counts() == (0, 4), "again")
    log.configure(str(path))
    told = ""

    def recovered():
        nonlocal told
        rings.lines[0].append(b"written")
        told += capfd.readouterr().err
        return "access-log-recovered" in told
    until(recovered, "the end of the trouble is told", every=0.1)
    assert log.counts()[1] == 4
    assert told.count("access-log-failing") == 1 and "No space left on device" in told


def test_a_sink_that_blocks_holds_up_nobody_but_the_drain(rings, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(rings, str(fifo), 2)
    log.start()
    rings.lines[0].extend([b"x" * 1000] * 1000)      # more than a pipe holds
    until(lambda: not rings.lines[0], "the drain is in its write")
    log.stop(timeout=0.1)
    assert log.counts() == (0, 0)
    os.set_blocking(reading, True)
    left = 1000 * 1001
    while left:
        left -= len(os.read(reading, 65536))
    until(lambda: log.counts() == (1000, 0), "the write went on once the pipe was read")
    os.close(reading)
