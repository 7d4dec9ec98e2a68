"""The two sockets that flyproxyctl speaks to: HTTP with the control process, JSON lines with the master.

http.client, not aiohttp: a command must print within 300 ms, and one request needs no event loop.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from flyproxy.ctl.failure import Failure, NotRunning

API_SOCKET = "api.sock"
MASTER_SOCKET = "ctl.sock"
API_TIMEOUT = 15.0      # longer than the 5 s that a write waits for the workers
CONTROL_STARTS = 5.0    # seconds that a control process may take to be there
LOOK = 0.05
ANSWER_MAX = 64 << 20


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("flyproxy", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, self.timeout or API_TIMEOUT)


def connect(path: str, timeout: float) -> socket.socket:
    """A connected stream socket; NotRunning when nothing listens, Failure when we may not ask."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.settimeout(timeout)
    try:
        made.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        made.close()
        raise NotRunning(
            "not-running", "flyproxy is not running, or not with this runtime directory", path,
            "start it with 'flyproxy run', or name its directory with --socket DIR or -c FILE",
        ) from None
    except PermissionError:
        made.close()
        raise Failure("not-allowed", f"uid {os.geteuid()} may not open the socket", path,
                      "run flyproxyctl as root or as the user that flyproxy runs as") from None
    except OSError as error:
        made.close()
        raise Failure("unreachable", f"cannot connect: {error.strerror or error}", path,
                      "check the runtime directory given with --socket DIR or -c FILE") from None
    return made


class Api:
    """The control process on ``api.sock``: reads and writes the nouns."""

    def __init__(self, runtime: str, timeout: float = API_TIMEOUT) -> None:
        self.runtime = runtime
        self.path = os.path.join(runtime, API_SOCKET)
        self.timeout = timeout

    def list(self, noun: str, app: str | None = None) -> Any:
        return self.request("GET", f"/v1/{noun}" + (f"?{urlencode({'app': app})}" if app else ""))

    def show(self, noun: str, name: str) -> Any:
        return self.request("GET", f"/v1/{noun}/{quote(name, safe='')}")

    def put(self, noun: str, name: str, body: Mapping[str, Any]) -> Any:
        return self.request("PUT", f"/v1/{noun}/{quote(name, safe='')}", body)

    def delete(self, noun: str, name: str) -> Any:
        return self.request("DELETE", f"/v1/{noun}/{quote(name, safe='')}")

    def request(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        """The ``data`` of the answer; a told error becomes a Failure."""
        return unwrap(self._exchange(method, target, body), self.path)

    def text(self, target: str) -> str:
        """A page that is not in an envelope."""
        return self._exchange("GET", target, None).decode("utf-8", "replace")

    def _exchange(self, method: str, target: str, body: Mapping[str, Any] | None) -> bytes:
        connection = self._connected()
        content = None if body is None else json.dumps(body)
        try:
            connection.request(method, target, content, {"Content-Type": "application/json"} if content else {})
            return connection.getresponse().read(ANSWER_MAX)
        except TimeoutError:
            raise Failure("control-stuck", f"the control process gave no answer within {self.timeout:g} s", self.path,
                          "see 'flyproxyctl status'; a change may have been stored all the same") from None
        except (OSError, http.client.HTTPException) as error:
            raise Failure("control-down", f"the control process cut the connection: {error}", self.path,
                          "the master restarts it; try again") from None
        finally:
            connection.close()

    def _connected(self) -> UnixConnection:
        """A connection; waits for a control process that is just being started, while its master runs."""
        connection = UnixConnection(self.path, self.timeout)
        deadline = time.monotonic() + CONTROL_STARTS
        while True:
            try:
                connection.connect()
                return connection
            except NotRunning:
                if not master_runs(self.runtime):
                    raise
            if time.monotonic() >= deadline:
                raise Failure("control-down", "the master runs, but its control process does not answer", self.path,
                              "the master starts it again; see 'flyproxyctl status' and the log")
            time.sleep(LOOK)


def master_runs(runtime: str) -> bool:
    """Whether something accepts on the master's socket."""
    try:
        connect(os.path.join(runtime, MASTER_SOCKET), 2.0).close()
    except NotRunning:
        return False
    except Failure:
        return True
    return True


def ask_master(runtime: str, cmd: str, timeout: float = 10.0, **fields: Any) -> Any:
    """One command on ``ctl.sock``: a JSON object a line each way. Returns the ``data`` of the answer."""
    path = os.path.join(runtime, MASTER_SOCKET)
    with connect(path, timeout) as line:
        try:
            line.sendall(json.dumps({"v": 1, "cmd": cmd, **fields}).encode() + b"\n")
            with line.makefile("rb") as answers:
                answer = answers.readline(ANSWER_MAX)
        except TimeoutError:
            raise Failure("master-stuck", f"the master gave no answer to '{cmd}' within {timeout:g} s", path,
                          "see its log; 'flyproxyctl status' tells whether it is alive") from None
        except OSError as error:
            raise Failure("master-down", f"the master cut the connection: {error.strerror}", path,
                          "see its log") from None
    if not answer:
        raise Failure("master-down", f"the master closed the connection before it answered '{cmd}'", path,
                      "see its log")
    return unwrap(answer, path)


def unwrap(answer: bytes, where: str) -> Any:
    """The data of ``{"v":1,"data":...}``; raises what ``{"v":1,"error":...}`` tells."""
    try:
        envelope = json.loads(answer)
        error = envelope.get("error")
    except (ValueError, AttributeError):
        raise Failure("bad-answer", "the answer is not the JSON that was expected", where,
                      "check that flyproxy and flyproxyctl have the same version: flyproxy version") from None
    if error is None:
        return envelope.get("data")
    if not isinstance(error, dict):
        error = {"message": str(error)}
    raise Failure(str(error.get("code", "failed")), str(error.get("message", "the command failed")),
                  str(error.get("where") or ""), str(error.get("fix") or ""),
                  tuple(map(str, error.get("problems") or ())))
