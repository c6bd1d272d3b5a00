"""PostgreSQL through asyncpg: two small pools, statements prepared once a connection.

Searches have connections of their own, with custom plans, a time limit and no right to write.

Theory of the time limits. The server stops a statement (`statement_timeout`) and says so, and
between two statements a transaction looks at the clock. No limit cancels a task: that would leave
open whether a statement which commits by itself has done so. A server that says nothing at all for
GRACE_SECONDS more is lost, and with it, as in any crash, what became of the last commit.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import asyncpg
import sqlalchemy as sa

from app.db.engine import Load, Meter, Outdated, TooSlow, Unavailable, Work
from app.db.statements import (
    REVISION,
    Change,
    Dialect,
    Row,
    Statement,
    arguments,
    postgresql_arguments,
    postgresql_change,
)
from app.db.tables import KEY_BLOCK

T = TypeVar("T")

ACQUIRE_SECONDS = 5.0
ATTEMPTS = 5
GRACE_SECONDS = 5.0
PREPARED = 500  # statements that a connection keeps
RETRY = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
FAILED = (OSError, Unavailable, asyncpg.PostgresError, asyncpg.InterfaceError)
LOST = "the connection to the database was lost"
SEARCH_SETTINGS = {"plan_cache_mode": "force_custom_plan", "default_transaction_read_only": "on"}
NAMED_LOCKS = 1024
EXCLUSIVE = f"""SELECT pg_advisory_xact_lock(number) FROM (
    SELECT DISTINCT hashtextextended(name, 0) & {NAMED_LOCKS - 1} AS number
    FROM unnest($1::text[]) name ORDER BY number
) numbers"""
CLAIM = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))"


@dataclass(eq=False)
class PostgresConnection:
    """One asyncpg connection with the statements it has prepared."""

    raw: asyncpg.Connection
    database: "PostgresDatabase"
    prepared: dict[str, Any] = field(default_factory=dict)
    in_transaction: bool = False
    added: list[Change] = field(default_factory=list)
    until: float = math.inf

    async def rows(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Row]:
        return await self.fetch(statement.text, arguments(statement, values))

    async def fetch(self, text: str, given: Sequence[Any]) -> Sequence[Row]:
        """Return the rows of a statement, prepared on its first use."""
        began = time.monotonic()
        if began > self.until:
            raise TooSlow
        prepared = self.prepared.get(text)
        try:
            if prepared is None:
                if len(self.prepared) >= PREPARED:
                    self.prepared.clear()
                prepared = self.prepared[text] = await self.raw.prepare(text)
            return cast("Sequence[Row]", await prepared.fetch(*given))
        except TimeoutError as error:
            raise self.lost() from error
        finally:
            meter = self.database.meter
            meter.statements += 1
            meter.seconds += time.monotonic() - began

    async def execute(self, text: str) -> None:
        """Run what yields no rows and is not worth preparing: BEGIN, COMMIT, ROLLBACK."""
        try:
            await self.raw.execute(text)
        except TimeoutError as error:
            raise self.lost() from error

    def lost(self) -> Unavailable:
        """Give up a connection on which nothing was answered for too long."""
        self.raw.terminate()
        return Unavailable(LOST)

    async def snapshot(self) -> None:
        if not self.in_transaction:
            self.in_transaction = True
            await self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")

    async def begin(self) -> None:
        if not self.in_transaction:
            self.in_transaction = True
            await self.execute("BEGIN")

    async def change(
        self, changes: Sequence[Change], *, final: bool = False, version: int | None = None
    ) -> None:
        """Apply all changes in one round trip: one statement a table, joined as a WITH query."""
        used = [change for change in changes if change.rows]
        if not used:
            return
        if not final:
            await self.begin()
        shape = tuple((c.kind, c.table, c.columns, c.by) for c in used)
        given = [argument for c in used for argument in postgresql_arguments(c)]
        if version is None:
            await self.fetch(_postgresql_text(shape), given)
            return
        try:
            await self.fetch(_postgresql_text(shape, checked=True), [*given, version])
        except asyncpg.DivisionByZeroError as error:
            raise Outdated from error

    async def add(self, changes: Sequence[Change]) -> None:
        """Add rows that others may be adding too, and remember them for a retry."""
        self.added += changes
        await self.change(changes)

    async def add_apart(self) -> None:
        """Add what a deadlock undid, while no transaction is open: row by row, each committed.

        Whoever inserts a row holds up those who insert the same, and two transactions that add
        rows at several times can wait for each other. Who holds nothing can wait for anybody. Rows
        added apart stay if the work is refused, which does no harm, but is not the rule.
        """
        for change in self.added:
            for row in change.rows:
                await self.change([replace(change, rows=[row])], final=True)

    async def keys(self, count: int) -> list[int]:
        free = self.database.free_keys
        while len(free) < count:
            blocks = (count - len(free)) // KEY_BLOCK + 1
            text = "SELECT nextval('resource_key') FROM generate_series(1, $1)"
            for (first,) in await self.fetch(text, [blocks]):
                free.extend(range(first, first + KEY_BLOCK))
        given = free[:count]
        del free[:count]
        return sorted(given)

    async def systems(self, uris: Iterable[str]) -> Mapping[str, int]:
        wanted = sorted(set(uris) - self.database.numbers.keys())
        if wanted:
            await self.database.number(wanted)
        return self.database.numbers

    async def known_systems(self, uris: Iterable[str]) -> Mapping[str, int]:
        numbers = self.database.numbers
        wanted = {uri for uri in uris if uri not in numbers}
        if wanted:
            text = "SELECT uri, system FROM system_dictionary WHERE uri = ANY($1::text[])"
            self.database.numbers.update(
                (uri, number) for uri, number in await self.fetch(text, [list(wanted)])
            )
        return self.database.numbers

    async def exclusive(self, names: Iterable[str]) -> None:
        """Lock the names in one order, so that no two transactions wait for each other.

        PostgreSQL has room for some thousand locks in all, which one large Bundle could fill: names
        share `NAMED_LOCKS`, so now and then one waits for another name.
        """
        await self.begin()
        wanted = list(set(names))
        if wanted:
            await self.fetch(EXCLUSIVE, [wanted])

    async def claim(self, name: str) -> bool:
        """Hold one lock for the name itself: of these a transaction has but one."""
        await self.begin()
        ((held,),) = await self.fetch(CLAIM, [name])
        return bool(held)


@functools.lru_cache(1024)
def _postgresql_text(
    shape: tuple[tuple[Any, sa.Table, tuple[str, ...], tuple[str, ...]], ...],
    *,
    checked: bool = False,
) -> str:
    """Return the statement that applies changes of this shape.

    A `checked` one has the version as its last parameter, and fails where the definitions have
    another. It locks that row, so that they cannot change before its transaction has ended, and
    waits where they are changing. To divide by zero is how a statement can refuse itself: one
    that commits by itself could not be taken back.
    """
    parts, first = [], 1
    for n, (kind, table, columns, by) in enumerate(shape):
        text = postgresql_change(Change(kind, table, columns, (), by), first)
        parts.append(f"c{n} AS ({text})")
        first += len(columns)
    what = f"1 / (number = ${first})::int FROM definitions_version FOR SHARE" if checked else "1"
    return f"WITH {', '.join(parts)} SELECT {what}"


class _Pool:
    """A last-in first-out pool: the connection used last has the warmest cache."""

    def __init__(self, connect: Callable[[], Awaitable[PostgresConnection]], size: int) -> None:
        self.connect = connect
        self.taken = 0
        self.closed = False
        self.idle: list[PostgresConnection] = []
        self.places = asyncio.Semaphore(size)

    async def acquire(self) -> PostgresConnection:
        if self.places.locked():
            try:
                await asyncio.wait_for(self.places.acquire(), ACQUIRE_SECONDS)
            except TimeoutError as error:
                raise Unavailable("no database connection became free") from error
        else:
            await self.places.acquire()
        self.taken += 1
        while self.idle:
            connection = self.idle.pop()
            if not connection.raw.is_closed():
                return connection
        try:
            return await self.connect()
        except BaseException as error:
            self.taken -= 1
            self.places.release()
            if isinstance(error, (OSError, asyncpg.PostgresError)):
                raise Unavailable("the database does not answer") from error
            raise

    @contextlib.asynccontextmanager
    async def borrowed(self) -> AsyncIterator[PostgresConnection]:
        """Yield a connection, and take it back; one that is lost meanwhile is Unavailable."""
        connection = await self.acquire()
        try:
            yield connection
        except Exception as error:
            if connection.raw.is_closed():
                raise Unavailable(LOST) from error
            raise
        finally:
            self.release(connection)

    def release(self, connection: PostgresConnection) -> None:
        if self.closed:
            connection.raw.terminate()
        elif not connection.raw.is_closed():
            self.idle.append(connection)
        self.taken -= 1
        self.places.release()

    async def close(self) -> None:
        """Close what nobody uses, and the rest when it is released."""
        self.closed = True
        while self.idle:
            await self.idle.pop().raw.close()


class PostgresDatabase:
    """PostgreSQL 13 or later, connected directly or through session pooling."""

    dialect: Dialect = "postgresql"

    def __init__(self, url: str, search_seconds: float, connections: int) -> None:
        self.url = url
        self.connections = connections
        self.search_seconds = search_seconds
        self.record_seconds = math.inf
        self.meter = Meter()
        self.numbers: dict[str, int] = {"": 0}
        self.free_keys: list[int] = []

    async def revision(self) -> str:
        connection = await self._connect(math.inf)
        try:
            found = await connection.raw.fetchval(REVISION)
        except asyncpg.UndefinedTableError:
            return ""
        finally:
            await connection.raw.close()
        return str(found or "")

    async def open(self) -> None:
        self.searches = _Pool(
            lambda: self._connect(self.search_seconds, SEARCH_SETTINGS), self.connections
        )
        self._pools_of_records()
        text = "SELECT uri, system FROM system_dictionary"
        async with self.numberers.borrowed() as numberer:
            self.numbers.update((uri, n) for uri, n in await numberer.fetch(text, []))

    def _pools_of_records(self) -> None:
        self.records = _Pool(lambda: self._connect(self.record_seconds), self.connections)
        self.numberers = _Pool(lambda: self._connect(self.record_seconds), 1)

    async def close(self) -> None:
        for pool in (self.records, self.searches, self.numberers):
            await pool.close()

    async def _connect(
        self, seconds: float, settings: Mapping[str, str] | None = None
    ) -> PostgresConnection:
        """Return a new connection, on which a statement may take so many seconds."""
        limited = math.isfinite(seconds)
        limit = {"statement_timeout": str(math.ceil(seconds * 1000))} if limited else {}
        raw = await asyncpg.connect(
            self.url,
            timeout=ACQUIRE_SECONDS,
            command_timeout=seconds + GRACE_SECONDS if limited else None,
            statement_cache_size=0,
            server_settings={"jit": "off", "random_page_cost": "1.1", **limit, **(settings or {})},
        )
        return PostgresConnection(raw, self)

    async def number(self, uris: Sequence[str]) -> None:
        """Give systems their numbers in a transaction of its own, so that no rollback takes one."""
        async with self.numberers.borrowed() as numberer:
            await numberer.fetch(
                "INSERT INTO system_dictionary (uri) SELECT unnest($1::text[])"
                " ON CONFLICT DO NOTHING",
                [list(uris)],
            )
            await numberer.known_systems(uris)

    async def read(self, work: Work[T]) -> T:
        pool = self.records
        connection = await pool.acquire()
        try:  # as `borrowed` does, without the cost of a generator
            return await work(connection)
        except asyncpg.QueryCanceledError as error:
            raise self._too_slow() from error
        except Exception as error:
            if connection.raw.is_closed():
                raise Unavailable(LOST) from error
            raise
        finally:
            pool.release(connection)

    def _too_slow(self) -> TooSlow:
        return TooSlow(f"stopped after {self.record_seconds:g} s")

    async def search(self, work: Work[T], *, long: bool = False) -> T:
        del long  # no statement is in the way of another
        connection = await self.searches.acquire()
        connection.until = time.monotonic() + self.search_seconds
        try:  # as `borrowed` does, without the cost of a generator
            return await work(connection)
        except (asyncpg.QueryCanceledError, TooSlow) as error:
            raise TooSlow(f"stopped after {self.search_seconds:g} s") from error
        except Exception as error:
            if connection.raw.is_closed():
                raise Unavailable(LOST) from error
            raise
        finally:
            connection.until = math.inf
            try:
                await self._end(connection, "ROLLBACK")
            finally:
                self.searches.release(connection)

    async def write(self, work: Work[T]) -> T:
        async with self.records.borrowed() as connection:
            connection.added = []
            connection.until = time.monotonic() + self.record_seconds
            try:
                for _ in range(ATTEMPTS):
                    with contextlib.suppress(*RETRY):
                        await connection.add_apart()
                        return await self._transaction(connection, work)
            except (asyncpg.QueryCanceledError, TooSlow) as error:
                raise self._too_slow() from error
            finally:
                connection.until = math.inf
        raise Unavailable("the same rows are written by too many")

    async def _transaction(self, connection: PostgresConnection, work: Work[T]) -> T:
        try:
            found = await work(connection)
            if connection.in_transaction:
                await connection.execute("COMMIT")
                connection.in_transaction = False
        except BaseException:
            await self._end(connection, "ROLLBACK")
            raise
        return found

    async def _end(self, connection: PostgresConnection, how: str) -> None:
        """End the transaction, if any; a connection on which that fails is not used again.

        It fails too where it is cancelled.
        """
        if not connection.in_transaction:
            return
        connection.in_transaction = False
        try:
            await connection.execute(how)
        except BaseException as error:
            connection.raw.terminate()
            if not isinstance(error, FAILED):
                raise

    async def limit(self, seconds: float) -> None:
        self.record_seconds = seconds
        before = self.records, self.numberers
        self._pools_of_records()
        for pool in before:
            await pool.close()

    def load(self) -> Load:
        records, searches = self.records.taken, self.searches.taken
        return Load(self.meter, records, searches, self.connections, self.connections)
