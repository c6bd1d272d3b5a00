"""What is treated: diagnoses of substance use, and the people who have them.

https://hl7.org/fhir/R4/condition.html

Conditions and Patients use little of our vocabulary, so these rules are also about Conditions with
a code of ICD-10-CM: what they ask is what that classification says of itself.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from app.domain import days
from app.domain.chart import born, reference
from app.domain.shipped import is_billable
from app.domain.vocabulary import ICD10, SNOMED, TASK, Vocabulary
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

# SNOMED CT: substance use disorders that have no more general code among them
DISORDERS = frozenset(
    {"66590003", "15167005", "75544000", "1336192000", "85005007", "31956009", "66214007"}
)
BY_SUBSTANCE = tuple(f"F{n}" for n in range(10, 20))  # blocks F10 to F19 of ICD-10-CM
REMISSION = ("11", "21", "91")  # how its codes for remission end, after the point
ABATED = frozenset({"remission", "inactive", "resolved"})


def codes(condition: Resource, system: str) -> list[str]:
    """Return the codes of a system in a Condition."""
    found = condition.get("code", {}).get("coding", ())
    return [one["code"] for one in found if one.get("system") == system and "code" in one]


def is_substance_use(condition: Resource) -> bool:
    """Return whether a Condition is a substance use disorder (INV-CO-1)."""
    by_icd = any(code.startswith(BY_SUBSTANCE) for code in codes(condition, ICD10))
    return by_icd or not DISORDERS.isdisjoint(codes(condition, SNOMED))


def status(condition: Resource, name: str = "clinicalStatus") -> str:
    """Return the code of the clinical or verification status, "" for none."""
    found = condition.get(name, {}).get("coding", ())
    return next((one["code"] for one in found if "code" in one), "")


def is_error(condition: Resource) -> bool:
    """Return whether a Condition was never so."""
    return status(condition, "verificationStatus") == "entered-in-error"


def says_remission(code: str) -> bool:
    """Return whether a code of ICD-10-CM for substance use says that it is in remission."""
    return code.startswith(BY_SUBSTANCE) and code.partition(".")[2] in REMISSION


async def check_leaves(changes: Sequence[Change], reader: Reader) -> Iterable[Finding]:
    """Return the codes of ICD-10-CM that are headings, with codes below them."""
    del reader
    return [
        Finding(change, "The ICD-10-CM code is a heading; expected one of the codes below it", at)
        for change, condition in standing(changes)
        for n, coding in enumerate(condition.get("code", {}).get("coding", ()))
        if coding.get("system") == ICD10 and is_billable(coding.get("code", "")) is False
        for at in [f"code.coding[{n}]"]
    ]


async def check_remission(changes: Sequence[Change], reader: Reader) -> Iterable[Finding]:
    """Return where code, clinical status and abatement of a substance use disorder disagree."""
    del reader
    found = []
    for change, condition in standing(changes):
        if not is_substance_use(condition):
            continue
        abated = any(name.startswith("abatement") for name in condition)
        if status(condition) == "remission" and not (abated or condition.get("note")):
            text = "Remission needs an abatement or a note"
            found.append(Finding(change, text, "clinicalStatus"))
        coded = any(says_remission(code) for code in codes(condition, ICD10))
        if coded and status(condition) not in ABATED:
            text = "The code says that it is in remission, the clinical status does not"
            found.append(Finding(change, text, "clinicalStatus"))
    return found


async def check_relapse(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return relapses that are a Condition of their own, and a warning where no review is planned.

    The disorder that relapses is the one that was there, so its Condition gets a new status.
    """
    found = []
    for change, condition in standing(changes):
        was = status(change.before) if change.before else ""
        if status(condition) != "relapse" or was == "relapse" or not is_substance_use(condition):
            continue
        patient = reference(condition.get("subject"))
        others = await reader.search("Condition", ("subject", patient))
        if change.before is None and any(_same(condition, one) for one in others):
            text = "A relapse is a new status of the Condition that is there, not another one"
            found.append(Finding(change, text, "clinicalStatus"))
        if await _in_treatment(reader, patient) and not await _reviewed(
            vocabulary, reader, patient
        ):
            text = "After a relapse the treatment plan is to be reviewed within 72 hours: no Task"
            found.append(Finding(change, text, "clinicalStatus", "warning"))
    return found


def _same(condition: Resource, other: Resource) -> bool:
    """Return whether another Condition is the same disorder."""
    if other["id"] == condition["id"] or is_error(other):
        return False
    return any(
        not set(codes(condition, system)).isdisjoint(codes(other, system))
        for system in (ICD10, SNOMED)
    )


async def _in_treatment(reader: Reader, patient: str) -> bool:
    episodes = await reader.search(
        "EpisodeOfCare", ("patient", patient), ("status", "active,onhold")
    )
    return bool(episodes)


async def _reviewed(vocabulary: Vocabulary, reader: Reader, patient: str) -> bool:
    code = f"{vocabulary.system(TASK)}|treatment-plan-review"
    open = "draft,requested,received,accepted,ready,in-progress"
    return bool(await reader.search("Task", ("patient", patient), ("code", code), ("status", open)))


async def check_birth(changes: Sequence[Change], reader: Reader) -> Iterable[Finding]:
    """Return birth dates that are still to come."""
    today = days.moment(reader.now).astimezone(reader.language.zone).date()
    return [
        Finding(change, "The birth date is in the future", "birthDate")
        for change in changes
        if change.after and (birth := born(change.after)) and birth > today
    ]


def standing(changes: Sequence[Change]) -> list[tuple[Change, Resource]]:
    """Return the changes that leave a Condition which is meant."""
    found = [(change, change.after) for change in changes if change.after is not None]
    return [(change, after) for change, after in found if not is_error(after)]


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules of this module."""
    conditions = frozenset({"Condition"})
    marks = (vocabulary.mark, ICD10.encode())
    return (
        Rule("INV-PT-1", frozenset({"Patient"}), (vocabulary.mark,), check_birth, past=False),
        Rule("INV-CO-2", conditions, marks, check_remission, past=False),
        Rule("INV-CO-3", conditions, marks, check_leaves, past=False),
        Rule(
            "INV-CO-4",
            conditions,
            (b'"relapse"',),
            partial(check_relapse, vocabulary),
            past=False,
        ),
    )
