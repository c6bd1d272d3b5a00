"""The reference search agrees with every row that was written by hand."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache

import pytest

from app.fhir.definitions import load
from tests.conftest import BASE_URL
from tests.reference.search import World
from tests.search.topics import TOPICS, WRITER, Row, Topic, pairs

# The reference search knows neither terminology nor the grammar of _filter
BEYOND = re.compile(r"_filter=|:(in|not-in)=|\b(class|code|clinical-status):(below|above)=")
CASES = [(topic, row) for topic in TOPICS for row in topic.rows if not BEYOND.search(row.query)]


@cache
def world(topic: Topic) -> World:
    """Return the resources of a topic, written one after the other today."""
    now = datetime.now(UTC)
    read = json.loads(WRITER.encode(topic.resources), parse_float=Decimal)
    written = []
    for n, one in enumerate(read):
        stamp = (now + timedelta(milliseconds=n)).isoformat(timespec="milliseconds")
        written.append({**one, "meta": one.get("meta", {}) | {"lastUpdated": stamp}})
    return World(written, load(), BASE_URL, now)


@pytest.mark.parametrize(
    ("topic", "row"), CASES, ids=[f"{topic.name}-{row.query}" for topic, row in CASES]
)
def test_the_reference_search_finds_what_a_row_says(topic: Topic, row: Row) -> None:
    path, asked = pairs(row.query)
    found = [place.split("/")[1] for place in world(topic).search(path, asked).matches]

    assert (found if row.order else sorted(found)) == (
        row.finds if row.order else sorted(row.finds)
    )
