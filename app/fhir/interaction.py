"""What is asked and what is answered, free of HTTP objects; and the table of REST routes.

https://hl7.org/fhir/R4/http.html

`ROUTES` is the one list of interactions: URLs and bundle entries are both read with it, and the
CapabilityStatement and the OpenAPI pages are written from it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
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
    Route("update", "PUT", "[type]", "type", writes=True),
    Route("patch", "PATCH", "[type]", "type", writes=True),
    Route("delete", "DELETE", "[type]", "type", writes=True),
    Route("update", "PUT", "[type]/[id]", "instance", writes=True),
    Route("patch", "PATCH", "[type]/[id]", "instance", writes=True),
    Route("delete", "DELETE", "[type]/[id]", "instance", writes=True),
    Route("history-instance", "GET", "[type]/[id]/_history", "instance"),
    Route("vread", "GET", "[type]/[id]/_history/[vid]", "instance"),
    Route("search-compartment", "GET", "[compartment]/[id]/[type]", "compartment"),
    Route("search-compartment", "POST", "[compartment]/[id]/[type]/_search", "compartment"),
    Route("search-compartment", "POST", "[compartment]/[id]/_search", "compartment"),
    Route("operation", "GET", "$[name]", "operation"),
    Route("operation", "POST", "$[name]", "operation"),
    Route("operation", "GET", "[type]/$[name]", "operation"),
    Route("operation", "POST", "[type]/$[name]", "operation"),
    Route("operation", "GET", "[type]/[id]/$[name]", "operation"),
    Route("operation", "POST", "[type]/[id]/$[name]", "operation"),
    Route("operation", "GET", "[type]/[id]/_history/[vid]/$[name]", "operation"),
    Route("operation", "POST", "[type]/[id]/_history/[vid]/$[name]", "operation"),
)

# compartmentdefinition.html: the types whose compartments R4 defines
COMPARTMENTS = ("Device", "Encounter", "Patient", "Practitioner", "RelatedPerson")

# The words that stand for themselves in a path; any other segment is a type, an id or a version
WORDS = frozenset(
    part for route in ROUTES for part in route.path.split("/") if part and part[0] not in "[$"
)


def _shape(path: str) -> tuple[str, ...]:
    """Return the words of a path in their places, "$" for an operation, "" for anything else."""
    parts = path.split("/") if path else []
    return tuple("$" if part[:1] == "$" else part if part in WORDS else "" for part in parts)


_BY_SHAPE = {(route.method, _shape(route.path)): route for route in ROUTES}


@dataclass(frozen=True, slots=True)
class Interaction:
    """One request: what is to be done, to what, with which parameters, body and conditions.

    `within` is the type of the compartment that is searched, `id` its centre, and `type` what is
    searched in it ("" for all). `operation` is the name of an operation, without its $, `method`
    the HTTP method, which only operations look at. `content_type` is the media type of the body,
    without parameters. `if_modified_since` is in microseconds; `idempotency_key` is for operations;
    `prefer` is what `Prefer: return=` asked for, `handling` what `Prefer: handling=` did.
    `provenance` is the resource of X-Provenance as JSON. `url` is what the client wrote, for
    messages, `request` the id of the request that it came with, `address` where that came from.
    """

    code: str
    type: str = ""
    id: str = ""
    version: str = ""
    within: str = ""
    operation: str = ""
    method: str = ""
    pairs: Pairs = ()
    body: bytes = b""
    content_type: str = ""
    if_match: str = ""
    if_none_match: str = ""
    if_modified_since: int | None = None
    if_none_exist: str = ""
    idempotency_key: str = ""
    prefer: str = ""
    handling: str = ""
    provenance: bytes = b""
    url: str = ""
    request: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: HTTP status, JSON body (empty for none), and what the headers tell.

    `location` is relative to the base URL. `version` and `updated` (microseconds) describe the
    resource that was read or written. `issues` are warnings about it, for an OperationOutcome that
    says how it went. `extra` are further headers.
    """

    status: int
    body: bytes = b""
    version: int = 0
    updated: int = 0
    location: str = ""
    issues: tuple[Issue, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)


class Place(NamedTuple):
    """What a path names: the route, and the parts that the interaction has of the same name."""

    route: Route
    type: str = ""
    id: str = ""
    version: str = ""
    within: str = ""
    operation: str = ""

    def asked(self, **said: Any) -> Interaction:
        """Return the interaction here; `said` are the fields that an address does not tell."""
        return Interaction(
            code=self.route.code,
            type=self.type,
            id=self.id,
            version=self.version,
            within=self.within,
            operation=self.operation,
            method=self.route.method,
            **said,
        )


def methods(path: str) -> list[str]:
    """Return the methods that an address takes, sorted; none for one that there is not.

    HEAD is GET without the body, and OPTIONS asks for this list: neither is an interaction.
    """
    shape = _shape(path.strip("/"))
    found = {method for method, known in _BY_SHAPE if known == shape}
    return sorted({*found, "OPTIONS", *(["HEAD"] if "GET" in found else [])}) if found else []


def route(method: str, path: str, types: Mapping[str, int]) -> Place:
    """Return what `path` (relative to the base) names under a method.

    Raises 404 for an unknown type or path, 405 for a method that the path does not take, and 400
    for an id that is none (datatypes.html#id).
    """
    parts = path.strip("/").split("/") if path.strip("/") else []
    shape = _shape(path.strip("/"))
    found = _BY_SHAPE.get((method, shape))
    if shape[:3] == ("", "", "") and parts[2] != "*" and parts[2] not in types:
        text = f"There is no interaction at /{'/'.join(parts[:3])[:200]}"
        raise refused("not-found", text)
    if found is None:
        allowed = ", ".join(methods(path))
        if allowed:
            text = f"{method} is not supported here; this address takes {allowed}"
            raise FhirError([Issue("error", "not-supported", text)], 405, {"Allow": allowed})
        raise refused("not-found", f"There is no interaction at /{path[:200]}")
    operation = parts.pop()[1:] if shape[-1:] == ("$",) else ""
    type, id, third = (*(part for part in parts if part not in WORDS), "", "", "")[:3]
    if type and type not in types:
        raise refused("not-found", f"{type[:64]!r} is not an R4 resource type")
    if id and not ID.fullmatch(id):
        text = "An id is 1 to 64 characters of A-Z a-z 0-9 - ."
        raise refused("value", text, f"{type}.id", status=400)
    if found.code != "search-compartment":
        return Place(found, type, id, third, "", operation)
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
