from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.shm.world import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Worlds of any size, closed after the test."""
    made: list[World] = []

    def make(**sizes: Any) -> World:
        made.append(World(**sizes))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
