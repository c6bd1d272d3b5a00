"""The one door: every request, from wherever it comes, is an Interaction handled here.

https://hl7.org/fhir/R4/http.html

`handle` chooses where the work runs (a read, a search, a transaction) and turns every refusal into
an OperationOutcome.
"""

import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from app import db
from app.fhir.access import Caller
from app.fhir.audit import UNAUDITED, Line
from app.fhir.errors import FhirError, Issue
from app.fhir.interaction import Interaction, Reply
from app.fhir.rest.operating import operate
from app.fhir.rest.provenance import check_taken
from app.fhir.rest.reading import PERFORM, capabilities
from app.fhir.rest.rights import check
from app.fhir.rest.server import Server, refusal
from app.fhir.rest.transactions import process
from app.fhir.rest.writing import write
from app.fhir.store import Store
from app.logs import fault

log = logging.getLogger("milepost")

ATTEMPTS = 5


async def handle(server: Server, caller: Caller, asked: Interaction) -> Reply:
    """Return the answer to one request, once it is in the audit trail."""
    trail = server.trail
    if trail is None or asked.code in UNAUDITED:
        return await replied(server, caller, asked, None)
    line = Line(trail, server.now, caller, asked)
    reply = await replied(server, caller, asked, line)
    return await recorded(line.end(reply.status), reply)


async def recorded(noting: Coroutine[Any, Any, None], reply: Reply) -> Reply:
    """Return the reply once it is noted; a 503 in its place where that fails."""
    try:
        await noting
    except Exception as error:
        log.error("The audit trail cannot be written: %s", fault(error))
        return _failure("transient", "What nobody can record cannot be answered", 503)
    return reply


async def replied(server: Server, caller: Caller, asked: Interaction, line: Line | None) -> Reply:
    """Return the answer to one request; whatever goes wrong is an answer too."""
    try:
        return await answered(server, caller, asked, line)
    except FhirError as error:
        return refusal(error)
    except db.Unavailable as error:
        return _failure("transient", f"The database is not available: {error}", 503)
    except db.TooSlow as error:
        return _failure("too-costly", f"The request was {error}; ask for less at once", 503)
    except Exception as error:
        # Without its text: a database error quotes rows in it
        log.error("%s failed: %s", asked.code, fault(error), exc_info=_trace(error))
        return _failure("exception", "The server failed; the failure was logged", 500)


async def answered(
    server: Server, caller: Caller, asked: Interaction, line: Line | None = None
) -> Reply:
    """Return the answer under the definitions in force.

    A write that turns out to know older ones is made again; a search that is refused may have
    asked for a parameter which is newer than what this process knows.
    """
    for _ in range(ATTEMPTS):
        known = server.newest()
        if line is not None:
            line.clear()
        try:
            return await _dispatch(known, caller, asked, line)
        except db.Outdated:
            await server.editions.renew()
        except FhirError:
            if "search" in asked.code:
                await server.editions.renew()
            if server.newest().catalogue.version == known.catalogue.version:
                raise
    raise db.Unavailable("the definitions change all the time")


def _trace(error: BaseException) -> Any:
    """Return what to log of a failure: the trace without the text, which may quote data."""
    return (RuntimeError, RuntimeError(type(error).__name__), error.__traceback__)


def _failure(code: str, text: str, status: int) -> Reply:
    extra = {"Retry-After": "1"} if status == 503 else {}
    return replace(refusal(FhirError([Issue("error", code, text)], status)), extra=extra)


async def _dispatch(server: Server, caller: Caller, asked: Interaction, line: Line | None) -> Reply:
    seen = line.seen if line is not None else None

    def opened(connection: db.Connection) -> Store:
        return Store(connection, server.catalogue, caller, seen)

    if asked.provenance and asked.code != "operation":  # of these, only what they do tells
        check_taken(asked)
    if (answer := server.sources.get(asked.type)) and asked.code != "operation":
        return await answer(server.language, server.catalogue, caller, asked, seen)
    check(server, caller, asked)
    perform = PERFORM.get(asked.code)
    match asked.code:
        case "capabilities":
            return capabilities(server, asked)
        case "operation":
            return await operate(server, caller, asked, line)
        case "batch":
            return await process(server, caller, asked, replied, line)
        case "read" | "vread" if perform:
            return await server.database.read(lambda c: perform(server, opened(c), asked))
        case (
            "search-type"
            | "search-system"
            | "search-compartment"
            | "history-instance"
            | "history-type"
            | "history-system"
        ) if perform:
            return await server.database.search(lambda c: perform(server, opened(c), asked))
    return await write(server, caller, asked, line)
