"""Search parameters that are resources: https://hl7.org/fhir/R4/searchparameter.html.

They come and go while others write. What counts is that a search by one of them misses nothing.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.fhir.access import SYSTEM
from app.main import ROOT, build
from tests.access.door import Door, content
from tests.conftest import BASE_URL, disposable
from tests.rest import integrity
from tests.support.postgresql import PostgreSQL
from tests.support.process import command, environment, milepost, serving
from tests.support.replies import ids, issue, issues, link, places
from tests.support.resources import (
    Resource,
    coded,
    observation,
    patient,
    post,
    put,
    quantity,
    reference,
    resource,
    transaction,
)
from tests.support.tokens import AUTHORIZED

EYE = "https://example.org/eye"
OFFICIAL = "http://hl7.org/fhir/SearchParameter/"
EYES = f"Patient.extension.where(url = '{EYE}').value"


def search_parameter(**changes: Any) -> Resource:
    """Return a SearchParameter: `eye`, the colour of a Patient's eyes, a code in an extension."""
    defaults: Resource = {
        "url": "https://example.org/SearchParameter/eye",
        "name": "eye",
        "status": "active",
        "description": "The colour of the eyes",
        "code": "eye",
        "base": ["Patient"],
        "type": "token",
        "expression": EYES,
    }
    return resource("SearchParameter", defaults, changes)


def eyed(colour: str, **changes: Any) -> Resource:
    """Return a Patient with eyes of that colour."""
    return patient(extension=[{"url": EYE, "valueCode": colour}], **changes)


def progress(statement: Resource, type: str, code: str) -> str | None:
    """Return what a CapabilityStatement tells of a search parameter; None if it has none such."""
    (rest,) = statement["rest"]
    (found,) = [one for one in rest["resource"] if one["type"] == type]
    rows = [row for row in found["searchParam"] if row["name"] == code]
    return rows[0].get("documentation", "") if rows else None


async def built(client: httpx.AsyncClient, type: str = "Patient", code: str = "eye") -> None:
    """Return once all resources can be found by a search parameter."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if progress((await client.get("/metadata")).json(), type, code) == "":
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{type}.{code} was not built in time")


async def added(client: httpx.AsyncClient, **changes: Any) -> None:
    """Add a search parameter under the id `eye`, and wait until it is built."""
    body = search_parameter(id="eye", **changes)
    reply = await client.put("/SearchParameter/eye", json=body)
    assert reply.is_success, reply.text
    if body["status"] == "active":
        for type in body["base"]:
            await built(client, type, body["code"])


async def settled(database_url: str) -> None:
    """Return once no job is left."""
    until = time.monotonic() + 30
    while await integrity.number(database_url, "SELECT count(*) FROM job"):
        assert time.monotonic() < until, "a job was not done in time"
        await asyncio.sleep(0.05)


async def rows_of(database_url: str, code: str) -> int:
    """Return how many token rows there are of the parameters with a code."""
    statement = f"""SELECT count(*) FROM index_token WHERE param IN
                    (SELECT param FROM param_dictionary WHERE code = '{code}')"""
    return await integrity.number(database_url, statement)


async def test_what_is_written_after_a_search_parameter_is_found_by_it_at_once(
    client: httpx.AsyncClient,
) -> None:
    before = await client.get("/Patient?eye=blue")

    made = await client.post("/SearchParameter", json=search_parameter())
    await client.put("/Patient/a", json=eyed("blue", id="a"))
    after = await client.get("/Patient?eye=blue")

    assert before.status_code == 400
    assert made.status_code == 201
    assert ids(after) == ["a"]


async def test_what_was_there_before_a_search_parameter_is_found_once_it_is_built(
    client: httpx.AsyncClient, database_url: str
) -> None:
    entries = [put(eyed("blue" if n % 2 else "brown", id=f"p{n}")) for n in range(250)]
    await client.post("/", json=transaction(*entries))

    await added(client)
    reply = await client.get("/Patient?eye=blue&_count=1000")

    assert sorted(ids(reply)) == sorted(f"p{n}" for n in range(1, 250, 2))
    assert await integrity.broken(database_url) == {}


async def test_a_search_parameter_that_is_being_built_is_shown_with_its_progress(
    settings: Settings,
) -> None:
    async with build(settings, maintaining=True) as server:  # which does no job
        door = Door(server, SYSTEM)
        await door.put(eyed("blue", id="a"))
        await door.put(search_parameter(id="eye"))
        shown = content(await door.get("metadata"))

    text = progress(shown, "Patient", "eye")
    assert text == "Its index is being built: 0 % is done"
    assert progress(shown, "Patient", "name") == ""


async def test_a_search_by_a_parameter_that_is_being_built_is_refused(settings: Settings) -> None:
    async with build(settings, maintaining=True) as server:  # which does no job
        door = Door(server, SYSTEM)
        await door.put(eyed("blue", id="a"))
        await door.put(search_parameter(id="eye"))
        reply = await door.get("Patient?eye=blue")

    assert reply.status == 503
    assert "being built" in content(reply)["issue"][0]["diagnostics"]


@pytest.mark.parametrize("how", ["retired", "deleted"])
async def test_a_search_parameter_that_is_taken_away_is_unknown_and_leaves_no_row(
    client: httpx.AsyncClient, database_url: str, how: str
) -> None:
    await client.put("/Patient/a", json=eyed("blue", id="a"))
    await added(client)
    there = await rows_of(database_url, "eye")

    if how == "retired":
        await added(client, status="retired")
    else:
        await client.delete("/SearchParameter/eye")
    reply = await client.get("/Patient?eye=blue")
    await settled(database_url)

    assert there == 1
    assert reply.status_code == 400
    assert "no search parameter 'eye'" in issue(reply)[1]
    assert await rows_of(database_url, "eye") == 0


async def test_a_search_parameter_with_another_expression_finds_by_that_one(
    client: httpx.AsyncClient,
) -> None:
    hair = {"url": "https://example.org/hair", "valueCode": "red"}
    body = eyed("blue", id="a")
    await client.put("/Patient/a", json={**body, "extension": [*body["extension"], hair]})
    await added(client)

    await added(client, expression=EYES.replace(EYE, hair["url"]))
    old, new = await client.get("/Patient?eye=blue"), await client.get("/Patient?eye=red")

    assert (ids(old), ids(new)) == ([], ["a"])


async def test_one_that_comes_back_finds_what_was_written_meanwhile(
    client: httpx.AsyncClient, database_url: str
) -> None:
    await added(client)
    await client.delete("/SearchParameter/eye")
    await client.put("/Patient/a", json=eyed("blue", id="a"))

    await added(client)
    reply = await client.get("/Patient?eye=blue")

    assert ids(reply) == ["a"]


# A parameter of each type: its definition, and a search that finds the Observation `one` by it
OF_EACH_TYPE: dict[str, tuple[Resource, str]] = {
    "number": (
        {"expression": "Observation.component.value.as(integer)", "type": "number"},
        "x=ge7",
    ),
    "date": ({"expression": "Observation.effective.as(Period)", "type": "date"}, "x=2026-03-02"),
    "string": ({"expression": "Observation.note.text", "type": "string"}, "x=calm"),
    "token": ({"expression": "Observation.bodySite", "type": "token"}, "x=38266002"),
    "reference": (
        {"expression": "Observation.basedOn", "type": "reference", "target": ["CarePlan"]},
        "x=CarePlan/plan",
    ),
    "quantity": (
        {"expression": "Observation.referenceRange.high", "type": "quantity"},
        "x=lt11||mg",
    ),
    "uri": ({"expression": "Observation.implicitRules", "type": "uri"}, "x=urn:rules"),
    "composite": (
        {
            "expression": "Observation.component",
            "type": "composite",
            "component": [
                {"definition": OFFICIAL + "clinical-code", "expression": "code"},
                {
                    "definition": OFFICIAL + "Observation-value-quantity",
                    "expression": "value.as(Quantity)",
                },
            ],
        },
        "x=8480-6$gt100",
    ),
}


@pytest.mark.parametrize("type", OF_EACH_TYPE)
async def test_a_search_parameter_may_have_any_type(client: httpx.AsyncClient, type: str) -> None:
    definition, query = OF_EACH_TYPE[type]
    one = observation(
        id="one",
        implicitRules="urn:rules",
        effectiveDateTime=None,
        effectivePeriod={"start": "2026-03-02T09:00:00Z", "end": "2026-03-02T10:00:00Z"},
        bodySite=coded("38266002", "http://snomed.info/sct"),
        basedOn=[reference("CarePlan/plan")],
        note=[{"text": "Calm and awake"}],
        referenceRange=[{"high": quantity(10, "mg")}],
        component=[
            {"code": coded("8480-6"), "valueQuantity": quantity(120, "mm[Hg]")},
            {"code": coded("8462-4"), "valueInteger": 7},
        ],
    )
    await client.put("/Observation/one", json=one)
    await client.put("/Observation/two", json=observation(id="two"))

    await added(client, code="x", base=["Observation"], **definition)
    reply = await client.get(f"/Observation?{query}")

    assert ids(reply) == ["one"]


async def test_a_search_parameter_of_several_types_finds_in_each_of_them(
    client: httpx.AsyncClient,
) -> None:
    link = {"extension": [{"url": EYE, "valueCode": "blue"}]}
    await client.put("/Patient/a", json=eyed("blue", id="a"))
    await client.put("/Observation/b", json=observation(id="b", **link))

    await added(
        client,
        base=["Patient", "Observation"],
        expression=f"{EYES} | {EYES}".replace("| Patient", "| Observation"),
    )
    found = [ids(await client.get(f"/{type}?eye=blue")) for type in ("Patient", "Observation")]

    assert found == [["a"], ["b"]]


async def test_a_search_parameter_of_all_resources_finds_in_every_type(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a", language="de"))

    reply = await client.put(
        "/SearchParameter/eye",
        json=search_parameter(id="eye", base=["Resource"], expression="Resource.language"),
    )
    await built(client)
    await client.put("/Observation/b", json=observation(id="b", language="de"))
    found = [ids(await client.get(f"/{type}?eye=de")) for type in ("Patient", "Observation")]

    assert reply.status_code == 201
    assert found == [["a"], ["b"]]


async def test_missing_works_for_more_parameters_than_a_resource_has_bits(
    client: httpx.AsyncClient,
) -> None:
    codes = [f"eye{n}" for n in range(14)]  # R4 has 53 for an Observation, and a row 63 bits
    await client.put("/Observation/a", json=observation(id="a", language="de"))
    await client.put("/Observation/b", json=observation(id="b"))
    parameters = [
        search_parameter(code=code, base=["Observation"], expression="Observation.language")
        for code in codes
    ]

    reply = await client.post("/", json=transaction(*map(post, parameters)))
    for code in codes:
        await built(client, "Observation", code)
    replies = [await client.get(f"/Observation?{code}:missing=true") for code in codes]

    assert reply.status_code == 200
    assert [ids(reply) for reply in replies] == [["b"]] * len(codes)


# --- what is refused, and what is stored without effect ------------------------------------------

REFUSED: dict[str, tuple[Resource, str, str]] = {
    "a function that no search expression may have": (
        {"expression": "Patient.name.given.lower()"},
        "expression",
        "lower()",
    ),
    "what is no FHIRPath": ({"expression": "Patient.name.("}, "expression", "character 14"),
    "no expression": ({"expression": None}, "expression", "needs an expression"),
    "an element that is not there": (
        {"expression": "Patient.eye"},
        "expression",
        "finds nothing in Patient",
    ),
    "an element of another type": (
        {"expression": "Observation.code"},
        "expression",
        "finds nothing in Patient",
    ),
    "a value that its type cannot be made of": (
        {"expression": "Patient.birthDate", "type": "quantity"},
        "expression",
        "finds nothing in Patient that a quantity",
    ),
    "a special one": ({"type": "special"}, "type", "special"),
    "a code that R4 has": ({"code": "name"}, "code", "Patient has the search parameter name"),
    "a code that a chain would cut": ({"code": "eye.colour"}, "code", "code must be"),
    "a code of the specification's own": ({"code": "_eye"}, "code", "code must be"),
    "a composite without components": ({"type": "composite"}, "type", "components"),
    "a component that is not known": (
        {
            "type": "composite",
            "component": [{"definition": "https://example.org/p", "expression": "code"}],
        },
        "component",
        "https://example.org/p",
    ),
    "an expression that goes on and on": (
        {"expression": " | ".join(["Patient.language"] * 300)},
        "expression",
        "longer than",
    ),
    "an expression that is too deep": (
        {"base": ["Questionnaire"], "expression": "Questionnaire" + ".item" * 30 + ".linkId"},
        "expression",
        "deep",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_an_active_search_parameter_that_nobody_could_search_with_is_refused(
    client: httpx.AsyncClient, why: str
) -> None:
    changes, element, text = REFUSED[why]

    reply = await client.put("/SearchParameter/eye", json=search_parameter(id="eye", **changes))

    assert reply.status_code == 422
    assert f"SearchParameter.{element}" in places(reply)
    assert any(text in told for _, told in issues(reply)), reply.text
    assert (await client.get("/SearchParameter/eye")).status_code == 404


async def test_one_in_a_bundle_is_refused_with_its_entry(client: httpx.AsyncClient) -> None:
    body = search_parameter(code="name")

    reply = await client.post("/", json=transaction(post(patient()), post(body)))

    assert reply.status_code == 422
    assert places(reply) == ["Bundle.entry[1].resource.code"]


@pytest.mark.parametrize("status", ["draft", "retired", "unknown"])
async def test_one_that_is_not_active_is_stored_whatever_it_says(
    client: httpx.AsyncClient, status: str
) -> None:
    body = search_parameter(id="eye", status=status, expression="Patient.name.given.lower()")

    reply = await client.put("/SearchParameter/eye", json=body)

    assert reply.status_code == 201
    assert (await client.get("/Patient?eye=blue")).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"url": OFFICIAL + "Patient-birthdate"},
        {"derivedFrom": OFFICIAL + "individual-birthdate"},
    ],
)
async def test_one_that_r4_has_already_is_stored_and_changes_nothing(
    client: httpx.AsyncClient, changes: Resource
) -> None:
    changes = {"url": OFFICIAL + "individual-birthdate"} if "url" in changes else changes
    await client.put("/Patient/a", json=patient(id="a", birthDate="1990-05-17"))

    reply = await client.put(
        "/SearchParameter/eye",
        json=search_parameter(id="eye", code="birthdate", type="date", **changes),
    )

    assert reply.status_code == 201
    assert ids(await client.get("/Patient?birthdate=1990-05-17")) == ["a"]


async def test_a_code_belongs_to_one_search_parameter(client: httpx.AsyncClient) -> None:
    await added(client)

    other = await client.post("/SearchParameter", json=search_parameter())
    elsewhere = await client.post(
        "/SearchParameter",
        json=search_parameter(base=["Person"], expression=EYES.replace("Patient", "Person")),
    )

    assert other.status_code == 422
    assert "SearchParameter/eye" in issue(other)[1]
    assert elsewhere.status_code == 201


async def test_of_two_with_one_code_in_a_transaction_none_is_stored(
    client: httpx.AsyncClient,
) -> None:
    body = search_parameter()

    reply = await client.post("/", json=transaction(post(body), post(body)))

    assert reply.status_code == 422
    assert ids(await client.get("/SearchParameter")) == []


# --- beside others -------------------------------------------------------------------------------


async def write_until(done: asyncio.Event, client: httpx.AsyncClient, name: str) -> list[str]:
    """Write Patients with blue eyes, new ones and changed ones, until `done`; return their ids."""
    written: list[str] = []
    while not done.is_set():
        id = f"{name}-{len(written)}"
        for colour in ("brown", "blue"):
            reply = await client.put(f"/Patient/{id}", json=eyed(colour, id=id))
            assert reply.is_success, reply.text
        written.append(id)
    return written


async def found(client: httpx.AsyncClient) -> list[str]:
    """Return the ids of all Patients with blue eyes, in order."""
    reply = await client.get("/Patient?eye=blue&_count=1000")
    found = ids(reply)
    while following := link(reply, "next"):
        reply = await client.get(following)
        found += ids(reply)
    assert reply.status_code == 200, reply.text
    return sorted(found)


async def test_whatever_is_written_while_a_search_parameter_comes_is_found(
    client: httpx.AsyncClient, database_url: str
) -> None:
    before = [put(eyed("blue", id=f"old-{n}")) for n in range(150)]
    await client.post("/", json=transaction(*before))
    done = asyncio.Event()
    writers = [asyncio.create_task(write_until(done, client, f"w{n}")) for n in range(6)]

    await asyncio.sleep(0.2)
    await added(client)
    await asyncio.sleep(0.2)
    done.set()
    written = [id for ids in await asyncio.gather(*writers) for id in ids]

    assert len(written) > 20
    assert await found(client) == sorted([*written, *(f"old-{n}" for n in range(150))])
    assert await integrity.broken(database_url) == {}


@pytest.fixture
def two_servers(
    postgresql_server: PostgreSQL, postgresql_template: str, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """The FHIR bases of two server processes on one PostgreSQL database."""
    for url in disposable(postgresql_server, postgresql_template):
        with (
            serving(url, tmp_path / "one.log") as one,
            serving(url, tmp_path / "other.log") as other,
        ):
            yield one.base_url, other.base_url


@pytest.fixture
async def two_clients(
    two_servers: tuple[str, str],
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of two server processes on one PostgreSQL database."""
    one, other = two_servers
    headers = {"Content-Type": "application/fhir+json", **AUTHORIZED}
    options: dict[str, Any] = {"headers": headers, "timeout": 20}
    async with (
        httpx.AsyncClient(base_url=one, **options) as first,
        httpx.AsyncClient(base_url=other, **options) as second,
    ):
        yield first, second


async def test_no_server_process_writes_by_older_definitions(
    two_clients: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    one, other = two_clients
    done = asyncio.Event()
    writers = [
        asyncio.create_task(write_until(done, client, f"{name}{n}"))
        for client, name in ((one, "one"), (other, "other"))
        for n in range(3)
    ]

    await asyncio.sleep(0.3)
    reply = await one.put("/SearchParameter/eye", json=search_parameter(id="eye"))
    known = await other.get("/Patient?eye:missing=true&_count=1")
    await built(one)
    await asyncio.sleep(0.2)
    done.set()
    written = sorted(id for ids in await asyncio.gather(*writers) for id in ids)
    await built(other)

    assert reply.status_code == 201
    assert "no search parameter" not in known.text
    assert len(written) > 20
    assert (await found(one), await found(other)) == (written, written)


async def test_a_search_parameter_that_is_taken_away_is_soon_unknown_to_all_processes(
    two_clients: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    one, other = two_clients
    await added(one)
    await built(other)

    await one.delete("/SearchParameter/eye")

    async def known() -> bool:
        return (await other.get("/Patient?eye=blue")).status_code != 400

    until = time.monotonic() + 30
    while await known():
        assert time.monotonic() < until, "it is known still"
        await asyncio.sleep(0.05)


def blue_eyed(name: str, count: int) -> str:
    """Return NDJSON of Patients with blue eyes, who are called by a name and a number."""
    return "\n".join(json.dumps(eyed("blue", id=f"{name}-{n}")) for n in range(count))


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Return once something is true; it is an error if that takes too long."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def number(database_url: str, statement: str) -> int:
    """Return the only value that a statement yields."""
    return asyncio.run(integrity.number(database_url, statement))


def found_once_built(base_url: str) -> list[str]:
    """Return the ids of all Patients with blue eyes that a server process finds."""

    async def find() -> list[str]:
        async with httpx.AsyncClient(base_url=base_url, headers=AUTHORIZED, timeout=20) as client:
            await built(client)
            return await found(client)

    return asyncio.run(find())


def test_a_load_beside_the_server_writes_by_the_definitions_in_force(
    database_url: str, tmp_path: Path
) -> None:
    first, pipe, log = (tmp_path / name for name in ("first.ndjson", "pipe.ndjson", "load.log"))
    first.write_text(blue_eyed("first", 300))
    os.mkfifo(pipe)
    settings = environment(database_url, base_url=BASE_URL)
    written = "SELECT count(*) FROM resource_version"
    with (
        log.open("wb") as output,
        serving(database_url, tmp_path / "server.log") as server,
        subprocess.Popen(
            command("load", first, pipe), cwd=ROOT, env=settings, stdout=output, stderr=output
        ) as load,
    ):
        wait_until(lambda: load.poll() is not None or number(database_url, written) >= 1)
        url = f"{server.base_url}/SearchParameter/eye"
        reply = httpx.put(url, json=search_parameter(id="eye"), headers=AUTHORIZED, timeout=20)
        # The load cannot end before this, nor have read anything of it before the definition came
        feed = Thread(target=pipe.write_text, args=[blue_eyed("later", 300)], daemon=True)
        feed.start()
        load.wait(60)
        all_of_them = found_once_built(server.base_url)

    assert (load.returncode, reply.status_code) == (0, 201), log.read_text()
    assert all_of_them == sorted(f"{name}-{n}" for name in ("first", "later") for n in range(300))


def test_a_server_that_is_killed_while_it_builds_goes_on_when_it_is_started_again(
    database_url: str, tmp_path: Path
) -> None:
    count = 3000
    file = tmp_path / "patients.ndjson"
    file.write_text(blue_eyed("p", count))
    loaded = milepost("load", file, database_url=database_url)
    done = "SELECT coalesce(max(done), 0) FROM job"
    with serving(database_url, tmp_path / "first.log") as server:
        url = f"{server.base_url}/SearchParameter/eye"
        reply = httpx.put(url, json=search_parameter(id="eye"), headers=AUTHORIZED)
        wait_until(lambda: number(database_url, done) > 0)
        server.kill()
    half = number(database_url, done)

    with serving(database_url, tmp_path / "second.log") as server:
        all_of_them = found_once_built(server.base_url)

    assert (loaded.returncode, reply.status_code) == (0, 201)
    assert 0 < half < count
    assert len(all_of_them) == count
    assert asyncio.run(integrity.broken(database_url)) == {}
