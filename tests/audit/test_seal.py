"""The chain over the trail: what it proves, what it finds, and what it cannot know."""

from collections.abc import AsyncIterator

import pytest

from app import db
from app.config import Settings
from app.fhir.audit import Report, Trail, seal, security_event, verify
from tests.audit.office import execute, opened

NOW = 1_800_000_000_000_000
TABLES = ("audit", "audit_patient", "audit_seal")
UNPROTECTED = {
    "sqlite": [f"DROP TRIGGER {t}_no_{event}" for t in TABLES for event in ("update", "delete")],
    "postgresql": [f"DROP TRIGGER {table}_stays ON {table}" for table in TABLES],
}


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[db.Database]:
    """A database with a trail of ten rows, the last two of which wait to be sealed."""
    async with opened(settings.database_url) as database:
        await write(database, 8)
        assert await seal(database) == 8
        await write(database, 2, NOW + 1000)
        yield database


async def write(database: db.Database, count: int, at: int = NOW) -> None:
    """Note some events, each about a patient."""
    trail = Trail(database, {}, 7)
    for n in range(count):
        patients = (100 + n,)
        await trail.note(
            security_event(at + n, "ada", "consent", 0, patients=patients, scope="patient/*.rs")
        )


async def result(database: db.Database, known: str = "") -> Report:
    """Return the last report of a verification."""
    return [report async for report in verify(database, known)][-1]


async def test_a_trail_that_nobody_touched_is_proved(database: db.Database) -> None:
    report = await result(database)

    assert (report.sealed, report.waiting, report.checked, report.broken) == (8, 2, 8, "")
    assert report.last.startswith("8:")


async def test_what_waits_is_sealed_after_what_is_sealed(database: db.Database) -> None:
    before = (await result(database)).last

    assert await seal(database) == 2
    assert await seal(database) == 0

    report = await result(database, before)
    assert (report.sealed, report.waiting, report.checked, report.broken) == (10, 0, 10, "")


ROW = "(SELECT audit_id FROM audit_seal WHERE n = {n})"


@pytest.mark.parametrize(
    ("tampered", "checked", "broken"),
    [
        ([f"UPDATE audit SET agent = 'bob' WHERE id = {ROW.format(n=3)}"], 2, "is not what it was"),
        (
            [f"UPDATE audit SET detail = '{{}}' WHERE id = {ROW.format(n=1)}"],
            0,
            "is not what it was",
        ),
        ([f"DELETE FROM audit WHERE id = {ROW.format(n=4)}"], 3, "of seal 4, is missing"),
        ([f"DELETE FROM audit WHERE id = {ROW.format(n=8)}"], 7, "of seal 8, is missing"),
        (
            [f"DELETE FROM audit_patient WHERE id = {ROW.format(n=5)}"],
            4,
            "of seal 5, is not found by all of its patients",
        ),
        (["DELETE FROM audit_seal WHERE n = 6"], 5, "Seal 6 is missing"),
        (["DELETE FROM audit_seal WHERE n = 1"], 0, "Seal 1 is missing"),
        (
            [
                "UPDATE audit_seal SET n = 100 WHERE n = 2",
                "UPDATE audit_seal SET n = 2 WHERE n = 3",
                "UPDATE audit_seal SET n = 3 WHERE n = 100",
            ],
            1,
            "seal 2 of it, is not what it was",
        ),
    ],
)
async def test_whatever_was_done_to_a_sealed_row_breaks_the_chain_there(
    database: db.Database, tampered: list[str], checked: int, broken: str
) -> None:
    await execute(database, UNPROTECTED[database.dialect])
    await execute(database, tampered)

    report = await result(database)

    assert report.checked == checked
    assert report.broken.endswith(broken)


async def test_a_chain_goes_on_after_its_last_row_was_removed(database: db.Database) -> None:
    await execute(database, UNPROTECTED[database.dialect])
    await execute(database, [f"DELETE FROM audit WHERE id = {ROW.format(n=8)}"])

    assert await seal(database) == 2
    assert (await result(database)).broken.endswith("of seal 8, is missing")


async def test_an_end_that_was_cut_off_shows_by_a_seal_that_was_kept(
    database: db.Database,
) -> None:
    kept = (await result(database)).last
    await execute(database, UNPROTECTED[database.dialect])
    await execute(
        database,
        [
            f"DELETE FROM audit WHERE id >= {ROW.format(n=6)}",
            "DELETE FROM audit_seal WHERE n >= 6",
        ],
    )

    alone, known = await result(database), await result(database, kept)

    assert alone.broken == ""
    assert known.broken == "Seal 8 is missing: the end of the chain was cut off"


async def test_a_chain_that_was_made_anew_shows_by_a_seal_that_was_kept(
    database: db.Database,
) -> None:
    kept = (await result(database)).last
    await execute(database, UNPROTECTED[database.dialect])
    await execute(database, ["UPDATE audit SET agent = 'bob'", "DELETE FROM audit_seal"])
    await seal(database)

    alone, known = await result(database), await result(database, kept)

    assert alone.broken == ""
    assert "the chain was made anew" in known.broken


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("text", ["DELETE FROM {}", "UPDATE {} SET {} = {}"])
async def test_the_database_refuses_to_change_or_remove_a_row(
    database: db.Database, table: str, text: str
) -> None:
    column = {"audit": "at", "audit_patient": "owner", "audit_seal": "n"}[table]

    with pytest.raises(db.FAILURES, match="stays as it is"):
        await execute(database, [text.format(table, column, column)])

    assert (await result(database)).broken == ""


async def test_the_end_of_a_transaction_decides_the_order_of_seals(
    settings: Settings, engine: str
) -> None:
    """On PostgreSQL a row that is committed late comes late, whatever its number is."""
    if engine == "sqlite":
        pytest.skip("SQLite has one writer: what it writes is committed in order")
    async with opened(settings.database_url) as one, opened(settings.database_url) as two:

        async def late(connection: db.Connection) -> None:
            trail = Trail(one, {}, 1)
            await connection.begin()
            await connection.change(trail.changes([security_event(NOW, "late", "token", 0)]))
            await Trail(two, {}, 2).note(security_event(NOW, "early", "token", 0))
            assert await seal(two) == 0  # an older transaction still runs

        await one.write(late)

        assert await seal(two) == 2
        assert (await result(two)).broken == ""
