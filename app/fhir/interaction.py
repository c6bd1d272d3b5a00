"""What is asked and what is answered, free of HTTP objects; and the table of REST routes.

https://hl7.org/fhir/R4/http.html

`ROUTES` is the one list of interactions: URLs and bundle entries are both read with it, and the
CapabilityStatement and the OpenAPI pages are written from it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl

from app.fhir.errors import FhirError, Issue, refused

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")  # datatypes.html#id
MAX_URL = 16 * 1024

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Route:
    """One REST interaction: `path` with its placeholders, as http.html#summary writes it.

    `code` is the interaction's code of valueset-restful-interaction.html, or `batch` for the
    endpoint that takes batches and transactions; `level` says where it is listed.
    """

    code: str
    method: str
    path: str
    level: str
    writes: bool = False


ROUTES = (
    Route("capabilities", "GET", "metadata", "system"),
    Route("batch", "POST", "", "system", writes=True),
    Route("history-system", "GET", "_history", "system"),
    Route("search-system", "GET", "", "system"),
    Route("search-system", "POST", "_search", "system"),
    Route("search-type", "GET", "[type]", "type"),
    Route("search-type", "POST", "[type]/_search", "type"),
    Route("create", "POST", "[type]", "type", writes=True),
    Route("history-type", "GET", "[type]/_history", "type"),
    Route("read", "GET", "[type]/[id]", "instance"),
    Route("update", "PUT", "[type]/[id]", "instance", writes=True),
    Route("delete", "DELETE", "[type]/[id]", "instance", writes=True),
    Route("history-instance", "GET", "[type]/[id]/_history", "instance"),
    Route("vread", "GET", "[type]/[id]/_history/[vid]", "instance"),
    Route("search-compartment", "GET", "[compartment]/[id]/[type]", "compartment"),
    Route("search-compartment", "POST", "[compartment]/[id]/[type]/_search", "compartment"),
    Route("search-compartment", "POST", "[compartment]/[id]/_search", "compartment"),
)

# compartmentdefinition.html: the types whose compartments R4 defines
COMPARTMENTS = ("Device", "Encounter", "Patient", "Practitioner", "RelatedPerson")

# The words that stand for themselves in a path; any other segment is a type, an id or a version
WORDS = frozenset(
    part for route in ROUTES for part in route.path.split("/") if part and part[0] != "["
)
_BY_SHAPE = {
    (
        route.method,
        tuple(part if part in WORDS else "" for part in route.path.split("/") if part),
    ): route
    for route in ROUTES
}


@dataclass(frozen=True, slots=True)
class Interaction:
    """One request: what is to be done, to what, with which parameters, body and conditions.

    `within` is the type of the compartment that is searched, `id` its centre, and `type` what is
    searched in it ("" for all). `if_modified_since` is in microseconds; `prefer` is what `Prefer:
    return=` asked for, `handling` what `Prefer: handling=` did. `url` is what the client wrote, for
    messages.
    """

    code: str
    type: str = ""
    id: str = ""
    version: str = ""
    within: str = ""
    pairs: Pairs = ()
    body: bytes = b""
    if_match: str = ""
    if_none_match: str = ""
    if_modified_since: int | None = None
    if_none_exist: str = ""
    prefer: str = ""
    handling: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: HTTP status, JSON body (empty for none), and what the headers tell.

    `location` is relative to the base URL. `version` and `updated` (microseconds) describe the
    resource that was read or written. `extra` are further headers.
    """

    status: int
    body: bytes = b""
    version: int = 0
    updated: int = 0
    location: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


class Place(NamedTuple):
    """What a path names: the route, and the parts that the interaction has of the same name."""

    route: Route
    type: str = ""
    id: str = ""
    version: str = ""
    within: str = ""


def route(method: str, path: str, types: Mapping[str, int]) -> Place:
    """Return what `path` (relative to the base) names under a method.

    Raises 404 for an unknown type or path, 405 for a method that the path does not take, and 400
    for an id that is none (datatypes.html#id).
    """
    parts = path.strip("/").split("/") if path.strip("/") else []
    shape = tuple(part if part in WORDS else "" for part in parts)
    found = _BY_SHAPE.get((method, shape))
    if shape[:3] == ("", "", "") and parts[2] != "*" and parts[2] not in types:
        text = f"There is no interaction at /{'/'.join(parts[:3])[:200]}"
        raise refused("not-found", text)
    if found is None:
        allowed = ", ".join(sorted(m for m, s in _BY_SHAPE if s == shape))
        if allowed:
            text = f"{method} is not supported here; this address takes {allowed}"
            raise FhirError([Issue("error", "not-supported", text)], 405, {"Allow": allowed})
        raise refused("not-found", f"There is no interaction at /{path[:200]}")
    type, id, third = (*(part for part in parts if part not in WORDS), "", "", "")[:3]
    if type and type not in types:
        raise refused("not-found", f"{type[:64]!r} is not an R4 resource type")
    if id.startswith("$"):
        raise refused("not-found", f"The operation {id[:64]} is not supported")
    if id and not ID.fullmatch(id):
        text = "An id is 1 to 64 characters of A-Z a-z 0-9 - ."
        raise refused("value", text, f"{type}.id", status=400)
    if found.code != "search-compartment":
        return Place(found, type, id, third)
    if type not in COMPARTMENTS:
        text = f"{type} has no compartment; these have: {', '.join(COMPARTMENTS)}"
        raise refused("not-found", text)
    return Place(found, third.replace("*", ""), id, "", type)


def parse_query(text: str) -> Pairs:
    """Return the name-value pairs of a query string or form body, in order.

    Raises a 400 for text that is not UTF-8 once percent-decoded, and for NUL characters.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=10_000)
    except ValueError:
        raise refused("invalid", "The query is not UTF-8, or has too many parameters") from None
    if "\0" in text or "%00" in text:
        raise refused("invalid", "The query holds the NUL character")
    return tuple(pairs)
