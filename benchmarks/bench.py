"""Measure the real server over loopback and print one table: `make bench`.

What counts is the CPU time of the server's whole process tree for one request, and how many times
the floor that is: a bare uvicorn application on the same machine in the same run. Requests a
second depend on who else uses the machine, CPU time hardly does. PostgreSQL's CPU time has a
column of its own. Every figure is the median of several runs, except that of the load.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import backend
from benchmarks.generator import run
from benchmarks.processes import Server, cpu, memory, peak_memory, served
from benchmarks.workload import ROWS, entries, files, message
from tests.support.postgresql import postgresql
from tests.support.process import command, environment, free_port
from tests.support.tokens import admit

UVICORN = ["--log-level", "warning", "--no-access-log", "--loop", "uvloop", "--http", "httptools"]
COLUMNS = ["", "CPU µs", "floors", "PG µs", "a second", "p50 ms", "p99 ms"]
ENGINES = ["SQLite", "PostgreSQL"]
WIDTH = 104
WARM_UP_SECONDS = 0.5
LEAST_LOADED = 2000
LEAST_TOKENS = 100  # a second, on one core
MOST_TOKENS = 800  # of the half second of one run
MOST_IDLE_MIB = 150
MOST_START_SECONDS = 2


@dataclass(frozen=True)
class Bench:
    """How long, how often and on which files to measure, and where the figures go."""

    seconds: float
    runs: int
    files: list[Path]
    generator: ProcessPoolExecutor
    table: Table

    def figures(
        self,
        server: Server,
        database: int | None,
        requests: list[bytes],
        connections: int,
        runs: int | None = None,
    ) -> list[float]:
        """Return the medians: CPU of server and database in µs, rate, p50 and p99 in ms.

        They are of so many runs after one to warm up, of that one where there is no other.
        """
        wanted = self.runs if runs is None else runs
        found = []
        for seconds in [WARM_UP_SECONDS, *[self.seconds] * wanted]:
            before = cpu(server.pid), cpu(database)
            job = self.generator.submit(run, server.port, requests, connections, seconds)
            result = job.result()
            if result.refusal:
                raise SystemExit(f"refused:\n{result.refusal}")
            count = len(result.latencies)
            spent = cpu(server.pid) - before[0], cpu(database) - before[1]
            each = [used / count * 1e6 for used in spent]
            latencies = [result.percentile(50), result.percentile(99)]
            found.append([*each, count / result.seconds, *latencies])
        return [median(column) for column in zip(*(found[1:] or found), strict=True)]

    def measure_floor(self) -> float:
        """Add the row of the bare application and return its CPU time."""
        port = free_port()
        arguments = ["uvicorn", "benchmarks.floor:app", "--port", str(port), *UVICORN]
        with served(arguments, port, dict(os.environ)) as server:
            spent, _, *rest = self.figures(server, None, [message("GET", "/metadata")], 16)
        self.add("bare uvicorn: the floor", f"{spent:,.0f}", "1", "", *rest)
        return spent

    def measure(self, engine: str, url: str, database: int | None, floor: float) -> None:
        """Add all rows of one engine."""
        port = free_port()
        base_url = f"http://127.0.0.1:{port}/fhir"
        env = environment(url, port=port, base_url=base_url, log_level="warning")
        subprocess.run(command("migrate"), env=env, check=True, stdout=subprocess.DEVNULL)
        admit(url)
        backend.register(url)
        self.table.add_section()
        self.add(f"[bold]{engine}[/bold]")
        self.measure_load(env, database)
        starts = []
        for _ in range(self.runs):
            with served(["app.cli", "serve"], port, env) as server:
                starts.append(server.ready_seconds)
        with served(["app.cli", "serve"], port, env) as server:
            idle = memory(server.pid)
            for row in ROWS:
                requests = row.requests(server)
                mine, other, *rest = self.figures(server, database, requests, row.connections)
                floors = judged(mine / floor, row.limits[ENGINES.index(engine)], form=".1f")
                beside = f"{other:,.0f}" if database else ""
                self.add(row.name, f"{mine:,.0f}", floors, beside, *rest)
            self.add("MiB, idle worker", judged(idle, MOST_IDLE_MIB))
            self.add("MiB, at most", f"{peak_memory(server.pid):,.0f}")
            self.measure_tokens(server, database)
            self.measure_guard(server, database, env)
        ready = judged(median(starts), MOST_START_SECONDS, form=".2f")
        self.add("seconds until it answers", ready)

    def measure_guard(self, server: Server, database: int | None, env: dict[str, str]) -> None:
        """Add the rows that compare the server with one without tokens and without a trail.

        Both run, and take turns, so that whoever else uses the machine is in the way of both.
        """
        port = free_port()
        with served(["benchmarks.unguarded"], port, {**env, "MILEPOST_PORT": str(port)}) as other:
            for row in ROWS:
                if row.guarded is None:
                    continue
                requests = row.requests(server)
                ratios = []
                for _ in range(self.runs):
                    spent = [
                        self.figures(one, database, requests, row.connections, runs=1)[0]
                        for one in (server, other)
                    ]
                    ratios.append(spent[0] / spent[1])
                times = judged(median(ratios), row.guarded, form=".2f")
                self.add(f"{row.name}: times without tokens, trail", times)

    def measure_tokens(self, server: Server, database: int | None) -> None:
        """Add the row of the token endpoint, and how many it makes a second on one core."""
        spent, beside, latencies = [], [], []
        for _ in range(1 + self.runs):
            requests = backend.requests(server.port, MOST_TOKENS)
            mine, other, _, *times = self.figures(server, database, requests, 16, runs=0)
            spent.append(mine)
            beside.append(other)
            latencies.append(times)
        mine, other = median(spent[1:]), median(beside[1:])
        rate = judged(-1e6 / mine, -LEAST_TOKENS)
        shown = f"{other:,.0f}" if database else ""
        times = [median(column) for column in zip(*latencies[1:], strict=True)]
        self.add("token by client_credentials", f"{mine:,.0f}", "", shown, rate, *times)

    def measure_load(self, env: dict[str, str], database: int | None) -> None:
        """Load the files with one process, validation on, and add the row."""
        resources = sum(entries(path) for path in self.files)
        before, start, used = cpu(database), time.monotonic(), children()
        arguments = command("load", *self.files)
        done = subprocess.run(arguments, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"milepost load failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        seconds, used = time.monotonic() - start, children() - used
        beside = f"{(cpu(database) - before) / resources * 1e6:,.0f}" if database else ""
        rate = judged(-resources / seconds, -LEAST_LOADED)
        self.add(
            f"load of {resources:,} resources", f"{used / resources * 1e6:,.0f}", "", beside, rate
        )

    def add(self, *cells: str | float) -> None:
        """Add a row; plain numbers are a rate and two latencies."""
        texts = [
            c if isinstance(c, str) else f"{c:,.2f}" if c < 100 else f"{c:,.0f}" for c in cells
        ]
        self.table.add_row(*texts)


def judged(value: float, limit: float | None, form: str = ",.0f") -> str:
    """Return the value, red where it is above its limit; a least value is given as negative."""
    text = f"{abs(value):{form}}"
    if limit is None:
        return text
    text += f" ({'≤' if limit > 0 else '≥'} {abs(limit):g})"
    return f"[red]{text}[/red]" if value > limit else f"[green]{text}[/green]"


def children() -> float:
    """Return the CPU seconds of all ended child processes."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def database(engine: str, scratch: Path) -> Iterator[tuple[str, int | None]]:
    """Yield the URL of an empty database on disk, and the process that serves it."""
    if engine == "SQLite":
        yield f"sqlite:///{scratch / 'bench.db'}", None
        return
    with postgresql(durable=True) as server:
        yield server.create("bench"), server.pid


def main(
    data: Annotated[
        Path | None,
        typer.Option(envvar="MILEPOST_BENCH_DATA", help="Directory of files to load"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of one run")] = 3.0,
    runs: Annotated[int, typer.Option(min=1, help="Runs of which the median is shown")] = 3,
    engine: Annotated[list[str] | None, typer.Option(help="SQLite, PostgreSQL or both")] = None,
) -> None:
    """Measure Milepost and print one table."""
    table = Table(*COLUMNS, title="Milepost")
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    # Spawned, so that it shares nothing with this process
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as name, pool:
        scratch = Path(name)
        bench = Bench(seconds, runs, files(data, scratch), pool, table)
        floor = bench.measure_floor()
        for one in engine or ENGINES:
            with database(one, scratch) as (url, pid):
                bench.measure(one, url, pid, floor)
    Console(width=max(Console().width, WIDTH)).print(table)


if __name__ == "__main__":
    typer.run(main)
