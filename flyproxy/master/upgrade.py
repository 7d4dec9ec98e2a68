"""Upgrades: this process becomes the program that is installed now, and goes on from where it was.

Before execve: the new program is tried (program.py); the supervisor says whether it may be now; the state is written
down (handover.py). After it: everything is taken over as it was, and a reload replaces every child by one of the new
program. Where shared memory cannot be kept, the new program keeps the sockets alone and begins anew, and its
predecessor's workers serve until its own are ready, as after a killed master.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from flyproxy import __version__, log
from flyproxy.master import handover, model
from flyproxy.master.ctl import ASKER, CommandError
from flyproxy.master.handover import Handover, Member
from flyproxy.master.program import Program, refused
from flyproxy.master.reload import connection
from flyproxy.settings import to_json

if TYPE_CHECKING:
    from flyproxy.master.main import Master

SIGNALS = frozenset({signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2})
"""Blocked from before execve, which forgets handlers but not the mask (signal(7)), until the new program has its own:
one that comes meanwhile waits instead of ending the process. The kernel gives a signal to any thread that does not
block it, so all threads of the master but the first block them always."""
TURN = 0.001  # seconds; a turn of the loop, in which what came before they were blocked is heard

Report = dict[str, Any]


class Upgrades:
    """Of one master. ``serving`` and ``alone`` matter to an upgrade that begins anew: our workers accept, and those of
    the last program are gone."""

    def __init__(self, master: Master, program: Program) -> None:
        self._master = master
        self._program = program
        self._running = False
        self._decision: model.HandOver | model.UpgradeRefused | None = None
        self.serving = asyncio.Event()
        self.alone = asyncio.Event()

    async def on_signal(self) -> None:
        """SIGUSR2: a refusal can only be logged."""
        with contextlib.suppress(CommandError):
            await self.begin(wait_drained=False)

    async def begin(self, wait_drained: bool) -> None:
        """Does not return: the new program answers. Raises CommandError; then nothing has changed."""
        try:
            if self._running:
                raise refused("another upgrade is still in progress", fix="wait and try again")
            self._running = True
            try:
                version = await asyncio.to_thread(self._program.try_out)
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
                try:
                    await self._master.ctl.pause({ASKER.get(), *self._master.reloads.waiting()})
                    await asyncio.sleep(TURN)
                    self._may_be_now()
                    self._execute(version, wait_drained)
                finally:
                    self._master.ctl.go_on()
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            finally:
                self._running = False
        except CommandError as error:
            log.error("upgrade-refused", str(error), where=error.error["where"], fix=error.error["fix"])
            raise

    def decided(self, action: model.HandOver | model.UpgradeRefused) -> None:
        """The supervisor's answer."""
        self._decision = action

    def _may_be_now(self) -> None:
        master = self._master
        self._decision = None
        master.dispatch(model.Upgrade())  # returns when everything is done that this leads to
        if not isinstance(self._decision, model.HandOver):
            why = self._decision.why if self._decision else "the supervisor gave no answer"
            raise refused(why, fix="wait and try again")
        deaf = [str(process.pid) for process in master.processes.values() if not process.channel.idle]
        if deaf:
            raise refused(f"processes {', '.join(deaf)} do not take their messages",
                          fix="wait until they have been replaced, and try again")  # fmt: skip

    def _execute(self, version: str, wait_drained: bool) -> None:
        master, run = self._master, list(self._program.run)
        log.info("upgrading", f"from {__version__} to {version}", command=" ".join(run))
        master.notifier.reloading()
        memfd = -1
        try:
            left = self._handover(wait_drained)
            memfd = handover.seal(left)
            with handover.surviving([memfd, *left.fds()]):
                os.execve(run[0], run, handover.environment(os.environ, memfd))
        except OSError as error:
            master.notifier.send(READY=1, STATUS="serving")
            raise refused(f"cannot execute it: {error}", " ".join(run), "install it again") from error
        finally:
            if memfd >= 0:
                os.close(memfd)

    def _handover(self, wait_drained: bool) -> Handover:
        master = self._master
        next_token, askers = master.reloads.askers()
        return Handover(
            program=__version__, settings=to_json(master.settings), lock=master.ledger.fileno(),
            token=master.ledger.token, ctl=master.ctl.fileno(), procs=master.segments.procs,
            segments=master.segments.fds, wakes=master.segments.wakes, book=master.listeners.book(),
            state=master.state, restarts=dict(master.restarts), epoch=master.epoch,
            backhaul_ports=master.backhaul_ports, next_token=next_token, askers=askers,
            upgrader=connection(ASKER.get()), wait_drained=wait_drained,
            members=[
                Member(child_id, process.pid, process.pidfd, process.channel.fileno())
                for child_id, process in master.processes.items()
            ],
        )  # fmt: skip

    # -- in the new program

    def go_on(self, left: Handover, resumed: bool, kept: Sequence[str]) -> None:
        """What the last program began: its children are replaced, and who asked for it gets the answer. ``kept``: keys
        that even beginning anew does not change."""
        waiting = self._master.reloads.resume(left.next_token, left.askers) if resumed else []
        work = self._replace_children(left) if resumed else self._begun_anew(left, kept)
        if left.upgrader is None:
            self._master.task(_logged(work))
        else:
            waiting.append((left.upgrader, work))
        for fd, answer in waiting:
            self._master.ctl.serve(socket.socket(fileno=fd), answer)

    async def _replace_children(self, left: Handover) -> Report:
        master = self._master
        try:
            return await master.reloads.begin(workers=True, wait_drained=left.wait_drained, program=_told(left, "kept"))
        except CommandError as error:
            master.notifier.send(READY=1, STATUS="serving")
            text = (f"the master is flyproxy {__version__} now, but the workers are still those of {left.program}: "
                    f"{error}")  # fmt: skip
            log.error("upgrade-incomplete", text, where=error.error["where"], fix=error.error["fix"])
            fix = "mend it, then upgrade again, or 'flyproxyctl reload --workers'"
            raise CommandError("upgrade_incomplete", text, error.error["where"], fix) from error

    async def _begun_anew(self, left: Handover, kept: Sequence[str]) -> Report:
        await self.serving.wait()
        if left.wait_drained:
            await self.alone.wait()
        report = _told(left, "new") | {"changed": [], "restart": list(kept)}
        log.info("upgraded", f"from {left.program} to {__version__}", **report)
        return report | {"generation": self._master.state.generation}


def _told(left: Handover, segments: str) -> Report:
    return {"from": left.program, "to": __version__, "segments": segments}


async def _logged(work: Awaitable[Report]) -> None:
    with contextlib.suppress(CommandError):  # it is in the log already
        await work
