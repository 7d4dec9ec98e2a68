from typing import Literal, Self, final

_State = Literal["unknown", "direct", "via", "down"]

STATES: dict[str, int]
STATE_NAMES: dict[int, str]

@final
class Closeness:
    """How far each host is, by host slot. One living writer."""

    def __new__(cls, fds: dict[str, int], writable: bool) -> Self: ...
    def set(self, slot: int, state: _State, rtt_us: int, via: int | None) -> None: ...
    def get(self, slot: int) -> tuple[_State, int, int | None]: ...
