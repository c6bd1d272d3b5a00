"""Answers that are fetched later: `Prefer: respond-async`.

Revision 0006, after 0005, 2026-11-22.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "deferred",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("caller", TEXT, nullable=False),
        sa.Column("ordered", BIG, nullable=False),
        sa.Column("until", BIG, nullable=False),
        sa.Column("done", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("deferred")
