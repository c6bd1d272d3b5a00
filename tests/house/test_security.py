"""What docs/security.md says of who may do what is the table that decides it."""

import re

from app.fhir.access import table
from app.main import ROOT

DOCUMENT = ROOT / "docs" / "security.md"


def test_the_document_shows_the_table_of_accounts_and_types() -> None:
    assert table() in DOCUMENT.read_text()


def test_the_document_names_tests_that_there_are() -> None:
    named = set(re.findall(r"`(tests/[a-z_/]+\.py)", DOCUMENT.read_text()))

    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_threats_name_tests_that_there_are() -> None:
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", DOCUMENT.read_text())

    assert named
    assert [
        f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()
    ] == []
