"""The database: tables, the two engines, and everything in which their dialects differ.

One SQLAlchemy definition builds both schemas (`tables`). SQLAlchemy also writes the statements
(`statements`), but does not run them: PostgreSQL is driven by asyncpg, SQLite by the standard
library, because SQLAlchemy's engines cost four to ten times as much a statement
(docs/decisions.md).

Work is a function from a `Connection` to an awaitable; a `Database` decides where it runs: `read`
(a few cheap statements), `search` (one snapshot, limited time) and `write` (one transaction).
"""

from app.db.engine import Connection, Database, TooSlow, Unavailable, Work
from app.db.postgresql import PostgresDatabase
from app.db.sqlite import SqliteDatabase
from app.db.statements import Change, Dialect, Row, Statement, among, identify, statement
from app.db.tables import (
    Float,
    Int,
    Key,
    Small,
    Table,
    Text,
    compartment,
    index_date,
    index_quantity,
    index_reference,
    index_string,
    index_token,
    index_uri,
    metadata,
    param_dictionary,
    resource,
    resource_version,
    secret,
)


def connect(url: str, search_seconds: float, connections: int) -> Database:
    """Return the database that `url` names, not opened yet."""
    if url.startswith("sqlite:///"):
        return SqliteDatabase(url.removeprefix("sqlite:///"), search_seconds)
    return PostgresDatabase(url, search_seconds, connections)


__all__ = [
    "Change",
    "Connection",
    "Database",
    "Dialect",
    "Float",
    "Int",
    "Key",
    "Row",
    "Small",
    "Statement",
    "Table",
    "Text",
    "TooSlow",
    "Unavailable",
    "Work",
    "among",
    "compartment",
    "connect",
    "identify",
    "index_date",
    "index_quantity",
    "index_reference",
    "index_string",
    "index_token",
    "index_uri",
    "metadata",
    "param_dictionary",
    "resource",
    "resource_version",
    "secret",
    "statement",
]
