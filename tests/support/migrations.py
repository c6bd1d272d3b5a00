"""Migrations as `milepost migrate` runs them, on any database and to any revision."""

from alembic import command

from app.main import alembic_config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`; no event loop may be running in this thread."""
    command.upgrade(alembic_config(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Bring the database back to `revision`, by default to nothing."""
    command.downgrade(alembic_config(url), revision)
