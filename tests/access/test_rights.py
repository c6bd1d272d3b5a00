"""Rights: what a caller has none for is a 403, whatever it is about; the rest is visible or not."""

from typing import Any

import pytest

from app.fhir.access import Caller, Grant, Kind, parse_scopes, policy_of
from tests.access.door import Door, content, entries, named
from tests.support.resources import (
    batch,
    delete,
    get,
    observation,
    patient,
    post,
    put,
    reference,
    resource,
    transaction,
)

Body = dict[str, Any]
JSON_PATCH = {"content_type": "application/json-patch+json"}
AMENDED = [{"op": "replace", "path": "/status", "value": "amended"}]
LABEL: Body = {
    "resourceType": "Parameters",
    "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}],
}


def holding(door: Door, scopes: str, kind: Kind = "system", who: str = "") -> Door:
    """Return the door of somebody with these scopes, for the record of a Patient where one is."""
    language = door.server.language
    granted = parse_scopes(scopes, language)
    assert not granted.refused
    grant = Grant(kind, granted.granted, who, who if kind == "patient" else "")
    policy = policy_of(grant, language, door.server.now())
    return Door(door.server, Caller(f"{kind} {scopes}", policy, kind))


@pytest.fixture
async def house(door: Door) -> Door:
    """A server with Patients ada and bob, an Observation of each, and a doctor."""
    await door.put(resource("Practitioner", {"id": "doc"}, {}))
    for name in ("ada", "bob"):
        await door.put(patient(id=name))
        performer = [reference("Practitioner/doc")]
        own = observation(id=name, subject=reference(f"Patient/{name}"), performer=performer)
        await door.put(own)
    return door


OWN = observation(subject=reference("Patient/ada"))
# What is asked, and the letters without one of which it is a 403
ASKED: list[tuple[str, str, Any, dict[str, Any], str]] = [
    ("GET", "Observation/ada", None, {}, "r"),
    ("GET", "Observation/ada/_history/1", None, {}, "r"),
    ("GET", "Observation/ada/_history", None, {}, "r"),
    ("GET", "Observation/ada/$meta", None, {}, "r"),
    ("GET", "Observation", None, {}, "s"),
    ("POST", "Observation/_search", None, {}, "s"),
    ("GET", "?_type=Observation", None, {}, "s"),
    ("GET", "Observation/_history", None, {}, "s"),
    ("GET", "_history", None, {}, "s"),
    ("GET", "", None, {}, "s"),
    ("GET", "Observation/$meta", None, {}, "s"),
    ("GET", "$meta", None, {}, "s"),
    ("GET", "Observation/$lastn?patient=ada&code=44261-6", None, {}, "s"),
    ("POST", "Observation", OWN, {}, "c"),
    ("POST", "Observation", OWN, {"if_none_exist": "code=nothing"}, "cs"),
    ("PUT", "Observation/ada", {**OWN, "id": "ada"}, {}, "u"),
    ("PUT", "Observation?_id=ada", OWN, {}, "us"),
    ("PATCH", "Observation/ada", AMENDED, JSON_PATCH, "ru"),
    ("PATCH", "Observation?_id=ada", AMENDED, JSON_PATCH, "rus"),
    ("DELETE", "Observation/ada", None, {}, "d"),
    ("DELETE", "Observation?_id=ada", None, {}, "ds"),
    ("POST", "Observation/ada/$meta-add", LABEL, {}, "ru"),
]


@pytest.mark.parametrize(("method", "url", "body", "said", "letters"), ASKED)
async def test_each_interaction_needs_its_rights_and_no_others(
    house: Door, method: str, url: str, body: Any, said: dict[str, Any], letters: str
) -> None:
    others = "".join(letter for letter in "cruds" if letter not in letters)
    lacking = ["".join(x for x in "cruds" if x != letter) for letter in letters]

    refused = [
        await holding(house, f"system/Observation.{some}").ask(
            method, url.replace("ada", id), body, **said
        )
        for some in (*lacking, others)
        for id in ("ada", "nobody")
        if some
    ]
    allowed = await holding(house, f"system/Observation.{letters}").ask(method, url, body, **said)

    assert {reply.status for reply in refused} <= {403}
    assert len({reply.body for reply in refused}) <= len(letters) + 1  # whatever it is about
    assert allowed.status in (200, 201, 204), allowed.body


@pytest.mark.parametrize(
    "url", ["", "_history", "$meta", "?_type=Patient", "?_type=Binary,Patient"]
)
async def test_who_may_search_nothing_is_refused_all_of_it(house: Door, url: str) -> None:
    reply = await holding(house, "system/Patient.r system/Observation.cud").get(url)

    assert reply.status == 403


async def test_a_search_of_all_types_finds_those_that_one_may_search(house: Door) -> None:
    somebody = holding(house, "system/Observation.s system/Practitioner.s system/Patient.r")

    found = {
        url: sorted(named(await somebody.get(url)))
        for url in ("?_lastUpdated=gt2000", "_history", "?_type=Practitioner,Observation")
    }

    searched = ["Observation/ada", "Observation/bob", "Practitioner/doc"]
    assert list(found.values()) == [searched] * 3
    assert (await somebody.get("?_type=Practitioner,Patient")).status == 403


@pytest.mark.parametrize(
    ("scopes", "shown"),
    [
        ("system/Observation.s", []),
        ("system/Observation.s system/Practitioner.r", ["Practitioner/doc"]),
        ("system/Observation.s system/Practitioner.s", ["Practitioner/doc"]),
        ("system/Observation.s system/Practitioner.cud", []),
        ("system/Observation.s system/Practitioner.s?_id=nobody", []),
        ("system/Observation.s system/*.s?_id=x system/*.r?_id=doc", ["Practitioner/doc"]),
    ],
)
async def test_what_is_included_is_read_or_searched(
    house: Door, scopes: str, shown: list[str]
) -> None:
    reply = await holding(house, scopes).get(
        "Observation?_id=ada&_include=Observation:performer&_include=Observation:subject"
    )

    assert named(reply) == ["Observation/ada", *shown]


async def test_a_compartment_is_searched_by_who_may_see_its_centre(house: Door) -> None:
    url = "Patient/ada/Observation"

    replies = [
        await holding(house, scopes).get(url)
        for scopes in (
            "system/Observation.s",
            "system/Observation.s system/Patient.r?_id=bob",
            "system/Observation.s system/Patient.r?_id=ada",
            "system/Patient.rs",
        )
    ]

    assert [reply.status for reply in replies] == [403, 200, 200, 403]
    assert [named(reply) for reply in replies[1:3]] == [[], ["Observation/ada"]]


async def test_the_entries_of_a_batch_are_refused_one_by_one(house: Door) -> None:
    somebody = holding(house, "system/Observation.r")
    asked = [get("Observation/ada"), get("Observation"), get("Patient/ada"), post(OWN)]

    reply = await somebody.ask("POST", "", batch(*asked, delete("Observation/ada")))

    statuses = [entry["response"]["status"][:3] for entry in entries(reply)]
    assert statuses == ["200", "403", "403", "403", "403"]


@pytest.mark.parametrize(
    "entry",
    [
        get("Patient/ada"),
        get("Observation"),
        put({**OWN, "id": "ada"}),
        delete("Observation/nobody"),
        post(OWN, ifNoneExist="code=x"),
        post(observation(subject=reference("Patient?_id=ada"))),
    ],
)
async def test_a_transaction_is_refused_as_a_whole_and_names_the_entry(
    house: Door, entry: Body
) -> None:
    somebody = holding(house, "system/Observation.cr")

    reply = await somebody.ask("POST", "", transaction(post(OWN), entry))

    issue = content(reply)["issue"][0]
    assert (reply.status, issue["code"]) == (403, "forbidden")
    assert issue["expression"][0].startswith("Bundle.entry[1]")
    assert len(named(await house.get("Observation"))) == 2


async def test_provenance_in_a_header_is_a_create(house: Door) -> None:
    why = b'{"resourceType":"Provenance","recorded":"2026-03-02T09:30:00Z","agent":[{"who":{"display":"A"}}]}'  # noqa: E501

    without = await holding(house, "system/Observation.cruds").ask(
        "POST", "Observation", OWN, provenance=why
    )
    granted = await holding(house, "system/Observation.cruds system/Provenance.c").ask(
        "POST", "Observation", OWN, provenance=why
    )

    assert (without.status, granted.status) == (403, 201)


async def test_what_is_shown_but_may_not_be_changed_is_a_403_and_what_is_hidden_a_404(
    house: Door,
) -> None:
    changing = "system/Observation.rs?patient=Patient/ada system/Observation.ud?_id=other"
    somebody = holding(house, changing)
    replies = {
        id: [
            await somebody.put({**observation(), "id": id}),
            await somebody.ask("DELETE", f"Observation/{id}"),
        ]
        for id in ("ada", "bob", "nobody")
    }

    told = {id: [reply.status for reply in some] for id, some in replies.items()}

    assert told == {"ada": [403, 403], "bob": [404, 204], "nobody": [404, 204]}
    assert (await house.get("Observation/bob")).status == 200


async def test_who_only_writes_may_write_what_it_may_write(house: Door) -> None:
    blind = holding(house, "system/Observation.cu")

    replies = [
        await blind.put({**OWN, "id": "ada", "status": "amended"}),
        await blind.put({**OWN, "id": "new"}),
        await blind.put({**OWN, "id": "new"}),
    ]

    assert [(reply.status, bool(reply.body)) for reply in replies] == [
        (200, True), (201, True), (200, False)
    ]  # fmt: skip


async def test_who_finds_but_does_not_read_is_told_of_what_is_there(house: Door) -> None:
    somebody = holding(house, "system/Observation.cs")

    reply = await somebody.ask("POST", "Observation", OWN, if_none_exist="_id=ada")

    assert (reply.status, reply.location) == (200, "Observation/ada/_history/1")
    assert content(reply)["id"] == "ada"


async def test_a_patient_owns_what_is_asked_without_a_patient(house: Door) -> None:
    own = holding(house, "patient/*.cruds", "patient", "Patient/ada")
    urls = {
        "Observation": ["Observation/ada"],
        "Observation?code=44261-6": ["Observation/ada"],
        "Observation?_sort=-date&_total=accurate": ["Observation/ada"],
        "Observation?patient=Patient/ada&code=44261-6": ["Observation/ada"],
        "Observation?patient=Patient/bob": [],
        "Observation?patient.gender=female&_sort=_id": ["Observation/ada"],
        "Patient?_has:Observation:patient:code=44261-6": ["Patient/ada"],
        "Practitioner?_has:Observation:performer:code=44261-6": ["Practitioner/doc"],
        "Practitioner?_has:Observation:performer:patient=bob": [],
    }

    found = {url: named(await own.get(url)) for url in urls}

    assert found == urls


@pytest.mark.parametrize("kind", ["administrator", "representative", "workforce", "system"])
async def test_scopes_of_another_context_grant_nothing(house: Door, kind: Kind) -> None:
    context = {"workforce": "system", "system": "user"}.get(kind, "user")

    reply = await holding(house, f"{context}/*.cruds", kind).get("Observation/ada")

    assert reply.status == 403


async def test_no_token_erases(house: Door) -> None:
    everything = holding(house, "system/*.cruds")

    statuses = [
        (await everything.ask("POST", f"Patient/ada/${name}")).status
        for name in ("purge", "expunge")
    ]

    assert statuses == [403, 403]


async def test_a_value_set_that_is_not_known_shows_nothing(house: Door) -> None:
    scopes = "system/Observation.rs?code:not-in=http://example.org/ValueSet/none"

    reply = await holding(house, scopes).get("Observation")

    assert reply.status == 403
