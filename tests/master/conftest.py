"""Fixtures of the master's tests: masters with fake children, ended whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.master.harness import RunningMaster

TWO = "[workers]\ncount = 2\nslots = 4\nrespawn_min = '50ms'\n[[listeners]]\naddress = '127.0.0.1:0'\n"


@pytest.fixture
def make_master(request: pytest.FixtureRequest) -> Iterator[Callable[..., RunningMaster]]:
    """Makes masters (arguments of RunningMaster); shows their log when the test fails."""
    made: list[RunningMaster] = []

    def make(*args: object, **options: object) -> RunningMaster:
        made.append(RunningMaster(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for master in made:
        master.clean()
        print(master.text())


@pytest.fixture
def master(make_master: Callable[..., RunningMaster]) -> RunningMaster:
    """Two workers on four slots, one listener, ready."""
    return make_master(TWO).start()
