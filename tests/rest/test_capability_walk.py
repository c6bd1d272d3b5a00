"""The CapabilityStatement is walked: everything that it claims is called once, and works."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.conformance.official import selection
from tests.conftest import BASE_URL
from tests.support.replies import issue
from tests.support.resources import coded, encounter, observation, patient, reference, resource

Json = dict[str, Any]
Ask = Callable[[httpx.AsyncClient, str, Json], Awaitable[httpx.Response]]

# Types without an official example that is valid
SMALL: dict[str, Json] = {
    "DeviceMetric": {"type": {"text": "Pulse"}, "category": "measurement"},
    "DeviceUseStatement": {
        "status": "active",
        "subject": {"reference": "Patient/a"},
        "device": {"reference": "Device/a"},
    },
    "EventDefinition": {"status": "draft", "trigger": [{"type": "named-event", "name": "x"}]},
}
# What only costs time: a search parameter that is in force has its index built
CHANGED = {"SearchParameter": {"status": "draft"}}
PATCH = [{"op": "add", "path": "/language", "value": "de"}]
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
NONE_EXIST = {"If-None-Exist": "_id=walk"}

# Every interaction of a type and what it answers, in an order in which all can be done
INTERACTIONS: dict[str, tuple[int, Ask]] = {
    "update": (201, lambda client, kind, body: client.put(f"/{kind}/walk", json=body)),
    "create": (201, lambda client, kind, body: client.post(f"/{kind}", json=body)),
    "read": (200, lambda client, kind, _: client.get(f"/{kind}/walk")),
    "patch": (
        200,
        lambda client, kind, _: client.patch(f"/{kind}/walk", json=PATCH, headers=JSON_PATCH),
    ),
    "vread": (200, lambda client, kind, _: client.get(f"/{kind}/walk/_history/2")),
    "search-type": (200, lambda client, kind, _: client.get(f"/{kind}?_id=walk")),
    "history-instance": (200, lambda client, kind, _: client.get(f"/{kind}/walk/_history")),
    "history-type": (200, lambda client, kind, _: client.get(f"/{kind}/_history?_count=1")),
    "delete": (204, lambda client, kind, _: client.delete(f"/{kind}/walk")),
}
CONDITIONAL: dict[str, tuple[int, Ask]] = {
    "conditionalUpdate": (201, lambda client, kind, b: client.put(f"/{kind}?_id=walk", json=b)),
    "conditionalCreate": (
        200,
        lambda client, kind, body: client.post(f"/{kind}", json=body, headers=NONE_EXIST),
    ),
    "conditionalRead": (
        304,
        lambda client, kind, _: client.get(f"/{kind}/walk", headers={"If-None-Match": "*"}),
    ),
    "conditionalDelete": (204, lambda client, kind, _: client.delete(f"/{kind}?_id=walk")),
}
SAMPLE = ["Appointment", "Bundle", "Encounter", "Group", "Observation", "Patient", "ValueSet"]


def bodies(types: list[str]) -> dict[str, Json]:
    """Return a resource of each type, the shortest of the official examples where there is one."""
    found: dict[str, Json] = {}
    for example in sorted(selection(), key=lambda one: -len(one.raw)):
        body = json.loads(example.raw)
        found[body["resourceType"]] = body
    return {
        type: {
            "resourceType": type,
            **found.get(type, SMALL.get(type, {})),
            **CHANGED.get(type, {}),
            "id": "walk",
        }
        for type in types
    }


async def claimed(client: httpx.AsyncClient) -> Json:
    """Return the only `rest` of the CapabilityStatement."""
    (rest,) = (await client.get("/metadata")).json()["rest"]
    found: Json = rest
    return found


async def claims_of_records(client: httpx.AsyncClient) -> list[Json]:
    """Return what is claimed of each type, but for AuditEvent: nobody but the server writes it."""
    claims = (await claimed(client))["resource"]
    return [claim for claim in claims if claim["type"] != "AuditEvent"]


async def test_every_interaction_of_every_type_works(client: httpx.AsyncClient) -> None:
    claims = await claims_of_records(client)
    made = bodies([claim["type"] for claim in claims])

    wrong = {}
    for claim in claims:
        codes = {interaction["code"] for interaction in claim["interaction"]}
        assert codes == INTERACTIONS.keys(), claim["type"]
        for code, (status, ask) in INTERACTIONS.items():
            reply = await ask(client, claim["type"], made[claim["type"]])
            if reply.status_code != status:
                wrong[claim["type"], code] = reply.text

    assert wrong == {}


async def test_every_conditional_interaction_works(client: httpx.AsyncClient) -> None:
    claims = {claim["type"]: claim for claim in await claims_of_records(client)}
    made = bodies(SAMPLE)

    wrong = {}
    for type in SAMPLE:
        for name, (status, ask) in CONDITIONAL.items():
            assert claims[type][name] in (True, "full-support", "single"), name
            reply = await ask(client, type, made[type])
            if reply.status_code != status:
                wrong[type, name] = reply.text

    assert wrong == {}
    one = {json.dumps({name: claim[name] for name in CONDITIONAL}) for claim in claims.values()}
    assert len(one) == 1


async def test_every_patch_format_and_compartment_works(client: httpx.AsyncClient) -> None:
    statement = (await client.get("/metadata")).json()
    steps = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": [
        {"name": "type", "valueCode": "add"},
        {"name": "path", "valueString": "Patient"},
        {"name": "name", "valueString": "language"},
        {"name": "value", "valueCode": "en"},
    ]}]}  # fmt: skip
    as_xml = (
        '<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="operation"/>'
        '<part><name value="type"/><valueCode value="delete"/></part>'
        '<part><name value="path"/><valueString value="Patient.language"/></part>'
        "</parameter></Parameters>"
    )
    by_kind = {
        "json-patch+json": json.dumps(PATCH),
        "merge-patch+json": json.dumps({"language": None}),
        "json": json.dumps(steps),
        "xml": as_xml,
    }
    patches = {
        kind: next(body for end, body in by_kind.items() if kind.endswith(end))
        for kind in statement["patchFormat"]
    }
    compartments = [url.rpartition("/")[2] for url in statement["rest"][0]["compartment"]]
    types = {
        type.lower(): type for type in bodies([c["type"] for c in statement["rest"][0]["resource"]])
    }

    patched = {}
    for kind in patches:
        await client.put("/Patient/a", json=patient(id="a"))
        headers = {"Content-Type": kind}
        patched[kind] = (
            await client.patch("/Patient/a", content=patches[kind], headers=headers)
        ).status_code
    searched = {
        name: (await client.get(f"/{types[name]}/a/*")).status_code for name in compartments
    }

    assert patched == dict.fromkeys(patches, 200)
    assert searched == dict.fromkeys(compartments, 200)


async def test_every_include_and_revinclude_of_a_sample_works(client: httpx.AsyncClient) -> None:
    claims = {claim["type"]: claim for claim in (await claimed(client))["resource"]}

    wrong = {
        (type, name, value): reply.text
        for type in SAMPLE
        for name, listed in (("_include", "searchInclude"), ("_revinclude", "searchRevInclude"))
        for value in claims[type][listed][:40]
        if (reply := await client.get(f"/{type}", params={name: value})).status_code != 200
    }

    assert wrong == {}


# --- operations: R4's, and ours for any server; tests/domain has those of a program ---------------

LABELS = {
    "resourceType": "Parameters",
    "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}],
}
# By definition: the body to POST (None: a GET), and the query at each level that needs one
CALLS: dict[str, tuple[Json | None, dict[str, str]]] = {
    "Resource-validate": (None, {}),
    "Resource-meta": (None, {}),
    "Resource-meta-add": (LABELS, {}),
    "Resource-meta-delete": (LABELS, {}),
    "Patient-everything": (None, {}),
    "Encounter-everything": (None, {}),
    "Observation-lastn": (None, {"type": "patient=Patient/a&category=survey"}),
    "Composition-document": (None, {"type": "id=a"}),
    "Patient-purge": ({"resourceType": "Parameters"}, {}),
    "Resource-expunge": ({"resourceType": "Parameters"}, {}),
}
NAMED = [
    patient(id="a"),
    encounter(id="a", subject=reference("Patient/a")),
    observation(id="a", subject=reference("Patient/a")),
    resource(
        "Composition",
        {
            "id": "a",
            "status": "final",
            "type": coded("11503-0"),
            "date": "2026",
            "title": "x",
            "author": [reference("Patient/a")],
        },
        {},
    ),
]


def one_of(type: str) -> Json:
    """Return what there is of a type."""
    return next(body for body in NAMED if body["resourceType"] == type)


def general(operations: list[Json]) -> list[Json]:
    """Return the operations that are defined at the server itself, not below a canonical base."""
    return [one for one in operations if one["definition"].startswith(BASE_URL)]


async def test_every_operation_works_wherever_its_definition_says(
    client: httpx.AsyncClient,
) -> None:
    rest = await claimed(client)
    for body in NAMED:
        await client.put(f"/{body['resourceType']}/a", json=body)
    listed = {claim["type"]: general(claim["operation"]) for claim in rest["resource"]}
    types = [body["resourceType"] for body in NAMED]
    said = [("", one) for one in rest["operation"]]
    said += [(type, one) for type in types for one in listed[type]]

    called = set()
    wrong = {}
    for type, one in said:
        definition = (await client.get(one["definition"])).json()
        given, queries = CALLS[definition["id"]]
        sent = one_of(type) if definition["code"] == "validate" else given
        levels = ["type", "instance"] if type else ["system"]
        for level in (level for level in levels if definition[level]):
            path = "/".join(part for part in (type, "a" if level == "instance" else "") if part)
            url = f"/{path}/${definition['code']}".replace("//", "/") + f"?{queries.get(level, '')}"
            reply = await (client.post(url, json=sent) if sent else client.get(url))
            guarded = reply.status_code == 403 and issue(reply)[0] == "forbidden"
            if reply.status_code != 200 and not (guarded and "right to erase" in str(one)):
                wrong[url] = reply.text
        called.add(definition["id"])

    assert wrong == {}
    assert called == CALLS.keys()
    rare = {type: one for type, one in listed.items() if type not in (*types, "AuditEvent")}
    assert {str(sorted(o["name"] for o in one)) for one in rare.values()} == {
        "['expunge', 'meta', 'meta-add', 'meta-delete', 'validate']"
    }


async def test_a_definition_that_is_listed_is_a_valid_resource(client: httpx.AsyncClient) -> None:
    rest = await claimed(client)
    claims = rest["resource"]
    urls = {one["definition"] for claim in claims for one in general(claim["operation"])}

    replies = [
        await client.post("/OperationDefinition/$validate", json=(await client.get(url)).json())
        for url in sorted(urls)
    ]

    assert [issue(reply) for reply in replies] == [("informational", "All OK")] * len(CALLS)
