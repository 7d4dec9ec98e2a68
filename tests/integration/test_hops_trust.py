"""Between a client and a machine on another host: what only proxies may say is believed from neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.kit.client import RawClient
from tests.kit.region import Regions
from tests.kit.vm import ScriptedVM

ROLES = {"yyz": ["edge"], "dfw": ["worker"]}
LIES = {
    "flyproxy-app": "other", "flyproxy-machine": "other-dfw-1", "flyproxy-port": "22", "flyproxy-edge-port": "22",
    "flyproxy-client": "ff" * 36, "flyproxy-error": "PC01", "flyproxy-unreached": "1", "flyproxy-upgrade": "x",
    "flyproxy-reason": "Mine", "flyproxy-anything": "1", "Fly-Client-IP": "192.0.2.1", "Fly-Region": "nowhere",
    "Fly-Request-Id": "mine", "Fly-Forwarded-Port": "22", "Fly-Anything": "1",
}  # fmt: skip
SAID = "".join(f"{name}: {value}\r\n{name.upper()}: {value}\r\n" for name, value in LIES.items())
PROXIED = """
[[services]]
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http", "proxy_proto"]
proxy_proto_options = { version = "v2" }
"""


@pytest.fixture(scope="module")
def regions(vm: ScriptedVM, start_vm: Callable[..., ScriptedVM]) -> Iterator[Regions]:
    """The edge yyz-1, and dfw-1 with the machines of the apps "web", on ``vm``, and "other"."""
    with Regions("yyz", "dfw", roles=ROLES, workers={"count": 1, "slots": 1}, allowed=["mesh-not-direct"]) as started:
        started.meet()
        started.add_app("web", {"dfw": [vm.address]}, hostnames=["web.localhost"])
        started.add_app("other", {"dfw": [start_vm(name="other").address]}, hostnames=["other.localhost"])
        yield started


@pytest.fixture
def client(regions: Regions) -> Iterator[RawClient]:
    with regions["yyz"].client() as made:
        yield made


def test_what_a_client_says_in_the_proxies_names_steers_nothing_and_reaches_no_machine(
    client: RawClient, vm: ScriptedVM, marker: str
) -> None:
    answer = client.get(f"/{marker}", headers=SAID)
    assert (answer.status, answer.body, answer.error) == (200, b"vm\n", None)
    (seen,) = vm.seen(marker)
    assert not [name for name, _ in seen.headers if name.startswith("flyproxy-")]
    said = {value for name, value in seen.headers if name.startswith("fly-")}
    assert not said & {value for name, value in LIES.items() if name.startswith("Fly-")}
    assert seen.header("fly-client-ip") == "127.0.0.1" == (seen.header("x-forwarded-for") or "").split(",")[-1].strip()
    assert seen.header("fly-region") == "yyz" and seen.header("fly-anything") is None


def test_what_a_client_says_in_trailers_in_the_proxies_names_reaches_no_machine(
    client: RawClient, vm: ScriptedVM, marker: str
) -> None:
    client.request("POST", f"/{marker}", headers="Transfer-Encoding: chunked\r\nTrailer: x-end\r\n")
    client.send(f"2\r\nhi\r\n0\r\n{SAID}X-End: yes\r\n\r\n".encode())
    assert client.response("POST").body == b"hi"
    (seen,) = vm.seen(marker)
    assert seen.trailers == [("x-end", "yes")]


def test_what_a_machine_says_in_the_proxies_names_reaches_no_client(client: RawClient, vm: ScriptedVM) -> None:
    lies = "".join(f"{name}: {value}\r\n" for name, value in LIES.items() if name.startswith("flyproxy-"))
    path = vm.answer(
        f"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n{lies}\r\n"
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{lies}\r\n2\r\nhi\r\n0\r\n{lies}X-End: yes\r\n\r\n".encode()
    )
    answer = client.get(path, headers="TE: trailers\r\n")
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b"hi")
    assert answer.trailers == [("X-End", "yes")] or answer.trailers == [("x-end", "yes")]
    (early,) = answer.interim
    names = [name.lower() for part in (early, answer) for name, _ in (*part.headers, *part.trailers)]
    assert not [name for name in names if name.startswith("flyproxy-")]
    assert len(vm.seen(path)) == 1, "nobody took it for a refusal"


def test_a_plain_request_cannot_open_the_tunnel_that_a_machine_offers(client: RawClient, vm: ScriptedVM) -> None:
    path = vm.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nflyproxy-upgrade: websocket\r\n\r\nhi")
    answer = client.get(path)
    assert (answer.status, answer.body, answer.header("upgrade")) == (200, b"hi", None)


def test_a_machine_is_told_the_client_s_real_address_in_its_proxy_header(
    regions: Regions, client: RawClient, start_vm: Callable[..., ScriptedVM]
) -> None:
    """Whatever the client says of itself: the address crosses the mesh in a field that clients cannot send."""

    def answer(conn: object) -> None:
        head = conn.exactly(28)  # type: ignore[attr-defined]
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\nConnection: close\r\n\r\n" + head)  # type: ignore[attr-defined]

    regions.add_app("proxied", {"dfw": [start_vm(answer).address]}, PROXIED, hostnames=["proxied.localhost"])
    told = client.get(host="proxied.localhost", headers=SAID).body
    mine, there = client.sock.getsockname(), client.sock.getpeername()
    assert told[12:16] == b"\x21\x11\0\x0c" and told[16:24] == bytes([127, 0, 0, 1] * 2)
    assert (int.from_bytes(told[24:26], "big"), int.from_bytes(told[26:28], "big")) == (mine[1], there[1])
