"""Probes against real sockets."""

import asyncio
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest

from flyproxy.control.health.plan import Check, HttpRequest
from flyproxy.control.health.probe import HEAD_MAX, probe, render

GET = HttpRequest()


def check(port, http=GET, timeout=5.0):
    return Check("m1", "hello", "c", "127.0.0.1", port, 15.0, timeout, 0.0, http)


@asynccontextmanager
async def machine(answer: bytes, close: bool = True, tls=None):
    """A server that reads a head, sends ``answer`` and closes; yields (port, list of heads)."""
    heads = []

    async def serve(reader, writer):
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            if close:
                writer.close()
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()


def run_probe(answer, close=True, **options):
    async def go():
        async with machine(answer, close) as (port, _):
            return await probe(check(port, **options))
    return asyncio.run(go())


@pytest.mark.parametrize("status", [200, 204, 299])
def test_every_2xx_passes(status):
    assert run_probe(b"HTTP/1.1 %d x\r\n\r\n" % status) is None


@pytest.mark.parametrize("status", [300, 301, 302, 304, 404, 500, 503])
def test_everything_else_fails_redirects_too(status):
    assert run_probe(b"HTTP/1.1 %d x\r\nLocation: /\r\n\r\n" % status) == f"status {status}"


def test_interim_answers_are_skipped():
    assert run_probe(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n") is None


def test_the_answer_passes_before_its_body_is_there():
    assert run_probe(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", close=False) is None


@pytest.mark.parametrize(("answer", "reason"), [
    (b"", "connection closed"),
    (b"HTTP/1.1 200 OK\r\n", "connection closed"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1"),
    (b"HTTP/1.1 2xx OK\r\n\r\n", "not HTTP/1"),
    (b"HTTP/1.1 103 x\r\n\r\n" * 20, "interim"),
    (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * HEAD_MAX, f"over {HEAD_MAX} bytes"),
])
def test_what_is_no_http_answer_fails_with_the_reason(answer, reason):
    assert reason in (run_probe(answer) or "")


def test_silence_ends_at_the_timeout():
    assert run_probe(b"", close=False, timeout=0.05) == "no answer within 0.05 s"


def test_a_closed_port_is_refused():
    async def go():
        async with machine(b"") as (port, _):
            pass
        return await probe(check(port, http=None)), port
    problem, port = asyncio.run(go())
    assert problem == f"connection refused on port {port}"


def test_a_tcp_check_passes_once_connected():
    assert run_probe(b"", close=False, http=None) is None


def test_the_request_is_one_that_any_server_understands():
    async def go():
        async with machine(b"HTTP/1.1 200 OK\r\n\r\n") as (port, heads):
            request = HttpRequest("HEAD", "/up?x=1", (("Host", "hello.test"), ("X-Key", "1")))
            assert await probe(check(port, request)) is None
            return heads[0]
    lines = asyncio.run(go()).decode().split("\r\n")
    assert lines[0] == "HEAD /up?x=1 HTTP/1.1"
    assert lines.count("Host: hello.test") == 1
    assert {"X-Key: 1", "Connection: close", "User-Agent: flyproxy-check"} <= set(lines)


def test_a_v6_address_is_bracketed_in_host():
    assert b"\r\nHost: [::1]:80\r\n" in render(GET, "::1", 80)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=machine.test", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return made


@pytest.mark.parametrize(("verify", "passes"), [(False, True), (True, False)])
def test_https_checks_verify_unless_told_not_to(certificate, verify, passes):
    async def go():
        async with machine(b"HTTP/1.1 200 OK\r\n\r\n", tls=certificate) as (port, _):
            return await probe(check(port, HttpRequest(tls=True, server_name="machine.test", verify=verify)))
    problem = asyncio.run(go())
    assert (problem is None) == passes, problem
    assert passes or problem.startswith("TLS: ")
