"""The tables: one SQLAlchemy definition for both dialects, and the only DDL besides migrations.

Every reference between resources is the integer key of its target; every search parameter is a
row in an index table, whose primary key in value order is the index itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

metadata = sa.MetaData()

Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Text = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
Bytes = sa.LargeBinary()
Float: sa.Double[float] = sa.Double()
Small = sa.SmallInteger()
Table = sa.Table
Int = sa.Integer()
Words: Any = TSVECTOR().with_variant(sa.Text(), "sqlite")

LIVE = "state = 1"
WIDE = "lo < hi"


def _column(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _index_table(
    name: str, columns: Mapping[str, Any], order: Sequence[str], include: Sequence[str] = ()
) -> sa.Table:
    """Return an index table: its primary key in value order is the index (SQLite: is the table)."""
    return sa.Table(
        name,
        metadata,
        *[_column(column, kind) for column, kind in columns.items()],
        sa.PrimaryKeyConstraint(*order, postgresql_include=list(include), name=f"{name}_pkey"),
        sqlite_with_rowid=False,
    )


resource = sa.Table(
    "resource",
    metadata,
    sa.Column("key", Key, primary_key=True, autoincrement=False),
    _column("owner", Key),  # the Patient this belongs to alone, else 0
    _column("updated", Key),  # microseconds
    _column("occurred", Key),  # microseconds: the primary clinical date, 0 if it has none
    _column("labels", Key),  # security-label bits
    _column("present", Key),  # one bit a search parameter that has a value
    _column("version", Int),
    _column("type", Small),
    _column("state", Small),  # 0 phantom, 1 live, 2 deleted
    _column("id", Text),
    _column("hash", Bytes),  # of the content without versionId and lastUpdated
    _column("manifest", Bytes),  # the index rows of the current version
    sa.UniqueConstraint("type", "id", name="resource_type_id"),
)
for _name, _keys in {
    "resource_live": ("type", "key"),
    "resource_updated": ("type", "updated", "key"),
    "resource_owner": ("owner", "type", "occurred", "key"),
}.items():
    sa.Index(
        _name,
        *[resource.c[key] for key in _keys],
        postgresql_where=sa.text(LIVE),
        sqlite_where=sa.text(LIVE),
    )

resource_version = sa.Table(
    "resource_version",
    metadata,
    sa.Column("key", Key, primary_key=True, autoincrement=False),
    sa.Column("version", Int, primary_key=True, autoincrement=False),
    _column("owner", Key),
    _column("labels", Key),
    _column("updated", Key),
    _column("seq", Key),
    _column("xid", Key),
    _column("type", Small),
    _column("op", Small),  # 1 create, 2 update, 3 delete
    _column("body", Bytes),
    sa.Index("resource_version_feed", "xid", "seq"),
    sa.Index("resource_version_seq", "seq"),
    sa.Index("resource_version_type_seq", "type", "seq"),
    sa.Index("resource_version_updated", "updated", "seq"),
    # Columns that nobody gives: the transaction, and the order of writing. On PostgreSQL the
    # statement fills them, on SQLite the one writer counts
    info={
        "generated": {
            "postgresql": {
                "xid": "pg_current_xact_id()::text::bigint",
                "seq": "nextval('version_seq')",
            },
            "sqlite": {"xid": "?", "seq": "?"},
        }
    },
)
# Of a resource whose first versions were erased for good: the last of them
expunged = sa.Table(
    "expunged",
    metadata,
    sa.Column("key", Key, primary_key=True, autoincrement=False),
    _column("version", Int),
)
version_seq = sa.Sequence("version_seq", metadata=metadata)
resource_key = sa.Sequence("resource_key", increment=1000, metadata=metadata)

KEY_BLOCK = 1000

# key before system: most codes live in one system, so `code=X` without a system still walks the
# index in key order (docs/decisions.md)
index_token = _index_table(
    "index_token",
    {"key": Key, "owner": Key, "param": Int, "system": Int, "code": Text},
    ("param", "code", "key", "system"),
    ("owner",),
)
index_reference = _index_table(
    "index_reference",
    {"key": Key, "owner": Key, "target": Key, "param": Int},
    ("param", "target", "key"),
    ("owner",),
)
index_date = _index_table(
    "index_date",
    {"key": Key, "owner": Key, "lo": Key, "hi": Key, "param": Int, "long": Small},
    ("param", "long", "lo", "key", "hi"),
    ("owner",),
)
index_quantity = _index_table(
    "index_quantity",
    {"key": Key, "owner": Key, "lo": Float, "hi": Float, "param": Int, "unit": Int, "code": Text},
    ("param", "code", "lo", "key", "unit", "hi"),
    ("owner",),
)
index_string = _index_table(
    "index_string",
    {"key": Key, "owner": Key, "param": Int, "norm": Text, "exact": Text},
    ("param", "norm", "key", "exact"),
    ("owner",),
)
index_uri = _index_table(
    "index_uri",
    {"key": Key, "param": Int, "uri": Text, "version": Text},
    ("param", "uri", "key", "version"),
)
# A row for each pair of what two components have in the element `k`
index_composite = _index_table(
    "index_composite",
    {
        "key": Key,
        "owner": Key,
        "lo": Float,
        "hi": Float,
        "param": Int,
        "k": Int,
        "system": Int,
        "system2": Int,
        "code": Text,
        "code2": Text,
    },
    ("param", "code", "code2", "lo", "key", "k", "system", "system2", "hi"),
    ("owner",),
)
# Points on the unit sphere, so that a distance is a chord and SQL needs no trigonometry
index_position = _index_table(
    "index_position",
    {"key": Key, "z": Float, "x": Float, "y": Float, "param": Int},
    ("param", "z", "key", "x", "y"),
)


def _words_table(name: str) -> sa.Table:
    """Return a table of the words of resources, which are parted by single spaces.

    On SQLite an FTS5 table beside it has the index, kept by triggers: as its own key an FTS5 table
    knows but the rowid, which no other table of the house has.
    """
    table = sa.Table(
        name,
        metadata,
        sa.Column("key", Key, primary_key=True, autoincrement=False),
        _column("param", Int),
        _column("words", Words),
        sa.Index(f"{name}_words", "words", postgresql_using="gin").ddl_if(dialect="postgresql"),
    )
    for statement in fts5(name):
        made = sa.DDL(statement).execute_if(dialect="sqlite")  # type: ignore[no-untyped-call]
        sa.event.listen(table, "after_create", made)
    return table


def fts5(name: str) -> list[str]:
    """Return what makes the FTS5 index of a table of words, and keeps it in step.

    Every character that is not ASCII is one of a word, and words come folded: so the tokenizer
    does no more than part them at their spaces.
    """
    index = f"{name}_fts"
    add = f"INSERT INTO {index} (rowid, words) VALUES (new.key, new.words);"
    remove = f"INSERT INTO {index} ({index}, rowid, words) VALUES ('delete', old.key, old.words);"
    kept = {"insert": add, "delete": remove, "update": f"{remove} {add}"}
    return [
        f"CREATE VIRTUAL TABLE {index} USING fts5(words, content='{name}', content_rowid='key',"
        " tokenize='ascii', detail='none', columnsize=0)",
        *(
            f"CREATE TRIGGER {index}_{event} AFTER {event.upper()} ON {name} BEGIN {does} END"
            for event, does in kept.items()
        ),
    ]


# The words of the narrative, and of the whole resource (search.html#text)
index_text = _words_table("index_text")
index_content = _words_table("index_content")

compartment = _index_table(
    "compartment",
    {"key": Key, "comp": Key, "type": Small, "occurred": Key},
    ("comp", "type", "occurred", "key"),
)
for _table, _keys in (
    (index_token, ("key", "param", "code", "system")),
    (index_reference, ("key", "param", "target")),
    (index_date, ("key", "param", "lo", "hi")),
    (index_quantity, ("key", "param", "code", "lo", "hi", "unit")),
    (index_string, ("key", "param", "norm")),
    (index_uri, ("key", "param", "uri")),
    (index_composite, ("key", "param", "k")),
    (index_position, ("key", "param")),
    (compartment, ("key", "comp")),
):
    sa.Index(f"{_table.name}_key", *[_table.c[key] for key in _keys])

# Intervals are few: they are found by their end as well
for _table, _keys, _others in (
    (index_quantity, ("param", "code", "hi"), ["key", "lo", "unit"]),
    (index_composite, ("param", "code", "code2", "hi"), ["key", "lo", "k", "system", "system2"]),
):
    sa.Index(
        f"{_table.name}_wide",
        *[_table.c[key] for key in _keys],
        postgresql_include=_others,
        postgresql_where=sa.text(WIDE),
        sqlite_where=sa.text(WIDE),
    )

# Every CodeSystem and ValueSet that searches may name: a stored one under the key of its resource,
# a shipped one under a negative number
terminology = sa.Table(
    "terminology",
    metadata,
    sa.Column("key", Key, primary_key=True, autoincrement=False),
    _column("size", Int),  # of a CodeSystem its concepts, of a ValueSet its members
    _column("kind", Small),  # 0 what is shipped as a whole, 1 CodeSystem, 2 ValueSet
    _column("url", Text),
    _column("version", Text),
    _column("value_set", Text),  # the URL of the value set: of a CodeSystem, of the implicit one
    _column("code", Text),  # the kind of problem (issue-type), "" if it can be searched with
    _column("problem", Text),
    _column("definition", Bytes),  # what expansion reads of it
    sa.Index("terminology_url", "url"),
    sa.Index("terminology_value_set", "value_set"),
)
terminology_use = _index_table(  # which definitions an expansion reads
    "terminology_use", {"key": Key, "url": Text}, ("url", "key")
)
value_set_member = _index_table(
    "value_set_member", {"vs": Key, "system": Int, "code": Text}, ("vs", "system", "code")
)
concept_ancestor = _index_table(
    "concept_ancestor",
    {"cs": Key, "system": Int, "ancestor": Text, "descendant": Text},
    ("system", "ancestor", "cs", "descendant"),
)
sa.Index("terminology_use_key", terminology_use.c.key, terminology_use.c.url)
sa.Index(
    "concept_ancestor_descendant",
    *[concept_ancestor.c[name] for name in ("system", "descendant", "cs", "ancestor")],
)

param_dictionary = sa.Table(
    "param_dictionary",
    metadata,
    sa.Column("param", Int, sa.Identity(), primary_key=True),
    _column("type", Small),
    _column("code", Text),
    _column("variant", Text),
    _column("bit", Small),
    sa.UniqueConstraint("type", "code", "variant", name="param_dictionary_code"),
)
system_dictionary = sa.Table(
    "system_dictionary",
    metadata,
    sa.Column("system", Int, sa.Identity(), primary_key=True),
    _column("uri", Text),
    sa.UniqueConstraint("uri", name="system_dictionary_uri"),
)
secret = sa.Table(
    "secret",
    metadata,
    sa.Column("name", Text, primary_key=True),
    _column("value", Bytes),
)

# One row: which search parameters there are, which extractor made the index rows, and whether
# every resource has its words there
definitions_version = sa.Table(
    "definitions_version",
    metadata,
    sa.Column("number", Key, primary_key=True, autoincrement=False),
    _column("extractor", Int),
    _column("texts", Small),
)
job = sa.Table(
    "job",
    metadata,
    sa.Column("name", Text, primary_key=True),
    _column("about", Text),  # what waits for its end: codes of search parameters
    _column("ordered", Key),  # the version of the definitions that ordered it
    _column("place", Key),  # where it goes on
    _column("last", Key),  # where it ends
    _column("done", Key),
    _column("total", Key),
    _column("holder", Text),  # who runs it
    _column("until", Key),  # and until when, in microseconds, if nothing is heard of them
)
# Requests that were answered with 202, and their answers as long as these are kept
deferred = sa.Table(
    "deferred",
    metadata,
    sa.Column("id", Text, primary_key=True),
    _column("caller", Text),
    _column("ordered", Key),  # when, in microseconds
    _column("until", Key),  # as long as it runs a sign of life is due by then; then it is kept
    _column("done", Small),
    _column("body", Bytes),
)

# --- who may ask (app.api.grants) ---------------------------------------------------------------

account = sa.Table(
    "account",
    metadata,
    sa.Column("id", Text, primary_key=True),
    _column("name", Text),  # what one signs in with, folded
    _column("kind", Text),  # one of access.KINDS
    _column("roles", Text),  # with spaces between
    _column("organization", Text),  # Organization/[id], "" for none
    _column("fhir_user", Text),  # Practitioner/[id], Patient/[id], RelatedPerson/[id]
    _column("password", Text),  # as argon2 writes it
    _column("once", Small),  # 1: the password has to be changed when it is first used
    _column("state", Small),  # 1 active, 0 disabled
    _column("created", Key),
    _column("failures", Int),  # wrong passwords since the last right one
    _column("locked", Key),  # until when nobody can sign in
    sa.UniqueConstraint("name", name="account_name"),
)
client = sa.Table(
    "client",
    metadata,
    sa.Column("id", Text, primary_key=True),
    _column("name", Text),
    _column("kind", Text),  # public, symmetric, asymmetric
    _column("secret", Bytes),  # SHA-256 of the secret of a symmetric one
    _column("jwks", Text),  # the JSON Web Key Set of an asymmetric one, or
    _column("jwks_uri", Text),  # where that is
    _column("redirect_uris", Text),  # with spaces between
    _column("grant_types", Text),  # with spaces between
    _column("scope", Text),  # the most that it may be granted
    _column("launch_uri", Text),
    _column("logo_uri", Text),
    _column("state", Small),  # 1 active, 0 revoked
    _column("created", Key),
    sa.UniqueConstraint("name", name="client_name"),
)
# Whatever is handed out as a secret text, by the SHA-256 of it: access and refresh tokens, codes,
# launches, sessions; and the ids of assertions that were used
token = sa.Table(
    "token",
    metadata,
    sa.Column("hash", Bytes, primary_key=True),
    _column("kind", Text),
    _column("family", Text),  # what came of one authorization falls together
    _column("client", Text),
    _column("account", Text),
    _column("scope", Text),
    _column("context", Text),  # JSON: patient, encounter, redirect_uri, code_challenge ...
    _column("issued", Key),
    _column("expires", Key),
    _column("state", Small),  # 1 good, 0 used or revoked
    sa.Index("token_family", "family"),
    sa.Index("token_expires", "expires"),
)
signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("kid", Text, primary_key=True),
    _column("jwk", Text),  # the private key
    _column("created", Key),
    _column("retired", Key),  # since when nothing is signed with it, 0 if it is in use
)

# --- calls that may come twice (app.fhir.store.idempotency) -------------------------------------

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("name", Bytes, primary_key=True),  # SHA-256 of who called what with which key
    _column("digest", Bytes),  # of what was sent
    _column("told", Text),  # JSON: what the answer is made from
    _column("created", Key),  # microseconds
    sa.Index("idempotency_created", "created"),
)

# --- who did what (app.fhir.audit) --------------------------------------------------------------

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=False),  # in order of time
    _column("at", Key),  # microseconds
    _column("xid", Key),
    _column("seq", Key),
    _column("agent", Text),
    _column("code", Text),  # the interaction, or sign-in, token ...
    _column("action", Text),  # C R U D E
    _column("outcome", Small),  # 0, 4, 8, 12
    _column("type", Small),  # the number of the resource type, 0 for none
    _column("detail", Text),  # JSON: everything else
    sa.Index("audit_agent", "agent", "id"),
    sa.Index("audit_feed", "xid", "seq"),
    info={
        "generated": {
            "postgresql": {
                "xid": "pg_current_xact_id()::text::bigint",
                "seq": "nextval('audit_seq')",
            },
            "sqlite": {"xid": "?", "seq": "?"},
        }
    },
)
audit_seq = sa.Sequence("audit_seq", metadata=metadata)
audit_patient = _index_table("audit_patient", {"owner": Key, "id": Key}, ("owner", "id"))
audit_seal = sa.Table(
    "audit_seal",
    metadata,
    sa.Column("n", Key, primary_key=True, autoincrement=False),
    _column("audit_id", Key),
    _column("hash", Bytes),  # of the hash before it, and of the row
)


def unchanging(name: str, dialect: str) -> list[str]:
    """Return what makes a database refuse to change or remove rows of a table.

    Whoever may drop the trigger can go round it: that the chain of seals shows.
    """
    refusal = "a row of the audit trail stays as it is"
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {name}_no_{event} BEFORE {event.upper()} ON {name}"
            f" BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            for event in ("update", "delete")
        ]
    return [
        "CREATE OR REPLACE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql"
        f" AS 'BEGIN RAISE EXCEPTION ''{refusal}''; END'",
        f"CREATE TRIGGER {name}_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON {name}"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_stays()",
    ]


for _table in (audit, audit_patient, audit_seal):
    for _dialect in ("sqlite", "postgresql"):
        for _statement in unchanging(_table.name, _dialect):
            _made = sa.DDL(_statement).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
            sa.event.listen(_table, "after_create", _made)
