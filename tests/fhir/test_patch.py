"""What a patch makes of a resource: fhirpatch.html, RFC 6902. Over HTTP: tests/rest/test_patch."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fhir.definitions import load
from app.fhir.errors import FhirError
from app.fhir.patch import MEDIA_TYPES, apply
from app.fhir.validation import Validator
from tests.support.patches import (
    add,
    delete,
    fhirpath_patch,
    insert,
    move,
    operation,
    part,
    replace,
)

VALIDATOR = Validator(load())
JSON, FHIR = "application/json-patch+json", "application/fhir+json"

Resource = dict[str, Any]


def patched(resource: Resource, patch: Any, kind: str) -> Resource:
    """Return a resource after a patch."""
    raw = apply(json.dumps(resource).encode(), json.dumps(patch).encode(), kind, VALIDATOR)
    made: Resource = json.loads(raw)
    return made


def refusal(resource: Resource, patch: Any, kind: str) -> tuple[int, str, str]:
    """Return status, text and place of the refusal of a patch."""
    with pytest.raises(FhirError) as caught:
        patched(resource, patch, kind)
    issue = caught.value.issues[0]
    return caught.value.status, issue.text, issue.expression


# --- JSON Patch ----------------------------------------------------------------------------------

ADA: Resource = {
    "resourceType": "Patient",
    "id": "ada",
    "name": [{"family": "Marsh", "given": ["Ada", "Maria"]}, {"family": "Lake"}],
    "birthDate": "1985-04-12",
    "multipleBirthInteger": 2,
}

# RFC 6902, 4: the operations, and what is different in the resource afterwards (None: gone)
JSON_PATCHES: dict[str, tuple[list[Resource], Resource]] = {
    "add a property": (
        [{"op": "add", "path": "/gender", "value": "female"}],
        {"gender": "female"},
    ),
    "add over what is there": (
        [{"op": "add", "path": "/birthDate", "value": "1985-04-13"}],
        {"birthDate": "1985-04-13"},
    ),
    "add before an item": (
        [{"op": "add", "path": "/name/0/given/1", "value": "Eva"}],
        {"name": [{"family": "Marsh", "given": ["Ada", "Eva", "Maria"]}, {"family": "Lake"}]},
    ),
    "add behind the last item": (
        [{"op": "add", "path": "/name/-", "value": {"text": "A"}}],
        {"name": [*ADA["name"], {"text": "A"}]},
    ),
    "add at the end by number": (
        [{"op": "add", "path": "/name/2", "value": {"text": "A"}}],
        {"name": [*ADA["name"], {"text": "A"}]},
    ),
    "add to an array just made": (
        [
            {"op": "add", "path": "/telecom", "value": []},
            {"op": "add", "path": "/telecom/-", "value": {"value": "1"}},
        ],
        {"telecom": [{"value": "1"}]},
    ),
    "remove a property": ([{"op": "remove", "path": "/birthDate"}], {"birthDate": None}),
    "remove an item": ([{"op": "remove", "path": "/name/0"}], {"name": [{"family": "Lake"}]}),
    "remove all items": (
        [{"op": "remove", "path": "/name/0"}, {"op": "remove", "path": "/name/0"}],
        {"name": None},
    ),
    "remove all there is of an item": (
        [{"op": "remove", "path": "/name/1/family"}],
        {"name": [ADA["name"][0]]},
    ),
    "replace": (
        [{"op": "replace", "path": "/name/1/family", "value": "Sea"}],
        {"name": [ADA["name"][0], {"family": "Sea"}]},
    ),
    "replace the whole": (
        [{"op": "replace", "path": "", "value": {**ADA, "active": True}}],
        {"active": True},
    ),
    "move": (
        [{"op": "move", "from": "/name/0/given/1", "path": "/name/1/given", }],
        {"name": [{"family": "Marsh", "given": ["Ada"]}, {"family": "Lake", "given": "Maria"}]},
    ),
    "move within a list": (
        [{"op": "move", "from": "/name/1", "path": "/name/0"}],
        {"name": [ADA["name"][1], ADA["name"][0]]},
    ),
    "move to itself": ([{"op": "move", "from": "/name/1", "path": "/name/1"}], {}),
    "copy": (
        [
            {"op": "copy", "from": "/name/0/given", "path": "/name/1/given"},
            {"op": "remove", "path": "/name/1/given/0"},
        ],
        {"name": [ADA["name"][0], {"family": "Lake", "given": ["Maria"]}]},
    ),
    "test that holds": (
        [
            {"op": "test", "path": "/name/1", "value": {"family": "Lake"}},
            {"op": "test", "path": "/multipleBirthInteger", "value": 2.0},
            {"op": "test", "path": "", "value": ADA},
        ],
        {},
    ),
    "escaped steps": (
        [
            {"op": "add", "path": "/a~1b~0~01", "value": "x"},
            {"op": "move", "from": "/a~1b~0~01", "path": "/language"},
        ],
        {"language": "x"},
    ),
    "members of no meaning": (
        [{"op": "remove", "path": "/birthDate", "value": 1, "why": "RFC 6902, 4"}],
        {"birthDate": None},
    ),
}  # fmt: skip

MALFORMED = {
    "no array": {"op": "remove", "path": "/birthDate"},
    "no object": ["remove"],
    "no op": [{"path": "/birthDate"}],
    "unknown op": [{"op": "delete", "path": "/birthDate"}],
    "op in capitals": [{"op": "Remove", "path": "/birthDate"}],
    "op of another type": [{"op": ["remove"], "path": "/birthDate"}],
    "no path": [{"op": "remove"}],
    "no value": [{"op": "add", "path": "/gender"}],
    "no from": [{"op": "move", "path": "/gender"}],
    "no pointer": [{"op": "remove", "path": "birthDate"}],
    "a pointer of another type": [{"op": "remove", "path": 1}],
    "an escape that is none": [{"op": "remove", "path": "/~2"}],
    "a pointer without end": [{"op": "remove", "path": "/a" * 65}],
    "into itself": [{"op": "move", "from": "/name", "path": "/name/0"}],
}

# The operation that does not fit ADA, and the text about it
UNFIT: dict[str, tuple[Resource, str]] = {
    "test of another value": (
        {"op": "test", "path": "/birthDate", "value": "1985-04-13"},
        "Operation 1: test: /birthDate does not have the expected value",
    ),
    "test of another type": (
        {"op": "test", "path": "/multipleBirthInteger", "value": "2"},
        "Operation 1: test: /multipleBirthInteger does not have the expected value",
    ),
    "test of a longer array": (
        {"op": "test", "path": "/name/0/given", "value": ["Ada", "Maria", "Eva"]},
        "Operation 1: test: /name/0/given does not have the expected value",
    ),
    "test of what is absent": (
        {"op": "test", "path": "/gender", "value": None},
        "Operation 1: The resource has nothing at /gender",
    ),
    "remove what is absent": (
        {"op": "remove", "path": "/gender"},
        "Operation 1: The resource has nothing at /gender",
    ),
    "remove the end": (
        {"op": "remove", "path": "/name/-"},
        "Operation 1: The resource has nothing at /name/-",
    ),
    "replace what is absent": (
        {"op": "replace", "path": "/gender", "value": "male"},
        "Operation 1: The resource has nothing at /gender",
    ),
    "add to what is absent": (
        {"op": "add", "path": "/contact/0/gender", "value": "male"},
        "Operation 1: The resource has nothing at /contact/0",
    ),
    "add into a text": (
        {"op": "add", "path": "/birthDate/0", "value": "1"},
        "Operation 1: The resource has nothing at /birthDate/0",
    ),
    "add behind the end": (
        {"op": "add", "path": "/name/3", "value": {}},
        "Operation 1: The resource has nothing at /name/3",
    ),
    "a number with zeros": (
        {"op": "remove", "path": "/name/00"},
        "Operation 1: The resource has nothing at /name/00",
    ),
    "a number below zero": (
        {"op": "remove", "path": "/name/-1"},
        "Operation 1: The resource has nothing at /name/-1",
    ),
    "a number of many digits": (
        {"op": "remove", "path": "/name/" + "9" * 5000},
        "Operation 1: The resource has nothing at /name/" + "9" * 194,
    ),
    "remove everything": (
        {"op": "remove", "path": ""},
        "Operation 1: The whole resource cannot be removed",
    ),
    "replace by no object": (
        {"op": "replace", "path": "", "value": [1]},
        "The patch leaves something that is no JSON object",
    ),
}


@pytest.mark.parametrize("name", JSON_PATCHES)
def test_a_json_patch_changes_what_its_operations_say(name: str) -> None:
    operations, different = JSON_PATCHES[name]

    made = patched(ADA, operations, JSON)

    expected = {**ADA, **different}
    assert made == {key: value for key, value in expected.items() if value is not None}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_json_patch_is_a_400(name: str) -> None:
    assert refusal(ADA, MALFORMED[name], JSON)[0] == 400


@pytest.mark.parametrize("name", UNFIT)
def test_a_json_patch_that_does_not_fit_is_a_422_that_says_where(name: str) -> None:
    asked, text = UNFIT[name]

    assert refusal(ADA, [asked], JSON) == (422, text, "")


def test_true_is_not_one_to_a_json_patch() -> None:
    asked = {"op": "test", "path": "/multipleBirthInteger", "value": True}

    assert refusal({**ADA, "multipleBirthInteger": 1}, [asked], JSON)[0] == 422


def test_a_json_patch_that_copies_without_end_is_refused() -> None:
    doubling = [{"op": "copy", "from": "", "path": f"/{n}"} for n in range(64)]

    assert refusal(ADA, doubling, JSON)[0] in (400, 413)


def test_a_json_patch_that_nests_without_end_is_refused() -> None:
    deep = "/a" * 60
    steps: list[Resource] = [{"op": "add", "path": "/a", "value": {}}]
    steps += [{"op": "add", "path": "/a" * n, "value": {}} for n in range(2, 61)]
    deeper = [
        {"op": "move", "from": "/a", "path": "/b"},
        *steps,
        {"op": "move", "from": "/b", "path": f"{deep}/a"},
    ]

    assert refusal({"resourceType": "Patient"}, [*steps, *deeper * 100], JSON)[0] == 422


def test_a_json_patch_that_shifts_arrays_without_end_is_refused() -> None:
    many = [{"op": "add", "path": "/x", "value": [0] * 100_000}]
    first = [{"op": "add", "path": "/x/0", "value": 0}] * 1100

    assert refusal(ADA, many + first, JSON)[0] == 422


def test_what_a_json_patch_does_not_touch_keeps_its_digits_and_its_order() -> None:
    raw = b'{"z":[150e-2,-0.0,1E+2,1.50],"resourceType":"Basic","a":1.0,"b":{"y":0.00,"x":1}}'
    patch = b'[{"op":"replace","path":"/a","value":2.50e1},{"op":"copy","from":"/z/0","path":"/c"}]'

    made = apply(raw, patch, JSON, VALIDATOR)

    assert made == (
        b'{"z":[150e-2,-0.0,1E+2,1.50],"resourceType":"Basic","a":2.50e1,"b":{"y":0.00,"x":1},'
        b'"c":150e-2}'
    )


def test_a_null_that_a_json_patch_brings_is_not_taken_for_a_removal() -> None:
    made = patched(ADA, [{"op": "replace", "path": "/birthDate", "value": None}], JSON)

    assert made["birthDate"] is None  # which validation refuses


# --- FHIRPath Patch ------------------------------------------------------------------------------

EVE: Resource = {
    "resourceType": "Patient",
    "id": "eve",
    "identifier": [
        {"system": "urn:a", "value": "1"},
        {"system": "urn:b", "value": "2"},
        {"system": "urn:c", "value": "3"},
    ],
    "name": [{"family": "Marsh", "given": ["Eve", "Maria"], "_given": [None, {"id": "g2"}]}],
    "birthDate": "1985-04-12",
    "deceasedBoolean": False,
    "contact": [{"name": {"text": "B"}}],
}
CONTAINED = {"resourceType": "Organization", "id": "o", "name": "O"}
PHONE = {"system": "phone", "value": "1"}
MARIA_FIRST = {"family": "Marsh", "given": ["Maria", "Eve"], "_given": [{"id": "g2"}, None]}

# fhirpatch.html: the operations, and what is different in the resource afterwards (None: gone)
FHIR_PATCHES: dict[str, tuple[list[Resource], Resource]] = {
    "add an element": ([add("Patient", "gender", valueCode="female")], {"gender": "female"}),
    "add to a list": (
        [add("Patient", "identifier", valueIdentifier={"value": "4"})],
        {"identifier": [*EVE["identifier"], {"value": "4"}]},
    ),
    "add the first of a list": (
        [add("Patient", "telecom", valueContactPoint=PHONE)],
        {"telecom": [PHONE]},
    ),
    "add inside an element": (
        [add("Patient.contact[0]", "gender", valueCode="male")],
        {"contact": [{"name": {"text": "B"}, "gender": "male"}]},
    ),
    "add inside what criteria find": (
        [add("Patient.identifier.where(system = 'urn:b')", "use", valueCode="usual")],
        {
            "identifier": [
                EVE["identifier"][0],
                {**EVE["identifier"][1], "use": "usual"},
                EVE["identifier"][2],
            ]
        },
    ),
    "add without the name of the type": (
        [add("name.first()", "text", valueString="A")],
        {"name": [{**EVE["name"][0], "text": "A"}]},
    ),
    "add a primitive to a list with extensions beside it": (
        [add("Patient.name[0]", "given", valueString="Ann")],
        {
            "name": [
                {
                    "family": "Marsh",
                    "given": ["Eve", "Maria", "Ann"],
                    "_given": [None, {"id": "g2"}, None],
                }
            ]
        },
    ),
    "add a choice by its name": (
        [delete("Patient.deceased"), add("Patient", "deceased", valueDateTime="2020")],
        {"deceasedBoolean": None, "deceasedDateTime": "2020"},
    ),
    "add a choice by its name with [x]": (
        [add("Patient", "multipleBirth[x]", valueInteger=2)],
        {"multipleBirthInteger": 2},
    ),
    "add a choice by its name with a type": (
        [add("Patient", "multipleBirthBoolean", valueBoolean=True)],
        {"multipleBirthBoolean": True},
    ),
    "add a code as a string": (
        [add("Patient", "gender", valueString="female")],
        {"gender": "female"},
    ),
    "add an object of parts": (
        [
            operation(
                "add",
                "Patient",
                part("name", valueString="contact"),
                part(
                    "value",
                    part("name", valueHumanName={"text": "A"}),
                    part("telecom", valueContactPoint=PHONE),
                    part("telecom", valueContactPoint=PHONE),
                ),
            )
        ],
        {
            "contact": [
                *EVE["contact"],
                {"name": {"text": "A"}, "telecom": [PHONE, PHONE]},
            ]
        },
    ),
    "add an object of parts with parts": (
        [
            operation(
                "add",
                "Patient",
                part("name", valueString="contact"),
                part("value", part("name", part("text", valueString="A"))),
            )
        ],
        {"contact": [*EVE["contact"], {"name": {"text": "A"}}]},
    ),
    "add an extension": (
        [
            operation(
                "add",
                "Patient",
                part("name", valueString="extension"),
                part("value", part("url", valueUri="urn:x"), part("value", valueInteger=1)),
            )
        ],
        {"extension": [{"url": "urn:x", "valueInteger": 1}]},
    ),
    "add an extension to a primitive": (
        [
            operation(
                "add",
                "Patient.birthDate",
                part("name", valueString="extension"),
                part("value", part("url", valueUri="urn:x"), part("value", valueCode="y")),
            )
        ],
        {"_birthDate": {"extension": [{"url": "urn:x", "valueCode": "y"}]}},
    ),
    "add an id to a primitive of a list": (
        [add("Patient.name.given[0]", "id", valueString="g1")],
        {"name": [{**EVE["name"][0], "_given": [{"id": "g1"}, {"id": "g2"}]}]},
    ),
    "add a primitive that has only an extension": (
        [add("Patient", "gender", _valueCode={"extension": [{"url": "urn:x", "valueCode": "y"}]})],
        {"_gender": {"extension": [{"url": "urn:x", "valueCode": "y"}]}},
    ),
    "add a contained resource and a reference to it": (
        [
            add("Patient", "contained", resource=CONTAINED),
            add("Patient", "managingOrganization", valueReference={"reference": "#o"}),
        ],
        {"contained": [CONTAINED], "managingOrganization": {"reference": "#o"}},
    ),
    "insert at the beginning": (
        [insert("Patient.identifier", 0, valueIdentifier={"value": "0"})],
        {"identifier": [{"value": "0"}, *EVE["identifier"]]},
    ),
    "insert in the middle": (
        [insert("Patient.name[0].given", 1, valueString="Ann")],
        {
            "name": [
                {
                    "family": "Marsh",
                    "given": ["Eve", "Ann", "Maria"],
                    "_given": [None, None, {"id": "g2"}],
                }
            ]
        },
    ),
    "insert at the end": (
        [insert("Patient.identifier", 3, valueIdentifier={"value": "4"})],
        {"identifier": [*EVE["identifier"], {"value": "4"}]},
    ),
    "insert into what is not there yet": (
        [insert("Patient.telecom", 0, valueContactPoint=PHONE)],
        {"telecom": [PHONE]},
    ),
    "delete an element": ([delete("Patient.birthDate")], {"birthDate": None}),
    "delete a choice": ([delete("Patient.deceased")], {"deceasedBoolean": None}),
    "delete an item": (
        [delete("Patient.identifier[1]")],
        {"identifier": [EVE["identifier"][0], EVE["identifier"][2]]},
    ),
    "delete what criteria find": (
        [delete("Patient.identifier.where(value = '3')")],
        {"identifier": EVE["identifier"][:2]},
    ),
    "delete what is not there": ([delete("Patient.gender"), delete("Patient.name[7].family")], {}),
    "delete the last of an object": ([delete("Patient.contact[0].name.text")], {"contact": None}),
    "delete a primitive with what is beside it": (
        [delete("Patient.name.given[1]")],
        {"name": [{"family": "Marsh", "given": ["Eve"]}]},
    ),
    "delete what is beside a primitive": (
        [delete("Patient.name.given[1].id")],
        {"name": [{"family": "Marsh", "given": ["Eve", "Maria"]}]},
    ),
    "replace a primitive": (
        [replace("Patient.birthDate", valueDate="1985-04-13")],
        {"birthDate": "1985-04-13"},
    ),
    "replace inside": (
        [replace("Patient.contact[0].name.text", valueString="C")],
        {"contact": [{"name": {"text": "C"}}]},
    ),
    "replace an item": (
        [replace("Patient.identifier[1]", valueIdentifier={"value": "0"})],
        {"identifier": [EVE["identifier"][0], {"value": "0"}, EVE["identifier"][2]]},
    ),
    "replace a choice by another type": (
        [replace("Patient.deceased", valueDateTime="2020")],
        {"deceasedBoolean": None, "deceasedDateTime": "2020"},
    ),
    "replace an object by parts": (
        [
            operation(
                "replace", "Patient.contact[0].name", part("value", part("text", valueString="C"))
            )
        ],
        {"contact": [{"name": {"text": "C"}}]},
    ),
    "move down": (
        [move("Patient.identifier", 0, 2)],
        {"identifier": [EVE["identifier"][1], EVE["identifier"][2], EVE["identifier"][0]]},
    ),
    "move up": (
        [move("Patient.identifier", 2, 1)],
        {"identifier": [EVE["identifier"][0], EVE["identifier"][2], EVE["identifier"][1]]},
    ),
    "move a primitive with what is beside it": (
        [move("Patient.name[0].given", 0, 1)],
        {"name": [MARIA_FIRST]},
    ),
    "each operation sees what those before it made": (
        [
            add("Patient", "telecom", valueContactPoint=PHONE),
            add("Patient.telecom[0]", "use", valueCode="home"),
            replace("Patient.telecom.where(use = 'home').value", valueString="2"),
        ],
        {"telecom": [{"system": "phone", "value": "2", "use": "home"}]},
    ),
}  # fmt: skip

NO_PART = {"name": "operation"}

# A patch that is none, and where it says what is wrong
NO_FHIR_PATCH: dict[str, tuple[Any, str]] = {
    "another resource": ({"resourceType": "Patient"}, "Parameters.resourceType"),
    "another parameter": (
        fhirpath_patch({"name": "operations", "valueCode": "add"}),
        "Parameters.parameter[0]",
    ),
    "no parts": (fhirpath_patch(NO_PART), "Parameters.parameter[0]"),
    "no type": (
        fhirpath_patch({**NO_PART, "part": [part("path", valueString="Patient")]}),
        "Parameters.parameter[0]",
    ),
    "no path": (
        fhirpath_patch({**NO_PART, "part": [part("type", valueCode="delete")]}),
        "Parameters.parameter[0]",
    ),
    "a type that is none": (
        fhirpath_patch(delete("Patient.birthDate"), operation("remove", "Patient.birthDate")),
        "Parameters.parameter[1]",
    ),
    "a part twice": (
        fhirpath_patch(operation("delete", "Patient.name", part("path", valueString="a"))),
        "Parameters.parameter[0]",
    ),
    "a part too many": (
        fhirpath_patch(operation("delete", "Patient.name", part("index", valueInteger=0))),
        "Parameters.parameter[0]",
    ),
    "no name": (
        fhirpath_patch(operation("add", "Patient", part("value", valueCode="female"))),
        "Parameters.parameter[0]",
    ),
    "no value": (
        fhirpath_patch(operation("replace", "Patient.birthDate")),
        "Parameters.parameter[0]",
    ),
    "a value without a value": (
        fhirpath_patch(operation("replace", "Patient.birthDate", part("value"))),
        "Parameters.parameter[0]",
    ),
    "a value and parts": (
        fhirpath_patch(
            operation(
                "replace",
                "Patient.birthDate",
                part("value", part("x", valueCode="y"), valueDate="2000"),
            )
        ),
        "Parameters.parameter[0]",
    ),
    "a value that is malformed": (
        fhirpath_patch(add("Patient", "name", valueHumanName={"given": "Ada"})),
        "Parameters.parameter[0].part[3].value.given",
    ),
    "no index": (
        fhirpath_patch(operation("insert", "Patient.name", part("value", valueHumanName={}))),
        "Parameters.parameter[0].part[2].value",
    ),
    "an index that is none": (
        fhirpath_patch(insert("Patient.identifier", -1, valueIdentifier={"value": "1"})),
        "Parameters.parameter[0]",
    ),
    "no destination": (
        fhirpath_patch(operation("move", "Patient.name", part("source", valueInteger=0))),
        "Parameters.parameter[0]",
    ),
    "a path of another type": (
        fhirpath_patch({**NO_PART, "part": [
            part("type", valueCode="delete"), part("path", valueInteger=1)
        ]}),
        "Parameters.parameter[0]",
    ),
    "an operation without a name": (
        fhirpath_patch({"part": delete("Patient.name")["part"]}),
        "Parameters.parameter[0]",
    ),
    "a part without a name": (
        fhirpath_patch(operation("delete", "Patient.name", {"valueString": "x"})),
        "Parameters.parameter[0]",
    ),
    "a part of a value without a name": (
        fhirpath_patch(operation(
            "add",
            "Patient",
            part("name", valueString="contact"),
            part("value", {"valueString": "x"}),
        )),
        "Parameters.parameter[0]",
    ),
    "a path that is no FHIRPath": (
        fhirpath_patch(delete("Patient.name[")),
        "Parameters.parameter[0]",
    ),
    "a path that resolves": (
        fhirpath_patch(delete("Patient.generalPractitioner.resolve()")),
        "Parameters.parameter[0]",
    ),
    "a path with a regular expression": (
        fhirpath_patch(delete("Patient.name.where(family.matches('(a+)+b'))")),
        "Parameters.parameter[0]",
    ),
    "a path with a variable": (
        fhirpath_patch(delete("Patient.name.where(%resource.name.exists())")),
        "Parameters.parameter[0]",
    ),
    "a path with arithmetic": (
        fhirpath_patch(delete("Patient.name[0 + 1]")),
        "Parameters.parameter[0]",
    ),
}  # fmt: skip

# The operation that does not fit EVE, and the text about it
FHIR_UNFIT: dict[str, tuple[Resource, str]] = {
    "add to nothing": (
        add("Patient.communication", "preferred", valueBoolean=True),
        "path must name one element, and finds nothing",
    ),
    "add to several": (
        add("Patient.identifier", "use", valueCode="usual"),
        "path must name one element, and finds 3 elements",
    ),
    "add what is no element": (
        add("Patient", "status", valueCode="active"),
        "Patient has no element 'status'",
    ),
    "add what is no element of a backbone": (
        add("Patient.contact[0]", "birthDate", valueDate="2000"),
        "Patient.contact has no element 'birthDate'",
    ),
    "add what is there": (
        add("Patient", "birthDate", valueDate="2000"),
        "Patient has birthDate already; replace it",
    ),
    "add a choice where another one is": (
        add("Patient", "deceased", valueDateTime="2000"),
        "Patient has deceased already; replace it",
    ),
    "add another type": (
        add("Patient", "gender", valueHumanName={"text": "A"}),
        "gender is of type code, not HumanName",
    ),
    "add another primitive": (
        add("Patient", "active", valueString="true"),
        "active is of type boolean, not string",
    ),
    "add a type that the choice does not have": (
        add("Patient", "multipleBirth", valueString="2"),
        "multipleBirth is of type boolean or integer, not string",
    ),
    "add a resource where there is none": (
        add("Patient", "name", resource={"resourceType": "Basic"}),
        "name does not hold a resource",
    ),
    "parts with an element that there is not": (
        operation(
            "add",
            "Patient",
            part("name", valueString="contact"),
            part("value", part("birthDate", valueDate="2000")),
        ),
        "Patient.contact has no element 'birthDate'",
    ),
    "parts with an element twice": (
        operation(
            "add",
            "Patient",
            part("name", valueString="contact"),
            part("value", part("gender", valueCode="male"), part("gender", valueCode="female")),
        ),
        "Patient.contact has one gender, and there are two",
    ),
    "parts for a choice": (
        operation(
            "replace", "Patient.deceased", part("value", part("x", valueCode="y"))
        ),
        "name must say which type of deceased the parts make",
    ),
    "insert behind the end": (
        insert("Patient.identifier", 4, valueIdentifier={"value": "1"}),
        "index must be at most 3",
    ),
    "insert into no list": (
        insert("Patient.birthDate", 0, valueDate="2000"),
        "Patient has no list 'birthDate'",
    ),
    "insert into a part of a list": (
        insert("Patient.identifier.where(value = '1')", 0, valueIdentifier={"value": "1"}),
        "path must end with the name of a list",
    ),
    "insert into several lists": (
        insert("Patient.identifier.extension", 0, valueIdentifier={"value": "1"}),
        "path must name one element, and finds 3 elements",
    ),
    "delete several": (
        delete("Patient.identifier"),
        "path must name one element, and finds 3 elements",
    ),
    "delete the resource": (
        delete("Patient"),
        "path must name an element, not the whole resource",
    ),
    "delete a value": (
        delete("Patient.name.exists()"),
        "path must name elements, not compute a value",
    ),
    "replace nothing": (
        replace("Patient.gender", valueCode="male"),
        "path must name one element, and finds nothing",
    ),
    "replace several": (
        replace("Patient.name.given", valueString="A"),
        "path must name one element, and finds 2 elements",
    ),
    "replace by another type": (
        replace("Patient.name[0]", valueString="A"),
        "name is of type HumanName, not string",
    ),
    "move from behind the end": (move("Patient.identifier", 3, 0), "source must be below 3"),
    "move behind the end": (move("Patient.identifier", 0, 3), "destination must be below 3"),
    "move in what is no list": (
        move("Patient.birthDate", 0, 0),
        "Patient has no list 'birthDate'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FHIR_PATCHES)
def test_a_fhirpath_patch_changes_what_its_operations_say(name: str) -> None:
    operations, different = FHIR_PATCHES[name]

    made = patched(EVE, fhirpath_patch(*operations), FHIR)

    expected = {**EVE, **different}
    assert made == {key: value for key, value in expected.items() if value is not None}
    assert VALIDATOR.validate(made) == []


@pytest.mark.parametrize("name", NO_FHIR_PATCH)
def test_a_malformed_fhirpath_patch_is_a_400_that_says_where(name: str) -> None:
    patch, place = NO_FHIR_PATCH[name]

    status, _, where = refusal(EVE, patch, FHIR)

    assert (status, where) == (400, place)


@pytest.mark.parametrize("name", FHIR_UNFIT)
def test_a_fhirpath_patch_that_does_not_fit_is_a_422_that_says_why(name: str) -> None:
    asked, text = FHIR_UNFIT[name]

    assert refusal(EVE, fhirpath_patch(asked), FHIR) == (422, text, "Parameters.parameter[0]")


def test_what_a_fhirpath_patch_does_not_touch_keeps_its_digits_and_its_order() -> None:
    raw = (
        b'{"status":"final","resourceType":"Observation","component":[{"valueQuantity":'
        b'{"value":150e-2},"code":{"text":"a"}}],"code":{"text":"b"},"valueQuantity":{"value":1.50}}'
    )
    patch = (
        b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":['
        b'{"name":"type","valueCode":"replace"},'
        b'{"name":"path","valueString":"Observation.value.value"},'
        b'{"name":"value","valueDecimal":2.500}]}]}'
    )

    made = apply(raw, patch, FHIR, VALIDATOR)

    assert made == raw.replace(b"1.50", b"2.500")


def test_a_fhirpath_patch_that_is_too_much_work_is_refused() -> None:
    long = "Patient.identifier" + ".where(value.exists())" * 20
    patch = fhirpath_patch(*[delete(long)] * 100)
    many = {**EVE, "identifier": [{"value": "1"}] * 1000}

    assert refusal(many, patch, FHIR)[:1] == (422,)


# --- Both ----------------------------------------------------------------------------------------


def test_another_media_type_is_a_415_that_names_those_there_are() -> None:
    status, text, _ = refusal(ADA, [], "application/xml-patch+xml")

    assert status == 415
    assert all(kind in text for kind in MEDIA_TYPES)


@pytest.mark.parametrize("kind", [JSON, FHIR])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nul", b'{"a":1,"a":2}', b"[" * 100_000])
def test_a_patch_that_is_no_json_is_a_400(kind: str, body: bytes) -> None:
    with pytest.raises(FhirError) as caught:
        apply(json.dumps(ADA).encode(), body, kind, VALIDATOR)

    assert caught.value.status == 400


def test_a_result_that_is_too_long_is_a_413() -> None:
    patch = json.dumps([{"op": "add", "path": "/language", "value": "x" * 1000}]).encode()

    with pytest.raises(FhirError) as caught:
        apply(json.dumps(ADA).encode(), patch, JSON, VALIDATOR, largest=1000)

    assert caught.value.status == 413


POINTERS = st.lists(
    st.sampled_from(["name", "given", "_given", "0", "1", "-", "id", "extension", "", "~0", "01"]),
    max_size=4,
).map(lambda steps: "".join(f"/{step}" for step in steps))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-9, 9) | st.text("a~/", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)
JSON_OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"])},
    optional={"path": POINTERS, "from": POINTERS, "value": VALUES},
)
STEPS = [
    "Patient", "name", "given", "identifier", "birthDate", "extension", "id", "deceased",
    "contact", "value", "[0]", "[1]", "first()", "last()", "where(true)", "where($this='a')",
    "where(given>'a')", "ofType(string)", "where(value>1)", "exists()", "count()", "single()",
    "skip(1)", "not()", "'a'", "1", "{}", "$this", "upper()",
]  # fmt: skip
PATHS = st.lists(
    st.sampled_from(STEPS),
    min_size=1,
    max_size=5,
).map(lambda steps: ".".join(steps).replace(".[", "["))
PARTS = st.one_of(
    st.builds(lambda v: part("value", valueString=v), st.text("ab", min_size=1)),
    st.builds(lambda v: part("value", valueInteger=v), st.integers(-1, 3)),
    st.just(part("value", valueHumanName={"given": ["a"], "_given": [{"id": "b"}]})),
    st.just(part("value", part("text", valueString="a"))),
    st.just(part("value", _valueString={"id": "a"})),
    st.just(part("value", resource={"resourceType": "Basic"})),
)
FHIR_OPERATIONS = st.builds(
    lambda kind, path, value, name, number: operation(
        kind,
        path,
        *{
            "add": (part("name", valueString=name), value),
            "insert": (part("index", valueInteger=number), value),
            "delete": (),
            "replace": (value,),
            "move": (
                part("source", valueInteger=number),
                part("destination", valueInteger=0),
            ),
        }[kind],
    ),
    st.sampled_from(["add", "insert", "delete", "replace", "move"]),
    PATHS,
    PARTS,
    st.sampled_from(["name", "given", "value", "id", "extension", "deceased", "contact"]),
    st.integers(0, 3),
)


@given(st.lists(JSON_OPERATIONS, max_size=5))
def test_any_json_patch_is_applied_or_refused(operations: list[Resource]) -> None:
    outcome(operations, JSON)


@given(st.lists(FHIR_OPERATIONS, max_size=4).map(lambda some: fhirpath_patch(*some)))
def test_any_fhirpath_patch_is_applied_or_refused(patch: Resource) -> None:
    outcome(patch, FHIR)


def outcome(patch: Any, kind: str) -> None:
    """Check that a patch gives a resource without anything empty, or a refusal of the client."""
    try:
        made = patched(EVE, patch, kind)
    except FhirError as error:
        status = error.status
    else:
        status = 500 if empty_in(made) else 200
    assert status in (200, 400, 422)


def empty_in(value: Any) -> bool:
    """Return whether there is an empty object or array in a JSON value."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not value or any(map(empty_in, inner))
