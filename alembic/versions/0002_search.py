"""The rest of the search index: composites and positions.

Revision 0002, after 0001, 2026-11-22.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT = sa.Integer()
DOUBLE: sa.Double[float] = sa.Double()
TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")

# name: (columns, primary key, columns that the primary key's index holds as well, second index)
INDEX_TABLES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "index_composite": (
        {
            "key": BIG,
            "owner": BIG,
            "lo": DOUBLE,
            "hi": DOUBLE,
            "param": INT,
            "k": INT,
            "system": INT,
            "system2": INT,
            "code": TEXT,
            "code2": TEXT,
        },
        "param code code2 lo key k system system2 hi",
        "owner",
        "key param k",
    ),
    "index_position": (
        {"key": BIG, "z": DOUBLE, "x": DOUBLE, "y": DOUBLE, "param": INT},
        "param z key x y",
        "",
        "key param",
    ),
}


WIDE = sa.text("lo < hi")
WIDE_INDEXES = {
    "index_quantity": ("param code hi", "key lo unit"),
    "index_composite": ("param code code2 hi", "key lo k system system2"),
}


def upgrade() -> None:
    for name, (columns, key, include, second) in INDEX_TABLES.items():
        op.create_table(
            name,
            *[sa.Column(column, kind, nullable=False) for column, kind in columns.items()],
            sa.PrimaryKeyConstraint(
                *key.split(), name=f"{name}_pkey", postgresql_include=include.split()
            ),
            sqlite_with_rowid=False,
        )
        op.create_index(f"{name}_key", name, second.split())
    for name, (keys, others) in WIDE_INDEXES.items():
        op.create_index(
            f"{name}_wide",
            name,
            keys.split(),
            postgresql_include=others.split(),
            postgresql_where=WIDE,
            sqlite_where=WIDE,
        )


def downgrade() -> None:
    for name in WIDE_INDEXES:
        op.drop_index(f"{name}_wide", name)
    for name in INDEX_TABLES:
        op.drop_table(name)
