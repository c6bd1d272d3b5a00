"""Deleted resources and old versions under a policy."""

import pytest

from app.fhir.access import Policy
from app.fhir.query import All, And, Match, Member, Not, Owned, Query
from app.fhir.values import Token
from tests.access.door import Door, content, entries, named
from tests.access.world import (
    OWN,
    RESTRICTED,
    RESTRICTED_ONES,
    SHOWN,
    SHOWN_ONES,
    appointment,
    where,
)
from tests.support.resources import observation, patient, reference

FEMALE = Match("gender", "token", (Token(None, "female"),))


@pytest.fixture
async def deleted(door: Door) -> Door:
    """A server on which an Observation of each Patient was created and deleted."""
    for owner in ("ada", "bob"):
        await door.put(patient(id=owner, meta={"tag": [SHOWN], "security": [RESTRICTED]}))
        await door.put(observation(id=f"of-{owner}", subject=reference(f"Patient/{owner}")))
        await door.ask("DELETE", f"Observation/of-{owner}")
    return door


async def test_a_deleted_resource_is_gone_for_those_who_may_know_of_it(deleted: Door) -> None:
    somebody = deleted.under(Policy(otherwise=OWN))

    own = await somebody.get("Observation/of-ada")
    other = await somebody.get("Observation/of-bob")

    assert (own.status, other.status) == (410, 404)


@pytest.mark.parametrize("level", ["Observation/of-ada/_history", "Observation/_history"])
async def test_a_deletion_is_in_the_history_of_those_who_may_know_of_it(
    deleted: Door, level: str
) -> None:
    reply = await deleted.under(Policy(otherwise=OWN)).get(level)

    methods = [entry["request"]["method"] for entry in entries(reply)]
    assert named(reply) == ["Observation/of-ada"] * 2
    assert methods == ["DELETE", "POST"]


@pytest.mark.parametrize("tree", [SHOWN_ONES, Not(RESTRICTED_ONES)])
async def test_a_policy_that_needs_index_rows_hides_what_is_deleted(
    deleted: Door, tree: Match | Not
) -> None:
    somebody = deleted.under(Policy(otherwise=tree))

    statuses = [
        (await somebody.get(f"Observation/of-ada{way}")).status
        for way in ("", "/_history", "/_history/1", "/_history/2")
    ]

    assert statuses == [404] * 4  # never 410
    assert named(await somebody.get("Observation/_history")) == []
    assert "Observation/of-ada" not in named(await somebody.get("_history"))


async def test_a_policy_for_one_type_hides_no_deletion_of_another(deleted: Door) -> None:
    somebody = deleted.under(where(Observation=All(), Patient=SHOWN_ONES))

    of_the_type = await somebody.get("Observation/_history")
    of_the_system = await somebody.get("_history")

    shown = [name for name in named(of_the_system) if name.startswith("Observation/")]
    assert len(named(of_the_type)) == 4
    assert shown == named(of_the_type)


async def test_a_resource_that_changed_its_patient_has_the_history_of_the_new_one(
    door: Door,
) -> None:
    for owner in ("bob", "ada", "ada"):
        body = observation(id="x", subject=reference(f"Patient/{owner}"))
        await door.put({**body, "status": "amended" if owner == "bob" else "final"})
    await door.put(observation(id="x", subject=reference("Patient/ada"), status="corrected"))

    somebody = door.under(Policy(otherwise=OWN))
    versions = [(await somebody.get(f"Observation/x/_history/{n}")).status for n in (1, 2, 3)]

    assert versions == [404, 200, 200]
    assert len(entries(await somebody.get("Observation/x/_history"))) == 2
    assert len(entries(await somebody.get("Observation/_history"))) == 2
    assert len(entries(await somebody.get("_history"))) == 2


async def test_a_resource_that_went_to_another_patient_is_gone_with_all_its_versions(
    door: Door,
) -> None:
    for owner in ("ada", "bob"):
        await door.put(observation(id="x", subject=reference(f"Patient/{owner}")))

    somebody = door.under(Policy(otherwise=OWN))
    ways = ("", "/_history", "/_history/1", "/_history/2")
    statuses = [(await somebody.get(f"Observation/x{way}")).status for way in ways]

    assert statuses == [404] * 4
    assert named(await somebody.get("_history")) == []


async def test_who_may_see_both_patients_sees_all_versions(door: Door) -> None:
    for owner in ("ada", "bob"):
        await door.put(observation(id="x", subject=reference(f"Patient/{owner}")))

    reply = await door.get("Observation/x/_history")

    assert len(entries(reply)) == 2


async def test_a_resource_of_several_patients_belongs_to_each(door: Door) -> None:
    await door.put(appointment("session", "ada", "bob"))
    doors = {
        name: door.under(Policy(otherwise=Member("Patient", name))) for name in ("ada", "bob", "c")
    }

    before = {name: (await one.get("Appointment/session")).status for name, one in doors.items()}
    await door.put(appointment("session", "bob", "c"))
    after = {name: (await one.get("Appointment/session")).status for name, one in doors.items()}

    assert before == {"ada": 200, "bob": 200, "c": 404}
    assert after == {"ada": 404, "bob": 200, "c": 200}


async def test_other_compartments_are_walls_as_well(door: Door) -> None:
    await door.put(observation(id="x", encounter=reference("Encounter/e")))
    await door.put(observation(id="y", encounter=reference("Encounter/f")))

    reply = await door.under(Policy(otherwise=Member("Encounter", "e"))).get("Observation")

    assert named(reply) == ["Observation/x"]


async def test_the_rights_to_read_and_to_search_are_two(door: Door) -> None:
    await door.put(patient(id="ada"))
    await door.put(patient(id="bob", gender="male"))
    somebody = door.under(Policy({("Patient", "search"): FEMALE}))

    found = named(await somebody.get("Patient"))
    read = (await somebody.get("Patient/bob")).status

    assert (found, read) == (["Patient/ada"], 200)


async def test_a_policy_sees_what_a_resource_is_now(door: Door) -> None:
    await door.put(patient(id="ada", meta={"tag": [SHOWN]}))
    somebody = door.under(Policy(otherwise=SHOWN_ONES))
    shown = (await somebody.get("Patient/ada")).status

    await door.put(patient(id="ada"))
    hidden = (await somebody.get("Patient/ada")).status

    assert (shown, hidden) == (200, 404)
    assert content(await somebody.get("Patient?_id=ada"))["total"] == 0


async def shared_once(door: Door) -> None:
    """Put an Appointment that was of ada and bob, then of bob alone; and one the other way round.

    A third belongs to both in both versions.
    """
    for id, first, then in (
        ("left", ("ada", "bob"), ("bob",)),
        ("joined", ("bob",), ("ada", "bob")),
        ("both", ("ada", "bob"), ("ada", "bob")),
    ):
        await door.put(appointment(id, *first))
        await door.put({**appointment(id, *then), "description": "changed"})


async def versions_seen(door: Door) -> set[str]:
    """Return the versions of these Appointments that are there, by each way to read them."""
    names = [f"Appointment/{id}/_history/{n}" for id in ("left", "joined", "both") for n in (1, 2)]
    read = {name for name in names if (await door.get(name)).status == 200}
    listed: set[str] = set()
    for level in ("Appointment/_history", "_history"):
        for entry in entries(await door.get(f"{level}?_count=100")):
            version = entry["resource"]["meta"]["versionId"]
            listed.add(f"Appointment/{entry['resource']['id']}/_history/{version}")
    assert listed == read
    return {name.removeprefix("Appointment/").replace("/_history/", " ") for name in read}


@pytest.mark.parametrize(
    ("tree", "shown"),
    [
        (Owned("Patient", "bob"), {"left 2"}),
        (Owned("Patient", "ada"), set()),
        # what was shared is kept of nobody: once it is not current it is shown to neither
        (Member("Patient", "bob"), {"left 2", "joined 1", "joined 2", "both 2"}),
        (Member("Patient", "ada"), {"joined 2", "both 2"}),
        # nor to whoever may not see one of the two: that it was hers is not known any more
        (Not(Member("Patient", "ada")), {"left 2"}),
        (Not(Member("Patient", "nobody")), {"left 2", "joined 1", "joined 2", "both 2"}),
        (And((Member("Patient", "bob"), Not(RESTRICTED_ONES))), {"left 2", "joined 2", "both 2"}),
        (All(), {f"{id} {n}" for id in ("left", "joined", "both") for n in (1, 2)}),
    ],
)
async def test_a_version_is_shown_for_whose_it_was_then(
    door: Door, tree: Query, shown: set[str]
) -> None:
    await shared_once(door)

    assert await versions_seen(door.under(Policy(otherwise=tree))) == shown


async def test_of_what_the_index_must_tell_only_the_current_version_is_there(door: Door) -> None:
    for status in ("preliminary", "final", "amended"):
        await door.put(observation(id="x", subject=reference("Patient/ada"), status=status))
    amended = Match("status", "token", (Token(None, "amended"),))
    somebody = door.under(where(Observation=And((Owned("Patient", "ada"), amended))))

    versions = [(await somebody.get(f"Observation/x/_history/{n}")).status for n in (1, 2, 3, 4)]
    listed = [
        len(entries(await somebody.get(url))) for url in ("Observation/x/_history", "_history")
    ]
    total = content(await somebody.get("Observation/_history?_count=0"))["total"]

    assert versions == [404, 404, 200, 404]
    assert (listed, total) == ([1, 1], 1)


async def test_what_was_undone_for_another_patient_shows_nothing_of_before(door: Door) -> None:
    ada, bob = (
        observation(id="x", subject=reference(f"Patient/{name}")) for name in ("ada", "bob")
    )
    await door.put(ada)
    await door.ask("DELETE", "Observation/x")
    before = [
        (await door.under(Policy(otherwise=Owned("Patient", "ada"))).get("Observation/x")).status
    ]
    await door.put(bob)

    seen = {
        name: [
            (
                await door.under(Policy(otherwise=Owned("Patient", name))).get(
                    f"Observation/x{way}"
                )
            ).status
            for way in ("", "/_history/1", "/_history/2", "/_history/3", "/_history")
        ]
        for name in ("ada", "bob")
    }

    assert before == [410]
    assert seen == {"ada": [404] * 5, "bob": [200, 404, 404, 200, 200]}
