"""A crash loses nothing that was acknowledged, and leaves nothing half-written.

Processes are killed with SIGKILL while they write: no handler runs, nothing is flushed. What a
power cut would add, unwritten pages of the operating system, no test can take away.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Coroutine, Iterator
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
from tests.support.resources import (
    Resource,
    observation,
    patient,
    post,
    put,
    reference,
    transaction,
)

WRITERS = 6
ENOUGH = 120  # acknowledged writes before the crash
TAG = "https://example.org/run"
IN_A_TRANSACTION = 5  # resources
BUNDLES, IN_A_BUNDLE = 80, 25


@pytest.fixture
def durable_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database that is written to disk before it answers."""
    if engine == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        yield f"sqlite:///{shutil.copyfile(template, tmp_path / 'durable.db')}"
        return
    server: PostgreSQL = request.getfixturevalue("durable_postgresql_server")
    name = f"milepost_{uuid4().hex}"
    url = server.create(name)
    upgrade(url)
    yield url
    server.drop(name)


@dataclass
class Ledger:
    """What clients were told: where each written version is, and its bytes if they saw them.

    Once enough is acknowledged, what is to crash is killed, while other requests are under way.
    """

    victim: int  # the process that is to crash, with all that it has started
    versions: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # tags of all transactions that were sent
    answered: set[str] = field(default_factory=set)  # tags of those that were acknowledged
    refusals: list[httpx.Response] = field(default_factory=list)
    killed: list[psutil.Process] = field(default_factory=list)
    crashed: bool = False

    def __len__(self) -> int:
        return len(self.versions) + len(self.deleted)

    async def told(self, request: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """Return the answer to a write; raise Refused if it is no acknowledgement."""
        if not self.crashed and len(self) >= ENOUGH:
            self.crashed = True
            asyncio.get_running_loop().call_later(0.01, self.kill)
        reply = await request
        if not reply.is_success:
            self.refusals.append(reply)
            raise Refused
        return reply

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


async def write(client: httpx.AsyncClient, name: str, ledger: Ledger) -> None:
    """Write until the server is gone: new, changed and deleted resources, and transactions."""
    with suppress(httpx.TransportError, Refused):
        for n in range(100_000):
            path, body = f"/Patient/{name}-{n}", patient(id=f"{name}-{n}")
            for changed in (body, {**body, "gender": "other"}):
                reply = await ledger.told(client.put(path, json=changed))
                version = reply.headers["ETag"].strip('W/"')
                ledger.versions[f"{path}/_history/{version}"] = reply.content
            if n % 3 == 0:
                await ledger.told(client.delete(path))
                ledger.deleted.append(path)
            ledger.asked.append(f"{name}-{n}")
            reply = await ledger.told(client.post("/", json=group(f"{name}-{n}")))
            ledger.answered.add(f"{name}-{n}")
            for entry in reply.json()["entry"]:
                ledger.versions["/" + entry["response"]["location"]] = b""


def connect(base_url: str) -> httpx.AsyncClient:
    """Return a client of a server process."""
    headers = {"Content-Type": "application/fhir+json"}
    return httpx.AsyncClient(base_url=base_url, headers=headers, timeout=20)


async def write_until_the_crash(base_url: str, ledger: Ledger) -> None:
    """Let several clients write at once until all of them have lost the server."""
    async with connect(base_url) as client:
        await asyncio.gather(*(write(client, f"w{n}", ledger) for n in range(WRITERS)))


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


def test_a_server_that_is_killed_while_it_writes_loses_nothing_and_leaves_nothing_half(
    durable_url: str, tmp_path: Path
) -> None:
    with serving(durable_url, tmp_path / "first.log") as server:
        ledger = Ledger(server.popen.pid)
        asyncio.run(write_until_the_crash(server.base_url, ledger))
        server.popen.wait(10)

    assert ledger.refusals == []
    assert len(ledger) >= ENOUGH
    assert asyncio.run(integrity.broken(durable_url)) == {}

    with serving(durable_url, tmp_path / "second.log") as server:
        missing = asyncio.run(lost(server.base_url, ledger))
        whole = asyncio.run(sizes(server.base_url, ledger.asked))
        again = httpx.put(f"{server.base_url}/Patient/after", json=patient(id="after"))

    assert missing == []
    assert set(whole.values()) <= {0, IN_A_TRANSACTION}
    assert {whole[tag] for tag in ledger.answered} == {IN_A_TRANSACTION}
    assert again.status_code == 201
    assert asyncio.run(integrity.broken(durable_url)) == {}


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

        with serving(url, tmp_path / "server.log") as server:
            ledger = Ledger(database.pid)
            asyncio.run(write_until_the_crash(server.base_url, ledger))
            down = httpx.put(f"{server.base_url}/Patient/x", json=patient(id="x"), timeout=20)
            read = httpx.get(f"{server.base_url}/Patient/x", timeout=20)

            with restarted(ledger.killed, start):
                wait_until_ready(url, tmp_path / "postgresql.log")
                up = httpx.put(f"{server.base_url}/Patient/x", json=patient(id="x"), timeout=20)
                missing = asyncio.run(lost(server.base_url, ledger))
                whole = asyncio.run(sizes(server.base_url, ledger.asked))
                broken = asyncio.run(integrity.broken(url))

    assert len(ledger) >= ENOUGH
    assert {reply.status_code for reply in (*ledger.refusals, down, read)} == {503}
    assert down.headers["Retry-After"]
    assert up.status_code == 201
    assert missing == []
    assert set(whole.values()) <= {0, IN_A_TRANSACTION}
    assert {whole[tag] for tag in ledger.answered} == {IN_A_TRANSACTION}
    assert broken == {}
