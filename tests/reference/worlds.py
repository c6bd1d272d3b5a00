"""Small worlds in which things meet, out of the numbers that Hypothesis draws.

A number stands for a resource, so that drawing a world is quick and leaving out a resource makes
it smaller. Values come from small pools, references lead to what was made before. So the order of
the resources is the order of their creation, whatever a server does with references to what is
not there yet.
"""

from collections.abc import Callable, Sequence
from random import Random
from string import ascii_lowercase, digits
from typing import Any

from tests.conftest import BASE_URL
from tests.support.resources import ACT_CODE, UCUM, reference

Body = dict[str, Any]

CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
FORMS = "http://example.org/Questionnaire/"
ELSEWHERE = "http://other.example/fhir/Patient/p1"

DAYS = ("2020", "2020-02", "2020-02-29", "2021-06-30")
MOMENTS = ("2020-02-29T12:00:00Z", "2020-03-01T01:30:00.5+02:00")
PERIODS = (
    {"start": "2020-02-29"},
    {"end": "2020-03-01"},
    {"start": "2020-01-01T00:00:00Z", "end": "2020-02-29"},
    {"start": "2020-02-29T10:00:00Z", "end": "2020-02-29T13:00:00Z"},
)
UNITS: tuple[Body, ...] = (
    {},
    {"unit": "mg"},
    {"unit": "mg", "system": UCUM, "code": "mg"},
    {"unit": "mg", "system": UCUM, "code": "mg"},
    {"unit": "gram", "system": UCUM, "code": "g"},
    {"unit": "°C", "system": UCUM, "code": "Cel"},
    {"unit": "mg", "system": "urn:a", "code": "mg"},
)
ORDINALS = digits + ascii_lowercase
LENGTHS = (
    {"value": 90, "unit": "min", "system": UCUM, "code": "min"},
    {"value": 1.5, "unit": "hours", "system": UCUM, "code": "h"},
    {"value": 3, "unit": "hours", "system": UCUM, "code": "h"},
)
PROFILES = ("http://example.org/p|1", "http://example.org/p", "http://example.org/q/r")


def present(elements: Body) -> Body:
    """Return the elements that have a value; a name that Python reserves ends in `_`."""
    return {n.removesuffix("_"): v for n, v in elements.items() if v not in (None, [], {})}


class Dice:
    """Choices that a number decides, about resources that may refer to those of a world."""

    def __init__(self, seed: object, world: Sequence[Body] = ()) -> None:
        self.random = Random(str(seed))
        self.places = [f"{one['resourceType']}/{one['id']}" for one in world]

    def one(self, *options: Any) -> Any:
        """Return one of the options."""
        return self.random.choice(options)

    def maybe(self, *options: Any) -> Any:
        """Return one of the options, or None."""
        return self.one(None, *options) if options else None

    def few(self, make: Callable[[], Any], most: int = 2) -> list[Any]:
        """Return some values, or none."""
        return [make() for _ in range(self.random.randint(0, most))]

    def coding(self) -> Body:
        """Return a Coding."""
        return present(
            {
                "system": self.one("urn:a", "urn:a", "urn:b", ACT_CODE, None),
                "code": self.one("one", "one", "One", "two", "a,b"),
                "display": self.maybe("Note"),
            }
        )

    def concept(self) -> Body:
        """Return a CodeableConcept."""
        codings = [self.coding() for _ in range(self.one(1, 1, 2))]
        return present({"coding": codings, "text": self.maybe("a note")})

    def identifier(self) -> Body:
        """Return an Identifier."""
        record = {"coding": [{"system": TYPES, "code": "MR"}], "text": "Record"}
        return present(
            {
                "type": self.maybe(record),
                "system": self.maybe("urn:a", "urn:b"),
                "value": self.one("1", "x-1", "X-1"),
            }
        )

    def name(self) -> Body:
        """Return a HumanName."""
        return present(
            {
                "family": self.one("Marsh", "márşh", "Vale", "O'Neil"),
                "given": self.few(lambda: self.one("Ada", "Bo")),
                "text": self.maybe("Dr Vale"),
            }
        )

    def address(self) -> Body:
        """Return an Address."""
        lines = self.few(lambda: self.one("1 High Street", "York Road"))
        return present({"city": self.one("York", "Yonkers"), "line": lines})

    def quantity(self) -> Body:
        """Return a Quantity."""
        value = self.one(5, 5.4, 5.45, 0.005, 0.0054, 5000)
        comparator = self.one(None, None, None, "<", ">=")
        return present({"value": value, "comparator": comparator, **self.one(*UNITS)})

    def value(self) -> Body:
        """Return value[x] of an Observation."""
        found: Body = self.one(
            {},
            {"valueQuantity": self.quantity()},
            {"valueQuantity": self.quantity()},
            {"valueCodeableConcept": self.concept()},
            {"valueString": self.one("Feels better", "better")},
        )
        return found

    def link(self, *types: str, also: Sequence[str] = ()) -> Body:
        """Return a Reference: mostly to something in the world."""
        known = [place for place in self.places if place.split("/")[0] in types]
        told = {"identifier": {"system": "urn:a", "value": "1"}}
        far = [f"{BASE_URL}/{place}" for place in known]
        texts = [*known * 4, *far, f"{types[0]}/nobody", *also]
        found: Body = self.one(*map(reference, texts), *[told] * (1 + len(known)))
        return found

    def links(self, *types: str) -> list[Body]:
        """Return some References."""
        return self.few(lambda: self.link(*types))

    def meta(self) -> Body:
        """Return the Meta of a resource."""
        if self.one(True, False):
            return {}
        return present(
            {
                "tag": self.few(self.coding),
                "security": self.few(self.coding, 1),
                "profile": self.few(lambda: self.one(*PROFILES)),
            }
        )


def organization(dice: Dice) -> Body:
    return {
        "name": dice.one("The Clinic", "Clinic", "Vale"),
        "alias": dice.few(lambda: dice.one("Riverside", "vale")),
        "active": dice.maybe(True, False),
        "partOf": dice.maybe(dice.link("Organization")),
        "type": dice.few(dice.concept, 1),
    }


def practitioner(dice: Dice) -> Body:
    return {
        "name": dice.few(dice.name),
        "gender": dice.maybe("male", "female"),
        "identifier": dice.few(dice.identifier),
    }


def location(dice: Dice) -> Body:
    return {
        "name": dice.maybe("Ward", "Room"),
        "partOf": dice.maybe(dice.link("Location"), dice.link("Location")),
        "address": dice.maybe(dice.address()),
        "managingOrganization": dice.maybe(dice.link("Organization")),
        "status": dice.maybe("active", "inactive"),
    }


def patient(dice: Dice) -> Body:
    return {
        "active": dice.maybe(True, False),
        "name": dice.few(dice.name),
        "gender": dice.maybe("male", "female"),
        "birthDate": dice.maybe(*DAYS),
        "identifier": dice.few(dice.identifier),
        "address": dice.few(dice.address),
        "communication": dice.few(lambda: {"language": dice.concept()}),
        "telecom": dice.few(
            lambda: dice.one(
                {"system": "phone", "value": "555"}, {"system": "email", "value": "A@b"}
            )
        ),
        **dice.one({}, {"deceasedBoolean": dice.one(True, False)}, {"deceasedDateTime": "2021"}),
        "generalPractitioner": dice.links("Practitioner", "Organization"),
        "managingOrganization": dice.maybe(dice.link("Organization")),
    }


def questionnaire(dice: Dice) -> Body:
    return {
        "status": dice.one("draft", "active"),
        "url": dice.maybe(FORMS + "phq", FORMS + "gad"),
        "version": dice.maybe("1", "2"),
        "title": dice.maybe("Mood", "mood swings"),
    }


def encounter(dice: Dice) -> Body:
    return {
        "status": dice.one("finished", "planned"),
        "class_": dice.coding(),
        "period": dice.maybe(*PERIODS),
        "length": dice.maybe(*LENGTHS),
        "subject": dice.maybe(dice.link("Patient"), dice.link("Patient")),
        "serviceProvider": dice.maybe(dice.link("Organization")),
        "location": dice.few(lambda: {"location": dice.link("Location")}),
        "participant": dice.few(lambda: {"individual": dice.link("Practitioner")}),
    }


def condition(dice: Dice) -> Body:
    age = {"value": dice.one(30, 31), "unit": "years", "system": UCUM, "code": "a"}
    return {
        "code": dice.maybe(dice.concept()),
        "subject": dice.link("Patient", also=[ELSEWHERE]),
        "encounter": dice.maybe(dice.link("Encounter")),
        "asserter": dice.maybe(dice.link("Practitioner", "Patient")),
        "clinicalStatus": dice.maybe({"coding": [{"system": CLINICAL, "code": "active"}]}),
        **dice.one(
            {},
            {"onsetDateTime": dice.one(*DAYS)},
            {"onsetPeriod": dice.one(*PERIODS)},
            {"onsetString": "in spring"},
            {"onsetAge": age},
        ),
        "recordedDate": dice.maybe(*DAYS),
    }


def observation(dice: Dice) -> Body:
    code = dice.concept()
    parts = dice.few(lambda: {"code": dice.concept(), **dice.value()}, 3)
    told = [coding for part in parts for coding in part["code"]["coding"]]
    # The invariant obs-7: what a component tells is not told twice
    value = dice.one(dice.value(), dice.value(), {"valueDateTime": "2020-02-29"})
    return {
        "status": dice.one("final", "amended"),
        "code": code,
        "category": dice.few(dice.concept, 1),
        "component": parts,
        **({} if any(coding in told for coding in code["coding"]) else value),
        "subject": dice.maybe(dice.link("Patient"), dice.link("Patient", "Location")),
        **dice.one(
            {},
            {"effectiveDateTime": dice.one(*DAYS, *MOMENTS)},
            {"effectivePeriod": dice.one(*PERIODS)},
        ),
        "encounter": dice.maybe(dice.link("Encounter")),
        "hasMember": dice.links("Observation"),
        "performer": dice.links("Practitioner", "Organization", "Patient"),
    }


def risk_assessment(dice: Dice) -> Body:
    likely: tuple[Body, ...] = (
        {"probabilityDecimal": dice.one(0.8, 0.85, 1e-1)},
        {"probabilityRange": {"low": {"value": 70, "unit": "%", "system": UCUM, "code": "%"}}},
        {},
    )
    return {
        "status": dice.one("final", "amended"),
        "subject": dice.link("Patient"),
        "encounter": dice.maybe(dice.link("Encounter")),
        "basis": dice.links("Observation", "Condition"),
        "prediction": dice.few(lambda: {"outcome": dice.concept(), **dice.one(*likely)}),
    }


def questionnaire_response(dice: Dice) -> Body:
    forms = [*(FORMS + form for form in ("phq", "phq|1", "phq|2", "gad"))]
    return {
        "status": dice.one("completed", "amended"),
        "questionnaire": dice.maybe(*forms, f"{BASE_URL}/Questionnaire/q0"),
        "subject": dice.maybe(dice.link("Patient")),
        "author": dice.maybe(dice.link("Practitioner", "Patient")),
        "authored": dice.maybe(*MOMENTS),
        "encounter": dice.maybe(dice.link("Encounter")),
    }


def list_(dice: Dice) -> Body:
    return {
        "status": "current",
        "mode": "working",
        "title": dice.maybe("Panel", "panel two"),
        "code": dice.maybe(dice.concept()),
        "subject": dice.maybe(dice.link("Patient")),
        "date": dice.maybe(*MOMENTS),
        "entry": dice.few(lambda: {"item": dice.link("Patient", "Observation", "Condition")}, 3),
    }


# In the order of their creation: a type refers to those above it and to itself
MAKERS: dict[str, tuple[str, Callable[[Dice], Body]]] = {
    "Organization": ("g", organization),
    "Practitioner": ("d", practitioner),
    "Location": ("l", location),
    "Patient": ("p", patient),
    "Questionnaire": ("q", questionnaire),
    "Encounter": ("e", encounter),
    "Condition": ("c", condition),
    "Observation": ("o", observation),
    "RiskAssessment": ("k", risk_assessment),
    "QuestionnaireResponse": ("r", questionnaire_response),
    "List": ("z", list_),
}


def made(numbers: Sequence[tuple[str, int]]) -> list[Body]:
    """Return the world of these types and numbers."""
    world: list[Body] = []
    for type, (letter, make) in MAKERS.items():
        for n, seed in enumerate(number for own, number in numbers if own == type):
            dice = Dice(seed, world)
            elements = {"id": letter + ORDINALS[n], "meta": dice.meta(), **make(dice)}
            world.append({"resourceType": type, **present(elements)})
    return world
