"""deploy/wireguard.py: one list of hosts, files that WireGuard and flyproxy take, keys that stay."""

from __future__ import annotations

import difflib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flyproxy.settings import load

ROOT = Path(__file__).resolve().parents[2]
HOSTS = [
    ("yyz-1", "yyz", "192.0.2.10:51820", "10.9.0.1"),
    ("dfw-1", "dfw", "198.51.100.20:51821", "10.9.0.2"),
    ("syd-1", "syd", "syd.example.net", "10.9.0.3"),
]


class Generator:
    """The command, with a list of hosts in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.list, self.out = folder / "hosts.toml", folder / "out"

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        self.list.write_text(text)
        command = [sys.executable, "deploy/wireguard.py", str(self.list), "--out", str(self.out)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    def make(self, hosts: list[tuple[str, str, str, str]], top: str = "") -> list[str]:
        """The lines printed by a run that must succeed."""
        done = self.run(top + written(hosts))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def refused(self, hosts: list[tuple[str, str, str, str]], top: str = "") -> str:
        """The problems told by a run that must fail and write nothing."""
        before = self.files()
        done = self.run(top + written(hosts))
        assert done.returncode == 1 and self.files() == before, done.stdout
        return done.stderr

    def files(self) -> dict[str, str]:
        return {str(path.relative_to(self.out)): path.read_text() for path in self.out.rglob("*") if path.is_file()}


def written(hosts: list[tuple[str, str, str, str]]) -> str:
    return "".join(
        f'[[hosts]]\nid = "{id}"\nregion = "{region}"\nendpoint = "{endpoint}"\naddress = "{address}"\n'
        for id, region, endpoint, address in hosts
    )


def changed(index: int, key: str, value: str) -> list[tuple[str, str, str, str]]:
    """HOSTS with one field of one host replaced."""
    hosts = [dict(zip(("id", "region", "endpoint", "address"), host, strict=True)) for host in HOSTS]
    hosts[index][key] = value
    return [tuple(host.values()) for host in hosts]  # type: ignore[misc]


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path)


def test_wireguard_reads_what_is_written_and_agrees_on_the_keys(generator: Generator) -> None:
    generator.make(HOSTS)
    public = {}
    for id, *_ in HOSTS:
        private = (generator.out / id / "private.key").read_text()
        public[id] = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout
        file = str(generator.out / id / "wg0.conf")
        plain = subprocess.run(["wg-quick", "strip", file], capture_output=True, text=True, check=True)
        assert not plain.stderr, "wg-quick warns of files that others can read"
    text = generator.files()["syd-1/wg0.conf"]
    assert f"PublicKey = {public['yyz-1']}AllowedIPs = 10.9.0.1/32\nEndpoint = 192.0.2.10:51820\n" in text
    assert public["syd-1"].strip() not in text, "a host is no peer of its own"
    assert "ListenPort = 51820" in text, "the port that an endpoint leaves out is WireGuard's"
    assert "Endpoint = syd.example.net:51820" in generator.files()["dfw-1/wg0.conf"]


def test_flyproxy_takes_the_backhaul_settings(generator: Generator, tmp_path: Path) -> None:
    generator.make(HOSTS, 'backhaul_port = 7500\ncluster_key = "/srv/cluster.key"\n')
    fragment = generator.files()["dfw-1/backhaul.toml"]
    top = [line.removeprefix("#").strip() for line in fragment.splitlines() if line.startswith("#     ")]
    config = tmp_path / "flyproxy.toml"
    config.write_text("\n".join([*top, fragment]))
    settings = load(str(config), {})
    assert (settings.region, settings.host) == ("dfw", "dfw-1")
    assert (settings.backhaul.address, settings.backhaul.key_file) == ("10.9.0.2:7500", "/srv/cluster.key")
    assert len(generator.files()["cluster.key"].strip()) >= 32


def test_only_the_owner_reads_what_is_written(generator: Generator) -> None:
    generator.make(HOSTS)
    (generator.out / "yyz-1/wg0.conf").chmod(0o644)
    generator.make(HOSTS)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in generator.out.rglob("*") if path.is_file()}
    assert len(modes) == 10 and set(modes.values()) == {0o600}


def test_a_second_run_changes_nothing(generator: Generator) -> None:
    assert len(generator.make(HOSTS)) == 10
    before = generator.files()
    assert generator.make(HOSTS) == []
    assert generator.files() == before


def test_a_new_host_costs_the_others_one_peer(generator: Generator) -> None:
    generator.make(HOSTS)
    before = generator.files()
    generator.make([("ams-1", "ams", "203.0.113.7:51820", "10.9.0.4"), *HOSTS])
    after = generator.files()
    for id, *_ in HOSTS:
        assert after[f"{id}/private.key"] == before[f"{id}/private.key"]
        lines = difflib.ndiff(before[f"{id}/wg0.conf"].splitlines(), after[f"{id}/wg0.conf"].splitlines())
        new = [line[2:] for line in lines if line[0] in "+-" and line[2:]]
        assert new[:2] == ["# ams-1 (ams)", "[Peer]"] and len(new) == 6 and "AllowedIPs = 10.9.0.4/32" in new
    assert after["cluster.key"] == before["cluster.key"]


def test_the_keys_of_a_host_that_left_the_list_are_kept_and_named(generator: Generator) -> None:
    generator.make(HOSTS)
    key = generator.files()["syd-1/private.key"]
    lines = generator.make(HOSTS[:2])
    assert lines[-1].startswith(f"kept: {generator.out / 'syd-1'} ")
    assert "syd-1" not in generator.files()["yyz-1/wg0.conf"] and generator.files()["syd-1/private.key"] == key


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("id", "yyz-1", ":7:6: id yyz-1 is already host yyz-1's"),
        ("endpoint", "192.0.2.10", ":9:12: endpoint 192.0.2.10:51820 is already host yyz-1's"),
        ("address", "10.9.0.1", ":10:11: address 10.9.0.1 is already host yyz-1's"),
        ("address", "::ffff:10.9.0.1", ":10:11: address 10.9.0.1 is already host yyz-1's"),
    ],
)  # fmt: skip
def test_what_two_hosts_share_is_refused_however_it_is_spelt(
    generator: Generator, key: str, value: str, told: str
) -> None:
    said = generator.refused(changed(1, key, value))
    assert f"{generator.list}{told}" in said, said


def test_two_hosts_with_one_key_are_refused(generator: Generator) -> None:
    generator.make(HOSTS)
    (generator.out / "dfw-1/private.key").write_bytes((generator.out / "yyz-1/private.key").read_bytes())
    assert "dfw-1/private.key: is also host yyz-1's key; remove it" in generator.refused(HOSTS)


@pytest.mark.parametrize(
    ("name", "told"), [("yyz-1/private.key", "is no WireGuard key"), ("cluster.key", "has less than")]
)
def test_a_damaged_key_is_refused_not_replaced(generator: Generator, name: str, told: str) -> None:
    generator.make(HOSTS)
    (generator.out / name).write_text("c2hvcnQ=\n")
    assert f"{name}: {told}" in generator.refused(HOSTS)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("address", "127.0.0.9", "must be an IPv4 or IPv6 address for one host"),
        ("address", "10.9.0.0/24", "must be an IPv4 or IPv6 address for one host"),
        ("address", "198.51.100.20", "is the endpoint of host dfw-1"),
        ("address", "fd00::1", "of another family"),
        ("endpoint", "192.0.2.9:0", "'endpoint' in [[hosts]] must be"),
        ("endpoint", "dfw_1.example.net:1", "'endpoint' in [[hosts]] must be"),
        ("endpoint", "dfw.example.net:70000", "'endpoint' in [[hosts]] must be"),
        ("id", "../dfw", "'id' in [[hosts]] must be a host id"),
        ("region", "DFW", "'region' in [[hosts]] must be a region code"),
    ],
)
def test_what_cannot_work_is_refused(generator: Generator, key: str, value: str, told: str) -> None:
    assert told in generator.refused(changed(1, key, value))


def test_a_misspelt_key_is_refused_with_its_place(generator: Generator) -> None:
    assert f"{generator.list}:1:1: unknown key 'keepalife'" in generator.refused(HOSTS, "keepalife = 5\n")


def test_the_example_list_is_valid(generator: Generator) -> None:
    done = generator.run((ROOT / "deploy/hosts.toml").read_text())
    assert done.returncode == 0, done.stderr
    assert "Address = fd66:6c79::1/128" in generator.files()["yyz-1/wg0.conf"]
