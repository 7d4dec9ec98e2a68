"""For all tests: the order in which they run."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONGEST_FIRST = ("long", "mesh", "integration", "master", "control")
"""Folders of files that take seconds. Processes that share the files end together when the short ones come last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {folder: rank for rank, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(HERE).parts[0], len(ranks)))


def pytest_collection_finish() -> None:
    """The tests themselves never become garbage: no collection looks through them again."""
    gc.collect()
    gc.freeze()
