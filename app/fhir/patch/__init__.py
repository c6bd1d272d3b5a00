"""Patches: a resource and a description of changes in, the changed resource out.

https://hl7.org/fhir/R4/http.html#patch

`jsonpatch` knows RFC 6902, `fhirpatch` FHIRPath Patch, `mergepatch` RFC 7396. Rule 1: whether the
result is a valid resource is not asked here. Rule 2: what a patch does not touch keeps its place
and its digits.
"""

from collections.abc import Callable
from typing import Any

from app.fhir.errors import refused
from app.fhir.patch import fhirpatch, jsonpatch, mergepatch
from app.fhir.validation import Validator
from app.fhir.wire import Resource, decode, encode

LARGEST = 16 * 1024 * 1024  # bytes that a result may have, where nobody says so

NOTHING = object()  # stands for what is empty

Changed = Callable[[Resource, bytes, Validator, int], Resource]

MEDIA_TYPES: dict[str, Changed] = {
    "application/json-patch+json": jsonpatch.changed,
    "application/fhir+json": fhirpatch.changed,
    "application/fhir+xml": fhirpatch.changed,
    "application/merge-patch+json": mergepatch.changed,
    "application/json": mergepatch.told_apart,
    "text/json": mergepatch.told_apart,
}


def apply(
    raw: bytes,
    patch: bytes,
    content_type: str,
    validator: Validator,
    largest: int = LARGEST,
) -> bytes:
    """Return the resource in `raw` as compact JSON after a patch, which is JSON of any kind.

    Objects and arrays that are empty in the end are left out, since JSON in FHIR has none
    (json.html). Raises a 415 for a media type that is no patch, a 400 for a malformed patch, a 422
    for one that does not fit the resource, and a 413 for a result of more than `largest` bytes.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        text = f"A patch must be of type {' or '.join(sorted(MEDIA_TYPES))}"
        raise refused("not-supported", text, status=415)
    try:
        resource = MEDIA_TYPES[kind](decode(raw, exact=True), patch, validator, largest)
        filled = _filled(resource)
        made = encode({} if filled is NOTHING else filled)
    except RecursionError:
        raise refused("too-costly", "The patch makes the resource nest too deeply") from None
    if len(made) > max(largest, len(raw)):
        raise refused("too-long", f"The patched resource is longer than {largest} bytes")
    return made


def _filled(value: Any, key: str = "") -> Any:
    """Return a JSON value without what is empty in it; NOTHING where nothing is left.

    What becomes empty beside an array of primitives (`_given`) is null there: others keep their
    place.
    """
    if isinstance(value, dict):
        parts = {name: _filled(one, name) for name, one in value.items()}
        return {name: one for name, one in parts.items() if one is not NOTHING} or NOTHING
    if not isinstance(value, list):
        return value
    items = [_filled(one) for one in value]
    if not key.startswith("_"):
        return [one for one in items if one is not NOTHING] or NOTHING
    places = [None if one is NOTHING else one for one in items]
    return places if any(one is not None for one in places) else NOTHING
