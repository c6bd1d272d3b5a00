"""The foundation: resources, their versions, the search index, the dictionaries.

Revision 0001, after nothing, 2026-11-21.

A migration is history: it repeats the tables as they were on its day and imports nothing of the
application. tests/house/test_migrations.py holds all of them together against `app.db.metadata`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT = sa.Integer()
SMALL = sa.SmallInteger()
DOUBLE: sa.Double[float] = sa.Double()
BYTES = sa.LargeBinary()
TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")

SEQUENCES = [sa.Sequence("version_seq"), sa.Sequence("resource_key", increment=1000)]

# name: (columns, primary key, columns that the primary key's index holds as well, second index)
INDEX_TABLES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "index_token": (
        {"key": BIG, "owner": BIG, "param": INT, "system": INT, "code": TEXT},
        "param code key system",
        "owner",
        "key param code system",
    ),
    "index_reference": (
        {"key": BIG, "owner": BIG, "target": BIG, "param": INT},
        "param target key",
        "owner",
        "key param target",
    ),
    "index_date": (
        {"key": BIG, "owner": BIG, "lo": BIG, "hi": BIG, "param": INT, "long": SMALL},
        "param long lo key hi",
        "owner",
        "key param lo hi",
    ),
    "index_quantity": (
        {
            "key": BIG,
            "owner": BIG,
            "lo": DOUBLE,
            "hi": DOUBLE,
            "param": INT,
            "unit": INT,
            "code": TEXT,
        },
        "param code lo key unit hi",
        "owner",
        "key param code lo hi unit",
    ),
    "index_string": (
        {"key": BIG, "owner": BIG, "param": INT, "norm": TEXT, "exact": TEXT},
        "param norm key exact",
        "owner",
        "key param norm",
    ),
    "index_uri": (
        {"key": BIG, "param": INT, "uri": TEXT, "version": TEXT},
        "param uri key version",
        "",
        "key param uri",
    ),
    "compartment": (
        {"key": BIG, "comp": BIG, "type": SMALL, "occurred": BIG},
        "comp type occurred key",
        "",
        "key comp",
    ),
}
RESOURCE_INDEXES = {
    "resource_live": "type key",
    "resource_updated": "type updated key",
    "resource_owner": "owner type occurred key",
}
OTHER_TABLES = ["secret", "system_dictionary", "param_dictionary", "resource_version", "resource"]


def upgrade() -> None:
    if op.get_context().dialect.supports_sequences:
        for sequence in SEQUENCES:
            op.execute(sa.schema.CreateSequence(sequence))
    create_resource()
    create_resource_version()
    for name in INDEX_TABLES:
        create_index_table(name)
    create_dictionaries()


def downgrade() -> None:
    for table in [*INDEX_TABLES, *OTHER_TABLES]:
        op.drop_table(table)
    if op.get_context().dialect.supports_sequences:
        for sequence in SEQUENCES:
            op.execute(sa.schema.DropSequence(sequence))


def required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def create_resource() -> None:
    op.create_table(
        "resource",
        sa.Column("key", BIG, primary_key=True, autoincrement=False),
        required("owner", BIG),
        required("updated", BIG),
        required("occurred", BIG),
        required("labels", BIG),
        required("present", BIG),
        required("version", INT),
        required("type", SMALL),
        required("state", SMALL),
        required("id", TEXT),
        required("hash", BYTES),
        required("manifest", BYTES),
        sa.UniqueConstraint("type", "id", name="resource_type_id"),
    )
    live = sa.text("state = 1")
    for name, columns in RESOURCE_INDEXES.items():
        op.create_index(name, "resource", columns.split(), postgresql_where=live, sqlite_where=live)


def create_resource_version() -> None:
    op.create_table(
        "resource_version",
        sa.Column("key", BIG, primary_key=True, autoincrement=False),
        sa.Column("version", INT, primary_key=True, autoincrement=False),
        required("owner", BIG),
        required("labels", BIG),
        required("updated", BIG),
        required("seq", BIG),
        required("xid", BIG),
        required("type", SMALL),
        required("op", SMALL),
        required("body", BYTES),
    )
    op.create_index("resource_version_feed", "resource_version", ["xid", "seq"])
    op.create_index("resource_version_seq", "resource_version", ["seq"])
    op.create_index("resource_version_type_seq", "resource_version", ["type", "seq"])


def create_index_table(name: str) -> None:
    columns, key, include, second = INDEX_TABLES[name]
    op.create_table(
        name,
        *[required(column, kind) for column, kind in columns.items()],
        sa.PrimaryKeyConstraint(
            *key.split(), name=f"{name}_pkey", postgresql_include=include.split()
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(f"{name}_key", name, second.split())


def create_dictionaries() -> None:
    op.create_table(
        "param_dictionary",
        sa.Column("param", INT, sa.Identity(), primary_key=True),
        required("type", SMALL),
        required("code", TEXT),
        required("variant", TEXT),
        required("bit", SMALL),
        sa.UniqueConstraint("type", "code", "variant", name="param_dictionary_code"),
    )
    op.create_table(
        "system_dictionary",
        sa.Column("system", INT, sa.Identity(), primary_key=True),
        required("uri", TEXT),
        sa.UniqueConstraint("uri", name="system_dictionary_uri"),
    )
    op.create_table(
        "secret",
        sa.Column("name", TEXT, primary_key=True),
        required("value", BYTES),
    )
