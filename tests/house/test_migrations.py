"""The migrations and the tables of `app.db` say the same, down to the last index."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.db import metadata
from app.main import alembic_config
from tests.support.migrations import downgrade, upgrade

T = TypeVar("T")

# Each engine's own words for all that is in a schema, except Alembic's table
DESCRIPTIONS = {
    "sqlite": "SELECT type, name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version'",
    "postgresql": """
        SELECT 'column', c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
               a.attnotnull, a.attidentity, a.attcompression, o.collname,
               pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_collation o ON o.oid = a.attcollation
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
          AND c.relname <> 'alembic_version'
        UNION ALL
        SELECT 'index', tablename, 0, indexname, indexdef, NULL, NULL, NULL, NULL, NULL
        FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        UNION ALL
        SELECT 'constraint', conrelid::regclass::text, 0, conname, pg_get_constraintdef(oid),
               NULL, NULL, NULL, NULL, NULL
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
          AND conrelid <> 'alembic_version'::regclass
        UNION ALL
        SELECT 'sequence', sequencename, 0, data_type::text,
               format('%s by %s', start_value, increment_by), cycle, NULL, NULL, NULL, NULL
        FROM pg_sequences WHERE schemaname = 'public'
        UNION ALL
        SELECT 'trigger', tgrelid::regclass::text, tgtype, tgname, pg_get_triggerdef(oid),
               NULL, NULL, NULL, NULL, NULL
        FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT 'function', proname, 0, proname, prosrc, NULL, NULL, NULL, NULL, NULL
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    """,
}


def connected(url: str, work: Callable[[Connection], T]) -> T:
    """Return the result of `work` on a connection to the database, committed."""
    if url.startswith("sqlite:"):
        with create_engine(url, poolclass=NullPool).begin() as connection:
            return work(connection)
    return asyncio.run(connected_to_postgresql(url, work))


async def connected_to_postgresql(url: str, work: Callable[[Connection], T]) -> T:
    asynchronous = make_url(url).set(drivername="postgresql+asyncpg")
    async with create_async_engine(asynchronous, poolclass=NullPool).begin() as connection:
        return await connection.run_sync(work)


def described(connection: Connection) -> list[tuple[Any, ...]]:
    """Return every table, column, index, constraint, trigger ... of a schema, in a fixed order."""
    rows = connection.execute(text(DESCRIPTIONS[connection.dialect.name]))
    return sorted((tuple(row) for row in rows), key=str)


def test_the_migrations_give_exactly_the_metadata(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    migrated = connected(empty_database_url, described)
    downgrade(empty_database_url)
    left_over = connected(empty_database_url, described)

    connected(empty_database_url, metadata.create_all)

    assert left_over == []
    assert migrated == connected(empty_database_url, described)


def test_a_second_migration_finds_nothing_to_do(database_url: str) -> None:
    before = connected(database_url, described)

    upgrade(database_url)

    assert connected(database_url, described) == before


def test_a_refused_migration_leaves_nothing(empty_database_url: str) -> None:
    obstacle = text("CREATE TABLE secret (name text)")  # among the last tables to be made
    connected(empty_database_url, lambda connection: connection.execute(obstacle))

    with pytest.raises(DBAPIError, match="secret"):
        upgrade(empty_database_url)

    assert connected(empty_database_url, tables) == ["secret"]


def tables(connection: Connection) -> list[str]:
    """Return the names of all tables, Alembic's included."""
    return sorted(connection.dialect.get_table_names(connection))


def test_revisions_are_one_line() -> None:
    script = ScriptDirectory.from_config(alembic_config("sqlite:///unused.db"))

    assert len(script.get_heads()) == 1
