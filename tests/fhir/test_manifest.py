"""What an update changes of the index, also where the stored manifest knows fewer tables."""

from typing import Any

import msgspec

from app import db
from app.fhir.manifest import INDEX, Difference, Manifest, read, write

TOKEN = (1, "a", 2)
PAIR = (3, 0, 2, "a", 2, "b", 0.0, 0.0)
POINT = (4, 1.0, 0.0, 0.0)


def manifest(*, composite: bool) -> Manifest:
    rows: dict[db.Table, list[tuple[Any, ...]]] = {db.index_token: [TOKEN]}
    rows |= {db.index_composite: [PAIR], db.index_position: [POINT]} if composite else {}
    return Manifest(7, [list(rows.get(table, [])) for table in INDEX])


def test_a_manifest_of_before_there_were_composites_has_no_rows_of_them() -> None:
    old = read(msgspec.msgpack.encode([7, [[TOKEN], [], [], [], [], [], []]]))
    difference = Difference.empty()

    difference.add(5, old, read(write(manifest(composite=True))))

    assert not any(difference.removed.values())
    assert difference.added[db.index_token] == []
    assert difference.added[db.index_composite] == [(5, 7, *PAIR)]
    assert difference.added[db.index_position] == [(5, *POINT)]


def test_rows_that_are_no_longer_wanted_are_removed() -> None:
    difference = Difference.empty()

    difference.add(5, manifest(composite=True), manifest(composite=False))

    assert difference.removed[db.index_composite] == [(5, *PAIR)]
    assert difference.removed[db.index_position] == [(5, *POINT)]
    assert difference.removed[db.index_token] == []
    assert not any(difference.added.values())
