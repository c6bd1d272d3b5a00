"""Statements: what is asked of a database, and how each dialect writes it.

SQLAlchemy writes SELECTs, once for each shape; bulk changes are written here, because one text
has to serve any number of rows: executemany on SQLite, arrays on PostgreSQL.

Rule: a list parameter is one array (PostgreSQL) or one JSON text (SQLite), so that a statement's
text never depends on its values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

Row = Sequence[Any]
Dialect = Literal["sqlite", "postgresql"]
Lock = Literal["", "share", "update"]
REVISION = "SELECT version_num FROM alembic_version"
DEFINITIONS = "SELECT number FROM definitions_version"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL text with positional parameters, the names of its parameters in order, and constants.

    `constants` are the values that SQLAlchemy itself passes as parameters, such as OFFSET 0.
    """

    text: str
    names: tuple[str, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to insert, delete or update in one table, as one statement.

    `add` skips rows that are there already, `put` replaces them; `by` is how `put`, `update` and
    `delete` find theirs.
    """

    kind: Literal["insert", "add", "put", "update", "delete"]
    table: sa.Table
    columns: tuple[str, ...]
    rows: Sequence[Row]
    by: tuple[str, ...] = ("key",)


class among(sa.ColumnElement[bool]):
    """`column` equals one of the values in the list parameter `name`."""

    inherit_cache = True
    type = sa.Boolean()
    _is_implicitly_boolean = True

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        self.column = column
        self.name = name


def _plain(kind: Any) -> Any:
    """Return a column's type without collation, as an array parameter is cast to it."""
    return sa.Text() if isinstance(kind, sa.Text) else kind


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: SQLCompiler, **kw: Any) -> str:
    array = sa.bindparam(element.name, type_=postgresql.ARRAY(_plain(element.column.type)))
    return f"{compiler.process(element.column, **kw)} = ANY({compiler.process(array, **kw)})"


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: SQLCompiler, **kw: Any) -> str:
    text = sa.bindparam(element.name, type_=sa.Text())
    column = compiler.process(element.column, **kw)
    return f"{column} IN (SELECT value FROM json_each({compiler.process(text, **kw)}))"


def listed(name: str, dialect: Dialect) -> sa.FromClause:
    """Return the resource keys in the list parameter `name` as rows with a column `key`."""
    if dialect == "postgresql":
        array = sa.bindparam(name, type_=postgresql.ARRAY(sa.BigInteger()))
        key = sa.column("key", sa.BigInteger)
        return sa.func.unnest(array).table_valued(key).render_derived()
    text = sa.bindparam(name, type_=sa.Text())
    each = sa.func.json_each(text).table_valued(sa.column("value", sa.BigInteger))
    return sa.select(each.c.value.label("key")).subquery()


def gathered(key: sa.ColumnElement[Any], dialect: Dialect) -> sa.ColumnElement[Any]:
    """Return all keys of a column as one value, which `keys_in` reads."""
    return sa.func.array_agg(key) if dialect == "postgresql" else sa.func.json_group_array(key)


def keys_in(gathered: Sequence[int] | str | None) -> list[int]:
    """Return the keys that were gathered, each once, the newest resources first."""
    found = msgspec.json.decode(gathered) if isinstance(gathered, str) else gathered or ()
    return sorted(set(found), reverse=True)


class contains(sa.ColumnElement[bool]):
    """`column` has the text `part` somewhere in it; both as they are, without wildcards."""

    inherit_cache = True
    type = sa.Boolean()
    _is_implicitly_boolean = True

    def __init__(self, column: sa.ColumnElement[Any], part: sa.ColumnElement[Any]) -> None:
        self.column = column
        self.part = part


@compiles(contains, "postgresql")
def _contains_postgresql(element: contains, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(
        sa.func.strpos(element.column, element.part) > sa.literal_column("0"), **kw
    )


@compiles(contains, "sqlite")
def _contains_sqlite(element: contains, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(
        sa.func.instr(element.column, element.part) > sa.literal_column("0"), **kw
    )


class ends_with(contains):
    """`column` ends with the text `part`."""

    inherit_cache = True


@compiles(ends_with)
def _ends_with(element: ends_with, compiler: SQLCompiler, **kw: Any) -> str:
    length = sa.func.length
    start = length(element.column) - length(element.part) + 1
    same = sa.func.substr(element.column, start) == element.part
    long_enough = length(element.column) >= length(element.part)
    return compiler.process(sa.and_(long_enough, same), **kw)


class has_words(sa.ColumnElement[bool]):
    """The row of a table of words has all words of the text `wanted`, parted by single spaces."""

    inherit_cache = True
    type = sa.Boolean()
    _is_implicitly_boolean = True

    def __init__(self, table: Any, wanted: sa.ColumnElement[Any]) -> None:
        self.row = table.c.key
        self.words = table.c.words
        self.index = f"{table.element.name}_fts"
        self.wanted = wanted


@compiles(has_words, "postgresql")
def _has_words_postgresql(element: has_words, compiler: SQLCompiler, **kw: Any) -> str:
    words = compiler.process(element.words, **kw)
    return f"{words} @@ replace({compiler.process(element.wanted, **kw)}, ' ', ' & ')::tsquery"


@compiles(has_words, "sqlite")
def _has_words_sqlite(element: has_words, compiler: SQLCompiler, **kw: Any) -> str:
    key, wanted = compiler.process(element.row, **kw), compiler.process(element.wanted, **kw)
    index = element.index  # words side by side mean all of them; what follows AND is lower case
    return f"{key} IN (SELECT rowid FROM {index} WHERE {index} MATCH {wanted})"


def forgotten(table: sa.Table, dialect: Dialect) -> list[Statement]:
    """Return what takes the words of removed rows out of the index of a table of words.

    FTS5 keeps them beside the mark of their removal, until it happens to merge the two.
    """
    index = f"{table.name}_fts"
    text = f"INSERT INTO {index} ({index}) VALUES ('optimize')"
    return [Statement(text, ())] if dialect == "sqlite" else []


class unindexed(sa.ColumnElement[Any]):
    """A column that SQLite must not look up by; its planner takes the widest index otherwise."""

    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any]) -> None:
        self.column = column
        self.type = column.type


@compiles(unindexed)
def _unindexed(element: unindexed, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.column, **kw)


@compiles(unindexed, "sqlite")
def _unindexed_sqlite(element: unindexed, compiler: SQLCompiler, **kw: Any) -> str:
    return f"+{compiler.process(element.column, **kw)}"


class grouped(sa.ColumnElement[bool]):
    """A condition in parentheses that stay, where SQLAlchemy would join it with its neighbours."""

    inherit_cache = True
    type = sa.Boolean()
    _is_implicitly_boolean = True

    def __init__(self, clause: sa.ColumnElement[bool]) -> None:
        self.clause = clause


@compiles(grouped)
def _grouped(element: grouped, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clause, **kw)})"


class horizon(sa.ColumnElement[str]):
    """Which transactions the statement sees, as a text that `sees` understands."""

    inherit_cache = True
    type = sa.Text()


@compiles(horizon, "postgresql")
def _horizon_postgresql(_: horizon, compiler: SQLCompiler, **kw: Any) -> str:
    del compiler, kw
    return "pg_current_snapshot()::text"


@compiles(horizon, "sqlite")
def _horizon_sqlite(_: horizon, compiler: SQLCompiler, **kw: Any) -> str:
    del compiler, kw
    return "(SELECT CAST(max(xid) AS TEXT) FROM resource_version)"


def sees(horizon: str, xid: int) -> bool:
    """Return whether a statement with this horizon saw what a transaction wrote.

    On PostgreSQL it is `xmin:xmax:xip`; on SQLite, where transactions commit in order, the last.
    https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
    """
    first, _, rest = horizon.partition(":")
    if not rest:
        return xid <= int(first)
    last, _, running = rest.partition(":")
    return xid < int(first) or (xid < int(last) and str(xid) not in running.split(","))


_DIALECTS: dict[Dialect, Any] = {
    "sqlite": sqlite.dialect(paramstyle="qmark"),
    "postgresql": asyncpg_dialect(),  # type: ignore[no-untyped-call]
}


def statement(clause: sa.ClauseElement, dialect: Dialect) -> Statement:
    """Return the SQL text of a Core statement in a dialect, and the order of its parameters."""
    compiled = cast("SQLCompiler", clause.compile(dialect=_DIALECTS[dialect]))
    constants = {name: b.value for name, b in compiled.binds.items() if not b.required}
    return Statement(str(compiled), tuple(compiled.positiontup or ()), constants)


def arguments(statement: Statement, values: Mapping[str, Any]) -> list[Any]:
    """Return the values of a statement's parameters in their order."""
    known = statement.constants
    return [known[name] if name in known else values[name] for name in statement.names]


def _on_conflict(change: Change) -> str:
    """Return what becomes of an inserted row that is there already."""
    if change.kind == "add":
        return " ON CONFLICT DO NOTHING"
    if change.kind != "put":
        return ""
    own = [name for name in change.columns if name not in change.by]
    sets = ", ".join(f"{name} = excluded.{name}" for name in own)
    return f" ON CONFLICT ({', '.join(change.by)}) DO UPDATE SET {sets}"


def _generated(change: Change, dialect: Dialect) -> Mapping[str, str]:
    if change.kind != "insert":
        return {}
    return cast("Mapping[str, str]", change.table.info.get("generated", {}).get(dialect, {}))


def sqlite_change(change: Change, rows: int = 1) -> str:
    """Return the statement that applies a change to one row, or inserts several."""
    table, columns = change.table.name, change.columns
    generated = _generated(change, "sqlite")
    if change.kind in {"insert", "add", "put"}:
        marks = ", ".join([*("?" for _ in columns), *generated.values()])
        values = ", ".join([f"({marks})"] * rows)
        names = ", ".join([*columns, *generated])
        return f"INSERT INTO {table} ({names}) VALUES {values}{_on_conflict(change)}"
    where = " AND ".join(f"{name} = ?{columns.index(name) + 1}" for name in change.by)
    if change.kind == "delete":
        return f"DELETE FROM {table} WHERE {where}"
    sets = ", ".join(f"{name} = ?{n}" for n, name in enumerate(columns, 1) if name not in change.by)
    return f"UPDATE {table} SET {sets} WHERE {where}"


def postgresql_arguments(change: Change) -> list[Any]:
    """Return the columns of a change as parameters: array literals, or lists of bytes.

    asyncpg encodes an array element by element with two isinstance checks each; a literal is one
    join. That halves the time that a create takes in the driver.
    """
    return [
        list(column) if isinstance(column[0], bytes) else _array_literal(column)
        for column in zip(*change.rows, strict=True)
    ]


def _array_literal(column: Sequence[int | float | str]) -> str:
    """Return a PostgreSQL array literal; texts are quoted, and escaped where they have to be."""
    if not isinstance(column[0], str):
        return "{" + ",".join(map(str, column)) + "}"
    texts = cast("Sequence[str]", column)
    joined = '","'.join(texts)
    if "\\" in joined or joined.count('"') != 2 * (len(texts) - 1):
        joined = '","'.join(t.replace("\\", "\\\\").replace('"', '\\"') for t in texts)
    return '{"' + joined + '"}'


def postgresql_change(change: Change, first: int) -> str:
    """Return the statement that applies a change, its parameters numbered from `first`."""
    table, columns = change.table.name, change.columns
    spell = _DIALECTS["postgresql"].type_compiler_instance.process
    types = [spell(_plain(change.table.c[column].type)) for column in columns]
    arrays = ", ".join(
        f"${n}::{kind}[]" if kind == "BYTEA" else f"${n}::text::{kind}[]"
        for n, kind in enumerate(types, first)
    )
    rows = f"unnest({arrays}) AS n({', '.join(columns)})"
    generated = _generated(change, "postgresql")
    if change.kind in {"insert", "add", "put"}:
        return (
            f"INSERT INTO {table} ({', '.join([*columns, *generated])})"
            f" SELECT {', '.join([*(f'n.{c}' for c in columns), *generated.values()])}"
            f" FROM {rows}{_on_conflict(change)}"
        )
    where = " AND ".join(f"t.{name} = n.{name}" for name in change.by)
    if change.kind == "delete":
        return f"DELETE FROM {table} t USING {rows} WHERE {where}"
    sets = ", ".join(f"{name} = n.{name}" for name in columns if name not in change.by)
    return f"UPDATE {table} t SET {sets} FROM {rows} WHERE {where}"


_PAIRS: dict[Dialect, tuple[str, tuple[str, ...]]] = {
    "sqlite": (
        "(SELECT json_extract(value, '$[0]') AS type, json_extract(value, '$[1]') AS id"
        " FROM json_each(?))",
        ("pairs",),
    ),
    "postgresql": ("unnest($1::smallint[], $2::text[])", ("types", "ids")),
}


LOCKS: Mapping[Lock, str] = {
    "": "",
    "share": " ORDER BY r.key FOR SHARE OF r",
    "update": " ORDER BY r.key FOR UPDATE OF r",
}


def identify(dialect: Dialect, *, lock: Lock) -> Statement:
    """Return the statement that finds resource rows by (type, id), and may lock them in key order.

    A row that is locked to `share` can be locked so by others, and changed by nobody.

    Parameters: `pairs` as [[type, id], ...] on SQLite, `types` and `ids` on PostgreSQL. Columns:
    type, id, key, version, state, updated, hash, manifest, owner.
    """
    rows, names = _PAIRS[dialect]
    order = LOCKS[lock] if dialect == "postgresql" else ""
    return Statement(
        "SELECT r.type, r.id, r.key, r.version, r.state, r.updated, r.hash, r.manifest, r.owner"
        f" FROM {rows} AS w{'(type, id)' if dialect == 'postgresql' else ''}"
        f" JOIN resource r ON r.type = w.type AND r.id = w.id{order}",
        names,
    )
