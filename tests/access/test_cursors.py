"""A cursor belongs to the policy under which it was made."""

import pytest

from app.fhir.access import Policy
from app.fhir.query import Not, Or
from tests.access.door import Door, content, next_link
from tests.access.world import OWN, RESTRICTED_ONES

PAGED = [
    "Observation?_count=1",
    "Observation?code=44261-6&_count=1",
    "Observation?_count=1&date=ge2000",
    "Observation/ada-open/_history?_count=1",
    "Observation/_history?_count=1",
    "_history?_count=1",
]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("url", PAGED)
async def test_a_cursor_of_one_policy_is_refused_under_another(
    lasting_world: Door, url: str
) -> None:
    everybody = lasting_world
    own = lasting_world.under(Policy(otherwise=OWN))
    more = lasting_world.under(Policy(otherwise=Or((OWN, Not(RESTRICTED_ONES)))))
    doors = [everybody, own, more]

    links = [next_link(await door.get(url)) for door in doors]
    statuses = [[(await door.get(link)).status for link in links] for door in doors]

    assert "" not in links
    assert statuses == [[200, 400, 400], [400, 200, 400], [400, 400, 200]]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("url", PAGED)
async def test_the_same_policy_under_another_name_continues(lasting_world: Door, url: str) -> None:
    one, other = (lasting_world.under(Policy(otherwise=OWN)) for _ in range(2))

    reply = await other.get(next_link(await one.get(url)))

    assert reply.status == 200  # a refreshed token with the same rights continues
    assert content(reply)["entry"]
