"""The cluster key: the secret that every host of one mesh has, and what is made of it.

Only the master reads the file, while it may; its children get the content with their boot message and nowhere else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

LEAST = 16  # bytes: as many as the hash key that is made of it


class KeyFileError(Exception):
    """The file cannot be used; the text says why, ``fix`` how to mend it. ``key`` is the key of [backhaul] that names
    it."""

    key = "key_file"

    def __init__(self, key_file: str, why: str) -> None:
        super().__init__(f"the cluster key {key_file} {why}")
        self.fix = f"make one and give it to every host: head -c 32 /dev/urandom | base64 > {key_file}"


def read(key_file: str) -> bytes:
    """The secret, without white space around it; empty when no file is named. Raises KeyFileError."""
    if not key_file:
        return b""
    try:
        secret = Path(key_file).read_bytes().strip()
    except OSError as error:
        raise KeyFileError(key_file, f"cannot be read: {error.strerror}") from error
    if len(secret) < LEAST:
        raise KeyFileError(key_file, f"has {len(secret)} bytes; it needs at least {LEAST}")
    return secret


def hash_key(secret: bytes) -> bytes:
    """The 16 bytes that consistent hashing is keyed with; the same on every edge that has the same cluster key.

    Without a cluster key they are a constant: hosts agree then too, but a client can work out where a key leads.
    """
    return hashlib.blake2b(secret, digest_size=16, person=b"flyproxy-hash").digest()


def hmac_key(secret: bytes) -> bytes:
    """The 32 bytes that backhaul handshakes are authenticated with."""
    return hashlib.sha256(b"flyproxy-backhaul\0" + secret).digest()
