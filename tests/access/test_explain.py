"""`_explain=1`: how a search is done, for whom nothing is hidden from."""

import httpx

from app.fhir.access import Policy
from app.fhir.query import Match, Not
from app.fhir.values import Token
from tests.access.door import Door, content
from tests.support.resources import patient


def told(parameters: dict[str, object], name: str) -> list[dict[str, object]]:
    """Return the parts of a Parameters resource with this name, each by the names of its own."""
    found = parameters["parameter"]
    assert isinstance(found, list)
    parts = [one.get("part", []) for one in found if one["name"] == name]
    return [{p["name"]: next(v for k, v in p.items() if k != "name") for p in ps} for ps in parts]


async def test_a_search_is_explained_instead_of_answered(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a", gender="female"))

    reply = await client.get("/Patient?gender=female&birthdate=ge1900&_explain=1")

    body = reply.json()
    (arm,) = told(body, "arm")
    purposes = [statement["purpose"] for statement in told(body, "statement")]
    assert (reply.status_code, body["resourceType"]) == (200, "Parameters")
    assert (arm["type"], arm["estimate"]) == ("Patient", 1)
    assert purposes[-1] == "page"
    assert all(str(one["sql"]).startswith("SELECT") for one in told(body, "statement"))


async def test_whoever_may_not_see_everything_gets_no_explanation(door: Door) -> None:
    hidden = Not(Match("gender", "token", (Token(None, "male"),)))
    caller = door.under(Policy({("Patient", "search"): hidden}))

    reply = await caller.get("Patient?_explain=1")

    assert reply.status == 403
    assert content(reply)["issue"][0]["code"] == "forbidden"
