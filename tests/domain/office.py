"""A running server of a program whose clock the test sets, and who asks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import httpx

from app.config import Settings
from app.domain.vocabulary import Vocabulary
from app.main import create_app
from tests.support.application import JSON, started
from tests.support.tokens import AUTHORIZED

START = "2026-03-02T08:00:00-08:00"  # a Monday, before the first session of the day


class Clock:
    """What the server takes for the time, until it is set again."""

    def __init__(self) -> None:
        self.set(START)

    def set(self, text: str) -> None:
        """Make it a moment, written with its offset."""
        self.now = int(datetime.fromisoformat(text).timestamp()) * 1_000_000

    def __call__(self) -> int:
        """Return microseconds since 1970; time goes on by a millisecond with every look."""
        self.now += 1000
        return self.now


@dataclass
class Iop:
    """A client of the server, its clock, and the names that it goes by."""

    client: httpx.AsyncClient
    clock: Clock
    vocabulary: Vocabulary
    app: Any = field(repr=False)

    async def call(self, path: str, *parameters: dict[str, Any], **headers: str) -> httpx.Response:
        """POST Parameters: `call("/Group/1/$join", ref("patient", "Patient/1"))`."""
        body = {"resourceType": "Parameters", "parameter": list(parameters)}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=named)

    async def put(self, *resources: dict[str, Any]) -> None:
        """Store resources under their ids, all in one transaction that has to succeed."""
        entries = [
            {
                "resource": one,
                "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"},
            }
            for one in resources
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        reply = await self.client.post("/", json=bundle)
        assert reply.status_code == 200, reply.text

    async def read(self, reference: str) -> dict[str, Any]:
        """Return a resource that has to be there."""
        reply = await self.client.get(f"/{reference}")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def search(self, query: str) -> list[dict[str, Any]]:
        """Return the resources on the first page of a search that has to succeed."""
        reply = await self.client.get(f"/{query}")
        assert reply.status_code == 200, reply.text
        entries = reply.json().get("entry", [])
        return [e["resource"] for e in entries if e["search"]["mode"] == "match"]


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Iop]:
    """Yield a client of a server with these settings, whose clock stands at START."""
    app = create_app(settings)
    async with started(app):
        clock = Clock()
        app.state.server = replace(app.state.server, now=clock)
        transport = httpx.ASGITransport(app)
        headers = {"Accept": JSON, "Content-Type": JSON, **AUTHORIZED}
        async with httpx.AsyncClient(
            transport=transport, base_url=settings.base_url, headers=headers
        ) as client:
            yield Iop(client, clock, Vocabulary(settings.canonical_base), app)


def ref(name: str, reference: str) -> dict[str, Any]:
    """Return a parameter that is a Reference."""
    return {"name": name, "valueReference": {"reference": reference}}


def param(name: str, **value: Any) -> dict[str, Any]:
    """Return a parameter: `param("start", valueDate="2026-03-05")`, or one with `part`."""
    return {"name": name, **value}


def said(reply: httpx.Response) -> dict[str, Any]:
    """Return the values of a Parameters answer by name: one, or a list of what comes again.

    A parameter with parts is a dict of the same kind.
    """
    assert reply.status_code == 200, reply.text
    return _values(reply.json().get("parameter", []))


def _values(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in rows:
        rest = [held for key, held in row.items() if key.startswith("value") or key == "resource"]
        value = _values(row["part"]) if "part" in row else rest[0] if rest else None
        if row["name"] not in found:
            found[row["name"]] = value
        elif isinstance(found[row["name"]], list):
            found[row["name"]].append(value)
        else:
            found[row["name"]] = [found[row["name"]], value]
    return found


def rule(reply: httpx.Response) -> str:
    """Return the code of the rule that refused: that of the first issue's details."""
    issue = reply.json()["issue"][0]
    code: str = issue.get("details", {}).get("coding", [{}])[0].get("code", "")
    return code
