"""A small program, as resources: the day track of 3.6.4, who works there, and who comes.

Everything is as a client would write it, and valid: it is in force from Monday 2026-02-23 on. The
ids are those of domain.md 3.12. `program()` is what stands before anybody comes, `chart(patient)`
what must be there before an admission, `admitted(patient)` what an admission makes.
"""

from typing import Any

import httpx

from app.domain.vocabulary import (
    BREAK,
    CAPACITY,
    CHARACTERISTIC,
    CLINICAL_MINUTES,
    CRITERION,
    DIAGNOSIS_ROLE,
    DIMENSION,
    EPISODE_TYPE,
    GROUP_REF,
    ICD10,
    KIND,
    LEVEL,
    LOC_PERIOD,
    LOCATION,
    MODE,
    POPULATION,
    PROGRAM,
    RESTRICTION,
    ROLE,
    SERVICE_CATEGORY,
    STAGE,
    TIMEZONE,
    TRACK,
    UCUM,
    WEEK_START,
    Vocabulary,
)

Resource = dict[str, Any]

V = Vocabulary("https://example.org/fhir/iop")
LOINC = "http://loinc.org"
ORGANIZATION = "Organization/cedar"
DAY_TRACK = "HealthcareService/day"
DAY_PLAN = "PlanDefinition/day-4x3"
GROUP = "Group/day-a"
THERAPIST, COUNSELOR = "PractitionerRole/th1", "PractitionerRole/th2"
START = "2026-02-23"  # when the episodes begin, a Monday


async def put(client: httpx.AsyncClient, *resources: Resource) -> None:
    """Store resources under their ids, all in one transaction that has to succeed."""
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in resources
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    reply = await client.post("/", json=bundle)
    assert reply.status_code == 200, reply.text


def reference(text: str) -> Resource:
    """Return a Reference."""
    return {"reference": text}


def coded(system: str, code: str) -> Resource:
    """Return a CodeableConcept."""
    return {"coding": [{"system": system, "code": code}]}


# --- the program -------------------------------------------------------------------------------


def program() -> list[Resource]:
    """Return the day track: where it is, who works there, its timetable, its first group."""
    rooms = [location("room1"), location("room2"), virtual_location()]
    return [organization(), *rooms, *staff(), service(), plan(), roster()]


def organization(id: str = "cedar") -> Resource:
    """Return the Organization that runs the programs."""
    return {"resourceType": "Organization", "id": id, "active": True, "name": "Cedar Path Recovery"}


def location(id: str) -> Resource:
    """Return a room."""
    kind = coded("http://terminology.hl7.org/CodeSystem/location-physical-type", "ro")
    return {
        "resourceType": "Location",
        "id": id,
        "status": "active",
        "mode": "instance",
        "name": f"Room {id}",
        "physicalType": kind,
        "managingOrganization": reference(ORGANIZATION),
    }


def virtual_location(id: str = "video") -> Resource:
    """Return a telehealth room."""
    held = {**location(id), "name": "Video room"}
    del held["physicalType"]
    return held


def staff() -> list[Resource]:
    """Return who works there, with roles."""
    roles = {
        "th1": "therapist",
        "th2": "counselor",
        "cm1": "case-manager",
        "md1": "psychiatrist",
        "pe1": "peer",
        "di1": "program-director",
    }
    return [one for id, code in roles.items() for one in (practitioner(id), role(id, code))]


def practitioner(id: str, licensed_until: str = "2030-12-31") -> Resource:
    """Return a Practitioner who is licensed up to a day."""
    return {
        "resourceType": "Practitioner",
        "id": id,
        "active": True,
        "name": [{"family": f"Staff {id}", "given": ["Alex"]}],
        "qualification": [
            {
                "identifier": [{"system": "https://example.org/licence", "value": id}],
                "code": {"text": "Licence"},
                "period": {"start": "2020-01-01", "end": licensed_until},
            }
        ],
    }


def role(id: str, code: str, start: str = "2020-01-01", end: str = "") -> Resource:
    """Return the PractitionerRole of the Practitioner of the same id."""
    return {
        "resourceType": "PractitionerRole",
        "id": id,
        "active": True,
        "practitioner": reference(f"Practitioner/{id}"),
        "organization": reference(ORGANIZATION),
        "code": [V.concept(ROLE, code)],
        "period": {"start": start, **({"end": end} if end else {})},
        "telecom": [{"system": "phone", "value": "555-0100"}],
    }


def service(
    id: str = "day",
    *,
    level: str = "2.1",
    track: str = "day",
    zone: str = "America/Los_Angeles",
    capacity: int = 30,
    populations: tuple[str, ...] = (),
) -> Resource:
    """Return a HealthcareService that is a track, open Monday to Saturday from 08:00 to 21:00."""
    return {
        "resourceType": "HealthcareService",
        "id": id,
        "active": True,
        "providedBy": reference(ORGANIZATION),
        "category": [coded(SERVICE_CATEGORY, "12")],
        "type": [coded("http://terminology.hl7.org/CodeSystem/service-type", "108")],
        "name": f"Intensive outpatient program, {id}",
        "location": [reference("Location/room1"), reference("Location/room2")],
        "program": [{"text": "Intensive outpatient program"}],
        "characteristic": [V.concept(TRACK, track), V.concept(LEVEL, level)],
        "eligibility": [
            {"code": V.concept(CRITERION, "no-24h-need"), "comment": "Lives safely at home"}
        ],
        "telecom": [{"system": "phone", "value": "555-0199", "rank": 1}],
        "availableTime": [
            {
                "daysOfWeek": ["mon", "tue", "wed", "thu", "fri", "sat"],
                "availableStartTime": "08:00:00",
                "availableEndTime": "21:00:00",
            }
        ],
        "extension": [
            V.extended(TIMEZONE, valueCode=zone),
            V.extended(WEEK_START, valueCode="mon"),
            V.extended(CAPACITY, valuePositiveInt=capacity),
            *(
                V.extended(RESTRICTION, valueCodeableConcept=V.concept(POPULATION, one))
                for one in populations
            ),
        ],
    }


def plan(
    *actions: Resource, id: str = "day-4x3", of: str = DAY_TRACK, status: str = "active"
) -> Resource:
    """Return a timetable: without actions the four mornings of the day track."""
    context = "http://terminology.hl7.org/CodeSystem/usage-context-type"
    kind = "http://terminology.hl7.org/CodeSystem/plan-definition-type"
    return {
        "resourceType": "PlanDefinition",
        "id": id,
        "status": status,
        "title": "Timetable",
        "type": coded(kind, "workflow-definition"),
        "useContext": [
            {"code": {"system": context, "code": "program"}, "valueReference": reference(of)}
        ],
        "action": list(actions or [action(group=GROUP, room="Location/room1")]),
    }


def action(
    id: str = "morning",
    *,
    kind: str = "group",
    days: str = "mon tue thu fri",
    clock: str = "09:00:00",
    minutes: int = 180,
    pause: str = "10:30/10:45",
    group: str = "",
    room: str = "",
) -> Resource:
    """Return a weekly session of so many clinical minutes, and a break of a quarter ("" for none).

    It lasts both.
    """
    extension = [V.extended(CLINICAL_MINUTES, valuePositiveInt=minutes)]
    if pause:
        start, _, end = (f"2026-01-01T{one}:00-08:00" for one in pause.partition("/"))
        extension.append(V.extended(BREAK, valuePeriod={"start": start, "end": end}))
    extension.append(V.extended(MODE, valueCode="in-person"))
    if room:
        extension.append(V.extended(LOCATION, valueReference=reference(room)))
    if group:
        extension.append(V.extended(GROUP_REF, valueReference=reference(group)))
    repeat = {
        "dayOfWeek": days.split(),
        "timeOfDay": [clock],
        "duration": minutes + (15 if pause else 0),
        "durationUnit": "min",
    }
    return {
        "id": id,
        "extension": extension,
        "title": "Session",
        "code": [V.concept(KIND, kind)],
        "timingTiming": {"repeat": repeat},
    }


def roster(
    *patients: str,
    id: str = "day-a",
    of: str = DAY_TRACK,
    capacity: int = 12,
    stage: str = "early",
    population: str = "",
    enrollment: str = "open",
    since: str = START,
) -> Resource:
    """Return a group of a program with these members ("Patient/p1"), since a day."""
    marks = [
        ("track", V.concept(TRACK, "day")),
        ("stage", V.concept(STAGE, stage)),
        ("mode", V.concept(CHARACTERISTIC, "in-person")),
        ("enrollment", V.concept(CHARACTERISTIC, enrollment)),
    ]
    if population:
        marks.append(("population", V.concept(POPULATION, population)))
    held: Resource = {
        "resourceType": "Group",
        "id": id,
        "active": True,
        "type": "person",
        "actual": True,
        "code": V.concept(CHARACTERISTIC, "iop-group-roster"),
        "name": f"Group {id}",
        "managingEntity": reference(ORGANIZATION),
        "extension": [
            V.extended(PROGRAM, valueReference=reference(of)),
            V.extended(CAPACITY, valuePositiveInt=capacity),
        ],
        "characteristic": [
            {
                "code": V.concept(CHARACTERISTIC, code),
                "valueCodeableConcept": concept,
                "exclude": False,
            }
            for code, concept in marks
        ],
    }
    if patients:
        held["member"] = [member(one, since) for one in patients]
    return held


def member(patient: str, since: str = START, until: str = "") -> Resource:
    """Return a member of a roster from a day on, and up to one."""
    period = {"start": since, **({"end": until} if until else {})}
    return {"entity": reference(patient), "period": period, "inactive": bool(until)}


# --- who comes ---------------------------------------------------------------------------------


def chart(id: str, born: str = "1990-05-17") -> list[Resource]:
    """Return a Patient and what an admission asks for: diagnosis, assessment, intake, papers."""
    return [
        patient(id, born),
        condition(id),
        *assessment(id),
        intake(id),
        document(f"ctt-{id}", id, "59284-0"),
        document(f"npp-{id}", id, "57016-8"),
        coverage(id),
    ]


def patient(id: str, born: str = "1990-05-17") -> Resource:
    """Return a Patient with an emergency contact."""
    contact = coded("http://terminology.hl7.org/CodeSystem/v2-0131", "C")
    return {
        "resourceType": "Patient",
        "id": id,
        "identifier": [{"system": "https://example.org/mrn", "value": id}],
        "name": [{"family": f"Person {id}", "given": ["Sam"]}],
        "gender": "female",
        "birthDate": born,
        "contact": [
            {
                "relationship": [contact],
                "name": {"text": "A friend"},
                "telecom": [{"system": "phone", "value": "555-0123"}],
            }
        ],
    }


def condition(patient: str, code: str = "F11.20") -> Resource:
    """Return the substance use disorder of a patient: Condition/oud-[patient]."""
    clinical = "http://terminology.hl7.org/CodeSystem/condition-clinical"
    verified = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    category = "http://terminology.hl7.org/CodeSystem/condition-category"
    return {
        "resourceType": "Condition",
        "id": f"oud-{patient}",
        "clinicalStatus": coded(clinical, "active"),
        "verificationStatus": coded(verified, "confirmed"),
        "category": [coded(category, "problem-list-item")],
        "code": coded(ICD10, code),
        "subject": reference(f"Patient/{patient}"),
        "recordedDate": "2026-02-20",
        "recorder": reference("PractitionerRole/md1"),
    }


def assessment(patient: str, level: str = "2.1", on: str = "2026-02-20") -> list[Resource]:
    """Return the ratings of the dimensions and Observation/asam-[patient], which has them."""
    ratings = [
        _observation(
            f"asam-{patient}-d{n}", patient, f"4-d{n}", on, V.concept("iop-asam-rating", "1")
        )
        for n in range(1, 7)
    ]
    whole = _observation(f"asam-{patient}", patient, "4-overall", on, V.concept(LEVEL, level))
    whole["hasMember"] = [reference(f"Observation/{one['id']}") for one in ratings]
    return [*ratings, whole]


def _observation(id: str, patient: str, code: str, on: str, value: Resource) -> Resource:
    category = "http://terminology.hl7.org/CodeSystem/observation-category"
    return {
        "resourceType": "Observation",
        "id": id,
        "status": "final",
        "category": [coded(category, "survey")],
        "code": V.concept(DIMENSION, code),
        "subject": reference(f"Patient/{patient}"),
        "effectiveDateTime": on,
        "performer": [reference(THERAPIST)],
        "valueCodeableConcept": value,
    }


def intake(patient: str) -> Resource:
    """Return a completed intake: QuestionnaireResponse/intake-[patient]."""
    return {
        "resourceType": "QuestionnaireResponse",
        "id": f"intake-{patient}",
        "questionnaire": f"{V.base}/Questionnaire/intake",
        "status": "completed",
        "subject": reference(f"Patient/{patient}"),
        "authored": "2026-02-20T10:00:00-08:00",
        "item": [{"linkId": "needs", "answer": [{"valueString": "Structure"}]}],
    }


def document(id: str, patient: str, type: str) -> Resource:
    """Return a DocumentReference with a LOINC type: 59284-0 consent, 57016-8 notice of privacy."""
    return {
        "resourceType": "DocumentReference",
        "id": id,
        "status": "current",
        "type": coded(LOINC, type),
        "subject": reference(f"Patient/{patient}"),
        "date": "2026-02-20T10:00:00-08:00",
        "content": [{"attachment": {"contentType": "text/plain", "data": "U2lnbmVk"}}],
    }


def coverage(patient: str) -> Resource:
    """Return the Coverage of a patient, by a payer of no name."""
    return {
        "resourceType": "Coverage",
        "id": patient,
        "status": "active",
        "beneficiary": reference(f"Patient/{patient}"),
        "payor": [reference(ORGANIZATION)],
    }


# --- an admission, as plain writes -------------------------------------------------------------


def admitted(patient: str, start: str = START, level: str = "2.1") -> list[Resource]:
    """Return chart(patient), and an active episode with its order and team."""
    return [*chart(patient), order(patient, start, level), team(patient), episode(patient, start)]


def order(patient: str, start: str = START, level: str = "2.1", hours: int = 9) -> Resource:
    """Return the order of a level of care: ServiceRequest/order-[patient]."""
    return {
        "resourceType": "ServiceRequest",
        "id": f"order-{patient}",
        "status": "active",
        "intent": "order",
        "code": coded("http://www.nlm.nih.gov/research/umls/hcpcs", "H0015"),
        "orderDetail": [V.concept(LEVEL, level)],
        "quantityRatio": {
            "numerator": {"value": hours, "unit": "h", "system": UCUM, "code": "h"},
            "denominator": {"value": 1, "unit": "wk", "system": UCUM, "code": "wk"},
        },
        "subject": reference(f"Patient/{patient}"),
        "occurrencePeriod": {"start": f"{start}T00:00:00-08:00"},
        "requester": reference("PractitionerRole/md1"),
        "reasonReference": [reference(f"Condition/oud-{patient}")],
    }


def team(patient: str) -> Resource:
    """Return a CareTeam with a primary therapist: CareTeam/team-[patient]."""
    return {
        "resourceType": "CareTeam",
        "id": f"team-{patient}",
        "status": "active",
        "subject": reference(f"Patient/{patient}"),
        "participant": [
            {"role": [V.concept(ROLE, "primary-therapist")], "member": reference(THERAPIST)},
            {
                "role": [V.concept(ROLE, "case-manager")],
                "member": reference("PractitionerRole/cm1"),
            },
        ],
    }


def episode(patient: str, start: str = START, **fields: Any) -> Resource:
    """Return an active EpisodeOfCare at level 2.1 since a day: EpisodeOfCare/ep-[patient]."""
    since = f"{start}T00:00:00-08:00"
    role = coded(DIAGNOSIS_ROLE, "AD")
    return {
        "resourceType": "EpisodeOfCare",
        "id": f"ep-{patient}",
        "identifier": [{"system": "https://example.org/episodes", "value": patient}],
        "status": "active",
        "type": [coded(EPISODE_TYPE, "da")],
        "patient": reference(f"Patient/{patient}"),
        "managingOrganization": reference(ORGANIZATION),
        "period": {"start": since},
        "careManager": reference("PractitionerRole/cm1"),
        "team": [reference(f"CareTeam/team-{patient}")],
        "diagnosis": [
            {"condition": reference(f"Condition/oud-{patient}"), "role": role, "rank": 1}
        ],
        "extension": [
            V.extended(PROGRAM, valueReference=reference(DAY_TRACK)),
            V.complex(
                LOC_PERIOD,
                ("code", "valueCodeableConcept", V.concept(LEVEL, "2.1")),
                ("period", "valuePeriod", {"start": since}),
                ("order", "valueReference", reference(f"ServiceRequest/order-{patient}")),
            ),
        ],
        **fields,
    }


# --- sessions and bookings ---------------------------------------------------------------------


def session(
    day: str = "2026-03-03", *, group: str = GROUP, kind: str = "group", **fields: Any
) -> Resource:
    """Return Appointment/s-[day], the session of a group from 09:00 to 12:15 with its break."""
    offset = "-08:00" if day < "2026-03-08" else "-07:00"
    accepted = {"required": "required", "status": "accepted"}
    actors = (DAY_TRACK, "Location/room1", THERAPIST)
    return {
        "resourceType": "Appointment",
        "id": f"s-{day}",
        "identifier": [
            {
                "system": "urn:ietf:rfc:3986",
                "value": f"urn:iop:session:day-4x3:morning:{day}",
            }
        ],
        "status": "booked",
        "serviceCategory": [coded(SERVICE_CATEGORY, "12")],
        "serviceType": [V.concept(KIND, kind)],
        "start": f"{day}T09:00:00{offset}",
        "end": f"{day}T12:15:00{offset}",
        "minutesDuration": 195,
        "supportingInformation": [reference(group)],
        "participant": [{"actor": reference(one), **accepted} for one in actors],
        "extension": [
            V.extended(CLINICAL_MINUTES, valuePositiveInt=180),
            V.extended(
                BREAK,
                valuePeriod={
                    "start": f"{day}T10:30:00{offset}",
                    "end": f"{day}T10:45:00{offset}",
                },
            ),
            V.extended(MODE, valueCode="in-person"),
        ],
        **fields,
    }


def booked(session: Resource, patient: str, **fields: Any) -> Resource:
    """Return Appointment/b-[session]-[patient]: the booking of a session for Patient/[patient]."""
    accepted = {"required": "required", "status": "accepted"}
    actors = (f"Patient/{patient}", "Location/room1", THERAPIST)
    return {
        "resourceType": "Appointment",
        "id": f"b-{session['id']}-{patient}",
        "identifier": [
            {
                "system": "urn:ietf:rfc:3986",
                "value": f"urn:iop:booking:{session['id']}:{patient}",
            }
        ],
        "status": "booked",
        "serviceType": session["serviceType"],
        "start": session["start"],
        "end": session["end"],
        "minutesDuration": session["minutesDuration"],
        "participant": [{"actor": reference(one), **accepted} for one in actors],
        "extension": [
            V.extended("iop-session", valueReference=reference(f"Appointment/{session['id']}"))
        ],
        **fields,
    }


def individual(
    patient: str, start: str, end: str, *, kind: str = "individual", **fields: Any
) -> Resource:
    """Return Appointment/i-[patient]: a booking of a patient alone, with the therapist."""
    accepted = {"required": "required", "status": "accepted"}
    return {
        "resourceType": "Appointment",
        "id": f"i-{patient}",
        "status": "booked",
        "serviceType": [V.concept(KIND, kind)],
        "start": start,
        "end": end,
        "participant": [
            {"actor": reference(one), **accepted} for one in (f"Patient/{patient}", THERAPIST)
        ],
        **fields,
    }
