"""Who may lead a session: roles and licences on its day (INV-PR)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from app.domain.chart import reference
from app.domain.vocabulary import KIND, KINDS, ROLE, SESSION, Vocabulary
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

LEADERS = frozenset({"psychiatrist", "psychologist", "therapist", "counselor", "nurse"})
PEER = "peer"
PEER_LED = "peer-support"
PEER_SECONDS = frozenset({PEER_LED, "wellness", "education"})
# Led by whoever does them: no session of therapy
UNLED = frozenset({"med-management", "case-management", "mutual-support", "drug-test"})
LED = KINDS.keys() - UNLED
OFF = frozenset({"cancelled", "noshow", "entered-in-error"})
# Others take part without leading: who refers, a trainee, a consultant
LEADING = frozenset({"PPRF", "SPRF", "ATND"})
EXPIRED = "credential-expired"


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules for who leads."""
    types = frozenset({"Appointment", "Encounter"})
    return (Rule("INV-PR-1", types, (vocabulary.mark,), partial(unqualified, vocabulary)),)


@dataclass(frozen=True)
class Led:
    """A session: its kind, its day, and who leads it, as they are referred to."""

    kind: str
    day: date
    leaders: tuple[str, ...]


def led(vocabulary: Vocabulary, resource: Resource) -> Led | None:
    """Return an Appointment or Encounter as a session, None for what nobody has to lead.

    What a patient has of a group session is led by whoever leads that.
    """
    is_encounter = resource["resourceType"] == "Encounter"
    start = resource.get("period", {}).get("start") if is_encounter else resource.get("start")
    kind = vocabulary.code(resource.get("type" if is_encounter else "serviceType"), KIND)
    shared = "partOf" in resource or vocabulary.value(resource, SESSION) is not None
    if start is None or shared or kind not in LED or resource["status"] in OFF:
        return None
    rows = [row for row in resource.get("participant", ()) if _leads(row)]
    texts = [reference(row.get("individual" if is_encounter else "actor")) for row in rows]
    leaders = tuple(dict.fromkeys(one for one in texts if one.startswith("Practitioner")))
    return Led(kind, date.fromisoformat((start + "-01-01")[:10]), leaders)


def _leads(participant: Resource) -> bool:
    codes = {
        one.get("code") for type in participant.get("type", ()) for one in type.get("coding", ())
    }
    return not codes or not LEADING.isdisjoint(codes)


async def unqualified(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """INV-PR-1: only some roles lead, on the day of the session; INV-PR-2: with a licence then."""
    judged = [(change, one) for change in changes if (one := _newly_led(vocabulary, change))]
    known = await roles(reader, {name for _, one in judged for name in one.leaders})
    people = await reader.get_all(
        reference(role["practitioner"])
        for some in known.values()
        for role in some
        if "practitioner" in role
    )
    found = []
    for change, one in judged:
        at = "participant"
        by = {name: _codes(vocabulary, known[name], one.day) for name in one.leaders}
        found += [Finding(change, text, at) for text in wrong_leaders(one.kind, by)]
        if change.type == "Encounter" and any(
            _expired(person, one.day)
            for name in one.leaders
            for person in _people(known[name], people)
        ):
            text = "A licence of who led the session had expired on its day"
            found.append(Finding(change, text, at, "warning", rule=EXPIRED))
    return found


def _newly_led(vocabulary: Vocabulary, change: Change) -> Led | None:
    """Return a session that is new, or has another kind, day or leader than before."""
    if change.after is None:
        return None
    now = led(vocabulary, change.after)
    before = led(vocabulary, change.before) if change.before else None
    return now if now != before else None


def wrong_leaders(kind: str, roles: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield what is wrong with the roles of those who lead a session of a kind."""
    qualified = [name for name, codes in roles.items() if codes & LEADERS]
    peers = [name for name, codes in roles.items() if PEER in codes and name not in qualified]
    if len(qualified) + len(peers) < len(roles):
        yield "Who leads a session has no role on its day that may"
    if peers and kind not in PEER_SECONDS:
        yield "A peer leads peer support, or helps with wellness and education"
    elif peers and not qualified and kind != PEER_LED:
        yield "A peer helps with wellness and education, beside who leads them"


async def roles(reader: Reader, names: Iterable[str]) -> Mapping[str, list[Resource]]:
    """Return the PractitionerRoles of those who lead: the one that is named, or all of a person."""
    wanted = sorted(set(names))
    known = await reader.get_all(one for one in wanted if one.startswith("PractitionerRole/"))
    found = {one: [known[one]] if one in known else [] for one in wanted}
    for one in wanted:
        if one.startswith("Practitioner/"):
            found[one] = await reader.search("PractitionerRole", ("practitioner", one))
    return found


def _codes(vocabulary: Vocabulary, roles: Iterable[Resource], day: date) -> set[str]:
    """Return the codes of the roles that are in force on a day."""
    return {
        code
        for role in roles
        if role.get("active", True) and _holds(role.get("period", {}), day)
        for code in vocabulary.codes(role.get("code", []), ROLE)
    }


def _holds(period: Resource, day: date) -> bool:
    """Return whether a period of whole days holds on a day, its last one included."""
    text = day.isoformat()
    start, end = period.get("start", "")[:10], period.get("end", "")[:10]
    return text[: len(start)] >= start and (not end or text[: len(end)] <= end)


def _people(roles: Iterable[Resource], people: Mapping[str, Resource]) -> list[Resource]:
    names = [reference(role.get("practitioner")) for role in roles]
    return [people[name] for name in names if name in people]


def _expired(practitioner: Resource, day: date) -> bool:
    """Return whether a Practitioner has licences, none of which holds on a day."""
    held = practitioner.get("qualification", ())
    return bool(held) and not any(_holds(one.get("period", {}), day) for one in held)
