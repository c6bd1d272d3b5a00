"""What a store needs of its process: definitions, numbers, compiled statements, a secret."""

import base64
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import tzinfo
from functools import cached_property
from zlib import crc32

import sqlalchemy as sa

from app import db, jobs
from app.fhir.cut import Cutter
from app.fhir.definitions import Definitions, SearchParameter
from app.fhir.errors import FhirError, refused
from app.fhir.index import EXTRACTOR, Coded, Indexer
from app.fhir.query import BINARY, POINTS
from app.fhir.sql import Compiler
from app.fhir.store import parameters
from app.fhir.wire import Resource, decode

NO_BIT = -1  # of a variant, for `present` is about parameters; and of what comes after LAST_BIT
LAST_BIT = 62

D = db.definitions_version
P = db.param_dictionary

Numbers = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Catalogue:
    """What a store needs of its process: definitions, the indexer, the numbers, a secret.

    `params` gives (type, `code` or `code:variant`) its number, `bits` a parameter its bit in
    `resource.present`, which one of `custom` may lack. `official` are R4's own definitions,
    `custom` the parameters added to them by the id of their SearchParameter, `version` the state
    of the database in which they are so. `building` says of (type, code) how many percent of the
    resources are indexed by it so far: a search with it would miss the others. `current` is false
    where the index was written by an older extractor.
    """

    version: int
    official: Definitions
    custom: parameters.Custom
    definitions: Definitions
    building: Numbers
    current: bool
    indexer: Indexer
    compiler: Compiler
    params: Numbers
    bits: Numbers
    secret: bytes
    base_url: str

    @cached_property
    def counts(self) -> dict[str, tuple[int, int, float]]:
        """How many rows drivers had of late: the count, how far it went, until when it holds."""
        return {}

    @cached_property
    def referring(self) -> dict[str, list[int]]:
        """The numbers of the parameters that may refer to a type, of types that were asked for."""
        return {}

    @cached_property
    def of_patients(self) -> frozenset[str]:
        """The types that may be in the compartment of a Patient."""
        found = self.definitions.compartments["Patient"]
        return frozenset(type for type, codes in found.items() if codes)

    @cached_property
    def cutter(self) -> Cutter:
        """What takes masked elements from a resource, and what a client does not want."""
        return Cutter(self.definitions)

    def clinical_dates(self, type: str) -> tuple[str, ...]:
        """Return the search parameters of a type that say when care was given, the first first."""
        return self.indexer.clinical_dates(type)

    def sign(self, place: str, about: str) -> str:
        """Return the cursor for a place in the result that `about` describes."""
        return f"{place}.{self._tag(place, about)}"

    def place(self, cursor: str, about: str) -> str:
        """Return the place that a cursor names; a 400 if it was made for anything else."""
        text, _, tag = cursor.rpartition(".")
        if not hmac.compare_digest(tag.encode(), self._tag(text, about).encode()):
            raise refused("invalid", "The cursor does not belong to this request", "http._cursor")
        return text

    def _tag(self, text: str, about: str) -> str:
        digest = hmac.digest(self.secret, f"{text}\n{about}".encode(), "sha256")[:16]
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def open_catalogue(
    database: db.Database,
    official: Definitions,
    base_url: str,
    zone: tzinfo,
    entropy: bytes,
    before: Catalogue | None = None,
    *,
    texts: bool = False,
    rosters: Coded | None = None,
) -> Catalogue:
    """Return the catalogue of an open database; parameters that it does not know get numbers.

    `entropy` becomes the secret of the cursors if the database has none yet. What the catalogue
    `before` has compiled is kept where nothing changed. `texts` says whether words are indexed: if
    not, the database notes that from now on not every resource has its words in the index.
    `rosters` is what the Indexer takes.
    """
    dialect = database.dialect

    async def work(connection: db.Connection) -> Catalogue:
        # The version first: what is read after it is at least as new, and a write says so
        number, extractor, worded = await _version(connection, dialect)
        custom = await _custom(connection, dialect, official)
        definitions = official.with_parameters(custom.values()) if custom else official
        indexer = Indexer(definitions, base_url, zone, texts=texts, rosters=rosters)
        if before is not None:
            _keep(before.indexer, indexer)
        params, bits = await _numbers(connection, dialect, official)
        plain = {(t, code) for t, known in definitions.search_parameters.items() for code in known}
        current = extractor == stamp(zone, rosters) and worded >= texts
        if not current or not params.keys() >= plain:
            names = [(t, name) for t in definitions.resource_types for name in indexer.numbered(t)]
            params, bits = await number_parameters(connection, dialect, official, names)
        if not current and await _never_written(connection, dialect):
            await note_extractor(connection, dialect, indexer)
            current = True
        if current and worded > texts:
            await note_extractor(connection, dialect, indexer)
        return Catalogue(
            version=number,
            official=official,
            custom=custom,
            definitions=definitions,
            building=await building(connection, dialect),
            current=current,
            indexer=indexer,
            compiler=before.compiler if before else Compiler(dialect),
            params=params,
            bits=bits,
            secret=before.secret if before else await _secret(connection, dialect, entropy),
            base_url=base_url,
        )

    return await database.write(work)


async def _custom(
    connection: db.Connection, dialect: db.Dialect, official: Definitions
) -> dict[str, SearchParameter]:
    """Return what the stored SearchParameters add to R4's; the oldest come first."""
    r, v = db.resource, db.resource_version
    stored = (
        sa.select(v.c.body)
        .select_from(r.join(v, sa.and_(v.c.key == r.c.key, v.c.version == r.c.version)))
        .where(r.c.type == sa.bindparam("type", type_=db.Small), sa.text("resource.state = 1"))
        .order_by(r.c.key)
    )
    number = official.type_numbers[parameters.TYPE]
    rows = await connection.rows(db.statement(stored, dialect), {"type": number})
    return parameters.in_force((decode(bytes(body)) for (body,) in rows), official)


def _keep(before: Indexer, indexer: Indexer) -> None:
    """Take over the extractors of the types whose parameters are the same."""
    old, new = before.definitions.search_parameters, indexer.definitions.search_parameters
    indexer.compiled.update((t, made) for t, made in before.compiled.items() if old[t] == new[t])


async def state(connection: db.Connection, dialect: db.Dialect) -> tuple[int, Numbers]:
    """Return the version of the definitions, and what of them is being built, as in `Catalogue`."""
    number, *_ = await _version(connection, dialect)
    return number, await building(connection, dialect)


async def building(connection: db.Connection, dialect: db.Dialect) -> Numbers:
    """Return (type, code) of every parameter that not all resources are indexed by, with percent.

    A job to index a type anew has the name of the type, and is about those parameters.
    """
    waiting = await jobs.listed(connection, dialect)
    return {(job.name, code): job.percent for job in waiting for code in job.about.split()}


async def _secret(connection: db.Connection, dialect: db.Dialect, entropy: bytes) -> bytes:
    """Return the secret of the cursors; `entropy` becomes it if there is none yet."""
    s = db.secret
    named = s.c.name == sa.bindparam("name", type_=sa.Text())
    statement = db.statement(sa.select(s.c.value).where(named), dialect)
    found = await connection.rows(statement, {"name": "cursor"})
    if not found:
        await connection.change([db.Change("add", s, ("name", "value"), [("cursor", entropy)])])
        found = await connection.rows(statement, {"name": "cursor"})
    return bytes(found[0][0])


def stamp(zone: tzinfo, rosters: Coded | None) -> int:
    """Return the number of what makes index rows: the extractor, in a zone, with these rosters."""
    return crc32(f"{EXTRACTOR} {zone} {rosters}".encode()) & 0x7FFFFFFF


async def is_current(
    connection: db.Connection,
    dialect: db.Dialect,
    zone: tzinfo,
    *,
    texts: bool,
    rosters: Coded | None = None,
) -> bool:
    """Return whether the index is as this extractor writes it in a zone, with `texts` or not."""
    _, extractor, worded = await _version(connection, dialect)
    current = extractor == stamp(zone, rosters) and worded >= texts
    return current or await _never_written(connection, dialect)


async def _version(connection: db.Connection, dialect: db.Dialect) -> tuple[int, int, bool]:
    """Return the version of the definitions, who wrote the index, and whether it has all words."""
    row = db.statement(sa.select(D.c.number, D.c.extractor, D.c.texts), dialect)
    ((number, extractor, worded),) = await connection.rows(row, {})
    return number, extractor, bool(worded)


async def _never_written(connection: db.Connection, dialect: db.Dialect) -> bool:
    """Return whether nothing was ever written, so that no older extractor can have been at work."""
    one = sa.select(db.resource_version.c.key).limit(sa.literal_column("1"))
    return not await connection.rows(db.statement(one, dialect), {})


async def note_extractor(connection: db.Connection, dialect: db.Dialect, indexer: Indexer) -> None:
    """Note that the index is as this indexer writes it."""
    await connection.begin()
    values = {"extractor": sa.bindparam("now", type_=db.Int)}
    values["texts"] = sa.bindparam("worded", type_=db.Small)
    noted = sa.update(D).values(values).returning(D.c.extractor)
    given = {"now": stamp(indexer.zone, indexer.rosters), "worded": int(indexer.texts)}
    await connection.rows(db.statement(noted, dialect), given)


# --- changes -----------------------------------------------------------------------------------


async def redefine(
    connection: db.Connection,
    catalogue: Catalogue,
    version: int,
    written: Mapping[str, Resource | None],
) -> int:
    """Put SearchParameters, by id (None: deleted), in force; return the version that this makes.

    Whoever writes under an older version is refused from the commit on, and this waits for those
    who have written already. So the jobs ordered here find what was written without the new
    parameters, and nobody writes such after them. Raises a 422 for what nobody could search with,
    Outdated if the definitions are not at `version` any more.
    """
    dialect, official = catalogue.compiler.dialect, catalogue.official
    before = catalogue.custom
    declared = {id: parameters.declared(r, official) if r else None for id, r in written.items()}
    changed = {id: now for id, now in declared.items() if now != before.get(id)}
    if not changed:
        return version
    after = {id: p for id, p in {**before, **changed}.items() if p is not None}
    found = [i for id in changed if id in after for i in parameters.issues(after, id, official)]
    if found:
        raise FhirError([issue.under(parameters.TYPE) for issue in found], 422)
    number = await raise_version(connection, dialect)
    if number != version + 1:
        raise db.Outdated
    definitions = official.with_parameters(after.values())
    indexer = Indexer(definitions, "")
    mine = [(id, type) for id in changed if id in after for type in official.heirs(after[id].base)]
    names = [
        (type, name)
        for id, type in mine
        for name in indexer.numbered(type)
        if name.partition(":")[0] == after[id].code
    ]
    await number_parameters(connection, dialect, official, names)
    lost: dict[str, set[str]] = {}
    won: dict[str, set[str]] = {}
    for id in changed:
        old, new = _indexed(before.get(id)), _indexed(after.get(id))
        if old == new:
            continue
        for parameter, codes in ((old, lost), (new, won)):
            for type in official.heirs(parameter.base) if parameter else ():
                codes.setdefault(type, set()).add(parameter.code if parameter else "")
    open_jobs = {job.name: job for job in await jobs.listed(connection, dialect)}
    for type in sorted(lost.keys() | won.keys()):
        if await _any(connection, dialect, official.type_numbers[type]):
            waiting = set(open_jobs[type].about.split()) if type in open_jobs else set()
            about = (waiting - lost.get(type, set())) | won.get(type, set())
            job = jobs.Job(type, " ".join(sorted(about)), number)
            await jobs.order(connection, dialect, job)
    return number


async def raise_version(connection: db.Connection, dialect: db.Dialect) -> int:
    """Return the next version of the definitions, which this transaction makes.

    It waits for all who have written under the one before, and they for it from here on.
    """
    await connection.begin()
    raised = sa.update(D).values(number=D.c.number + sa.literal_column("1")).returning(D.c.number)
    ((number,),) = await connection.rows(db.statement(raised, dialect), {})
    return int(number)


def _indexed(parameter: SearchParameter | None) -> SearchParameter | None:
    """Return what of a parameter makes its rows."""
    return replace(parameter, url="", description="") if parameter else None


async def _any(connection: db.Connection, dialect: db.Dialect, type: int) -> bool:
    """Return whether there is a live resource of a type."""
    r = db.resource
    of_type = r.c.type == sa.bindparam("type", type_=db.Small)
    one = sa.select(r.c.key).where(of_type, sa.text("state = 1")).limit(sa.literal_column("1"))
    return bool(await connection.rows(db.statement(one, dialect), {"type": type}))


# --- numbers -----------------------------------------------------------------------------------


async def _numbers(
    connection: db.Connection, dialect: db.Dialect, official: Definitions
) -> tuple[Numbers, Numbers]:
    """Return `params` and `bits` as the database knows them."""
    names = official.resource_types
    known = db.statement(sa.select(P.c.type, P.c.code, P.c.variant, P.c.param, P.c.bit), dialect)
    params: dict[tuple[str, str], int] = {}
    bits: dict[tuple[str, str], int] = {}
    for type, code, variant, param, bit in await connection.rows(known, {}):
        name = names[type - 1], f"{code}:{variant}" if variant else code
        params[name] = param
        if bit != NO_BIT:
            bits[name] = bit
    if (points := params.get((BINARY, POINTS))) is not None:
        # one number for what points at Binaries, whatever it is: they are looked for by that
        params.update({(type, POINTS): points for type in names})
    return params, bits


async def number_parameters(
    connection: db.Connection,
    dialect: db.Dialect,
    official: Definitions,
    names: Iterable[tuple[str, str]],
) -> tuple[Numbers, Numbers]:
    """Give parameters and their variants, named (type, `code:variant`), numbers; return all.

    The bit of a parameter of R4 is its place in the alphabet; others take the bits after those,
    as long as there are some. A number is never taken back.
    """
    params, bits = await _numbers(connection, dialect, official)
    types, known = official.type_numbers, official.search_parameters
    places = {t: {code: n for n, code in enumerate(sorted(codes))} for t, codes in known.items()}
    free = {t: len(codes) for t, codes in known.items()}
    for (type, _), bit in bits.items():
        free[type] = max(free[type], bit + 1)
    missing = []
    for type, name in names:
        if (type, name) in params:
            continue
        code, _, variant = name.partition(":")
        bit = NO_BIT
        if not variant and code in places[type]:
            bit = places[type][code]
        elif not variant and free[type] <= LAST_BIT:
            bit = free[type]
            free[type] += 1
        missing.append((types[type], code, variant, bit))
    if not missing:
        return params, bits
    columns = ("type", "code", "variant", "bit")
    await connection.change([db.Change("add", P, columns, missing)])
    return await _numbers(connection, dialect, official)
