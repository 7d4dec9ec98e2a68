"""A mesh whose hosts speak TLS, all or some of them: real proxies on both sides."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.pki import Authority
from tests.kit.region import Regions, host_of
from tests.kit.vm import ScriptedVM, VMConnection
from tests.kit.wait import until

ROLES = {"yyz": ["edge"], "dfw": ["worker"]}
SECURE = ("yyz", "dfw")
HUGE = 100 << 20
PIECE = 1 << 20
PORT = 7001
RAW = f"[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = {PORT}\n"
ACCIDENTS = ["mesh-plain", "exited", "respawn", "took-over", "suspect", "recovered", "host-id-taken"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def mesh(authority: Authority, vm: ScriptedVM) -> Iterator[Regions]:
    """The edge yyz-1 and the worker host dfw-1 with certificates; syd-1, which is both, without. The apps "dfw" and
    "syd" have their machine there, on ``vm``; "raw" has one in dfw."""
    certificates = {name: authority.sign(host_of(name)) for name in SECURE}
    with Regions("yyz", "dfw", "syd", roles=ROLES, workers={"count": 1, "slots": 1}, ports=(80, PORT),
                 certificates=certificates, allowed=ACCIDENTS) as started:  # fmt: skip
        started.meet()
        for name in ("dfw", "syd"):
            started.add_app(name, {name: [vm.address]}, hostnames=[f"{name}.localhost"])
        yield started


def ask(mesh: Regions, app: str, target: str = "/", edge: str = "yyz") -> int:
    with mesh[edge].client() as client:
        return client.get(target, f"{app}.localhost").status


def plain_bytes(mesh: Regions, host: str, does: Callable[[], object]) -> bytes:
    """What goes through the kernel's loopback towards the mesh address of ``host`` meanwhile."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        tap.bind(("lo", 0x0800))
        does()
        tap.setblocking(False)
        address, seen = socket.inet_aton(mesh.mesh[host]), b""
        try:
            while packet := tap.recv(65536):
                seen += packet if address in (packet[12:16], packet[16:20]) else b""
        except BlockingIOError:
            return seen


def test_what_hosts_with_certificates_say_cannot_be_read_and_others_go_on_in_plain(mesh: Regions) -> None:
    """So a mesh is switched over host by host."""
    for host, readable in (("dfw", False), ("syd", True)):
        seen = plain_bytes(mesh, host, lambda app=host: ask(mesh, app, "/a-secret"))  # type: ignore[misc]
        assert seen, "the packets were seen"
        assert (b"/a-secret" in seen) == readable


def test_a_host_without_a_certificate_reaches_those_that_have_one(mesh: Regions) -> None:
    """Until its own turn comes: its record says that it is plain, so it may be."""
    assert [ask(mesh, app, edge="syd") for app in ("dfw", "syd")] == [200, 200]


def test_who_has_no_certificate_is_named_once(mesh: Regions) -> None:
    until(lambda: [one for one in mesh["yyz"].events() if one["event"] == "mesh-plain"], "it is said")
    told = [one["host_id"] for one in mesh["yyz"].events() if one["event"] == "mesh-plain"]
    assert told.count("syd-1") == 1 and "dfw-1" not in told
    assert not [one for one in mesh["syd"].events() if one["event"] == "mesh-plain"], "who has none itself is silent"
    assert {row["id"]: row["tls"] for row in mesh["yyz"].ctl("hosts", "list")} == {
        "yyz-1": True, "dfw-1": True, "syd-1": False,
    }  # fmt: skip


def test_a_hundred_megabytes_arrive_whole_both_ways(mesh: Regions, start_vm: Callable[..., ScriptedVM]) -> None:
    piece, told, want = os.urandom(PIECE), hashlib.sha256(), hashlib.sha256()

    def swallow_and_pour(conn: VMConnection) -> None:
        head, left = b"", HUGE
        while b"\r\n\r\n" not in head:
            head += conn.sock.recv(PIECE)
        body = head.partition(b"\r\n\r\n")[2]
        while left:
            told.update(body)
            left -= len(body)
            body = conn.sock.recv(PIECE) if left else b""
        conn.send(f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\nConnection: close\r\n\r\n".encode())
        for _ in range(HUGE // PIECE):
            conn.send(piece)

    mesh.add_app("huge", {"dfw": [start_vm(swallow_and_pour, name="huge").address]}, hostnames=["huge.localhost"])
    with mesh["yyz"].client(timeout=30) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: huge.localhost\r\nContent-Length: {HUGE}\r\n\r\n".encode())
        for _ in range(HUGE // PIECE):
            client.send(piece)
            want.update(piece)
        answer = client.response("POST")
    assert (answer.status, len(answer.body)) == (200, HUGE)
    assert told.digest() == want.digest() == hashlib.sha256(answer.body).digest()


@contextlib.contextmanager
def asking(mesh: Regions, app: str) -> Iterator[list[int]]:
    """Requests all the while, two at a time; their statuses, when it is over."""
    done = threading.Event()
    answers: list[int] = []

    def keep_asking() -> None:
        while not done.is_set():
            answers.append(ask(mesh, app))

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(keep_asking) for _ in range(2)]
        try:
            yield answers
        finally:
            done.set()
    for one in both:
        one.result()


def test_requests_go_on_while_certificates_are_renewed(mesh: Regions, authority: Authority) -> None:
    for name in SECURE:
        authority.sign(host_of(name))
    with asking(mesh, "dfw") as answers:
        for name in SECURE:
            mesh[name].ctl("reload", "--workers")
    assert set(answers) == {200} and len(answers) > 20


def test_a_mesh_is_switched_over_host_by_host_without_an_outage(authority: Authority, vm: ScriptedVM) -> None:
    """The last host is the edge itself, whose own clients notice a restart anyway."""
    roles = {"yyz": ["edge"], "dfw": ["worker"], "syd": ["worker"]}
    with Regions("yyz", "dfw", "syd", roles=roles, workers={"count": 1, "slots": 1}, allowed=ACCIDENTS) as plain:
        plain.meet()
        plain.add_app("web", {"dfw": [vm.address], "syd": [vm.address]}, hostnames=["web.localhost"])
        for name in ("dfw", "syd"):
            plain.add_app(name, {name: [vm.address]}, hostnames=[f"{name}.localhost"])
        with asking(plain, "web") as answers:
            for name in ("dfw", "syd"):
                restart_with(plain, name, authority.sign(host_of(name)))
                until(lambda host=name: ask(plain, host) == 200, f"{name} is used again")  # type: ignore[misc]
        assert set(answers) == {200} and len(answers) > 20
        restart_with(plain, "yyz", authority.sign("yyz-1"))
        seen = plain_bytes(plain, "yyz", lambda: ask(plain, "web", "/a-secret"))
        assert seen and b"/a-secret" not in seen, "nothing is plain any more"


def restart_with(mesh: Regions, name: str, files: dict[str, str]) -> None:
    """Everybody sees its new start when this returns."""
    daemon = mesh[name]
    lines = "\n".join(f'{key} = "{file}"' for key, file in files.items())
    daemon.config.write_text(daemon.config.read_text().replace("[backhaul]\n", f"[backhaul]\n{lines}\n"))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(20) == 0
    (daemon.dir / "notify").unlink()
    daemon._ports.clear()  # its listeners take other free ones
    daemon.start()
    mesh.meet()
    until(lambda: all({row["id"]: row["tls"] for row in one.ctl("hosts", "list")}[host_of(name)]
                      for one in mesh.daemons.values()), "its record says so")  # fmt: skip


def test_a_host_that_dies_without_a_word_is_a_reset_for_clients_of_raw_tcp(
    mesh: Regions, start_vm: Callable[..., ScriptedVM]
) -> None:
    """Its kernel sends a FIN, which is no end of what the machine had to say (RFC 8446 6.1)."""

    def half(conn: VMConnection) -> None:
        conn.send(b"half")
        conn.wait_end()

    mesh.add_app("raw", {"dfw": [start_vm(half, name="raw").address]}, RAW)
    with mesh["yyz"].client(str(PORT)) as client:
        assert client.sock.recv(100) == b"half"
        (worker,) = newest(mesh)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            client.sock.recv(100)
    until(lambda: ask(mesh, "dfw") == 200, "the next worker serves")


def newest(mesh: Regions) -> list[int]:
    """The worker of dfw-1, once those before it have gone."""
    until(lambda: len(mesh["dfw"].workers()) == 1, "those that drained have gone")
    return mesh["dfw"].workers()


def test_a_host_with_the_certificate_of_another_is_not_asked(authority: Authority, vm: ScriptedVM) -> None:
    certificates = {"yyz": authority.sign("yyz-1"), "dfw": authority.sign("fra-1")}
    with Regions("yyz", "dfw", roles=ROLES, workers={"count": 1, "slots": 1}, certificates=certificates,
                 allowed=["certificate-not-valid"]) as wrong:  # fmt: skip
        wrong.meet()
        wrong.add_app("web", {"dfw": [vm.address]}, hostnames=["web.localhost"])
        with wrong["yyz"].client() as client:
            answer = client.get("/", "web.localhost")
            assert (answer.status, answer.error) == (502, "PU03")
        for name in ("yyz", "dfw"):
            assert wrong[name].metric("flyproxy_hellos_refused_total", reason="tls") > 0, f"{name} tells why"
        (said,) = [one for one in wrong["dfw"].events() if one["event"] == "certificate-not-valid"]
        assert "is for fra-1, not for this host, dfw-1" in said["message"] and "DNS:dfw-1" in said["fix"]
