"""Malformed and hostile request heads: one test for each case of docs/bad-input.md that the head parser answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flyproxy._speedups import _testing_proto as proto

Refused = Callable[..., None]
Accepted = Callable[..., dict[str, Any]]


def get(*lines: bytes, first: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([first, b"Host: a.example", *lines, b"", b""])


def post(*lines: bytes) -> bytes:
    return get(*lines, first=b"POST / HTTP/1.1")


# -- framing
def test_case_01_content_length_with_transfer_encoding_is_refused(refused: Refused) -> None:
    refused(post(b"Content-Length: 3", b"Transfer-Encoding: chunked"), "PH01")
    refused(post(b"Transfer-Encoding: chunked", b"Content-Length: 0"), "PH01")


def test_case_02_two_differing_content_lengths_are_refused(refused: Refused) -> None:
    refused(post(b"Content-Length: 3", b"Content-Length: 4"), "PH01")


def test_case_03_repeated_content_lengths_are_refused(refused: Refused) -> None:
    refused(post(b"Content-Length: 3", b"Content-Length: 3"), "PH01")
    refused(post(b"Content-Length: 3, 3"), "PH01")


@pytest.mark.parametrize("value", [b"+3", b"-1", b"0x3", b"1_0", b"", b"1 0", b"\xd9\xa3", b"3.0", b"3;", b"3a", b"1,",
    b'"3"'])
def test_case_04_content_length_that_is_no_number_is_refused(refused: Refused, value: bytes) -> None:
    refused(post(b"Content-Length: " + value), "PH01")


@pytest.mark.parametrize("value", [b"9223372036854775808", b"18446744073709551616", b"9" * 60, b"0" * 60])
def test_case_05_content_length_of_2_63_or_more_is_refused(refused: Refused, value: bytes) -> None:
    refused(post(b"Content-Length: " + value), "PH07")


def test_case_05_the_largest_content_length_is_taken(accepted: Accepted) -> None:
    assert accepted(post(b"Content-Length: 9223372036854775807"))["content_length"] == 2**63 - 1


@pytest.mark.parametrize("name", [b"Content-Length ", b"Content-Length\t", b" Content-Length"])
def test_case_06_space_around_the_name_content_length_is_refused(refused: Refused, name: bytes) -> None:
    refused(post(name + b": 3"), "PH01")


@pytest.mark.parametrize("value", [b"xchunked", b"gzip", b"identity", b"chunkedx", b"gzip, deflate", b"gzip, chunked"])
def test_case_07_other_transfer_codings_are_refused(refused: Refused, value: bytes) -> None:
    refused(post(b"Transfer-Encoding: " + value), "PH08")


@pytest.mark.parametrize("value", [b"chunked, identity", b"chunked, chunked", b"chunked, gzip", b"chunked,",
    b",chunked", b""])
def test_case_08_chunked_other_than_once_and_last_is_refused(refused: Refused, value: bytes) -> None:
    refused(post(b"Transfer-Encoding: " + value), "PH01")


@pytest.mark.parametrize("value", [
    b"\x0bchunked", b"chunked\x0b", b"\xa0chunked", b"chunked\x00", b'"chunked"', b"'chunked", b"chunked;q=1",
    b"chunked ;a",
    b"chunk ed", b"chunked\x7f", b"\xc2\xa0chunked", b"gzip;q=1",
])
def test_case_09_stray_bytes_in_transfer_encoding_are_refused(refused: Refused, value: bytes) -> None:
    result, _ = proto.parse_request(post(b"Transfer-Encoding: " + value))
    refused(post(b"Transfer-Encoding: " + value), "PH08" if value == b"'chunked" else "PH01")
    assert result < 0


def test_case_10_transfer_encoding_on_two_lines_is_refused(refused: Refused) -> None:
    refused(post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "PH01")
    refused(post(b"Transfer-Encoding: chunked", b"transfer-encoding: identity"), "PH01")


def test_case_11_space_before_the_colon_of_transfer_encoding_is_refused(refused: Refused) -> None:
    refused(post(b"Transfer-Encoding : chunked"), "PH01")


@pytest.mark.parametrize("line", [
    b"A: b\nTransfer-Encoding: chunked", b"A: b\rTransfer-Encoding: chunked", b"A: b\n\rTransfer-Encoding: chunked",
    b"A: b\r\r\nTransfer-Encoding: chunked",
])
def test_case_12_transfer_encoding_behind_a_bare_line_end_is_refused(refused: Refused, line: bytes) -> None:
    refused(post(line), "PH01")


@pytest.mark.parametrize("position", range(5))
def test_case_12_a_bare_lf_is_refused_at_every_line(refused: Refused, position: int) -> None:
    lines = get(b"A: b", b"C:").split(b"\r\n")
    data = b"".join(line + (b"\n" if i == position else b"\r\n") for i, line in enumerate(lines[:-1]))
    refused(data, "PH01")


@pytest.mark.parametrize("line", [b"A: b\r\n Transfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked",
    b"A: b\r\n\tc"])
def test_case_13_transfer_encoding_in_an_obs_fold_is_refused(refused: Refused, line: bytes) -> None:
    refused(post(line), "PH01")


def test_case_14_transfer_encoding_in_http_1_0_is_refused(refused: Refused) -> None:
    refused(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "PH01")


@pytest.mark.parametrize("name", [
    b"Transfer_Encoding", b"Content_Length", b"X_Forwarded_For", b"X-Forwarded_Proto", b"Fly_Client_IP", b"fly_region",
    b"Proxy_Connection", b"HTTP2_Settings", b"X_Request_Start", b"flyproxy_error", b"X_Forwarded_Host", b"Keep_Alive",
    b"fly_" + b"x" * 60,
])
def test_case_15_underscore_twins_are_dropped(accepted: Accepted, name: bytes) -> None:
    head = accepted(get(name + b": 3", b"My_Own: 1"))
    assert head["content_length"] == -1
    assert "chunked" not in head["flags"]
    assert [dropped for n, _, dropped in head["headers"] if n == name] == [True]
    assert [dropped for n, _, dropped in head["headers"] if n == b"My_Own"] == [False]


def test_case_26_get_with_a_body_is_framed(accepted: Accepted) -> None:
    assert accepted(get(b"Content-Length: 31"))["content_length"] == 31
    assert "chunked" in accepted(get(b"Transfer-Encoding: chunked"))["flags"]


def test_case_27_nothing_after_a_malformed_head_is_counted() -> None:
    bad = get(b"Content-Length: x")
    assert proto.count_pipelined(get() + bad + get())[0] == 1


# -- request line and headers
@pytest.mark.parametrize("line", [
    b"GET\t/\tHTTP/1.1", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET   /   HTTP/1.1", b" GET / HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b"GET / HTTP/1.1\t", b"\tGET / HTTP/1.1", b"GET / a HTTP/1.1",
])
def test_case_28_white_space_other_than_two_single_spaces_is_refused(refused: Refused, line: bytes) -> None:
    refused(get(first=line), "PH01")


@pytest.mark.parametrize(("version", "code"), [
    (b"HTTP/0.9", "PH09"), (b"HTTP/2.0", "PH09"), (b"HTTP/1.2", "PH09"), (b"HTTP/3.0", "PH09"), (b"HTTP/1.10", "PH01"),
    (b"HTTP/01.1", "PH01"), (b"http/1.1", "PH01"), (b"Http/1.1", "PH01"), (b"HTTP/1", "PH01"), (b"HTTP/1.", "PH01"),
    (b"HTTP/.1", "PH01"), (b"HTTP/1,1", "PH01"), (b"HTTP1.1", "PH01"), (b"HTTP/11", "PH01"), (b"HTPP/1.1", "PH01"),
    (b"HTTP/1.1a", "PH01"), (b"HTTP/2", "PH01"), (b"HTTP/+1.1", "PH01"), (b"HTTP/1.x", "PH01"),
])
def test_case_29_other_versions_are_refused(refused: Refused, version: bytes, code: str) -> None:
    refused(get(first=b"GET / " + version), code)


def test_case_29_a_request_line_without_version_is_refused(refused: Refused) -> None:
    refused(b"GET /\r\n\r\n", "PH01")
    refused(b"GET / \r\n\r\n", "PH01")


def test_case_29_the_http2_preface_is_refused_with_the_version(refused: Refused) -> None:
    refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PH09")


@pytest.mark.parametrize("method", [b"G(T", b"G\x00T", b"G\xc3\xa9T", b'G"T', b"G/T", b"G@T", b"", b"G:T", b"[GET]",
    b"G{T}"])
def test_case_30_a_method_that_is_no_token_is_refused(refused: Refused, method: bytes) -> None:
    refused(get(first=method + b" / HTTP/1.1"), "PH01")


def test_case_30_a_long_method_is_refused_before_it_ends(refused: Refused, accepted: Accepted) -> None:
    assert accepted(get(first=b"A" * 32 + b" / HTTP/1.1"))["method"] == "OTHER"
    refused(get(first=b"A" * 33 + b" / HTTP/1.1"), "PH01")
    assert proto.code(proto.parse_request(b"A" * 33)[0]) == "PH01"
    assert proto.code(proto.parse_request(b"A" * (64 << 10))[0]) == "PH01"


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F, 0x80, 0xC3, 0xFF])
def test_case_31_control_and_non_ascii_bytes_in_the_target_are_refused(refused: Refused, byte: int) -> None:
    refused(get(first=b"GET /a" + bytes([byte]) + b"b HTTP/1.1"), "PH01")
    refused(get(first=b"GET /?a" + bytes([byte]) + b"b HTTP/1.1"), "PH01")


def test_case_32_a_long_target_is_refused_before_it_ends(refused: Refused, accepted: Accepted) -> None:
    accepted(get(first=b"GET /" + b"a" * 16383 + b" HTTP/1.1"))
    refused(get(first=b"GET /" + b"a" * 16384 + b" HTTP/1.1"), "PH04")
    assert proto.code(proto.parse_request(b"GET /" + b"a" * 16384)[0]) == "PH04"
    assert proto.parse_request(b"GET /" + b"a" * 16383)[0] == 0
    refused(get(first=b"GET /" + b"a" * (64 << 10) + b" HTTP/1.1"), "PH04")


@pytest.mark.parametrize("target", [b"/#a", b"/a?b#c", b"#", b"http://a/#"])
def test_case_33_a_fragment_is_refused(refused: Refused, target: bytes) -> None:
    refused(get(first=b"GET " + target + b" HTTP/1.1"), "PH01")


@pytest.mark.parametrize("target", [
    b"*", b"a.example:80", b"a.example", b"index.html", b"?a=b", b"://a/", b"ftp://a/", b"http:/a", b"http:", b"**",
    b"/../*x/..",
    b"file:///etc/passwd", b"httpx://a/",
])
def test_case_34_targets_of_other_forms_are_refused(refused: Refused, target: bytes) -> None:
    refused(get(first=b"GET " + target + b" HTTP/1.1"), "PH01")


def test_case_34_asterisk_is_for_options_alone(accepted: Accepted, refused: Refused) -> None:
    assert accepted(get(first=b"OPTIONS * HTTP/1.1"))["target"] == b"*"
    refused(get(first=b"POST * HTTP/1.1"), "PH01")


@pytest.mark.parametrize("target", [b"a.example:443", b"/", b"http://a/", b"*", b"[::1]:80"])
def test_case_35_connect_is_refused(refused: Refused, target: bytes) -> None:
    refused(get(first=b"CONNECT " + target + b" HTTP/1.1"), "PH10")


def test_case_36_the_uri_rules_over_host(accepted: Accepted) -> None:
    data = get(first=b"GET http://Other.Example:8080/x?y HTTP/1.1")
    head = accepted(data)
    assert (head["host"], head["port"], head["target"]) == (b"other.example", 8080, b"/x?y")
    out = proto.emit_request(data)
    assert out.startswith(b"GET /x?y HTTP/1.1\r\nHost: other.example:8080\r\n")
    assert out.lower().count(b"\r\nhost:") == 1


@pytest.mark.parametrize("authority", [b"", b"user@a", b"u:p@a", b"a b", b"a:b", b"a:0", b"a:65536", b"a,b", b"[::1",
    b"a\\b"])
def test_case_36_a_uri_with_a_bad_authority_is_refused(refused: Refused, authority: bytes) -> None:
    refused(get(first=b"GET http://" + authority + b"/ HTTP/1.1"), "PH01" if b" " in authority else "PH12")


@pytest.mark.parametrize("path", [
    b"/%00", b"/a%00b", b"/%zz", b"/%", b"/%4", b"/a%g0", b"/../", b"/..", b"/a/../b", b"/a/..", b"/%2e%2e/",
    b"/.%2E/a", b"/%2e.",
    b"/..?a", b"/a/../?b", b"/%2E%2e",
])
def test_case_37_paths_that_readers_take_differently_are_refused(refused: Refused, path: bytes) -> None:
    refused(get(first=b"GET " + path + b" HTTP/1.1"), "PH01")


@pytest.mark.parametrize("target", [
    b"/a..b", b"/...", b"/.", b"/./a", b"/..a", b"/a../b", b"/?/../", b"/?q=100%", b"/?%00", b"/?%zz", b"/%41%2F",
    b"//", b"/a//b",
    b"/;a=b", b"/%2e%2ea", b"/{}|\\^`\"<>", b"/?a=%u1234",
])
def test_case_37_other_targets_pass_byte_for_byte(accepted: Accepted, target: bytes) -> None:
    data = get(first=b"GET " + target + b" HTTP/1.1")
    assert accepted(data)["target"] == target
    assert proto.emit_request(data).startswith(b"GET " + target + b" HTTP/1.1\r\n")


def test_case_38_no_host_or_two_are_refused(refused: Refused) -> None:
    refused(b"GET / HTTP/1.1\r\n\r\n", "PH12")
    refused(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", "PH12")
    refused(get(b"Host: a.example"), "PH12")
    refused(get(b"host: b.example"), "PH12")
    refused(b"GET http://a/ HTTP/1.1\r\n\r\n", "PH12")
    refused(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "PH12")


@pytest.mark.parametrize("host", [
    b"", b"a b", b"a,b", b"u@a", b"a/b", b"a:", b"a:0", b"a:65536", b"a:080", b"a:+80", b"a:8a", b"a:80:80", b"a..b",
    b".a", b".",
    b"a?b", b"a#b", b"\xc3\xa9", b"%61", b"[::1", b"::1", b"[::1]x", b"[::1]:", b"[::1%eth0]", b"[v1.a]", b"[1.2.3.4]",
    b"[]",
    b"a" * 64, b"a." * 127 + b"a", b"a*b", b"*", b"a\tb", b"a;b", b"http://a", b"a'b", b"a\\b", b"a:123456",
])
def test_case_39_a_host_that_is_no_host_is_refused(refused: Refused, host: bytes) -> None:
    refused(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", "PH12")


@pytest.mark.parametrize("byte", [b for b in [*range(0x20), 0x7F] if b != 9])
def test_case_40_control_bytes_in_a_value_are_refused(refused: Refused, byte: int) -> None:
    refused(get(b"A: b" + bytes([byte]) + b"c"), "PH01")


def test_case_40_tab_and_bytes_over_127_pass_in_a_value(accepted: Accepted) -> None:
    assert (b"A", b"b\tc\xe9\xff", False) in accepted(get(b"A: b\tc\xe9\xff"))["headers"]


@pytest.mark.parametrize("line", [b"A: b\r\n c", b"A: b\r\n\tc", b"A:\r\n b", b"A: b\r\n \r\n c"])
def test_case_41_obs_fold_is_refused(refused: Refused, line: bytes) -> None:
    refused(get(line), "PH01")
    refused(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "PH01")


@pytest.mark.parametrize("line", [
    b"A : b", b": b", b"A", b"A b: c", b"A\x00: b", b"A\xc3\xa9: b", b"A(: b", b"A\t: b", b'"A": b', b"A/: b", b"A@: b",
    b"A[]: b",
    b"A{}: b", b"A,: b", b"=", b"A;: b",
])
def test_case_42_malformed_header_lines_are_refused(refused: Refused, line: bytes) -> None:
    refused(get(line), "PH01")


def test_case_43_a_head_over_the_limit_is_refused_before_it_ends(refused: Refused) -> None:
    refused(get(b"A: " + b"b" * (1 << 20)), "PH02")
    assert proto.code(proto.parse_request(get(b"A: " + b"b" * (64 << 10))[: 64 << 10])[0]) == "PH02"
    assert proto.parse_request(get(b"A: " + b"b" * (64 << 10))[: (64 << 10) - 1])[0] == 0
    room = (64 << 10) - len(get(b"A: "))
    assert proto.parse_request(get(b"A: " + b"b" * room))[0] == 64 << 10
    refused(get(b"A: " + b"b" * (room + 1)), "PH02")


def test_case_43_too_many_headers_are_refused_before_the_head_ends(refused: Refused, accepted: Accepted) -> None:
    accepted(get(*[b"A: b"] * 127))
    refused(get(*[b"A: b"] * 128), "PH03")
    refused(get(*[b"A: b"] * 5000), "PH03")
    assert proto.code(proto.parse_request(get(*[b"A: b"] * 128)[:-2] + b"A: b\r\n")[0]) == "PH03"
    assert proto.code(proto.parse_request(get(*[b"A: b"] * 300), headers=1000)[0]) == "PH03", "clamped to the array"
    accepted(get(*[b"A: b"] * 255), headers=1000)


def test_case_44_headers_named_by_connection_are_dropped(accepted: Accepted) -> None:
    head = accepted(get(b"X-Secret: 1", b"Connection: x-secret, X-Other", b"x-other: 2", b"X-Kept: 3", b"X-SECRET: 4"))
    assert {n.lower() for n, _, dropped in head["headers"] if dropped} == {b"host", b"x-secret", b"connection",
        b"x-other"}


@pytest.mark.parametrize("line", [
    b"Authorization: Basic x", b"Cookie: a=b", b"Content-Type: a/b", b"Content-Encoding: br",
])
def test_case_44_connection_cannot_strip_what_protects_the_app(line: bytes) -> None:
    out = proto.emit_request(get(b"Connection: close, " + line.split(b":")[0], line))
    assert b"\r\n" + line + b"\r\n" in out


def test_case_44_connection_cannot_strip_host_framing_or_forwarded(accepted: Accepted) -> None:
    data = post(b"Connection: host, content-length, x-forwarded-for, via, fly-client-ip", b"Content-Length: 2",
                b"X-Forwarded-For: 10.0.0.1", b"Via: 1.1 cdn")
    accepted(data)
    out = proto.emit_request(data)
    assert b"\r\nHost: a.example\r\n" in out
    assert b"\r\nContent-Length: 2\r\n" in out
    assert b"\r\nX-Forwarded-For: 10.0.0.1, 198.51.100.7, 203.0.113.1\r\n" in out
    assert b"\r\nVia: 1.1 cdn, 1.1 flyproxy\r\n" in out
    assert b"\r\nFly-Client-IP: 198.51.100.7\r\n" in out


def test_case_44_a_connection_that_names_many_headers_is_refused(refused: Refused, accepted: Accepted) -> None:
    accepted(get(b"Connection: " + b", ".join(b"x-%d" % i for i in range(16))))
    refused(get(b"Connection: " + b", ".join(b"x-%d" % i for i in range(17))), "PH01")


@pytest.mark.parametrize("line", [
    b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: gzip", b"HTTP2-Settings: AAMAAABkAAQ",
    b"Connection: close",
    b"Proxy-Authorization: Basic x", b"Upgrade: websocket", b"Transfer_Encoding: chunked",
])
def test_case_45_hop_by_hop_headers_are_dropped(line: bytes) -> None:
    out = proto.emit_request(get(line))
    assert line.split(b":")[0].lower() not in out.lower()


@pytest.mark.parametrize("value", [b"h2c", b"H2C", b"h2c, websocket", b"websocket, h2c", b"a b", b"/1", b"a/", b"a/b/c",
    b"", b","])
def test_case_46_upgrade_to_h2c_or_nonsense_is_stripped(accepted: Accepted, value: bytes) -> None:
    data = get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + value, b"HTTP2-Settings: AAMAAABkAAQ")
    assert "upgrade" not in accepted(data)["flags"]
    out = proto.emit_request(data).lower()
    assert b"upgrade" not in out
    assert b"http2-settings" not in out


def test_case_47_other_expectations_are_refused(refused: Refused) -> None:
    refused(post(b"Expect: 200-ok", b"Content-Length: 1"), "PH11")
    refused(post(b"Expect: 100-continue, x", b"Content-Length: 1"), "PH11")
    refused(post(b"Expect: 100-continue", b"Expect: x"), "PH11")
    refused(post(b"Expect:"), "PH11")


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x80\x2e\x01\x03\x01", b"\x00\x00\x00\x00", b"\xff\xd8\xff\xe0",
    b"\x05\x01\x00",
    b"\n", b"\r\r", b" GET", b"{\"a\":1}", b"\x7fELF",
])
def test_case_48_binary_is_refused_at_its_first_bytes(data: bytes) -> None:
    assert proto.code(proto.parse_request(data)[0]) == "PH01"
    assert proto.code(proto.parse_request(data[:2])[0]) == "PH01"


@pytest.mark.parametrize("name", [
    b"X-Forwarded-Proto", b"X-Forwarded-Ssl", b"X-Forwarded-Host", b"X-Forwarded-Server", b"Fly-Client-IP",
    b"Fly-Region",
    b"Fly-Request-Id", b"Fly-Forwarded-Port", b"fly-anything", b"flyproxy-error", b"Forwarded", b"X-Request-Start",
    b"Fly-Traceparent", b"FLY-FORWARDED-PROTO", b"flyproxy-machine", b"fly_client_ip", b"X_Forwarded_Proto",
])
def test_case_49_spoofed_headers_do_not_reach_the_vm(name: bytes) -> None:
    assert b"spoof" not in proto.emit_request(get(name + b": spoof"))


def test_case_49_forwarded_for_is_appended_to_and_port_must_be_a_port() -> None:
    out = proto.emit_request(get(b"X-Forwarded-For: spoof", b"X-Forwarded-For: 10.1.1.1", b"X-Forwarded-Port: 8443"))
    assert b"\r\nX-Forwarded-For: spoof, 10.1.1.1, 198.51.100.7, 203.0.113.1\r\n" in out
    assert b"\r\nX-Forwarded-Port: 8443\r\nFly-Forwarded-Port: 80\r\n" in out
    for spoof in ([b"0"], [b"65536"], [b"8443, 1"], [b"+1"], [b"x"], [b"8443", b"8443"]):
        lines = [b"X-Forwarded-Port: " + value for value in spoof]
        assert b"\r\nX-Forwarded-Port: 80\r\n" in proto.emit_request(get(*lines))


def websocket(key: bytes = b"dGhlIHNhbXBsZSBub25jZQ==", version: bytes = b"13",
    first: bytes = b"GET / HTTP/1.1") -> bytes:
    return get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: " + key,
    b"Sec-WebSocket-Version: " + version,
               first=first)


@pytest.mark.parametrize("data", [
    websocket(key=b""), websocket(key=b"short=="), websocket(key=b"dGhlIHNhbXBsZSBub25jZQ="),
    websocket(key=b"!" * 22 + b"=="),
    websocket(key=b"dGhlIHNhbXBsZSBub25jZQAA"), websocket(version=b"8"), websocket(version=b"13, 8"),
    websocket(version=b""),
    websocket(first=b"POST / HTTP/1.1"), get(b"Connection: Upgrade", b"Upgrade: websocket"),
    get(b"Connection: upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    websocket()[:-2] + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    websocket()[:-2] + b"sec-websocket-version: 13\r\n\r\n",
])
def test_case_98_a_websocket_handshake_that_is_wrong_is_refused(refused: Refused, data: bytes) -> None:
    refused(data, "PH01")


def test_case_98_a_right_handshake_is_passed_on(accepted: Accepted) -> None:
    assert {"upgrade", "websocket"} <= accepted(websocket())["flags"]
    out = proto.emit_request(websocket())
    assert b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" in out
    assert b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" in out


def test_a_second_header_of_a_kind_that_allows_one_is_refused(refused: Refused) -> None:
    for name in (b"Authorization", b"Content-Type"):
        refused(get(name + b": a", name.lower() + b": b"), "PH01")
