"""Reloads: the settings read anew, everything that can fail tried first, then put into force.

Whether new workers are wanted and when a reload is done is the supervisor's business; here is what surrounds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyproxy import log
from flyproxy.boot import settings_json
from flyproxy.master import model
from flyproxy.master.ctl import ASKER, CommandError
from flyproxy.master.handover import Asker
from flyproxy.master.listeners import Change, ListenError
from flyproxy.master.supervisor import busy
from flyproxy.settings import Settings, SettingsError, diff, fixed, resolved

if TYPE_CHECKING:
    from flyproxy.certificates import Certificate
    from flyproxy.master.main import Master

Report = dict[str, Any]
"""``changed`` and ``restart`` (dotted keys; the second need a restart), and ``generation``."""


@dataclass
class _Waiting:
    answer: asyncio.Future[Report]
    report: Report
    asker: asyncio.StreamWriter | None


def connection(asker: asyncio.StreamWriter | None) -> int | None:
    """The descriptor of who asked; None when nobody did, or it has hung up."""
    fd = -1 if asker is None or asker.is_closing() else asker.get_extra_info("socket").fileno()
    return fd if fd >= 0 else None


class Reloads:
    """Of one master. ``load`` reads the settings; raises SettingsError."""

    def __init__(self, master: Master, load: Callable[[], Settings]) -> None:
        self._master = master
        self._load = load
        self._waiting: dict[int, _Waiting] = {}
        self._next_token = 1

    def on_hangup(self) -> None:
        """SIGHUP: a refusal can only be logged."""
        try:
            answer = self.begin(workers=False, wait_drained=False)
        except CommandError as error:
            log.error("reload-refused", str(error), where=error.error["where"], fix=error.error["fix"])
            return
        answer.add_done_callback(lambda done: done.exception())  # a refusal is in the log already

    def begin(
        self, workers: bool, wait_drained: bool, program: Report | None = None
    ) -> asyncio.Future[Report]:
        """Puts the settings into force; the future is done when the workers follow. ``program``: all children are of
        another program than this one, and are replaced; what it holds is told too.

        Raises CommandError; then nothing has changed.
        """
        master = self._master
        if why := busy(master.state):
            raise CommandError("reload_refused", why, fix="wait and try again")
        fresh = self._read()
        change = diff(master.settings, fresh)
        fresh = fixed(master.settings, fresh)
        certificate = self._certificate(fresh) if workers else master.certificate
        try:
            sockets = master.listeners.prepare(fresh)
        except ListenError as error:
            raise CommandError("reload_refused", str(error), "listeners", error.fix) from error
        master.certificate = certificate
        self._commit(fresh, sockets)
        if change.restart:
            log.warning("needs-restart", f"only a restart changes {', '.join(change.restart)}", keys=change.restart)
        token, self._next_token = self._next_token, self._next_token + 1
        answer: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        report = {"changed": list(change.changed), "restart": list(change.restart), **(program or {})}
        self._waiting[token] = _Waiting(answer, report, ASKER.get())
        master.notifier.reloading()
        master.dispatch(model.Reload(master.policy(), token, workers, wait_drained, bool(program)))
        return answer

    def waiting(self) -> list[asyncio.StreamWriter | None]:
        """The connections that wait until a reload is done."""
        return [waiting.asker for waiting in self._waiting.values()]

    def askers(self) -> tuple[int, list[Asker]]:
        """For the program that takes this one's place: the next token, and who waits until old workers are gone."""
        return self._next_token, [
            Asker(token, connection(waiting.asker), waiting.report) for token, waiting in self._waiting.items()
        ]

    def resume(self, next_token: int, askers: list[Asker]) -> list[tuple[int, Coroutine[Any, Any, Report]]]:
        """The reverse: the connections that wait, and what for."""
        self._next_token = next_token
        for asker in askers:
            answer: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
            self._waiting[asker.token] = _Waiting(answer, asker.report, None)
        return [(asker.fd, self._resumed(self._waiting[asker.token])) for asker in askers if asker.fd is not None]

    async def _resumed(self, waiting: _Waiting) -> Report:
        waiting.asker = ASKER.get()
        return await waiting.answer

    def done(self, action: model.ReloadDone) -> None:
        """The supervisor's answer, passed on to who waits for it."""
        waiting = self._waiting.pop(action.token)
        self._master.notifier.send(READY=1, STATUS="serving")
        if action.error is None:
            upgraded = "from" in waiting.report
            log.info("upgraded" if upgraded else "reloaded", "the new settings are in force", **waiting.report)
        if waiting.answer.done():  # who asked has hung up
            return
        if action.error is None:
            waiting.answer.set_result(waiting.report | {"generation": self._master.state.generation})
        else:
            fix = "see the log of the workers, mend it, reload again"
            waiting.answer.set_exception(CommandError("reload_refused", action.error, fix=fix))

    def _read(self) -> Settings:
        try:
            return resolved(self._load(), self._master.settings.workers.slots)
        except SettingsError as error:
            first = error.problems[0]
            raise CommandError(
                "bad_settings", str(error), f"{first.file}:{first.line}:{first.column}",
                "mend the file (flyproxy check tells more); the old settings go on",
            ) from error  # fmt: skip

    def _certificate(self, fresh: Settings) -> Certificate | None:
        """The renewed one, for the new workers. What is in use stays in use where the files are no good."""
        if not fresh.backhaul.cert:
            return None
        from flyproxy import certificates  # a large library stands behind it

        try:
            found = certificates.read(fresh.backhaul)
            problem = certificates.judge(found, fresh.host) if found else None
        except certificates.CertificateError as error:
            problem = error
        if problem is not None:
            raise CommandError("reload_refused", str(problem), f"[backhaul] {problem.key}", problem.fix)
        return found

    def _commit(self, fresh: Settings, sockets: Change) -> None:
        master = self._master
        master.settings = fresh
        log.configure(fresh.log, process="master")
        for child_id in list(master.processes):
            master.tell(child_id, {"t": "settings", "settings": settings_json(fresh)})
        master.send_listeners(sockets)
        master.listeners.commit(sockets)
        master.send_listeners(master.listeners.refresh(fresh))
