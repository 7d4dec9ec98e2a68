"""Child processes: how they are started, how their death is learnt, and what it means.

A child is a fresh interpreter in a session of its own, so that Ctrl-C at a terminal reaches the master alone, and so
that workers outlive a killed master. Its death comes through a pidfd (pidfd_open(2)): readable exactly when the
process has ended, and immune to the reuse of pids.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flyproxy.boot import EXIT_OK, MEANINGS
from flyproxy.channel import ENV_FD, Channel

Command = Callable[[str], list[str]]
"""The program for a role."""


FIRST_NICE = -10  # of the process that runs before the others; see run_first


def python_module(role: str) -> list[str]:
    """``python -m flyproxy.ROLE``; -P: the working directory is no place to import from."""
    return [sys.executable, "-P", "-m", f"flyproxy.{role}"]


def child_environment() -> dict[str, str]:
    """Ours, with the folder that holds this very package first, so that children run the master's own code."""
    package_parent = str(Path(__file__).resolve().parents[2])
    paths = [package_parent, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = {key: value for key, value in os.environ.items() if key not in ("WATCHDOG_USEC", "WATCHDOG_PID")}
    return env | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


class Process:
    """A child. ``pidfd`` is readable once it has ended; then ``reap`` says how: the exit status, >= 0 exited, < 0 the
    negated signal."""

    def __init__(self, pid: int, pidfd: int, channel: Channel, reap: Callable[[], int]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.closed = False
        self.reap = reap

    @classmethod
    def kept(cls, pid: int, pidfd: int, channel: int) -> Process:
        """A child that the last program of this process started: descriptors survive execve, and so does parenthood."""
        return cls(pid, pidfd, Channel(socket.socket(fileno=channel)), partial(_wait, pid))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to this very process; a dead one is no error."""
        if self.closed:  # the number of its pidfd may be another's by now
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Gives the descriptors back."""
        self.closed = True
        self.channel.close()
        os.close(self.pidfd)


def spawn(command: list[str], env: dict[str, str], badge: int) -> Process:
    """Starts ``command`` with one end of a new channel and the descriptor ``badge``. Raises OSError (no memory, no
    processes, no program)."""
    ours, theirs = Channel.pair()
    try:
        popen = subprocess.Popen(
            command, pass_fds=[theirs.fileno(), badge], env=env | {ENV_FD: str(theirs.fileno())},
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError:
        ours.close()
        raise
    finally:
        _close(theirs)
    return Process(popen.pid, os.pidfd_open(popen.pid), ours, popen.wait)


def run_first(pid: int) -> None:
    """Lets a process that sleeps nearly always run soon after it wakes, also where every core is busy.

    Where the kernel groups tasks by session (sched_autogroup, sched(7)), a child is a group of its own, and the group's
    nice value decides. Without the right to raise it (CAP_SYS_NICE or RLIMIT_NICE) it stays as it is."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, FIRST_NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(FIRST_NICE))


def meaning(status: int) -> tuple[str, str, bool]:
    """What an exit status says: (for people, one word for the counter, whether all is well)."""
    if status >= 0:
        return f"exited with {status} ({MEANINGS.get(status, 'unknown')})", "exited", status == EXIT_OK
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (out of memory? see the kernel's log)" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{hint}", "killed", False


def reap_all() -> None:
    """Asks for every child that has ended; only while there is none whose status anybody wants."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.close()
