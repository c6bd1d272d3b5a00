"""The same requests have the same answers on SQLite and on PostgreSQL."""

import re

import pytest
from hypothesis import given

from app.fhir.interaction import Reply
from tests.access.door import Door
from tests.access.world import POLICIES
from tests.properties.conftest import DATABASE, fresh
from tests.properties.operations import Operation, operations
from tests.properties.test_searches import Pair, queries, url

READS = [
    *("Patient", "Observation", "Encounter", "Appointment", "Group"),
    *(f"{kind}/{id}" for kind, id in [("Patient", "p1"), ("Observation", "o1"), ("Group", "g1")]),
    *("Patient/p1/_history/1", "Patient/p1/_history/2", "Observation/o1/_history/1"),
    *("Patient/p1/_history", "Observation/o1/_history", "Observation/_history", "_history"),
    *("Observation?patient=p1", "Observation?code=one&_count=2", "Appointment?patient=p2"),
    *("Observation?date=ge2020-02-29", "Patient?name=marsh", "_history?_count=2"),
]
# What may differ: the keys in a cursor. The order of creation is that of the keys, which a refused
# request leaves behind on PostgreSQL
CURSOR = re.compile(rb"_cursor=[^\"&]*")


def told(reply: Reply) -> tuple[object, ...]:
    """Return what a client learns from a reply."""
    body = CURSOR.sub(b"_cursor=", reply.body)
    return (reply.status, body, reply.version, reply.updated, reply.location, dict(reply.extra))


async def answers(door: Door, sequence: list[Operation], reads: list[str]) -> list[object]:
    """Return the answers to all writes, and to reads after them."""
    door = await fresh(door)
    written = [told(await operation.at(door)) for operation in sequence]
    return [*written, *[told(await door.get(read)) for read in reads]]


@DATABASE
@given(sequence=operations())
async def test_both_engines_answer_every_request_alike(
    twins: tuple[Door, Door], sequence: list[Operation]
) -> None:
    one, other = [await answers(door, sequence, READS) for door in twins]

    assert one == other


@DATABASE
@given(sequence=operations(), query=queries)
async def test_both_engines_find_the_same(
    twins: tuple[Door, Door], sequence: list[Operation], query: list[Pair]
) -> None:
    one, other = [await answers(door, sequence, [url("Observation", query)]) for door in twins]

    assert one == other


@pytest.mark.parametrize("name", sorted(POLICIES))
@DATABASE
@given(sequence=operations())
async def test_both_engines_hide_the_same(
    twins: tuple[Door, Door], name: str, sequence: list[Operation]
) -> None:
    policy, _ = POLICIES[name]
    one, other = [await answers(door.under(policy), sequence, READS) for door in twins]

    assert one == other
