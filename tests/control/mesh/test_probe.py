"""Probing over real UDP sockets on the loop that control runs on."""

import contextlib
import socket

import pytest
import uvloop

from flyproxy.control.mesh import judge, probe
from tests.control.mesh.relay import Place, eventually, join


def run(test):
    """The test's coroutine function, given a stack that closes what it opens."""
    async def go():
        with contextlib.ExitStack() as stack:
            await test(stack)
    uvloop.run(go())


def places(stack, *names):
    return [stack.enter_context(Place(name, slot)) for slot, name in enumerate(names, 1)]


def joined(stack, a, b, delay=0.0):
    return stack.enter_context(contextlib.closing(join(a, b, delay)))


def begin(*hosts):
    for host in hosts:
        host.begin()


async def direct(a, b):
    await eventually(lambda: a.words.state(b.slot) == "direct", f"{a.id} reaches {b.id}")


def test_two_hosts_measure_each_other():
    async def test(stack):
        a, b = places(stack, "a", "b")
        joined(stack, a, b, delay=0.02)
        begin(a, b)
        await direct(a, b)
        await direct(b, a)
        for host, other in ((a, b), (b, a)):
            assert host.words[other.slot][1] >= 36_000      # the relay's timers count whole milliseconds
            assert not any(host.node.dropped[reason] for reason in ("malformed", "wrong_address", "not_authentic"))
    run(test)


def test_a_cut_is_noticed_goes_through_a_third_host_and_heals():
    async def test(stack):
        a, b, c = places(stack, "a", "b", "c")
        ab, _, _ = joined(stack, a, b), joined(stack, a, c), joined(stack, b, c)
        begin(a, b, c)
        for host, other in ((a, b), (b, a), (a, c), (c, b)):
            await direct(host, other)
        ab.cut = True
        await eventually(lambda: a.words[b.slot][::2] == ("via", c.slot), "a goes via c")
        await eventually(lambda: b.words[a.slot][::2] == ("via", c.slot), "b goes via c")
        ab.cut = False
        await direct(a, b)
        await direct(b, a)
    run(test)


def test_ipv6():
    async def test(stack):
        a, b = (stack.enter_context(Place(name, slot, "::1")) for slot, name in ((1, "a"), (2, "b")))
        a.knows(b)
        b.knows(a)
        begin(a, b)
        await direct(a, b)
        await direct(b, a)
    run(test)


def test_an_edge_without_ports_is_answered_on_the_port_it_got():
    async def test(stack):
        edge, worker = places(stack, "e", "w")
        edge.knows(worker)
        worker.knows(edge, ports=[], roles=["edge"])
        begin(edge, worker)
        await direct(edge, worker)
        assert worker.words == {}
    run(test)


@pytest.mark.parametrize(("grace", "state"), [(3600.0, "direct"), (0.0, "down")])
def test_a_port_where_nobody_listens_is_a_restart_first_and_then_a_host_that_is_down(monkeypatch, grace, state):
    monkeypatch.setattr(judge, "REFUSAL_GRACE", grace)

    async def test(stack):
        a, b = places(stack, "a", "b")
        a.knows(b)
        b.knows(a)
        begin(a, b)
        await direct(a, b)
        refusals = []
        refused = a.node.refused
        a.node.refused = lambda *arguments: (refusals.append(arguments), refused(*arguments))
        b.prober.close()
        b.prober = None
        await eventually(lambda: len(refusals) > 4, "ICMP errors come")
        assert a.words.state(b.slot) == state
    run(test)


def test_a_restarted_process_is_believed_at_once():
    async def test(stack):
        a, b = places(stack, "a", "b")
        a.knows(b)
        b.knows(a)
        begin(a, b)
        await direct(a, b)
        b.prober.close()
        again = stack.enter_context(Place("b", b.slot, b.address, b.port))
        b.prober = None
        again.knows(a)
        again.begin()
        await direct(again, a)
        assert a.words.state(b.slot) == "direct"
        assert not a.node.dropped["replayed"]
    run(test)


def test_noise_is_counted_and_probing_goes_on():
    async def test(stack):
        a, b = places(stack, "a", "b")
        a.knows(b)
        b.knows(a)
        begin(a, b)
        await direct(a, b)
        noise = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for size in (0, 1, 100, 1200, 1201, 9000):
            noise.sendto(b"f" * size, (b.address, b.port))
        await eventually(lambda: b.node.dropped["malformed"] == 6, "all are counted")
        answered = a.node.peers["b"].link.sequence
        await eventually(lambda: a.node.peers["b"].link.sequence > answered + 1, "pings go on")
        assert a.words.state(b.slot) == "direct"
    run(test)


def test_a_process_that_stood_still_says_so_before_it_judges(monkeypatch):
    async def test(stack):
        a, b = places(stack, "a", "b")
        a.knows(b)
        begin(a)
        said = []
        monkeypatch.setattr(a.node, "forget", lambda: said.append(True))
        await eventually(lambda: "b" in a.node.peers, "a has looked")
        assert said == []
        a.prober._expected -= probe.STALL + 1
        await eventually(lambda: said, "a forgets what is out")
    run(test)


def test_hosts_are_followed_as_the_table_changes():
    async def test(stack):
        a, b = places(stack, "a", "b")
        b.knows(a)
        begin(a, b)
        await eventually(lambda: a.node.dropped["unknown_host"], "a stranger's ping is dropped")
        a.knows(b)
        await direct(a, b)
        a.table.remove("b")
        await eventually(lambda: a.words.state(b.slot) == "unknown", "the word is taken back")
    run(test)


def test_a_send_buffer_or_route_that_fails_is_a_lost_ping_and_no_error():
    async def test(stack):
        a, b = places(stack, "a", "b")
        a.knows(b)
        a.table.put("x", 7, "::1", [9])             # a v4 socket cannot send there: EAFNOSUPPORT
        b.knows(a)
        begin(a, b)
        await direct(a, b)
        await eventually(lambda: a.words.state(7) == "down", "the unreachable one is down")
    run(test)
