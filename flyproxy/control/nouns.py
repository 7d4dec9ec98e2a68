"""The nouns of the interface over the state store: what can be listed, shown, put and deleted, and with which keys.

Used by the control process and by ``flyproxyctl --offline``, so both do the same. Knows no process and no socket: who
serves a revision, what listens and what is loaded is added by the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from flyproxy.apps.fly_toml import FlyTomlError, load
from flyproxy.apps.model import App
from flyproxy.control.envelope import Refused
from flyproxy.settings import Settings
from flyproxy.state import commands, views
from flyproxy.state.commands import CommandError, Revision
from flyproxy.state.store import StateStore, StoreError

NAMES = ("apps", "machines", "hostnames", "ips", "hosts")
CONFLICTS = ("-taken", "conflict")
T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class AppBody(msgspec.Struct, forbid_unknown_fields=True):
    """``fly_toml`` is the text; ``file`` is how messages call it."""

    fly_toml: str
    file: str = "fly.toml"


class MachineBody(msgspec.Struct, forbid_unknown_fields=True):
    """A machine, or only whether it is cordoned. Region and host default to this host's; port 0 is the service's."""

    app: str | None = None
    address: str | None = None
    port: int = 0
    region: str | None = None
    host: str | None = None
    cordoned: bool | None = None


class HostnameBody(msgspec.Struct, forbid_unknown_fields=True):
    """The app that serves it."""

    app: str


class IpBody(msgspec.Struct, forbid_unknown_fields=True):
    """The app that owns it, or that all apps share it."""

    app: str | None = None
    shared: bool = False


class Nouns:
    """All methods raise Refused. ``settings`` are asked at each use, because a reload changes them."""

    def __init__(self, store: StateStore, settings: Callable[[], Settings]) -> None:
        self.store = store
        self.settings = settings
        self._puts: dict[str, Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
            "apps": self._put_app, "machines": self._put_machine, "hostnames": self._put_hostname,
            "ips": self._put_ip, "hosts": self._put_host,
        }

    async def list(self, noun: str, app: str | None) -> Any:
        _known(noun)
        world = await told(views.load_world(self.store))
        if noun == "apps":
            return [row for row in views.apps(world) if app in (None, row["name"])]
        if noun == "hosts":
            return views.hosts(world, self.settings().host)
        return getattr(views, noun)(world, app)

    async def show(self, noun: str, name: str) -> Any:
        keys = {"apps": "name", "machines": "id", "hostnames": "hostname", "ips": "address", "hosts": "id"}
        key = keys[_known(noun)]
        for row in await self.list(noun, None):
            if row[key] == name:
                return row
        one = noun.removesuffix("s")
        raise Refused(404, f"{one}-not-found", f"there is no {one} {name[:80]}", name[:80],
                      f"look: flyproxyctl {noun} list")

    async def put(self, noun: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates or changes; the data has ``revision`` and ``changed``."""
        return await self._puts[_known(noun)](name, body)

    async def delete(self, noun: str, name: str) -> dict[str, Any]:
        """Removes; what is not there is removed already."""
        remove = {
            "apps": commands.remove_app, "machines": commands.remove_machine,
            "hostnames": commands.remove_hostname, "ips": commands.remove_ip, "hosts": commands.remove_host,
        }[_known(noun)]
        return _written(await told(remove(self.store, name)))

    async def _put_app(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        given = _read(AppBody, body)
        app = parse(given.fly_toml, given.file, name)
        revision = await told(commands.apply_app(self.store, app))
        shown = views.app(app, [])
        return {**_written(revision), "app": app.name, "services": shown["services"],
                "ignored_keys": shown["ignored_keys"]}

    async def _put_machine(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        given, settings = _read(MachineBody, body), self.settings()
        if given.app is None and given.address is None and given.cordoned is not None:
            return {**_written(await told(commands.cordon(self.store, name, given.cordoned))), "machine": name}
        if given.app is None or given.address is None:
            raise Refused(400, "bad-body", "a machine needs 'app' and 'address', or 'cordoned' alone", name[:80],
                          'send {"app": APP, "address": IP} or {"cordoned": true}')
        revision = await told(commands.add_machine(
            self.store, given.app, given.address, port=given.port, region=given.region or settings.region,
            host=settings.host if given.host is None else given.host, id=name))
        if given.cordoned is not None:
            after = await told(commands.cordon(self.store, name, given.cordoned))
            revision = Revision(max(revision, after), revision.changed or after.changed)
        return {**_written(revision), "machine": name}

    async def _put_hostname(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        given = _read(HostnameBody, body)
        return {**_written(await told(commands.add_hostname(self.store, name, given.app))), "app": given.app}

    async def _put_ip(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        given = _read(IpBody, body)
        if given.shared == (given.app is not None):
            raise Refused(400, "bad-body", "an address has either 'app' or 'shared'", name[:80],
                          'send {"app": APP} or {"shared": true}')
        return {**_written(await told(commands.add_ip(self.store, name, given.app))), "app": given.app}

    async def _put_host(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        raise Refused(405, "read-only", "hosts write their own records", name[:80],
                      "start flyproxy on that host with [backhaul] address in its flyproxy.toml")


def parse(text: str, file: str, name: str | None) -> App:
    """The app that a fly.toml describes; Refused with every problem of it."""
    try:
        return load(text.encode(), file, name)
    except FlyTomlError as error:
        raise Refused(422, "fly-toml", "nothing was applied", file, "mend the lines above and apply again",
                      tuple(str(problem) for problem in error.problems)) from None


async def told(command: Awaitable[T]) -> T:
    """The result of a command; its errors as Refused."""
    try:
        return await command
    except CommandError as error:
        raise Refused(_status(error.code), error.code, error.message, error.where, error.fix) from None
    except StoreError as error:
        raise Refused(503, error.code, error.message, error.where, error.fix) from None


def _status(code: str) -> int:
    if code.endswith("-not-found"):
        return 404
    return 409 if code.endswith(CONFLICTS) else 422


def _known(noun: str) -> str:
    if noun not in NAMES:
        raise Refused(404, "not-found", f"there is no noun {noun[:80]!r}", noun[:80], f"one of {', '.join(NAMES)}")
    return noun


def _read(body_type: type[S], body: Mapping[str, Any]) -> S:
    try:
        return msgspec.convert(body, body_type)
    except msgspec.ValidationError as error:
        keys = ", ".join(body_type.__struct_fields__)
        raise Refused(400, "bad-body", str(error), "the request's body", f"its keys are: {keys}") from None


def _written(revision: Revision) -> dict[str, Any]:
    return {"revision": int(revision), "changed": revision.changed}
