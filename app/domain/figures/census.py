"""$census: who is in a program, on a day or on each day of a range."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, NamedTuple

from app.domain import chart
from app.domain.chart import Program
from app.domain.days import DAY, instant, local_day, local_days, midnight, moment, whole, written
from app.domain.figures.care import require
from app.domain.figures.counts import (
    Census,
    Days,
    Stay,
    average,
    census,
    keeps_back,
    less,
    stay,
    suppressed,
)
from app.domain.figures.hours import rounded
from app.domain.vocabulary import LEVEL, STAGE, TRACK, Vocabulary
from app.domain.workforce import works
from app.fhir.errors import refused
from app.fhir.interaction import Reply
from app.fhir.operations import Call, Plan, Trial, answered
from app.fhir.reader import Reader
from app.fhir.wire import Resource

MOST_DAYS = 366
# Who sees small counts: staff, and the organization's own systems, which may read each record;
# nobody with the token of one patient
ALWAYS: Days = (date.min, None)
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
UNKNOWN: Resource = {"system": ABSENT, "code": "unknown"}
MANY = 200  # references that one search names


class Asked(NamedTuple):
    """What a census is made of: a program and its episodes."""

    vocabulary: Vocabulary
    reader: Reader
    program: Program
    episodes: Sequence[Resource]

    @property
    def patients(self) -> list[str]:
        """Return whose episodes they are."""
        return sorted({chart.reference(one.get("patient")) for one in self.episodes})


# The code of a cell with its days, for a stay; and how a code is shown
Labels = Callable[[Stay], Iterable[tuple[str, Days]]]
Shown = Callable[[str], Resource]


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs the operation of this module, by the id of its definition."""
    known = {"needs": {"instance": ("read",)}, "long": True}
    return {"census": {"perform": partial(of_program, vocabulary), **known}}


async def of_program(vocabulary: Vocabulary, call: Call) -> Reply | Plan | Trial:
    """Return the census of a program on each day that is asked for."""
    require(call, "EpisodeOfCare")
    await call.store.connection.snapshot()
    reader = call.reader
    program = chart.program(vocabulary, await reader.read("HealthcareService", call.asked.id))
    first, last = days_asked(call, program)
    by = call.one("by")
    if by is not None and by not in BY:
        raise refused("value", f"by may be {', '.join(BY)}", "http.by", 400)
    episodes = await episodes_of(reader, program, first)
    asked = Asked(vocabulary, reader, program, episodes)
    require(call, *NEEDED.get(by or "", ()))
    labels, show = await BY[by](asked) if by else (None, None)
    stays = [stay(chart.episode(vocabulary, one), program) for one in episodes]
    found = census(stays, first, last, labels)
    caller = call.store.caller
    if call.one("suppress") or not works(caller) or caller.patient:
        found = [suppressed(one) for one in found]
    values = {
        "day": [day_shown(one, program, show) for one in found],
        "average-daily-census": average(found) if call.one("from") else None,
        "suppressed": any(keeps_back(one) for one in found),
    }
    return Reply(200, answered(call.operation, values))


def days_asked(call: Call, program: Program) -> tuple[date, date]:
    """Return the first and the last day of a call: a date, a range, or today."""
    day, first, last = (call.one(name) for name in ("date", "from", "to"))
    if (day and (first or last)) or bool(first) != bool(last):
        raise refused("value", "Ask for a date, or for from and to", "http.date", 400)
    if not first:
        one = whole(day, "date") if day else local_day(moment(call.now), program.zone)
        return one, one
    days = whole(first, "from"), whole(last, "to")
    if not 0 <= (days[1] - days[0]).days < MOST_DAYS:
        text = f"to must be from or later, and the range {MOST_DAYS} days at most"
        raise refused("value", text, "http.to", 400)
    return days


async def episodes_of(reader: Reader, program: Program, first: date) -> list[Resource]:
    """Return the episodes that were in a program on a day or later, or waited for it."""
    here = ("iop-program", program.reference)
    since = ("date", f"ge{written(midnight(first, program.zone))}")
    admitted = await reader.search(
        "EpisodeOfCare", here, ("status", "active,onhold,finished"), since
    )
    # who waits, or gave up waiting, has no period
    return admitted + await reader.search("EpisodeOfCare", here, ("status", "waitlist,cancelled"))


def day_shown(one: Census, program: Program, show: Shown | None) -> dict[str, Any]:
    """Return the parts of a day."""
    places = program.capacity
    counted = one.active is not None and places
    cells = [{"code": show(cell.code), "count": cell.count} for cell in one.by] if show else []
    return {
        "date": one.day.isoformat(),
        **one.counts,
        "capacity": places,
        "occupancy": rounded(one.active or 0, places or 1, "0.0001") if counted else None,
        "by": cells,
    }


# --- what it is broken down by -----------------------------------------------------------------


def coded(system: str) -> Shown:
    """Return what shows a code of a system, or that it is not known."""
    return lambda code: {"system": system, "code": code} if code else UNKNOWN


async def by_level(asked: Asked) -> tuple[Labels, Shown]:
    """Return the levels of care."""
    return lambda one: one.levels, coded(asked.vocabulary.system(LEVEL))


async def by_track(asked: Asked) -> tuple[Labels, Shown]:
    """Return the one track of the program."""
    track = asked.program.track
    return lambda _: [(track, ALWAYS)], coded(asked.vocabulary.system(TRACK))


async def by_stage(asked: Asked) -> tuple[Labels, Shown]:
    """Return the stages of treatment, as the episodes say them now."""
    v = asked.vocabulary
    stages = {f"EpisodeOfCare/{one['id']}": v.value(one, STAGE) or "" for one in asked.episodes}
    return lambda one: [(stages[one.episode], ALWAYS)], coded(v.system(STAGE))


async def by_payer(asked: Asked) -> tuple[Labels, Shown]:
    """Return the types of the coverages: of the first one that is in force, by its order."""
    coverages: list[Resource] = []
    for n in range(0, len(asked.patients), MANY):
        some = ("beneficiary", ",".join(asked.patients[n : n + MANY]))
        coverages += await asked.reader.search("Coverage", some, ("status", "active,cancelled"))
    codings: dict[str, Resource] = {}
    spans: dict[str, list[tuple[str, Days]]] = {}
    for one in sorted(coverages, key=lambda one: (one.get("order", 1), one["id"])):
        coding: Resource = next(iter(one.get("type", {}).get("coding", ())), {})
        code = coding.get("code", "")
        codings[code] = {name: coding[name] for name in ("system", "code") if name in coding}
        mine = spans.setdefault(chart.reference(one.get("beneficiary")), [])
        mine += [(code, left) for left in remaining(mine, covered(one, asked.program))]
    return partial(labelled, spans), lambda code: codings[code] if code else UNKNOWN


def covered(coverage: Resource, program: Program) -> Days:
    """Return the days of a Coverage; the last day of a period in days is one of them."""
    period = coverage.get("period", {})
    first, last = local_days(chart.period(period), program.zone)
    if "T" not in period.get("start", "T"):
        first = instant(period["start"]).date()
    if "T" not in period.get("end", "T"):
        last = instant(period["end"]).date() + DAY
    return first or date.min, last


async def by_group(asked: Asked) -> tuple[Labels, Shown]:
    """Return the groups of the program; who is in two of them is in two cells."""
    groups = await asked.reader.search("Group", ("iop-program", asked.program.reference))
    names = {f"Group/{one['id']}": one.get("name", "") for one in groups}
    spans: dict[str, list[tuple[str, Days]]] = {}
    for one in groups:
        roster = chart.roster(asked.vocabulary, one)
        for member in roster.members:
            mine = spans.setdefault(member.patient, [])
            mine.append((roster.reference, (member.start, member.end)))

    def show(code: str) -> Resource:
        return {"code": code, "display": names[code]} if code else UNKNOWN

    return partial(labelled, spans), show


def labelled(
    spans: Mapping[str, Sequence[tuple[str, Days]]], stay: Stay
) -> Iterator[tuple[str, Days]]:
    """Yield the codes of a patient with their days, and "" for the days without one."""
    mine = spans.get(stay.patient, ())
    yield from mine
    for left in remaining(mine, ALWAYS):
        yield "", left


def remaining(some: Iterable[tuple[str, Days]], span: Days) -> list[Days]:
    """Return the days of a span that none of some codes has."""
    return list(less(span, [days for _, days in some]))


BY: Mapping[str, Callable[[Asked], Awaitable[tuple[Labels, Shown]]]] = {
    "level": by_level,
    "track": by_track,
    "stage": by_stage,
    "payer": by_payer,
    "group": by_group,
}
# What these are made of, beside the episodes
NEEDED: Mapping[str, tuple[str, ...]] = {"payer": ("Coverage",), "group": ("Group",)}
