"""Jobs, and the version of the definitions by which the index is written.

Revision 0004, after 0003, 2026-11-22.

What is in the index when this runs was written by the first extractor; an empty index is that of
any extractor, which the server notes when it starts.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT = sa.Integer()
TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "definitions_version",
        sa.Column("number", BIG, primary_key=True, autoincrement=False),
        required("extractor", INT),
    )
    op.execute("INSERT INTO definitions_version (number, extractor) VALUES (1, 1)")
    op.create_table(
        "job",
        sa.Column("name", TEXT, primary_key=True),
        required("about", TEXT),
        required("ordered", BIG),
        required("place", BIG),
        required("last", BIG),
        required("done", BIG),
        required("total", BIG),
        required("holder", TEXT),
        required("until", BIG),
    )


def downgrade() -> None:
    op.drop_table("job")
    op.drop_table("definitions_version")


def required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)
