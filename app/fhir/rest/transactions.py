"""Batch and transaction: the entries of a Bundle one by one, or all or none.

https://hl7.org/fhir/R4/http.html#transaction

The entries go through the same functions as single requests, with one store and one `flush` for
all of them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from app.fhir import bundle
from app.fhir.access import Caller
from app.fhir.audit import Line
from app.fhir.bundle import Entry, Links
from app.fhir.errors import STATUS, FhirError, Issue, refused
from app.fhir.interaction import Interaction, Reply, parse_query
from app.fhir.manifest import Identity
from app.fhir.rest.conditions import WRITES, Resolved, find, placed, resolve
from app.fhir.rest.reading import PERFORM
from app.fhir.rest.rights import check as entitled
from app.fhir.rest.server import Server, check_parameters, refusal
from app.fhir.rest.writing import (
    Prepared,
    check,
    check_size,
    completed,
    create,
    delete,
    existing,
    patched,
    preferred,
    settled,
    together,
    transact,
    update,
    whole,
)
from app.fhir.store import Current, Store, instant
from app.fhir.wire import compact, decode, fields

BREATH = 20  # entries of a Bundle between two turns of the event loop

Handle = Callable[[Server, Caller, Interaction, Line | None], Awaitable[Reply]]


async def process(
    server: Server, caller: Caller, asked: Interaction, handle: Handle, line: Line | None
) -> Reply:
    """Run the entries of a Bundle one by one, or as one transaction (http.html#transaction)."""
    check_parameters(asked, ())
    raw = compact(asked.body, "Bundle")
    if bundle.value(fields(raw), "resourceType") != "Bundle":
        text = "resourceType must be Bundle at the base of the server"
        raise FhirError([Issue("error", "invalid", text, "resourceType")])
    limit = server.max_bundle_entries
    kind, entries = bundle.plan(raw, server.definitions, server.base_url, limit)
    issues = server.validator.validate(bundle.envelope(raw))
    if issues:
        raise FhirError(issues)
    if kind == "batch":
        return await _batch(server, caller, asked, entries, handle, line)
    if line is not None:
        line.code = "transaction"
    for entry in entries:
        if entry.interaction.code not in WRITES and entry.interaction.code not in PERFORM:
            text = "This interaction cannot be part of a transaction, but of a batch"
            raise refused("not-supported", text, f"{entry.place}.request.url")
        if answer := server.sources.get(entry.interaction.type):
            if entry.interaction.code in WRITES:
                with placed(entry):  # it says why not
                    await answer(server.language, server.catalogue, caller, entry.interaction, None)
            text = f"{entry.interaction.type} cannot be part of a transaction, but of a batch"
            raise refused("not-supported", text, f"{entry.place}.request.url")
        with placed(entry):
            entitled(server, caller, entry.interaction)
    return await transact(
        server, caller, lambda store: _transaction(server, store, asked, entries), line
    )


async def _batch(
    server: Server,
    caller: Caller,
    asked: Interaction,
    entries: Sequence[Entry],
    handle: Handle,
    line: Line | None,
) -> Reply:
    """Answer each entry as if it had come alone: one may fail without the others.

    What was done is answered, so a batch that runs out of time refuses the entries that are left.
    """
    answers = []
    until = server.now() + server.batch_seconds * 1_000_000
    for entry in entries:
        inner = replace(
            entry.interaction, prefer=asked.prefer, handling=asked.handling, request=asked.request
        )
        if asked.provenance and inner.code in WRITES:
            inner = replace(inner, provenance=asked.provenance)
        own = line.entry(inner) if line is not None else None
        if server.now() > until:
            text = f"The batch was stopped after {server.batch_seconds:g} s, before this entry"
            reply = refusal(refused("timeout", text))
        elif entry.refusal:
            reply = refusal(entry.refusal)
        else:
            reply = await handle(server, caller, inner, own)
        if line is not None and own is not None:
            line.ended(own, reply.status)
        answers.append(_answer(entry, reply, asked.prefer))
    return Reply(200, bundle.response("batch", answers))


async def _transaction(
    server: Server, store: Store, asked: Interaction, entries: Sequence[Entry]
) -> Reply:
    """Perform all entries or none, in the order of http.html#trules."""
    wanted = [entry for entry in entries if entry.interaction.code in WRITES]
    resolved = await resolve(server, store, wanted)
    locked = dict(resolved.locked)
    bundle.check_identities(resolved.writes)
    writes = []
    replies: dict[str, list[Reply]] = {entry.place: [] for entry in wanted}
    for entry in resolved.writes:
        with placed(entry):
            if entry.interaction.code == "read":
                replies[entry.place].append(await existing(store, entry.interaction))
            else:
                writes.append(await _unpatched(server, store, entry, locked))
    now = server.now()
    targets = _full_urls(wanted, resolved)
    async for ready in _resolvable(server, store, bundle.in_order(writes), targets):
        if store.written:  # what an earlier round refers to has a row by now
            made = [e.interaction for e in ready if e.interaction.code == "create"]
            locked |= await store.lock([(one.type, one.id) for one in made])
        links = Links(targets, server.definitions)
        async for entry, prepared in _prepared(server, ready, links):
            inner = entry.interaction
            known = locked.get((inner.type, inner.id))
            with placed(entry):
                if prepared is not None:
                    prepared = await completed(server, store, inner, prepared)
                if prepared is None:
                    reply = await delete(store, inner, known, now)
                elif inner.code == "create":
                    reply = create(store, inner, inner.id, prepared, now, known)
                else:
                    reply = await update(store, inner, known, prepared, now)
            replies[entry.place].append(reply)
        await store.flush()
    places = {(e.interaction.type, e.interaction.id): e.place for e in resolved.writes}
    found = await settled(server, store, asked, places)
    answers = {place: together(made) for place, made in replies.items()}
    for key in found.keys() & places.keys():
        place = places[key]
        issues = (*answers[place].issues, *found[key])
        answers[place] = replace(answers[place], issues=issues)
    for place, first in resolved.twins.items():
        answers[place] = replace(answers[first], status=200)
    return Reply(200, await _answers(server, store, asked, entries, answers))


async def _unpatched(
    server: Server, store: Store, entry: Entry, locked: Mapping[Identity, Current]
) -> Entry:
    """Return an entry as it is, and a patch as the update that it comes to."""
    asked = entry.interaction
    if asked.code != "patch":
        return entry
    current = locked.get((asked.type, asked.id))
    return replace(entry, interaction=await patched(server, store, asked, current))


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
        inner = entry.interaction
        reply = replies.get(entry.place)
        if reply is None:
            with placed(entry):
                reply = await PERFORM[inner.code](server, store, inner)
        elif asked.prefer == "representation":
            reply = await whole(store, inner, reply)
        else:
            reply = preferred(reply, asked)
        answers.append(_answer(entry, reply, asked.prefer))
    return bundle.response("transaction", answers)


def _answer(entry: Entry, reply: Reply, prefer: str) -> bytes:
    """Return the response entry; of what was written it shows what is preferred (http.html#ops)."""
    wrote = entry.interaction.code in WRITES
    told = reply.status >= 400 or (wrote and prefer == "OperationOutcome")
    shown = not told and not entry.head and (not wrote or prefer == "representation")
    return bundle.response_entry(
        reply,
        instant(reply.updated),
        resource=reply.body if shown else b"",
        outcome=reply.body if told else b"",
    )


def _full_urls(entries: Sequence[Entry], resolved: Resolved) -> dict[str, str]:
    """Return what each fullUrl of a written entry becomes (http.html#trules)."""
    written = {
        e.place: f"{e.interaction.type}/{e.interaction.id}"
        for e in resolved.writes
        if e.interaction.code != "delete"
    }
    places = {e.full_url: resolved.twins.get(e.place, e.place) for e in entries if e.full_url}
    return {url: written[place] for url, place in places.items() if place in written}


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
    entitled(server, store.caller, Interaction("search-type", type))
    found = await find(server, store, type, parse_query(query), "A conditional reference")
    return f"{type}/{found[0]}" if found else None


async def _prepared(
    server: Server, writes: Sequence[Entry], links: Links
) -> AsyncIterator[tuple[Entry, Prepared | None]]:
    """Yield each write with its resource, links replaced; None where it deletes one.

    Only one resource at a time is held decoded. The issues of all are raised together, at the end;
    from the first one on nothing is yielded.
    """
    issues: list[Issue] = []
    for n, entry in enumerate(writes):
        if n % BREATH == BREATH - 1:
            await asyncio.sleep(0)
        found: Sequence[Issue] = ()
        prepared = None
        if entry.interaction.code != "delete":
            found, prepared = _checked(server, entry, links)
        issues += found
        if not issues:
            yield entry, prepared
    if issues:
        raise FhirError(issues, min(max(STATUS[issue.code], 400) for issue in issues))


def _checked(server: Server, entry: Entry, links: Links) -> tuple[Sequence[Issue], Prepared | None]:
    """Return what is wrong with the resource of an entry, and the resource with links replaced."""
    raw = links.rewrite(entry.interaction.body, entry.full_url)
    place = f"{entry.place}.resource"
    try:
        check_size(server, raw, place)
        resource = decode(raw, place)
        return check(server, entry.interaction, resource, place), Prepared(raw, resource)
    except FhirError as error:
        return error.issues, None
