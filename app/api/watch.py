"""The outermost layer: how many requests at once, how long their bodies take, and what is told.

One layer, because each layer of ASGI costs every request a little. It knows no FHIR but the
OperationOutcome of a refusal. Each request gets its id here, which whoever is inside finds in its
scope as `request_id`; what it was, the endpoint writes there as `fhir.route`.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

from app import db
from app.api.health import Page
from app.api.metrics import Metrics
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Reply
from app.fhir.rest import refusal
from app.logs import Access, fault

log = logging.getLogger("milepost")

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
METHODS = WITH_BODY | {"GET", "HEAD", "DELETE", "OPTIONS"}
RETRY = {"Retry-After": "1"}
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,64}")


class Watch:
    """Answers what is too much and the `pages`, and counts, times and tells of all the rest.

    `held` is how many bytes of bodies the requests under way have.
    """

    def __init__(
        self,
        app: App,
        pages: Mapping[str, Page],
        metrics: Metrics,
        access: Access | None,
        limit: int,
        body_seconds: float,
        body_bytes: int,
    ) -> None:
        self.app = app
        self.pages = pages
        self.metrics = metrics
        self.access = access
        self.limit = limit
        self.body_seconds = body_seconds
        self.body_bytes = body_bytes
        self.held = 0
        self.name, self.requests = os.urandom(6).hex(), count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it be answered."""
        if scope["type"] != "http":
            await self._lived(scope, receive, send)
        elif scope["path"] in self.pages:
            await self._page(scope, send)
        else:
            await self._watched(scope, receive, send)

    async def _lived(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application start and end; where it fails, its text goes to nobody."""

        async def told(message: Message) -> None:
            message.pop("message", None)
            await send(message)

        try:
            await self.app(scope, receive, told)
        except Exception as error:
            log.error("The server cannot start or end: %s", fault(error), exc_info=error)
            raise

    def _request_id(self, scope: Scope) -> str:
        """Return the client's id of the request if it is safe in logs and headers, else our own."""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return f"{self.name}-{next(self.requests)}"

    async def _page(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await _send(send, 405, "application/json", b"{}", {"Allow": "GET, HEAD"})
            return
        try:
            status, kind, body = await self.pages[scope["path"]](scope)
        except FhirError as error:
            await respond(send, refusal(error), self._request_id(scope))
            return
        except (db.Unavailable, db.TooSlow) as error:
            await respond(send, refusal(_unavailable(error)), self._request_id(scope))
            return
        shown = body if scope["method"] == "GET" else b""
        headers = {"Cache-Control": "no-store"}
        await _send(send, status, kind, shown, headers, len(body))

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 0
        scope["request_id"] = request = self._request_id(scope)

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        body = Body(self, receive) if scope["method"] in WITH_BODY else None
        self.metrics.under_way += 1
        try:
            if self.metrics.under_way > self.limit:
                await respond(told, refusal(_busy("requests under way")), request)
            else:
                await self.app(scope, body or receive, told)
        except (db.Unavailable, db.TooSlow) as error:
            await respond(told, refusal(_unavailable(error)), request)
        except Exception as error:
            log.error("A request failed: %s", fault(error), exc_info=error)
            if status:
                raise  # the answer has begun: only the end of the connection can say so
            text = "The server failed; the failure was logged"
            await respond(told, refusal(refused("exception", text)), request)
        finally:
            self.metrics.under_way -= 1
            if body:
                self.held -= body.size
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request, and write its line."""
        route = scope.get("fhir.route")
        interaction = route.code if route else "none"
        self.metrics.count(interaction, status, seconds)
        if self.access:
            self.access(
                time.time(),
                {
                    "method": scope["method"] if scope["method"] in METHODS else "other",
                    "route": f"/{route.path}" if route else "",
                    "interaction": interaction,
                    "status": status,
                    "milliseconds": round(seconds * 1000, 2),
                    "request": scope["request_id"],
                },
            )


class Body:
    """The body of one request: it has to arrive in time, and there is room for so much at once."""

    def __init__(self, watch: Watch, received: Receive) -> None:
        self.watch = watch
        self.received = received
        self.until = asyncio.get_running_loop().time() + watch.body_seconds
        self.size = 0
        self.complete = False

    async def __call__(self) -> Message:
        """Return the next message; raises a 408 past the time, and a 503 where all is full."""
        if self.complete:  # what follows is the end of the connection, for which anybody may wait
            return await self.received()
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.received()
        except TimeoutError:
            text = f"The body did not arrive within {self.watch.body_seconds:g} s"
            # RFC 9110, 15.5.9: the rest of the body is no next request
            close = {"Connection": "close"}
            raise FhirError([Issue("error", "timeout", text)], 408, close) from None
        self.complete = not message.get("more_body")
        self.hold(len(message.get("body", b"")))
        return message

    def hold(self, size: int) -> None:
        """Count more bytes until the request is answered; raises a 503 where there is no room."""
        if self.watch.held + size > self.watch.body_bytes:
            raise _busy("bytes of request bodies in memory")
        self.size += size
        self.watch.held += size


def _busy(what: str) -> FhirError:
    text = f"The server has as many {what} as it may have; try again"
    return FhirError([Issue("error", "throttled", text)], 503, RETRY)


def _unavailable(error: Exception) -> FhirError:
    issue = Issue("error", "transient", f"The database is not available: {error}")
    return FhirError([issue], 503, RETRY)


async def respond(send: Send, reply: Reply, request: str) -> None:
    """Send a refusal that is made out here."""
    headers = {
        **reply.extra,
        "X-Request-Id": request,
        "Cache-Control": "private, no-cache",
        "Vary": "Accept, Authorization, Prefer",
    }
    await _send(send, reply.status, "application/fhir+json", reply.body, headers)


async def _send(
    send: Send,
    status: int,
    kind: str,
    body: bytes,
    headers: Mapping[str, str],
    length: int | None = None,
) -> None:
    size = len(body) if length is None else length
    sent = {"Content-Type": kind, "Content-Length": str(size), **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
