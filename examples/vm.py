"""A small web server that stands for a VM: says who it is and which headers the proxy sent it.

python examples/vm.py --name hello-1 [--port 0]        prints "listening 127.0.0.1:PORT"
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive. ``/headers`` answers JSON, everything else a line of text."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    machine = "vm"

    def do_GET(self) -> None:
        """Also every other method: the body is read and counted."""
        got = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/headers":
            text = json.dumps({"machine": self.machine, "headers": self.headers.items()}, indent=2)
        else:
            text = f"Hello from {self.machine}: {self.command} {self.path}, {len(got)} bytes of body"
        body = text.encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if self.path == "/headers" else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the proxy has the access log."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="vm")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    Handler.machine = args.name
    with ThreadingHTTPServer(("127.0.0.1", args.port), Handler) as server:
        print(f"listening 127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
