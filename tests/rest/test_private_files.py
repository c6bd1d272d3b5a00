"""The database is for nobody but its owner: files are made so, and others are not opened."""

import asyncio
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import httpx
import pytest

from app import private
from app.main import ROOT, application
from tests.rest import integrity
from tests.support.process import command, environment, milepost, serving
from tests.support.resources import patient
from tests.support.tokens import AUTHORIZED


def mode(place: Path) -> int:
    """Return the rights of a file or folder."""
    return stat.S_IMODE(place.stat().st_mode)


@pytest.fixture
def file(sqlite_template: Path, tmp_path: Path) -> Path:
    """A database as `milepost migrate` makes it, in a folder of its own."""
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    return Path(shutil.copy(sqlite_template, folder / "milepost.db"))


def test_a_new_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        made = milepost("migrate", database_url=f"sqlite:///{tmp_path}/new/milepost.db")
    finally:
        os.umask(old)

    assert made.returncode == 0, made.stderr
    assert mode(tmp_path / "new") == 0o700
    assert {one.name: mode(one) for one in (tmp_path / "new").iterdir()} == {"milepost.db": 0o600}


def test_what_sqlite_keeps_beside_the_database_is_for_its_owner_alone(
    file: Path, tmp_path: Path
) -> None:
    with serving(f"sqlite:///{file}", tmp_path / "log") as server:
        address = f"{server.base_url}/Patient/a"
        reply = httpx.put(address, json=patient(id="a"), headers=AUTHORIZED)
        found = {one.name: mode(one) for one in file.parent.iterdir()}

    assert reply.status_code == 201
    assert found == dict.fromkeys(["milepost.db", "milepost.db-wal", "milepost.db-shm"], 0o600)


COMMANDS = ["serve", "migrate", "reindex", "fsck", "load x.json", "backup copy.db"]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_no_command_opens_a_database_that_others_may_read(file: Path, arguments: str) -> None:
    file.chmod(0o644)

    ended = milepost(*arguments.split(), database_url=f"sqlite:///{file}")

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        f"Others may open the database, {file}: nobody but its owner should."
        f" Run: chmod 600 {file}\n"
    )


@pytest.mark.parametrize(
    ("place", "open_to"),
    [
        (".", 0o750),
        (".", 0o701),
        (".", 0o1777),
        ("milepost.db", 0o640),
        ("milepost.db", 0o602),
        ("milepost.db-wal", 0o604),
        ("milepost.db-shm", 0o644),
        ("milepost.db-journal", 0o644),
    ],
)
def test_the_command_that_is_named_closes_what_was_open(
    file: Path, place: str, open_to: int
) -> None:
    opened = (file.parent / place).resolve()
    if not opened.exists():
        opened.touch()
    opened.chmod(open_to)
    url = f"sqlite:///{file}"

    refused = milepost("fsck", database_url=url)
    (advice,) = re.findall(r"Run: (chmod .*)", refused.stderr)
    subprocess.run(advice, shell=True, check=True)
    accepted = milepost("fsck", database_url=url)

    assert (refused.returncode, accepted.returncode) == (1, 0), accepted.stderr
    assert str(opened) in advice


def test_a_link_does_not_hide_where_the_database_is(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(file)
    file.parent.chmod(0o755)

    ended = milepost("fsck", database_url=f"sqlite:///{link}")

    assert ended.returncode == 1
    assert f"the folder of the database, {file.parent}:" in ended.stderr


def test_a_backup_may_be_put_into_any_folder(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "backups"
    target.mkdir()
    target.chmod(0o755)

    made = milepost("backup", target / "copy.db", database_url=f"sqlite:///{file}")

    assert made.returncode == 0, made.stderr
    assert mode(target / "copy.db") == 0o600


def test_a_server_process_looks_for_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILEPOST_DATABASE_URL", f"sqlite:///{file}")
    file.chmod(0o640)

    with pytest.raises(private.Exposed, match="chmod 600"):
        application()


def test_postgresql_keeps_its_files_itself() -> None:
    assert list(private.privates("postgresql://milepost@db/milepost", "")) == []


def test_the_folder_above_is_not_made(tmp_path: Path) -> None:
    ended = milepost("migrate", database_url=f"sqlite:///{tmp_path}/slip/kept/milepost.db")

    assert ended.returncode == 1
    assert not (tmp_path / "slip").exists()


def test_the_database_of_an_earlier_version_is_not_left_behind(
    sqlite_template: Path, tmp_path: Path
) -> None:
    shutil.copy(sqlite_template, tmp_path / "milepost.db")
    (tmp_path / "milepost.db").chmod(0o644)
    env = {**environment(""), "PYTHONPATH": str(ROOT)}
    del env["MILEPOST_DATABASE_URL"]

    def migrate() -> subprocess.CompletedProcess[str]:
        arguments = command("migrate")
        return subprocess.run(arguments, cwd=tmp_path, env=env, capture_output=True, text=True)

    refused = migrate()
    (advice,) = re.findall(r"move it: (.*)", refused.stderr)
    subprocess.run(advice, shell=True, check=True, cwd=tmp_path)
    accepted = migrate()

    assert (refused.returncode, accepted.returncode) == (1, 0), accepted.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == [".milepost"]
    kept = f"sqlite:///{tmp_path}/.milepost/milepost.db"
    assert asyncio.run(integrity.number(kept, "SELECT count(*) FROM token")) == 1
