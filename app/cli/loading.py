"""The command `load`: Bundles and resources from files, through the one door."""

import asyncio
import bz2
import gzip
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from app import main as house
from app.cli.terminal import PROGRESS, err, out, settings_or_exit
from app.config import Settings
from app.fhir.access import SYSTEM
from app.fhir.errors import FhirError, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.rest import Server, handle
from app.fhir.wire import decode

# Resources of one NDJSON file that are written at once, so that they share a commit
TOGETHER = 64


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
        house.settle()
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
