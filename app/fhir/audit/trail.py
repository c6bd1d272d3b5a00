"""The rows of the audit trail, and how they get into the database.

A row is written in the transaction of what it tells (`changes`), or, where nothing else is written,
by the group (`note`): whoever comes while a commit is under way joins the next one. Those whom one
commit has answered come again at about the same time, so the next one waits for as many as the last
one had, for PATIENCE at most; a client that is alone never waits. `note` returns once the row is
committed, so no answer leaves before its row.

A row names its patients itself; the b-tree by patient (`audit_patient`) follows with the seals: it
has a leaf for each of them, and to touch all those would cost a read more than all else here.

Rule: a row that was written stays as it is; the database refuses UPDATE and DELETE.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from app import db
from app.fhir.access import Caller
from app.fhir.audit.event import Event, interaction_event
from app.fhir.interaction import Interaction
from app.fhir.store import Seen

COLUMNS = ("id", "at", "agent", "code", "action", "outcome", "type", "detail")
MOST = 200  # rows of one commit
PATIENCE = 0.002  # seconds in which those who shared a commit come again

EPOCH = 1_577_836_800_000_000  # 2020, in microseconds since 1970
SLOT_BITS = 12
SLOTS = 1 << SLOT_BITS


def moment(id: int) -> int:
    """Return the time of a row in microseconds, cut to milliseconds."""
    return ((id >> SLOT_BITS) + EPOCH) // 1000 * 1000


def first_id(at: int) -> int:
    """Return the lowest id that a row at this time, or later, can have."""
    return max(at - EPOCH, 0) << SLOT_BITS


class Trail:
    """Where one process writes the trail.

    The id of a row is the microsecond of its event, one further than the last one at least, and the
    `slot` of the process: so rows of several processes have ids of their own, in order of time, and
    the time of a row is that of its id, cut to milliseconds.
    """

    def __init__(self, database: db.Database, numbers: Mapping[str, int], slot: int) -> None:
        self.database = database
        self.numbers = numbers
        self.slot = slot % SLOTS
        self.last = 0
        self.waiting: list[tuple[Event, asyncio.Future[None]]] = []
        self.writer: asyncio.Task[None] | None = None
        self.expected = 0
        self.full: asyncio.Future[None] | None = None
        self.encode = msgspec.json.Encoder().encode
        self.lock = threading.Lock()  # SQLite's writer makes rows on its own thread

    def new_id(self, at: int) -> int:
        """Return the id of a row about this moment, higher than all before."""
        with self.lock:
            self.last = max(at - EPOCH, self.last + 1)
            return self.last << SLOT_BITS | self.slot

    def changes(self, events: Iterable[Event]) -> list[db.Change]:
        """Return the rows of events, to be written with something else."""
        rows: list[db.Row] = []
        for at, agent, code, action, outcome, type, detail, of in events:
            id = self.new_id(at)
            number = self.numbers.get(type, 0)  # a resource to be loaded may claim any type
            text = self.encode({**detail, "patients": of} if of else detail).decode()
            rows.append((id, moment(id), agent, code, action, outcome, number, text))
        return [db.Change("insert", db.audit, COLUMNS, rows)]

    async def note(self, *events: Event) -> None:
        """Return once the events are committed; raises what the database does if they cannot be."""
        if not events:
            return
        loop = asyncio.get_running_loop()
        mine = [(event, loop.create_future()) for event in events]
        self.waiting += mine
        if self.writer is None:
            self.writer = loop.create_task(self._write())
        elif self.full is not None and len(self.waiting) >= self.expected:
            _done(self.full)
        if len(mine) == 1:
            await mine[0][1]
            return
        # more than one commit has room for may be in several, of which each can fail
        for failure in await asyncio.gather(*(one for _, one in mine), return_exceptions=True):
            if failure is not None:
                raise failure

    async def _write(self) -> None:
        """Commit what waits, group by group, until nothing does."""
        try:
            while self.waiting:
                if len(self.waiting) < self.expected:
                    await self._company()
                group, self.waiting = self.waiting[:MOST], self.waiting[MOST:]
                self.expected = len(group)
                await self._commit(group)
        finally:
            self.writer = None

    async def _company(self) -> None:
        """Wait until as many have come as are expected, or for PATIENCE."""
        loop = asyncio.get_running_loop()
        self.full = loop.create_future()
        timer = loop.call_later(PATIENCE, _done, self.full)
        try:
            await self.full
        finally:
            timer.cancel()
            self.full = None

    async def _commit(self, group: Sequence[tuple[Event, asyncio.Future[None]]]) -> None:
        async def work(connection: db.Connection) -> None:
            await connection.change(rows, final=True)

        failure: BaseException | None = None
        try:
            # Here, not on SQLite's thread: what is Python there takes the loop's time twice
            rows = self.changes(event for event, _ in group)
            await self.database.write(work)
        except BaseException as error:
            failure = error
            if not isinstance(error, Exception):
                raise
        finally:
            for _, done in group:
                if done.done():  # who waited was cancelled
                    continue
                if failure is None:
                    done.set_result(None)
                elif isinstance(failure, Exception):
                    done.set_exception(failure)
                else:
                    done.cancel()


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Line:
    """The row of one request in the making: what was asked by whom, and what it has seen so far.

    It is `written` where it was made part of the request's own transaction. `entries` are the
    events of a batch, one for each of its requests; then the batch has no row of its own.
    """

    __slots__ = ("asked", "caller", "code", "entries", "now", "seen", "trail", "written")

    def __init__(
        self, trail: Trail, now: Callable[[], int], caller: Caller, asked: Interaction
    ) -> None:
        self.trail = trail
        self.now = now
        self.caller = caller
        self.asked = asked
        self.code = asked.code
        self.seen: list[Seen] = []
        self.entries: list[Event] = []
        self.written = False

    def clear(self) -> None:
        """Begin again: nothing was seen or written yet."""
        self.seen.clear()
        self.written = False

    def entry(self, asked: Interaction) -> "Line":
        """Return the line of a request in this batch."""
        return Line(self.trail, self.now, self.caller, asked)

    def ended(self, entry: "Line", status: int) -> None:
        """Add the event of a request in this batch, unless it is written already."""
        if status >= 400 or not entry.written:
            self.entries.append(entry.event(status))

    def event(self, status: int) -> Event:
        """Return what happened; a refusal has shown nothing."""
        seen = self.seen if status < 400 else ()
        return interaction_event(self.now(), self.caller, self.asked, status, seen, self.code)

    def changes(self, status: int) -> list[db.Change]:
        """Return the row, which is now written with the rest of a transaction."""
        self.written = True
        return self.trail.changes([self.event(status)])

    async def end(self, status: int) -> None:
        """Return once the row of an answer with this status is committed."""
        if status < 400 and self.entries:
            await self.trail.note(*self.entries)
        elif status >= 400 or not self.written:
            await self.trail.note(*self.entries, self.event(status))
