"""`milepost reindex` and `milepost fsck`: the index follows from what is stored, and stays so."""

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from app.cli import app
from app.config import Settings
from app.fhir.access import SYSTEM
from app.main import ROOT, build
from tests.access.door import Door
from tests.conftest import BASE_URL
from tests.house.test_migrations import connected as in_database
from tests.rest import integrity
from tests.support.application import connected
from tests.support.process import command, environment, milepost, serving
from tests.support.replies import ids
from tests.support.resources import (
    Resource,
    observation,
    patient,
    practitioner,
    put,
    reference,
    transaction,
)
from tests.support.tokens import AUTHORIZED

Command = Callable[..., Result]

OBSERVATION = "(SELECT key FROM resource WHERE id = 'o')"
PATIENT = "(SELECT key FROM resource WHERE id = 'p')"


@pytest.fixture
def run(database_url: str) -> Command:
    """Run `milepost ARGUMENTS` on this test's database."""
    given = {"MILEPOST_DATABASE_URL": database_url, "MILEPOST_BASE_URL": BASE_URL, "COLUMNS": "200"}

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=given)

    return run


def planted(database_url: str, *statements: str) -> None:
    """Execute SQL that no request would."""

    def execute(connection: sa.Connection) -> None:
        for statement in statements:
            connection.execute(sa.text(statement))

    in_database(database_url, execute)


def stored(database_url: str, *bodies: Resource) -> None:
    """Store resources under their ids."""

    async def store() -> None:
        async with connected(Settings(database_url=database_url, base_url=BASE_URL)) as client:
            reply = await client.post("/", json=transaction(*map(put, bodies)))
            assert reply.status_code == 200, reply.text

    asyncio.run(store())


def searched(database_url: str, *queries: str) -> list[list[str]]:
    """Return the ids that a server finds by each of the queries, in order."""

    async def search() -> list[list[str]]:
        async with connected(Settings(database_url=database_url, base_url=BASE_URL)) as client:
            return [sorted(ids(await client.get(query))) for query in queries]

    return asyncio.run(search())


def number(database_url: str, statement: str) -> int:
    """Return the only value that a statement yields."""
    return asyncio.run(integrity.number(database_url, statement))


def some() -> list[Resource]:
    """Return a few resources: `p` and `q`, Patients, and `o`, an Observation about `p`."""
    return [
        patient(id="p", birthDate="1985-04-12"),
        patient(id="q", name=[{"family": "Vale"}]),
        observation(id="o", subject=reference("Patient/p")),
    ]


# --- reindex -------------------------------------------------------------------------------------


def test_reindex_of_what_is_indexed_changes_nothing(run: Command, database_url: str) -> None:
    stored(database_url, *some())
    before = asyncio.run(integrity.rows(database_url))

    result = run("reindex")

    assert (result.exit_code, result.stdout) == (0, "The index is up to date.\n")
    assert asyncio.run(integrity.rows(database_url)) == before
    assert run("fsck").exit_code == 0


def test_reindex_of_an_empty_database_has_nothing_to_do(run: Command) -> None:
    assert run("reindex").exit_code == 0


def test_an_index_of_an_older_version_is_refused_until_it_is_made_anew(
    run: Command, database_url: str
) -> None:
    stored(database_url, *some())
    tables = ["index_token", "index_string", "index_date", "index_reference", "index_quantity"]
    planted(
        database_url,
        "UPDATE definitions_version SET extractor = 1",
        f"UPDATE resource SET manifest = {empty(database_url)}, present = 0",
        *(f"DELETE FROM {table}" for table in [*tables, "index_uri", "index_composite"]),
    )

    refused = [run("load", __file__), run("fsck")]
    served = milepost("serve", "--port", "0", database_url=database_url)
    result = run("reindex")
    found = searched(database_url, "/Patient?name=marsh", "/Observation?patient=p")

    assert [one.exit_code for one in (*refused, result)] == [1, 1, 0]
    assert served.returncode == 1
    assert all("milepost reindex" in one.stderr for one in refused)
    assert "milepost reindex" in served.stderr
    assert found == [["p"], ["o"]]
    assert run("fsck").exit_code == 0


def empty(database_url: str) -> str:
    """Return how SQL writes no bytes."""
    return "x''" if database_url.startswith("sqlite") else "''::bytea"


def test_reindex_of_a_type_leaves_the_others_alone(run: Command, database_url: str) -> None:
    stored(database_url, *some())
    gone = f"UPDATE resource SET manifest = {empty(database_url)}"
    planted(database_url, gone, "DELETE FROM index_token", "DELETE FROM index_string")
    planted(database_url, *(f"DELETE FROM {t}" for t in ("index_date", "index_reference")))
    planted(database_url, *(f"DELETE FROM {t}" for t in ("index_quantity", "index_composite")))

    result = run("reindex", "--type", "Patient")
    found = searched(database_url, "/Patient?gender=female", "/Observation?code=44261-6")

    assert result.exit_code == 0
    assert found == [["p", "q"], []]


def test_another_time_zone_is_refused_until_the_index_is_made_for_it(database_url: str) -> None:
    stored(database_url, patient(id="may", birthDate="1980-05-05"))
    zurich = {"database_url": database_url, "time_zone": "Europe/Zurich"}

    before = milepost("load", __file__, **zurich)
    made = milepost("reindex", **zurich)
    after = milepost("load", __file__, **zurich)

    assert "version, zone or vocabulary" in before.stderr
    assert made.returncode == 0, made.stderr
    assert "version, zone or vocabulary" not in after.stderr


def test_another_vocabulary_is_refused_until_the_index_is_made_for_it(database_url: str) -> None:
    """It says which Groups are rosters, which are in nobody's compartment."""
    stored(database_url, patient(id="may"))
    other = {"database_url": database_url, "canonical_base": "https://example.net/iop"}

    before = milepost("load", __file__, **other)

    assert "version, zone or vocabulary" in before.stderr


def test_reindex_keeps_the_members_of_value_sets(run: Command, database_url: str) -> None:
    members = {"system": "http://example.org/tags", "concept": [{"code": "seen"}]}
    of_tags = {
        "resourceType": "ValueSet",
        "id": "tags",
        "url": "http://example.org/ValueSet/tags",
        "status": "active",
        "compose": {"include": [members]},
    }
    tag = {"system": "http://example.org/tags", "code": "seen"}
    stored(database_url, of_tags, patient(id="tagged", meta={"tag": [tag]}))

    done = run("reindex")

    query = "/Patient?_tag:in=http://example.org/ValueSet/tags"
    assert (done.exit_code, searched(database_url, query)) == (0, [["tagged"]])


def test_reindex_refuses_a_type_that_there_is_not(run: Command) -> None:
    result = run("reindex", "--type", "Patent")

    assert result.exit_code == 2
    assert "Patent" in result.stderr


def ended_half_way(database_url: str, directory: Path, end: signal.Signals) -> tuple[int, int]:
    """Send a reindex this signal while it works; return its exit code and what it had done.

    On a busy machine it may be through before the signal comes: then it is started again.
    """
    done = "SELECT coalesce(max(done), 0) FROM job"
    for _ in range(10):
        planted(database_url, f"UPDATE resource SET manifest = {empty(database_url)}")
        planted(database_url, "DELETE FROM index_token", "DELETE FROM index_string")
        planted(database_url, "DELETE FROM index_date")
        with (directory / "reindex.log").open("wb") as log:
            reindex = subprocess.Popen(
                command("reindex"),
                cwd=ROOT,
                env=environment(database_url),
                stdout=log,
                stderr=log,
                # whoever is started in the background of a shell inherits that SIGINT is ignored
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )
        while reindex.poll() is None and not number(database_url, done):
            time.sleep(0.005)
        reindex.send_signal(end)
        code = reindex.wait(60)
        if half := number(database_url, done):
            return code, half
    raise AssertionError("it was never caught half-way")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_reindex_that_is_interrupted_goes_on_where_it_was(
    run: Command, database_url: str, tmp_path: Path, end: signal.Signals
) -> None:
    file = tmp_path / "patients.ndjson"
    file.write_text("\n".join(json.dumps(patient(id=f"p{n}")) for n in range(3000)))
    assert run("load", str(file)).exit_code == 0

    code, half = ended_half_way(database_url, tmp_path, end)
    rest = f"SELECT count(*) FROM resource WHERE manifest = {empty(database_url)}"
    left = number(database_url, rest)
    result = run("reindex")

    assert code == (130 if end == signal.SIGINT else -signal.SIGKILL)
    assert left == 3000 - half
    assert result.exit_code == 0
    assert run("fsck").exit_code == 0


# --- fsck ----------------------------------------------------------------------------------------

# What can be wrong: what plants it, and what fsck calls it
FAULTS = {
    "a missing row": (f"DELETE FROM index_token WHERE key = {PATIENT}", "rows are missing"),
    "a row too many": (
        f"INSERT INTO index_uri (key, param, uri, version) SELECT key, 1, 'urn:x', '' FROM resource"
        f" WHERE key = {PATIENT}",
        "rows do not follow",
    ),
    "a row of nobody": (
        "INSERT INTO index_uri (key, param, uri, version) VALUES (987654321, 1, 'urn:x', '')",
        "rows of no live resource",
    ),
    "a row of a deleted one": (
        "INSERT INTO index_uri (key, param, uri, version) SELECT key, 1, 'urn:x', '' FROM resource"
        " WHERE state = 2",
        "rows of no live resource",
    ),
    "a row with another value": (
        f"UPDATE index_date SET lo = lo - 1 WHERE key = {PATIENT}",
        "rows are missing",
    ),
    "a row with another owner": (
        f"UPDATE index_token SET owner = 0 WHERE key = {OBSERVATION}",
        "owner is wrong",
    ),
    "another owner": (f"UPDATE resource SET owner = 0 WHERE key = {OBSERVATION}", "owner is wrong"),
    "a version with another owner": (
        f"UPDATE resource_version SET owner = 0 WHERE key = {OBSERVATION}",
        "owner is wrong",
    ),
    "a missing compartment row": (
        "DELETE FROM compartment WHERE key = (SELECT key FROM resource WHERE id = 'g')",
        "rows are missing",
    ),
    "another date": (
        f"UPDATE resource SET occurred = 7 WHERE key = {OBSERVATION}",
        "date is wrong",
    ),
    "other parameters": (
        f"UPDATE resource SET present = 0 WHERE key = {OBSERVATION}",
        "list of parameters",
    ),
    "another hash": (
        f"UPDATE resource SET hash = EMPTY WHERE key = {OBSERVATION}",
        "hash is wrong",
    ),
    "another manifest": (
        f"UPDATE resource SET manifest = EMPTY WHERE key = {OBSERVATION}",
        "list of its index rows",
    ),
    "a reference to nothing": (
        f"UPDATE index_reference SET target = 987654321 WHERE key = {OBSERVATION}",
        "rows are missing",
    ),
}
BEYOND_REPAIR = {
    "a missing version": (
        f"DELETE FROM resource_version WHERE version = 1 AND key = {PATIENT}",
        "versions are missing",
    ),
    "a missing current version": (
        f"DELETE FROM resource_version WHERE key = {OBSERVATION}",
        "versions are missing",
    ),
    "versions of nobody": (
        f"UPDATE resource_version SET key = 987654321 WHERE version = 1 AND key = {PATIENT}",
        "versions of no resource",
    ),
    "a deletion that is live": (
        "UPDATE resource SET state = 1 WHERE state = 2",
        "state is not what",
    ),
    "a broken body": (
        f"UPDATE resource_version SET body = EMPTY WHERE key = {OBSERVATION}",
        "body cannot be read",
    ),
}


def world(database_url: str) -> None:
    """Store what faults go into: `p` in two versions, `o`, a Group, and a deleted Patient."""
    member = {"entity": reference("Patient/p")}
    group = {"resourceType": "Group", "id": "g", "type": "person", "actual": True}

    async def write() -> None:
        async with connected(Settings(database_url=database_url, base_url=BASE_URL)) as client:
            bodies = [*some(), {**group, "member": [member, {"entity": reference("Patient/q")}]}]
            await client.post("/", json=transaction(*map(put, bodies)))
            await client.put("/Patient/p", json=patient(id="p", gender="other"))
            await client.put("/Patient/gone", json=patient(id="gone"))
            await client.delete("/Patient/gone")

    asyncio.run(write())


@pytest.mark.parametrize("fault", FAULTS)
def test_fsck_finds_a_fault_and_repairs_it(run: Command, database_url: str, fault: str) -> None:
    statement, name = FAULTS[fault]
    world(database_url)
    clean = run("fsck")
    before = asyncio.run(integrity.rows(database_url))
    planted(database_url, statement.replace("EMPTY", empty(database_url)))

    found, repaired, after = run("fsck"), run("fsck", "--repair"), run("fsck")

    assert [r.exit_code for r in (clean, found, repaired, after)] == [0, 1, 0, 0], repaired.output
    assert name in found.stdout
    assert name in repaired.stdout
    assert "nothing is wrong" in after.stdout
    assert asyncio.run(integrity.rows(database_url)) == before
    assert asyncio.run(integrity.broken(database_url)) == {}


@pytest.mark.parametrize("fault", BEYOND_REPAIR)
def test_fsck_finds_a_fault_that_nobody_can_repair(
    run: Command, database_url: str, fault: str
) -> None:
    statement, name = BEYOND_REPAIR[fault]
    world(database_url)
    planted(database_url, statement.replace("EMPTY", empty(database_url)))

    found, repaired = run("fsck"), run("fsck", "--repair")

    assert (found.exit_code, repaired.exit_code) == (1, 1)
    assert name in found.stdout
    assert name in repaired.stdout


def test_fsck_knows_the_references_that_no_search_parameter_reads(
    run: Command, database_url: str
) -> None:
    contact = [{"organization": reference("Organization/o")}]
    stored(database_url, patient(id="p", contact=contact))
    rows = "SELECT count(*) FROM index_reference"
    held, clean = number(database_url, rows), run("fsck")
    planted(database_url, "DELETE FROM index_reference")

    found, repaired, after = run("fsck"), run("fsck", "--repair"), run("fsck")

    codes = [result.exit_code for result in (clean, found, repaired, after)]
    assert (held, codes) == (1, [0, 1, 0, 0])
    assert number(database_url, rows) == held


def test_fsck_names_resources_and_tells_nothing_of_them(run: Command, database_url: str) -> None:
    world(database_url)
    planted(database_url, "DELETE FROM index_string", "DELETE FROM index_token")

    result = run("fsck")

    assert re.search(r"(Patient|Observation|Group)/[a-z]+", result.stdout)
    assert "Marsh" not in result.output
    assert "1985" not in result.output


def test_fsck_takes_away_placeholders_that_nothing_refers_to(
    run: Command, database_url: str
) -> None:
    for name in ("nobody", "somebody"):
        performer = [reference(f"Practitioner/{name}")]
        stored(database_url, observation(id="o", performer=performer))
    placeholders = "SELECT count(*) FROM resource WHERE state = 0"
    before = number(database_url, placeholders)

    found, repaired = run("fsck"), run("fsck", "--repair")
    after = number(database_url, placeholders)
    stored(database_url, practitioner(id="nobody"), practitioner(id="somebody"))

    assert (found.exit_code, repaired.exit_code) == (0, 0)
    assert "placeholders that nothing refers to" in found.stdout
    assert (before, after) == (2, 1)
    assert searched(database_url, "/Observation?performer=Practitioner/somebody") == [["o"]]
    assert run("fsck").exit_code == 0


def test_fsck_keeps_the_placeholder_that_owns_an_old_version(
    run: Command, database_url: str
) -> None:
    stored(database_url, observation(id="o", subject=reference("Patient/later")))
    stored(database_url, observation(id="o", subject=reference("Group/g")))

    run("fsck", "--repair")

    kept = "SELECT count(*) FROM resource WHERE state = 0 AND id = 'later'"
    assert number(database_url, kept) == 1


async def write_for(seconds: float, base_url: str, name: str) -> None:
    """Write Observations about Patients that are not there, and turn to another one each time."""
    until = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=base_url, headers=AUTHORIZED, timeout=20) as client:
        for n in range(100_000):
            subject = reference(f"Patient/{name}-{n % 3}") if n % 4 else None
            body = observation(id=f"{name}-{n % 5}", subject=subject)
            reply = await client.put(f"/Observation/{body['id']}", json=body)
            assert reply.is_success, reply.text
            if time.monotonic() > until:
                return


def test_fsck_beside_writers_raises_no_alarm_and_breaks_nothing(
    database_url: str, tmp_path: Path
) -> None:
    async def write(base_url: str) -> None:
        await asyncio.gather(*(write_for(4, base_url, f"w{n}") for n in range(3)))

    async def check() -> list[subprocess.CompletedProcess[str]]:
        return [
            await asyncio.to_thread(milepost, *arguments, database_url=database_url)
            for arguments in (["fsck"], ["fsck", "--repair"], ["fsck", "--repair"])
        ]

    async def both(base_url: str) -> list[subprocess.CompletedProcess[str]]:
        _, results = await asyncio.gather(write(base_url), check())
        return results

    with serving(database_url, tmp_path / "server.log") as server:
        results = asyncio.run(both(server.base_url))

    assert [(one.returncode, one.stderr) for one in results if one.returncode] == []
    assert asyncio.run(integrity.broken(database_url)) == {}


async def test_fsck_waits_for_the_index_to_be_complete(settings: Settings, run: Command) -> None:
    body = {
        "resourceType": "SearchParameter",
        "id": "eye",
        "url": "https://example.org/eye",
        "name": "eye",
        "status": "active",
        "description": "Languages",
        "code": "tongue",
        "base": ["Patient"],
        "type": "token",
        "expression": "Patient.language",
    }
    async with build(settings, maintaining=True) as server:  # which does no job
        door = Door(server, SYSTEM)
        await door.put(patient(id="p"))
        await door.put(body)

    result = await asyncio.to_thread(run, "fsck")

    assert result.exit_code == 1
    assert "milepost reindex" in result.stderr
