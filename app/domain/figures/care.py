"""What the weekly hours of some episodes are made of, read from the record for all at once.

A search serves hundreds of episodes. Of bookings only those that were missed are read: who was to
come is in the rosters, and who came in the Encounters.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TypeVar

from app.domain import chart
from app.domain.chart import Booking, Episode, Membership, Program, Session, Visit
from app.domain.days import DAY, instant, midnight, week_of, written
from app.domain.figures.hours import Care
from app.domain.vocabulary import MEASURE, Vocabulary
from app.fhir.errors import refused
from app.fhir.operations import Call
from app.fhir.reader import Reader
from app.fhir.wire import Resource

MANY = 50  # references that one search names: with more the database reads too much of the index
# What is read with the eyes of the caller
OWN = ("Patient", "ServiceRequest", "Appointment", "Encounter", "Observation")
MISSED = ("iop-attendance", "no-show,excused,not-expected")

Value = TypeVar("Value")
Places = list[tuple[str, Membership]]


@dataclass(frozen=True)
class Reading:
    """Reads what happened in some whole weeks of a program: those of two days, and between.

    `reader` has the eyes of the caller; what belongs to a whole group comes through `shared`, since
    a patient's hours are made of sessions that the patient cannot read.
    """

    vocabulary: Vocabulary
    reader: Reader
    shared: Reader
    program: Program
    first: date
    last: date

    async def cares(self, episodes: Sequence[Episode]) -> list[Care]:
        """Return the care of each episode, in their order."""
        patients = list(dict.fromkeys(one.patient for one in episodes))
        people = await self.reader.get_all(patients)
        orders = await self._orders(episodes)
        places = await self._places(episodes)
        sessions = await self._sessions({group for some in places.values() for group, _ in some})
        missed = by(_patient, await self._missed(patients))
        attended = await self._visits(patients)
        visits = by(_patient, attended)
        scheduled = await self._scheduled(attended, sessions)
        by_group = by(_group, sessions)
        meetings = await self._meetings(patients)
        found = []
        for one in episodes:
            mine = places.get(one.patient, [])
            care = Care(
                episode=one,
                born=chart.born(people.get(one.patient, {})),
                orders=orders,
                places=tuple(mine),
                sessions=tuple(s for g in dict(mine) for s in by_group.get(g, ())),
                outcomes={b.session: b.attendance for b in missed.get(one.patient, ())},
                visits=tuple(v for v in visits.get(one.patient, ()) if belongs(v, one)),
                scheduled=scheduled,
                meetings=tuple(meetings.get(one.patient, ())),
            )
            found.append(care)
        return found

    def dates(self, beside: int = 1) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return the dates to search for: the weeks, and so many days on each side.

        What was to begin in a week may have begun beside it.
        """
        zone, start = self.program.zone, self.program.week_start
        lo = midnight(week_of(self.first, start) - DAY * beside, zone)
        hi = midnight(week_of(self.last, start) + DAY * (7 + beside), zone)
        return ("date", f"ge{written(lo)}"), ("date", f"lt{written(hi)}")

    async def _search(
        self,
        reader: Reader,
        type: str,
        name: str,
        references: Iterable[str],
        *pairs: tuple[str, str],
    ) -> list[Resource]:
        """Return what names one of some references by a search parameter, in these weeks."""
        wanted = list(references)
        found: list[Resource] = []
        for n in range(0, len(wanted), MANY):
            some = (name, ",".join(wanted[n : n + MANY]))
            found += await reader.search(type, some, *self.dates(), *pairs)
        return found

    async def _orders(self, episodes: Iterable[Episode]) -> dict[str, int]:
        """Return the ordered minutes a week by the reference of the order."""
        named = {level.order for one in episodes for level in one.levels if level.order}
        orders = await self.reader.get_all(named)
        asked = {name: chart.weekly_minutes(order) for name, order in orders.items()}
        return {name: minutes for name, minutes in asked.items() if minutes is not None}

    async def _places(self, episodes: Iterable[Episode]) -> dict[str, Places]:
        """Return the groups of patients in these weeks, in the programs of their episodes."""
        programs = {p for one in episodes for p in (one.program, *(x.program for x in one.levels))}
        named = ("iop-program", ",".join(sorted(programs - {""})))
        first = week_of(self.first, self.program.week_start)
        last = week_of(self.last, self.program.week_start) + DAY * 7
        found: dict[str, Places] = {one.patient: [] for one in episodes}
        few = [("member", ",".join(found))] if len(found) <= MANY else []
        for group in await self.shared.search("Group", named, *few):
            for member in group.get("member", ()):
                if chart.reference(member.get("entity")) not in found:
                    continue
                one = chart.membership(member)
                if one.start < last and (one.end is None or one.end > first):
                    found[one.patient].append((f"Group/{group['id']}", one))
        return found

    async def _sessions(self, groups: Iterable[str]) -> list[Session]:
        """Return the sessions of some groups."""
        held = await self._search(self.shared, "Appointment", "supporting-info", sorted(groups))
        return [chart.session(self.vocabulary, one) for one in held]

    async def _missed(self, patients: Iterable[str]) -> list[Booking]:
        """Return the bookings that patients were excused from, or missed."""
        held = await self._search(self.reader, "Appointment", "patient", patients, MISSED)
        return [chart.booking(self.vocabulary, one) for one in held]

    async def _visits(self, patients: Iterable[str]) -> list[Visit]:
        """Return what patients attended."""
        held = await self._search(self.reader, "Encounter", "patient", patients)
        made = (chart.visit(self.vocabulary, one) for one in held)
        return [one for one in made if one is not None]

    async def _scheduled(
        self, visits: Iterable[Visit], sessions: Iterable[Session]
    ) -> dict[str, datetime]:
        """Return when the appointments of visits were to begin, by reference.

        Those of visits in the middle of the day need not be read: they were to begin on that day.
        """
        known = {one.reference: one.start for one in sessions}
        late = (
            one for one in visits if not 4 <= one.period[0].astimezone(self.program.zone).hour < 20
        )
        named = (one.session or one.booking for one in late)
        others = await self.shared.get_all({one for one in named if one and one not in known})
        return known | {n: instant(one["start"]) for n, one in others.items() if "start" in one}

    async def _meetings(self, patients: Iterable[str]) -> dict[str, list[tuple[date, int]]]:
        """Return the days and numbers of the mutual-support meetings that patients report."""
        v = self.vocabulary
        code = ("code", f"{v.system(MEASURE)}|mutual-support-meetings")
        found: dict[str, list[tuple[date, int]]] = {}
        for one in await self._search(self.reader, "Observation", "patient", patients, code):
            mine = found.setdefault(chart.reference(one.get("subject")), [])
            mine.append(chart.meetings(v, one, self.program.zone))
        return found


def require(call: Call, *types: str) -> None:
    """Refuse a caller who may not search what a figure is made of: it would be too low."""
    for type in types:
        if not call.store.caller.policy.may(type, "search"):
            text = f"${call.operation.code} needs the right to search {type} as well"
            raise refused("forbidden", text)


def of_all(call: Call) -> Reader:
    """Return a reader with the eyes of the system, in the transaction of a call."""
    return call.overview


def belongs(visit: Visit, episode: Episode) -> bool:
    """Return whether a visit is one of an episode: as it says, else by its time."""
    if visit.episode or episode.start is None:
        return visit.episode == episode.reference
    return episode.start <= visit.period[0] and (
        episode.end is None or visit.period[0] < episode.end
    )


def by(name: Callable[[Value], str], values: Iterable[Value]) -> dict[str, list[Value]]:
    """Return values by a name that each has."""
    found: dict[str, list[Value]] = {}
    for one in values:
        found.setdefault(name(one), []).append(one)
    return found


def _patient(one: Booking | Visit) -> str:
    return one.patient


def _group(one: Session) -> str:
    return one.group
