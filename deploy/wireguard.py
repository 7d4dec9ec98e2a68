"""WireGuard for the mesh between hosts: from one list of hosts, every host's wg-quick file and its [backhaul] settings.

    python deploy/wireguard.py hosts.toml --out DIR

Writes DIR/cluster.key, and for each host DIR/ID/private.key, DIR/ID/INTERFACE.conf and DIR/ID/backhaul.toml, all with
mode 0600. Keys that are there are kept, so a second run changes nothing and a new host costs the others one [Peer]
each. Two hosts with the same id, endpoint, mesh address or key are refused before anything is written: packets for one
of them would reach the other. deploy/hosts.toml is an example of the list.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import ipaddress
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flyproxy import toml_schema
from flyproxy.settings import BACKHAUL_PORT
from flyproxy.toml_positions import Document, Problem, TomlError, parse
from flyproxy.units import Kind, Whole, canonical_ip, join_address, pattern, split_address

WIREGUARD_PORT = 51820
KEY_BYTES = 32  # of a private key, and of the cluster key's randomness
CLUSTER_KEY_MIN = 16  # bytes: flyproxy takes no shorter one


def endpoint(text: str) -> str:
    """``HOST:PORT`` in its one spelling; HOST is an IP address or a DNS name. Raises ValueError."""
    try:
        name, port = split_address(text, WIREGUARD_PORT)
    except ValueError:
        head, _, tail = text.lower().partition(":")
        name, port = _DNS.parse(head), int(_DIGITS.parse(tail or str(WIREGUARD_PORT)))
    if not 1 <= port <= 65535:
        raise ValueError
    return join_address(name, port)


def mesh_address(text: str) -> str:
    """An address that a host can have alone. Raises ValueError."""
    ip = canonical_ip(text)
    address = ipaddress.ip_address(ip)
    if address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local:
        raise ValueError
    return ip


_DNS = pattern(r"(?=.{1,253}$)[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*", "a DNS name")
_DIGITS = pattern(r"\d{1,5}", "a port")
_ID = pattern(r"[a-z0-9][a-z0-9-]{0,30}", 'a host id: 1 to 31 of a-z, 0-9 and "-"')
_REGION = pattern(r"[a-z][a-z0-9-]{0,14}", 'a region code such as "ams": 1 to 15 of a-z, 0-9 and "-"')
_INTERFACE = pattern(r"[A-Za-z0-9_=+.-]{1,15}", "the name of a network interface: 1 to 15 characters")
_PATH = pattern(r"/[^\x00\"\\\n]+", "an absolute path")
_ENDPOINT = Kind(f'"HOST:PORT" that the other hosts can reach (port {WIREGUARD_PORT} if left out)', endpoint)
_ADDRESS = Kind("an IPv4 or IPv6 address for one host of the mesh", mesh_address)
_KEEPALIVE = Whole(0, 65535)


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, _ID, "The host's name: `host` in its flyproxy.toml."]
    region: Annotated[str, _REGION, "Where it stands: `region` in its flyproxy.toml."]
    endpoint: Annotated[str, _ENDPOINT, "Where it takes WireGuard's UDP packets."]
    address: Annotated[str, _ADDRESS, "Its address inside the mesh."]
    keepalive: Annotated[int | None, _KEEPALIVE, "Seconds between its keepalives; 0: none."] = None


class Mesh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hosts: list[Host]
    interface: Annotated[str, _INTERFACE, "The WireGuard interface on every host."] = "wg0"
    keepalive: Annotated[int, _KEEPALIVE, "Seconds between keepalives of hosts that name none; 0: none."] = 25
    backhaul_port: Annotated[int, Whole(1, 65535), "First port of the backhaul, one for each slot."] = BACKHAUL_PORT
    cluster_key: Annotated[str, _PATH, "Where the hosts will have the cluster key."] = "/etc/flyproxy/cluster.key"


class Refused(Exception):
    """Nothing was written; ``problems`` lists why."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Keys:
    """A host's WireGuard keys, base64 as wg(8) writes them."""

    private: str
    public: str

    @classmethod
    def of(cls, private: bytes) -> Keys:
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        return cls(base64.b64encode(private).decode(), base64.b64encode(public).decode())


# -- the list of hosts


def read(file: Path) -> Mesh:
    """The list in ``file``. Raises Refused with every problem found."""
    try:
        document = parse(file.read_bytes(), str(file))
    except TomlError as error:
        raise Refused([error.problem]) from None
    except OSError as error:
        raise Refused([Problem(str(file), 0, 0, f"cannot be read: {error.strerror}")]) from None
    mesh, reader = toml_schema.read(document, Mesh)
    if mesh is None:
        raise Refused(reader.problems)
    problems = [*duplicates(mesh, document), *misplaced(mesh, document)]
    if problems:
        raise Refused(problems)
    return mesh


def duplicates(mesh: Mesh, document: Document) -> Iterator[Problem]:
    for key in ("id", "endpoint", "address"):
        first: dict[str, int] = {}
        for index, host in enumerate(mesh.hosts):
            value = getattr(host, key)
            other = mesh.hosts[first.setdefault(value, index)]
            if other is not host:
                at = document.value(("hosts", index, key))
                message = f"{key} {value} is already host {other.id}'s; give each host its own"
                yield Problem(document.file, at.line, at.column, message)


def misplaced(mesh: Mesh, document: Document) -> Iterator[Problem]:
    """Addresses that are each right alone but not in this mesh."""
    outside = {host.endpoint.rpartition(":")[0].strip("[]"): host.id for host in mesh.hosts}
    for index, host in enumerate(mesh.hosts):
        at = document.value(("hosts", index, "address"))
        if host.address in outside:
            yield Problem(document.file, at.line, at.column, f"address {host.address} is the endpoint of host "
                          f"{outside[host.address]}: the tunnel would be sent through itself; take another network")
        if (":" in host.address) != (":" in mesh.hosts[0].address):
            yield Problem(document.file, at.line, at.column, f"address {host.address} is of another family than "
                          f"{mesh.hosts[0].address}, so the two hosts could not talk; use one family for the mesh")


# -- keys and files


def key_of(folder: Path) -> bytes:
    """The private key in ``folder``, or a new one. Raises Refused when what is there is no key."""
    file = folder / "private.key"
    try:
        private = base64.b64decode(file.read_text().strip(), validate=True)
    except FileNotFoundError:
        return secrets.token_bytes(KEY_BYTES)
    except (binascii.Error, UnicodeDecodeError):
        private = b""
    if len(private) != KEY_BYTES:
        raise Refused([Problem(str(file), 0, 0, "is no WireGuard key; restore it, or remove it to get a new one")])
    return private


def cluster_key(file: Path) -> str:
    """The text of ``file``, or a new secret. Raises Refused when hosts would not take it."""
    text = file.read_text() if file.exists() else secrets.token_hex(KEY_BYTES) + "\n"
    if len(text.strip()) < CLUSTER_KEY_MIN:
        message = f"has less than {CLUSTER_KEY_MIN} bytes; restore it, or remove it to get a new one"
        raise Refused([Problem(str(file), 0, 0, message)])
    return text


def all_keys(mesh: Mesh, out: Path) -> dict[str, Keys]:
    """Raises Refused when two hosts have the same key, for example in a copied folder."""
    keys: dict[str, Keys] = {}
    owner: dict[str, str] = {}
    for host in mesh.hosts:
        keys[host.id] = Keys.of(key_of(out / host.id))
        other = owner.setdefault(keys[host.id].public, host.id)
        if other != host.id:
            message = f"is also host {other}'s key; remove it to get a new one"
            raise Refused([Problem(str(out / host.id / "private.key"), 0, 0, message)])
    return keys


def network(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def wg_quick(mesh: Mesh, host: Host, keys: dict[str, Keys]) -> str:
    """The host's file for wg-quick(8): peers in the order of their ids."""
    lines = [
        f"# {host.id} ({host.region}), made by deploy/wireguard.py from the list of hosts: change that, run it again",
        "[Interface]",
        f"Address = {network(host.address)}",
        f"ListenPort = {host.endpoint.rpartition(':')[2]}",
        f"PrivateKey = {keys[host.id].private}",
    ]
    keepalive = mesh.keepalive if host.keepalive is None else host.keepalive
    for peer in sorted(mesh.hosts, key=lambda each: each.id):
        if peer is not host:
            lines += [
                "",
                f"# {peer.id} ({peer.region})",
                "[Peer]",
                f"PublicKey = {keys[peer.id].public}",
                f"AllowedIPs = {network(peer.address)}",
                f"Endpoint = {peer.endpoint}",
                *([f"PersistentKeepalive = {keepalive}"] if keepalive else []),
            ]
    return "\n".join(lines) + "\n"


def backhaul(mesh: Mesh, host: Host) -> str:
    """What the host's flyproxy.toml needs for the mesh."""
    return (
        "# For this host's flyproxy.toml; at its top, before any table, belong:\n"
        f'#     region = "{host.region}"\n#     host = "{host.id}"\n'
        "[backhaul]\n"
        f'address = "{join_address(host.address, mesh.backhaul_port)}"\n'
        f'key_file = "{mesh.cluster_key}"\n'
    )


def generate(mesh: Mesh, out: Path) -> Iterator[str]:
    """Writes everything below ``out``; yields a line for each change. Raises Refused, before the first one."""
    keys = all_keys(mesh, out)
    files = {out / "cluster.key": cluster_key(out / "cluster.key")}
    for host in mesh.hosts:
        folder = out / host.id
        files[folder / "private.key"] = keys[host.id].private + "\n"
        files[folder / f"{mesh.interface}.conf"] = wg_quick(mesh, host, keys)
        files[folder / "backhaul.toml"] = backhaul(mesh, host)
    for file, text in files.items():
        if put(file, text):
            yield f"written: {file}"
    known = {host.id for host in mesh.hosts}
    for folder in sorted(path.parent for path in out.glob("*/private.key") if path.parent.name not in known):
        yield f"kept: {folder} is of no host in the list; remove it when that host is gone for good"


def put(file: Path, text: str) -> bool:
    """The file has this text, and only its owner reads it; whether that is a change. Never half a file."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if file.exists() and file.read_text() == text:
        file.chmod(0o600)
        return False
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    fresh.replace(file)
    return True


def main(argv: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Exit code 0: everything stands in DIR; 1: refused, with FILE:LINE:COL for each problem on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", type=Path, metavar="hosts.toml", help="the list of hosts")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where keys and files are kept")
    args = parser.parse_args(argv)
    try:
        for line in generate(read(args.hosts), args.out):
            say(line)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
