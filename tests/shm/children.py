"""Forked children that end with the test, whatever becomes of it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
FAILED = 99  # exit status of a child whose function raised


def in_child(run: Callable[[], int]) -> int:
    """Forks; the child ends with the exit status that `run` returns. The pid."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        status = FAILED
        try:
            status = run()
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    """Waits for the end of a child: its exit status, or the negated signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
