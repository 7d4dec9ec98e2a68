"""What must hold for any bytes: promises of the codecs, for the fuzzer and the replay of its corpus. For tests only."""

from typing import Literal

def run(
    target: Literal["request", "response", "chunked", "proxy", "hello", "hpack", "frames"] | str, data: bytes
) -> int: ...
