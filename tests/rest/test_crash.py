"""A crash loses nothing that was acknowledged, and leaves nothing half-written.

Processes are killed with SIGKILL while they write: no handler runs, nothing is flushed. What a
power cut would add, unwritten pages of the operating system, no test can take away. What is written
and when the crash comes is the same in each run; `CRASHES=50` tries other moments.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from app.main import ROOT
from tests.rest import integrity
from tests.support.migrations import upgrade
from tests.support.postgresql import PostgreSQL, postgresql, wait_until_ready
from tests.support.process import command, environment, milepost, serving
from tests.support.replies import ids
from tests.support.resources import (
    Resource,
    observation,
    patient,
    post,
    put,
    reference,
    transaction,
)
from tests.support.tokens import AUTHORIZED, admit

WRITERS = 6
ENOUGH = range(60, 180)  # acknowledged writes before the crash
CRASHES = int(os.environ.get("CRASHES", "2"))  # of one database, one after the other
TAG = "https://example.org/run"
STAFF = "https://example.org/staff"
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
IN_A_TRANSACTION = 5  # resources
BUNDLES, IN_A_BUNDLE = 80, 25


@pytest.fixture
def durable_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database that is written to disk before it answers."""
    if engine == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        yield f"sqlite:///{shutil.copy(template, tmp_path / 'durable.db')}"
        return
    server: PostgreSQL = request.getfixturevalue("durable_postgresql_server")
    name = f"milepost_{uuid4().hex}"
    url = server.create(name)
    upgrade(url)
    admit(url)
    yield url
    server.drop(name)


@dataclass
class Ledger:
    """What clients were told: where each written version is, and its bytes if they saw them.

    Once enough is acknowledged, what is to crash is killed, while other requests are under way.
    Chance decides what is enough, how many milliseconds later that is, and what is written.
    """

    victim: int  # the process that is to crash, with all that it has started
    chance: random.Random
    enough: int = 0
    versions: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # tags of all transactions that were sent
    answered: set[str] = field(default_factory=set)  # tags of those that were acknowledged
    shared: dict[str, set[str]] = field(default_factory=dict)  # ids that one condition has given
    refusals: list[httpx.Response] = field(default_factory=list)
    killed: list[psutil.Process] = field(default_factory=list)
    crashed: bool = False

    def __post_init__(self) -> None:
        self.enough = self.chance.choice(ENOUGH)

    def __len__(self) -> int:
        return len(self.versions) + len(self.deleted)

    async def told(self, request: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """Return the answer to a write; raise Refused if it is no acknowledgement."""
        if not self.crashed and len(self) >= self.enough:
            self.crashed = True
            asyncio.get_running_loop().call_later(self.chance.random() / 50, self.kill)
        reply = await request
        if not reply.is_success:
            self.refusals.append(reply)
            raise Refused
        return reply

    def note(self, reply: httpx.Response) -> None:
        """Remember the version that an answer shows."""
        body = reply.json()
        path = f"/{body['resourceType']}/{body['id']}/_history/{body['meta']['versionId']}"
        self.versions[path] = reply.content

    def kill(self) -> None:
        """End the victim as a crash would: no handler runs, nothing is flushed."""
        parent = psutil.Process(self.victim)
        parent.suspend()  # so that it starts no others meanwhile
        self.killed = [parent, *parent.children(recursive=True)]
        for process in self.killed:
            process.kill()


class Refused(Exception):
    """A write was not acknowledged."""


def tagged(tag: str) -> Resource:
    """Return what marks a resource as part of a transaction."""
    return {"tag": [{"system": TAG, "code": tag}]}


def group(tag: str) -> Resource:
    """Return a transaction that writes a Patient and what refers to it."""
    ada = f"urn:uuid:{uuid4()}"
    scores = [
        post(observation(meta=tagged(tag), subject=reference(ada)))
        for _ in range(IN_A_TRANSACTION - 1)
    ]
    return transaction(*scores, post(patient(meta=tagged(tag)), ada))


async def revise(client: httpx.AsyncClient, name: str, ledger: Ledger) -> None:
    """Write a Patient, change it, and sometimes delete it."""
    path, body = f"/Patient/{name}", patient(id=name)
    for changed in (body, {**body, "gender": "other"}):
        ledger.note(await ledger.told(client.put(path, json=changed)))
    if ledger.chance.random() < 0.5:
        await ledger.told(client.delete(path))
        ledger.deleted.append(path)


async def change(client: httpx.AsyncClient, name: str, ledger: Ledger) -> None:
    """Write a Patient, and patch it: every patch finds what the one before has left."""
    path = f"/Patient/{name}"
    ledger.note(await ledger.told(client.put(path, json=patient(id=name, gender="male"))))
    for before, after in (("male", "other"), ("other", "female")):
        steps = [
            {"op": "test", "path": "/gender", "value": before},
            {"op": "replace", "path": "/gender", "value": after},
        ]
        ledger.note(await ledger.told(client.patch(path, json=steps, headers=JSON_PATCH)))


async def share(client: httpx.AsyncClient, name: str, ledger: Ledger) -> None:
    """Create a Patient unless another writer has, or update the one that somebody has."""
    number = name.split("-")[1]
    body = patient(identifier=[{"system": STAFF, "value": number}])
    given = ledger.shared.setdefault(number, set())
    criteria = f"identifier={STAFF}|{number}"
    if ledger.chance.random() < 0.5:
        asked = client.post("/Patient", json=body, headers={"If-None-Exist": criteria})
    else:
        asked = client.put(f"/Patient?{criteria}", json=body)
    reply = await ledger.told(asked)
    given.add(reply.json()["id"])
    ledger.note(reply)


async def together(client: httpx.AsyncClient, name: str, ledger: Ledger) -> None:
    """Write what belongs together."""
    ledger.asked.append(name)
    reply = await ledger.told(client.post("/", json=group(name)))
    ledger.answered.add(name)
    for entry in reply.json()["entry"]:
        ledger.versions["/" + entry["response"]["location"]] = b""


LOAD = [revise, change, share, together, together]


async def write(client: httpx.AsyncClient, name: str, ledger: Ledger) -> None:
    """Write until the server is gone."""
    with suppress(httpx.TransportError, Refused):
        for n in range(100_000):
            await ledger.chance.choice(LOAD)(client, f"{name}-{n}", ledger)


def connect(base_url: str) -> httpx.AsyncClient:
    """Return a client of a server process."""
    headers = {"Content-Type": "application/fhir+json", **AUTHORIZED}
    return httpx.AsyncClient(base_url=base_url, headers=headers, timeout=20)


async def write_until_the_crash(base_url: str, ledger: Ledger, run: int = 0) -> None:
    """Let several clients write at once until all of them have lost the server."""
    async with connect(base_url) as client:
        await asyncio.gather(*(write(client, f"r{run}w{n}", ledger) for n in range(WRITERS)))


async def lost(base_url: str, ledger: Ledger) -> list[str]:
    """Return what was acknowledged and is not there as it was."""
    missing = []
    async with connect(base_url) as client:
        for path, content in ledger.versions.items():
            reply = await client.get(path)
            if reply.status_code != 200 or (content and reply.content != content):
                missing.append(f"{path}: {reply.status_code}")
        for path in ledger.deleted:
            reply = await client.get(path)
            if reply.status_code != 410:
                missing.append(f"{path}: {reply.status_code}")
    return missing


async def sizes(base_url: str, tags: list[str]) -> dict[str, int]:
    """Return how many resources of each transaction are found."""
    found = {}
    async with connect(base_url) as client:
        for tag in tags:
            query = {"_tag": f"{TAG}|{tag}", "_count": "100"}
            totals = [
                (await client.get(f"/{type}", params=query)).json()["total"]
                for type in ("Patient", "Observation")
            ]
            found[tag] = sum(totals)
    return found


async def holders(base_url: str, shared: Iterable[str]) -> dict[str, list[str]]:
    """Return the ids of what has each of the identifiers that were made by conditions."""
    async with connect(base_url) as client:
        return {
            number: ids(await client.get("/Patient", params={"identifier": f"{STAFF}|{number}"}))
            for number in shared
        }


def check(base_url: str, ledger: Ledger) -> None:
    """Assert that all that was acknowledged is there, and nothing half."""
    assert asyncio.run(lost(base_url, ledger)) == []
    whole = asyncio.run(sizes(base_url, ledger.asked))
    assert set(whole.values()) <= {0, IN_A_TRANSACTION}
    assert {whole[tag] for tag in ledger.answered} <= {IN_A_TRANSACTION}
    for number, found in asyncio.run(holders(base_url, ledger.shared)).items():
        assert len(found) <= 1, "one condition makes one resource"
        assert ledger.shared[number] <= set(found)


def test_a_server_that_is_killed_while_it_writes_loses_nothing_and_leaves_nothing_half(
    durable_url: str, tmp_path: Path
) -> None:
    ledgers: list[Ledger] = []
    for run in range(CRASHES):
        with serving(durable_url, tmp_path / f"{run}.log") as server:
            for past in ledgers[-1:]:
                check(server.base_url, past)
            ledger = Ledger(server.popen.pid, random.Random(run))
            asyncio.run(write_until_the_crash(server.base_url, ledger, run))
            server.popen.wait(10)
        assert ledger.refusals == []
        assert len(ledger) >= ledger.enough
        assert asyncio.run(integrity.broken(durable_url)) == {}
        ledgers.append(ledger)

    with serving(durable_url, tmp_path / "afterwards.log") as server:
        for past in ledgers:
            check(server.base_url, past)
        address = f"{server.base_url}/Patient/after"
        again = httpx.put(address, json=patient(id="after"), headers=AUTHORIZED)
    checked = milepost("fsck", database_url=durable_url)

    assert again.status_code == 201
    assert checked.returncode == 0, checked.stdout


def bundles(directory: Path) -> list[Path]:
    """Write transactions into files, each with a Patient of its own that all share a doctor."""
    files = []
    for n in range(BUNDLES):
        doctor = {"resourceType": "Practitioner", "id": f"dr{n}", "name": [{"family": "Vale"}]}
        subject = reference(f"Patient/p{n}")
        scores = [put(observation(id=f"o{n}-{m}", subject=subject)) for m in range(IN_A_BUNDLE - 2)]
        file = directory / f"bundle-{n}.json"
        file.write_text(json.dumps(transaction(put(doctor), put(patient(id=f"p{n}")), *scores)))
        files.append(file)
    return files


def test_a_load_that_is_killed_leaves_whole_bundles_and_can_be_run_again(
    durable_url: str, tmp_path: Path
) -> None:
    files = bundles(tmp_path)
    count = "SELECT count(*) FROM resource_version"

    with (tmp_path / "load.log").open("wb") as log:
        load = subprocess.Popen(
            command("load", *files),
            cwd=ROOT,
            env=environment(durable_url),
            stdout=log,
            stderr=log,
        )
    seen = 0
    until = time.monotonic() + 60
    while seen < 4 * IN_A_BUNDLE and load.poll() is None and time.monotonic() < until:
        seen = asyncio.run(integrity.number(durable_url, count))
    load.kill()
    load.wait(10)
    left = asyncio.run(integrity.number(durable_url, count))

    assert load.returncode == -signal.SIGKILL, (tmp_path / "load.log").read_text()
    assert seen <= left < BUNDLES * IN_A_BUNDLE
    assert left % IN_A_BUNDLE == 0
    assert asyncio.run(integrity.broken(durable_url)) == {}

    again = milepost("load", *files, database_url=durable_url)

    assert again.returncode == 0, again.stderr
    assert asyncio.run(integrity.number(durable_url, count)) == BUNDLES * IN_A_BUNDLE
    assert asyncio.run(integrity.broken(durable_url)) == {}


@contextmanager
def restarted(killed: list[psutil.Process], start: dict[str, Any]) -> Iterator[None]:
    """Start a PostgreSQL server again as it was started; it ends with this context."""
    psutil.wait_procs(killed[1:], 20)
    # A dead postmaster keeps its number, and so its locks, until its parent asks for it
    data = Path(start["cwd"])
    for lock in (data / "postmaster.pid", *data.parent.glob(".s.PGSQL.*.lock")):
        lock.unlink()
    process = subprocess.Popen(**start)
    try:
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(20)


def test_a_postgresql_that_is_killed_loses_nothing_and_the_server_goes_on_afterwards(
    tmp_path: Path,
) -> None:
    with postgresql(durable=True) as database, (tmp_path / "postgresql.log").open("wb") as log:
        assert database.pid is not None
        postmaster = psutil.Process(database.pid)
        start: dict[str, Any] = {
            "args": postmaster.cmdline(),
            "cwd": postmaster.cwd(),
            "env": postmaster.environ(),
            "user": postmaster.uids().real,
            "group": postmaster.gids().real,
            "stdout": log,
            "stderr": log,
        }
        url = database.create("milepost")
        upgrade(url)
        admit(url)

        with (
            serving(url, tmp_path / "server.log") as server,
            httpx.Client(base_url=server.base_url, headers=AUTHORIZED, timeout=20) as client,
        ):
            ledger = Ledger(database.pid, random.Random(3))
            asyncio.run(write_until_the_crash(server.base_url, ledger))
            down = client.put("/Patient/x", json=patient(id="x"))
            read = client.get("/Patient/x")

            with restarted(ledger.killed, start):
                wait_until_ready(url, tmp_path / "postgresql.log")
                up = client.put("/Patient/x", json=patient(id="x"))
                check(server.base_url, ledger)
                broken = asyncio.run(integrity.broken(url))
                checked = milepost("fsck", database_url=url)

    assert len(ledger) >= ledger.enough
    assert {reply.status_code for reply in (*ledger.refusals, down, read)} == {503}
    assert down.headers["Retry-After"]
    assert up.status_code == 201
    assert broken == {}
    assert checked.returncode == 0, checked.stdout
