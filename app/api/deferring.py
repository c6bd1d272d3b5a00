"""Long interactions in the background: `Prefer: respond-async`.

https://hl7.org/fhir/R4/async.html

A request that asks for it gets 202, and in Content-Location the address at which its answer will
be: a Bundle of type batch-response with the one answer. Only the caller who asked can ask there, or
have it dropped with DELETE. It runs in the process that took it; the rest is in the database.
"""

import asyncio
import logging
import secrets

from app import db, deferred
from app.deferred import KEPT, LEASE, Deferred
from app.fhir import bundle
from app.fhir.access import Caller
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.rest import Server, handle
from app.fhir.store import instant
from app.logs import fault

log = logging.getLogger("milepost")

# What may take long; of all others the preference is ignored, as RFC 7240 allows
LONG = frozenset(
    {
        "batch",
        "operation",
        "search-type",
        "search-system",
        "search-compartment",
        "history-instance",
        "history-type",
        "history-system",
    }
)
PLACE = "_async"  # below the base; no type is called so
RUNNING = 4  # at once in each process
MOST = 100  # of each caller, running or kept
RETRY = {"Retry-After": "1"}
LOST = (
    "The server ended before this request was answered. It may have been carried out or not:"
    " look before you send it again"
)


class Deferring:
    """The requests that this process runs in the background; `keep` looks after them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.running = 0

    async def begin(self, caller: Caller, asked: Interaction) -> Reply:
        """Return the 202 of a request that now runs; raises 503 or 429 where there are too many."""
        database, now = self.server.database, self.server.now()
        id = secrets.token_urlsafe(24)
        if self.running >= RUNNING:
            text = "As many requests run in the background as may; try again"
            raise FhirError([Issue("error", "throttled", text)], 503, RETRY)
        added = False
        self.running += 1
        try:
            added = await deferred.add(database, Deferred(id, caller.name, now, now + LEASE), MOST)
        finally:
            self.running -= not added
        if not added:
            text = f"You have {MOST} answers to fetch; fetch or DELETE some first"
            raise FhirError([Issue("error", "throttled", text)], 429, {"Retry-After": "60"})
        self.tasks[id] = asyncio.create_task(self._run(id, caller, asked))
        return self._accepted(id, {"Preference-Applied": "respond-async"})

    async def answered(self, caller: Caller, method: str, id: str) -> Reply:
        """Return what is answered at the address of a request."""
        if method in ("GET", "HEAD"):
            return await self.status(caller, id)
        if method == "DELETE":
            return await self.cancel(caller, id)
        text = "The address of a request in the background takes GET and DELETE"
        raise FhirError([Issue("error", "not-supported", text)], 405, {"Allow": "DELETE, GET"})

    async def status(self, caller: Caller, id: str) -> Reply:
        """Return the answer, 202 as long as there is none, and 404 for what the caller has not."""
        database = self.server.database
        found = await deferred.find(database, id, caller.name)
        now = self.server.now()
        if found is None or (found.done and found.until < now):
            raise refused("not-found", "There is no such request, or its answer is no longer kept")
        if found.done:
            return Reply(200, found.body)
        # A sign of life waits, as any write does, where the writer of SQLite is at a long one
        if found.until < now and id not in self.tasks:
            raise refused("exception", LOST)
        return self._accepted(id, {**RETRY, "X-Progress": "in progress"})

    async def cancel(self, caller: Caller, id: str) -> Reply:
        """Drop a request and its answer; what it has committed stays."""
        if not await deferred.forget(self.server.database, id, caller.name):
            raise refused("not-found", "There is no such request, or its answer is no longer kept")
        if task := self.tasks.get(id):
            task.cancel()
        return Reply(202)

    def _accepted(self, id: str, headers: dict[str, str]) -> Reply:
        address = f"{self.server.base_url}/{PLACE}/{id}"
        return Reply(202, extra={"Content-Location": address, **headers})

    async def _run(self, id: str, caller: Caller, asked: Interaction) -> None:
        """Answer a request, and keep the answer."""
        try:
            reply = await handle(self.server, caller, asked)
            failed = reply.status >= 400
            entry = bundle.response_entry(
                reply,
                instant(reply.updated),
                resource=b"" if failed else reply.body,
                outcome=reply.body if failed else b"",
            )
            body = bundle.response("batch", [entry])
            until = self.server.now() + KEPT
            await deferred.finish(self.server.database, id, body, until)
        except Exception as error:  # there is nobody to tell but the log
            log.error("A request in the background failed: %s", fault(error))
        finally:
            del self.tasks[id]
            self.running -= 1

    async def keep(self) -> None:
        """Give signs of life, end what was cancelled elsewhere, and drop what is too old.

        Ends when it is cancelled.
        """
        database, now = self.server.database, self.server.now
        while True:
            await asyncio.sleep(LEASE / 3_000_000)
            try:
                for id, task in list(self.tasks.items()):
                    if not await deferred.sign(database, id, now() + LEASE):
                        task.cancel()
                await deferred.expire(database, now())
            except (db.Unavailable, db.TooSlow):
                pass  # the next round finds the database that there is
            except Exception as error:
                log.error("Keeping the answers failed: %s", fault(error))

    async def close(self, seconds: float) -> None:
        """Let what runs end, and give it so much time."""
        if self.tasks:
            _, left = await asyncio.wait(self.tasks.values(), timeout=seconds)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
