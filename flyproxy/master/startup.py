"""What a master stands on before its first child: key, user, folders, lock, what a killed master left, memory, sockets.

Everything that a start may fail on happens here, in this order, and nothing is spawned before.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flyproxy import cluster_key, log, privileges
from flyproxy.master import incarnation
from flyproxy.master.children import child_environment
from flyproxy.master.ledger import ENV_TOKEN, Ledger, Orphan, end_quietly, take_sockets
from flyproxy.master.listeners import Listeners
from flyproxy.master.notify import inherited_fds
from flyproxy.master.segments import Segments
from flyproxy.settings import Settings

if TYPE_CHECKING:
    from flyproxy.certificates import Certificate


@dataclass
class Foundation:
    """``env`` is the children's environment; ``orphans`` are workers of a killed master, which still serve."""

    ledger: Ledger
    identity: privileges.Identity | None
    orphans: list[Orphan]
    segments: Segments
    listeners: Listeners
    env: dict[str, str]
    cluster_key: bytes = field(repr=False)
    certificate: Certificate | None = field(repr=False)
    epoch: int
    backhaul_ports: tuple[int, ...]


def lay(settings: Settings, make_segments: Callable[[Settings], Segments]) -> Foundation:
    """Raises KeyFileError, AlreadyRunning, ListenError, OSError, ValueError; each says how to mend it."""
    paths = settings.paths
    secret = cluster_key.read(settings.backhaul.key_file)
    certificate = _certificate(settings)
    _raise_file_limit()
    identity = _choose_identity([paths.runtime, paths.state])
    book = Ledger(paths.runtime)
    book.lock()
    orphans = _adopt(book)
    segments = make_segments(settings)
    inherited = take_sockets(orphans, inherited_fds(os.environ))
    listeners = Listeners(settings.workers.slots, inherited, alone=not orphans)
    now = incarnation.begin(paths.state, time.time())
    ports = _open_backhaul(listeners, settings, now.ports)
    listeners.commit(listeners.prepare(settings))
    now.remember(ports)
    env = child_environment() | {ENV_TOKEN: book.token}
    return Foundation(book, identity, orphans, segments, listeners, env, secret, certificate, now.epoch, ports)


def _certificate(settings: Settings) -> Certificate | None:
    """One that other hosts will not believe is no reason to serve nobody at all: apps of this host need none."""
    if not settings.backhaul.cert:
        return None
    from flyproxy import certificates  # a large library stands behind it

    found = certificates.read(settings.backhaul)
    problem = certificates.judge(found, settings.host) if found else None
    if problem is not None:
        log.error("certificate-not-valid", f"{problem}; no other host is reached", fix=problem.fix)
    return found


def _open_backhaul(listeners: Listeners, settings: Settings, known: tuple[int, ...]) -> tuple[int, ...]:
    if not settings.backhaul_slots:
        return ()
    return listeners.open_backhaul(*settings.backhaul.bind, settings.backhaul_slots, known)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _choose_identity(folders: list[str]) -> privileges.Identity | None:
    """Makes the folders, and says whom the children run as in them.

    Root's children work as an unprivileged user where that one can; where not, they keep the user and say so. The
    trial needs the folders as they will be: a new one is given to the user first, and taken back if that fails.
    """
    identity = privileges.candidate()
    new = [folder for folder in folders if privileges.make(folder)]
    if identity is None:
        return None
    for folder in new:
        privileges.give(folder, identity)
    why = privileges.choose(identity, folders, child_environment())
    if why is None:
        return identity
    for folder in new:
        privileges.give(folder, privileges.Identity("root", os.geteuid(), os.getegid()))
    fix = (f"chown -R {identity.name}: {' '.join(folders)}, and let that user enter the folders above them"
           if "write" in why else
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
