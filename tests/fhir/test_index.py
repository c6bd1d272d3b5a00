"""What the index holds of a resource, parameter by parameter."""

import json
from decimal import Decimal
from math import cos, radians
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fhir.definitions import Definitions, SearchParameter, load
from app.fhir.index import OTHER_REFERENCES, Indexer, Rows, resolve
from app.fhir.path import parse
from app.fhir.values import ALWAYS, LEAST, MOST, NEVER, parse_date

BASE = "http://localhost:8000/fhir"
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
CANONICAL = "http://unitsofmeasure.org#canonical"
SPECIAL = "http://terminology.hl7.org/CodeSystem/special-values"
VS = "http://example.org/ValueSet/a"
ISSUE = "http://hl7.org/fhir/StructureDefinition/questionnaireresponse-isSubject"
MAIDEN = "http://hl7.org/fhir/StructureDefinition/patient-extensions-Patient-mothersMaidenName"
REFERENCED = {"reference": "Patient/p1"}

Resource = dict[str, Any]


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return load()


@pytest.fixture(scope="module")
def indexer(definitions: Definitions) -> Indexer:
    return Indexer(definitions, BASE)


def of(rows: Rows, table: str, parameter: str) -> list[tuple[Any, ...]]:
    """Return the rows of one parameter without its code, in order."""
    return sorted(row[1:] for row in getattr(rows, table) if row[0] == parameter)


def observation(**elements: Any) -> Resource:
    code = {"coding": [{"system": LOINC, "code": "44261-6"}]}
    return {"resourceType": "Observation", "id": "o1", "status": "final", "code": code} | elements


def patient(**elements: Any) -> Resource:
    return {"resourceType": "Patient", "id": "p1"} | elements


def quantity(value: str, **elements: Any) -> Resource:
    return {"value": Decimal(value), "system": UCUM, "code": "mg"} | elements


def count(value: int) -> Resource:
    return {"value": value}


def component(code: str, value: int) -> Resource:
    return {"code": {"coding": [{"code": code}]}, "valueQuantity": count(value)}


def location(**position: Any) -> Resource:
    return {"resourceType": "Location", "position": position}


V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"
MRN: Resource = {
    "type": {"text": "MRN of York", "coding": [{"system": V2, "code": "MR"}, {"code": "Local"}]},
    "system": "http://mrn",
    "value": "X-1",
}
RELATION = "http://hl7.org/fhir/document-relationship-type"
SEQUENCE: Resource = {
    "resourceType": "MolecularSequence",
    "referenceSeq": {
        "chromosome": {"coding": [{"code": "chr1"}]},
        "referenceSeqId": {"coding": [{"code": "NC_1"}]},
        "windowStart": 5,
        "windowEnd": 50,
    },
    "variant": [{"start": 10, "end": 12}],
}
NIL = cos(radians(90))  # not quite nothing, in floats

DAY_ONE = parse_date("2020-01-01")
DAY_TWO = parse_date("2020-01-02")

TABLE: list[tuple[str, str, Resource, list[tuple[Any, ...]]]] = [
    # token: search.html#token
    ("token", "status", observation(), [("http://hl7.org/fhir/observation-status", "final")]),
    ("token", "status", observation(status="odd"), [("", "odd")]),
    ("token", "code", observation(), [(LOINC, "44261-6")]),
    ("token", "code", observation(code={"text": "PHQ-9"}), []),
    (
        "token",
        "code",
        observation(code={"coding": [{"code": "AbC"}, {"code": "aBc"}, {"system": "http://s"}]}),
        [("", "abc"), ("http://s", "")],
    ),
    (
        "token",
        "identifier",
        patient(identifier=[{"system": "http://mrn", "value": "X-1"}, {"value": "2"}]),
        [("http://mrn", "x-1"), ("", "2")],
    ),
    ("token", "active", patient(active=False), [(SPECIAL, "false")]),
    ("token", "deceased", patient(), [(SPECIAL, "false")]),
    ("token", "deceased", patient(deceasedBoolean=False), [(SPECIAL, "false")]),
    ("token", "deceased", patient(deceasedBoolean=True), [(SPECIAL, "true")]),
    ("token", "deceased", patient(deceasedDateTime="2020"), [(SPECIAL, "true")]),
    (
        "token",
        "telecom",
        patient(telecom=[{"system": "phone", "value": "555 1"}, {"system": "email"}]),
        [("", "555 1")],
    ),
    (
        "token",
        "phone",
        patient(telecom=[{"system": "phone", "value": "1"}, {"system": "fax", "value": "2"}]),
        [("", "1")],
    ),
    (
        "token",
        "_tag",
        patient(meta={"tag": [{"system": "http://t", "code": "A"}]}),
        [("http://t", "a")],
    ),
    (
        "token",
        "_security",
        patient(meta={"security": [{"system": "urn:s", "code": "R"}]}),
        [("urn:s", "r")],
    ),
    # string: search.html#string
    ("string", "family", patient(name=[{"family": "Müller"}]), [("muller", "Müller")]),
    (
        "string",
        "given",
        patient(name=[{"given": [None, "Ann"], "_given": [{"id": "x"}, None]}]),
        [("ann", "Ann")],
    ),
    (
        "string",
        "name",
        patient(name=[{"text": "Dr A B", "family": "B", "given": ["A"], "prefix": ["Dr"]}]),
        [("dr a b", "Dr A B"), ("b", "B"), ("a", "A"), ("dr", "Dr")],
    ),
    (
        "string",
        "address",
        patient(address=[{"line": ["1 High St"], "city": "York", "use": "home"}]),
        [("1 high st", "1 High St"), ("york", "York")],
    ),
    ("string", "address-city", patient(address=[{"city": "x" * 300}]), [("x" * 200, "x" * 200)]),
    (
        "string",
        "mothersMaidenName",
        patient(
            extension=[{"url": MAIDEN, "valueString": "Ng"}, {"url": "x", "valueString": "No"}]
        ),
        [("ng", "Ng")],
    ),
    # date: search.html#date
    ("date", "birthdate", patient(birthDate="2020-01-01"), [DAY_ONE]),
    ("date", "date", observation(effectiveDateTime="2020-01-01"), [DAY_ONE]),
    (
        "date",
        "date",
        observation(effectivePeriod={"start": "2020-01-01", "end": "2020-01-02"}),
        [(DAY_ONE.lo, DAY_TWO.hi)],
    ),
    ("date", "date", observation(effectivePeriod={"start": "2020-01-01"}), [(DAY_ONE.lo, NEVER)]),
    ("date", "date", observation(effectivePeriod={"end": "2020-01-01"}), [(ALWAYS, DAY_ONE.hi)]),
    ("date", "date", observation(effectivePeriod={"start": "2020-01-02", "end": "2020-01-01"}), []),
    ("date", "date", observation(effectivePeriod={"id": "empty"}), []),
    (
        "date",
        "date",
        observation(effectiveTiming={"event": ["2020-01-02", "2020-01-01"]}),
        [(DAY_ONE.lo, DAY_TWO.hi)],
    ),
    (
        "date",
        "date",
        observation(effectiveTiming={"repeat": {"boundsPeriod": {"start": "2020-01-01"}}}),
        [(DAY_ONE.lo, NEVER)],
    ),
    ("date", "date", observation(effectiveDateTime="gestern"), []),
    # quantity and number: search.html#quantity, search.html#number
    (
        "quantity",
        "value-quantity",
        observation(valueQuantity=quantity("5.40")),
        [(UCUM, "mg", 5.4, 5.4), (CANONICAL, "g", 0.0054, 0.0054)],
    ),
    (
        "quantity",
        "value-quantity",
        observation(valueQuantity=quantity("5", comparator=">=", unit="milligram")),
        [
            (UCUM, "mg", 5.0, MOST),
            ("", "milligram", 5.0, MOST),
            (CANONICAL, "g", 0.005, MOST),
        ],
    ),
    (
        "quantity",
        "value-quantity",
        observation(valueQuantity=quantity("37", code="Cel")),
        [(UCUM, "Cel", 37.0, 37.0), (CANONICAL, "K", 310.15, 310.15)],
    ),
    (
        "quantity",
        "value-quantity",
        observation(valueQuantity=quantity("5", code="furlong")),
        [(UCUM, "furlong", 5.0, 5.0)],
    ),
    (
        "quantity",
        "value-quantity",
        observation(valueQuantity=quantity("5", system="http://example.org/units")),
        [("http://example.org/units", "mg", 5.0, 5.0)],
    ),
    (
        "quantity",
        "value-quantity",
        observation(valueQuantity=quantity("1e300", code="Ym")),
        [(UCUM, "Ym", 1e300, 1e300)],
    ),
    (
        "quantity",
        "value-quantity",
        observation(valueQuantity={"value": 5, "unit": "mg"}),
        [("", "mg", 5.0, 5.0)],
    ),
    ("quantity", "value-quantity", observation(valueQuantity={"value": 5}), [("", "", 5.0, 5.0)]),
    ("quantity", "value-quantity", observation(valueQuantity={"unit": "mg"}), []),
    ("quantity", "value-quantity", observation(valueQuantity=quantity("1e400")), []),
    (
        "quantity",
        "combo-value-quantity",
        observation(valueQuantity=quantity("1"), component=[{"valueQuantity": quantity("2")}]),
        [
            *[(UCUM, "mg", 1.0, 1.0), (CANONICAL, "g", 0.001, 0.001)],
            *[(UCUM, "mg", 2.0, 2.0), (CANONICAL, "g", 0.002, 0.002)],
        ],
    ),
    (
        "quantity",
        "onset-age",
        {"resourceType": "Condition", "onsetRange": {"low": quantity("1"), "high": quantity("3")}},
        [(UCUM, "mg", 1.0, 3.0), (CANONICAL, "g", 0.001, 0.003)],
    ),
    (
        "quantity",
        "onset-age",
        {"resourceType": "Condition", "onsetRange": {"low": quantity("2", code="a")}},
        [(UCUM, "a", 2.0, MOST), (CANONICAL, "s", 63_115_200.0, MOST)],
    ),
    (
        "quantity",
        "onset-age",
        {"resourceType": "Condition", "onsetRange": {"high": {"value": 3, "unit": "a"}}},
        [("", "a", LEAST, 3.0)],
    ),
    (
        "quantity",
        "probability",
        {
            "resourceType": "RiskAssessment",
            "prediction": [{"probabilityRange": {"high": quantity("70", code="%")}}],
        },
        [(UCUM, "%", LEAST, 70.0)],
    ),
    (
        "quantity",
        "totalgross",
        {"resourceType": "Invoice", "totalGross": {"value": Decimal("48.00"), "currency": "EUR"}},
        [("urn:iso:std:iso:4217", "EUR", 48.0, 48.0)],
    ),
    (
        "quantity",
        "probability",
        {"resourceType": "RiskAssessment", "prediction": [{"probabilityDecimal": Decimal("0.5")}]},
        [("", "", 0.5, 0.5)],
    ),
    # reference: search.html#reference
    ("reference", "subject", observation(subject=REFERENCED), [("Patient", "p1")]),
    (
        "reference",
        "subject",
        observation(subject={"reference": f"{BASE}/Patient/p1/_history/2"}),
        [("Patient", "p1")],
    ),
    (
        "reference",
        "patient",
        observation(subject={"reference": "http://other/fhir/Patient/p1"}),
        [("", "http://other/fhir/Patient/p1")],
    ),
    (
        "reference",
        "patient",
        observation(subject={"reference": "urn:uuid:1", "type": "Patient"}),
        [("", "urn:uuid:1")],
    ),
    ("reference", "patient", observation(subject={"reference": "Group/g1"}), []),
    ("reference", "subject", observation(subject={"reference": "#p1"}), []),
    ("reference", "subject", observation(subject={"identifier": {"value": "1"}}), []),
    ("reference", "subject", observation(subject={"reference": "Nobody/1"}), [("", "Nobody/1")]),
    (
        "reference",
        "item-subject",
        {
            "resourceType": "QuestionnaireResponse",
            "item": [
                {"extension": [{"url": ISSUE}], "answer": [{"valueReference": REFERENCED}]},
                {"answer": [{"valueReference": {"reference": "Patient/p2"}}]},
            ],
        },
        [("Patient", "p1")],
    ),
    (
        "reference",
        "composition",
        {
            "resourceType": "Bundle",
            "entry": [
                {"resource": {"resourceType": "Composition", "id": "c1"}},
                {"resource": {"resourceType": "Composition", "id": "c2"}},
            ],
        },
        [("Composition", "c1")],
    ),
    # uri and canonical: search.html#uri, search.html#reference
    ("uri", "url", {"resourceType": "ValueSet", "url": f"{VS}#x|y"}, [(f"{VS}#x|y", "")]),
    ("uri", "_profile", patient(meta={"profile": [f"{VS}|1.0", VS]}), [(VS, "1.0"), (VS, "")]),
    ("uri", "_source", patient(meta={"source": "urn:feed#1"}), [("urn:feed#1", "")]),
    (
        "reference",
        "questionnaire",
        {"resourceType": "QuestionnaireResponse", "questionnaire": f"{BASE}/Questionnaire/phq"},
        [("Questionnaire", "phq")],
    ),
    (
        "uri",
        "questionnaire",
        {"resourceType": "QuestionnaireResponse", "questionnaire": f"{VS}|2"},
        [(VS, "2")],
    ),
    (
        "uri",
        "depends-on",
        {
            "resourceType": "Library",
            "relatedArtifact": [
                {"type": "depends-on", "resource": VS},
                {"type": "successor", "resource": "http://next"},
            ],
        },
        [(VS, "")],
    ),
    # what modifiers look at: search.html#modifiers
    (
        "string",
        "code:text",
        observation(
            code={"text": "PHQ-9 Score", "coding": [{"code": "1", "display": "Depressión"}]}
        ),
        [("phq-9 score", "PHQ-9 Score"), ("depression", "Depressión")],
    ),
    ("string", "_tag:text", patient(meta={"tag": [{"display": "A b"}]}), [("a b", "A b")]),
    ("string", "identifier:text", patient(identifier=[MRN]), [("mrn of york", "MRN of York")]),
    (
        "token",
        "identifier:of-type",
        patient(identifier=[MRN, {"value": "untyped"}, {"type": MRN["type"]}]),
        [(V2, "mr|x-1"), ("", "local|x-1")],
    ),
    (
        "token",
        "subject:identifier",
        observation(subject={"identifier": {"system": "http://mrn", "value": "X-1"}}),
        [("http://mrn", "x-1")],
    ),
    (
        "token",
        "patient:identifier",
        observation(subject={"type": "Patient", "identifier": {"value": "X-1"}}),
        [("", "x-1")],
    ),
    (
        "token",
        "patient:identifier",
        observation(subject={**REFERENCED, "identifier": {"value": "X-1"}}),
        [("", "x-1")],
    ),
    (
        "token",
        "patient:identifier",
        observation(subject={"type": "Group", "identifier": {"value": "X-1"}}),
        [],
    ),
    ("token", "patient:identifier", observation(subject={"identifier": {"value": "1"}}), []),
    # composites, an element at a time: search.html#composite
    (
        "composite",
        "code-value-quantity",
        observation(valueQuantity=quantity("5")),
        [
            (0, LOINC, "44261-6", UCUM, "mg", 5.0, 5.0),
            (0, LOINC, "44261-6", CANONICAL, "g", 0.005, 0.005),
        ],
    ),
    (
        "composite",
        "code-value-concept",
        observation(valueCodeableConcept={"coding": [{"code": "A"}, {"code": "B"}]}),
        [
            (0, LOINC, "44261-6", "", "a", 0.0, 0.0),
            (0, LOINC, "44261-6", "", "b", 0.0, 0.0),
        ],
    ),
    (
        "composite",
        "code-value-string",
        observation(valueString="Grün"),
        [(0, LOINC, "44261-6", "", "grun", 0.0, 0.0)],
    ),
    (
        "composite",
        "code-value-date",
        observation(valueDateTime="2020-01-01"),
        [(0, LOINC, "44261-6", "", "", float(DAY_ONE.lo), float(DAY_ONE.hi))],
    ),
    (
        "composite",
        "code-value-date",
        observation(valuePeriod={"end": "2020-01-01"}),
        [(0, LOINC, "44261-6", "", "", float(ALWAYS), float(DAY_ONE.hi))],
    ),
    (
        "composite",
        "combo-code-value-quantity",
        observation(valueQuantity=count(1), component=[component("a", 2), component("b", 3)]),
        [
            (0, LOINC, "44261-6", "", "", 1.0, 1.0),
            (1, "", "a", "", "", 2.0, 2.0),
            (2, "", "b", "", "", 3.0, 3.0),
        ],
    ),
    (
        "composite",
        "component-code-value-quantity",
        observation(
            valueQuantity=count(1), component=[{"valueQuantity": count(2)}, component("b", 3)]
        ),
        [(2, "", "b", "", "", 3.0, 3.0)],
    ),
    (
        "composite",
        "characteristic-value",
        {
            "resourceType": "Group",
            "characteristic": [
                {"code": {"coding": [{"code": "a"}]}, "valueBoolean": True},
                {"code": {"coding": [{"code": "b"}]}, "valueQuantity": count(1)},
            ],
        },
        [(1, "", "a", SPECIAL, "true", 0.0, 0.0)],
    ),
    (
        "composite",
        "context-type-quantity",
        {
            "resourceType": "ValueSet",
            "useContext": [
                {"code": {"code": "age"}, "valueRange": {"low": count(18)}},
                {"code": {"code": "age"}, "valueQuantity": count(5)},
            ],
        },
        [(1, "", "age", "", "", 18.0, MOST), (2, "", "age", "", "", 5.0, 5.0)],
    ),
    (
        "composite",
        "relationship",
        {
            "resourceType": "DocumentReference",
            "relatesTo": [
                {"code": "replaces", "target": {"reference": "DocumentReference/1"}},
                {"code": "signs", "target": {"reference": "http://other/DocumentReference/2"}},
            ],
        },
        [
            (1, "", "DocumentReference/1", RELATION, "replaces", 0.0, 0.0),
            (2, "", "http://other/DocumentReference/2", RELATION, "signs", 0.0, 0.0),
        ],
    ),
    *[
        ("composite", name, SEQUENCE, [(2, "", "chr1", "", "", *[end] * 2)])
        for name, end in {
            "chromosome-variant-coordinate": 10.0,
            "chromosome-variant-coordinate:3": 12.0,
        }.items()
    ],
    *[
        ("composite", name, SEQUENCE, [(1, "", "nc_1", "", "", *[end] * 2)])
        for name, end in {
            "referenceseqid-window-coordinate": 5.0,
            "referenceseqid-window-coordinate:3": 50.0,
        }.items()
    ],
    # near: location.html#near
    ("position", "near", location(latitude=Decimal(90), longitude=0), [(1.0, NIL, 0.0)]),
    ("position", "near", location(latitude=0, longitude=Decimal("0.0")), [(0.0, 1.0, 0.0)]),
    ("position", "near", location(latitude=91, longitude=0), []),
    ("position", "near", location(latitude=1), []),
]


@pytest.mark.parametrize(("table", "parameter", "resource", "expected"), TABLE)
def test_rows_of_a_parameter(
    indexer: Indexer,
    table: str,
    parameter: str,
    resource: Resource,
    expected: list[tuple[Any, ...]],
) -> None:
    assert of(indexer.rows(resource), table, parameter) == sorted(expected)


def test_equal_values_are_one_row(indexer: Indexer) -> None:
    coding = {"system": LOINC, "code": "1-8"}

    rows = indexer.rows(observation(code={"coding": [coding, coding]}))

    assert of(rows, "token", "code") == [(LOINC, "1-8")]


def test_a_parameter_is_present_when_it_has_a_value_that_the_index_cannot_hold(
    indexer: Indexer,
) -> None:
    rows = indexer.rows(
        observation(
            code={"text": "PHQ-9"},
            subject={"identifier": {"value": "1"}},
            valueSampledData={"origin": {"value": 0}, "period": 1, "dimensions": 1},
            category=[],
        )
    )

    assert {"code", "subject", "value-quantity", "status"} <= set(rows.present)
    assert {"patient", "category", "value-string"}.isdisjoint(rows.present)


def test_ids_and_update_times_are_no_rows(indexer: Indexer) -> None:
    rows = indexer.rows(patient(meta={"lastUpdated": "2020-01-01T00:00:00Z"}))

    assert [row[0] for row in rows.token] == ["deceased"]
    assert rows.date == ()


def test_a_resource_belongs_to_the_compartments_that_its_references_name(
    indexer: Indexer,
) -> None:
    rows = indexer.rows(
        observation(
            subject=REFERENCED,
            performer=[{"reference": "Practitioner/d1"}, {"reference": "Patient/p2"}],
            encounter={"reference": "Encounter/e1"},
            focus=[{"reference": "Patient/p3"}],  # not a parameter of the compartment
        )
    )

    assert set(rows.patients) == {"p1", "p2"}
    assert set(rows.compartments) == {("Practitioner", "d1"), ("Encounter", "e1")}


def test_a_patient_is_in_its_own_compartment_and_no_other_patients(indexer: Indexer) -> None:
    rows = indexer.rows(
        patient(
            link=[{"other": {"reference": "Patient/p2"}, "type": "seealso"}],
            generalPractitioner=[{"reference": "Practitioner/d1"}],
        )
    )

    assert rows.patients == ("p1",)
    assert rows.compartments == (("Practitioner", "d1"),)


def test_a_resource_of_a_compartment_type_is_its_centre(indexer: Indexer) -> None:
    rows = indexer.rows({"resourceType": "Encounter", "id": "e1", "subject": REFERENCED})

    assert rows.patients == ("p1",)
    assert rows.compartments == (("Encounter", "e1"),)


def test_references_that_no_search_parameter_reads_have_rows_too(indexer: Indexer) -> None:
    contact = {"organization": {"reference": "Organization/o"}}
    others = [
        "Organization/o",
        "Group/a/_history/1",
        "#c",
        "http://elsewhere/fhir/Group/b",
        "Group/c",
    ]
    extension = [{"url": "urn:x", "valueReference": {"reference": other}} for other in others]
    resource = {
        "resourceType": "Patient",
        "id": "p",
        "managingOrganization": {"reference": "Organization/m"},
        "contact": [contact],
        "extension": extension,
    }

    rows = indexer.rows(resource, json.dumps(resource, separators=(",", ":")).encode())

    assert rows.reference == (
        ("organization", "Organization", "m"),
        (OTHER_REFERENCES, "Group", "c"),
        (OTHER_REFERENCES, "Organization", "o"),
    )


def test_patients_elsewhere_have_no_compartment_here(indexer: Indexer) -> None:
    rows = indexer.rows(observation(subject={"reference": "http://other/fhir/Patient/p1"}))

    assert rows.patients == ()


@pytest.mark.parametrize(
    ("resource", "text"),
    [
        (observation(effectiveDateTime="2020-01-01", issued="2021-01-01T00:00:00Z"), "2020-01-01"),
        ({"resourceType": "MedicationRequest", "authoredOn": "2020-01-01"}, "2020-01-01"),
        (
            {"resourceType": "Condition", "onsetDateTime": "2019", "recordedDate": "2020"},
            "2019",
        ),
        ({"resourceType": "Condition", "recordedDate": "2020"}, "2020"),
        (
            {"resourceType": "Condition", "onsetPeriod": {"end": "2019"}, "recordedDate": "2020"},
            "2020",
        ),
        ({"resourceType": "Encounter", "period": {"start": "2020-01-01"}}, "2020-01-01"),
        (patient(birthDate="1980-05-01"), "1980-05-01"),
    ],
)
def test_when_a_resource_happened(indexer: Indexer, resource: Resource, text: str) -> None:
    assert indexer.rows(resource).occurred == parse_date(text).lo


def test_a_resource_without_a_clinical_date_never_happened(indexer: Indexer) -> None:
    assert indexer.rows(observation()).occurred is None


def test_every_expression_of_the_specification_is_indexed(
    definitions: Definitions, indexer: Indexer
) -> None:
    missing = {
        (kind, code)
        for kind in definitions.resource_types
        for code, rows in indexer.parameter_kinds(kind).items()
        if not rows.tables
        and definitions.search_parameters[kind][code].expression
        and definitions.search_parameters[kind][code].type not in ("composite", "special")
    }

    # part-agree is an example of the package; its expression is about DocumentReference
    assert missing - {(kind, "_id") for kind in definitions.resource_types} - {
        (kind, "_lastUpdated") for kind in definitions.resource_types
    } <= {("Patient", "part-agree")}


def test_parameter_kinds_say_where_rows_are(indexer: Indexer) -> None:
    observation_kinds = indexer.parameter_kinds("Observation")
    plan_kinds = indexer.parameter_kinds("PlanDefinition")

    assert observation_kinds["status"].tables == ("token",)
    assert observation_kinds["status"].systems == {"http://hl7.org/fhir/observation-status"}
    assert observation_kinds["_profile"].tables == ("uri",)
    assert observation_kinds["_profile"].canonical
    assert observation_kinds["code-value-quantity"].tables == ("composite",)
    assert indexer.parameter_kinds("Location")["near"].tables == ("position",)
    assert observation_kinds["_id"].tables == ()
    assert plan_kinds["depends-on"].tables == ("uri", "reference")
    assert not indexer.parameter_kinds("ValueSet")["url"].canonical


def test_parameter_kinds_name_the_modifiers_that_have_rows(indexer: Indexer) -> None:
    kinds = indexer.parameter_kinds("Observation")

    assert kinds["code"].variants == {"text"}
    assert kinds["identifier"].variants == {"text", "of-type"}
    assert kinds["patient"].variants == {"identifier"}
    assert kinds["status"].variants == frozenset()


@pytest.mark.parametrize(
    ("kind", "code", "single"),
    [
        *(
            ("Patient", "birthdate", True),
            ("Patient", "deceased", True),
            ("Patient", "name", False),
        ),
        *(("Patient", "family", False), ("Patient", "phone", False), ("Patient", "gender", True)),
        *(("Observation", "date", True), ("Observation", "subject", True)),
        *(("Observation", "code", False), ("Observation", "value-quantity", False)),
        *(("Observation", "value-string", True), ("Observation", "value-date", True)),
        *(("Observation", "combo-code", False), ("Observation", "performer", False)),
        *(("Encounter", "class", True), ("Encounter", "length", False)),
        *(("QuestionnaireResponse", "questionnaire", False), ("Location", "near", True)),
        *(("Observation", "code-value-string", False), ("Observation", "_id", False)),
        *(("AuditEvent", "agent", False), ("Invoice", "totalgross", True)),
    ],
)
def test_parameter_kinds_say_whether_a_resource_has_one_row_at_most(
    indexer: Indexer, kind: str, code: str, single: bool
) -> None:
    assert indexer.parameter_kinds(kind)[code].single is single


def test_composites_and_positions_make_their_parameters_present(indexer: Indexer) -> None:
    found = indexer.rows(observation(component=[component("a", 2)])).present
    at_sea = indexer.rows(location(latitude=0, longitude=0)).present

    assert "component-code-value-quantity" in found
    assert "code-value-quantity" not in found
    assert not any(":" in code for code in found)
    assert "near" in at_sea


def test_a_broken_component_is_paired_with_nothing(indexer: Indexer) -> None:
    rows = indexer.rows(observation(component=[component("a", 2), {"code": {"coding": 5}}]))

    assert of(rows, "composite", "component-code-value-quantity") == [(1, "", "a", "", "", 2, 2)]


def test_what_is_written_once_is_not_multiplied_without_end(indexer: Indexer) -> None:
    many = {"coding": [{"code": str(n)} for n in range(1000)]}

    rows = indexer.rows(observation(code=many, valueCodeableConcept=many))

    assert 0 < len(rows.composite) <= 100_000


@pytest.mark.parametrize(
    ("contact", "codes"),
    [
        ({}, ["c"]),
        ({"telecom": [{"value": "1"}]}, ["c"]),
        ({"telecom": [{"value": "1"}, {"period": {"start": "2020"}}]}, ["c"]),
        ({"telecom": [{"use": "home", "period": {"end": "2020"}}]}, ["c"]),
        ({"telecom": [{"value": "1"}, {"period": {"end": "2020"}}]}, []),
    ],
)
def test_a_test_for_nothing_looks_along_a_whole_path(
    definitions: Definitions, contact: Resource, codes: list[str]
) -> None:
    tested = "Patient.contact.where(telecom.where(use.empty()).period.end.empty()).relationship"
    parameter = SearchParameter("r", "urn:r", "token", tested, ("Patient",), (), (), "")
    indexer = Indexer(definitions.with_parameters([parameter]), BASE)

    rows = indexer.rows(
        patient(contact=[{"relationship": [{"coding": [{"code": "C"}]}], **contact}])
    )

    assert [code for _, code in of(rows, "token", "r")] == codes


@pytest.mark.parametrize(
    "expression", ["Patient.name.first()", "Patient.name.where(given = 'x')", "1 + 1"]
)
def test_an_expression_beyond_search_parameters_is_refused(
    definitions: Definitions, expression: str
) -> None:
    with pytest.raises(ValueError, match="more than a search expression"):
        resolve(parse(expression), "Patient", definitions)


@pytest.mark.parametrize(
    "broken",
    [
        *({"name": "x"}, {"name": [1]}, {"name": [{"given": 5}]}, {"name": {"family": "y"}}),
        *({"birthDate": 5}, {"birthDate": "0000"}, {"birthDate": "9999-12-31T23:59:59-01:00"}),
        *({"identifier": [{"value": {}}]}, {"maritalStatus": []}, {"meta": "m"}, {"link": [{}]}),
        *({"generalPractitioner": [{"reference": 5}]}, {"telecom": [None]}, {"gender": []}),
        *({"extension": [{"url": MAIDEN, "valueString": 1}]}, {"deceasedBoolean": "x"}),
    ],
)
def test_a_broken_value_costs_its_own_rows_only(indexer: Indexer, broken: Resource) -> None:
    rows = indexer.rows(patient(active=True) | broken)

    assert (("active", SPECIAL, "true")) in rows.token


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["system", "code", "value", "reference", "coding", "start", "event"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("identifier", "code", "category", "subject", "effectivePeriod", "component"),
                *("effectiveDateTime", "effectiveTiming", "valueQuantity", "valueString", "meta"),
            ]
        ),
        JSON,
    )
)
def test_no_value_makes_the_index_raise(indexer: Indexer, elements: Resource) -> None:
    rows = indexer.rows({"resourceType": "Observation", "id": "o1"} | elements)

    assert isinstance(rows, Rows)


@pytest.mark.parametrize("size", [100_000])
def test_long_texts_leave_short_rows(indexer: Indexer, size: int) -> None:
    long = "é" * size
    rows = indexer.rows(
        patient(
            identifier=[
                {"system": long, "value": long, "type": {"coding": [{"code": long}], "text": long}}
            ],
            name=[{"family": long}],
            meta={"profile": [long], "tag": [{"system": long, "code": long, "display": long}]},
            managingOrganization={"reference": f"http://{long}", "identifier": {"value": long}},
        )
    )
    measured = indexer.rows(
        observation(code={"coding": [{"system": long, "code": long}]}, valueString=long)
    )

    texts = [
        text
        for table in (rows.token, rows.reference, rows.string, rows.uri, measured.composite)
        for row in table
        for text in row
        if isinstance(text, str)
    ]
    assert len(measured.composite) == 1
    assert max(len(text.encode()) for text in texts) <= 400


# --- rosters -------------------------------------------------------------------------------------

ROSTERS = ("https://example.org/kinds", "roster")
GROUP = {
    "resourceType": "Group",
    "id": "g",
    "type": "person",
    "actual": True,
    "member": [{"entity": {"reference": "Patient/a"}}, {"entity": {"reference": "Device/d"}}],
}


def kind(system: str, code: str) -> Resource:
    """Return the `code` of a Group."""
    return {"coding": [{"system": system, "code": code}]}


def test_a_roster_is_in_no_compartment_and_its_members_are_found(definitions: Definitions) -> None:
    rows = Indexer(definitions, BASE, rosters=ROSTERS).rows({**GROUP, "code": kind(*ROSTERS)})

    assert (rows.patients, rows.compartments) == ((), ())
    assert len(of(rows, "reference", "member")) == 2


@pytest.mark.parametrize(
    "code", [kind("https://example.org/other", "roster"), kind(ROSTERS[0], "cohort"), {}]
)
def test_any_other_group_is_in_the_compartments_of_its_members(
    definitions: Definitions, code: Resource
) -> None:
    rows = Indexer(definitions, BASE, rosters=ROSTERS).rows({**GROUP, "code": code})

    assert (rows.patients, rows.compartments) == (("a",), (("Device", "d"),))


def test_without_rosters_the_code_of_a_group_says_nothing(indexer: Indexer) -> None:
    assert indexer.rows({**GROUP, "code": kind(*ROSTERS)}).patients == ("a",)
