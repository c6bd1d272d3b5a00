"""A roster of two: a token of one patient finds no trace of it, or of the other member.

R4 puts a Group into the compartment of each of its members, and what is shared by two patients into
those of both. A `patient/` scope is narrower: what is not this patient's alone is not there.
"""

import json
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.access.tokens import authorized
from tests.support.resources import (
    batch,
    encounter,
    get,
    observation,
    patient,
    post,
    put,
    reference,
    resource,
    transaction,
)

ADA, BOB, ROSTER = "Patient/ada", "Patient/zqbob", "Group/zqroster"
# What no answer may hold: ids and words of the roster, of what is shared, and of the other member
TRACES = ("zqbob", "zqroster", "zqshared", "Zqother")


def group(id: str, *members: str) -> dict[str, Any]:
    """Return a roster of these patients."""
    parts = [{"entity": reference(member)} for member in members]
    made = {"id": id, "type": "person", "actual": True, "name": id, "member": parts}
    return resource("Group", made, {})


def appointment(id: str, *actors: str) -> dict[str, Any]:
    """Return an Appointment of these."""
    parts = [{"actor": reference(actor), "status": "accepted"} for actor in actors]
    made = {"id": id, "status": "booked", "participant": parts, "description": id}
    made |= {"start": "2026-03-02T09:00:00Z", "end": "2026-03-02T12:00:00Z"}
    return resource("Appointment", made, {})


WORLD = [
    patient(id="ada", generalPractitioner=[reference("Practitioner/doctor")]),
    patient(id="zqbob", name=[{"family": "Zqother", "given": ["Zqother"]}]),
    resource("Practitioner", {"id": "doctor", "name": [{"family": "Vale"}]}, {}),
    group("zqroster", ADA, BOB),
    group("alone", ADA),
    # of the session of the roster: shared by reference to the Group, or to both members
    appointment("zqshared", ADA, BOB, "Practitioner/doctor"),
    appointment("own", ADA, "Practitioner/doctor"),
    encounter(id="zqshared-visit", subject=reference(ROSTER)),
    observation(id="zqshared-notes", subject=reference(ROSTER)),
    observation(id="zqshared-pair", subject=reference(ADA), performer=[reference(BOB)]),
    observation(id="own", subject=reference(ADA), performer=[reference("Practitioner/doctor")]),
    observation(id="zqbob-own", subject=reference(BOB)),
    resource(
        "List",
        {
            "id": "own",
            "status": "current",
            "mode": "working",
            "subject": reference(ADA),
            "entry": [{"item": reference("Observation/own")}],
        },
        {},
    ),
]
OWN = {"Patient/ada", "Group/alone", "Appointment/own", "Observation/own", "List/own"}


@pytest.fixture
async def ada(client: httpx.AsyncClient, settings: Settings) -> httpx.AsyncClient:
    """A client of a server on which all of WORLD is at version 2, with a token of Ada."""
    for changes in ({"language": "en"}, {}):
        bodies = [put({**body, **changes}) for body in WORLD]
        reply = await client.post("", json=transaction(*bodies))
        assert reply.status_code == 200, reply.text
    client.headers.update(await authorized(settings, "launch/patient patient/*.cruds", ADA))
    return client


def traces(reply: httpx.Response) -> list[str]:
    """Return what an answer tells that it should not; but the client said itself what it asked."""
    asked = str(reply.request.url) + reply.request.content.decode()
    told = reply.text + repr(dict(reply.headers))
    return [trace for trace in TRACES if trace in told and trace not in asked]


def found(reply: httpx.Response) -> set[str]:
    """Return `Type/id` of the entries of a Bundle."""
    assert reply.status_code == 200, reply.text
    entries = reply.json().get("entry", [])
    return {"/".join(entry["fullUrl"].split("/")[-2:]) for entry in entries}


async def test_nothing_of_the_roster_is_read(ada: httpx.AsyncClient) -> None:
    hidden = [
        *(ROSTER, BOB, "Appointment/zqshared", "Encounter/zqshared-visit"),
        *("Observation/zqshared-notes", "Observation/zqshared-pair", "Observation/zqbob-own"),
    ]
    ways = ("", "/_history/1", "/_history/2", "/_history", "/$meta")

    own = {(await ada.get(f"/{name}{way}")).status_code for name in OWN for way in ways}
    other = {(await ada.get(f"/{name}{way}")).status_code for name in hidden for way in ways}

    assert (own, other) == ({200}, {404})


# What is asked, and what is found of it
SEARCHES: dict[str, set[str]] = {
    "/Group": {"Group/alone"},
    "/Group?member=Patient/ada": {"Group/alone"},
    "/Group?_lastUpdated=gt2000&_total=accurate": {"Group/alone"},
    "/Group/_history": {"Group/alone"},
    "/Patient": {"Patient/ada"},
    "/Patient?name:missing=false&_sort=-name": {"Patient/ada"},
    "/Appointment": {"Appointment/own"},
    "/Appointment?patient=ada&_sort=date": {"Appointment/own"},
    "/Encounter": set(),
    "/Observation": {"Observation/own"},
    "/Observation?subject:Group.member=Patient/ada": set(),
    "/Patient/ada/Group": {"Group/alone"},
    "/Patient/ada/Appointment": {"Appointment/own"},
    "/Patient/ada/*": OWN,
    "/_history": {*OWN, "Practitioner/doctor"},
    "/?_type=Patient,Group,Appointment,Observation,List": OWN,
    # includes
    "/Group?_include=Group:member": {"Group/alone", "Patient/ada"},
    "/Patient?_revinclude=Group:member": {"Patient/ada", "Group/alone"},
    "/Patient?_revinclude=Group:member&_include:iterate=Group:member": {
        *("Patient/ada", "Group/alone"),
    },
    "/Patient?_revinclude=Appointment:actor&_include:iterate=Appointment:actor": {
        *("Patient/ada", "Appointment/own", "Practitioner/doctor"),
    },
    "/Practitioner?_revinclude=Appointment:actor&_include:iterate=Appointment:actor": {
        *("Practitioner/doctor", "Appointment/own", "Patient/ada"),
    },
    "/List?_include=*&_include:iterate=*": {
        *("List/own", "Observation/own", "Patient/ada", "Practitioner/doctor"),
    },
    # chains
    "/Observation?subject:Patient._has:Group:member:_id=alone": {"Observation/own"},
    "/Practitioner?_has:Appointment:actor:patient._id=ada": {"Practitioner/doctor"},
    # exports
    "/Patient/ada/$everything": {*OWN, "Practitioner/doctor"},
    "/Observation/$lastn?patient=Patient/ada&category=survey": {"Observation/own"},
}

# What would find something if the roster or its members were seen: nothing
UNANSWERED = [
    "/Group?_id=zqroster",
    "/Group?member=Patient/zqbob",
    "/Group?member:Patient.name=Zqother",
    "/Patient?_has:Group:member:_id=zqroster",
    "/Patient?_has:Appointment:actor:_id=zqshared",
    "/Patient?_has:Observation:performer:_id=zqshared-pair",
    "/Observation?subject=Group/zqroster",
    "/Observation?subject:Group._id=zqroster",
    "/Observation?performer=Patient/zqbob",
    "/Observation?patient._has:Group:member:_id=zqroster",
    "/Appointment?actor=Patient/zqbob",
    "/Appointment?actor:Patient.name=Zqother",
    "/Practitioner?_has:Appointment:actor:patient.name=Zqother",
    "/Practitioner?_has:Appointment:actor:_id=zqshared",
    '/Group?_filter=member re "Patient/zqbob"',
    "/Patient/zqbob/*",
    "/Patient/zqbob/Appointment",
    "/Patient/ada/Group?_id=zqroster",
    "/Observation/$lastn?subject=Group/zqroster&category=survey",
]


async def test_a_search_finds_what_is_one_s_own_and_no_trace_of_the_roster(
    ada: httpx.AsyncClient,
) -> None:
    replies = {url: await ada.get(url) for url in SEARCHES}

    assert {url: found(reply) for url, reply in replies.items()} == SEARCHES
    assert {url: traces(reply) for url, reply in replies.items() if traces(reply)} == {}


async def test_what_would_find_the_roster_finds_nothing(ada: httpx.AsyncClient) -> None:
    replies = {url: await ada.get(url) for url in UNANSWERED}

    assert {url: sorted(found(reply)) for url, reply in replies.items() if found(reply)} == {}
    assert {url: reply.json()["total"] for url, reply in replies.items()} == dict.fromkeys(
        UNANSWERED, 0
    )


async def test_nothing_of_the_roster_is_in_a_batch_or_transaction(ada: httpx.AsyncClient) -> None:
    asked = [get("Group"), get("Patient"), get("Appointment"), get("Patient/ada/Group")]

    replies = [await ada.post("", json=make(*asked)) for make in (batch, transaction)]

    assert [traces(reply) for reply in replies] == [[], []]
    assert all("Group/alone" in reply.text for reply in replies)


async def test_nobody_joins_or_writes_about_the_roster(ada: httpx.AsyncClient) -> None:
    json_patch = {"Content-Type": "application/json-patch+json"}
    test = [{"op": "test", "path": "/name", "value": "zqroster"}]
    about = observation(subject=reference("Group?_id=zqroster"))

    replies = [
        await ada.put("/Group/zqroster", json=group("zqroster", ADA)),
        await ada.patch("/Group/zqroster", content=json.dumps(test), headers=json_patch),
        await ada.put("/Group?member=Patient/zqbob", json=group("zqroster", ADA)),
        await ada.delete("/Group/zqroster"),
        await ada.post("/Group", json=group("g", ADA, BOB)),
        await ada.put("/Group/alone", json=group("alone", ADA, BOB)),
        await ada.post("", json=transaction(post(about))),
        await ada.post("/Appointment", json=appointment("a", ADA, BOB)),
    ]

    assert [reply.status_code for reply in replies] == [404, 404, 404, 204, 403, 403, 412, 403]
    assert [reply for reply in replies if traces(reply)] == []
