"""A real worker host, and an edge made of Python that it knows: what one proxy may say to another, said by a test."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from flyproxy.state.records import VERSION
from flyproxy.state.records import Host as HostRecord
from tests.kit import edge
from tests.kit.bulk import View, write
from tests.kit.daemon import ProxyDaemon
from tests.kit.pki import Authority, context
from tests.kit.region import Regions
from tests.kit.wait import until

SOURCE = "ghost-1"
ADDRESS = "127.0.0.31"  # of the edge that is no proxy
ELSEWHERE = "127.0.0.32"  # of nobody


class FarHost:
    """The host ``dfw-1``, a worker host with two backhaul ports, and the record of an edge ``ghost-1`` that is ours.
    ``authority``: both speak TLS, with certificates of it. ``settings``: further tables of its flyproxy.toml."""

    def __init__(self, authority: Authority | None = None, allowed: Sequence[str] = (), **settings: Any) -> None:
        settings = {"workers": {"count": 1, "slots": 2}, "allowed": allowed, **settings}
        self.files = authority.sign(SOURCE) if authority else None
        if authority:
            settings["certificates"] = {"dfw": authority.sign("dfw-1")}
        self.regions = Regions("dfw", roles={"dfw": ["worker"]}, **settings)
        self.key = edge.key_of((self.regions.dir / "cluster.key").read_text())
        self.epoch = int(time.time())

    def __enter__(self) -> FarHost:
        self.regions.start()
        try:
            self.add_host(SOURCE, ADDRESS)
            self.row = next(row for row in self.view().table.hosts() if row["id"] == "dfw-1")
        except BaseException:
            self.regions.__exit__(AssertionError, AssertionError(), None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.regions.__exit__(kind, error, at)

    @property
    def daemon(self) -> ProxyDaemon:
        return self.regions["dfw"]

    def view(self) -> View:
        assert self.daemon.process is not None
        return View(self.daemon.process.pid)

    def add_host(self, id: str, address: str, tls: bool | None = None) -> None:
        """The record of an edge; every worker has it when this returns."""
        tls = self.files is not None if tls is None else tls
        record = HostRecord(VERSION, id, "ghost", address, (), self.epoch, ("edge",), tls)
        self.view().wait(write(self.regions.database, [record]))

    def add_app(self, app: str, machines: list[str], toml_text: str = "") -> list[str]:
        """An app with machines on this host, by address; their ids."""
        return self.regions.add_app(app, {"dfw": machines}, toml_text)["dfw"]

    # -- speaking to it

    def hello(self, **changes: Any) -> edge.Hello:
        """A hello that it must accept, but for the changes."""
        ports = self.row["ports"]
        return edge.Hello(SOURCE, self.epoch, "dfw-1", self.row["epoch"], ports[0]).but(**changes)

    def wire(self, source: str = ADDRESS, port: int = 0, secure: ssl.SSLContext | None = None) -> edge.Wire:
        """To its ``port``-th backhaul port; in TLS as ``secure`` says, or with our own certificate if there is one."""
        if secure is None and self.files:
            secure = context(self.files)
        return edge.Wire((self.regions.mesh["dfw"], self.row["ports"][port]), source, secure, "dfw-1")

    def plain_wire(self, source: str = ADDRESS) -> edge.Wire:
        return edge.Wire((self.regions.mesh["dfw"], self.row["ports"][0]), source)

    def transport(self) -> edge.Transport:
        wire = self.wire()
        answer = wire.greet(self.hello(), self.key)
        assert answer.status == edge.Status.OK, answer
        return edge.Transport(wire)

    def refused(self) -> dict[str, int]:
        """Hellos that it refused so far, by reason; those that never happened are left out."""
        name = "flyproxy_hellos_refused_total"
        counts = {
            key.partition('reason="')[2].partition('"')[0]: int(value)
            for key, value in self.daemon.metrics().items()
            if key.partition("{")[0] == name
        }
        return {reason: count for reason, count in counts.items() if count}

    def streams(self) -> int:
        return int(self.daemon.metric("flyproxy_backhaul_streams"))

    def wait_no_streams(self) -> None:
        until(lambda: self.streams() == 0, "the host has no stream left")
