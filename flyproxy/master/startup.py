"""What a master stands on before its first child: key, user, folders, lock, what was left to it, memory, sockets.

Everything that a start may fail on happens here, in this order, and nothing is spawned before. A start finds nothing,
or the orphans of a master that was killed, or what the last program of this very process handed over in an upgrade; of
that it keeps everything if it can, else the sockets.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flyproxy import cluster_key, log, privileges
from flyproxy.master import incarnation
from flyproxy.master.children import child_environment, reap_all
from flyproxy.master.handover import Handover, Inheritance, receive
from flyproxy.master.ledger import Ledger, Orphan, end_quietly, listening, take_sockets
from flyproxy.master.listeners import Listeners
from flyproxy.master.notify import inherited_fds
from flyproxy.master.segments import Kept, Segments
from flyproxy.settings import Settings, diff, resolved

if TYPE_CHECKING:
    from flyproxy.certificates import Certificate

Secrets = tuple[bytes, "Certificate | None"]
"""The cluster key and what we show other hosts in TLS."""


@dataclass
class Foundation:
    """``env`` is the children's environment; ``orphans`` are workers of a killed master, which still serve; ``left`` is
    what the last program of this process handed over, all of it taken over if ``resumed``."""

    settings: Settings
    ledger: Ledger
    identity: privileges.Identity | None
    orphans: list[Orphan]
    segments: Segments
    listeners: Listeners
    cluster_key: bytes = field(repr=False)
    certificate: Certificate | None = field(repr=False)
    epoch: int
    backhaul_ports: tuple[int, ...]
    left: Handover | None = None
    resumed: bool = False
    kept: tuple[str, ...] = ()  # keys of the settings that only a restart changes


def lay(settings: Settings, make_segments: Callable[..., Segments]) -> Foundation:
    """``settings`` as read, ``make_segments`` like Segments. Raises KeyFileError, AlreadyRunning, ListenError, OSError,
    ValueError; each says how to mend it."""
    left = receive(os.environ)
    settings = asked = resolved(settings, left.settings.workers.slots if left else 0)
    if left is not None and left.handover is not None:  # lock, list of children and store stay where they are
        settings = replace(asked, paths=left.settings.paths)
    secrets = cluster_key.read(settings.backhaul.key_file), _certificate(settings)
    _raise_file_limit()
    identity = _choose_identity([settings.paths.runtime, settings.paths.state])
    if left is not None and left.handover is not None:
        segments = _same_memory(left.handover, left.settings, settings, make_segments)
        if segments is not None:
            return _go_on(left.handover, left.settings, segments, identity, secrets)
    found = _begin(settings, left, make_segments, identity, secrets)
    found.kept = diff(settings, asked).restart
    return found


def _begin(
    settings: Settings, left: Inheritance | None, make_segments: Callable[..., Segments],
    identity: privileges.Identity | None, secrets: Secrets,
) -> Foundation:  # fmt: skip
    """Around the sockets that were left, if any: new memory, new children, and a new epoch."""
    paths, handed = settings.paths, left.handover if left else None
    sockets = listening(left.fds) if left else []
    if left is not None:  # state and control end when their channels close
        ours = (handed.lock, handed.ctl, handed.upgrader) if handed else ()
        left.close(kept=[*sockets, *(fd for fd in ours if fd is not None)])
    book = Ledger.kept(paths.runtime, handed.lock, handed.token) if handed else Ledger(paths.runtime)
    if handed is None:
        book.lock()
    orphans = _adopt(book, killed=left is None)
    segments = make_segments(settings)
    inherited = take_sockets(orphans, [*sockets, *inherited_fds(os.environ)])
    listeners = Listeners(settings.workers.slots, inherited, alone=not (orphans or inherited))
    now = incarnation.begin(paths.state, time.time())
    ports = _open_backhaul(listeners, settings, now.ports)
    listeners.commit(listeners.prepare(settings))
    now.remember(ports)
    return Foundation(settings, book, identity, orphans, segments, listeners, *secrets, now.epoch, ports, handed)


def _go_on(
    left: Handover, settings: Settings, segments: Segments, identity: privileges.Identity | None, secrets: Secrets
) -> Foundation:
    """With everything as it was, the settings too: new ones are for the reload that follows."""
    book = Ledger.kept(settings.paths.runtime, left.lock, left.token)
    ours = {member.pid for member in left.members}
    orphans = [orphan for orphan in book.orphans() if orphan.pid not in ours]
    listeners = Listeners.from_book(settings.workers.slots, left.book)
    return Foundation(settings, book, identity, orphans, segments, listeners, *secrets, left.epoch,
                      left.backhaul_ports, left, resumed=True)  # fmt: skip


def _same_memory(
    left: Handover, old: Settings, new: Settings, make_segments: Callable[..., Segments]
) -> Segments | None:
    """The segments that the last program made, if they fit this one and the settings; else the log says why not."""
    why = ", ".join(diff(old, new).restart)
    if not why:
        try:
            return make_segments(old, Kept(left.procs, left.segments, left.wakes))
        except ValueError as error:
            why = str(error)
    log.info("upgrade-anew", f"new shared memory, because another is needed: {why}", program=left.program)
    return None


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


def _adopt(book: Ledger, killed: bool) -> list[Orphan]:
    """Children of a master that was killed, or of the last program of this process: state and control end now, workers
    serve until ours do."""
    found = book.orphans()
    end_quietly(orphan for orphan in found if orphan.role != "worker")
    orphans = [orphan for orphan in found if orphan.role == "worker"]
    reap_all()
    if orphans and killed:
        log.warning("adopting", "the last master was killed; its workers serve until ours are ready",
                    workers=len(orphans), pids=[orphan.pid for orphan in orphans])  # fmt: skip
    return orphans
