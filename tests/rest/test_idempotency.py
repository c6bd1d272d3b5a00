"""Idempotency-Key: a call that comes twice is made once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app import db
from app.config import Settings
from app.fhir.access import Caller, Policy
from app.fhir.interaction import Interaction
from app.fhir.query import All, Nothing
from app.fhir.rest import handle
from app.fhir.rules import Rules
from app.fhir.store.idempotency import KEPT
from tests.support.calls import Office, office
from tests.support.replies import issue
from tests.support.resources import patient

Json = dict[str, Any]
SYSTEM = "https://example.org/rules"
KEY = "0a1b-2c3d"
ASKED = Interaction(
    "operation", "Patient", "ada", operation="observe", method="POST", idempotency_key=KEY
)


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Office]:
    """A server with $observe and $note, and two patients."""
    async with office(settings) as found:
        found.change(rules=Rules((), SYSTEM))
        for id in ("ada", "bob"):
            await found.client.put(f"/Patient/{id}", json=patient(id=id))
        yield found


def count(number: int) -> Json:
    """Return how many Observations are to be made."""
    return {"name": "count", "valuePositiveInt": number}


async def test_a_call_that_comes_again_is_answered_again_and_made_once(desk: Office) -> None:
    first = await desk.observe(count(2), Idempotency_Key=KEY)
    second = await desk.observe(count(2), Idempotency_Key=KEY)

    assert (second.status_code, second.json()) == (200, first.json())
    assert (desk.calls.performed, desk.calls.told) == (1, 2)
    assert await desk.observations() == 2


async def test_white_space_and_order_make_no_other_request(desk: Office) -> None:
    await desk.observe(count(2), Idempotency_Key=KEY)

    reply = await desk.client.post(
        "/Patient/ada/$observe",
        content='{ "parameter": [{"valuePositiveInt":2 , "name":"count"}],'
        ' "resourceType": "Parameters" }',
        headers={"Idempotency-Key": KEY},
    )

    assert (reply.status_code, await desk.observations()) == (200, 2)


async def test_the_same_request_in_xml_is_no_other_request(desk: Office) -> None:
    await desk.observe(count(2), Idempotency_Key=KEY)

    reply = await desk.client.post(
        "/Patient/ada/$observe",
        content='<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="count"/>'
        '<valuePositiveInt value="2"/></parameter></Parameters>',
        headers={"Idempotency-Key": KEY, "Content-Type": "application/fhir+xml"},
    )

    assert (reply.status_code, await desk.observations()) == (200, 2)


async def test_a_key_with_another_body_is_a_422_with_its_code(desk: Office) -> None:
    await desk.observe(count(2), Idempotency_Key=KEY)

    reply = await desk.observe(count(3), Idempotency_Key=KEY)

    coding = {"system": SYSTEM, "code": "idempotency-mismatch"}
    assert reply.status_code == 422
    assert reply.json()["issue"][0]["details"]["coding"] == [coding]
    assert await desk.observations() == 2


async def test_a_key_with_another_query_is_a_422(desk: Office) -> None:
    headers = {"Idempotency-Key": KEY}
    await desk.client.post("/Patient/ada/$observe?count=2", headers=headers)

    reply = await desk.client.post("/Patient/ada/$observe?count=3", headers=headers)

    assert (reply.status_code, await desk.observations()) == (422, 2)


async def test_the_same_key_at_another_url_is_another_call(desk: Office) -> None:
    await desk.observe(Idempotency_Key=KEY)

    reply = await desk.observe(id="bob", Idempotency_Key=KEY)

    assert (reply.status_code, await desk.observations()) == (200, 2)


async def test_the_same_key_of_somebody_else_is_another_call(desk: Office) -> None:
    people = {
        "one": Caller("", Policy(), subject="a", client="app"),
        "another subject": Caller("", Policy(), subject="b", client="app"),
        "another client": Caller("", Policy(), subject="a", client="other"),
    }

    for caller in people.values():
        await handle(desk.server, caller, ASKED)

    assert await desk.observations() == len(people)


async def test_the_same_key_under_another_token_is_the_same_call(desk: Office) -> None:
    """It is answered under the policy of who asks now."""
    unseen = Policy({("Observation", "search"): Nothing()}, rights={"update": All()})
    await handle(desk.server, Caller("broad", Policy(), subject="a"), ASKED)

    reply = await handle(desk.server, Caller("narrow", unseen, subject="a"), ASKED)

    assert (reply.status, desk.calls.performed) == (200, 1)
    assert b"Observation/" not in reply.body


async def test_without_a_key_every_call_is_made(desk: Office) -> None:
    await desk.observe()
    await desk.observe()

    assert await desk.observations() == 2


async def test_a_refused_call_gives_its_key_back(desk: Office) -> None:
    bad = {"name": "status", "valueCode": "nonsense"}
    refused = await desk.observe(bad, Idempotency_Key=KEY)

    reply = await desk.observe(Idempotency_Key=KEY)

    assert (refused.status_code, reply.status_code, await desk.observations()) == (422, 200, 1)


async def test_a_dry_run_does_not_use_up_its_key(desk: Office) -> None:
    dry = {"name": "dry-run", "valueBoolean": True}
    await desk.observe(dry, Idempotency_Key=KEY)

    reply = await desk.observe(Idempotency_Key=KEY)

    assert (reply.status_code, await desk.observations()) == (200, 1)


async def test_what_was_made_is_shown_as_it_is_now(desk: Office) -> None:
    """What is kept are references: what was deleted meanwhile is not told again."""
    first = await desk.observe(count(2), Idempotency_Key=KEY)
    gone = first.json()["parameter"][0]["valueReference"]["reference"]
    await desk.client.delete(f"/{gone}")

    second = await desk.observe(count(2), Idempotency_Key=KEY)

    assert second.json()["parameter"] == first.json()["parameter"][1:]


async def test_if_match_is_about_the_first_call(desk: Office) -> None:
    """The version has moved on since, by this very call perhaps: the answer is the same."""
    headers = {"Idempotency_Key": KEY, "If_Match": 'W/"1"'}
    await desk.observe(**headers)
    await desk.client.put("/Patient/ada", json=patient(id="ada", gender="other"))

    reply = await desk.observe(**headers)

    assert (reply.status_code, await desk.observations()) == (200, 1)


async def test_two_at_once_in_one_process_are_one_call_and_a_409(desk: Office) -> None:
    first, second = await asyncio.gather(
        desk.observe(Idempotency_Key=KEY), desk.observe(Idempotency_Key=KEY)
    )

    assert sorted([first.status_code, second.status_code]) == [200, 409]
    busy = first if first.status_code == 409 else second
    assert busy.headers["Retry-After"] == "1"
    assert issue(busy)[0] == "conflict"
    assert await desk.observations() == 1
    assert (await desk.observe(Idempotency_Key=KEY)).status_code == 200
    assert await desk.observations() == 1


async def test_two_at_once_in_two_processes_are_one_call(desk: Office, settings: Settings) -> None:
    async with office(settings) as other:
        replies = await asyncio.gather(
            *(one.observe(Idempotency_Key=KEY) for one in (desk, other) * 3)
        )

    assert {reply.status_code for reply in replies} <= {200, 409}
    assert await desk.observations() == 1


async def test_a_name_that_another_transaction_holds_is_a_409(desk: Office) -> None:
    """PostgreSQL tells at once; on SQLite there is but one writer."""
    if desk.server.database.dialect == "sqlite":
        pytest.skip("one writer")
    held, done = asyncio.Event(), asyncio.Event()

    async def hold(connection: db.Connection) -> None:
        assert await connection.claim("x")
        held.set()
        await done.wait()

    async def ask(connection: db.Connection) -> tuple[bool, bool]:
        return await connection.claim("x"), await connection.claim("y")

    holding = asyncio.create_task(desk.server.database.write(hold))
    await held.wait()
    meanwhile = await desk.server.database.write(ask)
    done.set()
    await holding

    assert meanwhile == (False, True)
    assert await desk.server.database.write(ask) == (True, True)


@pytest.mark.parametrize("key", ["a" * 129, "two words", "\x7f", "\xe9"])
async def test_what_is_no_key_is_a_400(desk: Office, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}

    reply = await desk.client.post("/Patient/ada/$observe", headers=headers)  # type: ignore[arg-type]

    assert (reply.status_code, await desk.observations()) == (400, 0)


async def test_the_longest_key_is_good(desk: Office) -> None:
    assert (await desk.observe(Idempotency_Key="~" * 128)).status_code == 200


async def test_two_keys_contradict_each_other(desk: Office) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    reply = await desk.client.post("/Patient/ada/$observe", headers=headers)

    assert (reply.status_code, await desk.observations()) == (400, 0)


async def test_an_operation_that_tells_nothing_is_made_again(desk: Office) -> None:
    headers = {"Idempotency-Key": KEY}
    first = await desk.client.post("/Patient/ada/$note", headers=headers)
    second = await desk.client.post("/Patient/ada/$note", headers=headers)
    other = await desk.client.post("/Patient/ada/$note?count=2", headers=headers)

    assert [r.status_code for r in (first, second, other)] == [200, 200, 422]
    assert desk.calls.performed == 2


async def test_after_a_day_a_key_is_forgotten(desk: Office) -> None:
    await desk.observe(Idempotency_Key=KEY)
    now = desk.server.now
    desk.change(now=lambda: now() + KEPT + 1_000_000)

    reply = await desk.observe(count(2), Idempotency_Key=KEY)

    assert (reply.status_code, await desk.observations()) == (200, 3)


async def test_what_is_over_is_dropped_by_those_that_come_later(desk: Office) -> None:
    for n in range(12):
        await desk.observe(Idempotency_Key=f"old-{n}")
    now = desk.server.now
    desk.change(now=lambda: now() + KEPT + 1_000_000)

    async def rows(connection: db.Connection) -> int:
        return len(await connection.rows(db.Statement("SELECT name FROM idempotency", ()), {}))

    left = []
    for n in range(2):
        await desk.observe(Idempotency_Key=f"new-{n}")
        left.append(await desk.server.database.read(rows))

    assert left == [3, 2]


async def test_a_read_with_a_key_is_a_read(desk: Office) -> None:
    reply = await desk.client.get("/Patient/ada", headers={"Idempotency-Key": KEY})

    assert reply.status_code == 200
