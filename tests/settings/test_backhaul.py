"""The rules of [backhaul]: what it needs, what it may not share, and what of it only a restart changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyproxy.settings import Settings, SettingsError, diff, fixed, load, resolved

MESH = "[backhaul]\naddress = '10.0.0.1:7443'\nkey_file = '/k'\n[workers]\ncount = 1\nslots = 4\n"


def loaded(folder: Path, text: str) -> Settings:
    file = folder / "flyproxy.toml"
    file.write_text(text)
    return load(str(file), {})


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as error:
        loaded(folder, text)
    (problem,) = error.value.problems
    return f"{problem.line}:{problem.column}: {problem.message}"


@pytest.mark.parametrize(("text", "where", "what"), [
    ("[backhaul]\naddress = '10.0.0.1'", "2:11", "needs 'key_file'"),
    ("[backhaul]\naddress = '0.0.0.0'\nkey_file = '/k'", "2:11", "give this host's mesh address"),
    ("[backhaul]\naddress = '[ff02::1]'\nkey_file = '/k'", "2:11", "give this host's mesh address"),
    ("[workers]\nslots = 65\n[backhaul]\naddress = '10.0.0.1'\nkey_file = '/k'", "4:11", "65 slots"),
    ("[workers]\nslots = 4\n[backhaul]\naddress = '10.0.0.1:65533'\nkey_file = '/k'", "4:11", "no 4 ports from 65533"),
])
def test_a_backhaul_that_could_not_work_is_refused(tmp_path: Path, text: str, where: str, what: str) -> None:
    told = refusal(tmp_path, text)
    assert told.startswith(f"{where}: ") and what in told


@pytest.mark.parametrize("address", ["10.0.0.1:7443", "10.0.0.1:7446", "0.0.0.0:7444", "[::]:7445"])
def test_a_listener_on_a_backhaul_port_is_refused(tmp_path: Path, address: str) -> None:
    told = refusal(tmp_path, f"{MESH}[[listeners]]\naddress = '{address}'")
    assert told.startswith("8:11: ") and "the backhaul listens on ports 7443 to 7446 of 10.0.0.1" in told


def test_the_admin_address_on_a_backhaul_port_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, f"{MESH}[admin]\naddress = '10.0.0.1:7446'").startswith("8:11: 'address' in [admin]")


@pytest.mark.parametrize("address", ["10.0.0.1:7447", "10.0.0.2:7443", "[::1]:7443", "10.0.0.1:0"])
def test_other_addresses_are_no_clash(tmp_path: Path, address: str) -> None:
    assert loaded(tmp_path, f"{MESH}[[listeners]]\naddress = '{address}'").backhaul_slots == 4


def test_an_edge_alone_opens_no_backhaul_and_takes_no_port(tmp_path: Path) -> None:
    text = f"roles = ['edge']\n{MESH}[[listeners]]\naddress = '10.0.0.1:7443'"
    assert loaded(tmp_path, text).backhaul_slots == 0


def test_without_an_address_there_is_no_backhaul(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[workers]\nslots = 4\n").backhaul_slots == 0


def test_only_a_restart_changes_what_other_hosts_know_this_one_by(tmp_path: Path) -> None:
    old = resolved(loaded(tmp_path, f"host = 'h1'\n{MESH}"))
    text = "host = 'h2'\nroles = ['edge']\n[backhaul]\naddress = '10.0.0.2'\nkey_file = '/other'\nidle = '5s'\n"
    text += "ca = '/c'\ncert = '/d'\nkey = '/e'\n"
    new = resolved(loaded(tmp_path, f"{text}[workers]\ncount = 1\nslots = 4"))
    keys = {f"backhaul.{name}" for name in ("address", "key_file", "ca", "cert", "key")}
    assert set(diff(old, new).restart) == {"host", "roles", *keys}
    kept = fixed(old, new)
    assert (kept.host, kept.roles, kept.backhaul.bind) == ("h1", ["edge", "worker"], ("10.0.0.1", 7443))
    assert kept.backhaul.idle == 5.0


def test_a_host_alone_may_be_renamed_by_a_reload(tmp_path: Path) -> None:
    old, new = (resolved(loaded(tmp_path, f"host = '{name}'")) for name in ("h1", "h2"))
    assert diff(old, new).restart == () and fixed(old, new).host == "h2"
