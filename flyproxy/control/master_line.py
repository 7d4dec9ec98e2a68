"""Asks the master on ctl.sock: one JSON line each way."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec

from flyproxy.control.envelope import Refused

SOCKET = "ctl.sock"
TIMEOUT = 2.0
ANSWER_MAX = 16 << 20


async def ask(runtime: str, cmd: str) -> Any:
    """The data of the master's answer; Refused (503) when it gives none in time."""
    path = os.path.join(runtime, SOCKET)
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_MAX)
            try:
                writer.write(msgspec.json.encode({"v": 1, "cmd": cmd}) + b"\n")
                answer = msgspec.json.decode(await reader.readline(), type=dict[str, Any])
            finally:
                writer.close()
    except (OSError, ValueError, msgspec.DecodeError, TimeoutError) as error:
        raise Refused(503, "master-down", f"the master does not answer: {error or type(error).__name__}", path,
                      "see the master's log; traffic goes on without it") from None
    if "error" in answer:
        told = answer["error"]
        raise Refused(503, str(told.get("code")), str(told.get("message")), path, str(told.get("fix") or ""))
    return answer.get("data")
