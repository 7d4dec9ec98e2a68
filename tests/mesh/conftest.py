"""Fixtures of the mesh tests. Regions live as long as a module; a failed test shows their logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.conftest import RUNNING, marker, pytest_runtest_makereport, start_vm
from tests.kit.region import Regions

__all__ = ["marker", "pytest_runtest_makereport", "start_vm"]


@pytest.fixture(scope="module")
def start_regions() -> Iterator[Callable[..., Regions]]:
    """Starts regions (arguments of Regions) that know each other; all must end cleanly with the module."""
    with ExitStack() as stack:

        def start(*names: str, **options: Any) -> Regions:
            regions = stack.enter_context(Regions(*names, **options))
            for daemon in regions.daemons.values():
                RUNNING.append(daemon)
                stack.callback(RUNNING.remove, daemon)
            regions.meet()
            return regions

        yield start
