"""The worked examples of rule W over HTTP: the record says what a row of hours.yaml says."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from app.domain.chart import Session, Visit
from app.domain.days import written
from app.domain.figures.adherence import WEEK
from app.domain.figures.hours import Care
from app.domain.vocabulary import (
    BREAK,
    CANCELATION,
    CLINICAL_MINUTES,
    KIND,
    LEVEL,
    LOC_PERIOD,
    MODE,
    PROGRAM,
    SESSION,
    Vocabulary,
)
from tests.domain import clinic
from tests.domain.clinic import V, coded, reference
from tests.domain.office import Iop, said
from tests.domain.test_hours import LOS_ANGELES, ROWS, care, week

Resource = dict[str, Any]
WORKED = [row for row in ROWS if row["id"].startswith("W")]
HOURS = {"2.1": 9, "2.5": 20}
YOUNG = 6


def local(moment: datetime) -> str:
    return written(moment, LOS_ANGELES)


def period(start: datetime, end: datetime | None) -> Resource:
    return {"start": local(start), **({"end": local(end)} if end else {})}


def the_patient(held: Care) -> list[Resource]:
    """Return the chart of Patient/1, with an order for each level."""
    started = clinic.START if held.episode.start is None else local(held.episode.start)[:10]
    birth = held.born.isoformat() if held.born else "1990-05-17"
    papers = [one for one in clinic.chart("1", birth) if one["resourceType"] != "Observation"]
    orders = [
        {
            **clinic.order("1", started, one.level, YOUNG if held.born else HOURS[one.level]),
            "id": f"order-{one.level}",
            "status": "completed" if one.end else "active",
        }
        for one in held.episode.levels
    ]
    return [*papers, *clinic.assessment("1", on=started), *orders, clinic.team("1")]


def the_episode(held: Care) -> Resource:
    """Return EpisodeOfCare/1, with its levels."""
    assert held.episode.start is not None
    levels = [
        V.complex(
            LOC_PERIOD,
            ("code", "valueCodeableConcept", V.concept(LEVEL, one.level)),
            ("period", "valuePeriod", period(one.start, one.end)),
            ("order", "valueReference", reference(f"ServiceRequest/order-{one.level}")),
        )
        for one in held.episode.levels
    ]
    place = V.extended(PROGRAM, valueReference=reference(clinic.DAY_TRACK))
    said = {"id": "1", "period": period(held.episode.start, None), "extension": [place, *levels]}
    return {**clinic.episode("1"), **said}


def rosters(held: Care) -> list[Resource]:
    """Return the groups of the patient, who is in them as long as the row says."""
    found = []
    for group, one in held.places:
        end = one.end.isoformat() if one.end else ""
        roster = clinic.roster(id=group.removeprefix("Group/"))
        roster["member"] = [clinic.member(one.patient, one.start.isoformat(), end)]
        found.append(roster)
    return found


def appointment(one: Session) -> Resource:
    """Return a session; those of other groups than the first have another room and leader."""
    first = one.group == "Group/day"
    actors = (
        clinic.DAY_TRACK,
        "Location/room1" if first else "Location/room2",
        clinic.THERAPIST if first else clinic.COUNSELOR,
    )
    status = "cancelled" if one.status == "cancelled" else "booked"
    made = {
        **clinic.session(group=one.group, kind=one.kind, status=status),
        "id": one.reference.removeprefix("Appointment/"),
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": one.identifier}],
        "start": local(one.start),
        "end": local(one.end),
        "minutesDuration": (one.end - one.start).seconds // 60,
        "participant": [{"actor": reference(a), "status": "accepted"} for a in actors],
        "extension": [
            V.extended(CLINICAL_MINUTES, valuePositiveInt=one.minutes),
            *(V.extended(BREAK, valuePeriod=period(*pause)) for pause in one.breaks),
            V.extended(MODE, valueCode="in-person"),
        ],
    }
    if status == "cancelled":
        made["cancelationReason"] = coded(CANCELATION, "prov")
    return made


def missed(held: Care) -> list[Resource]:
    """Return the bookings that the patient missed."""
    sessions = {one.reference: one for one in held.sessions}
    found = []
    for place, status in held.outcomes.items():
        outcome = V.complex("iop-attendance", ("status", "valueCode", status))
        booked = clinic.booked(appointment(sessions[place]), "1")
        booked["extension"].append(outcome)
        why = {"cancelationReason": coded(CANCELATION, "pat")}
        found.append(
            {**booked, "status": "cancelled", **why}
            if status == "excused"
            else {**booked, "status": "noshow"}
        )
    return found


def encounter(v: Vocabulary, one: Visit) -> Resource:
    """Return a finished visit, of which the server credits the minutes."""
    family = ["RelatedPerson/sister"] if one.kind.startswith("family") else []
    virtual = one.mode == "telehealth"
    presence = [{"url": "presence", "valuePeriod": period(*span)} for span in one.intervals]
    status = {"url": "status", "valueCode": "attended"}
    attended = {"url": v.extension("iop-attendance"), "extension": [status, *presence]}
    session = [v.extended(SESSION, valueReference=reference(one.session))] if one.session else []
    breaks = [v.extended(BREAK, valuePeriod=period(*pause)) for pause in one.breaks]
    return {
        "resourceType": "Encounter",
        "id": f"e{one.reference.removeprefix('Encounter/')}",
        "status": "finished",
        "class": {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
            "code": "VR" if virtual else "AMB",
        },
        **({"location": [{"location": reference("Location/video")}]} if virtual else {}),
        "type": [v.concept(KIND, one.kind)],
        "subject": reference("Patient/1"),
        "episodeOfCare": [reference("EpisodeOfCare/1")],
        "participant": [{"individual": reference(who)} for who in (clinic.THERAPIST, *family)],
        "period": period(*one.period),
        "extension": [attended, *session, *breaks],
    }


def meetings(held: Care) -> list[Resource]:
    """Return what the patient reports of mutual support."""
    return [
        {
            "resourceType": "Observation",
            "id": f"meetings-{day}",
            "status": "final",
            "code": V.concept("iop-measure", "mutual-support-meetings"),
            "subject": reference("Patient/1"),
            "effectiveDateTime": day.isoformat(),
            "valueInteger": count,
        }
        for day, count in held.meetings
    ]


@pytest.mark.parametrize("row", WORKED, ids=lambda row: row["id"])
async def test_the_server_says_of_the_week_what_the_worked_example_says(
    iop: Iop, row: dict[str, Any]
) -> None:
    held = care(row)
    iop.clock.set("2026-04-01T08:00:00-07:00")
    sister = {"resourceType": "RelatedPerson", "id": "sister", "patient": reference("Patient/1")}
    await iop.put(*clinic.program(), *the_patient(held), sister, the_episode(held))
    await iop.put(*rosters(held))
    happened = [*missed(held), *meetings(held), *(encounter(V, one) for one in held.visits)]
    for some in ([appointment(one) for one in held.sessions], happened):
        if some:
            await iop.put(*some)

    reply = await iop.client.get(
        "/EpisodeOfCare/1/$weekly-hours?from=2026-03-02&to=2026-03-08&detail=true"
    )

    answer = said(reply)
    wanted = {name: told(week(row)) for name, told in WEEK.items()}
    plain = {n: float(v) if isinstance(v, Decimal) else v for n, v in wanted.items()}
    told = {name: answer["week"].get(name) for name in WEEK}
    assert told == plain
    assert ("outcome" in answer) is week(row).overlap
