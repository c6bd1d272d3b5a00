"""The record of a patient, or of an encounter, as pages: $everything.

https://hl7.org/fhir/R4/patient-operation-everything.html
https://hl7.org/fhir/R4/encounter-operation-everything.html

Theory of operation. The pages of the compartment come first: they are a search, with its cursors.
What the compartment refers to follows on the last of these pages and, where there is more of it,
on pages of its own, for which all of the compartment is walked again: `_type` and `_since` limit
what is shown, not where it may be named. All of a page is one snapshot.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.fhir import bundle
from app.fhir.errors import Issue, outcome, refused
from app.fhir.interaction import Reply
from app.fhir.operations.operation import Call, Plan, Trial
from app.fhir.operations.parameters import words
from app.fhir.operations.surroundings import PATIENT, Named, fetched, named, surroundings
from app.fhir.query import (
    CURSOR,
    All,
    And,
    Match,
    Member,
    Not,
    Or,
    Ordered,
    Present,
    Query,
    Search,
    single,
    unparse,
    written_as,
)
from app.fhir.store import Entry
from app.fhir.values import ALWAYS, NEVER, Interval, parse_date

MEMBERS, AROUND = "m-", "a-"  # what a cursor goes on with
WALKED = 1000  # members of a page of the walk for what they refer to
# No date of care: a birth date tells nothing of when a resource matters
NOT_OF_CARE = frozenset({"birthdate"})


@dataclass(frozen=True, slots=True)
class Record:
    """What is asked for: `shown` finds what is of the compartment, `walked` all that names others.

    Beside the compartment comes what is of `types` (none for all), fits `since`, and belongs to
    nobody but `patients`.
    """

    shown: Search
    walked: Search
    types: frozenset[str]
    since: Query
    patients: tuple[str, ...]


async def everything(call: Call) -> Reply | Plan | Trial:
    """Return a searchset of a compartment, and of all that its resources refer to.

    Raises a 404 or 410 where there is no such compartment.
    """
    asked, store = call.asked, call.store
    await store.connection.snapshot()
    center = await store.read(asked.type, asked.id)
    record = _record(call, center.body)
    here = single(asked.pairs, (CURSOR,)).get(CURSOR, "")
    applied, count = record.shown.applied, record.shown.count
    about = f"{asked.type}/{asked.id}/$everything {applied} {store.caller.policy.digest}"
    first = MEMBERS if record.shown.arms else AROUND + "0"
    place = store.catalogue.place(here, about) if here else first
    members: Sequence[Entry] = ()
    around: Sequence[Entry] = ()
    issues: list[Issue] = []
    total = None
    if place.startswith(MEMBERS):
        page = await store.search(replace(record.shown, cursor=place.removeprefix(MEMBERS)))
        members, total = page.entries, page.total
        following = MEMBERS + page.cursor if page.cursor else AROUND + "0"
    else:
        following = place
    if following.startswith(AROUND):
        whole = place == MEMBERS and record.shown.arms == record.walked.arms
        named_by = _links(call, members) if whole else await _walk(call, record.walked)
        found, cut = await _around(call, record, *named_by)
        start = int(following.removeprefix(AROUND))
        end = start + count - len(members)
        around = found[start:end]
        following = f"{AROUND}{end}" if len(found) > end else ""
        if cut:
            text = "The record refers to more than one answer may hold; not all of that is here"
            issues.append(Issue("warning", "too-costly", text))
    after = store.catalogue.sign(following, about) if following else ""
    path = f"{call.language.base_url}/{asked.type}/{asked.id}/$everything"
    body = bundle.searchset(
        call.language.base_url,
        [entry.shown for entry in members],
        [entry.shown for entry in around],
        bundle.page_links(path, written_as(applied, asked.pairs), here, after),
        total,
        outcome(issues) if issues else None,
    )
    return Reply(200, body)


def _record(call: Call, center: bytes) -> Record:
    """Return what a call asks for; a 400 for a type or a date that is none."""
    asked, definitions = call.asked, call.validator.definitions
    types = words(call.given.get("_type", ()))
    for one in types:
        if one not in definitions.type_numbers:
            text = f"_type names {one[:64]!r}, which is no R4 resource type"
            raise refused("value", text, "http._type", 400)
    since = _since(call)
    dates = _dates(call)
    member = Member(asked.type, asked.id)
    compartment = {*definitions.compartments[asked.type], asked.type}
    inside = [type for type in definitions.resource_types if type in compartment]

    def arms(kinds: Iterable[str], since: Query) -> tuple[tuple[str, Query], ...]:
        return tuple((type, And((member, since, _care(call, type, dates)))) for type in kinds)

    shown = [type for type in inside if not types or type in types]
    subjects = [id for type, id in named(call, center) if type == PATIENT]
    applied = unparse((name, str(value)) for name, values in call.given.items() for value in values)
    return Record(
        shown=Search(arms(shown, since), count=_count(call), applied=applied),
        walked=Search(arms(inside, All()), count=WALKED),
        types=frozenset(types),
        since=since,
        # what is hers is of the compartment: what dates of care leave out there stays out
        patients=() if asked.type == PATIENT else tuple(dict.fromkeys(subjects)),
    )


def _count(call: Call) -> int:
    """Return the entries of a page: as many as there may be, unless fewer are asked for."""
    given = call.one("_count")
    if given is None:
        return call.language.max_page_size
    if given < 1:
        raise refused("value", "_count must be at least 1", "http._count", 400)
    return call.language.count(str(given))


def _since(call: Call) -> Query:
    given = call.one("_since")
    if given is None:
        return All()
    moment = parse_date(given, call.language.zone)
    return Match("_lastUpdated", "date", (Ordered("ge", moment),))


def _dates(call: Call) -> Interval | None:
    """Return the days of care that are asked for, None for all."""
    start, end = call.one("start"), call.one("end")
    if start is None and end is None:
        return None
    zone = call.language.zone
    lo = parse_date(start, zone).lo if start else ALWAYS
    hi = parse_date(end, zone).hi if end else NEVER
    if lo >= hi:
        raise refused("value", "end is before start", "http.end", 400)
    return Interval(lo, hi)


def _care(call: Call, type: str, dates: Interval | None) -> Query:
    """Return what happened at these dates, or has no date of care that the caller may know."""
    dated = call.store.catalogue.clinical_dates(type)
    codes = [c for c in dated if c not in NOT_OF_CARE and not call.hidden(type, c)]
    if dates is None or not codes:
        return All()
    within = [Match(code, "date", (Ordered("ap", dates),)) for code in codes]
    return Or((*within, And(tuple(Not(Present(code)) for code in codes))))


def _links(call: Call, entries: Sequence[Entry]) -> tuple[set[Named], dict[Named, None]]:
    """Return the names of resources, and what these refer to."""
    known = {(entry.type, entry.id) for entry in entries}
    return known, dict.fromkeys(one for entry in entries for one in named(call, entry.body))


async def _walk(call: Call, search: Search) -> tuple[set[Named], dict[Named, None]]:
    """Return the names of all that a search finds, and what that refers to; no body is kept."""
    known: set[Named] = set()
    seeds: dict[Named, None] = {}
    while True:
        page = await call.store.search(search)
        some, links = _links(call, page.entries)
        known |= some
        seeds |= links
        if not page.cursor:
            return known, seeds
        search = replace(search, cursor=page.cursor)


async def _around(
    call: Call, record: Record, known: set[Named], seeds: Iterable[Named]
) -> tuple[Sequence[Entry], bool]:
    """Return what is named, as far as it is asked for and not known; whether that is not all."""
    found = await surroundings(call, seeds, known, record.patients)
    wanted = [entry for entry in found.entries if not record.types or entry.type in record.types]
    if record.since != All():
        names = [(entry.type, entry.id) for entry in wanted]
        wanted = await fetched(call, names, where=record.since)
    return wanted, found.cut
