"""Requests into Interactions, Replies into responses: all that FHIR says about HTTP itself.

https://hl7.org/fhir/R4/http.html

The FHIR routes are one raw ASGI endpoint, not FastAPI path functions: a path function costs more
than a whole read, and the router alone as much (docs/decisions.md).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import Any

from app.fhir.access import ANYONE
from app.fhir.errors import FhirError, refused
from app.fhir.interaction import Interaction, Pairs, Reply, parse_query, route
from app.fhir.rest import Server, handle, refusal
from app.fhir.wire import pretty

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FHIR_JSON = "application/fhir+json"
JSON_TYPES = frozenset({FHIR_JSON, "application/json"})
# http.html#mime-type; `*/*` and `application/*` leave the choice to us
ACCEPTABLE = JSON_TYPES | {"*/*", "application/*", "text/json", ""}
FORMATS = JSON_TYPES | {"json", "text/json"}
FORM = "application/x-www-form-urlencoded"
PREFERENCES = {
    "return": ("minimal", "representation", "OperationOutcome"),
    "handling": ("strict", "lenient"),
}
URL_LIMIT = 16 * 1024


class Endpoint:
    """Answers every request below `prefix`; all others go on to `app`.

    It is an ASGI middleware rather than a route: below the prefix nothing else is looked at. The
    engine is what the lifespan has put into the application's state.
    """

    def __init__(
        self, app: App, prefix: str, max_resource_bytes: int, max_bundle_bytes: int
    ) -> None:
        self.app = app
        self.prefix = prefix
        self.max_resource_bytes = max_resource_bytes
        self.max_bundle_bytes = max_bundle_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http" or not self.below(scope["path"]):
            await self.app(scope, receive, send)
            return
        server: Server = scope["app"].state.server
        try:
            headers = _headers(scope["headers"])
            asked = await self.interaction(server, scope, headers, receive)
            _check_format(asked.pairs, headers)
        except FhirError as error:
            await respond(send, server.base_url, refusal(error), ())
            return
        reply = await handle(server, ANYONE, asked)
        await respond(send, server.base_url, reply, asked.pairs)

    def below(self, path: str) -> bool:
        """Return whether a path is the FHIR base or below it."""
        return path.startswith(self.prefix) and path[len(self.prefix) :][:1] in ("", "/")

    async def interaction(
        self, server: Server, scope: Scope, headers: Mapping[str, str], receive: Receive
    ) -> Interaction:
        """Return what the request asks; raises a FhirError that says what is wrong with it."""
        query = scope["query_string"]
        if len(query) + len(scope["path"]) > URL_LIMIT:
            raise refused("too-long", "The URL is too long; POST to _search instead", status=414)
        method, path = scope["method"], scope["path"][len(self.prefix) :].strip("/")
        found, type, id, version, within = route(method, path, server.definitions.type_numbers)
        pairs = parse_query(query.decode("ascii", "replace")) if query else ()
        body = b""
        if method == "POST" or method == "PUT":
            form = path.endswith("_search")
            sized = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
            bare = form and not sized  # all parameters are in the URL
            if not bare or "content-type" in headers:
                _check_content_type(headers.get("content-type", ""), form=form)
            limit = self.max_bundle_bytes if found.code == "batch" else self.max_resource_bytes
            body = await _body(headers, receive, limit)
            if form:
                pairs, body = (*pairs, *_form(body)), b""
        return Interaction(
            code=found.code,
            type=type,
            id=id,
            version=version,
            within=within,
            pairs=pairs,
            body=body,
            if_match=headers.get("if-match", ""),
            if_none_match=headers.get("if-none-match", ""),
            if_modified_since=_moment(headers.get("if-modified-since")),
            if_none_exist=headers.get("if-none-exist", ""),
            prefer=_preference(headers.get("prefer", ""), "return"),
            handling=_preference(headers.get("prefer", ""), "handling"),
            url=path,
        )


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers by name; several lines of one are joined (RFC 9110, 5.2)."""
    found: dict[str, str] = {}
    for key, value in raw:
        name, text = key.decode("latin-1"), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _form(body: bytes) -> Pairs:
    try:
        return parse_query(body.decode("ascii"))
    except UnicodeDecodeError:
        raise refused("invalid", "The form is not percent-encoded ASCII") from None


async def _body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """Return the body; a 413 as soon as it is known to be longer than `limit`."""
    announced = headers.get("content-length", "")
    too_long = refused("too-long", f"The body is longer than {limit} bytes")
    if announced.isdigit() and int(announced) > limit:
        raise too_long
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise refused("processing", "The client went away", status=400)
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > limit:
            raise too_long
        if not message.get("more_body"):
            return b"".join(parts)


@lru_cache(256)
def _media_types(header: str) -> tuple[str, ...]:
    return tuple(part.split(";")[0].strip().lower() for part in header.split(","))


@lru_cache(256)
def _acceptable(header: str) -> bool:
    return not ACCEPTABLE.isdisjoint(_media_types(header))


def _check_format(pairs: Pairs, headers: Mapping[str, str]) -> None:
    """Refuse with 406 what is asked for in another format; `_format` wins over Accept."""
    wanted = next((value for name, value in pairs if name == "_format" and value), None)
    if wanted is not None:
        # a plus sign that was not percent-encoded has become a space
        if wanted.split(";")[0].strip().replace(" ", "+") not in FORMATS:
            raise refused("not-supported", f"_format must be {FHIR_JSON} or json", status=406)
    elif not _acceptable(headers.get("accept", "")):
        raise refused("not-supported", f"Accept must allow {FHIR_JSON}", status=406)


@lru_cache(256)
def _check_content_type(header: str, *, form: bool) -> None:
    """Refuse with 415 a body that is not JSON in UTF-8, or not a form where one is expected."""
    kind, _, parameters = header.partition(";")
    expected = frozenset({FORM}) if form else JSON_TYPES
    charset = parameters.lower().partition("charset=")[2].split(";")[0].strip(' "')
    if kind.strip().lower() not in expected or charset not in ("", "utf-8", "us-ascii"):
        text = f"Content-Type must be {' or '.join(sorted(expected))}, in UTF-8"
        raise refused("not-supported", text, status=415)


def _moment(header: str | None) -> int | None:
    """Return If-Modified-Since in microseconds; None if there is none, or no date in it."""
    if header is None:
        return None
    try:
        return int(parsedate_to_datetime(header).timestamp()) * 1_000_000
    except (ValueError, OverflowError):
        return None  # RFC 9110, 13.1.3: a recipient must ignore it


def _preference(header: str, wanted: str) -> str:
    """Return what `Prefer` asks for, "" for nothing or something unknown (RFC 7240)."""
    for part in header.split(","):
        for one in part.split(";"):
            name, _, value = one.partition("=")
            if name.strip().lower() == wanted and value.strip(' "') in PREFERENCES[wanted]:
                return value.strip(' "')
    return ""


@lru_cache(1024)
def http_date(second: int) -> bytes:
    """Return seconds since 1970 as an HTTP date."""
    return format_datetime(datetime.fromtimestamp(second, UTC), usegmt=True).encode()


async def respond(send: Send, base_url: str, reply: Reply, pairs: Pairs) -> None:
    """Send a reply: status, ETag, Last-Modified, Location, and the body as JSON."""
    body = reply.body
    headers = []
    if body:
        if any(name == "_pretty" and value == "true" for name, value in pairs):
            body = pretty(body)
        headers.append((b"content-type", FHIR_JSON.encode()))
    if reply.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    if reply.version:
        headers.append((b"etag", b'W/"%d"' % reply.version))
        headers.append((b"last-modified", http_date(reply.updated // 1_000_000)))
    if reply.location:
        headers.append((b"location", f"{base_url}/{reply.location}".encode()))
    headers += [(name.lower().encode(), value.encode()) for name, value in reply.extra.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
