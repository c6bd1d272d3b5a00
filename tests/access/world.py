"""What there is to hide, and the policies that hide some of it."""

from typing import Any

from app.fhir.access import Policy, Right
from app.fhir.query import All, And, Match, Member, Not, Nothing, Or, Query
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
]
NAMES = [f"{r['resourceType']}/{r['id']}" for r in WORLD]
TYPES = sorted({name.split("/")[0] for name in NAMES})
RIGHTS: tuple[Right, ...] = ("create", "read", "update", "delete", "search")

RESTRICTED_ONES = Match("_security", "token", (Token(RESTRICTED["system"], "R"),))
SHOWN_ONES = Match("_tag", "token", (Token(SHOWN["system"], "shown"),))
OWN = Member("Patient", "ada")


def where(**trees: Query) -> Policy:
    """Return a policy with these trees for types, under every right, and nothing else."""
    return Policy({(t, right): tree for t, tree in trees.items() for right in RIGHTS}, Nothing())


# A policy, and what of the world it shows
POLICIES: dict[str, tuple[Policy, set[str]]] = {
    "everything": (Policy(), set(NAMES)),
    "nothing": (Policy(otherwise=Nothing()), set()),
    "match": (
        Policy(otherwise=SHOWN_ONES),
        {"Patient/ada", "Observation/ada-open", "Observation/bob-secret"},
    ),
    "not": (
        Policy(otherwise=Not(RESTRICTED_ONES)),
        set(NAMES) - {"Observation/ada-secret", "Observation/bob-secret"},
    ),
    "member": (
        Policy(otherwise=OWN),
        {"Patient/ada", "Observation/ada-open", "Observation/ada-secret", "Appointment/shared"},
    ),
    "and": (
        Policy(otherwise=And((OWN, Not(RESTRICTED_ONES)))),
        {"Patient/ada", "Observation/ada-open", "Appointment/shared"},
    ),
    "or": (
        Policy(otherwise=Or((OWN, Not(RESTRICTED_ONES)))),
        set(NAMES) - {"Observation/bob-secret"},
    ),
    "not a member": (
        Policy(otherwise=Not(OWN)),
        {"Patient/bob", "Observation/bob-open", "Observation/bob-secret", "Appointment/bob-only"},
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
}
