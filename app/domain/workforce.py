"""Who works for a program, and what only they write.

A patient, or who acts for one, may read the own record and add to it; what was attended, ordered
and decided there is for the staff to say.
"""

from collections.abc import Iterable, Sequence

from app.domain.vocabulary import Vocabulary
from app.fhir.access import Caller
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule

WORKFORCE = frozenset({"workforce", "privacy-officer", "system"})
CANCELLING = frozenset({"cancelationReason", "comment", "meta", "status", "text"})
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


async def check(changes: Sequence[Change], reader: Reader) -> Iterable[Finding]:
    """Return what somebody has written who is not of the staff.

    An Appointment may be cancelled, where nothing else in it changes.
    """
    if reader.asker is None or works(reader.asker):
        return []
    text = "Only the staff of the program writes this"
    return [Finding(change, text, code="forbidden") for change in changes if not _cancels(change)]


def _cancels(change: Change) -> bool:
    """Return whether a change is the cancellation of an Appointment, and nothing else."""
    if change.type != "Appointment" or change.before is None or change.after is None:
        return False
    before, after = (
        {name: held for name, held in one.items() if name not in CANCELLING}
        for one in (change.before, change.after)
    )
    return change.after["status"] == "cancelled" and before == after


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rule of what only the staff writes, which comes before all others."""
    return (Rule("workforce-only", THEIRS, (vocabulary.mark,), check, ground=True),)
