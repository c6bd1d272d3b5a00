"""Answers that are fetched later: who may have them, whether they are there, and for how long.

A row is made when a request is accepted and gets its answer when there is one, in the database, so
that any worker can be asked for it. Whoever runs the request gives a sign of life now and then;
without one it counts as lost, because nobody is left who would answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app import db

LEASE = 15_000_000  # microseconds for which a request counts as running without a sign of life
KEPT = 3_600_000_000  # microseconds for which an answer is kept

D = db.deferred
COLUMNS = tuple(D.c.keys())


@dataclass(frozen=True, slots=True)
class Deferred:
    """One such request: `body` is its answer once it is `done`; by `until` it is lost, or gone."""

    id: str
    caller: str
    ordered: int
    until: int
    done: bool = False
    body: bytes = b""


def _given(name: str) -> sa.BindParameter[Any]:
    kinds: dict[str, sa.types.TypeEngine[Any]] = {
        "now": db.Key,
        "lost": db.Key,
        "until": db.Key,
        "body": sa.LargeBinary(),
    }
    return sa.bindparam(name, type_=kinds.get(name, sa.Text()))


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    one = sa.and_(D.c.id == _given("id"), D.c.caller == _given("caller"))
    values = {column.name: sa.bindparam(f"new_{column.name}", type_=column.type) for column in D.c}
    # What was lost is told for as long as an answer would have been kept
    answered = sa.and_(D.c.done == sa.text("1"), D.c.until < _given("now"))
    old = sa.or_(answered, D.c.until < _given("lost"))
    found = {
        "add": sa.insert(D).values(values).returning(D.c.id),
        "count": sa.select(sa.func.count()).where(D.c.caller == _given("caller")),
        "one": sa.select(D).where(one),
        "sign": sa.update(D)
        .where(D.c.id == _given("id"), D.c.done == sa.text("0"))
        .values(until=_given("until"))
        .returning(D.c.id),
        "finish": sa.update(D)
        .where(D.c.id == _given("id"))
        .values(until=_given("until"), done=sa.text("1"), body=_given("body"))
        .returning(D.c.id),
        "forget": sa.delete(D).where(one).returning(D.c.id),
        "expired": sa.select(sa.func.count()).where(old),
        "expire": sa.delete(D).where(old).returning(D.c.id),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def add(database: db.Database, asked: Deferred, most: int) -> bool:
    """Add a request; return False, and add nothing, where its caller has as many as one may."""
    known = _statements(database.dialect)
    values = {f"new_{name}": getattr(asked, name) for name in COLUMNS}

    async def work(connection: db.Connection) -> bool:
        await connection.exclusive([f"deferred {asked.caller}"])
        ((count,),) = await connection.rows(known["count"], {"caller": asked.caller})
        if count >= most:
            return False
        await connection.rows(known["add"], {**values, "new_done": 0})
        return True

    return await database.write(work)


async def find(database: db.Database, id: str, caller: str) -> Deferred | None:
    """Return what a caller has under an id; None if there is nothing, or it is somebody else's."""
    rows = await _read(database, "one", {"id": id, "caller": caller})
    if not rows:
        return None
    _, _, ordered, until, done, body = rows[0]
    return Deferred(id, caller, ordered, until, bool(done), bytes(body))


async def sign(database: db.Database, id: str, until: int) -> bool:
    """Give a sign of life; return False where the request was cancelled."""
    return bool(await _write(database, "sign", {"id": id, "until": until}))


async def finish(database: db.Database, id: str, body: bytes, until: int) -> None:
    """Keep the answer of a request that was not cancelled meanwhile."""
    await _write(database, "finish", {"id": id, "body": body, "until": until})


async def forget(database: db.Database, id: str, caller: str) -> bool:
    """Drop a request and its answer; return whether the caller had one."""
    return bool(await _write(database, "forget", {"id": id, "caller": caller}))


async def expire(database: db.Database, now: int) -> None:
    """Drop what nobody has fetched in time."""
    values: dict[str, object] = {"now": now, "lost": now - KEPT}
    ((count,),) = await _read(database, "expired", values)
    if count:
        await _write(database, "expire", values)


async def _read(database: db.Database, name: str, values: dict[str, object]) -> Sequence[db.Row]:
    statement = _statements(database.dialect)[name]
    return await database.read(lambda connection: connection.rows(statement, values))


async def _write(database: db.Database, name: str, values: dict[str, object]) -> Sequence[db.Row]:
    statement = _statements(database.dialect)[name]
    return await database.write(lambda connection: connection.rows(statement, values))
