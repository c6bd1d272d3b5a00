"""Terminology: code systems, value sets, and what follows from them for searches.

Revision 0003, after 0002, 2026-11-22.

`milepost migrate` fills the tables with what is shipped after the migrations have run.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT = sa.Integer()
SMALL = sa.SmallInteger()
BYTES = sa.LargeBinary()
TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")

# name: (columns, primary key)
TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "terminology_use": ({"key": BIG, "url": TEXT}, "url key"),
    "value_set_member": ({"vs": BIG, "system": INT, "code": TEXT}, "vs system code"),
    "concept_ancestor": (
        {"cs": BIG, "system": INT, "ancestor": TEXT, "descendant": TEXT},
        "system ancestor cs descendant",
    ),
}
# name: (table, columns)
INDEXES = {
    "terminology_url": ("terminology", "url"),
    "terminology_value_set": ("terminology", "value_set"),
    "terminology_use_key": ("terminology_use", "key url"),
    "concept_ancestor_descendant": ("concept_ancestor", "system descendant cs ancestor"),
}


def upgrade() -> None:
    op.create_table(
        "terminology",
        sa.Column("key", BIG, primary_key=True, autoincrement=False),
        required("size", INT),
        required("kind", SMALL),
        required("url", TEXT),
        required("version", TEXT),
        required("value_set", TEXT),
        required("code", TEXT),
        required("problem", TEXT),
        required("definition", BYTES),
    )
    for name, (columns, key) in TABLES.items():
        op.create_table(
            name,
            *[required(column, kind) for column, kind in columns.items()],
            sa.PrimaryKeyConstraint(*key.split(), name=f"{name}_pkey"),
            sqlite_with_rowid=False,
        )
    for name, (table, text) in INDEXES.items():
        op.create_index(name, table, text.split())


def downgrade() -> None:
    for table in ["terminology", *TABLES]:
        op.drop_table(table)


def required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)
