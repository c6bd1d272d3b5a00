"""Referential integrity under a policy: what is hidden is not there, and is not named."""

import json
from dataclasses import replace

import pytest

from app.fhir.access import Policy
from app.fhir.query import Not, Nothing
from tests.access.door import Door, content
from tests.access.world import OWN, RESTRICTED_ONES, listing
from tests.support.resources import observation, patient, reference

UNRESTRICTED = Policy(otherwise=Not(RESTRICTED_ONES))
OWN_ONLY = Policy(otherwise=OWN)


def strict(door: Door, policy: Policy) -> Door:
    """Return the door of somebody with that policy, of a server that keeps references."""
    server = replace(door.server, referential_integrity="enforce")
    return Door(server, door.caller).under(policy)


async def told(door: Door, method: str, url: str, body: object = None) -> tuple[int, str]:
    """Return status and text of a refusal."""
    reply = await door.ask(method, url, body)
    return reply.status, content(reply)["issue"][0]["diagnostics"]


async def test_who_may_delete_but_not_read_may_say_why(world: Door) -> None:
    unread = Policy({("List", "read"): Nothing()})
    agent = {"who": {"display": "Ada Marsh"}}
    why = {
        "resourceType": "Provenance", "recorded": "2026-03-02T09:30:00Z", "agent": [agent]
    }  # fmt: skip

    reply = await strict(world, unread).ask(
        "DELETE", "List/secret", provenance=json.dumps(why).encode()
    )

    assert reply.status == 204


@pytest.mark.parametrize("hidden", ["Observation/ada-secret", "Observation/nobody"])
async def test_a_reference_to_what_is_hidden_leads_nowhere(world: Door, hidden: str) -> None:
    body = observation(subject=reference("Patient/ada"), focus=[reference(hidden)])

    refusal = await told(strict(world, UNRESTRICTED), "POST", "Observation", body)

    assert refusal == (422, f"There is no {hidden}")


async def test_a_reference_to_a_version_of_what_is_hidden_leads_nowhere(world: Door) -> None:
    hidden = "Observation/ada-secret/_history/1"
    body = observation(subject=reference("Patient/ada"), focus=[reference(hidden)])

    refusal = await told(strict(world, UNRESTRICTED), "POST", "Observation", body)

    assert refusal == (422, "There is no version 1 of Observation/ada-secret")


async def test_who_refers_is_named_as_far_as_visible(world: Door) -> None:
    for policy, text in (
        (Policy(), "Appointment/shared, List/open, Observation/ada-open, Observation/ada-secret"),
        (UNRESTRICTED, "Appointment/shared, List/open, Observation/ada-open"),
        (OWN_ONLY, "Appointment/shared, Observation/ada-open, Observation/ada-secret"),
    ):
        refusal = await told(strict(world, policy), "DELETE", "Patient/ada")

        assert refusal == (409, f"Patient/ada is still referred to by {text}")


async def test_who_refers_in_a_masked_element_is_not_named(world: Door) -> None:
    await world.put(patient(id="eve"))
    await world.put(observation(id="of-eve", subject=reference("Patient/eve")))
    await world.put(listing("with-eve", "Patient/eve"))
    masking = Policy(mask={"Observation": frozenset({"Observation.subject"})})

    refusal = await told(strict(world, masking), "DELETE", "Patient/eve")

    assert refusal == (409, "Patient/eve is still referred to by List/with-eve, others")


async def test_what_only_hidden_resources_refer_to_is_deleted_as_if_none_did(world: Door) -> None:
    await world.put(patient(id="eve"))
    for n in range(3):
        secret = observation(id=f"eve-{n}", subject=reference("Patient/eve"))
        restricted = content(await world.get("Observation/ada-secret"))["meta"]["security"]
        await world.put({**secret, "meta": {"security": restricted}})

    reply = await strict(world, UNRESTRICTED).ask("DELETE", "Patient/eve")

    assert (reply.status, reply.issues, reply.body) == (204, (), b"")
