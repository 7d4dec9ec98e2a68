"""Answers that the proxy makes itself, in their three shapes, and the redirect of force_https."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy import errors
from flyproxy._speedups import _testing_proto as proto

REQUEST_ID = "01JABCDEFGHJKMNPQRSTVWXYZ0-ams"
ANSWERED = [(n, error) for n, error in enumerate(errors.ERRORS, 1) if error.status]


def read(data: bytes, *, head: bool = False) -> tuple[h11.Response, dict[str, str], bytes]:
    """An answer as an independent client reads it; nothing may follow it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD" if head else "GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    return response, {name.decode(): value.decode() for name, value in response.headers}, body


def test_codes_and_statuses_are_those_of_the_table() -> None:
    assert proto.error_numbers() == [(error.code, error.status) for error in errors.ERRORS]


@pytest.mark.parametrize(("number", "error"), ANSWERED, ids=[error.code for _, error in ANSWERED])
def test_every_error_in_every_shape(number: int, error: errors.Error) -> None:
    response, headers, body = read(proto.answer_error(number))
    assert (response.status_code, response.reason.decode()) == (error.status, reason(error.status))
    assert headers["flyproxy-error"] == error.code
    assert headers["fly-request-id"] == REQUEST_ID
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert (headers["server"], headers["via"]) == ("flyproxy", "1.1 flyproxy")
    assert headers.get("retry-after") == (str(error.retry_after) if error.retry_after else None)
    assert ("allow" in headers) is (error.status == 405)
    assert body.decode() == f"{error.code} {error.title}\n{error.detail}\n{error.fix}\nrequest {REQUEST_ID}\n"
    _, headers, body = read(proto.answer_error(number, kind="json"))
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body) == {
        "type": f"urn:flyproxy:error:{error.code}", "title": error.title, "status": error.status,
        "detail": error.detail,
        "code": error.code, "fix": error.fix, "request_id": REQUEST_ID, "region": "ams",
    }
    _, headers, body = read(proto.answer_error(number, kind="html"))
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert f"<h1>{error.title}</h1>".encode() in body


def reason(status: int) -> str:
    renamed = {413: "Content Too Large", 414: "URI Too Long"}
    return renamed.get(status) or HTTPStatus(status).phrase


def test_the_texts_of_the_table_fit_and_need_no_escaping_where_none_is_done() -> None:
    for error in errors.ERRORS:
        text = error.title + error.detail + error.fix
        assert text.isascii()
        assert text.isprintable()
        assert not set(error.title) & set("<>&\"'\\")
        assert len(error.title) * 2 + len(error.detail) * 2 + len(error.fix) * 2 < 1024


def test_callers_texts_are_cut_and_made_harmless() -> None:
    for kind in ("text", "json", "html"):
        data = proto.answer_error(1, kind=kind, request_id=b'<"\r\n\\' + b"x" * 500, region=b'"\n' + b"r" * 500,
        server=b"s" * 500, via=b"v\r\n" * 99)
        _, headers, _ = read(data)
        assert headers["fly-request-id"] == "_____" + "x" * 123
        assert headers["server"] == "s" * 128


def test_head_gets_the_same_headers_and_no_body() -> None:
    _, headers, body = read(proto.answer_error(1, head_only=True), head=True)
    assert body == b""
    assert headers == read(proto.answer_error(1))[1]


@pytest.mark.parametrize(("close", "minor", "connection"), [
    (False, 1, None), (True, 1, "close"), (False, 0, "keep-alive"), (True, 0, "close"),
])
def test_what_becomes_of_the_connection(close: bool, minor: int, connection: str | None) -> None:
    for data in (proto.answer_error(1, close=close, minor=minor), proto.answer_redirect(b"a", b"/", close=close,
    minor=minor)):
        assert read(data)[1].get("connection") == connection


@pytest.mark.parametrize("number", [0, -1, 10_000, *[n for n, error in enumerate(errors.ERRORS, 1)
    if not error.status]])
def test_errors_without_an_answer_become_internal_ones(number: int) -> None:
    response, headers, _ = read(proto.answer_error(number))
    assert (response.status_code, headers["flyproxy-error"]) == (500, "PP01")


@given(st.integers(0, 4102444800) | st.sampled_from([0, 951782399, 951782400, 951868800, 1709164800, 1709251199,
    4107542399, 4107542400]))
@settings(derandomize=True, max_examples=1000)
def test_dates(now: int) -> None:
    expected = format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)
    assert f"\r\nDate: {expected}\r\n".encode() in proto.answer_error(1, now=now)


@pytest.mark.parametrize(("host", "target", "port", "location"), [
    (b"a.example", b"/x?y", 443, "https://a.example/x?y"), (b"[::1]", b"/", 8443, "https://[::1]:8443/"),
    (b"a", b"?x=1", 443, "https://a/?x=1"), (b"a", b"*", 443, "https://a/"),
])
def test_redirects(host: bytes, target: bytes, port: int, location: str) -> None:
    response, headers, body = read(proto.answer_redirect(host, target, https_port=port))
    assert (response.status_code, headers["location"], body) == (301, location, b"Moved to https.\r\n")
    assert headers["fly-request-id"] == REQUEST_ID
    assert read(proto.answer_redirect(host, target, https_port=port, head_only=True), head=True)[2] == b""


def test_a_redirect_that_does_not_fit_is_not_written() -> None:
    target = b"/" + b"x" * 5000
    assert proto.answer_redirect(b"a", target) is None
    assert f"https://a{target.decode()}".encode() in proto.answer_redirect(b"a", target, cap=5002 + 1024,
        server=b"s" * 200, via=b"v" * 200)
