"""What the proxy refuses, and how: coded answers, closed connections, and nothing complete at a VM."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from flyproxy.errors import BY_CODE
from tests.integration.bad_requests import ALL, Bad
from tests.kit.client import RawClient, Response
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import ScriptedVM

REQUEST_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}-loc")


def assert_coded(got: Response, code: str, status: int | None = None) -> None:
    """An answer of the proxy's own: status, code, request id, never cached."""
    expected = BY_CODE[code]
    assert (got.status, got.error) == (status or expected.status, code)
    assert REQUEST_ID.fullmatch(got.header("fly-request-id") or ""), got.headers
    assert got.header("cache-control") == "no-store"
    assert got.header("retry-after") == (str(expected.retry_after) if expected.retry_after else None)


def assert_nothing_arrived(daemon: ProxyDaemon, vm: ScriptedVM, marker: str) -> None:
    """No complete request with the marker is at the VM once a later request has come through."""
    with daemon.client() as probe:
        assert probe.get("/probe").status == 200
    assert [seen for seen in vm.seen(marker) if seen.complete] == []


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.number}-{case.name.replace(' ', '-')}")
def test_bad_input_is_answered_closed_and_goes_nowhere(
    case: Bad, daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient, marker: str
) -> None:
    client.try_send(case.raw.replace(b"MARK", marker.encode()))
    client.try_send(f"GET /after/{marker} HTTP/1.1\r\nHost: web.localhost\r\n\r\n".encode())
    got = client.response()
    assert f"{got.status} {got.error}" in case.answers, got
    assert_coded(got, got.error or "")
    assert got.header("connection") == "close"
    client.assert_closed()
    assert_nothing_arrived(daemon, vm, marker)


@pytest.mark.parametrize(
    "case",
    [case for case in ALL if len(case.raw) < 400],
    ids=lambda case: f"{case.number}-{case.name.replace(' ', '-')}",
)
def test_bad_input_byte_by_byte_gets_the_same_answer(case: Bad, client: RawClient, marker: str) -> None:
    for byte in case.raw.replace(b"MARK", marker.encode()):
        client.try_send(bytes([byte]))
    client.try_send(b"\r\n\r\n")
    got = client.response()
    assert f"{got.status} {got.error}" in case.answers, got
    client.assert_closed()


def test_after_a_good_request_a_bad_one_is_answered_in_its_turn(
    daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient, marker: str
) -> None:
    client.send(
        b"GET /first HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
        b"GET /bad HTTP/1.1\r\nHost: web.localhost\r\nX : y\r\n\r\n"
        + f"GET /{marker} HTTP/1.1\r\nHost: web.localhost\r\n\r\n".encode()
    )
    assert client.response().status == 200
    assert_coded(client.response(), "PH01")
    client.assert_closed()
    assert_nothing_arrived(daemon, vm, marker)


def test_unknown_host(client: RawClient) -> None:
    got = client.get(host="nobody.localhost")
    assert_coded(got, "PE03")
    assert client.get().status == 200, "the connection stays usable after an answer about routing"


def test_no_such_port_of_a_known_app(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient) -> None:
    daemon.add_app(
        "elsewhere",
        '[[services]]\ninternal_port = 8080\n[[services.ports]]\nport = 8081\nhandlers = ["http"]\n',
        [vm.address],
        ["elsewhere.localhost"],
    )
    assert_coded(client.get(host="elsewhere.localhost"), "PE04")


def test_app_without_machines(daemon: ProxyDaemon, client: RawClient) -> None:
    daemon.add_app("empty", hostnames=["empty.localhost"])
    assert_coded(client.get(host="empty.localhost"), "PR04")


def test_app_with_every_machine_cordoned(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient) -> None:
    [machine] = daemon.add_app("cordoned", machines=[vm.address], hostnames=["cordoned.localhost"])
    assert client.get(host="cordoned.localhost").status == 200
    daemon.ctl("machines", "cordon", machine)
    assert_coded(client.get(host="cordoned.localhost"), "PR01")
    daemon.ctl("machines", "uncordon", machine)
    assert client.get(host="cordoned.localhost").status == 200


def test_removed_hostname_is_unknown_at_once(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient) -> None:
    daemon.add_app("brief", machines=[vm.address], hostnames=["brief.localhost"])
    assert client.get(host="brief.localhost").status == 200
    daemon.ctl("hostnames", "remove", "brief.localhost")
    assert_coded(client.get(host="brief.localhost"), "PE03")


def test_error_as_text_by_default(client: RawClient) -> None:
    got = client.get(host="nobody.localhost")
    error = BY_CODE["PE03"]
    assert (got.header("content-type") or "").startswith("text/plain")
    expected = f"PE03 {error.title}\n{error.detail}\n{error.fix}\nrequest {got.header('fly-request-id')}\n"
    assert got.body.decode() == expected


@pytest.mark.parametrize(
    "accept", ["application/json", "application/problem+json", "text/plain, application/json"]
)
def test_error_as_problem_json(client: RawClient, accept: str) -> None:
    got = client.get(host="nobody.localhost", headers=f"Accept: {accept}\r\n")
    assert got.header("content-type") == "application/problem+json"
    error = BY_CODE["PE03"]
    assert json.loads(got.body) == {
        "type": "urn:flyproxy:error:PE03",
        "title": error.title,
        "status": 404,
        "detail": error.detail,
        "code": "PE03",
        "fix": error.fix,
        "request_id": got.header("fly-request-id"),
        "region": "loc",
    }


def test_error_as_html_for_browsers(client: RawClient) -> None:
    got = client.get(host="nobody.localhost", headers="Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n")
    assert (got.header("content-type") or "").startswith("text/html")
    assert b"PE03" in got.body
    assert b"<" in got.body


def test_error_to_head_has_no_body(client: RawClient) -> None:
    client.request("HEAD", host="nobody.localhost")
    got = client.response("HEAD")
    assert_coded(got, "PE03")
    assert client.get().status == 200, "the next answer begins right after the head"


def test_expectation_that_is_not_known(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.request("POST", f"/{marker}", headers="Expect: 200-maybe\r\n", body=b"abc")
    got = client.response()
    assert_coded(got, "PH11")
    assert_nothing_arrived(daemon, vm, marker)


def test_ninth_own_via_is_a_loop(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    assert client.get("/", headers="Via: " + ", ".join(["1.1 flyproxy"] * 8) + "\r\n").status == 200
    got = client.get(
        f"/{marker}", headers="Via: 1.1 other\r\n" + "Via: 1.1 flyproxy, 1.0 flyproxy\r\n" * 4 + "Via: 1.1 flyproxy\r\n"
    )
    assert_coded(got, "PH15")
    assert vm.seen(marker) == []


def test_unlistened_machine_is_connection_refused(
    daemon: ProxyDaemon, client: RawClient, start_vm: Callable[..., ScriptedVM]
) -> None:
    gone = start_vm()
    gone.stop()
    daemon.add_app("gone", machines=[gone.address], hostnames=["gone.localhost"])
    assert_coded(client.get(host="gone.localhost"), "PC01")


def test_refused_machine_is_passed_over_for_a_living_one(
    daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient, start_vm: Callable[..., ScriptedVM]
) -> None:
    gone = start_vm()
    gone.stop()
    daemon.add_app("half", machines=[gone.address, vm.address], hostnames=["half.localhost"])
    assert [client.get(host="half.localhost").status for _ in range(20)] == [200] * 20
    client.request("POST", host="half.localhost", body=b"abc")
    assert client.response().body == b"abc"


def test_every_error_counts(daemon: ProxyDaemon, client: RawClient) -> None:
    before = daemon.metric("flyproxy_errors_total", code="PE03")
    for _ in range(3):
        client.get(host="nobody.localhost")
    assert daemon.metric("flyproxy_errors_total", code="PE03") == before + 3
