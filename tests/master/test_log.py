"""The log: fixed keys, one line an event whatever is in it, and never a wait for its reader."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from flyproxy import log


class Stderr(io.StringIO):
    """A stderr whose descriptor is the writing end of a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def fileno(self) -> int:
        return self.writer

    def lines(self) -> list[str]:
        try:
            return os.read(self.reader, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    made = Stderr()
    monkeypatch.setattr(log, "sys", SimpleNamespace(stderr=made))  # pytest replaces sys.stderr by itself
    yield made
    configure()
    os.close(made.reader)
    os.close(made.writer)


def configure(level: str = "info", form: str = "json") -> None:
    log.configure(SimpleNamespace(level=level, format=form), process="worker 0")


def test_a_record_has_the_promised_keys_and_the_caller_s(stderr: Stderr) -> None:
    configure()
    log.info("ready", "all is well", app="web", code="PR01")
    (line,) = stderr.lines()
    record = json.loads(line)
    assert list(record) == ["time", "level", "event", "message", "pid", "process", "app", "code"]
    assert record["time"].endswith("Z") and record["pid"] == os.getpid() and record["process"] == "worker 0"


def test_levels_below_the_configured_one_are_silent(stderr: Stderr) -> None:
    configure("warning")
    log.debug("a", "a")
    log.info("b", "b")
    log.warning("c", "c")
    log.error("d", "d")
    assert [json.loads(line)["event"] for line in stderr.lines()] == ["c", "d"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_hostile_value_cannot_forge_a_line_or_move_the_cursor(stderr: Stderr, form: str) -> None:
    configure(form=form)
    log.info("seen", "a\nb\x1b[2J\u2028c", app='x\r\n{"level":"error"}\x9b')
    (line,) = stderr.lines()
    assert line.isprintable()


def test_text_is_readable(stderr: Stderr) -> None:
    configure(form="text")
    log.warning("slow", "it was slow", seconds=1.5, who="a b")
    (line,) = stderr.lines()
    assert line.endswith(f'WARNING worker 0[{os.getpid()}] slow: it was slow seconds=1.5 who="a b"')


def test_a_full_pipe_costs_lines_that_are_counted_and_no_time(stderr: Stderr) -> None:
    configure()
    for _ in range(200):
        log.info("flood", "x" * 1000)
    before = stderr.lines()
    assert 30 < len(before) < 200
    log.info("after", "room again")
    (line,) = stderr.lines()
    assert json.loads(line)["lines_dropped"] == 200 - len(before)


def test_a_huge_record_is_cut_and_stays_one_line(stderr: Stderr) -> None:
    configure()
    log.info("huge", "x" * 100_000)
    (line,) = stderr.lines()
    assert len(line) < 17_000
