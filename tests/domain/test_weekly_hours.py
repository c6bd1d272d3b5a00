"""$weekly-hours over HTTP: example W2 as it is to be answered, programs, reports, refusals."""

from typing import Any
from urllib.parse import quote

import pytest

from app.config import Settings
from app.domain.vocabulary import CANCELATION
from tests.access.tokens import authorized
from tests.domain import clinic
from tests.domain.clinic import V
from tests.domain.office import Iop, param, said

Resource = dict[str, Any]
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
VIRTUAL = {
    "class": {"system": ACT, "code": "VR"},
    "location": [{"location": {"reference": "Location/video"}}],
}
WEEK = ("2026-03-02", "2026-03-03", "2026-03-05", "2026-03-06")


def at(day: str, clock: str) -> str:
    return f"{day}T{clock}:00{'-08:00' if day < '2026-03-08' else '-07:00'}"


def encounter(
    id: str,
    patient: str,
    day: str,
    *times: str,
    kind: str = "group",
    session: bool = True,
    **fields: Any,
) -> Resource:
    """Return the finished Encounter of a patient who was there at these times of a day."""
    spans = [{"start": at(day, a), "end": at(day, b)} for a, b in (one.split("-") for one in times)]
    presence = [{"url": "presence", "valuePeriod": one} for one in spans]
    status = {"url": "status", "valueCode": "attended"}
    extension = [{"url": V.extension("iop-attendance"), "extension": [status, *presence]}]
    if session:
        held = clinic.session(day)
        link = {"valueReference": {"reference": f"Appointment/{held['id']}"}}
        extension += [V.extended("iop-session", **link)]
        extension += [one for one in held["extension"] if one["url"] == V.extension("iop-break")]
    return {
        "resourceType": "Encounter",
        "id": id,
        "status": "finished",
        "class": {"system": ACT, "code": "AMB"},
        "type": [V.concept("iop-service-kind", kind)],
        "subject": {"reference": f"Patient/{patient}"},
        "episodeOfCare": [{"reference": f"EpisodeOfCare/ep-{patient}"}],
        "participant": [{"individual": {"reference": clinic.THERAPIST}}],
        "period": {"start": spans[0]["start"], "end": spans[-1]["end"]},
        "extension": extension,
        **fields,
    }


def alone(id: str, kind: str, day: str, *times: str, **fields: Any) -> Resource:
    """Return the Encounter of p1 outside of the group; family therapy is with the sister."""
    if kind.startswith("family"):
        fields["participant"] = [
            {"individual": {"reference": one}} for one in (clinic.THERAPIST, "RelatedPerson/sister")
        ]
    return encounter(id, "p1", day, *times, kind=kind, session=False, **fields)


def missed(day: str, patient: str, status: str) -> Resource:
    """Return the booking of a session that was missed."""
    outcome = V.complex("iop-attendance", ("status", "valueCode", status))
    held = clinic.booked(clinic.session(day), patient)
    held["extension"].append(outcome)
    if status == "excused":
        reason = clinic.coded(CANCELATION, "pat")
        return {**held, "status": "cancelled", "cancelationReason": reason}
    return {**held, "status": "noshow"}


def meetings(patient: str, day: str, count: int) -> Resource:
    """Return what a patient reports of mutual-support meetings."""
    return {
        "resourceType": "Observation",
        "id": f"meetings-{patient}",
        "status": "final",
        "code": V.concept("iop-measure", "mutual-support-meetings"),
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": day,
        "valueInteger": count,
    }


async def admitted(iop: Iop, *patients: str) -> None:
    """Store a program with these patients in its group, and the sessions of a week."""
    iop.clock.set("2026-03-16T08:00:00-07:00")
    people = [one for patient in patients for one in clinic.admitted(patient)]
    members = clinic.roster(*(f"Patient/{one}" for one in patients))
    await iop.put(*clinic.program(), *people)
    await iop.put(members)
    sister = {"resourceType": "RelatedPerson", "id": "sister", "active": True}
    await iop.put({**sister, "patient": {"reference": "Patient/p1"}})
    await iop.put(*(clinic.session(day) for day in WEEK))


W2 = [
    encounter("e1", "p1", "2026-03-02", "09:00-12:15"),
    encounter("e2", "p1", "2026-03-03", "09:25-12:15"),
    encounter("e3", "p1", "2026-03-05", "09:00-09:30", "10:20-12:15"),
    alone("e4", "individual", "2026-03-05", "09:30-10:20"),
    alone("e5", "family", "2026-03-07", "10:00-11:00", **VIRTUAL),
    alone("e6", "family-collateral", "2026-03-04", "13:00-13:50"),
    alone("e7", "med-management", "2026-03-04", "14:00-14:20"),
]


async def weekly_hours(iop: Iop, place: str, query: str = "from=2026-03-02&to=2026-03-08") -> Any:
    return said(await iop.client.get(f"/{place}/$weekly-hours?{query}"))


async def test_the_answer_is_that_of_the_specification(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put(*W2, missed("2026-03-06", "p1", "no-show"), meetings("p1", "2026-03-04", 2))

    found = await weekly_hours(iop, "EpisodeOfCare/ep-p1")

    assert found["episode"] == {"reference": "EpisodeOfCare/ep-p1"}
    assert found["time-zone"] == "America/Los_Angeles"
    assert found["week"] == {
        "period": {"start": "2026-03-02T00:00:00-08:00", "end": "2026-03-09T00:00:00-07:00"},
        "week-start": "2026-03-02",
        "level": {"system": V.system("iop-level-of-care"), "code": "2.1"},
        "delivered-minutes": 575,
        "delivered-hours": 9.58,
        "required-minutes": 540,
        "adjusted-required-minutes": 540,
        "shortfall-minutes": 0,
        "met-level-of-care": True,
        "met-adjusted": True,
        "status": "met",
        "individual-minutes": 50,
        "individual-met": False,
        "family-minutes": 60,
        "collateral-minutes": 50,
        "telehealth-minutes": 60,
        "wellness-minutes": 0,
        "wellness-excluded": 0,
        "iop-days": 2,
        "sessions-expected": 4,
        "sessions-attended": 3,
        "attendance-rate": 75.0,
        "no-shows": 1,
        "excused": 0,
        "mutual-support-meetings": 2,
        "over-max": False,
        "overlap": False,
    }


async def test_a_post_of_parameters_is_answered_as_a_get(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put(*W2)
    days = param("from", valueDate="2026-03-02"), param("to", valueDate="2026-03-08")

    posted = said(await iop.call("/EpisodeOfCare/ep-p1/$weekly-hours", *days))

    assert posted == await weekly_hours(iop, "EpisodeOfCare/ep-p1")


async def test_the_weeks_are_those_from_admission_to_today(iop: Iop) -> None:
    await admitted(iop, "p1")

    found = await weekly_hours(iop, "EpisodeOfCare/ep-p1", "")

    weeks = [(one["week-start"], one["status"]) for one in found["week"]]
    assert weeks == [
        ("2026-02-23", "not-applicable"),
        ("2026-03-02", "not-met"),
        ("2026-03-09", "not-applicable"),
        ("2026-03-16", "in-progress"),
    ]


async def test_as_of_an_earlier_day_what_came_later_has_not_happened(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put(*W2)

    found = await weekly_hours(iop, "EpisodeOfCare/ep-p1", "from=2026-03-02&as-of=2026-03-03")

    assert (found["week"]["delivered-minutes"], found["week"]["status"]) == (335, "in-progress")


async def test_detail_lists_each_encounter_with_what_counts(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put(
        encounter("e1", "p1", "2026-03-02", "09:00-12:15"),
        alone("e2", "individual", "2026-03-02", "09:30-10:20"),
        alone("e3", "med-management", "2026-03-02", "14:00-14:20"),
    )

    found = await weekly_hours(
        iop, "EpisodeOfCare/ep-p1", "from=2026-03-02&to=2026-03-08&detail=true"
    )

    shown = [(d["kind"], d["credited-minutes"], d["counted-minutes"]) for d in found["detail"]]
    assert shown == [("group", 180, 130), ("individual", 50, 50), ("med-management", 20, 0)]
    assert found["detail"][0]["encounter"] == {"reference": "Encounter/e1"}
    assert found["week"]["overlap"] is True
    (issue,) = found["outcome"]["issue"]
    assert (issue["severity"], issue["details"]["coding"][0]["code"]) == ("warning", "overlap")


async def test_an_excuse_and_a_cancelled_session_lower_what_was_within_reach(iop: Iop) -> None:
    await admitted(iop, "p1")
    cancelled = clinic.session(
        "2026-03-06",
        status="cancelled",
        cancelationReason=clinic.coded(CANCELATION, "prov"),
    )
    await iop.put(cancelled, missed("2026-03-03", "p1", "excused"))

    week = (await weekly_hours(iop, "EpisodeOfCare/ep-p1"))["week"]

    assert week["adjusted-required-minutes"] == 270
    assert (week["excused"], week["sessions-expected"]) == (1, 4)


async def test_an_adolescent_needs_the_minutes_of_an_adolescent(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put({**clinic.patient("p1"), "birthDate": "2010-01-01"}, clinic.order("p1", hours=6))

    week = (await weekly_hours(iop, "EpisodeOfCare/ep-p1"))["week"]

    assert week["required-minutes"] == 360


async def test_an_order_of_more_hours_is_what_is_required(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put(clinic.order("p1", hours=12))

    week = (await weekly_hours(iop, "EpisodeOfCare/ep-p1"))["week"]

    assert week["required-minutes"] == 720


async def test_what_is_corrected_in_the_record_is_right_at_the_next_call(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put(*W2)
    wrong = {**await iop.read("Encounter/e1"), "status": "entered-in-error"}
    await iop.put(wrong)

    week = (await weekly_hours(iop, "EpisodeOfCare/ep-p1"))["week"]

    assert week["delivered-minutes"] == 575 - 180


async def test_a_patient_has_the_same_hours_as_the_staff_sees(
    iop: Iop, program_settings: Settings
) -> None:
    """Rosters and sessions do not exist for the patient, and yet the hours are made of them."""
    await admitted(iop, "p1", "p2")
    await iop.put(*W2, missed("2026-03-06", "p1", "no-show"))
    staff = await weekly_hours(iop, "EpisodeOfCare/ep-p1")

    iop.client.headers.update(await authorized(program_settings, "patient/*.rs", "Patient/p1"))

    assert await weekly_hours(iop, "EpisodeOfCare/ep-p1") == staff
    assert (await iop.client.get("/EpisodeOfCare/ep-p2/$weekly-hours")).status_code == 404
    assert len(await iop.search("Group")) == 0


async def test_who_may_not_search_what_hours_are_made_of_is_refused(
    iop: Iop, program_settings: Settings
) -> None:
    """Figures of a part would be too low, and nobody could tell."""
    await admitted(iop, "p1")
    scopes = "system/EpisodeOfCare.rs system/HealthcareService.rs system/Patient.rs"
    iop.client.headers.update(await authorized(program_settings, scopes))

    replies = [
        await iop.client.get(f"/{place}/$weekly-hours")
        for place in ("EpisodeOfCare/ep-p1", "HealthcareService/day")
    ]

    assert [reply.status_code for reply in replies] == [403, 403]
    assert "ServiceRequest" in replies[0].json()["issue"][0]["diagnostics"]


# --- a program ---------------------------------------------------------------------------------


async def test_a_program_has_a_page_of_its_episodes_and_a_cursor_to_the_next(iop: Iop) -> None:
    await admitted(iop, "p1", "p2", "p3")
    await iop.put(*W2)
    week = "from=2026-03-02&to=2026-03-08&_count=2"

    first = await weekly_hours(iop, "HealthcareService/day", week)
    second = await weekly_hours(
        iop, "HealthcareService/day", f"{week}&_cursor={quote(first['_cursor'])}"
    )

    some = [*first["episode"], second["episode"]]
    minutes = {e["reference"]["reference"]: e["week"]["delivered-minutes"] for e in some}
    assert minutes == {
        "EpisodeOfCare/ep-p1": 575,
        "EpisodeOfCare/ep-p2": 0,
        "EpisodeOfCare/ep-p3": 0,
    }
    assert "_cursor" not in second


async def test_each_episode_of_a_program_has_the_weeks_that_it_has_by_itself(iop: Iop) -> None:
    await admitted(iop, "p1", "p2")
    await iop.put(*W2, missed("2026-03-06", "p1", "no-show"))

    found = await weekly_hours(iop, "HealthcareService/day")

    for one in found["episode"]:
        alone = await weekly_hours(iop, one["reference"]["reference"])
        assert one["week"] == alone["week"]


async def test_a_program_without_a_range_has_the_week_of_today(iop: Iop) -> None:
    await admitted(iop, "p1")

    found = await weekly_hours(iop, "HealthcareService/day", "")

    assert found["episode"]["week"]["week-start"] == "2026-03-16"


# --- reports -----------------------------------------------------------------------------------


async def test_the_weeks_of_an_episode_as_a_measure_report(iop: Iop) -> None:
    await admitted(iop, "p1")
    await iop.put(*W2)
    query = "from=2026-03-02&to=2026-03-08&as=measure-report"

    reply = await iop.client.get(f"/EpisodeOfCare/ep-p1/$weekly-hours?{query}")

    report = reply.json()
    assert (report["resourceType"], report["type"]) == ("MeasureReport", "individual")
    assert len(await iop.search(f"Measure?url={report['measure']}")) == 1
    assert report["subject"] == {"reference": "Patient/p1"}
    assert report["group"][0]["measureScore"]["value"] == 9.58
    assert counts(report) == {"initial-population": 1, "denominator": 1, "numerator": 1}
    validated = await iop.client.post("/MeasureReport/$validate", json=report)
    assert validated.status_code == 200, validated.text


async def test_the_weeks_of_a_program_as_a_measure_report(iop: Iop) -> None:
    await admitted(iop, "p1", "p2")
    await iop.put(*W2)
    query = "from=2026-03-02&to=2026-03-08&as=measure-report"

    reply = await iop.client.get(f"/HealthcareService/day/$weekly-hours?{query}")

    report = reply.json()
    assert report["type"] == "summary"
    assert counts(report) == {"initial-population": 2, "denominator": 2, "numerator": 1}
    assert report["group"][0]["measureScore"]["value"] == 50.0
    validated = await iop.client.post("/MeasureReport/$validate", json=report)
    assert validated.status_code == 200, validated.text


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("from=2026-03-08&to=2026-03-02", "http.to"),
        ("from=2020-01-01&to=2026-03-02", "http.from"),
        ("as=pdf", "http.as"),
        ("from=monday", "http.from"),
        ("_count=0", "http._count"),
        ("_cursor=abc", "http._cursor"),
        ("from=2026-03", "http.from"),
        ("to=9999-12-31", "http.to"),
        ("as-of=0001-01-01", "http.as-of"),
    ],
)
async def test_what_cannot_be_answered_is_refused(iop: Iop, query: str, place: str) -> None:
    await admitted(iop, "p1")

    reply = await iop.client.get(f"/HealthcareService/day/$weekly-hours?{query}")

    assert reply.status_code in (400, 422)
    assert reply.json()["issue"][0]["expression"] == [place]


async def test_an_episode_that_is_not_there_has_no_weeks(iop: Iop) -> None:
    reply = await iop.client.get("/EpisodeOfCare/none/$weekly-hours")

    assert reply.status_code == 404


def counts(report: Resource) -> dict[str, int]:
    (group,) = report["group"]
    return {one["code"]["coding"][0]["code"]: one["count"] for one in group["population"]}
