"""What a roll call may say, and what it comes to, as values: A1, A2, A4, A5 and A7."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.attendance.credit import Held, status
from app.domain.attendance.rollcall import Expected, Rules, Said, faults, marks, said
from app.domain.chart import POLICIES, Interval
from app.domain.vocabulary import Vocabulary
from app.fhir.errors import FhirError
from tests.domain.test_credit import SESSION, at, times

V = Vocabulary("https://example.org/fhir/iop")
RULES = Rules(V, SESSION, SESSION.start, POLICIES, virtual=False)
MEMBERS = Expected(frozenset({"Patient/1"}), frozenset({"Patient/2"}), frozenset({"Patient/3"}))


def one(status: str = "attended", patient: str = "Patient/1", **fields: Any) -> Said:
    """Return what is said of a participant."""
    return Said("here", patient, status, **fields)


def codes(*roll: Said, expected: Expected = MEMBERS) -> list[str]:
    """Return the codes of what is wrong with a roll call."""
    return [issue.details[1] for issue in faults(roll, expected, RULES) if issue.details]


# --- A1 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roll", "expected"),
    [
        ([one()], []),
        ([], ["roster-incomplete"]),
        ([one(), one("no-show")], ["roster-incomplete"]),
        ([one(), one(patient="Patient/2")], []),  # had cancelled, and came
        ([one(), one(patient="Patient/3")], ["not-on-roster"]),
        ([one(), one(patient="Patient/3", walk_in=True)], []),
        ([one(), one("no-show", "Patient/3", walk_in=True)], ["status-mismatch"]),
        ([one(), one(patient="Patient/4", walk_in=True)], ["not-on-roster"]),
    ],
)
def test_a1_all_who_are_expected_are_named_once_and_guests_are_in_treatment(
    roll: list[Said], expected: list[str]
) -> None:
    assert codes(*roll) == expected


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (False, "Of 1 who were expected 1 are missing"),
        (True, "Of 1 who were expected 1 are missing: Patient/1"),
    ],
)
def test_a1_who_is_missing_is_named_to_the_workforce_alone(names: bool, text: str) -> None:
    rules = Rules(V, SESSION, SESSION.start, POLICIES, virtual=False, names=names)

    (issue,) = faults([], MEMBERS, rules)

    assert issue.text == text


# --- A2, A4, A5 ---------------------------------------------------------------------------------

WHOLE = tuple(times(("09:00", "12:15")))


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        ("attended", {"presence": times(("09:11", "12:15"))}, ["status-mismatch"]),
        ("late", {"presence": times(("09:10", "12:15"))}, ["status-mismatch"]),
        ("late", {"presence": times(("09:25", "12:00"))}, ["status-mismatch"]),
        ("attended", {"presence": times(("13:00", "14:00"))}, ["status-mismatch"]),
        ("no-show", {"presence": WHOLE}, ["status-mismatch"]),
        ("excused", {"presence": WHOLE}, ["status-mismatch"]),
        ("not-expected", {"presence": WHOLE}, ["status-mismatch"]),
        ("absent", {}, ["status-mismatch"]),
        ("late", {}, ["presence-required"]),
        ("left-early", {}, ["presence-required"]),
        ("late-left-early", {}, ["presence-required"]),
        ("attended", {"open": True}, ["presence-required"]),
        ("attended", {"minutes": 0}, ["minutes"]),
        ("attended", {"minutes": 181}, ["minutes"]),
        ("attended", {"minutes": 100, "presence": WHOLE}, ["minutes"]),
        ("no-show", {"minutes": 5}, ["minutes"]),
        ("excused", {"minutes": 5}, ["minutes"]),
        ("no-show", {"minutes": 0}, []),
        ("attended", {"minutes": 1}, []),
        ("late", {"minutes": 180}, []),
        ("attended", {}, []),
        ("attended", {"presence": WHOLE}, []),
    ],
)
def test_a2_a4_a5_status_presence_and_minutes_agree(
    status: str, fields: dict[str, Any], expected: list[str]
) -> None:
    assert codes(one(status, **fields)) == expected


@pytest.mark.parametrize(
    ("status", "fields", "minutes"),
    [
        ("attended", {}, 180),
        ("attended", {"minutes": 100}, 100),
        ("late", {"minutes": 150}, 150),
        ("late", {"presence": times(("09:25", "12:15"))}, 155),
        ("late-left-early", {"presence": times(("09:25", "11:40"))}, 120),
        ("no-show", {"minutes": 0}, 0),
        ("excused", {}, 0),
        ("not-expected", {}, 0),
    ],
)
def test_a3_a5_minutes_are_those_of_presence_or_as_given_or_all(
    status: str, fields: dict[str, Any], minutes: int
) -> None:
    (mark,) = marks([one(status, **fields)], RULES)

    assert mark.minutes == minutes


# --- A7, A9 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"notice": at("09:00", "2026-03-02")}, "excused"),
        ({"notice": at("09:01", "2026-03-02")}, "no-show"),
        ({"reason": V.concept("iop-attendance", "court")}, "excused"),
        ({"reason": V.concept("iop-attendance", "transport")}, "no-show"),
        ({"reason": {"text": "medical"}}, "no-show"),
        ({}, "no-show"),
    ],
)
def test_a7_an_excuse_needs_notice_or_a_reason_else_it_is_a_no_show(
    fields: dict[str, Any], status: str
) -> None:
    (mark,) = marks([one("excused", **fields)], RULES)

    assert mark.status == status


@pytest.mark.parametrize(
    ("telehealth", "virtual", "expected"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_a9_who_says_nothing_takes_part_as_the_session_is_held(
    telehealth: bool | None, virtual: bool, expected: bool
) -> None:
    rules = Rules(V, SESSION, SESSION.start, POLICIES, virtual)

    (mark,) = marks([one(telehealth=telehealth)], rules)

    assert mark.telehealth is expected


def test_a_mode_that_does_not_exist_is_refused() -> None:
    row = {"patient": ({"reference": "Patient/1"},), "status": ("attended",), "mode": ("phone",)}

    with pytest.raises(FhirError, match="in-person, telehealth"):
        said([row])


# --- whatever the times are ---------------------------------------------------------------------

BEGIN = datetime(2026, 3, 3, 17, tzinfo=UTC)
HELD = Held(BEGIN, BEGIN + timedelta(minutes=60), (), 60)
MINUTES = st.integers(-30, 90)


@given(st.lists(st.tuples(MINUTES, MINUTES), min_size=1, max_size=4))
def test_of_all_who_were_there_exactly_one_status_is_accepted(pairs: list[tuple[int, int]]) -> None:
    presence: tuple[Interval, ...] = tuple(
        (BEGIN + timedelta(minutes=min(pair)), BEGIN + timedelta(minutes=max(pair)))
        for pair in pairs
    )
    rules = Rules(V, HELD, HELD.start, POLICIES, virtual=False)
    words = ("attended", "late", "left-early", "late-left-early")

    accepted = [w for w in words if not faults([one(w, presence=presence)], MEMBERS, rules)]

    assert accepted == [w for w in words if w == status(presence, HELD, POLICIES)]
