"""Probing as control starts, follows and ends it."""

import asyncio
import contextlib
import socket

import msgspec
import pytest
import uvloop

from flyproxy.boot import Boot
from flyproxy.control.mesh import judge, service
from flyproxy.control.mesh.node import DROPPED
from flyproxy.control.mesh.service import Mesh, Reached
from flyproxy.settings import Backhaul, Settings
from tests.control.mesh.relay import Place, Table, Words, eventually

SECRET = b"0123456789abcdef"


def settings(address="127.0.0.9:7443", host="me"):
    return Settings(host=host, backhaul=Backhaul(address=address))


def boot(key=SECRET, ports=()):
    return Boot("control", 0, None, 1, settings(), {}, {}, "/", "/", epoch=100, backhaul_ports=ports, cluster_key=key)


@contextlib.contextmanager
def mesh(table=None, words=None, **options):
    made = Mesh(boot(**options), table or Table(), lambda: words if words is not None else Words())
    try:
        yield made
    finally:
        made.close()


def free_port(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


async def begun(made):
    return await eventually(lambda: made._prober, "probing has begun")


@pytest.mark.parametrize(("key", "address"), [(b"", "127.0.0.9:7443"), (SECRET, "")])
def test_without_a_key_or_an_address_nothing_is_opened(key, address):
    async def test():
        with mesh(key=key) as made:
            made.follow(settings(address))
            assert made._prober is made._again is None
            assert made.report() == ((), dict.fromkeys(DROPPED, 0))
    uvloop.run(test())


def test_the_port_is_the_first_backhaul_port_or_any():
    async def test():
        port = free_port("127.0.0.9")
        for ports, expected in (((port, 1), port), ((), None)):
            with mesh(ports=ports) as made:
                made.follow(settings("127.0.0.9:5"))
                address, bound = (await begun(made)).socket.getsockname()
                assert address == "127.0.0.9"
                assert bound not in (0, 5) if expected is None else bound == expected
    uvloop.run(test())


def test_a_taken_port_is_said_once_and_tried_until_it_is_free(monkeypatch, quiet):
    monkeypatch.setattr(service, "BIND_AGAIN", 0.01)

    async def test():
        with contextlib.ExitStack() as stack:
            taken = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            taken.bind(("127.0.0.9", 0))
            made = stack.enter_context(mesh(ports=(taken.getsockname()[1],)))
            made.follow(settings())
            await eventually(lambda: quiet, "the failure is logged")
            await asyncio.sleep(0.1)
            assert [line[:2] for line in quiet] == [("error", "mesh-bind")]
            taken.close()
            await begun(made)
    uvloop.run(test())


def test_what_is_measured_is_reported_and_taken_back_when_the_backhaul_is_switched_off(monkeypatch):
    monkeypatch.setattr(judge, "REFUSAL_GRACE", 0.0)  # nobody listens at the address of "away"

    async def test():
        with contextlib.ExitStack() as stack:
            table, words = Table(), Words()
            port = free_port("127.0.0.9")
            other = stack.enter_context(Place("other", 4))
            other.table.put("me", 1, "127.0.0.9", [port])
            other.begin()
            table.put("other", other.slot, other.address, [other.port])
            table.put("me", 1, "127.0.0.9", [port])
            table.put("away", 6, "127.0.0.77", [9])
            made = stack.enter_context(mesh(table, words, ports=(port,)))
            made.follow(settings())
            await eventually(lambda: words.state(4) == "direct" and words.state(6) == "down", "both are judged")
            hosts = {one.host: one for one in made.report().hosts}
            assert hosts["away"] == Reached("away", "raway", None, 0.0)
            assert hosts["other"][:2] == ("other", "rother") and hosts["other"].reachable == 1.0
            assert 0 < hosts["other"].rtt < 5
            made.follow(settings(address=""))
            assert {words.state(4), words.state(6)} == {"unknown"}
            assert made.report().hosts == ()
    uvloop.run(test())


def test_other_settings_leave_probing_alone_and_a_new_address_begins_anew():
    async def test():
        with mesh() as made:
            made.follow(settings())
            first = await begun(made)
            made.follow(msgspec.structs.replace(settings(), region="xyz"))
            assert made._prober is first
            made.follow(settings("127.0.0.10:7443"))
            assert first.socket.fileno() == -1
            assert (await begun(made)).socket.getsockname()[0] == "127.0.0.10"
    uvloop.run(test())
