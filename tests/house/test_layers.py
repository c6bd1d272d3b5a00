"""The form of the house. Who may import whom is `lint-imports`' to say; this is the rest."""

import ast
import tomllib
from pathlib import Path

import pytest

from app.main import ROOT

TOP_LEVEL = {
    "Dockerfile",
    "Makefile",
    "README.md",
    "alembic",
    "app",
    "benchmarks",
    "compose.yaml",
    "docs",
    "pyproject.toml",
    "tests",
}
MADE_HERE = {"build", "milepost.egg-info"}
NAMES_THAT_SAY_NOTHING = {"base", "common", "helpers", "manager", "misc", "service", "utils"}
SQL_LIVES_IN = (
    "app/db/",
    "app/deferred.py",
    "app/jobs.py",
    "app/api/grants/",
    "app/fhir/audit/",
    "app/fhir/sql/",
    "app/fhir/store/",
)
MODULES = sorted((ROOT / "app").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a module imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {module.split(".")[0] for module in found}


def test_the_top_level_holds_only_what_the_plan_names() -> None:
    visible = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    databases = {path.name for path in ROOT.glob("*.db*")}

    assert visible - databases - MADE_HERE <= TOP_LEVEL


def test_alembic_is_no_package_because_it_would_hide_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_constraints_are_exact_versions_without_addresses() -> None:
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    assert [pin for pin in pins if "==" not in pin or "/" in pin or "@" in pin] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    pins = {line.split("==")[0] for line in (ROOT / ".ci/constraints.txt").read_text().split()}

    assert {normalised(requirement) for requirement in wanted} <= pins


def normalised(requirement: str) -> str:
    """Return the name that a requirement is about, as package indexes spell it."""
    return requirement.split(">")[0].split("[")[0].strip().lower().replace(".", "-")


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_module_says_what_it_knows_and_stays_small(module: Path) -> None:
    text = module.read_text()

    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= 700, "split it, by knowledge"
    assert module.stem not in NAMES_THAT_SAY_NOTHING


def test_sql_lives_in_the_database_the_compiler_and_the_store() -> None:
    drivers = {"asyncpg", "sqlalchemy", "sqlite3"}
    users = [name(module) for module in MODULES if drivers & imported(module)]

    assert [user for user in users if not user.startswith(SQL_LIVES_IN)] == []
