"""The roll call of a session: what is said of who was there, and whether it can be so. Pure.

All that is wrong with a roll call is found at once. Who is meant is said by the place in the call;
only who is missing from it is named, and that to nobody but the workforce.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.attendance.credit import (
    ATTENDED,
    EXCUSED,
    NO_SHOW,
    NOT_EXPECTED,
    Held,
    credited,
    excused,
    status,
)
from app.domain.chart import Interval, intervals, reference
from app.domain.days import instant
from app.domain.vocabulary import ATTENDANCE, ISSUE, Vocabulary
from app.fhir.errors import Issue, refused
from app.fhir.wire import Resource

STATUSES = ATTENDED | {NO_SHOW, EXCUSED, NOT_EXPECTED}
MODES = {"in-person": False, "telehealth": True}  # whether somebody was elsewhere
PATIENT = re.compile(r"Patient/[A-Za-z0-9.-]{1,64}")
PLACE = "Parameters.parameter.where(name='participant')"


@dataclass(frozen=True)
class Said:
    """What a call says of one participant; `at` is its place in the call.

    `telehealth` is None where that is for the session to say, `minutes` where there are none;
    `open` says that a presence lacks its beginning or its end.
    """

    at: str
    patient: str
    status: str
    presence: tuple[Interval, ...] = ()
    minutes: int | None = None
    telehealth: bool | None = None
    reason: Resource | None = None
    notice: datetime | None = None
    state: str = ""
    related: tuple[str, ...] = ()
    note: str = ""
    walk_in: bool = False
    open: bool = False


@dataclass(frozen=True)
class Mark:
    """What is known of one participant: status, credited minutes, and when he was there.

    `reason` is a CodeableConcept or None, `state` where he was in a telehealth session, `related`
    are references to RelatedPersons.
    """

    patient: str
    status: str
    minutes: int
    presence: tuple[Interval, ...]
    telehealth: bool
    reason: Resource | None = None
    state: str = ""
    related: tuple[str, ...] = ()
    note: str = ""

    @property
    def present(self) -> bool:
        """Return whether he was there, for however long."""
        return self.status in ATTENDED


@dataclass(frozen=True)
class Expected:
    """Who has to be named in a roll call, who may be, and who may come as a guest.

    `all` have to be; `others` were booked and cancelled; `treated` have an active episode.
    """

    all: frozenset[str]
    others: frozenset[str]
    treated: frozenset[str]


@dataclass(frozen=True)
class Rules:
    """What a roll call is held against.

    `virtual` is how those took part of whom nothing is said; `names` says whether who asks may be
    told names.
    """

    vocabulary: Vocabulary
    held: Held
    start: datetime
    policy: Mapping[str, int]
    virtual: bool
    names: bool = False

    def issue(self, code: str, text: str, at: str = PLACE) -> Issue:
        """Return the finding of a rule."""
        return Issue("error", "business-rule", text, at, (self.vocabulary.system(ISSUE), code))


def said(rows: Sequence[Mapping[str, Sequence[Any]]]) -> list[Said]:
    """Return what the participants of a call say, in their order."""
    return [_said(f"{PLACE}[{n}]", row) for n, row in enumerate(rows)]


def _said(at: str, row: Mapping[str, Sequence[Any]]) -> Said:
    def one(name: str) -> Any:
        return next(iter(row.get(name, ())), None)

    presence = row.get("presence", ())
    times = intervals(presence)
    return Said(
        at=at,
        patient=_patient(one("patient"), at),
        status=one("status"),
        presence=times,
        minutes=one("minutes"),
        telehealth=_elsewhere(one("mode"), at),
        reason=one("reason"),
        notice=instant(one("notice")) if one("notice") else None,
        state=one("location-state") or "",
        related=tuple(reference(person) for person in row.get("related", ())),
        note=one("note") or "",
        walk_in=bool(one("walk-in")),
        open=len(times) < len(presence),
    )


def _patient(given: Resource, at: str) -> str:
    """Return the reference of a participant; a 422 for one that is no Patient of this server."""
    found = reference(given)
    if not PATIENT.fullmatch(found):
        text = "A participant is a reference such as Patient/1"
        raise refused("value", text, f"{at}.part", 422)
    return found


def _elsewhere(mode: str | None, at: str) -> bool | None:
    if mode is not None and mode not in MODES:
        raise refused("value", f"The mode must be one of {', '.join(MODES)}", at, 422)
    return None if mode is None else MODES[mode]


def marks(roll: Sequence[Said], rules: Rules) -> list[Mark]:
    """Return what a roll call without faults comes to."""
    return [_mark(one, rules) for one in roll]


def _mark(one: Said, rules: Rules) -> Mark:
    status = NO_SHOW if not_accepted(one, rules) else one.status
    return Mark(
        patient=one.patient,
        status=status,
        minutes=_minutes(one, rules.held) if one.status in ATTENDED else 0,
        presence=tuple(rules.held.inside(one.presence)),
        telehealth=rules.virtual if one.telehealth is None else one.telehealth,
        reason=one.reason,
        state=one.state,
        related=one.related,
        note=one.note,
    )


def _minutes(one: Said, held: Held) -> int:
    if one.presence:
        return credited(one.presence, held)
    return one.minutes if one.minutes is not None else held.minutes


def not_accepted(one: Said, rules: Rules) -> bool:
    """Return whether an excuse is none: it came too late, and its reason is not one of those."""
    codes = rules.vocabulary.codes(one.reason, ATTENDANCE)
    good = excused(one.notice, codes, rules.start, rules.policy)
    return one.status == EXCUSED and not good


def faults(roll: Sequence[Said], expected: Expected, rules: Rules) -> list[Issue]:
    """Return all that is wrong with a roll call."""
    found = list(_incomplete(roll, expected, rules))
    for one in roll:
        found += _uninvited(one, expected, rules)
        found += _impossible(one, rules)
    return found


def _incomplete(roll: Iterable[Said], expected: Expected, rules: Rules) -> Iterator[Issue]:
    """Yield what is wrong where who is expected is not named exactly once."""
    named = Counter(one.patient for one in roll)
    missing = sorted(expected.all - named.keys())
    if missing:
        text = f"Of {len(expected.all)} who were expected {len(missing)} are missing"
        text += f": {', '.join(missing)}" if rules.names else ""
        yield rules.issue("roster-incomplete", text)
    twice = sum(count > 1 for count in named.values())
    if twice:
        text = f"Each is named exactly once: {twice} are named more often"
        yield rules.issue("roster-incomplete", text)


def _uninvited(one: Said, expected: Expected, rules: Rules) -> Iterator[Issue]:
    """Yield what is wrong with somebody who was not expected."""
    if one.patient in expected.all | expected.others:
        return
    if not one.walk_in:
        text = "This patient was not expected; a guest is a walk-in"
        yield rules.issue("not-on-roster", text, one.at)
    elif one.patient not in expected.treated:
        text = "A guest needs an active episode in the program"
        yield rules.issue("not-on-roster", text, one.at)
    elif one.status not in ATTENDED:
        text = "A guest was there, or is not named"
        yield rules.issue("status-mismatch", text, one.at)


def _impossible(one: Said, rules: Rules) -> Iterator[Issue]:
    """Yield what is wrong with the status, the times and the minutes of one participant."""
    if one.status not in STATUSES:
        text = f"The status must be one of {', '.join(sorted(STATUSES))}"
        yield rules.issue("status-mismatch", text, one.at)
    elif one.open:
        text = "A presence needs a start and an end"
        yield rules.issue("presence-required", text, one.at)
    elif one.status not in ATTENDED:
        yield from _absent(one, rules)
    elif one.presence:
        yield from _present(one, rules)
    else:
        yield from _by_word(one, rules)


def _absent(one: Said, rules: Rules) -> Iterator[Issue]:
    if one.presence:
        text = f"Who is {one.status} has no presence"
        yield rules.issue("status-mismatch", text, one.at)
    if one.minutes:
        yield rules.issue("minutes", f"Who is {one.status} has no minutes", one.at)


def _present(one: Said, rules: Rules) -> Iterator[Issue]:
    derived = status(one.presence, rules.held, rules.policy)
    if one.minutes is not None:
        yield rules.issue("minutes", "Either presence is given or minutes, not both", one.at)
    if not derived:
        text = "The presence is outside the session"
        yield rules.issue("status-mismatch", text, one.at)
    elif derived != one.status:
        text = f"The status is {one.status}, but the presence says {derived}"
        yield rules.issue("status-mismatch", text, one.at)


def _by_word(one: Said, rules: Rules) -> Iterator[Issue]:
    most = rules.held.minutes
    if one.minutes is None and one.status != "attended":
        text = f"Who is {one.status} needs presence or minutes"
        yield rules.issue("presence-required", text, one.at)
    elif one.minutes is not None and not 1 <= one.minutes <= most:
        text = f"The minutes must be 1 to {most}, the clinical minutes of the session"
        yield rules.issue("minutes", text, one.at)
