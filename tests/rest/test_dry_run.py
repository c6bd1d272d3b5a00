"""What is checked and made in one call of an operation: parts, one Plan, a dry run, If-Match."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest

from app import db
from app.config import Settings
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule, Rules
from tests.support.calls import Office, office
from tests.support.replies import issue, issues
from tests.support.resources import patient

Json = dict[str, Any]
SYSTEM = "https://example.org/rules"
CODE = {"name": "code", "valueCoding": {"system": SYSTEM, "code": "x"}}
DRY: Json = {"name": "dry-run", "valueBoolean": True}


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Office]:
    """A server with $observe, and one patient."""
    async with office(settings) as found:
        await found.client.put("/Patient/ada", json=patient(id="ada"))
        yield found


def component(*parts: Json) -> Json:
    """Return a parameter with parts."""
    return {"name": "component", "part": list(parts)}


def count(number: int) -> Json:
    """Return how many Observations are to be made."""
    return {"name": "count", "valuePositiveInt": number}


def ruled(severity: Any) -> Rules:
    """Return a rule that finds something wrong with each preliminary Observation."""

    async def check(changes: Sequence[Change], reader: Reader) -> Iterable[Finding]:
        return [
            Finding(change, "Not yet", "status", severity)
            for change in changes
            if change.after and change.after["status"] == "preliminary"
        ]

    return Rules((Rule("INV-X", frozenset({"Observation"}), check=check),), SYSTEM)


# --- parts ---------------------------------------------------------------------------------------


async def test_parts_come_by_name_and_go_out_in_their_order(desk: Office) -> None:
    values = [{"name": "value", "valueInteger": n} for n in (3, 1)]

    reply = await desk.observe(component(CODE, *values), component(CODE))

    given = [row for row in reply.json()["parameter"] if row["name"] == "given"]
    assert given == [
        {"name": "given", "part": [{"name": "value", "valueInteger": n}]} for n in (3, 1)
    ]


BAD_PARTS = {
    "an unknown part": ([CODE, {"name": "nonsense", "valueCode": "x"}], ".part[1]", "nonsense"),
    "another type": ([CODE, {"name": "value", "valueString": "1"}], ".part[1]", "integer"),
    "no value": ([CODE, {"name": "value"}], ".part[1]", ""),
    "a bad value": ([CODE, {"name": "value", "valueInteger": "x"}], ".part[1].value", ""),
    "a bad period": ([CODE, {"name": "period", "valuePeriod": {"end": 1}}], ".part[1].value", ""),
    "too often": ([CODE, CODE], "", "1 time at most"),
    "one is missing": ([], "", "component needs the part code"),
    "parts in a part": ([CODE, {"name": "value", "part": []}], ".part[1]", "integer"),
    "no object": (["x"], ".part", "array of objects"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
async def test_a_bad_part_is_a_400_that_names_its_place(desk: Office, case: str) -> None:
    parts, place, text = BAD_PARTS[case]

    reply = await desk.observe(count(1), {"name": "component", "part": parts})

    assert reply.status_code == 400, reply.text
    (found, *_) = reply.json()["issue"]
    assert text in found["diagnostics"]
    assert found["expression"][0].startswith(f"Parameters.parameter[1]{place}")


async def test_a_value_in_place_of_parts_is_refused(desk: Office) -> None:
    reply = await desk.observe({"name": "component", "valueString": "x"})

    assert reply.status_code == 400
    assert issue(reply) == ("value", "component takes parts, and no value")


@pytest.mark.parametrize("query", ["component=x", "performer=Practitioner/1"])
async def test_what_is_not_primitive_does_not_fit_into_a_url(desk: Office, query: str) -> None:
    reply = await desk.client.post(f"/Patient/ada/$observe?{query}")

    assert reply.status_code == 400
    assert "POST a Parameters resource" in issue(reply)[1]


# --- one plan ------------------------------------------------------------------------------------


async def test_all_writes_of_a_plan_are_made_at_once(desk: Office) -> None:
    before = desk.server.database.load().done.statements

    reply = await desk.observe(count(40))

    statements = desk.server.database.load().done.statements - before
    assert len(reply.json()["parameter"]) == 40
    assert await desk.observations() == 40
    assert statements < 40, "one statement a table, not one a resource"


async def test_one_refused_write_of_a_plan_undoes_all(desk: Office) -> None:
    reply = await desk.observe(count(3), {"name": "status", "valueCode": "nonsense"})

    assert reply.status_code == 422
    assert await desk.observations() == 0


async def test_a_rule_refuses_what_an_operation_writes(desk: Office) -> None:
    desk.change(rules=ruled("error"))

    reply = await desk.observe(count(2), {"name": "status", "valueCode": "preliminary"})

    assert reply.status_code == 422
    assert [row["details"]["coding"][0]["code"] for row in reply.json()["issue"]] == ["INV-X"] * 2
    assert await desk.observations() == 0


async def test_x_provenance_goes_with_all_writes_of_a_plan(desk: Office) -> None:
    agent = {"who": {"display": "Ines"}}
    given = {
        "resourceType": "Provenance",
        "recorded": "2026-03-02T09:00:00Z",
        "agent": [agent],
    }

    await desk.observe(count(2), X_Provenance=json.dumps(given))

    (entry,) = (await desk.client.get("/Provenance")).json()["entry"]
    assert len(entry["resource"]["target"]) == 2


# --- a dry run -----------------------------------------------------------------------------------


async def test_a_dry_run_answers_as_the_call_would_and_leaves_nothing(desk: Office) -> None:
    reply = await desk.observe(count(2), DRY)

    assert reply.status_code == 200
    assert len(reply.json()["parameter"]) == 2
    assert (desk.calls.told, await desk.observations()) == (1, 0)


async def test_a_dry_run_is_refused_as_the_call_would_be(desk: Office) -> None:
    desk.change(rules=ruled("error"))

    reply = await desk.observe(DRY, {"name": "status", "valueCode": "preliminary"})

    assert reply.status_code == 422
    assert await desk.observations() == 0


async def test_dry_run_false_is_no_dry_run(desk: Office) -> None:
    await desk.observe({"name": "dry-run", "valueBoolean": False})

    assert await desk.observations() == 1


async def test_a_dry_run_can_be_asked_for_in_the_url(desk: Office) -> None:
    reply = await desk.client.post("/Patient/ada/$observe?dry-run=true")

    assert (reply.status_code, await desk.observations()) == (200, 0)


async def test_a_dry_run_leaves_the_definitions_and_the_next_write_alone(desk: Office) -> None:
    await desk.observe(DRY)

    reply = await desk.observe()

    assert (reply.status_code, await desk.observations()) == (200, 1)


async def test_the_trail_has_a_dry_run_and_nothing_that_it_undid(desk: Office) -> None:
    await desk.observe(DRY)

    async def details(connection: db.Connection) -> Sequence[db.Row]:
        text = "SELECT detail FROM audit WHERE code = 'operation'"
        return await connection.rows(db.Statement(text, ()), {})

    ((detail,),) = await desk.server.database.read(details)
    assert "Observation" not in detail


# --- If-Match ------------------------------------------------------------------------------------


async def test_a_stale_version_is_a_412_before_anything_is_done(desk: Office) -> None:
    reply = await desk.observe(If_Match='W/"7"')

    assert reply.status_code == 412
    assert issue(reply)[1] == 'Patient is at version 1, not "7"'.replace('"', "")
    assert (desk.calls.performed, await desk.observations()) == (0, 0)


async def test_the_current_version_passes(desk: Office) -> None:
    reply = await desk.observe(If_Match='W/"1"')

    assert (reply.status_code, await desk.observations()) == (200, 1)


async def test_a_version_of_what_is_not_there_is_a_412(desk: Office) -> None:
    reply = await desk.observe(id="nobody", If_Match='W/"1"')

    assert reply.status_code == 412


async def test_what_is_no_entity_tag_is_a_400(desk: Office) -> None:
    reply = await desk.observe(If_Match="1")

    assert reply.status_code == 400
    assert issues(reply)
