"""JSON Merge Patch (RFC 7396), and what plain JSON is taken for when it is sent as a patch."""

import json
from typing import Any

import pytest

from app.fhir.definitions import load
from app.fhir.errors import FhirError
from app.fhir.patch import apply
from app.fhir.validation import Validator
from tests.support.patches import fhirpath_patch, replace

VALIDATOR = Validator(load())
MERGE, PLAIN = "application/merge-patch+json", "application/json"
ADA = b'{"resourceType":"Patient","gender":"female","multipleBirthInteger":2}'

# RFC 7396, appendix A: what is there, the patch, and the result, without what leaves no object
CASES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"a": "foo"}, {"b": {"c": None, "d": 1}}, {"a": "foo", "b": {"d": 1}}),
    ({"e": 1}, {"a": {"bb": {"ccc": None, "d": 2}}}, {"e": 1, "a": {"bb": {"d": 2}}}),
]


def patched(raw: bytes, patch: Any, kind: str) -> bytes:
    """Return the bytes of a resource after a patch."""
    return apply(raw, json.dumps(patch).encode(), kind, VALIDATOR)


@pytest.mark.parametrize(("there", "patch", "result"), CASES)
def test_a_merge_patch_does_what_the_rfc_shows(there: Any, patch: Any, result: Any) -> None:
    raw = patched(json.dumps(there).encode(), patch, MERGE)

    assert json.loads(raw) == result


def test_a_merge_patch_leaves_what_it_does_not_name_as_it_was_written() -> None:
    raw = patched(b'{"a":1.50,"b":{"c":2.0e1,"d":1},"e":[0.10]}', {"b": {"d": 2}}, MERGE)

    assert raw == b'{"a":1.50,"b":{"c":2.0e1,"d":2},"e":[0.10]}'


@pytest.mark.parametrize(
    "patch",
    [
        {"gender": "male"},
        [{"op": "replace", "path": "/gender", "value": "male"}],
        fhirpath_patch(replace("Patient.gender", valueCode="male")),
    ],
)
def test_plain_json_is_told_apart_by_what_it_is(patch: Any) -> None:
    assert json.loads(patched(ADA, patch, PLAIN)) == {**json.loads(ADA), "gender": "male"}


@pytest.mark.parametrize("kind", [MERGE, PLAIN])
@pytest.mark.parametrize("patch", ["x", 1, None, True])
def test_what_is_no_object_is_refused(kind: str, patch: Any) -> None:
    with pytest.raises(FhirError) as caught:
        patched(ADA, patch, kind)

    assert caught.value.status == 400
