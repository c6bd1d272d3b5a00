"""Indexing anew: what a job does to the resources of a type, a few at a time.

Theory of operation. A search parameter that is added, changed or taken away, and an extractor that
makes other rows than before, mean the same work: make the index rows of each live resource of a
type again, from its current body, and write what is different. A job is such a walk in the order
of the keys. What is written meanwhile is written under the definitions that ordered the job, or
newer ones, so the walk need not meet it.

Each step is one short transaction: it locks its resources as any writer does, and no writer waits
longer for it than for another writer.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from functools import cache

import sqlalchemy as sa

from app import db, jobs
from app.fhir.access import SYSTEM
from app.fhir.store.catalogue import Catalogue, note_extractor
from app.fhir.store.record import Store

STEP = 100  # resources of a step
WAIT = 0.2  # seconds until it is worth another look at what others do
EVERYTHING = "everything"  # a job without steps: there as long as not all types are indexed anew

R, V = db.resource, db.resource_version
LIVE = sa.text("r.state = 1")


def _given(name: str, kind: object) -> sa.BindParameter[object]:
    return sa.bindparam(name, type_=kind)  # type: ignore[arg-type]


@cache
def statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    """Return the statements of this module: what to walk, and what it has as a body."""
    r = R.alias("r")
    of_type = r.c.type == _given("type", db.Small)
    following = (
        sa.select(r)
        .where(of_type, LIVE, r.c.key > _given("place", db.Key), r.c.key <= _given("last", db.Key))
        .order_by(r.c.key)
        .limit(_given("limit", db.Int))
    )
    if dialect == "postgresql":
        following = following.with_for_update()
    found = {
        "following": following,
        "bodies": sa.select(V.c.key, V.c.body)
        .select_from(r.join(V, sa.and_(V.c.key == r.c.key, V.c.version == r.c.version)))
        .where(db.among(r.c.key, "keys")),
        "extent": sa.select(sa.func.count(), sa.func.max(r.c.key)).where(of_type, LIVE),
        "extents": sa.select(r.c.type, sa.func.count(), sa.func.max(r.c.key))
        .where(LIVE)
        .group_by(r.c.type),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def order(database: db.Database, catalogue: Catalogue, types: Collection[str] = ()) -> None:
    """Order that the resources of these types, or all, are indexed anew.

    A job that is there goes on where it is, and so does what was ordered for all types, unless it
    was for an index with words and this one is for one without, or the other way round.
    """
    dialect = database.dialect
    everything = jobs.Job(EVERYTHING, kind(catalogue), ordered=catalogue.version)
    names, version = catalogue.definitions.resource_types, catalogue.version
    live = await database.read(lambda c: c.rows(statements(dialect)["extents"], {}))
    stored = {
        names[number - 1]: jobs.Job(names[number - 1], ordered=version, total=total, last=last)
        for number, total, last in live
    }

    async def work(connection: db.Connection) -> None:
        await connection.begin()
        there = {job.name: job for job in await jobs.listed(connection, dialect)}
        if EVERYTHING in there and there[EVERYTHING].about != everything.about:
            there = {}
        wanted = {name: job for name, job in stored.items() if name in types}
        if not types and EVERYTHING not in there:
            wanted = {**stored, EVERYTHING: everything}
        for name in sorted(wanted.keys() - there.keys()):
            await jobs.order(connection, dialect, wanted[name])

    await database.write(work)


def kind(catalogue: Catalogue) -> str:
    """Return which index a catalogue writes: "texts" for one with words."""
    return "texts" if catalogue.indexer.texts else ""


async def listed(database: db.Database, types: Collection[str] = ()) -> list[jobs.Job]:
    """Return the jobs that are not done: those of these types, or all."""
    found = await database.read(lambda connection: jobs.listed(connection, database.dialect))
    return [job for job in found if job.name != EVERYTHING and (not types or job.name in types)]


async def take(
    database: db.Database, catalogue: Catalogue, me: str, now: int, types: Collection[str] = ()
) -> jobs.Job | None:
    """Return a job, of these types or any, that is now held by `me`; None if there is none free.

    Raises Outdated for one that was ordered by newer definitions.
    """
    dialect = database.dialect

    async def work(connection: db.Connection) -> jobs.Job | None:
        there = await jobs.listed(connection, dialect)
        if any(job.name == EVERYTHING and job.about != kind(catalogue) for job in there):
            return None  # for those who were told the same of texts
        if [job.name for job in there] == [EVERYTHING]:
            indexer = catalogue.indexer
            await note_extractor(connection, dialect, indexer)
            await jobs.forget(connection, dialect, EVERYTHING)
        for job in there:
            if job.name == EVERYTHING or (types and job.name not in types):
                continue
            if job.ordered > catalogue.version:
                raise db.Outdated
            if held := await jobs.claim(connection, dialect, job, me, now):
                return held
        return None

    if not await database.read(lambda connection: jobs.listed(connection, dialect)):
        return None
    job = await database.write(work)
    if job is None or job.last:
        return job
    # What comes later has a larger key, and its rows already; to follow it would have no end
    type = {"type": catalogue.definitions.type_numbers[job.name]}
    ((total, last),) = await database.read(lambda c: c.rows(statements(dialect)["extent"], type))
    return replace(job, total=total, last=last or 0)


async def release(database: db.Database, me: str) -> None:
    """Let others go on with what `me` has begun."""
    await database.write(lambda connection: jobs.release(connection, database.dialect, me))


async def anew(
    database: db.Database,
    catalogue: Catalogue,
    me: str,
    now: Callable[[], int],
    types: Collection[str] = (),
) -> AsyncIterator[tuple[str, int]]:
    """Index the resources of these types, or all, anew; yield what is at hand, and what is left.

    That is the name of a type, and the number of all resources still to come, after each step.
    Where another process is at it, this waits for it. Raises Outdated or Lost where the definitions
    changed or a job was ordered anew meanwhile: to be called again, with a newer catalogue.
    """
    await order(database, catalogue, types)
    try:
        while await listed(database, types):
            job = await take(database, catalogue, me, now(), types)
            if job is None:
                await asyncio.sleep(WAIT)
            while job is not None:
                name = job.name
                job = await step(database, catalogue, job, now())
                yield name, sum(j.total - j.done for j in await listed(database, types))
        await take(database, catalogue, me, now(), types)
    finally:
        await release(database, me)


async def finish(
    database: db.Database, catalogue: Catalogue, me: str, now: Callable[[], int]
) -> None:
    """Do all jobs that nobody else does; raises Outdated or Lost as `anew` does."""
    while job := await take(database, catalogue, me, now()):
        following: jobs.Job | None = job
        while following is not None:
            following = await step(database, catalogue, following, now())


async def step(
    database: db.Database, catalogue: Catalogue, job: jobs.Job, now: int
) -> jobs.Job | None:
    """Index the next resources of a job that we hold; return it as it is then, None if it is done.

    Raises Lost where somebody else has it now, or ordered it anew.
    """
    dialect = database.dialect
    type = catalogue.definitions.type_numbers[job.name]

    async def work(connection: db.Connection) -> jobs.Job | None:
        await connection.begin()
        store = Store(connection, catalogue, SYSTEM)
        values = {"type": type, "place": job.place, "last": job.last, "limit": STEP}
        rows = await connection.rows(statements(dialect)["following"], values)
        if not rows:
            await jobs.end(connection, dialect, job)
            return None
        keys = {"keys": [row[0] for row in rows]}
        bodies = dict(map(tuple, await connection.rows(statements(dialect)["bodies"], keys)))
        for row in rows:
            store.index(job.name, row, bytes(bodies[row[0]]), bytes(row[-1]))
        await store.flush()
        return await jobs.advance(connection, dialect, job, rows[-1][0], len(rows), now)

    return await database.write(work)
