from typing import Self, final

@final
class LogReader:
    """The one reader of the access-log rings (control)."""

    def __new__(cls, fds: dict[str, int]) -> Self: ...
    def drain(self, proc: int, max_lines: int) -> list[bytes]: ...
