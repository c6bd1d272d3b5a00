"""Operations: the call checked, performed where its row says, and its writes made.

https://hl7.org/fhir/R4/operations.html
"""

from app.fhir.access import Caller
from app.fhir.audit import Line
from app.fhir.errors import FhirError, Issue
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Call, Operation, Plan, Trial, given
from app.fhir.rest.provenance import check_taken
from app.fhir.rest.reading import hidden_from
from app.fhir.rest.rights import check, check_operation
from app.fhir.rest.server import Server
from app.fhir.rest.writing import made, prepared_for, transact
from app.fhir.store import Store


class Undone(Exception):
    """Ends the transaction of a trial, so that nothing of it stays; it carries its reply."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__()


async def operate(server: Server, caller: Caller, asked: Interaction, line: Line | None) -> Reply:
    """Return the answer to a call of an operation."""
    operation = server.operations.called(asked)
    check_operation(server, caller, operation, asked)
    values = given(operation, asked, server.validator)

    async def performed(store: Store) -> Reply | Plan | Trial:
        found = await operation.perform(_call(server, store, operation, asked, values))
        if asked.provenance and not isinstance(found, Plan):
            check_taken(asked)
        return found

    async def work(store: Store) -> Reply:
        await store.begin()
        found = await performed(store)
        assert not isinstance(found, Trial), "a trial is undone, so it is no part of a transaction"
        return await _carried_out(server, store, found) if isinstance(found, Plan) else found

    if operation.writes:
        return await transact(server, caller, work, line)
    seen = line.seen if line is not None else None
    found = await server.database.search(
        lambda connection: performed(Store(connection, server.catalogue, caller, seen))
    )
    if isinstance(found, Plan):
        plan = found
        return await transact(server, caller, lambda store: _carried_out(server, store, plan), line)
    return await _tried(server, caller, found) if isinstance(found, Trial) else found


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


async def _carried_out(server: Server, store: Store, plan: Plan) -> Reply:
    """Make the writes of a plan, and return its answer."""
    await store.begin()
    for write in plan.writes:
        check(server, store.caller, write)
        await made(server, store, write, prepared_for(server, write))
    return await plan.answer(store)


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
