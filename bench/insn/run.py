"""The instruction gate: how many instructions the hottest functions take, counted by callgrind, against budgets.json.

    python bench/insn/run.py [--update]

Time on a shared machine is noise; instructions are not: the same build gives the same number in every run. SIMD is off
(FLYPROXY_SIMD=0), because valgrind does not know pcmpestri. "A small GET" is all that the engine does for one, from
epoll_wait to the access log. The gate proves itself each time: twice the work must count twice, and a longer head must
break the budget of a shorter one. A figure over its budget by more than TOLERANCE fails; --update writes the figures
down as the new budgets, for a change that is worth it or another compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = Path(__file__).with_name("budgets.json")
TIMES = 500
TOLERANCE = 0.02

SMALL = "GET /plain HTTP/1.1\r\nHost: hello.localhost\r\nUser-Agent: wrk\r\n\r\n"
BROWSER = (
    "GET /api/v1/items?page=2&limit=50 HTTP/1.1\r\nHost: www.example.com\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
    "Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef\r\n"
    "Upgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\nIf-None-Match: \"abc\"\r\n\r\n"
)
ANSWER = (
    "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: gunicorn\r\nContent-Type: text/html\r\n"
    "Content-Length: 5120\r\nVary: Accept-Encoding\r\nCache-Control: private\r\n\r\n"
)
CHUNKS = "400\r\n" + "x" * 1024 + "\r\n10;a=b\r\n" + "x" * 16 + "\r\n0\r\n\r\n"


class Work(NamedTuple):
    """``command``: arguments of python, to which the number of turns is added; counted while in ``functions``."""

    command: tuple[str, ...]
    functions: tuple[str, ...]


def loop(name: str, data: str, *functions: str) -> Work:
    """``name`` and ``data`` as flyproxy._speedups._testing_proto.loop takes them."""
    door = "import sys; from flyproxy._speedups._testing_proto import loop"
    return Work(("-S", "-c", f"{door}; loop({name!r}, {data.encode()!r}, int(sys.argv[1]))"), functions)


WORK = {
    "parse request, small": loop("parse_request", SMALL, "http1_parse_request"),
    "parse request, browser": loop("parse_request", BROWSER, "http1_parse_request"),
    "write request, browser": loop("emit_request", BROWSER, "http1_emit_request"),
    "parse and write response": loop("response", ANSWER, "http1_parse_response", "http1_emit_response"),
    "decode three chunks": loop("chunked", CHUNKS, "chunked_step"),
    "a small GET": Work((str(Path(__file__).with_name("whole.py")),), ("reactor_serve", "reactor_wait")),
}


def count(work: Work, times: int) -> int:
    """Instructions spent in the functions of `work` over `times` turns."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "callgrind.out")
        env = os.environ | {"FLYPROXY_SIMD": "0", "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        toggles = [f"--toggle-collect=__pyx_f_*_{function}" for function in work.functions]
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *toggles, sys.executable, *work.command,
             str(times)],
            env=env, capture_output=True, text=True,
        )
        if run.returncode != 0:
            sys.exit(f"bench/insn: callgrind failed with {run.returncode}:\n{run.stderr[-2000:]}\nfix: make build")
        found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    if found is None or int(found[1]) == 0:
        sys.exit(f"bench/insn: nothing was counted in {', '.join(work.functions)}: is the function's name still right?")
    return int(found[1])


def per_turn(name: str) -> float:
    """Instructions of one turn; exits when twice the turns do not cost twice as much."""
    once, twice = count(WORK[name], TIMES), count(WORK[name], 2 * TIMES)
    if abs(twice / once - 2) > 0.01:
        sys.exit(f"bench/insn: {name}: {TIMES} turns cost {once} and {2 * TIMES} cost {twice}; the count is not linear")
    return (twice - once) / TIMES


def over(figure: float, budget: float) -> bool:
    return figure > budget * (1 + TOLERANCE)


def main() -> int:
    parser = argparse.ArgumentParser(description="Count instructions of the hottest functions.")
    parser.add_argument("--update", action="store_true", help="write the figures down as the new budgets")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("bench/insn: valgrind is missing; fix: apt-get install valgrind")
    figures = {name: per_turn(name) for name in WORK}
    if options.update:
        BUDGETS.write_text(json.dumps({name: round(figure) for name, figure in figures.items()}, indent=2) + "\n")
    budgets: dict[str, float] = json.loads(BUDGETS.read_text())
    failed = [name for name, figure in figures.items() if over(figure, budgets[name])]
    for name, figure in figures.items():
        print(f"{name:28} {figure:8.0f} of {budgets[name]:6.0f}{'  OVER' if name in failed else ''}")
    if not over(figures["parse request, browser"], budgets["parse request, small"]):
        sys.exit("bench/insn: a head of eleven lines passes the budget of one with three: the gate is blind")
    if failed:
        print("bench/insn: over budget; find out why, or --update if it is worth it", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
