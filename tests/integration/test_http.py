"""HTTP/1 heads in both directions: connections, pipelining, header rewriting, hosts, interim answers."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection

REQUEST_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}-loc")
TRACE = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]")
HTTP_PORT = '[[services]]\ninternal_port = 8080\n[[services.ports]]\nport = 80\nhandlers = ["http"]\n'


def seen_for(client: RawClient, vm: ScriptedVM, marker: str, headers: str = "", **request: str) -> Seen:
    """What the VM saw of one GET with these header lines."""
    client.request("GET", f"/{marker}", headers=headers, **request)
    assert client.response().status == 200
    return vm.wait_seen(marker)


# -- connections


def test_keep_alive_serves_many_requests_on_one_connection(client: RawClient) -> None:
    for number in range(50):
        client.request("POST", body=b"%d" % number)
        assert client.response().body == b"%d" % number


def test_connection_close_is_honoured(client: RawClient) -> None:
    got = client.get(headers="Connection: close\r\n")
    assert got.header("connection") == "close"
    client.assert_closed()


def test_http10_closes_unless_asked(client: RawClient) -> None:
    client.request(version="HTTP/1.0")
    assert client.response().status == 200
    client.assert_closed()


def test_http10_keep_alive(client: RawClient) -> None:
    for _ in range(2):
        client.request(version="HTTP/1.0", headers="Connection: keep-alive\r\n")
        got = client.response()
        assert got.status == 200
        assert (got.header("connection") or "").lower() == "keep-alive"


def test_http10_client_never_gets_a_chunked_answer(vm: ScriptedVM, client: RawClient) -> None:
    path = vm.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
    client.request(target=path, version="HTTP/1.0", headers="Connection: keep-alive\r\n")
    got = client.response()
    assert (got.chunked, got.body) == (False, b"abcdef")


def test_empty_lines_before_a_request_are_skipped(client: RawClient) -> None:
    client.send(b"\r\n\r\n")
    assert client.get().status == 200


def test_upstream_connections_are_reused(vm: ScriptedVM, daemon: ProxyDaemon, client: RawClient, marker: str) -> None:
    for number in range(10):
        client.get(f"/{marker}/{number}")
    assert len({seen.connection for seen in vm.seen(marker)}) == 1


# -- pipelining


def test_pipelined_requests_are_answered_in_order(client: RawClient) -> None:
    client.send(
        b"".join(b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 2\r\n\r\n%02d" % n for n in range(12))
    )
    assert [client.response().body for _ in range(12)] == [b"%02d" % n for n in range(12)]


def test_pipelined_requests_in_pieces_of_every_size(daemon: ProxyDaemon) -> None:
    stream = b"".join(b"GET /%d HTTP/1.1\r\nHost: web.localhost\r\n\r\n" % n for n in range(4))
    for size in (1, 2, 3, 7, 19, 40, 41, 83):
        with daemon.client() as client:
            for at in range(0, len(stream), size):
                client.send(stream[at : at + size])
            assert [client.response().status for _ in range(4)] == [200] * 4


def test_pipelined_requests_before_a_half_close_are_all_answered(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n" * 3)
    first = client.response()
    assert first.status == 200


def test_get_with_a_body_is_framed_and_never_a_second_request(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    inner = f"GET /inner/{marker} HTTP/1.1\r\nHost: web.localhost\r\n\r\n".encode()
    client.request("GET", f"/outer/{marker}", body=inner)
    assert client.response().body == inner
    assert client.get("/next").status == 200
    assert [seen.target for seen in vm.seen(marker)] == [f"/outer/{marker}"]


# -- headers towards the VM


def test_request_passes_with_its_own_headers(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    seen = seen_for(
        client, vm, marker, "X-One: 1\r\nAccept: a/b\r\nX-One: 2\r\nAuthorization: Basic eA==\r\nCookie: a=b\r\n"
    )
    assert seen.all("x-one") == ["1", "2"]
    assert (seen.header("accept"), seen.header("authorization"), seen.header("cookie")) == ("a/b", "Basic eA==", "a=b")
    assert seen.header("host") == "web.localhost"


def test_headers_that_the_proxy_adds(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    before = time.time_ns() // 1000
    seen = seen_for(client, vm, marker)
    expected = {
        "fly-client-ip": "127.0.0.1",
        "x-forwarded-for": "127.0.0.1, 127.0.0.1",
        "x-forwarded-proto": "http",
        "fly-forwarded-proto": "http",
        "x-forwarded-ssl": "off",
        "fly-forwarded-ssl": "off",
        "x-forwarded-port": "80",
        "fly-forwarded-port": "80",
        "fly-region": "loc",
        "via": "1.1 flyproxy",
    }
    assert {name: seen.header(name) for name in expected} == expected
    assert REQUEST_ID.fullmatch(seen.header("fly-request-id") or "")
    start = re.fullmatch(r"t=(\d{16})", seen.header("x-request-start") or "")
    assert start
    assert before - 5_000_000 <= int(start[1]) <= time.time_ns() // 1000 + 1000
    assert TRACE.fullmatch(seen.header("traceparent") or "")
    assert seen.header("fly-traceparent") == seen.header("traceparent")


def test_trace_is_continued(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    seen = seen_for(client, vm, marker, f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n")
    parent = TRACE.fullmatch(seen.header("traceparent") or "")
    assert parent
    assert parent[1] == trace
    assert parent[2] != "00f067aa0ba902b7"
    assert seen.header("tracestate") == "a=b"


@pytest.mark.parametrize(
    "bad", ["00-0-0-00", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff-" + "1" * 32 + "-" + "2" * 16 + "-01"]
)
def test_malformed_trace_is_begun_anew(vm: ScriptedVM, client: RawClient, marker: str, bad: str) -> None:
    seen = seen_for(client, vm, marker, f"traceparent: {bad}\r\ntracestate: a=b\r\n")
    parent = TRACE.fullmatch(seen.header("traceparent") or "")
    assert parent
    assert parent[0] != bad
    assert int(parent[1], 16)


def test_request_ids_differ_and_a_clients_own_is_never_kept(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    mine = "01GDB7KX3FFW3VKT9367F47GYX-loc"
    ids = set()
    for number in range(20):
        got = client.get(f"/{marker}/{number}", headers=f"Fly-Request-Id: {mine}\r\n")
        [seen] = vm.seen(f"{marker}/{number}")[-1:]
        assert seen.header("fly-request-id") == got.header("fly-request-id")
        ids.add(seen.header("fly-request-id"))
    assert len(ids) == 20
    assert mine not in ids


SPOOFED = {
    "Fly-Client-IP": "6.6.6.6",
    "X-Forwarded-Proto": "https",
    "Fly-Forwarded-Proto": "https",
    "X-Forwarded-SSL": "on",
    "Fly-Forwarded-SSL": "on",
    "Fly-Forwarded-Port": "443",
    "Fly-Region": "xxx",
    "X-Request-Start": "t=1",
    "Forwarded": "for=6.6.6.6",
    "Fly-Anything": "x",
    "flyproxy-error": "PP01",
    "flyproxy-secret": "x",
    "Fly_Client_IP": "6.6.6.6",
    "X_Forwarded_For": "6.6.6.6",
    "X_Forwarded_Proto": "https",
    "Fly_Region": "xxx",
    "Transfer_Encoding": "chunked",
    "Content_Length": "5",
}


@pytest.mark.parametrize("name", SPOOFED)
def test_spoofed_header_never_arrives(vm: ScriptedVM, client: RawClient, marker: str, name: str) -> None:
    seen = seen_for(client, vm, marker, f"{name}: {SPOOFED[name]}\r\n")
    assert SPOOFED[name] not in seen.all(name)


def test_forwarded_for_is_appended_to(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    seen = seen_for(client, vm, marker, "X-Forwarded-For: 10.1.1.1\r\n")
    assert seen.header("x-forwarded-for") == "10.1.1.1, 127.0.0.1, 127.0.0.1"


def test_via_is_appended_to(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    seen = seen_for(client, vm, marker, "Via: 1.0 cache\r\n")
    assert ", ".join(seen.all("via")) == "1.0 cache, 1.1 flyproxy"


def test_via_tells_the_version_that_was_received(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    assert seen_for(client, vm, marker, version="HTTP/1.0").header("via") == "1.0 flyproxy"


HOP_BY_HOP = {
    "Keep-Alive": "timeout=5",
    "Proxy-Connection": "keep-alive",
    "HTTP2-Settings": "AAMAAABkAAQAAP__",
    "TE": "gzip",
    "Proxy-Authenticate": "Basic",
    "Upgrade": "h2c",
}


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_header_is_dropped(vm: ScriptedVM, client: RawClient, marker: str, name: str) -> None:
    seen = seen_for(client, vm, marker, f"{name}: {HOP_BY_HOP[name]}\r\nConnection: {name}\r\n")
    assert seen.all(name) == []


def test_headers_named_by_connection_are_dropped(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    seen = seen_for(client, vm, marker, "Connection: X-Private, keep-alive\r\nX-Private: 1\r\nX-Public: 2\r\n")
    assert (seen.all("x-private"), seen.all("x-public")) == ([], ["2"])


@pytest.mark.parametrize(
    "name", ["Host", "X-Forwarded-For", "X-Forwarded-Proto", "Authorization", "Fly-Client-IP", "Via", "Cookie"]
)
def test_connection_cannot_strip(vm: ScriptedVM, client: RawClient, marker: str, name: str) -> None:
    seen = seen_for(client, vm, marker, f"Connection: {name}\r\nAuthorization: Basic eA==\r\nCookie: a=b\r\n")
    assert seen.all(name) != []


def test_connection_cannot_strip_the_length(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.request("POST", f"/{marker}", headers="Connection: Content-Length\r\n", body=b"abc")
    assert client.response().body == b"abc"
    assert vm.wait_seen(marker).header("content-length") == "3"


def test_te_trailers_alone_may_pass(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    seen = seen_for(client, vm, marker, "TE: trailers, gzip\r\nConnection: TE\r\n")
    assert seen.all("te") in ([], ["trailers"])


# -- targets and hosts


@pytest.mark.parametrize(
    "target", ["/a%20b?c=%zz&d", "/a/../b", "//double", "/?", "/%2e%2e/", "/a;b=c,d", "/~x!$&'()*+@:"]
)
def test_target_passes_untouched_or_is_refused(vm: ScriptedVM, client: RawClient, marker: str, target: str) -> None:
    client.request("GET", target, headers=f"X-Mark: {marker}\r\n")
    got = client.response()
    if got.status == 200:
        assert vm.wait_seen(marker).target == target
    else:
        assert (got.status, got.error) == (400, "PH01")
        assert vm.seen(marker) == []


def test_fragment_is_stripped_or_refused(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.request("GET", f"/{marker}#top")
    got = client.response()
    assert got.status in (200, 400)
    assert [seen.target for seen in vm.seen(marker)] == ([f"/{marker}"] if got.status == 200 else [])


def test_absolute_form_rules_over_host(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.request("GET", f"http://web.localhost/{marker}", host="nobody.localhost")
    got = client.response()
    if got.status == 200:
        seen = vm.wait_seen(marker)
        assert (seen.header("host"), seen.target) == ("web.localhost", f"/{marker}")
    else:
        assert (got.status, got.error) in ((400, "PH01"), (400, "PH12"))
        assert vm.seen(marker) == []


def test_absolute_form_that_agrees_with_host(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.request("GET", f"http://web.localhost/{marker}?q")
    assert client.response().status == 200
    assert vm.wait_seen(marker).target == f"/{marker}?q"


def test_options_asterisk(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.request("OPTIONS", "*", headers=f"X-Mark: {marker}\r\n")
    assert client.response().status == 200
    assert vm.wait_seen(marker).target == "*"


@pytest.mark.parametrize("host", ["WEB.localhost", "web.localhost:80", "web.localhost.", "Web.LocalHost.:80"])
def test_host_is_normalised(client: RawClient, host: str) -> None:
    assert client.get(host=host).status == 200


def test_wildcard_hostname_covers_one_label_and_exact_names_win(
    daemon: ProxyDaemon, client: RawClient, start_vm: Callable[..., ScriptedVM]
) -> None:
    wild, exact = start_vm(name="wild"), start_vm(name="exact")
    daemon.add_app("wild", machines=[wild.address], hostnames=["*.wild.localhost"])
    daemon.add_app("exact", machines=[exact.address], hostnames=["exact.wild.localhost"])
    assert client.get(host="any.wild.localhost").body == b"wild\n"
    assert client.get(host="exact.wild.localhost").body == b"exact\n"
    assert client.get(host="a.b.wild.localhost").error == "PE03"
    assert client.get(host="wild.localhost").error == "PE03"


def test_own_methods_pass(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE", "M-SEARCH"):
        client.request(method, f"/{marker}/{method}")
        assert client.response().status == 200
    assert [seen.method for seen in vm.seen(marker)] == [
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "PURGE",
        "M-SEARCH",
    ]


# -- answers


def test_answer_head_is_written_anew(vm: ScriptedVM, client: RawClient) -> None:
    path = vm.answer(
        b"HTTP/1.1 201 Made It\r\nContent-Length: 2\r\nX-App: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Keep-Alive: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\nflyproxy-error: PP01\r\n"
        b"Server: app/1\r\nVia: 1.1 inner\r\n"
        b"\r\nok"
    )
    got = client.get(path)
    assert (got.status, got.reason, got.body) == (201, "Made It", b"ok")
    assert got.all("set-cookie") == ["a=1", "b=2"]
    assert got.header("x-app") == "1"
    assert (got.all("keep-alive"), got.all("x-hop"), got.error) == ([], [], None)
    assert got.header("server") == "flyproxy"
    assert ", ".join(got.all("via")) == "1.1 inner, 1.1 flyproxy"
    assert REQUEST_ID.fullmatch(got.header("fly-request-id") or "")


def test_pristine_answers_get_no_headers_of_ours(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient) -> None:
    daemon.add_app(
        "pristine",
        HTTP_PORT + "[services.ports.http_options.response]\npristine = true\n",
        [vm.address],
        ["pristine.localhost"],
    )
    path = vm.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: app/1\r\n\r\nok")
    got = client.get(path, host="pristine.localhost")
    assert got.header("server") == "app/1"
    assert got.all("via") == got.all("fly-request-id") == []


def test_interim_answers_pass_through(vm: ScriptedVM, client: RawClient) -> None:
    path = vm.answer(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    got = client.get(path)
    assert [one.status for one in got.interim] == [103, 102]
    assert got.interim[0].header("link") == "</a.css>"
    assert (got.status, got.body) == (200, b"ok")
    assert client.get().status == 200


def test_interim_answer_arrives_before_the_final_one_exists(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        conn.body(seen)  # comes only after the client has read the hints
        conn.reply(headers="Connection: close\r\n")
        return CLOSE

    client.send(f"POST {vm.route(script)} HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 4\r\n\r\n".encode())
    assert client.head().status == 103
    client.send(b"done")
    assert client.response().status == 200


def test_interim_answers_are_not_sent_to_http10_clients(vm: ScriptedVM, client: RawClient) -> None:
    path = vm.answer(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    client.request(target=path, version="HTTP/1.0")
    got = client.response()
    assert (got.interim, got.status) == ([], 200)


def test_http10_vm_is_relayed_and_never_pooled(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")

    path = vm.route(script)
    numbers = set()
    for number in range(3):
        got = client.get(f"{path}?{marker}{number}")
        assert (got.version, got.status, got.body) == ("HTTP/1.1", 200, b"ok")
        numbers.add(vm.wait_seen(f"{marker}{number}").connection)
    assert len(numbers) == 3


# -- force_https, balance


def test_force_https_redirects(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient, marker: str) -> None:
    daemon.add_app(
        "secure", "[http_service]\ninternal_port = 8080\nforce_https = true\n", [vm.address], ["secure.localhost"]
    )
    got = client.get(f"/{marker}?a=b", host="secure.localhost")
    assert (got.status, got.header("location")) == (301, f"https://secure.localhost/{marker}?a=b")
    client.request("POST", f"/{marker}", host="secure.localhost:80", body=b"abc")
    assert client.response().header("location") == f"https://secure.localhost/{marker}"
    assert vm.seen(marker) == []


@pytest.fixture(scope="module")
def trio(daemon: ProxyDaemon, start_vm: Callable[..., ScriptedVM]) -> list[ScriptedVM]:
    return [start_vm(name=f"trio{number}") for number in range(3)]


@pytest.mark.parametrize(
    ("key", "template"), [("header:X-User", "X-User: {}\r\n"), ("cookie:sid", "Cookie: a=b; sid={}\r\n")]
)
def test_hash_balance_keeps_a_key_on_its_machine(
    daemon: ProxyDaemon, trio: list[ScriptedVM], client: RawClient, key: str, template: str
) -> None:
    name = "hash-" + key.partition(":")[0]
    daemon.add_app(
        name,
        f'[http_service]\ninternal_port = 8080\nbalance = "hash"\nbalance_key = "{key}"\n',
        [vm.address for vm in trio],
        [f"{name}.localhost"],
    )

    def where(user: int) -> bytes:
        return client.get(host=f"{name}.localhost", headers=template.format(user)).body

    first = {user: where(user) for user in range(60)}
    assert {user: where(user) for user in range(60)} == first
    assert len(set(first.values())) == 3, "60 keys use all machines"
    daemon.ctl("machines", "remove", f"{name}-1")
    moved = {user: where(user) for user in range(60)}
    assert all(moved[user] == first[user] for user in range(60) if first[user] != b"trio0\n"), (
        "only the lost machine's keys move"
    )
    assert b"trio0\n" not in moved.values()


def test_hash_balance_by_client_address(daemon: ProxyDaemon, trio: list[ScriptedVM], client: RawClient) -> None:
    daemon.add_app(
        "hash-ip",
        '[http_service]\ninternal_port = 8080\nbalance = "hash"\n',
        [vm.address for vm in trio],
        ["hash-ip.localhost"],
    )
    assert len({client.get(host="hash-ip.localhost").body for _ in range(20)}) == 1


def test_least_balance_spreads_requests(daemon: ProxyDaemon, trio: list[ScriptedVM], client: RawClient) -> None:
    daemon.add_app("least", machines=[vm.address for vm in trio], hostnames=["least.localhost"])
    counts = Counter(client.get(host="least.localhost").body for _ in range(150))
    assert len(counts) == 3
    assert min(counts.values()) > 15, counts


def test_nearest_region_first(daemon: ProxyDaemon, trio: list[ScriptedVM], client: RawClient) -> None:
    daemon.add_app("regions", hostnames=["regions.localhost"])
    daemon.ctl("machines", "add", "far", "-a", "regions", "--address", trio[0].address, "--region", "far")
    daemon.ctl("machines", "add", "near", "-a", "regions", "--address", trio[1].address)
    assert {client.get(host="regions.localhost").body for _ in range(20)} == {b"trio1\n"}
    daemon.ctl("machines", "cordon", "near")
    assert {client.get(host="regions.localhost").body for _ in range(5)} == {b"trio0\n"}
