"""The command `seed`: a synthetic program, for trying, testing and measuring."""

import asyncio
import time
from datetime import date, datetime
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from app import main as house
from app.cli.engine import Unfit, stop
from app.cli.terminal import PROGRESS, err, out, settings_or_exit
from app.config import Settings
from app.domain.seed import AS_OF, SIZES, Refused, Seeded
from app.domain.seed import seed as tell
from app.domain.vocabulary import Vocabulary
from app.fhir.access import SYSTEM
from app.fhir.interaction import Interaction
from app.fhir.rest import Server, handle
from app.fhir.wire import decode

FULL = (
    "There are patients in this database. A synthetic program goes into one that has none:"
    " set MILEPOST_DATABASE_URL to another one and run `milepost migrate` first."
)
LARGER = """A program of four hundred patients, in a few minutes and a database of its own:
  export MILEPOST_DATABASE_URL=sqlite:///.milepost/demo.db
  milepost migrate && milepost seed --size demo && milepost serve"""


def seed(
    size: Annotated[str, typer.Option(help=f"How large: {', '.join(SIZES)}")] = "tiny",
    number: Annotated[int, typer.Option("--seed", help="Another one is another program")] = 1,
    as_of: Annotated[
        datetime,
        typer.Option(formats=["%Y-%m-%d"], help="The day up to which things have happened"),
    ] = AS_OF,
    if_empty: Annotated[
        bool, typer.Option("--if-empty", help="Do nothing where there are patients already")
    ] = False,
) -> None:
    """Make a synthetic program in a database without patients: always the same one."""
    if size not in SIZES:
        stop(f"There is no size {size}; there are {', '.join(SIZES)}", 2)
    settings = settings_or_exit()
    try:
        made = asyncio.run(made_in(settings, size, number, as_of.date(), if_empty=if_empty))
    except (house.NotMigrated, Refused, Unfit) as error:
        stop(str(error), 1)
    if made is None:
        return
    out.print(made)
    if size == "tiny":
        out.print(LARGER, highlight=False, soft_wrap=True)


async def made_in(
    settings: Settings, size: str, number: int, last: date, *, if_empty: bool
) -> Table | None:
    """Return what was made, None for nothing; raises Unfit where there are patients."""
    async with house.build(settings, audited=False) as server:
        if await patients(server):
            if if_empty:
                return None
            raise Unfit(FULL)
        started = time.perf_counter()
        with Progress(*PROGRESS, console=err) as progress:
            task = progress.add_task(f"Seeding ({size})", total=None)

            def show(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            vocabulary = Vocabulary(settings.canonical_base)
            made = await tell(server, vocabulary, SIZES[size], number, last, show)
        return summary(made, time.perf_counter() - started)


async def patients(server: Server) -> int:
    """Return how many patients a database has."""
    pairs = (("_summary", "count"),)
    reply = await handle(server, SYSTEM, Interaction("search-type", type="Patient", pairs=pairs))
    return int(decode(reply.body)["total"])


def summary(made: Seeded, seconds: float) -> Table:
    """Return what was made by type, and how fast."""
    total = made.versions.total()
    table = Table("Resource", show_footer=True)
    table.columns[0].footer = f"{total:,} in {seconds:.1f} s"
    table.add_column("Versions", footer=f"{total / seconds:,.0f}/s", justify="right")
    for type, count in made.versions.most_common():
        table.add_row(type, f"{count:,}")
    return table
