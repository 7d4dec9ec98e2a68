"""The certificate of a host is tried before other hosts see it, and what is wrong with it is said with its mending."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from flyproxy import doctor
from flyproxy.certificates import CertificateError, judge, read
from flyproxy.settings import Backhaul, Settings
from tests.kit.pki import DAY, Authority, now

HOST = "ams-1"
Spoil = Callable[[Authority, dict[str, str]], object]


def edit(name: str, text: bytes) -> Spoil:
    return lambda _, files: Path(files[name]).write_bytes(text)


def other_key(authority: Authority, files: dict[str, str]) -> None:
    files["key"] = authority.sign("fra-1")["key"]


def pass_phrase(_: Authority, files: dict[str, str]) -> None:
    command = ["openssl", "pkey", "-in", files["key"], "-aes128", "-passout", "pass:secret", "-out", files["key"] + "x"]
    subprocess.run(command, check=True)
    files["key"] += "x"


UNUSABLE: dict[str, tuple[Spoil, str, str]] = {
    "no CA": (lambda _, files: Path(files["ca"]).unlink(), "ca", "No such file"),
    "no certificate": (lambda _, files: Path(files["cert"]).unlink(), "cert", "No such file"),
    "no key": (lambda _, files: Path(files["key"]).unlink(), "key", "No such file"),
    "a folder": (lambda _, files: files.update(key="/"), "key", "cannot be read"),
    "a CA that is no PEM": (edit("ca", b"hello"), "ca", "no certificate in PEM"),
    "a certificate that is no PEM": (edit("cert", b"\x30\x82"), "cert", "no certificate in PEM"),
    "a key that is no PEM": (edit("key", b""), "key", "no private key in PEM"),
    "a key with a pass phrase": (pass_phrase, "key", "without a pass phrase"),
    "a key of another certificate": (other_key, "key", "does not belong to the certificate"),
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_without_files_there_is_none() -> None:
    assert read(Backhaul()) is None


def test_a_good_one_is_good(authority: Authority) -> None:
    found = read(Backhaul(**authority.sign(HOST, "other")))
    assert found is not None and judge(found, HOST) is None and found.names == [HOST, "other"]
    assert found.pem.key.startswith(b"-----BEGIN PRIVATE KEY") and "PRIVATE" not in repr(found)


@pytest.mark.parametrize(("spoil", "key", "why"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_files_that_cannot_be_used_are_named(authority: Authority, spoil: Spoil, key: str, why: str) -> None:
    files = authority.sign(HOST)
    spoil(authority, files)
    with pytest.raises(CertificateError, match=why) as error:
        read(Backhaul(**files))
    assert str(error.value).startswith(f"'{key}' in [backhaul]: {files[key]} ") and error.value.fix


def stranger(authority: Authority) -> dict[str, str]:
    return {**Authority(authority.folder, "other").sign(HOST), "ca": str(authority.ca)}


INVALID: dict[str, tuple[Callable[[Authority], dict[str, str]], str]] = {
    "expired": (lambda ca: ca.sign(HOST, begins=now() - 2 * DAY, ends=now() - DAY), "expired on 20"),
    "early": (lambda ca: ca.sign(HOST, begins=now() + DAY), "is not valid before 20"),
    "for another host": (lambda ca: ca.sign("fra-1", "fra-2"), "is for fra-1, fra-2, not for this host, ams-1"),
    "for all": (lambda ca: ca.sign("*"), "is for *, not for this host"),
    "of another CA": (stranger, "local issuer certificate"),
}


@pytest.mark.parametrize(("make", "why"), INVALID.values(), ids=INVALID.keys())
def test_what_other_hosts_would_not_believe_is_told(
    authority: Authority, make: Callable[[Authority], dict[str, str]], why: str
) -> None:
    found = read(Backhaul(**make(authority)))
    assert found is not None
    problem = judge(found, HOST)
    assert problem is not None and why in str(problem) and problem.key == "cert" and problem.fix


def test_the_commands_of_the_page_make_certificates_that_are_good(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (commands,) = [part.split("```")[0] for part in page.split("```sh\n")[1:] if part.startswith("openssl req")]
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    files = {"ca": "ca.pem", "cert": f"{HOST}.pem", "key": f"{HOST}.key"}
    found = read(Backhaul(**{key: str(tmp_path / file) for key, file in files.items()}))
    assert found is not None and judge(found, HOST) is None and judge(found, "fra-1") is not None


def check(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    secret, config = folder / "cluster.key", folder / "flyproxy.toml"
    secret.write_text("0123456789abcdef")
    backhaul = {"address": "127.0.0.1", "key_file": str(secret), **files}
    lines = [f"{key} = {json.dumps(value)}" for key, value in backhaul.items()]
    config.write_text(f'host = "{HOST}"\n[backhaul]\n' + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "flyproxy", "check", "-c", str(config)]
    return subprocess.run(command, capture_output=True, text=True)


def test_check_tells_the_line_and_the_mending(authority: Authority, tmp_path: Path) -> None:
    assert check(tmp_path, authority.sign(HOST)).returncode == 0
    ran = check(tmp_path, authority.sign("fra-1"))
    assert ran.returncode == 1
    assert f"{tmp_path}/flyproxy.toml:6:1: 'cert' in [backhaul]: " in ran.stderr and f"DNS:{HOST}" in ran.stderr


@pytest.mark.parametrize(("days", "level"), [(-1, "error"), (5, "warning"), (13.9, "warning"), (15, "ok")])
def test_doctor_warns_two_weeks_before_the_end(authority: Authority, days: float, level: str) -> None:
    files = authority.sign(HOST, begins=now() - 2 * DAY, ends=now() + timedelta(days=days))
    settings = replace(Settings(), host=HOST, backhaul=Backhaul(address="127.0.0.1:0", key_file="/none", **files))
    (found,) = [one for one in doctor.examine(settings) if one.name == "certificate"]
    assert found.level == level and bool(found.fix) == (level != "ok")
