"""A network of regions on one machine: a real daemon for each, a host id and backhaul of its own, one store for all.

Hosts have mesh addresses 127.0.0.11, .12 ..., or are namespaces of tests.kit.netns with the addresses they have there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.kit.bulk import View, write
from tests.kit.daemon import ProxyDaemon, command_line
from tests.kit.far import Far, Link
from tests.kit.netns import Host
from tests.kit.wait import stand_still, until

BOTH = ("edge", "worker")
SPREAD_S = 20.0  # until a change is in every host's table
EXPECTED = ("mesh-not-direct",)  # what the last hosts say of those that have ended


class Regions:
    """One host in each region, ``NAME-1`` in NAME. A context manager: starts all, and insists on a clean end of each.

    ``roles``: of the regions whose hosts are not both edge and worker. ``places``: namespaces to run in, in the order
    of ``names``; ``mesh``: other mesh addresses than the places' own, for example WireGuard's. ``ports``: service ports
    with a listener on every edge, named ``http`` (80) or by their number. ``certificates``: of regions whose hosts
    speak TLS, their [backhaul] ca, cert and key. ``settings``: further tables of flyproxy.toml for every host, as
    ProxyDaemon takes them."""

    def __init__(
        self, *names: str, roles: Mapping[str, Sequence[str]] | None = None, places: Sequence[Host] = (),
        mesh: Sequence[str] = (), ports: Sequence[int] = (80,), allowed: Sequence[str] = (),
        certificates: Mapping[str, Mapping[str, str]] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.dir = Path(tempfile.mkdtemp(prefix="fpr-"))
        self.database = self.dir / "state.db"
        key = self.dir / "cluster.key"
        key.write_text(os.urandom(32).hex() + "\n")
        inside = mesh or [place.address for place in places] or [f"127.0.0.{11 + at}" for at in range(len(names))]
        self.mesh = dict(zip(names, inside, strict=True))
        self.places = dict(zip(names, places, strict=True)) if places else {}
        backhaul = settings.pop("backhaul", {})
        public = {"http" if port == 80 else str(port): {"port": port} for port in ports}
        self.daemons = {
            name: ProxyDaemon(
                public if "edge" in (mine := list((roles or {}).get(name, BOTH))) else {},
                allowed=[*EXPECTED, *allowed],
                prefix=self.places[name].prefix if places else (),
                region=name,
                host=host_of(name),
                roles=mine,
                backhaul={"address": bracketed(self.mesh[name]), "key_file": str(key), **backhaul,
                          **(certificates or {}).get(name, {})},
                state={"store": "sqlite", "url": str(self.database)},
                **settings,
            )
            for name in names
        }

    def __getitem__(self, name: str) -> ProxyDaemon:
        return self.daemons[name]

    # -- life

    def start(self) -> Regions:
        """All at once; returns when each is ready. On a failure none is left."""
        with ThreadPoolExecutor(len(self.daemons)) as pool:
            starting = [pool.submit(daemon.start) for daemon in self.daemons.values()]
        failures = [str(error) for one in starting if (error := one.exception())]
        if failures:
            for daemon in self.daemons.values():
                daemon.kill()
            shutil.rmtree(self.dir)
            raise AssertionError("\n".join(failures))
        return self

    def stop(self) -> None:
        """All at once, and every host must end cleanly."""
        with ThreadPoolExecutor(len(self.daemons)) as pool:
            ending = [pool.submit(daemon.stop) for daemon in self.daemons.values()]
        problems = [str(error) for one in ending if (error := one.exception())]
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not problems, "\n".join(problems)

    def __enter__(self) -> Regions:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with contextlib.suppress(AssertionError) if error else contextlib.nullcontext():
            self.stop()  # a failure inside is what counts

    # -- what they share

    def meet(self) -> None:
        """Until every host's table has every host, at the boot epoch of its newest start."""
        views = {name: View(daemon.workers()[0]) for name, daemon in self.daemons.items()}
        everybody = {host_of(name) for name in self.daemons}

        def epochs() -> list[dict[str, int]]:
            return [{row["id"]: row["epoch"] for row in view.table.hosts()} for view in views.values()]

        until(lambda: all(seen.keys() == everybody and seen == epochs()[0] for seen in epochs()),
              "every host sees the others", SPREAD_S)  # fmt: skip

    def settle(self) -> None:
        """Until every region serves what any of them serves now."""
        newest = max(daemon.status()["revision"] for daemon in self.daemons.values())
        for name, daemon in self.daemons.items():
            until(lambda one=daemon: one.status()["revision"] >= newest,  # type: ignore[misc]
                  f"{name} serves revision {newest}", SPREAD_S)  # fmt: skip

    def add_app(
        self, app: str, machines: Mapping[str, Sequence[str]], toml_text: str = "", hostnames: Sequence[str] = ()
    ) -> dict[str, list[str]]:
        """An app with ``machines``: region to addresses on its host. Returns region to machine ids, ``APP-REGION-N``,
        once every region serves them."""
        teller = next(iter(self.daemons.values()))
        teller.add_app(app, toml_text, hostnames=hostnames)
        ids: dict[str, list[str]] = {}
        for region, addresses in machines.items():
            ids[region] = [f"{app}-{region}-{number}" for number in range(1, len(addresses) + 1)]
            for machine, address in zip(ids[region], addresses, strict=True):
                teller.ctl("machines", "add", machine, "-a", app, "--address", address, "--region", region,
                           "--host", host_of(region))  # fmt: skip
        self.settle()
        return ids


def role_of(daemon: ProxyDaemon, role: str) -> int:
    """The pid of its one process ``role``: master, state or control."""
    (pid,) = [pid for pid in daemon.processes() if command_line(pid).startswith(f"flyproxy: {role}".encode())]
    return pid


@contextlib.contextmanager
def halted(*pids: int) -> Iterator[None]:
    """The processes stand still meanwhile; for less than the watchdog's patience."""
    for pid in pids:
        stand_still(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def host_of(region: str) -> str:
    return f"{region}-1"


def bracketed(address: str) -> str:
    """With port 0: every slot a free one."""
    return f"[{address}]:0" if ":" in address else f"{address}:0"


class Detour:
    """A long way (tests.kit.far; ``options`` are Far's) to the backhaul of a host, for everybody who asks it: its
    record in the store ``database`` leads to the relay, on an address of its own with the host's port numbers, because
    those stand in the handshake. The relay keeps the asking host's address, which is part of that host's identity.

    Only for hosts with IPv4 mesh addresses that are no edge: their own record tells others where they ask from.
    ``reader`` is the pid of the master that asks; construction returns when its workers know the detour. Lasts until
    the host starts anew. The host itself logs "host-id-taken", which is to be allowed."""

    AWAY = "127.0.1."  # and the last number of the host's own address

    def __init__(self, database: Path, reader: int, host: str, **options: Any) -> None:
        from flyproxy.state.records import VERSION
        from flyproxy.state.records import Host as HostRecord

        view = View(reader)
        row = next(row for row in view.table.hosts() if row["id"] == host)
        mesh = ".".join(map(str, row["address"][-4:]))
        away = f"{self.AWAY}{row['address'][-1]}"
        links = [Link((mesh, port), (away, port)) for port in row["ports"]]
        links.append(Link((mesh, row["ports"][0]), (away, row["ports"][0]), "udp"))  # where it is probed
        self.far = Far(*links, **options)
        record = HostRecord(VERSION, host, row["region"], away, tuple(row["ports"]), row["epoch"], tuple(row["roles"]))
        view.wait(write(database, [record]))

    def __enter__(self) -> Far:
        return self.far

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.far.stop()
