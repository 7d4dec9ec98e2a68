"""The master process: does what the supervisor decides, and tells it what happens.

One loop, one queue of events. Nothing in here waits: children are told through channels that queue, deaths come
through pidfds, a dump of a stuck process is made in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import setproctitle

from flyproxy import __version__, log
from flyproxy.boot import Boot, boot_message
from flyproxy.channel import ChannelClosed
from flyproxy.cluster_key import KeyFileError
from flyproxy.master import children, ledger, model, reports, startup, watchdog
from flyproxy.master.ctl import CtlServer
from flyproxy.master.handover import Handover
from flyproxy.master.listeners import Change, ListenError
from flyproxy.master.notify import Notifier
from flyproxy.master.program import Program
from flyproxy.master.pulse import Pulse
from flyproxy.master.reload import Reloads
from flyproxy.master.segments import Segments
from flyproxy.master.supervisor import step
from flyproxy.master.upgrade import SIGNALS, Upgrades
from flyproxy.settings import Settings

TICK = 0.1  # seconds
LATE = 0.1  # seconds that a tick may come late and still count as on time
SILENT_LEAST, SILENT_FACTOR = 10.0, 3  # state and control: seconds, and times workers.stuck_after, whichever is more
RETRY_PORTS = 2.0  # seconds between two attempts to open app ports that could not be bound


class Master:
    """``load`` reads the settings anew for a reload (raises SettingsError); ``program`` is what an upgrade executes.

    ``command`` (the program of each role) and ``segments`` (shared memory) can be replaced by tests.
    """

    def __init__(
        self, settings: Settings, load: Callable[[], Settings], program: Program,
        command: children.Command = children.python_module, ready_timeout: float = 10.0,
        segments: Callable[..., Segments] = Segments, silent_least: float = SILENT_LEAST,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.notifier = Notifier(os.environ)
        self.processes: dict[int, children.Process] = {}
        self.restarts: Counter[str] = Counter()
        self.reloads = Reloads(self, load)
        self.upgrades = Upgrades(self, program)
        self.state: model.State
        self._command = command
        self._ready_timeout = ready_timeout
        self._silent_least = silent_least
        self._make_segments = segments
        self._pulses: dict[int, Pulse] = {}  # of state and control
        self._events: deque[model.Event] = deque()
        self._busy = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """From start to exit status. Raises nothing: what prevents a start is logged, and the status is 1."""
        setproctitle.setproctitle("flyproxy: master (starting)")
        try:
            found = startup.lay(self.settings, self._make_segments)
            self._stand_on(found)
            owner = (self._identity.uid, self._identity.gid) if self._identity else None
            await self.ctl.open(owner, found.left.ctl if found.left else None)
        except (ledger.AlreadyRunning, KeyFileError, ListenError, OSError, ValueError) as error:
            log.error("start-failed", str(error), fix=getattr(error, "fix", ""))
            return 1
        loop = asyncio.get_running_loop()
        deaf = partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS)
        loop.set_default_executor(ThreadPoolExecutor(2, "master", deaf))
        loop.add_signal_handler(signal.SIGHUP, self.reloads.on_hangup)
        loop.add_signal_handler(signal.SIGTERM, lambda: self._stop(quick=False))
        loop.add_signal_handler(signal.SIGINT, lambda: self._stop(quick=True))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self.task(self.upgrades.on_signal()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        ticking = asyncio.ensure_future(self._ticks())
        if not found.resumed:
            self.dispatch(model.Begin())
        if found.left is not None:
            self.upgrades.go_on(found.left, found.resumed, found.kept)
        try:
            return await self._left
        finally:
            ticking.cancel()
            for task in list(self._tasks):
                task.cancel()
            await self.ctl.close()
            self.ledger.remove()

    def dispatch(self, event: model.Event) -> None:
        """Hands one event to the supervisor and does what it asks; events that this causes follow in order."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self.state, actions = step(self.state, self._events.popleft(), time.monotonic())
                for action in actions:
                    self._act(action)
        finally:
            self._busy = False

    def policy(self) -> model.Policy:
        """What the settings mean for the supervisor."""
        workers, slots = self.settings.workers, self.settings.workers.slots
        count = min(workers.count, slots, self.segments.procs // 2)
        if count < workers.count:
            log.warning("workers-limited", f"{count} of {workers.count} workers run: there are {slots} slots",
                        fix="raise workers.slots and restart")  # fmt: skip
        return model.Policy(
            count=count, slots=slots, procs=self.segments.procs, drain_timeout=workers.drain_timeout,
            stuck_after=workers.stuck_after, respawn_min=workers.respawn_min, respawn_max=workers.respawn_max,
            max_generations=workers.max_generations, ready_timeout=self._ready_timeout,
            silent_after=max(self._silent_least, SILENT_FACTOR * workers.stuck_after),
        )  # fmt: skip

    def _stand_on(self, found: startup.Foundation) -> None:
        self.settings, self.segments, self.listeners = found.settings, found.segments, found.listeners
        self.ledger, self.orphans, self._identity = found.ledger, found.orphans, found.identity
        self._env = children.child_environment()
        self.epoch, self.backhaul_ports, self._cluster_key = found.epoch, found.backhaul_ports, found.cluster_key
        self.certificate = found.certificate
        for orphan in self.orphans:
            asyncio.get_running_loop().add_reader(orphan.pidfd, self._on_orphan_death, orphan)
        uids = {0, os.geteuid(), *([self._identity.uid] if self._identity else [])}
        commands = {"status": self._cmd_status, "workers": self._cmd_workers, "reload": self._cmd_reload,
                    "upgrade": self._cmd_upgrade, "stop": self._cmd_stop}  # fmt: skip
        self.ctl = CtlServer(os.path.join(self.settings.paths.runtime, "ctl.sock"), commands, uids)
        if found.left is not None:
            self.restarts.update(found.left.restarts)
        if found.left is not None and found.resumed:
            self._resume(found.left)
        else:
            generation = found.left.state.generation + 1 if found.left else 1
            self.state = model.State(self.policy(), generation)
            for endpoint in self.listeners.endpoints():
                self.notifier.store(endpoint.name, endpoint.fds())
        log.info("starting", f"flyproxy {__version__}", region=self.settings.region, host=self.settings.host,
                 workers=self.settings.workers.count, slots=self.settings.workers.slots)  # fmt: skip

    def _resume(self, left: Handover) -> None:
        """The children of the last program of this process are ours, as they are."""
        self.state = left.state
        for member in left.members:
            self._watch(member.id, children.Process.kept(member.pid, member.pidfd, member.channel))
        setproctitle.setproctitle("flyproxy: master")

    def _act(self, action: model.Action) -> None:
        try:
            self._do[type(action)](action)
        except Exception as error:  # noqa: BLE001  one that fails must not keep the others from being done
            log.error("action-failed", f"{action}: {error!r}", where=traceback.format_exc(limit=-3))

    # -- what the supervisor asks for

    def _spawn(self, action: model.Spawn) -> None:
        role, index = action.post
        try:
            process = children.spawn(self._command(role), self._env, self.ledger.badge())
        except OSError as error:
            self._events.append(model.Exited(action.id, f"could not be started: {error}", "spawn-failed"))
            return
        if role == "state":
            children.run_first(process.pid)
        if action.proc is not None:
            self.segments.root.claim_proc(action.proc, process.pid)
            self.segments.root.set_proc_state(action.proc, "starting")
        boot = Boot(
            role=role, index=index, proc=action.proc, generation=action.generation, settings=self.settings,
            segment_fds=self.segments.for_role(role), wake_fds=self.segments.wakes,
            runtime=self.settings.paths.runtime, state_dir=self.settings.paths.state,
            epoch=self.epoch, backhaul_ports=self.backhaul_ports, cluster_key=self._cluster_key,
            certificate=tuple(self.certificate.pem) if self.certificate and role == "worker" else (),
        )  # fmt: skip
        self._watch(action.id, process)
        self.tell(action.id, *boot_message(boot, self._identity))
        if role == "worker":
            self.tell(action.id, *self.listeners.everything())
        self._write_ledger()
        log.debug("spawned", f"{role} {index}", role=role, index=index, child_pid=process.pid,
                  generation=action.generation)  # fmt: skip

    def _watch(self, child_id: int, process: children.Process) -> None:
        self.processes[child_id] = process
        if self.state.children[child_id].proc is None:
            self._pulses[child_id] = Pulse(process.pid, time.monotonic())
        asyncio.get_running_loop().add_reader(process.pidfd, self._on_death, child_id)
        self.task(self._hear(child_id, process))

    def _set_owner(self, action: model.SetOwner) -> None:
        self.segments.root.set_slot_owner(action.slot, action.proc)
        for child in self.state.workers():  # the old owner stops and the new one begins now, not at their next turn
            if child.proc is not None and child.phase is not model.Phase.ENDING:
                self.segments.wake(child.proc)

    def _drain(self, action: model.Drain) -> None:
        child = self.state.children[action.id]
        if child.proc is not None:
            self.segments.root.set_proc_state(child.proc, "draining")
        self.tell(action.id, {"t": "drain", "deadline": action.seconds})

    def _quit(self, action: model.Quit) -> None:
        self.tell(action.id, {"t": "stop"})

    def _kill(self, action: model.Kill) -> None:
        process = self.processes.get(action.id)
        if process is None:
            return
        log.warning("killing", f"SIGKILL: {action.why}", child_pid=process.pid, why=action.why)
        if action.dump:
            self.task(self._dump_and_kill(process))
        else:
            process.kill()

    async def _dump_and_kill(self, process: children.Process) -> None:
        try:
            found = await asyncio.to_thread(watchdog.dump, os.dup(process.pidfd), process.pid)
            log.error("stuck", f"process {process.pid} seen from outside", child_pid=process.pid, **found)
        finally:
            process.kill()

    def _reclaim(self, action: model.Reclaim) -> None:
        self.segments.root.reclaim_proc(action.proc)

    def _close_listeners(self, action: model.CloseListeners) -> None:
        self.listeners.close()
        setproctitle.setproctitle("flyproxy: master (stopping)")
        self.notifier.send(STOPPING=1, STATUS="draining")

    def _announce(self, action: model.Announce) -> None:
        setproctitle.setproctitle("flyproxy: master")
        log.info("ready", "table loaded, workers accepting",
                 listeners=[f"{row['address']} {row['port']}" for row in self.listeners.rows()])  # fmt: skip
        self.notifier.send(READY=1, MAINPID=os.getpid(), STATUS="serving")
        self.upgrades.serving.set()
        for orphan in self.orphans:
            orphan.signal(signal.SIGTERM)  # they drain
        if not self.orphans:
            self.upgrades.alone.set()

    def _note(self, action: model.Note) -> None:
        if action.restart:
            self.restarts[action.restart] += 1
        getattr(log, action.level)(action.event, action.message, **action.fields)

    def _leave(self, action: model.Leave) -> None:
        if not self._left.done():
            log.info("stopped", "all processes have ended")
            self._left.set_result(0)

    @cached_property
    def _do(self) -> dict[type, Callable[[Any], None]]:
        return {
            model.Spawn: self._spawn, model.SetOwner: self._set_owner, model.Drain: self._drain,
            model.Quit: self._quit, model.Kill: self._kill, model.Reclaim: self._reclaim,
            model.CloseListeners: self._close_listeners, model.Announce: self._announce,
            model.ReloadDone: self.reloads.done, model.HandOver: self.upgrades.decided,
            model.UpgradeRefused: self.upgrades.decided, model.Note: self._note, model.Leave: self._leave,
        }  # fmt: skip

    # -- what happens

    def _on_death(self, child_id: int) -> None:
        process = self.processes.pop(child_id)
        self._pulses.pop(child_id, None)
        asyncio.get_running_loop().remove_reader(process.pidfd)
        for message in process.channel.rest():
            self._on_message(child_id, message)
        text, reason, clean = children.meaning(process.reap())
        process.close()
        self.dispatch(model.Exited(child_id, text, reason, clean))
        self._write_ledger()

    async def _hear(self, child_id: int, process: children.Process) -> None:
        try:
            while True:
                message, fds = await process.channel.recv()
                for fd in fds:  # no child has a reason to send any
                    os.close(fd)
                self._on_message(child_id, message)
        except (ChannelClosed, ValueError, TypeError, LookupError) as error:  # its end, or a senseless message
            if child_id in self.processes:
                log.debug("channel-closed", repr(error), child_pid=process.pid)
                self.dispatch(model.ChannelLost(child_id))

    def _on_message(self, child_id: int, message: dict[str, Any]) -> None:
        kind = message.get("t")
        if kind == "ready":
            child = self.state.children.get(child_id)
            if child is not None and child.proc is not None:
                self.segments.root.set_proc_state(child.proc, "ready")
            self.dispatch(model.Ready(child_id))
        elif kind == "pong":
            if pulse := self._pulses.get(child_id):  # the last words of a dead one are read after its death
                pulse.answered()
        elif kind == "refused":
            self.dispatch(model.Refused(child_id, str(message.get("why", ""))))
        elif kind == "ports":
            if not self.state.stopping:
                self.send_listeners(self.listeners.set_ports(message["ports"], self.settings))
                self.listeners.drop_inherited()
        elif kind != "drained":
            log.warning("unknown-message", f"a child sent a message of unknown kind {kind!r}")

    async def _ticks(self) -> None:
        loop = asyncio.get_running_loop()
        due, was_on_time, retry_at, notify_at = loop.time(), False, 0.0, 0.0
        while True:
            due += TICK
            await asyncio.sleep(due - loop.time())
            on_time = loop.time() - due < LATE
            self.dispatch(model.Tick(self._beats(), on_time and was_on_time, self._silences(on_time)))
            was_on_time, now = on_time, loop.time()
            due = due if on_time else now
            if now >= retry_at and not self.state.stopping:
                retry_at = now + RETRY_PORTS
                self.send_listeners(self.listeners.retry(self.settings))
            if self.notifier.watchdog_every and now >= notify_at:
                notify_at = now + self.notifier.watchdog_every
                self.notifier.send(WATCHDOG=1)

    def _beats(self) -> dict[int, model.Beat]:
        now = time.monotonic_ns()
        beats = {}
        for child in self.state.workers():
            view = self.segments.root.proc(reports.proc_of(child))
            ages = ((now - stamp) / 1e9 if stamp else 0.0 for stamp in (view.engine_ns, view.python_ns))
            beats[child.id] = model.Beat(*ages)
        return beats

    def _silences(self, on_time: bool) -> dict[int, model.Silence]:
        now = time.monotonic()
        for child_id, pulse in self._pulses.items():
            if not on_time:
                pulse.forgive(now)
            elif pulse.due(now):
                self.tell(child_id, {"t": "ping"})
        return {child_id: pulse.silence(now) for child_id, pulse in self._pulses.items()}

    def _on_orphan_death(self, orphan: ledger.Orphan) -> None:
        asyncio.get_running_loop().remove_reader(orphan.pidfd)
        orphan.reap()
        os.close(orphan.pidfd)
        self.orphans.remove(orphan)
        self._write_ledger()
        if not self.orphans:
            self.upgrades.alone.set()

    # -- signals and commands

    def _stop(self, quick: bool) -> None:
        log.info("stopping", "quick" if quick or self.state.stopping else "graceful")
        self.dispatch(model.Stop(quick))
        for orphan in self.orphans:
            orphan.signal(signal.SIGINT if quick else signal.SIGTERM)

    async def _cmd_status(self, request: dict[str, Any]) -> dict[str, Any]:
        return reports.status(self)

    async def _cmd_workers(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        return reports.workers(self)

    async def _cmd_reload(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self.reloads.begin(bool(request.get("workers")), bool(request.get("wait_drained")))

    async def _cmd_upgrade(self, request: dict[str, Any]) -> None:
        await self.upgrades.begin(bool(request.get("wait_drained")))

    async def _cmd_stop(self, request: dict[str, Any]) -> dict[str, Any]:
        self._stop(quick=bool(request.get("quick")))
        return {"stopping": self.state.stopping}

    # -- helpers

    def tell(self, child_id: int, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """A child that is gone or does not read is noticed by its pidfd, its channel's end or its heartbeat."""
        process = self.processes.get(child_id)
        if process is not None:
            with contextlib.suppress(ChannelClosed):
                process.channel.send(message, fds or [])

    def send_listeners(self, change: Change) -> None:
        """Tells the workers, and has systemd keep the sockets for the next master."""
        if not change:
            return
        for child in self.state.workers():
            self.tell(child.id, *change.message())
        for endpoint in change.removed:
            self.notifier.forget(endpoint.name)
        for endpoint in change.added:
            self.notifier.store(endpoint.name, endpoint.fds())

    def _write_ledger(self) -> None:
        roles = {child.id: child.post[0] for child in self.state.children.values()}
        living = [(roles.get(child_id, "worker"), process.pid) for child_id, process in self.processes.items()]
        try:
            self.ledger.write(living, self.orphans)
        except OSError as error:
            log.warning("ledger-failed", f"a killed master's workers could not be adopted: {error}")

    def task(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs until done, or until the master leaves."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
