"""A stuck process, looked at from outside before it is killed: its threads' stacks, and what they wait for.

From the kernel (proc(5)): ``stack`` (needs root), ``wchan``, ``syscall``, and state and name, of every thread; from
the process itself: a real-time signal whose handler writes the Python tracebacks (``boot.DUMP_SIGNAL``); and the C
frames by ``eu-stack`` if that is installed, which works even on a stopped process. Runs in a thread of the master:
nothing here may take its loop's time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from flyproxy.boot import DUMP_SIGNAL

_FRAMES_TIMEOUT = 1.0  # seconds; eu-stack takes 10 to 20 ms
_HANDLER_TIME = 0.1  # seconds for the signal's handler to write
_TEXT_MAX = 4096  # characters of one kernel file, and of one thread's frames


def threads(pid: int) -> list[dict[str, str]]:
    """One entry per thread: tid, comm, state, wchan, syscall, stack; what cannot be read says why."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
            entry = {name: _read(task / name) for name in ("comm", "wchan", "syscall", "stack")}
            state = re.search(r"^State:\s*(.*)$", _read(task / "status"), re.MULTILINE)
            found.append({"tid": task.name, "state": state[1] if state else "?", **entry})
    return found


def frames(pid: int) -> str:
    """The C stacks of all threads, or how to get them."""
    program = shutil.which("eu-stack")
    if program is None:
        return "eu-stack is not installed; fix: apt install elfutils"
    try:
        done = subprocess.run(
            [program, "-p", str(pid)], capture_output=True, text=True, timeout=_FRAMES_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"eu-stack failed: {error}"
    return (done.stdout or done.stderr)[: 4 * _TEXT_MAX]


def dump(pidfd: int, pid: int) -> dict[str, object]:
    """Everything above, for the log; takes about a second at most. Closes ``pidfd``."""
    found: dict[str, object] = {"threads": threads(pid), "frames": frames(pid)}
    if can_handle(pid, DUMP_SIGNAL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, DUMP_SIGNAL)
            time.sleep(_HANDLER_TIME)
    os.close(pidfd)
    return found


def can_handle(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal (SigCgt in proc(5)); without one it would only die of it."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return bool(caught) and bool(int(caught[1], 16) >> (number - 1) & 1) if caught else False


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return os.read(file.fileno(), _TEXT_MAX).decode("utf-8", "replace").strip()
    except OSError as error:
        return f"({error.strerror})"
