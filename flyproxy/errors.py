"""Every error the proxy can answer or log: one table that the engine, the documentation and the logs are made from.

Stdlib only: the build runs this file by itself to write the engine's copy (``errors.pxd`` and ``errors_table.h``).
The second letter names the family: PP internal, PH head, PE edge, PL limit, PR routing, PC connection to the VM,
PU upstream answer, PT TLS, PD the client's side. Codes never change their meaning.
"""

from __future__ import annotations

import html
from typing import NamedTuple


class Error(NamedTuple):
    """One error: ``status`` is the HTTP status answered (0: only closed and logged), ``retry_after`` seconds or 0."""

    code: str
    status: int
    title: str
    detail: str
    fix: str
    retry_after: int = 0


ERRORS: tuple[Error, ...] = (
    Error("PH01", 400, "Malformed request", "The request head or the framing of its body breaks HTTP/1.1.",
          "Send one valid request line, header lines of the form 'name: value' and one unambiguous body length."),
    Error("PH02", 431, "Request head too large", "The request head has more bytes than this proxy accepts.",
          "Send fewer or shorter headers; cookies are the usual cause."),
    Error("PH03", 431, "Too many headers", "The request has more header lines than this proxy accepts.",
          "Send fewer headers."),
    Error("PH04", 414, "Request target too long", "The path and query have more bytes than this proxy accepts.",
          "Send long data in the body instead of the URL."),
    Error("PH05", 408, "Request head too slow", "The request head was not complete in time.",
          "Send the whole head at once; check the client's network."),
    Error("PH06", 408, "Request body too slow", "The request body stopped or came slower than the minimum rate.",
          "Send the body without long pauses; check the client's network."),
    Error("PH07", 413, "Request body length refused", "The declared length of the body or of a chunk is too large.",
          "Declare a length below 2^63 bytes."),
    Error("PH08", 501, "Transfer coding not supported", "Only the transfer coding 'chunked' is understood.",
          "Send the body with Content-Length or with 'Transfer-Encoding: chunked'."),
    Error("PH09", 505, "HTTP version not supported", "Only HTTP/1.0 and HTTP/1.1 are understood here.",
          "Send 'HTTP/1.1' in the request line."),
    Error("PH10", 405, "CONNECT not allowed", "This is a reverse proxy; it opens no tunnels by CONNECT.",
          "Use a forward proxy, or 'Upgrade' to an app that offers it."),
    Error("PH11", 417, "Expectation not supported", "The only expectation understood is '100-continue'.",
          "Remove the Expect header or send '100-continue'."),
    Error("PH12", 400, "Invalid Host", "The request has no Host, several, or one that is not a host name.",
          "Send exactly one Host header with a host name and an optional port."),
    Error("PH13", 421, "Misdirected request", "The host is not served on this connection.",
          "Open a new connection for this host."),
    Error("PH14", 431, "Trailers too large", "The trailers of the body have more bytes than this proxy accepts.",
          "Send fewer or shorter trailers."),
    Error("PH15", 508, "Loop detected", "The request came through this proxy too many times.",
          "Check that the app does not send requests for its own host name back through the proxy."),
    Error("PH16", 0, "PROXY header refused", "The connection did not begin with a valid PROXY protocol header.",
          "Send a PROXY protocol v1 or v2 header first, or switch proxy_protocol off for this listener."),
    Error("PH17", 0, "PROXY header not trusted", "The PROXY protocol header came from an address that is not trusted.",
          "Add the sender's network to the listener's trusted_sources."),
    Error("PE03", 404, "Unknown host", "No app is configured for this host.",
          "Add the host name to an app: flyproxyctl hostnames add HOST -a APP."),
    Error("PE04", 404, "Unknown port", "The app for this host has no service on this port.",
          "Add the port to the app's fly.toml, or use a port that it lists: flyproxyctl apps show APP."),
    Error("PL03", 503, "Proxy connections exhausted", "The proxy holds as many client connections as it may.",
          "Try again soon; the operator can raise limits.connections.", 1),
    Error("PL04", 503, "App connections exhausted", "The app holds as many client connections as it may here.",
          "Try again soon; the operator can raise limits.app_connections.", 1),
    Error("PL05", 503, "Proxy memory exhausted", "The proxy uses as much memory as it may.",
          "Try again soon; the operator can raise limits.memory.", 1),
    Error("PL06", 503, "Too many pipelined requests", "The connection has more unanswered requests than it may.",
          "Wait for answers before sending more requests on one connection."),
    Error("PR01", 503, "No healthy machine", "Every machine of the app fails its health checks or is cordoned.",
          "Check the machines: flyproxyctl machines list -a APP.", 5),
    Error("PR02", 503, "Machine not on its host", "The host that was asked for the machine does not have it.",
          "Try again soon: the machine moved or stopped; if it stays so, look at flyproxyctl machines show ID.", 1),
    Error("PR04", 503, "No machine to try", "The app has no machine for this service, or each one was tried in vain.",
          "Add or start a machine: flyproxyctl machines add -a APP --address IP:PORT.", 5),
    Error("PR06", 503, "All machines full", "Every machine is at its hard limit and the queue is full or too slow.",
          "Add machines or raise concurrency.hard_limit in fly.toml.", 1),
    Error("PC01", 502, "Connection refused", "The machine refused the connection on its port.",
          "Check that the app listens on 0.0.0.0 and on its internal_port."),
    Error("PC03", 502, "Connection reset", "The machine reset the connection before it answered.",
          "Check the app's log for a crash."),
    Error("PC05", 504, "Connect timed out", "The machine did not accept the connection in time.",
          "Check that the machine runs and is not overloaded."),
    Error("PC06", 502, "Connection failed", "The connection to the machine failed for another reason.",
          "Check the proxy's log for the system's error and the network between proxy and machine."),
    Error("PU01", 502, "HTTP/2 to the machine failed", "The machine does not speak HTTP/2 as its service says.",
          "Let the app speak HTTP/2 without TLS on its internal_port, or remove h2_backend from fly.toml."),
    Error("PU02", 502, "Answer cut short", "The machine closed the connection before its answer's head was complete.",
          "Check the app's log for a crash."),
    Error("PU03", 502, "Host unreachable", "No host that has a machine of the app could be reached.",
          "Try again soon; the operator can look at the mesh: flyproxyctl hosts list."),
    Error("PU05", 504, "Answer timed out", "The machine did not begin its answer in time.",
          "Check the app for slow requests; the operator can raise timeouts.response_head."),
    Error("PU06", 502, "Malformed answer", "The machine's answer breaks HTTP/1.1.",
          "Check the app's web server: its answer head or framing is not valid."),
    Error("PU07", 502, "Answer head too large", "The machine's answer head is larger than this proxy accepts.",
          "Send fewer or shorter headers from the app."),
    Error("PU08", 0, "Answer body cut short", "The machine's answer ended or stalled before its body was complete.",
          "Check the app's log for a crash."),
    Error("PP01", 500, "Internal error", "The proxy failed in a way that it should not.",
          "Report it with the request id."),
    Error("PD01", 0, "Client went away", "The client closed the connection before the answer was complete.",
          "Nothing to mend in the proxy; look at the client's timeout."),
    Error("PD02", 0, "Client stopped reading", "The client did not take the answer in time.",
          "Look at the client's network; the operator can raise timeouts.write_stall."),
)

BY_CODE: dict[str, Error] = {error.code: error for error in ERRORS}


def render_pxd() -> str:
    """The Cython enum ERR_NONE = 0, ERR_<code> = 1 ... in the table's order."""
    names = [f"    ERR_{error.code} = {number}" for number, error in enumerate(ERRORS, 1)]
    return "\n".join([
        "# Generated by setup.py from flyproxy/errors.py.", "cdef enum:", "    ERR_NONE = 0", *names,
        f"    ERR_COUNT = {len(ERRORS) + 1}", "",
    ])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render_header() -> str:
    """The C table behind the enum; detail and fix also escaped for HTML."""
    rows = ['    {"", 0, 0, "", "", "", "", ""},']
    for error in ERRORS:
        texts = (error.title, error.detail, error.fix, html.escape(error.detail), html.escape(error.fix))
        rows.append("    {" + ", ".join([
            _quoted(error.code), str(error.status), str(error.retry_after), *map(_quoted, texts)]) + "},")
    return "\n".join([
        "/* Generated by setup.py from flyproxy/errors.py. */",
        "#ifndef FLYPROXY_ERRORS_TABLE_H", "#define FLYPROXY_ERRORS_TABLE_H",
        "typedef struct {", "    const char *code; int status; int retry_after;",
        "    const char *title; const char *detail; const char *fix; const char *detail_html; const char *fix_html;",
        "} fp_error_row;",
        "static const fp_error_row FP_ERRORS[] = {", *rows, "};", "#endif", "",
    ])
