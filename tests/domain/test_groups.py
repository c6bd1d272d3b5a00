"""INV-GR-1 to 7 and LK7: rosters; and $join and $leave, which keep them."""

import asyncio
from datetime import date
from typing import Any

import pytest

from app.config import Settings
from app.domain import chart
from app.domain.admission.rosters import crowd, dated, neutral, overlap, within
from app.domain.chart import Membership
from app.domain.vocabulary import OVERRIDE, parts
from tests.domain import clinic
from tests.domain.accounts import signed_in
from tests.domain.clinic import GROUP, V, reference
from tests.domain.office import Iop, param, ref, rule, said

Body = dict[str, Any]
JOIN, LEAVE = f"/{GROUP}/$join", f"/{GROUP}/$leave"


async def ready(iop: Iop, *patients: str, **group: Any) -> None:
    """Store the program and its roster, and patients whose episode is active."""
    await iop.put(*clinic.program())
    await iop.put(clinic.roster(**group))
    for patient in patients or ("p1",):
        await iop.put(*clinic.admitted(patient))


async def put(iop: Iop, group: Body) -> Any:
    """Return the reply to the update of a roster."""
    return await iop.client.put(f"/Group/{group['id']}", json=group)


def membership(start: str, end: str = "", patient: str = "Patient/p1") -> Membership:
    """Return a membership with these days."""
    last = date.fromisoformat(end) if end else None
    return Membership(patient, date.fromisoformat(start), last, bool(end))


# --- pure --------------------------------------------------------------------------------------


def test_the_crowd_is_the_most_that_are_there_on_one_day_from_a_day_on() -> None:
    members = [
        clinic.member("Patient/p1", "2026-01-05", "2026-03-01"),
        clinic.member("Patient/p2", "2026-02-01"),
        clinic.member("Patient/p3", "2026-03-01"),
        clinic.member("Patient/p4", "2026-03-10", "2026-03-20"),
        clinic.member("Patient/p5", "2026-03-20"),
    ]
    roster = chart.roster(V, {**clinic.roster(), "member": members})

    assert crowd(roster, date(2026, 2, 15)) == 3
    assert crowd(roster, date(2026, 3, 25)) == 3
    assert crowd(roster, date(2026, 1, 10)) == 3


@pytest.mark.parametrize(
    ("one", "other", "inside"),
    [
        (membership("2026-03-02"), membership("2026-03-02"), True),
        (membership("2026-03-02", "2026-03-09"), membership("2026-03-02"), True),
        (membership("2026-03-02"), membership("2026-03-02", "2026-03-09"), False),
        (membership("2026-03-03"), membership("2026-03-02"), False),
        (membership("2026-03-02", patient="Patient/p2"), membership("2026-03-02"), False),
    ],
    ids=["the same", "ended", "taken up again", "another start", "another patient"],
)
def test_a_membership_is_new_unless_it_was_there(
    one: Membership, other: Membership, inside: bool
) -> None:
    assert within(one, other) is inside


@pytest.mark.parametrize(
    ("one", "other", "twice"),
    [
        (membership("2026-03-02"), membership("2026-03-09"), True),
        (membership("2026-03-02", "2026-03-09"), membership("2026-03-09"), False),
        (membership("2026-03-02", "2026-03-10"), membership("2026-03-09"), True),
        (membership("2026-03-02", "2026-03-02"), membership("2026-03-02"), False),
        (membership("2026-03-02"), membership("2026-03-02", patient="Patient/p2"), False),
    ],
    ids=["both open", "one after the other", "a day in both", "an empty one", "two patients"],
)
def test_two_memberships_overlap_on_a_day_of_both(
    one: Membership, other: Membership, twice: bool
) -> None:
    assert overlap(one, other) is twice
    assert overlap(other, one) is twice


def test_a_membership_that_is_inactive_has_an_end_and_every_one_a_start() -> None:
    assert dated(membership("2026-03-02"))
    assert dated(membership("2026-03-02", "2026-03-02"))
    assert not dated(membership("2026-03-02", "2026-03-01"))
    assert not dated(Membership("Patient/p1", date(2026, 3, 2), None, inactive=True))
    assert not dated(Membership("Patient/p1", date.min, None, inactive=False))


@pytest.mark.parametrize(
    ("name", "is_neutral"),
    [
        ("Group 4", True),
        ("Maple", True),
        ("Women's evening group", False),
        ("WOMEN", False),
        ("Veteran circle", False),
        ("LGBTQ+ group", False),
        ("Survivors", False),
        ("Adolescent group", False),
        ("Young Oaks", True),
    ],
)
def test_a_neutral_name_tells_nothing_of_the_members(name: str, is_neutral: bool) -> None:
    """LK7."""
    assert neutral(V, name) is is_neutral


# --- the rules, by plain writes ------------------------------------------------------------------


async def test_a_group_has_no_more_members_than_room(iop: Iop) -> None:
    """INV-GR-1."""
    await ready(iop, "p1", "p2")

    reply = await put(iop, clinic.roster("Patient/p1", "Patient/p2", capacity=1))

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-1")
    assert "Patient/" not in reply.text


async def test_a_program_says_how_many_its_groups_have_room_for(iop: Iop) -> None:
    await ready(iop, "p1", "p2")
    service = clinic.service()
    service["extension"].append(V.complex("iop-policy", ("group-capacity", "valueInteger", 1)))
    group = clinic.roster("Patient/p1", "Patient/p2")
    group["extension"] = group["extension"][:1]

    usual = await put(iop, group)
    await iop.put(clinic.roster("Patient/p1", id="day-b"), service)
    fewer = await put(iop, {**group, "id": "day-c"})

    assert (usual.status_code, fewer.status_code) == (200, 422)
    assert rule(fewer) == "INV-GR-1"


async def test_who_has_left_takes_no_room(iop: Iop) -> None:
    await ready(iop, "p1", "p2")
    left = clinic.member("Patient/p1", until="2026-03-01")

    reply = await put(
        iop,
        {**clinic.roster(capacity=1), "member": [left, clinic.member("Patient/p2", "2026-03-01")]},
    )

    assert reply.status_code == 200


@pytest.mark.parametrize("kept", [{}, {"status": "waitlist"}], ids=["none", "one that waits"])
async def test_a_member_is_in_treatment_in_the_program(iop: Iop, kept: Body) -> None:
    """INV-GR-2."""
    await iop.put(*clinic.program(), *clinic.chart("p1"))
    if kept:
        *before, episode = clinic.admitted("p1")
        await iop.put(*before, {**episode, **kept})

    reply = await put(iop, clinic.roster("Patient/p1"))

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-2")


async def test_a_member_of_another_program_is_none_of_this(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.service("evening", track="evening"))

    reply = await put(iop, clinic.roster("Patient/p1", id="eve", of="HealthcareService/evening"))

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-2")


async def test_nobody_is_a_member_before_the_episode(iop: Iop) -> None:
    await ready(iop)

    reply = await put(iop, clinic.roster("Patient/p1", since="2026-02-22"))

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-2")


def wish(population: str, status: str = "final") -> Body:
    """Return the Observation that p1 says to belong to a population."""
    return {
        "resourceType": "Observation",
        "id": "wish",
        "status": status,
        "code": clinic.coded(clinic.LOINC, "75773-2"),
        "subject": reference("Patient/p1"),
        "valueCodeableConcept": V.concept("iop-group-population", population),
    }


@pytest.mark.parametrize(
    ("known", "status"),
    [
        (wish("women"), 200),
        (wish("veterans"), 422),
        (wish("women", "preliminary"), 422),
        (clinic.patient("p1"), 422),
    ],
    ids=["attested", "of another group", "not final", "inferred from the gender"],
)
async def test_to_a_group_for_some_belongs_who_says_so(iop: Iop, known: Body, status: int) -> None:
    """INV-GR-3."""
    await ready(iop)
    await iop.put(known)

    reply = await put(iop, clinic.roster("Patient/p1", population="women"))

    assert reply.status_code == status
    assert status == 200 or rule(reply) == "INV-GR-3"


@pytest.mark.parametrize(
    ("stage", "status"), [("early", 422), ("middle", 200), ("", 422)], ids=["early", "same", "none"]
)
async def test_a_group_of_a_stage_is_for_that_stage(iop: Iop, stage: str, status: int) -> None:
    """INV-GR-4: an episode that says no stage is at the first one."""
    await ready(iop)
    episode = clinic.episode("p1")
    if stage:
        episode["extension"].append(V.extended("iop-stage", valueCode=stage))
    await iop.put(episode)

    reply = await put(iop, clinic.roster("Patient/p1", stage="middle"))

    assert reply.status_code == status
    assert status == 200 or rule(reply) == "INV-GR-4"


async def test_a_stage_may_be_set_aside_with_a_reason(iop: Iop) -> None:
    await ready(iop)
    group = clinic.roster("Patient/p1", stage="middle")
    reason = V.complex(
        OVERRIDE, ("rule", "valueCode", "INV-GR-4"), ("reason", "valueString", "Friends")
    )
    group["member"][0]["extension"] = [reason]

    reply = await put(iop, group)

    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("enrollment", "since", "status"),
    [("closed", "2026-02-28", 422), ("closed", "2026-02-27", 200), ("open", "2026-02-28", 200)],
)
async def test_nobody_joins_a_closed_group_after_its_second_session(
    iop: Iop, enrollment: str, since: str, status: int
) -> None:
    """INV-GR-5."""
    await ready(iop)
    await iop.put(clinic.session("2026-02-26"), clinic.session("2026-02-27"))

    reply = await put(iop, clinic.roster("Patient/p1", since=since, enrollment=enrollment))

    assert reply.status_code == status
    assert status == 200 or rule(reply) == "INV-GR-5"


MEMBER = clinic.member("Patient/p1")
TAMPERED = {
    "taken off": [],
    "begun another day": [clinic.member("Patient/p1", "2026-02-24")],
    "inactive without an end": [{**MEMBER, "inactive": True}],
    "a member twice": [MEMBER, clinic.member("Patient/p1", "2026-03-01")],
    "without a start": [{"entity": reference("Patient/p1")}],
}


@pytest.mark.parametrize("members", TAMPERED.values(), ids=TAMPERED.keys())
async def test_memberships_are_kept_as_history(iop: Iop, members: list[Body]) -> None:
    """INV-GR-6."""
    await ready(iop)
    await iop.put(clinic.roster("Patient/p1"))
    changed = clinic.roster() | ({"member": members} if members else {})

    reply = await put(iop, changed)

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-6")


async def test_a_roster_with_members_is_not_deleted(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.roster("Patient/p1"))

    reply = await iop.client.delete(f"/{GROUP}")

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-6")


@pytest.mark.parametrize(
    ("born", "status"),
    [("2008-02-23", 200), ("2008-02-24", 422)],
    ids=["18 on the day of joining", "18 a day later"],
)
async def test_adolescents_and_adults_share_no_group(iop: Iop, born: str, status: int) -> None:
    """INV-GR-7."""
    await ready(iop, "p1", "p2")
    await iop.put(clinic.patient("p2", born=born))

    reply = await put(iop, clinic.roster("Patient/p1", "Patient/p2"))

    assert reply.status_code == status
    assert status == 200 or rule(reply) == "INV-GR-7"


async def test_no_adult_joins_a_group_of_adolescents(iop: Iop) -> None:
    await ready(iop)

    reply = await put(iop, clinic.roster("Patient/p1", population="adolescents"))

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-7")


async def test_who_grows_up_in_a_group_may_still_be_ended_in_it(iop: Iop) -> None:
    await ready(iop, "p1", "p2")
    await iop.put(clinic.patient("p1", "2008-02-25"), clinic.patient("p2", "2010-01-01"))
    await iop.put(clinic.roster("Patient/p1", "Patient/p2"))
    members = [clinic.member("Patient/p1"), clinic.member("Patient/p2", until="2026-03-01")]

    reply = await put(iop, {**clinic.roster(), "member": members})

    assert reply.status_code == 200


async def test_a_name_that_tells_whom_the_group_is_for_is_a_warning(iop: Iop) -> None:
    """LK7."""
    await ready(iop)
    answer = {"Prefer": "return=OperationOutcome"}

    reply = await iop.client.put(
        f"/{GROUP}", json={**clinic.roster(), "name": "Veterans"}, headers=answer
    )

    assert reply.status_code == 200
    assert rule(reply) == "LK7"


@pytest.mark.parametrize("name", ["name", "managingEntity", "extension"])
async def test_a_roster_has_what_is_required(iop: Iop, name: str) -> None:
    await ready(iop)
    bare = clinic.roster()
    del bare[name]

    reply = await put(iop, bare)

    assert (reply.status_code, rule(reply)) == (422, "required")


async def test_a_group_of_another_kind_is_under_no_rule(iop: Iop) -> None:
    plain = {"resourceType": "Group", "id": "plain", "type": "person", "actual": True}

    reply = await put(iop, {**plain, "member": [{"entity": reference("Patient/p1")}]})

    assert reply.status_code == 201


# --- $join -------------------------------------------------------------------------------------

P1 = ref("patient", "Patient/p1")


def on(day: str) -> Body:
    """Return the parameter of a day."""
    return param("date", valueDate=day)


async def test_who_joins_is_a_member_from_the_day_on_and_has_its_sessions(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.session("2026-03-03"), clinic.session("2026-03-05"))

    answer = said(await iop.call(JOIN, P1, on("2026-03-05")))

    (member,) = (await iop.read(GROUP))["member"]
    assert member == {"entity": P1["valueReference"], "period": {"start": "2026-03-05"}} | {
        "inactive": False
    }
    booking = await iop.read(answer["appointment"]["reference"])
    assert booking["start"] == "2026-03-05T09:00:00-08:00"
    assert (answer["group"], answer["patient"]) == (reference(GROUP), reference("Patient/p1"))


async def test_who_joins_on_no_day_joins_today_where_the_program_is(iop: Iop) -> None:
    await ready(iop)
    iop.clock.set("2026-03-02T22:00:00-08:00")  # Tuesday in UTC

    answer = said(await iop.call(JOIN, P1))

    assert answer["date"] == "2026-03-02"


async def test_what_is_booked_already_is_not_booked_again(iop: Iop) -> None:
    await ready(iop)
    session = clinic.session("2026-03-05")
    await iop.put(session, clinic.booked(session, "p1"))

    answer = said(await iop.call(JOIN, P1))

    assert "appointment" not in answer


@pytest.mark.parametrize(
    ("group", "code"),
    [({"capacity": 1}, "capacity"), ({"enrollment": "closed"}, "group-closed")],
    ids=["full", "closed"],
)
async def test_nobody_joins_a_group_that_is_full_or_closed(
    iop: Iop, group: Body, code: str
) -> None:
    await ready(iop, "p1", "p2")
    await iop.put(clinic.session("2026-02-26"), clinic.session("2026-02-27"))
    await iop.put(clinic.roster("Patient/p2", **group))

    reply = await iop.call(JOIN, P1)

    assert (reply.status_code, rule(reply)) == (409, code)
    assert "p2" not in reply.text  # LK10


async def test_nobody_joins_twice(iop: Iop) -> None:
    await ready(iop)
    said(await iop.call(JOIN, P1))

    reply = await iop.call(JOIN, P1)

    assert (reply.status_code, rule(reply)) == (409, "already-member")


async def test_of_two_who_join_for_the_last_place_one_does(iop: Iop) -> None:
    await ready(iop, "p1", "p2", capacity=1)

    replies = await asyncio.gather(
        *(iop.call(JOIN, ref("patient", f"Patient/{one}")) for one in ("p1", "p2"))
    )

    assert sorted(reply.status_code for reply in replies) == [200, 409]


async def test_the_rules_of_rosters_hold_for_who_joins(iop: Iop) -> None:
    await ready(iop, stage="advanced")

    reply = await iop.call(JOIN, P1)

    assert (reply.status_code, rule(reply)) == (422, "INV-GR-4")


async def test_a_director_lets_somebody_join_at_another_stage(
    iop: Iop, program_settings: Settings
) -> None:
    await ready(iop, stage="advanced")
    set_aside = param(
        "override",
        part=[param("rule", valueCode="INV-GR-4"), param("reason", valueString="Friends")],
    )
    director = await signed_in(program_settings, "di1")

    refused = await iop.call(JOIN, P1, set_aside)
    said(await iop.call(JOIN, P1, set_aside, **director))

    assert refused.status_code == 403
    (member,) = (await iop.read(GROUP))["member"]
    assert parts(member["extension"][0])["reason"] == "Friends"


async def test_a_stale_if_match_is_refused(iop: Iop) -> None:
    await ready(iop, capacity=5)  # its second version

    reply = await iop.call(JOIN, P1, If_Match='W/"1"')

    assert reply.status_code == 412


async def test_a_group_that_is_no_roster_cannot_be_joined(iop: Iop) -> None:
    await ready(iop)
    plain = {"resourceType": "Group", "id": "plain", "type": "person", "actual": True}
    await iop.put(plain)

    reply = await iop.call("/Group/plain/$join", P1)

    assert reply.status_code == 422


async def test_the_group_and_the_patient_have_a_provenance_each(iop: Iop) -> None:
    """LK8."""
    await ready(iop)
    await iop.put(clinic.session("2026-03-05"))

    said(await iop.call(JOIN, P1))

    found = await iop.search("Provenance?agent-type=author")
    targets = [[t["reference"].partition("/")[0] for t in one["target"]] for one in found]
    assert sorted(targets) == [["Appointment"], ["Group"]]


# --- $leave ------------------------------------------------------------------------------------


async def test_who_leaves_has_no_session_of_the_group_from_that_day_on(iop: Iop) -> None:
    await ready(iop)
    sessions = clinic.session("2026-03-03"), clinic.session("2026-03-05")
    await iop.put(clinic.roster("Patient/p1"), *sessions)
    await iop.put(*(clinic.booked(one, "p1") for one in sessions))

    answer = said(await iop.call(LEAVE, P1, on("2026-03-05")))

    gone = await iop.read("Appointment/b-s-2026-03-05-p1")
    assert answer["appointment"] == reference("Appointment/b-s-2026-03-05-p1")
    assert gone["status"] == "cancelled"
    assert gone["cancelationReason"]["coding"][0]["code"] == "oth"
    assert (await iop.read("Appointment/b-s-2026-03-03-p1"))["status"] == "booked"


async def test_a_membership_ends_on_the_day_that_is_no_more_one_of_it(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.roster("Patient/p1"))

    said(await iop.call(LEAVE, P1, on("2026-03-05")))

    (member,) = (await iop.read(GROUP))["member"]
    assert member["period"] == {"start": clinic.START, "end": "2026-03-05"}
    assert member["inactive"] is False  # it is still to come


async def test_a_membership_that_is_over_is_inactive(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.roster("Patient/p1"))

    said(await iop.call(LEAVE, P1))

    (member,) = (await iop.read(GROUP))["member"]
    assert (member["period"]["end"], member["inactive"]) == ("2026-03-02", True)


async def test_a_session_of_another_group_stays_booked(iop: Iop) -> None:
    await ready(iop)
    other = clinic.session("2026-03-05", group="Group/day-b")
    await iop.put(clinic.roster("Patient/p1"), clinic.roster("Patient/p1", id="day-b"), other)
    await iop.put(clinic.booked(other, "p1"))

    said(await iop.call(LEAVE, P1))

    assert (await iop.read("Appointment/b-s-2026-03-05-p1"))["status"] == "booked"


async def test_who_is_no_member_cannot_leave(iop: Iop) -> None:
    await ready(iop)

    reply = await iop.call(LEAVE, P1)

    assert (reply.status_code, rule(reply)) == (409, "not-a-member")


async def test_who_has_left_may_join_again_and_is_booked_anew(iop: Iop) -> None:
    await ready(iop)
    session = clinic.session("2026-03-05")
    await iop.put(clinic.roster("Patient/p1"), session)
    await iop.put(clinic.booked(session, "p1"))
    said(await iop.call(LEAVE, P1))

    answer = said(await iop.call(JOIN, P1))

    assert (await iop.read(answer["appointment"]["reference"]))["status"] == "booked"
    assert len((await iop.read(GROUP))["member"]) == 2


async def test_a_dry_run_of_leaving_leaves_all_as_it_is(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.roster("Patient/p1"))

    said(await iop.call(LEAVE, P1, param("dry-run", valueBoolean=True)))

    (member,) = (await iop.read(GROUP))["member"]
    assert "end" not in member["period"]
