"""Files of the state folder: private, whole or not there, and owned by whoever owns the folder.

``flyproxyctl --offline`` may run as root while the daemon's children do not; what root makes here must stay usable.
"""

from __future__ import annotations

import contextlib
import os


def make_folder(path: str) -> None:
    """Makes a private folder unless it exists. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        give_to_owner(path)


def make_file(path: str) -> None:
    """Makes an empty private file unless it exists. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        give_to_owner(path)


def write_whole(path: str, data: bytes) -> None:
    """Replaces a file at once; a reader, or a crash, sees the old content or the new. Raises OSError."""
    draft = f"{path}.{os.getpid()}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        # O_EXCL: a link that the folder's owner laid here does not lead root anywhere.
        fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
            give_to_owner(draft, fd)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def give_to_owner(path: str, fd: int | None = None) -> None:
    """Root gives what it made, open as ``fd`` where it is, to the owner of the folder it is in."""
    if os.geteuid() == 0:
        owner = os.stat(os.path.dirname(path) or ".")
        os.chown(path if fd is None else fd, owner.st_uid, owner.st_gid)
