"""Every row of every topic, on both engines, in each form in which it can be asked."""

import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from app.config import Settings
from tests.conftest import BASE_URL, ENGINES, disposable
from tests.search.asking import found, pages, posted
from tests.search.forms import (
    PARAMETERS,
    chained,
    criteria,
    negated,
    newest_first,
    referrer,
    reversed_chain,
)
from tests.search.topics import TOPICS, WRITER, Refusal, Row, Topic, pairs
from tests.support.application import connected
from tests.support.replies import ids, issue

# A parameter of the scope of the session, equal to itself alone, keeps pytest from going to and fro
# between the shelves: hence a row of its own for each of them.
Shelf = tuple[str, Topic]
SHELVES: list[Shelf] = [(engine, topic) for topic in TOPICS for engine in ENGINES]


def name(value: object) -> str:
    """Return what a test's id shows of a parameter."""
    if isinstance(value, tuple):
        return f"{value[1].name}-{value[0]}"
    return value.query if isinstance(value, Row | Refusal) else str(value)


@pytest.fixture(scope="session")
def shelf(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Topic]]:
    """A database for one topic, kept as long as its rows are asked."""
    engine, topic = request.param
    if engine == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        file = tmp_path_factory.mktemp(topic.name) / "milepost.db"
        yield (
            Settings(database_url=f"sqlite:///{shutil.copy(template, file)}", base_url=BASE_URL),
            topic,
        )
        return
    server = request.getfixturevalue("postgresql_server")
    for url in disposable(server, request.getfixturevalue("postgresql_template")):
        yield Settings(database_url=url, base_url=BASE_URL), topic


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def library(shelf: tuple[Settings, Topic]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that holds the resources of the topic."""
    settings, topic = shelf
    async with connected(settings) as client:
        referrers = map(referrer, topic.resources if topic.referrers else ())
        for resource in (*topic.resources, *referrers):
            url = f"/{resource['resourceType']}/{resource['id']}"
            reply = await client.put(url, content=WRITER.encode(resource))
            assert reply.status_code == 201, (resource["id"], reply.text)
        yield client


@pytest.fixture(scope="session")
def topic(shelf: tuple[Settings, Topic]) -> Topic:
    """The topic whose resources the library holds."""
    return shelf[1]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("shelf", "row"),
    [(shelf, replace(row)) for shelf in SHELVES for row in shelf[1].rows],
    indirect=["shelf"],
    scope="session",
    ids=name,
)
async def test_a_search_finds_this_and_nothing_else(library: httpx.AsyncClient, row: Row) -> None:
    path, asked = pairs(row.query)
    own = [("_id", ",".join(row.finds))] if row.finds else []
    single = [*(pair for pair in asked if pair[0] != "_count"), ("_count", "1")]

    whole = await found(library, path, asked)
    answer = ids(whole)
    forms = {
        "as a form": ids(await posted(library, path, asked)),
        "an entry a page": await pages(library, path, single),
        "and what is always true": ids(
            await found(library, path, [*asked, ("_lastUpdated", "gt1990")])
        ),
        "and the ids of what it finds": ids(await found(library, path, [*asked, *own])),
    }

    assert (answer if row.order else sorted(answer)) == (
        row.finds if row.order else sorted(row.finds)
    ), row.why
    assert forms == dict.fromkeys(forms, answer)
    assert whole.json()["total"] == len(row.finds)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("shelf", "row"),
    [(shelf, replace(row)) for shelf in SHELVES for row in shelf[1].rows if not row.order],
    indirect=["shelf"],
    scope="session",
    ids=name,
)
async def test_a_sorted_search_finds_the_same_page_by_page(
    library: httpx.AsyncClient, topic: Topic, row: Row
) -> None:
    path, asked = pairs(row.query)
    asked = [pair for pair in asked if pair[0] != "_count"]
    answer = ids(await found(library, path, asked))

    newest = await pages(library, path, [*asked, ("_sort", "-_lastUpdated"), ("_count", "2")])
    by_id = await pages(library, path, [*asked, ("_sort", "_id"), ("_count", "2")])

    assert sorted(newest) == by_id == sorted(answer)
    if path.removeprefix("/") in PARAMETERS:  # of one type: nothing was updated since
        assert newest == newest_first(topic, path, answer)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("shelf", "row"),
    [
        (shelf, replace(row))
        for shelf in SHELVES
        for row in shelf[1].rows
        if shelf[1].referrers and criteria(pairs(row.query)[1])
    ],
    indirect=["shelf"],
    scope="session",
    ids=name,
)
async def test_what_is_chained_or_negated_finds_what_follows_from_it(
    library: httpx.AsyncClient, topic: Topic, row: Row
) -> None:
    path, asked = pairs(row.query)
    answer = newest_first(topic, path, ids(await found(library, path, criteria(asked))))
    derived = {
        "at the end of a chain": chained(path, asked, answer),
        "at the end of a reverse chain": reversed_chain(path, asked, answer),
        "negated": negated(topic, path, asked, answer),
    }
    forms = {name: form for name, form in derived.items() if form is not None}

    replies = {
        name: ids(await found(library, form.path, [*form.asked, ("_count", "100")]))
        for name, form in forms.items()
    }

    assert replies == {name: form.finds for name, form in forms.items()}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("shelf", "refusal"),
    [(shelf, replace(refusal)) for shelf in SHELVES for refusal in shelf[1].refused],
    indirect=["shelf"],
    scope="session",
    ids=name,
)
async def test_a_search_that_is_not_understood_is_refused_by_name(
    library: httpx.AsyncClient, refusal: Refusal
) -> None:
    path, asked = pairs(refusal.query)

    by_url = await library.get(path, params=list(asked))
    by_form = await posted(library, path, asked)

    code, text = issue(by_url)
    assert (by_url.status_code, code) == (refusal.status, refusal.code), text
    assert refusal.text in text
    assert (by_form.status_code, issue(by_form)) == (refusal.status, (code, text))
