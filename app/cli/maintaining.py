"""Commands that look after a database: `reindex`, `fsck` and `backup`."""

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from app import db, jobs
from app import main as house
from app.cli.terminal import PROGRESS, err, out, settings_or_exit
from app.config import Settings
from app.db import backup as copying
from app.fhir import definitions
from app.fhir.store import consistency, maintenance


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
