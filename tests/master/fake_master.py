"""The real master with fake children and fake shared memory: ``python fake_master.py CONFIG``.

What an upgrade finds can be changed by files in FPM_FOLDER: ``missing`` (there is nothing to execute), ``broken`` (it
ends at once), ``hold`` (it waits for the file to go), ``format`` (the number of the one that it understands), ``try``
(it is tried as a real one is, which loads every module; else the trial succeeds at once).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import uvloop

from flyproxy import log
from flyproxy.master import handover
from flyproxy.master.main import Master
from flyproxy.master.program import Program
from flyproxy.settings import Settings, load
from tests.master.fake_shm import FakeSegments

FOLDER = Path(os.environ["FPM_FOLDER"])
TRIAL = """
import os, sys
word, *check = sys.argv[1:]
os.path.exists(word) and os.execv(check[0], check)
print('{"v": 1, "data": {"version": "0.1.0", "handover": 1}}')
"""
READY_S = float(os.environ.get("FPM_READY_S", "3"))


def read() -> Settings:
    return load(sys.argv[1], os.environ)


async def main() -> int:
    settings = read()
    log.configure(settings.log, process="master")
    child = str(Path(__file__).with_name("fake_child.py"))
    itself = ("/nonexistent" if exists("missing") else sys.executable, *sys.orig_argv[1:])
    check = (sys.executable, "-m", "flyproxy", "check", "--json", "-c", sys.argv[1])
    program = Program(itself, (sys.executable, "-SE", "-c", TRIAL, str(FOLDER / "try"), *check))
    master = Master(
        settings, read, program, command=lambda role: [sys.executable, "-P", child, role], ready_timeout=READY_S,
        segments=FakeSegments, silent_least=0.5,  # type: ignore[arg-type]
    )  # fmt: skip
    return await master.run()


def exists(word: str) -> bool:
    return (FOLDER / word).exists()


if __name__ == "__main__":
    if exists("broken"):
        sys.exit("it was told to break")
    while exists("hold"):
        time.sleep(0.01)
    if exists("format"):
        handover.VERSION = int((FOLDER / "format").read_text())
    sys.exit(uvloop.run(main()))
