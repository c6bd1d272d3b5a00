"""Writing under a policy: write, then look; what is refused leaves nothing."""

from dataclasses import replace
from typing import Any

import pytest

from app.fhir.access import Policy
from app.fhir.query import Match, Not
from app.fhir.values import Token
from tests.access.door import Door, content, contents, entries, named
from tests.access.world import OWN, RESTRICTED, RESTRICTED_ONES, appointment
from tests.support.resources import (
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

UNRESTRICTED = Policy(otherwise=Not(RESTRICTED_ONES))
OWN_ONLY = Policy(otherwise=OWN)
OF_BOB = observation(subject=reference("Patient/bob"))
SECRET = patient(meta={"security": [RESTRICTED]})

Body = dict[str, Any]


def coded(reply_body: Body) -> str:
    """Return the issue code of an OperationOutcome."""
    return str(reply_body["issue"][0]["code"])


# A policy, a request that would produce what the policy hides, and where the fault is
FORBIDDEN: list[tuple[Policy, str, str, Body]] = [
    (UNRESTRICTED, "POST", "Patient", SECRET),
    (UNRESTRICTED, "PUT", "Patient/ada", {**SECRET, "id": "ada"}),
    (OWN_ONLY, "POST", "Observation", OF_BOB),
    (OWN_ONLY, "POST", "Observation", observation()),
    (OWN_ONLY, "POST", "Observation", observation(subject=reference("Patient/not-here-yet"))),
    (OWN_ONLY, "PUT", "Observation/ada-open", {**OF_BOB, "id": "ada-open"}),
    (OWN_ONLY, "POST", "Patient", patient(id="cyd")),
    (OWN_ONLY, "POST", "", transaction(post(OF_BOB))),
    (
        OWN_ONLY,
        "POST",
        "",
        transaction(
            post(observation(subject=reference("Patient/ada")), full_url="urn:uuid:1"),
            put({**OF_BOB, "id": "ada-open"}),
        ),
    ),
    (
        OWN_ONLY,
        "POST",
        "",
        transaction(
            delete("Observation/ada-open"),
            post(observation(subject=reference("Patient/ada"))),
            post(observation(subject=reference("Device/far"))),
        ),
    ),
]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("policy", "method", "url", "body"), FORBIDDEN)
async def test_who_writes_what_they_may_not_see_is_refused_and_leaves_nothing(
    lasting_world: Door, policy: Policy, method: str, url: str, body: Body
) -> None:
    before = await contents(lasting_world.server)

    reply = await lasting_world.under(policy).ask(method, url, body)

    assert (reply.status, coded(content(reply))) == (403, "forbidden")
    assert await contents(lasting_world.server) == before


@pytest.fixture
async def house(door: Door) -> Door:
    """A server with Patients ada and bob, and an Observation of each."""
    for name in ("ada", "bob"):
        await door.put(patient(id=name))
        await door.put(observation(id=f"of-{name}", subject=reference(f"Patient/{name}")))
    return door


async def test_in_a_batch_the_other_entries_stay(house: Door) -> None:
    own = observation(subject=reference("Patient/ada"))

    reply = await house.under(OWN_ONLY).ask("POST", "", batch(post(OF_BOB), post(own)))

    statuses = [entry["response"]["status"][:3] for entry in entries(reply)]
    assert statuses == ["403", "201"]
    assert len(named(await house.get("Observation?patient=ada"))) == 2
    assert len(named(await house.get("Observation?patient=bob"))) == 1


# Requests about bob's Observation, and what they are answered as if it were not there
ABSENT: list[tuple[str, Body | None, dict[str, str], int]] = [
    ("PUT", {**OF_BOB, "id": "bob-open", "status": "amended"}, {}, 404),
    ("PUT", {**OF_BOB, "id": "bob-open"}, {}, 404),
    ("PUT", {**OF_BOB, "id": "bob-open"}, {"if_match": 'W/"2"'}, 404),
    ("PUT", {**OF_BOB, "id": "bob-open"}, {"if_match": 'W/"7"'}, 404),
    ("PUT", {**OF_BOB, "id": "bob-open"}, {"if_none_match": "*"}, 404),
    ("PUT", {**observation(subject=reference("Patient/ada")), "id": "bob-open"}, {}, 404),
    ("DELETE", None, {}, 204),
    ("DELETE", None, {"if_match": 'W/"2"'}, 412),
    ("DELETE", None, {"if_match": 'W/"7"'}, 412),
]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("method", "body", "conditions", "status"), ABSENT)
async def test_what_is_hidden_is_neither_changed_nor_deleted(
    lasting_world: Door, method: str, body: Body | None, conditions: dict[str, str], status: int
) -> None:
    before = await contents(lasting_world.server)

    reply = await lasting_world.under(OWN_ONLY).ask(
        method, "Observation/bob-open", body, **conditions
    )

    assert reply.status == status
    assert reply.version == 0
    assert b"version" not in reply.body
    assert await contents(lasting_world.server) == before


@pytest.mark.asyncio(loop_scope="session")
async def test_deleting_what_is_hidden_is_like_deleting_what_is_not_there(
    lasting_world: Door,
) -> None:
    somebody = lasting_world.under(OWN_ONLY)
    url = "Observation/{}"

    told = [
        await somebody.ask("DELETE", url.format("bob-open"), if_match=tag) for tag in ("", 'W/"2"')
    ]
    absent = [
        await somebody.ask("DELETE", url.format("bob-many"), if_match=tag) for tag in ("", 'W/"2"')
    ]

    assert [(r.status, r.body.replace(b"bob-open", b"bob-many")) for r in told] == [
        (r.status, r.body) for r in absent
    ]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("entries_", "status"),
    [
        ([get("Observation/bob-open")], 404),
        ([get("Observation/bob-open/_history/2")], 404),
        ([put({**OF_BOB, "id": "bob-open", "status": "amended"})], 404),
        ([delete("Observation/bob-open", ifMatch='W/"2"')], 412),
        ([post(observation(subject=reference("Patient?_id=bob")))], 412),
        ([post(observation(subject=reference("Patient?name=marsh&birthdate=1985&_id=bob")))], 412),
    ],
)
async def test_an_entry_of_a_transaction_does_not_see_what_is_hidden(
    lasting_world: Door, entries_: list[Body], status: int
) -> None:
    before = await contents(lasting_world.server)

    reply = await lasting_world.under(OWN_ONLY).ask("POST", "", transaction(*entries_))

    assert reply.status == status
    assert content(reply)["issue"][0]["expression"][0].startswith("Bundle.entry[0]")
    assert await contents(lasting_world.server) == before


async def test_a_condition_counts_only_what_is_visible(house: Door) -> None:
    somebody = house.under(OWN_ONLY)
    own = observation(subject=reference("Patient?name=marsh"))  # ada and bob are called so

    everybody = await house.ask("POST", "", transaction(post(own)))
    reply = await somebody.ask("POST", "", transaction(post(own)))

    assert everybody.status == 412  # two Patients
    assert reply.status == 200
    assert len(named(await house.get("Observation?patient=ada"))) == 2


async def test_if_none_exist_finds_the_visible_one_of_two(house: Door) -> None:
    own = observation(subject=reference("Patient/ada"))

    everybody = await house.ask("POST", "Observation", own, if_none_exist="code=44261-6")
    reply = await house.under(OWN_ONLY).ask(
        "POST", "Observation", own, if_none_exist="code=44261-6"
    )

    assert everybody.status == 412
    assert (reply.status, reply.location) == (200, "Observation/of-ada/_history/1")


async def test_if_none_exist_creates_where_all_that_fit_are_hidden(house: Door) -> None:
    own = observation(subject=reference("Patient/ada"))

    reply = await house.under(OWN_ONLY).ask("POST", "Observation", own, if_none_exist="patient=bob")

    assert reply.status == 201
    assert len(named(await house.get("Observation"))) == 3


async def test_what_one_may_see_one_may_write(house: Door) -> None:
    somebody = house.under(OWN_ONLY)
    own = observation(id="of-ada", subject=reference("Patient/ada"), status="amended")

    updated = await somebody.put(own)
    created = await somebody.ask("POST", "Observation", {**own, "id": "x"})
    shared = await somebody.ask("POST", "Appointment", appointment("session", "ada", "bob"))
    deleted = await somebody.ask("DELETE", "Observation/of-ada")

    assert [r.status for r in (updated, created, shared, deleted)] == [200, 201, 201, 204]


async def test_one_may_write_what_a_reference_in_the_same_transaction_makes_one_s_own(
    house: Door,
) -> None:
    own = observation(subject=reference("urn:uuid:5b1c1d0c-5f37-4d4e-9f4c-3f1c0f6a6d01"))
    changed = patient(id="ada", active=False)

    reply = await house.under(OWN_ONLY).ask(
        "POST",
        "",
        transaction(
            put(changed, full_url="urn:uuid:5b1c1d0c-5f37-4d4e-9f4c-3f1c0f6a6d01"), post(own)
        ),
    )

    assert reply.status == 200
    assert len(named(await house.get("Observation?patient=ada"))) == 2


async def test_the_rights_to_create_and_to_update_are_two(house: Door) -> None:
    nobody = Match("_id", "token", ("nobody",))
    somebody = house.under(Policy({("Patient", "create"): nobody}))

    created = await somebody.ask("POST", "Patient", patient())
    updated = await somebody.put(patient(id="ada", active=False))

    assert (created.status, updated.status) == (403, 200)


async def test_who_sees_but_may_not_delete_is_told_so(house: Door) -> None:
    shown = Match("gender", "token", (Token(None, "male"),))

    reply = await house.under(Policy({("Patient", "delete"): shown})).ask("DELETE", "Patient/ada")

    assert reply.status == 403
    assert (await house.get("Patient/ada")).status == 200


async def test_criteria_find_only_what_is_visible(house: Door) -> None:
    somebody = house.under(OWN_ONLY)
    own = observation(subject=reference("Patient/ada"))

    hidden = await somebody.ask("DELETE", "Observation?patient=bob")
    updated = await somebody.ask("PUT", "Observation?code=44261-6", own | {"status": "amended"})
    created = await somebody.ask("PUT", "Observation?patient=bob", own)
    deleted = await somebody.ask("DELETE", "Observation?code=44261-6&status=amended")

    assert [r.status for r in (hidden, updated, created, deleted)] == [204, 200, 201, 204]
    assert updated.location == "Observation/of-ada/_history/2"
    assert named(await house.get("Observation?patient=bob")) == ["Observation/of-bob"]


async def test_an_update_by_criteria_does_not_tell_of_a_hidden_resource_under_its_id(
    house: Door,
) -> None:
    body = {**observation(subject=reference("Patient/ada")), "id": "of-bob"}

    reply = await house.under(OWN_ONLY).ask("PUT", "Observation?status=amended", body)

    assert (reply.status, reply.version) == (404, 0)
    assert content(await house.get("Observation/of-bob"))["subject"] == reference("Patient/bob")


async def test_a_patch_of_what_is_hidden_is_404_and_of_what_is_masked_403(house: Door) -> None:
    patch = [{"op": "replace", "path": "/status", "value": "amended"}]
    kind = {"content_type": "application/json-patch+json"}
    masking = Policy(mask={"Observation": frozenset({"Observation.code"})})

    hidden = await house.under(OWN_ONLY).ask("PATCH", "Observation/of-bob", patch, **kind)
    criteria = await house.under(OWN_ONLY).ask("PATCH", "Observation?patient=bob", patch, **kind)
    masked = await house.under(masking).ask("PATCH", "Observation/of-bob", patch, **kind)
    own = await house.under(OWN_ONLY).ask("PATCH", "Observation/of-ada", patch, **kind)

    assert [r.status for r in (hidden, criteria, masked, own)] == [404, 404, 403, 200]


async def test_criteria_may_not_name_what_is_masked(house: Door) -> None:
    masking = Policy(mask={"Patient": frozenset({"Patient.gender"})})

    replies = [
        await house.under(masking).ask("PUT", "Patient?gender=female", patient()),
        await house.under(masking).ask("DELETE", "Patient?gender=female"),
    ]

    assert [reply.status for reply in replies] == [400, 400]


async def test_of_several_that_fit_none_is_deleted_where_one_may_not_be(house: Door) -> None:
    await house.put(patient(id="cyd"))
    spared = Policy({("Patient", "delete"): Not(Match("_id", "token", ("bob",)))})
    several = replace(house.server, conditional_delete="multiple")

    reply = (
        await Door(several, house.caller)
        .under(spared)
        .ask("DELETE", "Patient?gender=female", prefer="OperationOutcome")
    )

    assert reply.status == 403
    assert len(named(await house.get("Patient"))) == 3
