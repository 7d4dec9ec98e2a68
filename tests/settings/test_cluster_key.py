"""The cluster key: read once, and what is made of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flyproxy.cluster_key import KeyFileError, hash_key, hmac_key, read

SECRET = b"0123456789abcdef"


def test_white_space_around_the_secret_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b" " + SECRET + b"\r\n")
    assert read(str(tmp_path / "key")) == SECRET
    assert read("") == b""


def test_a_short_or_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(SECRET[:-1] + b"\n" * 9)
    for name, why in (("key", "has 15 bytes"), ("other", "No such file")):
        with pytest.raises(KeyFileError, match=why) as error:
            read(str(tmp_path / name))
        assert f"base64 > {tmp_path / name}" in error.value.fix


def test_every_host_makes_the_same_keys_of_it_and_another_one_other_keys() -> None:
    assert hash_key(SECRET) == hash_key(SECRET) != hash_key(b"")
    assert (len(hash_key(SECRET)), len(hash_key(b"")), len(hmac_key(SECRET))) == (16, 16, 32)
    assert hmac_key(SECRET) == hashlib.sha256(b"flyproxy-backhaul\0" + SECRET).digest()
