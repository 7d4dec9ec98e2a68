"""Admin HTTP: reads for everybody who reaches the admin address, writes only on ``api.sock`` and only for root and us.

Knows HTTP and nothing of the store: each path asks one function of ``Service``. Every answer but /metrics and /healthz
is an envelope, the errors of the router too.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from flyproxy import log
from flyproxy.control import envelope
from flyproxy.control.envelope import Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = Callable[[web.Request], Awaitable[Any]]

BODY_MAX = 1 << 20
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PEER = struct.Struct("3i")      # struct ucred: pid, uid, gid


class Service(Protocol):
    """What can be asked; every function returns JSON-able data or raises Refused."""

    async def metrics(self) -> bytes: ...
    def ready(self) -> tuple[bool, dict[str, Any]]: ...
    async def status(self) -> Any: ...
    async def workers(self) -> Any: ...
    async def config(self) -> Any: ...
    async def list(self, noun: str, app: str | None) -> Any: ...
    async def show(self, noun: str, name: str) -> Any: ...
    async def put(self, noun: str, name: str, body: Mapping[str, Any]) -> Any: ...
    async def delete(self, noun: str, name: str) -> Any: ...


def reading(service: Service) -> web.Application:
    """The application of the admin address: nothing in it changes anything."""
    app = web.Application(middlewares=[enveloped], client_max_size=BODY_MAX)
    _add_reads(app, service)
    return app


def writing(service: Service) -> web.Application:
    """The application of api.sock: the same, and the writes."""
    app = web.Application(middlewares=[enveloped, trusted], client_max_size=BODY_MAX)
    _add_reads(app, service)

    async def put(request: web.Request) -> Any:
        return await service.put(request.match_info["noun"], request.match_info["name"], await _body(request))

    async def delete(request: web.Request) -> Any:
        return await service.delete(request.match_info["noun"], request.match_info["name"])

    app.router.add_put("/v1/{noun}/{name}", _data(put))
    app.router.add_delete("/v1/{noun}/{name}", _data(delete))
    return app


def _add_reads(app: web.Application, service: Service) -> None:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=await service.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        ready, data = service.ready()
        return _json(envelope.ok(data), 200 if ready else 503)

    async def listing(request: web.Request) -> Any:
        return await service.list(request.match_info["noun"], request.query.get("app"))

    async def show(request: web.Request) -> Any:
        return await service.show(request.match_info["noun"], request.match_info["name"])

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    for path, ask in (("status", service.status), ("workers", service.workers), ("config", service.config)):
        app.router.add_get(f"/v1/{path}", _data(lambda request, ask=ask: ask()))  # type: ignore[misc]
    app.router.add_get("/v1/{noun}", _data(listing))
    app.router.add_get("/v1/{noun}/{name}", _data(show))


def _data(answer: Answer) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return _json(envelope.ok(await answer(request)), 200)
    return handler


def _json(body: bytes, status: int) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


async def _body(request: web.Request) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refused(400, "bad-body", f"the body is not a JSON object: {error}", request.path,
                      "send one JSON object; docs/cli.md lists its keys") from None


@web.middleware
async def enveloped(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors of every kind as an envelope; a bug is logged with its type and told without its innards."""
    try:
        return await handler(request)
    except Refused as refused:
        return _json(envelope.error(refused), refused.status)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _json(envelope.error(_routed(error, request)), error.status)
    except Exception as error:  # noqa: BLE001  one request must not end with a page that no script can read
        log.error("admin-failed", f"{request.method} {request.path}: {type(error).__name__}: {error}")
        failed = Refused(500, "internal", "the control process failed to answer", request.path,
                         "see the log event 'admin-failed'")
        return _json(envelope.error(failed), 500)


def _routed(error: web.HTTPException, request: web.Request) -> Refused:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return Refused(405, "read-only", f"{request.method} is not possible here", request.path,
                       "changes go through flyproxyctl, which uses api.sock")
    code = "not-found" if error.status == 404 else "refused"
    return Refused(error.status, code, f"{request.path}: {error.reason}", request.path,
                   "see docs/cli.md for the paths there are")


@web.middleware
async def trusted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """SO_PEERCRED (socket(7)): the kernel's word for who connected."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is None:
        raise Refused(403, "not-allowed", "the peer is gone or unknown")
    _, uid, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    if uid not in (0, os.geteuid()):
        raise Refused(403, "not-allowed", f"uid {uid} may not use this socket", "api.sock",
                      "run flyproxyctl as root or as the user that flyproxy runs as")
    return await handler(request)
