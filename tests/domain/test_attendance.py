"""$attendance of a group session, by its rules A1 to A12 [domain.md 3.5], through HTTP."""

import asyncio
from typing import Any

import pytest

from app.config import Settings
from tests.domain import clinic
from tests.domain.accounts import signed_in
from tests.domain.office import Iop, param, ref, rule, said

SESSION = "/Appointment/s-2026-03-03/$attendance"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
PATIENT = {
    "coding": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason",
            "code": "pat",
        }
    ]
}
Row = dict[str, Any]


def one(patient: str, status: str = "attended", *parts: Row) -> Row:
    """Return a participant of a call."""
    rows = [ref("patient", f"Patient/{patient}"), param("status", valueCode=status), *parts]
    return param("participant", part=rows)


def presence(start: str, end: str, day: str = "2026-03-03") -> Row:
    """Return a part: when a participant was there."""
    times = (f"{day}T{start}:00-08:00", f"{day}T{end}:00-08:00")
    return param("presence", valuePeriod=dict(zip(("start", "end"), times, strict=True)))


def minutes(number: int) -> Row:
    """Return a part: minutes to be credited."""
    return param("minutes", valueUnsignedInt=number)


AMEND = (param("amend", valueBoolean=True), param("amend-reason", valueString="A mistake"))


async def prepared(iop: Iop, *patients: str, day: str = "2026-03-03") -> None:
    """Store the program, a group of these patients, and its session, whose end has come."""
    charts = [one for patient in patients for one in clinic.admitted(patient)]
    roster = clinic.roster(*(f"Patient/{patient}" for patient in patients))
    await iop.put(*clinic.program()[:-1], *charts, roster)
    await iop.put(*booked(day, *patients))
    iop.clock.set(f"{day}T13:00:00-08:00")


def booked(day: str, *patients: str) -> list[Row]:
    """Return a session and a booking of it for each patient."""
    session = clinic.session(day)
    return [session, *(clinic.booked(session, patient) for patient in patients)]


async def counted(iop: Iop, *types: str) -> dict[str, int]:
    """Return how many resources there are of some types."""
    found = {}
    for type in types:
        reply = await iop.client.get(f"/{type}?_summary=count")
        found[type] = reply.json()["total"]
    return found


async def attendance_of(iop: Iop, reference: str) -> Row:
    """Return the parts of iop-attendance of a resource, by name."""
    resource = await iop.read(reference)
    (held,) = iop.vocabulary.all(resource, "iop-attendance")
    return {part["url"]: part[next(k for k in part if k != "url")] for part in held["extension"]}


# --- what is made ------------------------------------------------------------------------------


async def test_a_session_gets_an_encounter_and_each_who_was_there_one_of_his_own(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")

    answer = said(await iop.call(SESSION, one("p1"), one("p2", "late", presence("09:25", "12:15"))))

    shared = await iop.read(answer["session"]["reference"])
    assert shared["subject"] == {"reference": "Group/day-a"}
    assert shared["status"] == "finished"
    assert "diagnosis" not in shared
    own = await iop.read(answer["participant"][1]["encounter"]["reference"])
    assert own["partOf"] == answer["session"]
    assert own["subject"] == {"reference": "Patient/p2"}
    assert own["episodeOfCare"] == [{"reference": "EpisodeOfCare/ep-p2"}]
    assert own["appointment"] == [{"reference": "Appointment/b-s-2026-03-03-p2"}]
    assert own["period"]["start"] == "2026-03-03T09:25:00-08:00"
    assert own["length"]["value"] == 155


async def test_the_answer_says_what_became_of_each_and_the_sum(iop: Iop) -> None:
    await prepared(iop, "p1", "p2", "p3", "p4")

    answer = said(
        await iop.call(
            SESSION,
            one("p1"),
            one("p2", "late", presence("09:25", "12:15")),
            one("p3", "no-show"),
            one("p4", "excused", param("reason", valueCodeableConcept=reason("medical"))),
        )
    )

    rows = [
        (r["status"], r["credited-minutes"], r["counts-as-session"]) for r in answer["participant"]
    ]
    assert rows == [
        ("attended", 180, True),
        ("late", 155, True),
        ("no-show", 0, False),
        ("excused", 0, False),
    ]
    assert answer["summary"] == {
        "expected": 4,
        "present": 2,
        "no-show": 1,
        "excused": 1,
        "credited-total": 335,
    }


def reason(code: str) -> Row:
    """Return a reason for an absence."""
    return clinic.V.concept("iop-attendance", code)


async def test_the_session_is_fulfilled_and_so_is_the_booking_of_who_was_there(iop: Iop) -> None:
    await prepared(iop, "p1")

    said(await iop.call(SESSION, one("p1")))

    assert (await iop.read("Appointment/s-2026-03-03"))["status"] == "fulfilled"
    assert (await iop.read("Appointment/b-s-2026-03-03-p1"))["status"] == "fulfilled"
    assert await attendance_of(iop, "Appointment/b-s-2026-03-03-p1") == {"status": "attended"}


async def test_the_encounter_says_minutes_presence_and_that_they_count(iop: Iop) -> None:
    await prepared(iop, "p1")

    answer = said(
        await iop.call(
            SESSION, one("p1", "attended", presence("09:00", "09:30"), presence("10:20", "12:15"))
        )
    )

    place = answer["participant"]["encounter"]["reference"]
    assert (await attendance_of(iop, place))["credited"] == 130
    assert (await attendance_of(iop, place))["countsTowardHours"] is True
    found = await iop.search("Encounter?iop-attendance=attended&iop-credited-minutes=130")
    assert [f"Encounter/{e['id']}" for e in found] == [place]


# --- A1: everybody, once -----------------------------------------------------------------------


async def test_a1_who_is_missing_makes_the_roster_incomplete(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")

    reply = await iop.call(SESSION, one("p1"))

    assert (reply.status_code, rule(reply)) == (422, "roster-incomplete")
    assert "1 are missing" in reply.text
    assert await counted(iop, "Encounter") == {"Encounter": 0}


async def test_a1_nobody_is_named_twice(iop: Iop) -> None:
    await prepared(iop, "p1")

    reply = await iop.call(SESSION, one("p1"), one("p1", "no-show"))

    assert (reply.status_code, rule(reply)) == (422, "roster-incomplete")


async def test_a1_a_member_whose_booking_was_forgotten_is_expected_and_gets_one(iop: Iop) -> None:
    await prepared(iop, "p1")
    await iop.put(*clinic.admitted("p2"), clinic.roster("Patient/p1", "Patient/p2"))

    refused = await iop.call(SESSION, one("p1"))
    answer = said(await iop.call(SESSION, one("p1"), one("p2")))

    assert rule(refused) == "roster-incomplete"
    booking = await iop.read(answer["participant"][1]["appointment"]["reference"])
    assert booking["status"] == "fulfilled"


async def test_a1_a_guest_needs_walk_in(iop: Iop) -> None:
    await prepared(iop, "p1")
    await iop.put(*clinic.admitted("guest"))

    reply = await iop.call(SESSION, one("p1"), one("guest"))

    assert (reply.status_code, rule(reply)) == (422, "not-on-roster")


async def test_a1_a_guest_with_an_episode_is_present_and_nobody_expected_him(iop: Iop) -> None:
    await prepared(iop, "p1")
    await iop.put(*clinic.admitted("guest"))

    answer = said(await iop.call(SESSION, one("p1"), guest("guest")))

    assert answer["summary"]["expected"] == 1
    assert answer["summary"]["present"] == 2
    assert answer["summary"]["credited-total"] == 360
    assert "appointment" not in answer["participant"][1]


def guest(patient: str) -> Row:
    """Return a participant who walks in."""
    return one(patient, "attended", param("walk-in", valueBoolean=True))


async def test_a1_a_guest_without_an_episode_is_refused(iop: Iop) -> None:
    await prepared(iop, "p1")
    await iop.put(clinic.patient("guest"))

    reply = await iop.call(SESSION, one("p1"), guest("guest"))

    assert (reply.status_code, rule(reply)) == (422, "not-on-roster")


async def test_a1_who_is_not_expected_is_no_part_of_the_figures(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")

    answer = said(await iop.call(SESSION, one("p1"), one("p2", "not-expected")))

    assert answer["summary"]["expected"] == 1
    assert (await iop.read("Appointment/b-s-2026-03-03-p2"))["status"] == "cancelled"


# --- A2 to A5: status, presence, minutes --------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "parts", "code"),
    [
        ("late", [presence("09:25", "12:00")], "status-mismatch"),
        ("late", [], "presence-required"),
        ("attended", [minutes(181)], "minutes"),
    ],
)
async def test_a2_a4_a5_what_contradicts_itself_is_refused(
    iop: Iop, status: str, parts: list[Row], code: str
) -> None:
    await prepared(iop, "p1")

    reply = await iop.call(SESSION, one("p1", status, *parts))

    assert (reply.status_code, rule(reply)) == (422, code)


async def test_a3_a5_minutes_are_those_of_presence_or_as_given_or_all(iop: Iop) -> None:
    await prepared(iop, "p1", "p2", "p3")

    answer = said(
        await iop.call(
            SESSION,
            one("p1"),
            one("p2", "attended", minutes(100)),
            one("p3", "late-left-early", presence("09:25", "11:40")),
        )
    )

    assert [row["credited-minutes"] for row in answer["participant"]] == [180, 100, 120]


async def test_a5_a_break_of_the_call_lowers_the_clinical_minutes(iop: Iop) -> None:
    await prepared(iop, "p1")
    pause = {"start": "2026-03-03T11:00:00-08:00", "end": "2026-03-03T11:20:00-08:00"}

    answer = said(await iop.call(SESSION, one("p1"), param("break", valuePeriod=pause)))

    assert answer["participant"]["credited-minutes"] == 160
    shared = await iop.read(answer["session"]["reference"])
    assert iop.vocabulary.value(shared, "iop-clinical-minutes") == 160
    assert len(iop.vocabulary.values(shared, "iop-break")) == 2


async def test_a5_a_session_that_ended_early_has_fewer_clinical_minutes(iop: Iop) -> None:
    await prepared(iop, "p1")
    end = param("actual-end", valueInstant="2026-03-03T11:15:00-08:00")

    answer = said(await iop.call(SESSION, end, one("p1", "attended", presence("09:00", "11:15"))))

    assert answer["participant"]["credited-minutes"] == 120


# --- A7: who was not there ----------------------------------------------------------------------


async def test_a7_a_no_show_has_no_encounter_and_somebody_calls_on_the_next_business_day(
    iop: Iop,
) -> None:
    await prepared(iop, "p1", day="2026-03-06")

    said(await iop.call("/Appointment/s-2026-03-06/$attendance", one("p1", "no-show")))

    assert (await iop.read("Appointment/b-s-2026-03-06-p1"))["status"] == "noshow"
    assert await iop.search("Encounter?patient=Patient/p1") == []
    (task,) = await iop.search("Task?code=outreach-no-show")
    assert task["for"] == {"reference": "Patient/p1"}
    assert task["focus"] == {"reference": "Appointment/b-s-2026-03-06-p1"}
    assert task["restriction"]["period"]["end"] == "2026-03-09"


async def test_a7_an_excuse_needs_notice_or_a_reason_else_it_is_a_no_show(iop: Iop) -> None:
    await prepared(iop, "p1", "p2", "p3")
    notice = param("notice", valueInstant="2026-03-02T09:00:00-08:00")
    court = param("reason", valueCodeableConcept=reason("court"))

    answer = said(
        await iop.call(
            SESSION, one("p1", "excused", notice), one("p2", "excused", court), one("p3", "excused")
        )
    )

    assert [row["status"] for row in answer["participant"]] == ["excused", "excused", "no-show"]
    places = [row["appointment"]["reference"] for row in answer["participant"]]
    statuses = [(await iop.read(place))["status"] for place in places]
    assert statuses == ["cancelled", "cancelled", "noshow"]


async def test_a7_an_excuse_that_is_none_comes_with_a_warning(iop: Iop) -> None:
    await prepared(iop, "p1")

    answer = said(await iop.call(SESSION, one("p1", "excused")))

    (issue,) = answer["outcome"]["issue"]
    assert issue["severity"] == "warning"
    assert issue["details"]["coding"][0]["code"] == "excuse-not-accepted"


# --- A8, A9: encounters -------------------------------------------------------------------------


async def test_a9_who_was_elsewhere_has_a_virtual_encounter_in_a_virtual_room(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")
    hybrid = clinic.session()
    hybrid["participant"].append(
        {"actor": {"reference": "Location/video"}, "required": "required", "status": "accepted"}
    )
    await iop.put(hybrid)
    away = (param("mode", valueCode="telehealth"), param("location-state", valueCode="CA"))

    answer = said(await iop.call(SESSION, one("p1"), one("p2", "attended", *away)))

    here, there = [await iop.read(row["encounter"]["reference"]) for row in answer["participant"]]
    assert (here["class"]["code"], there["class"]["code"]) == ("AMB", "VR")
    assert here["location"] == [{"location": {"reference": "Location/room1"}}]
    assert there["location"] == [{"location": {"reference": "Location/video"}}]
    assert (await iop.read(answer["session"]["reference"]))["class"]["code"] == "AMB"
    assert iop.vocabulary.value(there, "iop-location-state") == "CA"


async def test_a9_telehealth_without_a_state_is_worth_a_warning(iop: Iop) -> None:
    await prepared(iop, "p1")

    answer = said(
        await iop.call(SESSION, one("p1", "attended", param("mode", valueCode="telehealth")))
    )

    codes = {i["details"]["coding"][0]["code"] for i in answer["outcome"]["issue"]}
    assert codes == {"INV-EN-6"}


async def test_topic_modality_and_facilitators_are_on_the_session_encounter(iop: Iop) -> None:
    await prepared(iop, "p1")
    modality = {"system": clinic.V.system("iop-modality"), "code": "cbt"}

    answer = said(
        await iop.call(
            SESSION,
            param("topic", valueString="Triggers"),
            param("modality", valueCoding=modality),
            ref("facilitator", "PractitionerRole/th2"),
            ref("facilitator", "PractitionerRole/th1"),
            one("p1"),
        )
    )

    shared = await iop.read(answer["session"]["reference"])
    assert iop.vocabulary.value(shared, "iop-topic") == "Triggers"
    assert shared["type"][1]["coding"] == [modality]
    roles = [
        (p["individual"]["reference"], p["type"][0]["coding"][0]["code"])
        for p in shared["participant"]
    ]
    assert roles == [("PractitionerRole/th2", "PPRF"), ("PractitionerRole/th1", "SPRF")]


async def test_a_note_is_the_draft_of_a_progress_note_of_that_patient(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")

    answer = said(
        await iop.call(SESSION, one("p1", "attended", param("note", valueString="Calm")), one("p2"))
    )

    (note,) = await iop.search("DocumentReference?type=http://loinc.org|11506-3")
    assert note["docStatus"] == "preliminary"
    assert note["subject"] == {"reference": "Patient/p1"}
    assert note["context"]["encounter"] == [answer["participant"][0]["encounter"]]


async def test_notes_are_to_be_signed_within_three_days(iop: Iop) -> None:
    await prepared(iop, "p1")

    answer = said(await iop.call(SESSION, one("p1")))

    (task,) = await iop.search("Task?code=sign-note")
    assert task["focus"] == answer["session"]
    assert task["owner"] == {"reference": "PractitionerRole/th1"}
    assert task["restriction"]["period"]["end"] == "2026-03-06T12:15:00-08:00"


# --- A10: the same again, and amendments --------------------------------------------------------


async def test_a10_the_same_call_again_changes_nothing(iop: Iop) -> None:
    await prepared(iop, "p1", "p2", "p3")
    note = param("note", valueString="Calm")
    call = (
        one("p1", "attended", note),
        one("p2", "late", presence("09:25", "12:15")),
        one("p3", "no-show"),
    )
    types = ("Encounter", "Provenance", "Task", "DocumentReference", "Flag")

    first = await iop.call(SESSION, *call)
    before = await counted(iop, *types)
    again = await iop.call(SESSION, *call)

    assert said(again) == said(first)
    assert await counted(iop, *types) == before
    assert (await iop.read("Appointment/s-2026-03-03"))["meta"]["versionId"] == "2"


async def test_a10_another_call_is_a_conflict_unless_it_amends(iop: Iop) -> None:
    await prepared(iop, "p1")
    said(await iop.call(SESSION, one("p1")))

    reply = await iop.call(SESSION, one("p1", "late", presence("09:25", "12:15")))

    assert (reply.status_code, rule(reply)) == (409, "already-recorded")


async def test_a10_an_amendment_needs_a_reason(iop: Iop) -> None:
    await prepared(iop, "p1")
    said(await iop.call(SESSION, one("p1")))

    reply = await iop.call(SESSION, AMEND[0], one("p1", "late", presence("09:25", "12:15")))

    assert (reply.status_code, rule(reply)) == (422, "amend-reason")


async def test_a10_an_amendment_makes_new_versions_and_says_why(iop: Iop) -> None:
    await prepared(iop, "p1")
    first = said(await iop.call(SESSION, one("p1")))

    again = said(await iop.call(SESSION, *AMEND, one("p1", "late", presence("09:25", "12:15"))))

    place = first["participant"]["encounter"]["reference"]
    assert again["participant"]["encounter"]["reference"] == place
    assert again["participant"]["credited-minutes"] == 155
    own = await iop.read(place)
    assert own["meta"]["versionId"] == "2"
    found = await iop.search(f"Provenance?target={place}&_sort=-recorded")
    assert {"reference": f"{place}/_history/2"} in found[0]["target"]
    assert found[0]["reason"] == [{"text": "A mistake"}]
    assert found[0]["activity"]["coding"][0]["code"] == "amend"


async def test_a10_who_was_not_there_after_all_has_an_encounter_in_error(iop: Iop) -> None:
    await prepared(iop, "p1")
    first = said(await iop.call(SESSION, one("p1")))

    again = said(await iop.call(SESSION, *AMEND, one("p1", "no-show")))

    place = first["participant"]["encounter"]["reference"]
    assert (await iop.read(place))["status"] == "entered-in-error"
    assert "encounter" not in again["participant"]
    assert (await iop.read("Appointment/b-s-2026-03-03-p1"))["status"] == "noshow"


async def test_a10_who_was_there_after_all_needs_no_call(iop: Iop) -> None:
    await prepared(iop, "p1")
    said(await iop.call(SESSION, one("p1", "no-show")))

    again = said(await iop.call(SESSION, *AMEND, one("p1")))

    assert again["participant"]["credited-minutes"] == 180
    (task,) = await iop.search("Task?code=outreach-no-show")
    assert task["status"] == "cancelled"


async def test_a10_what_others_wrote_on_the_encounter_stays(iop: Iop) -> None:
    await prepared(iop, "p1")
    first = said(await iop.call(SESSION, one("p1")))
    own = await iop.read(first["participant"]["encounter"]["reference"])
    billing = {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": "90853"}]}
    reasons = [{"reference": "Condition/oud-p1"}]
    await iop.put({**own, "type": [*own["type"], billing], "reasonReference": reasons})

    said(await iop.call(SESSION, *AMEND, one("p1", "late", presence("09:25", "12:15"))))

    now = await iop.read(f"Encounter/{own['id']}")
    assert billing in now["type"]
    assert now["reasonReference"] == reasons


async def signed(iop: Iop) -> None:
    """Record a session with a note, and sign that."""
    await prepared(iop, "p1")
    said(await iop.call(SESSION, one("p1", "attended", param("note", valueString="Calm"))))
    (note,) = await iop.search("DocumentReference?type=http://loinc.org|11506-3")
    await iop.put({**note, "docStatus": "final"})


async def test_a10_once_a_note_is_signed_a_therapist_does_not_amend(
    iop: Iop, program_settings: Settings
) -> None:
    await signed(iop)
    therapist = await signed_in(program_settings, "th1")

    reply = await iop.call(
        SESSION, *AMEND, one("p1", "late", presence("09:25", "12:15")), **therapist
    )

    assert (reply.status_code, rule(reply)) == (403, "signed")


async def test_a10_once_a_note_is_signed_a_director_amends(
    iop: Iop, program_settings: Settings
) -> None:
    await signed(iop)
    director = await signed_in(program_settings, "di1")
    remark = param("note", valueString="Came late")
    late = one("p1", "late", presence("09:25", "12:15"), remark)

    answer = said(await iop.call(SESSION, *AMEND, late, **director))

    assert answer["participant"]["credited-minutes"] == 155
    notes = await iop.search("DocumentReference?type=http://loinc.org|11506-3")
    statuses = [note["docStatus"] for note in notes]
    assert sorted(statuses) == ["final", "preliminary"]
    (addendum,) = [note for note in notes if "relatesTo" in note]
    assert addendum["relatesTo"][0]["code"] == "appends"


async def test_more_than_a_week_later_a_reason_is_needed(iop: Iop) -> None:
    await prepared(iop, "p1")
    iop.clock.set("2026-03-11T09:00:00-07:00")

    refused = await iop.call(SESSION, one("p1"))
    taken = await iop.call(SESSION, AMEND[1], one("p1"))

    assert (refused.status_code, rule(refused)) == (422, "amend-reason")
    assert taken.status_code == 200


# --- A11, A12 -----------------------------------------------------------------------------------


async def test_a11_a_session_that_has_not_begun_is_refused(iop: Iop) -> None:
    await prepared(iop, "p1")
    iop.clock.set("2026-03-03T08:59:00-08:00")

    reply = await iop.call(SESSION, one("p1"))

    assert (reply.status_code, rule(reply)) == (422, "not-started")


async def test_a12_the_third_no_show_in_a_row_is_flagged_and_reviewed_once(iop: Iop) -> None:
    await prepared(iop, "p1", day="2026-02-23")
    days = ("2026-02-23", "2026-02-24", "2026-02-26", "2026-02-27")
    for day in days[1:]:
        await iop.put(*booked(day, "p1"))

    flags = []
    for day in days:
        iop.clock.set(f"{day}T13:00:00-08:00")
        said(await iop.call(f"/Appointment/s-{day}/$attendance", one("p1", "no-show")))
        flags.append(len(await iop.search("Flag?patient=Patient/p1")))

    assert flags == [0, 0, 1, 1]
    (task,) = await iop.search("Task?code=step-review")
    assert task["focus"] == {"reference": "EpisodeOfCare/ep-p1"}
    assert (await iop.read("EpisodeOfCare/ep-p1"))["status"] == "active"


# --- the contract -------------------------------------------------------------------------------


async def test_each_patient_has_a_provenance_of_his_own_and_what_is_shared_has_one(
    iop: Iop,
) -> None:
    await prepared(iop, "p1", "p2")

    said(await iop.call(SESSION, one("p1"), one("p2")))

    found = await iop.search("Provenance")
    assert len(found) == 3
    own = {"p1", "p2"}
    for provenance in found:
        text = str(provenance["target"])
        assert sum(f"-{patient}/" in text for patient in own) <= 1


async def test_no_resource_of_one_patient_names_another(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")

    said(await iop.call(SESSION, one("p1"), one("p2", "no-show")))

    for type in ("Encounter", "Appointment", "Task", "Provenance"):
        for resource in await iop.search(f"{type}?_count=100"):
            assert not ("Patient/p1" in str(resource) and "Patient/p2" in str(resource))


async def test_of_two_facilitators_who_send_at_once_one_records(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")

    replies = await asyncio.gather(
        iop.call(SESSION, one("p1"), one("p2")),
        iop.call(SESSION, one("p1"), one("p2", "no-show")),
    )

    assert sorted(reply.status_code for reply in replies) == [200, 409]
    assert rule(next(reply for reply in replies if reply.status_code == 409)) == "already-recorded"
    assert len(await iop.search("Encounter?appointment=Appointment/s-2026-03-03")) == 1


async def test_two_who_send_the_same_at_once_get_the_same_answer(iop: Iop) -> None:
    await prepared(iop, "p1", "p2")

    first, second = await asyncio.gather(*(iop.call(SESSION, one("p1"), one("p2")) for _ in "ab"))

    assert said(first) == said(second)
    assert (await iop.read("Appointment/s-2026-03-03"))["meta"]["versionId"] == "2"


async def test_the_same_key_again_is_answered_from_the_record(iop: Iop) -> None:
    await prepared(iop, "p1")

    first = await iop.call(SESSION, one("p1"), Idempotency_Key="k1")
    again = await iop.call(SESSION, one("p1"), Idempotency_Key="k1")
    other = await iop.call(SESSION, one("p1", "no-show"), Idempotency_Key="k1")

    assert said(again) == said(first)
    assert (other.status_code, rule(other)) == (422, "idempotency-mismatch")


async def test_an_encounter_that_an_ehr_began_is_finished(iop: Iop) -> None:
    """Who checks in may have an Encounter in progress; it becomes that of the session."""
    await prepared(iop, "p1")
    begun = {
        "resourceType": "Encounter",
        "id": "begun",
        "status": "in-progress",
        "class": {"system": ACT, "code": "AMB"},
        "subject": {"reference": "Patient/p1"},
        "appointment": [{"reference": "Appointment/b-s-2026-03-03-p1"}],
    }
    await iop.put(begun)

    answer = said(await iop.call(SESSION, one("p1")))

    assert answer["participant"]["encounter"] == {"reference": "Encounter/begun"}
    assert (await iop.read("Encounter/begun"))["status"] == "finished"


async def test_who_left_the_group_and_came_back_is_marked_on_the_new_booking(iop: Iop) -> None:
    await prepared(iop, "p1")
    old = await iop.read("Appointment/b-s-2026-03-03-p1")
    await iop.put({**old, "status": "cancelled", "cancelationReason": PATIENT})
    again = {name: held for name, held in old.items() if name != "meta"}
    await iop.put({**again, "id": "again"})

    answer = said(await iop.call(SESSION, one("p1")))

    assert answer["participant"]["appointment"] == {"reference": "Appointment/again"}


async def test_a_mode_that_does_not_exist_is_refused(iop: Iop) -> None:
    await prepared(iop, "p1")

    reply = await iop.call(SESSION, param("mode", valueCode="phone"), one("p1"))

    assert reply.status_code == 422


async def test_a_dry_run_answers_and_leaves_nothing(iop: Iop) -> None:
    await prepared(iop, "p1")

    answer = said(await iop.call(SESSION, param("dry-run", valueBoolean=True), one("p1")))

    assert answer["participant"]["credited-minutes"] == 180
    assert await counted(iop, "Encounter", "Provenance") == {"Encounter": 0, "Provenance": 0}
    assert (await iop.read("Appointment/s-2026-03-03"))["status"] == "booked"


async def test_the_booking_of_one_patient_in_a_group_session_is_no_session(iop: Iop) -> None:
    await prepared(iop, "p1")

    reply = await iop.call("/Appointment/b-s-2026-03-03-p1/$attendance", one("p1"))

    assert (reply.status_code, rule(reply)) == (422, "not-a-session")


async def test_a_cancelled_session_takes_no_attendance(iop: Iop) -> None:
    await prepared(iop, "p1")
    by = clinic.coded(
        "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason", "prov"
    )
    await iop.put(clinic.session(status="cancelled", cancelationReason=by))

    reply = await iop.call(SESSION, one("p1"))

    assert (reply.status_code, rule(reply)) == (409, "session-cancelled")


async def test_a_session_that_does_not_exist_is_not_found(iop: Iop) -> None:
    reply = await iop.call("/Appointment/none/$attendance", one("p1"))

    assert reply.status_code == 404
