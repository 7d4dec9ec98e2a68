"""Small GETs through a whole engine, one after the other on one connection: what run.py counts as "a small GET".

    python bench/insn/whole.py REQUESTS

Real segments, table, sockets and access log; client and VM are no part of the engine's thread, which alone is counted.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from flyproxy.settings import Settings
from tests.engine.kit import VM, child, running

REQUEST = b"GET /small HTTP/1.1\r\nHost: app.test\r\n\r\n"
BODY = b"ok"


def logging_to(path: str) -> Settings:
    settings = Settings()
    return msgspec.structs.replace(settings, log=msgspec.structs.replace(settings.log, access=path))


def main(requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder, child(VM) as vm:
        assert vm.stdout is not None
        log = logging_to(str(Path(folder, "access.log")))
        with (
            running(int(vm.stdout.readline()), log) as on,
            socket.create_connection(("127.0.0.1", on.port)) as client,
        ):
            for _ in range(requests):
                client.sendall(REQUEST)
                answer = b""
                while not answer.endswith(BODY):
                    answer += client.recv(65536)


if __name__ == "__main__":
    main(int(sys.argv[1]))
