"""An operation that only tests have: it writes as many Observations as it is told to, in one Plan.

`POST Patient/[id]/$observe`. Its answer is made by its `tell` from references alone.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from app.config import Settings
from app.fhir.access import Right
from app.fhir.errors import Issue
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Call, Operation, Plan, Trial
from app.fhir.operations.operation import Level
from app.fhir.operations.parameters import answered
from app.fhir.rest import Server
from app.fhir.store import Store
from app.fhir.wire import encode
from app.main import create_app
from tests.support.application import JSON, started
from tests.support.resources import observation, reference
from tests.support.tokens import AUTHORIZED

Json = dict[str, Any]


def parameter(name: str, least: int = 0, most: str = "1", **known: Any) -> Json:
    """Return a parameter of an OperationDefinition, one that goes in unless `use` says so."""
    return {"name": name, "use": "in", "min": least, "max": most, **known}


OBSERVE: Json = {
    "resourceType": "OperationDefinition",
    "id": "observe",
    "url": "https://example.org/OperationDefinition/observe",
    "name": "Observe",
    "status": "active",
    "kind": "operation",
    "code": "observe",
    "affectsState": True,
    "resource": ["Patient"],
    "system": False,
    "type": False,
    "instance": True,
    "parameter": [
        parameter("dry-run", type="boolean"),
        parameter("count", type="positiveInt"),
        parameter("status", type="code"),
        parameter("performer", type="Reference", most="*"),
        parameter(
            "component",
            most="2",
            part=[
                parameter("code", 1, type="Coding"),
                parameter("value", type="integer", most="*"),
                parameter("period", type="Period"),
            ],
        ),
        parameter("observation", use="out", most="*", type="Reference"),
        parameter(
            "given", use="out", most="*", part=[parameter("value", use="out", type="integer")]
        ),
        parameter("patient", use="out", type="Patient"),
    ],
}


@dataclass
class Calls:
    """How often the operation was performed, and how often it told."""

    performed: int = 0
    told: int = 0


@dataclass
class Office:
    """A client of a server that has $observe, the server, and the count of its calls."""

    client: httpx.AsyncClient
    app: Any
    calls: Calls

    @property
    def server(self) -> Server:
        """Return the server as it is now."""
        found: Server = self.app.state.server
        return found

    def change(self, **changes: Any) -> None:
        """Replace parts of the server."""
        self.app.state.server = replace(self.server, **changes)

    async def observe(self, *rows: Json, id: str = "ada", **headers: str) -> httpx.Response:
        """Call $observe with rows of Parameters."""
        body = {"resourceType": "Parameters", "parameter": list(rows)} if rows else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/Patient/{id}/$observe", json=body, headers=named)

    async def observations(self) -> int:
        """Return how many Observations there are."""
        reply = await self.client.get("/Observation?_summary=count")
        found: int = reply.json()["total"]
        return found


@asynccontextmanager
async def office(settings: Settings) -> AsyncIterator[Office]:
    """Yield an office on a server with these settings."""
    app = create_app(settings)
    calls = Calls()
    async with started(app):
        transport = httpx.ASGITransport(app)
        headers = {"Accept": JSON, "Content-Type": JSON, **AUTHORIZED}
        async with httpx.AsyncClient(
            transport=transport, base_url=settings.base_url, headers=headers
        ) as client:
            found = Office(client, app, calls)
            with_tell = observing(calls)
            without = replace(
                with_tell, tell=None, definition={**OBSERVE, "id": "note", "code": "note"}
            )
            known = found.server.operations
            found.change(operations=replace(known, rows=(*known.rows, with_tell, without)))
            yield found


def observing(calls: Calls) -> Operation:
    """Return $observe, which counts its calls."""

    async def perform(call: Call) -> Reply | Plan | Trial:
        calls.performed += 1
        subject = reference(f"Patient/{call.asked.id}")
        status = call.one("status") or "final"
        made = [call.new_id() for _ in range(call.one("count") or 1)]
        body = encode(observation(subject=subject, status=status))
        writes = [Interaction("create", "Observation", id, body=body) for id in made]
        values = [n for part in call.given.get("component", ()) for n in part.get("value", ())]
        told = {"made": [f"Observation/{id}" for id in made], "values": values}

        async def answer(store: Store) -> Reply:
            return Reply(200, answered(call.operation, {}))

        return Plan(writes, answer, told)

    async def tell(call: Call, told: Mapping[str, Any], issues: Sequence[Issue]) -> Reply:
        calls.told += 1
        there = await call.reader.get_all(told["made"])
        values = {
            "observation": [reference(one) for one in told["made"] if one in there],
            "given": [{"value": n} for n in told["values"]],
        }
        return Reply(200, answered(call.operation, values), issues=tuple(issues))

    needs: Mapping[Level, tuple[Right, ...]] = {"instance": ("read", "update")}
    return Operation(OBSERVE, perform, writes=True, tell=tell, needs=needs)
