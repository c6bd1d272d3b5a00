"""http.html#trules, bundle.html: what entries may be besides the writing of one named resource."""

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.rest import integrity
from tests.support.application import connected
from tests.support.replies import ids, issue, places
from tests.support.resources import (
    batch,
    delete,
    entry,
    get,
    observation,
    patient,
    post,
    practitioner,
    put,
    quantity,
    reference,
    transaction,
)

Json = dict[str, Any]

ADA = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"
VALE = "urn:uuid:7a3f1e0c-12b4-4c6d-8e5f-9a0b1c2d3e4f"
ELSEWHERE = "https://clinic.example.org/fhir"
STAFF = "identifier=https://example.org/staff|7"
BOTH = [batch, transaction]


def json_patch(url: str, *operations: Json, **request: Any) -> Json:
    """Return an entry with a JSON Patch, which travels as a Binary (http.html#patch)."""
    data = base64.b64encode(json.dumps(operations).encode()).decode()
    body = {
        "resourceType": "Binary", "contentType": "application/json-patch+json", "data": data
    }  # fmt: skip
    return entry("PATCH", url, body, **request)


def fhirpath_patch(url: str, *parts: Json, **request: Any) -> Json:
    """Return an entry with a FHIRPath Patch of one operation."""
    parameter = {"name": "operation", "part": list(parts)}
    return entry("PATCH", url, {"resourceType": "Parameters", "parameter": [parameter]}, **request)


def responses(reply: httpx.Response) -> list[Json]:
    """Return the response of each entry."""
    assert reply.status_code == 200, reply.text
    return [entry["response"] for entry in reply.json()["entry"]]


def statuses(reply: httpx.Response) -> list[str]:
    """Return the code of each entry's status."""
    return [response["status"][:3] for response in responses(reply)]


def identities(reply: httpx.Response) -> list[str]:
    """Return the `Type/id` of each entry's location."""
    return [response["location"].split("/_history")[0] for response in responses(reply)]


# --- criteria ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", BOTH)
async def test_entries_may_say_by_criteria_what_they_mean(
    client: httpx.AsyncClient, bundle: Callable[..., Json]
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    await client.put("/Patient/bob", json=patient(id="bob", gender="male"))
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.post(
        "/",
        json=bundle(
            entry("PUT", "Patient?gender=female", patient(active=False)),
            entry("DELETE", "Patient?gender=male"),
            entry("PUT", "Patient?gender=other", patient(id="eve", gender="other")),
            entry("PUT", "Organization?name=x", {"resourceType": "Organization", "name": "x"}),
            entry("DELETE", "Patient?gender=unknown"),
            json_patch(f"Practitioner?{STAFF}", {"op": "add", "path": "/active", "value": True}),
        ),
    )

    answers = responses(reply)
    assert statuses(reply) == ["200", "204", "201", "201", "204", "200"]
    assert answers[0]["location"] == "Patient/ada/_history/2"
    assert answers[2]["location"] == "Patient/eve/_history/1"
    assert answers[3]["location"].startswith("Organization/")
    assert answers[5]["location"] == "Practitioner/vale/_history/2"
    assert [a.get("etag") for a in answers] == [
        'W/"2"', 'W/"2"', 'W/"1"', 'W/"1"', None, 'W/"2"'
    ]  # fmt: skip
    assert sorted(ids(await client.get("/Patient"))) == ["ada", "eve"]
    assert ids(await client.get("/Practitioner?active=true")) == ["vale"]


async def test_references_follow_an_update_by_criteria_to_what_it_wrote(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.post(
        "/",
        json=transaction(
            post(observation(subject=reference(ADA), performer=[reference(VALE)])),
            entry("PUT", "Patient?family=marsh", patient(), ADA),
            entry("PUT", f"Practitioner?{STAFF}", practitioner(), VALE),
        ),
    )

    score, ada, _ = identities(reply)
    stored = (await client.get(f"/{score}")).json()
    assert stored["subject"] == {"reference": ada}
    assert stored["performer"] == [{"reference": "Practitioner/vale"}]


# Entries that write one resource twice, in either order
OVERLAPPING = [
    [entry("PUT", "Patient?_id=a", patient()), put(patient(id="a", active=False))],
    [entry("PUT", "Patient?_id=a", patient()), delete("Patient/a")],
    [entry("PUT", "Patient?_id=a", patient()), entry("DELETE", "Patient?gender=female")],
    [
        entry("PUT", "Patient?_id=a", patient()),
        entry("PUT", "Patient?gender=female", patient()),
    ],
    [entry("PUT", "Patient?_id=a", patient()), post(patient(), ifNoneExist="gender=female")],
    [entry("PUT", "Patient?_id=z", patient()), entry("PUT", "Patient?_id=z", patient())],
    [entry("PUT", "Patient?_id=z", patient()), post(patient(), ifNoneExist="_id=z")],
    [entry("PUT", "Patient?_id=z", patient(id="q")), put(patient(id="q"))],
    [entry("DELETE", "Patient?_id=a"), delete("Patient/a")],
    [entry("DELETE", "Patient?_id=a"), entry("DELETE", "Patient?_id=a")],
    [
        json_patch("Patient?_id=a", {"op": "remove", "path": "/active"}),
        json_patch("Patient/a", {"op": "remove", "path": "/name"}),
    ],
    [json_patch("Patient/a", {"op": "remove", "path": "/active"}), delete("Patient/a")],
]


async def test_one_identity_may_be_written_once_by_whatever_name(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    before = (await client.get("/_history")).content
    orders = [order for entries in OVERLAPPING for order in (entries, entries[::-1])]

    replies = [await client.post("/", json=transaction(*order)) for order in orders]

    assert [reply.status_code for reply in replies] == [400] * len(orders)
    assert {issue(reply)[0] for reply in replies} == {"invalid"}
    assert {places(reply)[0] for reply in replies} == {"Bundle.entry[1]"}
    assert (await client.get("/_history")).content == before


async def test_a_condition_that_fails_undoes_the_whole_transaction(
    client: httpx.AsyncClient, database_url: str
) -> None:
    for id in ("a", "b"):
        await client.put(f"/Patient/{id}", json=patient(id=id))
    before = (await client.get("/_history")).content
    wrong = {
        "several to update": (entry("PUT", "Patient?gender=female", patient()), 412, ""),
        "several to delete": (entry("DELETE", "Patient?gender=female"), 412, ""),
        "several to patch": (json_patch("Patient?gender=female"), 412, ""),
        "nothing to patch": (json_patch("Patient?gender=unknown"), 404, ""),
        "another id": (
            entry("PUT", "Patient?_id=a", patient(id="b")), 400, ".resource.id"
        ),
        "an id that does not fit": (
            entry("PUT", "Patient?gender=unknown", patient(id="b")), 412, ""
        ),
        "no criteria": (entry("DELETE", "Patient"), 400, ""),
        "unknown criteria": (entry("DELETE", "Patient?shoe-size=44"), 400, ".http.shoe-size"),
        "a stale version": (entry("DELETE", "Patient?_id=a", ifMatch='W/"7"'), 412, ""),
        "the version of nothing": (
            entry("DELETE", "Patient?gender=unknown", ifMatch='W/"1"'), 412, ""
        ),
    }  # fmt: skip

    replies = {
        name: await client.post("/", json=transaction(post(patient()), failing))
        for name, (failing, _, _) in wrong.items()
    }

    assert {name: (reply.status_code, places(reply)[0]) for name, reply in replies.items()} == {
        name: (status, "Bundle.entry[1]" + place) for name, (_, status, place) in wrong.items()
    }
    assert (await client.get("/_history")).content == before
    assert await integrity.broken(database_url) == {}


async def test_a_transaction_may_delete_all_that_fit_where_that_is_allowed(
    settings: Settings,
) -> None:
    async with connected(settings.model_copy(update={"conditional_delete": "multiple"})) as client:
        for id in ("a", "b"):
            await client.put(f"/Patient/{id}", json=patient(id=id))

        few = await client.post("/", json=transaction(delete("Patient?gender=female&_count=1")))
        reply = await client.post(
            "/", json=transaction(delete("Patient?gender=female"), put(patient(id="c")))
        )

        assert few.status_code == 412
        assert statuses(reply) == ["204", "201"]
        assert ids(await client.get("/Patient")) == ["c"]


# --- patches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", BOTH)
async def test_entries_may_be_patches_of_both_kinds(
    client: httpx.AsyncClient, bundle: Callable[..., Json]
) -> None:
    weighed = observation(id="o", valueQuantity=quantity(1, "kg"))
    raw = json.dumps(weighed).replace('"value": 1', '"value": 1.50')
    await client.put("/Observation/o", content=raw)
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.post(
        "/",
        json=bundle(
            json_patch(
                "Observation/o",
                {"op": "replace", "path": "/status", "value": "amended"},
                ifMatch='W/"1"',
            ),
            fhirpath_patch(
                "Patient/a",
                {"name": "type", "valueCode": "replace"},
                {"name": "path", "valueString": "Patient.gender"},
                {"name": "value", "valueCode": "other"},
            ),
        ),
    )

    assert statuses(reply) == ["200", "200"]
    assert [answer["etag"] for answer in responses(reply)] == ['W/"2"', 'W/"2"']
    stored = (await client.get("/Observation/o")).text
    assert '"status":"amended"' in stored
    assert '"value":1.50' in stored
    assert ids(await client.get("/Patient?gender=other")) == ["a"]


async def test_links_in_patches_are_replaced_as_elsewhere(client: httpx.AsyncClient) -> None:
    await client.put("/Observation/o", json=observation(id="o"))
    await client.put("/Observation/p", json=observation(id="p", subject=reference("Patient/x")))
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    performer = [reference(f"Practitioner?{STAFF}")]

    reply = await client.post(
        "/",
        json=transaction(
            json_patch(
                "Observation/o",
                {"op": "add", "path": "/subject", "value": reference(ADA)},
                {"op": "add", "path": "/performer", "value": performer},
            ),
            json_patch(
                "Observation/p", {"op": "replace", "path": "/subject/reference", "value": ADA}
            ),
            post(patient(), ADA),
        ),
    )

    ada = identities(reply)[2]
    assert len(ids(await client.get(f"/Observation?subject={ada}"))) == 2
    assert ids(await client.get("/Observation?performer=Practitioner/vale")) == ["o"]


# Patches that make a transaction fail: status, and the place that is named
FAILING_PATCHES = [
    (json_patch("Patient/nobody", {"op": "remove", "path": "/active"}), 404, ""),
    (json_patch("Patient/gone", {"op": "remove", "path": "/active"}), 410, ""),
    (
        json_patch("Patient/a", {"op": "remove", "path": "/active"}, ifMatch='W/"7"'),
        412,
        "",
    ),
    (
        json_patch("Patient/a", {"op": "add", "path": "/gender", "value": "f"}),
        422,
        ".resource.gender",
    ),
    (
        json_patch("Patient/a", {"op": "replace", "path": "/id", "value": "b"}),
        400,
        ".resource.id",
    ),
    (
        entry("PATCH", "Patient/a", {"resourceType": "Binary", "contentType": "text/plain"}),
        415,
        "",
    ),
    (
        entry(
            "PATCH",
            "Patient/a",
            {
                "resourceType": "Binary",
                "contentType": "application/json-patch+json",
                "data": "?",
            },
        ),
        400,
        ".resource.data",
    ),
    (entry("PATCH", "Patient/a"), 400, ".resource"),
]


async def test_a_patch_that_fails_undoes_the_whole_transaction(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/gone", json=patient(id="gone"))
    await client.delete("/Patient/gone")
    await client.put("/Patient/a", json=patient(id="a"))
    before = (await client.get("/_history")).content

    replies = [
        await client.post("/", json=transaction(put(patient(id="new")), failing))
        for failing, _, _ in FAILING_PATCHES
    ]

    assert [(reply.status_code, places(reply)[0]) for reply in replies] == [
        (status, f"Bundle.entry[1]{place}") for _, status, place in FAILING_PATCHES
    ]
    assert (await client.get("/_history")).content == before


# --- full URLs -----------------------------------------------------------------------------------


NO_IDENTITY = [
    "Patient/a",
    "a",
    f"{ELSEWHERE}/Patient/b",
    f"{BASE_URL}/Patient/b",
    f"{ELSEWHERE}/Observation/a",
]


async def test_a_full_url_that_is_no_identity_of_the_resource_is_refused(
    client: httpx.AsyncClient,
) -> None:
    entries = [put(patient(id="a"), full_url) for full_url in NO_IDENTITY]

    one_by_one = await client.post("/", json=batch(*entries))
    together = await client.post("/", json=transaction(*entries))

    assert statuses(one_by_one) == ["400"] * len(NO_IDENTITY)
    assert together.status_code == 400
    assert places(together) == [f"Bundle.entry[{n}].fullUrl" for n in range(len(NO_IDENTITY))]
    assert (await client.get("/Patient/a")).status_code == 404


@pytest.mark.parametrize("bundle", BOTH)
async def test_a_full_url_with_a_version_is_refused(
    client: httpx.AsyncClient, bundle: Callable[..., Json]
) -> None:
    full_url = f"{ELSEWHERE}/Patient/a/_history/1"

    reply = await client.post("/", json=bundle(put(patient(id="a"), full_url)))

    assert reply.status_code in (400, 422)  # bdl-8
    assert (await client.get("/Patient/a")).status_code == 404


async def test_a_full_url_may_be_any_absolute_one_that_agrees_with_the_resource(
    client: httpx.AsyncClient,
) -> None:
    full_urls = [
        ADA, "urn:oid:1.2.3", f"{ELSEWHERE}/Patient/a", f"{BASE_URL}/Patient/a", "https://a.org/x/y"
    ]  # fmt: skip

    replies = [
        await client.post(
            "/",
            json=transaction(post(observation(subject=reference(url))), put(patient(id="a"), url)),
        )
        for url in full_urls
    ]

    assert [statuses(reply)[0] for reply in replies] == ["201"] * len(full_urls)
    assert len(ids(await client.get("/Observation?subject=Patient/a"))) == len(full_urls)


# --- answers -------------------------------------------------------------------------------------

REFUSED = {
    "a resource that is not valid": post(patient(gender="f", shoeSize=44)),
    "a resource of another type": entry("POST", "Patient", practitioner()),
    "another id": entry("PUT", "Patient/b", patient(id="c")),
    "a stale version": put(patient(id="a", gender="other"), ifMatch='W/"7"'),
    "an entity tag that is none": put(patient(id="a"), ifMatch="7"),
    "several that fit": entry("PUT", "Patient?gender=female", patient()),
    "criteria that mean nothing": entry("DELETE", "Patient?shoe-size=44"),
    "a condition that several fit": post(patient(), ifNoneExist="gender=female"),
    "a patch of nothing": json_patch("Patient/nobody", {"op": "remove", "path": "/active"}),
    "a patch that does not fit": json_patch("Patient/a", {"op": "remove", "path": "/photo/0"}),
    "a patch to what is not valid": json_patch(
        "Patient/a", {"op": "add", "path": "/gender", "value": "f"}
    ),
    "a read of nothing": get("Patient/nobody"),
    "a read of what was deleted": get("Patient/gone"),
    "a version that there is not": get("Patient/a/_history/9"),
    "a search that is not understood": get("Patient?shoe-size=44"),
    "a history that is not understood": get("Patient/_history?shoe-size=44"),
    "an unknown type": get("Nothing/1"),
    "an unknown path": get("Patient/a/b"),
    "a method that is not supported": entry("DELETE", "Patient/a/_history/1"),
    "an id that is none": get("Patient/a_b"),
    "an operation that there is not": get("Patient/$frobnicate"),
}


async def alone(client: httpx.AsyncClient, given: Json) -> httpx.Response:
    """Return the reply to an entry as a request of its own."""
    asked = given["request"]
    names = {"ifMatch": "If-Match", "ifNoneExist": "If-None-Exist"}
    headers = {names[field]: value for field, value in asked.items() if field in names}
    body = given.get("resource")
    content = json.dumps(body).encode() if body else b""
    if body and asked["method"] == "PATCH":
        headers["Content-Type"] = body["contentType"]
        content = base64.b64decode(body["data"])
    url = f"/{asked['url']}"
    return await client.request(asked["method"], url, content=content, headers=headers)


async def test_an_entry_of_a_batch_is_refused_as_the_single_request_is(
    client: httpx.AsyncClient,
) -> None:
    for id in ("a", "b", "gone"):
        await client.put(f"/Patient/{id}", json=patient(id=id))
    await client.delete("/Patient/gone")

    single = {name: await alone(client, given) for name, given in REFUSED.items()}
    reply = await client.post("/", json=batch(*REFUSED.values()))

    answers = dict(zip(REFUSED, responses(reply), strict=True))
    assert {name: (a["status"][:3], a["outcome"]) for name, a in answers.items()} == {
        name: (str(one.status_code), one.json()) for name, one in single.items()
    }
    assert not {name for name, one in single.items() if one.status_code < 400}


@pytest.mark.parametrize("bundle", BOTH)
async def test_reads_of_every_kind_are_answered(
    client: httpx.AsyncClient, bundle: Callable[..., Json]
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    await client.put("/Patient/a", json=patient(id="a", gender="other"))
    moment = (await client.get("/Patient/a")).json()["meta"]["lastUpdated"]
    urls = [
        "Patient/a",
        "Patient/a/_history/1",
        "Patient/a/_history",
        "Patient/_history",
        "_history",
        "Patient?gender=other",
        "?_type=Patient",
        "Patient/a/Observation",
    ]

    shown = await client.post("/", json=bundle(*(get(url) for url in urls)))
    conditions = await client.post(
        "/",
        json=bundle(
            get("Patient/a", ifNoneMatch='W/"2"'),
            get("Patient/a", ifNoneMatch='W/"1"'),
            get("Patient/a/_history/1", ifNoneMatch='W/"1"'),
            get("Patient/a", ifModifiedSince=moment),
            entry("HEAD", "Patient/a"),
            entry("HEAD", "Patient?gender=other"),
        ),
    )

    single = [(await client.get(f"/{url}")).json() for url in urls]
    found = [entry.get("resource") for entry in shown.json()["entry"]]
    kinds = ["Patient", "Patient", *["Bundle"] * 6]
    assert [resource["resourceType"] for resource in found] == kinds
    assert [total(resource) for resource in found] == [total(resource) for resource in single]
    assert found[0] == single[0]
    assert [answer.get("etag") for answer in responses(shown)[:3]] == ['W/"2"', 'W/"1"', None]
    assert responses(shown)[0]["lastModified"] == moment
    assert statuses(conditions) == ["304", "200", "304", "304", "200", "200"]
    assert responses(conditions)[0]["status"] == "304 Not Modified"
    assert ["resource" in entry for entry in conditions.json()["entry"]] == [
        False, True, False, False, False, False
    ]  # fmt: skip


def total(resource: Json) -> int:
    """Return how many entries a resource has."""
    return len(resource.get("entry", []))


@pytest.mark.parametrize("bundle", BOTH)
async def test_an_outcome_that_is_preferred_stands_in_the_response(
    client: httpx.AsyncClient, bundle: Callable[..., Json]
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    headers = {"Prefer": "return=OperationOutcome"}

    reply = await client.post(
        "/", json=bundle(put(patient(id="a")), delete("Patient/b"), get("Patient/a")),
        headers=headers,
    )  # fmt: skip

    answers = responses(reply)
    assert [("outcome" in answer) for answer in answers] == [True, True, False]
    assert answers[0]["outcome"]["issue"][0]["severity"] == "information"
    assert ["resource" in entry for entry in reply.json()["entry"]] == [False, False, True]


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", BOTH)
async def test_a_bundle_of_more_entries_than_is_allowed_is_refused_whole(
    settings: Settings, bundle: Callable[..., Json]
) -> None:
    async with connected(settings, max_bundle_entries=3) as client:
        entries = [put(patient(id=id)) for id in ("a", "b", "c", "d")]

        most = await client.post("/", json=bundle(*entries[:3]))
        more = await client.post("/", json=bundle(*entries))

        assert statuses(most) == ["201"] * 3
        assert more.status_code == 413
        assert issue(more) == (
            "too-long", "The Bundle has 4 entries, 3 is the most that one may have"
        )  # fmt: skip
        assert (await client.get("/Patient/d")).status_code == 404


async def test_a_bundle_inside_a_bundle_is_refused(client: httpx.AsyncClient) -> None:
    inner = entry("POST", "/", batch(post(patient())))

    replies = [await client.post("/", json=bundle(inner)) for bundle in BOTH]

    assert responses(replies[0])[0]["status"][:3] == "400"
    assert replies[1].status_code == 400
    assert ids(await client.get("/Patient")) == []


async def test_operations_are_performed_in_a_batch_and_refused_in_a_transaction(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    wrong = {"name": "resource", "resource": patient(gender="f")}
    entries = [
        get("Patient/a/$everything"),
        entry(
            "POST", "Patient/$validate", {"resourceType": "Parameters", "parameter": [wrong]}
        ),
    ]  # fmt: skip

    reply = await client.post("/", json=batch(*entries))
    refused = await client.post("/", json=transaction(*entries))

    found = [entry["resource"] for entry in reply.json()["entry"]]
    assert statuses(reply) == ["200", "200"]
    assert [one["resourceType"] for one in found] == ["Bundle", "OperationOutcome"]
    assert found[1]["issue"][0]["severity"] == "error"
    assert (refused.status_code, places(refused)) == (400, ["Bundle.entry[0].request.url"])
