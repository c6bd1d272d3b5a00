"""The chain over the audit trail: numbered, hashed seals that show whether a row was touched.

Theory of operation. A row carries no chain when it is written: that would make all writers wait for
each other. The sealer follows a second behind, in the order in which rows were committed, and
enters the rows by their patients (`audit_patient`). The seal of a row is the SHA-256 of the seal
before it and of the row. Whoever changes, removes or swaps rows breaks the chain there, also if
they may drop the triggers which refuse that. Whoever can write both tables may seal anew what they
have made, or cut off the end: only a last seal that is kept elsewhere shows that (`known`).

On PostgreSQL the order of commits is that of (xid, seq) among transactions older than any that
still runs; SQLite has one writer, so there it is that of seq. One sealer works at a time.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from msgspec import Struct, json

from app import db
from app.logs import fault

log = logging.getLogger("milepost")

SECONDS = 1.0  # between two rounds
TOGETHER = 2000  # rows of one step
TURN = "the sealer of the audit trail"  # the name of the lock
FIRST = b""  # what the first seal follows

A, P, S = db.audit, db.audit_patient, db.audit_seal
encode = json.Encoder().encode


class Whose(Struct):
    """What a seal needs of the detail of a row; the rest of it is not decoded."""

    patients: list[int] = []


WHOSE = json.Decoder(Whose)
Found = tuple[Sequence[db.Row], set[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Report:
    """How far a verification is: `checked` of `sealed` seals, the `last` of them as number:hash.

    `broken` says where the chain breaks, "" if nowhere so far; `waiting` rows have no seal yet.
    """

    sealed: int
    waiting: int
    checked: int
    last: str
    broken: str = ""


def _given(name: str) -> sa.BindParameter[object]:
    return sa.bindparam(name, type_=db.Key)


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    place = sa.select(A.c.xid, A.c.seq).select_from(S.join(A, A.c.id == S.c.audit_id))
    one: sa.ColumnElement[int] = sa.literal_column("1")
    behind = sa.tuple_(A.c.xid, A.c.seq) > sa.tuple_(_given("xid"), _given("seq"))
    after: sa.ColumnElement[bool] = behind
    if dialect == "postgresql":
        oldest = sa.text("pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        after = sa.and_(behind, A.c.xid < oldest)
    found: dict[str, sa.ClauseElement] = {
        "last": sa.select(S.c.n, S.c.hash).order_by(S.c.n.desc()).limit(one),
        "place": place.order_by(S.c.n.desc()).limit(one),  # of the last row that is still there
        "following": sa.select(A)
        .where(after)
        .order_by(A.c.xid, A.c.seq)
        .limit(sa.literal_column(str(TOGETHER))),
        "patients": sa.select(P.c.owner, P.c.id).where(
            db.among(P.c.owner, "owners"), P.c.id >= _given("first"), P.c.id <= _given("last")
        ),
        "seals": sa.select(S.c.n, S.c.hash, S.c.audit_id, A)
        .select_from(S.outerjoin(A, A.c.id == S.c.audit_id))
        .where(S.c.n > _given("n"))
        .order_by(S.c.n)
        .limit(sa.literal_column(str(TOGETHER))),
        "sealed": sa.select(sa.func.count()).select_from(S),
        "waiting": sa.select(sa.func.count()).select_from(A).where(behind),
        "next": sa.select(A.c.id).where(after).limit(one),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


def link(before: bytes, row: Sequence[object]) -> bytes:
    """Return the hash of the seal that a row has after the seal `before`."""
    return hashlib.sha256(before + encode([*row])).digest()


def patients(row: Sequence[Any]) -> list[int]:
    """Return the keys of the Patients that a row is about."""
    return WHOSE.decode(row[-1]).patients


async def _listed(
    connection: db.Connection, dialect: db.Dialect, rows: Sequence[Sequence[Any]]
) -> set[tuple[int, int]]:
    """Return (owner, row) of what `audit_patient` has of these rows."""
    owners = sorted({owner for row in rows for owner in patients(row)})
    if not owners:
        return set()
    ids = [row[0] for row in rows]
    values = {"owners": owners, "first": min(ids), "last": max(ids)}
    return {tuple(r) for r in await connection.rows(_statements(dialect)["patients"], values)}


async def place(connection: db.Connection, dialect: db.Dialect) -> tuple[int, int]:
    """Return (xid, seq) of the last sealed row that is still there: what is after it waits."""
    ((xid, seq),) = await connection.rows(_statements(dialect)["place"], {}) or [(0, 0)]
    return xid, seq


async def seal(database: db.Database) -> int:
    """Seal the next rows, at most TOGETHER; return how many there were."""
    dialect = database.dialect
    asked = _statements(dialect)

    async def waiting(connection: db.Connection, rows: str) -> Sequence[db.Row]:
        xid, seq = await place(connection, dialect)
        return await connection.rows(asked[rows], {"xid": xid, "seq": seq})

    async def work(connection: db.Connection) -> int:
        await connection.exclusive([TURN])
        ((n, before),) = await connection.rows(asked["last"], {}) or [(0, FIRST)]
        rows = await waiting(connection, "following")
        seals: list[db.Row] = []
        entries: list[tuple[int, int]] = []
        for row in rows:
            n, before = n + 1, link(bytes(before), row)
            seals.append((n, row[0], before))
            entries += [(owner, row[0]) for owner in patients(row)]
        await connection.change(
            [
                db.Change("insert", S, ("n", "audit_id", "hash"), seals),
                # some may be there: whoever removed the seals has forgotten them
                db.Change("add", P, ("owner", "id"), sorted(entries)),
            ]
        )
        return len(rows)

    some = await database.read(lambda connection: waiting(connection, "next"))
    return await database.write(work) if some else 0


async def keep_sealed(database: db.Database) -> None:
    """Seal what is written, a second behind; ends when it is cancelled."""
    while True:
        await asyncio.sleep(SECONDS)
        try:
            while await seal(database) == TOGETHER:
                pass
        except (db.Unavailable, db.TooSlow):
            pass  # the next round finds the database that there is
        except Exception as error:
            # Without its text: a database error quotes rows in it
            log.error("Sealing the audit trail failed: %s", fault(error))


async def verify(database: db.Database, known: str = "") -> AsyncIterator[Report]:
    """Yield how far the chain is proved, step by step; the last report is the result.

    `known` is a last seal of before, as `Report.last` gave it: the chain has to have it still.
    """
    dialect = database.dialect
    asked = _statements(dialect)
    ((sealed,),) = await database.read(lambda c: c.rows(asked["sealed"], {}))
    xid, seq = await database.read(lambda c: place(c, dialect))
    after = {"xid": xid, "seq": seq}
    ((waiting,),) = await database.read(lambda c: c.rows(asked["waiting"], after))
    number, _, wanted = known.partition(":")
    n, before = 0, FIRST
    while True:

        async def work(connection: db.Connection) -> Found:
            rows = await connection.rows(asked["seals"], {"n": n})  # noqa: B023 - awaited at once
            there = [row[3:] for row in rows if row[3] is not None]
            return rows, await _listed(connection, dialect, there)

        rows, listed = await database.read(work)
        broken = ""
        for own, hash, id, *row in rows:
            n += 1
            if own != n:
                broken = f"Seal {n} is missing"
            elif row[0] is None:
                broken = f"Row {id}, of seal {n}, is missing"
            elif link(before, row) != bytes(hash):
                broken = f"Row {id}, or seal {n} of it, is not what it was"
            elif not all((owner, id) in listed for owner in patients(row)):
                broken = f"Row {id}, of seal {n}, is not found by all of its patients"
            elif str(n) == number and bytes(hash).hex() != wanted:
                broken = f"Seal {n} is not {wanted}: the chain was made anew"
            if broken:
                n -= 1
                break
            before = bytes(hash)
        last = f"{n}:{before.hex()}" if n else ""
        if not rows and not broken and number and n < int(number):
            broken = f"Seal {number} is missing: the end of the chain was cut off"
        yield Report(sealed, waiting, n, last, broken)
        if broken or not rows:
            return
