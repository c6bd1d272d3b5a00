"""What is no FHIR at all is refused with the place named, and leaves nothing behind.

Each body goes through every door: create, update, and as the entry of a transaction.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.rest import integrity
from tests.support.application import connected
from tests.support.replies import ids, outcome
from tests.support.resources import batch, patient, post, transaction

LIMIT, BUNDLE_LIMIT = 2_000, 5_000
DEEPEST = 64


@dataclass(frozen=True)
class Bad:
    """A body, the status it is refused with, and the place that the refusal names.

    `at` is an expression or, where the bytes have no elements yet, words of the text.
    """

    body: bytes
    status: int
    at: str


def named(value: str) -> bytes:
    """Return a Patient whose family name is this JSON."""
    text = f'{{"resourceType":"Patient","id":"a","name":[{{"family":{value}}}]}}'
    return text.encode("utf-8", "surrogatepass")


def plus(properties: str) -> bytes:
    """Return a Patient with these properties."""
    text = f'{{"resourceType":"Patient","id":"a",{properties}}}'
    return text.encode("utf-8", "surrogatepass")


def weighed(value: str) -> bytes:
    """Return a Patient with an extension that holds this decimal."""
    return plus(f'"extension":[{{"url":"u","valueDecimal":{value}}}]')


def dated(value: str) -> bytes:
    """Return a Patient who died at this moment."""
    return plus(f'"deceasedDateTime":"{value}"')


def nested(levels: int) -> bytes:
    """Return a Patient whose JSON has that many levels, an odd number."""
    extension = '"valueBoolean":true'
    for _ in range(levels // 2):
        extension = f'"extension":[{{"url":"u",{extension}}}]'
    return plus(extension)


FAMILY = "Patient.name[0].family"
DECIMAL = "Patient.extension[0].value"
DEATH = "Patient.deceased"

NO_JSON = {
    "nothing": Bad(b"", 400, "not JSON"),
    "white space": Bad(b" \n", 400, "not JSON"),
    "words": Bad(b"not json", 400, "not JSON"),
    "a cut": Bad(plus('"name":[{"family":"Mar')[:-1], 400, "not JSON"),
    "a trailing comma": Bad(plus('"active":true,'), 400, "not JSON"),
    "a comment": Bad(plus('"active":true/**/'), 400, "not JSON"),
    "single quotes": Bad(plus("'active':true"), 400, "not JSON"),
    "a second document": Bad(plus('"active":true') + b"{}", 400, "not JSON"),
    "another encoding": Bad(plus('"active":true').decode().encode("utf-16"), 400, "byte 0"),
    "a byte order mark": Bad(b"\xef\xbb\xbf" + plus('"active":true'), 400, "not JSON"),
    "a tab in a text": Bad(named('"a\tb"'), 400, "not JSON"),
    "a wrong escape": Bad(named(r'"\x41"'), 400, "not JSON"),
    "NaN": Bad(weighed("NaN"), 400, "NaN"),
    "Infinity": Bad(weighed("Infinity"), 400, "Infinity"),
    "-Infinity": Bad(weighed("-Infinity"), 400, "Infinity"),
    "a number with a leading zero": Bad(weighed("01"), 400, "not JSON"),
    "a number with a plus": Bad(weighed("+1"), 400, "not JSON"),
    "a number that ends in its point": Bad(weighed("1."), 400, "not JSON"),
}
NO_OBJECT = {
    "an array": Bad(b"[]", 400, "not a JSON object"),
    "a text": Bad(b'"Patient"', 400, "not a JSON object"),
    "null": Bad(b"null", 400, "not a JSON object"),
    "a number": Bad(b"5", 400, "not a JSON object"),
    "a huge number": Bad(b"1e999", 400, "not a JSON object"),
}
NO_TEXT = {
    "the NUL character": Bad(named('"a\0b"'), 400, "not JSON"),
    "the NUL character escaped": Bad(named(r'"a\u0000b"'), 400, FAMILY),
    "the NUL character in a name": Bad(plus(r'"na\u0000me":1'), 400, "Patient"),
    "half a surrogate pair": Bad(named(r'"a\ud800b"'), 400, FAMILY),
    "the other half": Bad(named(r'"a\udc00b"'), 400, FAMILY),
    "two halves in the wrong order": Bad(named(r'"\udc00\ud800"'), 400, FAMILY),
    "half a pair at the end": Bad(named(r'"a\ud83d"'), 400, FAMILY),
    "half a pair in a name": Bad(plus(r'"na\ud800me":1'), 400, "Patient"),
    "half a pair in UTF-8": Bad(named('"a\ud800b"'), 400, "byte"),
    "a byte that is not UTF-8": Bad(named('"a@b"').replace(b"@", b"\xff"), 400, "byte"),
    "a letter of Latin-1": Bad(named('"@"').replace(b"@", b"\xe4"), 400, "byte"),
    "an overlong NUL": Bad(named('"@"').replace(b"@", b"\xc0\x80"), 400, "byte"),
    "half a letter of UTF-8": Bad(named('"@"').replace(b"@", b"\xe2\x82"), 400, "byte"),
}
NO_NUMBER = {
    "a decimal beyond a double": Bad(weighed("1e999"), 422, DECIMAL),
    "a negative one": Bad(weighed("-1e999"), 422, DECIMAL),
    "a decimal too small for a double": Bad(weighed("1e-999"), 422, DECIMAL),
    "an exponent beyond 64 bits": Bad(weighed("1e99999999999999999999"), 422, DECIMAL),
    "a tiny one beyond 64 bits": Bad(weighed("1e-99999999999999999999"), 422, DECIMAL),
    "a decimal of many digits": Bad(weighed("9" * 400), 422, DECIMAL),
    "a decimal of very many digits": Bad(weighed("9" * 5_000), 422, DECIMAL),
    "an integer beyond 64 bits": Bad(
        plus('"multipleBirthInteger":99999999999999999999'), 422, "Patient.multipleBirth"
    ),
    "an integer of very many digits": Bad(
        plus(f'"multipleBirthInteger":{"9" * 5_000}'), 422, "Patient.multipleBirth"
    ),
    "a negative integer beyond 64 bits": Bad(
        plus('"multipleBirthInteger":-99999999999999999999'), 422, "Patient.multipleBirth"
    ),
}
NO_DATE = {
    "the year 0": Bad(dated("0000-01-01"), 422, DEATH),
    "a year of five digits": Bad(dated("10000-01-01"), 422, DEATH),
    "before the year 1 in UTC": Bad(dated("0001-01-01T00:00:00+14:00"), 422, DEATH),
    "after the year 9999 in UTC": Bad(dated("9999-12-31T23:59:59-12:00"), 422, DEATH),
    "a 30th of February": Bad(dated("2024-02-30"), 422, DEATH),
    "a 13th month": Bad(dated("2024-13"), 422, DEATH),
    "a 25th hour": Bad(dated("2024-02-01T25:00:00Z"), 422, DEATH),
    "an offset of a day": Bad(dated("2024-02-01T12:00:00+24:00"), 422, DEATH),
    "digits that are not ASCII": Bad(dated("٢٠٢٤"), 422, DEATH),
}
EMPTY = {
    "an empty text": Bad(named('""'), 400, FAMILY),
    "an empty array": Bad(plus('"name":[]'), 400, "Patient.name"),
    "an empty object": Bad(plus('"maritalStatus":{}'), 400, "Patient.maritalStatus"),
    "an empty object in an array": Bad(plus('"name":[{}]'), 400, "Patient.name[0]"),
    "null": Bad(plus('"gender":null'), 400, "Patient.gender"),
    "null in an array": Bad(plus('"name":[null]'), 400, "Patient.name[0]"),
    "an empty name": Bad(plus('"":1'), 400, "Patient"),
}
TWICE = {
    "a property": Bad(plus('"gender":"male","gender":"female"'), 400, "gender"),
    "the same property and value": Bad(plus('"gender":"male","gender":"male"'), 400, "gender"),
    "a property inside": Bad(plus('"name":[{"family":"a","family":"b"}]'), 400, "family"),
    "the resource type": Bad(plus('"resourceType":"Patient"'), 400, "resourceType"),
    "the id": Bad(plus('"id":"a"'), 400, "id"),
    "a property, once escaped": Bad(plus(r'"gender":"male","\u0067ender":"male"'), 400, "gender"),
    "the resource type, once escaped": Bad(
        plus(r'"\u0072esourceType":"Patient"'), 400, "resourceType"
    ),
    "a property of meta": Bad(plus('"meta":{"source":"a","source":"b"}'), 400, "source"),
}
TOO_DEEP = {
    "by one": Bad(nested(DEEPEST + 1), 400, f"{DEEPEST} levels"),
    "by a thousand": Bad(nested(1001), 400, f"{DEEPEST} levels"),
    "by a hundred thousand": Bad(
        plus('"x":' + "[" * 100_000 + "]" * 100_000), 400, f"{DEEPEST} levels"
    ),
    "and open": Bad(b'{"x":' + b'[{"x":' * 100_000, 400, ""),
}
WRONG_TYPE = {
    "another type": Bad(b'{"resourceType":"Observation","id":"a"}', 400, "Patient.resourceType"),
    "no type": Bad(b'{"id":"a"}', 400, "Patient.resourceType"),
    "nothing": Bad(b"{}", 400, "Patient.resourceType"),
    "a type that is none": Bad(b'{"resourceType":"Person_","id":"a"}', 400, "Patient.resourceType"),
    "a type that is no text": Bad(b'{"resourceType":["Patient"]}', 400, "Patient.resourceType"),
    "an abstract type": Bad(b'{"resourceType":"Resource"}', 400, "Patient.resourceType"),
    "the type in other letters": Bad(b'{"resourceType":"patient"}', 400, "Patient.resourceType"),
}
BODIES = {
    "not JSON": NO_JSON,
    "no object": NO_OBJECT,
    "no text": NO_TEXT,
    "no number": NO_NUMBER,
    "no date": NO_DATE,
    "empty": EMPTY,
    "twice": TWICE,
    "too deep": TOO_DEEP,
    "wrong type": WRONG_TYPE,
}

# Queries that mean nothing, and the parameter that is named
QUERIES = {
    "/Patient?_count=99999999999999999999": "http._count",
    "/Patient?_count=9223372036854775808": "http._count",
    "/Patient?_count=-1": "http._count",
    "/Patient?_count=1.5": "http._count",
    "/Patient?_count=%D9%A1": "http._count",
    "/Patient?_cursor=1.x": "http._cursor",
    "/Patient?_id=a_b": "http._id",
    "/Patient?birthdate=0000": "http.birthdate",
    "/Patient?birthdate=2023-02-29": "http.birthdate",
    "/Patient?_lastUpdated=0001-01-01T00:00:00%2B14:00": "http._lastUpdated",
    "/Patient?_lastUpdated=9999-12-31T23:59:59-12:00": "http._lastUpdated",
    "/RiskAssessment?probability=1e999": "http.probability",
    "/RiskAssessment?probability=NaN": "http.probability",
    "/RiskAssessment?probability=" + "9" * 400: "http.probability",
    "/RiskAssessment?probability=1e99999999999999999999": "http.probability",
    "/Observation?value-quantity=1e999||kg": "http.value-quantity",
    "/Observation?value-quantity=1|a|b|c": "http.value-quantity",
    "/Patient?name=%00": "",
    "/Patient?name=a%00b": "",
    "/Patient?%00=a": "",
    "/Patient?name=%FF": "",
    "/Patient?name=%ED%A0%80": "",
    "/_history?_count=99999999999999999999": "http._count",
    "/_history?_since=0001-01-01T00:00:00%2B14:00": "http._since",
    "/_history?_since=9999-12-31T23:59:59-12:00": "http._since",
    "/_history?_since=%00": "",
}
# Queries at the edge of what can be meant
ANSWERED = [
    "/Patient?_count=9223372036854775807",
    "/Patient?birthdate=ap0001",
    "/Patient?birthdate=ap9999",
    "/Patient?_lastUpdated=ap9999-12-31T23:59:59Z",
    "/RiskAssessment?probability=1.7976931348623157e308",
    "/RiskAssessment?probability=ap1.7976931348623157e308",
    "/RiskAssessment?probability=ap-1.7976931348623157e308",
    "/RiskAssessment?probability=5e-324",
    "/Observation?value-quantity=ap1.7976931348623157e308||kg",
    "/Patient?name=%F4%8F%BF%BF",
    "/Patient?name=" + ",".join(["a"] * 400),
    "/Patient?" + "&".join(["name=a"] * 200),
    "/Patient?" + "&".join(["birthdate=2020"] * 200),
    "/Patient?" + "&".join(["name=a,b"] * 200),
    "/Patient?birthdate=" + ",".join(["2020"] * 400),
    "/Patient?general-practitioner=" + ",".join(["a"] * 400),
    "/Patient?_id=" + ",".join(["a"] * 400),
]
TOO_COSTLY = [
    "/Patient?name=" + ",".join(["a"] * 4_000),
    "/Patient?" + "&".join(["name=a"] * 1_500),
    "/Patient?_id=" + ",".join(["a"] * 4_000),
]


def entered(body: bytes) -> bytes:
    """Return a transaction that writes `body` after a good resource."""
    frame = json.dumps(transaction(post(patient()), post({"resourceType": "Patient"})))
    return frame.encode().replace(b'{"resourceType": "Patient"}', body)


def place(reply: httpx.Response) -> str:
    """Return where a refusal says that the fault is: its expression, then its text."""
    first = outcome(reply)["issue"][0]
    return " ".join([*first.get("expression", []), first["diagnostics"]])


@pytest.mark.parametrize("kind", BODIES)
async def test_a_bad_body_is_refused_with_its_place_and_leaves_nothing(
    client: httpx.AsyncClient, database_url: str, kind: str
) -> None:
    cases = BODIES[kind]
    before = await integrity.rows(database_url)

    created = {name: await client.post("/Patient", content=c.body) for name, c in cases.items()}
    updated = {name: await client.put("/Patient/a", content=c.body) for name, c in cases.items()}

    expected = {name: case.status for name, case in cases.items()}
    assert {name: reply.status_code for name, reply in created.items()} == expected
    assert {name: reply.status_code for name, reply in updated.items()} == expected
    assert {n: place(r) for n, r in created.items() if cases[n].at not in place(r)} == {}
    assert {n: place(r) for n, r in updated.items() if cases[n].at not in place(r)} == {}
    assert await integrity.rows(database_url) == before


@pytest.mark.parametrize("kind", BODIES)
async def test_a_bad_body_in_a_transaction_undoes_all_of_it(
    client: httpx.AsyncClient, database_url: str, kind: str
) -> None:
    cases = BODIES[kind]
    before = await integrity.rows(database_url)

    replies = {name: await client.post("/", content=entered(c.body)) for name, c in cases.items()}

    refused = {name: reply.status_code for name, reply in replies.items()}
    assert {name: status for name, status in refused.items() if status not in (400, 422)} == {}
    assert {outcome(reply)["resourceType"] for reply in replies.values()} == {"OperationOutcome"}
    elements = {n: c.at for n, c in cases.items() if c.at.startswith("Patient.")}
    assert {n: place(replies[n]) for n in elements if element(replies[n]) != elements[n]} == {}
    assert await integrity.rows(database_url) == before


def element(reply: httpx.Response) -> str:
    """Return the element of a refused second entry as if it had come alone."""
    expression: str = outcome(reply)["issue"][0].get("expression", [""])[0]
    return expression.replace("Bundle.entry[1].resource", "Patient")


async def test_a_body_may_nest_as_deep_as_the_limit(client: httpx.AsyncClient) -> None:
    body = nested(DEEPEST - 1)

    reply = await client.put("/Patient/a", content=body)

    assert reply.status_code == 201
    assert reply.json()["extension"] == json.loads(body)["extension"]


async def test_brackets_in_texts_do_not_count_as_levels(client: httpx.AsyncClient) -> None:
    family = '[{"\\' * 200

    reply = await client.put("/Patient/a", json=patient(id="a", name=[{"family": family}]))

    assert reply.status_code == 201
    assert (await client.get("/Patient/a")).json()["name"] == [{"family": family}]


async def test_unusual_text_that_is_text_is_kept(client: httpx.AsyncClient) -> None:
    texts = {
        "a pair": r'"\ud83d\ude00"',
        "the last character": '"\U0010ffff"',
        "a noncharacter": '"\ufdd0"',
        "an escaped backslash before u0000": r'"\\u0000"',
        "quotes": r'"\"\\\""',
        "right to left": '"\u202eabc"',
        "DEL": '"\x7f"',
    }

    replies = {n: await client.put("/Patient/a", content=named(t)) for n, t in texts.items()}

    assert {n: r.status_code for n, r in replies.items() if not r.is_success} == {}
    for name, text in texts.items():
        assert f'"family":{text}' in replies[name].text
    newest = await client.get("/Patient/a")
    assert newest.content == replies["DEL"].content


async def test_ids_must_agree(client: httpx.AsyncClient) -> None:
    bodies = [patient(id="b"), patient(), patient(id=5), patient(id=["a"]), patient(id="A")]

    replies = [await client.put("/Patient/a", json=body) for body in bodies]

    assert [reply.status_code for reply in replies] == [400] * len(bodies)
    assert {outcome(r)["issue"][0]["expression"][0] for r in replies} == {"Patient.id"}
    assert (await client.get("/_history")).json().get("entry", []) == []


async def test_a_query_that_means_nothing_is_refused_with_the_parameter_named(
    client: httpx.AsyncClient,
) -> None:
    replies = {query: await client.get(query) for query in QUERIES}

    assert {q: r.status_code for q, r in replies.items()} == dict.fromkeys(QUERIES, 400)
    named = {q: outcome(r)["issue"][0].get("expression", [""])[0] for q, r in replies.items()}
    assert named == QUERIES


async def test_a_query_at_the_edge_of_meaning_is_answered(client: httpx.AsyncClient) -> None:
    replies = {query: await client.get(query) for query in ANSWERED}

    assert {q: r.text for q, r in replies.items() if r.status_code != 200} == {}


async def test_a_query_with_too_many_parts_is_refused(client: httpx.AsyncClient) -> None:
    replies = [await client.get(query) for query in TOO_COSTLY]

    assert [reply.status_code for reply in replies] == [400] * len(TOO_COSTLY)
    assert {outcome(reply)["issue"][0]["code"] for reply in replies} == {"too-costly"}


# --- sizes ---------------------------------------------------------------------------------------


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that takes small bodies alone."""
    settings = Settings(
        database_url=database_url,
        base_url=BASE_URL,
        max_resource_bytes=LIMIT,
        max_bundle_bytes=BUNDLE_LIMIT,
    )
    async with connected(settings) as client:
        yield client


def sized(length: int) -> bytes:
    """Return a Patient of that many bytes."""
    return named('"' + "x" * (length - len(named('""'))) + '"')


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces, which has no Content-Length."""
    for start in range(0, len(body), 300):
        yield body[start : start + 300]


async def test_a_resource_over_the_limit_is_413(narrow: httpx.AsyncClient) -> None:
    replies = [
        await narrow.post("/Patient", content=sized(LIMIT + 1)),
        await narrow.put("/Patient/a", content=sized(LIMIT + 1)),
        await narrow.post("/Patient", content=pieces(sized(LIMIT + 1))),
        await narrow.post("/Patient", content=pieces(sized(LIMIT * 10))),
        await narrow.post("/Patient", content=b" " * (LIMIT + 1)),
        await narrow.post("/Bundle", content=json.dumps(batch(post(patient()))) + " " * LIMIT),
    ]

    assert [reply.status_code for reply in replies] == [413] * len(replies)
    assert {outcome(reply)["issue"][0]["code"] for reply in replies} == {"too-long"}
    assert {str(LIMIT) in outcome(reply)["issue"][0]["diagnostics"] for reply in replies} == {True}
    assert ids(await narrow.get("/Patient")) == []


async def test_a_resource_at_the_limit_is_accepted(narrow: httpx.AsyncClient) -> None:
    whole = await narrow.put("/Patient/a", content=sized(LIMIT))
    cut = await narrow.post("/Patient", content=pieces(sized(LIMIT)))

    assert [whole.status_code, cut.status_code] == [201, 201]


async def test_a_bundle_has_a_limit_of_its_own(narrow: httpx.AsyncClient) -> None:
    body = json.dumps(transaction(*(post(patient()) for _ in range(12)))).encode()
    fitting, over = body.ljust(BUNDLE_LIMIT), body.ljust(BUNDLE_LIMIT + 1)

    refused = await narrow.post("/", content=over)
    accepted = await narrow.post("/", content=fitting)

    assert LIMIT < len(body) < BUNDLE_LIMIT
    assert (refused.status_code, outcome(refused)["issue"][0]["code"]) == (413, "too-long")
    assert accepted.status_code == 200
    assert len(ids(await narrow.get("/Patient"))) == 12


async def test_a_form_over_the_limit_is_413(narrow: httpx.AsyncClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    reply = await narrow.post("/Patient/_search", content="name=" + "x" * LIMIT, headers=form)

    assert reply.status_code == 413
