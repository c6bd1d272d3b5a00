"""A policy may name a value set: it looks underneath, whoever may see the value set or not."""

import pytest

from app.fhir.access import Policy, Right
from app.fhir.query import All, Match, Not, Nothing, Query
from tests.access.door import Door, named
from tests.support.resources import patient, put, transaction

VALUE_SET = "http://example.org/ValueSet/sealed"
SEALED = {
    "resourceType": "ValueSet",
    "id": "sealed",
    "url": VALUE_SET,
    "status": "active",
    "compose": {
        "include": [{"system": "http://example.org/tags", "concept": [{"code": "sealed"}]}]
    },
}
OPEN: Query = Not(Match("_tag", "token", (VALUE_SET,), "in"))


@pytest.mark.parametrize("sees_value_sets", [All(), Nothing()], ids=["seen", "hidden"])
async def test_a_policy_by_value_set_hides_what_it_names(
    door: Door, sees_value_sets: Query
) -> None:
    tag = {"system": "http://example.org/tags", "code": "sealed"}
    bodies = [SEALED, patient(id="sealed", meta={"tag": [tag]}), patient(id="open")]
    await door.ask("POST", "", transaction(*(put(body) for body in bodies)))
    rights: tuple[Right, ...] = ("read", "search")
    trees = {("Patient", right): OPEN for right in rights}
    own = {("ValueSet", right): sees_value_sets for right in rights}
    caller = door.under(Policy({**trees, **own}))

    assert (await caller.get("Patient/sealed")).status == 404
    assert (await caller.get("Patient/open")).status == 200
    assert named(await caller.get("Patient")) == ["Patient/open"]
    status = (await caller.get(f"Patient?_tag:in={VALUE_SET}")).status
    assert status == (200 if isinstance(sees_value_sets, All) else 400)
