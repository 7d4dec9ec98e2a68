"""The real master with fake children and fake shared memory: ``python fake_master.py CONFIG``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvloop

from flyproxy import log
from flyproxy.master.main import Master
from flyproxy.settings import Settings, load
from tests.master.fake_shm import FakeSegments


def read() -> Settings:
    return load(sys.argv[1], os.environ)


async def main() -> int:
    settings = read()
    log.configure(settings.log, process="master")
    child = str(Path(__file__).with_name("fake_child.py"))
    master = Master(
        settings, read, command=lambda role: [sys.executable, "-P", child, role], ready_timeout=3.0,
        segments=FakeSegments, silent_least=0.5,  # type: ignore[arg-type]
    )  # fmt: skip
    return await master.run()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
