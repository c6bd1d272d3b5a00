"""$everything, $document and $lastn: what belongs together, each resource once."""

from typing import Any

import httpx
import pytest

from tests.support.record import ADA, ADAS, AROUND, BOB, DOCTOR, HOSPITAL, RECORD, SCORES
from tests.support.replies import ids, issue, issues, link, resources
from tests.support.resources import coded, patient, reference, resource

Json = dict[str, Any]


@pytest.fixture
async def record(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server that has the record of Ada, and some of Bob's."""
    for body in RECORD:
        reply = await client.put(f"/{body['resourceType']}/{body['id']}", json=body)
        assert reply.status_code == 201, reply.text
    return client


def names(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [f"{one['resourceType']}/{one['id']}" for one in resources(reply)]


def of_mode(reply: httpx.Response, mode: str) -> set[str]:
    entries = [e for e in reply.json()["entry"] if e["search"]["mode"] == mode]
    return {f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in entries}


# --- $everything -------------------------------------------------------------------------------


async def test_everything_is_the_compartment_and_what_it_refers_to(
    record: httpx.AsyncClient,
) -> None:
    reply = await record.get("/Patient/ada/$everything")

    assert (of_mode(reply, "match"), of_mode(reply, "include")) == (ADAS, AROUND)
    assert (reply.json()["type"], reply.json()["total"]) == ("searchset", len(ADAS))
    assert link(reply, "next") is None


async def test_a_shared_appointment_opens_no_second_record(record: httpx.AsyncClient) -> None:
    found = names(await record.get("/Patient/ada/$everything"))

    assert "Appointment/shared" in found
    assert not {BOB, "Observation/bobs", "Practitioner/other"} & set(found)


async def test_pages_of_everything_show_each_resource_once(record: httpx.AsyncClient) -> None:
    for count in (1, 3, 7, 8):
        found: list[str] = []
        url: str | None = f"/Patient/ada/$everything?_count={count}"
        while url:
            reply = await record.get(url)
            assert len(reply.json()["entry"]) <= count
            found += names(reply)
            url = link(reply, "next")

        assert sorted(found) == sorted(ADAS | AROUND), count


async def test_everything_can_be_posted_and_its_pages_are_gets(record: httpx.AsyncClient) -> None:
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueCode": "Observation"},
            {"name": "_type", "valueCode": "Encounter,Patient"},
            {"name": "_count", "valueInteger": 2},
        ],
    }

    first = await record.post("/Patient/ada/$everything", json=body)
    second = await record.get(link(first, "next") or "")

    wanted = [ADA, "Encounter/visit", "Observation/later", "Observation/score"]
    assert sorted(names(first) + names(second)) == sorted(wanted)


async def test_everything_of_some_types_is_what_all_has_of_them(record: httpx.AsyncClient) -> None:
    for types in ("Observation,Practitioner", "Patient,Organization", "Practitioner", "Goal"):
        found: list[str] = []
        url: str | None = f"/Patient/ada/$everything?_type={types}&_count=1"
        while url:
            reply = await record.get(url)
            found += names(reply)
            url = link(reply, "next")

        wanted = [one for one in ADAS | AROUND if one.split("/")[0] in types.split(",")]
        assert sorted(found) == sorted(wanted), types


async def test_everything_between_dates_of_care_leaves_out_other_dates(
    record: httpx.AsyncClient,
) -> None:
    from_march = set(names(await record.get("/Patient/ada/$everything?start=2026-04-01")))
    in_march = set(
        names(await record.get("/Patient/ada/$everything?start=2026-03-01&end=2026-03-31"))
    )

    dated = {"Encounter/visit", "Observation/score"}
    after = {"Observation/later", "MedicationRequest/order"}
    undated = {ADA, "Appointment/shared", "DocumentReference/letter"}
    assert from_march & ADAS == after | undated
    assert in_march & ADAS == dated | undated


async def test_everything_between_dates_of_care_does_not_follow_references_out_of_them(
    record: httpx.AsyncClient,
) -> None:
    again = {**RECORD[7], "derivedFrom": [reference("Observation/score")]}
    await record.put("/Observation/later", json=again)

    found = names(await record.get("/Patient/ada/$everything?start=2026-04-01"))

    assert "Observation/later" in found
    assert not {"Observation/score", "Encounter/visit"} & set(found)


async def test_everything_since_a_moment_is_what_was_written_since(
    record: httpx.AsyncClient,
) -> None:
    changed = [
        (await record.put(f"/{one}", json={**body, "language": "en"})).json()
        for one, body in [("Observation/later", RECORD[7]), (HOSPITAL, RECORD[1])]
    ]
    moment = min(one["meta"]["lastUpdated"] for one in changed)

    untouched = await record.get("/Patient/ada/$everything", params={"_since": "2999-01-01"})
    reply = await record.get("/Patient/ada/$everything", params={"_since": moment})

    assert untouched.status_code == 400  # an instant, no date
    assert {"Observation/later", HOSPITAL} <= set(names(reply))
    assert not {ADA, "Encounter/visit", DOCTOR} & set(names(reply))


async def test_everything_since_a_moment_has_what_an_older_part_refers_to(
    record: httpx.AsyncClient,
) -> None:
    changed = await record.put(f"/{DOCTOR}", json={**RECORD[2], "language": "en"})
    moment = changed.json()["meta"]["lastUpdated"]

    reply = await record.get("/Patient/ada/$everything", params={"_since": moment})

    assert DOCTOR in names(reply)
    assert "Encounter/visit" not in names(reply)


async def test_everything_of_an_encounter_is_what_is_about_it(record: httpx.AsyncClient) -> None:
    reply = await record.get("/Encounter/visit/$everything")

    assert of_mode(reply, "match") == {"Encounter/visit", "Observation/score"}
    assert of_mode(reply, "include") == {ADA, DOCTOR, HOSPITAL, "Organization/trust"}


async def test_everything_of_nobody_is_a_404_and_of_a_deleted_patient_a_410(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/gone", json=patient(id="gone"))
    await client.delete("/Patient/gone")

    nobody = await client.get("/Patient/nobody/$everything")
    gone = await client.get("/Patient/gone/$everything")

    assert (nobody.status_code, gone.status_code) == (404, 410)


async def test_a_cursor_of_everything_belongs_to_its_call(record: httpx.AsyncClient) -> None:
    first = await record.get("/Patient/ada/$everything?_count=2")
    url = link(first, "next") or ""

    other = await record.get(url.replace("Patient/ada", "Patient/bob"))
    changed = await record.get(url.replace("_count=2", "_count=3"))
    forged = await record.get(f"{url}x")

    assert [other.status_code, changed.status_code, forged.status_code] == [400] * 3


async def test_everything_refuses_what_it_cannot_do(record: httpx.AsyncClient) -> None:
    urls = [
        "_type=Nonsense",
        "_type=Patient,",
        "_count=0",
        "start=2026-05-01&end=2026-04-01",
        "_sort=date",
    ]

    replies = {url: await record.get(f"/Patient/ada/$everything?{url}") for url in urls}

    assert {url: r.status_code for url, r in replies.items()} == dict.fromkeys(urls, 400)


# --- $document ---------------------------------------------------------------------------------


def composition(**changes: Any) -> Json:
    defaults: Json = {
        "id": "summary",
        "status": "final",
        "type": coded("11503-0"),
        "date": "2026-03-02",
        "title": "Summary",
        "subject": reference(ADA),
        "author": [reference(DOCTOR)],
        "custodian": reference(HOSPITAL),
        "section": [{"title": "Scores", "entry": [reference("Observation/score")]}],
    }
    return resource("Composition", defaults, changes)


async def test_a_document_has_the_composition_first_and_all_it_refers_to(
    record: httpx.AsyncClient,
) -> None:
    await record.put("/Composition/summary", json=composition())

    reply = await record.get("/Composition/summary/$document")
    by_id = await record.get("/Composition/$document?id=Composition/summary")

    found = reply.json()
    assert names(reply)[0] == "Composition/summary"
    assert set(names(reply)[1:]) == {
        *(ADA, DOCTOR, HOSPITAL, "Organization/trust", "Observation/score", "Encounter/visit"),
    }
    assert len(names(reply)) == len(set(names(reply)))
    assert (found["type"], found["identifier"]["system"]) == ("document", "urn:ietf:rfc:3986")
    assert names(by_id) == names(reply)
    assert (await record.post("/Bundle/$validate", json=found)).json()["issue"][0]["code"] == (
        "informational"
    )


async def test_a_document_has_the_version_that_the_composition_names(
    record: httpx.AsyncClient,
) -> None:
    score = (await record.get("/Observation/score")).json()
    old = f"Observation/score/_history/{score['meta']['versionId']}"
    amended = await record.put("/Observation/score", json={**score, "status": "amended"})
    new = f"Observation/score/_history/{amended.json()['meta']['versionId']}"
    same = [{"entry": [reference(new), reference("Observation/score")]}]
    named = [{"entry": [reference(old)]}]
    both = [{"entry": [reference(old), reference("Observation/score")]}]
    lost = [{"entry": [reference("Observation/score/_history/9")]}]

    replies = []
    for section in (named, both, same, lost):
        await record.put("/Composition/summary", json=composition(section=section))
        replies.append(await record.get("/Composition/summary/$document"))

    scores = [[r for r in resources(reply) if r["id"] == "score"] for reply in replies[:3]]
    statuses = [[one["status"] for one in some] for some in scores]
    assert statuses == [["final"], ["amended", "final"], ["amended"]]
    text = "The Composition refers to Observation/score/_history/9, which is not here"
    assert (replies[3].status_code, issue(replies[3])) == (422, ("processing", text))


async def test_a_document_that_would_lack_something_is_refused(record: httpx.AsyncClient) -> None:
    missing = composition(author=[reference("Practitioner/nobody")])
    await record.put("/Composition/summary", json=missing)

    reply = await record.get("/Composition/summary/$document")

    text = "The Composition refers to Practitioner/nobody, which is not here"
    assert (reply.status_code, issue(reply)) == (422, ("processing", text))


async def test_a_document_is_kept_only_where_that_is_asked_for(record: httpx.AsyncClient) -> None:
    await record.put("/Composition/summary", json=composition())

    passing = await record.get("/Composition/summary/$document")
    kept = await record.post("/Composition/summary/$document?persist=true")

    assert (await record.get(f"/Bundle/{passing.json()['id']}")).status_code == 404
    assert (await record.get(f"/Bundle/{kept.json()['id']}")).json() == kept.json()
    assert f"/Bundle/{kept.json()['id']}/_history/1" in kept.headers["Location"]


async def test_a_document_needs_one_composition_of_this_server(record: httpx.AsyncClient) -> None:
    statuses = [
        (await record.get(f"/Composition/{url}")).status_code
        for url in (
            "$document",
            "$document?id=nobody",
            "$document?id=http://elsewhere.example/Composition/1",
            "summary/$document?id=summary",
        )
    ]

    assert statuses == [400, 404, 400, 400]


# --- $lastn ------------------------------------------------------------------------------------


@pytest.fixture
async def scores(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server on which there are scores of Ada."""
    for body in [patient(id="ada"), *SCORES]:
        await client.put(f"/{body['resourceType']}/{body['id']}", json=body)
    return client


async def test_lastn_finds_the_newest_of_each_code(scores: httpx.AsyncClient) -> None:
    reply = await scores.get(f"/Observation/$lastn?patient={ADA}&category=survey")

    # c and d are one, because one observation has both; of b, two are as new as each other
    assert sorted(ids(reply)) == ["a3", "b1", "b2", "d1", "t1", "t2"]
    assert ids(reply)[:2] == ["d1", "a3"]


async def test_lastn_finds_as_many_of_each_code_as_asked_for(scores: httpx.AsyncClient) -> None:
    two = await scores.get(f"/Observation/$lastn?subject={ADA}&category=survey&max=2")
    posted = await scores.post(
        f"/Observation/$lastn?subject={ADA}&code=a,b",
        json={
            "resourceType": "Parameters",
            "parameter": [{"name": "max", "valuePositiveInt": 2}],
        },
    )

    assert sorted(ids(two)) == ["a2", "a3", "b1", "b2", "c1", "d1", "t1", "t2"]
    assert sorted(ids(posted)) == ["a2", "a3", "b1", "b2"]


async def test_lastn_takes_further_criteria(scores: httpx.AsyncClient) -> None:
    reply = await scores.get(f"/Observation/$lastn?patient={ADA}&code=a&date=lt2026-01-03")

    assert ids(reply) == ["a2"]


async def test_lastn_needs_a_subject_and_codes_and_takes_nothing_of_the_answer(
    scores: httpx.AsyncClient,
) -> None:
    urls = ["", "category=survey", f"patient={ADA}", f"patient={ADA}&code=a&max=0"]
    urls += [f"patient={ADA}&code=a&{more}" for more in ("_sort=date", "_count=1", "nonsense=1")]

    replies = {url: await scores.get(f"/Observation/$lastn?{url}") for url in urls}

    assert {url: r.status_code for url, r in replies.items()} == dict.fromkeys(urls, 400)
    assert issues(replies[""]) == [
        ("required", "$lastn needs patient or subject, and category or code")
    ]


async def test_lastn_of_nothing_is_an_empty_searchset(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Observation/$lastn?patient=Patient/nobody&code=a")

    assert (reply.status_code, reply.json()["total"]) == (200, 0)
