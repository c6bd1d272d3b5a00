"""The same requests have the same answers on SQLite and on PostgreSQL."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from app.fhir.access import EVERYTHING, Policy
from app.fhir.interaction import Reply
from app.fhir.query import All, And, Match, Member, Not, Nothing, Or, Query
from app.fhir.values import Token
from tests.access.door import Door
from tests.properties.conftest import DATABASE, fresh
from tests.properties.operations import Operation, operations, some
from tests.properties.test_searches import Pair, queries, url

READS = [
    *("Patient", "Observation", "Encounter", "Appointment", "Group"),
    *(f"{kind}/{id}" for kind, id in [("Patient", "p1"), ("Observation", "o1"), ("Group", "g1")]),
    *("Patient/p1/_history/1", "Patient/p1/_history/2", "Observation/o1/_history/1"),
    *("Patient/p1/_history", "Observation/o1/_history", "Observation/_history", "_history"),
    *("Observation?patient=p1", "Observation?code=one&_count=2", "Appointment?patient=p2"),
    *("Observation?date=ge2020-02-29", "Patient?name=marsh", "_history?_count=2"),
]
leaves = some(
    Member("Patient", "p1"),
    Member("Patient", "p2"),
    Member("Encounter", "e1"),
    Member("Patient", "nobody"),
    Match("_tag", "token", (Token("urn:a", "one"), Token(None, "two"))),
    Match("_id", "token", ("p1", "o1", "a2")),
    All(),
    Nothing(),
)
trees: st.SearchStrategy[Query] = st.recursive(
    leaves,
    lambda part: (
        st.builds(Not, part)
        | st.builds(And, st.tuples(part, part))
        | st.builds(Or, st.tuples(part, part))
    ),
    max_leaves=4,
)

# What may differ: the keys in a cursor. The order of creation is that of the keys, which a refused
# request leaves behind on PostgreSQL
CURSOR = re.compile(rb"_cursor=[^\"&]*")


def told(reply: Reply) -> tuple[object, ...]:
    """Return what a client learns from a reply."""
    body = CURSOR.sub(b"_cursor=", reply.body)
    return (reply.status, body, reply.version, reply.updated, reply.location, dict(reply.extra))


async def answers(
    door: Door, sequence: list[Operation], reads: list[str], policy: Policy = EVERYTHING
) -> list[object]:
    """Return the answers to all writes, and to what somebody with that policy reads after them."""
    door = await fresh(door)
    written = [told(await operation.at(door)) for operation in sequence]
    somebody = door.under(policy)
    return [*written, *[told(await somebody.get(read)) for read in reads]]


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


@settings(DATABASE, max_examples=20)  # a statement about all types is slow to build
@given(sequence=operations(), tree=trees)
async def test_both_engines_hide_the_same(
    twins: tuple[Door, Door], sequence: list[Operation], tree: Query
) -> None:
    policy = Policy(otherwise=tree)
    one, other = [await answers(door, sequence, READS, policy) for door in twins]

    assert one == other
