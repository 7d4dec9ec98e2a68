"""The pages that are made from code say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

from flyproxy.control.telemetry.families import FAMILIES
from flyproxy.errors import ERRORS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate():
    found = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_generated_parts_are_current(generate):
    assert [path.name for path in generate.old_pages()] == [], "fix: python docs/generate.py"


def test_a_changed_page_is_noticed(generate):
    text = (DOCS / "operations.md").read_text()
    assert generate.generated(text.replace("### PR01", "### PR99")) == text


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_the_runbook_has_every_error_with_what_to_do(error):
    page = (DOCS / "operations.md").read_text()
    section = re.search(rf"^### {error.code} (.*?)(?=^###|<!--)", page, re.MULTILINE | re.DOTALL)
    assert section, f"{error.code} is missing"
    assert error.fix in section[1] and "Who acts" in section[1]


def test_every_metric_is_documented_once():
    page = (DOCS / "metrics.md").read_text()
    assert re.findall(r"^\| `(\w+)`", page, re.MULTILINE) == [family.name for family in FAMILIES]


def test_every_metric_that_the_runbook_names_exists():
    names = {family.name for family in FAMILIES}
    assert set(re.findall(r"\bflyproxy_[a-z_]+", (DOCS / "operations.md").read_text())) <= names


def test_the_command_page_has_every_command(generate):
    from tests.ctl.test_command_line import GRAMMAR
    page = (DOCS / "cli.md").read_text()
    assert [words for words in GRAMMAR if f"### flyproxyctl {' '.join(words)}\n" not in page] == []
