"""Long texts: 100 kB in every string, token and uri position whose index entries are bounded."""

import random
from typing import Any

import httpx
import pytest

from tests.search.asking import found, posted
from tests.support.replies import ids, issue

SIZE = 100_000
LETTERS = "abcdefghijklmnopqrstuvwxyzäßéñ山田😀0123456789-"


def long(seed: int) -> str:
    """Return 100 kB of random text that no engine can compress; it begins with its seed."""
    choose = random.Random(seed).choices(LETTERS, k=SIZE)
    return f"{seed}{''.join(choose)}".encode()[:SIZE].decode(errors="ignore")


def resource(id: str, text: str) -> dict[str, Any]:
    """Return an Organization that has the text in string, token, uri and reference positions."""
    return {
        "resourceType": "Organization",
        "id": id,
        "meta": {
            "source": f"urn:x:{text}",
            "profile": [f"http://example.org/{text}|{text}"],
            "tag": [{"system": f"urn:x:{text}", "code": text}],
        },
        "identifier": [{"system": f"urn:x:{text}", "value": text}],
        "name": text,
        "alias": [text],
        "address": [{"text": text, "city": text, "line": [text]}],
        "partOf": {"reference": f"http://example.org/{text}"},
        "endpoint": [{"reference": f"urn:x:{text}"}],
    }


def searches(text: str) -> list[tuple[str, str]]:
    """Return searches that find the resource with this text and no other."""
    return [
        ("name", text[:100]),
        ("address", text[:100]),
        ("address-city", text[:100]),
        ("identifier", text),
        ("identifier", f"urn:x:{text}|{text}"),
        ("identifier", f"urn:x:{text}|"),
        ("_tag", f"urn:x:{text}|{text}"),
        ("_source", f"urn:x:{text}"),
        ("_profile", f"http://example.org/{text}"),
        ("_profile", f"http://example.org/{text}|{text}"),
        ("partof", f"http://example.org/{text}"),
        ("endpoint", f"urn:x:{text}"),
    ]


async def test_a_long_text_is_created_found_and_deleted(client: httpx.AsyncClient) -> None:
    one, other = long(1), long(2)
    created = [
        await client.put(f"/Organization/{id}", json=resource(id, text))
        for id, text in (("one", one), ("other", other))
    ]
    assert [reply.status_code for reply in created] == [201, 201]

    answers = [ids(await posted(client, "/Organization", [pair])) for pair in searches(one)]
    await client.delete("/Organization/one")
    gone = [ids(await posted(client, "/Organization", [pair])) for pair in searches(one)]
    left = [ids(await posted(client, "/Organization", [pair])) for pair in searches(other)]

    assert answers == [["one"]] * len(answers)
    assert gone == [[]] * len(gone)
    assert left == [["other"]] * len(left)


@pytest.mark.parametrize("parameter", ["identifier", "_source", "_profile"])
async def test_long_texts_that_differ_at_their_end_are_different(
    client: httpx.AsyncClient, parameter: str
) -> None:
    text = f"urn:x:{long(1)}"
    for id, end in (("one", "1"), ("two", "2")):
        body = {
            "resourceType": "Organization",
            "id": id,
            "name": id,
            "meta": {"source": text + end, "profile": [text + end]},
            "identifier": [{"value": text + end}],
        }
        await client.put(f"/Organization/{id}", json=body)

    reply = await posted(client, "/Organization", [(parameter, text + "2")])

    assert ids(reply) == ["two"]


async def test_a_text_longer_than_the_index_holds_is_no_search_term(
    client: httpx.AsyncClient,
) -> None:
    text = "a" * 200
    for id, end in (("one", "b"), ("two", "c")):
        body = {"resourceType": "Organization", "id": id, "name": text + end}
        await client.put(f"/Organization/{id}", json=body)

    longest = await found(client, "/Organization", [("name", text)])
    longer = await client.get("/Organization", params={"name": text + "c"})

    assert ids(longest) == ["two", "one"]
    assert longer.status_code == 400  # the index cannot tell `one` from `two`
    assert issue(longer) == ("value", "name: a text of more than 200 characters is too long")
