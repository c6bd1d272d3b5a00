"""Operations under a policy: they see what it shows, and erase nothing unless they may."""

from collections.abc import AsyncIterator

import pytest

from app import db, deferred
from app.config import Settings
from app.deferred import Deferred
from app.fhir.access import SYSTEM, Policy
from app.fhir.query import All, Match, Member, Not
from app.fhir.store import consistency
from app.fhir.values import Token
from app.main import build
from tests.access.door import Door, content, contents, named, next_link
from tests.support.record import ADA, ADAS, AROUND, DOCTOR, HOSPITAL, RECORD, SCORES


async def test_everything_shows_what_the_policy_shows_and_nothing_else(door: Door) -> None:
    for body in RECORD:
        await door.put(body)
    finals = Match("status", "token", (Token(None, "final"),))
    others = Not(Match("_id", "token", ("doctor",)))
    policies = {
        "own": Policy(otherwise=Member("Patient", "ada")),
        "no scores": Policy({("Observation", "search"): Not(finals)}),
        # what comes along is what may be read or searched
        "no staff": Policy({("Practitioner", "search"): others, ("Practitioner", "read"): others}),
        "staff to read": Policy({("Practitioner", "search"): others}),
        "masked": Policy(mask={"Patient": frozenset({"Patient.managingOrganization"})}),
        "hidden": Policy({("Patient", "read"): Not(All())}),
    }

    replies = {
        name: await door.under(policy).get("Patient/ada/$everything")
        for name, policy in policies.items()
    }

    assert set(named(replies["own"])) == ADAS
    assert set(named(replies["no scores"])) == (ADAS | AROUND) - {
        *("Observation/score", "Observation/later"),
    }
    assert set(named(replies["no staff"])) == (ADAS | AROUND) - {DOCTOR}
    assert set(named(replies["staff to read"])) == ADAS | AROUND
    assert set(named(replies["masked"])) == (ADAS | AROUND) - {HOSPITAL, "Organization/trust"}
    assert replies["hidden"].status == 404


async def test_a_cursor_of_everything_belongs_to_its_policy(door: Door) -> None:
    for body in RECORD:
        await door.put(body)

    following = next_link(await door.get("Patient/ada/$everything?_count=2"))
    reply = await door.under(Policy(otherwise=Member("Patient", "ada"))).get(following)

    assert reply.status == 400


async def test_lastn_does_not_group_what_is_hidden(door: Door) -> None:
    for body in SCORES:
        await door.put(body)
    hidden = Policy({("Observation", "search"): Not(Match("_id", "token", ("cd", "a3")))})

    reply = await door.under(hidden).get(f"Observation/$lastn?patient={ADA}&category=survey")

    found = [entry["resource"]["id"] for entry in content(reply)["entry"]]
    assert sorted(found) == ["a2", "b1", "b2", "c1", "d1", "t1", "t2"]


async def test_dates_that_are_masked_tell_nothing(door: Door) -> None:
    for body in RECORD:
        await door.put(body)
    masked = door.under(Policy(mask={"Observation": frozenset({"Observation.effective[x]"})}))

    all_dates = await masked.get("Patient/ada/$everything?_type=Observation")
    one_day = await masked.get("Patient/ada/$everything?_type=Observation&start=2026-05-01")
    newest = await masked.get(f"Observation/$lastn?patient={ADA}&category=survey")

    assert named(one_day) == named(all_dates) == ["Observation/later", "Observation/score"]
    assert newest.status == 400


async def test_meta_lists_labels_of_visible_resources_only(door: Door) -> None:
    for id, code in (("a", "shown"), ("b", "hidden")):
        await door.put({**RECORD[4], "id": id, "meta": {"tag": [{"code": code}]}})
    some = door.under(Policy(otherwise=Match("_id", "token", ("a",))))

    of_type, of_all = await some.get("Patient/$meta"), await some.get("$meta")

    (row,) = content(of_type)["parameter"]
    assert row == {"name": "return", "valueMeta": {"tag": [{"code": "shown"}]}}
    assert content(of_all) == content(of_type)


async def test_labels_cannot_be_changed_by_whoever_may_not_update(door: Door) -> None:
    await door.put(RECORD[4])
    finals = Policy({("Patient", "update"): Not(All())})
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}],
    }

    reply = await door.under(finals).ask("POST", "Patient/bob/$meta-add", body)

    assert reply.status == 403
    assert "tag" not in content(await door.get("Patient/bob"))["meta"]


# --- $purge and $expunge -----------------------------------------------------------------------


async def settled(door: Door) -> None:
    """Put the whole record, twice, so that everything has a history."""
    for body in RECORD:
        await door.put({**body, "language": "en"})
        await door.put(body)


async def test_nobody_erases_without_the_right_to(door: Door) -> None:
    await settled(door)
    before = await contents(door.server)
    anyone = door.under(Policy())

    purged = await anyone.ask("POST", f"{ADA}/$purge")
    expunged = await anyone.ask("POST", f"{ADA}/$expunge")

    assert (purged.status, expunged.status) == (403, 403)
    assert await contents(door.server) == before


async def test_a_purge_leaves_nothing_of_the_patient_and_all_of_the_others(door: Door) -> None:
    await settled(door)
    await door.ask("DELETE", "Observation/later")
    everything = await door.get("_history?_count=100")
    assert f"{ADA}" in str(content(everything))

    reply = await door.ask("POST", f"{ADA}/$purge")

    told = [issue["diagnostics"] for issue in content(reply)["issue"]]
    assert told == [
        "Erased: 6 resources, 13 versions",
        "Kept: 1 resources that belong to others as well",
    ]
    left = set(named(await door.get("_history?_count=100")))
    assert left == {f"{r['resourceType']}/{r['id']}" for r in RECORD} - (
        ADAS - {"Appointment/shared"}
    )
    for name in ADAS - {"Appointment/shared"}:
        assert (await door.get(name)).status == 404
        assert (await door.get(f"{name}/_history/1")).status == 404
    assert named(await door.get(f"Observation?patient={ADA}")) == []


async def test_no_row_of_a_purged_patient_is_left(door: Door) -> None:
    await settled(door)
    await door.ask("POST", f"{ADA}/$purge")

    left = await contents(door.server)

    alive = {row[0] for row in left["resource"]}
    assert {name for name, rows in left.items() if {row[0] for row in rows} - alive} == set()
    assert await faults(door) == []


async def faults(door: Door) -> list[str]:
    """Return what fsck finds."""
    server = door.server.newest()
    looks = consistency.looks(server.database, server.catalogue, repair=False)
    return [finding.fault async for look in looks for finding in look.findings]


async def test_a_purge_erases_what_belonged_to_the_patient_once(door: Door) -> None:
    await settled(door)
    await door.put({**RECORD[6], "subject": {"reference": "Patient/bob"}})

    await door.ask("POST", f"{ADA}/$purge")

    statuses = [(await door.get(f"Observation/score/_history/{n}")).status for n in (1, 2, 3)]
    assert statuses == [404, 404, 200]
    assert await faults(door) == []


async def test_a_purged_id_can_be_used_again(door: Door) -> None:
    await settled(door)
    await door.ask("POST", f"{ADA}/$purge")

    reply = await door.put(RECORD[3])

    assert (reply.status, reply.version) == (201, 1)
    assert named(await door.get(f"Appointment?patient={ADA}")) == ["Appointment/shared"]


async def test_expunge_leaves_the_current_version_alone(door: Door) -> None:
    await settled(door)

    reply = await door.ask("POST", "Observation/score/$expunge")

    (issue,) = content(reply)["issue"]
    assert issue["diagnostics"] == "Erased: 0 resources, 1 versions"
    assert (await door.get("Observation/score")).version == 2
    assert (await door.get("Observation/score/_history/1")).status == 404
    assert len(content(await door.get("Observation/score/_history"))["entry"]) == 1
    assert await faults(door) == []


async def test_expunge_erases_what_was_deleted_altogether(door: Door) -> None:
    await settled(door)
    await door.ask("DELETE", "Observation/bobs")

    reply = await door.ask("POST", "Observation/bobs/$expunge")

    assert content(reply)["issue"][0]["diagnostics"] == "Erased: 1 resources, 3 versions"
    assert (await door.get("Observation/bobs")).status == 404
    assert "bobs" not in str(await contents(door.server))


async def test_what_is_not_there_or_hidden_cannot_be_erased(door: Door) -> None:
    await settled(door)
    hidden = Policy({("Patient", "delete"): Not(All())}, may_erase=True)

    nobody = await door.ask("POST", "Patient/nobody/$purge")
    unseen = await door.under(hidden).ask("POST", f"{ADA}/$purge")

    assert (nobody.status, unseen.status) == (404, 404)
    assert (await door.get(ADA)).status == 200


@pytest.mark.parametrize("url", [f"{ADA}/$purge", "Observation/bobs/$expunge"])
async def test_erasing_drops_the_answers_that_are_kept(door: Door, url: str) -> None:
    await settled(door)
    database, later = door.server.database, door.server.now() + deferred.KEPT
    for id in ("kept", "running"):
        await deferred.add(database, Deferred(id, "ada", 0, later), 9)
    await deferred.finish(database, "kept", b"{}", later)

    reply = await door.ask("POST", url)

    assert reply.status == 200
    assert await deferred.find(database, "kept", "ada") is None
    assert await deferred.find(database, "running", "ada") is not None


@pytest.fixture
async def wordy(settings: Settings) -> AsyncIterator[Door]:
    """The door of a server that keeps the words of all texts."""
    async with build(settings.model_copy(update={"text_search": True})) as server:
        yield Door(server, SYSTEM)


@pytest.mark.parametrize("engine", ["sqlite"])  # whose index of words is a file format of its own
async def test_no_word_of_what_was_erased_is_left_in_the_index_of_words(wordy: Door) -> None:
    await wordy.put({**RECORD[4], "id": "ada", "name": [{"family": "Quetzalcoatl"}]})
    await wordy.put({**RECORD[4], "name": [{"family": "Popocatepetl"}]})
    await wordy.put({**RECORD[4], "name": [{"family": "Xochimilco"}]})

    for url in (f"{ADA}/$purge", "Patient/bob/$expunge"):
        assert (await wordy.ask("POST", url)).status == 200

    blocks = db.Statement("SELECT block FROM index_content_fts_data", ())
    left = await wordy.server.database.read(lambda connection: connection.rows(blocks, {}))
    held = b"".join(block for (block,) in left)
    words = (b"quetzalcoatl", b"popocatepetl", b"xochimilco")
    assert [word in held for word in words] == [False, False, True]
    assert named(await wordy.get("Patient?_content=xochimilco")) == ["Patient/bob"]
    assert await faults(wordy) == []
