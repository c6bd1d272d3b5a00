"""Pages for machines that look after the server: is it alive, is it ready, what has it done.

They answer whatever the load and know no FHIR. Whoever asks is told a word; the numbers of
`/metrics` go to this machine, and to who has a token to administer the server or the whole record.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app import db
from app.api.bearer import Bearer
from app.api.metrics import CONTENT_TYPE, Metrics
from app.fhir.errors import refused
from app.fhir.rest import Server
from app.logs import fault

log = logging.getLogger("milepost")

Page = Callable[[Mapping[str, Any]], Awaitable[tuple[int, str, bytes]]]

JSON = "application/json"
READY_SECONDS = 2.0
LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
REVISION = db.Statement("SELECT version_num FROM alembic_version", ())


def pages(head: str, metrics: Metrics, *, proxied: bool) -> dict[str, Page]:
    """Return the pages by their paths; `head` is the schema that this software needs.

    Behind a proxy (`proxied`) nobody counts as on this machine, because the proxy may be.
    """

    async def live(_: Mapping[str, Any]) -> tuple[int, str, bytes]:
        return 200, JSON, b'{"status":"live"}'

    async def ready(scope: Mapping[str, Any]) -> tuple[int, str, bytes]:
        problem = await _problem(scope["app"].state.server, head)
        if problem:
            return 503, JSON, b'{"status":"not ready","problem":"%s"}' % problem.encode()
        return 200, JSON, b'{"status":"ready"}'

    async def measured(scope: Mapping[str, Any]) -> tuple[int, str, bytes]:
        if proxied or (scope.get("client") or ("",))[0] not in LOOPBACK:
            await _check(scope)
        server = scope["app"].state.server
        sample(metrics, server)
        return 200, CONTENT_TYPE, await asyncio.to_thread(metrics.shown)

    return {"/health/live": live, "/health/ready": ready, "/metrics": measured}


async def _check(scope: Mapping[str, Any]) -> None:
    """Raise a 401 without a token, and a 403 for one that is for something else."""
    bearer: Bearer = scope["app"].state.bearer
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    caller = await bearer.caller(given.decode("latin-1"))
    whole = any(one.startswith("system/") for one in caller.scopes)
    if caller.kind != "administrator" and not (caller.kind == "system" and whole):
        text = "Numbers are for administrators, and for clients with a scope of system/"
        raise refused("forbidden", text)


def sample(metrics: Metrics, server: Server) -> None:
    """Note what is under way at this moment."""
    building = len(server.editions.current.catalogue.building)
    metrics.sample(server.database.load(), building)


async def _problem(server: Server, head: str) -> str:
    """Return why the server could answer no request, "" if it can."""

    async def revision(connection: db.Connection) -> str:
        rows = await connection.rows(REVISION, {})
        return str(rows[0][0]) if rows else ""

    try:
        async with asyncio.timeout(READY_SECONDS):
            found = await server.database.read(revision)
    except Exception as error:
        log.warning("The database does not answer: %s", fault(error))
        return "the database does not answer"
    return "" if found == head else "the database schema is not that of this version"
