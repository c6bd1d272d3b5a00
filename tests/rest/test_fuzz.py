"""Whatever comes in: no failure of the server, and what is accepted comes back equal."""

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.resources import (
    Resource,
    coded,
    delete,
    encounter,
    get,
    medication_request,
    observation,
    patient,
    post,
    practitioner,
    put,
    quantity,
    reference,
    transaction,
)

# The client belongs to all examples of a test: they share one database, as requests do
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "")  # others than usual, and so many of a test
FEW = settings(
    max_examples=int(EXAMPLES or 120),
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
REFUSED = {400, 404, 405, 412, 413, 422}
ADA = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"

SEEDS: list[Resource] = [
    patient(
        meta={"tag": [{"system": "https://example.org/t", "code": "night"}]},
        text={"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'},
        identifier=[{"system": "https://example.org/mrn", "value": "1"}],
        telecom=[{"system": "phone", "value": "555", "rank": 1}],
        _birthDate={"extension": [{"url": "u", "valueDateTime": "1985-04-12T01:00:00+02:00"}]},
        multipleBirthInteger=2,
        contained=[{"resourceType": "Organization", "id": "o", "name": "N"}],
        managingOrganization=reference("#o"),
    ),
    observation(
        subject=reference("Patient/a"),
        component=[{"code": coded("1"), "valueQuantity": quantity(1.5, "kg")}],
        referenceRange=[{"low": quantity(0, "{score}"), "high": quantity(27, "{score}")}],
    ),
    encounter(subject=reference("Patient/a"), participant=[{"individual": {"display": "x"}}]),
    medication_request(
        "Patient/a",
        dosageInstruction=[
            {
                "timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}},
                "doseAndRate": [{"doseQuantity": quantity(50, "mg")}],
            }
        ],
    ),
    {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "subject": reference("Patient/a"),
        "period": {"start": "2026-03-02", "end": "2026-06-01"},
        "activity": [{"detail": {"status": "scheduled", "scheduledString": "three a week"}}],
    },
    {
        "resourceType": "ValueSet",
        "url": "https://example.org/ValueSet/v",
        "version": "1",
        "status": "draft",
        "compose": {"include": [{"system": "http://loinc.org", "concept": [{"code": "1"}]}]},
    },
]
TYPES = sorted({seed["resourceType"] for seed in SEEDS})
PARAMETERS = [
    "_id", "_lastUpdated", "_tag", "_profile", "_count", "_cursor", "_format", "name", "birthdate",
    "gender", "identifier", "general-practitioner", "date", "code", "value-quantity", "subject",
    "patient", "status", "url", "version", "name:exact", "subject.name", "", "_has:Observation",
]  # fmt: skip

TEXT = st.text(max_size=8) | st.sampled_from(
    ["", " ", "\0", "\ud800", "0000", "9999-12-31T23:59:59-12:00", "#", "Patient/a", "x" * 5000]
)
NUMBERS = st.integers() | st.floats(allow_nan=True) | st.sampled_from([2**31, -(2**63), 10**400])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
ALIKE: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(min_size=1, max_size=8) | st.sampled_from(["2026", "a", "phone", "Patient/b"]),
    int: st.integers(-9, 99),
    float: st.decimals(-9, 99, places=2).map(float),
    bool: st.booleans(),
}
FRAGMENTS = st.binary(max_size=3) | st.sampled_from(
    [b"", b"\0", b"\xff", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"-",
     b".", b" ", b"{}", b"e9999", b"null", b"NaN", b"\\ud800", b"\\u0000", b'"id":"b",',
     b"9" * 5000]
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a type and the bytes of a resource in which some places are cut or overwritten."""
    seed = draw(st.sampled_from(SEEDS))
    raw = json.dumps(seed, ensure_ascii=draw(st.booleans())).encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(raw)))
        length = draw(st.integers(0, 5))
        raw = raw[:start] + draw(FRAGMENTS) + raw[start + length :]
    return seed["resourceType"], raw


@st.composite
def altered(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a type and a resource in which some values or names are others."""
    seed = draw(st.sampled_from(SEEDS))
    changed = json.loads(json.dumps(seed))
    for _ in range(draw(st.integers(1, 2))):
        holder, key = draw(st.sampled_from(list(spots(changed))))
        match draw(st.sampled_from(["alike", "alike", "any", "gone", "listed", "moved"])):
            case "alike":
                holder[key] = draw(ALIKE.get(type(holder[key]), JSON))
            case "any":
                holder[key] = draw(JSON)
            case "gone":
                del holder[key]
            case "listed":
                holder[key] = [holder[key]]
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(NAMES) | TEXT)] = holder.pop(key)
            case _:
                holder.append(holder[key])
    return seed["resourceType"], json.dumps(changed).encode()


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a JSON value: what holds it, and its key or index there."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from spots(value[key])


NAMES = sorted({key for seed in SEEDS for _, key in spots(seed) if isinstance(key, str)})


def exact(raw: bytes) -> Any:
    """Return JSON with every number as its text, without what the server itself fills in."""
    found = json.loads(
        raw, parse_float=lambda text: ("number", text), parse_int=lambda t: ("number", t)
    )
    found.pop("id", None)
    meta = found.pop("meta", {})
    kept = {k: v for k, v in meta.items() if k not in ("versionId", "lastUpdated")}
    return found, kept


async def accepted_or_refused(client: httpx.AsyncClient, type: str, raw: bytes) -> None:
    """Create a resource, and compare what can be read with what was sent."""
    reply = await client.post(f"/{type}", content=raw)

    if reply.status_code == 201:
        read = await client.get(reply.headers["Location"])
        assert exact(read.content) == exact(raw)
        assert json.loads(read.content)["id"] == reply.json()["id"]
    else:
        assert reply.status_code in REFUSED, reply.text
        assert reply.json()["resourceType"] == "OperationOutcome"
        assert reply.json()["issue"]


@FEW
@given(mangled())
async def test_mangled_bytes_are_accepted_or_refused(
    client: httpx.AsyncClient, made: tuple[str, bytes]
) -> None:
    await accepted_or_refused(client, *made)


@FEW
@given(altered())
async def test_altered_resources_are_accepted_or_refused(
    client: httpx.AsyncClient, made: tuple[str, bytes]
) -> None:
    await accepted_or_refused(client, *made)


@FEW
@given(
    st.sampled_from(TYPES),
    st.lists(
        st.tuples(
            st.sampled_from(PARAMETERS),
            TEXT
            | st.from_regex(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?[0-9.e+\-]{1,12}", fullmatch=True)
            | st.from_regex(r"[a-c0-9|,\\$:/-]{0,12}", fullmatch=True),
        ),
        max_size=4,
    ),
)
async def test_any_search_is_answered_or_refused(
    client: httpx.AsyncClient, type: str, pairs: list[tuple[str, str]]
) -> None:
    query = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in pairs)

    reply = await client.get(f"/{type}?{query}")

    assert reply.status_code in {200, 400, 406, 414}, reply.text
    assert reply.json()["resourceType"] in {"Bundle", "OperationOutcome"}


def quoted(text: str) -> str:
    """Return text percent-encoded, half surrogate pairs and all."""
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


CONDITIONS = {
    "ifMatch": st.sampled_from(['W/"1"', "1", "*", ""]) | SCALARS,
    "ifNoneMatch": st.sampled_from(["*", 'W/"1"']) | SCALARS,
    "ifNoneExist": st.sampled_from(["_id=a", "name=Marsh", "x=y"]) | SCALARS,
    "ifModifiedSince": st.sampled_from(["2026-01-01T00:00:00Z"]) | SCALARS,
}
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "x"])
URLS = st.sampled_from(
    ["Patient", "Patient/a", "Patient/a/_history/1", "Patient?name=x", "Observation", "_history",
     "Observation?subject=Patient/a", "", "metadata", "Nothing", "Patient/a_b", "http://[", "?",
     "/", "#"]
)  # fmt: skip
RESOURCES = st.sampled_from(
    [patient(id="a"), practitioner(), observation(subject=reference(ADA)),
     observation(subject=reference("Patient?name=Marsh"))]
)  # fmt: skip
REQUESTS = st.fixed_dictionaries({"method": METHODS, "url": URLS}, optional=CONDITIONS) | JSON
NOISY = JSON | st.fixed_dictionaries(
    {"request": REQUESTS},
    optional={"fullUrl": st.sampled_from([ADA]) | SCALARS, "resource": RESOURCES | JSON},
)
GOOD = st.sampled_from(
    [
        post(patient(), ADA),
        post(observation(subject=reference(ADA))),
        put(patient(id="a")),
        put(patient(id="a", gender="male"), ADA),
        put(patient(id="b", gender="male"), ifNoneMatch="*"),
        delete("Patient/b"),
        delete("Patient/c"),
        get("Patient?name=marsh&_count=2"),
        get("_history?_count=2"),
        post(practitioner(), ifNoneExist="name=Vale"),
        post(observation(performer=[reference("Practitioner?name=Vale")])),
    ]
)
ENTRIES = st.sampled_from([GOOD, GOOD, GOOD, GOOD, NOISY]).flatmap(lambda strategy: strategy)


@FEW
@given(st.lists(ENTRIES, max_size=4), st.sampled_from(["batch", "transaction"]))
async def test_any_bundle_is_performed_or_refused(
    client: httpx.AsyncClient, entries: list[Any], type: str
) -> None:
    body = json.dumps({"resourceType": "Bundle", "type": type, "entry": entries})

    reply = await client.post("/", content=body)

    if reply.status_code == 200:
        answers = [entry["response"]["status"][:3] for entry in reply.json().get("entry", [])]
        assert len(answers) == len(entries)
        assert [status for status in answers if status.startswith("5")] == []
    else:
        assert reply.status_code in REFUSED, reply.text
        assert reply.json()["resourceType"] == "OperationOutcome"


@FEW
@given(mangled())
async def test_a_transaction_with_a_mangled_entry_is_performed_or_refused_whole(
    client: httpx.AsyncClient, made: tuple[str, bytes]
) -> None:
    type, raw = made
    frame = transaction(post(patient(), ADA), post({"resourceType": type}))
    hole = json.dumps({"resourceType": type}).encode()
    before = total(await client.get("/_history?_count=1000"))

    reply = await client.post("/", content=json.dumps(frame).encode().replace(hole, raw))

    added = total(await client.get("/_history?_count=1000")) - before
    if reply.status_code == 200:
        assert added == len(reply.json()["entry"])
    else:
        assert reply.status_code in REFUSED, reply.text
        assert added == 0


def total(history: httpx.Response) -> int:
    """Return how many versions there are."""
    return len(history.json().get("entry", []))
