"""The listening sockets: for every address one SO_REUSEPORT socket per slot, all of them kept open by the master.

The master owns them so that none ever closes with its worker: a connection waits in the queue of a slot until the
slot's next owner accepts it (closing one would reset its queue). Three sources ask for sockets:

- the settings' listeners: one that cannot be opened refuses the start or the reload;
- the backhaul: an address, so one socket, for each slot, because other hosts choose the slot; fixed at the start;
- the ports of apps, wildcard on v4 and v6: one that cannot be opened is a state of that port, shown in ``status``.

``[::]`` means all addresses: a v6-only socket and a v4 socket beside it, so that addresses of the two families never
mix. Where the settings have ``0.0.0.0`` with the same port too, the v4 socket is that listener's.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flyproxy.settings import Settings

BACKLOG = 4096
_FREE_PORT_TRIES = 16  # a port that is free on v6 may be taken on v4


class ListenError(Exception):
    """An address cannot be opened; the text says which, why and how to mend it."""

    def __init__(self, address: str, port: int, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        fix = {
            errno.EADDRINUSE: f"another program listens there: ss -ltnp 'sport = :{port}'",
            errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
            errno.EADDRNOTAVAIL: "this host has no such address: ip address show",
            errno.EMFILE: "raise the limit of open files: LimitNOFILE in the unit, or ulimit -n",
        }.get(error.errno or 0, "")
        super().__init__(f"cannot listen on {joined(address, port)}: {self.reason}" + (f"; {fix}" if fix else ""))
        self.fix = fix


@dataclass(frozen=True)
class Options:
    """What a listener's connections are, beyond their address. ``service_port`` 0: the port that gets bound."""

    source: str  # "settings", "backhaul" or "app"
    service_port: int
    proxy_protocol: bool = False
    trusted_sources: tuple[str, ...] = ()


@dataclass
class Endpoint:
    """One bound address and its sockets, one for each slot from ``slot`` on. ``ids`` are what workers know them by."""

    address: str
    port: int
    options: Options
    sockets: list[socket.socket]
    ids: list[int] = field(default_factory=list)
    slot: int = 0

    @property
    def service_port(self) -> int:
        return self.options.service_port or self.port

    @property
    def name(self) -> str:
        """``IP:PORT``."""
        return joined(self.address, self.port)

    def items(self) -> list[dict[str, Any]]:
        """One entry of the message ``listeners`` per slot; its descriptor is in ``fds`` at the same place."""
        family = "v6" if ":" in self.address else "v4"
        return [
            {
                "id": number, "slot": slot, "address": self.address, "port": self.port,
                "service_port": self.service_port, "family": family, "proxy_protocol": self.options.proxy_protocol,
                "trusted_sources": list(self.options.trusted_sources), "source": self.options.source,
            }
            for slot, number in enumerate(self.ids, self.slot)
        ]  # fmt: skip

    def fds(self) -> list[int]:
        """In the order of ``items``."""
        return [sock.fileno() for sock in self.sockets]


Key = tuple[str, int, int]
"""A wish of the settings: address, port, and which of several equal wishes (``127.0.0.1:0`` twice is two ports)."""


@dataclass
class Change:
    """A prepared change: endpoints to tell workers of, and ids that they shall forget."""

    added: list[Endpoint] = field(default_factory=list)
    removed: list[Endpoint] = field(default_factory=list)
    wishes: dict[Key, list[Endpoint]] = field(default_factory=dict)

    def message(self) -> tuple[dict[str, Any], list[int]]:
        """For every worker."""
        items = [item for endpoint in self.added for item in endpoint.items()]
        gone = [number for endpoint in self.removed for number in endpoint.ids]
        return {"t": "listeners", "add": items, "remove": gone}, [fd for end in self.added for fd in end.fds()]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


Inherited = dict[tuple[str, int], list[socket.socket]]
"""Sockets of a dead master's workers, by bound address."""


class Page(msgspec.Struct, frozen=True):
    """An Endpoint with the numbers of its descriptors."""

    address: str
    port: int
    options: Options
    fds: list[int]
    ids: list[int]
    slot: int

    def endpoint(self) -> Endpoint:
        """The same, with sockets again."""
        sockets = [socket.socket(fileno=fd) for fd in self.fds]
        for sock in sockets:
            sock.setblocking(False)
        return Endpoint(self.address, self.port, self.options, sockets, self.ids, self.slot)


class Book(msgspec.Struct, frozen=True):
    """All that Listeners know, as plain data: for the program that takes this one's place."""

    next_id: int
    backhaul: list[Page]
    wishes: Mapping[Key, list[Page]]
    ports: Mapping[int, list[Page]]
    states: Mapping[int, dict[str, Any]]
    asked: list[Mapping[str, Any]]

    def fds(self) -> list[int]:
        """Every descriptor in it."""
        pages = (self.backhaul, *self.wishes.values(), *self.ports.values())
        return [fd for group in pages for page in group for fd in page.fds]


class Listeners:
    """All sockets of this master. Changes are prepared (which may fail and then leaves no trace), then committed."""

    def __init__(self, slots: int, inherited: Inherited | None = None, alone: bool = True) -> None:
        """``alone`` False: workers of a dead master still listen, so a port that is taken may be taken by them."""
        self._slots = slots
        self._inherited = inherited or {}
        self._alone = alone
        self._next_id = 1
        self._backhaul: list[Endpoint] = []
        self._wishes: dict[Key, list[Endpoint]] = {}  # from the settings
        self._ports: dict[int, list[Endpoint]] = {}  # from apps
        self._opened: list[Endpoint] = []  # by the change that is being prepared
        self._states: dict[int, dict[str, Any]] = {}  # port of apps -> {"state", "apps"}, in the order of asking
        self._asked: list[Mapping[str, Any]] = []

    def book(self) -> Book:
        """All of it, as plain data; the sockets stay ours."""
        return Book(
            self._next_id, _pages(self._backhaul), {key: _pages(group) for key, group in self._wishes.items()},
            {port: _pages(group) for port, group in self._ports.items()}, self._states, self._asked,
        )  # fmt: skip

    @classmethod
    def from_book(cls, slots: int, book: Book) -> Listeners:
        """The reverse; the sockets are ours from now on."""
        made = cls(slots)
        made._next_id, made._states, made._asked = book.next_id, dict(book.states), book.asked
        made._backhaul = [page.endpoint() for page in book.backhaul]
        made._wishes = {key: [page.endpoint() for page in group] for key, group in book.wishes.items()}
        made._ports = {port: [page.endpoint() for page in group] for port, group in book.ports.items()}
        return made

    def endpoints(self) -> list[Endpoint]:
        """All that is bound."""
        return [end for group in (self._backhaul, *self._wishes.values(), *self._ports.values()) for end in group]

    def everything(self) -> tuple[dict[str, Any], list[int]]:
        """The message that tells a new worker of all sockets."""
        return Change(added=self.endpoints()).message()

    def drop_inherited(self) -> None:
        """Closes what was inherited and is not wanted any more; called when the state process has named its ports."""
        for sockets in self._inherited.values():
            for sock in sockets:
                sock.close()
        self._inherited = {}
        self._alone = True

    # -- backhaul

    def open_backhaul(self, address: str, first: int, slots: int, known: Sequence[int]) -> tuple[int, ...]:
        """One listener for each slot, slot k's on port ``first`` + k; the ports that they got.

        ``first`` 0: on the ``known`` ports where these can be had, else on free ones. Raises ListenError.
        """
        for slot in range(slots):
            wanted = [first + slot] if first else [*known[slot : slot + 1], 0]
            sockets = self._bind_first(address, wanted)
            end = self._tagged(address, sockets[0].getsockname()[1], Options("backhaul", 0), sockets, slot)
            self._backhaul.append(end)
        return tuple(end.port for end in self._backhaul)

    def _bind_first(self, address: str, ports: Sequence[int]) -> list[socket.socket]:
        for port in ports[:-1]:
            with contextlib.suppress(ListenError):
                return self._bind(address, port, 1)
        return self._bind(address, ports[-1], 1)

    # -- settings

    def prepare(self, settings: Settings) -> Change:
        """Opens what is new in the settings. Raises ListenError; then nothing has changed."""
        change, wishes = Change(), _wishes(settings)
        before = self._before(dict(wishes))
        try:
            for key, options in wishes:
                current = before.get(key)
                if current is None:
                    change.wishes[key] = fresh = self._open(key[0], key[1], options)
                    self._opened += fresh
                    change.added += fresh
                elif current[0].options == options:
                    change.wishes[key] = current
                else:  # other options on the same address: the sockets stay, their meaning changes
                    change.wishes[key] = again = [self._tagged(e.address, e.port, options, e.sockets) for e in current]
                    change.added += again
                    change.removed += current
        except ListenError:
            self.discard(self._opened)
            raise
        finally:
            self._opened = []
        kept = {id(end) for group in before.values() for end in group}
        change.removed += [end for group in self._wishes.values() for end in group if id(end) not in kept]
        return change

    def _before(self, wanted: Mapping[Key, Options]) -> dict[Key, list[Endpoint]]:
        """The groups that go on, by the key they have from now on: port 0 may have become the port that it got."""
        found = {key: group for key, group in self._wishes.items() if key in wanted}
        for end in [end for key, group in self._wishes.items() if key not in found for end in group]:
            key = (end.address, end.port, 0)
            if key in wanted:
                found.setdefault(key, [end])
        return found

    def commit(self, change: Change) -> None:
        """Takes a prepared change into force; the caller has told the workers, who hold descriptors of their own."""
        self._wishes = change.wishes
        kept = {id(sock) for end in self.endpoints() for sock in end.sockets}
        self.discard(change.removed, kept)

    def discard(self, endpoints: Iterable[Endpoint], kept: set[int] | None = None) -> None:
        """Closes the sockets of endpoints that are not used (any more)."""
        for endpoint in endpoints:
            for sock in endpoint.sockets:
                if id(sock) not in (kept or ()):
                    sock.close()

    # -- apps

    def set_ports(self, asked: Sequence[Mapping[str, Any]], settings: Settings) -> Change:
        """What apps want now: {"port", "waiting": state in words or None, "apps"} each. Never fails; see ``rows``."""
        self._asked = list(asked)
        covered = {end.service_port for group in self._wishes.values() for end in group}
        change, states = Change(), {}
        for entry in self._asked:
            port = int(entry["port"])
            if port in covered:
                continue
            state = self._app_port(port, entry, settings, change)
            states[port] = {"state": state, "apps": list(entry.get("apps", ()))}
        for port in [port for port in self._ports if states.get(port, {}).get("state") != "listening"]:
            change.removed += self._ports.pop(port)
        self._states = states
        self.discard(change.removed)
        return change

    def retry(self, settings: Settings) -> Change:
        """Tries the ports again that could not be bound."""
        failed = any(entry["state"].startswith("failed") for entry in self._states.values())
        return self.set_ports(self._asked, settings) if failed else Change()

    def refresh(self, settings: Settings) -> Change:
        """Judges the ports of apps by new settings."""
        return self.set_ports(self._asked, settings)

    def _app_port(self, port: int, entry: Mapping[str, Any], settings: Settings, change: Change) -> str:
        if entry.get("waiting"):
            return str(entry["waiting"])
        if not settings.allows_port(port):
            return "not allowed: add it to app_ports, or add a listener for it"
        if any(end.port == port for end in self._backhaul):
            return "not allowed: the backhaul listens on it"
        if port not in self._ports:
            try:
                self._ports[port] = fresh = self._open_pair(port, Options("app", port))
            except ListenError as error:
                return f"failed: {error.reason}"
            change.added += fresh
        return "listening"

    # -- both

    def rows(self) -> list[dict[str, Any]]:
        """For ``status``: every bound address with the service port it stands for, and every port of apps that is not
        open, with the reason."""
        rows: list[dict[str, Any]] = [
            {
                "address": end.name, "port": end.service_port,
                "source": end.options.source, "state": "listening",
                "apps": self._states.get(end.port, {}).get("apps", []) if end.options.source == "app" else [],
            }
            for end in self.endpoints()
        ]  # fmt: skip
        rows += [
            {"address": joined("::", port), "port": port, "source": "app", **entry}
            for port, entry in self._states.items()
            if port not in self._ports
        ]
        return rows

    def close(self) -> None:
        """Closes everything: no new connections once the workers have closed theirs too."""
        self.discard(self.endpoints())
        self._backhaul, self._wishes, self._ports, self._states, self._asked = [], {}, {}, {}, []

    def _open(self, address: str, port: int, options: Options) -> list[Endpoint]:
        if address != "::" or port:
            sockets = self._bind(address, port, self._slots)
            return [self._tagged(address, sockets[0].getsockname()[1], options, sockets)]
        for _ in range(_FREE_PORT_TRIES - 1):
            with contextlib.suppress(ListenError):
                return self._open_pair(0, options)
        return self._open_pair(0, options)

    def _open_pair(self, port: int, options: Options) -> list[Endpoint]:
        """Both families on one port; a kernel without IPv6 serves v4 alone."""
        found = []
        if has_ipv6():
            sockets = self._bind("::", port, self._slots)
            port = sockets[0].getsockname()[1]
            found.append(self._tagged("::", port, options, sockets))
        try:
            sockets = self._bind("0.0.0.0", port, self._slots)
        except ListenError:
            self.discard(found)
            raise
        found.append(self._tagged("0.0.0.0", sockets[0].getsockname()[1], options, sockets))
        return found

    def _bind(self, address: str, port: int, count: int) -> list[socket.socket]:
        sockets = self._inherited.pop((address, port), [])
        for sock in sockets[count:]:
            sock.close()
        del sockets[count:]
        try:
            if self._alone and port and not any(end.port == port for end in (*self.endpoints(), *self._opened)):
                _socket(address, port, share=False).close()
            while len(sockets) < count:
                sockets.append(_socket(address, port, share=True))
                port = sockets[0].getsockname()[1]
                sockets[-1].listen(BACKLOG)
        except OSError as error:
            for sock in sockets:
                sock.close()
            raise ListenError(address, port, error) from error
        return sockets

    def _tagged(
        self, address: str, port: int, options: Options, sockets: list[socket.socket], slot: int = 0
    ) -> Endpoint:
        ids = list(range(self._next_id, self._next_id + len(sockets)))
        self._next_id += len(sockets)
        return Endpoint(address, port, options, sockets, ids, slot)


def _pages(endpoints: Iterable[Endpoint]) -> list[Page]:
    return [Page(end.address, end.port, end.options, end.fds(), end.ids, end.slot) for end in endpoints]


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 and it is not disabled."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def _socket(address: str, port: int, share: bool) -> socket.socket:
    """A bound socket. ``share`` False is the test that no other program serves the port: with SO_REUSEPORT the kernel
    lets any process of the same user join, and the two would take each other's connections."""
    v6 = ipaddress.ip_address(address).version == 6
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def _wishes(settings: Settings) -> list[tuple[Key, Options]]:
    """What to bind, in the order of the settings; ``[::]`` with port 0 stays one wish, as its two share a free port."""
    found: list[tuple[Key, Options]] = []
    seen: dict[tuple[str, int], int] = {}
    own_v4 = {port for address, port in (listener.bind for listener in settings.listeners) if address == "0.0.0.0"}
    for listener in settings.listeners:
        address, port = listener.bind
        trusted = tuple(listener.trusted_sources)
        options = Options("settings", listener.port, listener.proxy_protocol, trusted)
        addresses = [address]
        if address == "::" and port:
            addresses = ["::"] * has_ipv6() + ["0.0.0.0"] * (port not in own_v4)
        for one in addresses:
            nth = seen[one, port] = seen.get((one, port), -1) + 1
            found.append(((one, port, nth), options))
    return found


def joined(address: str, port: int) -> str:
    """``IP:PORT``, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
