"""The server finds what a slow and simple search finds: the same resources in the same order.

`REFERENCE_EXAMPLES=1000 pytest tests/properties/test_reference.py` looks at other worlds, and more.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from tests.access.door import Door, content, named, next_link
from tests.properties.conftest import DATABASE, START, fresh
from tests.reference.asking import Asking
from tests.reference.search import Found, Pairs, World
from tests.reference.worlds import MAKERS, Dice, made
from tests.support.resources import put, transaction

EXAMPLES = os.environ.get("REFERENCE_EXAMPLES", "")
# A world is made smaller by leaving out what does not matter (`smallest`): quicker than shrinking
MANY = settings(
    DATABASE,
    max_examples=int(EXAMPLES or 60),
    derandomize=not EXAMPLES,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
PAGE = 2

Body = dict[str, Any]
Answer = tuple[Found, int, str, Found]

numbers = st.integers(0, 2**32 - 1)
kinds = st.sampled_from([*MAKERS, "Patient", "Observation", "Observation"])
resources = st.lists(st.tuples(kinds, numbers), min_size=6, max_size=24)
questions = st.lists(numbers, min_size=4, max_size=12, unique=True)


async def stored(door: Door, bodies: Sequence[Body]) -> World:
    """Return the world of these resources as an empty server has stored them, type by type."""
    written = []
    for _, group in groupby(bodies, lambda body: body["resourceType"]):
        some = list(group)
        reply = await door.ask("POST", "", transaction(*(put(body) for body in some)))
        assert reply.status == 200, reply.body
        for body, entry in zip(some, content(reply)["entry"], strict=True):
            stamp = {"lastUpdated": entry["response"]["lastModified"]}
            text = json.dumps({**body, "meta": body.get("meta", {}) | stamp})
            written.append(json.loads(text, parse_float=Decimal))
    now = datetime.fromtimestamp(START / 1e6, UTC)
    return World(written, door.server.definitions, door.server.base_url, now)


async def page(door: Door, url: str) -> tuple[Found, int, str]:
    """Return what one page finds and includes, the total that it tells, and the next link."""
    reply = await door.get(url)
    if reply.status != 200:
        return Found([f"{reply.status} {reply.body.decode()}"], set()), 0, ""
    bundle = content(reply)
    modes = [entry["search"]["mode"] for entry in bundle.get("entry", ())]
    entries = list(zip(modes, named(reply), strict=True))
    assert len(set(entries)) == len(entries)
    found = Found(
        [name for mode, name in entries if mode == "match"],
        {name for mode, name in entries if mode == "include"},
    )
    return found, bundle["total"], next_link(reply)


async def walked(door: Door, url: str) -> Found:
    """Return what all pages find and include, less what one finds and another includes."""
    matches: list[str] = []
    included: set[str] = set()
    while url and len(matches) < 100:
        found, _, url = await page(door, url)
        matches += found.matches
        included |= found.included
    return Found(matches, included - set(matches))


async def answers(door: Door, world: World, path: str, pairs: Pairs) -> tuple[Answer, Answer]:
    """Return what the server answers, on one page and on several, and what it should."""
    asked = f"{path}?{urlencode([*pairs, ('_total', 'accurate')], quote_via=quote)}"
    whole = await page(door, f"{asked}&_count=1000")
    pages = await walked(door, f"{asked}&_count={PAGE}")
    expected = world.search(path, pairs)
    return (*whole, pages), (expected, len(expected.matches), "", expected)


async def smallest(door: Door, bodies: Sequence[Body], path: str, pairs: Pairs) -> list[Body]:
    """Return those of the resources without which the two searches would agree."""
    kept = list(bodies)
    for body in bodies:
        fewer = [one for one in kept if one is not body]
        server, reference = await answers(door, await stored(await fresh(door), fewer), path, pairs)
        kept = kept if server == reference else fewer
    return kept


@MANY
@given(resources=resources, questions=questions)
async def test_the_server_finds_what_the_reference_search_finds(
    door: Door, resources: list[tuple[str, int]], questions: list[int]
) -> None:
    bodies = made(resources)
    door = await fresh(door)
    world = await stored(door, bodies)
    asking = Asking(world)

    for question in questions:
        path, pairs = asking.search(Dice((question, resources)))
        server, reference = await answers(door, world, path, pairs)
        if server != reference:
            for body in await smallest(door, bodies, path, pairs):
                note(json.dumps(body))
        assert server == reference, (path, pairs)
