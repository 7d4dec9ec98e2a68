"""TLS between hosts: who is believed, and what is not. The host is real, the edge is Python's, by docs/backhaul.md."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from flyproxy._speedups._testing_tls import Party
from flyproxy._speedups._testing_tls import Wire as OurWire
from tests.integration.hops import ADDRESS, SOURCE, FarHost
from tests.kit import edge
from tests.kit.edge import Status
from tests.kit.pki import Authority, context, now
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

SILENCE_S = 5.0
HELLOS_MAX = 256  # that a worker waits for at once
DAY_S = 86_400.0
RAW = "[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = 7001\n"
PLAIN = "plain-1"  # an edge whose record says that it has no TLS
Contexts = Callable[[FarHost, Authority], ssl.SSLContext]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def far(authority: Authority) -> Iterator[FarHost]:
    """The host dfw-1 and the edge ghost-1, both with certificates; and at the same address the edge plain-1 without."""
    with FarHost(authority, allowed=["mesh-plain"]) as host:
        host.add_host(PLAIN, ADDRESS, tls=False)
        yield host


@pytest.fixture(scope="module")
def web(far: FarHost, start_vm: Callable[..., ScriptedVM]) -> str:
    """The machine of the app "web"."""
    return far.add_app("web", [start_vm().address])[0]


@pytest.fixture
def raw(far: FarHost, start_vm: Callable[..., ScriptedVM]) -> Callable[[Callable[[VMConnection], object]], edge.Hello]:
    """A hello for a relay to a new machine whose connection ``does`` takes."""

    def start(does: Callable[[VMConnection], object]) -> edge.Hello:
        app = f"raw-{os.urandom(3).hex()}"
        (machine,) = far.add_app(app, [start_vm(does, name=app).address], RAW)
        return far.hello(kind=edge.TCP, app=app, machine=machine, internal_port=7000, edge_port=7001)

    return start


def echo(conn: VMConnection) -> None:
    while data := conn.sock.recv(65536):
        conn.sock.sendall(data)
    conn.sock.shutdown(socket.SHUT_WR)


# -- what is true


def test_a_request_crosses_in_tls(far: FarHost, web: str) -> None:
    transport = far.transport()
    assert isinstance(transport.wire.sock, ssl.SSLSocket)
    assert (transport.wire.sock.version(), transport.wire.sock.selected_alpn_protocol()) == ("TLSv1.3", "flyproxy")
    reply = transport.get(edge.get("web", web, 8080))
    assert (reply[":status"], reply.body) == ("200", b"vm\n")
    until(lambda: far.daemon.metric("flyproxy_worker_memory_bytes", kind="tls") > 0, "the connection is counted")
    transport.wire.sock.close()
    until(lambda: far.daemon.metric("flyproxy_worker_memory_bytes", kind="tls") == 0, "and given back")


@pytest.mark.parametrize("cuts", [[1], [16], [100], [-1], list(range(1, 150))])
def test_a_hello_may_come_in_several_records(far: FarHost, cuts: list[int]) -> None:
    said = far.hello().encode(far.key)
    with far.wire() as wire:
        for begin, end in zip([0, *cuts], [*cuts, None], strict=True):
            wire.send(said[begin:end])
        assert wire.answer().status == Status.OK


def test_a_relay_is_an_echo_through_an_update_of_keys(
    far: FarHost, raw: Callable[[Callable[[VMConnection], object]], edge.Hello]
) -> None:
    """Python's ssl cannot ask for new keys, so this edge is our own TLS."""
    assert far.files is not None
    hello = raw(echo).encode(far.key)
    party = Party(*(Path(far.files[name]).read_bytes() for name in ("ca", "cert", "key")))
    with socket.create_connection((far.regions.mesh["dfw"], far.row["ports"][0]), 10, (ADDRESS, 0)) as sock:
        wire = OurWire(party, sock.fileno(), b"dfw-1")
        until(lambda: wire.handshake() == 1, "the handshake is done")
        assert wire.send(hello) == len(hello)
        assert exactly(wire, 8)[:2] == b"\1\0"
        for _ in range(3):
            data = os.urandom(30_000)
            assert wire.send(data) == len(data) and exactly(wire, len(data)) == data
            assert wire.update_keys() == 1
        assert wire.end() == 0
        until(lambda: wire.recv(1) == b"", "the machine's end comes back")
        wire.free()


def exactly(wire: OurWire, n: int) -> bytes:
    data = b""

    def more() -> bool:
        nonlocal data
        got = wire.recv(n - len(data))
        data += got if isinstance(got, bytes) else b""
        return len(data) == n

    until(more, f"{n} bytes come")
    return data


# -- what is forged


def bare(far: FarHost, _: Authority) -> ssl.SSLContext:
    assert far.files is not None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(far.files["ca"])
    made.set_alpn_protocols(["flyproxy"])
    return made


def other_ca(far: FarHost, authority: Authority) -> ssl.SSLContext:
    return context({**Authority(authority.folder, "other").sign(SOURCE, file="stranger"), "ca": str(authority.ca)})


def expired(far: FarHost, authority: Authority) -> ssl.SSLContext:
    ends = now() - timedelta(minutes=1)
    return context(authority.sign(SOURCE, file="expired", begins=ends - timedelta(days=1), ends=ends))


def old(far: FarHost, _: Authority) -> ssl.SSLContext:
    assert far.files is not None
    made = context(far.files)
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


@pytest.mark.parametrize("make", [bare, other_ca, expired, old],
                         ids=["no certificate", "another CA", "expired", "TLS 1.2"])  # fmt: skip
def test_who_shows_no_good_certificate_gets_no_answer(far: FarHost, authority: Authority, make: Contexts) -> None:
    before = far.refused()
    with pytest.raises(ssl.SSLError), far.wire(secure=make(far, authority)) as wire:
        wire.greet(far.hello(), far.key)
    until(lambda: far.refused() == {**before, "tls": before.get("tls", 0) + 1}, "it is counted")


def test_the_certificate_of_one_host_is_no_good_for_the_hello_of_another(far: FarHost, authority: Authority) -> None:
    before = far.refused().get("not_authentic", 0)
    for named in (SOURCE, PLAIN):
        with far.wire(secure=context(authority.sign("fra-1"))) as wire:
            assert wire.greet(far.hello(source=named), far.key).status == Status.NOT_AUTHENTIC
            assert wire.closed()
    assert far.refused()["not_authentic"] == before + 2


def test_a_plain_hello_of_a_host_with_tls_is_refused(far: FarHost) -> None:
    before = far.refused().get("not_authentic", 0)
    with far.plain_wire() as wire:
        assert wire.greet(far.hello(), far.key).status == Status.NOT_AUTHENTIC
        assert wire.closed()
    assert far.refused()["not_authentic"] == before + 1


def test_a_plain_hello_of_a_host_without_tls_is_taken(far: FarHost, web: str) -> None:
    with far.plain_wire() as wire:
        assert wire.greet(far.hello(source=PLAIN), far.key).status == Status.OK
        assert edge.Transport(wire).get(edge.get("web", web, 8080)).body == b"vm\n"


def test_bytes_behind_the_hello_are_refused_in_tls_too(far: FarHost) -> None:
    with far.wire() as wire:
        wire.send(far.hello().encode(far.key) + b"PRI")
        assert wire.answer().status == Status.MALFORMED and wire.closed()


@pytest.mark.parametrize("said", [b"\x16\x03\x01\0\5hello", b"\x16" * 300, b"\x16\x03\x01\x40\0" + b"\0" * 0x4000])
def test_garbage_that_begins_like_tls_is_closed_and_counted(far: FarHost, said: bytes) -> None:
    before = far.refused().get("tls", 0)
    with far.plain_wire() as wire:
        wire.send(said)
        with pytest.raises(AssertionError, match="closed"):
            wire.exactly(1000)
    until(lambda: far.refused()["tls"] == before + 1, "it is counted")


def client_hello() -> bytes:
    """The first bytes that a client of ours would say, and nothing behind them."""
    made, go = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.MemoryBIO()
    made.set_alpn_protocols(["flyproxy"])
    with pytest.raises(ssl.SSLWantReadError):
        made.wrap_bio(ssl.MemoryBIO(), go, server_hostname="dfw-1").do_handshake()
    return go.read()


def test_a_handshake_that_stalls_is_closed_after_five_seconds_and_keeps_nobody_out(far: FarHost) -> None:
    reached = far.daemon.metric("flyproxy_limit_reached_total", limit="hellos")
    begun, before = time.monotonic(), far.refused().get("silent", 0)
    said = client_hello()
    with ExitStack() as stack:
        crowd = [stack.enter_context(far.plain_wire()) for _ in range(HELLOS_MAX)]
        for at, wire in enumerate(crowd):
            wire.send(said if at % 2 else said[:50])
        with far.plain_wire() as late:
            assert late.answer().status == Status.BUSY, "all of them are still waited for"
        for wire in crowd:
            while not wire.closed():
                pass
        assert SILENCE_S - 1 < time.monotonic() - begun < SILENCE_S + 5
    assert far.refused()["silent"] == before + HELLOS_MAX
    assert far.daemon.metric("flyproxy_limit_reached_total", limit="hellos") == reached + 1
    far.transport().wire.sock.close()


# -- ends


def test_a_relay_whose_end_was_not_said_is_a_reset_for_the_machine(
    far: FarHost, raw: Callable[[Callable[[VMConnection], object]], edge.Hello]
) -> None:
    """Anybody on the way can send a FIN, but only the other host can say the end (RFC 8446 6.1)."""
    seen: list[bytes | str] = []

    def watch(conn: VMConnection) -> None:
        try:
            while data := conn.sock.recv(100):
                seen.append(data)
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")

    for says_it in (True, False):
        seen.clear()
        with far.wire() as wire:
            assert wire.greet(raw(watch), far.key).status == Status.OK
            wire.send(b"the first half")
            until(lambda: seen == [b"the first half"], "the machine has it")
            if says_it:
                assert isinstance(wire.sock, ssl.SSLSocket)
                wire.sock.unwrap()  # says the end, and waits for that of the machine
        until(lambda: len(seen) == 2, "the machine sees the end")
        assert seen[1] == ("end" if says_it else "reset")


# -- renewed


def serial(far: FarHost) -> bytes:
    with far.wire() as wire:
        assert isinstance(wire.sock, ssl.SSLSocket)
        shown = wire.sock.getpeercert(binary_form=True)
        assert shown
        return shown


def test_a_renewed_certificate_is_shown_after_a_reload_of_the_workers(far: FarHost, authority: Authority) -> None:
    first = serial(far)
    standing = far.transport()
    authority.sign("dfw-1")
    assert serial(far) == first, "files are not looked at by themselves"
    far.daemon.ctl("reload")
    assert serial(far) == first
    far.daemon.ctl("reload", "--workers")
    assert serial(far) != first
    left = far.daemon.metric("flyproxy_certificate_expires_seconds")
    assert 19 * DAY_S < left < 20 * DAY_S
    standing.wire.sock.close()


@pytest.mark.parametrize("fault", ["expired", "another host's", "no key of it", "no PEM", "not there"])
def test_a_renewed_certificate_that_nobody_would_believe_is_refused_and_the_old_one_stays(
    far: FarHost, authority: Authority, fault: str
) -> None:
    first, cert = serial(far), authority.folder / "dfw-1.pem"
    files = {path: path.read_bytes() for path in (cert, cert.with_suffix(".key"))}
    workers = set(far.daemon.workers())
    yesterday = now() - timedelta(days=1)
    spoil: dict[str, Callable[[], object]] = {
        "expired": lambda: authority.sign("dfw-1", begins=yesterday, ends=yesterday + timedelta(hours=1)),
        "another host's": lambda: authority.sign("fra-1", file="dfw-1"),
        "no key of it": lambda: cert.write_bytes((authority.folder / f"{SOURCE}.pem").read_bytes()),
        "no PEM": lambda: cert.write_bytes(b"hello"),
        "not there": cert.unlink,
    }
    try:
        spoil[fault]()
        with pytest.raises(AssertionError, match=r"reload_refused.*dfw-1\.(pem|key)"):
            far.daemon.ctl("reload", "--workers")
        assert serial(far) == first and set(far.daemon.workers()) <= workers, "there are no new ones"
    finally:
        for path, text in files.items():
            path.write_bytes(text)
