"""What a process knows of the definitions in force, and how that stays up to date.

Search parameters are resources: they come and go while the server runs, in this process or in
another. What follows from them is an `Edition`, a value that is replaced as a whole; a request
takes the one of its beginning and keeps it. A write under an edition that is no longer in force
is refused by the database (`db.Outdated`), so that it can be made again under the next one. A read
may be a second behind.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from app import db, jobs
from app.fhir.definitions import Definitions
from app.fhir.query import Language
from app.fhir.store import Catalogue, maintenance, state
from app.logs import fault

log = logging.getLogger("milepost")

SECONDS = 1.0  # that a read may be behind


@dataclass(frozen=True)
class Edition:
    """What follows from the definitions in force; `statement` gives the CapabilityStatement."""

    catalogue: Catalogue
    language: Language
    statement: Callable[[], bytes]

    @property
    def definitions(self) -> Definitions:
        """Return R4's definitions and the search parameters that were added."""
        return self.catalogue.definitions


class Editions:
    """The edition of the moment: the one thing in a server that changes."""

    def __init__(
        self,
        database: db.Database,
        read: Callable[[Catalogue], Awaitable[Catalogue]],
        made: Callable[[Catalogue], Edition],
        first: Catalogue,
    ) -> None:
        self.database = database
        self.read = read
        self.made = made
        self.current = made(first)
        self.lock = asyncio.Lock()
        self.changed = asyncio.Event()

    async def renew(self) -> None:
        """Make `current` what the database says now."""
        dialect = self.database.dialect
        async with self.lock:
            known = self.current.catalogue
            version, building = await self.database.read(lambda c: state(c, dialect))
            if version != known.version:
                self.current = self.made(await self.read(known))
                self.changed.set()
            elif building != known.building:
                self.current = self.made(replace(known, building=building))

    async def keep(self, me: str, now: Callable[[], int]) -> None:
        """Keep up to date, and do the jobs that nobody else does; `me` is unlike any other name.

        Ends when it is cancelled.
        """
        try:
            while True:
                try:
                    await self._round(me, now)
                except (db.Unavailable, db.TooSlow, db.Outdated, jobs.Lost):
                    pass  # the next round finds the database, the edition or the job that there is
                except Exception as error:
                    # Without its text: a database error quotes rows in it
                    log.error("Keeping the index failed: %s", fault(error))
                # not wait_for: it forgets that it was cancelled where it has just been woken
                with suppress(TimeoutError):
                    async with asyncio.timeout(SECONDS):
                        await self.changed.wait()
                self.changed.clear()
        finally:
            with suppress(db.Unavailable):
                await maintenance.release(self.database, me)

    async def _round(self, me: str, now: Callable[[], int]) -> None:
        """Renew, and do a job if there is one; between two steps others have as much time."""
        loop = asyncio.get_running_loop()
        await self.renew()
        job = await maintenance.take(self.database, self.current.catalogue, me, now())
        while job is not None:
            started = loop.time()
            job = await maintenance.step(self.database, self.current.catalogue, job, now())
            await self.renew()
            await asyncio.sleep(loop.time() - started)
