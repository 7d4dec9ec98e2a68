"""How a child begins: the first message from the master, and how it ends: the exit statuses.

A child is a fresh interpreter (``python -m flyproxy.worker``, ``.state``, ``.control``). Everything it may use comes
through its channel: settings, the shared segments, the eventfds that wake the engines, the cluster key and the
certificate of the backhaul (whose files only the master may be able to read). ``receive_boot`` also gives up the rights
that only the master needs, before the child does anything else.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flyproxy import log, privileges
from flyproxy.channel import Channel, ChannelClosed
from flyproxy.settings import Settings, from_json, to_json

SEGMENTS = ("root", "table0", "table1", "load", "counters", "logs")

DUMP_SIGNAL = signal.SIGRTMIN + 1
"""A child that gets it writes the tracebacks of all its Python threads to stderr and goes on."""

EXIT_OK = 0  # told to stop, or drained
EXIT_BOOT = 3  # could not begin: bad boot message, segments of another layout
EXIT_ENGINE = 4  # the engine thread ended by itself
EXIT_MASTER = 5  # the master is gone (state and control only: workers go on)

MEANINGS = {
    EXIT_OK: "ended as told",
    1: "failed; its last words are in this log",
    EXIT_BOOT: "could not begin; the line before says why",
    EXIT_ENGINE: "lost its engine thread; the line before says why",
    EXIT_MASTER: "saw the master's end of the channel close",
}


@dataclass(frozen=True)
class Boot:
    """What a child is, and what it was given. ``proc`` is None for state and control."""

    role: str
    index: int
    proc: int | None
    generation: int
    settings: Settings
    segment_fds: dict[str, int]
    wake_fds: dict[int, int]
    runtime: str
    state_dir: str
    epoch: int = 0  # of this start of the master, unix seconds
    backhaul_ports: tuple[int, ...] = ()  # slot k's backhaul listener is on port k of these
    cluster_key: bytes = field(default=b"", repr=False)
    certificate: tuple[bytes, ...] = field(default=(), repr=False)  # ca, cert, key in PEM; of workers, with TLS

    @property
    def process(self) -> str:
        """The name for logs and titles: ``worker 1``, ``state``, ``control``."""
        return f"worker {self.index}" if self.role == "worker" else self.role


def boot_message(boot: Boot, identity: privileges.Identity | None) -> tuple[dict[str, Any], list[int]]:
    """What the master sends first: the message and its descriptors, in the order that receive_boot expects."""
    message = {
        "t": "boot", "role": boot.role, "index": boot.index, "proc": boot.proc, "generation": boot.generation,
        "settings": settings_json(boot.settings), "segments": list(SEGMENTS), "wakes": list(boot.wake_fds),
        "runtime": boot.runtime, "state_dir": boot.state_dir, "identity": identity.to_json() if identity else None,
        "epoch": boot.epoch, "backhaul_ports": list(boot.backhaul_ports),
        "cluster_key": base64.b64encode(boot.cluster_key).decode(),
        "certificate": [base64.b64encode(pem).decode() for pem in boot.certificate],
    }  # fmt: skip
    return message, [*(boot.segment_fds[name] for name in SEGMENTS), *boot.wake_fds.values()]


async def receive_boot(channel: Channel) -> Boot:
    """Waits for the boot message, configures the log, gives up privileges. Raises ChannelClosed."""
    message, fds = await channel.recv()
    if message.get("t") != "boot":
        raise ChannelClosed(f"expected a boot message, got {message.get('t')!r}")
    names, wakes = message["segments"], message["wakes"]
    if len(fds) != len(names) + len(wakes):
        raise ChannelClosed(f"expected {len(names) + len(wakes)} descriptors, got {len(fds)}")
    boot = Boot(
        role=message["role"], index=message["index"], proc=message["proc"], generation=message["generation"],
        settings=settings_from(message["settings"]),
        segment_fds=dict(zip(names, fds, strict=False)),
        wake_fds=dict(zip(wakes, fds[len(names) :], strict=True)),
        runtime=message["runtime"], state_dir=message["state_dir"],
        epoch=message["epoch"], backhaul_ports=tuple(message["backhaul_ports"]),
        cluster_key=base64.b64decode(message["cluster_key"]),
        certificate=tuple(map(base64.b64decode, message["certificate"])),
    )  # fmt: skip
    log.configure(boot.settings.log, process=boot.process)
    privileges.confine(privileges.Identity.from_json(message["identity"]))
    os.environ.pop("NOTIFY_SOCKET", None)  # only the master speaks to systemd
    return boot


def settings_json(settings: Settings) -> dict[str, Any]:
    """Settings as they travel inside messages, and as the engine takes them."""
    data: dict[str, Any] = json.loads(to_json(settings))
    return data


def settings_from(message: dict[str, Any]) -> Settings:
    """The reverse of settings_json."""
    return from_json(json.dumps(message).encode())


def leave(status: int) -> NoReturn:
    """Ends this process, whose work is done, at once: what it has the kernel takes back. An interpreter takes all its
    modules apart before, which is a tenth of a second of CPU that a stop or a reload would wait for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
