"""operations.html: named procedures, their parameters, and where they may be called."""

import json
from typing import Any

import httpx

from app.config import Settings
from tests.support.application import connected
from tests.support.replies import issue, issues
from tests.support.resources import batch, get, observation, patient, reference, transaction

Json = dict[str, Any]
TAG = {"system": "https://example.org/tags", "code": "seen"}
LABEL = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}


def parameters(**values: Any) -> Json:
    """Return a Parameters resource; a keyword is `name_valueType` or a name with a resource."""
    rows = []
    for name, value in values.items():
        key, _, kind = name.partition("__")
        rows.append({"name": key, kind or "resource": value})
    return {"resourceType": "Parameters", "parameter": rows}


# --- the call ----------------------------------------------------------------------------------


async def test_an_operation_that_there_is_not_is_a_404(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Patient/$nonsense")

    assert reply.status_code == 404
    assert issue(reply) == ("not-found", "There is no operation $nonsense here")


async def test_an_operation_at_another_level_names_where_it_is(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Observation/$everything")

    assert reply.status_code == 404
    assert "Patient/[id]/$everything" in issue(reply)[1]


async def test_a_get_of_an_operation_that_changes_something_is_a_405(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.get("/Patient/a/$meta-add")

    assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")


async def test_an_unknown_parameter_is_refused_by_name(client: httpx.AsyncClient) -> None:
    in_url = await client.get("/Patient/a/$meta?nonsense=1")
    in_body = await client.post("/Patient/a/$meta", json=parameters(nonsense__valueCode="x"))

    assert (in_url.status_code, in_body.status_code) == (400, 400)
    assert "'nonsense'" in issue(in_url)[1]
    assert "'nonsense'" in issue(in_body)[1]


async def test_a_parameter_of_another_type_is_refused_by_name(client: httpx.AsyncClient) -> None:
    url = "/Patient/a/$everything"
    given = {
        "a word": await client.get(f"{url}?_count=many"),
        "no date": await client.get(f"{url}?start=yesterday"),
        "a string": await client.post(url, json=parameters(_count__valueString="1")),
        "a resource": await client.post(url, json=parameters(_count=patient())),
        "no resource": await client.post("/Patient/$validate", json=parameters(resource="x")),
    }

    assert {name: reply.status_code for name, reply in given.items()} == dict.fromkeys(given, 400)
    assert issue(given["a string"]) == ("value", "_count must be of type integer")


async def test_a_parameter_that_is_given_too_often_is_refused(client: httpx.AsyncClient) -> None:
    twice = await client.get("/Patient/a/$everything?_count=1&_count=2")
    both = await client.post(
        "/Patient/a/$everything?_count=1", json=parameters(_count__valueInteger=1)
    )

    assert issue(twice) == ("invalid", "_count may be given 1 time at most")
    assert issue(both) == ("invalid", "_count may be given 1 time at most")


async def test_a_parameter_that_is_needed_is_asked_for(client: httpx.AsyncClient) -> None:
    reply = await client.post("/Patient/a/$meta-add", json=parameters())

    assert (reply.status_code, issue(reply)[1]) == (400, "$meta-add needs the parameter meta")


async def test_a_complex_parameter_does_not_fit_into_a_url(client: httpx.AsyncClient) -> None:
    reply = await client.post("/Patient/a/$meta-add?meta=x")

    assert reply.status_code == 400
    assert "POST a Parameters resource" in issue(reply)[1]


async def test_a_body_that_is_neither_parameters_nor_fits_one_is_refused(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.post("/Patient/a/$everything", json=patient())

    assert reply.status_code == 400
    assert "must be a Parameters resource" in issue(reply)[1]


async def test_an_operation_can_be_called_in_a_batch(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.post("/", json=batch(get("Patient/a/$everything")))

    (answer,) = reply.json()["entry"]
    assert answer["response"]["status"] == "200 OK", reply.text
    assert answer["resource"]["type"] == "searchset"


async def test_an_operation_cannot_be_part_of_a_transaction(client: httpx.AsyncClient) -> None:
    reply = await client.post("/", json=transaction(get("Patient/a/$everything")))

    assert reply.status_code == 400
    assert "but of a batch" in issue(reply)[1]


async def test_an_operation_can_be_called_and_answered_in_xml(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    xml = "application/fhir+xml"
    body = (
        '<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="resource"/><resource>'
        '<Patient><gender value="x"/></Patient></resource></parameter></Parameters>'
    )

    checked = await client.post(
        "/Patient/$validate", content=body, headers={"Content-Type": xml, "Accept": xml}
    )
    everything = await client.get("/Patient/a/$everything?_format=xml")
    definition = await client.get("/OperationDefinition/Patient-everything?_format=xml")

    assert (checked.status_code, "code-invalid" in checked.text) == (200, True)
    assert everything.text.startswith("<Bundle") or "<Bundle" in everything.text[:100]
    assert (definition.status_code, "<OperationDefinition" in definition.text[:120]) == (200, True)


async def test_a_call_without_a_body_or_with_another_case_of_it(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    head = await client.head("/Patient/a/$everything")
    post = await client.post("/Patient/a/$everything", content=b"", headers={"Content-Type": ""})

    assert (head.status_code, head.content) == (200, b"")
    assert post.status_code == 200


# --- the definitions ---------------------------------------------------------------------------


async def test_the_definition_of_an_operation_can_be_read(client: httpx.AsyncClient) -> None:
    reply = await client.get("/OperationDefinition/Patient-everything")

    said = reply.json()
    assert reply.status_code == 200
    assert said["base"] == "http://hl7.org/fhir/OperationDefinition/Patient-everything"
    assert (said["code"], said["affectsState"], said["type"]) == ("everything", False, False)


# --- $meta -------------------------------------------------------------------------------------


def meta(reply: httpx.Response) -> Json:
    (row,) = reply.json()["parameter"]
    assert row["name"] == "return"
    found: Json = row["valueMeta"]
    return found


async def test_meta_of_a_resource_is_what_reading_it_shows(client: httpx.AsyncClient) -> None:
    read = (await client.put("/Patient/a", json=patient(id="a", meta={"tag": [TAG]}))).json()

    reply = await client.get("/Patient/a/$meta")

    assert meta(reply) == read["meta"]


async def test_meta_of_a_version_is_that_of_the_version(client: httpx.AsyncClient) -> None:
    first = (await client.put("/Patient/a", json=patient(id="a", meta={"tag": [TAG]}))).json()
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.get("/Patient/a/_history/1/$meta")

    assert meta(reply) == first["meta"]


async def test_meta_of_a_type_lists_what_is_in_use_once(client: httpx.AsyncClient) -> None:
    profile = "https://example.org/StructureDefinition/Ours|2.0"
    held = {"tag": [{**TAG, "display": "Seen"}, {"code": "Mixed"}], "profile": [profile]}
    for id in ("a", "b"):
        await client.put(f"/Patient/{id}", json=patient(id=id, meta=held))
    await client.put("/Observation/o", json=observation(id="o", meta={"security": [LABEL]}))

    of_patients = meta(await client.get("/Patient/$meta"))
    of_all = meta(await client.get("/$meta"))

    assert of_patients == {"profile": [profile], "tag": [{"code": "Mixed"}, TAG]}
    assert of_all == {**of_patients, "security": [LABEL]}


async def test_meta_add_adds_each_label_once_as_a_new_version(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a", meta={"tag": [TAG]}))
    more = {"tag": [{**TAG, "display": "again"}], "security": [LABEL]}

    reply = await client.post("/Patient/a/$meta-add", json=parameters(meta__valueMeta=more))

    found = meta(reply)
    assert (found["tag"], found["security"], found["versionId"]) == ([TAG], [LABEL], "2")
    assert (await client.get("/Patient/a")).json()["meta"] == found


async def test_meta_delete_takes_labels_away_by_system_and_code(client: httpx.AsyncClient) -> None:
    held = {"tag": [{**TAG, "display": "Seen"}, {"code": "kept"}], "security": [LABEL]}
    await client.put("/Patient/a", json=patient(id="a", meta=held))
    away = {"tag": [TAG, {"code": "never there"}], "security": [LABEL]}

    reply = await client.post("/Patient/a/$meta-delete", json=parameters(meta__valueMeta=away))

    assert meta(reply)["tag"] == [{"code": "kept"}]
    assert "security" not in meta(reply)


async def test_meta_add_leaves_the_digits_of_decimals(client: httpx.AsyncClient) -> None:
    body = json.dumps(observation(id="o", valueQuantity={"value": "digits"}))
    await client.put("/Observation/o", content=body.replace('"digits"', "1.50"))

    await client.post("/Observation/o/$meta-add", json=parameters(meta__valueMeta={"tag": [TAG]}))

    assert '"value":1.50' in (await client.get("/Observation/o")).text


async def test_meta_add_with_a_stale_if_match_is_refused(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    body = parameters(meta__valueMeta={"tag": [TAG]})

    reply = await client.post("/Patient/a/$meta-add", json=body, headers={"If-Match": 'W/"7"'})

    assert reply.status_code == 412


# --- $validate ---------------------------------------------------------------------------------


async def test_validate_answers_200_for_what_is_valid_and_for_what_is_not(
    client: httpx.AsyncClient,
) -> None:
    good = await client.post("/Patient/$validate", json=patient())
    bad = await client.post("/Patient/$validate", json=patient(gender="x"))
    wrapped = await client.post("/Patient/$validate", json=parameters(resource=patient(gender="x")))

    assert (good.status_code, issue(good)) == (200, ("informational", "All OK"))
    assert (bad.status_code, issue(bad)[0]) == (200, "code-invalid")
    assert wrapped.json() == bad.json()


async def test_validate_with_a_mode_writes_nothing(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    body = patient(id="a", gender="other")
    replies = [
        await client.post("/Patient/$validate?mode=create", json=body),
        await client.post("/Patient/a/$validate?mode=update", json=body),
        await client.post("/Patient/a/$validate?mode=delete"),
        await client.get("/Patient/a/$validate?mode=delete"),
    ]

    history = await client.get("/_history")

    assert [(r.status_code, issue(r)[1]) for r in replies] == [(200, "All OK")] * 4
    assert len(history.json()["entry"]) == 1


async def test_validate_with_a_mode_says_what_the_write_would_say(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    other = await client.post("/Patient/a/$validate?mode=update", json=patient(id="b"))
    stale = await client.post(
        "/Patient/a/$validate?mode=update", json=patient(id="a"), headers={"If-Match": 'W/"9"'}
    )

    assert (other.status_code, issue(other)[0]) == (200, "invalid")
    assert (stale.status_code, issue(stale)) == (
        200,
        ("conflict", "Patient is at version 1, not 9"),
    )


async def test_validate_does_not_claim_to_know_a_profile(client: httpx.AsyncClient) -> None:
    url = "https://example.org/StructureDefinition/Ours"
    body = patient(meta={"profile": [url, "https://example.org/other"]})

    reply = await client.post("/Patient/$validate", params={"profile": url}, json=body)
    known = await client.post(
        "/Patient/$validate",
        params={"profile": "http://hl7.org/fhir/StructureDefinition/Patient"},
        json=patient(),
    )

    severities = [found["severity"] for found in reply.json()["issue"]]
    assert (reply.status_code, severities) == (200, ["error", "warning"])
    assert {code for code, _ in issues(reply)} == {"not-supported"}
    assert issue(known) == ("informational", "All OK")


async def test_validate_refuses_what_makes_no_sense(client: httpx.AsyncClient) -> None:
    replies = {
        "no resource": await client.post("/Patient/$validate"),
        "no such mode": await client.post("/Patient/$validate?mode=x", json=patient()),
        "update of a type": await client.post("/Patient/$validate?mode=update", json=patient()),
        "create of one": await client.post("/Patient/a/$validate?mode=create", json=patient()),
    }

    assert {n: r.status_code for n, r in replies.items()} == dict.fromkeys(replies, 400)


async def test_validate_warns_of_what_the_write_would_warn_of(settings: Settings) -> None:
    body = observation(subject=reference("Patient/nobody"))
    async with connected(settings.model_copy(update={"referential_integrity": "warn"})) as client:
        reply = await client.post("/Observation/$validate?mode=create", json=body)

    (found,) = reply.json()["issue"]
    assert (reply.status_code, found["severity"]) == (200, "warning")


async def test_a_change_of_labels_can_have_a_provenance(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    by = {"agent": [{"who": reference("Practitioner/x")}], "recorded": "2026-03-02T09:30:00Z"}
    header = json.dumps({"resourceType": "Provenance", **by})

    reply = await client.post(
        "/Patient/a/$meta-add",
        json=parameters(meta__valueMeta={"tag": [TAG]}),
        headers={"X-Provenance": header},
    )

    assert reply.status_code == 200, reply.text
    (entry,) = (await client.get("/Provenance?target=Patient/a")).json()["entry"]
    assert entry["resource"]["target"] == [reference("Patient/a/_history/2")]
