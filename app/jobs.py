"""Work that outlives a request: what is to be done, how far it is, and who does it.

A job is a row. Whoever runs it holds it for a while and renews that with each step, in the
transaction of the step: what a step did and where the next one begins are committed together, so
that a job goes on where it stopped, whoever was killed. A step whose row has changed meanwhile
(ordered anew, or held by another) is undone.
"""

from dataclasses import dataclass, replace
from functools import cache

import sqlalchemy as sa

from app import db

LEASE = 5_000_000  # microseconds for which a job is held without a sign of life

J = db.job
COLUMNS = tuple(J.c.keys())
STEP = ("place", "last", "done", "total", "until")  # what a step changes


class Lost(Exception):
    """The job is no longer ours, or was ordered anew: the step must be undone."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job: `about` is what waits for its end, `ordered` the version that asked for it.

    It goes on after `place` up to `last`, which is 0 as long as nobody has begun; `done` of `total`
    is how far it is. `holder` runs it until `until`,
    in microseconds, if nothing is heard of them.
    """

    name: str
    about: str = ""
    ordered: int = 0
    place: int = 0
    last: int = 0
    done: int = 0
    total: int = 0
    holder: str = ""
    until: int = 0

    @property
    def percent(self) -> int:
        """Return how much is done, below 100."""
        return min(99, 100 * self.done // self.total) if self.total else 0


def _given(name: str) -> sa.BindParameter[object]:
    return sa.bindparam(name, type_=db.Key if name in ("ordered", "place", "now") else sa.Text())


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    mine = sa.and_(J.c.name == _given("name"), J.c.ordered == _given("ordered"))
    free = sa.or_(J.c.until < _given("now"), J.c.holder == _given("me"))
    held = sa.and_(mine, J.c.holder == _given("me"), J.c.place == _given("place"))
    values = {name: sa.bindparam(f"new_{name}", type_=J.c[name].type) for name in COLUMNS}
    step = {name: values[name] for name in STEP}
    claim = {name: values[name] for name in ("holder", "until")}
    found = {
        "listed": sa.select(J).order_by(J.c.name),
        "one": sa.select(J).where(J.c.name == _given("name")),
        "claim": sa.update(J).where(mine, free).values(claim).returning(J),
        "advance": sa.update(J).where(held).values(step).returning(J.c.name),
        "release": sa.update(J)
        .where(J.c.holder == _given("me"))
        .values(until=values["until"])
        .returning(J.c.name),
        "end": sa.delete(J).where(held).returning(J.c.name),
        "forget": sa.delete(J).where(J.c.name == _given("name")).returning(J.c.name),
        "order": sa.insert(J).values(values).returning(J.c.name),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def listed(connection: db.Connection, dialect: db.Dialect) -> list[Job]:
    """Return all jobs that are not done, by name."""
    return [Job(*row) for row in await connection.rows(_statements(dialect)["listed"], {})]


async def order(connection: db.Connection, dialect: db.Dialect, job: Job) -> None:
    """Make a job begin at its beginning; one of its name that there is gives way."""
    await forget(connection, dialect, job.name)
    values = {f"new_{name}": getattr(job, name) for name in COLUMNS}
    await connection.rows(_statements(dialect)["order"], values)


async def forget(connection: db.Connection, dialect: db.Dialect, name: str) -> None:
    """Take a job off the list, whoever does it."""
    await connection.begin()
    await connection.rows(_statements(dialect)["forget"], {"name": name})


async def claim(
    connection: db.Connection, dialect: db.Dialect, job: Job, me: str, now: int
) -> Job | None:
    """Return the job, held by `me`; None if another holds it, or it is not that job any more."""
    values = {"name": job.name, "ordered": job.ordered, "me": me, "now": now}
    rows = await connection.rows(
        _statements(dialect)["claim"], {**values, "new_holder": me, "new_until": now + LEASE}
    )
    return Job(*rows[0]) if rows else None


async def advance(
    connection: db.Connection, dialect: db.Dialect, job: Job, place: int, more: int, now: int
) -> Job:
    """Return the job after a step that did `more` and came to `place`; raise Lost."""
    values = {"name": job.name, "ordered": job.ordered, "me": job.holder, "place": job.place}
    done = job.done + more
    after = replace(job, place=place, done=done, total=max(job.total, done), until=now + LEASE)
    step = {f"new_{name}": getattr(after, name) for name in STEP}
    if not await connection.rows(_statements(dialect)["advance"], {**values, **step}):
        raise Lost
    return after


async def release(connection: db.Connection, dialect: db.Dialect, me: str) -> None:
    """Let others have what `me` holds."""
    await connection.begin()
    await connection.rows(_statements(dialect)["release"], {"me": me, "new_until": 0})


async def end(connection: db.Connection, dialect: db.Dialect, job: Job) -> None:
    """Take a job that is done off the list; raise Lost."""
    values = {"name": job.name, "ordered": job.ordered, "me": job.holder, "place": job.place}
    if not await connection.rows(_statements(dialect)["end"], values):
        raise Lost
