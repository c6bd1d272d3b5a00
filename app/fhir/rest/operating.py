"""Operations: the call checked, performed where its row says, and its writes made.

https://hl7.org/fhir/R4/operations.html
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from app.fhir.access import Caller
from app.fhir.audit import Line
from app.fhir.errors import FhirError, Issue
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Call, Operation, Plan, Trial, given
from app.fhir.rest.conditions import claims, reachable
from app.fhir.rest.provenance import check_taken
from app.fhir.rest.reading import hidden_from
from app.fhir.rest.repeating import Repeatable, alone, recalled, remember, repeatable
from app.fhir.rest.rights import check, check_operation
from app.fhir.rest.server import Server
from app.fhir.rest.writing import (
    made,
    prepared_for,
    require_version,
    settled,
    stage,
    transact,
)
from app.fhir.store import Store

BREATH = 20  # writes of a plan between two turns of the event loop
DRY_RUN = "dry-run"  # the parameter of a call that is to change nothing


class Undone(Exception):
    """Ends a transaction of which nothing is to stay; it carries the reply."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__()


async def operate(server: Server, caller: Caller, asked: Interaction, line: Line | None) -> Reply:
    """Return the answer to a call of an operation."""
    operation = server.operations.called(asked)
    check_operation(server, caller, operation, asked)
    values = given(operation, asked, server.validator)

    def called(store: Store) -> Call:
        return _call(server, store, operation, asked, values)

    if operation.writes:
        repeated = None if _is_dry(values) else repeatable(caller, asked)
        with alone(server, repeated):
            return await _write(
                server, caller, line, lambda store: _performed(server, called(store), repeated)
            )
    seen = line.seen if line is not None else None
    found = await server.database.search(
        lambda connection: _found(called(Store(connection, server.catalogue, caller, seen))),
        long=operation.long,
    )
    if isinstance(found, Plan):
        plan = found
        return await _write(
            server, caller, line, lambda store: _carried_out(server, called(store), plan)
        )
    return await _tried(server, caller, found) if isinstance(found, Trial) else found


async def _found(call: Call) -> Reply | Plan | Trial:
    """Return what an operation comes to."""
    found = await call.operation.perform(call)
    if call.asked.provenance and not isinstance(found, Plan):
        check_taken(call.asked)
    return found


async def _performed(server: Server, call: Call, repeated: Repeatable | None) -> Reply:
    """Return the answer of an operation that writes, in the transaction of its store."""
    store, tell = call.store, call.operation.tell
    await store.begin()
    told = await recalled(server, store, repeated) if repeated is not None else None
    if tell is not None and told is not None:
        if call.asked.id:  # whoever may not see it has not asked of anything
            await call.reader.read(call.asked.type, call.asked.id)
        return await tell(call, told, ())
    await _check_version(call)
    found = await _found(call)
    assert not isinstance(found, Trial), "a trial is undone, so it is no part of a transaction"
    reply = await _carried_out(server, call, found) if isinstance(found, Plan) else found
    if repeated is not None:
        told = found.told if tell is not None and isinstance(found, Plan) else None
        await remember(server, store, repeated, told)
    return reply


async def _check_version(call: Call) -> None:
    """Refuse a call that names another version of its resource, which from now on is locked."""
    asked, store = call.asked, call.store
    if asked.if_match and asked.id:
        one = (asked.type, asked.id)
        locked = await store.lock(await store.reachable({one: "update"}))
        require_version(asked, locked.get(one))


def _is_dry(values: Mapping[str, Sequence[object]]) -> bool:
    """Return whether a call asks for a dry run, of which nothing is to stay."""
    return True in values.get(DRY_RUN, ())


async def _write(
    server: Server,
    caller: Caller,
    line: Line | None,
    work: Callable[[Store], Coroutine[Any, Any, Reply]],
) -> Reply:
    """Return the answer of one transaction, of which nothing stays where it is Undone."""
    try:
        return await transact(server, caller, work, line)
    except Undone as undone:
        return undone.reply


def _call(
    server: Server,
    store: Store,
    operation: Operation,
    asked: Interaction,
    values: dict[str, tuple[object, ...]],
) -> Call:
    return Call(
        operation=operation,
        asked=asked,
        given=values,
        store=store,
        language=server.language,
        validator=server.validator,
        hidden=hidden_from(server, store.caller),
        now=server.now(),
        new_id=server.new_id,
        kept=server.operations.kept,
    )


async def _carried_out(server: Server, call: Call, plan: Plan) -> Reply:
    """Make the writes of a plan, all at once, and return its answer.

    A dry run has everything checked and answered, and is undone.
    """
    store = call.store
    await store.begin()
    await _staged(server, store, plan.writes)
    found = await settled(server, store, call.asked)
    issues = [issue for some in found.values() for issue in some]
    reply = await _answer(call, plan, issues)
    if _is_dry(call.given):
        if store.seen is not None:  # what was written is not there, so nobody has seen it
            undone = {(v.type, v.id, v.version) for v in store.written}
            store.seen[:] = [one for one in store.seen if one[:3] not in undone]
        raise Undone(reply)
    return reply


async def _staged(server: Server, store: Store, writes: Sequence[Interaction]) -> None:
    """Stage writes that name their resources, each another one, all of them locked before."""
    for write in writes:
        check(server, store.caller, write)
    named = [write for write in writes if write.code != "create"]
    claimed = {(write.type, write.id) for write in named if claims(store, write)}
    locked = await store.lock(await reachable(store, named), claimed) if named else {}
    now = server.now()
    for n, write in enumerate(writes, 1):
        current = locked.get((write.type, write.id))
        await stage(server, store, write, current, None, now)
        if n % BREATH == 0:
            await asyncio.sleep(0)


async def _answer(call: Call, plan: Plan, issues: Sequence[Issue]) -> Reply:
    """Return the answer of a plan whose writes were made, with the warnings about them."""
    if call.operation.tell is not None:
        return await call.operation.tell(call, plan.told, issues)
    assert plan.answer is not None, "an operation that tells nothing answers"
    return await plan.answer(call.store)


async def _tried(server: Server, caller: Caller, trial: Trial) -> Reply:
    """Make the write of a trial and undo it; return what it says of the issues.

    A failure that is not the write's own is no answer, but a failure of the call.
    """
    check(server, caller, trial.write)
    issues: tuple[Issue, ...] = ()

    async def work(store: Store) -> Reply:
        await store.begin()
        raise Undone(await made(server, store, trial.write, prepared_for(server, trial.write)))

    try:
        await transact(server, caller, work)
    except Undone as undone:
        issues = undone.reply.issues
    except FhirError as error:
        if error.status >= 500:
            raise
        issues = error.issues
    return trial.answer(issues)
