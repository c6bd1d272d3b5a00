"""Requests into Interactions, Replies into responses: all that FHIR says about HTTP itself.

https://hl7.org/fhir/R4/http.html

The FHIR routes are one raw ASGI endpoint, not FastAPI path functions: a path function costs more
than a whole read, and the router alone as much (docs/decisions.md).

`negotiation` knows what headers mean, `body` how bytes are limited and packed, `binary` what
travels as its own content; here they are put together. The one form inside is JSON: XML is read
and written here, at the edge.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import Any, NamedTuple

from app.api import binary
from app.api.bearer import INSUFFICIENT_SCOPE, Bearer
from app.api.body import WORTH_PACKING, Receive, aside, packed, received, too_long
from app.api.deferring import LONG, PLACE, Deferring
from app.api.negotiation import (
    FHIR_JSON,
    FHIR_XML,
    PATCH_TYPES,
    PLAIN,
    RESOURCE_TYPES,
    SEARCH_TYPES,
    XML_TYPES,
    Format,
    media_type,
    negotiated,
    preferences,
    takes_gzip,
)
from app.fhir.access import ANYONE, Caller
from app.fhir.audit import refused_at_the_edge
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction, Pairs, Place, Reply, methods, parse_query, route
from app.fhir.rest import Server, handle, recorded, refusal
from app.fhir.wire import pretty
from app.fhir.xml import Xml

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]
Headers = Mapping[str, str]

URL_LIMIT = 16 * 1024
OF_ONE = 128  # requests that one caller may have under way: half of what a worker has
BODIED = frozenset({"POST", "PUT", "PATCH"})

# Headers that mean one thing: two lines of them contradict each other
SINGLE = frozenset(
    {
        "authorization",
        "content-encoding",
        "content-type",
        "idempotency-key",
        "if-modified-since",
        "if-none-exist",
        "x-provenance",
        "x-security-context",
    }
)

# http.html#security: what is told about a patient is for who asked, and never taken from a cache
# unasked. Only what is long enough depends on Accept-Encoding
ALWAYS = (
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Accept, Authorization, Prefer"),
)
ALWAYS_IF_LONG = (ALWAYS[0], (b"vary", b"Accept, Authorization, Prefer, Accept-Encoding"))

# The interactions that answer with a version, whose own address is the Content-Location
OF_A_VERSION = frozenset({"read", "vread", "create", "update", "patch"})

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# What a page of another origin may read beside the body
EXPOSED = (
    *("Content-Location", "ETag", "Last-Modified", "Location", "Retry-After"),
    *("WWW-Authenticate", "X-Request-Id"),
)

# What anybody may ask, and what FastAPI answers below the base
ANONYMOUS = "metadata"
DISCOVERY, AUTHORIZATION = "/.well-known/", "/oauth/"

NOTHING = Interaction("")


class Sent(NamedTuple):
    """What came with a request: JSON bytes and their media type, and the pairs of a form."""

    body: bytes = b""
    content_type: str = ""
    pairs: Pairs = ()


class Wish(NamedTuple):
    """How a client wants its answer: the format, the headers that say more, the request's id.

    `head` is for the headers alone.
    """

    form: Format
    headers: Headers
    request: str
    head: bool


NO_BODY = Sent()


class Endpoint:
    """Answers every request below `prefix`; all others go on to `app`.

    It is an ASGI middleware rather than a route: below the prefix nothing else is looked at. The
    engine is what the lifespan has put into the application's state. Whoever is around it finds
    the route in the scope (`fhir.route`), and has put the request's id there (`request_id`).

    One that is not `guarded` asks nobody for a token: benchmarks compare the two.
    """

    def __init__(
        self,
        app: App,
        prefix: str,
        max_resource_bytes: int,
        max_bundle_bytes: int,
        *,
        guarded: bool = True,
    ) -> None:
        self.app = app
        self.prefix = prefix
        self.guarded = guarded
        self.max_resource_bytes = max_resource_bytes
        self.max_bundle_bytes = max_bundle_bytes
        self.running: dict[str, int] = {}  # requests under way, of each account or client
        self.xml: Xml | None = None

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http" or not self.below(scope["path"]):
            await self.app(scope, receive, send)
            return
        state = scope["app"].state
        server: Server = state.server
        headers: Headers = {}
        asked, form = NOTHING, PLAIN
        caller: Caller | None = None
        taken = ""
        try:
            headers = joined(scope["headers"])
            accept = headers.get("accept", "")
            pairs = asked_for(scope)
            found = negotiated(pairs, accept)
            form = found or PLAIN
            path = self.path(scope)
            caller = await self.caller(state.bearer, path, headers)
            taken = self.take(caller)
            deferring: Deferring = state.deferring
            if path.startswith(f"{PLACE}/"):
                reply = await deferring.answered(caller, scope["method"], path[len(PLACE) + 1 :])
                reply = await self.noted(server, scope, caller, reply)
            elif (place := self.place(server, scope, path)) is None:
                reply = Reply(204, extra={"Allow": ", ".join(methods(path))})
            else:
                asked = await self.interaction(server, scope, place, pairs, headers, receive)
                if asked.pairs is not pairs:
                    found = negotiated(asked.pairs, accept)
                if found is None and not binary.takes_any(place):
                    raise unacceptable()
                form = found or PLAIN
                if asked.code in LONG and preferences(headers.get("prefer", "")).respond_async:
                    reply = await deferring.begin(caller, asked)
                else:
                    reply = await handle(server, caller, asked)
        except FhirError as error:  # what the engine refuses is a reply, and in the audit trail
            reply = await self.noted(server, scope, caller, refusal(error))
        finally:
            self.give(taken)
        wish = Wish(form, headers, scope["request_id"], scope["method"] == "HEAD")
        try:
            await self.respond(send, server, reply, asked, wish)
        except FhirError as error:  # its format cannot hold it; nothing was sent yet
            await self.respond(send, server, refusal(error), asked, wish._replace(form=PLAIN))

    def below(self, path: str) -> bool:
        """Return whether a path is the FHIR base or below it, and FHIR says what is there."""
        if not path.startswith(self.prefix):
            return False
        rest = path[len(self.prefix) :]
        if rest.startswith(DISCOVERY) or (not self.prefix and rest.startswith(AUTHORIZATION)):
            return False
        return rest[:1] in ("", "/")

    def path(self, scope: Scope) -> str:
        """Return what follows the base in the path, without slashes at its ends."""
        path: str = scope["path"][len(self.prefix) :]
        return path.strip("/")

    async def caller(self, bearer: Bearer, path: str, headers: Headers) -> Caller:
        """Return who asks; raises a 401 where nobody knows."""
        if path == ANONYMOUS or not self.guarded:
            return ANYONE
        return await bearer.caller(headers.get("authorization", ""))

    def take(self, caller: Caller) -> str:
        """Count one more request of a caller, and return whose; raises a 429 for one too many."""
        subject = caller.subject
        if subject:
            running = self.running.get(subject, 0)
            if running >= OF_ONE:
                text = f"You have {OF_ONE} requests under way; wait for an answer"
                raise FhirError([Issue("error", "throttled", text)], 429, {"Retry-After": "1"})
            self.running[subject] = running + 1
        return subject

    def give(self, subject: str) -> None:
        """Count one request of a caller less."""
        if subject:
            left = self.running[subject] - 1
            if left:
                self.running[subject] = left
            else:
                del self.running[subject]

    async def noted(
        self, server: Server, scope: Scope, caller: Caller | None, reply: Reply
    ) -> Reply:
        """Return what was answered out here once it is in the audit trail; 503 if it cannot be."""
        path = self.path(scope)
        if server.trail is None or path == ANONYMOUS:
            return reply
        found = scope.get("fhir.route")
        code, request = found.code if found else "", scope["request_id"]
        row = (scope["method"], path[:URL_LIMIT], reply.status, request, code)
        event = refused_at_the_edge(server.now(), caller, *row, address=address(scope))
        return await recorded(server.trail.note(event), reply)

    def place(self, server: Server, scope: Scope, path: str) -> Place | None:
        """Return what a request addresses, None where OPTIONS asks what one may do there."""
        method = scope["method"]
        types = server.definitions.type_numbers
        if method == "OPTIONS":
            route("GET" if "GET" in methods(path) else "POST", path, types)
            return None
        found = route("GET" if method == "HEAD" else method, path, types)
        scope["fhir.route"] = found.route  # what `watch` counts the request as
        return found

    async def interaction(
        self,
        server: Server,
        scope: Scope,
        place: Place,
        pairs: Pairs,
        headers: Headers,
        receive: Receive,
    ) -> Interaction:
        """Return what the request asks; raises a FhirError that says what is wrong with it."""
        sent = NO_BODY
        if place.route.method in BODIED:
            sent = await self.sent(server, place, headers, receive)
        prefer = preferences(headers.get("prefer", ""))
        return place.asked(
            pairs=(*pairs, *sent.pairs) if sent.pairs else pairs,
            body=sent.body,
            content_type=sent.content_type,
            if_match=headers.get("if-match", ""),
            if_none_match=headers.get("if-none-match", ""),
            if_modified_since=_moment(headers.get("if-modified-since")),
            if_none_exist=_query(headers.get("if-none-exist", "")),
            idempotency_key=headers.get("idempotency-key", ""),
            prefer=prefer.returning,
            handling=prefer.handling,
            provenance=headers.get("x-provenance", "").encode("latin-1"),
            url=self.path(scope),
            request=scope["request_id"],
            address=address(scope),
        )

    async def sent(self, server: Server, place: Place, headers: Headers, receive: Receive) -> Sent:
        """Return the body of a request as the engine takes it: a form, JSON, or a JSON Patch."""
        code, content_type = place.route.code, headers.get("content-type", "")
        limit = self.max_bundle_bytes if code == "batch" else self.max_resource_bytes
        search = place.route.path.endswith("_search")
        bare = not content_type and (search or code == "operation")
        if bare and not await received(headers, receive, limit):
            return NO_BODY  # all parameters are in the URL
        if place.type in binary.TYPES and code in binary.WRITES:
            body = await received(headers, receive, limit)
            if await aside(len(body), binary.is_content, content_type, body):
                if len(body) > binary.most(limit):
                    raise too_long(binary.most(limit))
                context = headers.get("x-security-context", "")
                return Sent(binary.stored(place.id, content_type, context, body), FHIR_JSON)
            kind = media_type(content_type, RESOURCE_TYPES)
        else:
            taken = SEARCH_TYPES if search else PATCH_TYPES if code == "patch" else RESOURCE_TYPES
            kind = media_type(content_type, taken)
            body = await received(headers, receive, limit)
        if "x-security-context" in headers:
            text = "X-Security-Context goes with the content of a Binary, not with a resource"
            raise refused("invalid", text, status=400)
        if search:
            return Sent(pairs=_form(body))
        if kind in XML_TYPES and (body or code != "operation"):
            return Sent(await aside(len(body), self.converter(server).read, body), FHIR_JSON)
        return Sent(body, FHIR_JSON if kind in RESOURCE_TYPES and code != "patch" else kind)

    def converter(self, server: Server) -> Xml:
        """Return what reads and writes XML; it is made when XML is first asked for."""
        if self.xml is None:
            self.xml = Xml(server.definitions)
        return self.xml

    async def respond(
        self, send: Send, server: Server, reply: Reply, asked: Interaction, wish: Wish
    ) -> None:
        """Send a reply: status, ETag, Last-Modified, Location, and the body in its format.

        Raises 406, before anything is sent, for a body that cannot be written in the format.
        """
        if reply.body:
            body, headers = await self.shown(server, reply, asked, wish)
        else:
            body, headers = b"", [*ALWAYS]
        headers.append((b"x-request-id", wish.request.encode()))
        if reply.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(body)))
        if reply.version:
            headers.append((b"etag", b'W/"%d"' % reply.version))
            headers.append((b"last-modified", http_date(reply.updated // 1_000_000)))
            if place := own_address(reply, asked):
                headers.append((b"content-location", f"{server.base_url}/{place}".encode()))
        if reply.status == 403:
            headers.append((b"www-authenticate", INSUFFICIENT_SCOPE.encode()))
        if reply.location:
            headers.append((b"location", f"{server.base_url}/{reply.location}".encode()))
        headers += [(name.lower().encode(), value.encode()) for name, value in reply.extra.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if wish.head else body})

    async def shown(
        self, server: Server, reply: Reply, asked: Interaction, wish: Wish
    ) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the body as the client wishes it, and the headers that say how it is."""
        if asked.type in binary.TYPES and reply.status == 200 and binary.wanted(asked):
            found = binary.content(reply.body, wish.headers.get("accept", ""))
            if found is not None:
                return found.data, [*ALWAYS, *binary.described(found.content_type)]
        body = reply.body
        if wish.form.xml:
            write = self.converter(server).write
            body = await aside(len(body), write, body, pretty=wish.form.pretty)
        elif wish.form.pretty:
            body = pretty(body)
        described = (b"content-type", wish.form.content_type)
        if len(body) <= WORTH_PACKING:
            return body, [*ALWAYS, described]
        if not takes_gzip(wish.headers.get("accept-encoding", "")):
            return body, [*ALWAYS_IF_LONG, described]
        return await packed(body), [*ALWAYS_IF_LONG, described, (b"content-encoding", b"gzip")]


def joined(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers by name; several lines of one are joined (RFC 9110, 5.2)."""
    found: dict[str, str] = {}
    for key, value in raw:
        name, text = key.decode("latin-1"), value.decode("latin-1")
        if name in found:
            if name in SINGLE:
                raise refused("invalid", f"The header {name} is given more than once", status=400)
            text = f"{found[name]}, {text}"
        found[name] = text
    return found


def asked_for(scope: Scope) -> Pairs:
    """Return the parameters in a URL; raises 414 for one that is too long.

    RFC 3986, 2.2: an encoded slash is no slash. Whoever guards paths in front of the server reads
    it so, hence a 400.
    """
    query, raw = scope["query_string"], scope["raw_path"]
    if b"%" in raw and b"%2f" in raw.lower():
        text = "No path has a percent-encoded slash: it stands for no slash, and in no id"
        raise refused("invalid", text, status=400)
    if len(query) + len(scope["path"]) > URL_LIMIT:
        raise refused("too-long", "The URL is too long; POST to _search instead", status=414)
    return tokenless(parse_query(query.decode("ascii", "replace"))) if query else ()


def address(scope: Scope) -> str:
    """Return where a request came from, "" where there is no telling."""
    client = scope.get("client")
    return client[0] if client else ""


def tokenless(pairs: Pairs) -> Pairs:
    """Return parameters; refuses a token among them (RFC 9700, 4.3.2), which logs would have."""
    if any(name == "access_token" for name, _ in pairs):
        text = "A token goes into the header Authorization: Bearer [token], and nowhere else"
        raise refused("invalid", text, "http.access_token", status=400)
    return pairs


def unacceptable() -> FhirError:
    """Return the refusal of a request that accepts nothing that we write."""
    text = f"Accept must allow {FHIR_JSON} or {FHIR_XML}, of fhirVersion 4.0"
    return refused("not-supported", text, status=406)


def own_address(reply: Reply, asked: Interaction) -> str:
    """Return where the version is that an answer shows, "" if it shows none."""
    if asked.code not in OF_A_VERSION or not (reply.body or reply.status == 304):
        return ""
    if reply.location:
        return "" if asked.prefer == "OperationOutcome" else reply.location
    return f"{asked.type}/{asked.id}/_history/{reply.version}"


def _form(body: bytes) -> Pairs:
    try:
        return tokenless(parse_query(body.decode()))
    except UnicodeDecodeError:
        raise refused("invalid", "The form is not UTF-8") from None


def _query(header: str) -> str:
    """Return the query in a header, which came as Latin-1 and is percent-encoded, or UTF-8."""
    try:
        return header if header.isascii() else header.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise refused("invalid", "If-None-Exist is not UTF-8", status=400) from None


def _moment(header: str | None) -> int | None:
    """Return If-Modified-Since in microseconds; None if there is none, or no date in it."""
    if header is None:
        return None
    try:
        return int(parsedate_to_datetime(header).timestamp()) * 1_000_000
    except (ValueError, OverflowError):
        return None  # RFC 9110, 13.1.3: a recipient must ignore it


@lru_cache(1024)
def http_date(second: int) -> bytes:
    """Return seconds since 1970 as an HTTP date."""
    return format_datetime(datetime.fromtimestamp(second, UTC), usegmt=True).encode()


def cors(origins: str) -> dict[str, Any]:
    """Return what CORSMiddleware is told: origins with commas between, `*` for any.

    Tokens travel in Authorization, which a page adds itself: no cookies, so no credentials.
    """
    return {
        "allow_origins": origins.split(","),
        "allow_methods": METHODS,
        "allow_headers": ["*"],
        "expose_headers": EXPOSED,
        "max_age": 3600,
    }
