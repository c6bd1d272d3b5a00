"""The vocabulary in a database: what is shipped is stored, so that clients read and search it.

Rule: what is shipped is put back where somebody changed it. What is experimental is the operator's
to edit, so it stays as it is once it is there.
"""

from dataclasses import replace

from app.domain import shipped
from app.fhir.access import SYSTEM
from app.fhir.interaction import Interaction
from app.fhir.rest import Server, handle
from app.fhir.wire import Resource, decode, encode


async def furnish(server: Server, base: str) -> None:
    """Store what the database lacks of what is shipped, in one transaction; maybe nothing."""
    entries = [
        {
            "resource": one,
            "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"},
        }
        for one in await missing(server, base)
    ]
    if not entries:
        return
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    reply = await handle(server, SYSTEM, Interaction("batch", body=encode(bundle)))
    if reply.status != 200:
        raise RuntimeError(f"The vocabulary is refused: {reply.body.decode()}")


async def is_furnished(server: Server, base: str) -> bool:
    """Return whether the database has the vocabulary of this version, below this base."""
    guide = shipped.guide(base)
    return await _stored(server, guide) == guide


async def missing(server: Server, base: str) -> list[Resource]:
    """Return the shipped resources that the database has otherwise, or not at all."""
    return [one for one in shipped.resources(base) if not _is(await _stored(server, one), one)]


def _is(stored: Resource, wanted: Resource) -> bool:
    """Return whether a stored resource is what is shipped, or what an operator made of it."""
    return stored == wanted or (wanted["experimental"] and stored.get("url") == wanted["url"])


async def _stored(server: Server, wanted: Resource) -> Resource:
    """Return what is stored under the name of a resource, without meta; an outcome for nothing."""
    asked = Interaction("read", wanted["resourceType"], wanted["id"])
    # Without operations, which answer for definitions that are not stored; and without a trail
    plain = replace(server, operations=replace(server.operations, rows=()), trail=None)
    found = decode((await handle(plain, SYSTEM, asked)).body)
    return {name: value for name, value in found.items() if name != "meta"}
