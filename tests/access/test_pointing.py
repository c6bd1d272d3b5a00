"""What points at a Binary does not open it, unless it was open before.

A Binary is seen with what points at it. So whoever could point at one that is hidden would open it;
and an answer that differs from that about one which is not there would tell that it exists.
"""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.config import Settings
from app.fhir.access import SYSTEM, Caller, Grant, parse_scopes, policy_of
from app.main import build
from tests.access.clinic import AFTER, anonymous, numbered
from tests.access.door import Door, named
from tests.conftest import BASE_URL
from tests.support.resources import (
    batch,
    entry,
    observation,
    patient,
    post,
    put,
    reference,
    resource,
    transaction,
)

Body = dict[str, Any]

HIDDEN, ABSENT, SAID = "b-hidden", "b-absent", "what nobody else may read"
DATA = base64.b64encode(SAID.encode()).decode()
OWN = reference("Patient/ada")
X = "http://example.org/extension"
URN = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"
JSON_PATCH = {"content_type": "application/json-patch+json"}


def binary(id: str) -> Body:
    """Return a Binary that says what nobody else may read."""
    return resource("Binary", {"id": id, "contentType": "text/plain", "data": DATA}, {})


def document(id: str | None, url: str, owner: str = "ada") -> Body:
    """Return a DocumentReference of a patient whose attachment is at a URL."""
    about = {"id": id, "status": "current", "subject": reference(f"Patient/{owner}")}
    return resource("DocumentReference", about, {"content": [{"attachment": {"url": url}}]})


@pytest.fixture
async def ada(settings: Settings) -> AsyncIterator[Door]:
    """The door of Ada, on a server with a Binary of hers and one of Bob's."""
    async with build(settings) as server:
        everybody = numbered(Door(server, SYSTEM))
        bodies = [
            *(patient(id="ada"), patient(id="bob"), binary(HIDDEN), binary("b-ada")),
            *(document("bob", f"Binary/{HIDDEN}", "bob"), document("ada", "Binary/b-ada")),
            observation(id="ada", subject=OWN),
        ]
        for body in bodies:
            assert (await everybody.put(body)).status == 201
        granted = parse_scopes("patient/*.cruds", server.language).granted
        grant = Grant("patient", granted, patient="Patient/ada", fhir_user="Patient/ada")
        caller = Caller("ada", policy_of(grant, server.language, AFTER), "patient")
        yield Door(everybody.server, caller)


def pointing(url: str) -> list[Body]:
    """Return resources of Ada's that point at a URL, each in another way."""
    extensions: list[Body] = [
        {"url": X, "valueAttachment": {"url": url}},
        {"url": X, "valueReference": {"reference": url}},
        {"url": X, "valueUri": url},
        {"url": X, "valueCanonical": url},
        {"url": url, "valueString": "a"},
        {"url": X, "extension": [{"url": "in", "valueAttachment": {"url": url}}]},
    ]
    item = {"linkId": "1", "answer": [{"valueAttachment": {"url": url}}]}
    answers = {"status": "completed", "subject": OWN, "item": [item]}
    letter = {"status": "completed", "subject": OWN, "payload": [{"contentReference": {}}]}
    letter["payload"] = [{"contentReference": {"reference": url}}]
    items = [{"item": {"reference": url}}]
    listed = {"status": "current", "mode": "working", "subject": OWN, "entry": items}
    inside = {**binary("inside"), "securityContext": {"reference": url}}
    return [
        document(None, url),
        observation(subject=OWN, focus=[{"reference": url}]),
        *(observation(subject=OWN, extension=[extension]) for extension in extensions),
        observation(subject=OWN, contained=[document("in", url)], focus=[{"reference": "#in"}]),
        observation(subject=OWN, contained=[inside], focus=[{"reference": "#inside"}]),
        observation(subject=OWN) | {"_status": {"extension": extensions[:1]}},
        observation(subject=OWN, meta={"source": url}),
        resource("QuestionnaireResponse", answers, {}),
        resource("Communication", letter, {}),
        resource("List", listed, {}),
    ]


LINKS = [
    *("Binary/{}", "Binary/{}/_history/1", f"{BASE_URL}/Binary/{{}}"),
    *(f"{BASE_URL}/Binary/{{}}/_history/1", f"{BASE_URL}/Binary/{{}}?a=1", "Binary/{}/"),
    *("/Binary/{}", "./Binary/{}", "Binary/{}#a", "Binary/{}|1", "binary/{}", "%42inary/{}"),
    *("HTTP://milepost.test/fhir/Binary/{}", "http://milepost.test:80/fhir/Binary/{}"),
    *("//milepost.test/fhir/Binary/{}", f"{BASE_URL}/Patient/../Binary/{{}}", " Binary/{}"),
]


async def closed(door: Door) -> bool:
    """Return whether Bob's Binary is as if it were not there."""
    read = [await door.get(f"Binary/{HIDDEN}{way}") for way in ("", "/_history", "/_history/1")]
    found = [named(await door.get(url)) for url in ("Binary", f"Binary?_id={HIDDEN}")]
    seen = any(f"Binary/{HIDDEN}" in names for names in found)
    return [reply.status for reply in read] == [404] * 3 and not seen


async def test_no_link_to_a_hidden_binary_opens_it_or_tells_of_it(ada: Door) -> None:
    apart = []
    for link in LINKS:
        pairs = zip(pointing(link.format(HIDDEN)), pointing(link.format(ABSENT)), strict=True)
        for one, other in pairs:
            first = await ada.ask("POST", one["resourceType"], one)
            second = await ada.ask("POST", other["resourceType"], other)
            if anonymous(first, HIDDEN) != anonymous(second, ABSENT):
                apart.append((link, one))
            if first.status == 201 and not await closed(ada):
                apart.append((link, one))
            for reply in (first, second):
                if reply.status == 201:
                    await ada.ask("DELETE", reply.location.removesuffix("/_history/1"))

    assert apart == []


WAYS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("PUT", "DocumentReference/ada", document("ada", "Binary/{}"), {}),
    ("PUT", "DocumentReference?_id=ada", document("ada", "Binary/{}"), {}),
    (
        "PATCH",
        "DocumentReference/ada",
        [{"op": "replace", "path": "/content/0/attachment/url", "value": "Binary/{}"}],
        JSON_PATCH,
    ),
    ("POST", "DocumentReference", document(None, "Binary/{}"), {"if_none_exist": "status=entered"}),
    ("POST", "", transaction(post(document(None, "Binary/{}"))), {}),
    ("POST", "", transaction(put(document("ada", "Binary/{}"))), {}),
    ("POST", "", batch(put(document("ada", "Binary/{}"))), {}),
    (
        "POST",
        "",
        transaction(put(binary("{}")), post(document(None, "Binary/{}"))),
        {},
    ),
    (
        "POST",
        "",
        transaction(
            post(document(None, URN)),
            entry("PUT", "Binary?_id={}", binary("{}"), URN),
        ),
        {},
    ),
    (
        "POST",
        "",
        transaction(
            post(document(None, URN)),
            post(
                binary("in-the-body"),
                URN,
                ifNoneExist="_id={}",
            ),
        ),
        {},
    ),
    ("POST", "DocumentReference/$validate", document(None, "Binary/{}"), {}),
    ("POST", "DocumentReference/$validate?mode=create", document(None, "Binary/{}"), {}),
    ("PUT", "Binary/b-ada", binary("b-ada") | {"securityContext": reference("Binary/{}")}, {}),
]


async def test_no_way_of_writing_opens_a_hidden_binary_or_tells_of_it(ada: Door) -> None:
    apart = []
    for method, url, body, conditions in WAYS:
        answers = []
        for id in (HIDDEN, ABSENT):
            told = json.loads(json.dumps(body).replace("{}", id))
            reply = await ada.ask(method, url.replace("{}", id), told, **conditions)
            answers.append(anonymous(reply, id))
        if answers[0] != answers[1] or not await closed(ada):
            apart.append((method, url, body, answers))

    assert apart == []


async def test_one_s_own_binary_can_be_pointed_at_and_a_new_one_written(ada: Door) -> None:
    fresh = {k: v for k, v in binary("").items() if k != "id"}

    again = await ada.ask("POST", "DocumentReference", document(None, "Binary/b-ada"))
    alone = await ada.ask("POST", "Binary", fresh)
    context = await ada.ask("POST", "Binary", fresh | {"securityContext": OWN})

    assert [reply.status for reply in (again, alone, context)] == [201, 403, 201]
