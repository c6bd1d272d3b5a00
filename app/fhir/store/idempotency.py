"""Calls that may come twice: what the first one told, by its key, for a day.

https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header

Rule: what is kept is what an answer is made from, references above all, never an answer: whoever
asks again sees what may be seen then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app import db
from app.fhir.wire import decode, encode

T = db.idempotency
KEPT = 24 * 3600 * 1_000_000  # microseconds
DROPPED_AT_ONCE = 10  # rows that are over, whenever one is added


@dataclass(frozen=True, slots=True)
class Told:
    """What a call was made with, by its digest, and what its answer is made from, if it is kept."""

    digest: bytes
    told: Mapping[str, Any] | None


async def recall(
    connection: db.Connection, dialect: db.Dialect, name: bytes, now: int
) -> Told | None:
    """Return what was told under a name in the last day, None for nothing."""
    values = {"name": name, "since": now - KEPT}
    rows = await connection.rows(_statements(dialect)["recall"], values)
    return Told(rows[0][0], decode(rows[0][1].encode())["told"]) if rows else None


async def remember(
    connection: db.Connection, dialect: db.Dialect, name: bytes, told: Told, now: int
) -> None:
    """Keep what was told under a name, and drop some of what is over."""
    await connection.rows(_statements(dialect)["drop"], {"since": now - KEPT})
    row = (name, told.digest, encode({"told": told.told}).decode(), now)
    columns = ("name", "digest", "told", "created")
    await connection.change([db.Change("put", T, columns, [row], ("name",))])


@cache
def _statements(dialect: db.Dialect) -> Mapping[str, db.Statement]:
    since: sa.BindParameter[int] = sa.bindparam("since", type_=T.c.created.type)
    name: sa.BindParameter[bytes] = sa.bindparam("name", type_=T.c.name.type)
    recalled = sa.select(T.c.digest, T.c.told).where(T.c.name == name, T.c.created > since)
    # Those that another transaction drops at this moment are not waited for
    over = (
        sa.select(T.c.name)
        .where(T.c.created <= since)
        .order_by(T.c.created)
        .limit(sa.literal_column(str(DROPPED_AT_ONCE)))
        .with_for_update(skip_locked=True)
    )
    dropped = sa.delete(T).where(T.c.name.in_(over)).returning(T.c.created)
    known = {"recall": recalled, "drop": dropped}
    return {name: db.statement(clause, dialect) for name, clause in known.items()}
