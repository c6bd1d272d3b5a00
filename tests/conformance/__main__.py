"""`make conformance`: every official example through the server, on SQLite.

`python -m tests.conformance PACKAGE.tgz` reads the npm package hl7.fhir.r4.examples 4.0.1, whose
SHA-256 is pinned, writes every file and reads it back. A refusal is expected only for the files
that docs/validation.md explains. What was accepted is then read and written as XML, and every file,
accepted or not, goes from JSON to XML and back without loss. Then it looks for an example of each
search parameter; those of which there is none are listed in docs/conformance.md. With `--select`
it writes the committed selection anew.
"""

import asyncio
import hashlib
import logging
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import track
from rich.table import Table

from app.config import MIB, Settings
from app.fhir.definitions import load
from app.fhir.index import Indexer
from app.fhir.wire import decode
from app.fhir.xml import Xml
from app.main import ROOT, migrate
from tests.conformance.official import SELECTION, Example, put_through, survives_xml
from tests.conformance.parameters import LISTED, exercised, indexed, named
from tests.support.application import connected
from tests.support.tokens import admitted

SHA256 = "dce87f1b5b9341867033f7d1f544fa1b5232503f6d62813887ac6b8a8b6cb682"
EXPLAINED = re.compile(r"^\| `([^`]+\.json)`", re.MULTILINE)
MOST_BYTES = 30_000

out = Console()


def examples(package: Path) -> Iterator[Example]:
    """Yield the files of the package in the order of their names."""
    if hashlib.sha256(package.read_bytes()).hexdigest() != SHA256:
        out.print(f"[red]{package} is not the package whose checksum is pinned[/red]")
        sys.exit(2)
    with tarfile.open(package) as tar:
        members = [m for m in tar.getmembers() if PurePosixPath(m.name).parent.name == "package"]
        for member in sorted(members, key=lambda m: m.name):
            name = PurePosixPath(member.name).name
            file = tar.extractfile(member)
            if file and name.endswith(".json") and name not in (".index.json", "package.json"):
                yield Example(name, file.read())


def shown(found: list[Example], what: str) -> Iterable[Example]:
    """Return the examples, with a bar that tells how many of them are done."""
    return track(found, what, console=Console(stderr=True))


async def run(found: list[Example]) -> dict[str, str]:
    """Return what happened to each example that did not come back exactly."""
    logging.disable(logging.INFO)  # a line for each request would hide the bar
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/conformance.db"
        settings = Settings(
            database_url=url, base_url="http://milepost.test/fhir", max_resource_bytes=64 * MIB
        )
        await asyncio.to_thread(migrate, settings)
        await admitted(url)
        async with connected(settings) as client:
            results = {e.name: await put_through(client, e) for e in shown(found, "Examples")}
    return {name: what for name, what in results.items() if what}


def select(found: list[Example], refused: dict[str, str]) -> None:
    """Write the two smallest accepted examples of each type that has some."""
    kept: dict[str, list[Example]] = {}
    for example in sorted(found, key=lambda e: len(e.raw)):
        own = kept.setdefault(example.content["resourceType"], [])
        if (
            example.name not in refused
            and len(own) < 2
            and (not own or len(example.raw) < MOST_BYTES)
        ):
            own.append(example)
    lines = [
        f"{e.name}\t".encode() + b" ".join(e.raw.split(b"\n")).replace(b"\r", b"") + b"\n"
        for e in sorted((e for own in kept.values() for e in own), key=lambda e: e.name)
    ]
    SELECTION.write_bytes(b"".join(lines))
    out.print(f"{SELECTION.name}: {len(lines)} examples, {SELECTION.stat().st_size:,} bytes")


def without_example(found: list[Example]) -> dict[str, str]:
    """Return the parameters of which no example has a row, and whether one has a value."""
    definitions = load()
    indexer = Indexer(definitions, "http://milepost.test/fhir")
    resources = [decode(example.raw) for example in found]
    with_rows = exercised(indexer, resources)
    with_values = exercised(indexer, resources, present=True)
    return {
        named(p): "no row of its values" if p.url in with_values else "no value"
        for p in indexed(definitions)
        if p.url not in with_rows
    }


def main(package: Path, *, selecting: bool) -> int:
    """Put all examples through the server; return 0 if the documents say what came of it."""
    found = list(examples(package))
    refused = asyncio.run(run(found))
    explained = set(EXPLAINED.findall((ROOT / "docs" / "validation.md").read_text()))
    table = Table("Example", "What happened", "Explained", title=f"{len(found)} examples")
    for name, what in sorted(refused.items()):
        table.add_row(name, what[:300], "yes" if name in explained else "[red]no[/red]")
    out.print(table)
    out.print(f"{len(found) - len(refused)} came back exactly, {len(refused)} were refused")
    xml = Xml(load())
    lost = [e.name for e in shown(found, "As XML") if not survives_xml(xml, e)]
    out.print(f"{len(found) - len(lost)} are equal after JSON -> XML -> JSON; lost: {lost}")
    missing = without_example(found)
    listed = set(LISTED.findall((ROOT / "docs" / "conformance.md").read_text()))
    parameters = Table("Search parameter", "In the examples", "Listed")
    for parameter, what in missing.items():
        parameters.add_row(parameter, what, "yes" if parameter in listed else "[red]no[/red]")
    out.print(parameters)
    out.print(
        f"{len(indexed(load()))} search parameters have an expression,"
        f" the examples have no row for {len(missing)} of them"
    )
    if selecting:
        select(found, refused)
    return int(bool(lost) or refused.keys() != explained or missing.keys() != listed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), selecting="--select" in sys.argv))
