"""$weekly-hours, of an episode and of a program: what rule W says, as Parameters or a report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from typing import Any, NamedTuple

from app.domain import chart
from app.domain.chart import Program
from app.domain.days import DAY, local_day, midnight, moment, week_of, whole, written
from app.domain.figures.care import OWN, Reading, of_all, require
from app.domain.figures.hours import Care, Week, apportioned, hours, rounded, weeks
from app.domain.vocabulary import ISSUE, LEVEL, UCUM, Vocabulary
from app.fhir.errors import Issue, outcome, refused
from app.fhir.interaction import Reply
from app.fhir.operations import Call, Plan, Trial, answered
from app.fhir.wire import Resource, encode, stored

PAGE = 100  # episodes of a page, where no count is asked for
MOST_DAYS = 366
POPULATION = "http://terminology.hl7.org/CodeSystem/measure-population"
REPORT = "measure-report"


class Asked(NamedTuple):
    """The days that are asked for, both included; and the moment up to which things happened."""

    first: date
    last: date
    asof: datetime


# What a week says, by the name of its part
WEEK: Mapping[str, Callable[[Week], Any]] = {
    "delivered-minutes": lambda w: w.delivered,
    "delivered-hours": lambda w: hours(w.delivered),
    "required-minutes": lambda w: w.required,
    "adjusted-required-minutes": lambda w: w.adjusted,
    "shortfall-minutes": lambda w: w.shortfall,
    "met-level-of-care": lambda w: w.met_level,
    "met-adjusted": lambda w: w.met_adjusted,
    "status": lambda w: w.status,
    "individual-minutes": lambda w: w.individual,
    "individual-met": lambda w: w.individual_met,
    "family-minutes": lambda w: w.family,
    "collateral-minutes": lambda w: w.collateral,
    "telehealth-minutes": lambda w: w.telehealth,
    "wellness-minutes": lambda w: w.wellness,
    "wellness-excluded": lambda w: w.wellness_excluded,
    "iop-days": lambda w: w.iop_days,
    "sessions-expected": lambda w: w.expected,
    "sessions-attended": lambda w: w.attended,
    "attendance-rate": lambda w: w.rate,
    "no-shows": lambda w: w.no_shows,
    "excused": lambda w: w.excused,
    "mutual-support-meetings": lambda w: w.meetings,
    "over-max": lambda w: w.over_maximum,
    "overlap": lambda w: w.overlap,
}


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs the operations of this module, by the ids of their definitions."""
    known = {"needs": {"instance": ("read",)}, "long": True}
    return {
        "episode-weekly-hours": {"perform": partial(of_episode, vocabulary), **known},
        "program-weekly-hours": {"perform": partial(of_program, vocabulary), **known},
    }


async def of_episode(vocabulary: Vocabulary, call: Call) -> Reply | Plan | Trial:
    """Return the weeks of an episode."""
    require(call, *OWN)
    await call.store.connection.snapshot()
    reader = call.reader
    episode = chart.episode(vocabulary, await reader.read("EpisodeOfCare", call.asked.id))
    service = await reader.get(episode.program)
    if service is None:
        text = "The episode is of no program that has weeks"
        raise refused("business-rule", text, "EpisodeOfCare.extension", 422)
    program = chart.program(vocabulary, service)
    asked = days_asked(call, program, from_start(episode.start, program))
    reading = Reading(vocabulary, reader, of_all(call), program, asked.first, asked.last)
    (care,) = await reading.cares([episode])
    found = weeks(care, program, *asked)
    if as_report(call):
        return Reply(200, encode(individual_report(vocabulary, call, care, asked, found)))
    values = {
        "episode": {"reference": episode.reference},
        "time-zone": program.zone.key,
        **shown(vocabulary, call, care, program, asked, found),
        "outcome": warned(vocabulary, found),
    }
    return Reply(200, answered(call.operation, values))


async def of_program(vocabulary: Vocabulary, call: Call) -> Reply | Plan | Trial:
    """Return a page of the episodes that were in a program in some weeks, each with its weeks."""
    require(call, "EpisodeOfCare", *OWN)
    await call.store.connection.snapshot()
    reader = call.reader
    program = chart.program(vocabulary, await reader.read("HealthcareService", call.asked.id))
    asked = days_asked(call, program, None)
    reading = Reading(vocabulary, reader, of_all(call), program, asked.first, asked.last)
    if as_report(call):
        return Reply(200, encode(await summary_report(vocabulary, call, reading, asked)))
    resources, cursor = await episodes_page(call, reading, call.one("_cursor") or "")
    found = [
        {"reference": {"reference": care.episode.reference}}
        | shown(vocabulary, call, care, program, asked, weeks(care, program, *asked))
        for care in await cares(vocabulary, reading, resources)
    ]
    values = {
        "program": {"reference": program.reference},
        "time-zone": program.zone.key,
        "episode": found,
        "_cursor": cursor or None,
    }
    return Reply(200, answered(call.operation, values))


# --- what is asked -----------------------------------------------------------------------------


def days_asked(call: Call, program: Program, start: date | None) -> Asked:
    """Return the days of a call: up to today, from `start` on, or else of one week."""
    now = moment(call.now)
    today = local_day(now, program.zone)
    given = call.one("as-of")
    seen = whole(given, "as-of") if given else today
    from_day, to_day = (call.one(name) for name in ("from", "to"))
    first = whole(from_day, "from") if from_day else min(start or seen, seen)
    last = whole(to_day, "to") if to_day else max(seen, first)
    if last < first:
        raise refused("value", "to is before from", "http.to", 400)
    if from_day and (last - first).days >= MOST_DAYS:
        raise refused("value", f"Ask for {MOST_DAYS} days at most", "http.from", 400)
    return Asked(
        max(first, last - DAY * MOST_DAYS), last, min(now, midnight(seen + DAY, program.zone))
    )


def from_start(start: datetime | None, program: Program) -> date | None:
    """Return the day on which an episode began."""
    return local_day(start, program.zone) if start else None


def as_report(call: Call) -> bool:
    """Return whether a MeasureReport is asked for."""
    wanted = call.one("as")
    if wanted not in (None, REPORT):
        raise refused("value", f"as may be {REPORT}", "http.as", 400)
    return wanted is not None


async def episodes_page(
    call: Call, reading: Reading, cursor: str, count: int | None = None
) -> tuple[list[Resource], str]:
    """Return a page of the episodes of a program in these weeks, and where the next one begins."""
    given = call.one("_count")
    wanted = count or (PAGE if given is None else given)
    if wanted < 1:
        raise refused("value", "_count must be at least 1", "http._count", 400)
    pairs = (
        ("iop-program", reading.program.reference),
        ("status", "active,onhold,finished"),
        *reading.dates(0),
    )
    search = call.language.parse("EpisodeOfCare", pairs, call.now, hidden=call.hidden)
    count = min(wanted, call.language.max_page_size)
    page = await call.store.search(replace(search, count=count, cursor=cursor))
    return [stored(entry.body) for entry in page.entries], page.cursor


async def cares(
    vocabulary: Vocabulary, reading: Reading, resources: Iterable[Resource]
) -> list[Care]:
    """Return the care of EpisodesOfCare."""
    return await reading.cares([chart.episode(vocabulary, one) for one in resources])


# --- what is answered --------------------------------------------------------------------------


def shown(
    vocabulary: Vocabulary,
    call: Call,
    care: Care,
    program: Program,
    asked: Asked,
    found: Sequence[Week],
) -> dict[str, Any]:
    """Return the weeks of an episode, and its Encounters if they are asked for."""
    values: dict[str, Any] = {"week": [week_shown(vocabulary, one, program) for one in found]}
    if call.one("detail"):
        firsts = {one.first for one in found}
        values["detail"] = [
            {
                "date": one.day.isoformat(),
                "kind": one.visit.kind,
                "credited-minutes": one.credited,
                "counted-minutes": one.minutes,
                "encounter": {"reference": one.visit.reference},
            }
            for one in apportioned(care, program, asked.asof)
            if week_of(one.day, program.week_start) in firsts
        ]
    return values


def week_shown(vocabulary: Vocabulary, week: Week, program: Program) -> dict[str, Any]:
    """Return the parts of a week."""
    start, end = (written(one, program.zone) for one in week.period)
    return {
        "period": {"start": start, "end": end},
        "week-start": week.first.isoformat(),
        "level": vocabulary.coding(LEVEL, week.level) if week.level else None,
        **{name: said(week) for name, said in WEEK.items()},
    }


def warned(vocabulary: Vocabulary, found: Iterable[Week]) -> Resource | None:
    """Return the warnings about weeks in which services overlap."""
    code = vocabulary.system(ISSUE), "overlap"
    issues = [
        Issue(
            "warning",
            "business-rule",
            f"Services overlap in the week of {one.first}: each minute is counted once",
            details=code,
        )
        for one in found
        if one.overlap
    ]
    return outcome(issues) if issues else None


def individual_report(
    vocabulary: Vocabulary, call: Call, care: Care, asked: Asked, found: Iterable[Week]
) -> Resource:
    """Return the weeks of an episode as a MeasureReport: a group each, its score the hours."""
    groups = [
        {
            **counted_group(one.first, [one]),
            "measureScore": {
                "value": hours(one.delivered),
                "unit": "h",
                "system": UCUM,
                "code": "h",
            },
        }
        for one in found
    ]
    report = report_of(vocabulary, call, "individual", care.episode.organization, asked, groups)
    return {**report, "subject": {"reference": care.episode.patient}}


async def summary_report(
    vocabulary: Vocabulary, call: Call, reading: Reading, asked: Asked
) -> Resource:
    """Return the weeks of a program as a MeasureReport: how many patient-weeks met their level."""
    by_week: dict[date, list[Week]] = {}
    cursor, more = "", True
    while more:
        page, cursor = await episodes_page(call, reading, cursor, call.language.max_page_size)
        for care in await cares(vocabulary, reading, page):
            for one in weeks(care, reading.program, *asked):
                by_week.setdefault(one.first, []).append(one)
        more = bool(cursor)
    groups = []
    for first, some in sorted(by_week.items()):
        whole = [one for one in some if one.met_level is not None]
        met = (
            rounded(sum(1 for one in whole if one.met_level) * 100, len(whole), "0.1")
            if whole
            else None
        )
        score = (
            {"measureScore": {"value": met, "unit": "%", "system": UCUM, "code": "%"}}
            if whole
            else {}
        )
        groups.append({**counted_group(first, some), **score})
    return report_of(vocabulary, call, "summary", reading.program.organization, asked, groups)


def counted_group(first: date, found: Sequence[Week]) -> Resource:
    """Return the populations of a week: all, those that were whole, those that met their level."""
    counts = {
        "initial-population": len(found),
        "denominator": sum(1 for one in found if one.met_level is not None),
        "numerator": sum(1 for one in found if one.met_level),
    }
    population = [
        {"code": {"coding": [{"system": POPULATION, "code": code}]}, "count": count}
        for code, count in counts.items()
    ]
    return {"code": {"text": f"Week of {first}"}, "population": population}


def report_of(
    vocabulary: Vocabulary,
    call: Call,
    type: str,
    reporter: str,
    asked: Asked,
    groups: Sequence[Resource],
) -> Resource:
    """Return a MeasureReport with some groups."""
    return {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": type,
        "measure": f"{vocabulary.base}/Measure/weekly-hours-met",
        "date": written(moment(call.now)),
        **({"reporter": {"reference": reporter}} if reporter else {}),
        "period": {"start": asked.first.isoformat(), "end": asked.last.isoformat()},
        **({"group": list(groups)} if groups else {}),
    }
