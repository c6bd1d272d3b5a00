"""Migrations as `milepost migrate` runs them, on any database and to any revision."""

from pathlib import Path

from alembic import command
from alembic.config import Config

ROOT = Path(__file__).parents[2]


def configuration(url: str) -> Config:
    """Return Alembic's configuration for the database of that URL."""
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["database_url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`; no event loop may be running in this thread."""
    command.upgrade(configuration(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Bring the database back to `revision`, by default to nothing."""
    command.downgrade(configuration(url), revision)
