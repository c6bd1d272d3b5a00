"""What is erased for good, by those who may: $purge and $expunge.

Neither is in R4. $purge is what later editions define for patients
(https://hl7.org/fhir/patient-operation-purge.html), $expunge what other servers call the erasing of
history.
"""

from collections.abc import Awaitable, Callable

from app.fhir.errors import Issue, outcome, refused
from app.fhir.interaction import Reply
from app.fhir.operations.operation import Call, Perform, Plan, Trial
from app.fhir.store import Erased, Store
from app.fhir.wire import encode


def erasing(erase: Callable[[Store, str, str], Awaitable[Erased]]) -> Perform:
    """Return what performs an operation that erases; a 403 for whoever may not."""

    async def perform(call: Call) -> Reply | Plan | Trial:
        asked = call.asked
        if not call.store.caller.policy.may_erase:
            text = f"You may not erase anything, so ${asked.operation} is not for you"
            raise refused("forbidden", text)
        return Reply(200, encode(outcome(_told(await erase(call.store, asked.type, asked.id)))))

    return perform


def _told(erased: Erased) -> list[Issue]:
    text = f"Erased: {erased.resources} resources, {erased.versions} versions"
    issues = [Issue("information", "informational", text)]
    if erased.kept:
        text = f"Kept: {erased.kept} resources that belong to others as well"
        issues.append(Issue("warning", "informational", text))
    return issues
