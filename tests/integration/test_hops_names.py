"""What an authentic edge may name: a machine of its app on this host and a declared service of it, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.hops import FarHost
from tests.kit import edge
from tests.kit.edge import Reply, Status, Transport
from tests.kit.region import host_of
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

PORT = 8080
AT_ONCE_S = 1.0
RAW = """
[[services]]
protocol = "tcp"
internal_port = 7000
[[services.ports]]
port = 7007
"""


@pytest.fixture(scope="module")
def far() -> Iterator[FarHost]:
    with FarHost() as host:
        yield host


@pytest.fixture(scope="module")
def web(far: FarHost, vm: ScriptedVM) -> str:
    """The machine of app "web": ``vm``."""
    return far.add_app("web", [vm.address])[0]


@pytest.fixture(scope="module")
def other(far: FarHost, vm: ScriptedVM) -> str:
    """The machine of app "other": the same ``vm``, so that what reaches it is seen."""
    return far.add_app("other", [vm.address])[0]


@pytest.fixture(scope="module")
def away(far: FarHost, web: str, vm: ScriptedVM) -> str:
    """A machine of "web" that has moved to a host that nobody knows."""
    far.daemon.ctl("machines", "add", "web-away", "-a", "web", "--address", vm.address, "--host", host_of("syd"))
    far.regions.settle()
    return "web-away"


@pytest.fixture(scope="module")
def raw(far: FarHost, start_vm: Callable[..., ScriptedVM]) -> str:
    """The machine of the TCP service "raw": an echo."""

    def echo(conn: VMConnection) -> None:
        while data := conn.recv():
            conn.send(data)

    return far.add_app("raw", [start_vm(echo, name="raw").address], RAW)[0]


@pytest.fixture
def transport(far: FarHost) -> Iterator[Transport]:
    made = far.transport()
    with made.wire:
        yield made


def is_refusal(reply: Reply, code: str) -> None:
    assert (reply["flyproxy-error"], reply["flyproxy-unreached"], reply.body) == (code, "1", b"")


def test_a_true_request_is_served(transport: Transport, web: str) -> None:
    reply = transport.get(edge.get("web", web, PORT))
    assert (reply[":status"], reply.body) == ("200", b"vm\n")
    assert not [name for name, _ in reply.fields() if name.startswith("flyproxy-")]


@pytest.mark.parametrize("port", [PORT + 1, 22, 0, 65535])
def test_a_port_that_no_service_declares_is_not_reached(
    transport: Transport, web: str, vm: ScriptedVM, marker: str, port: int
) -> None:
    is_refusal(transport.get(edge.get("web", web, port, f"/{marker}")), "PE04")
    assert not vm.seen(marker)


def test_the_machine_s_own_port_is_no_service(transport: Transport, web: str, vm: ScriptedVM, marker: str) -> None:
    """Its address has a port for the service to be at; that port is not to be named."""
    is_refusal(transport.get(edge.get("web", web, vm.port, f"/{marker}")), "PE04")
    assert not vm.seen(marker)


def test_the_machine_of_another_app_is_not_reached(
    transport: Transport, web: str, other: str, vm: ScriptedVM, marker: str
) -> None:
    is_refusal(transport.get(edge.get("web", other, PORT, f"/{marker}")), "PR02")
    assert not vm.seen(marker)


def test_a_machine_that_moved_or_never_was_is_not_here(
    transport: Transport, away: str, vm: ScriptedVM, marker: str
) -> None:
    for machine in (away, "web-9", "", "x" * 200, "127.0.0.1"):
        is_refusal(transport.get(edge.get("web", machine, PORT, f"/{marker}")), "PR02")
    assert not vm.seen(marker)


def test_a_machine_that_is_removed_is_gone_for_riders_of_old_transports(
    far: FarHost, transport: Transport, vm: ScriptedVM, marker: str
) -> None:
    (machine,) = far.add_app("brief", [vm.address])
    assert transport.get(edge.get("brief", machine, PORT))[":status"] == "200"
    far.daemon.ctl("machines", "remove", machine)
    far.regions.settle()
    is_refusal(transport.get(edge.get("brief", machine, PORT, f"/{marker}")), "PR02")
    assert not vm.seen(marker)


@pytest.mark.parametrize("name", ["flyproxy-app", "flyproxy-machine", "flyproxy-port"])
def test_what_is_not_said_or_said_twice_is_nothing(
    transport: Transport, web: str, vm: ScriptedVM, marker: str, name: str
) -> None:
    said = edge.get("web", web, PORT, f"/{marker}")
    without = [one for one in said if one[0] != name]
    for fields in (without, [*said, next(one for one in said if one[0] == name)]):
        is_refusal(transport.get(fields), "PE04" if name == "flyproxy-port" else "PR02")
    assert not vm.seen(marker)


def test_a_host_name_steers_nothing_on_a_transport(transport: Transport, web: str, other: str) -> None:
    """Who is asked stands in the proxies' own fields alone: the authority is the app's affair."""
    said = edge.get("web", web, PORT)
    fields = [(":authority", "other.localhost") if one[0] == ":authority" else one for one in said]
    assert transport.get(fields)[":status"] == "200"


def test_refusals_leave_the_transport_to_its_riders(transport: Transport, web: str) -> None:
    for _ in range(3):
        streams = [transport.request(edge.get("web", web, PORT + at % 2)) for at in range(20)]
        told = [transport.reply(stream)[":status"] == "200" for stream in streams]
        assert told == [True, False] * 10


# -- TCP


def relay(far: FarHost, **changes: object) -> tuple[edge.Wire, edge.Answer]:
    """A relay to the echo, but for the changes."""
    said = {"app": "raw", "machine": "raw-dfw-1", "internal_port": 7000, "edge_port": 7007, **changes}
    wire = far.wire()
    return wire, wire.greet(far.hello(kind=edge.TCP, **said), far.key)


def test_a_true_relay_carries_bytes_both_ways(far: FarHost, raw: str) -> None:
    wire, answer = relay(far)
    with wire:
        assert answer == (Status.OK, "", far.row["epoch"])
        wire.send(b"over and back")
        assert wire.exactly(13) == b"over and back"


@pytest.mark.parametrize(("changes", "code"), [
    ({"internal_port": 7001}, "PE04"), ({"internal_port": 22}, "PE04"), ({"app": "web"}, "PR02"),
    ({"app": "nobody"}, "PR02"), ({"machine": "raw-9"}, "PR02"), ({"machine": "web-away"}, "PR02"),
])  # fmt: skip
def test_a_relay_to_what_is_not_declared_here_is_refused(
    far: FarHost, raw: str, away: str, changes: dict[str, object], code: str
) -> None:
    wire, answer = relay(far, **changes)
    with wire:
        assert answer == (Status.REFUSED, code, far.row["epoch"])
        assert wire.closed()


# -- what machines say


def test_what_a_machine_says_in_the_proxies_own_fields_goes_no_further(
    transport: Transport, web: str, vm: ScriptedVM
) -> None:
    path = vm.answer(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nFlyproxy-Error: PC01\r\n\r\n"
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nTrailer: flyproxy-error\r\nflyproxy-error: PC01\r\n"
        b"Flyproxy-Unreached: 1\r\nflyproxy-upgrade: websocket\r\nflyproxy-reason: Mine\r\nFly-Request-Id: mine\r\n\r\n"
        b"2\r\nno\r\n0\r\nflyproxy-error: PC01\r\nx-end: yes\r\n\r\n"
    )
    reply = transport.get(edge.get("web", web, PORT, path, ("te", "trailers")))
    assert (reply[":status"], reply.body, reply.trailers) == ("503", b"no", [("x-end", "yes")])
    assert len(reply.interim) == 1
    own = {name: value for name, value in reply.fields() if name.startswith(("flyproxy-", "fly-request-id"))}
    assert own == {"flyproxy-reason": "No"}, "the machine's reason phrase, which HTTP/2 has no place for"


def test_what_the_proxies_say_to_each_other_is_not_told_to_machines(
    transport: Transport, web: str, vm: ScriptedVM, marker: str
) -> None:
    fields = edge.get("web", web, PORT, f"/{marker}", ("flyproxy-client", "00" * 36), ("flyproxy-new", "1"))
    stream = transport.request(fields, b"body", [("flyproxy-error", "PC01"), ("x-end", "yes")])
    assert transport.reply(stream)[":status"] == "200"
    (seen,) = vm.seen(marker)
    assert not [name for name, _ in seen.headers if name.startswith("flyproxy-")]
    assert seen.trailers == [("x-end", "yes")]


def test_an_abort_frees_the_stream_at_once_and_the_machine_sees_it(
    far: FarHost, transport: Transport, web: str, vm: ScriptedVM
) -> None:
    ended = threading.Event()

    def script(conn: VMConnection, seen: object) -> None:
        conn.wait_end()
        ended.set()

    path = vm.route(script)
    stream = transport.request(edge.get("web", web, PORT, path))
    vm.wait_seen(path)
    until(lambda: far.streams() == 1, "the stream is counted")
    transport.h2.reset_stream(stream, edge.CANCEL)
    transport.flush()
    assert ended.wait(AT_ONCE_S)
    far.wait_no_streams()


def resident(pid: int) -> int:
    """Anonymous bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def test_an_idle_transport_holds_at_most_16_kb(far: FarHost, web: str) -> None:
    """Of memory in user space, after requests in both directions; the first ones settle what a worker needs anyway."""
    (worker,) = far.daemon.workers()
    with ExitStack() as stack:

        def open_some(count: int) -> int:
            for _ in range(count):
                transport = far.transport()
                stack.enter_context(transport.wire)
                for _ in range(3):
                    assert transport.get(edge.get("web", web, PORT))[":status"] == "200"
            far.wait_no_streams()
            return resident(worker)

        before = open_some(20)
        assert (open_some(100) - before) / 100 <= 16 << 10
