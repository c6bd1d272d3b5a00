"""What R4 does not allow is refused at the door, all of it at once, with the element named.

https://hl7.org/fhir/R4/json.html, https://hl7.org/fhir/R4/conformance-rules.html and
https://hl7.org/fhir/R4/operationoutcome.html
"""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.replies import outcome
from tests.support.resources import (
    coded,
    encounter,
    medication_request,
    observation,
    patient,
    quantity,
    reference,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A resource, and what is wrong with it: (issue type, element). Nothing: it is accepted."""

    body: Json
    wrong: tuple[tuple[str, str], ...] = ()


def extended(**value: Any) -> Json:
    """Return an extension of an element."""
    return {"extension": [{"url": "https://example.org/e", **value}]}


REASON = extended(valueString="not asked")
CONTAINED = {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Vale"}]}

ELEMENTS = {
    "an unknown element": Case(patient(shoeSize=44), (("structure", "Patient.shoeSize"),)),
    "an unknown element deep inside": Case(
        patient(contact=[{"name": {"family": "A", "nick": "B"}}]),
        (("structure", "Patient.contact[0].name.nick"),),
    ),
    "an element of another type": Case(
        patient(name=[{"family": 5}]), (("structure", "Patient.name[0].family"),)
    ),
    "a boolean as text": Case(patient(active="true"), (("structure", "Patient.active"),)),
    "a number as text": Case(
        observation(valueQuantity={"value": "11"}), (("structure", "Observation.value.value"),)
    ),
    "an object where a text belongs": Case(
        patient(gender={"code": "male"}), (("structure", "Patient.gender"),)
    ),
    "a single object where an array belongs": Case(
        patient(name={"family": "Marsh"}), (("structure", "Patient.name"),)
    ),
    "an array where a single object belongs": Case(
        observation(code=[{"text": "a"}]), (("structure", "Observation.code"),)
    ),
    "a required element is missing": Case(
        observation(status=None), (("required", "Observation.status"),)
    ),
    "a required element is missing inside": Case(
        patient(link=[{"type": "seealso"}]), (("required", "Patient.link[0].other"),)
    ),
    "a required choice is missing": Case(
        medication_request("Patient/a", medicationCodeableConcept=None),
        (("required", "MedicationRequest.medication"),),
    ),
    "a required element with an extension alone is there": Case(
        observation(status=None, _status=REASON)
    ),
    "an empty array": Case(patient(name=[]), (("structure", "Patient.name"),)),
    "an empty object": Case(patient(maritalStatus={}), (("structure", "Patient.maritalStatus"),)),
    "an object with an id alone": Case(
        patient(maritalStatus={"id": "x"}), (("structure", "Patient.maritalStatus"),)
    ),
    "an empty text": Case(
        patient(name=[{"family": ""}]), (("structure", "Patient.name[0].family"),)
    ),
    "a blank text": Case(patient(name=[{"family": "  "}]), (("value", "Patient.name[0].family"),)),
    "null": Case(patient(gender=None) | {"gender": None}, (("structure", "Patient.gender"),)),
}
CHOICES = {
    "one type of a choice": Case(patient(multipleBirthInteger=2)),
    "two types of a choice": Case(
        patient(multipleBirthInteger=2, multipleBirthBoolean=True),
        (("structure", "Patient.multipleBirth"),),
    ),
    "a value beside the extension of another type": Case(
        patient(deceasedBoolean=True, _deceasedDateTime=REASON),
        (("structure", "Patient.deceased"),),
    ),
    "a value beside its own extension": Case(
        patient(deceasedBoolean=True, _deceasedBoolean=REASON)
    ),
    "a type that the choice does not have": Case(
        patient(multipleBirthString="two"), (("structure", "Patient.multipleBirthString"),)
    ),
    "the choice without a type": Case(
        observation(valueQuantity=None, value={"value": 1}), (("structure", "Observation.value"),)
    ),
}
NULLS = {
    "a null beside an extension at its place": Case(
        patient(name=[{"given": ["Ada", None], "_given": [None, REASON]}])
    ),
    "a null without an extension at its place": Case(
        patient(name=[{"given": ["Ada", None], "_given": [REASON, None]}]),
        (("structure", "Patient.name[0].given[1]"),),
    ),
    "a null without any extension": Case(
        patient(name=[{"given": ["Ada", None]}]), (("structure", "Patient.name[0].given[1]"),)
    ),
    "arrays of different length": Case(
        patient(name=[{"given": ["Ada"], "_given": [None, REASON]}]),
        (("structure", "Patient.name[0].given"),),
    ),
    "an extension without a value": Case(patient(gender=None, _gender=REASON)),
    "the extension of an element that is no primitive": Case(
        patient(_name=[REASON]), (("structure", "Patient._name"),)
    ),
    "a property of an extension's shadow that it does not have": Case(
        patient(_gender={"value": "male"}), (("structure", "Patient.gender.value"),)
    ),
}
BINDINGS = {
    "a code outside a required value set": Case(
        patient(gender="f"), (("code-invalid", "Patient.gender"),)
    ),
    "a code of a required value set in capitals": Case(
        patient(gender="Female"), (("code-invalid", "Patient.gender"),)
    ),
    "a code outside an extensible value set": Case(
        patient(maritalStatus=coded("rumoured", "https://example.org/marital"))
    ),
    "a required binding deep inside": Case(
        patient(telecom=[{"system": "phone"}, {"system": "pager"}, {"system": "telegraph"}]),
        (("code-invalid", "Patient.telecom[2].system"),),
    ),
}
REFERENCES = {
    "a type that the element does not allow": Case(
        observation(subject=reference("Practitioner/a")),
        (("value", "Observation.subject.reference"),),
    ),
    "a type that the element does not allow, as an absolute URL": Case(
        encounter(subject={"reference": "https://example.org/fhir/Medication/1"}),
        (("value", "Encounter.subject.reference"),),
    ),
    "a name that is no type": Case(
        observation(subject=reference("Person_/a")), (("value", "Observation.subject.reference"),)
    ),
    "a declared type that the element does not allow": Case(
        observation(subject={"type": "Slot", "display": "x"}),
        (("value", "Observation.subject.reference"),),
    ),
    "a declared type that is not that of the reference": Case(
        observation(subject={"type": "Group", "reference": "Patient/a"}),
        (("value", "Observation.subject.reference"),),
    ),
    "any type where all are allowed": Case(
        {"resourceType": "Basic", "code": {"text": "x"}, "subject": reference("Slot/1")}
    ),
    "a target that is not there": Case(observation(subject=reference("Patient/nobody"))),
    "a version": Case(observation(subject=reference("Patient/a/_history/3"))),
    "an urn": Case(observation(subject=reference("urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"))),
    "a display alone": Case(observation(subject={"display": "somebody"})),
    "a contained resource": Case(observation(contained=[CONTAINED], performer=[reference("#dr")])),
    "a contained resource of a wrong type": Case(
        observation(contained=[CONTAINED], subject=reference("#dr")),
        (("value", "Observation.subject.reference"),),
    ),
}
VALUES = {
    "a day that is none": Case(patient(birthDate="2023-02-29"), (("value", "Patient.birthDate"),)),
    "a date with a time": Case(
        patient(birthDate="2023-02-28T00:00:00Z"), (("value", "Patient.birthDate"),)
    ),
    "a time without a zone": Case(
        observation(effectiveDateTime="2026-03-02T09:30:00"),
        (("value", "Observation.effective"),),
    ),
    "an integer with a fraction": Case(
        patient(multipleBirthInteger=1.5), (("structure", "Patient.multipleBirth"),)
    ),
    "an integer beyond 32 bits": Case(
        patient(multipleBirthInteger=2**31), (("value", "Patient.multipleBirth"),)
    ),
    "a positive number that is zero": Case(
        patient(telecom=[{"value": "1", "rank": 0}]), (("value", "Patient.telecom[0].rank"),)
    ),
    "base64 that is none": Case(
        patient(photo=[{"data": "a"}]), (("value", "Patient.photo[0].data"),)
    ),
    "a uri with a space": Case(
        patient(identifier=[{"system": "a b"}]), (("value", "Patient.identifier[0].system"),)
    ),
    "a code with a space at its end": Case(
        observation(valueQuantity=quantity(1, "kg ")), (("value", "Observation.value.code"),)
    ),
    "an id with an underscore": Case(patient(id="a_b"), (("value", "Patient.id"),)),
    "an id of 65 characters": Case(patient(id="a" * 65), (("value", "Patient.id"),)),
    "an id that is a number": Case(patient(id=7), (("structure", "Patient.id"),)),
    "a contained id that is none": Case(
        observation(contained=[{**CONTAINED, "id": "d_r"}], performer=[reference("#d_r")]),
        (("value", "Observation.contained[0].id"),),
    ),
}
INVARIANTS = {
    "pat-1, a contact without details": Case(
        patient(contact=[{"gender": "male"}]), (("invariant", "Patient.contact[0]"),)
    ),
    "per-1, a period that ends before it starts": Case(
        encounter(period={"start": "2026-03-02", "end": "2026-03-01"}),
        (("invariant", "Encounter.period"),),
    ),
    "obs-6, a value and a reason for its absence": Case(
        observation(dataAbsentReason={"text": "x"}), (("invariant", "Observation"),)
    ),
    "obs-7, a component with the code of the whole": Case(
        observation(component=[{"code": coded("44261-6"), "valueInteger": 1}]),
        (("invariant", "Observation"),),
    ),
    "qty-3, a unit without a system": Case(
        observation(valueQuantity={"value": 1, "code": "kg"}),
        (("invariant", "Observation.value"),),
    ),
    "ext-1, an extension with extensions and a value": Case(
        patient(extension=[{"url": "u", "valueString": "x", **extended(valueString="y")}]),
        (("invariant", "Patient.extension[0]"),),
    ),
    "ext-1, an extension with neither": Case(
        patient(extension=[{"url": "u"}]), (("invariant", "Patient.extension[0]"),)
    ),
    "cpt-2, a contact point without a system": Case(
        patient(telecom=[{"value": "1"}]), (("invariant", "Patient.telecom[0]"),)
    ),
    "dom-3, a contained resource that nothing refers to": Case(
        observation(contained=[CONTAINED]), (("invariant", "Observation"),)
    ),
    "dom-2 and dom-3, a contained resource that contains one": Case(
        observation(
            contained=[{**CONTAINED, "contained": [{"resourceType": "Location", "id": "l"}]}],
            performer=[reference("#dr")],
        ),
        (("invariant", "Observation.contained[0]"), ("invariant", "Observation")),
    ),
    "ref-1, a reference to nothing contained": Case(
        observation(performer=[reference("#nobody")]),
        (("invariant", "Observation.performer[0].reference"),),
    ),
    "txt-1, a narrative with a script": Case(
        patient(
            text={
                "status": "generated",
                "div": '<div xmlns="http://www.w3.org/1999/xhtml"><script>x</script></div>',
            }
        ),
        (("invariant", "Patient.text.div"),),
    ),
    "txt-2, a narrative without content": Case(
        patient(
            text={"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml"> </div>'}
        ),
        (("invariant", "Patient.text.div"),),
    ),
}


async def found(client: httpx.AsyncClient, cases: dict[str, Case]) -> dict[str, Any]:
    """Return what is refused of each case, after nothing of the refused ones was stored."""
    replies = {
        name: await client.post(f"/{case.body['resourceType']}", json=case.body)
        for name, case in cases.items()
    }
    stored = (await client.get("/_history?_count=1000")).json().get("entry", [])
    assert len(stored) == sum(reply.status_code == 201 for reply in replies.values())
    return {name: refusals(reply) for name, reply in replies.items()}


def refusals(reply: httpx.Response) -> tuple[tuple[str, str], ...]:
    """Return (issue type, element) of each issue of a refusal, nothing for a success."""
    if reply.status_code == 201:
        return ()
    assert reply.status_code in (400, 422), reply.text
    return tuple((i["code"], i.get("expression", [""])[0]) for i in outcome(reply)["issue"])


def expected(cases: dict[str, Case]) -> dict[str, Any]:
    """Return what each case must be refused for."""
    return {name: case.wrong for name, case in cases.items()}


async def test_elements_are_known_of_their_type_and_as_often_as_allowed(
    client: httpx.AsyncClient,
) -> None:
    assert await found(client, ELEMENTS) == expected(ELEMENTS)


async def test_a_choice_has_one_type(client: httpx.AsyncClient) -> None:
    assert await found(client, CHOICES) == expected(CHOICES)


async def test_a_null_stands_for_a_value_with_an_extension(client: httpx.AsyncClient) -> None:
    assert await found(client, NULLS) == expected(NULLS)


async def test_codes_belong_to_the_value_set_of_a_required_binding(
    client: httpx.AsyncClient,
) -> None:
    assert await found(client, BINDINGS) == expected(BINDINGS)


async def test_references_point_at_types_that_the_element_allows(
    client: httpx.AsyncClient,
) -> None:
    assert await found(client, REFERENCES) == expected(REFERENCES)


async def test_values_are_of_the_form_of_their_type(client: httpx.AsyncClient) -> None:
    assert await found(client, VALUES) == expected(VALUES)


async def test_invariants_hold(client: httpx.AsyncClient) -> None:
    assert await found(client, INVARIANTS) == expected(INVARIANTS)


async def test_every_problem_is_reported_at_once_in_the_order_of_the_resource(
    client: httpx.AsyncClient,
) -> None:
    wrong = {
        "resourceType": "Patient",
        "shoeSize": 44,
        "name": [{"family": "Marsh"}, {"family": 5, "given": []}],
        "gender": "f",
        "birthDate": "1985-13-12",
        "link": [{"type": "seealso"}],
        "managingOrganization": {"reference": "Practitioner/1"},
    }

    reply = await client.post("/Patient", json=wrong)

    assert [(i["code"], i["expression"][0]) for i in outcome(reply)["issue"]] == [
        ("structure", "Patient.shoeSize"),
        ("structure", "Patient.name[1].family"),
        ("structure", "Patient.name[1].given"),
        ("code-invalid", "Patient.gender"),
        ("value", "Patient.birthDate"),
        ("required", "Patient.link[0].other"),
        ("value", "Patient.managingOrganization.reference"),
    ]
    assert {issue["severity"] for issue in outcome(reply)["issue"]} == {"error"}


async def test_a_broken_rule_is_422_and_a_broken_form_is_400(client: httpx.AsyncClient) -> None:
    rule = await client.post("/Patient", json=patient(gender="f"))
    form = await client.post("/Patient", json=patient(shoeSize=44))
    both = await client.post("/Patient", json=patient(gender="f", shoeSize=44))

    assert [rule.status_code, form.status_code, both.status_code] == [422, 400, 400]


async def test_an_issue_never_quotes_what_the_resource_says(client: httpx.AsyncClient) -> None:
    secret = "Sertraline-50"
    wrong = patient(
        gender=secret,
        birthDate=secret,
        name=[{"family": [secret]}],
        identifier=[{"system": secret + " x"}],
        managingOrganization={"reference": secret},
        photo=[{"data": secret}],
    )

    reply = await client.post("/Patient", json=wrong)

    assert len(outcome(reply)["issue"]) == 6
    assert secret not in reply.text


async def test_an_update_is_checked_as_a_create_is(client: httpx.AsyncClient) -> None:
    stored = await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.put("/Patient/a", json=patient(id="a", gender="f", shoeSize=44))

    assert refusals(reply) == (
        ("code-invalid", "Patient.gender"),
        ("structure", "Patient.shoeSize"),
    )
    assert (await client.get("/Patient/a")).content == stored.content


async def test_the_issues_of_one_answer_are_limited(client: httpx.AsyncClient) -> None:
    names = [{"family": 5} for _ in range(20_000)]

    reply = await client.post("/Patient", json=patient(name=names))

    issues = outcome(reply)["issue"]
    assert reply.status_code == 400
    assert len(issues) < 1000
    assert issues[0]["expression"] == ["Patient.name[0].family"]
    assert issues[-1]["code"] == "too-costly"
