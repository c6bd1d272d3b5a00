"""What is counted, and how Prometheus reads it.

https://prometheus.io/docs/instrumenting/exposition_formats

Where `milepost serve` runs several workers, each counts into files of its own in a directory, and
whichever is asked answers for all of them: prometheus_client's multiprocess mode, which it takes
from PROMETHEUS_MULTIPROC_DIR when it is imported. Labels are interactions and statuses, of which
there are few; never types or ids.
"""

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app import db

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The numbers of this process, and in multiprocess mode of its siblings.

    `under_way` is how many requests are being answered at this moment.
    """

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.shared = os.environ.get(DIRECTORY, "")
        if not self.shared:
            ProcessCollector(registry=own)
        self.requests = Counter(
            "milepost_requests", "Requests", ["interaction", "status"], registry=own
        )
        self.seconds = Histogram(
            "milepost_request_seconds",
            "Time from a request's headers to the end of its answer",
            ["interaction"],
            registry=own,
            buckets=BUCKETS,
        )
        self.running = Gauge(
            "milepost_requests_running",
            "Requests under way",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.statements = Counter("milepost_database_statements", "SQL statements", registry=own)
        self.database = Counter("milepost_database_seconds", "Time in SQL statements", registry=own)
        self.busy = Gauge(
            "milepost_database_busy",
            "Database work under way or waiting: reads and writes (records), and searches",
            ["kind"],
            registry=own,
            multiprocess_mode="livesum",
        )
        self.places = Gauge(
            "milepost_database_places",
            "Database connections or threads that there may be for it",
            ["kind"],
            registry=own,
            multiprocess_mode="livesum",
        )
        self.building = Gauge(
            "milepost_search_parameters_building",
            "Search parameters that wait until what is stored is indexed by them",
            registry=own,
            multiprocess_mode="livemax",
        )
        self.under_way = 0
        self.done = db.Meter()
        self.children = lru_cache(1024)(self._children)

    def _children(self, interaction: str, status: int) -> tuple[Counter, Histogram]:
        counter = self.requests.labels(interaction, str(status))
        return counter, self.seconds.labels(interaction)

    def count(self, interaction: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        counter, histogram = self.children(interaction, status)
        counter.inc()
        histogram.observe(seconds)

    def sample(self, load: db.Load, building: int) -> None:
        """Note what is under way at this moment, and what the database has done since the last."""
        self.running.set(self.under_way)
        self.building.set(building)
        self.statements.inc(load.done.statements - self.done.statements)
        self.database.inc(load.done.seconds - self.done.seconds)
        self.done = db.Meter(load.done.statements, load.done.seconds)
        for kind, busy, places in (
            ("records", load.records, load.record_places),
            ("searches", load.searches, load.search_places),
        ):
            self.busy.labels(kind).set(busy)
            self.places.labels(kind).set(places)

    def shown(self) -> bytes:
        """Return all numbers as Prometheus reads them."""
        if not self.shared:
            return generate_latest(self.registry)
        for file in Path(self.shared).glob("gauge_live*_*.db"):
            process = file.stem.rpartition("_")[2]
            if process.isdigit() and not _alive(int(process)):
                with suppress(FileNotFoundError):  # a sibling that was asked too has done it
                    mark_process_dead(int(process), self.shared)  # type: ignore[no-untyped-call]
        together = CollectorRegistry()
        MultiProcessCollector(together, self.shared)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _alive(process: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
