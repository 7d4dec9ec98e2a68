"""The ``flyproxy`` command without the daemon: check, version, doctor."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flyproxy import __version__, doctor
from flyproxy.__main__ import main
from flyproxy.settings import Backhaul, Settings, load

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


@pytest.mark.parametrize(("secret", "why"), [(None, "No such file"), (b" 0123456789abcde\n", "has 15 bytes")])
def test_check_looks_at_the_cluster_key(tmp_path: Path, secret: bytes | None, why: str) -> None:
    key, file = tmp_path / "cluster.key", tmp_path / "mesh.toml"
    file.write_text(f"[backhaul]\naddress = '10.0.0.1'\nkey_file = '{key}'\n")
    if secret is not None:
        key.write_bytes(secret)
    result = call("check", "-c", str(file))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{file}:3:1: the cluster key {key} ") and why in result.stderr
    assert f"head -c 32 /dev/urandom | base64 > {key}" in result.stderr
    key.write_bytes(b" 0123456789abcdef\n")
    assert call("check", "-c", str(file)).exit_code == 0


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


def mesh(tmp_path: Path, address: str, roles: str = "['worker']", mode: int = 0o600) -> dict[str, doctor.Finding]:
    key = tmp_path / "cluster.key"
    key.write_text("0123456789abcdef\n")
    key.chmod(mode)
    file = tmp_path / "f.toml"
    file.write_text(f"roles = {roles}\n[workers]\nslots = 2\n[backhaul]\naddress = '{address}'\nkey_file = '{key}'\n")
    return {row.name: row for row in doctor.examine(load(str(file), {}))}


def test_doctor_looks_at_the_key_the_address_and_the_ports_of_the_mesh(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        findings = mesh(tmp_path, f"127.0.0.1:{port}", mode=0o644)
    assert findings["cluster key"].fix == f"chmod 600 {tmp_path}/cluster.key"
    assert findings["mesh address 127.0.0.1"].level == "ok"
    assert {f"backhaul port {port}/tcp", f"backhaul port {port + 1}/tcp"} <= findings.keys()
    udp = findings[f"backhaul port {port}/udp"]
    assert udp.level == "warning" and str(port) in udp.fix


def test_doctor_finds_a_mesh_address_that_is_on_no_interface(tmp_path: Path) -> None:
    assert mesh(tmp_path, "192.0.2.1:0")["mesh address 192.0.2.1"].level == "error"


def test_doctor_finds_a_key_that_cannot_be_used(tmp_path: Path) -> None:
    settings = Settings(backhaul=Backhaul(address="127.0.0.1:0", key_file=str(tmp_path / "missing.key")))
    found = {row.name: row for row in doctor.examine(settings)}["cluster key"]
    assert found.level == "error" and "No such file" in found.found and found.fix


def test_doctor_asks_no_backhaul_port_of_an_edge(tmp_path: Path) -> None:
    assert not [name for name in mesh(tmp_path, "127.0.0.1:7443", roles="['edge']") if name.startswith("backhaul port")]


def test_doctor_finds_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-package-of-ours"))
    findings = {row.name: row for row in doctor.examine(Settings())}
    assert findings["python packages"].fix == "pip install no-such-package-of-ours"
