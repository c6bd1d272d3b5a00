"""SQLite in WAL mode: reads in the loop, searches on reader threads, writes on one writer thread.

https://www.sqlite.org/wal.html

Theory of operation. SQLite's calls never wait for the event loop, so a thread can drive the same
coroutine that PostgreSQL awaits to its end (`drive`). The writer thread runs whole transactions,
each in a savepoint, and commits those that queued up meanwhile together; nobody is answered
before the commit.
"""

import asyncio
import contextlib
import functools
import json
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from app.db.engine import Load, Meter, Outdated, TooSlow, Unavailable, Work
from app.db.statements import (
    DEFINITIONS,
    REVISION,
    Change,
    Dialect,
    Row,
    Statement,
    arguments,
    sqlite_change,
)

T = TypeVar("T")

SQLITE_OLDEST = (3, 35, 0)
BUSY_SECONDS = 5.0
GROUP_SIZE = 64
GROUP_SECONDS = 0.002
READERS = 4
OPENING_SECONDS = 5.0  # in which whoever opens or closes the file alone has to be done
CHECKPOINT_PAGES = 10_000  # ten times the default: pages that change again are copied back once
PROGRESS_STEPS = 10_000
# The writer looks seldom: each look waits for the interpreter lock, which the event loop has
WRITING_STEPS = 1_000_000
READING = ("SELECT", "WITH")
NUMBERED = ("resource_version", "audit")  # tables whose rows the writer numbers
AT_ONCE = 40  # rows; there is a text for each number of them
INLINE_SECONDS = 0.002
INLINE_STEPS = 2_000  # about a tenth of a millisecond of SQLite's virtual machine
SYSTEMS = "SELECT uri, system FROM system_dictionary WHERE uri IN (SELECT value FROM json_each(?))"


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits to its end, on this thread, and return its result."""
    try:
        while True:
            if work.send(None) is not None:
                work.throw(RuntimeError("work on SQLite must not wait for the event loop"))
    except StopIteration as done:
        return cast("T", done.value)


def _busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _interrupted(error: BaseException) -> bool:
    if not isinstance(error, sqlite3.OperationalError):
        return False
    return error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT


def _told(error: sqlite3.OperationalError) -> Exception:
    """Return the error, as TooSlow where a statement is more than SQLite's parser can hold."""
    deep = ("parser stack overflow", "Expression tree is too large")
    return TooSlow("nested too deeply for SQLite") if str(error).startswith(deep) else error


class SqliteConnection:
    """One standard library connection; its methods are coroutines that never wait."""

    def __init__(self, path: str, numbers: dict[str, int], *, read_only: bool) -> None:
        mode = "ro" if read_only else "rw"
        self.raw = sqlite3.connect(
            f"file:{path}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=1024,
            timeout=OPENING_SECONDS,
        )
        self.raw.execute("PRAGMA cache_size = -32768")
        if not read_only:
            self.raw.execute("PRAGMA journal_mode = WAL")
            self.raw.execute("PRAGMA synchronous = FULL")
            self.raw.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            # A SELECT alone: SQLite undoes the whole transaction, and with it what others wrote in
            # the group, where an INSERT is interrupted
            self.raw.set_progress_handler(
                lambda: self.selecting and time.monotonic() > self.until, WRITING_STEPS
            )
        self.raw.execute("PRAGMA busy_timeout = 0")
        self.numbers = numbers
        self.fresh: dict[str, int] = {}
        self.spellings: dict[str, str] = {}
        self.interrupts = 0
        self.meter = Meter()
        self.until = math.inf
        self.selecting = False
        self.xid = self.key = 0
        self.seq = dict.fromkeys(NUMBERED, 0)  # the last row of each table
        self.counted = 0  # the version of the file that these numbers are of

    async def rows(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Row]:
        given = [
            json.dumps(value) if isinstance(value, list) else value
            for value in arguments(statement, values)
        ]
        text = self.spellings.get(statement.text, statement.text)
        began = time.monotonic()
        if began > self.until:
            raise TooSlow
        self.selecting = statement.text.startswith(READING)
        try:
            return self.raw.execute(text, given).fetchall()
        except sqlite3.OperationalError:
            # CPython 3.11 keeps an interrupted statement as one in use, and prepares its text anew
            # each time from then on. Spelled otherwise it is a statement of its own
            self.interrupts += 1
            self.spellings[statement.text] = f"{statement.text} -- {self.interrupts}"
            raise
        finally:
            self.selecting = False
            self.meter.statements += 1
            self.meter.seconds += time.monotonic() - began

    async def snapshot(self) -> None:
        if not self.raw.in_transaction:
            self.raw.execute("BEGIN")

    @contextlib.contextmanager
    def limited(self, steps: int, stop: Callable[[], bool]) -> Iterator[None]:
        """Ask `stop` every so many steps; a search that it ends raises an interrupt."""
        self.raw.set_progress_handler(stop, steps)
        try:
            yield
        finally:
            self.raw.set_progress_handler(None, 0)
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")

    async def begin(self) -> None:
        """Do nothing: the writer thread has begun."""

    async def change(
        self,
        changes: Sequence[Change],
        *,
        final: bool = False,  # noqa: ARG002
        version: int | None = None,
    ) -> None:
        if version is not None and self.raw.execute(DEFINITIONS).fetchone() != (version,):
            raise Outdated
        began = time.monotonic()
        for change in changes:
            if time.monotonic() > self.until:
                raise TooSlow
            if change.rows:
                self._change(change)
                self.meter.statements += 1
        self.meter.seconds += time.monotonic() - began

    def _change(self, change: Change) -> None:
        """Apply one change; several rows are inserted at once.

        Each step of a statement gives up the interpreter lock and has to win it back from the
        event loop: one step for forty rows instead of forty.
        """
        if change.kind not in ("insert", "add"):
            self.raw.executemany(change_text(change), change.rows)
            return
        numbered = change.kind == "insert" and change.table.name in NUMBERED
        every = self._numbered(change) if numbered else change.rows
        for start in range(0, len(every), AT_ONCE):
            rows = every[start : start + AT_ONCE]
            values = [value for row in rows for value in row]
            self.raw.execute(change_text(change, len(rows)), values)

    def _numbered(self, change: Change) -> Sequence[Row]:
        """Return the rows of a change with the transaction and their numbers at the end.

        A function of Python in the statement would have to win the interpreter lock for each row.
        """
        first = self.seq[change.table.name] + 1
        self.seq[change.table.name] += len(change.rows)
        return [(*row, self.xid, seq) for seq, row in enumerate(change.rows, first)]

    async def add(self, changes: Sequence[Change]) -> None:
        """Add them in the transaction: there is but one writer."""
        await self.change(changes)

    async def keys(self, count: int) -> list[int]:
        first = self.key + 1
        self.key += count
        return list(range(first, first + count))

    async def systems(self, uris: Iterable[str]) -> Mapping[str, int]:
        wanted = set(uris) - self.numbers.keys() - self.fresh.keys()
        if wanted:
            self.raw.executemany(
                "INSERT OR IGNORE INTO system_dictionary (uri) VALUES (?)",
                [(uri,) for uri in sorted(wanted)],
            )
            self.fresh.update(self.raw.execute(SYSTEMS, [json.dumps(list(wanted))]).fetchall())
        return {**self.numbers, **self.fresh} if self.fresh else self.numbers

    async def known_systems(self, uris: Iterable[str]) -> Mapping[str, int]:
        wanted = {uri for uri in uris if uri not in self.numbers}
        if not wanted:
            return self.numbers
        found = self.raw.execute(SYSTEMS, [json.dumps(list(wanted))]).fetchall()
        return {**self.numbers, **dict(found)}

    async def exclusive(self, names: Iterable[str]) -> None:
        """Do nothing: the one writer excludes every other transaction."""

    async def claim(self, name: str) -> bool:  # noqa: ARG002
        """Hold it: the one writer excludes every other transaction."""
        return True

    def begin_group(self) -> None:
        """Begin the one write transaction, waiting for another process at most BUSY_SECONDS."""
        give_up = time.monotonic() + BUSY_SECONDS
        pause = 0.001
        while True:
            try:
                self.raw.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                if not _busy(error) or time.monotonic() > give_up:
                    raise Unavailable("the database file is locked by another process") from error
                time.sleep(pause)
                pause = min(pause * 2, 0.1)
        self._count_on()

    def _count_on(self) -> None:
        """Go on counting where the file is; nothing is asked where only we have written to it."""
        ((version,),) = self.raw.execute("PRAGMA data_version")
        if version == self.counted:
            return
        self.key = self.raw.execute("SELECT coalesce(max(key), 0) FROM resource").fetchone()[0]
        newest = {table: self._newest(table) for table in NUMBERED}
        self.seq = {table: seq for table, (_, seq) in newest.items()}
        self.xid = max(xid for xid, _ in newest.values())
        self.counted = version

    def _newest(self, table: str) -> tuple[int, int]:
        """Return the last transaction that wrote rows of a table, and the last row's number."""
        newest = f"SELECT xid, seq FROM {table} ORDER BY xid DESC, seq DESC LIMIT 1"
        return self.raw.execute(newest).fetchone() or (0, 0)

    def run(self, work: Work[T], until: float, *, first: bool) -> T:
        """Return the result of one transaction inside the open group, or undo it and raise.

        Before the `first` one there is nothing that a savepoint would keep. Raises TooSlow where it
        is not done by `until`.
        """
        self.xid += 1
        if not first:
            self.raw.execute("SAVEPOINT one")
        known = dict(self.fresh)
        self.until = until
        try:
            found = drive(work(self))
        except BaseException as error:
            self._undo(first=first)
            self.fresh = known
            if _interrupted(error):
                raise TooSlow from error
            raise
        finally:
            self.until = math.inf
        if not first:
            self.raw.execute("RELEASE one")
        return found

    def _undo(self, *, first: bool) -> None:
        """Undo one transaction; the group goes on, which begins again where this was its first."""
        if not first:
            self.raw.execute("ROLLBACK TO one")
            self.raw.execute("RELEASE one")
            return
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")
        self.begin_group()

    def commit_group(self) -> None:
        """Commit the group; numbers of new systems are shared only now."""
        try:
            self.raw.execute("COMMIT")
            self.numbers.update(self.fresh)
        except BaseException:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            raise
        finally:
            self.fresh = {}


@functools.lru_cache(1024)
def _change_text(
    kind: Any, table: sa.Table, columns: tuple[str, ...], by: tuple[str, ...], rows: int
) -> str:
    return sqlite_change(Change(kind, table, columns, (), by), rows)


def change_text(change: Change, rows: int = 1) -> str:
    """Return the statement of a change for so many rows, built once for each of its shapes."""
    return _change_text(change.kind, change.table, change.columns, change.by, rows)


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    until: float
    result: Any = None
    error: BaseException | None = None

    def answer(self) -> None:
        """Wake the waiting task, on its own loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class SqliteDatabase:
    """SQLite in WAL mode: many readers, one writer, no server."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: str, search_seconds: float) -> None:
        if sqlite3.sqlite_version_info < SQLITE_OLDEST:
            raise RuntimeError(f"SQLite {sqlite3.sqlite_version} is older than 3.35")
        self.path = path
        self.search_seconds = search_seconds
        self.record_seconds = math.inf
        self.searching = self.writing = 0
        self.numbers: dict[str, int] = {"": 0}
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.local = threading.local()

    async def revision(self) -> str:
        if not os.path.exists(self.path):
            return ""
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as raw:
            try:
                found = raw.execute(REVISION).fetchone()
            except sqlite3.OperationalError:
                return ""
        return str(found[0]) if found else ""

    async def open(self) -> None:
        self.reader = SqliteConnection(self.path, self.numbers, read_only=True)
        rows = self.reader.raw.execute("SELECT uri, system FROM system_dictionary").fetchall()
        self.numbers.update(rows)
        self.threads = ThreadPoolExecutor(READERS, "search")
        self.opened: list[SqliteConnection] = []
        writer = SqliteConnection(self.path, self.numbers, read_only=False)
        self.meters = [self.reader.meter, writer.meter]
        self.writer = threading.Thread(target=self._write_jobs, args=[writer], daemon=True)
        self.writer.start()

    async def close(self) -> None:
        await asyncio.to_thread(self.threads.shutdown)
        for connection in (self.reader, *self.opened):
            connection.raw.close()
        # The writer goes last, so that its close leaves the one file, and no log beside it
        self.jobs.put(None)
        await asyncio.to_thread(self.writer.join)

    async def read(self, work: Work[T]) -> T:
        try:
            return await work(self.reader)
        except sqlite3.OperationalError as error:
            if _busy(error):
                raise Unavailable("the database file is locked") from error
            raise

    async def search(self, work: Work[T], *, long: bool = False) -> T:
        """Run a cheap search in the loop; hand one that turns out to be dear to a reader thread.

        The hop to a thread costs more than most searches, so a search first runs in the loop, but
        is stopped after INLINE_SECONDS. It only reads, so it can begin again in the thread, where
        one that is known to be long begins at once.
        """
        deadline = time.monotonic() + INLINE_SECONDS
        try:
            if not long:
                with self.reader.limited(INLINE_STEPS, lambda: time.monotonic() > deadline):
                    return await work(self.reader)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise _told(error) from error
        until = time.monotonic() + self.search_seconds
        loop = asyncio.get_running_loop()
        self.searching += 1
        try:
            return await loop.run_in_executor(self.threads, self._search, work, until)
        finally:
            self.searching -= 1

    def _search(self, work: Work[T], until: float) -> T:
        connection: SqliteConnection | None = getattr(self.local, "connection", None)
        if connection is None:
            connection = SqliteConnection(self.path, self.numbers, read_only=True)
            self.local.connection = connection
            self.opened.append(connection)
            self.meters.append(connection.meter)
        stopped = TooSlow(f"stopped after {self.search_seconds:g} s")
        if time.monotonic() > until:  # it has waited for a thread
            raise stopped
        try:
            with connection.limited(PROGRESS_STEPS, lambda: time.monotonic() > until):
                return drive(work(connection))
        except sqlite3.OperationalError as error:
            if _interrupted(error):
                raise stopped from error
            raise _told(error) from error

    async def write(self, work: Work[T]) -> T:
        """Queue a job; its time runs from here, so all that wait behind a slow one end with it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self.jobs.put(_Job(work, loop, future, time.monotonic() + self.record_seconds))
        self.writing += 1
        try:
            return await future
        except TooSlow as error:
            raise TooSlow(f"stopped after {self.record_seconds:g} s") from error
        finally:
            self.writing -= 1

    async def limit(self, seconds: float) -> None:
        self.record_seconds = seconds

    def load(self) -> Load:
        done = Meter(sum(m.statements for m in self.meters), sum(m.seconds for m in self.meters))
        return Load(done, self.writing, self.searching, 1, READERS)

    def _write_jobs(self, connection: SqliteConnection) -> None:
        """Run jobs in order: whole transactions, those that wait together in one commit."""
        while (job := self.jobs.get()) is not None:
            group = [job]
            try:
                connection.begin_group()
                self._group(connection, group)
                connection.commit_group()
            except BaseException as error:
                for one in group:
                    one.error = one.error or error
            for loop in {one.loop for one in group}:
                mine = [one for one in group if one.loop is loop]
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
                    loop.call_soon_threadsafe(_answer_all, mine)
        connection.raw.close()

    def _group(self, connection: SqliteConnection, group: list[_Job]) -> None:
        """Run the first job, and those that queue up, into the open transaction."""
        until = time.monotonic() + GROUP_SECONDS
        job = group[0]
        while True:
            try:
                job.result = connection.run(job.work, job.until, first=job is group[0])
            except BaseException as error:
                job.error = error
                if not connection.raw.in_transaction:
                    raise
            if len(group) == GROUP_SIZE or time.monotonic() > until:
                return
            try:
                following = self.jobs.get_nowait()
            except queue.Empty:
                return
            if following is None:
                self.jobs.put(None)
                return
            job = following
            group.append(job)


def _answer_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.answer()
