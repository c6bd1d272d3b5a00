"""Rules set aside: which may be, by whom, and how a resource says so.

A program director may set some rules aside for one patient, with a reason. That stays with what
was written, as an extension `iop-override`, where the rule itself finds it later.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial

from app.domain import chart, days
from app.domain.vocabulary import ISSUE, OVERRIDE, ROLE, Vocabulary, parts
from app.fhir.errors import FhirError, Issue
from app.fhir.operations import Call
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

DIRECTOR = "program-director"


def overridden(vocabulary: Vocabulary, element: Resource, rule: str) -> bool:
    """Return whether somebody has set a rule aside for an element, with a reason."""
    said = [parts(one) for one in vocabulary.all(element, OVERRIDE)]
    return any(one.get("rule") == rule and one.get("reason") for one in said)


async def granted(vocabulary: Vocabulary, call: Call, allowed: frozenset[str]) -> list[Resource]:
    """Return the overrides of a call as Extensions.

    Raises a 422 for a rule that nobody sets aside, and a 403 for who is no program director.
    """
    said = call.given.get("override", ())
    if not said:
        return []
    details = (vocabulary.system(ISSUE), "override-not-allowed")
    rules = [one["rule"][0] for one in said]
    if not allowed.issuperset(rules):
        text = f"Only these rules can be set aside here: {', '.join(sorted(allowed))}"
        raise FhirError([Issue("error", "business-rule", text, "http.override", details)])
    if not await directs(vocabulary, call):
        text = "Only a program director may set a rule aside"
        raise FhirError([Issue("error", "forbidden", text, "http.override", details)])
    return [
        vocabulary.complex(
            OVERRIDE, ("rule", "valueCode", one["rule"][0]), ("reason", "valueString", reason)
        )
        for one in said
        for reason in one["reason"]
    ]


async def directs(vocabulary: Vocabulary, call: Call) -> bool:
    """Return whether the caller is a program director today, by an active PractitionerRole."""
    return await directing(vocabulary, call.reader, call.store.caller.fhir_user)


async def directing(vocabulary: Vocabulary, reader: Reader, user: str) -> bool:
    """Return whether a user is a program director today."""
    code = f"{vocabulary.system(ROLE)}|{DIRECTOR}"
    found: list[Resource] = []
    if user.startswith("Practitioner/"):
        found = await reader.search("PractitionerRole", ("practitioner", user), ("role", code))
    elif user.startswith("PractitionerRole/"):
        found = [one for one in [await reader.get(user)] if one is not None]
    return any(_holds(vocabulary, one, days.moment(reader.now)) for one in found)


def _holds(vocabulary: Vocabulary, role: Resource, now: datetime) -> bool:
    start, end = chart.period(role.get("period"))
    running = (start is None or start <= now) and (end is None or now < end + days.DAY)
    directing = DIRECTOR in vocabulary.codes(role.get("code"), ROLE)
    return directing and running and role.get("active", True)


async def check_overrides(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return rules that were newly set aside by a person who is no program director.

    A system that writes by itself answers for its own users.
    """
    asker = reader.asker
    new = [c for c in changes if _said(vocabulary, c.after) - _said(vocabulary, c.before)]
    if not new or asker is None or asker.kind == "system":
        return []
    if await directing(vocabulary, reader, asker.fhir_user):
        return []
    text = "Only a program director may set a rule aside"
    return [Finding(change, text, code="forbidden") for change in new]


def _said(vocabulary: Vocabulary, resource: Resource | None) -> set[tuple[str, str]]:
    """Return which rules a resource or a member of it sets aside, and why."""
    found = resource or {}
    elements = [found, *found.get("member", ())]
    said = [parts(one) for element in elements for one in vocabulary.all(element, OVERRIDE)]
    return {(str(one.get("rule")), str(one.get("reason"))) for one in said}


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rule of who may set rules aside."""
    types = frozenset({"EpisodeOfCare", "ServiceRequest", "Group"})
    marks = (vocabulary.mark,)
    return (Rule("override-not-allowed", types, marks, partial(check_overrides, vocabulary)),)
