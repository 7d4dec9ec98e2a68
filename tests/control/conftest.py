import pytest

from tests.control.boot import Host


@pytest.fixture
def host():
    """A host on which nothing runs yet; everything that a test starts is ended with it."""
    made = Host()
    yield made
    made.close()
