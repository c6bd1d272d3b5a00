"""Interactions that write: create, update, delete.

https://hl7.org/fhir/R4/http.html

A write has two halves: `prepare` needs no database (decode, check, validate), the rest runs inside
the transaction.
"""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from app import db
from app.fhir import bundle
from app.fhir.access import Caller
from app.fhir.errors import STATUS, FhirError, Issue, outcome, refused
from app.fhir.interaction import Interaction, Pairs, Reply, parse_query
from app.fhir.query import (
    All,
    Search,
    unparse,
)
from app.fhir.rest.reading import hidden_from
from app.fhir.rest.server import Server, check_parameters, matches
from app.fhir.store import CREATED, LIVE, Current, Store, Version, refusals
from app.fhir.wire import Resource, compact, decode, encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A resource that is acceptable in itself: its compact bytes, and the same decoded."""

    raw: bytes
    resource: Resource


async def write(server: Server, caller: Caller, asked: Interaction) -> Reply:
    """Run one write as a transaction of its own."""
    prepared = prepare(server, asked) if asked.code in ("create", "update") else None
    check_parameters(asked, ())

    async def work(store: Store) -> Reply:
        reply = await _perform_write(server, store, asked, prepared)
        await store.flush()
        if asked.prefer in ("", "representation") and not reply.body and reply.status < 204:
            id = reply.location.split("/")[1] if reply.location else asked.id
            return replace(reply, body=(await store.read(asked.type, id)).body)
        return reply

    return preferred(await transact(server, caller, work), asked)


async def transact(
    server: Server, caller: Caller, work: Callable[[Store], Coroutine[Any, Any, Reply]]
) -> Reply:
    """Return the reply of one transaction; definitions that it has changed are then in force."""

    async def opened(connection: db.Connection) -> tuple[Reply, int]:
        store = Store(connection, server.catalogue, caller)
        return await work(store), store.version

    reply, version = await server.database.write(opened)
    if version != server.catalogue.version:
        with suppress(db.Unavailable):  # it is committed, whatever comes now
            await server.editions.renew()
    return reply


async def _perform_write(
    server: Server, store: Store, asked: Interaction, prepared: Prepared | None
) -> Reply:
    """Lock what the write is about, and stage it."""
    if asked.code == "create" and prepared is not None:
        if asked.if_none_exist and (found := await existing(server, store, asked)):
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


def preferred(reply: Reply, asked: Interaction) -> Reply:
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
    issues = server.validator.validate(resource, place=place)
    if asked.type == "SearchParameter" and not issues:
        known = server.catalogue
        faults = refusals(asked.id, resource, known.official, known.custom)
        return [issue.under(place or asked.type) for issue in faults]
    return issues


def create(store: Store, asked: Interaction, id: str, prepared: Prepared, now: int) -> Reply:
    """Stage a new resource under a new id; the id in the body is ignored (http.html#create)."""
    version, _ = store.put(asked.type, id, prepared.raw, prepared.resource, None, now)
    return written(version, 201)


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
    return written(version, 201 if version.op == CREATED else 200)


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


def written(version: Version, status: int) -> Reply:
    """Return the answer to a write: where the version is, and the version itself."""
    location = f"{version.type}/{version.id}/_history/{version.version}"
    return Reply(status, version.body, version.version, version.updated, location)


async def existing(server: Server, store: Store, asked: Interaction) -> Reply | None:
    """Return the answer of a conditional create that finds its resource (http.html#ccreate).

    The criteria are locked first, so that of two requests at once the second finds the first.
    """
    await store.connection.exclusive([criteria(asked)])
    pairs = parse_query(asked.if_none_exist)
    found = await find(server, store, asked.type, pairs, "If-None-Exist")
    if found is None:
        return None
    current = await store.read(asked.type, found)
    return written(current, 200)


def criteria(asked: Interaction) -> str:
    """Return a name for the criteria of a conditional create: equal criteria, equal name."""
    return f"{asked.type}?{unparse(tuple(sorted(parse_query(asked.if_none_exist))))}"


async def find(server: Server, store: Store, type: str, pairs: Pairs, where: str) -> str | None:
    """Return the id of the one resource that fits; None for none, 412 for several."""
    hidden = hidden_from(server, store.caller)
    search = server.language.parse(type, pairs, server.now(), hidden=hidden)
    if isinstance(search.arms[0][1], All):
        raise refused("invalid", f"{where} needs search parameters", status=400)
    plain = Search(search.arms, count=2, applied=search.applied)
    page = await store.search(plain)
    if len(page.entries) > 1:
        raise refused("multiple-matches", f"{where} fits more than one {type}")
    return page.entries[0].id if page.entries else None
