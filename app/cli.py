"""The command `milepost`: each command a few lines over `app.main`."""

import asyncio
import bz2
import gzip
import os
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from app import db, jobs
from app import main as house
from app.api import serving
from app.config import Settings
from app.db import backup as copying
from app.fhir import definitions
from app.fhir.access import SYSTEM
from app.fhir.errors import FhirError, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.rest import Server, handle
from app.fhir.store import consistency, maintenance
from app.fhir.wire import decode
from app.logs import fault

app = typer.Typer(
    help="Milepost: a FHIR R4 server for intensive outpatient programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

PROGRESS = (
    TextColumn("{task.description}"),
    BarColumn(),
    TaskProgressColumn(),
    TimeRemainingColumn(),
)
# Resources of one NDJSON file that are written at once, so that they share a commit
TOGETHER = 64


def settings_or_exit() -> Settings:
    """Return the settings; say which are wrong and stop if there are such."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["MILEPOST", *(str(part) for part in problem["loc"])]).upper()
            text = problem["msg"].removeprefix("Value error, ")
            err.print(f"[red]{name}[/red]: {escape(text)}", soft_wrap=True)
        raise typer.Exit(2) from None


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "",
    port: Annotated[int, typer.Option(help="Port to listen on")] = -1,
    workers: Annotated[int, typer.Option(help="Server processes (PostgreSQL only)")] = 0,
) -> None:
    """Serve the FHIR API until interrupted."""
    given = {"HOST": host, "PORT": str(port) if port >= 0 else "", "WORKERS": str(workers or "")}
    os.environ.update({f"MILEPOST_{name}": value for name, value in given.items() if value})
    settings = settings_or_exit()
    if "MILEPOST_BASE_URL" not in os.environ:
        reachable = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
        os.environ["MILEPOST_BASE_URL"] = f"http://{reachable}:{settings.port}/fhir"
        settings = settings_or_exit()
    try:
        asyncio.run(house.check_ready(settings))
    except house.NotMigrated as error:
        err.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None
    greet(settings)
    serving.run(settings)


def greet(settings: Settings) -> None:
    """Print where the server is, and three requests to try."""
    base = settings.base_url
    out.print(f"\n[bold]Milepost[/bold] serves FHIR R4 at [bold]{base}[/bold]\n\nTry:")
    patient = '{"resourceType":"Patient","name":[{"family":"Rivera","given":["Ana"]}]}'
    for line in (
        f"curl {base}/metadata?_pretty=true",
        f"curl -H 'Content-Type: application/fhir+json' -d '{patient}' {base}/Patient",
        f"curl '{base}/Patient?name=rivera&_pretty=true'",
    ):
        out.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    out.print("\nPages for people: " + base.rsplit("/", 1)[0] + "/docs\n", highlight=False)


@app.command()
def migrate() -> None:
    """Bring the database to the schema of this version; a new SQLite file is made."""
    settings = settings_or_exit()
    house.migrate(settings)
    out.print("The database schema is up to date.")


@app.command()
def load(
    files: Annotated[
        list[Path],
        typer.Argument(help="Bundles or resources: .json or .ndjson, also as .bz2, .gz or a pipe"),
    ],
) -> None:
    """Load Bundles (batch, transaction) and single resources; a file named twice, once."""
    settings = settings_or_exit()
    files = list(dict.fromkeys(files))
    missing = [file for file in files if not file.exists() or file.is_dir()]
    for file in missing:
        err.print(f"[red]{file}[/red]: there is no such file", soft_wrap=True)
    if missing:
        raise typer.Exit(2)
    try:
        tally = asyncio.run(load_files(settings, files))
    except house.NotMigrated as error:
        err.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None
    out.print(tally.table())
    if tally.failed:
        err.print(f"[red]{tally.failed} of {len(files)} files had failures[/red]")
        raise typer.Exit(1)


@app.command()
def reindex(
    type: Annotated[
        list[str] | None, typer.Option(help="Only resources of this type; may be repeated")
    ] = None,
) -> None:
    """Index what is stored anew; interrupted, it goes on where it was when it is run again."""
    settings, types = settings_or_exit(), frozenset(type or ())
    unknown = sorted(types - set(definitions.load().resource_types))
    if unknown:
        err.print(f"[red]{escape(', '.join(unknown))}[/red]: there is no such resource type")
        raise typer.Exit(2)
    try:
        asyncio.run(index_anew(settings, types))
    except house.NotMigrated as error:
        err.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("Interrupted. To go on, run it again.")
        raise typer.Exit(130) from None
    out.print("The index is up to date.")


async def index_anew(settings: Settings, types: Collection[str]) -> None:
    """Index the resources of these types, or all, and show how far that is."""
    async with house.build(settings, maintaining=True) as server:
        me, database = server.new_id(), server.database
        with Progress(*PROGRESS, console=err) as progress:
            task = progress.add_task("Indexing", total=None)
            total = 0
            while True:
                catalogue = server.newest().catalogue
                steps = maintenance.anew(database, catalogue, me, server.now, types)
                try:
                    async for name, left in steps:
                        total = max(total, left)
                        what = f"Indexing {name}"
                        progress.update(task, description=what, total=total, completed=total - left)
                    return
                except (db.Outdated, jobs.Lost):
                    await server.editions.renew()


@app.command()
def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended")] = False,
) -> None:
    """Compare all that follows from the stored resources with them: index, owners, versions."""
    settings = settings_or_exit()
    try:
        report = asyncio.run(compare(settings, repair=repair))
    except house.NotMigrated as error:
        err.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None
    except db.Outdated:
        err.print("[red]The definitions changed meanwhile.[/red] Run it again.")
        raise typer.Exit(1) from None
    out.print(report.table() if report.found else f"{report.size:,} resources: nothing is wrong.")
    if report.left:
        raise typer.Exit(1)


@dataclass
class Report:
    """What fsck has found so far: faults with their number and an example, and how many are left.

    It names types and ids, never what a resource says.
    """

    size: int = 0
    found: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Return how many faults are there still; unused placeholders are none."""
        return sum(
            number - self.mended[fault]
            for fault, number in self.found.items()
            if fault != consistency.UNUSED
        )

    def add(self, look: consistency.Look) -> None:
        """Add what was found in a range."""
        self.size += look.size
        for finding in look.findings:
            self.found[finding.fault] += 1
            self.mended[finding.fault] += finding.mended
            self.examples.setdefault(finding.fault, finding.place)

    def table(self) -> Table:
        """Return a row for each fault."""
        table = Table("Fault", title=f"{self.size:,} resources")
        for name in ("Found", "Repaired"):
            table.add_column(name, justify="right")
        table.add_column("For example")
        for name, number in sorted(self.found.items()):
            row = (f"{number:,}", f"{self.mended[name]:,}", escape(self.examples[name]))
            table.add_row(name, *row)
        return table


async def compare(settings: Settings, *, repair: bool) -> Report:
    """Compare what is stored, show how far that is, and return what was found."""
    report = Report()
    async with house.build(settings, maintaining=True) as server:
        database, catalogue = server.database, server.catalogue
        if not catalogue.current or await maintenance.listed(database):
            text = "The search index is not complete. Run first: milepost reindex"
            raise house.NotMigrated(text)
        with Progress(*PROGRESS, console=err) as progress:
            task = progress.add_task("Comparing", total=await consistency.count(database))
            async for look in consistency.looks(database, catalogue, repair=repair):
                report.add(look)
                progress.advance(task, look.size)
    return report


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The new file; one that exists is not replaced")],
) -> None:
    """Copy the SQLite database while it is used, and compare the copy as `fsck` does."""
    settings = settings_or_exit()
    source = settings.database_url.removeprefix("sqlite:///")
    if source == settings.database_url:
        err.print("PostgreSQL is backed up by pg_dump: see docs/operations.md", soft_wrap=True)
        raise typer.Exit(2)
    part = file.with_name(f"{file.name}.part")
    problems = {
        f"There is no database {source}": not Path(source).is_file(),
        f"{file} exists already": file.exists(),
        f"{part} exists: another backup runs, or was killed; then remove it": part.exists(),
    }
    for problem in (text for text, holds in problems.items() if holds):
        err.print(f"[red]{escape(problem)}[/red]", soft_wrap=True)
        raise typer.Exit(2)
    try:
        copy(source, part)
        try:
            told = compared(settings.model_copy(update={"database_url": f"sqlite:///{part}"}))
            copying.keep(part, file)
        finally:
            copying.remove(part)
    except (OSError, copying.Damaged, db.Outdated) as error:
        err.print(f"[red]There is no backup:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    out.print(f"{file}: {told}", soft_wrap=True)


def copy(source: str, part: Path) -> None:
    """Copy an SQLite database, and show how far that is."""
    with Progress(*PROGRESS, console=err) as progress:
        task = progress.add_task("Copying", total=None)

        def show(left: int, total: int) -> None:
            progress.update(task, total=total, completed=total - left)

        copying.back_up(source, part, show)


def compared(settings: Settings) -> str:
    """Return what is to be told of a copy after it was compared as `fsck` does.

    One of an older schema, or with an index that is being built, is a backup too.
    """
    try:
        report = asyncio.run(compare(settings, repair=False))
    except house.NotMigrated as error:
        return f"SQLite finds it whole; its index was not compared. {error}"
    if not report.left:
        return f"{report.size:,} resources, nothing is wrong."
    out.print(report.table())
    return f"{report.size:,} resources, with the faults of the database. Run: milepost fsck"


@dataclass(frozen=True)
class Source:
    """One file, read: its resources as bytes, each with its place in the file ("" if it is alone).

    `error` is the sentence that says why the file cannot be read.
    """

    file: Path
    size: int
    resources: list[tuple[str, bytes]]
    error: str = ""


OPENERS = {".bz2": bz2.decompress, ".gz": gzip.decompress}


def read_source(file: Path) -> Source:
    """Return what a file holds; an NDJSON file has one resource a line."""
    size = file.stat().st_size
    try:
        raw = OPENERS.get(file.suffix, bytes)(file.read_bytes())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return Source(file, size, [], f"cannot be read: {error}")
    if ".ndjson" in file.suffixes:
        lines = enumerate(raw.splitlines(), 1)
        return Source(file, size, [(f"line {n}: ", line) for n, line in lines if line.strip()])
    return Source(file, size, [("", raw)])


async def read_ahead(files: Iterable[Path]) -> AsyncIterator[Source]:
    """Yield each file while the next one is being read and unpacked in a thread."""
    following: asyncio.Future[Source] | None = None
    for file in files:
        ready, following = following, asyncio.ensure_future(asyncio.to_thread(read_source, file))
        if ready is not None:
            yield await ready
    if following is not None:
        yield await following


@dataclass
class Tally:
    """What a load has done so far."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    seconds: float = 0.0

    def table(self) -> Table:
        """Return the counts by type, and the speed."""
        total = self.counts.total()
        table = Table("Resource", show_footer=True)
        table.columns[0].footer = f"{total} in {self.seconds:.1f} s"
        rate = f"{total / self.seconds:,.0f}/s" if self.seconds else ""
        table.add_column("Loaded", footer=rate, justify="right")
        for type, count in self.counts.most_common():
            table.add_row(type, f"{count:,}")
        return table


async def load_files(settings: Settings, files: Iterable[Path]) -> Tally:
    """Load the files in order through the one door; report each failure and go on."""
    tally = Tally()
    async with house.build(settings) as server:
        started = time.perf_counter()
        with Progress(*PROGRESS, console=err) as progress:
            files = list(files)
            task = progress.add_task("Loading", total=sum(f.stat().st_size for f in files))
            async for source in read_ahead(files):
                problems = await load_source(server, source, tally)
                for problem in problems:
                    name = escape(source.file.name)
                    err.print(f"[red]{name}[/red]: {escape(problem)}", soft_wrap=True)
                tally.failed += bool(problems)
                progress.advance(task, source.size)
        tally.seconds = time.perf_counter() - started
    return tally


async def load_source(server: Server, source: Source, tally: Tally) -> list[str]:
    """Write what a file holds; return one line for each thing that was refused."""
    problems: list[str] = []
    if source.error:
        return [source.error]
    turn = asyncio.Lock()
    for start in range(0, len(source.resources), TOGETHER):
        some = source.resources[start : start + TOGETHER]
        answers = await asyncio.gather(*(load_one(server, raw, tally, turn) for _, raw in some))
        for (place, _), refusals in zip(some, answers, strict=True):
            problems += [f"{place}{one}" for one in refusals]
    return problems


async def load_one(server: Server, raw: bytes, tally: Tally, turn: asyncio.Lock) -> list[str]:
    """Write one resource, or what a Bundle asks for; return what was refused.

    Bundles take turns: many at once would wait for a connection longer than one may.
    """
    try:
        asked = interaction(raw)
    except FhirError as error:
        return [refusal(outcome(error.issues))]
    if asked.code != "batch":
        return list(account(asked, await handle(server, SYSTEM, asked), tally))
    async with turn:
        return list(account(asked, await handle(server, SYSTEM, asked), tally))


def interaction(raw: bytes) -> Interaction:
    """Return the request that loads a resource: a batch, an update under its id, or a create."""
    found = decode(raw)
    type, id = found.get("resourceType"), found.get("id")
    if not isinstance(type, str):
        text = "resourceType must be the name of an R4 resource type"
        raise refused("structure", text, "resourceType")
    if type == "Bundle" and found.get("type") in ("batch", "transaction"):
        return Interaction("batch", body=raw, prefer="minimal")
    if isinstance(id, str):
        return Interaction("update", type=type, id=id, body=raw, prefer="minimal")
    return Interaction("create", type=type, body=raw, prefer="minimal")


def account(asked: Interaction, reply: Reply, tally: Tally) -> Iterator[str]:
    """Count what one request wrote; yield what was refused."""
    if reply.status >= 300:
        yield refusal(decode(reply.body))
    elif asked.code != "batch":
        tally.counts[asked.type] += 1
    else:
        for n, entry in enumerate(decode(reply.body).get("entry", ())):
            response = entry["response"]
            if "outcome" in response:
                yield f"Bundle.entry[{n}]: {refusal(response['outcome'])}"
            elif "location" in response:
                tally.counts[response["location"].split("/")[0]] += 1


def refusal(told: dict[str, Any]) -> str:
    """Return an OperationOutcome as text, an issue a line."""
    lines = []
    for issue in told["issue"]:
        at = issue.get("expression")
        place = f"{at[0]}: " if at else ""
        lines.append(f"{place}{issue['diagnostics']} ({issue['code']})")
    return "\n  ".join(lines)


def main() -> None:
    """Run the command line; a database that cannot be used is a sentence, without its own words."""
    try:
        app()
    except db.FAILURES as error:
        err.print(f"[red]The database failed[/red]: {fault(getattr(error, 'orig', None) or error)}")
        err.print("Is it running, and is MILEPOST_DATABASE_URL its address?")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
