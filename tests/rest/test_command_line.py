"""The command `milepost`: migrate, load and serve, as somebody types them."""

import asyncio
import bz2
import gzip
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.config import Settings
from tests.conftest import BASE_URL
from tests.rest import integrity
from tests.support.application import connected
from tests.support.process import milepost, serving
from tests.support.resources import (
    Resource,
    batch,
    bundle,
    get,
    observation,
    patient,
    post,
    practitioner,
    put,
    reference,
    transaction,
)
from tests.support.tokens import admit

Command = Callable[..., Result]


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    """The settings of the commands of this test."""
    return {"MILEPOST_DATABASE_URL": database_url, "MILEPOST_BASE_URL": BASE_URL, "COLUMNS": "300"}


@pytest.fixture
def run(environment: dict[str, str]) -> Command:
    """Run `milepost ARGUMENTS` on this test's database."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(one) for one in arguments], env=environment)

    return run


def stored(database_url: str, *paths: str) -> list[int]:
    """Return the status with which a server reads each of the paths."""

    async def read() -> list[int]:
        async with connected(Settings(database_url=database_url, base_url=BASE_URL)) as client:
            return [(await client.get(path)).status_code for path in paths]

    return asyncio.run(read())


def total(database_url: str, type: str) -> int:
    """Return how many resources of a type a server finds."""

    async def search() -> int:
        async with connected(Settings(database_url=database_url, base_url=BASE_URL)) as client:
            found: int = (await client.get(f"/{type}?_count=1000")).json()["total"]
            return found

    return asyncio.run(search())


def written(file: Path, *bodies: Resource | str) -> Path:
    """Write resources into a file, a line each, packed as its name says."""
    lines = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
    packings: dict[str, Callable[[bytes], bytes]] = {".bz2": bz2.compress, ".gz": gzip.compress}
    pack = packings.get(file.suffix, bytes)
    file.write_bytes(pack("\n".join(lines).encode()))
    return file


def group(name: str) -> Resource:
    """Return a transaction of a Patient and an Observation about it."""
    return transaction(
        put(patient(id=name)), put(observation(id=name, subject=reference(f"Patient/{name}")))
    )


# --- migrate -------------------------------------------------------------------------------------


def test_migrate_makes_a_database_that_can_be_served(empty_database_url: str) -> None:
    settings = {"MILEPOST_DATABASE_URL": empty_database_url}

    first = CliRunner().invoke(app, ["migrate"], env=settings)
    second = CliRunner().invoke(app, ["migrate"], env=settings)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "up to date" in first.stdout
    admit(empty_database_url)
    assert stored(empty_database_url, "/Patient") == [200]


def test_migrate_keeps_what_is_there(run: Command, database_url: str, tmp_path: Path) -> None:
    run("load", written(tmp_path / "a.json", group("a")))

    result = run("migrate")

    assert result.exit_code == 0
    assert stored(database_url, "/Patient/a") == [200]


# --- load ----------------------------------------------------------------------------------------


def test_load_takes_bundles_and_resources_in_every_packing(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    files = [
        written(tmp_path / "a.json", group("a")),
        written(tmp_path / "b.json.bz2", group("b")),
        written(tmp_path / "c.json.gz", patient(id="c")),
        written(tmp_path / "d.ndjson", patient(id="d"), "", patient(id="e"), practitioner()),
        written(tmp_path / "f.ndjson.gz", patient(id="f")),
        written(tmp_path / "g.ndjson.bz2", group("g"), batch(put(patient(id="h")))),
    ]

    result = run("load", *files)

    assert result.exit_code == 0, result.output
    paths = [f"/Patient/{id}" for id in "abcdefgh"]
    assert stored(database_url, *paths) == [200] * len(paths)
    assert total(database_url, "Practitioner") == 1
    assert asyncio.run(integrity.broken(database_url)) == {}


def test_load_tells_how_many_of_each_type_it_wrote_and_how_fast(
    run: Command, tmp_path: Path
) -> None:
    lines = [patient(id=f"p{n}") for n in range(1100)]

    result = run("load", written(tmp_path / "a.ndjson", *lines, practitioner()))

    assert re.search(r"Patient\W+1,100\b", result.stdout)
    assert re.search(r"Practitioner\W+1\b", result.stdout)
    assert re.search(r"1101 in [0-9.]+ s", result.stdout)
    assert re.search(r"[0-9,]+/s", result.stdout)


def test_load_of_what_is_loaded_changes_nothing(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.json", group("a"))
    run("load", file)
    before = asyncio.run(integrity.rows(database_url))

    result = run("load", file)

    assert result.exit_code == 0
    assert asyncio.run(integrity.rows(database_url)) == before


def test_load_names_a_bundle_that_fails_and_loads_the_others(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    wrong = transaction(put(patient(id="x")), post(patient(gender="f")))
    files = [
        written(tmp_path / "good.json", group("a")),
        written(tmp_path / "wrong.json", wrong),
        written(tmp_path / "better.json", group("b")),
    ]

    result = run("load", *files)

    assert result.exit_code == 1
    assert "wrong.json" in result.stderr
    assert "Bundle.entry[1].resource.gender" in result.stderr
    assert "code-invalid" in result.stderr
    assert "1 of 3 files" in result.stderr
    assert "good.json" not in result.stderr
    assert stored(database_url, "/Patient/a", "/Patient/b", "/Patient/x") == [200, 200, 404]


def test_load_names_the_entries_of_a_batch_that_fail(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    mixed = batch(put(patient(id="a")), post(patient(gender="f")), get("Patient/nobody"))

    result = run("load", written(tmp_path / "mixed.json", mixed))

    assert result.exit_code == 1
    assert "Bundle.entry[1]" in result.stderr
    assert "Bundle.entry[2]" in result.stderr
    assert stored(database_url, "/Patient/a") == [200]


def test_load_of_lines_loads_every_line_that_is_good_and_names_the_others(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    lines: list[Resource | str] = [
        patient(id="a"),
        "not json",
        patient(id="b", gender="f"),
        '{"id":"c"}',
        '{"resourceType":"Nothing","id":"d"}',
        patient(id="e_e"),
        patient(id="f"),
    ]

    result = run("load", written(tmp_path / "lines.ndjson", *lines))

    assert result.exit_code == 1
    assert stored(database_url, "/Patient/a", "/Patient/f", "/Patient/b") == [200, 200, 404]
    for line in (2, 3, 4, 5, 6):
        assert f"line {line}" in result.stderr
    assert "Patient.gender" in result.stderr
    assert "Patient.id" in result.stderr
    assert "None" not in result.stderr


def test_load_names_a_file_that_cannot_be_read_and_loads_the_others(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    packed = {name: written(tmp_path / name, group("x")) for name in ("x.json.gz", "x.json.bz2")}
    for name, file in packed.items():
        whole = file.read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"mixed-{name}").write_bytes(whole[:20] + b"\xff" * 9 + whole[29:])
        (tmp_path / f"plain-{name}").write_bytes(b"{}")
    (tmp_path / "no.json").write_bytes(b"{")
    (tmp_path / "latin.json").write_bytes('{"resourceType":"Pätient"}'.encode("latin-1"))
    (tmp_path / "empty.json").write_bytes(b"")
    broken = sorted(file for file in tmp_path.iterdir() if file.name not in packed)

    result = run("load", *broken, written(tmp_path / "good.json", group("a")))

    assert result.exit_code == 1
    assert [file.name for file in broken if file.name not in result.stderr] == []
    assert f"{len(broken)} of {len(broken) + 1} files" in result.stderr
    assert "Traceback" not in result.output
    assert stored(database_url, "/Patient/a", "/Patient/x") == [200, 404]


def test_load_of_a_missing_file_loads_nothing(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    result = run("load", written(tmp_path / "a.json", group("a")), tmp_path / "missing.json")

    assert result.exit_code != 0
    assert "missing.json" in result.stderr
    assert stored(database_url, "/Patient/a") == [404]


def test_load_stores_a_bundle_that_is_no_request(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    collection = {**bundle("collection", {"resource": patient(id="a")}), "id": "c"}

    result = run("load", written(tmp_path / "a.json", collection))

    assert result.exit_code == 0, result.output
    assert stored(database_url, "/Bundle/c", "/Patient/a") == [200, 404]


def test_load_refuses_a_database_that_is_not_migrated(
    empty_database_url: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.json", group("a"))

    result = CliRunner().invoke(
        app, ["load", str(file)], env={"MILEPOST_DATABASE_URL": empty_database_url}
    )

    assert result.exit_code == 1
    assert "milepost migrate" in result.stderr


# --- serve ---------------------------------------------------------------------------------------


def test_serve_refuses_a_database_that_is_not_migrated(empty_database_url: str) -> None:
    finished = milepost("serve", "--port", "0", database_url=empty_database_url)

    assert finished.returncode == 1
    assert "milepost migrate" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not Path(empty_database_url.removeprefix("sqlite:///")).exists()


def test_serve_refuses_several_workers_on_sqlite(sqlite_template: Path) -> None:
    finished = milepost(
        "serve", "--port", "0", "--workers", "2", database_url=f"sqlite:///{sqlite_template}"
    )

    assert finished.returncode != 0
    assert "use PostgreSQL for more than one worker" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("DATABASE_URL", "mysql://x"), ("TIME_ZONE", "Mars"), ("PAGE_SIZE", "0")],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    result = CliRunner().invoke(app, ["migrate"], env={f"MILEPOST_{name}": value})

    assert result.exit_code != 0
    assert f"MILEPOST_{name}" in result.stderr


@pytest.fixture(scope="module")
def greeting(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a server prints, while it runs."""
    folder = tmp_path_factory.mktemp("serve")
    file = shutil.copy(sqlite_template, folder / "milepost.db")
    with serving(f"sqlite:///{file}", folder / "log"):
        yield (folder / "log").read_text()


def test_serve_prints_its_base_url_and_three_requests_to_try(greeting: str) -> None:
    bases = set(re.findall(r"http://127\.0\.0\.1:\d+/fhir", greeting))

    assert len(bases) == 1
    assert len(re.findall(r"^\s*curl ", greeting, re.MULTILINE)) == 3


def test_the_requests_that_serve_prints_work(greeting: str) -> None:
    lines = re.findall(r"^\s*curl (.*)$", greeting, re.MULTILINE)

    replies = [send(line) for line in lines]

    assert [reply.is_success for reply in replies] == [True] * 3
    assert replies[2].json()["entry"][0]["resource"] == replies[1].json()


def send(line: str) -> httpx.Response:
    """Make the request that a curl command line describes."""
    words = shlex.split(line)
    given = [(flag, value) for flag, value in pairwise(words) if flag in ("-H", "-d")]
    headers = dict(value.split(": ") for flag, value in given if flag == "-H")
    body = dict(given).get("-d")
    method = "GET" if body is None else "POST"
    return httpx.request(method, words[-1], content=body, headers=headers)


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert result.exit_code == 0
    assert [name for name in ("serve", "migrate", "load") if name not in result.stdout] == []


@pytest.mark.parametrize("command", ["migrate", "serve", "fsck"])
@pytest.mark.parametrize("what", ["nobody listens", "no database", "no directory"])
def test_a_database_that_cannot_be_used_is_told_in_a_sentence(
    tmp_path: Path, command: str, what: str
) -> None:
    (tmp_path / "other.db").touch(0o600)
    (tmp_path / "other.db").write_text("something else")
    urls = {
        "nobody listens": "postgresql://milepost:secret@127.0.0.1:1/milepost",
        "no database": f"sqlite:///{tmp_path}/other.db",
        "no directory": f"sqlite:///{tmp_path}/none/of/them.db",
    }

    ended = milepost(command, database_url=urls[what])

    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr
    assert re.search("The database (failed|schema is not up to date)", ended.stderr), ended.stderr
