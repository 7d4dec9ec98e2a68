"""A real state process on real segments, with the test in the master's place."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from flyproxy._speedups.shm.beat import create_segments
from flyproxy._speedups.shm.table import TableReader
from flyproxy.boot import Boot, boot_message, settings_json
from flyproxy.channel import ENV_FD, Channel, ChannelClosed
from flyproxy.settings import Settings, load, resolved
from tests.state.conformance import PATIENCE

ROOT = Path(__file__).parents[2]


class Segments:
    """Shared memory as the master makes it; outlives the state processes."""

    def __init__(self, machines: int = 2000, apps: int = 200) -> None:
        self.fds = create_segments(
            apps=apps, hostnames=machines, addresses=100, machines=machines, procs=16, slots=2)
        self.reader = TableReader(self.fds)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)


class StateProcess:
    """``python -m flyproxy.state`` on ``folder``; ``heard`` are its messages."""

    epoch, ports = 1_800_000_000, (7443, 7444)

    def __init__(self, folder: Path, segments: Segments, text: str = "") -> None:
        self.folder = folder
        self.segments = segments
        self.heard: list[dict[str, Any]] = []
        self.settings = self.read(text)

    def read(self, text: str) -> Settings:
        (self.folder / "flyproxy.toml").write_text(f'region = "ams"\n{text}')
        return resolved(load(str(self.folder / "flyproxy.toml"), {"FLYPROXY_STATE_DIR": str(self.folder)}))

    async def __aenter__(self) -> StateProcess:
        self.channel, theirs = Channel.pair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flyproxy.state"], pass_fds=[theirs.fileno()], cwd=ROOT,
            env={**os.environ, ENV_FD: str(theirs.fileno())},
        )
        theirs.close()
        boot = Boot(
            "state", 0, None, 1, self.settings, self.segments.fds, {}, str(self.folder), str(self.folder),
            self.epoch, self.ports, b"0123456789abcdef",
        )
        self.channel.send(*boot_message(boot, None))
        self.listening = asyncio.ensure_future(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listening.cancel()
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)

    async def _listen(self) -> None:
        try:
            while True:
                message, _ = await self.channel.recv()
                self.heard.append(message)
        except ChannelClosed:
            return

    def send_settings(self, text: str) -> None:
        self.channel.send({"t": "settings", "settings": settings_json(self.read(text))})

    async def until(self, condition: Any) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (value := condition()):
                assert self.process.poll() is None, f"the state process ended with {self.process.returncode}"
                await asyncio.sleep(0.002)
        return value

    async def ready(self) -> None:
        await self.until(lambda: {"t": "ready"} in self.heard)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE)
