"""What a cut leaves of a resource, byte by byte. Through the door: tests/rest/test_summary.py."""

from typing import Any

import msgspec
import pytest

from app.fhir.cut import SUBSETTED, Cutter, Masks, cut
from app.fhir.definitions import Definitions, load
from app.fhir.validation import Validator
from app.fhir.wire import compact, decode
from tests.conformance.official import selection

WRITER = msgspec.json.Encoder(decimal_format="number")
EXTENSION = [{"url": "http://example.org/e", "valueString": "a"}]
NARRATIVE = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">1985</div>'}

Resource = dict[str, Any]


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return load()


@pytest.fixture(scope="module")
def cutter(definitions: Definitions) -> Cutter:
    return Cutter(definitions)


def left(cutter: Cutter, resource: Resource, **asked: Any) -> Resource:
    """Return a resource after the cuts of an answer, without the tag that each of them adds."""
    cuts = cutter.cuts(resource["resourceType"], **asked)
    found = decode(cut(WRITER.encode(resource), *cuts))
    assert found["meta"].pop("tag") == [SUBSETTED]
    if not found["meta"]:
        del found["meta"]
    return found


def masked(cutter: Cutter, resource: Resource, *paths: str) -> Resource:
    """Return what a mask of the resource's type leaves of it."""
    return left(cutter, resource, masks={resource["resourceType"]: frozenset(paths)})


# --- _summary

OBSERVATION: Resource = {
    "resourceType": "Observation",
    "id": "o1",
    "implicitRules": "http://example.org/rules",
    "language": "en",
    "text": NARRATIVE,
    "contained": [{"resourceType": "Patient", "id": "p"}],
    "extension": EXTENSION,
    "modifierExtension": EXTENSION,
    "status": "final",
    "category": [{"text": "exam"}],
    "code": {"id": "c", "coding": [{"code": "1", "extension": EXTENSION}], "text": "one"},
    "valueQuantity": {"value": 1, "unit": "mg"},
    "note": [{"text": "fine"}],
    "component": [
        {
            "code": {"text": "two"},
            "valueString": "b",
            "interpretation": [{"text": "high"}],
            "modifierExtension": EXTENSION,
        }
    ],
}


def test_a_summary_holds_what_is_marked_as_summary_at_every_level(cutter: Cutter) -> None:
    assert left(cutter, OBSERVATION, summary="true") == {
        "resourceType": "Observation",
        "id": "o1",
        "implicitRules": "http://example.org/rules",
        "modifierExtension": EXTENSION,
        "status": "final",
        "code": {"coding": [{"code": "1"}], "text": "one"},
        "valueQuantity": {"value": 1, "unit": "mg"},
        "component": [
            {"code": {"text": "two"}, "valueString": "b", "modifierExtension": EXTENSION}
        ],
    }


def test_a_summary_of_text_holds_the_narrative_and_what_is_mandatory(cutter: Cutter) -> None:
    assert left(cutter, OBSERVATION, summary="text") == {
        "resourceType": "Observation",
        "id": "o1",
        "implicitRules": "http://example.org/rules",
        "text": NARRATIVE,
        "modifierExtension": EXTENSION,
        "status": "final",
        "code": OBSERVATION["code"],
    }


def test_a_summary_of_data_holds_everything_but_the_narrative(cutter: Cutter) -> None:
    data = {name: value for name, value in OBSERVATION.items() if name != "text"}

    assert left(cutter, OBSERVATION, summary="data") == data


def test_what_stands_beside_a_primitive_stays_and_goes_with_it(cutter: Cutter) -> None:
    beside = {"extension": EXTENSION}
    patient = {
        "resourceType": "Patient",
        "id": "p1",
        "language": "en",
        "_language": beside,
        "birthDate": "1985-04-12",
        "_birthDate": beside,
        "name": [{"given": ["Ada", None], "_given": [None, beside]}],
    }
    kept = {name: value for name, value in patient.items() if not name.endswith("language")}

    assert left(cutter, patient, summary="true") == kept
    assert left(cutter, patient, elements=["birthDate"]) == {
        name: patient[name] for name in ("resourceType", "id", "birthDate", "_birthDate")
    }


def test_a_summary_keeps_an_element_that_holds_nothing_but_extensions(cutter: Cutter) -> None:
    observation = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"extension": EXTENSION},
        "subject": {"identifier": {"assigner": {"identifier": {"id": "i"}}}},
    }

    assert left(cutter, observation, summary="true") == observation


def test_a_summary_keeps_mandatory_elements_that_are_not_marked(cutter: Cutter) -> None:
    provenance = {
        "resourceType": "Provenance",
        "target": [{"reference": "Patient/1"}],
        "recorded": "2026-03-02T09:30:00Z",
        "agent": [{"who": {"reference": "Practitioner/1"}}],
    }

    assert left(cutter, provenance, summary="true") == provenance


def test_a_summary_leaves_resources_inside_a_bundle_as_they_are(cutter: Cutter) -> None:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": OBSERVATION}]}

    assert left(cutter, bundle, summary="true") == bundle


def test_a_summary_of_every_official_example_is_valid_but_for_what_it_leaves_out(
    cutter: Cutter, definitions: Definitions
) -> None:
    validator = Validator(definitions)
    found = {}
    for example in selection():
        raw = compact(example.raw)
        for mode in ("true", "data"):
            kind = decode(raw)["resourceType"]
            issues = validator.validate(decode(cut(raw, *cutter.cuts(kind, summary=mode))))
            left_out = ("ref-1: Must be the id of a contained resource", "sdf-6: ")
            found[example.name, mode] = [
                issue.text for issue in issues if not issue.text.startswith(left_out)
            ]

    assert len(found) > 200
    assert {key: texts for key, texts in found.items() if texts} == {}


def test_numbers_keep_their_digits_wherever_they_are_cut_out(cutter: Cutter) -> None:
    raw = b'{"resourceType":"Observation","valueQuantity":{"id":"a","value":1.50}}'

    assert b'"valueQuantity":{"value":1.50}' in cut(raw, cutter.summary("Observation", "true"))


# --- _elements

ELEMENTS = {
    "value": {"valueQuantity": {"value": 1, "unit": "mg"}},
    "value[x]": {"valueQuantity": {"value": 1, "unit": "mg"}},
    "valueQuantity": {"valueQuantity": {"value": 1, "unit": "mg"}},
    "valueString": {},
    "Observation.note": {"note": [{"text": "fine"}]},
    "Patient.note": {},
    "text": {"text": NARRATIVE},
    "contained": {"contained": [{"resourceType": "Patient", "id": "p"}]},
    "category": {"category": [{"text": "exam"}]},
}


@pytest.mark.parametrize(("name", "more"), ELEMENTS.items())
def test_elements_are_what_is_named_and_what_is_mandatory(
    cutter: Cutter, name: str, more: Resource
) -> None:
    always = ("resourceType", "id", "implicitRules", "modifierExtension", "status", "code")
    expected = {kept: OBSERVATION[kept] for kept in always} | more

    assert left(cutter, OBSERVATION, elements=[name]) == expected


@pytest.mark.parametrize(
    ("type", "name", "known"),
    [
        ("Observation", "status", True),
        ("Observation", "value", True),
        ("Observation", "value[x]", True),
        ("Observation", "valueQuantity", True),
        ("Observation", "valueMoney", False),
        ("Observation", "status[x]", False),
        ("Observation", "Observation.status", True),
        ("Observation", "Patient.birthDate", False),
        ("Observation", "component.code", False),
        ("Observation", "Observation.component.code", False),
        ("Observation", "birthDate", False),
        ("Observation", "", False),
        ("Observation", "_status", False),
        ("", "birthDate", True),
        ("", "Patient.birthDate", True),
        ("", "Observation.birthDate", False),
        ("", "shoeSize", False),
    ],
)
def test_only_elements_of_the_type_can_be_asked_for(
    cutter: Cutter, type: str, name: str, known: bool
) -> None:
    assert cutter.known(type, name) is known


# --- the tag


def test_without_a_cut_the_bytes_stay_as_they_are(cutter: Cutter) -> None:
    raw = WRITER.encode(OBSERVATION)

    assert cutter.cuts("Observation", summary="false") == ()
    assert cut(raw) is raw


def test_the_tag_joins_the_tags_that_are_there_and_comes_once(cutter: Cutter) -> None:
    other = {"system": "http://example.org/tags", "code": "SUBSETTED"}
    raw = WRITER.encode({"resourceType": "Patient", "meta": {"versionId": "1", "tag": [other]}})
    summary = cutter.summary("Patient", "true")

    once = cut(raw, summary)

    assert decode(once)["meta"] == {"versionId": "1", "tag": [other, SUBSETTED]}
    assert cut(once, summary) == once


# --- masks

ITEM = {"linkId": "1", "text": "a", "item": [{"linkId": "2", "text": "b"}]}
NAME = [{"family": "Marsh", "given": ["Ada"]}, {"family": "Moor"}]
VALUE = {"value": 1, "unit": "mg"}
INCLUDE = {"system": "http://example.org/s", "version": "1"}

# What is stored of a type, what its mask takes, and what is left
MASKED: list[tuple[str, Resource, list[str], Resource]] = [
    ("Patient", {"birthDate": "1985", "_birthDate": {"id": "b"}}, ["birthDate"], {}),
    ("Patient", {"name": NAME}, ["name.family"], {"name": [{"given": ["Ada"]}]}),
    ("Patient", {"name": NAME}, ["name.family", "name.given"], {}),
    ("Patient", {"gender": "female", "text": NARRATIVE}, ["birthDate"], {"gender": "female"}),
    ("Patient", {"deceasedBoolean": True, "active": True}, ["deceased[x]"], {"active": True}),
    ("Observation", {"valueQuantity": VALUE}, ["value[x]"], {}),
    ("Observation", {"valueQuantity": VALUE}, ["value"], {}),
    ("Observation", {"valueQuantity": VALUE}, ["valueQuantity"], {}),
    ("Observation", {"valueQuantity": VALUE}, ["valueString"], {"valueQuantity": VALUE}),
    ("Observation", {"valueQuantity": VALUE}, ["value[x].unit"], {"valueQuantity": {"value": 1}}),
    ("Observation", {"valueString": "a", "_valueString": {"id": "v"}}, ["value[x]"], {}),
    (
        "Observation",
        {"valueQuantity": VALUE, "component": [{"valueQuantity": VALUE, "id": "c"}]},
        ["component.valueQuantity"],
        {"valueQuantity": VALUE, "component": [{"id": "c"}]},
    ),
    # a backbone of a datatype
    (
        "MedicationRequest",
        {"dosageInstruction": [{"timing": {"repeat": {"count": 2, "countMax": 3}}}]},
        ["dosageInstruction.timing.repeat.count"],
        {"dosageInstruction": [{"timing": {"repeat": {"countMax": 3}}}]},
    ),
    # what refers back to a backbone has the backbone's mask at every depth
    (
        "Questionnaire",
        {"item": [ITEM]},
        ["item.text"],
        {"item": [{"linkId": "1", "item": [{"linkId": "2"}]}]},
    ),
    ("Questionnaire", {"item": [ITEM]}, ["item.item"], {"item": [{"linkId": "1", "text": "a"}]}),
    (
        "ValueSet",
        {"compose": {"include": [INCLUDE], "exclude": [INCLUDE]}},
        ["compose.exclude"],
        {"compose": {"include": [INCLUDE]}},
    ),
    (
        "ValueSet",
        {"compose": {"include": [INCLUDE], "exclude": [INCLUDE]}},
        ["compose.exclude.version"],
        {
            "compose": {
                "include": [{"system": "http://example.org/s"}],
                "exclude": [{"system": "http://example.org/s"}],
            }
        },
    ),
]


@pytest.mark.parametrize(("kind", "stored", "paths", "expected"), MASKED)
def test_a_mask_takes_its_elements_away_wherever_they_stand(
    cutter: Cutter, kind: str, stored: Resource, paths: list[str], expected: Resource
) -> None:
    found = masked(cutter, {"resourceType": kind, **stored}, *(f"{kind}.{path}" for path in paths))

    assert found == {"resourceType": kind, **expected}


def test_a_mask_reaches_resources_in_place_and_the_narrative_around_them(cutter: Cutter) -> None:
    masks: Masks = {"Patient": frozenset({"Patient.birthDate"})}
    inner = {"resourceType": "Patient", "id": "p", "birthDate": "1985", "text": NARRATIVE}
    tagged = {"resourceType": "Patient", "id": "p", "meta": {"tag": [SUBSETTED]}}
    outer = {"resourceType": "Observation", "text": NARRATIVE, "contained": [inner]}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": outer}, {"resource": inner}]}

    assert left(cutter, outer, masks=masks) == {
        "resourceType": "Observation",
        "contained": [tagged],
    }
    assert left(cutter, bundle, masks=masks)["entry"] == [
        {
            "resource": {
                "resourceType": "Observation",
                "contained": [tagged],
                "meta": {"tag": [SUBSETTED]},
            }
        },
        {"resource": tagged},
    ]


def test_a_mask_leaves_other_resources_as_they_are(cutter: Cutter) -> None:
    masks: Masks = {"Patient": frozenset({"Patient.birthDate"})}
    raw = WRITER.encode({"resourceType": "Person", "birthDate": "1985", "text": NARRATIVE})

    assert cut(raw, *cutter.cuts("Person", masks=masks)) is raw


def test_a_masked_resource_looks_the_same_whether_or_not_it_has_the_element(
    cutter: Cutter,
) -> None:
    with_it = {"resourceType": "Patient", "birthDate": "1985"}
    (mask,) = cutter.cuts("Patient", masks={"Patient": frozenset({"Patient.birthDate"})})

    assert cut(WRITER.encode(with_it), mask) == cut(b'{"resourceType":"Patient"}', mask)


def test_a_mask_and_a_summary_are_both_applied(cutter: Cutter) -> None:
    masks: Masks = {"Observation": frozenset({"Observation.value[x]"})}

    found = left(cutter, OBSERVATION, elements=["value", "note"], masks=masks)

    assert "valueQuantity" not in found
    assert found["note"] == OBSERVATION["note"]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Patient", "Patient"),
        ("Patient", "Patient.id"),
        ("Patient", "Patient.resourceType"),
        ("Patient", "Patient.birthdate"),
        ("Patient", "Person.birthDate"),
        ("Patient", "birthDate"),
        ("Patient", "Patient.birthDate.extension"),
        ("Patient", "Patient.contained.birthDate"),
        ("Observation", "Observation.valueMoney"),
        ("Nothing", "Nothing.at"),
    ],
)
def test_a_mask_that_could_not_work_is_refused(cutter: Cutter, kind: str, path: str) -> None:
    with pytest.raises(ValueError, match="a mask"):
        cutter.mask("Patient", {kind: frozenset({path})})


# Which search parameters of a type a mask hides
HIDES = [
    ("Patient", "birthDate", "birthdate", True),
    ("Patient", "birthDate", "name", False),
    ("Patient", "name.family", "family", True),
    ("Patient", "name.family", "name", True),
    ("Patient", "name.family", "phonetic", True),
    ("Patient", "name.family", "given", False),
    ("Patient", "name", "given", True),
    ("Patient", "deceased[x]", "deceased", True),
    ("Patient", "deceasedBoolean", "deceased", True),
    ("Patient", "deceased[x]", "death-date", True),
    ("Patient", "deceasedBoolean", "death-date", False),
    ("Patient", "telecom.value", "phone", True),
    ("Patient", "telecom.system", "phone", True),
    ("Patient", "telecom.use", "phone", True),
    ("Patient", "meta", "_lastUpdated", True),
    ("Patient", "meta.tag", "_lastUpdated", False),
    ("Patient", "birthDate", "_content", True),
    ("Patient", "birthDate", "_text", True),
    ("Observation", "valueQuantity", "value-quantity", True),
    ("Observation", "valueQuantity", "value-string", False),
    ("Observation", "valueQuantity", "value-concept", False),
    ("Observation", "valueQuantity", "code-value-quantity", True),
    ("Observation", "code", "code-value-quantity", True),
    ("Observation", "valueQuantity", "code-value-string", False),
    ("Observation", "component.value[x]", "component-value-quantity", True),
    ("Observation", "component.value[x]", "combo-value-quantity", True),
    ("Observation", "component.value[x]", "value-quantity", False),
    ("Observation", "component", "combo-code-value-quantity", True),
    ("Observation", "subject", "patient", True),
    ("Observation", "subject", "code", False),
    ("Observation", "subject.reference", "patient", True),
    ("DocumentReference", "relatesTo.code", "relationship", True),
    ("DocumentReference", "relatesTo.target", "relationship", True),
    ("Questionnaire", "item.item", "code", True),
    ("Questionnaire", "item.text", "code", False),
    ("Bundle", "entry", "composition", True),
    ("StructureDefinition", "snapshot.element.binding", "valueset", True),
    ("StructureDefinition", "snapshot.element.base", "valueset", False),
]


@pytest.mark.parametrize(("kind", "path", "code", "hidden"), HIDES)
def test_a_mask_hides_each_search_parameter_that_reads_what_it_takes(
    cutter: Cutter, definitions: Definitions, kind: str, path: str, code: str, hidden: bool
) -> None:
    parameter = definitions.search_parameters[kind][code]

    masks: Masks = {kind: frozenset({f"{kind}.{path}"})}

    assert cutter.masked(kind, parameter, masks) is hidden


def test_a_mask_of_every_element_hides_every_search_parameter_but_the_id(
    cutter: Cutter, definitions: Definitions
) -> None:
    seen = {}
    for kind in definitions.resource_types:
        names = {element.name for element in definitions.structures[kind].elements} - {"id"}
        masks: Masks = {kind: frozenset(f"{kind}.{name}" for name in names)}
        seen[kind] = {
            code
            for code, parameter in definitions.search_parameters[kind].items()
            if not cutter.masked(kind, parameter, masks)
        }

    assert set(seen) == set(definitions.resource_types)
    assert seen == {kind: {"_id", "_filter", "_query"} for kind in seen}
