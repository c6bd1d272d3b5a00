"""The patients of a synthetic program, drawn at random, and what is known of them at intake.

Their distribution is a guess at an American outpatient program, not a study of one.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import TypeVar

from app.domain.vocabulary import (
    DIMENSION,
    ICD10,
    LEVEL,
    MEASURE,
    POPULATION,
    SNOMED,
    Vocabulary,
)
from app.fhir.wire import Resource

LOINC = "http://loinc.org"
CONDITION_CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
CONTACT_ROLE = "http://terminology.hl7.org/CodeSystem/v2-0131"
ROLE_CODE = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
SOPT = "https://nahdo.org/sopt"
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition"
OMB = "urn:oid:2.16.840.1.113883.6.238"
MEMBER = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MB"}
SURVEY = [{"coding": [{"system": OBSERVATION_CATEGORY, "code": "survey"}]}]


# Names, with spaces between
MALE = (
    "Aaron Adrian Andre Anthony Brian Caleb Carlos Daniel Darius David Derek Diego Dwayne Eli "
    "Eric Ethan Felix Gabriel George Hector Ian Isaac Jamal James Jason Joel Jose Joshua Kevin "
    "Kyle Liam Luis Malik Marco Mateo Miguel Nathan Nelson Oscar Pablo Peter Rafael Ravi Raymond "
    "Ricardo Robert Ryan Samuel Sean Simon Terrence Thomas Tyler Victor Vincent Walter Wesley "
    "William Xavier"
)
FEMALE = (
    "Abigail Alicia Amara Amber Angela Anita Ashley Bianca Brenda Camila Carmen Chloe Christina "
    "Dana Denise Diana Elena Emily Erica Esther Fatima Gloria Hannah Helen Ingrid Irene Jada "
    "Jasmine Jenna Julia Karen Kayla Keisha Laura Leah Linda Lucia Maria Marisol Megan Mei Monica "
    "Naomi Natalie Nicole Olivia Paula Priya Rachel Rosa Ruth Sara Sofia Tamara Teresa Valerie "
    "Vanessa Yesenia Yvonne Zoe"
)
FAMILIES = (
    "Adams Aguilar Allen Baker Barnes Bennett Brooks Brown Bryant Butler Campbell Carter Castro "
    "Chavez Clark Coleman Collins Cooper Cruz Davis Diaz Dominguez Edwards Ellis Evans Fisher "
    "Flores Foster Garcia Gomez Gonzalez Gray Green Griffin Hall Harris Henderson Hernandez Hill "
    "Howard Jackson Jenkins Johnson Jones Jordan Kelly Kim King Lee Lewis Long Lopez Martin "
    "Martinez Mendoza Miller Mitchell Moore Morales Morgan Morris Murphy Myers Nelson Nguyen "
    "Ortiz Parker Patel Perez Perry Peterson Phillips Powell Price Ramirez Ramos Reed Reyes "
    "Richardson Roberts Robinson Rodriguez Rogers Ross Russell Sanchez Sanders Scott Shah "
    "Simmons Smith Stewart Sullivan Taylor Thomas Thompson Torres Tran Turner Vargas Walker Ward "
    "Washington Watson White Williams Wilson Wood Wright Young"
)
STREETS = "Alder Birch Cedar Dogwood Elm Fir Hazel Juniper Larch Maple Oak Pine Spruce Willow"

# Weights are per cent
SEXES = (("male", 63), ("female", 36), ("other", 1))
RACES = (
    (("2106-3", "White"), 55),
    (("2131-1", "Other Race"), 25),
    (("2054-5", "Black or African American"), 14),
    (("2028-9", "Asian"), 6),
)
LANGUAGES = (("en", 88), ("es", 10), ("vi", 2))
PAYERS = (("medicaid", 45), ("commercial", 40), ("medicare", 5), ("", 10))
SOPT_CODES = {"medicaid": "2", "commercial": "5", "medicare": "1"}
ENTRIES = (("direct", 55), ("step-down", 30), ("re-entry", 15))
# ICD-10-CM, SNOMED CT, what it is
SUBSTANCES = (
    (("F10.20", "66590003", "Alcohol dependence, uncomplicated"), 45),
    (("F11.20", "75544000", "Opioid dependence, uncomplicated"), 25),
    (("F15.20", "", "Other stimulant dependence, uncomplicated"), 15),
    (("F12.20", "85005007", "Cannabis dependence, uncomplicated"), 10),
    (("F13.20", "", "Sedative, hypnotic or anxiolytic dependence, uncomplicated"), 5),
)
# Beside it, each on its own
COMORBID = (
    (("F32.A", "", "Depression, unspecified"), 45),
    (("F41.1", "21897009", "Generalized anxiety disorder"), 40),
    (("F43.10", "47505003", "Post-traumatic stress disorder, unspecified"), 20),
    (("F31.9", "", "Bipolar disorder, unspecified"), 7),
    (("F90.9", "", "Attention-deficit hyperactivity disorder, unspecified type"), 10),
)
Diagnosis = tuple[str, str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Person:
    """Who somebody is, and why somebody came."""

    given: str
    family: str
    sex: str
    born: date
    race: tuple[str, str]
    hispanic: bool
    language: str
    payer: str
    entry: str
    diagnoses: tuple[Diagnosis, ...]
    relative: str
    phq9: int
    gad7: int


def chosen(rng: Random, rows: Sequence[tuple[T, float]]) -> T:
    """Return one of the rows by their weights."""
    return rng.choices([one for one, _ in rows], [weight for _, weight in rows])[0]


def person(rng: Random, day: date, population: str) -> Person:
    """Return somebody who comes on a day to a track for a population ("" for adults)."""
    sex = {"women": "female"}.get(population) or chosen(rng, SEXES)
    if population == "adolescents":
        years = rng.randint(13, 16)
    else:
        years = round(min(max(rng.gauss(36, 11), 18), 70))
    born = day - timedelta(days=years * 365.25 + rng.randint(2, 360))
    principal = chosen(rng, SUBSTANCES)
    others = tuple(one for one, weight in COMORBID if rng.random() * 100 < weight)
    race = chosen(rng, RACES)
    family = rng.choice(FAMILIES.split())
    return Person(
        given=rng.choice((MALE if sex == "male" else FEMALE).split()),
        family=family,
        sex=sex,
        born=born,
        race=race,
        hispanic=race[0] == "2131-1",
        language=chosen(rng, LANGUAGES),
        payer=chosen(rng, PAYERS),
        entry=chosen(rng, ENTRIES),
        diagnoses=(principal, *others),
        relative=rng.choice(f"{FEMALE} {MALE}".split()) if rng.random() < 0.55 else "",
        phq9=round(min(max(rng.gauss(13, 5), 0), 27)),
        gad7=round(min(max(rng.gauss(11, 4), 0), 21)),
    )


def record(
    v: Vocabulary, id: str, who: Person, day: date, level: str, populations: Sequence[str]
) -> Iterator[Resource]:
    """Yield what is on record of somebody before the admission on a day."""
    subject = {"reference": f"Patient/{id}"}
    yield patient(id, who)
    if who.relative:
        yield {
            "resourceType": "RelatedPerson",
            "id": f"{id}-relative",
            "active": True,
            "patient": subject,
            "relationship": [{"coding": [{"system": ROLE_CODE, "code": "FAMMEMB"}]}],
            "name": [{"family": who.family, "given": [who.relative]}],
        }
    if who.payer:
        yield coverage(id, who, day)
    yield from (condition(id, n, one, day) for n, one in enumerate(who.diagnoses, 1))
    yield {
        "resourceType": "QuestionnaireResponse",
        "id": f"{id}-intake",
        "questionnaire": f"{v.base}/Questionnaire/intake",
        "status": "completed",
        "subject": subject,
        "authored": f"{day}",
        "item": [{"linkId": "strengths", "answer": [{"valueString": "Keeps appointments"}]}],
    }
    yield from assessment(v, id, day, level)
    yield document(f"{id}-consent", subject, "59284-0", "Consent to treatment", day)
    yield document(f"{id}-notice", subject, "57016-8", "Notice of privacy practices", day)
    yield from (preference(v, id, one, day) for one in populations)
    yield score(id, "phq9", day, who.phq9)
    yield score(id, "gad7", day, who.gad7)


def patient(id: str, who: Person) -> Resource:
    """Return the Patient, with somebody to call in an emergency."""
    code, display = who.race
    ethnicity = ("2135-2", "Hispanic or Latino") if who.hispanic else (
        "2186-5", "Not Hispanic or Latino")  # fmt: skip
    street = Random(id).choice(STREETS.split())
    return {
        "resourceType": "Patient",
        "id": id,
        "extension": [_omb("race", code, display), _omb("ethnicity", *ethnicity)],
        "active": True,
        "name": [{"family": who.family, "given": [who.given]}],
        "telecom": [{"system": "phone", "value": "+1-555-0123", "use": "mobile"}],
        "gender": who.sex,
        "birthDate": f"{who.born}",
        "address": [{"line": [f"{len(id)} {street} Street"], "city": "Cedarville", "state": "CA"}],
        "contact": [
            {
                "relationship": [{"coding": [{"system": CONTACT_ROLE, "code": "C"}]}],
                "name": {"family": who.family, "given": [who.relative or "Robin"]},
                "telecom": [{"system": "phone", "value": "+1-555-0124"}],
            }
        ],
        "communication": [
            {"language": {"coding": [{"system": "urn:ietf:bcp:47", "code": who.language}]},
             "preferred": True}
        ],
    }  # fmt: skip


def _omb(name: str, code: str, display: str) -> Resource:
    coding = {"system": OMB, "code": code, "display": display}
    inner = [{"url": "ombCategory", "valueCoding": coding}, {"url": "text", "valueString": display}]
    return {"url": f"{US_CORE}/us-core-{name}", "extension": inner}


def coverage(id: str, who: Person, day: date) -> Resource:
    """Return what pays for somebody."""
    return {
        "resourceType": "Coverage",
        "id": f"{id}-coverage",
        "identifier": [{"type": {"coding": [MEMBER]}, "value": f"M-{id}"}],
        "status": "active",
        "type": {"coding": [{"system": SOPT, "code": SOPT_CODES[who.payer]}]},
        "beneficiary": {"reference": f"Patient/{id}"},
        "period": {"start": f"{day.replace(month=1, day=1)}"},
        "payor": [{"reference": f"Organization/payer-{who.payer}"}],
    }


def condition(id: str, n: int, diagnosis: Diagnosis, day: date) -> Resource:
    """Return a problem of somebody, in ICD-10-CM and, where it is known, in SNOMED CT."""
    icd, snomed, text = diagnosis
    codes = [{"system": ICD10, "code": icd, "display": text}]
    codes += [{"system": SNOMED, "code": snomed}] if snomed else []
    listed = {"system": CONDITION_CATEGORY, "code": "problem-list-item"}
    return {
        "resourceType": "Condition",
        "id": f"{id}-problem-{n}",
        "clinicalStatus": {"coding": [{"system": CLINICAL, "code": "active"}]},
        "verificationStatus": {"coding": [{"system": VERIFICATION, "code": "confirmed"}]},
        "category": [{"coding": [listed]}],
        "code": {"coding": codes, "text": text},
        "subject": {"reference": f"Patient/{id}"},
        "recordedDate": f"{day}",
        "recorder": {"reference": "PractitionerRole/psychiatrist-1"},
    }


def assessment(v: Vocabulary, id: str, day: date, level: str) -> Iterator[Resource]:
    """Yield a multidimensional assessment: five rated dimensions, the sixth, and the level."""
    told = {
        "resourceType": "Observation",
        "status": "final",
        "category": SURVEY,
        "subject": {"reference": f"Patient/{id}"},
        "effectiveDateTime": f"{day}",
        "performer": [{"reference": "PractitionerRole/therapist-1"}],
    }
    names = [f"{id}-asam-{n}" for n in range(1, 7)]
    for n, name in enumerate(names, 1):
        rating = v.concept("iop-asam-rating", "2" if n in (4, 5) else "1")
        code = v.concept(DIMENSION, f"4-d{n}")
        yield {**told, "id": name, "code": code, "valueCodeableConcept": rating}
    yield {
        **told,
        "id": f"{id}-asam",
        "code": v.concept(DIMENSION, "4-overall"),
        "valueCodeableConcept": v.concept(LEVEL, level),
        "hasMember": [{"reference": f"Observation/{name}"} for name in names],
    }


def document(id: str, subject: Resource, type: str, title: str, day: date) -> Resource:
    """Return a signed document."""
    data = b64encode(f"{title}. A synthetic document.".encode()).decode()
    return {
        "resourceType": "DocumentReference",
        "id": id,
        "status": "current",
        "docStatus": "final",
        "type": {"coding": [{"system": LOINC, "code": type}], "text": title},
        "subject": subject,
        "date": f"{day}T08:00:00Z",
        "content": [{"attachment": {"contentType": "text/plain", "data": data, "title": title}}],
    }


def preference(v: Vocabulary, id: str, population: str, day: date) -> Resource:
    """Return that somebody has asked for a group of a population: that is never inferred."""
    return {
        "resourceType": "Observation",
        "id": f"{id}-prefers-{population}",
        "status": "final",
        "category": SURVEY,
        "code": v.concept(MEASURE, "population-preference"),
        "subject": {"reference": f"Patient/{id}"},
        "effectiveDateTime": f"{day}",
        "valueCodeableConcept": v.concept(POPULATION, population),
    }


# Scores of questionnaires: LOINC code and highest value
SCORES = {
    "phq9": ("44261-6", "PHQ-9 total score", 27),
    "gad7": ("70274-6", "GAD-7 total score", 21),
}


def score(id: str, instrument: str, day: date, value: int) -> Resource:
    """Return the score of a questionnaire on a day."""
    code, name, most = SCORES[instrument]
    return {
        "resourceType": "Observation",
        "id": f"{id}-{instrument}-{day}",
        "status": "final",
        "category": SURVEY,
        "code": {"coding": [{"system": LOINC, "code": code}], "text": name},
        "subject": {"reference": f"Patient/{id}"},
        "effectiveDateTime": f"{day}",
        "valueInteger": min(max(value, 0), most),
    }


def refusal(id: str, day: date) -> Resource:
    """Return a Consent that denies every disclosure."""
    scope = {
        "system": "http://terminology.hl7.org/CodeSystem/consentscope",
        "code": "patient-privacy",
    }
    return {
        "resourceType": "Consent",
        "id": f"{id}-refusal",
        "status": "active",
        "scope": {"coding": [scope]},
        "category": [{"coding": [{"system": LOINC, "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{id}"},
        "dateTime": f"{day}",
        "policyRule": {"text": "42 CFR part 2"},
        "provision": {"type": "deny"},
    }
