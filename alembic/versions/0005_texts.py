"""The words of resources, for `_text` and `_content`.

Revision 0005, after 0004, 2026-11-22.

Whether every resource has its words in the index is noted beside the extractor: so far none has.
On SQLite the words are indexed by FTS5 tables, which triggers keep in step.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT = sa.Integer()
SMALL = sa.SmallInteger()
WORDS: Any = TSVECTOR().with_variant(sa.Text(), "sqlite")

TABLES = ("index_text", "index_content")
VIRTUAL = """
    CREATE VIRTUAL TABLE {name}_fts USING fts5(words, content='{name}', content_rowid='key',
    tokenize='ascii', detail='none', columnsize=0)
"""
ADD = "INSERT INTO {name}_fts (rowid, words) VALUES (new.key, new.words);"
REMOVE = "INSERT INTO {name}_fts ({name}_fts, rowid, words) VALUES ('delete', old.key, old.words);"
TRIGGERS = {"insert": ADD, "delete": REMOVE, "update": f"{REMOVE} {ADD}"}


def upgrade() -> None:
    for name in TABLES:
        op.create_table(
            name,
            sa.Column("key", BIG, primary_key=True, autoincrement=False),
            required("param", INT),
            required("words", WORDS),
        )
        if op.get_bind().dialect.name == "postgresql":
            op.create_index(f"{name}_words", name, ["words"], postgresql_using="gin")
            continue
        op.execute(" ".join(VIRTUAL.split()).format(name=name))
        for event, does in TRIGGERS.items():
            made = f"CREATE TRIGGER {{name}}_fts_{event} AFTER {event.upper()} ON {{name}}"
            op.execute(f"{made} BEGIN {does} END".format(name=name))
    define([required("texts", SMALL)], "number, extractor, 0")


def downgrade() -> None:
    define([], "number, extractor")
    for name in TABLES:
        if op.get_bind().dialect.name == "sqlite":
            op.execute(f"DROP TABLE {name}_fts")
        op.drop_table(name)


def define(more: list[sa.Column[Any]], values: str) -> None:
    """Make `definitions_version` anew, which SQLite can alter in no other way."""
    (row,) = op.get_bind().execute(sa.text(f"SELECT {values} FROM definitions_version")).all()
    op.drop_table("definitions_version")
    op.create_table(
        "definitions_version",
        sa.Column("number", BIG, primary_key=True, autoincrement=False),
        required("extractor", INT),
        *more,
    )
    op.execute(f"INSERT INTO definitions_version VALUES ({', '.join(map(str, row))})")


def required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)
