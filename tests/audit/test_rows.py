"""Each interaction, allowed or refused, leaves the one row that says so, before it is answered."""

import httpx
import pytest

from app.config import Settings
from tests.audit.office import ADA, BOB, GROUP, by, trail
from tests.support.resources import (
    Resource,
    batch,
    delete,
    get,
    observation,
    patient,
    post,
    put,
    reference,
    transaction,
)

URN = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"
FOR_ADA = observation(id="new", subject=reference(ADA))


async def test_a_row_says_who_asked_for_what_and_how_it_ended(
    clinic: httpx.AsyncClient, settings: Settings, before: int
) -> None:
    headers = {**by("nurse"), "X-Request-Id": "of-the-test"}

    reply = await clinic.get("/Observation/hers", headers=headers)

    (row,) = await trail(settings.database_url, before)
    assert reply.status_code == 200
    assert (row.agent, row.code, row.action, row.outcome) == ("nurse", "read", "R", 0)
    assert row.patients == ("ada",)
    assert row.seen == ["Observation/hers/1"]
    told = {name: row.detail[name] for name in ("client", "kind", "roles", "status", "id")}
    assert told == {
        "client": "app",
        "kind": "workforce",
        "roles": ["of-tests"],
        "status": 200,
        "id": "hers",
    }
    assert row.detail["request"] == reply.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("url", "code", "seen", "patients"),
    [
        ("/Patient/ada", "read", ["Patient/ada/1"], ("ada",)),
        ("/Practitioner/ines", "read", ["Practitioner/ines/1"], ()),
        ("/Observation/hers/_history/1", "vread", ["Observation/hers/1"], ("ada",)),
        ("/Observation/hers/_history", "history-instance", ["Observation/hers/1"], ("ada",)),
        (
            "/Observation/_history",
            "history-type",
            ["Observation/hers/1", "Observation/his/1"],
            ("ada", "bob"),
        ),
        (
            "/Observation",
            "search-type",
            ["Observation/hers/1", "Observation/his/1"],
            ("ada", "bob"),
        ),
        (
            "/Observation?subject=Patient/ada&_include=Observation:subject",
            "search-type",
            ["Observation/hers/1", "Patient/ada/1"],
            ("ada",),
        ),
        ("/Patient/bob/Observation", "search-compartment", ["Observation/his/1"], ("bob",)),
        ("/?_type=Observation&_id=his", "search-system", ["Observation/his/1"], ("bob",)),
        ("/Observation?_id=nothing", "search-type", [], ()),
        ("/Group/roster", "read", ["Group/roster/1"], ("ada", "bob")),
        ("/Group/roster/_history", "history-instance", ["Group/roster/1"], ("ada", "bob")),
        ("/Group", "search-type", ["Group/roster/1"], ("ada", "bob")),
        ("/Patient/ada/Group", "search-compartment", ["Group/roster/1"], ("ada", "bob")),
    ],
)
async def test_what_is_read_is_noted_with_all_of_whom_it_is_about(
    clinic: httpx.AsyncClient,
    settings: Settings,
    before: int,
    url: str,
    code: str,
    seen: list[str],
    patients: tuple[str, ...],
) -> None:
    reply = await clinic.get(url)

    (row,) = await trail(settings.database_url, before)
    assert reply.status_code == 200
    assert (row.code, row.outcome, row.seen, row.patients) == (code, 0, seen, patients)


@pytest.mark.parametrize(
    ("method", "url", "body", "code", "seen", "patients"),
    [
        ("PUT", "/Observation/new", FOR_ADA, "update", ["Observation/new/1/C"], ("ada",)),
        (
            "PUT",
            "/Observation/hers",
            observation(id="hers", subject=reference(ADA), status="amended"),
            "update",
            ["Observation/hers/2/U"],
            ("ada",),
        ),
        (
            "PUT",
            "/Observation/hers",
            observation(id="hers", subject=reference(BOB)),
            "update",
            ["Observation/hers/1/U", "Observation/hers/2/U"],
            ("ada", "bob"),
        ),
        ("DELETE", "/Observation/hers", None, "delete", ["Observation/hers/2/D"], ("ada",)),
        ("DELETE", "/Observation/nothing", None, "delete", [], ()),
        ("DELETE", "/Group/roster", None, "delete", ["Group/roster/2/D"], ("ada", "bob")),
        (
            "PUT",
            "/Group/roster",
            {**GROUP, "member": GROUP["member"][:1]},
            "update",
            ["Group/roster/1/U", "Group/roster/2/U"],
            ("ada", "bob"),
        ),
        (
            "DELETE",
            "/Observation?_id=his",
            None,
            "delete",
            ["Observation/his/1", "Observation/his/2/D"],
            ("bob",),
        ),
    ],
)
async def test_what_is_written_is_noted_with_all_of_whom_it_is_and_was_about(
    clinic: httpx.AsyncClient,
    settings: Settings,
    before: int,
    method: str,
    url: str,
    body: Resource | None,
    code: str,
    seen: list[str],
    patients: tuple[str, ...],
) -> None:
    reply = await clinic.request(method, url, json=body)

    (row,) = await trail(settings.database_url, before)
    assert reply.status_code < 300
    assert (row.code, row.outcome, row.detail["status"]) == (code, 0, reply.status_code)
    assert (row.seen, row.patients) == (seen, patients)


async def test_a_create_is_noted_under_the_id_that_it_gave(
    clinic: httpx.AsyncClient, settings: Settings, before: int
) -> None:
    reply = await clinic.post("/Observation", json=observation(subject=reference(ADA)))

    (row,) = await trail(settings.database_url, before)
    assert (row.code, row.action, row.patients) == ("create", "C", ("ada",))
    assert row.seen == [f"Observation/{reply.json()['id']}/1/C"]


async def test_a_patch_is_noted(clinic: httpx.AsyncClient, settings: Settings, before: int) -> None:
    patch = [{"op": "replace", "path": "/status", "value": "amended"}]
    headers = {"Content-Type": "application/json-patch+json"}

    await clinic.patch("/Observation/hers", json=patch, headers=headers)

    (row,) = await trail(settings.database_url, before)
    assert (row.code, row.action, row.patients) == ("patch", "U", ("ada",))
    assert "Observation/hers/2/U" in row.seen


async def test_a_transaction_is_one_row_with_all_that_it_did(
    clinic: httpx.AsyncClient, settings: Settings, before: int
) -> None:
    entries = [
        post(patient(), URN),
        post(observation(subject=reference(URN))),
        put(FOR_ADA),
        delete("Observation/his"),
        get("Observation/hers"),
    ]

    reply = await clinic.post("/", json=transaction(*entries))

    (row,) = await trail(settings.database_url, before)
    assert reply.status_code == 200
    assert (row.code, row.action, row.outcome, len(row.patients)) == ("transaction", "E", 0, 3)
    assert {"Observation/new/1/C", "Observation/his/2/D", "Observation/hers/1"} <= {*row.seen}
    assert len(row.seen) == 5


async def test_a_batch_is_a_row_for_each_entry(
    clinic: httpx.AsyncClient, settings: Settings, before: int
) -> None:
    entries = [put(FOR_ADA), get("Observation/his"), get("Observation/nothing"), get("Nothing/1")]

    await clinic.post("/", json=batch(*entries))

    rows = await trail(settings.database_url, before)
    assert [(row.code, row.outcome, row.patients) for row in rows] == [
        ("update", 0, ("ada",)),
        ("read", 0, ("bob",)),
        ("read", 4, ()),
        ("", 4, ()),
    ]


async def test_an_operation_is_noted_with_what_it_showed(
    clinic: httpx.AsyncClient, settings: Settings, before: int
) -> None:
    await clinic.get("/Patient/ada/$everything")

    (row,) = await trail(settings.database_url, before)
    assert (row.code, row.detail["operation"], row.outcome) == ("operation", "everything", 0)
    assert {"Patient/ada/1", "Observation/hers/1"} <= {*row.seen}


@pytest.mark.parametrize(
    ("name", "method", "url", "status", "code"),
    [
        ("nurse", "GET", "/Observation/nothing", 404, "read"),
        ("nurse", "GET", "/Observation?nothing=1", 400, "search-type"),
        ("nurse", "PUT", "/Observation/hers", 400, "update"),
        ("ada", "GET", "/Observation/his", 404, "read"),
        ("ada", "DELETE", "/Observation/hers", 403, "delete"),
        ("nurse", "GET", "/Nothing/1", 404, ""),
        ("nurse", "DELETE", "/Patient/ada/_history", 405, ""),
        ("nobody", "GET", "/Patient/ada", 401, ""),
    ],
)
async def test_a_refusal_leaves_a_row_that_shows_nothing(
    clinic: httpx.AsyncClient,
    settings: Settings,
    before: int,
    name: str,
    method: str,
    url: str,
    status: int,
    code: str,
) -> None:
    reply = await clinic.request(method, url, headers=by(name), json={"resourceType": "Patient"})

    (row,) = await trail(settings.database_url, before)
    assert reply.status_code == status
    assert (row.outcome, row.detail["status"], row.patients, row.seen) == (4, status, (), [])
    assert row.code in (code, "unknown", "read")
    assert row.agent == (name if name != "nobody" else "")


async def test_a_refused_transaction_leaves_the_row_of_its_refusal_alone(
    clinic: httpx.AsyncClient, settings: Settings, before: int
) -> None:
    entries = [
        put(FOR_ADA),
        {
            **put(patient(id="ada")),
            "request": {"method": "PUT", "url": "Patient/ada", "ifMatch": 'W/"7"'},
        },
    ]

    reply = await clinic.post("/", json=transaction(*entries))

    (row,) = await trail(settings.database_url, before)
    assert reply.status_code == 412
    assert (row.code, row.outcome, row.patients, row.seen) == ("transaction", 4, (), [])
    assert (await clinic.get("/Observation/new")).status_code == 404


@pytest.mark.parametrize("url", ["/metadata", "/.well-known/smart-configuration"])
async def test_what_anybody_may_ask_leaves_no_row(
    clinic: httpx.AsyncClient, settings: Settings, before: int, url: str
) -> None:
    await clinic.get(url)
    await clinic.options("/Patient")

    assert await trail(settings.database_url, before) == []


async def test_a_deferred_request_is_noted_when_it_runs_and_when_it_is_fetched(
    clinic: httpx.AsyncClient, settings: Settings, before: int
) -> None:
    reply = await clinic.get("/Observation", headers={"Prefer": "respond-async"})
    address = reply.headers["Content-Location"]
    while (await clinic.get(address)).status_code == 202:
        pass

    first, *polls = await trail(settings.database_url, before)
    rows = [first, *polls]
    assert [row.patients for row in rows if row.code == "search-type"] == [("ada", "bob")]
    assert any("_async" in row.detail.get("url", "") for row in rows)
