"""Batch and transaction: the entries of a Bundle one by one, or all or none.

https://hl7.org/fhir/R4/http.html#transaction

The entries go through the same functions as single requests, with one store and one `flush` for
all of them.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import replace

from app.fhir import bundle
from app.fhir.access import Caller
from app.fhir.bundle import Entry, Links
from app.fhir.errors import STATUS, FhirError, Issue, refused
from app.fhir.interaction import Interaction, Reply, parse_query
from app.fhir.rest.reading import PERFORM
from app.fhir.rest.server import Server, check_parameters, refusal
from app.fhir.rest.writing import (
    Prepared,
    check,
    create,
    criteria,
    delete,
    existing,
    find,
    preferred,
    transact,
    update,
)
from app.fhir.store import Store, instant
from app.fhir.wire import compact, decode, fields

WRITES = frozenset({"create", "update", "delete"})
BREATH = 20  # entries of a Bundle between two turns of the event loop

Handle = Callable[[Server, Caller, Interaction], Awaitable[Reply]]


async def process(server: Server, caller: Caller, asked: Interaction, handle: Handle) -> Reply:
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
        return await _batch(server, caller, asked, entries, handle)
    return await transact(server, caller, lambda store: _transaction(server, store, asked, entries))


async def _batch(
    server: Server,
    caller: Caller,
    asked: Interaction,
    entries: Sequence[Entry],
    handle: Handle,
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
                found = await existing(server, store, entry.interaction)
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
            reply = preferred(reply, inner)
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
    found = await find(server, store, type, parse_query(query), "A conditional reference")
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
