"""Small valid resources; what a test is about it says itself, as keyword arguments."""

from typing import Any

Resource = dict[str, Any]

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def resource(resource_type: str, defaults: Resource, changes: Resource) -> Resource:
    """Return a resource of that type; a change to None takes the default away.

    Keywords that Python reserves are given with an underscore at the end: `class_`.
    """
    given = {name.removesuffix("_"): value for name, value in changes.items()}
    merged = {"resourceType": resource_type, **defaults, **given}
    return {name: value for name, value in merged.items() if value is not None}


def coded(code: str, system: str = LOINC, **coding: Any) -> Resource:
    """Return a CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code, **coding}]}


def reference(target: str | Resource) -> Resource:
    """Return a Reference to a resource, or to what the text names."""
    if isinstance(target, str):
        return {"reference": target}
    return {"reference": f"{target['resourceType']}/{target['id']}"}


def quantity(value: Any, code: str, system: str = UCUM) -> Resource:
    """Return a Quantity whose unit is a UCUM code."""
    return {"value": value, "unit": code, "system": system, "code": code}


def patient(**changes: Any) -> Resource:
    """Return a Patient: Ada Marsh, a woman born on 1985-04-12."""
    defaults: Resource = {
        "active": True,
        "name": [{"use": "official", "family": "Marsh", "given": ["Ada"]}],
        "gender": "female",
        "birthDate": "1985-04-12",
    }
    return resource("Patient", defaults, changes)


def practitioner(**changes: Any) -> Resource:
    """Return a Practitioner: Ines Vale, with one identifier."""
    defaults: Resource = {
        "identifier": [{"system": "https://example.org/staff", "value": "7"}],
        "name": [{"family": "Vale", "given": ["Ines"]}],
    }
    return resource("Practitioner", defaults, changes)


def observation(**changes: Any) -> Resource:
    """Return an Observation: a PHQ-9 score of 11 from 2026-03-02, about nobody."""
    defaults: Resource = {
        "status": "final",
        "category": [coded("survey", "http://terminology.hl7.org/CodeSystem/observation-category")],
        "code": coded("44261-6"),
        "effectiveDateTime": "2026-03-02T09:30:00Z",
        "valueQuantity": quantity(11, "{score}"),
    }
    return resource("Observation", defaults, changes)


def encounter(**changes: Any) -> Resource:
    """Return an Encounter: a finished ambulatory visit of three hours on 2026-03-02."""
    defaults: Resource = {
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "AMB"},
        "period": {"start": "2026-03-02T09:00:00Z", "end": "2026-03-02T12:00:00Z"},
    }
    return resource("Encounter", defaults, changes)


def medication_request(subject: str | Resource, **changes: Any) -> Resource:
    """Return a MedicationRequest: an active order of sertraline for `subject`."""
    defaults: Resource = {
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": coded("312940", "http://www.nlm.nih.gov/research/umls/rxnorm"),
        "subject": reference(subject),
        "authoredOn": "2026-03-02",
    }
    return resource("MedicationRequest", defaults, changes)


def bundle(bundle_type: str, *entries: Resource) -> Resource:
    """Return a Bundle of that type with these entries."""
    return resource("Bundle", {"type": bundle_type, "entry": list(entries) or None}, {})


def transaction(*entries: Resource) -> Resource:
    """Return a transaction Bundle with these entries."""
    return bundle("transaction", *entries)


def batch(*entries: Resource) -> Resource:
    """Return a batch Bundle with these entries."""
    return bundle("batch", *entries)


def post(body: Resource, full_url: str | None = None, **request: Any) -> Resource:
    """Return a Bundle entry that creates `body`; `ifNoneExist=...` makes it conditional."""
    return entry("POST", body["resourceType"], body, full_url, **request)


def put(body: Resource, full_url: str | None = None, **request: Any) -> Resource:
    """Return a Bundle entry that updates `body`; `ifMatch='W/"1"'` makes it conditional."""
    return entry("PUT", f"{body['resourceType']}/{body['id']}", body, full_url, **request)


def delete(url: str, **request: Any) -> Resource:
    """Return a Bundle entry that deletes what `url` names."""
    return entry("DELETE", url, **request)


def get(url: str, **request: Any) -> Resource:
    """Return a Bundle entry that reads or searches."""
    return entry("GET", url, **request)


def entry(
    method: str,
    url: str,
    body: Resource | None = None,
    full_url: str | None = None,
    **request: Any,
) -> Resource:
    """Return a Bundle entry that asks for `method url`."""
    made: Resource = {"request": {"method": method, "url": url, **request}}
    if full_url:
        made["fullUrl"] = full_url
    if body:
        made["resource"] = body
    return made
