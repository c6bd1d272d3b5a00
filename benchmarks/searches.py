"""Measure searches on a large database, and against SQL by hand: `make bench-searches`.

For each query of `benchmarks.queries`, on both engines:

* what a client sees: p50 and p95 of the request to a real `milepost serve`, one at a time, and the
  CPU time of the server and of PostgreSQL;
* how many index entries its statements read, which for a page may be 50 for each row it returns
  and for 21 more (PostgreSQL, EXPLAIN ANALYZE), and how many tables a plan scans as a whole;
* how long its statements take, and how long SQL by hand that returns the same rows takes on the
  same connections, by turns, in this process. At most twice as long is allowed.

The database is made from `benchmarks.population`, which takes minutes; `--keep` spares the next
run that.
"""

import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any, cast
from urllib.parse import quote

import httpx
import typer
import uvloop
from alembic.script import ScriptDirectory
from rich.box import HEAVY_HEAD, MARKDOWN
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app import db
from app.config import Settings
from app.db.statements import arguments
from app.fhir import definitions
from app.fhir.index import EXTRACTOR
from app.main import alembic_config, create_app
from benchmarks import population
from benchmarks.bench import ENGINES, judged
from benchmarks.generator import run
from benchmarks.processes import Server, cpu, served
from benchmarks.queries import COUNT, DEEP, QUERIES, Case, Facts, Query
from benchmarks.workload import message
from tests.support.application import JSON, started
from tests.support.postgresql import PostgreSQL, postgresql
from tests.support.process import command, environment, free_port
from tests.support.tokens import AUTHORIZED, admit

COLUMNS = ["", "p50 ms", "p95 ms", "CPU µs", "PG µs", "read", "scans", "SQL ms", "by hand", "times"]
WIDTH = 128
ALLOWED_READ = 50
ALLOWED_TIMES = 2.0
ROUNDS = 12
PATIENTS, MOMENTS, FAMILIES = 8, 8, 3
SCANS = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan"}
TABLES = "|".join(db.metadata.tables)
# How a statement calls a table: `FROM resource AS r`, `FROM resource r`, `FROM resource`
NAMED = re.compile(rf"\b(?:FROM|JOIN|,)\s+({TABLES})\b(?:\s+AS)?(?:\s+(\w+))?", re.IGNORECASE)
PLACE = re.compile(r":(\[[^\]]+\]|[A-Z]\w+(?:\.[\w-]+)?|[a-z]\w*)")


@dataclass(frozen=True)
class Call:
    """One statement that was run: with which values, and how long its rows took."""

    statement: db.Statement
    values: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Recorder:
    """A connection that notes what it runs."""

    connection: Any
    calls: list[Call]

    async def rows(self, statement: db.Statement, values: Mapping[str, Any]) -> Sequence[db.Row]:
        """Return the rows of a statement."""
        start = time.perf_counter()
        rows: Sequence[db.Row] = await self.connection.rows(statement, values)
        self.calls.append(Call(statement, values, time.perf_counter() - start))
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


@dataclass
class Recording:
    """A database whose searches are noted: `calls` are those of the last one."""

    database: Any
    calls: list[Call] = field(default_factory=list)

    async def search(self, work: Any) -> Any:
        """Return the result of a search."""

        async def noted(connection: Any) -> Any:
            self.calls.clear()  # SQLite begins a search again that takes long
            return await work(Recorder(connection, self.calls))

        return await self.database.search(noted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.database, name)


@dataclass(frozen=True)
class Asked:
    """An answer of the server in this process, and the statements it took."""

    status: int
    ids: list[str]
    calls: list[Call]


@dataclass(frozen=True)
class Engine:
    """A server in this process on one database, and what SQL by hand needs to know of it."""

    dialect: db.Dialect
    database: Recording
    client: httpx.AsyncClient
    numbers: Mapping[str, int]

    async def ask(self, path: str) -> Asked:
        """Return the answer to a search."""
        self.database.calls.clear()
        reply = await self.client.get(encoded(path))
        entries = reply.json().get("entry", [])
        ids = [entry["resource"].get("id", "") for entry in entries]
        return Asked(reply.status_code, ids, list(self.database.calls))

    async def following(self, path: str, pages: int) -> str:
        """Return the path of a later page, which the links of the earlier ones lead to."""
        for _ in range(pages - 1):
            reply = await self.client.get(encoded(path))
            links = {link["relation"]: link["url"] for link in reply.json().get("link", [])}
            if "next" not in links:
                break
            path = links["next"].removeprefix(str(self.client.base_url).rstrip("/"))
        return path

    def statement(self, text: str) -> db.Statement:
        """Return a statement by hand in the form of the dialect, its numbers filled in."""
        names: list[str] = []

        def place(found: re.Match[str]) -> str:
            name = found[1]
            if not name[0].islower():
                return str(self.numbers.get(name, -1))
            if self.dialect == "sqlite":
                names.append(name)
                return "?"
            if name not in names:
                names.append(name)
            return f"${names.index(name) + 1}"

        text = PLACE.sub(place, text)
        return db.Statement(text, tuple(names))

    async def by_hand(self, query: Query, case: Case) -> Asked:
        """Return the same answer by SQL by hand."""
        values = {"limit": COUNT + 1, "count": COUNT, **case.values}
        calls = [Call(self.statement(text), values, 0) for text in query.sql(self.dialect)]
        rows = await self.again(calls)
        return Asked(200, [row[0] for row in rows], list(self.database.calls))

    async def again(self, calls: Sequence[Call]) -> Sequence[db.Row]:
        """Run statements once more, as one search, and return the rows of the first."""

        async def work(connection: db.Connection) -> list[Sequence[db.Row]]:
            return [await connection.rows(call.statement, call.values) for call in calls]

        found: list[Sequence[db.Row]] = await self.database.search(work)
        return found[0]

    async def seconds(self, calls: Sequence[Call]) -> float:
        """Return how long statements take."""
        await self.again(calls)
        return sum(call.seconds for call in self.database.calls)

    async def plan(self, call: Call) -> list[str] | Mapping[str, Any]:
        """Return the plan of a statement: of SQLite its lines, of PostgreSQL with what it read."""
        given = arguments(call.statement, call.values)

        async def postgresql(connection: Any) -> Any:
            prepared = await connection.raw.prepare(call.statement.text)
            return (await prepared.explain(*given, analyze=True))[0]["Plan"]

        async def sqlite(connection: Any) -> Any:
            explained = replace(call.statement, text=f"EXPLAIN QUERY PLAN {call.statement.text}")
            return [row[3] for row in await connection.rows(explained, call.values)]

        kinds = {"postgresql": postgresql, "sqlite": sqlite}
        return cast("list[str]", await self.database.database.search(kinds[self.dialect]))


def encoded(path: str) -> str:
    """Return a path as it is sent."""
    return quote(path, safe="/?&=:,|$%._-~")


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the nodes of a plan of PostgreSQL."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def entries_read(plan: Mapping[str, Any]) -> float:
    """Return how many entries of indexes and tables a plan of PostgreSQL read."""
    counts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return sum(
        float(node["Actual Loops"] * sum(node.get(name, 0) for name in counts))
        for node in nodes(plan)
        if node["Node Type"] in SCANS
    )


def scans(plan: list[str] | Mapping[str, Any], text: str) -> list[str]:
    """Return the tables that a plan goes through as a whole."""
    if isinstance(plan, list):
        called = {alias or table: table for table, alias in NAMED.findall(text)}
        words = [line.split() for line in plan if line.startswith("SCAN")]
        return [called[line[1]] for line in words if line[1] in called]
    return [
        node["Relation Name"]
        for node in nodes(plan)
        if node.get("Relation Name") in db.metadata.tables
        and node["Node Type"] in SCANS
        and "Index Cond" not in node
        and node["Node Type"] != "Bitmap Index Scan"
    ]


@dataclass(frozen=True)
class Figures:
    """What one query costs: a row of the table."""

    latencies: tuple[float, float] = (0, 0)
    spent: tuple[float, float] = (0, 0)
    read: float = 0
    most: float = 0
    scanned: tuple[str, ...] = ()
    own: float = 0
    hand: float = 0
    note: str = ""

    def cells(self, query: Query, *, postgresql: bool) -> list[str]:
        """Return the cells of the row."""
        if self.note:
            return [query.name, "-", *[""] * (len(COLUMNS) - 3), self.note]
        limit = None if query.total or not postgresql else self.most
        return [
            query.name,
            *(f"{value:,.2f}" for value in self.latencies),
            f"{self.spent[0]:,.0f}",
            f"{self.spent[1]:,.0f}" if postgresql else "",
            judged(self.read, limit) if postgresql else "",
            f"[red]{len(self.scanned)}[/red]" if self.scanned else "0",
            f"{self.own * 1000:,.2f}",
            f"{self.hand * 1000:,.2f}",
            judged(self.own / self.hand, ALLOWED_TIMES, form=".1f"),
        ]


@dataclass(frozen=True)
class Bench:
    """How long to measure, and where the figures go."""

    seconds: float
    generator: ProcessPoolExecutor
    progress: Progress
    table: Table
    only: str

    async def measure(self, name: str, url: str, database: int | None) -> None:
        """Add the rows of one engine."""
        queries = [query for query in QUERIES if self.only in query.name]
        task = self.progress.add_task(name, total=len(queries))
        self.table.add_row(f"[bold]{name}[/bold]")
        port = free_port()
        base_url = f"http://127.0.0.1:{port}/fhir"
        env = environment(url, port=port, base_url=base_url, log_level="warning")
        settings = Settings(database_url=url, base_url=base_url, log_level="warning")
        async with opened(settings) as engine:
            facts = await known(engine)
            with served(["app.cli", "serve"], port, env) as server:
                for query in queries:
                    self.progress.update(task, description=f"{name}: {query.name}")
                    figures = await self.figures(engine, server, database, query, facts)
                    self.table.add_row(*figures.cells(query, postgresql=database is not None))
                    self.progress.advance(task)

    async def figures(
        self, engine: Engine, server: Server, database: int | None, query: Query, facts: Facts
    ) -> Figures:
        """Return what one query costs."""
        cases = [
            replace(case, path=await engine.following(case.path, query.pages))
            for case in query.cases(facts)
        ]
        if not cases:
            return Figures(note="too few")
        figures = await self.explained(engine, query, cases)
        if not figures.note:
            figures = await self.compared(engine, query, cases, figures)
            figures = self.requested(server, database, cases, figures)
        return figures

    async def explained(self, engine: Engine, query: Query, cases: list[Case]) -> Figures:
        """Return how much the worst case reads, and the tables that are scanned.

        A case is asked here for the first time: nothing that the server counts is known yet.
        """
        scanned: list[str] = []
        worst = (0.0, 0.0, 0.0)
        for case in cases:
            mine = await engine.ask(case.path)
            if mine.status != 200:
                return Figures(note=str(mine.status))
            most = ALLOWED_READ * (len(mine.ids) + COUNT + 1)
            read = 0.0
            for call in mine.calls:
                plan = await engine.plan(call)
                scanned += scans(plan, call.statement.text)
                if not isinstance(plan, list):
                    read += entries_read(plan)
            worst = max(worst, (read / most, read, most))
        if scanned:
            tables = ", ".join(sorted(set(scanned)))
            self.progress.console.print(f"[red]{query.name}[/red] scans {tables}")
        return Figures(read=worst[1], most=worst[2], scanned=tuple(scanned))

    async def compared(
        self, engine: Engine, query: Query, cases: list[Case], figures: Figures
    ) -> Figures:
        """Add how long our statements and those by hand take, by turns."""
        own: list[float] = []
        hand: list[float] = []
        for case in cases:
            await engine.ask(case.path)
            mine, other = await engine.ask(case.path), await engine.by_hand(query, case)
            if sorted(mine.ids) != sorted(other.ids[: len(mine.ids)]):
                text = f"[red]{query.name}[/red]: other rows than by hand: {case.path}"
                self.progress.console.print(text, soft_wrap=True)
            for _ in range(ROUNDS):
                own.append(await engine.seconds(mine.calls))
                hand.append(await engine.seconds(other.calls))
        return replace(figures, own=median(own), hand=median(hand))

    def requested(
        self, server: Server, database: int | None, cases: list[Case], figures: Figures
    ) -> Figures:
        """Add what a client sees of the real server, and what it costs there."""
        requests = [message("GET", encoded(case.path)) for case in cases]
        self.generator.submit(run, server.port, requests, 1, self.seconds / 4).result()
        before = cpu(server.pid), cpu(database)
        result = self.generator.submit(run, server.port, requests, 1, self.seconds).result()
        if result.refusal:
            return Figures(note=result.refusal.split("\r\n", 1)[0])
        count = len(result.latencies)
        return replace(
            figures,
            latencies=(result.percentile(50), result.percentile(95)),
            spent=(
                (cpu(server.pid) - before[0]) / count * 1e6,
                (cpu(database) - before[1]) / count * 1e6,
            ),
        )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Engine]:
    """Yield a server in this process whose searches are noted."""
    app = create_app(settings)
    async with started(app):
        recording = Recording(app.state.server.database)
        app.state.server = replace(app.state.server, database=recording)
        transport = httpx.ASGITransport(app)
        headers = {"Accept": JSON, "Content-Type": JSON, **AUTHORIZED}
        async with httpx.AsyncClient(
            transport=transport, base_url=settings.base_url, headers=headers
        ) as client:
            dialect = recording.database.dialect
            yield Engine(dialect, recording, client, await numbered(recording.database))


async def numbered(database: Any) -> dict[str, int]:
    """Return the numbers that a database has given: `Patient`, `Patient.name`, `[uri]`."""
    types = definitions.load().type_numbers
    names = {number: type for type, number in types.items()}
    params = await selected(database, "SELECT type, code, variant, param FROM param_dictionary")
    systems = await selected(database, "SELECT uri, system FROM system_dictionary")
    return {
        **types,
        **{f"{names[t]}.{code}": n for t, code, variant, n in params if not variant},
        **{f"[{uri}]": number for uri, number in systems},
    }


async def selected(database: Any, text: str) -> Sequence[db.Row]:
    """Return the rows of a statement without parameters."""
    return cast(
        "Sequence[db.Row]",
        await database.search(lambda connection: connection.rows(db.Statement(text, ()), {})),
    )


async def known(engine: Engine) -> Facts:
    """Return the facts that the cases are made of."""

    async def column(text: str) -> list[Any]:
        text = engine.statement(text).text
        return [row[0] for row in await selected(engine.database.database, text)]

    patients = await column("SELECT id FROM resource WHERE type = :Patient ORDER BY key")
    updated = await column("SELECT updated FROM resource WHERE state = 1 ORDER BY updated")
    families = await column(
        "SELECT s.norm FROM index_reference g JOIN index_string s ON s.key = g.target"
        " WHERE g.param = :Patient.general-practitioner AND s.param = :Practitioner.family"
        " GROUP BY s.norm ORDER BY count(*) DESC, s.norm"
    )
    place = (
        "SELECT t.lo, t.key FROM index_date t JOIN index_token x ON x.key = t.key"
        " WHERE t.param = :Observation.date AND x.param = :Observation.category AND x.code = '{}'"
        " ORDER BY t.lo DESC, t.key DESC LIMIT 1 OFFSET {}"
    )
    deep = {}
    for category in ("survey", "laboratory"):
        text = engine.statement(place.format(category, (DEEP - 1) * COUNT - 1)).text
        for lo, key in await selected(engine.database.database, text):
            deep[category] = (lo, key)
    step = len(updated) // 100
    return Facts(
        patients=patients[:: len(patients) // PATIENTS][:PATIENTS],
        families=families[len(families) // 4 :: len(families) // 4][:FAMILIES],
        moments=[updated[n * step] for n in range(40, 40 + MOMENTS)],
        deep=deep,
    )


# --- the databases -----------------------------------------------------------------------------


@contextmanager
def loaded(engine: str, resources: int, home: Path) -> Iterator[tuple[str, int | None]]:
    """Yield the URL of a database with so many resources, and the process that serves it.

    It is looked for in `home` under a name that tells schema and extractor, and else made there.
    """
    place = home / f"{engine}-{resources}-{head()}-{EXTRACTOR}"
    if not place.exists():
        new = place.with_name(f"{place.name}.new")
        for half_made in home.glob(f"{new.name}*"):
            shutil.rmtree(half_made) if half_made.is_dir() else half_made.unlink()
        with opened_at(engine, new) as (url, _):
            load(url, resources, home)
        new.rename(place)
    with opened_at(engine, place) as found:
        yield found


@contextmanager
def opened_at(engine: str, place: Path) -> Iterator[tuple[str, int | None]]:
    """Yield the URL of the database that is at a place or will be, and its process."""
    if engine == "SQLite":
        yield f"sqlite:///{place / 'bench.db'}", None
        return
    new = not place.exists()
    with postgresql(durable=True, kept=place) as server:
        yield server.create("bench") if new else server.database("bench"), server.pid


def head() -> str:
    """Return the revision of the schema."""
    scripts = ScriptDirectory.from_config(alembic_config("sqlite:///unused.db"))
    return str(scripts.get_current_head())


def load(url: str, resources: int, home: Path) -> None:
    """Fill a new database with the population; the loader shows its own progress."""
    files = home / f"population-{resources}"
    try:
        arguments = [*command("load"), *map(str, population.write(resources, files))]
        subprocess.run(command("migrate"), env=environment(url), check=True, capture_output=True)
        admit(url)
        subprocess.run(arguments, env=environment(url), check=True, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(files)
    if url.startswith("postgresql:"):
        # What autovacuum does in time: without it the figures depend on when that comes round
        PostgreSQL(url).execute("VACUUM ANALYZE")
        PostgreSQL(url).execute("CHECKPOINT")
    else:  # the last one to close the file only read it, and left the log beside it
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def main(
    resources: Annotated[int, typer.Option(help="Resources in the database")] = 400_000,
    seconds: Annotated[float, typer.Option(help="Length of a run of each query")] = 2.0,
    keep: Annotated[
        Path | None,
        typer.Option(envvar="MILEPOST_BENCH_KEEP", help="Where loaded databases stay"),
    ] = None,
    engine: Annotated[list[str] | None, typer.Option(help="SQLite, PostgreSQL or both")] = None,
    only: Annotated[str, typer.Option(help="Part of the names of the queries")] = "",
) -> None:
    """Measure the searches of Milepost and print one table, in Markdown into a file."""
    out = Console()
    box = HEAVY_HEAD if out.is_terminal else MARKDOWN
    table = Table(*COLUMNS, title=f"Searches in {resources:,} resources", box=box)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as scratch, pool:
        home = (keep or Path(scratch)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)  # PostgreSQL may have to run as somebody else
        for one in engine or ENGINES:
            with loaded(one, resources, home) as (url, pid), progress:
                bench = Bench(seconds, pool, progress, table, only)
                uvloop.run(bench.measure(one, url, pid))
    out.width = max(out.width, WIDTH)
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
