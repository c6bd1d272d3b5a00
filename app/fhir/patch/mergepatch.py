"""JSON Merge Patch: a resource of which only what is to change is given, null for what goes.

RFC 7396

R4 does not name it. Clients send it nevertheless, most of them as plain `application/json`.
"""

from typing import Any

from app.fhir.patch import fhirpatch, jsonpatch
from app.fhir.validation import Validator
from app.fhir.wire import Resource, decode


def changed(resource: Resource, patch: bytes, validator: Validator, largest: int) -> Resource:  # noqa: ARG001
    """Return the resource with what a JSON Merge Patch gives; arrays are given as a whole."""
    merged = _merged(resource, decode(patch, exact=True))
    assert isinstance(merged, dict)  # as what was merged into it
    return merged


def told_apart(resource: Resource, patch: bytes, validator: Validator, largest: int) -> Resource:
    """Return the resource after a patch of whichever kind: plain JSON does not say which.

    An array is a JSON Patch, a Parameters resource a FHIRPath Patch, and else it is a merge.
    """
    if patch.lstrip()[:1] == b"[":
        return jsonpatch.changed(resource, patch, validator, largest)
    if decode(patch).get("resourceType") == "Parameters":
        return fhirpatch.changed(resource, patch, validator, largest)
    return changed(resource, patch, validator, largest)


def _merged(value: Any, patch: Any) -> Any:
    """Return a JSON value after a merge patch (RFC 7396, 2)."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            kept.pop(name, None)
        else:
            kept[name] = _merged(kept.get(name), part)
    return kept
