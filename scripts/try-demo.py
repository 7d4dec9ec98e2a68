"""Tries the demo as a reader would: starts `make demo`, runs every command it prints, ends it, looks for leftovers; on
a free port, then on a taken one.

python scripts/try-demo.py
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READY = re.compile(r"flyproxy demo ready: http://127\.0\.0\.1:(\d+)\n")


def read_invitation(demo: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """The port of the ready line, the commands that stand below it, and all that was printed."""
    commands: list[str] = []
    text, port = "", 0
    assert demo.stdout is not None
    for line in demo.stdout:
        print(f"| {line}", end="")
        text += line
        if ready := READY.fullmatch(line):
            port = int(ready[1])
        if port and line.startswith("  $ "):
            commands.append(line[4:].rstrip("\n"))
        if line.startswith("Ctrl-C"):
            return port, commands, text
    sys.exit(f"try-demo: the demo ended with {demo.wait()} before it was ready")


def below(pid: int) -> list[int]:
    """All descendants."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [each for child in children for each in (child, *below(child))]


def demo_process(make: int) -> int:
    """The demo itself below make: the one that runs scripts/demo.py."""
    return next(pid for pid in below(make) if b"scripts/demo.py" in Path(f"/proc/{pid}/cmdline").read_bytes())


def attempt(port: int, taken: bool) -> None:
    """One demo on ``port``, from start to end."""
    with tempfile.TemporaryDirectory(prefix="fpd-") as folder:
        demo = subprocess.Popen(
            ["make", "--no-print-directory", "demo", f"DEMO_DIR={folder}", f"DEMO_PORT={port}"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            used, commands, text = read_invitation(demo)
            family = below(demo.pid)
            failed = [] if (used != port) == taken else [f"port {port} was wanted, {used} is used"]
            if taken and f"port {port} is taken: using {used}\n" not in text:
                failed.append("nothing was said about the port that is taken")
            for command in commands:
                done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
                print(f"$ {command}\n{done.stdout[:600]}{done.stderr}")
                if done.returncode:
                    failed.append(f"{command}: exit code {done.returncode}")
            os.kill(demo_process(demo.pid), signal.SIGTERM)
            code = demo.wait(60)
        finally:
            if demo.poll() is None:
                os.killpg(demo.pid, signal.SIGKILL)
        time.sleep(0.2)  # the kernel takes the last entries out of /proc
        left = [pid for pid in family if Path(f"/proc/{pid}").exists()]
    if failed or code or left or len(commands) < 5:
        sys.exit(f"try-demo: failed: {failed}; exit code {code}; left behind: {left}; {len(commands)} commands")
    print(f"the demo works on port {used}: {len(commands)} commands tried, exit code 0, nothing left behind")


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    attempt(port, taken=False)
    with socket.create_server(("127.0.0.1", port)):
        attempt(port, taken=True)


if __name__ == "__main__":
    main()
