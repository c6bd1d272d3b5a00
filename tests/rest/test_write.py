"""http.html#create, #update, #upsert, #delete, and the bytes that are kept."""

from datetime import datetime
from email.utils import parsedate_to_datetime
from uuid import UUID

import httpx

from tests.conftest import BASE_URL
from tests.support.replies import ids, issue, outcome
from tests.support.resources import observation, patient, practitioner

# What is not the shortest way to write it, and must come back as it was written
WRITTEN = (
    '{"status":"final","resourceType":"Observation","id":"kept",'
    '"code":{"text":"\\u0041\\u00e4 \\ud83d\\ude00 \\/ \\" \\\\ \\n Ä😀"},'
    '"valueQuantity":{"value":1.50,"unit":"kg"},'
    '"component":[{"code":{"text":"b"},"valueQuantity":{"value":1E+2}},'
    '{"valueQuantity":{"value":-0.0},"code":{"text":"a"}},'
    '{"code":{"text":"c"},"valueQuantity":{"value":0.000000000000000000000000100}}]}'
)

# The same content as WEIGHED in other bytes
WEIGHED = (
    '{"resourceType":"Observation","id":"w","status":"final","code":{"text":"Käse"},'
    '"valueQuantity":{"value":1.50,"unit":"kg"}}'
)
EQUAL = {
    "other order": '{"status":"final","valueQuantity":{"unit":"kg","value":1.50},'
    '"code":{"text":"Käse"},"id":"w","resourceType":"Observation"}',
    "white space": WEIGHED.replace(":", " :\n\t"),
    "escapes": WEIGHED.replace("ä", "\\u00e4"),
    "other versionId": WEIGHED.replace('"id":"w",', '"id":"w","meta":{"versionId":"9"},'),
    "other lastUpdated": WEIGHED.replace(
        '"id":"w",', '"id":"w","meta":{"lastUpdated":"2001-01-01T00:00:00Z"},'
    ),
}
DIFFERENT = {
    "fewer digits": WEIGHED.replace("1.50", "1.5"),
    "an exponent": WEIGHED.replace("1.50", "150e-2"),
    "another value": WEIGHED.replace("1.50", "1.51"),
    "a tag": WEIGHED.replace('"id":"w",', '"id":"w","meta":{"tag":[{"code":"x"}]},'),
    "another language": WEIGHED.replace('"id":"w",', '"id":"w","language":"de",'),
    "a space": WEIGHED.replace("Käse", "Käse "),
    "another case": WEIGHED.replace("Käse", "käse"),
    "a composed letter": WEIGHED.replace("ä", "a\u0308"),
}

# If-Match on a resource at version 2 (http.html#concurrency)
IF_MATCH = {
    'W/"2"': 200,
    '"2"': 200,
    "*": 200,
    'W/"1", W/"2"': 200,
    'W/"1"': 412,
    'W/"3"': 412,
    'W/"22"': 412,
    'W/"x"': 412,
    "2": 400,
    "W/2": 400,
    '"2': 400,
    "nonsense": 400,
}


# --- create --------------------------------------------------------------------------------------


async def test_create_answers_201_with_where_the_resource_is(client: httpx.AsyncClient) -> None:
    reply = await client.post("/Patient", json=patient())

    id = reply.json()["id"]
    assert reply.status_code == 201
    assert reply.headers["Location"] == f"{BASE_URL}/Patient/{id}/_history/1"
    assert reply.headers["ETag"] == 'W/"1"'
    updated = datetime.fromisoformat(reply.json()["meta"]["lastUpdated"])
    assert parsedate_to_datetime(reply.headers["Last-Modified"]) == updated.replace(microsecond=0)
    assert (await client.get(reply.headers["Location"])).content == reply.content
    assert (await client.get(f"/Patient/{id}")).content == reply.content


async def test_create_gives_ids_that_are_uuids_of_version_7_and_ascend(
    client: httpx.AsyncClient,
) -> None:
    made = [(await client.post("/Patient", json=patient())).json()["id"] for _ in range(3)]

    assert [UUID(id).version for id in made] == [7, 7, 7]
    milliseconds = [UUID(id).int >> 80 for id in made]
    assert milliseconds == sorted(milliseconds)


async def test_create_ignores_the_id_and_the_version_in_the_body(
    client: httpx.AsyncClient,
) -> None:
    meta = {"versionId": "41", "lastUpdated": "2001-01-01T00:00:00Z"}

    reply = await client.post("/Patient", json=patient(id="mine", meta=meta))

    assert reply.json()["id"] != "mine"
    assert reply.json()["meta"]["versionId"] == "1"
    assert reply.json()["meta"]["lastUpdated"] > "2001-01-01T00:00:00Z"
    assert (await client.get("/Patient/mine")).status_code == 404


async def test_meta_of_the_client_is_kept_besides_version_and_time(
    client: httpx.AsyncClient,
) -> None:
    meta = {
        "source": "https://example.org/clinic",
        "profile": ["https://example.org/StructureDefinition/p"],
        "security": [{"system": "https://example.org/s", "code": "R"}],
        "tag": [{"system": "https://example.org/t", "code": "night"}],
        "extension": [{"url": "https://example.org/e", "valueBoolean": True}],
    }

    reply = await client.post("/Patient", json=patient(meta=meta))

    kept = reply.json()["meta"]
    assert {name: kept[name] for name in meta} == meta
    assert set(kept) - set(meta) == {"versionId", "lastUpdated"}


async def test_a_conditional_create_makes_the_resource_when_nothing_fits(
    client: httpx.AsyncClient,
) -> None:
    header = {"If-None-Exist": "identifier=https://example.org/staff|7"}

    reply = await client.post("/Practitioner", json=practitioner(), headers=header)

    assert reply.status_code == 201


async def test_a_conditional_create_answers_with_the_one_resource_that_fits(
    client: httpx.AsyncClient,
) -> None:
    there = await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    header = {"If-None-Exist": "identifier=https://example.org/staff|7"}

    reply = await client.post("/Practitioner", json=practitioner(active=True), headers=header)

    assert reply.status_code == 200  # http.html#ccreate
    assert reply.content == there.content
    assert reply.headers["ETag"] == 'W/"1"'
    assert reply.headers["Location"] == f"{BASE_URL}/Practitioner/vale/_history/1"
    assert ids(await client.get("/Practitioner")) == ["vale"]


async def test_a_conditional_create_is_refused_when_several_fit(client: httpx.AsyncClient) -> None:
    await client.put("/Practitioner/a", json=practitioner(id="a"))
    await client.put("/Practitioner/b", json=practitioner(id="b"))
    header = {"If-None-Exist": "identifier=https://example.org/staff|7"}

    reply = await client.post("/Practitioner", json=practitioner(), headers=header)

    assert (reply.status_code, issue(reply)[0]) == (412, "multiple-matches")
    assert sorted(ids(await client.get("/Practitioner"))) == ["a", "b"]


async def test_a_conditional_create_whose_criteria_mean_nothing_is_refused(
    client: httpx.AsyncClient,
) -> None:
    criteria = ["shoe-size=44", "identifier=", "_count=1", "identifier:contains=7", "birthdate=x"]

    replies = {
        query: await client.post(
            "/Practitioner", json=practitioner(), headers={"If-None-Exist": query}
        )
        for query in criteria
    }

    assert {q: r.status_code for q, r in replies.items()} == dict.fromkeys(criteria, 400)
    assert ids(await client.get("/Practitioner")) == []


async def test_a_deleted_resource_does_not_stop_a_conditional_create(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    await client.delete("/Practitioner/vale")
    header = {"If-None-Exist": "identifier=https://example.org/staff|7"}

    reply = await client.post("/Practitioner", json=practitioner(), headers=header)

    assert reply.status_code == 201


# --- the bytes -----------------------------------------------------------------------------------


async def test_a_resource_comes_back_as_it_was_written_with_meta_behind_its_id(
    client: httpx.AsyncClient,
) -> None:
    written = await client.put("/Observation/kept", content=WRITTEN)

    updated = written.json()["meta"]["lastUpdated"]
    meta = f'"id":"kept","meta":{{"versionId":"1","lastUpdated":"{updated}"}},'
    expected = WRITTEN.replace('"id":"kept",', meta).encode()
    assert (await client.get("/Observation/kept")).content == expected
    assert written.content == expected
    assert (await client.get("/Observation/kept/_history/1")).content == expected
    assert expected in (await client.get("/Observation?_id=kept")).content
    assert expected in (await client.get("/Observation/kept/_history")).content
    assert expected in (await client.get("/_history")).content


async def test_a_created_resource_gets_its_id_behind_the_resource_type(
    client: httpx.AsyncClient,
) -> None:
    written = await client.post(
        "/Basic", content='{"code":{"text":"x"},"resourceType":"Basic","created":"2026"}'
    )

    id, updated = written.json()["id"], written.json()["meta"]["lastUpdated"]
    assert written.text == (
        f'{{"code":{{"text":"x"}},"resourceType":"Basic","id":"{id}",'
        f'"meta":{{"versionId":"1","lastUpdated":"{updated}"}},"created":"2026"}}'
    )


# --- update --------------------------------------------------------------------------------------


async def test_update_makes_the_next_version(client: httpx.AsyncClient) -> None:
    first = await client.put("/Patient/ada", json=patient(id="ada"))

    reply = await client.put("/Patient/ada", json=patient(id="ada", gender="other"))

    assert reply.status_code == 200
    assert reply.headers["ETag"] == 'W/"2"'
    assert reply.json()["meta"]["versionId"] == "2"
    assert reply.json()["meta"]["lastUpdated"] >= first.json()["meta"]["lastUpdated"]
    assert (await client.get("/Patient/ada")).content == reply.content


async def test_update_of_what_is_not_there_creates_it_under_the_id_of_the_client(
    client: httpx.AsyncClient,
) -> None:
    longest = "A-Za.z0-9" + "x" * 55

    reply = await client.put(f"/Patient/{longest}", json=patient(id=longest))

    assert reply.status_code == 201  # http.html#upsert
    assert reply.headers["Location"] == f"{BASE_URL}/Patient/{longest}/_history/1"
    assert reply.headers["ETag"] == 'W/"1"'


async def test_one_id_may_name_resources_of_several_types(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/x", json=patient(id="x"))

    reply = await client.put("/Practitioner/x", json=practitioner(id="x"))

    assert reply.status_code == 201
    assert (await client.get("/Patient/x")).json()["resourceType"] == "Patient"


async def test_ids_that_differ_in_case_are_different(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/x", json=patient(id="x"))

    assert (await client.get("/Patient/X")).status_code == 404
    assert (await client.put("/Patient/X", json=patient(id="X"))).status_code == 201


async def test_an_update_that_changes_nothing_answers_200_with_the_current_version(
    client: httpx.AsyncClient,
) -> None:
    stored = await client.put("/Observation/w", content=WEIGHED)

    replies = {name: await client.put("/Observation/w", content=raw) for name, raw in EQUAL.items()}

    assert {name: r.status_code for name, r in replies.items()} == dict.fromkeys(EQUAL, 200)
    assert {name: r.headers["ETag"] for name, r in replies.items()} == dict.fromkeys(EQUAL, 'W/"1"')
    assert {name: r.content for name, r in replies.items()} == dict.fromkeys(EQUAL, stored.content)
    history = await client.get("/Observation/w/_history")
    assert len(history.json()["entry"]) == 1


async def test_an_update_that_changes_anything_else_makes_a_version(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Observation/w", content=WEIGHED)

    replies = {
        name: await client.put("/Observation/w", content=raw) for name, raw in DIFFERENT.items()
    }

    assert {name: r.headers["ETag"] for name, r in replies.items()} == {
        name: f'W/"{version}"' for version, name in enumerate(DIFFERENT, 2)
    }


async def test_an_update_that_changes_nothing_after_a_deletion_makes_a_version(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    await client.delete("/Patient/ada")

    reply = await client.put("/Patient/ada", json=patient(id="ada"))

    assert (reply.status_code, reply.headers["ETag"]) == (201, 'W/"3"')


async def test_if_match_allows_an_update_of_the_version_that_it_names_alone(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    body = patient(id="ada", gender="other")
    await client.put("/Patient/ada", json=body)

    # An update that changes nothing keeps the resource at version 2
    replies = {
        tag: await client.put("/Patient/ada", json=body, headers={"If-Match": tag})
        for tag in IF_MATCH
    }

    assert {tag: reply.status_code for tag, reply in replies.items()} == IF_MATCH
    assert issue(replies['W/"1"']) == ("conflict", "Patient is at version 2, not 1")


async def test_a_refused_if_match_leaves_the_resource_as_it_was(client: httpx.AsyncClient) -> None:
    stored = await client.put("/Patient/ada", json=patient(id="ada"))
    stale = {"If-Match": 'W/"7"'}

    update = await client.put("/Patient/ada", json=patient(id="ada", gender="other"), headers=stale)
    deletion = await client.delete("/Patient/ada", headers=stale)

    assert (update.status_code, deletion.status_code) == (412, 412)
    assert (await client.get("/Patient/ada")).content == stored.content


async def test_if_match_of_what_is_not_there_is_412(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/gone", json=patient(id="gone"))
    await client.delete("/Patient/gone")
    tags = ['W/"1"', 'W/"2"', "*"]

    replies = {
        (id, tag): await client.put(
            f"/Patient/{id}", json=patient(id=id), headers={"If-Match": tag}
        )
        for id in ("gone", "never")
        for tag in tags
    }

    assert {key: reply.status_code for key, reply in replies.items()} == dict.fromkeys(replies, 412)
    assert (await client.get("/Patient/never")).status_code == 404
    assert (await client.get("/Patient/gone")).status_code == 410


async def test_if_none_match_with_a_star_creates_but_never_updates(
    client: httpx.AsyncClient,
) -> None:
    only_new = {"If-None-Match": "*"}

    created = await client.put("/Patient/ada", json=patient(id="ada"), headers=only_new)
    changed = patient(id="ada", gender="other")
    repeated = await client.put("/Patient/ada", json=changed, headers=only_new)

    assert (created.status_code, repeated.status_code) == (201, 412)
    assert (await client.get("/Patient/ada")).content == created.content


# --- delete --------------------------------------------------------------------------------------


async def test_delete_answers_204_and_then_the_resource_is_410(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    deletion = await client.delete("/Patient/ada")

    assert (deletion.status_code, deletion.content) == (204, b"")
    assert deletion.headers["ETag"] == 'W/"2"'
    read = await client.get("/Patient/ada")
    assert (read.status_code, issue(read)[0]) == (410, "deleted")
    assert ids(await client.get("/Patient")) == []
    assert ids(await client.get("/Patient?name=marsh")) == []


async def test_delete_of_what_is_not_there_is_204_and_changes_nothing(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    await client.delete("/Patient/ada")

    again = await client.delete("/Patient/ada")
    never = await client.delete("/Patient/nobody")

    assert (again.status_code, never.status_code) == (204, 204)
    history = (await client.get("/_history")).json()["entry"]
    assert [entry["request"]["method"] for entry in history] == ["DELETE", "POST"]
    assert (await client.get("/Patient/nobody")).status_code == 404


async def test_a_deleted_resource_can_be_created_again_and_continues_its_history(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    await client.delete("/Patient/ada")

    reply = await client.put("/Patient/ada", json=patient(id="ada", gender="other"))

    assert (reply.status_code, reply.headers["ETag"]) == (201, 'W/"3"')
    assert reply.headers["Location"] == f"{BASE_URL}/Patient/ada/_history/3"
    assert (await client.get("/Patient/ada")).json()["gender"] == "other"
    assert ids(await client.get("/Patient?gender=other")) == ["ada"]


async def test_if_match_allows_the_deletion_of_the_version_that_it_names(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    reply = await client.delete("/Patient/ada", headers={"If-Match": 'W/"1"'})

    assert reply.status_code == 204


async def test_what_refers_to_a_deleted_resource_stays(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    subject = {"reference": "Patient/ada"}
    await client.put("/Observation/o", json=observation(id="o", subject=subject))

    await client.delete("/Patient/ada")

    assert (await client.get("/Observation/o")).json()["subject"] == subject
    assert ids(await client.get("/Observation?subject=Patient/ada")) == ["o"]


# --- Prefer --------------------------------------------------------------------------------------


async def test_prefer_minimal_answers_without_a_body(client: httpx.AsyncClient) -> None:
    minimal = {"Prefer": "return=minimal"}

    created = await client.post("/Patient", json=patient(), headers=minimal)
    new = await client.put("/Patient/ada", json=patient(id="ada"), headers=minimal)
    same = await client.put("/Patient/ada", json=patient(id="ada"), headers=minimal)

    assert [reply.status_code for reply in (created, new, same)] == [201, 201, 200]
    assert [reply.content for reply in (created, new, same)] == [b"", b"", b""]
    assert [reply.headers["ETag"] for reply in (created, new, same)] == ['W/"1"'] * 3
    assert created.headers["Location"].endswith("/_history/1")


async def test_prefer_representation_answers_with_the_resource_as_stored(
    client: httpx.AsyncClient,
) -> None:
    whole = {"Prefer": "return=representation"}

    new = await client.put("/Patient/ada", json=patient(id="ada"), headers=whole)
    same = await client.put("/Patient/ada", json=patient(id="ada"), headers=whole)

    stored = await client.get("/Patient/ada")
    assert [new.content, same.content] == [stored.content] * 2


async def test_prefer_operation_outcome_answers_that_all_is_well(
    client: httpx.AsyncClient,
) -> None:
    told = {"Prefer": "return=OperationOutcome"}

    created = await client.post("/Patient", json=patient(), headers=told)
    new = await client.put("/Patient/ada", json=patient(id="ada"), headers=told)
    deletion = await client.delete("/Patient/ada", headers=told)

    assert [reply.status_code for reply in (created, new, deletion)] == [201, 201, 200]
    severities = [outcome(reply)["issue"][0]["severity"] for reply in (created, new, deletion)]
    assert severities == ["information"] * 3
    assert created.headers["Location"].endswith("/_history/1")


async def test_prefer_is_read_beside_other_preferences_and_unknown_ones_are_ignored(
    client: httpx.AsyncClient,
) -> None:
    minimal = ['return="minimal"', "handling=strict, return=minimal", "RETURN=minimal"]
    unknown = ["return=everything", "respond-async", ""]

    short = [await client.post("/Patient", json=patient(), headers={"Prefer": p}) for p in minimal]
    long = [await client.post("/Patient", json=patient(), headers={"Prefer": p}) for p in unknown]

    assert [reply.content for reply in short] == [b""] * len(minimal)
    assert [reply.status_code for reply in long] == [201] * len(unknown)
    assert {reply.json()["resourceType"] for reply in long} == {"Patient"}


async def test_headers_may_come_in_several_lines(client: httpx.AsyncClient) -> None:
    headers = [("Prefer", "return=minimal"), ("Prefer", "handling=strict")]

    reply = await client.post("/Patient", json=patient(), headers=headers)

    assert (reply.status_code, reply.content) == (201, b"")  # RFC 9110, 5.2


async def test_a_refusal_is_told_whatever_is_preferred(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/Patient", json=patient(gender="x"), headers={"Prefer": "return=minimal"}
    )

    assert reply.status_code == 422
    assert outcome(reply)["issue"][0]["expression"] == ["Patient.gender"]
