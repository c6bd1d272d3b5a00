"""Migrations as `milepost migrate` runs them, on any database and to any revision."""

from alembic import command

from app.config import Settings
from app.main import alembic_config, migrate


def upgrade(url: str) -> None:
    """Bring the database to the head, with what is shipped; no event loop may be running here."""
    migrate(Settings(database_url=url))


def downgrade(url: str, revision: str = "base") -> None:
    """Bring the database back to `revision`, by default to nothing."""
    command.downgrade(alembic_config(url), revision)
