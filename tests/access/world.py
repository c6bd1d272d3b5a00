"""What there is to hide, and the policies that hide some of it."""

from typing import Any

from app.fhir.access import Policy, Right
from app.fhir.query import All, And, Chain, Has, Match, Member, Not, Or, Owned, Query
from app.fhir.values import Token
from tests.support.resources import observation, patient, reference, resource

RESTRICTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality",
    "code": "R",
}
SHOWN = {"system": "http://example.org/tags", "code": "shown"}


def appointment(id: str, *patients: str) -> dict[str, Any]:
    """Return an Appointment in which these Patients take part."""
    parts = [{"actor": reference(f"Patient/{p}"), "status": "accepted"} for p in patients]
    return resource("Appointment", {"id": id, "status": "proposed", "participant": parts}, {})


def listing(id: str, *names: str, **changes: Any) -> dict[str, Any]:
    """Return a List of these resources."""
    entries = [{"item": reference(name)} for name in names]
    made = {"id": id, "status": "current", "mode": "working", "entry": entries}
    return resource("List", made, changes)


WORLD = [
    patient(id="ada", meta={"tag": [SHOWN]}),
    patient(id="bob", gender="male"),
    observation(id="ada-open", subject=reference("Patient/ada"), meta={"tag": [SHOWN]}),
    observation(id="ada-secret", subject=reference("Patient/ada"), meta={"security": [RESTRICTED]}),
    observation(id="bob-open", subject=reference("Patient/bob")),
    observation(
        id="bob-secret",
        subject=reference("Patient/bob"),
        meta={"security": [RESTRICTED], "tag": [SHOWN]},
    ),
    appointment("shared", "ada", "bob"),
    appointment("bob-only", "bob"),
    listing(
        "open",
        "Patient/ada",
        "Observation/ada-open",
        "Observation/bob-secret",
        "Appointment/shared",
    ),
    listing(
        "secret",
        *("Observation/ada-secret", "Observation/bob-open", "Appointment/bob-only", "List/open"),
        meta={"security": [RESTRICTED]},
    ),
]
NAMES = [f"{r['resourceType']}/{r['id']}" for r in WORLD]
TYPES = sorted({name.split("/")[0] for name in NAMES})
RIGHTS: tuple[Right, ...] = ("create", "read", "update", "delete", "search")


def references(value: Any) -> set[str]:
    """Return what the References in a part of a resource name."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["reference"]} if "reference" in value else set()
    return own.union(*map(references, value.values()))


REFERS = {f"{r['resourceType']}/{r['id']}": references(r) for r in WORLD}

FEMALE = Match("gender", "token", (Token(None, "female"),))
RESTRICTED_ONES = Match("_security", "token", (Token(RESTRICTED["system"], "R"),))
SHOWN_ONES = Match("_tag", "token", (Token(SHOWN["system"], "shown"),))
OWN = Member("Patient", "ada")


# A right with which there is nothing to see: without the right it would be a 403
HIDDEN = Not(All())


def where(**trees: Query) -> Policy:
    """Return a policy with these trees for types, under every right, that hides all else."""
    return Policy({(t, right): tree for t, tree in trees.items() for right in RIGHTS}, HIDDEN)


# A policy, and what of the world it shows
POLICIES: dict[str, tuple[Policy, set[str]]] = {
    "everything": (Policy(), set(NAMES)),
    "nothing": (Policy(otherwise=HIDDEN), set()),
    "match": (
        Policy(otherwise=SHOWN_ONES),
        {"Patient/ada", "Observation/ada-open", "Observation/bob-secret"},
    ),
    "not": (
        Policy(otherwise=Not(RESTRICTED_ONES)),
        set(NAMES) - {"Observation/ada-secret", "Observation/bob-secret", "List/secret"},
    ),
    "member": (
        Policy(otherwise=OWN),
        {"Patient/ada", "Observation/ada-open", "Observation/ada-secret", "Appointment/shared"},
    ),
    "owned": (
        Policy(otherwise=Owned("Patient", "ada")),
        {"Patient/ada", "Observation/ada-open", "Observation/ada-secret"},
    ),
    "not owned": (
        Policy(otherwise=Not(Owned("Patient", "ada"))),
        set(NAMES) - {"Patient/ada", "Observation/ada-open", "Observation/ada-secret"},
    ),
    "owned, in part": (
        Policy(otherwise=And((Owned("Patient", "ada"), Not(RESTRICTED_ONES)))),
        {"Patient/ada", "Observation/ada-open"},
    ),
    "owned by what is not there": (Policy(otherwise=Owned("Patient", "nobody")), set()),
    "and": (
        Policy(otherwise=And((OWN, Not(RESTRICTED_ONES)))),
        {"Patient/ada", "Observation/ada-open", "Appointment/shared"},
    ),
    "or": (
        Policy(otherwise=Or((OWN, Not(RESTRICTED_ONES)))),
        set(NAMES) - {"Observation/bob-secret", "List/secret"},
    ),
    "not a member": (
        Policy(otherwise=Not(OWN)),
        {
            *("Patient/bob", "Observation/bob-open", "Observation/bob-secret"),
            *("Appointment/bob-only", "List/open", "List/secret"),
        },
    ),
    "not a member of what is not there": (
        Policy(otherwise=Not(Member("Patient", "nobody"))),
        set(NAMES),
    ),
    "one type": (
        where(Observation=All()),
        {name for name in NAMES if name.startswith("Observation/")},
    ),
    "types of their own": (
        where(
            Observation=SHOWN_ONES,
            Patient=Match("gender", "token", (Token(None, "male"),)),
            Appointment=Member("Patient", "bob"),
        ),
        {
            "Observation/ada-open",
            "Observation/bob-secret",
            "Patient/bob",
            "Appointment/shared",
            "Appointment/bob-only",
        },
    ),
    "ids": (
        where(Observation=Match("_id", "token", ("bob-open", "ada-secret"))),
        {"Observation/bob-open", "Observation/ada-secret"},
    ),
    # a policy looks at what its caller may not see
    "chain": (
        where(Observation=Chain("patient", "Patient", FEMALE)),
        {"Observation/ada-open", "Observation/ada-secret"},
    ),
    "chain of two": (
        where(
            List=Chain("item", "Observation", Chain("patient", "Patient", FEMALE)),
            Patient=Not(FEMALE),
        ),
        {"List/open", "List/secret", "Patient/bob"},
    ),
    "has": (
        where(Patient=Has("Observation", "patient", And((SHOWN_ONES, Not(RESTRICTED_ONES))))),
        {"Patient/ada"},
    ),
    "has not": (
        where(
            Observation=Not(Has("List", "item", RESTRICTED_ONES)),
            Appointment=Has("List", "item", Not(RESTRICTED_ONES)),
        ),
        {"Observation/ada-open", "Observation/bob-secret", "Appointment/shared"},
    ),
    "what is at both ends": (
        where(List=All(), Patient=All()),
        {"List/open", "List/secret", "Patient/ada", "Patient/bob"},
    ),
    "what is between": (
        where(Observation=Not(RESTRICTED_ONES)),
        {"Observation/ada-open", "Observation/bob-open"},
    ),
    "a part of each": (
        Policy(mask={"Patient": frozenset({"Patient.birthDate"})}),
        set(NAMES),
    ),
}

# Of an older version nothing is left in the index, so it is shown for what it is kept of it alone:
# the Patient who owned it. The policies under which that is not all that they show
OF_BOB = {"Patient/bob", "Observation/bob-open", "Observation/bob-secret", "Appointment/bob-only"}
OF_ADA = {"Patient/ada", "Observation/ada-open", "Observation/ada-secret"}
FIRST_VERSIONS: dict[str, set[str]] = {
    "match": set(),
    "not": set(),
    "member": OF_ADA,
    "owned, in part": set(),
    "and": set(),
    "or": OF_ADA,
    "not a member": OF_BOB,
    "not a member of what is not there": OF_ADA | OF_BOB,
    "types of their own": {"Appointment/bob-only"},
    "ids": set(),
    "chain": set(),
    "chain of two": set(),
    "has": set(),
    "has not": set(),
    "what is between": set(),
}
