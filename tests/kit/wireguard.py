"""A WireGuard mesh between namespaces, from what deploy/wireguard.py writes: wireguard-go in user space, `wg setconf`.

Needs Debian's wireguard-go and wireguard-tools, and /dev/net/tun.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

from tests.kit.netns import Host
from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[2]
SOCKETS = Path("/var/run/wireguard")  # of every namespace: files know no network
REGIONS = ("yyz", "dfw", "syd", "ams", "nrt", "gru")
UDP_PORT = 51820
MTU = "1420"  # 1500 less WireGuard's 80 bytes over IPv6, its default
_numbers = itertools.count()


class Mesh:
    """The hosts joined by a tunnel each; ``addresses`` are theirs inside. Interfaces end with the network."""

    def __init__(self, hosts: list[Host], folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.ids = [f"{region}-1" for region in REGIONS[: len(hosts)]]
        self.addresses = [f"fd66:6c79::{number}" for number in range(1, len(hosts) + 1)]
        # One name for all would be one control socket for all.
        self.interfaces = [f"fpt{os.getpid() % 100000}-{next(_numbers)}" for _ in hosts]
        self.generate()
        for host, name in zip(hosts, self.interfaces, strict=True):
            self._tunnel(host, name)
        for number, host in enumerate(hosts):
            self._join(number, host)

    def generate(self) -> None:
        """The list of hosts, and the generator's files of it in ``folder``."""
        tables = [
            f'[[hosts]]\nid = "{id}"\nregion = "{region}"\n'
            f'endpoint = "{host.address}:{UDP_PORT}"\naddress = "{address}"\n'
            for id, region, host, address in zip(self.ids, REGIONS, self.hosts, self.addresses, strict=False)
        ]
        (self.folder / "hosts.toml").write_text("\n".join(["keepalive = 1\n", *tables]))
        command = [sys.executable, "deploy/wireguard.py", str(self.folder / "hosts.toml"), "--out", str(self.folder)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)

    def _tunnel(self, host: Host, name: str) -> None:
        child = host.start(["wireguard-go", "-f", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def ready() -> bool:
            assert child.poll() is None, f"wireguard-go ended with {child.returncode}"
            return (SOCKETS / f"{name}.sock").exists()

        until(ready, "wireguard-go takes commands")

    def _join(self, number: int, host: Host) -> None:
        """What wg-quick would do, but that it takes the interface's name from the file's."""
        name = self.interfaces[number]
        plain = subprocess.run(
            ["wg-quick", "strip", str(self.folder / self.ids[number] / "wg0.conf")],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        host.run("wg", "setconf", name, "/dev/stdin", input=plain)
        host.ip("address", "add", f"{self.addresses[number]}/128", "dev", name, "nodad")
        host.ip("link", "set", name, "mtu", MTU, "up")
        for address in self.addresses:
            if address != self.addresses[number]:
                host.ip("route", "add", f"{address}/128", "dev", name)
