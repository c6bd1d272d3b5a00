"""What the documents say is what the code does."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from app.config import MIB, Settings
from app.main import ROOT

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


def table() -> str:
    """Return the README's table of settings, written from the model."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        assert field.default is not PydanticUndefined, f"{name} has no default"
        lines.append(
            f"| `MILEPOST_{name.upper()}` | {shown(field.default)} | {field.description} |"
        )
    return "\n".join(lines)


def shown(value: Any) -> str:
    if isinstance(value, int) and value >= MIB and value % MIB == 0:
        return f"`{value}` ({value // MIB} MiB)"
    return f"`{value}`"


def test_readme_shows_every_setting_with_its_default_and_meaning() -> None:
    assert table() in (ROOT / "README.md").read_text()


def test_there_are_fewer_than_25_settings() -> None:
    assert len(Settings.model_fields) < 25


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_to_files(document: Path) -> None:
    links = LINK.findall(document.read_text())
    relative = [link for link in links if not re.match(r"[a-z]+:", link)]

    assert [link for link in relative if not (document.parent / link).exists()] == []


def test_readme_names_every_target_of_the_makefile_that_it_uses() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text()))

    assert {"run", "test"} <= used <= targets


def test_decisions_are_dated() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)

    assert headings
    assert [h for h in headings if not re.search(r"\d{4}-\d{2}-\d{2}", h)] == []
