"""What a write does to what a search finds: the index is that of the current version."""

import httpx

from tests.support.replies import ids
from tests.support.resources import (
    coded,
    encounter,
    observation,
    patient,
    quantity,
    reference,
    transaction,
)

URI = "http://example.org/p"

# A change of one element, a search that finds it before, and one that finds it after
CHANGES: list[tuple[str, dict[str, object], dict[str, object], str, str]] = [
    (
        "Observation",
        {"status": "preliminary"},
        {"status": "final"},
        "status=preliminary",
        "status=final",
    ),
    (
        "Observation",
        {"code": coded("1-8")},
        {"code": coded("2-6")},
        "code=http://loinc.org|1-8",
        "code=http://loinc.org|2-6",
    ),
    (
        "Observation",
        {"code": coded("1-8", "urn:a")},
        {"code": coded("1-8", "urn:b")},
        "code=urn:a|1-8",
        "code=urn:b|1-8",
    ),
    (
        "Observation",
        {"effectiveDateTime": "2020-01-01"},
        {"effectiveDateTime": "2021-01-01"},
        "date=2020",
        "date=2021",
    ),
    (
        "Observation",
        {"effectiveDateTime": "2020-01-01"},
        {"effectiveDateTime": None, "effectivePeriod": {"start": "2020-01-01"}},
        "date=2020-01-01",
        "date=gt2030",
    ),
    (
        "Observation",
        {"valueQuantity": quantity(5, "mg")},
        {"valueQuantity": quantity(5, "g")},
        "value-quantity=5||mg",
        "value-quantity=5||g",
    ),
    (
        "Observation",
        {"valueQuantity": quantity(5, "mg")},
        {"valueQuantity": {**quantity(5, "mg"), "comparator": ">"}},
        "value-quantity=le5||mg",
        "value-quantity=gt5||mg",
    ),
    (
        "Observation",
        {"valueQuantity": None, "valueString": "better"},
        {"valueQuantity": None, "valueString": "worse"},
        "value-string=better",
        "value-string=worse",
    ),
    (
        "Observation",
        {"subject": reference("Patient/a")},
        {"subject": reference("Patient/b")},
        "patient=a",
        "patient=b",
    ),
    (
        "Observation",
        {"subject": reference("Patient/a")},
        {"subject": reference("http://other.example/Patient/a")},
        "subject=Patient/a",
        "subject=http://other.example/Patient/a",
    ),
    (
        "Observation",
        {"meta": {"profile": [f"{URI}|1"]}},
        {"meta": {"profile": [f"{URI}|2"]}},
        f"_profile={URI}|1",
        f"_profile={URI}|2",
    ),
    (
        "Observation",
        {"meta": {"tag": [{"code": "new"}]}},
        {"meta": {"tag": [{"code": "old"}]}},
        "_tag=new",
        "_tag=old",
    ),
    (
        "Patient",
        {"name": [{"family": "Marsh"}]},
        {"name": [{"family": "Vale"}]},
        "family=marsh",
        "family=vale",
    ),
    (
        "Patient",
        {"deceasedBoolean": None},
        {"deceasedBoolean": True},
        "deceased=false",
        "deceased=true",
    ),
]


def made(type: str, id: str, elements: dict[str, object]) -> dict[str, object]:
    """Return a resource of that type with these elements."""
    return (observation if type == "Observation" else patient)(id=id, **elements)


async def test_an_update_moves_a_resource_from_one_search_to_the_other(
    client: httpx.AsyncClient,
) -> None:
    seen = {}
    for n, (type, old, new, finds_old, finds_new) in enumerate(CHANGES):
        found = []
        for elements in (old, new, old):
            await client.put(f"/{type}/x{n}", json=made(type, f"x{n}", elements))
            replies = [await client.get(f"/{type}?{query}") for query in (finds_old, finds_new)]
            found.append([f"x{n}" in ids(reply) for reply in replies])
        seen[finds_old, finds_new] = found

    assert seen == {key: [[True, False], [False, True], [True, False]] for key in seen}
    assert len(seen) == len(CHANGES)


async def test_a_change_of_one_element_leaves_the_others_found(client: httpx.AsyncClient) -> None:
    body = observation(id="x", subject=reference("Patient/a"))
    await client.put("/Observation/x", json=body)
    await client.put("/Observation/x", json={**body, "status": "amended"})

    replies = [
        await client.get(f"/Observation?{query}")
        for query in ("patient=a", "code=44261-6", "date=2026-03-02", "value-quantity=11")
    ]

    assert [ids(reply) for reply in replies] == [["x"]] * 4


async def test_a_resource_that_changes_its_patient_is_found_by_all_else_as_before(
    client: httpx.AsyncClient,
) -> None:
    for owner in ("a", "b"):
        body = observation(id="x", subject=reference(f"Patient/{owner}"))
        await client.put("/Observation/x", json=body)
    searches = ["code=44261-6", "date=2026", "value-quantity=11", "status=final", "patient=b"]

    replies = [await client.get(f"/Observation?{query}") for query in searches]

    assert [ids(reply) for reply in replies] == [["x"]] * len(searches)


async def test_an_element_that_goes_takes_its_index_rows_along(client: httpx.AsyncClient) -> None:
    await client.put("/Observation/x", json=observation(id="x", subject=reference("Patient/a")))
    await client.put(
        "/Observation/x", json=observation(id="x", valueQuantity=None, effectiveDateTime=None)
    )

    replies = [
        await client.get(f"/Observation?{query}")
        for query in ("patient=a", "date=ge0001", "value-quantity=11", "status=final")
    ]

    assert [ids(reply) for reply in replies] == [[], [], [], ["x"]]


async def test_a_deleted_resource_is_not_found_until_it_is_there_again(
    client: httpx.AsyncClient,
) -> None:
    body = observation(id="x", subject=reference("Patient/a"))
    queries = [
        *("", "_id=x", "status=final", "code=44261-6", "date=2026", "value-quantity=11"),
        *("patient=a", "_lastUpdated=gt1990"),
    ]

    async def found() -> list[list[str]]:
        return [ids(await client.get(f"/Observation?{query}")) for query in queries]

    await client.put("/Observation/x", json=body)
    before = await found()
    await client.delete("/Observation/x")
    deleted = await found()
    await client.put("/Observation/x", json=body)
    again = await found()

    assert before == again == [["x"]] * len(queries)
    assert deleted == [[]] * len(queries)


async def test_a_deleted_target_still_stands_in_the_references_to_it(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    await client.put("/Observation/x", json=observation(id="x", subject=reference("Patient/a")))
    await client.delete("/Patient/a")

    reply = await client.get("/Observation?patient=a")

    assert ids(reply) == ["x"]


async def test_a_reference_is_found_before_and_after_its_target_arrives(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Encounter/x", json=encounter(id="x", subject=reference("Patient/late")))
    before = await client.get("/Encounter?patient=late")
    phantom = await client.get("/Patient?_id=late")

    await client.put("/Patient/late", json=patient(id="late"))
    after = await client.get("/Encounter?patient=late")
    arrived = await client.get("/Patient?_id=late")

    assert [ids(r) for r in (before, phantom, after, arrived)] == [["x"], [], ["x"], ["late"]]


async def test_last_updated_is_that_of_the_current_version(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/x", json=patient(id="x"))
    first = (await client.get("/Patient/x")).json()["meta"]["lastUpdated"]
    await client.put("/Patient/x", json=patient(id="x", active=False))
    second = (await client.get("/Patient/x")).json()["meta"]["lastUpdated"]

    at = await client.get("/Patient", params={"_lastUpdated": second})
    until = await client.get("/Patient", params={"_lastUpdated": f"lt{first}"})
    since = await client.get("/Patient", params={"_lastUpdated": f"ge{second}"})

    assert [ids(at), ids(until), ids(since)] == [["x"], [], ["x"]]


async def test_what_a_transaction_wrote_is_found_and_what_it_deleted_is_not(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/old", json=patient(id="old"))

    await client.post(
        "/",
        json=transaction(
            {"request": {"method": "DELETE", "url": "Patient/old"}},
            {"resource": patient(id="new"), "request": {"method": "PUT", "url": "Patient/new"}},
        ),
    )

    assert ids(await client.get("/Patient?name=marsh")) == ["new"]
