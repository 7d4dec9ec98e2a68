"""What the master tells on ``ctl.sock``: the shapes ``status`` and ``workers`` of the interface. Reads, decides
nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flyproxy import __version__
from flyproxy.master import model

if TYPE_CHECKING:
    from flyproxy.master.main import Master

_SHOWN = {model.Phase.ENDING: "draining"}  # the interface knows starting, ready, draining


def status(master: Master) -> dict[str, Any]:
    """The daemon at a glance."""
    settings, state = master.settings, master.state
    table, usage = master.segments.table, master.segments.table.usage()
    return {
        "version": __version__, "region": settings.region, "host": settings.host,
        "master": {"pid": os.getpid(), "state": _master_state(state)},
        "state": _single(master, model.STATE), "control": _single(master, model.CONTROL),
        "workers": workers(master), "listeners": master.listeners.rows(),
        "table": {
            "generation": table.generation, "age_seconds": _age(table.published_ns),
            "apps": usage["apps"], "machines": usage["machines"],
        },
        "revision": revision(master), "generation": state.generation, "restarts": dict(master.restarts),
        "orphans": len(master.orphans), "backhaul": _backhaul(master),
    }  # fmt: skip


def workers(master: Master) -> list[dict[str, Any]]:
    """Every living worker, also those that drain."""
    rows = []
    for child in master.state.workers():
        process = master.processes.get(child.id)
        view = master.segments.root.proc(proc_of(child))
        rows.append({
            "index": child.post[1], "pid": process.pid if process else 0, "generation": child.generation,
            "state": str(_SHOWN.get(child.phase, child.phase)),
            "slots": [slot for slot, owner in enumerate(master.state.owners) if owner == child.id],
            "connections": view.connections, "revision": view.revision,
        })  # fmt: skip
    return rows


def proc_of(child: model.Child) -> int:
    """A worker's process index."""
    assert child.proc is not None, f"{child.post} is no worker"
    return child.proc


def revision(master: Master) -> int:
    """The newest revision that every ready worker has read; without workers the table's own."""
    ready = [child.proc for child in master.state.workers() if child.phase is model.Phase.READY]
    table: int = master.segments.table.revision
    return min((master.segments.root.proc(proc).revision for proc in ready if proc is not None), default=table)


def _backhaul(master: Master) -> Mapping[str, Any] | None:
    """What other hosts know this one by; None where there is no backhaul."""
    backhaul = master.settings.backhaul
    if not backhaul.address:
        return None
    found = master.certificate
    return {"address": backhaul.bind[0], "ports": list(master.backhaul_ports), "epoch": master.epoch,
            "certificate_expires": f"{found.expires:%Y-%m-%dT%H:%M:%SZ}" if found else None}


def _master_state(state: model.State) -> str:
    if state.stopping:
        return "stopping"
    return "ready" if state.announced else "starting"


def _single(master: Master, post: model.Post) -> Mapping[str, Any]:
    """``state`` or ``control``: {pid, state}; pid 0 while it waits to be started again."""
    child = master.state.child_at(post)
    process = master.processes.get(child.id) if child else None
    if child is None or process is None:
        return {"pid": 0, "state": "down"}
    return {"pid": process.pid, "state": str(child.phase)}


def _age(published_ns: int) -> float:
    """Seconds since the table was published; 0 while there is none."""
    return round((time.monotonic_ns() - published_ns) / 1e9, 3) if published_ns else 0.0
