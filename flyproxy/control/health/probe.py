"""One probe of one check: connects, asks, and says what was wrong. The only file of health that touches sockets.

An HTTP check reads no more than the answer's head: only a 2xx status passes, a redirect does not (fly.toml's rule).
The whole probe, connect included, has the check's timeout.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache

from flyproxy.control.health.plan import Check, HttpRequest

HEAD_MAX = 16384
INTERIM_MAX = 8


class ProbeFailed(Exception):
    """The machine answered, but not with what makes a check pass."""


async def probe(check: Check) -> str | None:
    """None when the check passed, else the reason in a few words. Never raises but for cancellation."""
    try:
        async with asyncio.timeout(check.timeout):
            await _attempt(check)
    except TimeoutError:
        return f"no answer within {check.timeout:g} s"
    except ConnectionRefusedError:
        return f"connection refused on port {check.port}"
    except asyncio.IncompleteReadError:
        return "connection closed before the answer's head was complete"
    except asyncio.LimitOverrunError:
        return f"answer head over {HEAD_MAX} bytes"
    except ssl.SSLError as error:
        return f"TLS: {error.reason or error}"
    except (OSError, ProbeFailed) as error:
        return str(error)
    return None


async def _attempt(check: Check) -> None:
    request = check.http
    tls = _tls(request.verify) if request is not None and request.tls else None
    name = (request.server_name or check.address) if request is not None and tls is not None else None
    reader, writer = await asyncio.open_connection(check.address, check.port, limit=HEAD_MAX, ssl=tls,
                                                   server_hostname=name)
    try:
        if request is not None:
            writer.write(render(request, check.address, check.port))
            status = await _final_status(reader)
            if not 200 <= status <= 299:
                raise ProbeFailed(f"status {status}")
    finally:
        # abort, not close: a TLS peer that never answers close_notify must not hold the descriptor.
        writer.transport.abort()


def render(request: HttpRequest, address: str, port: int) -> bytes:
    """The request head. The values were checked for CR and LF where the check was read from its record."""
    given = {name.lower() for name, _ in request.headers}
    host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    defaults = (("Host", host), ("User-Agent", "flyproxy-check"), ("Accept", "*/*"), ("Connection", "close"))
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in defaults if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in request.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def _final_status(reader: asyncio.StreamReader) -> int:
    """The status of the first answer that is not a 1xx."""
    for _ in range(INTERIM_MAX):
        head = await reader.readuntil(b"\r\n\r\n")
        version, _, rest = head.partition(b" ")
        digits = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not digits.isdigit() or len(digits) != 3:
            raise ProbeFailed("the answer is not HTTP/1")
        status = int(digits)
        if status >= 200:
            return status
    raise ProbeFailed(f"more than {INTERIM_MAX} interim answers")


@lru_cache(maxsize=2)
def _tls(verify: bool) -> ssl.SSLContext:
    made = ssl.create_default_context()
    if not verify:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made
