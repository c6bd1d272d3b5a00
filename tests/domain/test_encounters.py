"""Individual and family sessions: written by an EHR, or recorded with $attendance alike."""

from typing import Any, cast

import pytest

from app.domain.attendance.encounters import fill
from app.domain.vocabulary import KINDS, Kind
from app.fhir.reader import Reader
from tests.domain import clinic
from tests.domain.office import Iop, param, ref, rule, said
from tests.domain.test_attendance_rules import credit, encounter, led, sister

V = clinic.V
Resource = dict[str, Any]
NINE, TEN = "2026-03-04T09:00:00-08:00", "2026-03-04T10:00:00-08:00"
HOUR = {"start": NINE, "end": TEN}
NOBODY = cast(Reader, None)  # nothing is read where there is no session
ALONE = "/Appointment/i-p1/$attendance"


async def prepared(iop: Iop, *more: Resource) -> None:
    """Store the program and a patient who is in it."""
    await iop.put(*clinic.program()[:-1], *clinic.admitted("p1"), clinic.roster("Patient/p1"))
    await iop.put(sister(), *more)
    iop.clock.set("2026-03-04T13:00:00-08:00")


def outcome(resource: Resource) -> dict[str, Any]:
    """Return the parts of iop-attendance by name."""
    (held,) = V.all(resource, "iop-attendance")
    return {part["url"]: part[next(k for k in part if k != "url")] for part in held["extension"]}


def one(status: str = "attended", *parts: Resource, patient: str = "p1") -> Resource:
    """Return a participant of a call."""
    rows = [ref("patient", f"Patient/{patient}"), param("status", valueCode=status), *parts]
    return param("participant", part=rows)


# --- plain writes -------------------------------------------------------------------------------


async def test_an_individual_session_of_an_ehr_is_credited_by_its_period(iop: Iop) -> None:
    await prepared(iop)

    await iop.put(encounter("own", "Patient/p1", "individual", period=HOUR))

    stored = await iop.read("Encounter/own")
    assert outcome(stored) == {"status": "attended", "credited": 60, "countsTowardHours": True}
    assert stored["length"] == {
        "value": 60,
        "unit": "min",
        "system": "http://unitsofmeasure.org",
        "code": "min",
    }


async def test_breaks_of_an_encounter_are_not_credited(iop: Iop) -> None:
    await prepared(iop)
    pause = {"start": "2026-03-04T09:20:00-08:00", "end": "2026-03-04T09:30:00-08:00"}
    extension = [V.extended("iop-break", valuePeriod=pause)]

    await iop.put(encounter("own", "Patient/p1", "individual", period=HOUR, extension=extension))

    assert outcome(await iop.read("Encounter/own"))["credited"] == 50


@pytest.mark.parametrize(("kind", "known"), KINDS.items())
async def test_whether_minutes_count_is_for_the_kind_to_say(kind: str, known: Kind) -> None:
    filled = await fill(V, encounter("own", "Patient/p1", kind, period=HOUR), None, NOBODY)

    expected = {} if kind == "peer-support" else {"countsTowardHours": known.counts}
    assert outcome(filled) == {"status": "attended", "credited": 60, **expected}


async def test_presence_that_an_ehr_says_is_credited(iop: Iop) -> None:
    await prepared(iop)
    half = {"start": NINE, "end": "2026-03-04T09:30:00-08:00"}
    there = V.complex("iop-attendance", ("presence", "valuePeriod", half))

    await iop.put(encounter("own", "Patient/p1", "individual", period=HOUR, extension=[there]))

    assert outcome(await iop.read("Encounter/own"))["credited"] == 30


async def test_what_an_ehr_says_itself_stays(iop: Iop) -> None:
    await prepared(iop)
    said_so = [credit(45, countsTowardHours=False)]

    await iop.put(encounter("own", "Patient/p1", "individual", period=HOUR, extension=said_so))

    stored = await iop.read("Encounter/own")
    assert outcome(stored) == {"status": "attended", "credited": 45, "countsTowardHours": False}
    assert stored["length"]["value"] == 45


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "in-progress"},
        {"period": {"start": NINE}},
        {"period": {"start": "2026-03-04", "end": "2026-03-04"}},
        {"subject": {"reference": "Group/day-a"}},
        {"type": None},
        {"period": "yesterday"},
        {"class": None},
        {"extension": "none"},
        {"extension": [{"url": V.extension("iop-attendance"), "extension": [{}]}]},
        {"extension": [V.complex("iop-attendance", ("credited", "valueString", "45"))]},
    ],
)
async def test_where_minutes_do_not_follow_nothing_is_filled_in(fields: dict[str, Any]) -> None:
    whole = {**encounter("own", "Patient/p1", "individual", period=HOUR), **fields}

    assert await fill(V, whole, None, NOBODY) is whole


async def test_an_attendance_that_says_nothing_is_filled_in() -> None:
    nothing = {"url": V.extension("iop-attendance")}
    whole = encounter("own", "Patient/p1", "individual", period=HOUR, extension=[nothing])

    assert outcome(await fill(V, whole, None, NOBODY))["credited"] == 60


async def test_an_encounter_that_is_not_valid_is_refused_by_validation(iop: Iop) -> None:
    broken = encounter("own", "Patient/p1", "individual", period="yesterday")

    reply = await iop.client.put("/Encounter/own", json=broken)

    assert reply.status_code in {400, 422}
    assert "period" in reply.text


async def test_encounters_are_found_by_kind_and_minutes(iop: Iop) -> None:
    await prepared(iop)
    await iop.put(encounter("own", "Patient/p1", "individual", period=HOUR))

    kind = f"{V.system('iop-service-kind')}|individual"
    for query in (
        f"type={kind}",
        f"iop-kind={kind}",
        "iop-credited-minutes=ge60",
        "iop-attendance=attended",
    ):
        assert [e["id"] for e in await iop.search(f"Encounter?{query}")] == ["own"], query


# --- $attendance --------------------------------------------------------------------------------


async def test_an_individual_session_is_recorded_with_attendance(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN))

    answer = said(await iop.call(ALONE, one()))

    own = await iop.read(answer["session"]["reference"])
    assert answer["participant"]["encounter"] == answer["session"]
    assert answer["participant"]["credited-minutes"] == 60
    assert "partOf" not in own
    assert own["episodeOfCare"] == [{"reference": "EpisodeOfCare/ep-p1"}]
    assert own["appointment"] == [{"reference": "Appointment/i-p1"}]
    assert (await iop.read("Appointment/i-p1"))["status"] == "fulfilled"


async def test_what_an_ehr_wrote_is_what_attendance_would_have_made(iop: Iop) -> None:
    """Hours see no difference between the two doors."""
    await prepared(iop, clinic.individual("p1", NINE, TEN))
    await iop.put(encounter("plain", "Patient/p1", "individual", period=HOUR))

    answer = said(await iop.call(ALONE, one()))

    own = await iop.read(answer["session"]["reference"])
    plain = await iop.read("Encounter/plain")
    assert outcome(own) == outcome(plain)
    assert own["length"] == plain["length"]
    assert own["type"] == plain["type"]


async def test_the_same_call_again_changes_nothing(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN))

    first = said(await iop.call(ALONE, one()))
    again = said(await iop.call(ALONE, one()))

    assert again == first
    assert (await iop.read("Appointment/i-p1"))["meta"]["versionId"] == "2"


async def test_who_does_not_come_alone_has_no_encounter(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN))

    answer = said(await iop.call(ALONE, one("no-show")))

    assert "session" not in answer
    assert (await iop.read("Appointment/i-p1"))["status"] == "noshow"
    assert len(await iop.search("Task?code=outreach-no-show")) == 1


async def test_another_patient_cannot_attend_it(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN), *clinic.admitted("p2"))

    reply = await iop.call(ALONE, one(patient="p2"))

    assert (reply.status_code, rule(reply)) == (422, "roster-incomplete")


async def test_a_family_session_names_who_took_part(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN, kind="family"))

    without = await iop.call(ALONE, one())
    answer = said(await iop.call(ALONE, one("attended", ref("related", "RelatedPerson/sister"))))

    assert (without.status_code, rule(without)) == (422, "INV-EN-5")
    own = await iop.read(answer["session"]["reference"])
    assert own["participant"][1]["individual"] == {"reference": "RelatedPerson/sister"}
    assert outcome(own)["countsTowardHours"] is True


async def test_a_family_session_without_the_patient_does_not_count(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN, kind="family-collateral"))

    answer = said(await iop.call(ALONE, one("attended", ref("related", "RelatedPerson/sister"))))

    own = await iop.read(answer["session"]["reference"])
    assert outcome(own)["countsTowardHours"] is False
    assert outcome(own)["credited"] == 60


async def test_an_individual_session_by_video_is_virtual(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN))
    away = (param("mode", valueCode="telehealth"), param("location-state", valueCode="CA"))

    answer = said(await iop.call(ALONE, one("attended", *away)))

    assert (await iop.read(answer["session"]["reference"]))["class"]["code"] == "VR"


async def test_an_individual_session_is_amended(iop: Iop) -> None:
    await prepared(iop, clinic.individual("p1", NINE, TEN))
    said(await iop.call(ALONE, one()))
    amend = (param("amend", valueBoolean=True), param("amend-reason", valueString="Left at half"))

    answer = said(
        await iop.call(ALONE, *amend, one("attended", param("minutes", valueUnsignedInt=30)))
    )

    assert answer["participant"]["credited-minutes"] == 30


async def test_both_kinds_of_participants_are_on_the_encounter_of_an_ehr(iop: Iop) -> None:
    await prepared(iop)
    people = led("RelatedPerson/sister")

    await iop.put(encounter("own", "Patient/p1", "family", period=HOUR, participant=people))

    assert outcome(await iop.read("Encounter/own"))["credited"] == 60
