"""The patients that every seed has: what is hard to get right, under ids that say what it is.

Nobody's id in a real program says anything; these are to be found in an example.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from app.domain.days import DAY, week_of
from app.domain.seed.center import Center, Group, full
from app.domain.seed.people import Person, person
from app.domain.seed.story import Place, Stay, stream

WEEK = timedelta(days=7)
TWINS = ("same-name-1", "same-name-2")

# id: weeks before that of the last day, day of the week (0 is Monday), track
BEGUN: Mapping[str, tuple[int, int, str]] = {
    "steady": (6, 0, "day"),
    "two-groups": (5, 0, "evening"),
    "pull-out": (5, 1, "day"),
    "mid-week-discharge": (5, 0, "day"),
    "level-change": (6, 0, "hiop"),
    "same-day": (4, 3, "day"),
    "on-hold": (6, 0, "evening"),
    "same-name-1": (4, 0, "evening"),
    "same-name-2": (4, 2, "evening"),
    "turning-18": (5, 0, "adolescent"),
    "no-show-streak": (5, 0, "evening"),
    "no-consent": (3, 0, "day"),
}


def cases(center: Center, last: date, seed: int) -> list[Stay]:
    """Return the stays of the fixed cases, of whose weeks the last is that of `last`."""
    monday = week_of(last)
    stays = {id: _begun(center, monday, id, seed) for id in BEGUN}
    people = {id: stay.person for id, stay in stays.items()}
    day, tuesday = center.of("day")[0], center.of("tuesday")[0]
    left, moved = monday - 2 * WEEK + 2 * DAY, monday - 3 * WEEK + 2 * DAY  # Wednesdays
    born = date(left.year - 18, left.month, min(left.day, 28))
    one, other = (people[id] for id in TWINS)
    changes: Mapping[str, Mapping[str, Any]] = {
        "steady": {"habit": "steady"},
        "two-groups": _also(stays["two-groups"], tuesday, 8),
        "pull-out": {"habit": "steady", "overlaps": True, "note": _naming(people["no-consent"])},
        "mid-week-discharge": _ended(stays["mid-week-discharge"], left, "dropped-out"),
        "level-change": {
            "habit": "steady",
            "moves": (moved, day.track),
            "places": (replace(stays["level-change"].places[0], end=moved), Place(day, moved)),
        },
        "same-day": _ended(stays["same-day"], stays["same-day"].start, "other"),
        "on-hold": {"habit": "steady", "away": (monday - 3 * WEEK, monday - 2 * WEEK)},
        TWINS[0]: _also(stays[TWINS[0]], full(center), 0),
        TWINS[1]: {"person": replace(one, diagnoses=other.diagnoses, relative=other.relative)},
        "turning-18": {"person": replace(people["turning-18"], born=born)},
        "no-show-streak": {"habit": "absent"},
        "no-consent": {"denies": True},
    }
    return [replace(stay, **changes[id]) for id, stay in stays.items()]


def _begun(center: Center, monday: date, id: str, seed: int) -> Stay:
    weeks, weekday, name = BEGUN[id]
    group: Group = center.of(name)[0]
    start = monday - weeks * WEEK + weekday * DAY
    who = person(stream(seed, id), start, group.track.population)
    who = replace(who, entry="step-down" if id == "level-change" else "direct")
    return Stay(id, who, group.track, start, None, "", (Place(group, start),))


def _also(stay: Stay, group: Group, after: int) -> Mapping[str, Any]:
    return {"places": (*stay.places, Place(group, stay.start + after * DAY))}


def _ended(stay: Stay, end: date, reason: str) -> Mapping[str, Any]:
    places = tuple(replace(place, end=end) for place in stay.places)
    return {"end": end, "reason": reason, "places": places}


def _naming(other: Person) -> str:
    """Return a remark that names another patient, which a remark must not."""
    return f"Talked with {other.given} {other.family} in the break, and listened well in the group."
