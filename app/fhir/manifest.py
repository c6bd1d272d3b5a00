"""The index rows of a resource as numbers, and what an update changes of them.

`index` gives the rows of a resource as text: parameter codes, systems, types and ids. A `Manifest`
has the same rows with the numbers that stand for them in the database. It is stored beside the
resource, so that an update knows what to delete and insert without reading the index.

Rule: equal rows are one, and no column is null: "" and sentinels stand for what is not there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from app import db
from app.fhir.index import Rows
from app.fhir.values import DAY, is_id

Identity = tuple[str, str]  # type and id

# The index tables, in the order of the manifest, with their columns besides key and owner. New
# ones come last: the manifests of older versions end before them, which means no rows
INDEX: Mapping[db.Table, tuple[str, ...]] = {
    db.index_token: ("param", "code", "system"),
    db.index_reference: ("param", "target"),
    db.index_date: ("param", "long", "lo", "hi"),
    db.index_quantity: ("param", "code", "lo", "unit", "hi"),
    db.index_string: ("param", "norm", "exact"),
    db.index_uri: ("param", "uri", "version"),
    db.compartment: ("comp", "type", "occurred"),
    db.index_composite: ("param", "k", "system", "code", "system2", "code2", "lo", "hi"),
    db.index_position: ("param", "z", "x", "y"),
}
# The tables of words, in the order of the manifest, with the parameters that ask for them
WORDS: Mapping[db.Table, str] = {db.index_text: "_text", db.index_content: "_content"}
WITH_OWNER = {table for table in INDEX if "owner" in table.c}


class Manifest(msgspec.Struct, array_like=True):
    """The index rows of one version, without the key: what an update compares with its own.

    Of words it has digests: `texts` is one for each of WORDS, empty where there are none.
    """

    owner: int = 0
    tables: list[list[tuple[Any, ...]]] = []
    texts: list[bytes] = []


_DECODER = msgspec.msgpack.Decoder(Manifest)
write = msgspec.msgpack.Encoder().encode


def read(raw: bytes) -> Manifest:
    """Return a stored manifest; an empty one where a resource has no rows yet, or no more."""
    return _DECODER.decode(raw) if raw else Manifest()


def systems(rows: Rows) -> Iterator[str]:
    """Yield the systems that the rows name."""
    yield from (system for _, system, _ in rows.token)
    yield from (system for _, system, _, _, _ in rows.quantity)
    for _, _, system, _, other, *_ in rows.composite:
        yield system
        yield other


def targets(rows: Rows) -> Iterator[Identity]:
    """Yield the resources that the rows name: targets of references, and compartments."""
    yield from (target(type, text) for _, type, text in rows.reference)
    yield from (("Patient", id) for id in rows.patients)
    yield from rows.compartments


def target(type: str, text: str) -> Identity:
    """Return the identity under which a reference's target is stored: URLs have no type."""
    return (type, text) if type and is_id(text) else ("", text)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of what rows name: (type, parameter or variant), systems, resources, types."""

    params: Mapping[tuple[str, str], int]
    systems: Mapping[str, int]
    keys: Mapping[Identity, int]
    types: Mapping[str, int]

    def manifest(self, type: str, rows: Rows) -> Manifest:
        """Return the rows of a resource of `type` as numbers.

        Its owner is the one Patient in whose compartment it is. With several it has none, and
        stands in the compartment of each.
        """
        params, numbers, keys = self.params, self.systems, self.keys
        patients = sorted({keys["Patient", id] for id in rows.patients})
        owner = patients[0] if len(patients) == 1 else 0
        shared = {keys[identity] for identity in rows.compartments}
        shared.update(patients if not owner else ())
        when, number = rows.occurred or 0, self.types[type]
        references = [(params[type, p], keys[target(t, id)]) for p, t, id in rows.reference]
        return Manifest(
            owner,
            [
                [(params[type, p], code, numbers[system]) for p, system, code in rows.token],
                list(dict.fromkeys(references)),
                [(params[type, p], int(hi - lo > DAY), lo, hi) for p, lo, hi in rows.date],
                [
                    (params[type, p], code, lo, numbers[system], hi)
                    for p, system, code, lo, hi in rows.quantity
                ],
                [(params[type, p], norm, exact) for p, norm, exact in rows.string],
                [(params[type, p], uri, version) for p, uri, version in rows.uri],
                [(comp, number, when) for comp in sorted(shared)],
                [
                    (params[type, p], k, numbers[system], code, numbers[system2], code2, lo, hi)
                    for p, k, system, code, system2, code2, lo, hi in rows.composite
                ],
                [(params[type, p], z, x, y) for p, z, x, y in rows.position],
            ],
            [blake2b(t.encode(), digest_size=16).digest() if t else b"" for t in rows.texts],
        )

    def words(self, type: str, rows: Rows) -> list[tuple[int, str]]:
        """Return parameter and words for each of WORDS, 0 where a type has no such parameter."""
        named = zip(WORDS.values(), rows.texts, strict=False)  # none of either where it is off
        return [(self.params.get((type, code), 0), found) for code, found in named]


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes in the index tables: rows to insert, to delete, and to give another owner.

    `words` are rows of words to insert or replace, `wordless` the keys of those to delete.

    No row is in two of them: one statement cannot delete a row and insert it again.
    """

    added: Mapping[db.Table, list[db.Row]]
    removed: Mapping[db.Table, list[db.Row]]
    moved: Mapping[db.Table, list[db.Row]]
    words: Mapping[db.Table, list[db.Row]]
    wordless: Mapping[db.Table, list[db.Row]]

    @staticmethod
    def empty() -> "Difference":
        """Return a difference without rows."""
        return Difference(
            *({table: [] for table in INDEX} for _ in range(3)),
            *({table: [] for table in WORDS} for _ in range(2)),
        )

    def add(self, key: int, old: Manifest, new: Manifest) -> None:
        """Append what the index of one resource lacks and has too much, going from `old`."""
        for n, table in enumerate(INDEX):
            before = old.tables[n] if n < len(old.tables) else []
            after = new.tables[n] if n < len(new.tables) else []
            owner = (new.owner,) if table in WITH_OWNER else ()
            if not before:
                self.added[table].extend((key, *owner, *row) for row in after)
                continue
            known, wanted = set(before), set(after)
            self.removed[table].extend((key, *row) for row in before if row not in wanted)
            self.added[table].extend((key, *owner, *row) for row in after if row not in known)
            if owner and old.owner != new.owner:
                self.moved[table].extend((key, *owner, *row) for row in after if row in known)

    def add_words(
        self, key: int, old: Manifest, new: Manifest, found: Sequence[tuple[int, str]]
    ) -> None:
        """Append what the tables of words lack and have too much; `found` is what `new` has."""
        for n, table in enumerate(WORDS):
            before = old.texts[n] if n < len(old.texts) else b""
            after = new.texts[n] if n < len(new.texts) else b""
            if after and after != before:
                self.words[table].append((key, *found[n]))
            elif before and not after:
                self.wordless[table].append((key,))

    def changes(self) -> Iterator[db.Change]:
        """Yield one change for each table and kind."""
        for table, own in INDEX.items():
            found = ("key", *own)
            wide = ("key", "owner", *own) if table in WITH_OWNER else found
            yield db.Change("delete", table, found, self.removed[table], by=found)
            yield db.Change("update", table, wide, self.moved[table], by=found)
            yield db.Change("insert", table, wide, self.added[table])
        for table in WORDS:
            yield db.Change("delete", table, ("key",), self.wordless[table])
            yield db.Change("put", table, ("key", "param", "words"), self.words[table])
