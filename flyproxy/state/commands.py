"""What operators do to the state: each function changes the store and returns the revision to wait for.

All are idempotent: done twice, the second time changes nothing and says so. Compare-and-set guards each read that a
write depends on, and a conflict is tried again. What is refused is a CommandError, before anything was changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable

import msgspec

from flyproxy.apps.model import VERSION, App
from flyproxy.state import records
from flyproxy.state.records import GLOBAL, Health, HealthStatus, Hostname, Invalid, Ip, Machine, Record, Region
from flyproxy.state.store import Conflict, StateStore
from flyproxy.units import canonical_ip

ATTEMPTS = 20


class Revision(int):
    """The revision at which a command holds; ``changed`` tells whether it had to change anything."""

    changed: bool

    def __new__(cls, number: int, changed: bool) -> Revision:
        revision = super().__new__(cls, number)
        revision.changed = changed
        return revision


class CommandError(Exception):
    """Why a command is refused; ``code`` is stable, ``where`` names the thing, ``fix`` says what to do."""

    def __init__(self, code: str, message: str, where: str, fix: str) -> None:
        super().__init__(f"{message} ({where}); {fix}")
        self.code = code
        self.message = message
        self.where = where
        self.fix = fix


async def apply_app(store: StateStore, app: App) -> Revision:
    """Creates or replaces an app."""
    return await _put(store, GLOBAL, app, "invalid-app")


async def remove_app(store: StateStore, name: str) -> Revision:
    """Removes an app with its host names, addresses and machines; the app last, so that a rest can be removed again."""
    changed = False
    for prefix in ("host.", "ip."):
        for key, (value, _) in (await store.snapshot(GLOBAL, prefix)).values.items():
            if getattr(_known(GLOBAL, key, value), "app", None) == name:
                changed |= (await _delete(store, GLOBAL, key)).changed
    for scope in await machine_scopes(store):
        for key, (value, _) in (await store.snapshot(scope, "machine.")).values.items():
            machine = _known(scope, key, value)
            if isinstance(machine, Machine) and machine.app == name:
                await _delete(store, scope, f"health.{machine.id}")
                changed |= (await _delete(store, scope, key)).changed
    removed = await _delete(store, GLOBAL, _key(f"app.{name}", "invalid-app", name))
    return Revision(removed, changed or removed.changed)


async def add_machine(
    store: StateStore, app: str, address: str, *, port: int = 0, region: str, host: str, id: str | None = None
) -> Revision:
    """Adds or changes a machine; without ``id`` it is named after its app and place. Cordons stay as they are."""
    await _require_app(store, app)
    name = id or machine_id(app, address, port)
    machine = Machine(VERSION, name, app, _canonical(address, "invalid-machine"), port, region, host)
    _require_valid(machine, "invalid-machine")
    found = await find_machine(store, name)
    if found is not None and found.app != app:
        raise CommandError("machine-taken", f"machine {name} belongs to app {found.app}", name,
                           f"choose another id, or remove it first: flyproxyctl machines remove {name}")
    if found is not None:
        machine = msgspec.structs.replace(machine, cordoned=found.cordoned)
        if found.region != region:
            await remove_machine(store, name)
    await _put(store, GLOBAL, Region(VERSION, region), "invalid-machine")
    return await _put(store, records.region_scope(region), machine, "invalid-machine")


async def remove_machine(store: StateStore, id: str) -> Revision:
    """Removes a machine and its health."""
    key = _key(f"machine.{id}", "invalid-machine", id)
    found = await find_machine(store, id)
    scopes = [records.region_scope(found.region)] if found else await machine_scopes(store) or [GLOBAL]
    for scope in scopes:
        await _delete(store, scope, f"health.{id}")
        removed = await _delete(store, scope, key)
    return removed


async def cordon(store: StateStore, id: str, cordoned: bool = True) -> Revision:
    """Keeps new requests away from a machine, or lets them in again."""
    found = await require_machine(store, id)

    def change(old: Record | None) -> Machine:
        if not isinstance(old, Machine):
            raise _machine_not_found(id)
        return msgspec.structs.replace(old, cordoned=cordoned)

    return await _update(store, records.region_scope(found.region), f"machine.{id}", change)


async def uncordon(store: StateStore, id: str) -> Revision:
    """Lets requests in again."""
    return await cordon(store, id, cordoned=False)


async def set_health(store: StateStore, id: str, status: HealthStatus, reason: str = "") -> Revision:
    """Records what the checks say of a machine."""
    machine = await require_machine(store, id)
    health = Health(VERSION, id, status, reason[:500])
    return await _put(store, records.region_scope(machine.region), health, "invalid-machine")


async def add_hostname(store: StateStore, host: str, app: str) -> Revision:
    """Gives a host name (or ``*.name``) to an app."""
    await _require_app(store, app)
    name = _host(host)

    def change(old: Record | None) -> Hostname:
        if isinstance(old, Hostname) and old.app != app:
            raise CommandError("hostname-taken", f"{name} belongs to app {old.app}", name,
                               f"remove it there first: flyproxyctl hostnames remove {name}")
        return Hostname(VERSION, name, app)

    return await _update(store, GLOBAL, records.host_key(name), change)


async def remove_hostname(store: StateStore, host: str) -> Revision:
    """Takes a host name away from whichever app has it."""
    return await _delete(store, GLOBAL, records.host_key(_host(host)))


async def add_ip(store: StateStore, address: str, app: str | None) -> Revision:
    """Gives an address to one app, or (``app`` None) to every app that has a host name."""
    if app is not None:
        await _require_app(store, app)
    ip = Ip(VERSION, _canonical(address, "invalid-ip"), app)
    _require_valid(ip, "invalid-ip")

    def change(old: Record | None) -> Ip:
        if isinstance(old, Ip) and old.app != app:
            owner = f"belongs to app {old.app}" if old.app else "is shared"
            raise CommandError("ip-taken", f"{ip.address} {owner}", ip.address,
                               f"remove it first: flyproxyctl ips remove {ip.address}")
        return ip

    return await _update(store, GLOBAL, records.ip_key(ip.address), change)


async def share_ip(store: StateStore, address: str) -> Revision:
    """Makes an address everybody's."""
    return await add_ip(store, address, None)


async def remove_ip(store: StateStore, address: str) -> Revision:
    """Takes an address away from whoever has it."""
    return await _delete(store, GLOBAL, records.ip_key(_canonical(address, "invalid-ip")))


async def remove_host(store: StateStore, id: str) -> Revision:
    """Forgets a host of the mesh; one that runs writes its record again."""
    if not records.is_host_id(id):
        raise CommandError("invalid-host", f"{id[:80]!r} cannot be the name of a host", id[:80],
                           "use a-z, 0-9 and '-'; look: flyproxyctl hosts list")
    return await _delete(store, GLOBAL, records.node_key(id))


async def machine_scopes(store: StateStore) -> list[str]:
    """The scopes that hold machines."""
    prefix = "region."
    return [records.region_scope(key.removeprefix(prefix)) for key in (await store.snapshot(GLOBAL, prefix)).values]


async def find_machine(store: StateStore, id: str) -> Machine | None:
    """The machine with this id, in whichever region it is."""
    for scope in await machine_scopes(store):
        found = await store.get(scope, f"machine.{id}")
        machine = _known(scope, f"machine.{id}", found[0]) if found else None
        if isinstance(machine, Machine):
            return machine
    return None


async def require_machine(store: StateStore, id: str) -> Machine:
    """Like find_machine; raises CommandError when there is none."""
    machine = await find_machine(store, id)
    if machine is None:
        raise _machine_not_found(id)
    return machine


def machine_id(app: str, address: str, port: int) -> str:
    """14 hex digits, the same for the same place, so that adding it twice adds one machine."""
    return hashlib.sha256(f"{app} {address} {port}".encode()).hexdigest()[:14]


async def _put(store: StateStore, scope: str, record: Record, code: str) -> Revision:
    _require_valid(record, code)
    return await _update(store, scope, records.key_of(record)[1], lambda old: record)


async def _update(store: StateStore, scope: str, key: str, change: Callable[[Record | None], Record]) -> Revision:
    """Replaces the record at ``key`` by what ``change`` makes of it, unless that is the same."""
    for attempt in range(ATTEMPTS):
        found = await store.get(scope, key)
        value = records.encode(change(_known(scope, key, found[0]) if found else None))
        if found and found[0] == value:
            return Revision(found[1], changed=False)
        try:
            return Revision(await store.put(scope, key, value, prev=found[1] if found else 0), changed=True)
        except Conflict:
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
    raise CommandError("conflict", f"{key} was changed by others {ATTEMPTS} times in a row", key, "try again")


async def _delete(store: StateStore, scope: str, key: str) -> Revision:
    """Writes a tombstone even over nothing: what a reader still holds from an older store then goes too."""
    found = await store.get(scope, key)
    return Revision(await store.delete(scope, key), changed=found is not None)


def _known(scope: str, key: str, value: bytes) -> Record | None:
    """The record, None when it is not valid: commands may replace or remove such, but do not go by it."""
    try:
        return records.decode(scope, key, value)
    except Invalid:
        return None


async def _require_app(store: StateStore, name: str) -> None:
    if await store.get(GLOBAL, _key(f"app.{name}", "app-not-found", name)) is None:
        raise CommandError("app-not-found", f"there is no app {name}", name,
                           "make it first: flyproxyctl apps apply FILE; or look: flyproxyctl apps list")


def _machine_not_found(id: str) -> CommandError:
    return CommandError("machine-not-found", f"there is no machine {id}", id, "look: flyproxyctl machines list")


def _require_valid(record: Record, code: str) -> None:
    for problem in records.problems(record):
        raise CommandError(code, problem, records.key_of(record)[1], "correct it and try again")
    try:
        records.encode(record)
    except Invalid as error:
        raise CommandError(code, str(error), records.key_of(record)[1], "make it smaller") from None


def _key(key: str, code: str, shown: str) -> str:
    """A key made from what somebody typed; refused when it cannot be one."""
    kind, _, name = key.partition(".")
    valid = records.is_app_name(name) if kind == "app" else records.is_machine_id(name)
    if not valid:
        raise CommandError(code, f"{shown[:80]!r} cannot be the name of {'an app' if kind == 'app' else 'a machine'}",
                           shown[:80], "use a-z, 0-9 and '-'")
    return key


def _host(text: str) -> str:
    name = records.normal_host(text)
    if not name:
        raise CommandError("invalid-hostname", f"{text[:80]!r} is not a host name", text[:80],
                           "give a name such as www.example.com or *.example.com, without port and scheme")
    return name


def _canonical(text: str, code: str) -> str:
    try:
        return canonical_ip(text)
    except ValueError:
        raise CommandError(code, f"{text[:80]!r} is not an IP address", text[:80],
                           "give an address such as 203.0.113.7 or 2001:db8::7") from None
