import pytest

from flyproxy import log


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Simulated hosts come and go by the hundred; what they log is collected, not printed."""
    lines = []
    monkeypatch.setattr(log, "_emit", lambda level, event, message, fields: lines.append((level, event, message)))
    return lines
