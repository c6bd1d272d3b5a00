"""search.html#token: what `:in`, `:below` and `:above` know of ValueSets and CodeSystems.

Every write changes it in its own transaction, for whatever depends on the resource as well.
"""

import asyncio
from typing import Any

import httpx
import pytest
from alembic import command

from app.config import Settings
from app.fhir import definitions
from app.fhir.access import SYSTEM, Policy
from app.fhir.query import All, Nothing
from app.fhir.store import membership
from app.main import NotMigrated, alembic_config, build, check_ready
from tests.access.door import Door
from tests.support.application import connected
from tests.support.replies import ids, issue
from tests.support.resources import coded, delete, observation, post, put, transaction

Resource = dict[str, Any]

MOODS = "http://example.org/moods"
ALL_MOODS = "http://example.org/ValueSet/all-moods"
CODES = ("low", "sad", "flat", "glad")
SHIPPED = "http://hl7.org/fhir/ValueSet/administrative-gender"
GENDER = "http://hl7.org/fhir/administrative-gender"


def code_system(*concepts: Resource | str, **changes: Any) -> Resource:
    """Return the CodeSystem of moods with these concepts."""
    listed = [{"code": one} if isinstance(one, str) else one for one in concepts]
    defaults = {"id": "moods", "url": MOODS, "status": "active", "content": "complete"}
    return {"resourceType": "CodeSystem", **defaults, "concept": listed, **changes}


def value_set(*include: Resource, **changes: Any) -> Resource:
    """Return a ValueSet of these includes; without any, of all moods."""
    defaults = {"id": "all-moods", "url": ALL_MOODS, "status": "active"}
    compose = {"include": list(include) or [{"system": MOODS}]}
    return {"resourceType": "ValueSet", **defaults, "compose": compose, **changes}


def chosen(*codes: str, system: str = MOODS) -> Resource:
    """Return an include of single codes."""
    return {"system": system, "concept": [{"code": code} for code in codes]}


def below(code: str) -> Resource:
    """Return an include of what is below a mood."""
    return {"system": MOODS, "filter": [{"property": "concept", "op": "is-a", "value": code}]}


async def store(client: httpx.AsyncClient, *resources: Resource) -> None:
    """Put resources, one request each."""
    for one in resources:
        reply = await client.put(f"/{one['resourceType']}/{one['id']}", json=one)
        assert reply.status_code in (200, 201), reply.text


async def observe(client: httpx.AsyncClient, *codes: str, system: str = MOODS) -> None:
    """Store an Observation for each code, whose id is the code."""
    await store(client, *[observation(id=code, code=coded(code, system)) for code in codes])


async def asked(client: httpx.AsyncClient, query: str) -> httpx.Response:
    """Return the answer to a search of Observations."""
    return await client.get(f"/Observation?{query}")


async def found(client: httpx.AsyncClient, query: str) -> set[str]:
    """Return the codes of the Observations that a search finds."""
    reply = await asked(client, query)
    assert reply.status_code == 200, reply.text
    return set(ids(reply))


async def refused(client: httpx.AsyncClient, query: str) -> tuple[str, str]:
    """Return why a search is refused."""
    reply = await asked(client, query)
    assert reply.status_code == 400, reply.text
    return issue(reply)


# --- value sets --------------------------------------------------------------------------------


async def test_a_value_set_can_be_searched_with_as_it_stands(client: httpx.AsyncClient) -> None:
    await observe(client, *CODES)

    await store(client, value_set(chosen("low", "sad")))
    created = await found(client, f"code:in={ALL_MOODS}")
    await store(client, value_set(chosen("sad", "flat")))
    updated = await found(client, f"code:in={ALL_MOODS}")
    await client.delete("/ValueSet/all-moods")

    assert (created, updated) == ({"low", "sad"}, {"sad", "flat"})
    assert await refused(client, f"code:in={ALL_MOODS}") == (
        "not-found",
        f"No ValueSet {ALL_MOODS} is stored or shipped",
    )


async def test_a_deleted_value_set_may_come_back(client: httpx.AsyncClient) -> None:
    await observe(client, *CODES)
    await store(client, value_set(chosen("low")))
    await client.delete("/ValueSet/all-moods")

    await store(client, value_set(chosen("flat")))

    assert await found(client, f"code:in={ALL_MOODS}") == {"flat"}


async def test_a_value_set_follows_its_code_system(client: httpx.AsyncClient) -> None:
    await observe(client, *CODES)
    await store(client, value_set())
    unknown = await refused(client, f"code:in={ALL_MOODS}")

    await store(client, code_system("low", "sad"))
    created = await found(client, f"code:in={ALL_MOODS}")
    await store(client, code_system("sad", "glad"))
    updated = await found(client, f"code:in={ALL_MOODS}")
    await client.delete("/CodeSystem/moods")

    assert unknown[0] == "not-found"
    assert unknown[1] == (
        f"ValueSet {ALL_MOODS} cannot be expanded: no CodeSystem {MOODS}, from which it selects,"
        " is stored or shipped"
    )
    assert (created, updated) == ({"low", "sad"}, {"sad", "glad"})
    assert await refused(client, f"code:in={ALL_MOODS}") == unknown


async def test_a_value_set_follows_what_it_includes_however_far_away(
    client: httpx.AsyncClient,
) -> None:
    await observe(client, *CODES)
    inner = value_set(below("low"), id="inner", url="urn:inner")
    middle = value_set({"valueSet": ["urn:inner"]}, id="middle", url="urn:middle")
    outer = value_set({"valueSet": ["urn:middle"]}, chosen("glad"), id="outer", url="urn:outer")
    await store(client, outer, middle, inner, code_system("low"))
    await store(client, code_system({"code": "low", "concept": [{"code": "sad"}]}))
    before = await found(client, "code:in=urn:outer")

    await store(client, code_system("sad", {"code": "low", "concept": [{"code": "flat"}]}))

    assert before == {"low", "sad", "glad"}
    assert await found(client, "code:in=urn:outer") == {"low", "flat", "glad"}


async def test_a_value_set_that_changes_its_url_leaves_the_old_one(
    client: httpx.AsyncClient,
) -> None:
    await observe(client, *CODES)
    outer = value_set({"valueSet": [ALL_MOODS]}, id="outer", url="urn:outer")
    await store(client, value_set(chosen("low")), outer)

    await store(client, value_set(chosen("low"), url="urn:new"))

    assert await found(client, "code:in=urn:new") == {"low"}
    assert (await refused(client, f"code:in={ALL_MOODS}"))[0] == "not-found"
    assert (await refused(client, "code:in=urn:outer"))[0] == "not-found"


async def test_versions_are_picked_by_name_else_the_newest_counts(
    client: httpx.AsyncClient,
) -> None:
    await observe(client, *CODES)
    await store(
        client,
        value_set(chosen("low"), id="ten", version="1.10"),
        value_set(chosen("sad"), id="nine", version="1.9"),
    )

    assert await found(client, f"code:in={ALL_MOODS}") == {"low"}
    assert await found(client, f"code:in={ALL_MOODS}|1.9") == {"sad"}
    assert (await refused(client, f"code:in={ALL_MOODS}|1.8"))[0] == "not-found"


async def test_a_stored_value_set_goes_before_a_shipped_one(client: httpx.AsyncClient) -> None:
    await observe(client, "male", "other", system=GENDER)
    own = value_set(chosen("other", system=GENDER), url=SHIPPED, version="1")
    shipped = await found(client, f"code:in={SHIPPED}")

    await store(client, own)
    stored = await found(client, f"code:in={SHIPPED}")
    await client.delete("/ValueSet/all-moods")

    assert (shipped, stored) == ({"male", "other"}, {"other"})
    assert await found(client, f"code:in={SHIPPED}") == shipped
    assert await found(client, f"code:in={SHIPPED}|4.0.1") == shipped


async def test_a_shipped_value_set_becomes_known_with_its_code_system(
    client: httpx.AsyncClient,
) -> None:
    await observe(client, "dog", system="http://snomed.info/sct")
    url = "http://hl7.org/fhir/ValueSet/procedure-code"  # what is below 71388002 in SNOMED CT
    concept = {"code": "71388002", "concept": [{"code": "dog"}]}
    before = await refused(client, f"code:in={url}")

    await store(client, code_system(concept, url="http://snomed.info/sct"))

    assert before[0] == "not-supported"
    assert await found(client, f"code:in={url}") == {"dog"}


async def test_a_code_system_names_the_value_set_of_all_its_codes(
    client: httpx.AsyncClient,
) -> None:
    await observe(client, *CODES)

    await store(client, code_system("sad", "flat", valueSet=ALL_MOODS))

    assert await found(client, f"code:in={ALL_MOODS}") == {"sad", "flat"}


async def test_implicit_value_sets_of_snomed_ct_are_refused_by_name(
    client: httpx.AsyncClient,
) -> None:
    code, text = await refused(client, "code:in=http://snomed.info/sct?fhir_vs%3Disa/404684003")

    assert code == "not-supported"
    assert text.endswith("the implicit value sets of SNOMED CT are not supported")


# --- hierarchies -------------------------------------------------------------------------------


async def test_a_hierarchy_is_that_of_the_code_system_as_it_stands(
    client: httpx.AsyncClient,
) -> None:
    await observe(client, *CODES)
    low = {"code": "low", "concept": [{"code": "sad"}, {"code": "flat"}]}
    unknown = await refused(client, f"code:below={MOODS}|low")

    await store(client, code_system(low))
    created = await found(client, f"code:below={MOODS}|low")
    above = await found(client, f"code:above={MOODS}|sad")
    await store(client, code_system({**low, "concept": [{"code": "glad"}]}))
    updated = await found(client, f"code:below={MOODS}|low")
    await client.delete("/CodeSystem/moods")

    assert unknown == ("not-found", f"No CodeSystem {MOODS} is stored or shipped")
    assert (created, above) == ({"low", "sad", "flat"}, {"low", "sad"})
    assert updated == {"low", "glad"}
    assert await refused(client, f"code:below={MOODS}|low") == unknown


async def test_of_two_versions_of_a_code_system_the_newest_counts_alone(
    client: httpx.AsyncClient,
) -> None:
    await observe(client, *CODES)
    one = code_system({"code": "low", "concept": [{"code": "sad"}]}, id="one", version="1")
    two = code_system({"code": "low", "concept": [{"code": "flat"}]}, id="two", version="2")

    await store(client, two, one)

    assert await found(client, f"code:below={MOODS}|low") == {"low", "flat"}


async def test_a_code_system_without_concepts_has_no_hierarchy(client: httpx.AsyncClient) -> None:
    code, text = await refused(client, "code:below=http://snomed.info/sct|404684003")

    assert code == "not-supported"
    assert text.endswith("http://snomed.info/sct is not known: it lists no concepts")


# --- transactions ------------------------------------------------------------------------------


async def test_one_transaction_may_bring_both_and_use_them(client: httpx.AsyncClient) -> None:
    await observe(client, *CODES)
    both = transaction(post(value_set()), post(code_system("low", "flat")))

    reply = await client.post("/", json=both)

    assert reply.status_code == 200, reply.text
    assert await found(client, f"code:in={ALL_MOODS}") == {"low", "flat"}


async def test_a_refused_transaction_changes_no_member(client: httpx.AsyncClient) -> None:
    await observe(client, *CODES)
    await store(client, value_set(), code_system("low"))
    doomed = transaction(
        put(code_system("sad")),
        delete("ValueSet/all-moods"),
        put(observation(id="low"), ifMatch='W/"9"'),
    )

    reply = await client.post("/", json=doomed)

    assert reply.status_code == 412
    assert await found(client, f"code:in={ALL_MOODS}") == {"low"}


async def test_writers_at_once_leave_no_stale_member(settings: Settings) -> None:
    rounds = 6
    async with connected(settings) as one, connected(settings) as other:
        await observe(one, *CODES)
        for n in range(rounds):
            await store(
                one,
                code_system("low", id=f"s{n}", url=f"{MOODS}/{n}"),
                value_set(chosen("x"), id=f"v{n}", url=f"urn:{n}"),
            )

        await asyncio.gather(
            *[
                store(client, written)
                for n in range(rounds)
                for client, written in (
                    (one, code_system("low", "sad", id=f"s{n}", url=f"{MOODS}/{n}")),
                    (other, value_set({"system": f"{MOODS}/{n}"}, id=f"v{n}", url=f"urn:{n}")),
                )
            ]
        )

        for n in range(rounds):
            await store(one, observation(id=f"o{n}", code=coded("sad", f"{MOODS}/{n}")))
            assert await found(other, f"code:in=urn:{n}") == {f"o{n}"}


# --- who may see it ----------------------------------------------------------------------------


async def test_a_hidden_value_set_is_an_unknown_one(settings: Settings) -> None:
    hiding = Policy({("ValueSet", "read"): Nothing(), ("ValueSet", "search"): Nothing()}, All())
    async with build(settings) as server:
        door = Door(server, SYSTEM)
        for one in (
            value_set(chosen("low")),
            value_set(chosen("low"), id="gender", url=SHIPPED),
            observation(id="low", code=coded("low", MOODS)),
            observation(id="male", code=coded("male", GENDER)),
        ):
            assert (await door.put(one)).status == 201
        blind = door.under(hiding)

        seen = await door.get(f"Observation?code:in={ALL_MOODS}&_elements=id")
        unseen = await blind.get(f"Observation?code:in={ALL_MOODS}")
        by_id = await blind.get("Observation?code:in=ValueSet/all-moods")
        own = await door.get(f"Observation?code:in={SHIPPED}&_elements=id")
        shipped = await blind.get(f"Observation?code:in={SHIPPED}&_elements=id")

    assert (b"Observation/low" in seen.body, unseen.status, by_id.status) == (True, 400, 400)
    assert (b"Observation/low" in own.body, b"Observation/male" in own.body) == (True, False)
    assert b"Observation/male" in shipped.body
    assert b"Observation/low" not in shipped.body


async def test_a_hidden_code_system_lends_no_hierarchy(settings: Settings) -> None:
    hiding = Policy({("CodeSystem", "read"): Nothing(), ("CodeSystem", "search"): Nothing()}, All())
    clinical = "http://terminology.hl7.org/CodeSystem/condition-clinical"
    own = code_system({"code": "active", "concept": [{"code": "low"}]}, url=clinical)
    async with build(settings) as server:
        door = Door(server, SYSTEM)
        for one in (own, *[observation(id=c, code=coded(c, clinical)) for c in ("low", "relapse")]):
            assert (await door.put(one)).status == 201

        seen = await door.get(f"Observation?code:below={clinical}|active&_elements=id")
        unseen = await door.under(hiding).get(
            f"Observation?code:below={clinical}|active&_elements=id"
        )

    assert (b"Observation/low" in seen.body, b"Observation/relapse" in seen.body) == (True, False)
    assert (b"Observation/low" in unseen.body, b"Observation/relapse" in unseen.body) == (
        False,
        True,
    )


# --- what is shipped ---------------------------------------------------------------------------


def test_a_server_does_not_start_without_what_is_shipped(empty_database_url: str) -> None:
    command.upgrade(alembic_config(empty_database_url), "head")

    with pytest.raises(NotMigrated, match="Run: milepost migrate"):
        asyncio.run(check_ready(Settings(database_url=empty_database_url)))


async def test_installing_again_replaces_what_is_shipped_and_keeps_what_is_stored(
    settings: Settings,
) -> None:
    async with connected(settings) as client:
        await observe(client, "male", "low", system=GENDER)
        await store(client, value_set({"valueSet": [SHIPPED]}, chosen("low", system=GENDER)))
    async with build(settings) as server:
        await membership.install(server.database, definitions.load())
        again = await membership.installed(server.database)

    async with connected(settings) as client:
        assert again
        assert await found(client, f"code:in={SHIPPED}") == {"male"}
        assert await found(client, f"code:in={ALL_MOODS}") == {"male", "low"}
