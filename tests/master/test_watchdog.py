"""The dump of a stuck process: from outside, also when it is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flyproxy.boot import DUMP_SIGNAL
from flyproxy.master import watchdog
from tests.kit.wait import stand_still, until

STUCK = """
import faulthandler, sys, threading
faulthandler.register({number}, all_threads=True, chain=False)
threading.Thread(target=threading.Event().wait, name="engine", daemon=True).start()
print("up", flush=True)
def stand_still():
    threading.Event().wait()
stand_still()
"""


@pytest.fixture
def stuck() -> Iterator[subprocess.Popen[str]]:
    program = STUCK.format(number=int(DUMP_SIGNAL))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_every_thread_is_seen_with_what_it_waits_for(stuck: subprocess.Popen[str]) -> None:
    until(lambda: watchdog.threads(stuck.pid)[0]["state"].startswith("S"), "it waits")
    found = watchdog.threads(stuck.pid)
    assert len(found) == 2 and found[0]["tid"] == str(stuck.pid)
    assert set(found[0]) == {"tid", "state", "comm", "wchan", "syscall", "stack"}


def test_the_process_itself_tells_its_python_stack_and_goes_on(stuck: subprocess.Popen[str]) -> None:
    found = watchdog.dump(os.pidfd_open(stuck.pid), stuck.pid)
    assert found["frames"]
    assert stuck.poll() is None
    assert stuck.stderr is not None
    stuck.kill()
    assert "stand_still" in stuck.stderr.read()


def test_c_frames_are_seen_even_of_a_stopped_process(stuck: subprocess.Popen[str]) -> None:
    stand_still(stuck.pid)
    until(lambda: watchdog.threads(stuck.pid)[0]["state"].startswith("T"), "it is stopped")
    assert "Py" in watchdog.frames(stuck.pid)


def test_a_process_without_a_handler_is_not_sent_the_signal_that_would_end_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not watchdog.can_handle(process.pid, DUMP_SIGNAL)
        watchdog.dump(os.pidfd_open(process.pid), process.pid)
        assert process.poll() is None
        process.kill()


def test_a_process_that_is_gone_is_an_empty_answer() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert watchdog.threads(process.pid) == []
