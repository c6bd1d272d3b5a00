"""Validation of every write: https://hl7.org/fhir/R4/validation.html."""

import gc
import json
from copy import deepcopy
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.fhir.definitions import load
from app.fhir.narrative import Reader, flaws
from app.fhir.path import Model
from app.fhir.validation import Validator
from tests.fhir.specimens import Specimens

Resource = dict[str, Any]
Problems = list[tuple[str, str]]

DEFINITIONS = load()
VALIDATOR = Validator(DEFINITIONS)
DIV = '<div xmlns="http://www.w3.org/1999/xhtml">{}</div>'
EXTENSION = {"url": "http://example.org/e", "valueString": "a"}
TEXT = {"text": "a"}
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"


def patient(**properties: Any) -> Resource:
    return {"resourceType": "Patient", **properties}


def observation(**properties: Any) -> Resource:
    return {"resourceType": "Observation", "status": "final", "code": TEXT, **properties}


def condition(**properties: Any) -> Resource:
    return {"resourceType": "Condition", "subject": {"reference": "Patient/1"}, **properties}


def bundle(*entries: Resource, type: str = "collection") -> Resource:
    return {"resourceType": "Bundle", "type": type, "entry": list(entries)}


def problems(resource: Resource) -> Problems:
    return [(issue.code, issue.expression) for issue in VALIDATOR.validate(resource)]


@pytest.mark.parametrize(
    "resource",
    [
        patient(id="a-B.1", active=True, birthDate="2020-02-29", multipleBirthInteger=2),
        patient(_birthDate={"extension": [EXTENSION]}),
        patient(name=[{"given": ["a", None], "_given": [None, {"extension": [EXTENSION]}]}]),
        patient(name=[{"given": ["a"], "_given": [{"id": "x"}], "family": "no\u00a0break é"}]),
        patient(birthDate="2020", _birthDate={"id": "x"}),
        patient(deceasedDateTime="2020", _deceasedDateTime={"extension": [EXTENSION]}),
        patient(modifierExtension=[EXTENSION], implicitRules="http://example.org/rules"),
        patient(extension=[{"url": "u", "extension": [EXTENSION]}]),
        patient(extension=[{"url": "u", "_valueString": {"extension": [EXTENSION]}}]),
        patient(text={"status": "generated", "div": DIV.format("<b>a</b> &lt;")}),
        patient(photo=[{"contentType": "image/png", "data": "AAAA\n AAA="}]),
        patient(generalPractitioner=[{"reference": "Practitioner/1/_history/2"}]),
        patient(generalPractitioner=[{"reference": "http://example.org/fhir/Practitioner/1"}]),
        patient(generalPractitioner=[{"reference": "http://example.org/staff?x=1"}]),
        patient(generalPractitioner=[{"reference": "Practitioner?identifier=a|b"}]),
        patient(
            generalPractitioner=[{"reference": "urn:uuid:0696ac49-3128-87d3-7344-04510aa4f324"}]
        ),
        patient(generalPractitioner=[{"identifier": {"value": "a"}, "type": "Practitioner"}]),
        patient(
            contained=[{"resourceType": "Practitioner", "id": "p"}],
            generalPractitioner=[{"reference": "#p"}],
        ),
        patient(contained=[{"resourceType": "Provenance", "id": "p"} | {
            "target": [{"reference": "#"}],
            "recorded": "2020-01-01T00:00:00Z",
            "agent": [{"who": {"reference": "Practitioner/1"}}],
        }]),
        observation(valueQuantity={"value": Decimal("1E+2")}, effectiveInstant="2016-12-31T23:59:60Z"),  # noqa: E501
        observation(valuePeriod={"start": "2020-02-01", "end": "2020-02"}),
        condition(clinicalStatus={"coding": [{"system": "u", "code": "a"},
                                             {"system": CLINICAL, "code": "active"}]}),
        condition(clinicalStatus=TEXT),
        bundle({"resource": patient()}, {"fullUrl": "urn:x:1", "resource": observation()}),
        {"resourceType": "Parameters", "parameter": [{"name": "a", "resource": patient()}]},
        {"resourceType": "Questionnaire", "status": "draft", "item": [
            {"linkId": "1", "type": "group", "item": [{"linkId": "2", "type": "string"}]}]},
    ],
)  # fmt: skip
def test_a_valid_resource_has_no_problems(resource: Resource) -> None:
    assert VALIDATOR.validate(resource) == []


STRUCTURE: list[tuple[Resource, Problems]] = [
    ({}, [("structure", "")]),
    ({"resourceType": "Person2"}, [("structure", "")]),
    ({"resourceType": "DomainResource"}, [("structure", "")]),
    ({"resourceType": ["Patient"]}, [("structure", "")]),
    (patient(nickname="a"), [("structure", "Patient.nickname")]),
    (patient(**{"a b": 1}), [("structure", "Patient")]),
    (patient(name=[{"given": ["a"], "first": "a"}]), [("structure", "Patient.name[0].first")]),
    (patient(name={"family": "a"}), [("structure", "Patient.name")]),
    (patient(gender=["male"]), [("structure", "Patient.gender")]),
    (patient(maritalStatus=[TEXT]), [("structure", "Patient.maritalStatus")]),
    (patient(name=["a"]), [("structure", "Patient.name[0]")]),
    (patient(name=[]), [("structure", "Patient.name")]),
    (patient(name=[{}]), [("structure", "Patient.name[0]")]),
    (patient(name=[None]), [("structure", "Patient.name[0]")]),
    (patient(name=[{"id": "a"}]), [("structure", "Patient.name[0]")]),
    (patient(name=None), [("structure", "Patient.name")]),
    (patient(birthDate=None), [("structure", "Patient.birthDate")]),
    (patient(name=[{"family": ""}]), [("structure", "Patient.name[0].family")]),
    (patient(name=[{"given": []}]), [("structure", "Patient.name[0].given")]),
    (patient(name=[{"given": ["a", None]}]), [("structure", "Patient.name[0].given[1]")]),
    (
        patient(name=[{"given": ["a", None], "_given": [{"id": "x"}, None]}]),
        [("structure", "Patient.name[0].given[1]")],
    ),
    (
        patient(name=[{"given": ["a", "b"], "_given": [{"id": "x"}]}]),
        [("structure", "Patient.name[0].given")],
    ),
    (patient(name=[{"_given": [{"id": "x"}]}]), [("structure", "Patient.name[0].given[0]")]),
    (patient(_birthDate={"id": "x"}), [("structure", "Patient.birthDate")]),
    (patient(name=[{"_given": [None]}]), [("structure", "Patient.name[0].given[0]")]),
    (patient(_birthDate={}), [("structure", "Patient.birthDate")]),
    (patient(_birthDate={"value": "a"}), [("structure", "Patient.birthDate.value")]),
    (patient(_birthDate={"extension": [{"valueString": "a"}]}),
     [("required", "Patient.birthDate.extension[0].url")]),
    (patient(_id={"extension": [EXTENSION]}), [("structure", "Patient._id")]),
    (patient(_name={"extension": [EXTENSION]}), [("structure", "Patient._name")]),
    (
        patient(deceasedBoolean=True, deceasedDateTime="2020"),
        [("structure", "Patient.deceased")],
    ),
    (
        patient(deceasedBoolean=True, _deceasedDateTime={"extension": [EXTENSION]}),
        [("structure", "Patient.deceased")],
    ),
    (
        {"resourceType": "Observation", "_status": {"extension": [EXTENSION]}},
        [("required", "Observation.code")],
    ),
    ({"resourceType": "Observation"},
     [("required", "Observation.status"), ("required", "Observation.code")]),
    (
        {"resourceType": "MedicationRequest", "status": "active", "intent": "order",
         "subject": {"reference": "Patient/1"}},
        [("required", "MedicationRequest.medication")],
    ),
    ({"resourceType": "Linkage", "item": [{"type": "source", "resource": {"display": "a"}}]},
     [("invariant", "Linkage")]),
    (patient(text={"status": "generated", "div": 1}), [("structure", "Patient.text.div")]),
    (
        patient(nickname="a", gender="x", contact=[{"relationship": [TEXT]}]),
        [("structure", "Patient.nickname"), ("code-invalid", "Patient.gender"),
         ("invariant", "Patient.contact[0]")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("resource", "expected"), STRUCTURE)
def test_structure_is_checked(resource: Resource, expected: Problems) -> None:
    assert problems(resource) == expected


def primitive(type: str, value: Any) -> Resource:
    name = "value" + type[0].upper() + type[1:]
    return patient(extension=[{"url": "u", name: value}])


PRIMITIVES: list[tuple[str, Any, str]] = [
    ("boolean", "true", "structure"),
    ("boolean", 1, "structure"),
    ("integer", True, "structure"),
    ("integer", Decimal("1.0"), "structure"),
    ("integer", "1", "structure"),
    ("integer", 2**31, "value"),
    ("integer", -(2**31) - 1, "value"),
    ("unsignedInt", -1, "value"),
    ("positiveInt", 0, "value"),
    ("decimal", "1.5", "structure"),
    ("decimal", True, "structure"),
    ("decimal", Decimal("1E+400"), "value"),
    ("decimal", Decimal("1E-400"), "value"),
    ("decimal", 10**400, "value"),
    ("string", 1, "structure"),
    ("string", "", "structure"),
    ("string", " \n\t", "value"),
    ("string", "a\x00", "value"),
    ("string", "a\x0b", "value"),
    ("string", "a" * (1024 * 1024 + 1), "too-long"),
    ("markdown", "\x01a", "value"),
    ("uri", "a b", "value"),
    ("url", "a\n", "value"),
    ("canonical", " a", "value"),
    ("code", " a", "value"),
    ("code", "a  b", "value"),
    ("code", "a\x01", "value"),
    ("id", "a_b", "value"),
    ("id", "a" * 65, "value"),
    ("oid", "1.2.3", "value"),
    ("uuid", "urn:uuid:1", "value"),
    ("date", "2023-02-30", "value"),
    ("date", "2023-2-1", "value"),
    ("date", "0000", "value"),
    ("date", "2020-01-01T00:00:00Z", "value"),
    ("date", "2020-W01-1", "value"),
    ("dateTime", "2020-01-01T00:00:00", "value"),
    ("dateTime", "2020-01-01T00:00Z", "value"),
    ("dateTime", "2020-01-01T24:00:00Z", "value"),
    ("dateTime", "2020-01-01T00:00:00+14:30", "value"),
    ("dateTime", "2023-02-29T00:00:00Z", "value"),
    ("dateTime", "0001-01-01T00:00:00+14:00", "value"),
    ("dateTime", "9999-12-31T23:59:59-01:00", "value"),
    ("dateTime", "２０２０", "value"),
    ("instant", "2020-01-01", "value"),
    ("time", "24:00:00", "value"),
    ("time", "12:00", "value"),
    ("base64Binary", "AAA", "value"),
    ("base64Binary", "====", "value"),
    ("base64Binary", "AA-_", "value"),
]


@pytest.mark.parametrize(("type", "value", "code"), PRIMITIVES)
def test_a_primitive_must_be_of_its_type(type: str, value: Any, code: str) -> None:
    assert problems(primitive(type, value)) == [(code, "Patient.extension[0].value")]


@pytest.mark.parametrize(
    ("type", "value"),
    [
        ("integer", 2**31 - 1),
        ("decimal", 1),
        ("decimal", Decimal("-0.00")),
        ("string", "\u00a0"),
        ("string", " a\r\n\tb "),
        ("string", "a" * (1024 * 1024)),
        ("code", "a b"),
        ("date", "2020-02-29"),
        ("date", "0001"),
        ("dateTime", "2020-02"),
        ("dateTime", "2020-02-29T23:59:60Z"),
        ("dateTime", "2020-02-29T12:00:00.123456789+14:00"),
        ("dateTime", "9999-12-31T23:59:59Z"),
        ("time", "23:59:60.5"),
        ("oid", "urn:oid:1.2.3"),
        ("uuid", "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"),
        ("base64Binary", "AAA="),
    ],
)
def test_a_primitive_of_its_type_is_accepted(type: str, value: Any) -> None:
    assert problems(primitive(type, value)) == []


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (patient(id="a_b"), [("value", "Patient.id")]),
        (patient(gender="Male"), [("code-invalid", "Patient.gender")]),
        (patient(gender="male "), [("value", "Patient.gender")]),
        (
            condition(clinicalStatus={"coding": [{"system": CLINICAL, "code": "x"}]}),
            [("code-invalid", "Condition.clinicalStatus")],
        ),
        (
            condition(clinicalStatus={"coding": [{"code": "active"}]}),
            [("code-invalid", "Condition.clinicalStatus")],
        ),
    ],
)
def test_a_required_binding_is_required(resource: Resource, expected: Problems) -> None:
    assert problems(resource) == expected


def referring(**reference: Any) -> Resource:
    return patient(
        contained=[{"resourceType": "Organization", "id": "o", "name": "a"}],
        managingOrganization={"reference": "#o"},
        generalPractitioner=[reference],
    )


@pytest.mark.parametrize(
    ("reference", "code", "place"),
    [
        ({"reference": "Patient/1"}, "value", ".reference"),
        ({"reference": "http://example.org/Patient/1"}, "value", ".reference"),
        ({"reference": "Patient?name=a"}, "value", ".reference"),
        ({"reference": "Doctor/1"}, "value", ".reference"),
        ({"reference": "Doctor?name=a"}, "value", ".reference"),
        ({"reference": "Practitioner/a_b"}, "value", ".reference"),
        ({"reference": "Practitioner"}, "value", ".reference"),
        ({"reference": "1"}, "value", ".reference"),
        ({"reference": "#x"}, "invariant", ".reference"),
        ({"reference": "#"}, "value", ".reference"),
        ({"reference": "Practitioner/1", "type": "Organization"}, "value", ".reference"),
        ({"display": "a", "type": "Patient"}, "value", ".reference"),
        ({"display": "a", "type": "Doctor"}, "value", ".reference"),
    ],
)
def test_a_reference_must_point_where_its_element_allows(
    reference: Resource, code: str, place: str
) -> None:
    assert problems(referring(**reference)) == [(code, f"Patient.generalPractitioner[0]{place}")]


def with_contained(*contained: Resource, **properties: Any) -> Resource:
    return patient(contained=list(contained), **properties)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (with_contained({"resourceType": "Organization", "name": "a"}),
         [("required", "Patient.contained[0].id"), ("invariant", "Patient")]),
        (
            with_contained(
                {"resourceType": "Organization", "id": "o", "name": "a"},
                {"resourceType": "Organization", "id": "o", "name": "b"},
                managingOrganization={"reference": "#o"},
            ),
            [("invariant", "Patient.contained[1].id")],
        ),
        (with_contained({"resourceType": "Organization", "id": "o", "name": "a"}),
         [("invariant", "Patient")]),
        (
            with_contained(
                {"resourceType": "Organization", "id": "o", "name": "a",
                 "partOf": {"reference": "#o"}},
            ),
            [("invariant", "Patient")],
        ),
        (
            with_contained(
                {"resourceType": "Organization", "id": "o", "partOf": {"reference": "#p"},
                 "meta": {"versionId": "1"}, "name": "a"},
                {"resourceType": "Organization", "id": "p", "name": "b",
                 "meta": {"security": [{"code": "a"}]}},
                managingOrganization={"reference": "#o"},
            ),
            [("invariant", "Patient"), ("invariant", "Patient")],
        ),
        (
            with_contained(
                {"resourceType": "Organization", "id": "o", "name": "a", "contained": [
                    {"resourceType": "Organization", "id": "p", "name": "b"}]},
                managingOrganization={"reference": "#o"},
            ),
            [("invariant", "Patient.contained[0]"), ("invariant", "Patient")],
        ),
        (with_contained({"resourceType": "Organisation", "id": "o"}),
         [("structure", "Patient.contained[0]")]),
        (with_contained({"resourceType": "Organization", "id": "o", "title": "a"}),
         [("structure", "Patient.contained[0].title")]),
    ],
)  # fmt: skip
def test_contained_resources_keep_their_rules(resource: Resource, expected: Problems) -> None:
    assert problems(resource) == expected


def test_a_resource_in_a_bundle_is_checked_by_its_own_type() -> None:
    held = bundle({"resource": patient(name=[{"first": "a"}])}, {"resource": {"id": "a"}})

    assert problems(held) == [
        ("structure", "Bundle.entry[0].resource.name[0].first"),
        ("structure", "Bundle.entry[1].resource"),
    ]


def test_a_fragment_reaches_no_further_than_its_own_entry() -> None:
    holder = with_contained({"resourceType": "Organization", "id": "o", "name": "a"},
                            managingOrganization={"reference": "#o"})  # fmt: skip
    other = patient(managingOrganization={"reference": "#o"})

    assert problems(bundle({"resource": holder}, {"resource": other})) == [
        ("invariant", "Bundle.entry[1].resource.managingOrganization.reference")
    ]


INVARIANTS: list[tuple[str, Resource, str]] = [
    ("ext-1", patient(extension=[{"url": "u"}]), "Patient.extension[0]"),
    (
        "ext-1",
        patient(extension=[{"url": "u", "valueString": "a", "extension": [EXTENSION]}]),
        "Patient.extension[0]",
    ),
    (
        "ext-1",
        patient(extension=[{"url": "u", "valueString": "a", "valueCode": "a"}]),
        "Patient.extension[0]",
    ),
    ("pat-1", patient(contact=[{"gender": "male"}]), "Patient.contact[0]"),
    ("cpt-2", patient(telecom=[{"value": "a"}]), "Patient.telecom[0]"),
    ("att-1", patient(photo=[{"data": "AAAA"}]), "Patient.photo[0]"),
    (
        "per-1",
        patient(name=[{"period": {"start": "2020-02-01", "end": "2020-01"}}]),
        "Patient.name[0].period",
    ),
    (
        "per-1",
        observation(effectivePeriod={"start": "2020-01-01T10:00:00Z",
                                     "end": "2020-01-01T10:00:00+02:00"}),
        "Observation.effective",
    ),
    ("qty-3", observation(valueQuantity={"value": 1, "code": "mg"}), "Observation.value"),
    (
        "sqty-1",
        observation(referenceRange=[{"low": {"value": 1, "comparator": "<"}}]),
        "Observation.referenceRange[0].low",
    ),
    ("obs-3", observation(referenceRange=[{"type": TEXT}]), "Observation.referenceRange[0]"),
    ("obs-6", observation(valueString="a", dataAbsentReason=TEXT), "Observation"),
    (
        "obs-7",
        observation(
            code={"coding": [{"code": "a"}]},
            valueString="a",
            component=[{"code": {"coding": [{"code": "a"}]}, "valueString": "b"}],
        ),
        "Observation",
    ),
    (
        "rng-2",
        observation(
            valueRange={"low": {"value": 2, "unit": "a"}, "high": {"value": 1, "unit": "a"}}
        ),
        "Observation.value",
    ),
    ("rat-1", observation(valueRatio={"numerator": {"value": 1}}), "Observation.value"),
    ("con-4", condition(abatementAge={"value": 1, "code": "a", "system": "http://unitsofmeasure.org"}),
     "Condition"),
    ("bdl-1", bundle({"resource": patient()}) | {"total": 1}, "Bundle"),
    ("bdl-3", bundle({"resource": patient()}, type="batch"), "Bundle"),
    (
        "bdl-7",
        bundle(*[{"fullUrl": "urn:x:1", "resource": patient()}] * 2),
        "Bundle",
    ),
    ("bdl-8", bundle({"fullUrl": "http://a/Patient/1/_history/2", "resource": patient()}),
     "Bundle.entry[0]"),
    (
        "bdl-11",
        bundle({"resource": patient()}, type="document")
        | {"identifier": {"system": "u", "value": "a"}, "timestamp": "2020-01-01T00:00:00Z"},
        "Bundle",
    ),
    ("org-1", {"resourceType": "Organization", "active": True}, "Organization"),
    ("org-3", {"resourceType": "Organization", "name": "a", "telecom": [{"use": "home"}]},
     "Organization.telecom[0]"),
    (
        "que-2",
        {"resourceType": "Questionnaire", "status": "draft", "item": [
            {"linkId": "1", "type": "group", "item": [{"linkId": "1", "type": "string"}]}]},
        "Questionnaire",
    ),
    (
        "que-12",
        {"resourceType": "Questionnaire", "status": "draft", "item": [
            {"linkId": "1", "type": "string", "enableWhen": [
                {"question": "2", "operator": "=", "answerBoolean": True}] * 3}]},
        "Questionnaire.item[0]",
    ),
    (
        "que-7",
        {"resourceType": "Questionnaire", "status": "draft", "item": [
            {"linkId": "1", "type": "string", "enableWhen": [
                {"question": "2", "operator": "exists", "answerString": "a"}]}]},
        "Questionnaire.item[0].enableWhen[0]",
    ),
    (
        "tim-9",
        {"resourceType": "ServiceRequest", "status": "active", "intent": "order",
         "subject": {"reference": "Patient/1"},
         "occurrenceTiming": {"repeat": {"offset": 1, "when": ["MORN", "CM"]}}},
        "ServiceRequest.occurrence.repeat",
    ),
    (
        "csd-1",
        {"resourceType": "CodeSystem", "status": "draft", "content": "complete",
         "concept": [{"code": "a", "concept": [{"code": "a"}]}]},
        "CodeSystem",
    ),
    (
        "ctm-1",
        {"resourceType": "CareTeam",
         "contained": [{"resourceType": "Patient", "id": "p"}],
         "participant": [{"member": {"reference": "#p"}, "onBehalfOf": {"display": "a"}}]},
        "CareTeam.participant[0]",
    ),
    ("dom-3", with_contained({"resourceType": "Organization", "id": "o", "name": "a"}), "Patient"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "resource", "place"), INVARIANTS)
def test_an_invariant_that_is_broken_is_named(key: str, resource: Resource, place: str) -> None:
    [issue] = VALIDATOR.validate(resource)

    assert (issue.code, issue.expression) == ("invariant", place)
    assert issue.text.startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("div", "accepted"),
    [
        (DIV.format("a"), True),
        (DIV.format(" \n "), False),
        (DIV.format('<img src="a.png"/>'), True),
        (DIV.format("<img alt='a'/>"), False),
        (DIV.format('<p class="a" style="color: red">a <a href="http://a">b</a></p>'), True),
        (DIV.format("<!-- comment -->a"), True),
        (DIV.format("<table><tbody><tr><td colspan='2'>a</td></tr></tbody></table>"), True),
        (DIV.format("a").replace("<div", "<div xml:lang='en' lang='en'"), True),
        (DIV.format("a<br>"), False),
        (DIV.format("&nbsp;"), False),
        (DIV.format("a &amp; b"), True),
        ("<div>a</div>", False),
        ('<p xmlns="http://www.w3.org/1999/xhtml">a</p>', False),
        ("a", False),
        (DIV.format("a") + DIV.format("b"), False),
        (DIV.format("a<script>alert(1)</script>"), False),
        (DIV.format("a<form/>"), False),
        (DIV.format("a<iframe src='a'/>"), False),
        (DIV.format("<p onclick='a()'>a</p>"), False),
        (DIV.format("<a href='javascript:a()'>a</a>"), False),
        (DIV.format("<a href=' java&#10;script:a()'>a</a>"), False),
        (DIV.format("<a href='data:text/html,a'>a</a>"), False),
        (DIV.format("<img src='data:image/png;base64,AAAA'/>"), True),
        (DIV.format("<p style='width: expression(a())'>a</p>"), False),
        (DIV.format("<svg xmlns='http://www.w3.org/2000/svg'><text>a</text></svg>"), False),
        ('<!DOCTYPE div [<!ENTITY a "b">]>' + DIV.format("&a;"), False),
        (DIV.format("<?php a ?>a"), False),
        ("<?xml version='1.0'?>" + DIV.format("a"), False),
        # where links may lead
        (DIV.format("<a href='#a' name='a'>a</a>"), True),
        (DIV.format("<a href='Patient/1'>a</a>"), True),
        (DIV.format("<a href='mailto:a@example.org'>a</a><a href='tel:+1'>b</a>"), True),
        (DIV.format("<a href='urn:uuid:1c3f'>a</a>"), True),
        (DIV.format("<a href='VBScript:a'>a</a>"), False),
        (DIV.format("<a href='&#106;avascript:a()'>a</a>"), False),
        (DIV.format("<a href='blob:a'>a</a>"), False),
        (DIV.format("<a href='file:///etc/passwd'>a</a>"), False),
        (DIV.format("<a href='view-source:javascript:a()'>a</a>"), False),
        (DIV.format("<a href='data:image/svg+xml,a'>a</a>"), False),
        (DIV.format("<img src='data: image/svg+xml;base64,AAAA'/>"), True),
        (DIV.format("<img src='data:text/html,a'/>"), False),
        (DIV.format("<img src='javascript:a()'/>"), False),
        (DIV.format("<q cite='javascript:a()'>a</q>"), False),
        (DIV.format("<blockquote cite='https://a'>a</blockquote>"), True),
        # a style as a browser reads it
        (DIV.format("<p style='font-family: \"a\\, b\"; background: url(a.png)'>a</p>"), True),
        (DIV.format("<p style='width: exp/**/ression(a())'>a</p>"), False),
        (DIV.format("<p style='width: \\65 xpression(a())'>a</p>"), False),
        (DIV.format("<p style='width: e\\xpression(a())'>a</p>"), False),
        (DIV.format("<p style='background: url(javascript:a())'>a</p>"), False),
        (DIV.format("<p style='\\ffffff a'>a</p>"), True),
        # what HTML reads in another way than XML
        (DIV.format("<![CDATA[><script>a()</script>]]>a"), False),
        (DIV.format("a<!--> <script>a()</script> -->"), False),
        (DIV.format("a<!---> <script>a()</script> -->"), False),
        (DIV.format("a<!-- > -->"), True),
        # no elements and attributes beside those of the list
        (DIV.format("<x:script xmlns:x='http://www.w3.org/1999/xhtml'>a</x:script>"), False),
        (DIV.format("<SCRIPT>a</SCRIPT>"), False),
        (DIV.format("<p ONCLICK='a()'>a</p>"), False),
        (DIV.format("<a href='a' target='b'>a</a>"), False),
        (DIV.format("a<style>p {}</style>"), False),
        (DIV.format("a<link href='a'/>"), False),
        (DIV.format("a<object data='a'/>"), False),
        (DIV.format("a<img src='a' srcset='b'/>"), False),
        (DIV.format("<a xmlns:l='http://www.w3.org/1999/xlink' l:href='a'>a</a>"), False),
        (DIV.format("a<math xmlns='http://www.w3.org/1998/Math/MathML'/>"), False),
    ],
)
def test_a_narrative_holds_what_the_specification_allows(div: str, *, accepted: bool) -> None:
    found = set(problems(patient(text={"status": "generated", "div": div})))

    assert found == (set() if accepted else {("invariant", "Patient.text.div")})


def test_a_narrative_leaves_nothing_that_waits_for_the_collector() -> None:
    gc.collect()
    gc.disable()

    try:
        assert flaws(DIV.format("<p>a</p>")) == []
        assert flaws(DIV.format("<p>a</b>")) != []
        left = [one for one in gc.get_objects() if isinstance(one, Reader)]
    finally:
        gc.enable()

    assert left == []


def test_every_problem_is_reported_at_once() -> None:
    resource = patient(
        active="true", gender="x", birthDate="2023-02-30", telecom=[{"value": "1"}], nickname="a"
    )

    assert problems(resource) == [
        ("structure", "Patient.active"),
        ("code-invalid", "Patient.gender"),
        ("value", "Patient.birthDate"),
        ("invariant", "Patient.telecom[0]"),
        ("structure", "Patient.nickname"),
    ]


def test_places_start_where_the_caller_says() -> None:
    [issue] = VALIDATOR.validate(patient(gender="x"), place="Bundle.entry[3].resource")

    assert issue.expression == "Bundle.entry[3].resource.gender"


def test_a_hostile_number_of_problems_is_cut_short() -> None:
    issues = VALIDATOR.validate(patient(**{f"a{n}": 1 for n in range(100_000)}))

    assert len(issues) == 501
    assert issues[-1].code == "too-costly"


@pytest.mark.parametrize(
    "resource",
    [
        with_contained(
            *({"resourceType": "Organization", "id": f"o{n}", "name": "a",
               "partOf": {"reference": f"#o{n - 1}" if n else "#"}} for n in range(5000)),
            managingOrganization={"reference": "#o4999"},
        ),
        observation(
            valueString="a", code={"coding": [{"code": f"a{n}"} for n in range(5000)]},
            component=[{"code": {"coding": [{"code": f"b{n}"}]}} for n in range(5000)],
        ),
        primitive("base64Binary", "A" + " " * 100_000),
        primitive("code", "a " * 100_000),
        patient(text={"status": "generated", "div": DIV.format("<b>" * 60_000)}),
    ],
    ids=["contained", "codings", "base64", "code", "div"],
)  # fmt: skip
def test_no_resource_takes_more_than_linear_time(resource: Resource) -> None:
    VALIDATOR.validate(resource)


JUNK: list[Any] = [
    None, [], {}, "", 1, True, Decimal("1.5"), "SECRET", "#x", [None], ["SECRET"], {"x": "SECRET"},
    {"extension": [{"url": "SECRET", "valueString": "SECRET"}]}, [[1]], {"id": "SECRET"}, -1, 2**40,
    Decimal("1e400"), "2020-02-30", "\x01", {"resourceType": "SECRET"}, {"reference": 5},
]  # fmt: skip
TYPES = (
    "Patient", "Observation", "Bundle", "Questionnaire", "StructureDefinition", "CareTeam",
    "MedicationRequest", "Parameters", "ValueSet", "Consent", "Composition", "TestScript",
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    return [found for key in keys for found in [(value, key), *places(value[key])]]


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.sampled_from(TYPES))
def test_any_json_is_judged_and_never_quoted(seed: int, type: str) -> None:
    random = Random(seed)
    resource = Specimens(Model(DEFINITIONS), random).value(type)
    for holder, key in random.sample(places(resource)[1:] or [(resource, "id")], 1):
        holder[key] = deepcopy(random.choice(JUNK))

    issues = VALIDATOR.validate(resource)

    assert "SECRET" not in " ".join(issue.text + issue.expression for issue in issues)
    assert all(issue.text for issue in issues)


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from(TYPES))
def test_judging_a_resource_leaves_it_as_it_was(seed: int, type: str) -> None:
    resource = Specimens(Model(DEFINITIONS), Random(seed)).value(type)
    before = json.dumps(resource, default=str)

    first, second = VALIDATOR.validate(resource), VALIDATOR.validate(resource)

    assert first == second
    assert json.dumps(resource, default=str) == before


@pytest.mark.parametrize("type", DEFINITIONS.resource_types)
def test_every_resource_type_can_be_judged(type: str) -> None:
    required = [element.name for element in DEFINITIONS.structures[type].elements if element.min]

    found = [place for code, place in problems({"resourceType": type}) if code == "required"]

    assert found == [f"{type}.{name}" for name in required]
