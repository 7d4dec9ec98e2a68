"""What a master stands on before its first child: user, folders, lock, what a killed master left, memory, sockets.

Everything that a start may fail on happens here, in this order, and nothing is spawned before.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass

from flyproxy import log, privileges
from flyproxy.master.children import child_environment
from flyproxy.master.ledger import ENV_TOKEN, Ledger, Orphan, end_quietly, take_sockets
from flyproxy.master.listeners import Listeners
from flyproxy.master.notify import inherited_fds
from flyproxy.master.segments import Segments
from flyproxy.settings import Settings


@dataclass
class Foundation:
    """``env`` is the children's environment; ``orphans`` are workers of a killed master, which still serve."""

    ledger: Ledger
    identity: privileges.Identity | None
    orphans: list[Orphan]
    segments: Segments
    listeners: Listeners
    env: dict[str, str]


def lay(settings: Settings, make_segments: Callable[[Settings], Segments]) -> Foundation:
    """Raises AlreadyRunning, ListenError, OSError, ValueError; each says how to mend it."""
    paths = settings.paths
    _raise_file_limit()
    identity = _choose_identity(settings)
    for folder in (paths.runtime, paths.state):
        privileges.own(folder, identity)
    book = Ledger(paths.runtime)
    book.lock()
    orphans = _adopt(book)
    segments = make_segments(settings)
    inherited = take_sockets(orphans, inherited_fds(os.environ))
    listeners = Listeners(settings.workers.slots, inherited, alone=not orphans)
    listeners.commit(listeners.prepare(settings))
    env = child_environment() | {ENV_TOKEN: book.token}
    return Foundation(book, identity, orphans, segments, listeners, env)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _choose_identity(settings: Settings) -> privileges.Identity | None:
    """Root's children work as an unprivileged user where that one can; where not, they keep the user and say so."""
    identity, paths = privileges.candidate(), settings.paths
    if identity is None:
        return None
    folders = [folder for folder in (paths.runtime, paths.state) if os.path.isdir(folder)]
    why = privileges.choose(identity, folders, child_environment())
    if why is None:
        return identity
    fix = (f"chown -R {identity.name}: {' '.join(folders)}" if "write" in why else
           "install Python and flyproxy where every user may read them, for example in /opt, and run it from there")
    log.warning("privileges-kept", f"children cannot run as {identity.name}: {why}; they keep the user root, "
                "without its rights", fix=fix)  # fmt: skip
    return None


def _adopt(book: Ledger) -> list[Orphan]:
    """Children of a master that was killed: state and control end now, workers serve until ours do."""
    found = book.orphans()
    end_quietly(orphan for orphan in found if orphan.role != "worker")
    orphans = [orphan for orphan in found if orphan.role == "worker"]
    if orphans:
        log.warning("adopting", "the last master was killed; its workers serve until ours are ready",
                    workers=len(orphans), pids=[orphan.pid for orphan in orphans])  # fmt: skip
    return orphans
