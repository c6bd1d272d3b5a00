"""Levels of care: in which an episode is, since when, and what was ordered for it.

An episode spans its levels: their periods follow each other from its start on, each with an order
behind it. An order says how many hours a week it asks for.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from app.domain import chart
from app.domain.admission.episodes import IN_FORCE, OPEN, current, marks, ours
from app.domain.admission.overrides import overridden
from app.domain.chart import Episode, reference
from app.domain.days import instant
from app.domain.vocabulary import LEVEL, LEVELS, Vocabulary
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource


async def check_levels(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return episodes whose periods of a level leave gaps, overlap, or were not ordered."""
    found = []
    for change, after in ours(vocabulary, changes):
        if after["status"] not in IN_FORCE:
            continue
        episode = chart.episode(vocabulary, after)
        if episode.start is None:
            found.append(Finding(change, "The episode needs the start of its period", "period"))
        elif not covered(episode):
            text = "The periods of the levels of care do not cover the episode without a gap"
            found.append(Finding(change, text, "extension"))
        elif not await _ordered(reader, episode):
            text = "Each period of a level of care needs an order that is active or completed"
            found.append(Finding(change, text, "extension"))
    return found


def covered(episode: Episode) -> bool:
    """Return whether the levels of an episode follow each other from its start to its end."""
    levels = episode.levels
    ends = [episode.start, *(one.end for one in levels)]
    starts = [*(one.start for one in levels), episode.end]
    return bool(levels) and ends == starts


async def _ordered(reader: Reader, episode: Episode) -> bool:
    """Return whether an order of the patient is behind each level of an episode."""
    orders = await reader.get_all(one.order for one in episode.levels)
    return all(
        order is not None
        and order["resourceType"] == "ServiceRequest"
        and order["status"] in ("active", "completed")
        and reference(order["subject"]) == episode.patient
        for order in (orders.get(one.order) for one in episode.levels)
    )


async def check_active_order(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return open episodes of which no order of a level is active, or more than one."""
    about = [(c, one) for c, one in ours(vocabulary, changes) if one["status"] in OPEN]
    orders = {c.reference: c for c in changes if c.type == "ServiceRequest" and c.before}
    if orders:
        subjects = [reference(c.before.get("subject")) for c in orders.values() if c.before]
        for one in await current(vocabulary, reader, subjects):
            named = [level.order for level in chart.episode(vocabulary, one).levels]
            about += [(orders[order], one) for order in named if order in orders][:1]
    found = []
    for change, one in about:
        names = {level.order for level in chart.episode(vocabulary, one).levels if level.order}
        known = await reader.get_all(names)
        active = sum(order["status"] == "active" for order in known.values())
        if names and active != 1:
            text = "An open episode has exactly one active order of a level of care"
            at = "status" if change.type == "ServiceRequest" else "extension"
            found.append(Finding(change, text, at))
    return found


async def check_hours(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return orders of fewer hours than their level has at least, or of more than at most."""
    orders = [
        (change, change.after, level)
        for change in changes
        if change.after and change.after["status"] == "active"
        if (level := vocabulary.code(change.after.get("orderDetail"), LEVEL)) in LEVELS
    ]
    patients = await reader.get_all(reference(one.get("subject")) for _, one, _ in orders)
    found = []
    for change, order, level in orders:
        minutes = chart.weekly_minutes(order)
        if minutes is None:
            found.append(Finding(change, "The order says no hours a week", "quantity"))
            continue
        adolescent = _adolescent(order, patients.get(reference(order.get("subject"))))
        if not allowed(level, minutes, adolescent=adolescent) and not overridden(
            vocabulary, order, "INV-SR-1"
        ):
            text = f"The hours a week are not those of level {level}"
            found.append(Finding(change, text, "quantity"))
    return found


def allowed(level: str, minutes: int, *, adolescent: bool) -> bool:
    """Return whether a level of care has so many minutes a week."""
    known = LEVELS[level]
    if known.minimum and minutes < known.minimum[adolescent]:
        return False
    if known.maximum is None:
        return True
    most = known.maximum[adolescent]
    return minutes < most or (known.reachable and minutes == most)


def _adolescent(order: Resource, patient: Resource | None) -> bool:
    """Return whether an order is for an adolescent when it begins."""
    start = order.get("occurrencePeriod", {}).get("start") or order.get("authoredOn")
    years = chart.age(patient, instant(start).date()) if patient and start else None
    return years is not None and years < chart.ADULT


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules of this module."""
    v, signs, mark = vocabulary, marks(vocabulary), (vocabulary.mark,)
    episodes, orders = frozenset({"EpisodeOfCare"}), frozenset({"ServiceRequest"})
    return (
        Rule("INV-EC-5", episodes, signs, partial(check_levels, v)),
        Rule("INV-SR-1", orders, mark, partial(check_hours, v)),
        Rule("INV-SR-2", episodes | orders, mark, partial(check_active_order, v)),
    )
