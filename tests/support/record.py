"""The record of a patient: what belongs to her, what that refers to, and what is another's."""

from typing import Any

from tests.support.resources import (
    Resource,
    encounter,
    medication_request,
    observation,
    patient,
    practitioner,
    reference,
    resource,
)

ADA, BOB = "Patient/ada", "Patient/bob"
DOCTOR, HOSPITAL = "Practitioner/doctor", "Organization/hospital"


def appointment(id: str, *actors: str) -> Resource:
    """Return an Appointment in which these take part."""
    parts = [{"actor": reference(actor), "status": "accepted"} for actor in actors]
    return resource("Appointment", {"id": id, "status": "proposed", "participant": parts}, {})


def organization(id: str, **changes: Any) -> Resource:
    """Return an Organization: a hospital."""
    return resource("Organization", {"id": id, "name": "A hospital"}, changes)


RECORD = [
    organization("trust"),
    organization("hospital", partOf=reference("Organization/trust")),
    practitioner(id="doctor"),
    patient(id="ada", managingOrganization=reference(HOSPITAL)),
    patient(id="bob"),
    encounter(
        id="visit",
        subject=reference(ADA),
        participant=[{"individual": reference(DOCTOR)}],
        period={"start": "2026-03-02T09:00:00Z", "end": "2026-03-02T12:00:00Z"},
    ),
    observation(
        id="score",
        subject=reference(ADA),
        encounter=reference("Encounter/visit"),
        performer=[reference(DOCTOR)],
        effectiveDateTime="2026-03-02",
    ),
    observation(id="later", subject=reference(ADA), effectiveDateTime="2026-05-01"),
    observation(id="bobs", subject=reference(BOB), performer=[reference("Practitioner/other")]),
    appointment("shared", ADA, BOB),
    medication_request(ADA, id="order", authoredOn="2026-04-01", recorder=reference(DOCTOR)),
    resource("Binary", {"id": "scan", "contentType": "text/plain", "data": "eA=="}, {}),
    resource(
        "DocumentReference",
        {
            "id": "letter",
            "status": "current",
            "subject": reference(ADA),
            "content": [{"attachment": {"url": "Binary/scan"}}],
        },
        {},
    ),
]
ADAS = {
    *(ADA, "Encounter/visit", "Observation/score", "Observation/later", "Appointment/shared"),
    *("MedicationRequest/order", "DocumentReference/letter"),
}
AROUND = {DOCTOR, HOSPITAL, "Organization/trust", "Binary/scan"}


def score(id: str, when: str, *codings: Resource, text: str = "", **changes: Any) -> Resource:
    """Return an Observation of Ada with these codings, or with a text for its code."""
    code: Resource = {"coding": list(codings)} if codings else {"text": text}
    made: Resource = {"id": id, "subject": reference(ADA), "code": code, "effectiveDateTime": when}
    return observation(**{**made, **changes})


def coding(code: str) -> Resource:
    """Return a coding of LOINC."""
    return {"system": "http://loinc.org", "code": code}


SCORES = [
    score("a1", "2026-01-01", coding("a")),
    score("a2", "2026-01-02", coding("a")),
    score("a3", "2026-01-03", coding("a")),
    score("b1", "2026-01-01T10:00:00Z", coding("b")),
    score("b2", "2026-01-01T10:00:00Z", coding("b")),
    score("c1", "2026-01-04", coding("c")),
    score("cd", "2026-01-02", coding("c"), coding("d")),
    score("d1", "2026-01-05", coding("d")),
    score("t1", "2026-01-01", text="Text"),
    score("t2", "2026-01-02", text="text"),
]
