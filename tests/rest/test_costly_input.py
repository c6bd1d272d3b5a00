"""Whatever is sent, an answer comes, and the server's memory stays in proportion to its limits."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.process import Process, serving
from tests.support.resources import batch, get, observation, patient
from tests.support.tokens import AUTHORIZED

MIB = 1024 * 1024
LIMIT = MIB  # of a resource; of a Bundle it is twice as much
ROOM = 128 * MIB  # that the server may need above what it needs at rest
XML = {"Content-Type": "application/fhir+xml"}
PATCH = {"Content-Type": "application/json-patch+json"}
GZIP = {"Content-Encoding": "gzip"}


def doubling(times: int) -> list[dict[str, Any]]:
    """Return a JSON Patch that copies an array into itself, again and again."""
    copies = [{"op": "copy", "from": "/name", "path": "/name/-"} for _ in range(times)]
    return [{"op": "add", "path": "/name", "value": [{"family": "x" * 1000}]}, *copies]


def entities(deep: int) -> str:
    """Return XML in which a few characters stand for very many."""
    lines = [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, deep)]
    return f'<!DOCTYPE x [<!ENTITY a0 "x">{"".join(lines)}]><Patient>&a{deep - 1};</Patient>'


NESTED = b'{"resourceType":"Patient","extension":' + b"[" * (LIMIT // 2)
BOMB = gzip.compress(b'{"resourceType":"Patient","x":"' + b"x" * 64 * MIB + b'"}')
DEEP_XML = '<Patient xmlns="http://hl7.org/fhir">' + '<extension url="u">' * 20_000

# method, path, headers, body
COSTLY: dict[str, tuple[str, str, dict[str, str], bytes | str]] = {
    "nested JSON": ("POST", "/Patient", {}, NESTED),
    "a body that is longer than it may be": ("POST", "/Patient", {}, b" " * (8 * MIB)),
    "a body that says that it is short": ("POST", "/Patient", GZIP, BOMB),
    "a long number": ("POST", "/Patient", {}, b'{"resourceType":"Patient","x":' + b"9" * 500_000),
    "a large exponent": (
        "POST",
        "/Observation",
        {},
        json.dumps(observation(id="x")).replace('"value": 11', '"value": 1e999999999'),
    ),
    "many properties": (
        "POST",
        "/Patient",
        {},
        json.dumps({"resourceType": "Patient", **{f"x{n}": n for n in range(60_000)}}),
    ),
    "many faults": (
        "POST",
        "/Patient",
        {},
        json.dumps({"resourceType": "Patient", "name": [{"x": 1}] * 80_000}),
    ),
    "entities": ("POST", "/Patient", XML, entities(20)),
    "nested XML": ("POST", "/Patient", XML, DEEP_XML),
    "a patch that doubles": ("PATCH", "/Patient/a", PATCH, json.dumps(doubling(40))),
    "a patch of many steps": (
        "PATCH",
        "/Patient/a",
        PATCH,
        json.dumps([{"op": "test", "path": "/id", "value": "a"}] * 20_000),
    ),
    "a search of many values": ("POST", "/Patient/_search", {}, ""),
    "a large page": ("GET", "/Patient?_count=999999999", {}, b""),
    "a Bundle of many entries": ("POST", "/", {}, json.dumps(batch(*[get("Patient/a")] * 20_000))),
    "a Bundle of faults": ("POST", "/", {}, '{"resourceType":"Bundle","type":"batch","entry":['
                           + ",".join(["{}"] * 300_000) + "]}"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A running server with low limits."""
    directory = tmp_path_factory.mktemp("costly")
    file = shutil.copy(sqlite_template, directory / "milepost.db")
    limits = {"max_resource_bytes": LIMIT, "max_bundle_bytes": 2 * LIMIT}
    with serving(f"sqlite:///{file}", directory / "server.log", **limits) as process:
        address = f"{process.base_url}/Patient/a"
        httpx.put(address, json=patient(id="a"), headers=AUTHORIZED, timeout=60)
        yield process


@pytest.mark.parametrize("name", COSTLY)
def test_what_is_costly_is_answered_within_the_memory_that_the_limits_allow(
    server: Process, name: str
) -> None:
    method, path, headers, body = COSTLY[name]
    if name == "a search of many values":
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = "&".join("name=" + ",".join(["a"] * 2000) for _ in range(200))
    headers = {"Content-Type": "application/fhir+json", **AUTHORIZED, **headers}
    before = at_rest(server)

    reply = httpx.request(
        method, f"{server.base_url}{path}", headers=headers, content=body, timeout=120
    )

    assert reply.status_code < 500, reply.text
    assert reply.json()["resourceType"] in {"OperationOutcome", "Bundle", "Patient"}
    assert at_rest(server) - before < ROOM
    assert peak(server) < ROOM + at_rest(server)


def at_rest(server: Process) -> int:
    """Return how much memory a server has."""
    return int(psutil.Process(server.popen.pid).memory_info().rss)


def peak(server: Process) -> int:
    """Return how much memory a server ever had, where the system knows."""
    status = Path(f"/proc/{server.popen.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(one.split()[1]) * 1024 for one in lines if one.startswith("VmHWM")), 0)
