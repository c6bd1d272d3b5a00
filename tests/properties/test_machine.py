"""Any sequence of writes and reads is answered as a simple model in memory answers it.

With one client, request by request; with two clients of two servers on one database, in some order
of their requests. `MACHINE_EXAMPLES=1000 pytest tests/properties/test_machine.py` looks further.
"""

import asyncio
import base64
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import httpx
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from app.config import Settings
from tests.properties.model import (
    Answers,
    Content,
    Identity,
    Method,
    Model,
    Patch,
    Sent,
    Told,
    Write,
    orders,
)
from tests.rest import integrity
from tests.support.application import connected
from tests.support.resources import batch, entry, transaction

EXAMPLES = os.environ.get("MACHINE_EXAMPLES", "")
MACHINE = hypothesis.settings(
    max_examples=int(EXAMPLES or 20),
    deadline=None,
    derandomize=not EXAMPLES,
    phases=set(Phase) if EXAMPLES else [Phase.generate],  # to shrink takes minutes
    suppress_health_check=list(HealthCheck),
)
JSON_PATCH = "application/json-patch+json"
SYSTEM = "urn:run"
Json = dict[str, Any]
T = TypeVar("T")
runs = count(1)

TYPES = ("Patient", "Practitioner")
GENDERS = ("male", "female", "other")


def contents(codes: str) -> st.SearchStrategy[Content]:
    """Return what resources say, with one of these codes."""
    families = st.sampled_from(["Marsh", "Vale"])
    return st.builds(Content, st.sampled_from(codes), st.sampled_from(GENDERS), families)


patches = st.builds(
    lambda gender, how: Patch(gender, *how),
    st.sampled_from(GENDERS),
    st.sampled_from([("", False), ("Marsh", False), ("", True)]),
)
CURRENT = -1  # in place of a version that If-Match names: that of the moment
versions = st.sampled_from([0, 0, 0, CURRENT, CURRENT, 1, 2])
names = st.sampled_from("abc")  # ids that clients give; of a resource that the server named, 0 to 3
targets = names | st.sampled_from("0123")


def on(
    contents: st.SearchStrategy[Content], conditional: st.SearchStrategy[tuple[str, Content]]
) -> st.SearchStrategy[Write]:
    """Return any write, by id or by criteria; `conditional` are criteria and what they write."""
    types = st.sampled_from(TYPES)

    def by_id(method: Method, ids: st.SearchStrategy[str], **rest: Any) -> st.SearchStrategy[Write]:
        return st.builds(Write, st.just(method), types, ids, **rest)

    def by_criteria(method: Method, *, writes: bool, **rest: Any) -> st.SearchStrategy[Write]:
        def made(kind: str, wanted: tuple[str, Content], rest: Any) -> Write:
            code, content = wanted
            return Write(method, kind, code=code, content=content if writes else None, **rest)

        return st.builds(made, types, conditional, st.fixed_dictionaries(rest))

    return st.one_of(
        by_id("POST", st.just(""), content=contents),
        by_id("PUT", targets, content=contents),
        by_id("PUT", targets, content=contents, if_match=versions),
        by_id("PUT", names, content=contents, if_none_match=st.just(True)),
        by_id("PATCH", targets, patch=patches, if_match=versions),
        by_id("DELETE", targets, if_match=versions),
        by_criteria("POST", writes=True),
        by_criteria("PUT", writes=True, id=names | st.just(""), if_match=versions),
        by_criteria("PATCH", writes=False, patch=patches, if_match=versions),
        by_criteria("DELETE", writes=False, if_match=versions),
    )


some_codes = st.sampled_from("xyz")
writes = on(contents("xyz"), st.tuples(some_codes, contents("xyz")))
some_writes = st.lists(writes, min_size=2, max_size=4)

# Of two clients, what is written by criteria fits them, and nothing else begins to fit them: a
# plain write that does so at the same moment counts as the later one (docs/decisions.md)
fitting = contents("uv").map(lambda content: (content.code, content))
there = st.lists(on(contents("uvx"), fitting), min_size=2, max_size=4)
at_once = on(contents("xyz"), fitting)
request = st.lists(at_once, min_size=1, max_size=1) | st.lists(at_once, min_size=2, max_size=3)
client = st.lists(request, min_size=1, max_size=2)


class Hub:
    """One server or two on one database, asked from outside any event loop."""

    def __init__(self, runner: asyncio.Runner, clients: Sequence[httpx.AsyncClient]) -> None:
        self.runner = runner
        self.clients = clients

    def ask(
        self, method: str, path: str, body: Json | list[Json] | None = None, **headers: str
    ) -> httpx.Response:
        """Return the reply of the first server."""
        return self.runner.run(self.asked(0, method, path, body, **headers))

    async def asked(
        self, at: int, method: str, path: str, body: Json | list[Json] | None = None, **headers: str
    ) -> httpx.Response:
        """Return the reply of one of the servers."""
        content = json.dumps(body).encode() if body is not None else None
        given = {name.replace("_", "-"): value for name, value in headers.items() if value}
        reply = await self.clients[at].request(method, path, content=content, headers=given)
        assert reply.status_code < 500, reply.text
        return reply


class Machine(RuleBasedStateMachine):
    """Asks a server and the model the same."""

    clients = 1
    steps = 20

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.model = Model()
        self.run = f"r{next(runs)}"
        self.made: list[Identity] = []
        self.bodies: dict[tuple[Identity, int], bytes] = {}

    # --- what is asked ---------------------------------------------------------------------------

    def meant(self, write: Write) -> Write:
        """Return a write of this run: its ids are nobody else's, and versions are numbers."""
        id = write.id
        if id.isdigit():
            made = [one.id for one in self.made if one.type == write.type]
            id = made[int(id) % len(made)] if made else "a"
        if len(id) == 1:
            id = f"{self.run}-{id}"
        write = replace(write, id=id, code=write.code and f"{self.run}-{write.code}")
        if write.content:
            code = f"{self.run}-{write.content.code}"
            write = replace(write, content=write.content._replace(code=code))
        if write.if_match == CURRENT:
            found = self.model.found(write.type, write.code) if write.code else [write.identity]
            version = self.model.version(found[0]) if len(found) == 1 else 1
            write = replace(write, if_match=version or 1)
        return write

    def body(self, write: Write) -> Json | list[Json] | None:
        """Return the body of a write."""
        if write.patch is not None:
            return patch(write.type, write.patch)
        if write.content is None:
            return None
        made: Json = {
            "resourceType": write.type,
            "identifier": [{"system": SYSTEM, "value": write.content.code}],
            "name": [{"family": write.content.family}],
            "gender": write.content.gender,
        }
        return {**made, "id": write.id} if write.id and write.method == "PUT" else made

    async def send(self, write: Write, at: int = 0) -> Told:
        """Return the answer to a write as a request of its own."""
        path = f"/{write.type}" if write.code or write.method == "POST" else f"/{write.identity}"
        headers: dict[str, str] = {}
        if write.code and write.method == "POST":
            headers["If_None_Exist"] = criteria(write)
        elif write.code:
            path += f"?{criteria(write)}"
        if write.patch is not None and not write.patch.fhirpath:
            headers["Content_Type"] = JSON_PATCH
        reply = await self.hub.asked(
            at, write.method, path, self.body(write), **headers, **conditions(write, "If_Match")
        )
        if not reply.is_success or reply.status_code == 204:
            etag = reply.headers.get("ETag", "")
            return Told(reply.status_code, None, version_of(etag) if reply.is_success else 0)
        return self.note_body(reply.status_code, reply.content)

    async def send_all(self, kind: Any, sent: Sequence[Write], at: int = 0) -> Answers:
        """Return the answers to the writes of a batch or transaction; None if it is refused."""
        body = kind(*(self.entry(write) for write in sent))
        reply = await self.hub.asked(at, "POST", "/", body, Prefer="return=representation")
        if not reply.is_success:
            return None
        return [self.entry_told(one) for one in reply.json().get("entry", [])]

    def entry(self, write: Write) -> Json:
        """Return a write as an entry of a Bundle."""
        url = write.type if write.code or write.method == "POST" else str(write.identity)
        asked = conditions(write, "ifMatch")
        if write.code and write.method == "POST":
            asked["ifNoneExist"] = criteria(write)
        elif write.code:
            url += f"?{criteria(write)}"
        body = self.body(write)
        if isinstance(body, list):
            data = base64.b64encode(json.dumps(body).encode()).decode()
            body = {"resourceType": "Binary", "contentType": JSON_PATCH, "data": data}
        return entry(write.method, url, body, **asked)

    def entry_told(self, answer: Json) -> Told:
        """Return what an entry of a response says."""
        response = answer["response"]
        status = int(response["status"][:3])
        if status in (200, 201):
            body = json.dumps(answer["resource"]).encode()
            told = self.note_body(status, body, exact=False)
            assert response["etag"] == f'W/"{told.version}"'
            return told
        return Told(status, None, version_of(response.get("etag", "")))

    def note_body(self, status: int, raw: bytes, *, exact: bool = True) -> Told:
        """Return what an answer with a resource says, and keep its bytes."""
        body = json.loads(raw)
        identity = Identity(body["resourceType"], body["id"])
        version = int(body["meta"]["versionId"])
        if exact:
            assert self.bodies.setdefault((identity, version), raw) == raw
        return Told(status, identity, version)

    # --- what must agree -------------------------------------------------------------------------

    def agree(self, model: Model) -> bool:
        """Return whether the histories of the server are those of a model; keep their order."""
        written = len(model.log)
        shown = self.history(f"/_history?_count={max(written, 1)}")
        of_types = [
            log
            for type in TYPES
            for number in [sum(1 for one, _ in model.log if one.type == type)]
            for log in [self.history(f"/{type}/_history?_count={max(number, 1)}")[:number]]
        ]
        shown = shown[:written]
        if sorted(shown) != sorted(model.log):
            return False
        known = len(self.model.log)
        assert shown[::-1][:known] == self.model.log, "what was written stays in its place"
        for type, log in zip(TYPES, of_types, strict=True):
            assert log == [one for one in shown if one[0].type == type]
        for identity, versions in model.versions.items():
            reply = self.hub.ask("GET", f"/{identity}")
            content = versions[-1]
            if content is None:
                assert reply.status_code == 410
                continue
            if reply.status_code != 200 or said(reply.json()) != content:
                return False
            if version_of(reply.headers["ETag"]) != len(versions):
                return False
        model.log = shown[::-1]
        return True

    def history(self, path: str) -> list[tuple[Identity, int]]:
        """Return the versions that a page of history shows, newest first."""
        reply = self.hub.ask("GET", path)
        assert reply.status_code == 200, reply.text
        return list(listed(reply.json()))

    def adopt(self, model: Model, answers: Sequence[Told]) -> None:
        """Go on from a model that agrees with the server."""
        known = {identity for identity, _ in model.log}
        for told in answers:
            if told.status == 201 and told.identity and told.identity not in self.made:
                self.made.append(told.identity)
        assert set(model.versions) == known
        self.model = model


class OneClient(Machine):
    """One request after the other."""

    @rule(write=writes)
    def ask_one(self, write: Write) -> None:
        """Send one write."""
        write = self.meant(write)
        told = self.hub.runner.run(self.send(write))
        trial = copied(self.model)
        note(f"{write} -> {told}")
        assert trial.alone(write, told.identity.id if told.identity else "") == told
        assert self.agree(trial)
        self.adopt(trial, [told])

    @rule(written=some_writes)
    def ask_in_a_transaction(self, written: list[Write]) -> None:
        """Send several writes that are performed together or not at all."""
        sent = [self.meant(write) for write in written]
        told = self.hub.runner.run(self.send_all(transaction, sent))
        trial = copied(self.model)
        ids = [one.identity.id if one.identity else "" for one in told or ()] or [""] * len(sent)
        note(f"{sent} -> {told}")
        assert trial.together(sent, ids) == told
        assert self.agree(trial)
        self.adopt(trial, told or [])

    @rule(written=some_writes)
    def ask_in_a_batch(self, written: list[Write]) -> None:
        """Send several writes at once that have nothing to do with each other."""
        sent = [self.meant(write) for write in written]
        told = self.hub.runner.run(self.send_all(batch, sent))
        assert told is not None
        trial = copied(self.model)
        note(f"{sent} -> {told}")
        for write, one in zip(sent, told, strict=True):
            assert trial.alone(write, one.identity.id if one.identity else "") == one
        assert self.agree(trial)
        self.adopt(trial, told)

    @rule(type=st.sampled_from(TYPES), code=some_codes)
    def search(self, type: str, code: str) -> None:
        """Find what has a code."""
        code = f"{self.run}-{code}"
        reply = self.hub.ask("GET", f"/{type}?identifier={SYSTEM}|{code}&_count=1000")
        shown = sorted(Identity(type, e["resource"]["id"]) for e in reply.json().get("entry", []))
        assert shown == self.model.found(type, code)

    @rule(number=st.integers(0, 99))
    def read_a_version(self, number: int) -> None:
        """Read a version as it was once answered, or a deletion."""
        if not self.model.log:
            return
        identity, version = self.model.log[number % len(self.model.log)]
        reply = self.hub.ask("GET", f"/{identity}/_history/{version}")
        content = self.model.versions[identity][version - 1]
        assert reply.status_code == (410 if content is None else 200)
        if content is not None:
            assert said(reply.json()) == content
            assert reply.content == self.bodies.setdefault((identity, version), reply.content)

    @rule(number=st.integers(0, 99), size=st.integers(1, 3))
    def read_a_history_by_pages(self, number: int, size: int) -> None:
        """Walk through all versions of a resource."""
        if not self.model.log:
            return
        identity, _ = self.model.log[number % len(self.model.log)]
        shown: list[tuple[Identity, int]] = []
        url = f"/{identity}/_history?_count={size}"
        while url:
            page = self.hub.ask("GET", url).json()
            shown += listed(page)
            url = next((one["url"] for one in page["link"] if one["relation"] == "next"), "")
        versions = range(self.model.version(identity), 0, -1)
        assert shown == [(identity, version) for version in versions]

    @rule(number=st.integers(0, 99))
    def look_back(self, number: int) -> None:
        """See what was current when a version was written: it, or what followed at once."""
        if not self.model.log:
            return
        identity, version = self.model.log[number % len(self.model.log)]
        whole = self.hub.ask("GET", f"/{identity}/_history?_count=1000").json()["entry"]
        moments = [one["response"]["lastModified"] for one in reversed(whole)]
        at = moments[version - 1]
        last = len(moments) - moments[::-1].index(at)
        shown = self.history(f"/{identity}/_history?_at={at}")
        assert shown == [(identity, last)]
        since = self.history(f"/{identity}/_history?_since={at}&_count=1000")
        assert since == [(identity, n + 1) for n in range(len(moments)) if moments[n] >= at][::-1]


class TwoClients(Machine):
    """Two clients at once, of two servers on one database."""

    clients = 2
    steps = 8

    @initialize(written=there)
    def begin(self, written: list[Write]) -> None:
        """Have something to be at odds about."""
        for write in written:
            meant = self.meant(write)
            told = self.hub.runner.run(self.send(meant))
            trial = copied(self.model)
            trial.alone(meant, told.identity.id if told.identity else "")
            assert self.agree(trial)
            self.adopt(trial, [told])

    @rule(one=client, other=client)
    def race(self, one: list[list[Write]], other: list[list[Write]]) -> None:
        """Let both send a request or two."""
        sent = [[tuple(self.meant(w) for w in request) for request in of] for of in (one, other)]

        async def asking(at: int) -> list[tuple[Sent, Answers]]:
            return [(request, await self.request(request, at)) for request in sent[at]]

        async def both() -> list[list[tuple[Sent, Answers]]]:
            return list(await asyncio.gather(asking(0), asking(1)))

        told = self.hub.runner.run(both())
        note(f"{told[0]}\n{told[1]}")
        explained = list(orders(self.model, *told))
        assert explained, "some order explains what was answered"
        agreed = next((model for model in explained if self.agree(model)), None)
        assert agreed is not None, "and what is there afterwards"
        self.adopt(agreed, [one for of in told for _, answers in of for one in answers or ()])

    async def request(self, sent: Sent, at: int) -> Answers:
        """Return the answers to a request."""
        if len(sent) > 1:
            return await self.send_all(transaction, sent, at)
        return [await self.send(sent[0], at)]


def conditions(write: Write, match: str) -> dict[str, str]:
    """Return the conditions of a write as headers, or as elements of an entry's request."""
    unless = {"If_Match": "If_None_Match", "ifMatch": "ifNoneMatch"}[match]
    given = {match: f'W/"{write.if_match}"' if write.if_match else ""}
    given[unless] = "*" if write.if_none_match else ""
    return {name: value for name, value in given.items() if value}


def criteria(write: Write) -> str:
    """Return the criteria of a write."""
    return f"identifier={SYSTEM}|{write.code}"


def patch(type: str, wanted: Patch) -> Json | list[Json]:
    """Return a JSON Patch, or a FHIRPath Patch."""
    if wanted.fhirpath:
        parts = [
            {"name": "type", "valueCode": "replace"},
            {"name": "path", "valueString": f"{type}.gender"},
            {"name": "value", "valueCode": wanted.gender},
        ]
        return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}
    test = {"op": "test", "path": "/name/0/family", "value": wanted.expects}
    change = {"op": "replace", "path": "/gender", "value": wanted.gender}
    return [test, change] if wanted.expects else [change]


def said(body: Json) -> Content:
    """Return what a resource says."""
    return Content(body["identifier"][0]["value"], body["gender"], body["name"][0]["family"])


def listed(page: Json) -> Iterator[tuple[Identity, int]]:
    """Yield what the entries of a history are versions of, and which."""
    for one in page.get("entry", []):
        type, id = one["fullUrl"].split("/")[-2:]
        yield Identity(type, id), version_of(one["response"]["etag"])


def version_of(etag: str) -> int:
    """Return the version of an ETag, 0 of none."""
    return int(etag.strip('W/"') or 0)


def copied(model: Model) -> Model:
    """Return a model that may become another."""
    return Model({i: list(v) for i, v in model.versions.items()}, list(model.log))


@pytest.mark.parametrize("machine", [OneClient, TwoClients])
def test_any_sequence_of_requests_is_answered_as_the_model_answers_it(
    settings: Settings, database_url: str, machine: type[Machine]
) -> None:
    steps = hypothesis.settings(MACHINE, stateful_step_count=machine.steps)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        clients = [
            runner.run(stack.enter_async_context(connected(settings)))
            for _ in range(machine.clients)
        ]
        try:
            hub = Hub(runner, clients)
            run_state_machine_as_test(lambda: machine(hub), settings=steps)  # type: ignore[arg-type]
        finally:
            runner.run(stack.aclose())
        assert runner.run(integrity.broken(database_url)) == {}
