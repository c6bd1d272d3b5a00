"""A backup holds what was acknowledged before it began, and can be restored.

SQLite's is made by `milepost backup`, PostgreSQL's by its own pg_dump and pg_restore, as
docs/operations.md says.
"""

import asyncio
import resource
import shutil
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.db.backup import back_up
from app.main import ROOT
from tests.conftest import BASE_URL
from tests.rest import integrity
from tests.support.postgresql import PostgreSQL, reachable, unprivileged
from tests.support.process import command, environment, serving
from tests.support.resources import observation, patient, put, reference, transaction
from tests.support.tokens import AUTHORIZED

WRITERS = 4
BEFORE = 40  # writes of each that are acknowledged before the backup begins


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `milepost ARGUMENTS` on a database."""

    def run(database_url: str, *arguments: str | Path) -> Result:
        given = {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_BASE_URL": BASE_URL,
            "COLUMNS": "300",
        }
        return CliRunner().invoke(app, [str(one) for one in arguments], env=given)

    return run


async def written_around(
    base_url: str, act: Callable[[], Coroutine[Any, Any, None]]
) -> dict[str, bytes]:
    """Write before and while `act` runs; return what was acknowledged before it began."""
    before: dict[str, bytes] = {}
    enough, over = asyncio.Event(), asyncio.Event()

    async def write(client: httpx.AsyncClient, name: str) -> None:
        n = 0
        while not over.is_set():
            who = patient(id=f"{name}-{n}")
            score = observation(id=f"{name}-{n}", subject=reference(who))
            reply = await client.post("/", json=transaction(put(score), put(who)))
            assert reply.status_code == 200, reply.text
            n += 1
            if not enough.is_set():
                read = await client.get(f"/Patient/{name}-{n - 1}")
                before[f"/Patient/{name}-{n - 1}/_history/1"] = read.content
            if len(before) >= WRITERS * BEFORE:
                enough.set()

    async def during() -> None:
        await enough.wait()
        try:
            await act()
        finally:
            over.set()

    headers = {"Content-Type": "application/fhir+json", **AUTHORIZED}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30) as client:
        writers = [write(client, f"w{n}") for n in range(WRITERS)]
        await asyncio.gather(during(), *writers)
    return before


def missing(base_url: str, acknowledged: dict[str, bytes]) -> list[str]:
    """Return which of the acknowledged versions are not there as they were."""
    with httpx.Client(base_url=base_url, headers=AUTHORIZED) as client:
        return [
            path for path, content in acknowledged.items() if client.get(path).content != content
        ]


def test_a_copy_that_is_made_while_others_write_has_all_that_was_acknowledged_before(
    sqlite_template: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    source, copy = tmp_path / "milepost.db", tmp_path / "copy.db"
    shutil.copy(sqlite_template, source)
    results: list[Result] = []

    async def back_up() -> None:
        results.append(await asyncio.to_thread(run, f"sqlite:///{source}", "backup", copy))

    with serving(f"sqlite:///{source}", tmp_path / "log") as server:
        acknowledged = asyncio.run(written_around(server.base_url, back_up))
        newest = asyncio.run(
            integrity.number(f"sqlite:///{source}", "SELECT count(*) FROM resource")
        )
    restored = f"sqlite:///{copy}"
    checked = run(restored, "fsck")
    with serving(restored, tmp_path / "restored.log") as server:
        lost = missing(server.base_url, acknowledged)
        address = f"{server.base_url}/Patient/after"
        again = httpx.put(address, json=patient(id="after"), headers=AUTHORIZED)

    assert results[0].exit_code == 0, results[0].output
    assert "nothing is wrong" in results[0].output

    assert checked.exit_code == 0, checked.output
    assert asyncio.run(integrity.broken(restored)) == {}
    assert lost == []
    assert again.status_code == 201
    assert newest >= len(acknowledged)
    assert copy.stat().st_mode & 0o077 == 0  # it holds what the database holds
    assert [file.name for file in tmp_path.glob("copy.db*")] == ["copy.db"]


def test_a_file_that_exists_is_not_replaced(
    sqlite_template: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    (tmp_path / "copy.db").write_text("precious")

    result = run(f"sqlite:///{sqlite_template}", "backup", tmp_path / "copy.db")

    assert result.exit_code == 2
    assert "copy.db exists already" in result.output
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_a_database_that_is_not_there_is_not_made(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    result = run(f"sqlite:///{tmp_path / 'none.db'}", "backup", tmp_path / "copy.db")

    assert result.exit_code == 2
    assert "There is no database" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_gives_no_backup(
    sqlite_template: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    source = tmp_path / "milepost.db"
    whole = sqlite_template.read_bytes()
    source.touch(0o600)
    source.write_bytes(whole[:8192] + b"\xff" * 65536 + whole[8192 + 65536 :])

    result = run(f"sqlite:///{source}", "backup", tmp_path / "copy.db")

    assert result.exit_code == 1
    assert "There is no backup" in result.output
    assert not list(tmp_path.glob("copy.db*"))


def test_a_disk_that_is_full_is_no_damage_to_the_database(
    sqlite_template: Path, tmp_path: Path
) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    result = subprocess.run(
        command("backup", tmp_path / "copy.db"),
        cwd=ROOT,
        env=environment(f"sqlite:///{sqlite_template}"),
        preexec_fn=little_room,
        capture_output=True,
        text=True,
    )

    assert result.returncode == 1
    assert "There is no backup" in result.stderr
    assert "damaged" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_another_backup_has_begun_is_left_to_it(sqlite_template: Path, tmp_path: Path) -> None:
    begun = tmp_path / "copy.db.part"
    begun.write_text("half")

    with pytest.raises(FileExistsError):
        back_up(str(sqlite_template), begun, lambda _left, _total: None)

    assert begun.read_text() == "half"


def test_a_database_of_an_older_schema_is_copied_before_it_is_upgraded(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    source, copy = tmp_path / "milepost.db", tmp_path / "copy.db"
    source.touch(0o600)

    result = run(f"sqlite:///{source}", "backup", copy)

    assert result.exit_code == 0, result.output
    assert "its index was not compared" in result.output
    assert copy.exists()


def test_postgresql_is_left_to_its_own_tools(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("postgresql://me:secret@nowhere/milepost", "backup", tmp_path / "copy")

    assert result.exit_code == 2
    assert "pg_dump" in result.output
    assert "secret" not in result.output


def test_a_dump_of_postgresql_is_restored_with_all_that_was_acknowledged_before(
    postgresql_server: PostgreSQL,
    postgresql_template: str,
    tmp_path: Path,
    run: Callable[..., Result],
) -> None:
    names = [f"milepost_{uuid4().hex}" for _ in range(2)]
    source = postgresql_server.create(names[0], postgresql_template)
    target = postgresql_server.create(names[1])
    socket = urlsplit(postgresql_server.url).query.removeprefix("host=")
    home = Path(socket)
    binaries = reachable(home, unprivileged(home))
    connection = ["--host", socket, "--username", "postgres"]
    dump = tmp_path / "milepost.dump"

    async def back_up() -> None:
        command: list[str | Path] = [binaries / "pg_dump", *connection, names[0]]
        command += ["--format=custom", "--file", dump]
        await asyncio.to_thread(lambda: subprocess.run(command, check=True))

    with serving(source, tmp_path / "log") as server:
        acknowledged = asyncio.run(written_around(server.base_url, back_up))
    subprocess.run(
        [binaries / "pg_restore", *connection, "--exit-on-error", "--dbname", names[1], dump],
        check=True,
    )
    checked = run(target, "fsck")
    with serving(target, tmp_path / "restored.log") as server:
        lost = missing(server.base_url, acknowledged)
        address = f"{server.base_url}/Patient/after"
        again = httpx.put(address, json=patient(id="after"), headers=AUTHORIZED)

    assert checked.exit_code == 0, checked.output
    assert asyncio.run(integrity.broken(target)) == {}
    assert lost == []
    assert again.status_code == 201
    for name in names:
        postgresql_server.drop(name)
