"""Who may do what: the one table of accounts, scopes and types, and the policy that it comes to.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
https://hl7.org/fhir/R4/compartmentdefinition-patient.html

A policy is what an account, its client and the token have in common. The scopes of a token are what
the client is registered for and was asked for (`scopes.meet`); here each becomes a tree for every
type that it names, under what the account may see at all. docs/security.md shows `table()`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import Literal, NamedTuple, get_args

from app.fhir.access.caller import Kind
from app.fhir.access.policy import Policy, Right, either
from app.fhir.access.scopes import EVERY_TYPE, Context, Scope, criteria
from app.fhir.definitions import Definitions
from app.fhir.errors import FhirError
from app.fhir.query import BINARY, All, And, Attached, Language, Match, Nothing, Owned, Query
from app.fhir.values import Reference

# All that the scopes say, what the patient of the token or account owns, or nothing
Reach = Literal["all", "own", "nothing"]

PATIENT = "Patient"
RIGHTS: tuple[Right, ...] = get_args(Right)
READING: frozenset[Right] = frozenset({"read", "search"})


class Account(NamedTuple):
    """What a kind of account reaches under each context of scopes, and why."""

    patient: Reach
    user: Reach
    system: Reach
    why: str


ACCOUNTS: Mapping[Kind, Account] = {
    "administrator": Account(
        "nothing", "nothing", "nothing", "keeps users, clients and keys; sees no clinical data"
    ),
    "workforce": Account("own", "all", "nothing", "the staff of the programme"),
    "privacy-officer": Account("own", "all", "nothing", "the staff that reads the audit as well"),
    "patient": Account("own", "own", "nothing", "sees the record of one Patient, which is its own"),
    "representative": Account(
        "nothing", "nothing", "nothing", "sees nothing until there are rules of consent"
    ),
    "system": Account("own", "nothing", "all", "a client that acts for itself"),
}

# The audit is read by those who are there for it, whatever the scopes of others say
AUDIT = "AuditEvent"
AUDITORS: frozenset[Kind] = frozenset({"privacy-officer", "system"})

# Who works where, and what words and questionnaires mean: nobody's record, so anybody who has a
# record may read them. All under a patient's own policy is for reading only.
DIRECTORY = frozenset(
    (
        *("Endpoint", "HealthcareService", "InsurancePlan", "Location", "Organization"),
        *("OrganizationAffiliation", "Practitioner", "PractitionerRole"),
    )
)
DEFINITIONS = frozenset(
    (
        *("ActivityDefinition", "CapabilityStatement", "ChargeItemDefinition", "CodeSystem"),
        *("CompartmentDefinition", "ConceptMap", "DeviceDefinition", "EventDefinition"),
        *("GraphDefinition", "ImplementationGuide", "Library", "Measure", "Medication"),
        *("MedicationKnowledge", "MessageDefinition", "NamingSystem", "ObservationDefinition"),
        *("OperationDefinition", "PlanDefinition", "Questionnaire", "SearchParameter"),
        *("SpecimenDefinition", "StructureDefinition", "StructureMap", "Substance"),
        *("TerminologyCapabilities", "ValueSet"),
    )
)
# Types outside the compartment that say by a parameter whose they are
THROUGH = {"Task": "patient", "Device": "patient"}
UNATTACHED = Attached(())  # to what, is known when all else is

# What an account sees of a type, and what the scopes admit of that
Found = dict[tuple[str, Right], dict[Query, Query]]


@dataclass(frozen=True)
class Grant:
    """What a token stands for: a kind of account, scopes, and whose record was chosen.

    `patient` is the Patient of the launch or of the account (`Patient/1`), "" for none;
    `fhir_user` who the account is.
    """

    kind: Kind
    scopes: tuple[Scope, ...]
    patient: str = ""
    fhir_user: str = ""


def policy_of(grant: Grant, language: Language, now: int) -> Policy:
    """Return what account, client and scopes of a token come to; `now` in microseconds.

    A scope that cannot be interpreted (any more) grants nothing.
    """
    definitions = language.definitions
    found: Found = {}
    for scope in grant.scopes:
        reach, patient = _reach(grant, scope.context), _patient(grant)
        if reach == "nothing" or (reach == "own" and not patient):
            continue
        types = definitions.resource_types if scope.type == EVERY_TYPE else (scope.type,)
        for type in types:
            try:
                asked = criteria(scope, type, language, now)
            except FhirError:
                continue
            for right in scope.rights:
                seen = _seen(grant.kind, reach, patient, type, right, definitions)
                admitted = found.setdefault((type, right), {})
                admitted[seen] = either(admitted.get(seen, Nothing()), asked)
    return _policy(found, definitions.resource_types)


def _reach(grant: Grant, context: Context) -> Reach:
    """Return how far scopes of a context reach for the account of a token."""
    account = ACCOUNTS[grant.kind]
    reach: Mapping[Context, Reach] = {
        "patient": account.patient,
        "user": account.user,
        "system": account.system,
    }
    return reach[context]


def _patient(grant: Grant) -> str:
    """Return the id of the one Patient whose record a token may open, "" for none.

    An account of a patient opens no other record, whatever was chosen at its launch.
    """
    own = grant.fhir_user if grant.kind == "patient" else ""
    chosen = grant.patient or own
    type, _, id = chosen.partition("/")
    if type != PATIENT or (grant.kind == "patient" and own != chosen):
        return ""
    return id


def _seen(
    kind: Kind, reach: Reach, patient: str, type: str, right: Right, definitions: Definitions
) -> Query:
    """Return what an account sees of a type before its scopes are looked at."""
    if type == AUDIT and (kind not in AUDITORS or reach == "own"):
        return Nothing()
    if reach == "all":
        return All()
    if type in definitions.compartments[PATIENT]:
        return Owned(PATIENT, patient)
    if type in THROUGH:
        return Match(THROUGH[type], "reference", (Reference(PATIENT, patient),))
    if type == BINARY:
        return UNATTACHED
    if type in DIRECTORY | DEFINITIONS and right in READING:
        return All()
    return Nothing()


def _both(seen: Query, asked: Query) -> Query:
    """Return what an account sees and a scope admits, as simply as that can be said."""
    if isinstance(seen, Nothing) or isinstance(asked, All):
        return seen
    parts = asked.parts if isinstance(asked, And) else (asked,)
    if isinstance(seen, All):
        return parts[0] if len(parts) == 1 else asked
    return And((seen, *parts))


def _policy(found: Found, types: tuple[str, ...]) -> Policy:
    """Return the policy of what was found, and nothing else.

    A Binary is seen with what points at it. The most frequent tree of a right is said once, for
    all types.
    """
    trees = {key: either(*starmap(_both, seen.items())) for key, seen in found.items()}
    plain = Policy(trees, Nothing())
    shown: dict[Query, list[str]] = {}
    for type in types:
        if type != BINARY and plain.may(type, "show"):
            shown.setdefault(plain.of(type, "show"), []).append(type)
    attached = Attached(tuple((tuple(some), tree) for tree, some in shown.items()))
    for key, seen in found.items():
        if key[0] == BINARY:
            known = {attached if one == UNATTACHED else one: asked for one, asked in seen.items()}
            trees[key] = either(*starmap(_both, known.items()))
    rights: dict[Right, Query] = {}
    for right in RIGHTS:
        every = Counter(trees.get((type, right), Nothing()) for type in types)
        rights[right] = every.most_common(1)[0][0]
    others = {
        (type, right): trees.get((type, right), Nothing())
        for type in types
        for right in RIGHTS
        if trees.get((type, right), Nothing()) != rights[right]
    }
    if not others and all(isinstance(tree, All) for tree in rights.values()):
        return Policy()
    return Policy(others, Nothing(), rights=rights)


# --- the table, for people ---------------------------------------------------------------------


def table() -> str:
    """Return the table as Markdown: accounts, then types under a patient's own policy."""
    reaches = {"all": "all that they say", "own": "the own record", "nothing": "nothing"}
    lines = [
        "| account | `patient/` scopes | `user/` scopes | `system/` scopes | |",
        "|---|---|---|---|---|",
    ]
    for kind, account in ACCOUNTS.items():
        told = (reaches[reach] for reach in account[:3])
        lines.append(f"| {kind} | {' | '.join(told)} | {account.why} |")
    lines += [
        "",
        "| types, in a patient's own record | read, search | create, update, delete |",
        "|---|---|---|",
    ]
    lines += [f"| {types} | {read} | {write} |" for types, read, write in _rows()]
    return "\n".join(lines) + "\n"


def _rows() -> list[tuple[str, str, str]]:
    """Return a row for each group of types: which, what may be read, what may be written."""
    through = " or ".join(f"{type} by `{code}`" for type, code in sorted(THROUGH.items()))
    own = "what is in the compartment of this Patient and of no other"
    with_it = "what a resource that is shown points at, or names as its security context"
    return [
        ("the Patient compartment of R4", own, "the same"),
        (through, "what refers to this Patient", "the same"),
        (BINARY, f"{with_it}", "the same"),
        (f"directory: {', '.join(sorted(DIRECTORY))}", "all", "nothing"),
        (f"definitions: {', '.join(sorted(DEFINITIONS))}", "all", "nothing"),
        (AUDIT, "nothing", "nothing"),
        ("all others", "nothing", "nothing"),
    ]
