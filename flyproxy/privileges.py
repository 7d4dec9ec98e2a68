"""What each process may do: only the master keeps the right to bind low ports, everything else runs without rights.

The master *chooses* once, at start, whom its children run as (``choose``: tried, not guessed); each child *confines*
itself before it does anything else (``confine``): user and groups, every capability, and no way to get one back
(PR_SET_NO_NEW_PRIVS, prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

USERS = ("flyproxy", "nobody")

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_LAST = "/proc/sys/kernel/cap_last_cap"

# Run as the user in question: what a child will import, and where it will write.
_TRIAL = """
import os, sys
try:
    import flyproxy.boot
except (ImportError, OSError) as error:
    sys.exit(f"it cannot import flyproxy ({error})")
for folder in sys.argv[1:]:
    try:
        inside = [entry.path for entry in os.scandir(folder) if not entry.is_socket()]
    except OSError as error:
        sys.exit(f"it cannot write {folder} ({error.strerror})")
    for path in [folder, *inside]:
        if not os.access(path, os.R_OK | os.W_OK | (os.X_OK if os.path.isdir(path) else 0)):
            sys.exit(f"it cannot write {path}")
"""


@dataclass(frozen=True)
class Identity:
    """A user that children switch to."""

    name: str
    uid: int
    gid: int

    def to_json(self) -> dict[str, Any]:
        """For the boot message."""
        return {"name": self.name, "uid": self.uid, "gid": self.gid}

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> Identity | None:
        """The reverse of to_json; None stays None."""
        return cls(**data) if data else None


def candidate() -> Identity | None:
    """The first of USERS that exists, if we are root; None when there is nothing to switch."""
    if os.geteuid() != 0:
        return None
    for name in USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(name, entry.pw_uid, entry.pw_gid)
    return None


def choose(identity: Identity, folders: Sequence[str], env: dict[str, str]) -> str | None:
    """Tries whether children can work as ``identity`` in ``folders``; None: yes, else the reason why not."""
    command = [sys.executable, "-P", "-c", _TRIAL, *folders]
    try:
        trial = subprocess.run(
            command, user=identity.uid, group=identity.gid, extra_groups=[], env=env, cwd="/",
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except PermissionError:
        return f"it cannot run {sys.executable}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"the trial failed ({error})"
    if trial.returncode == 0:
        return None
    return (trial.stderr.strip().splitlines() or [f"the trial ended with {trial.returncode}"])[-1]


def make(folder: str) -> bool:
    """Makes ``folder`` if it is missing, and says whether it was. Raises OSError."""
    if os.path.isdir(folder):
        return False
    os.makedirs(folder, mode=0o755)
    return True


def give(folder: str, identity: Identity) -> None:
    """The folder is the children's from now on. Raises OSError."""
    os.chown(folder, identity.uid, identity.gid)


def confine(identity: Identity | None) -> None:
    """Gives up, for good: the user if one is named, and every capability. Called while there is one thread.

    Raises OSError when the kernel refuses a step, because a half confined process must not go on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and identity is not None:
        _drop_bounding_set(libc)
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(libc.capset(header, nothing), "capset")


def _drop_bounding_set(libc: ctypes.CDLL) -> None:
    with open(_CAP_LAST) as file:
        last = int(file.read())
    for capability in range(last + 1):
        _check(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), f"bounding set, capability {capability}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
