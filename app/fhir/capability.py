"""What the server can do, written from the tables that do it.

https://hl7.org/fhir/R4/capabilitystatement.html

`statement` is the CapabilityStatement, `openapi` the same for tools that do not know FHIR. Both
list the rows of `interaction.ROUTES`, the search parameters of the definitions and the operations
of the server, so they cannot claim what does not exist.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.fhir import audit, patch
from app.fhir.definitions import SearchParameter
from app.fhir.interaction import COMPARTMENTS, ROUTES, Route
from app.fhir.operations import Operation, Operations
from app.fhir.query import COLUMNS, Language
from app.fhir.wire import Resource, encode

Json = dict[str, Any]

FORMATS = [
    *("application/fhir+json", "application/json", "json"),
    *("application/fhir+xml", "application/xml", "xml"),
]
PROFILE = "http://hl7.org/fhir/StructureDefinition/"
# The types that nobody but the server writes, with all that they can be searched by
WRITTEN_HERE = {audit.TYPE: audit.PARAMETERS}
# The types that come first wherever all types are listed for people
FIRST = ("Patient", "CarePlan", "Encounter", "MedicationRequest")

OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
SMART_ON_FHIR = {
    "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
    "code": "SMART-on-FHIR",
    "display": "SMART-on-FHIR",
}
SECURITY = (
    "Every request but this one needs a token (SMART App Launch 2.2, Backend Services). What the"
    " token does not show does not exist for its bearer."
)

# search.html#errors: a server SHOULD ignore what it does not know. Then a misspelt parameter
# answers with the whole table: docs/decisions.md says why ours refuses
HANDLING = {
    False: "An unknown or unsupported search parameter, modifier or value is refused with a 400,"
    " unless the request says Prefer: handling=lenient: then it is ignored with a warning.",
    True: "An unknown or unsupported search parameter, modifier or value is ignored with a warning,"
    " unless the request says Prefer: handling=strict: then it is refused with a 400.",
}
ORDER = (
    "Without _sort, what is searched by a date comes newest date first, everything else newest"
    " created first. Missing values are last in either direction."
)

# http.html: the one interaction code that stands for two
SYSTEM_CODES = {"batch": ("transaction", "batch")}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server can do that is not in the tables: its version, its operations, its settings.

    `started` is the instant of its start, `conditional_delete` the code of what a DELETE by
    criteria may delete, `enforced` whether references are kept whole. `security` are the addresses
    of the authorization server, by the names of the extension oauth-uris.
    """

    software: str
    started: str
    operations: Operations
    conditional_delete: str
    enforced: bool = False
    security: Mapping[str, str] = field(default_factory=dict)


def statement(language: Language, offer: Offer, building: Mapping[tuple[str, str], int]) -> bytes:
    """Return the CapabilityStatement of a server.

    `building` says of (type, code) how many percent of the resources are indexed by it so far.
    """
    definitions = language.definitions
    software, started = offer.software, offer.started
    referrers = _referrers(language)
    resource: Resource = {
        "resourceType": "CapabilityStatement",
        "id": "milepost",
        "url": f"{language.base_url}/metadata",
        "version": software,
        "name": "Milepost",
        "title": "Milepost: a FHIR R4 server for intensive outpatient programs",
        "status": "active",
        "date": started,
        "kind": "instance",
        "software": {"name": "Milepost", "version": software},
        "implementation": {"description": "Milepost", "url": language.base_url},
        "fhirVersion": definitions.version,
        "format": FORMATS,
        "patchFormat": sorted(patch.MEDIA_TYPES),
        "rest": [
            {
                "mode": "server",
                "documentation": f"{HANDLING[language.lenient]} {ORDER}",
                "security": _security(offer),
                "resource": [
                    _resource(language, offer, type, building, referrers[type])
                    for type in definitions.resource_types
                ],
                "interaction": [{"code": code} for code in _system_codes()],
                "searchParam": [_parameter(p, None) for p in _common(language)],
                "operation": _operations(offer.operations.at("system")),
                "compartment": [
                    f"http://hl7.org/fhir/CompartmentDefinition/{type.lower()}"
                    for type in COMPARTMENTS
                ],
            }
        ],
    }
    return encode(resource)


def _security(offer: Offer) -> Json:
    """Return how one is let in: conformance.html#using-cs of SMART, for clients from before 2.0."""
    uris = [{"url": name, "valueUri": uri} for name, uri in offer.security.items()]
    return {
        "extension": [{"url": OAUTH_URIS, "extension": uris}],
        "cors": True,
        "service": [{"coding": [SMART_ON_FHIR], "text": "OAuth2 using SMART on FHIR"}],
        "description": SECURITY,
    }


def _system_codes() -> list[str]:
    routes = [r.code for r in ROUTES if r.level == "system" and r.code != "capabilities"]
    return list(dict.fromkeys(code for one in routes for code in SYSTEM_CODES.get(one, (one,))))


def _operations(rows: Iterable[Operation]) -> list[Json]:
    """Return what is said of operations, each once; which right one needs is said in words."""
    found = {row.definition["id"]: row for row in rows}.values()
    said = {
        row.code: f"Only for callers with the right to {row.right}" for row in found if row.right
    }
    return [
        {
            "name": row.code,
            "definition": row.definition["url"],
            **({"documentation": said[row.code]} if row.right else {}),
        }
        for row in found
    ]


def _resource(
    language: Language,
    offer: Offer,
    type: str,
    building: Mapping[tuple[str, str], int],
    referrers: list[str],
) -> Json:
    if type in WRITTEN_HERE:
        return _written_here(language, offer, type)
    codes = dict.fromkeys(r.code for r in ROUTES if r.level in ("type", "instance"))
    operations = offer.operations
    return {
        "type": type,
        "profile": PROFILE + type,
        "interaction": [{"code": code} for code in codes],
        "versioning": "versioned",
        "readHistory": True,
        "updateCreate": True,
        "conditionalCreate": True,
        "conditionalRead": "full-support",
        "conditionalUpdate": True,
        "conditionalDelete": offer.conditional_delete,
        "referencePolicy": ["literal", "logical", *(["enforced"] if offer.enforced else [])],
        "searchInclude": ["*", *_references(language, type)],
        "searchRevInclude": referrers,
        "searchParam": [
            _parameter(parameter, building.get((type, parameter.code)))
            for parameter in _supported(language, type)
        ],
        "operation": _operations([*operations.at("type", type), *operations.at("instance", type)]),
    }


def _written_here(language: Language, offer: Offer, type: str) -> Json:
    known = language.definitions.search_parameters[type]
    return {
        "type": type,
        "profile": PROFILE + type,
        "documentation": "Written by the server alone; for the role privacy-officer",
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "no-version",
        "readHistory": False,
        "updateCreate": False,
        "conditionalCreate": False,
        "conditionalRead": "not-supported",
        "conditionalUpdate": False,
        "conditionalDelete": "not-supported",
        "referencePolicy": ["literal", "logical"],
        "searchParam": [_parameter(known[code], None) for code in sorted(WRITTEN_HERE[type])],
        "operation": _operations(offer.operations.at("type", type)),
    }


def _references(language: Language, type: str) -> list[str]:
    """Return what `_include` may name of a type."""
    return [f"{type}:{p.code}" for p in _supported(language, type) if p.type == "reference"]


def _referrers(language: Language) -> dict[str, list[str]]:
    """Return what `_revinclude` may name for each type."""
    definitions = language.definitions
    found: dict[str, list[str]] = {type: [] for type in definitions.resource_types}
    for source in definitions.resource_types:
        if source in WRITTEN_HERE:
            continue
        for name in _references(language, source):
            may = definitions.targets(source, name.partition(":")[2]) or found
            for target in dict.fromkeys(may):
                found[target].append(name)
    return found


def _common(language: Language) -> list[SearchParameter]:
    """Return the parameters that every type has."""
    each = [set(language.supported(type)) for type in language.definitions.resource_types]
    known = language.definitions.search_parameters[language.definitions.resource_types[0]]
    return [known[code] for code in sorted(set.intersection(*each))]


def _supported(language: Language, type: str) -> Iterator[SearchParameter]:
    known = language.definitions.search_parameters[type]
    return (known[code] for code in sorted(language.supported(type)))


def _parameter(parameter: SearchParameter, percent: int | None) -> Json:
    row = {"name": parameter.code, "definition": parameter.url, "type": parameter.type}
    if percent is not None:
        row["documentation"] = f"Its index is being built: {percent} % is done"
    return row


# --- OpenAPI -----------------------------------------------------------------------------------

EXAMPLES: Mapping[str, Json] = {
    "Patient": {
        "resourceType": "Patient",
        "name": [{"family": "Rivera", "given": ["Ana"]}],
        "gender": "female",
        "birthDate": "1990-05-17",
    },
    "CarePlan": {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "title": "Intensive outpatient treatment plan",
        "subject": {"reference": "Patient/example"},
    },
    "Encounter": {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
            "code": "AMB",
        },
        "subject": {"reference": "Patient/example"},
        "period": {"start": "2026-03-02T18:00:00Z", "end": "2026-03-02T21:00:00Z"},
    },
    "MedicationRequest": {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": {"text": "Naltrexone 50 mg tablet"},
        "subject": {"reference": "Patient/example"},
    },
}
# http.html#history: the parameters of a history, besides `_count`
HISTORY = {
    "_since": "Only versions from this instant on",
    "_at": "Only versions that were current at some moment of this date or period",
    "_list": "Only versions of resources that this List refers to",
}
SUMMARIES = {
    "capabilities": "What the server can do",
    "batch": "Process a batch or a transaction",
    "history-system": "List the versions of all resources, newest first",
    "search-system": "Search all types, or those of _type",
    "search-type": "Search",
    "search-compartment": "Search a compartment; the type may be *",
    "create": "Create a resource under a new id",
    "history-type": "List the versions of all resources of the type, newest first",
    "read": "Read the current version",
    "update": "Write a new version, or the first under this id",
    "delete": "Delete",
    "patch": "Change parts of a resource",
    "history-instance": "List the versions of the resource, newest first",
    "vread": "Read one version",
}
BY_CRITERIA = ", found by search parameters in the URL"
PATCH_EXAMPLE = [{"op": "add", "path": "/language", "value": "en"}]
BUNDLE_EXAMPLE: Json = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {
            "fullUrl": "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11",
            "resource": EXAMPLES["Patient"],
            "request": {"method": "POST", "url": "Patient"},
        },
        {
            "resource": {
                **EXAMPLES["Encounter"],
                "subject": {"reference": "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"},
            },
            "request": {"method": "POST", "url": "Encounter"},
        },
    ],
}


def openapi(language: Language, operations: Operations, prefix: str) -> dict[str, Json]:
    """Return the OpenAPI paths of the FHIR routes below `prefix`.

    The types in `FIRST` have paths of their own, with examples and their search parameters; all
    other types share one set of paths with the type as a parameter. Operations come last.
    """
    definitions = language.definitions
    paths: dict[str, Json] = {}
    for type in FIRST:
        for route in ROUTES:
            if route.level in ("type", "instance"):
                path = f"{prefix}/{route.path.replace('[type]', type)}"
                _add(paths, path, route, type, _search_parameters(language, type))
    for type, codes in WRITTEN_HERE.items():
        known = definitions.search_parameters[type]
        taken = [_query(code, known[code].description.strip()) for code in sorted(codes)]
        for route in ROUTES:
            if route.code in ("read", "search-type"):
                _add(paths, f"{prefix}/{route.path.replace('[type]', type)}", route, type, taken)
    apart = {*FIRST, *WRITTEN_HERE}
    others = [type for type in definitions.resource_types if type not in apart]
    kind = _placeholder("type", {"type": "string", "enum": others})
    for route in ROUTES:
        if route.level in ("type", "instance"):
            _add(paths, f"{prefix}/{route.path}", route, "Other types", [kind])
    center = _placeholder("compartment", {"type": "string", "enum": list(COMPARTMENTS)})
    kinds = [type for type in definitions.resource_types if type not in WRITTEN_HERE]
    searched = {"type": "string", "enum": ["*", *kinds]}
    for route in ROUTES:
        if route.level == "compartment":
            more = [center, _placeholder("type", searched)] if "[type]" in route.path else [center]
            _add(paths, f"{prefix}/{route.path}", route, "Compartments", more)
    for route in ROUTES:
        if route.level == "system":
            _add(paths, f"{prefix}/{route.path}".rstrip("/"), route, "System", [])
    for operation in operations.rows:
        _add_operation(paths, language, operation, prefix)
    return paths


def _add(paths: dict[str, Json], path: str, route: Route, tag: str, more: list[Json]) -> None:
    """Add one operation; `more` are the type's parameters, of which a read takes no search ones."""
    searches = route.code == "search-type" and route.method == "GET"
    criteria = conditional(route)
    parameters = [p for p in more if p["in"] == "path" or searches or criteria]
    if criteria:
        found = {p["name"]: p for p in [*parameters, _query("_id", "Logical id of this artifact")]}
        parameters = [*({**found, "_id": {**found["_id"], "example": "example"}}).values()]
    inside = [name for name in ("id", "vid") if f"[{name}]" in path]
    parameters += [_placeholder(name, {"type": "string"}) for name in inside]
    if searches or "history" in route.code:
        parameters.append(_query("_count", "Entries on a page"))
    if "history" in route.code:
        parameters += [_query(name, text) for name, text in HISTORY.items()]
    operation: Json = {
        "tags": [tag],
        "summary": SUMMARIES[route.code] + (BY_CRITERIA if criteria else ""),
        "operationId": _operation_id(route, tag),
        "parameters": parameters,
        "responses": _responses(route),
    }
    if body := _body(route, tag):
        operation["requestBody"] = body
    paths.setdefault(path.replace("[", "{").replace("]", "}"), {})[route.method.lower()] = operation


def conditional(route: Route) -> bool:
    """Return whether a write names by criteria in the URL what it is about."""
    return route.writes and route.level == "type" and route.code != "create"


def _add_operation(
    paths: dict[str, Json], language: Language, operation: Operation, prefix: str
) -> None:
    """Add where an operation may be called, with GET where its definition allows that."""
    definition = operation.definition
    inputs = list(operation.inputs.values())
    structures = language.definitions.structures
    types = {p["name"]: p.get("type", "") for p in inputs}  # one with parts has none
    plain = all(type in structures and structures[type].kind == "primitive-type"
                for type in types.values())  # fmt: skip
    taken = [_query(p["name"], str(p.get("documentation", types[p["name"]]))) for p in inputs]
    if operation.criteria:
        names = {p["name"] for p in taken}
        found = _search_parameters(language, definition["resource"][0])
        taken += [p for p in found if p["name"] not in names]
    kind = _placeholder("type", {"type": "string", "enum": language.definitions.resource_types})
    for level, address in operation.addresses():
        inside = [_placeholder(name, {"type": "string"}) for name in ("id", "vid")
                  if f"[{name}]" in address]  # fmt: skip
        inside += [kind] if "[type]" in address else []
        path = f"{prefix}/{address}".replace("[", "{").replace("]", "}")
        said: Json = {
            "tags": ["Operations"],
            "summary": definition.get("title", operation.code),
            "responses": _responses(None),
        }
        name = f"{definition['id']}-{level}".lower()
        if plain and not operation.affects_state:
            paths.setdefault(path, {})["get"] = {
                **said, "operationId": f"{name}-get",
                # what the path names is not asked for once more
                "parameters": [*inside, *(p for p in taken if f"[{p['name']}]" not in address)],
            }  # fmt: skip
        content = {"application/fhir+json": {"schema": {"type": "object"}}}
        paths.setdefault(path, {})["post"] = {
            **said,
            "operationId": f"{name}-post",
            "parameters": inside,
            "requestBody": {"description": "A Parameters resource", "content": content},
        }


def _operation_id(route: Route, tag: str) -> str:
    every = "-all" if route.level == "compartment" and "[type]" not in route.path else ""
    how = "conditional-" if conditional(route) else ""
    return f"{how}{route.code}{every}-{route.method}-{tag}".lower().replace(" ", "-")


def _placeholder(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, text: str) -> Json:
    return {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}


def _search_parameters(language: Language, type: str) -> list[Json]:
    return [
        _query(p.code, p.description.strip() or p.type)
        for p in _supported(language, type)
        if not p.code.startswith("_") or p.code in COLUMNS
    ]


def _body(route: Route, tag: str) -> Json | None:
    if route.path.endswith("_search"):
        return {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}}
    if not route.writes or route.method == "DELETE":
        return None
    if route.code == "patch":
        steps: Json = {"schema": {"type": "array"}}
        if tag in EXAMPLES:
            steps["example"] = PATCH_EXAMPLE
        return {"required": True, "content": {"application/json-patch+json": steps}}
    example = BUNDLE_EXAMPLE if route.code == "batch" else EXAMPLES.get(tag)
    if example and route.code == "update":
        example = {**example, "id": "example"}
    content: Json = {"schema": {"type": "object"}}
    if example:
        content["example"] = example
    return {"required": True, "content": {"application/fhir+json": content}}


def _responses(route: Route | None) -> Json:
    """Return what a route answers; None stands for an operation."""
    media = {"application/fhir+json": {"schema": {"type": "object"}}}
    good = {"create": "201", "delete": "204"}.get(route.code if route else "", "200")
    done: Json = (
        {"description": "Done"} if good == "204" else {"description": "Done", "content": media}
    )
    return {good: done, "default": {"description": "An OperationOutcome", "content": media}}
