"""Sinks between real rings and real files, a full device and a real syslog socket."""

import os
import socket
import stat

import pytest

from flyproxy._speedups._testing_shm import Worker
from flyproxy._speedups.shm.beat import create_segments
from flyproxy._speedups.shm.logring import LogReader
from flyproxy.control.telemetry.sinks import DescriptorSink, FileSink, SyslogSink, open_sink

LINES = [b'{"app":"hello"}', b'{"app":"world"}']


@pytest.fixture
def pour():
    """Puts lines into a ring and lets a sink drain it."""
    fds = create_segments(apps=16, hostnames=16, addresses=16, machines=16, procs=2, slots=2)
    worker, rings = Worker(fds, 0), LogReader(fds)

    def through(lines, sink):
        assert all(worker.log(line) for line in lines)
        while rings.fullest():
            sink.drain(rings)
    yield through
    for fd in fds.values():
        os.close(fd)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


def test_lines_are_appended_each_with_a_newline(pour, path):
    path.write_bytes(b"old\n")
    sink = FileSink(str(path))
    pour(LINES, sink)
    pour([b"third"], sink)
    assert path.read_bytes() == b'old\n{"app":"hello"}\n{"app":"world"}\nthird\n'
    assert (sink.written, sink.lost, sink.problem) == (3, 0, None)
    sink.close()


def test_the_file_is_not_for_everybody(path):
    FileSink(str(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_a_renamed_file_is_left_and_a_new_one_begun(pour, path):
    sink = FileSink(str(path))
    pour([b"one"], sink)
    path.rename(path.with_suffix(".1"))
    pour([b"two"], sink)
    sink.close()
    assert path.with_suffix(".1").read_bytes() == b"one\n"
    assert path.read_bytes() == b"two\n"


def test_a_removed_file_comes_back(pour, path):
    sink = FileSink(str(path))
    path.unlink()
    pour([b"one"], sink)
    sink.close()
    assert path.read_bytes() == b"one\n"


def test_a_full_disk_loses_lines_and_counts_them(pour):
    sink = FileSink("/dev/full")
    pour(LINES, sink)
    assert (sink.written, sink.lost, sink.problem) == (0, 2, "No space left on device")
    sink.close()


def test_a_path_that_cannot_be_opened_loses_lines_until_it_can(pour, tmp_path):
    path = tmp_path / "later" / "access.log"
    sink = FileSink(str(path))
    pour(LINES, sink)
    assert (sink.lost, sink.problem) == (2, "No such file or directory")
    path.parent.mkdir()
    pour(LINES, sink)
    assert (sink.written, sink.problem) == (2, None)
    sink.close()


def test_a_torn_line_is_ended_before_the_next_one(pour):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    sink = DescriptorSink(writing)
    pour([b"first", *[b"x" * 4000] * 20], sink)
    assert (sink.written, sink.lost) == (17, 4)     # a pipe holds 65 536 bytes
    assert sink.problem == "Resource temporarily unavailable"
    got = os.read(reading, 1 << 20)
    assert got.startswith(b"first\nxxx") and not got.endswith(b"\n")
    pour([b"fourth"], sink)
    assert os.read(reading, 1 << 20) == b"\nfourth\n"
    assert (sink.written, sink.problem) == (18, None)
    os.close(reading)
    os.close(writing)


def test_a_reader_that_is_gone_costs_lines_only(pour):
    reading, writing = os.pipe()
    os.close(reading)
    sink = DescriptorSink(writing)
    pour(LINES, sink)
    assert (sink.lost, sink.problem) == (2, "Broken pipe")
    os.close(writing)


def test_syslog_gets_one_datagram_a_line(pour, tmp_path):
    address = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        sink = SyslogSink(address)
        pour(LINES, sink)
        got = [server.recv(4096) for _ in LINES]
    assert got == [b"<134>flyproxy[%d]: %s" % (os.getpid(), line) for line in LINES]
    pour(LINES, sink)
    assert (sink.written, sink.lost) == (2, 2)
    sink.close()


def test_syslog_that_does_not_read_costs_lines_and_never_blocks(pour, tmp_path):
    address = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        sink = SyslogSink(address)
        pour([b"line"] * 5000, sink)
    assert sink.written > 0 and sink.lost > 0 and sink.written + sink.lost == 5000
    sink.close()


def test_the_setting_chooses_the_sink(path):
    assert open_sink("off") is None
    assert open_sink("stderr").fd == 2
    assert isinstance(open_sink("syslog"), SyslogSink)
    sink = open_sink(str(path))
    assert sink.path == str(path)
    sink.close()
