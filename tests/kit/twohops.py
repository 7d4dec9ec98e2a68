"""A daemon whose machines stand on another host: what tests say of one proxy must hold across two.

``FLYPROXY_TEST_HOPS=2`` puts it in the place of ProxyDaemon in tests/integration, ``FLYPROXY_TEST_HOPS=tls`` the same
with TLS between the two.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.kit.bulk import View
from tests.kit.daemon import ProxyDaemon
from tests.kit.pki import Authority
from tests.kit.wait import until

EDGE, FAR = "edge-1", "far-1"
ADDRESS = {EDGE: "127.0.0.21", FAR: "127.0.0.22"}
SECRET = "what every host of the tests knows\n"
MEET_S = 20.0
COUNTED = ("_total", "_count", "_sum", "_bucket")  # how the names of counters and histograms end


class TwoHops(ProxyDaemon):
    """An edge, and the host ``far-1`` of the same region that has the machines; ``settings`` hold for both."""

    tls = False

    def __init__(self, *args: Any, allowed: Sequence[str] = (), **settings: Any) -> None:
        self.shared = Path(tempfile.mkdtemp(prefix="fps-"))
        key = self.shared / "cluster.key"
        key.write_text(SECRET)
        self.key = hashlib.sha256(b"flyproxy-backhaul\0" + SECRET.strip().encode()).digest()

        authority = Authority(self.shared) if self.tls else None

        def placed(host: str, address: str, role: str) -> dict[str, Any]:
            return {
                **settings, "host": host, "roles": [role],
                "backhaul": {"address": f"{address}:0", "key_file": str(key), **settings.get("backhaul", {}),
                             **(authority.sign(host) if authority else {})},
                "state": {"store": "sqlite", "url": str(self.shared / "state.db")},
            }  # fmt: skip

        super().__init__(*args, allowed=allowed, **placed(EDGE, ADDRESS[EDGE], "edge"))
        self.far = ProxyDaemon({}, allowed=allowed, **placed(FAR, ADDRESS[FAR], "worker"))
        self.further: Callable[[str, str], ProxyDaemon] = lambda host, address: ProxyDaemon(
            {}, allowed=allowed, **placed(host, address, "worker")
        )
        """One more worker host of the same cluster, for the caller to start and stop."""

    def start(self) -> ProxyDaemon:
        self.far.start()
        super().start()
        view = View(self.workers()[0])
        until(lambda: {row["id"] for row in view.table.hosts()} >= set(ADDRESS), "the edge sees the other host", MEET_S)
        return self

    def stop(self, sig: int = signal.SIGINT) -> None:
        try:
            super().stop(sig)
        finally:
            self.far.stop(sig)
            shutil.rmtree(self.shared, ignore_errors=True)

    def kill(self) -> None:
        self.far.kill()
        super().kill()

    def log(self, last: int = 60) -> str:
        return f"{super().log(last)}\n-- log of {FAR}\n{self.far.log(last)}"

    def metrics(self) -> dict[str, float]:
        """Counters of both hosts, since either may have counted what a test looks for; gauges of the edge, which has
        the clients."""
        samples = super().metrics()
        for name, value in self.far.metrics().items():
            if name.partition("{")[0].endswith(COUNTED):
                samples[name] = samples.get(name, 0.0) + value
        return samples

    def ctl(self, *args: str) -> Any:
        if args[:2] == ("machines", "add") and "--host" not in args:
            args = (*args, "--host", FAR)
        said = super().ctl(*args)
        if args[0] in ("machines", "apps") and args[1] in ("add", "apply", "remove"):
            newest = super().ctl("status")["revision"]
            until(lambda: self.far.status()["revision"] >= newest, f"{FAR} serves revision {newest}", MEET_S)
        return said


class SecureHops(TwoHops):
    """With TLS between both hosts, by certificates of one CA."""

    tls = True
