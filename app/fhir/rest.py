"""The one door: every request, from wherever it comes, is an Interaction handled here.

https://hl7.org/fhir/R4/http.html

Theory of operation. `handle` chooses where the work runs (a read, a search, a transaction) and
turns every refusal into an OperationOutcome. `PERFORM` is the table from interaction to the
function that does it; the entries of a transaction go through the same functions, with one store
and one `flush` for all of them.

A write has two halves: `prepare` needs no database (decode, check, validate), `perform` runs
inside the transaction.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from app import db
from app.fhir import bundle
from app.fhir.access import Caller
from app.fhir.bundle import Entry, Links
from app.fhir.definitions import Definitions
from app.fhir.errors import STATUS, FhirError, Issue, outcome, refused
from app.fhir.interaction import Interaction, Pairs, Reply, parse_query
from app.fhir.query import CURSOR, All, Language, single, unparse
from app.fhir.store import CREATED, LIVE, Catalogue, Current, Store, Version, instant
from app.fhir.validation import Validator
from app.fhir.values import parse_date
from app.fhir.wire import Resource, compact, decode, encode, fields

log = logging.getLogger("milepost")

WRITES = frozenset({"create", "update", "delete"})
BREATH = 20  # entries of a Bundle between two turns of the event loop
EARLIEST = -(2**62)


@dataclass(frozen=True)
class Server:
    """What the process knows: composed once by `app.main`.

    `now` gives microseconds since 1970, cut to milliseconds (the precision of lastUpdated);
    `new_id` a fresh id; `statement` is the CapabilityStatement.
    """

    base_url: str
    database: db.Database
    definitions: Definitions
    catalogue: Catalogue
    validator: Validator
    language: Language
    now: Callable[[], int]
    new_id: Callable[[], str]
    statement: bytes


@dataclass(frozen=True, slots=True)
class Prepared:
    """A resource that is acceptable in itself: its compact bytes, and the same decoded."""

    raw: bytes
    resource: Resource


Perform = Callable[[Server, Store, Interaction], Coroutine[Any, Any, Reply]]


async def handle(server: Server, caller: Caller, asked: Interaction) -> Reply:
    """Return the answer to one request; whatever goes wrong is an answer too."""
    try:
        return await _dispatch(server, caller, asked)
    except FhirError as error:
        return refusal(error)
    except db.Unavailable as error:
        return _failure("transient", f"The database is not available: {error}", 503)
    except db.TooSlow as error:
        return _failure("too-costly", f"The search was {error}; ask for less at once", 503)
    except Exception as error:
        # The class alone: a database error quotes rows in its text
        log.error("%s failed: %s", asked.code, type(error).__name__, exc_info=_trace(error))
        return _failure("exception", "The server failed; the failure was logged", 500)


def _trace(error: BaseException) -> Any:
    """Return what to log of a failure: the trace without the text, which may quote data."""
    return (RuntimeError, RuntimeError(type(error).__name__), error.__traceback__)


def refusal(error: FhirError) -> Reply:
    """Return a refusal as the OperationOutcome that the client gets."""
    return Reply(error.status, encode(outcome(error.issues)), extra=error.headers)


def _failure(code: str, text: str, status: int) -> Reply:
    extra = {"Retry-After": "1"} if status == 503 else {}
    return replace(refusal(FhirError([Issue("error", code, text)], status)), extra=extra)


async def _dispatch(server: Server, caller: Caller, asked: Interaction) -> Reply:
    def opened(connection: db.Connection) -> Store:
        return Store(connection, server.catalogue, caller)

    perform = PERFORM.get(asked.code)
    match asked.code:
        case "capabilities":
            check_parameters(asked, ())
            return Reply(200, server.statement)
        case "batch":
            return await _bundle(server, caller, asked)
        case "read" | "vread" if perform:
            return await server.database.read(lambda c: perform(server, opened(c), asked))
        case "search-type" | "history-instance" | "history-type" | "history-system" if perform:
            return await server.database.search(lambda c: perform(server, opened(c), asked))
    return await _write(server, caller, asked)


async def _write(server: Server, caller: Caller, asked: Interaction) -> Reply:
    """Run one write as a transaction of its own."""
    prepared = prepare(server, asked) if asked.code in ("create", "update") else None
    check_parameters(asked, ())

    async def work(connection: db.Connection) -> Reply:
        store = Store(connection, server.catalogue, caller)
        reply = await _perform_write(server, store, asked, prepared)
        await store.flush()
        if asked.prefer in ("", "representation") and not reply.body and reply.status < 204:
            id = reply.location.split("/")[1] if reply.location else asked.id
            return replace(reply, body=(await store.read(asked.type, id)).body)
        return reply

    return _preferred(await server.database.write(work), asked)


async def _perform_write(
    server: Server, store: Store, asked: Interaction, prepared: Prepared | None
) -> Reply:
    """Lock what the write is about, and stage it."""
    if asked.code == "create" and prepared is not None:
        if asked.if_none_exist and (found := await _existing(server, store, asked)):
            return found
        return create(store, asked, server.new_id(), prepared, server.now())
    identity = (asked.type, asked.id)
    if asked.code == "delete":
        known = (await store.lock([identity])).get(identity)
        return await delete(store, asked, known, server.now())
    assert prepared is not None
    # whoever names a version expects the resource to be there: no row is made for it
    locked = await store.lock([identity], () if asked.if_match else [identity])
    return await update(store, asked, locked.get(identity), prepared, server.now())


def _preferred(reply: Reply, asked: Interaction) -> Reply:
    """Return the reply with the body that `Prefer: return=` asks for (http.html#ops)."""
    if reply.status >= 300:
        return reply
    match asked.prefer:
        case "minimal":
            return replace(reply, body=b"")
        case "OperationOutcome":
            status = 200 if reply.status == 204 else reply.status
            return replace(reply, status=status, body=encode(outcome([])))
    return reply


# --- preparing ---------------------------------------------------------------------------------


def prepare(server: Server, asked: Interaction) -> Prepared:
    """Return the resource of a create or update, or refuse it with every issue that it has."""
    resource = decode(asked.body, asked.type)
    raw = compact(asked.body)
    issues = check(server, asked, resource)
    for condition in bundle.conditions(raw):
        text = f"The reference {condition.partition('?')[0]}?... is resolved in a transaction only"
        issues.append(Issue("error", "value", text))
    if issues:
        raise FhirError(issues, min(max(STATUS[issue.code], 400) for issue in issues))
    return Prepared(raw, resource)


def check(
    server: Server, asked: Interaction, resource: Resource, place: str | None = None
) -> list[Issue]:
    """Return what is wrong with a resource that is to be stored, all of it, named from `place`."""
    found = resource.get("resourceType")
    if found != asked.type:
        text = f"resourceType must be {asked.type}, as in the URL"
        return [Issue("error", "invalid", text, f"{place or asked.type}.resourceType")]
    if asked.code == "update" and resource.get("id") != asked.id:
        # http.html#update: the id in the body is required and must be that of the URL
        text = f"id must be {asked.id}, as in the URL"
        return [Issue("error", "invalid", text, f"{place or asked.type}.id")]
    return server.validator.validate(resource, place=place)


def check_parameters(asked: Interaction, known: Sequence[str]) -> None:
    """Refuse a query parameter that this interaction does not have: none is ignored."""
    for name, value in asked.pairs:
        if name in known or not value or name in ("_format", "_pretty"):
            continue
        if name == "_summary" and value == "false":
            continue
        may = f"; it has {', '.join(known)}" if known else ""
        text = f"{asked.code} has no parameter {name[:80]!r}{may}"
        raise refused("not-supported", text, f"http.{name[:80]}")


# --- interactions ------------------------------------------------------------------------------


def matches(header: str, version: int) -> bool:
    """Return whether an If-Match or If-None-Match header names the version; a weak tag is fine.

    Raises a 400 for what is no entity tag.
    """
    if header == "*":
        return True
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    if any(len(tag) < 2 or tag[0] != '"' or tag[-1] != '"' for tag in tags):
        raise refused("invalid", 'If-Match and If-None-Match take an ETag such as W/"1"')
    return f'"{version}"' in tags


def _not_modified(asked: Interaction, found: Version) -> bool:
    """Return whether the client has this version already (http.html#cread)."""
    if asked.if_none_match:
        return matches(asked.if_none_match, found.version)
    since = asked.if_modified_since
    return since is not None and found.updated // 1_000_000 <= since // 1_000_000


async def read(_: Server, store: Store, asked: Interaction) -> Reply:
    """Return the current version, or 304 if the client has it (http.html#read)."""
    check_parameters(asked, ())
    return _reading(asked, await store.read(asked.type, asked.id))


async def vread(_: Server, store: Store, asked: Interaction) -> Reply:
    """Return one version (http.html#vread)."""
    check_parameters(asked, ())
    return _reading(asked, await store.vread(asked.type, asked.id, asked.version))


def _reading(asked: Interaction, found: Version) -> Reply:
    if _not_modified(asked, found):
        return Reply(304, b"", found.version, found.updated)
    return Reply(200, found.body, found.version, found.updated)


def create(store: Store, asked: Interaction, id: str, prepared: Prepared, now: int) -> Reply:
    """Stage a new resource under a new id; the id in the body is ignored (http.html#create)."""
    version, _ = store.put(asked.type, id, prepared.raw, prepared.resource, None, now)
    return _written(version, 201)


async def update(
    store: Store, asked: Interaction, current: Current | None, prepared: Prepared, now: int
) -> Reply:
    """Stage a new version, or the first one under the client's id (http.html#update, #upsert)."""
    exists = current is not None and current.state == LIVE
    hidden = current and exists and not await store.visible(current, asked.type, "update")
    _require_version(asked, None if hidden else current)
    if hidden:
        raise refused("not-found", f"There is no {asked.type}/{asked.id}")
    version, _ = store.put(asked.type, asked.id, prepared.raw, prepared.resource, current, now)
    return _written(version, 201 if version.op == CREATED else 200)


async def delete(store: Store, asked: Interaction, current: Current | None, now: int) -> Reply:
    """Stage a deletion; what is not there counts as deleted: 204 (http.html#delete)."""
    if current and (
        current.state != LIVE or not await store.visible(current, asked.type, "delete")
    ):
        current = None
    _require_version(asked, current)
    if current is None:
        return Reply(204)
    version = store.delete(asked.type, asked.id, current, now)
    return Reply(204, b"", version.version, version.updated)


def _require_version(asked: Interaction, current: Current | None) -> None:
    """Refuse a write that was made against another version (http.html#concurrency)."""
    version = current.version if current is not None and current.state == LIVE else 0
    if version and asked.if_none_match and matches(asked.if_none_match, version):
        raise refused("conflict", f"{asked.type}/{asked.id} exists", status=412)
    if not asked.if_match:
        return
    if not version:
        raise refused("conflict", f"{asked.type}/{asked.id} does not exist", status=412)
    if not matches(asked.if_match, version):
        text = f"{asked.type} is at version {version}, not {_tag(asked.if_match)}"
        raise refused("conflict", text, status=412)


def _tag(header: str) -> str:
    return header.removeprefix("W/").strip('"')[:40]


def _written(version: Version, status: int) -> Reply:
    location = f"{version.type}/{version.id}/_history/{version.version}"
    return Reply(status, version.body, version.version, version.updated, location)


async def _existing(server: Server, store: Store, asked: Interaction) -> Reply | None:
    """Return the answer of a conditional create that finds its resource (http.html#ccreate).

    The criteria are locked first, so that of two requests at once the second finds the first.
    """
    await store.connection.exclusive([criteria(asked)])
    pairs = parse_query(asked.if_none_exist)
    found = await _find(server, store, asked.type, pairs, "If-None-Exist")
    if found is None:
        return None
    current = await store.read(asked.type, found)
    return _written(current, 200)


def criteria(asked: Interaction) -> str:
    """Return a name for the criteria of a conditional create: equal criteria, equal name."""
    return f"{asked.type}?{unparse(tuple(sorted(parse_query(asked.if_none_exist))))}"


async def _find(server: Server, store: Store, type: str, pairs: Pairs, where: str) -> str | None:
    """Return the id of the one resource that fits; None for none, 412 for several."""
    search = server.language.parse(type, pairs, server.now())
    if isinstance(search.where, All):
        raise refused("invalid", f"{where} needs search parameters", status=400)
    page = await store.search(replace(search, count=2, cursor=""))
    if len(page.entries) > 1:
        raise refused("multiple-matches", f"{where} fits more than one {type}")
    return page.entries[0][0] if page.entries else None


async def search(server: Server, store: Store, asked: Interaction) -> Reply:
    """Return a searchset (http.html#search)."""
    parsed = server.language.parse(asked.type, asked.pairs, server.now())
    page = await store.search(parsed)
    links = bundle.page_links(f"{server.base_url}/{asked.type}", parsed.applied, page.cursor)
    body = bundle.searchset(server.base_url, asked.type, page.entries, links, page.total)
    return Reply(200, body)


async def history(server: Server, store: Store, asked: Interaction) -> Reply:
    """Return a history Bundle, newest first (http.html#history)."""
    known = ("_count", "_since", CURSOR)
    check_parameters(asked, known)
    given = single(asked.pairs, known)
    page = await store.history(
        asked.type,
        asked.id,
        since=_since(given.get("_since")),
        count=server.language.count(given.get("_count")),
        cursor=given.get(CURSOR, ""),
    )
    entries = [
        bundle.history_entry(
            server.base_url, v.type, v.id, v.version, instant(v.updated), v.op, v.body
        )
        for v in page.entries
    ]
    path = "/".join(part for part in (server.base_url, asked.type, asked.id, "_history") if part)
    applied = unparse(tuple(p for p in asked.pairs if p[1] and p[0] in ("_count", "_since")))
    links = bundle.page_links(path, applied, page.cursor)
    return Reply(200, bundle.history(entries, links))


def _since(text: str | None) -> int:
    """Return the moment of `_since`, an instant, in microseconds."""
    if text is None:
        return EARLIEST
    try:
        return parse_date(text).lo
    except ValueError as error:
        raise refused("value", f"_since: {error}", "http._since", 400) from None


PERFORM: Mapping[str, Perform] = {
    "read": read,
    "vread": vread,
    "search-type": search,
    "history-instance": history,
    "history-type": history,
    "history-system": history,
}


# --- batch and transaction ---------------------------------------------------------------------


async def _bundle(server: Server, caller: Caller, asked: Interaction) -> Reply:
    """Run the entries of a Bundle one by one, or as one transaction (http.html#transaction)."""
    check_parameters(asked, ())
    raw = compact(asked.body, "Bundle")
    if bundle.value(fields(raw), "resourceType") != "Bundle":
        text = "resourceType must be Bundle at the base of the server"
        raise FhirError([Issue("error", "invalid", text, "resourceType")])
    kind, entries = bundle.plan(raw, server.definitions, server.base_url)
    issues = server.validator.validate(bundle.envelope(raw))
    if issues:
        raise FhirError(issues)
    if kind == "batch":
        return await _batch(server, caller, asked, entries)
    return await server.database.write(
        lambda connection: _transaction(
            server, Store(connection, server.catalogue, caller), asked, entries
        )
    )


async def _batch(
    server: Server, caller: Caller, asked: Interaction, entries: Sequence[Entry]
) -> Reply:
    """Answer each entry as if it had come alone: one may fail without the others."""
    answers = []
    for entry in entries:
        inner = replace(entry.interaction, prefer=asked.prefer)
        refused_at_once = refusal(entry.refusal) if entry.refusal else None
        reply = refused_at_once or await handle(server, caller, inner)
        answers.append(_answer(reply, inner))
    return Reply(200, bundle.response("batch", answers))


def _answer(reply: Reply, inner: Interaction) -> bytes:
    reads = inner.code not in WRITES
    show = reads or inner.prefer in ("representation", "OperationOutcome")
    return bundle.response_entry(reply, instant(reply.updated), representation=show)


async def _transaction(
    server: Server, store: Store, asked: Interaction, entries: Sequence[Entry]
) -> Reply:
    """Perform all entries or none, in the order of http.html#trules."""
    await store.begin()
    ids, replies, twins = await _identify_creates(server, store, entries)
    writes = [e for e in bundle.in_order(entries) if e.interaction.code in WRITES]
    bundle.check_identities(
        (e.place, e.interaction.type, ids.get(e.place) or e.interaction.id)
        for e in writes
        if e.place not in twins
    )
    writes = [e for e in writes if e.place not in replies and e.place not in twins]
    named = [e.interaction for e in writes if e.interaction.code != "create"]
    locked = await store.lock(
        [(i.type, i.id) for i in named], {(i.type, i.id) for i in named if i.code == "update"}
    )
    now = server.now()
    targets = _full_urls(entries, ids)
    async for ready in _resolvable(server, store, writes, targets):
        prepared = await _prepare_all(server, ready, Links(targets, server.definitions))
        for entry in ready:
            inner = entry.interaction
            with placed(entry):
                if inner.code == "create":
                    reply = create(store, inner, ids[entry.place], prepared[entry.place], now)
                elif inner.code == "update":
                    current = locked[inner.type, inner.id]
                    reply = await update(store, inner, current, prepared[entry.place], now)
                else:
                    known = locked.get((inner.type, inner.id))
                    reply = await delete(store, inner, known, now)
            replies[entry.place] = reply
        await store.flush()
    for place, first in twins.items():
        replies[place] = replace(replies[first], status=200)
    return Reply(200, await _answers(server, store, asked, entries, replies))


async def _identify_creates(
    server: Server, store: Store, entries: Sequence[Entry]
) -> tuple[dict[str, str], dict[str, Reply], dict[str, str]]:
    """Return ids and answers of creates by place, and which creates are the same as an earlier one.

    An answer is known where a conditional create finds its resource. Two with the same criteria
    mean the same resource.
    """
    ids: dict[str, str] = {}
    replies: dict[str, Reply] = {}
    twins: dict[str, str] = {}
    first: dict[str, str] = {}
    creates = [entry for entry in entries if entry.interaction.code == "create"]
    wanted = {e.place: criteria(e.interaction) for e in creates if e.interaction.if_none_exist}
    await store.connection.exclusive(wanted.values())
    for entry in creates:
        found = None
        if entry.place in wanted:
            earlier = first.setdefault(wanted[entry.place], entry.place)
            if earlier != entry.place:
                twins[entry.place], ids[entry.place] = earlier, ids[earlier]
                continue
            with placed(entry):
                found = await _existing(server, store, entry.interaction)
        if found is not None:
            replies[entry.place] = found
        ids[entry.place] = found.location.split("/")[1] if found else server.new_id()
    return ids, replies, twins


async def _answers(
    server: Server,
    store: Store,
    asked: Interaction,
    entries: Sequence[Entry],
    replies: Mapping[str, Reply],
) -> bytes:
    """Return the transaction-response: reads are performed now, after all writes."""
    answers = []
    for entry in entries:
        inner = replace(entry.interaction, prefer=asked.prefer)
        reply = replies.get(entry.place)
        if reply is None:
            with placed(entry):
                reply = await PERFORM[inner.code](server, store, inner)
        elif inner.prefer == "representation" and not reply.body and reply.status < 204:
            reply = replace(reply, body=(await store.read(inner.type, inner.id)).body)
        elif inner.prefer == "OperationOutcome":
            reply = _preferred(reply, inner)
        answers.append(_answer(reply, inner))
    return bundle.response("transaction", answers)


def _full_urls(entries: Sequence[Entry], ids: Mapping[str, str]) -> dict[str, str]:
    """Return what each fullUrl of a written entry becomes (http.html#trules)."""
    return {
        e.full_url: f"{e.interaction.type}/{ids.get(e.place) or e.interaction.id}"
        for e in entries
        if e.full_url and e.interaction.code in ("create", "update")
    }


async def _resolvable(
    server: Server, store: Store, writes: Sequence[Entry], targets: dict[str, str]
) -> AsyncIterator[list[Entry]]:
    """Yield the writes in rounds; before each, `targets` has learnt its conditional references.

    http.html#trules resolves them after all writes. That makes a difference only where they search
    a type that this transaction writes: such entries wait for a round after the others.
    """
    written = {entry.interaction.type for entry in writes}
    pending = list(writes)
    first = True
    while pending:
        waiting: dict[str, Entry] = {}
        for entry in pending:
            for condition in bundle.conditions(entry.interaction.body):
                if condition in targets or condition in waiting:
                    continue
                found = None
                if not first or condition.partition("?")[0] not in written:
                    with placed(entry):
                        found = await _conditional(server, store, condition)
                if found:
                    targets[condition] = found
                else:
                    waiting[condition] = entry
        ready = [
            e for e in pending if waiting.keys().isdisjoint(bundle.conditions(e.interaction.body))
        ]
        if not ready and not first:
            condition, entry = next(iter(waiting.items()))
            with placed(entry):
                type = condition.partition("?")[0]
                text = f"A conditional reference finds no {type}"
                raise refused("not-found", text, status=412)
        yield ready
        done = {entry.place for entry in ready}
        pending = [entry for entry in pending if entry.place not in done]
        first = False


async def _conditional(server: Server, store: Store, reference: str) -> str | None:
    """Return the one resource that a conditional reference finds, None if there is none yet."""
    type, _, query = reference.partition("?")
    if type not in server.definitions.type_numbers:
        raise refused("value", f"A conditional reference to {type[:64]!r}, which is no type")
    found = await _find(server, store, type, parse_query(query), "A conditional reference")
    return f"{type}/{found}" if found else None


async def _prepare_all(
    server: Server, writes: Sequence[Entry], links: Links
) -> dict[str, Prepared]:
    """Return each resource that is to be written, links replaced; all their issues at once."""
    prepared: dict[str, Prepared] = {}
    issues: list[Issue] = []
    for n, entry in enumerate(writes):
        if entry.interaction.code == "delete":
            continue
        if n % BREATH == BREATH - 1:
            await asyncio.sleep(0)
        raw = links.rewrite(entry.interaction.body, entry.full_url)
        place = f"{entry.place}.resource"
        try:
            resource = decode(raw, place)
            found = check(server, entry.interaction, resource, place)
        except FhirError as error:
            found = list(error.issues)
        issues += found
        if not found:
            prepared[entry.place] = Prepared(raw, resource)
    if issues:
        raise FhirError(issues, min(max(STATUS[issue.code], 400) for issue in issues))
    return prepared


@contextmanager
def placed(entry: Entry) -> Iterator[None]:
    """Name the entry in every refusal that is raised inside."""
    try:
        yield
    except FhirError as error:
        issues = [issue.under(entry.place) for issue in error.issues]
        raise FhirError(issues, error.status) from None
