"""What is loaded and what is asked: the files, and the requests of each row of the table."""

import bz2
import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from benchmarks.processes import Server
from tests.support import resources as make
from tests.support.tokens import AUTHORIZATION

Resource = dict[str, Any]
Requests = Callable[[Server], list[bytes]]

CODES = ["8302-2", "29463-7", "8867-4", "9279-1", "8480-6", "44261-6", "70274-6", "72166-2"]
SYSTEMS = ["mrn", "ssn", "license", "passport"]
BUNDLES = 120
ENTRIES = 100


@dataclass(frozen=True)
class Row:
    """One row: its name, its requests, its connections, and how many floors each may cost."""

    name: str
    requests: Requests
    connections: int = 16
    limits: tuple[float | None, float | None] = (None, None)  # on SQLite, on PostgreSQL
    guarded: float | None = None  # how many times the CPU of a server without tokens and trail


def files(directory: Path | None, scratch: Path) -> list[Path]:
    """Return the files to load: those of `directory` by name, else generated bundles."""
    if directory:
        return sorted(path for path in directory.iterdir() if "json" in path.name)
    for n in range(BUNDLES):
        (scratch / f"{n:03}.json").write_text(json.dumps(bundle(n)))
    return sorted(scratch.glob("*.json"))


def entries(path: Path) -> int:
    """Return how many resources a file holds."""
    opener: Any = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "rb") as file:
        if ".ndjson" in path.name:
            return sum(1 for line in file if line.strip())
        return len(json.load(file).get("entry", [0]))


def bundle(n: int) -> Resource:
    """Return a transaction of 100 entries: a patient, and what happened on 99 days."""
    subject = f"urn:uuid:{UUID(int=n + 1)}"
    days = [make.post(happened(n, day, subject)) for day in range(1, ENTRIES)]
    return make.transaction(make.post(patient(n), subject), *days)


def patient(n: int) -> Resource:
    """Return a patient with identifiers, telecom, address and language, as records have them."""
    address = {"line": [f"{n} Harbor Road"], "city": f"Town {n % 40}", "postalCode": f"{n:05}"}
    return make.patient(
        identifier=[{"system": f"https://example.org/{s}", "value": f"{s}{n}"} for s in SYSTEMS],
        name=[{"use": "official", "family": f"Marsh{n}", "given": ["Ada", f"Linn{n}"]}],
        birthDate=f"{1940 + n % 65}-04-12",
        telecom=[{"system": "phone", "value": f"555-{n:07}", "use": "home"}],
        address=[address],
        communication=[{"language": make.coded("en-US", "urn:ietf:bcp:47")}],
    )


def happened(n: int, day: int, subject: str) -> Resource:
    """Return what happened to the n-th patient that day: a visit, an order or a measurement."""
    date = f"{2010 + n % 15}-{1 + day // 28:02}-{1 + day % 28:02}"
    if day % 10 == 0:
        period = {"start": f"{date}T09:00:00Z", "end": f"{date}T12:00:00Z"}
        return make.encounter(subject=make.reference(subject), period=period)
    if day % 10 == 1:
        return make.medication_request(subject, authoredOn=date)
    return make.observation(
        subject=make.reference(subject),
        code=make.coded(CODES[day % len(CODES)]),
        effectiveDateTime=f"{date}T09:30:00Z",
        valueQuantity=make.quantity(day + n / 10, "{score}"),
    )


def message(method: str, path: str, body: Resource | None = None) -> bytes:
    """Return the bytes of one HTTP request."""
    content = json.dumps(body).encode() if body else b""
    head = f"{method} /fhir{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/fhir+json\r\n"
    head += AUTHORIZATION.decode()
    if body:
        head += f"Content-Type: application/fhir+json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}\r\n".encode() + content


def found(server: Server, query: str) -> list[Resource]:
    """Return the resources on the first page of a search; none would be nothing to measure."""
    page = json.loads(server.get(f"/fhir/{query}"))
    if "entry" not in page:
        raise SystemExit(f"{query} found nothing to measure with")
    return [entry["resource"] for entry in page["entry"]]


def of_each_patient(path: str) -> Requests:
    """Return GET requests of `path`, one for the `{id}` of each of many patients."""
    return lambda server: [
        message("GET", path.format(id=one["id"])) for one in found(server, "Patient?_count=1000")
    ]


def token_pages(server: Server) -> list[bytes]:
    """Return searches for a page of each of the eight codes that observations have most often."""
    codings = [c for one in found(server, "Observation?_count=1000") for c in one["code"]["coding"]]
    common = Counter(f"{c.get('system', '')}|{c['code']}" for c in codings).most_common(8)
    return [message("GET", f"/Observation?code={quote(code)}&_count=20") for code, _ in common]


def updates(server: Server) -> list[bytes]:
    """Return updates that each change the birth date of one of 100 patients."""
    patients = found(server, "Patient?_count=100")
    return [
        message("PUT", f"/Patient/{one['id']}", {**one, "birthDate": date})
        for date in ("1971-02-03", "1972-03-04", "1973-04-05")
        for one in patients
    ]


ROWS = [
    Row("read", of_each_patient("/Patient/{id}"), limits=(4, 5), guarded=1.5),
    Row("vread", of_each_patient("/Patient/{id}/_history/1")),
    Row("search by token, page of 20", token_pages, limits=(12, 12), guarded=1.3),
    Row(
        "search by patient and date",
        of_each_patient("/Encounter?patient={id}&date=ge2012-01-01"),
        guarded=1.3,
    ),
    Row("update", updates),
    Row(
        "create",
        lambda _: [message("POST", "/Patient", patient(n)) for n in range(1000)],
        limits=(35, 35),
    ),
    Row(
        "transaction of 100",
        lambda _: [message("POST", "", bundle(1000 + n)) for n in range(50)],
        connections=2,
    ),
]
