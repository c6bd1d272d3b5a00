"""Who works for a program, and what only they write.

A patient, or who acts for one, may read the own record and add to it; what was attended, ordered
and decided there is for the staff to say.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from app.domain.vocabulary import Vocabulary
from app.fhir.access import Caller
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

WORKFORCE = frozenset({"workforce", "privacy-officer", "system"})
# Resources with anything of ours that only the staff writes
THEIRS = frozenset(
    {
        "Appointment",
        "CarePlan",
        "CareTeam",
        "Encounter",
        "EpisodeOfCare",
        "Flag",
        "Group",
        "HealthcareService",
        "PlanDefinition",
        "ServiceRequest",
        "Task",
    }
)


def works(caller: Caller) -> bool:
    """Return whether a caller is of the staff: a person of it, or a system that is not a patient's.

    A person of the staff may have a patient in context.
    """
    return caller.kind in WORKFORCE and not (caller.kind == "system" and caller.patient)


async def check(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return what somebody has written who is not of the staff.

    An Appointment may be cancelled, where nothing else of ours in it changes.
    """
    if reader.asker is None or works(reader.asker):
        return []
    text = "Only the staff of the program writes this"
    return [
        Finding(change, text, code="forbidden")
        for change in changes
        if not _cancels(vocabulary, change)
    ]


def _cancels(vocabulary: Vocabulary, change: Change) -> bool:
    """Return whether a change is the cancellation of an Appointment, and nothing else of ours."""
    after = change.after or {}
    if change.type != "Appointment" or after.get("status") != "cancelled":
        return False
    return _said(vocabulary, change.before) == _said(vocabulary, change.after)


def _said(vocabulary: Vocabulary, resource: Resource | None) -> list[Resource] | None:
    """Return the extensions of ours in a resource, None where there is none."""
    if resource is None:
        return None
    own = f"{vocabulary.base}/"
    return [one for one in resource.get("extension", ()) if one["url"].startswith(own)]


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rule of what only the staff writes, which comes before all others."""
    marks, judge = (vocabulary.mark,), partial(check, vocabulary)
    return (Rule("workforce-only", THEIRS, marks, judge, ground=True),)
