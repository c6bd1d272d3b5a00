"""Measure a program at work: `make bench-program`.

On both engines `milepost seed --size load` makes a program, and a real `milepost serve` answers the
calls that staff make all day. What counts is the CPU time of the server for one call, in
milliseconds and in floors (a bare uvicorn application of the same run). Each call is made once, one
after the other: a second attendance of the same session would have nothing to do.

The seed takes minutes; `--keep` spares the next run that.
"""

import http.client
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.bench import ENGINES, WIDTH, Bench, judged
from benchmarks.bench import database as empty_database
from benchmarks.processes import Server, cpu, served
from tests.support.process import command, environment, free_port
from tests.support.tokens import AUTHORIZED, admit

Resource = dict[str, Any]

AS_OF = date(2026, 6, 30)  # the last day of the seed
COLUMNS = ["", "CPU ms", "floors", "PG ms", "calls", "about"]
WARM = 20  # calls before those that are measured: a statement is prepared once a connection
MOST = 40  # calls of a row
MEMBERS = 12
MADE = re.compile(r"([\d,]+) in ([\d.]+) s")


class Ask(NamedTuple):
    """One request: its path below /fhir, and its body, None for a GET."""

    path: str
    body: Resource | None = None


@dataclass(frozen=True)
class Row:
    """One row: its name, the milliseconds that a call may take, what is asked, and of how many."""

    name: str
    limit: float
    asks: Callable[["Program"], list[Ask]]
    size: Callable[[Resource], str]


@dataclass(frozen=True)
class Program:
    """The large program of the seed, through the server that has it."""

    server: Server

    def found(self, query: str) -> list[Resource]:
        """Return what is on the first page of a search."""
        page = json.loads(self.server.get(f"/fhir/{query}"))
        return [one["resource"] for one in page.get("entry", ())]

    @property
    def reference(self) -> str:
        """Return the program with the most episodes."""
        services = self.found("HealthcareService?_count=100")
        names = [f"HealthcareService/{one['id']}" for one in services]
        return max(names, key=self.episodes)

    def episodes(self, program: str) -> int:
        """Return how many episodes a program has."""
        page = self.server.get(f"/fhir/EpisodeOfCare?iop-program={program}&_summary=count")
        return int(json.loads(page)["total"])


def attendance(program: Program) -> list[Ask]:
    """Return the attendance of sessions that nobody has recorded yet, each of twelve people.

    Where a group has fewer members, patients of other groups walk in.
    """
    query = f"actor={program.reference}&status=booked&date=gt{AS_OF}&_sort=date&_count=1000"
    active = program.found(
        f"EpisodeOfCare?iop-program={program.reference}&status=active&_count=200"
    )
    others = [one["patient"]["reference"] for one in active]
    asks = []
    for session in program.found(f"Appointment?{query}"):
        place = f"Appointment/{session['id']}"
        bookings = program.found(f"Appointment?iop-session={place}&status=booked&_count=100")
        members = [patient for one in bookings for patient in patients(one)]
        if 0 < len(members) <= MEMBERS:
            guests = [one for one in others if one not in members][: MEMBERS - len(members)]
            asks.append(Ask(f"{place}/$attendance", attended(members, guests)))
        if len(asks) == WARM + MOST:
            break
    return asks


def patients(booking: Resource) -> list[str]:
    """Return whose booking it is."""
    actors = [one["actor"]["reference"] for one in booking["participant"]]
    return [one for one in actors if one.startswith("Patient/")]


def attended(members: Sequence[str], guests: Sequence[str]) -> Resource:
    """Return the Parameters that say that all came; the first was late."""
    rows = []
    for n, patient in enumerate([*members, *guests]):
        part = [
            {"name": "patient", "valueReference": {"reference": patient}},
            {"name": "status", "valueCode": "attended" if n else "late"},
        ]
        if not n:
            part.append({"name": "minutes", "valueUnsignedInt": 60})
        if patient in guests:
            part.append({"name": "walk-in", "valueBoolean": True})
        rows.append({"name": "participant", "part": part})
    reason = {"name": "amend-reason", "valueString": "Recorded for a measurement"}
    return {"resourceType": "Parameters", "parameter": [*rows, reason]}


def hours_of_episodes(program: Program) -> list[Ask]:
    """Return up to twelve weeks of the longest episodes, the longest one last."""
    lasted = []
    for one in program.found(f"EpisodeOfCare?iop-program={program.reference}&_count=1000"):
        if "start" in one.get("period", {}):
            start = date.fromisoformat(one["period"]["start"][:10])
            end = date.fromisoformat(one["period"].get("end", AS_OF.isoformat())[:10])
            lasted.append((min(end - start, timedelta(days=77)), start, one["id"]))
    return [
        Ask(f"EpisodeOfCare/{id}/$weekly-hours?from={start}&to={start + length}")
        for length, start, id in sorted(lasted)[-WARM - MOST :]
    ]


def hours_of_program(program: Program) -> list[Ask]:
    """Return one week of five hundred episodes."""
    week = AS_OF - timedelta(days=7)
    query = f"from={week}&to={week}&as-of={AS_OF}&_count=500"
    return [Ask(f"{program.reference}/$weekly-hours?{query}")] * (WARM + 5)


def census(program: Program) -> list[Ask]:
    """Return the census of ninety days, by level."""
    first = AS_OF - timedelta(days=89)
    return [Ask(f"{program.reference}/$census?from={first}&to={AS_OF}&by=level")] * (WARM + 5)


def parts(answer: Resource, name: str) -> list[Resource]:
    """Return the parameters of a name in an answer."""
    return [one for one in answer.get("parameter", ()) if one["name"] == name]


def number_of(name: str) -> Callable[[Resource], str]:
    """Return what tells how many parts of a name an answer has."""
    return lambda answer: f"{len(parts(answer, name))} {name}s"


ROWS = (
    Row("$attendance", 60, attendance, number_of("participant")),
    Row("$weekly-hours, episode", 10, hours_of_episodes, number_of("week")),
    Row("$weekly-hours, program", 500, hours_of_program, number_of("episode")),
    Row("$census, by level", 300, census, number_of("day")),
)


class Spent(NamedTuple):
    """The CPU milliseconds of a call: of the server, of PostgreSQL; how many; the last answer."""

    server: float
    database: float
    calls: int
    answer: Resource


def spent(server: Server, database: int | None, asks: Sequence[Ask]) -> Spent:
    """Return what calls cost after some to warm up, each made once."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    answer: Resource = {}
    before = 0.0, 0.0
    for n, ask in enumerate(asks):
        if n == WARM:
            before = cpu(server.pid), cpu(database)
        answer = answered(connection, ask)
    calls = len(asks) - WARM
    mine, other = cpu(server.pid) - before[0], cpu(database) - before[1]
    connection.close()
    return Spent(mine / calls * 1000, other / calls * 1000, calls, answer)


def answered(connection: http.client.HTTPConnection, ask: Ask) -> Resource:
    """Return the answer to a call; another status than 200 ends the run."""
    headers = {**AUTHORIZED, "Content-Type": "application/fhir+json"}
    body = None if ask.body is None else json.dumps(ask.body)
    path = quote(f"/fhir/{ask.path}", safe="/$?=&:,")
    connection.request("GET" if body is None else "POST", path, body, headers)
    reply = connection.getresponse()
    text = reply.read()
    if reply.status != 200:
        raise SystemExit(f"{ask.path} was refused:\n{text.decode()[:2000]}")
    found: Resource = json.loads(text)
    return found


def measure(engine: str, url: str, database: int | None, floor: float, table: Table) -> None:
    """Add all rows of one engine; `floor` in microseconds."""
    port = free_port()
    env = environment(url, port=port, base_url=f"http://127.0.0.1:{port}/fhir", log_level="warning")
    table.add_section()
    table.add_row(f"[bold]{engine}[/bold]")
    if (made := seeded(url, env)) is not None:
        table.add_row("seed, resources a second", "", "", "", "", made)
    with served(["app.cli", "serve"], port, env) as server:
        program = Program(server)
        table.add_row(
            "episodes of the program", "", "", "", "", f"{program.episodes(program.reference):,}"
        )
        for row in ROWS:
            asks = row.asks(program)
            if len(asks) <= WARM:
                table.add_row(row.name, "nothing to measure")
                continue
            used = spent(server, database, asks)
            beside = f"{used.database:,.1f}" if database else ""
            floors = f"{used.server * 1000 / floor:,.0f}"
            shown = judged(used.server, row.limit, form=",.1f")
            table.add_row(row.name, shown, floors, beside, str(used.calls), row.size(used.answer))


def seeded(url: str, env: dict[str, str]) -> str | None:
    """Make the program where there is none, and return how fast; None where it was kept."""
    subprocess.run(command("migrate"), env=env, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        command("seed", "--size", "load", "--as-of", AS_OF.isoformat(), "--if-empty"),
        env={**env, "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"milepost seed failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    made = MADE.search(done.stdout)
    if made is None:
        return None
    admit(url)
    count, seconds = int(made[1].replace(",", "")), float(made[2])
    return f"{count / seconds:,.0f} ({count:,} in {seconds:,.0f} s)"


@contextmanager
def database(engine: str, scratch: Path, keep: Path | None) -> Iterator[tuple[str, int | None]]:
    """Yield the URL of a database, and the process that serves it; SQLite's file may be kept."""
    if engine == "SQLite" and keep is not None:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield f"sqlite:///{keep / 'program.db'}", None
        return
    with empty_database(engine, scratch) as found:
        yield found


def main(
    engine: Annotated[list[str] | None, typer.Option(help="SQLite, PostgreSQL or both")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for the SQLite database")] = None,
) -> None:
    """Measure a program and print one table."""
    table = Table(*COLUMNS, title="A program")
    for column in table.columns[1:]:
        column.justify = "right"
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as name, pool:
        floor = Bench(1.0, 2, [], pool, Table(*[""] * 7)).measure_floor()
        for one in engine or ENGINES:
            with database(one, Path(name), keep) as (url, pid):
                measure(one, url, pid, floor, table)
    Console(width=max(Console().width, WIDTH)).print(table)


if __name__ == "__main__":
    typer.run(main)
