"""`_text` and `_content`: searches by the words of the narrative, and of the whole resource.

https://hl7.org/fhir/R4/search.html#text
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.config import Settings
from app.fhir.access import SYSTEM, Policy
from app.fhir.query import Match, Not
from app.fhir.store import maintenance
from app.fhir.values import Token
from app.main import build
from tests.access.door import Door, named
from tests.conftest import BASE_URL
from tests.rest import integrity
from tests.search.asking import found, pages, posted
from tests.support.application import connected
from tests.support.replies import ids, issue
from tests.support.resources import observation, patient, reference

Resource = dict[str, Any]
Command = Callable[..., Result]


def told(xhtml: str) -> Resource:
    """Return a narrative."""
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">{xhtml}</div>'
    return {"status": "generated", "div": div}


ADA = patient(
    id="ada",
    text=told("<p>Ada slept <b>b</b>adly,<br/>the <i>Café</i> was loud.</p><p>Mood: low</p>"),
)
BOB = patient(
    id="bob",
    text=told("Bob slept well &amp; went to a cafe"),
    name=[{"family": "Großmann", "text": "Bob_the-Builder O&apos;Neil 山田"}],
    photo=[{"title": "On the beach", "contentType": "image/png", "data": "c2VjcmV0"}],
    contained=[{"resourceType": "Organization", "id": "c", "name": "C", "text": told("Harbour")}],
    managingOrganization=reference("#c"),
)
EVE = patient(id="eve", name=[{"family": "Lowe"}], gender="other")
MINE = observation(
    id="mine", subject=reference(ADA), code={"text": "Sleep"}, note=[{"text": "Restless night"}]
)
ALL = [ADA, BOB, EVE, MINE]


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of a server that searches by words."""
    return Settings(database_url=database_url, base_url=BASE_URL, text_search=True)


@pytest.fixture
async def record(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server that has ALL."""
    for body in ALL:
        await put(client, body)
    return client


@pytest.fixture
def run(database_url: str) -> Command:
    """Run `milepost ARGUMENTS` on this test's database, with or without words."""

    def run(*arguments: str, texts: bool = True) -> Result:
        given = {"DATABASE_URL": database_url, "BASE_URL": BASE_URL, "TEXT_SEARCH": str(texts)}
        env = {f"MILEPOST_{name}": value for name, value in given.items()} | {"COLUMNS": "200"}
        return CliRunner().invoke(app, list(arguments), env=env)

    return run


async def put(client: httpx.AsyncClient, body: Resource) -> None:
    """Update a resource."""
    reply = await client.put(f"/{body['resourceType']}/{body['id']}", json=body)
    assert reply.status_code in (200, 201), reply.text


# A search, and the ids that it finds
FINDS = {
    # one word, whatever its case and accents; never a part of one
    "Patient?_text=slept": "ada bob",
    "Patient?_text=SLEPT": "ada bob",
    "Patient?_text=sle": "",
    "Patient?_text=cafe": "ada bob",
    "Patient?_text=CAFÉ": "ada bob",
    "Patient?_text=caf%65%CC%81": "ada bob",
    "Patient?_content=grossmann": "bob",
    "Patient?_content=GROẞMANN": "bob",
    "Patient?_content=山田": "bob",
    "Patient?_content=1985": "ada bob eve",
    # all of them, in any order
    "Patient?_text=slept badly": "ada",
    "Patient?_text=low ada": "ada",
    "Patient?_text=badly well": "",
    "Patient?_text=slept&_text=well": "bob",
    "Patient?_text=slept and went": "",
    # one of several
    "Patient?_text=badly,well": "ada bob",
    "Patient?_text=badly low,nothing": "ada",
    "Patient?_text=nothing,nobody": "",
    "Patient?_text=slept or badly": "",
    # what is not a letter or a digit parts words, and elements of XHTML that stand alone do
    "Patient?_text=badly,the": "ada",
    "Patient?_text=b": "",
    "Patient?_text=low": "ada",
    "Patient?_text=loud mood": "ada",
    "Patient?_text=loudmood": "",
    "Patient?_text=p": "",
    "Patient?_text=amp": "",
    "Patient?_text=div": "",
    "Patient?_text=xmlns": "",
    "Patient?_content=builder": "bob",
    "Patient?_content=the-builder_bob": "bob",
    'Patient?_content="bob"*': "bob",
    "Patient?_content=bob:the": "bob",
    "Patient?_content=NOT (bob)": "",
    # the narrative is a part of the content; other resources in it are of the content alone
    "Patient?_text=marsh": "",
    "Patient?_content=marsh": "ada",
    "Patient?_content=badly": "ada",
    "Patient?_text=harbour": "",
    "Patient?_content=harbour": "bob",
    "Patient?_content=div": "",
    "Patient?_content=beach": "bob",
    "Patient?_content=low": "ada",
    "Patient?_content=c2VjcmV0": "",
    # of one type, beside other criteria, and as a filter
    "Observation?_content=restless": "mine",
    "Patient?_content=restless": "",
    "Patient?_text=slept&gender=female": "ada bob",
    "Patient?_text=slept&_id=bob": "bob",
    "Patient?_text=slept&_content=grossmann": "bob",
    'Patient?_filter=_text co "slept well"': "bob",
    'Patient?_filter=not(_content co slept)': "eve",
    'Patient?_filter=_text co badly or name eq "lowe"': "ada eve",
    "?_type=Patient,Observation&_content=restless,lowe": "eve mine",
    "Patient/ada/Observation?_content=night": "mine",
    # at the end of a chain
    "Observation?patient._text=badly": "mine",
    "Observation?patient._text=well": "",
    "Observation?subject:Patient._content=marsh low": "mine",
    "Patient?_has:Observation:patient:_content=restless": "ada",
    "Patient?_has:Observation:patient:_content=restless,sleep&_text=low": "ada",
    "Patient?_has:Observation:patient:_text=restless": "",
}  # fmt: skip


async def test_words_are_found(record: httpx.AsyncClient) -> None:
    answers = {url: " ".join(sorted(ids(await record.get(f"/{url}")))) for url in FINDS}

    assert answers == FINDS


async def test_what_is_found_is_counted_and_sorted(record: httpx.AsyncClient) -> None:
    for sort, order in {"family": ["bob", "ada"], "-family": ["ada", "bob"]}.items():
        reply = await found(
            record, "/Patient", [("_text", "slept"), ("_sort", sort), ("_total", "accurate")]
        )

        assert (ids(reply), reply.json()["total"]) == (order, 2)


@pytest.mark.parametrize("sort", ["", "_id", "-family", "birthdate"])
async def test_every_page_goes_on_after_the_one_before(
    client: httpx.AsyncClient, sort: str
) -> None:
    for n in range(7):
        text = told("even" if n % 2 else "odd number")
        await put(client, patient(id=f"p{n}", name=[{"family": f"F{n}"}], text=text))
    asked = [("_text", "odd,even"), ("_count", "2"), *([("_sort", sort)] if sort else [])]

    some = await pages(client, "/Patient", [("_text", "number"), *asked[1:]])
    everything = await pages(client, "/Patient", asked)

    assert sorted(some) == ["p0", "p2", "p4", "p6"]
    assert sorted(everything) == [f"p{n}" for n in range(7)]
    assert some == [id for id in everything if id in some]


async def test_what_many_have_is_found_by_a_rarer_criterion(client: httpx.AsyncClient) -> None:
    for n in range(30):
        await put(client, patient(id=f"p{n}", text=told("common"), birthDate=f"19{n + 60}-01-01"))

    reply = await found(client, "/Patient", [("_text", "common"), ("birthdate", "1975")])

    assert ids(reply) == ["p15"]


async def test_an_update_replaces_the_words(record: httpx.AsyncClient) -> None:
    await put(record, {**ADA, "text": told("Ada is well")})
    await put(record, {name: value for name, value in BOB.items() if name != "text"})

    after = {
        "_text=badly": "",
        "_content=badly": "",
        "_text=well": "ada",
        "_text=bob": "",
        "_content=bob": "bob",
    }
    answers = {url: " ".join(ids(await record.get(f"/Patient?{url}"))) for url in after}

    assert answers == after


async def test_what_is_deleted_is_not_found_and_leaves_no_words(
    record: httpx.AsyncClient, database_url: str
) -> None:
    for body in reversed(ALL):
        await record.delete(f"/{body['resourceType']}/{body['id']}")

    replies = [await found(record, "/Patient", [(p, "slept")]) for p in ("_text", "_content")]
    left = await integrity.rows(database_url)

    assert [ids(reply) for reply in replies] == [[], []]
    assert (left["index_text"], left["index_content"]) == (0, 0)
    await put(record, ADA)
    assert ids(await found(record, "/Patient", [("_text", "slept")])) == ["ada"]


async def test_a_write_that_is_refused_leaves_no_words(
    client: httpx.AsyncClient, database_url: str
) -> None:
    entries = [
        {"resource": ADA, "request": {"method": "PUT", "url": "Patient/ada"}},
        {"request": {"method": "DELETE", "url": "Patient?x=1"}},
    ]
    body = {"resourceType": "Bundle", "type": "transaction", "entry": entries}

    reply = await client.post("", json=body)

    assert reply.status_code >= 400
    assert (await integrity.rows(database_url))["index_text"] == 0


async def test_the_index_of_sqlite_holds_what_its_tables_hold(
    record: httpx.AsyncClient, database_url: str
) -> None:
    if not database_url.startswith("sqlite:///"):
        pytest.skip("PostgreSQL keeps its index itself")
    await put(record, {**ADA, "text": told("Ada is well")})
    await record.delete("/Patient/bob")

    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as file:
        for name in ("index_text_fts", "index_content_fts"):  # raises where they differ
            file.execute(f"INSERT INTO {name} ({name}, rank) VALUES ('integrity-check', 1)")


async def test_long_texts_are_found_by_their_first_words(client: httpx.AsyncClient) -> None:
    word = "ä" * 5000
    many = " ".join(f"word{n}山" for n in range(70_000))
    note = [{"text": f"begin {word} {many} end"}]
    await put(client, observation(id="long", note=note))

    async def finds(text: str) -> list[str]:
        return ids(await posted(client, "/Observation", [("_content", text)]))

    assert await finds(f"begin {word} word7山") == ["long"]
    assert await finds("ä") == []
    assert await finds("word69999山") == []


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("Patient?_text=-", "value"),
        ("Patient?_text=a,,b", "value"),
        ("Patient?_content=%CC%81", "value"),
        (f"Patient?_content={'+'.join(f'w{n}' for n in range(51))}", "value"),
        ("Patient?_text:exact=a", "not-supported"),
        ("Patient?_text:missing=true", "not-supported"),
        ("Patient?_content:contains=a", "not-supported"),
        ("Patient?_sort=_text", "not-supported"),
        ("Patient?_sort=-_content", "not-supported"),
        ("Bundle?_text=a", "not-supported"),
        ("Patient?_filter=_text gt a", "not-supported"),
        ("Patient?_filter=_text pr true", "not-supported"),
    ],
)
async def test_what_words_cannot_say_is_refused(
    client: httpx.AsyncClient, url: str, code: str
) -> None:
    reply = await client.get(f"/{url}")

    assert (reply.status_code, issue(reply)[0]) == (400, code)


def listed(statement: dict[str, Any], type: str) -> set[str]:
    """Return which of both parameters a CapabilityStatement lists for a type."""
    (one,) = [one for one in statement["rest"][0]["resource"] if one["type"] == type]
    return {p["name"] for p in one["searchParam"]} & {"_text", "_content"}


async def test_the_capabilities_list_both(client: httpx.AsyncClient) -> None:
    statement = (await client.get("/metadata")).json()

    assert listed(statement, "Patient") == {"_text", "_content"}
    assert listed(statement, "Bundle") == {"_content"}


async def test_without_the_setting_both_are_refused_and_nothing_is_kept(
    settings: Settings, database_url: str
) -> None:
    async with connected(settings.model_copy(update={"text_search": False})) as client:
        await put(client, ADA)
        replies = [await client.get(f"/Patient?{p}=ada") for p in ("_text", "_content")]
        statement = (await client.get("/metadata")).json()
    kept = await integrity.rows(database_url)

    assert [reply.status_code for reply in replies] == [400, 400]
    assert ["MILEPOST_TEXT_SEARCH" in issue(reply)[1] for reply in replies] == [True, True]
    assert listed(statement, "Patient") == set()
    assert (kept["index_text"], kept["index_content"]) == (0, 0)


# --- who may find it -----------------------------------------------------------------------------

HARBOUR = {"tag": [{"system": "urn:x", "code": "hidden"}]}
SHOWN = Policy(otherwise=Not(Match("_tag", "token", (Token("urn:x", "hidden"),))))


@pytest.fixture
async def door(settings: Settings) -> AsyncIterator[Door]:
    """The door of somebody who may do everything; Bob is hidden from others."""
    async with build(settings) as server:
        door = Door(server, SYSTEM)
        for body in (ADA, {**BOB, "meta": HARBOUR}, MINE, {**MINE, "id": "his",
                     "subject": reference(BOB)}):  # fmt: skip
            reply = await door.put(body)
            assert reply.status in (200, 201), reply.body
        yield door


async def test_what_is_hidden_is_not_found_by_its_words(door: Door) -> None:
    urls = ["Patient?_text=slept", "Patient?_content=grossmann", "Observation?patient._text=slept"]

    everything = [sorted(named(await door.get(url))) for url in urls]
    shown = [sorted(named(await door.under(SHOWN).get(url))) for url in urls]

    assert everything == [
        ["Patient/ada", "Patient/bob"],
        ["Patient/bob"],
        ["Observation/his", "Observation/mine"],
    ]
    assert shown == [["Patient/ada"], [], ["Observation/mine"]]


async def test_a_mask_of_the_type_hides_both_parameters(door: Door) -> None:
    masked = door.under(Policy(mask={"Patient": frozenset({"Patient.birthDate"})}))
    urls = ["Patient?_text=slept", "Patient?_content=1985", "Observation?patient._text=slept"]

    answers = [(await masked.get(url)).status for url in urls]
    others = [(await masked.get("Observation?_content=restless")).status]

    assert answers == [400, 400, 400]
    assert others == [200]


# --- turned on later, and off --------------------------------------------------------------------


async def written(settings: Settings, *bodies: Resource) -> None:
    """Write resources by a server of its own."""
    async with connected(settings) as client:
        for body in bodies:
            await put(client, body)


@pytest.fixture
def off(settings: Settings) -> Settings:
    """The settings of a server on the same database that knows nothing of words."""
    return settings.model_copy(update={"text_search": False})


async def finds(settings: Settings, text: str) -> list[str]:
    """Return the ids of the Patients that a server finds by the words of their narrative."""
    async with connected(settings) as client:
        return sorted(ids(await found(client, "/Patient", [("_text", text)])))


def test_turned_on_later_it_needs_a_reindex(
    run: Command, settings: Settings, off: Settings, database_url: str
) -> None:
    asyncio.run(written(off, ADA, BOB))

    refused = run("load", __file__)
    result = run("reindex")
    answer = asyncio.run(finds(settings, "slept"))

    assert (refused.exit_code, "milepost reindex" in refused.stderr) == (1, True)
    assert result.exit_code == 0, result.output
    assert answer == ["ada", "bob"]
    assert asyncio.run(integrity.broken(database_url)) == {}
    assert run("fsck").exit_code == 0


def test_what_was_written_without_it_needs_a_reindex_again(
    run: Command, settings: Settings, off: Settings
) -> None:
    asyncio.run(written(settings, ADA, BOB))
    asyncio.run(written(off, {**ADA, "text": told("Ada wept")}, EVE))

    refused = run("load", __file__)
    result = run("reindex")

    assert (refused.exit_code, "milepost reindex" in refused.stderr) == (1, True)
    assert result.exit_code == 0, result.output
    assert asyncio.run(finds(settings, "slept")) == ["bob"]
    assert asyncio.run(finds(settings, "wept")) == ["ada"]


def test_a_reindex_without_it_takes_the_words_away(
    run: Command, settings: Settings, database_url: str
) -> None:
    asyncio.run(written(settings, ADA, BOB))

    result = run("reindex", texts=False)
    left = asyncio.run(integrity.rows(database_url))

    assert result.exit_code == 0, result.output
    assert (left["index_text"], left["index_content"]) == (0, 0)


def test_a_reindex_that_began_without_it_begins_again(
    run: Command, settings: Settings, off: Settings
) -> None:
    async def begin() -> None:
        """Index Patients, as far as there are some, and stop before the rest."""
        async with build(off, maintaining=True) as server:
            walk = maintenance.anew(server.database, server.catalogue, "me", server.now)
            async for _ in walk:
                break
            await walk.aclose()  # type: ignore[attr-defined]

    asyncio.run(written(off, MINE, ADA, BOB))
    asyncio.run(begin())

    result = run("reindex")

    assert result.exit_code == 0, result.output
    assert asyncio.run(finds(settings, "slept")) == ["ada", "bob"]


def test_an_empty_database_needs_no_reindex(settings: Settings) -> None:
    assert asyncio.run(finds(settings, "slept")) == []
