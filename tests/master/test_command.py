"""The ``flyproxy`` command without the daemon: check, version, doctor."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flyproxy import __version__, doctor
from flyproxy.__main__ import main
from flyproxy.settings import Settings, load

GOOD = "[[listeners]]\naddress = '127.0.0.1:0'\n"
BAD = "[workers]\ndrain_timout = '5s'\ncount = 'many'\n"


def call(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.toml"
    file.write_text(BAD)
    return file


def test_check_is_content_with_good_settings(good: Path) -> None:
    result = call("check", "-c", str(good))
    assert (result.exit_code, result.output) == (0, f"{good}: all is well\n")


def test_check_names_every_problem_with_its_place_and_what_was_meant(bad: Path) -> None:
    result = call("check", "-c", str(bad))
    assert result.exit_code == 1 and result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == f"{bad}:2:1: unknown key 'drain_timout' in [workers]; did you mean 'drain_timeout'?"
    assert lines[1].startswith(f"{bad}:3:")


def test_check_speaks_json(good: Path, bad: Path) -> None:
    assert json.loads(call("check", "--json", "-c", str(good)).stdout)["data"]["problems"] == []
    result = call("check", "--json", "-c", str(bad))
    error = json.loads(result.stderr)["error"]
    assert result.exit_code == 1 and result.stdout == ""
    assert error["where"] == f"{bad}:2:1" and error["fix"] and len(error["problems"]) == 2


def test_run_refuses_bad_settings_in_the_same_words(bad: Path) -> None:
    result = call("run", "-c", str(bad))
    assert result.exit_code == 1 and f"{bad}:2:1: unknown key" in result.stderr


def test_version_is_said_in_both_forms() -> None:
    assert call("version").output == f"flyproxy {__version__}\n"
    assert json.loads(call("version", "--json").output)["data"]["version"] == __version__


def test_usage_errors_end_with_two() -> None:
    assert call("chek").exit_code == 2
    assert call("check", "--no-such-option").exit_code == 2


def test_doctor_names_the_command_that_mends_each_finding(good: Path) -> None:
    result = call("doctor", "--json", "-c", str(good))
    findings = json.loads(result.stdout)["data"]
    assert {"kernel", "shared memory", "python packages", "openssl", "open files"} <= {row["name"] for row in findings}
    assert all(row["fix"] for row in findings if row["level"] != "ok")
    assert result.exit_code == (1 if any(row["level"] == "error" for row in findings) else 0)


def test_doctor_finds_a_port_that_is_taken_and_one_that_is_not_allowed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "f.toml"
        file.write_text(f"[[listeners]]\naddress = '127.0.0.1:{port}'\n[[listeners]]\naddress = '192.0.2.1:0'\n")
        findings = {row.name: row for row in doctor.examine(load(str(file), {}))}
    assert findings[f"listener 127.0.0.1:{port}"].level == "warning"
    assert str(port) in findings[f"listener 127.0.0.1:{port}"].fix
    assert findings["listener 192.0.2.1:0"].level == "error"


def test_doctor_finds_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-package-of-ours"))
    findings = {row.name: row for row in doctor.examine(Settings())}
    assert findings["python packages"].fix == "pip install no-such-package-of-ours"
