"""What a Reference may say: the form of its text, and the types that it may point at.

https://hl7.org/fhir/R4/references.html
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from app.fhir.validation.invariants import Within

Fault = tuple[str, str]

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
RESTFUL = re.compile(r"([A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?")
ANYWHERE = re.compile(rf"https?://[^?#]*/{RESTFUL.pattern}", re.IGNORECASE)
CONDITIONAL = re.compile(r"([A-Za-z]+)\?[^#]+")
ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[^\s]+")


UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_plain(value: dict[str, Any], targets: Collection[str]) -> bool:
    """Return whether a Reference is one of the common ones that `faults` has nothing to say of."""
    text = value.get("reference")
    if type(text) is not str or "type" in value:
        return False
    head, _, tail = text.partition("/")
    return bool(ID.fullmatch(tail)) if head in targets else UUID.fullmatch(text) is not None


def faults(
    value: dict[str, Any],
    targets: Collection[str],
    known: Collection[str],
    within: Within,
) -> Iterator[Fault]:
    """Yield what is wrong with a Reference of an element that allows `targets` (all when empty).

    references.html#Reference: the type in the text, and `type`, must agree with the element. An
    absolute URL that does not look RESTful, and a urn, may point at anything. A conditional
    reference is allowed, since transactions resolve it (http.html#trules).
    """
    text, declared = value.get("reference"), value.get("type")
    pointed = None
    if isinstance(text, str):
        pointed, fault = target(text, known, within)
        if fault:
            yield fault
        elif pointed and targets and pointed not in targets:
            yield not_allowed(targets)
    if isinstance(declared, str) and not ABSOLUTE.fullmatch(declared):
        if declared not in known:
            yield "value", "type must be the name of a resource type, or an absolute URL"
        elif (targets and declared not in targets) and pointed in {None, *targets}:
            yield not_allowed(targets)
        elif pointed not in {None, declared}:
            yield "value", "type and reference name different resource types"


def not_allowed(targets: Collection[str]) -> Fault:
    """Return the fault of a reference to a type that the element does not allow."""
    return "value", f"Must refer to {' or '.join(sorted(targets))}"


def target(text: str, known: Collection[str], within: Within) -> tuple[str | None, Fault | None]:
    """Return the resource type that a reference's text names, if it does, and what is wrong."""
    if text.startswith("#"):
        return fragment(text[1:], within)
    match = RESTFUL.fullmatch(text) or CONDITIONAL.fullmatch(text)
    if match:
        if match[1] in known:
            return match[1], None
        return None, ("value", "Must name a resource type of R4 before the id")
    match = ANYWHERE.fullmatch(text)
    if match and match[1] in known:
        return match[1], None
    if ABSOLUTE.fullmatch(text):
        return None, None
    return None, ("value", "Must be Type/id, an absolute URL, a urn:uuid:, urn:oid: or #id")


def fragment(name: str, within: Within) -> tuple[str | None, Fault | None]:
    """Return the type of the contained resource with this id; `#` alone is the one around it."""
    if not name:
        return within.root.get("resourceType"), None
    if name in within.contained:
        return within.contained[name], None
    return None, ("invariant", "ref-1: Must be the id of a contained resource")
