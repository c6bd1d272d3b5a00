"""The database: tables, the two engines, and everything in which their dialects differ.

One SQLAlchemy definition builds both schemas (`tables`). SQLAlchemy also writes the statements
(`statements`), but does not run them: PostgreSQL is driven by asyncpg, SQLite by the standard
library, because SQLAlchemy's engines cost four to ten times as much a statement
(docs/decisions.md).

Work is a function from a `Connection` to an awaitable; a `Database` decides where it runs: `read`
(a few cheap statements), `search` (one snapshot, limited time) and `write` (one transaction).
"""

import sqlite3

import asyncpg
import sqlalchemy as sa

from app.db.engine import Connection, Database, Load, Meter, Outdated, TooSlow, Unavailable, Work
from app.db.postgresql import PostgresDatabase
from app.db.sqlite import SqliteDatabase
from app.db.statements import (
    Change,
    Dialect,
    Lock,
    Row,
    Statement,
    among,
    contains,
    ends_with,
    forgotten,
    gathered,
    grouped,
    has_words,
    horizon,
    identify,
    keys_in,
    listed,
    sees,
    statement,
    unindexed,
)
from app.db.tables import (
    Float,
    Int,
    Key,
    Small,
    Table,
    Text,
    account,
    audit,
    audit_patient,
    audit_seal,
    client,
    compartment,
    concept_ancestor,
    deferred,
    definitions_version,
    expunged,
    idempotency,
    index_composite,
    index_content,
    index_date,
    index_position,
    index_quantity,
    index_reference,
    index_string,
    index_text,
    index_token,
    index_uri,
    job,
    metadata,
    param_dictionary,
    resource,
    resource_version,
    secret,
    signing_key,
    terminology,
    terminology_use,
    token,
    value_set_member,
)

# What says that a database cannot be reached, opened or understood
FAILURES = (
    OSError,
    Unavailable,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
    sa.exc.SQLAlchemyError,
    sqlite3.Error,
)


def connect(url: str, search_seconds: float, connections: int) -> Database:
    """Return the database that `url` names, not opened yet."""
    if url.startswith("sqlite:///"):
        return SqliteDatabase(url.removeprefix("sqlite:///"), search_seconds)
    return PostgresDatabase(url, search_seconds, connections)


__all__ = [
    "FAILURES",
    "Change",
    "Connection",
    "Database",
    "Dialect",
    "Float",
    "Int",
    "Key",
    "Load",
    "Lock",
    "Meter",
    "Outdated",
    "Row",
    "Small",
    "Statement",
    "Table",
    "Text",
    "TooSlow",
    "Unavailable",
    "Work",
    "account",
    "among",
    "audit",
    "audit_patient",
    "audit_seal",
    "client",
    "compartment",
    "concept_ancestor",
    "connect",
    "contains",
    "deferred",
    "definitions_version",
    "ends_with",
    "expunged",
    "forgotten",
    "gathered",
    "grouped",
    "has_words",
    "horizon",
    "idempotency",
    "identify",
    "index_composite",
    "index_content",
    "index_date",
    "index_position",
    "index_quantity",
    "index_reference",
    "index_string",
    "index_text",
    "index_token",
    "index_uri",
    "job",
    "keys_in",
    "listed",
    "metadata",
    "param_dictionary",
    "resource",
    "resource_version",
    "secret",
    "sees",
    "signing_key",
    "statement",
    "terminology",
    "terminology_use",
    "token",
    "unindexed",
    "value_set_member",
]
