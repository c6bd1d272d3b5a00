"""Whatever our own OpenAPI document allows, or just forbids, is answered without a failure."""

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.conftest import BASE_URL
from tests.rest.test_fuzz import FEW, SEEDS
from tests.support.replies import outcome
from tests.support.resources import patient

HOST = BASE_URL.removesuffix("/fhir")
KNOWN = {"id": ["a", "b", "nobody"], "vid": ["1", "2", "99"], "compartment": ["Patient"]}
BODIES = {seed["resourceType"]: seed for seed in SEEDS}


@pytest.fixture
async def operations(client: httpx.AsyncClient) -> list[Any]:
    """What the OpenAPI document of the server lists; there is a Patient/a to ask for."""
    await client.put("/Patient/a", json=patient(id="a"))
    document = (await client.get(f"{HOST}/openapi.json")).json()
    schema: Any = schemathesis.openapi.from_dict(document)
    return [found.ok() for found in schema.get_all_operations()]


@FEW
@given(data=st.data())
async def test_what_the_openapi_document_allows_and_what_it_just_forbids_is_answered(
    client: httpx.AsyncClient, operations: list[Any], data: st.DataObject
) -> None:
    asked = data.draw(requests(operations))

    reply = await client.request(**asked)

    assert reply.status_code < 500, reply.text
    if not asked["url"].startswith(BASE_URL) or "/.well-known/" in asked["url"]:
        return  # what is said there is no resource
    assert not reply.content or reply.json()["resourceType"]
    if reply.status_code >= 400:
        assert outcome(reply)["issue"]


@st.composite
def requests(draw: st.DrawFn, operations: list[Any]) -> dict[str, Any]:
    """Return a request; half of them are about what is there, or write what is valid."""
    operation = draw(st.sampled_from(operations))
    mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
    case = draw(operation.as_strategy(generation_mode=mode))
    for name in draw(st.sets(st.sampled_from([*KNOWN, "body"]))):
        if name == "body":
            type = case.path_parameters.get("type") or (*case.path.split("/"), "", "")[2]
            case.body = BODIES.get(type, case.body)
        elif name in case.path_parameters:
            case.path_parameters[name] = draw(st.sampled_from(KNOWN[name]))
    made = case.as_transport_kwargs(base_url=HOST)
    if "json" in made:
        made["content"] = json.dumps(made["json"])
    elif not isinstance(made.get("data"), dict | None):
        made["content"] = made.pop("data")
    made["headers"] = {n: v for n, v in made["headers"].items() if not n.startswith("X-Schema")}
    wanted = ("method", "url", "params", "data", "content", "headers")
    return {name: made[name] for name in wanted if made.get(name) is not None}
