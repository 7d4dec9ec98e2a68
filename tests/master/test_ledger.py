"""The ledger: one master a folder, proven orphans, and no trust in a folder that belongs to the children's user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flyproxy.master.ledger import AlreadyRunning, Ledger, start_time

TITLED = """
import setproctitle, time
setproctitle.setproctitle("flyproxy: covers the environment")
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(str(tmp_path))
    made.lock()
    return made


@pytest.fixture
def child(ledger: Ledger) -> subprocess.Popen[str]:
    """A living process with the token, and a title as all of ours have."""
    process = subprocess.Popen(
        [sys.executable, "-c", TITLED], pass_fds=[ledger.badge()], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    yield process  # type: ignore[misc]
    process.kill()
    process.communicate()


def test_a_living_child_is_found_by_the_next_master(
    ledger: Ledger, child: subprocess.Popen[str], tmp_path: Path
) -> None:
    ledger.write([("worker", child.pid)], [])
    (orphan,) = Ledger(str(tmp_path)).orphans()
    assert (orphan.role, orphan.pid, orphan.ended()) == ("worker", child.pid, False)
    child.kill()
    assert orphan.ended(5.0)
    assert Ledger(str(tmp_path)).orphans() == []
    os.close(orphan.pidfd)


@pytest.mark.parametrize("field", ["start", "token", "pid"])
def test_a_process_that_does_not_fit_its_entry_is_left_alone(
    ledger: Ledger, child: subprocess.Popen[str], tmp_path: Path, field: str
) -> None:
    ledger.write([("worker", child.pid)], [])
    path = tmp_path / "processes.json"
    entries = json.loads(path.read_text())
    entries[0][field] = {"start": 1, "token": "0" * 32, "pid": os.getpid()}[field]
    path.write_text(json.dumps(entries))
    assert Ledger(str(tmp_path)).orphans() == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"pid":"x"}]', '{"a":1}', "[{}]"])
def test_a_damaged_ledger_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "processes.json").write_text(text)
    assert Ledger(str(tmp_path)).orphans() == []


def test_the_second_lock_is_refused_with_the_first_one_s_pid(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} "):
        Ledger(str(tmp_path)).lock()


@pytest.mark.parametrize("name", ["master.lock", "processes.new"])
def test_a_link_laid_in_the_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    made = Ledger(str(tmp_path))
    if name == "master.lock":
        with pytest.raises(OSError):
            made.lock()
    else:
        made.write([], [])
    assert victim.read_text() == "precious"


def test_the_start_time_tells_processes_apart(child: subprocess.Popen[str]) -> None:
    assert start_time(child.pid) > start_time(os.getpid()) > 0
    assert start_time(2**22 + 1) == 0
