"""Bad heads and bad framing: number in docs/bad-input.md, bytes, and the answers that are right.

``MARK`` becomes a text of the test's own in target or header, so that a test can tell what reached a VM. ``HEAD`` is a
good request line and Host. Each case is a whole request, as an attacker would send it.
"""

from __future__ import annotations

from typing import NamedTuple

HEAD = b"POST /MARK HTTP/1.1\r\nHost: web.localhost\r\n"
GET = b"GET /MARK HTTP/1.1\r\nHost: web.localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b"3\r\nabc\r\n0\r\n\r\n"

MALFORMED = "400 PH01"
CODING = "501 PH08"
LENGTH = "413 PH07"
VERSION = "505 PH09"
HOST = "400 PH12"


class Bad(NamedTuple):
    number: int
    name: str
    raw: bytes
    answers: tuple[str, ...]


def bad(number: int, name: str, raw: bytes, *answers: str) -> Bad:
    return Bad(number, name, raw, answers or (MALFORMED,))


def lengths() -> list[Bad]:
    wrong = {
        "plus": b"+3",
        "minus": b"-1",
        "hex": b"0x3",
        "underscore": b"1_0",
        "empty": b"",
        "space": b"1 0",
        "arabic": "٣".encode(),
        "fullwidth": "３".encode(),
        "quoted": b'"3"',
        "float": b"3.0",
        "list": b"3, 4",
        "list-empty": b"3,",
        "semicolon": b"3;",
    }
    return [
        bad(1, "length and chunked", HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY),
        bad(1, "chunked and length", HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 13\r\n\r\n" + BODY),
        bad(2, "two lengths", HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        *(bad(4, f"length {name}", HEAD + b"Content-Length: " + text + b"\r\n\r\nabc") for name, text in wrong.items()),
        bad(5, "length 2^63", HEAD + b"Content-Length: 9223372036854775808\r\n\r\nabc", MALFORMED, LENGTH),
        bad(5, "length 2^64 + 3", HEAD + b"Content-Length: 18446744073709551619\r\n\r\nabc", MALFORMED, LENGTH),
        bad(5, "length of 60 digits", HEAD + b"Content-Length: " + b"9" * 60 + b"\r\n\r\nabc", MALFORMED, LENGTH),
        bad(6, "space before the colon of length", HEAD + b"Content-Length : 3\r\n\r\nabc"),
        bad(6, "tab before the colon of length", HEAD + b"Content-Length\t: 3\r\n\r\nabc"),
    ]


def codings() -> list[Bad]:
    def coded(value: bytes) -> bytes:
        return HEAD + b"Transfer-Encoding: " + value + b"\r\n\r\n" + BODY

    strange = {
        "vertical tab": b"\x0bchunked",
        "form feed": b"\x0cchunked",
        "no-break space": b"\xa0chunked",
        "NUL": b"chunked\x00",
        "quotes": b'"chunked"',
        "parameter": b"chunked;q=1",
        "semicolon": b"chunked;",
        "apostrophes": b"'chunked'",
    }
    return [
        *(
            bad(7, f"coding {value.decode()}", coded(value), CODING, MALFORMED)
            for value in (b"xchunked", b"gzip", b"identity", b"chunked-", b"gzip, chunked", b"chunke")
        ),
        bad(8, "chunked, identity", coded(b"chunked, identity"), MALFORMED, CODING),
        bad(8, "chunked twice", coded(b"chunked, chunked"), MALFORMED, CODING),
        *(bad(9, f"chunked with {name}", coded(value), MALFORMED, CODING) for name, value in strange.items()),
        bad(9, "empty coding", coded(b""), MALFORMED, CODING),
        bad(
            10,
            "coding on two lines",
            HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
            MALFORMED,
            CODING,
        ),
        bad(
            10,
            "coding on two lines, identity first",
            HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
            MALFORMED,
            CODING,
        ),
        bad(11, "space before the colon of coding", HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + BODY),
        bad(12, "coding behind a bare LF", HEAD + b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + BODY),
        bad(12, "coding behind a bare CR", HEAD + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + BODY),
        bad(12, "head that ends in bare LF", b"GET /MARK HTTP/1.1\nHost: web.localhost\n\n"),
        bad(13, "coding in a fold", HEAD + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + BODY),
        bad(13, "folded coding", HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + BODY),
        bad(
            14,
            "chunked in HTTP/1.0",
            b"POST /MARK HTTP/1.0\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        ),
    ]


def chunks() -> list[Bad]:
    """Heads are good here: the VM may have got the head, but never the end of the body."""
    sizes = {
        "0x3": b"0x3",
        "+3": b"+3",
        "-3": b"-3",
        "3_0": b"3_0",
        "empty": b"",
        "leading space": b" 3",
        "tab": b"\t3",
        "letters": b"xyz",
        "trailing space": b"3 ",
    }
    return [
        *(bad(16, f"size {name}", CHUNKED + size + b"\r\nabc\r\n0\r\n\r\n") for name, size in sizes.items()),
        bad(17, "size 2^63", CHUNKED + b"8000000000000000\r\nabc", MALFORMED, LENGTH),
        bad(17, "size of 17 digits", CHUNKED + b"10000000000000003\r\nabc", MALFORMED, LENGTH),
        bad(17, "size of 40 digits", CHUNKED + b"f" * 40 + b"\r\nabc", MALFORMED, LENGTH),
        bad(18, "LF after the size", CHUNKED + b"3\nabc\r\n0\r\n\r\n"),
        bad(18, "LF in an extension", CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
        bad(18, "LF after the data", CHUNKED + b"3\r\nabc\n0\r\n\r\n"),
        bad(18, "LF as terminator", CHUNKED + b"3\r\nabc\r\n0\n\n"),
        bad(18, "LF as last line", CHUNKED + b"3\r\nabc\r\n0\r\n\n"),
        bad(19, "CR in an extension", CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
        bad(19, "CR after the size", CHUNKED + b"3\rX\nabc\r\n0\r\n\r\n"),
        bad(20, "more data than its size", CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
        bad(20, "no CRLF after the data", CHUNKED + b"3\r\nabc0\r\n\r\n"),
        bad(21, "64 KiB of extension", CHUNKED + b"3;" + b"e" * 65536 + b"\r\nabc\r\n0\r\n\r\n", MALFORMED, "431 PH14"),
        bad(22, "256 KiB of trailers", CHUNKED + b"0\r\n" + b"X-T: " + b"t" * 262144 + b"\r\n\r\n", "431 PH14"),
        bad(24, "trailer without a colon", CHUNKED + b"0\r\nbroken\r\n\r\n"),
        bad(24, "trailer with a space in its name", CHUNKED + b"0\r\nX Y: z\r\n\r\n"),
        bad(24, "trailer with NUL", CHUNKED + b"0\r\nX: \0\r\n\r\n"),
        bad(24, "folded trailer", CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n"),
    ]


def request_lines() -> list[Bad]:
    rest = b"\r\nHost: web.localhost\r\n\r\n"
    versions = {
        "HTTP/0.9": b"HTTP/0.9",
        "HTTP/1.10": b"HTTP/1.10",
        "HTTP/01.1": b"HTTP/01.1",
        "HTTP/2.0": b"HTTP/2.0",
        "lower case": b"http/1.1",
        "HTTP/1": b"HTTP/1",
        "HTTP/1.": b"HTTP/1.",
        "HTTP/1,1": b"HTTP/1,1",
        "HTTP/1.2": b"HTTP/1.2",
        "HTTP/3": b"HTTP/3",
        "HTTPS": b"HTTPS/1.1",
        "trailing space": b"HTTP/1.1 ",
    }
    controls = {"NUL": b"\0", "SOH": b"\1", "ESC": b"\x1b", "DEL": b"\x7f", "CR": b"\r", "LF": b"\n", "tab": b"\t"}
    return [
        bad(28, "tabs as separators", b"GET\t/MARK\tHTTP/1.1" + rest),
        bad(28, "three spaces", b"GET   /MARK HTTP/1.1" + rest),
        bad(28, "two spaces before the version", b"GET /MARK  HTTP/1.1" + rest),
        bad(28, "leading space", b" GET /MARK HTTP/1.1" + rest),
        bad(28, "space in the target", b"GET /MARK x HTTP/1.1" + rest),
        bad(29, "no version", b"GET /MARK" + rest, MALFORMED, VERSION),
        *(
            bad(29, f"version {name}", b"GET /MARK " + text + rest, MALFORMED, VERSION)
            for name, text in versions.items()
        ),
        bad(30, "method with a colon", b"GE:T /MARK HTTP/1.1" + rest),
        bad(30, "method with a control", b"GE\x01T /MARK HTTP/1.1" + rest),
        bad(30, "empty method", b" /MARK HTTP/1.1" + rest),
        bad(30, "method not ASCII", "GÉT /MARK HTTP/1.1".encode() + rest),
        bad(30, "64 KiB method", b"G" * 65536 + b" /MARK HTTP/1.1" + rest, MALFORMED, "414 PH04", "431 PH02"),
        *(
            bad(31, f"{name} in the target", b"GET /MARK" + byte + b"x HTTP/1.1" + rest)
            for name, byte in controls.items()
        ),
        bad(32, "64 KiB target", b"GET /MARK" + b"t" * 65536 + b" HTTP/1.1" + rest, "414 PH04", "431 PH02"),
        bad(34, "asterisk of GET", b"GET * HTTP/1.1\r\nX-Mark: MARK" + rest),
        bad(34, "authority of GET", b"GET web.localhost:80 HTTP/1.1\r\nX-Mark: MARK" + rest),
        bad(34, "no leading slash", b"GET MARK HTTP/1.1" + rest),
        bad(34, "empty target", b"GET  HTTP/1.1\r\nX-Mark: MARK" + rest),
        bad(35, "CONNECT", b"CONNECT web.localhost:80 HTTP/1.1\r\nX-Mark: MARK" + rest, "405 PH10"),
        bad(35, "CONNECT with a path", b"CONNECT /MARK HTTP/1.1" + rest, "405 PH10", MALFORMED),
        bad(36, "absolute form with userinfo", b"GET http://u@web.localhost/MARK HTTP/1.1" + rest, MALFORMED, HOST),
        bad(36, "absolute form of another scheme", b"GET ftp://web.localhost/MARK HTTP/1.1" + rest),
        bad(37, "%00 in the path", b"GET /MARK%00 HTTP/1.1" + rest),
        bad(37, "%zz in the path", b"GET /MARK%zz HTTP/1.1" + rest),
        bad(48, "TLS ClientHello", bytes.fromhex("16030100c8010000c40303") + b"MARK" + bytes(200), MALFORMED),
        bad(48, "binary", bytes(range(128, 256)) * 4 + b"MARK\r\n\r\n", MALFORMED),
        bad(48, "SSH", b"SSH-2.0-OpenSSH_9.2 MARK\r\n\r\n", MALFORMED, VERSION),
        bad(48, "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED, VERSION),
    ]


def headers() -> list[Bad]:
    line = b"GET /MARK HTTP/1.1\r\n"
    hosts = {
        "space": b"web .localhost",
        "comma": b"web.localhost,b",
        "at": b"u@web.localhost",
        "slash": b"web.localhost/x",
        "port 99999": b"web.localhost:99999",
        "port x": b"web.localhost:x",
        "port -1": b"web.localhost:-1",
        "empty": b"",
        "backslash": b"web\\localhost",
        "open bracket": b"[::1",
        "question mark": b"web.localhost?",
        "NUL": b"web\0localhost",
        "two ports": b"web.localhost:80:80",
        "only a port": b":80",
    }
    values = {"NUL": b"\0", "SOH": b"\1", "ESC": b"\x1b", "DEL": b"\x7f", "CR": b"\r"}
    names = {
        "space": b"X Y",
        "empty": b"",
        "NUL": b"X\0Y",
        "slash": b"X/Y",
        "bracket": b"X[Y",
        "not ASCII": "Xé".encode(),
        "quote": b'X"Y',
    }
    return [
        bad(38, "no Host", line + b"X-Mark: MARK\r\n\r\n", HOST),
        bad(38, "two Hosts", line + b"Host: web.localhost\r\nHost: web.localhost\r\n\r\n", HOST),
        bad(38, "two differing Hosts", line + b"Host: web.localhost\r\nHost: other.localhost\r\n\r\n", HOST),
        *(
            bad(39, f"Host with {name}", line + b"Host: " + value + b"\r\n\r\n", HOST, MALFORMED)
            for name, value in hosts.items()
        ),
        *(bad(40, f"{name} in a value", GET + b"X: a" + value + b"b\r\n\r\n") for name, value in values.items()),
        bad(41, "fold", GET + b"X: a\r\n b\r\n\r\n"),
        bad(41, "fold with a tab", GET + b"X: a\r\n\tb\r\n\r\n"),
        bad(41, "fold as the first line", b"GET /MARK HTTP/1.1\r\n X: a\r\nHost: web.localhost\r\n\r\n"),
        bad(42, "space before the colon", GET + b"X : a\r\n\r\n"),
        bad(42, "tab before the colon", GET + b"X\t: a\r\n\r\n"),
        bad(42, "no colon", GET + b"nonsense\r\n\r\n"),
        *(bad(42, f"name with {name}", GET + text + b": a\r\n\r\n") for name, text in names.items()),
        bad(43, "1 MiB header", GET + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n", "431 PH02"),
        bad(43, "5000 headers", GET + b"X: a\r\n" * 5000 + b"\r\n", "431 PH03"),
    ]


ALL = [*lengths(), *codings(), *chunks(), *request_lines(), *headers()]
