"""The examples of hl7.fhir.r4.examples 4.0.1, and what it means to return one exactly."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.fhir.values import is_id
from app.fhir.xml import Xml

XML = "application/fhir+xml"
SELECTION = Path(__file__).with_name("examples.ndjson")


@dataclass(frozen=True)
class Example:
    """One official file: its name, and its bytes."""

    name: str
    raw: bytes

    @property
    def content(self) -> dict[str, Any]:
        """The example decoded; numbers keep their text."""
        return exact(self.raw)


@dataclass(frozen=True)
class Number:
    """A JSON number by its text: 1.5 is not 1.50."""

    text: str


def exact(raw: bytes) -> dict[str, Any]:
    """Return JSON decoded so that two values are equal only if the numbers' texts are."""
    found: dict[str, Any] = json.loads(raw, parse_float=Number, parse_int=Number)
    return found


def in_order(value: Any) -> Any:
    """Return the value with the order of its properties made part of it."""
    if isinstance(value, dict):
        return [(name, in_order(inner)) for name, inner in value.items()]
    if isinstance(value, list):
        return [in_order(inner) for inner in value]
    return value


def without_server_parts(resource: dict[str, Any]) -> Any:
    """Return a resource without what the server sets: id, versionId and lastUpdated."""
    meta = {
        name: value
        for name, value in resource.get("meta", {}).items()
        if name not in ("versionId", "lastUpdated")
    }
    rest = {name: value for name, value in resource.items() if name not in ("id", "meta")}
    return in_order(rest), in_order(meta)


async def put_through(client: httpx.AsyncClient, example: Example) -> str:
    """Write an example and read it back; return "" if it came back exactly, else what happened."""
    content = example.content
    type, id = content["resourceType"], content.get("id")
    if isinstance(id, str) and is_id(id):
        url = f"/{type}/{id}"
        reply = await client.put(url, content=example.raw)
    else:
        reply = await client.post(f"/{type}", content=example.raw)
        url = reply.headers.get("location", "").partition("/_history/")[0]
    if reply.status_code not in (200, 201):
        issues = reply.json()["issue"]
        places = [f"{i.get('expression', ['?'])[0]}: {i['diagnostics']}" for i in issues]
        return f"{reply.status_code} " + "; ".join(places)
    stored = (await client.get(url)).content
    if without_server_parts(exact(stored)) != without_server_parts(content):
        return "came back changed"
    return await put_as_xml(client, url, exact(stored))


async def put_as_xml(client: httpx.AsyncClient, url: str, stored: dict[str, Any]) -> str:
    """Read a resource as XML and write that; return "" if the JSON of it stayed equal.

    The order of properties is then that of the definition (xml.html).
    """
    shown = await client.get(url, headers={"Accept": XML})
    reply = await client.put(url, content=shown.content, headers={"Content-Type": XML})
    if reply.status_code != 200:
        return f"{reply.status_code} as XML: {reply.text}"
    again = exact((await client.get(url)).content)
    again["meta"] |= {name: stored["meta"][name] for name in ("versionId", "lastUpdated")}
    return "" if again == stored else "came back changed from XML"


def survives_xml(xml: Xml, example: Example) -> bool:
    """Return whether a resource, valid or not, is equal after JSON -> XML -> JSON, twice."""
    forms = (xml.write(example.raw), xml.write(example.raw, pretty=True))
    return all(exact(xml.read(form)) == example.content for form in forms)


def selection() -> Iterator[Example]:
    """Yield the committed examples: the two smallest of each type, in the order of their names."""
    for line in SELECTION.read_bytes().splitlines():
        head, _, raw = line.partition(b"\t")
        yield Example(head.decode(), raw)
