"""The worlds of tests/shm: choices are made over the same shared memory."""

from tests.shm.conftest import make_world, world

__all__ = ["make_world", "world"]
