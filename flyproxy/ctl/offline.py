"""``--offline``: the nouns on the SQLite store itself, while nothing runs.

The same code as in the control process, without anybody who would have to follow: the change is served when flyproxy
starts. It refuses while a master runs, because that one's control process would not wait for what is written here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from flyproxy.control.envelope import Refused
from flyproxy.control.nouns import Nouns
from flyproxy.ctl.client import MASTER_SOCKET, master_runs
from flyproxy.ctl.failure import Failure
from flyproxy.settings import Settings
from flyproxy.state.files import make_folder
from flyproxy.state.sqlite import SqliteStore


class Offline:
    """Reads and writes like ``client.Api``; each call opens the store, works, and closes it."""

    def __init__(self, settings: Callable[[], Settings], runtime: str) -> None:
        if master_runs(runtime):
            raise Failure("running", "flyproxy is running, so its store is not written behind its back",
                          os.path.join(runtime, MASTER_SOCKET), "leave out --offline, or stop flyproxy first")
        self.settings = settings()
        folder = self.settings.paths.state
        try:
            make_folder(folder)
        except OSError as error:
            raise Failure("store-unreachable", error.strerror or str(error), folder,
                          "make the folder's parent, or name another folder: [paths] state") from None

    def list(self, noun: str, app: str | None = None) -> Any:
        return self._run(lambda nouns: nouns.list(noun, app))

    def show(self, noun: str, name: str) -> Any:
        return self._run(lambda nouns: nouns.show(noun, name))

    def put(self, noun: str, name: str, body: dict[str, Any]) -> Any:
        return {**self._run(lambda nouns: nouns.put(noun, name, body)), "served": False}

    def delete(self, noun: str, name: str) -> Any:
        return {**self._run(lambda nouns: nouns.delete(noun, name)), "served": False}

    def _run(self, work: Callable[[Nouns], Awaitable[Any]]) -> Any:
        try:
            return asyncio.run(self._work(work))
        except Refused as refused:
            raise Failure(refused.code, refused.message, refused.where, refused.fix, refused.problems) from None

    async def _work(self, work: Callable[[Nouns], Awaitable[Any]]) -> Any:
        store = SqliteStore(self.settings.database)
        try:
            return await work(Nouns(store, lambda: self.settings))
        finally:
            await store.close()
