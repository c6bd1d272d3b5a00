"""http.html#trules: all entries of a transaction or none, in one order, with links resolved."""

import json
from typing import Any

import httpx

from tests.conftest import BASE_URL
from tests.rest import integrity
from tests.support.replies import ids, issue, outcome, places
from tests.support.resources import (
    delete,
    entry,
    get,
    observation,
    patient,
    post,
    practitioner,
    put,
    reference,
    transaction,
)

Json = dict[str, Any]

ADA = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"
SCORE = "urn:uuid:7a3f1e0c-12b4-4c6d-8e5f-9a0b1c2d3e4f"
ELSEWHERE = "https://clinic.example.org/fhir"
STAFF = "identifier=https://example.org/staff|7"

# Entries that make a transaction fail: status, and the place that is named
FAILING = {
    "a resource that is not valid": (
        post(patient(gender="f")), 422, "Bundle.entry[2].resource.gender"
    ),
    "a resource of another type": (
        entry("POST", "Patient", practitioner()), 400, "Bundle.entry[2].resource.resourceType"
    ),
    "an id that is not that of the url": (
        entry("PUT", "Patient/b", patient(id="c")), 400, "Bundle.entry[2].resource.id"
    ),
    "an update without an id": (
        entry("PUT", "Patient/b", patient()), 400, "Bundle.entry[2].resource.id"
    ),
    "a stale version": (
        put(patient(id="old", gender="other"), ifMatch='W/"7"'), 412, "Bundle.entry[2]"
    ),
    "a stale version to delete": (delete("Patient/old", ifMatch='W/"7"'), 412, "Bundle.entry[2]"),
    "the version of nothing": (put(patient(id="b"), ifMatch='W/"1"'), 412, "Bundle.entry[2]"),
    "a read of nothing": (get("Patient/nobody"), 404, "Bundle.entry[2]"),
    "an unknown type": (entry("POST", "Nothing", patient()), 400, "Bundle.entry[2]"),
    "an unknown path": (get("Patient/a/b"), 400, "Bundle.entry[2]"),
    "a method that is not supported": (
        entry("DELETE", "Patient/old/_history/1"), 400, "Bundle.entry[2]"
    ),
    "a patch that is none": (
        entry("PATCH", "Patient/old", patient()), 400, "Bundle.entry[2].resource"
    ),
    "a method that is none": (entry("SEND", "Patient", patient()), 400, "Bundle.entry[2]"),
    "no request": ({"resource": patient()}, 400, "Bundle.entry[2].request"),
    "a write without a resource": (entry("POST", "Patient"), 400, "Bundle.entry[2].resource"),
    "an identity that is written already": (
        put(patient(id="new", gender="other")), 400, "Bundle.entry[2]"
    ),
    "a conditional reference that nothing fits": (
        post(observation(performer=[reference("Practitioner?identifier=nobody")])),
        412,
        "Bundle.entry[2]",
    ),
    "a conditional reference that several fit": (
        post(observation(performer=[reference(f"Practitioner?{STAFF}")])), 412, "Bundle.entry[2]"
    ),
    "a conditional create that several fit": (
        post(practitioner(), ifNoneExist=STAFF), 412, "Bundle.entry[2]"
    ),
}  # fmt: skip


def responses(reply: httpx.Response) -> list[Json]:
    """Return the response of each entry."""
    assert reply.status_code == 200, reply.text
    assert reply.json()["type"] == "transaction-response"
    return [entry["response"] for entry in reply.json().get("entry", [])]


def statuses(reply: httpx.Response) -> list[str]:
    """Return the code of each entry's status."""
    return [response["status"][:3] for response in responses(reply)]


def identities(reply: httpx.Response) -> list[str]:
    """Return the `Type/id` of each entry's location."""
    return [response["location"].split("/_history")[0] for response in responses(reply)]


async def written(client: httpx.AsyncClient, reply: httpx.Response) -> list[Json]:
    """Return the resources that the entries wrote, in their order."""
    found = [await client.get("/" + identity) for identity in identities(reply)]
    return [one.json() for one in found]


# --- all or none ---------------------------------------------------------------------------------


async def test_every_entry_is_answered_in_its_place(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/old", json=patient(id="old"))
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.post(
        "/",
        json=transaction(
            get("Patient/a"),
            put(patient(id="a", gender="other")),
            post(practitioner()),
            delete("Patient/old"),
            put(patient(id="new")),
            delete("Patient/nobody"),
        ),
    )

    answers = responses(reply)
    assert statuses(reply) == ["200", "200", "201", "204", "201", "204"]
    assert answers[1]["location"].endswith("Patient/a/_history/2")
    assert answers[4]["location"].endswith("Patient/new/_history/1")
    assert [answers[n].get("etag") for n in (1, 2, 3, 4)] == ['W/"2"', 'W/"1"', 'W/"2"', 'W/"1"']
    changed = (await client.get("/Patient/a")).json()
    assert answers[1]["lastModified"] == changed["meta"]["lastUpdated"]
    assert reply.json()["entry"][0]["resource"] == changed
    assert (await client.get("/Patient/old")).status_code == 410


async def test_one_entry_that_fails_undoes_all(
    client: httpx.AsyncClient, database_url: str
) -> None:
    await client.put("/Patient/old", json=patient(id="old"))
    await client.put("/Practitioner/x", json=practitioner(id="x"))
    await client.put("/Practitioner/y", json=practitioner(id="y"))
    before = (await client.get("/_history")).content
    counts = await integrity.rows(database_url)
    good = [put(patient(id="new")), post(observation(subject=reference("Patient/new")), SCORE)]

    replies = {
        name: await client.post("/", json=transaction(*good, wrong))
        for name, (wrong, _, _) in FAILING.items()
    }

    assert {name: reply.status_code for name, reply in replies.items()} == {
        name: status for name, (_, status, _) in FAILING.items()
    }
    assert {name: places(reply)[0] for name, reply in replies.items()} == {
        name: place for name, (_, _, place) in FAILING.items()
    }
    assert (await client.get("/_history")).content == before
    assert ids(await client.get("/Observation")) == []
    assert (await client.get("/Patient/new")).status_code == 404
    assert await integrity.rows(database_url) == counts
    assert await integrity.broken(database_url) == {}


async def test_every_problem_of_every_entry_is_reported_at_once(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            post(patient(gender="f", shoeSize=44)),
            post(patient()),
            post(observation(status=None)),
        ),
    )

    assert places(reply) == [
        "Bundle.entry[0].resource.gender",
        "Bundle.entry[0].resource.shoeSize",
        "Bundle.entry[2].resource.status",
    ]


async def test_every_request_that_is_none_is_reported_at_once(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            entry("POST", "Nothing", patient()), post(patient()), {"resource": patient()}
        ),
    )

    assert places(reply) == ["Bundle.entry[0]", "Bundle.entry[2].request"]


async def test_what_a_transaction_wrote_is_whole(
    client: httpx.AsyncClient, database_url: str
) -> None:
    subject = reference(ADA)
    await client.put("/Patient/old", json=patient(id="old"))

    await client.post(
        "/",
        json=transaction(
            post(patient(), ADA),
            *(post(observation(subject=subject)) for _ in range(30)),
            put(patient(id="old", gender="other")),
        ),
    )

    assert await integrity.broken(database_url) == {}
    assert len(ids(await client.get("/Observation?_count=100"))) == 30


async def test_an_empty_transaction_succeeds(client: httpx.AsyncClient) -> None:
    reply = await client.post("/", json=transaction())

    assert responses(reply) == []


# --- identities and order ------------------------------------------------------------------------


async def test_the_order_of_entries_does_not_matter(client: httpx.AsyncClient) -> None:
    entries = [
        get("Patient?gender=other"),
        put(patient(id="a", gender="other", link=[{"other": reference(ADA), "type": "seealso"}])),
        post(patient(gender="other"), ADA),
        delete("Patient/b"),
    ]
    found = []
    for order in (entries, entries[::-1]):
        await client.put("/Patient/b", json=patient(id="b", gender="other"))
        reply = await client.post("/", json=transaction(*order))
        searchset = next(e["resource"] for e in reply.json()["entry"] if "resource" in e)
        found.append(sorted(e["resource"]["id"] for e in searchset["entry"]))
        new = next(id for id in found[-1] if id != "a")
        await client.delete(f"/Patient/{new}")

    # DELETE, POST, PUT, then GET: the search sees all of them
    assert [len(names) for names in found] == [2, 2]
    assert ["a" in names and "b" not in names for names in found] == [True, True]


async def test_reads_see_what_the_transaction_wrote(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/gone", json=patient(id="gone"))

    reply = await client.post(
        "/",
        json=transaction(
            get("Patient/a"),
            get("Patient?_id=a,gone"),
            get("Patient/a/_history"),
            get("Patient/a/_history/1"),
            put(patient(id="a")),
            delete("Patient/gone"),
        ),
    )

    shown = [entry.get("resource", {}) for entry in reply.json()["entry"]]
    stored = (await client.get("/Patient/a")).json()
    assert shown[0] == shown[3] == stored
    assert [e["resource"]["id"] for e in shown[1]["entry"]] == ["a"]
    assert [e["resource"] for e in shown[2]["entry"]] == [stored]


async def test_one_identity_may_be_written_once(client: httpx.AsyncClient) -> None:
    twice = [
        [put(patient(id="a")), put(patient(id="a"))],
        [put(patient(id="a")), delete("Patient/a")],
        [delete("Patient/a"), delete("Patient/a")],
        [put(patient(id="a"), f"{ELSEWHERE}/Patient/a"), put(patient(id="a"), ADA)],
    ]

    replies = [await client.post("/", json=transaction(*entries)) for entries in twice]

    assert [reply.status_code for reply in replies] == [400] * len(twice)
    assert issue(replies[0]) == ("invalid", "This is about Patient/a, as Bundle.entry[0] is")
    assert places(replies[0]) == ["Bundle.entry[1]"]
    assert (await client.get("/_history")).json().get("entry", []) == []


async def test_one_identity_may_be_read_beside_being_written(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/", json=transaction(put(patient(id="a")), get("Patient/a"), get("Patient/a"))
    )

    assert statuses(reply) == ["201", "200", "200"]


async def test_a_full_url_may_be_given_once(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/", json=transaction(post(patient(), ADA), post(practitioner(), ADA))
    )

    assert reply.status_code in (400, 422)  # bdl-7
    assert (await client.get("/_history")).json().get("entry", []) == []


async def test_an_identity_that_a_condition_finds_counts_as_written(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    conditional = post(practitioner(), ADA, ifNoneExist=STAFF)

    deleted = await client.post("/", json=transaction(conditional, delete("Practitioner/vale")))
    updated = await client.post(
        "/", json=transaction(conditional, put(practitioner(id="vale", active=True)))
    )

    # http.html#trules: if identities, including resolved ones, overlap, the transaction fails
    assert [deleted.status_code, updated.status_code] == [400, 400]
    assert (await client.get("/Practitioner/vale")).headers["ETag"] == 'W/"1"'


async def test_two_entries_with_one_condition_make_one_resource(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            post(practitioner(), ADA, ifNoneExist=STAFF),
            post(practitioner(), SCORE, ifNoneExist=STAFF),
            post(observation(performer=[reference(ADA), reference(SCORE)])),
        ),
    )

    one, other, score = identities(reply)
    assert statuses(reply) == ["201", "200", "201"]
    assert one == other
    stored = (await client.get(f"/{score}")).json()
    assert stored["performer"] == [{"reference": one}, {"reference": one}]
    assert len(ids(await client.get("/Practitioner"))) == 1


async def test_entries_with_several_conditions_may_find_one_resource(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.post(
        "/",
        json=transaction(
            post(practitioner(), ADA, ifNoneExist=STAFF),
            post(practitioner(), SCORE, ifNoneExist="_id=vale"),
            post(observation(performer=[reference(ADA), reference(SCORE)])),
        ),
    )

    assert statuses(reply) == ["200", "200", "201"]
    score = (await client.get("/" + identities(reply)[2])).json()
    assert score["performer"] == [reference("Practitioner/vale")] * 2
    assert (await client.get("/Practitioner/vale")).headers["ETag"] == 'W/"1"'


async def test_if_match_is_heeded(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    await client.put("/Patient/b", json=patient(id="b"))

    reply = await client.post(
        "/",
        json=transaction(
            put(patient(id="a", gender="other"), ifMatch='W/"1"'),
            delete("Patient/b", ifMatch='W/"1"'),
        ),
    )

    assert statuses(reply) == ["200", "204"]


async def test_an_update_that_changes_nothing_keeps_its_version(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.post("/", json=transaction(put(patient(id="a")), post(patient())))

    assert statuses(reply) == ["200", "201"]
    assert responses(reply)[0]["etag"] == 'W/"1"'


async def test_conditions_of_reads_are_heeded(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.post(
        "/",
        json=transaction(
            get("Patient/a", ifNoneMatch='W/"1"'),
            get("Patient/a", ifModifiedSince="2100-01-01T00:00:00Z"),
        ),
    )

    assert statuses(reply) == ["304", "304"]


async def test_prefer_decides_whether_entries_show_what_was_written(
    client: httpx.AsyncClient,
) -> None:
    preferences = ["minimal", "representation", "OperationOutcome", ""]

    shown = {}
    for preference in preferences:
        headers = {"Prefer": f"return={preference}"} if preference else {}
        # the second entry changes nothing from the second round on
        entries = transaction(post(patient()), put(patient(id="a")))
        reply = await client.post("/", json=entries, headers=headers)
        shown[preference] = reply.json()["entry"]

    types = {
        name: [
            (e.get("resource", {}).get("resourceType"), "outcome" in e["response"]) for e in found
        ]
        for name, found in shown.items()
    }
    assert types == {
        "minimal": [(None, False)] * 2,
        "representation": [("Patient", False)] * 2,
        "OperationOutcome": [(None, True)] * 2,
        "": [(None, False)] * 2,  # http.html#ops: a Bundle with the responses alone
    }
    assert shown["representation"][1]["resource"] == (await client.get("/Patient/a")).json()


# --- links ---------------------------------------------------------------------------------------


async def test_references_to_entries_become_references_to_what_they_made(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            post(observation(subject=reference(ADA), derivedFrom=[reference(SCORE)])),
            post(patient(link=[{"other": reference(ADA), "type": "seealso"}]), ADA),
            post(observation(subject={**reference(ADA), "display": "Ada"}), SCORE),
            put(observation(id="o", subject=reference(ADA))),
        ),
    )

    first, ada, score, fourth = await written(client, reply)
    subject = {"reference": f"Patient/{ada['id']}"}
    assert ada["link"][0]["other"] == subject
    assert score["subject"] == {**subject, "display": "Ada"}
    assert [first["subject"], fourth["subject"]] == [subject, subject]
    assert first["derivedFrom"] == [{"reference": f"Observation/{score['id']}"}]
    assert len(ids(await client.get(f"/Observation?subject=Patient/{ada['id']}"))) == 3


async def test_entries_may_refer_to_each_other_in_a_circle(client: httpx.AsyncClient) -> None:
    bert = "urn:uuid:11111111-2222-4333-8444-555555555555"

    reply = await client.post(
        "/",
        json=transaction(
            post(patient(link=[{"other": reference(bert), "type": "refer"}]), ADA),
            post(patient(link=[{"other": reference(ADA), "type": "refer"}]), bert),
        ),
    )

    one, other = await written(client, reply)
    assert one["link"][0]["other"]["reference"] == f"Patient/{other['id']}"
    assert other["link"][0]["other"]["reference"] == f"Patient/{one['id']}"


async def test_links_are_replaced_in_every_place_that_the_specification_names(
    client: httpx.AsyncClient,
) -> None:
    div = '<div xmlns="http://www.w3.org/1999/xhtml">{}</div>'
    linked = f'<a href="{ADA}">her</a> <img src="{ADA}" alt="x"/> {ADA}'
    document = {
        "resourceType": "DocumentReference",
        "status": "current",
        "text": {"status": "generated", "div": div.format(linked)},
        "description": ADA,
        "content": [{"attachment": {"url": ADA}}],
        "extension": [
            {"url": "https://example.org/uri", "valueUri": ADA},
            {"url": "https://example.org/url", "valueUrl": ADA},
            {"url": "https://example.org/canonical", "valueCanonical": ADA},
            {"url": "https://example.org/string", "valueString": ADA},
            {"url": "https://example.org/reference", "valueReference": reference(ADA)},
        ],
    }

    reply = await client.post("/", json=transaction(post(document), post(patient(), ADA)))

    stored = (await written(client, reply))[0]
    ada = identities(reply)[1]
    shown = f'<a href="{ada}">her</a> <img src="{ada}" alt="x"/> {ADA}'
    assert stored["text"]["div"] == div.format(shown)
    assert stored["description"] == ADA
    assert stored["content"][0]["attachment"]["url"] == ada
    assert [next(v for k, v in e.items() if k != "url") for e in stored["extension"]] == [
        ada,
        ada,
        ADA,  # a canonical is not replaced
        ADA,
        {"reference": ada},
    ]


async def test_a_uuid_or_oid_that_equals_a_full_url_leaves_the_resource_valid(
    client: httpx.AsyncClient,
) -> None:
    # http.html#trules replaces links in these elements too, but no `Type/id` is a uuid or an oid
    oid = "urn:oid:2.16.840.1.113883.4.642"
    basic = {
        "resourceType": "Basic",
        "code": {"text": "x"},
        "extension": [{"url": "u", "valueUuid": ADA}, {"url": "o", "valueOid": oid}],
    }

    reply = await client.post(
        "/", json=transaction(post(basic), post(patient(), ADA), post(practitioner(), oid))
    )

    assert statuses(reply) == ["201", "201", "201"]
    assert (await written(client, reply))[0]["extension"] == basic["extension"]


async def test_the_rest_of_a_resource_with_links_stays_as_it_was_written(
    client: httpx.AsyncClient,
) -> None:
    raw = (
        '{"code":{"text":"\\u00e4"},"resourceType":"Observation","subject":{"reference":"HER"},'
        '"status":"final","valueQuantity":{"value":1.50}}'
    )
    body = transaction(post(patient(), ADA), post({"resourceType": "Observation"}))
    content = json.dumps(body).replace('{"resourceType": "Observation"}', raw).replace("HER", ADA)

    reply = await client.post("/", content=content)

    ada, score = identities(reply)
    stored = (await client.get("/" + score)).text
    assert '"code":{"text":"\\u00e4"}' in stored
    assert f'"subject":{{"reference":"{ada}"}},"status":"final"' in stored
    assert '"valueQuantity":{"value":1.50}' in stored


async def test_full_urls_may_be_addresses_of_another_server(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            post(patient(), f"{ELSEWHERE}/Patient/9"),
            post(observation(subject=reference(f"{ELSEWHERE}/Patient/9"))),
            # bundle.html#references: relative to the base of the entry's own fullUrl
            post(observation(subject=reference("Patient/9")), f"{ELSEWHERE}/Observation/1"),
            post(observation(subject=reference("Patient/9")), "https://other.org/Observation/1"),
            post(observation(subject=reference(f"{ELSEWHERE}/Patient/99"))),
        ),
    )

    ada = identities(reply)[0]
    found = [one["subject"]["reference"] for one in (await written(client, reply))[1:]]
    assert found == [ada, ada, "Patient/9", f"{ELSEWHERE}/Patient/99"]


async def test_an_update_keeps_its_id_and_references_to_its_full_url_follow(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            put(patient(id="ada"), ADA),
            put(practitioner(id="vale"), f"{ELSEWHERE}/Practitioner/vale"),
            post(
                observation(
                    subject=reference(ADA),
                    performer=[
                        reference(f"{ELSEWHERE}/Practitioner/vale"),
                        reference("Practitioner/vale"),
                    ],
                )
            ),
        ),
    )

    score = (await written(client, reply))[2]
    assert score["subject"]["reference"] == "Patient/ada"
    assert [r["reference"] for r in score["performer"]] == ["Practitioner/vale"] * 2


async def test_references_to_what_is_not_in_the_bundle_are_left_as_they_are(
    client: httpx.AsyncClient,
) -> None:
    others = [SCORE, "Practitioner/nobody", f"{ELSEWHERE}/Practitioner/1", "#dr"]
    contained = {"resourceType": "Practitioner", "id": "dr"}
    performer = [reference(other) for other in others]

    reply = await client.post(
        "/",
        json=transaction(
            post(patient(), ADA), post(observation(contained=[contained], performer=performer))
        ),
    )

    assert (await written(client, reply))[1]["performer"] == performer


# --- conditions ----------------------------------------------------------------------------------


async def test_a_conditional_reference_becomes_the_one_resource_that_fits(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.post(
        "/", json=transaction(post(observation(performer=[reference(f"Practitioner?{STAFF}")])))
    )

    (score,) = await written(client, reply)
    assert score["performer"] == [{"reference": "Practitioner/vale"}]
    assert len(ids(await client.get("/Observation?performer=Practitioner/vale"))) == 1


async def test_a_conditional_reference_is_resolved_after_all_writes(
    client: httpx.AsyncClient,
) -> None:
    conditional = reference(f"Practitioner?{STAFF}")

    made = await client.post(
        "/", json=transaction(post(observation(performer=[conditional])), post(practitioner(), ADA))
    )
    vale = identities(made)[1]
    gone = await client.post(
        "/", json=transaction(post(observation(performer=[conditional])), delete(vale))
    )

    # http.html#trules: conditional references come last, after DELETE, POST and PUT
    assert (await written(client, made))[0]["performer"] == [{"reference": vale}]
    assert gone.status_code == 412
    assert (await client.get(f"/{vale}")).status_code == 200


async def test_what_waits_for_its_conditional_reference_may_be_referred_to_meanwhile(
    client: httpx.AsyncClient, database_url: str
) -> None:
    waiting = patient(generalPractitioner=[reference(f"Practitioner?{STAFF}")])

    reply = await client.post(
        "/",
        json=transaction(
            post(observation(subject=reference(ADA))), post(waiting, ADA), post(practitioner())
        ),
    )

    score, ada, vale = await written(client, reply)
    assert score["subject"] == reference(f"Patient/{ada['id']}")
    assert ada["generalPractitioner"] == [reference(f"Practitioner/{vale['id']}")]
    assert ada["meta"]["versionId"] == "1"
    assert ids(await client.get(f"/Observation?patient={ada['id']}")) == [score["id"]]
    assert await integrity.broken(database_url) == {}


async def test_references_are_resolved_however_json_writes_them(client: httpx.AsyncClient) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    performers = [reference(f"Practitioner?{STAFF}&active:missing=true")]
    document = {
        "resourceType": "DocumentReference",
        "status": "current",
        "content": [{"attachment": {"url": f"{ELSEWHERE}/Patient/7"}}],
    }
    bundle = transaction(
        post(observation(subject=reference(f"{ELSEWHERE}/Patient/7"), performer=performers)),
        post(document),
        post(patient(), f"{ELSEWHERE}/Patient/7"),
    )
    # RFC 8259, 7: some clients always write / and & so
    escaped = json.dumps(bundle).replace("/", r"\/").replace("&", r"\u0026")

    reply = await client.post("/", content=escaped)

    score, link, ada = await written(client, reply)
    assert score["subject"] == reference(f"Patient/{ada['id']}")
    assert score["performer"] == [reference("Practitioner/vale")]
    assert link["content"][0]["attachment"]["url"] == f"Patient/{ada['id']}"


async def test_a_conditional_reference_that_means_nothing_is_refused(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    queries = ["?", "?shoe-size=44", "?identifier=", "?birthdate=x", "?_count=1"]

    replies = {
        query: await client.post(
            "/", json=transaction(post(observation(performer=[reference("Practitioner" + query)])))
        )
        for query in queries
    }

    assert {q for q, r in replies.items() if r.status_code not in (400, 422)} == set()
    assert {
        q for q, r in replies.items() if not places(r)[0].startswith("Bundle.entry[0]")
    } == set()
    assert ids(await client.get("/Observation")) == []


async def test_a_conditional_reference_outside_a_transaction_is_not_resolved(
    client: httpx.AsyncClient,
) -> None:
    # http.html#trules: in a transaction, and only there, a reference may be a search
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    body = json.dumps(observation(performer=[reference(f"Practitioner?{STAFF}")]))

    replies = [
        await client.post("/Observation", content=body),
        await client.post("/Observation", content=body.replace("?", r"\u003f")),
    ]

    assert [reply.status_code for reply in replies] == [422, 422]
    assert ids(await client.get("/Observation")) == []


async def test_a_conditional_create_makes_the_resource_when_nothing_fits(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            post(practitioner(), ADA, ifNoneExist=STAFF),
            post(observation(performer=[reference(ADA)])),
        ),
    )

    vale, score = await written(client, reply)
    assert statuses(reply) == ["201", "201"]
    assert score["performer"] == [{"reference": f"Practitioner/{vale['id']}"}]


async def test_references_to_a_conditional_create_follow_it_to_what_was_there(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.post(
        "/",
        json=transaction(
            post(observation(performer=[reference(ADA)])),
            post(practitioner(active=True), ADA, ifNoneExist=STAFF),
        ),
    )

    score, vale = await written(client, reply)
    assert statuses(reply) == ["201", "200"]
    assert responses(reply)[1]["etag"] == 'W/"1"'
    assert "active" not in vale
    assert score["performer"] == [{"reference": "Practitioner/vale"}]
    assert ids(await client.get("/Practitioner")) == ["vale"]


async def test_a_large_transaction_is_performed_whole(client: httpx.AsyncClient) -> None:
    full_url = "urn:uuid:00000000-0000-4000-8000-{:012}"
    entries = [
        post(observation(subject=reference(full_url.format(0))), full_url.format(n))
        for n in range(1, 400)
    ]

    reply = await client.post("/", json=transaction(*entries, post(patient(), full_url.format(0))))

    assert statuses(reply) == ["201"] * 400
    ada = identities(reply)[-1]
    found = await client.get(f"/Observation?subject={ada}&_count=1000")
    assert sorted(ids(found)) == sorted(one.split("/")[1] for one in identities(reply)[:-1])


async def test_a_failed_transaction_is_answered_with_one_operation_outcome(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.post(
        "/", json=transaction(post(patient(gender="f"))), headers={"Prefer": "return=minimal"}
    )

    assert reply.status_code == 422
    assert outcome(reply)["issue"][0]["expression"] == ["Bundle.entry[0].resource.gender"]


async def test_full_urls_on_this_server_are_references_to_it(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/",
        json=transaction(
            put(patient(id="ada"), f"{BASE_URL}/Patient/ada"),
            post(observation(subject=reference("Patient/ada"))),
            post(observation(subject=reference(f"{BASE_URL}/Patient/ada"))),
        ),
    )

    assert statuses(reply) == ["201"] * 3
    assert len(ids(await client.get("/Observation?subject=Patient/ada"))) == 2
