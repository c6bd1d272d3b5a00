"""The controls against leaks: who was there is told to nobody who was there.

LK1, LK2, LK4, LK7, LK8 and LK10 of domain.md, and INV-AP-1. A roster, a session and what was held
of it are shared by all who are in it: to a patient they do not exist, and what is the patient's own
names nobody else.
"""

from typing import Any

import httpx
import pytest

from app.config import Settings
from app.domain.vocabulary import (
    ACT_CODE,
    ATTENDANCE,
    BREAK,
    CLINICAL_MINUTES,
    KIND,
    PARTICIPATION,
    SESSION,
    UCUM,
)
from tests.access.tokens import authorized
from tests.domain import clinic
from tests.domain.clinic import GROUP, THERAPIST, V, reference
from tests.domain.office import Iop, param, ref, rule
from tests.support.replies import issues
from tests.support.tokens import AUTHORIZED

Resource = dict[str, Any]

DAY = "2026-03-03"
AFTER = f"{DAY}T13:00:00-08:00"
# What no answer to p1 may hold: who else is there, what is shared, what it was about
TRACES = ("zqbob", "zqtopic", "Group day-a")
SHARED = (GROUP, f"Appointment/s-{DAY}", "Encounter/held")
OTHERS = (f"Appointment/b-s-{DAY}-zqbob", "Encounter/of-zqbob", "Patient/zqbob")
OWN = (f"Appointment/b-s-{DAY}-p1", "Encounter/of-p1", "EpisodeOfCare/ep-p1")


def held() -> Resource:
    """Return the session Encounter of the session of DAY."""
    session = clinic.session(DAY)
    return {
        "resourceType": "Encounter",
        "id": "held",
        "identifier": session["identifier"],
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "AMB"},
        "type": [V.concept(KIND, "group")],
        "subject": reference(GROUP),
        "appointment": [reference(f"Appointment/s-{DAY}")],
        "participant": leader(),
        "period": {"start": session["start"], "end": session["end"]},
        "location": [{"location": reference("Location/room1")}],
        "serviceProvider": reference(clinic.ORGANIZATION),
        "extension": [
            V.extended(CLINICAL_MINUTES, valuePositiveInt=180),
            *(one for one in session["extension"] if one["url"] == V.extension(BREAK)),
            V.extended("iop-topic", valueString="zqtopic"),
        ],
    }


def leader() -> list[Resource]:
    """Return the participants of an Encounter: the therapist."""
    kind = {"coding": [{"system": PARTICIPATION, "code": "PPRF"}]}
    return [{"type": [kind], "individual": reference(THERAPIST)}]


def attended(patient: str) -> Resource:
    """Return the Encounter of one who was there: Encounter/of-[patient]."""
    session = clinic.session(DAY)
    period = {"start": session["start"], "end": session["end"]}
    return {
        "resourceType": "Encounter",
        "id": f"of-{patient}",
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "AMB"},
        "type": [V.concept(KIND, "group")],
        "subject": reference(f"Patient/{patient}"),
        "episodeOfCare": [reference(f"EpisodeOfCare/ep-{patient}")],
        "appointment": [reference(f"Appointment/b-s-{DAY}-{patient}")],
        "participant": leader(),
        "period": period,
        "length": {"value": 180, "unit": "min", "system": UCUM, "code": "min"},
        "location": [{"location": reference("Location/room1")}],
        "serviceProvider": reference(clinic.ORGANIZATION),
        "partOf": reference("Encounter/held"),
        "extension": [
            V.extended(SESSION, valueReference=reference(f"Appointment/s-{DAY}")),
            *(one for one in session["extension"] if one["url"] == V.extension(BREAK)),
            V.complex(
                ATTENDANCE,
                ("status", "valueCode", "attended"),
                ("credited", "valueUnsignedInt", 180),
                ("presence", "valuePeriod", period),
                ("countsTowardHours", "valueBoolean", True),
            ),
        ],
    }


async def furnished(iop: Iop) -> None:
    """Store a program with two who were in one session, p1 and zqbob."""
    people = ("p1", "zqbob")
    session = clinic.session(DAY)
    await admitted(iop, *people)
    await iop.put(
        clinic.roster(*(f"Patient/{patient}" for patient in people)),
        session,
        *(clinic.booked(session, patient) for patient in people),
    )


async def admitted(iop: Iop, *people: str) -> None:
    """Store a program, whose group is empty, and the episodes of some patients."""
    await iop.put(
        *clinic.program(), *(one for patient in people for one in clinic.admitted(patient))
    )


@pytest.fixture
async def staff(iop: Iop) -> Iop:
    """A client of the staff, after the session."""
    await furnished(iop)
    iop.clock.set(AFTER)
    await iop.put(held(), *(attended(patient) for patient in ("p1", "zqbob")))
    return iop


@pytest.fixture
async def hers(staff: Iop, program_settings: Settings) -> httpx.AsyncClient:
    """A client of p1 herself, for whom all is open that a patient may be granted."""
    scopes = "launch/patient patient/*.cruds"
    staff.client.headers.update(await authorized(program_settings, scopes, "Patient/p1"))
    return staff.client


def traces(reply: httpx.Response) -> list[str]:
    """Return what an answer tells that it should not; but the client said itself what it asked."""
    asked = str(reply.request.url) + reply.request.content.decode()
    return [trace for trace in TRACES if trace in reply.text and trace not in asked]


def found(reply: httpx.Response) -> set[str]:
    """Return `Type/id` of the entries of a Bundle."""
    assert reply.status_code == 200, reply.text
    entries = reply.json().get("entry", [])
    return {"/".join(entry["fullUrl"].split("/")[-2:]) for entry in entries}


# --- LK1: the roster -----------------------------------------------------------------------------


async def test_a_roster_is_in_the_compartment_of_no_member(staff: Iop) -> None:
    """LK1: not even for those who may read it."""
    in_compartment = await staff.client.get("/Patient/p1/Group")
    everything = await staff.client.get("/Patient/p1/$everything?_count=1000")
    directly = await staff.client.get("/Group?member=Patient/p1")

    assert in_compartment.json()["total"] == 0
    assert "Group/day-a" not in found(everything)
    assert "zqbob" not in everything.text
    assert found(directly) == {GROUP}


async def test_a_roster_of_one_is_not_that_patient_s(hers: httpx.AsyncClient, staff: Iop) -> None:
    """LK1: to be alone in a group is to know that nobody else is in it."""
    alone = clinic.roster("Patient/p1", id="alone")
    hers.headers.update(AUTHORIZED)
    await staff.put(alone)

    reply = await staff.client.get("/Patient/p1/Group")

    assert reply.json()["total"] == 0


async def test_any_other_group_keeps_the_compartment_of_r4(staff: Iop) -> None:
    members = [{"entity": reference("Patient/p1")}]
    cohort = {"resourceType": "Group", "id": "c", "type": "person", "actual": True}
    await staff.put({**cohort, "member": members})

    assert found(await staff.client.get("/Patient/p1/Group")) == {"Group/c"}


async def test_a_group_that_becomes_a_roster_leaves_the_compartment(staff: Iop) -> None:
    whole = clinic.roster("Patient/p1", id="g")
    plain = {name: whole[name] for name in ("resourceType", "id", "type", "actual", "member")}
    await staff.put({**plain, "code": {"text": "a cohort"}})
    before = found(await staff.client.get("/Patient/p1/Group"))

    await staff.put(whole)

    assert before == {"Group/g"}
    assert found(await staff.client.get("/Patient/p1/Group")) == set()


# --- what a patient is told ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SHARED, *OTHERS])
async def test_what_is_shared_or_of_others_does_not_exist_for_a_patient(
    hers: httpx.AsyncClient, name: str
) -> None:
    """LK1, LK2, LK4: read, version, history, conditional read, meta."""
    ways = ("", "/_history/1", "/_history", "/$meta")

    replies = [await hers.get(f"/{name}{way}") for way in ways]

    assert {reply.status_code for reply in replies} == {404}
    assert [traces(reply) for reply in replies] == [[]] * len(ways)


async def test_what_is_her_own_is_there(hers: httpx.AsyncClient) -> None:
    replies = [await hers.get(f"/{name}") for name in OWN]

    assert [reply.status_code for reply in replies] == [200] * len(OWN)
    assert [traces(reply) for reply in replies] == [[]] * len(OWN)


# What a patient asks, and what of the shared types is found: her own alone
SEARCHES: dict[str, set[str]] = {
    "/Group": set(),
    "/Group?member=Patient/p1": set(),
    "/Group?code=iop-group-roster": set(),
    "/Group?iop-program=HealthcareService/day": set(),
    "/Group/_history": set(),
    "/Appointment": {OWN[0]},
    "/Appointment?date=2026-03-03&_sort=date": {OWN[0]},
    "/Appointment?supporting-info=Group/day-a": set(),
    "/Appointment?identifier=urn:ietf:rfc:3986|": {OWN[0]},
    f"/Appointment?iop-session=Appointment/s-{DAY}": {OWN[0]},
    "/Appointment/_history": {OWN[0]},
    "/Encounter": {OWN[1]},
    "/Encounter?part-of=Encounter/held": {OWN[1]},
    f"/Encounter?iop-session=Appointment/s-{DAY}": {OWN[1]},
    "/Encounter?iop-kind=group": {OWN[1]},
    "/Encounter?iop-attendance=attended": {OWN[1]},
    "/Encounter?subject=Group/day-a": set(),
    "/Encounter/_history": {OWN[1]},
    "/Patient": {"Patient/p1"},
    "/Patient/p1/Group": set(),
    "/Patient/p1/Encounter": {OWN[1]},
    "/Patient/p1/Appointment": {OWN[0]},
    "/?_type=Group,Appointment,Encounter": {OWN[0], OWN[1]},
    # includes
    "/Encounter?_include=Encounter:part-of": {OWN[1]},
    "/Encounter?_include=Encounter:part-of&_include:iterate=Encounter:subject": {
        *(OWN[1], "Patient/p1"),
    },
    "/Patient?_revinclude=Group:member": {"Patient/p1"},
    "/Patient?_revinclude=Encounter:subject&_revinclude:iterate=Encounter:part-of": {
        *("Patient/p1", OWN[1]),
    },
    "/HealthcareService?_revinclude=Appointment:actor": {"HealthcareService/day"},
    "/Location?_id=room1&_revinclude=Appointment:actor&_revinclude=Encounter:location": {
        *("Location/room1", OWN[0], OWN[1]),
    },
    # chains
    "/Encounter?part-of:Encounter.subject=Group/day-a": set(),
    "/Encounter?part-of:Encounter.status=finished": set(),
    "/Encounter?part-of:Encounter._has:Encounter:part-of:patient=Patient/zqbob": set(),
    "/Appointment?iop-session:Appointment.status=booked": set(),
    "/Patient?_has:Group:member:code=iop-group-roster": set(),
    "/Patient?_has:Encounter:patient:part-of=Encounter/held": {"Patient/p1"},
    f"/Practitioner?_has:Appointment:actor:_id=s-{DAY}": set(),
    "/HealthcareService?_has:Appointment:actor:status=booked": set(),
    '/Encounter?_filter=part-of re "Encounter/held"': {OWN[1]},
}


async def test_a_search_of_a_patient_finds_her_own_alone(hers: httpx.AsyncClient) -> None:
    """LK1, LK2, LK4: search, compartment, history, include, revinclude, chain, _has, _filter."""
    replies = {url: await hers.get(url) for url in SEARCHES}

    assert {url: found(reply) for url, reply in replies.items()} == SEARCHES
    assert {url: traces(reply) for url, reply in replies.items() if traces(reply)} == {}


COUNTED = {
    "/Encounter?part-of=Encounter/held": 1,
    f"/Appointment?iop-session=Appointment/s-{DAY}": 1,
    "/Group?member=Patient/p1": 0,
    "/Encounter?subject=Group/day-a": 0,
}


@pytest.mark.parametrize("how", ["_summary=count", "_total=accurate&_count=0"])
async def test_a_count_tells_no_patient_how_many_were_there(
    hers: httpx.AsyncClient, how: str
) -> None:
    """LK4."""
    replies = {url: await hers.get(f"{url}&{how}") for url in COUNTED}

    assert {url: reply.json()["total"] for url, reply in replies.items()} == COUNTED


async def test_who_was_in_a_session_is_found_by_staff(staff: Iop) -> None:
    """LK4: the members of a session are found through their own Encounters."""
    own = await staff.client.get("/Encounter?part-of=Encounter/held")

    assert found(own) == {"Encounter/of-p1", "Encounter/of-zqbob"}


async def test_her_whole_record_names_nobody_else(hers: httpx.AsyncClient) -> None:
    """LK1, LK2: $everything, and the walk that an export would make."""
    everything = await hers.get("/Patient/p1/$everything?_count=1000")
    walk = await hers.get("/Patient/p1/*?_count=1000")
    around = await hers.get("/Encounter?_include=*&_include:iterate=*")
    batch = await hers.post(
        "/",
        json={
            "resourceType": "Bundle",
            "type": "batch",
            "entry": [
                {"request": {"method": "GET", "url": url}}
                for url in ("Encounter?part-of=Encounter/held", "Group", "Patient/p1/$everything")
            ],
        },
    )

    assert set(OWN) <= found(everything)
    assert set(OWN) <= found(walk)
    assert not (found(everything) | found(walk) | found(around)) & {*SHARED, *OTHERS}
    assert [traces(reply) for reply in (everything, walk, around, batch)] == [[]] * 4


async def test_an_update_or_a_condition_tells_a_patient_nothing(hers: httpx.AsyncClient) -> None:
    json_patch = {"Content-Type": "application/json-patch+json"}
    test = [{"op": "test", "path": "/name", "value": "Group day-a"}]

    replies = [
        await hers.put(f"/{GROUP}", json=clinic.roster("Patient/p1")),
        await hers.patch(f"/{GROUP}", json=test, headers=json_patch),
        await hers.put("/Encounter/held", json=held()),
        await hers.delete(f"/Appointment/s-{DAY}"),
        await hers.put("/Group?member=Patient/zqbob", json=clinic.roster("Patient/p1")),
    ]

    assert [reply.status_code for reply in replies] == [404, 404, 404, 204, 404]
    hers.headers.update(AUTHORIZED)
    assert (await hers.get(f"/Appointment/s-{DAY}")).status_code == 200


CALLS: dict[str, list[Resource]] = {
    f"/Appointment/s-{DAY}/$attendance": [
        param("participant", part=[ref("patient", "Patient/p1"), param("status", valueCode="x")])
    ],
    f"/{GROUP}/$join": [ref("patient", "Patient/p1")],
    f"/{GROUP}/$leave": [ref("patient", "Patient/p1")],
    "/EpisodeOfCare/ep-zqbob/$weekly-hours": [],
    "/Patient/zqbob/$everything": [],
}


@pytest.mark.parametrize("url", CALLS)
async def test_no_operation_on_what_is_shared_or_of_others_is_there_for_a_patient(
    hers: httpx.AsyncClient, url: str
) -> None:
    body = {"resourceType": "Parameters", "parameter": CALLS[url]}

    reply = await hers.post(url, json=body)

    assert (reply.status_code, traces(reply)) == (404, [])


async def test_the_figures_of_a_program_are_of_nobody_else(hers: httpx.AsyncClient) -> None:
    """Of all that a cohort is counted from, a patient's is what is seen."""
    week = "from=2026-03-02&to=2026-03-09"

    hours = await hers.get(f"/HealthcareService/day/$weekly-hours?{week}")
    census = await hers.get(f"/HealthcareService/day/$census?date={DAY}")

    assert (traces(hours), traces(census)) == ([], [])
    episodes = [row for row in hours.json()["parameter"] if row["name"] == "episode"]
    assert [row["part"][0]["valueReference"]["reference"] for row in episodes] == [OWN[2]]
    assert {"name": "suppressed", "valueBoolean": True} in census.json()["parameter"]


# --- INV-AP-1 and LK2 ----------------------------------------------------------------------------


async def test_a_session_appointment_names_no_patient(staff: Iop) -> None:
    """INV-AP-1: nor does anything that is shared."""
    session = clinic.session(DAY)
    extra = {"actor": reference("Patient/p1"), "status": "accepted"}
    bad = {**session, "participant": [*session["participant"], extra]}

    reply = await staff.client.put(f"/Appointment/s-{DAY}", json=bad)

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-1")
    assert "p1" not in reply.text


async def test_a_booking_names_one_patient(staff: Iop) -> None:
    """INV-AP-1."""
    booking = clinic.booked(clinic.session(DAY), "p1")
    extra = {"actor": reference("Patient/zqbob"), "status": "accepted"}
    bad = {**booking, "participant": [*booking["participant"], extra]}

    reply = await staff.client.put(f"/Appointment/{booking['id']}", json=bad)

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-1")
    assert "zqbob" not in reply.text


# --- LK7 -----------------------------------------------------------------------------------------


async def test_a_group_whose_name_tells_a_trait_is_warned_of(staff: Iop) -> None:
    """LK7: the name is for everybody who sees a calendar; the population is for staff."""
    named = {**clinic.roster(id="w", population="women"), "name": "Women survivors"}

    reply = await staff.client.put(
        "/Group/w", json=named, headers={"Prefer": "return=OperationOutcome"}
    )

    assert reply.status_code == 201, reply.text
    details = [one.get("details", {}).get("coding", [{}])[0] for one in reply.json()["issue"]]
    assert "LK7" in [one.get("code") for one in details]


async def test_what_a_patient_sees_of_a_session_has_no_name_of_its_group(
    hers: httpx.AsyncClient,
) -> None:
    """LK7: it has the kind of service in its place."""
    booking = (await hers.get(f"/{OWN[0]}")).json()

    assert "Group" not in str(booking)
    assert booking["serviceType"] == [V.concept(KIND, "group")]


# --- LK8 and LK10, through operations ------------------------------------------------------------


async def test_each_patient_has_a_provenance_of_its_own(iop: Iop) -> None:
    """LK8: of one call about two patients, and of what it writes of nobody."""
    await furnished(iop)
    iop.clock.set(AFTER)
    marks = [
        param("participant", part=[ref("patient", f"Patient/{one}"), attended_by()])
        for one in ("p1", "zqbob")
    ]

    reply = await iop.call(f"/Appointment/s-{DAY}/$attendance", *marks)

    assert reply.status_code == 200, reply.text
    encounters = await iop.search("Encounter?_count=100")
    subjects = {f"Encounter/{one['id']}": one["subject"]["reference"] for one in encounters}
    bookings = {f"Appointment/b-s-{DAY}-{one}": f"Patient/{one}" for one in ("p1", "zqbob")}
    provenances = await iop.search("Provenance?_count=100")
    assert len(provenances) >= 3
    for one in provenances:
        targets = {target["reference"].split("/_history")[0] for target in one["target"]}
        named = {({**subjects, **bookings}).get(target, "") for target in targets} - {""}
        assert len(named) <= 1, "a Provenance tells of one patient, or of a group"


def attended_by() -> Resource:
    """Return the part that somebody was there."""
    return {"name": "status", "valueCode": "attended"}


async def test_a_full_group_says_nothing_of_who_fills_it(iop: Iop) -> None:
    """LK10."""
    await admitted(iop, "p1", "zqbob")
    await iop.put(clinic.roster("Patient/zqbob", capacity=1))

    joined = await iop.call(f"/{GROUP}/$join", ref("patient", "Patient/p1"))
    written = await iop.client.put(
        f"/{GROUP}", json=clinic.roster("Patient/zqbob", "Patient/p1", capacity=1)
    )

    assert (joined.status_code, written.status_code) == (409, 422), joined.text + written.text
    assert "zqbob" not in joined.text + written.text
    assert issues(joined)


async def test_an_overlap_says_nothing_of_anybody_else(staff: Iop) -> None:
    """LK10: who cannot be booked is told, and not what for."""
    session = clinic.session(DAY)
    twin = {**session, "id": "twin", "identifier": []}
    other = {**clinic.booked(twin, "p1"), "extension": clinic.booked(session, "p1")["extension"]}

    reply = await staff.client.put(f"/Appointment/{other['id']}", json=other)

    assert "zqbob" not in reply.text
