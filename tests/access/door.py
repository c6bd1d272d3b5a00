"""A server asked by somebody in particular: the door that HTTP and bundle entries go through."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app import db
from app.fhir.access import Caller, Policy
from app.fhir.interaction import Reply, parse_query, route
from app.fhir.rest import Server, handle

TABLES = {
    "resource": " WHERE state <> 0",
    "resource_version": "",
    "index_token": "",
    "index_reference": "",
    "index_date": "",
    "index_quantity": "",
    "index_string": "",
    "index_uri": "",
    "index_composite": "",
    "index_position": "",
    "compartment": "",
}


class Door:
    """A server, and who is asking it; no dataclass, because Hypothesis would print all of R4."""

    def __init__(self, server: Server, caller: Caller) -> None:
        self.server = server
        self.caller = caller

    def under(self, policy: Policy) -> "Door":
        """Return the door of somebody with that policy."""
        return Door(self.server, Caller("somebody", policy))

    async def ask(self, method: str, url: str, body: Any = None, **conditions: Any) -> Reply:
        """Return the reply to `method url`; conditions are fields of an Interaction."""
        path, _, query = url.removeprefix(self.server.base_url).partition("?")
        place = route(method, path, self.server.definitions.type_numbers)
        asked = place.asked(
            pairs=parse_query(query),
            body=json.dumps(body).encode() if body is not None else b"",
            url=path,
            **conditions,
        )
        return await handle(self.server, self.caller, asked)

    async def get(self, url: str) -> Reply:
        """Return the reply to a GET."""
        return await self.ask("GET", url)

    async def put(self, body: Mapping[str, Any], **conditions: str) -> Reply:
        """Return the reply to an update of that resource."""
        return await self.ask("PUT", f"{body['resourceType']}/{body['id']}", body, **conditions)


def content(reply: Reply) -> dict[str, Any]:
    """Return the body of a reply."""
    found: dict[str, Any] = json.loads(reply.body)
    return found


def entries(reply: Reply) -> list[dict[str, Any]]:
    """Return the entries of the Bundle that the reply is."""
    assert reply.status == 200, reply.body
    found: list[dict[str, Any]] = content(reply).get("entry", [])
    return found


def next_link(reply: Reply) -> str:
    """Return the next link of the Bundle that the reply is, "" if there is none."""
    links = {link["relation"]: link["url"] for link in content(reply)["link"]}
    return str(links.get("next", ""))


def named(reply: Reply) -> list[str]:
    """Return `Type/id` of every entry, deletions included, in order."""
    return ["/".join(entry["fullUrl"].split("/")[-2:]) for entry in entries(reply)]


async def contents(server: Server) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table that holds resources or their index, in order.

    Phantoms are left out: they are keys for what references name, and hold nothing.
    """

    async def work(connection: db.Connection) -> dict[str, Sequence[db.Row]]:
        return {
            name: await connection.rows(db.Statement(f"SELECT * FROM {name}{some}", ()), {})
            for name, some in TABLES.items()
        }

    found = await server.database.read(work)
    return {name: sorted(tuple(row) for row in rows) for name, rows in found.items()}


async def empty(server: Server) -> None:
    """Delete every row that `contents` shows, and the phantoms."""

    async def work(connection: db.Connection) -> None:
        await connection.begin()
        for name in TABLES:
            await connection.rows(db.Statement(f"DELETE FROM {name}", ()), {})

    await server.database.write(work)
