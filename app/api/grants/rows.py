"""How the rows of the authorization server are asked for and changed.

Statements are written once for each dialect. Whatever changes something takes further changes
along (`also`): the rows of the audit trail are committed with what they tell, or not at all.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from app import db

GOOD: sa.ColumnClause[int] = sa.literal_column("1")
BAD: sa.ColumnClause[int] = sa.literal_column("0")


class Refused(ValueError):
    """Something cannot be stored as it was asked; the text is a sentence for who asked."""


class Taken(Refused):
    """Another one has the name."""


def given(column: sa.Column[object], name: str = "") -> sa.BindParameter[object]:
    """Return the parameter that a column is compared with; it has the column's name, or another."""
    return sa.bindparam(name or column.name, type_=column.type)


def new(*columns: sa.Column[object]) -> dict[str, sa.BindParameter[object]]:
    """Return the parameters that columns are set to: `new_` and the column's name."""
    return {column.name: given(column, f"new_{column.name}") for column in columns}


def inserted(table: sa.Table, row: dict[str, object]) -> db.Change:
    """Return the change that adds a row."""
    return db.Change("insert", table, tuple(row), [tuple(row.values())])


def storable(values: Mapping[str, object]) -> dict[str, object]:
    """Return values that both databases take as parameters: no row has what was replaced."""
    return {
        name: value.encode(errors="replace").decode().replace("\0", "?")
        if isinstance(value, str)
        else value
        for name, value in values.items()
    }


async def read(
    database: db.Database, statement: db.Statement, values: Mapping[str, object]
) -> Sequence[db.Row]:
    """Return the rows of one cheap statement."""
    known = storable(values)
    return await database.read(lambda connection: connection.rows(statement, known))


async def write(
    database: db.Database,
    statement: db.Statement,
    values: Mapping[str, object],
    also: Sequence[db.Change] = (),
) -> Sequence[db.Row]:
    """Return what a statement changed; where it changed nothing, `also` is not written either."""
    known = storable(values)

    async def work(connection: db.Connection) -> Sequence[db.Row]:
        if also:
            await connection.begin()
        rows = await connection.rows(statement, known)
        if rows and also:
            await connection.change(also)
        return rows

    return await database.write(work)
