"""Interactions that write: create, update, patch, delete.

https://hl7.org/fhir/R4/http.html

A write has two halves: `prepare` needs no database (decode, check, validate), the rest runs inside
the transaction. Where the database has to say what is written (a patch, or criteria in place of an
id), both do.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from app import db
from app.fhir import bundle, patch
from app.fhir.access import Caller, Right
from app.fhir.audit import Line
from app.fhir.bundle import Entry
from app.fhir.errors import STATUS, FhirError, Issue, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.manifest import Identity
from app.fhir.rest import provenance
from app.fhir.rest.conditions import claims, conditional, reachable, resolve
from app.fhir.rest.referential import NOWHERE, Findings, look
from app.fhir.rest.ruling import checked, concerned, filled
from app.fhir.rest.server import Server, check_parameters, matches
from app.fhir.store import CREATED, LIVE, Current, Store, Version, nothing, refusals
from app.fhir.wire import Resource, compact, decode, encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A resource that is acceptable in itself: its compact bytes, and the same decoded."""

    raw: bytes
    resource: Resource


async def write(
    server: Server, caller: Caller, asked: Interaction, line: Line | None = None
) -> Reply:
    """Run one write as a transaction of its own."""
    prepared = prepared_for(server, asked)

    async def work(store: Store) -> Reply:
        reply = await made(server, store, asked, prepared, line)
        return await whole(store, asked, reply) if asked.prefer in ("", "representation") else reply

    return preferred(await transact(server, caller, work, line), asked)


def prepared_for(server: Server, asked: Interaction) -> Prepared | None:
    """Return what a write needs before its transaction, None where the database has a say in it."""
    if asked.code != "create" and not asked.id:
        return None
    check_parameters(asked, ())
    return prepare(server, asked) if asked.code in ("create", "update") else None


async def made(
    server: Server,
    store: Store,
    asked: Interaction,
    prepared: Prepared | None,
    line: Line | None = None,
) -> Reply:
    """Make one write in a transaction that may go on; return its answer.

    With a `line` nothing else is written: it goes into the database with the last statement.
    """
    if server.referential_integrity != "off":
        await store.begin()
    reply = await _perform_write(server, store, asked, prepared)
    told = partial(line.changes, reply.status) if line is not None else nothing
    found = await settled(server, store, asked, beside=told)
    issues = (*reply.issues, *(issue for some in found.values() for issue in some))
    return replace(reply, issues=issues) if found else reply


async def settled(
    server: Server,
    store: Store,
    asked: Interaction,
    entries: Mapping[Identity, str] = NOWHERE,
    beside: Callable[[], Sequence[db.Change]] = nothing,
) -> Findings:
    """Write what is staged with its Provenance; return what is to be said of it.

    That is of broken references, and of rules. `entries` are the places in a Bundle of what was
    written; `beside` is written with it.
    """
    if asked.provenance:
        attest(server, store, asked)
    if concerned(server, store.written):
        await store.begin()
    await store.flush(beside)
    found = {**await look(server, store, entries)}
    for key, warnings in (await checked(server, store, entries)).items():
        found[key] = [*found.get(key, ()), *warnings]
    return found


def attest(server: Server, store: Store, asked: Interaction) -> None:
    """Stage the Provenance of what was written, if anything was (http.html#provenance)."""
    inner = provenance.asserted(asked.provenance)
    try:
        prepared = prepare(server, inner)
    except FhirError as error:
        raise provenance.named(error) from None
    if store.written:
        raw = provenance.about(prepared.raw, store.written)
        create(store, inner, server.new_id(), Prepared(raw, decode(raw)), server.now())


async def transact(
    server: Server,
    caller: Caller,
    work: Callable[[Store], Coroutine[Any, Any, Reply]],
    line: Line | None = None,
) -> Reply:
    """Return the reply of one transaction; definitions that it has changed are then in force.

    Its `line` is committed with it.
    """
    seen = line.seen if line is not None else None
    before = len(seen) if seen is not None else 0

    async def opened(connection: db.Connection) -> tuple[Reply, int]:
        store = Store(connection, server.catalogue, caller, seen)
        if line is not None:  # it may begin again
            line.written = False
            del line.seen[before:]
        reply = await work(store)
        if line is not None and not line.written:
            await connection.change(line.changes(reply.status), final=True)
        return reply, store.version

    reply, version = await server.database.write(opened)
    if version != server.catalogue.version:
        with suppress(db.Unavailable):  # it is committed, whatever comes now
            await server.editions.renew()
    return reply


async def _perform_write(
    server: Server, store: Store, asked: Interaction, prepared: Prepared | None
) -> Reply:
    """Lock what the write is about, and stage it."""
    now = server.now()
    if conditional(asked):
        resolved = await resolve(server, store, [Entry("", interaction=asked)])
        plain, locked = [entry.interaction for entry in resolved.writes], resolved.locked
    elif asked.code == "create" and prepared is not None:
        prepared = await completed(server, store, asked, prepared)
        return create(store, asked, asked.id or server.new_id(), prepared, now)
    else:
        claimed = [(asked.type, asked.id)] if claims(store, asked) else []
        plain, locked = [asked], await store.lock(await reachable(store, [asked]), claimed)
    replies = [
        await stage(server, store, one, locked.get((one.type, one.id)), prepared, now)
        for one in plain
    ]
    return together(replies)


async def stage(
    server: Server,
    store: Store,
    asked: Interaction,
    current: Current | None,
    prepared: Prepared | None,
    now: int,
) -> Reply:
    """Stage a write that names its resource, whose row is locked; a create may have no id yet."""
    if asked.code == "read":
        return await existing(store, asked)
    if asked.code == "delete":
        return await delete(store, asked, current, now)
    if asked.code == "patch":
        asked = await patched(server, store, asked, current)
    prepared = await completed(server, store, asked, prepared or prepare(server, asked))
    if asked.code == "create":
        return create(store, asked, asked.id or server.new_id(), prepared, now)
    return await update(store, asked, current, prepared, now)


def together(replies: Sequence[Reply]) -> Reply:
    """Return the answer to a write from those to what it came to: one of several has no version."""
    if len(replies) == 1:
        return replies[0]
    deleted = sum(reply.version > 0 for reply in replies)  # less what the caller may not delete
    text = f"{deleted} resources were deleted"
    return Reply(204, issues=(Issue("information", "informational", text),))


async def whole(store: Store, asked: Interaction, reply: Reply) -> Reply:
    """Return the answer to a write with the resource, which one that changed nothing leaves out."""
    if reply.body or reply.status >= 204:
        return reply
    if not store.caller.policy.may(asked.type, "show"):
        return reply
    id = reply.location.split("/")[1]
    return replace(reply, body=(await store.read(asked.type, id, "show")).body)


def preferred(reply: Reply, asked: Interaction) -> Reply:
    """Return the reply with the body that `Prefer: return=` asks for (http.html#ops)."""
    if reply.status >= 300:
        return reply
    match asked.prefer:
        case "minimal":
            return replace(reply, body=b"")
        case "OperationOutcome":
            status = 200 if reply.status == 204 else reply.status
            return replace(reply, status=status, body=encode(outcome(reply.issues)))
    return reply


def prepare(server: Server, asked: Interaction) -> Prepared:
    """Return the resource of a create or update, or refuse it with every issue that it has."""
    resource = decode(asked.body, asked.type)
    raw = compact(asked.body)
    check_size(server, raw, asked.type)
    issues = check(server, asked, resource)
    for condition in bundle.conditions(raw):
        text = f"The reference {condition.partition('?')[0]}?... is resolved in a transaction only"
        issues.append(Issue("error", "value", text))
    if issues:
        raise FhirError(issues, min(max(STATUS[issue.code], 400) for issue in issues))
    return Prepared(raw, resource)


async def completed(
    server: Server, store: Store, asked: Interaction, prepared: Prepared
) -> Prepared:
    """Return the resource as the rules complete it; what they make of it is checked like any."""
    resource = await filled(server, store, asked, prepared.raw, prepared.resource)
    if resource is prepared.resource:
        return prepared
    if issues := check(server, asked, resource):
        raise FhirError(issues)
    return Prepared(encode(resource), resource)


def check_size(server: Server, raw: bytes, place: str) -> None:
    """Refuse a resource that could not be sent alone: what a patch or a Bundle has made of it."""
    if len(raw) > server.max_resource_bytes:
        text = f"The resource is longer than {server.max_resource_bytes} bytes"
        raise refused("too-long", text, place)


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
        text = f"id must be {asked.id}, that of the resource which is updated"
        return [Issue("error", "invalid", text, f"{place or asked.type}.id")]
    issues = server.validator.validate(resource, place=place)
    if asked.type == "SearchParameter" and not issues:
        known = server.catalogue
        faults = refusals(asked.id, resource, known.official, known.custom)
        return [issue.under(place or asked.type) for issue in faults]
    return issues


def create(
    store: Store,
    asked: Interaction,
    id: str,
    prepared: Prepared,
    now: int,
    current: Current | None = None,
) -> Reply:
    """Stage a new resource under a new id; the id in the body is ignored (http.html#create).

    `current` is its locked row, if something that was written before refers to it.
    """
    version, _ = store.put(asked.type, id, prepared.raw, prepared.resource, current, now)
    return written(version, 201)


async def update(
    store: Store, asked: Interaction, current: Current | None, prepared: Prepared, now: int
) -> Reply:
    """Stage a new version, or the first one under the client's id (http.html#update, #upsert)."""
    current = await _within_reach(store, asked, current, "update")
    exists = current is not None and current.state == LIVE
    if not exists and not store.caller.policy.names(asked.type):
        raise refused("not-found", f"There is no {asked.type}/{asked.id}")
    require_version(asked, current)
    version, _ = store.put(asked.type, asked.id, prepared.raw, prepared.resource, current, now)
    return written(version, 201 if version.op == CREATED else 200)


async def delete(store: Store, asked: Interaction, current: Current | None, now: int) -> Reply:
    """Stage a deletion; what is not there counts as deleted: 204 (http.html#delete)."""
    current = await _within_reach(store, asked, current, "delete")
    if current and current.state != LIVE:
        current = None
    require_version(asked, current)
    if current is None:
        return Reply(204)
    version = store.delete(asked.type, asked.id, current, now)
    return Reply(204, b"", version.version, version.updated)


async def _within_reach(
    store: Store, asked: Interaction, current: Current | None, right: Right
) -> Current | None:
    """Return the row that is to be written, None if the caller may not know that it is there.

    Raises a 403 where the caller may know of it, but not do this to it.
    """
    if current is None or current.state != LIVE:
        return current
    policy = store.caller.policy
    if not await store.visible(current, asked.type, policy.sight(asked.type, right)):
        return None
    if not await store.visible(current, asked.type, right):
        raise refused("forbidden", f"You may not {right} this {asked.type}")
    return current


def require_version(asked: Interaction, current: Current | None) -> None:
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


def written(version: Version, status: int) -> Reply:
    """Return the answer to a write: where the version is, and the version itself."""
    location = f"{version.type}/{version.id}/_history/{version.version}"
    return Reply(status, version.body, version.version, version.updated, location)


async def existing(store: Store, asked: Interaction) -> Reply:
    """Return the answer of a conditional create that found its resource (http.html#ccreate)."""
    return written(await store.read(asked.type, asked.id, "show"), 200)


async def patched(
    server: Server, store: Store, asked: Interaction, current: Current | None
) -> Interaction:
    """Return the update that a patch comes to, whose row is locked (http.html#patch).

    Raises a 404 or 410 where there is nothing to patch.
    """
    found = await store.read(asked.type, asked.id)
    current = await _within_reach(store, asked, current, "update")
    require_version(asked, current)
    if store.caller.policy.mask.get(asked.type):
        # what is masked would be lost, and could be asked for by a patch that tests it
        text = f"You do not see all of a {asked.type}, so you may not patch it"
        raise refused("forbidden", text)
    given = asked.body, asked.content_type
    raw = patch.apply(found.body, *given, server.validator, server.max_resource_bytes)
    return replace(asked, code="update", body=raw)
