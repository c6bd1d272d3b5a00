"""Who tells a story to a server: requests as of a member of the staff, at the time of the story.

Time and ids come from here, not from the machine, and whatever is written is labelled as test data.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random

from app.domain.days import moment, written
from app.domain.vocabulary import Vocabulary
from app.fhir.access import SYSTEM, Caller
from app.fhir.interaction import Interaction, Pairs
from app.fhir.reader import Reader
from app.fhir.rest import Server, handle
from app.fhir.rules import Rule, Rules
from app.fhir.values import new_id
from app.fhir.wire import Resource, decode, encode

TEST_DATA = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HTEST",
    "display": "test health data",
}
DIRECTOR = "PractitionerRole/director"
PAGE = "1000"


class Refused(Exception):
    """The server did not take what the story says; the text is its own."""


@dataclass
class Seeded:
    """What was made: versions written by type, and how many patients and events."""

    versions: Counter[str] = field(default_factory=Counter)
    patients: int = 0
    events: int = 0


@dataclass
class Clock:
    """The time of the story, and ids: the same for a request however often it looks."""

    number: int
    now: int = 0
    ids: Random = field(default_factory=Random)

    def set(self, at: datetime) -> None:
        """Go on to a moment; never back."""
        self.now = max(self.now, int(at.timestamp()) * 1_000_000)

    def tick(self) -> None:
        """Go on by a millisecond: between two requests."""
        self.now += 1000
        self.ids = Random(f"{self.number}:{self.now}")

    def time(self) -> int:
        """Return microseconds since 1970."""
        return self.now

    def new_id(self) -> str:
        """Return a new id."""
        return new_id(self.now // 1000, self.ids.randbytes(10))


@dataclass
class Teller:
    """What is known while a story is told: sessions by name, episodes by patient."""

    server: Server
    vocabulary: Vocabulary
    clock: Clock
    seeded: Seeded
    sessions: dict[str, str] = field(default_factory=dict)
    episodes: dict[str, dict[str, str]] = field(default_factory=dict)

    async def ask(self, asked: Interaction, who: str = DIRECTOR) -> Resource:
        """Return the answer to a request of somebody of the staff; raises Refused."""
        self.clock.tick()
        caller: Caller = replace(SYSTEM, name="seed", fhir_user=who)
        reply = await handle(self.server, caller, asked)
        answer = decode(reply.body) if reply.body else {}
        if reply.status >= 300:
            told = "; ".join(one.get("diagnostics", "") for one in answer.get("issue", ()))
            address = f"{asked.type}/{asked.id}${asked.operation}"
            raise Refused(f"{written(moment(self.clock.now))} {address}: {reply.status} {told}")
        return answer

    async def call(self, address: str, *parameters: Resource, who: str = DIRECTOR) -> Resource:
        """Return the answer of an operation: `call("Group/1/$join", ...)`."""
        place, _, operation = address.partition("$")
        type, id = (*place.strip("/").split("/"), "")[:2]
        body = encode({"resourceType": "Parameters", "parameter": list(parameters)})
        asked = Interaction("operation", type, id, operation=operation, method="POST", body=body)
        return await self.ask(asked, who)

    async def put(self, resources: Iterable[Resource]) -> None:
        """Store resources in one transaction: new ones, if they have no id."""
        entries = []
        for one in resources:
            type, id = one["resourceType"], one.get("id")
            method, url = ("PUT", f"{type}/{id}") if id else ("POST", type)
            entries.append({"resource": one, "request": {"method": method, "url": url}})
        if entries:
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
            await self.ask(Interaction("batch", body=encode(bundle), prefer="minimal"))

    async def read(self, reference: str) -> Resource:
        """Return a resource."""
        type, _, id = reference.partition("/")
        return await self.ask(Interaction("read", type=type, id=id))

    async def search(self, type: str, *pairs: tuple[str, str]) -> list[Resource]:
        """Return what is found, at most a page of it."""
        asked: Pairs = (*pairs, ("_count", PAGE))
        found = await self.ask(Interaction("search-type", type=type, pairs=asked))
        return [entry["resource"] for entry in found.get("entry", ())]


def telling(server: Server, vocabulary: Vocabulary, number: int, seeded: Seeded) -> Teller:
    """Return who tells: the server with the time and ids of the story, and labels on all."""
    clock = Clock(number)

    async def label(resource: Resource, before: Resource | None, reader: Reader) -> Resource:
        del before, reader
        seeded.versions[resource["resourceType"]] += 1
        return {**resource, "meta": {**resource.get("meta", {}), "security": [TEST_DATA]}}

    types = frozenset(server.definitions.resource_types)
    rules = Rules((*server.rules.rows, Rule("HTEST", types, fill=label)), server.rules.system)
    made = replace(server, now=clock.time, new_id=clock.new_id, rules=rules)
    return Teller(made, vocabulary, clock, seeded)


def reference(name: str, target: str) -> Resource:
    """Return a parameter that is a Reference."""
    return {"name": name, "valueReference": {"reference": target}}


def part(name: str, *inner: Resource) -> Resource:
    """Return a parameter that has parts."""
    return {"name": name, "part": list(inner)}
