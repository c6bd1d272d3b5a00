"""Whatever is written, in whatever order: the index is what would be made of it anew."""

from hypothesis import given

from app.fhir.store import consistency
from tests.access.door import Door
from tests.properties.conftest import DATABASE, fresh
from tests.properties.operations import Operation, operations


async def faults(door: Door) -> list[consistency.Finding]:
    """Return every difference between what is stored and what follows from it."""
    database, catalogue = door.server.database, door.server.catalogue
    looks = consistency.looks(database, catalogue, repair=False)
    findings = [finding async for look in looks for finding in look.findings]
    return [finding for finding in findings if finding.fault != consistency.UNUSED]


@DATABASE
@given(sequence=operations())
async def test_manifest_index_and_owners_are_what_the_bodies_say(
    door: Door, sequence: list[Operation]
) -> None:
    door = await fresh(door)

    for operation in sequence:
        await operation.at(door)

    assert await faults(door) == []
