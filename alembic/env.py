"""Run the migrations: on SQLite through the standard library, on PostgreSQL through asyncpg.

https://alembic.sqlalchemy.org/en/latest/tutorial.html

The caller may hand over `config.attributes["database_url"]`; else the settings name the database.
All migrations that are wanted run in one transaction, so a refused one leaves nothing, and behind
one lock, so a second `milepost migrate` waits and then finds nothing to do. There is one
PostgreSQL driver in the house, and its connection is awaited here: call Alembic from a thread in
which no event loop runs.
"""

import asyncio
from pathlib import Path

from alembic import context
from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.config import Settings
from app.db import metadata
from app.private import SQLITE, make

# Begins the transaction and waits until no other migration runs
LOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(hashtextextended('milepost migrate', 0))",
}


def migrate(connection: Connection) -> None:
    """Run the wanted migrations on `connection`; the caller commits."""
    dialect = connection.dialect.name
    connection.exec_driver_sql(LOCK[dialect])
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # SQLite cannot alter most things in place: Alembic copies the table instead
        render_as_batch=dialect == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_sqlite(url: str) -> None:
    """Run the migrations on an SQLite file; a new one is for nobody but its owner."""
    make(Path(url.removeprefix(SQLITE)))
    # The driver would begin its own transactions, but none around DDL: so it begins none
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        migrate(connection)
        connection.exec_driver_sql("COMMIT")


async def migrate_postgresql(url: str) -> None:
    """Run the migrations on a PostgreSQL database."""
    asynchronous = make_url(url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(asynchronous, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()


if context.is_offline_mode():
    raise SystemExit("the migrations look at the database: run them without --sql")

url: str = context.config.attributes.get("database_url") or Settings().database_url
if url.startswith("sqlite:"):
    migrate_sqlite(url)
else:
    asyncio.run(migrate_postgresql(url))
