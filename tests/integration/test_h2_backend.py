"""Services with ``h2_backend``: the machine speaks HTTP/2 with prior knowledge, the client HTTP/1.1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.h2vm import Http2VM, Reply
from tests.kit.vm import ScriptedVM

TOML = "[http_service]\ninternal_port = 8080\n[http_service.http_options]\nh2_backend = true\n"
HOST = "h2.localhost"


@pytest.fixture(scope="module")
def h2vm() -> Iterator[Http2VM]:
    vm = Http2VM()
    yield vm
    vm.stop()


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon], h2vm: Http2VM) -> ProxyDaemon:
    started = start_daemon({"http": {"port": 80}, "second": {"port": 8001}})
    started.add_app("h2", TOML, machines=[h2vm.address], hostnames=[HOST])
    return started


def test_request_and_answer_arrive_whole(client: RawClient, h2vm: Http2VM) -> None:
    path = h2vm.route(lambda call: Reply(b"made", [("content-type", "text/plain"), ("set-cookie", "a=1"),
                                                   ("set-cookie", "b=2")], 201))  # fmt: skip
    extra = "X-One: 1\r\nCookie: c=1\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
    client.request(target=path, host=HOST, headers=extra)
    got = client.response()
    assert (got.status, got.reason, got.body) == (201, "Created", b"made")
    assert got.all("set-cookie") == ["a=1", "b=2"]
    seen = h2vm.calls[-1]
    assert (seen.header(":method"), seen.header(":authority"), seen.header(":scheme")) == ("GET", HOST, "http")
    assert (seen.header("x-one"), seen.header("cookie"), seen.header("x-hop")) == ("1", "c=1", None)
    assert seen.header("fly-client-ip") == "127.0.0.1" and seen.header("fly-request-id") == got.header("fly-request-id")


def test_grpc_style_trailers_reach_the_client(client: RawClient, h2vm: Http2VM) -> None:
    path = h2vm.route(lambda call: Reply(bytes(call.body), [("content-type", "application/grpc")],
                                         trailers=[("grpc-status", "0"), ("grpc-message", "fine")]))  # fmt: skip
    client.send(f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\n".encode()
                + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n")  # fmt: skip
    got = client.response()
    assert (got.status, got.body) == (200, b"hello")
    assert dict(got.trailers) == {"grpc-status": "0", "grpc-message": "fine"}
    assert h2vm.calls[-1].header("te") == "trailers"
    assert h2vm.calls[-1].trailers == [("x-sum", "5")]


@pytest.mark.parametrize("size", [1, 16_384, 65_535, 65_536, 3_000_000])
def test_bodies_of_any_size_both_ways(client: RawClient, h2vm: Http2VM, size: int) -> None:
    data = os.urandom(size)
    client.request("POST", h2vm.route(lambda call: Reply(bytes(call.body))), host=HOST, body=data)
    assert client.response().body == data


def test_many_requests_share_one_connection(daemon: ProxyDaemon, h2vm: Http2VM) -> None:
    path = h2vm.route(lambda call: Reply((call.header("x-number") or "").encode()))
    before = h2vm.connections

    def one(number: int) -> bool:
        with daemon.client() as client:
            client.request(target=path, host=HOST, headers=f"X-Number: {number}\r\n")
            return client.response().body == str(number).encode()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(64)))
    assert h2vm.connections - before <= 1


def test_what_a_machine_says_in_our_name_is_not_believed(client: RawClient, h2vm: Http2VM) -> None:
    path = h2vm.route(lambda call: Reply(b"app", [("flyproxy-error", "PR06"), ("flyproxy-unreached", "1"),
                                                  ("flyproxy-reason", "Injected")], 503))  # fmt: skip
    client.request(target=path, host=HOST)
    got = client.response()
    assert (got.status, got.reason, got.body) == (503, "Service Unavailable", b"app")
    assert got.header("flyproxy-error") is None
    assert len([call for call in h2vm.calls if call.header(":path") == path]) == 1


def test_a_refused_stream_is_tried_on_another_machine(daemon: ProxyDaemon, h2vm: Http2VM) -> None:
    refusing = Http2VM()
    path = h2vm.route(lambda call: Reply(b"taken"))
    refusing.route(lambda call: Reply(reset=7), path)
    daemon.add_app("pair", TOML, machines=[refusing.address, h2vm.address], hostnames=["pair.localhost"])
    with daemon.client() as client:
        for _ in range(40):             # of two machines the emptier, else a random one
            client.request("POST", path, host="pair.localhost", body=b"x")
            assert client.response().body == b"taken"
    assert refusing.calls
    refusing.stop()


def test_services_of_one_machine_keep_a_connection_each(daemon: ProxyDaemon, h2vm: Http2VM) -> None:
    other = Http2VM()
    service = (
        "[[services]]\ninternal_port = {}\nprotocol = 'tcp'\n[[services.ports]]\nport = {}\nhandlers = ['http']\n"
        "http_options = {{ h2_backend = true }}\n"
    )
    daemon.add_app("both", service.format(h2vm.port, 80) + service.format(other.port, 8001), ["127.0.0.1"],
                   ["both.localhost"])  # fmt: skip
    before = h2vm.connections
    with daemon.client() as one, daemon.client("second") as two:
        for _ in range(5):
            for client, vm in ((one, h2vm), (two, other)):
                client.request(target=vm.route(lambda call: Reply(b"yes")), host="both.localhost")
                assert client.response().body == b"yes"
    assert (h2vm.connections - before, other.connections) == (1, 1)
    other.stop()


def test_a_reset_before_the_head_is_answered(client: RawClient, h2vm: Http2VM) -> None:
    client.request(target=h2vm.route(lambda call: Reply(reset=2)), host=HOST)
    got = client.response()
    assert (got.status, got.header("flyproxy-error")) == (502, "PC03")


def test_a_machine_without_http2_is_pu01(daemon: ProxyDaemon, start_vm: Callable[..., ScriptedVM]) -> None:
    plain = start_vm(on_connect=lambda conn: (conn.recv(), conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
    daemon.add_app("plain", TOML, machines=[plain.address], hostnames=["plain.localhost"])
    with daemon.client() as client:
        client.request(host="plain.localhost")
        got = client.response()
    assert (got.status, got.header("flyproxy-error")) == (502, "PU01")
