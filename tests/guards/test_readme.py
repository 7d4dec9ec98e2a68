"""What README.md tells a reader to do and where to look exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)", README)
CODE = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
INLINE = re.findall(r"`([^`\n]+)`", README)


def commands(word: str) -> list[list[str]]:
    """Every command line in the page that begins with this word."""
    lines = [line.strip() for block in CODE for line in block.splitlines()] + INLINE
    return [line.partition("#")[0].split() for line in lines if line.split()[:1] == [word]]


def test_the_page_is_read_at_all() -> None:
    assert len(commands("make")) >= 3
    assert len(LINKS) >= 3


@pytest.mark.parametrize("target", sorted({word for words in commands("make") for word in words[1:2]}))
def test_make_target_exists(target: str) -> None:
    assert target in TARGETS


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("path", sorted({path for path in INLINE if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", path)}))
def test_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("words", commands("flyproxyctl"), ids=" ".join)
def test_flyproxyctl_command_exists(words: list[str]) -> None:
    from flyproxy.ctl.main import command

    names = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
    group = command
    for name in names:
        if not hasattr(group, "get_command"):
            break
        import click

        found = group.get_command(click.Context(group), name)
        assert found is not None, f"no such command: {' '.join(words)}"
        group = found


@pytest.mark.parametrize(
    "target",
    [
        "demo",
        "test",
        "lint",
        "build",
        "clean",
        "help",
        "asan",
        "fuzz",
        "insn",
        "bench",
        "bench-micro",
        "test-hops",
        "test-long",
        "soak",
        "chaos",
    ],
)
def test_every_promised_verb_is_in_the_makefile(target: str) -> None:
    assert target in TARGETS
