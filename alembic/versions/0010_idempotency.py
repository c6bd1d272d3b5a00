"""Which calls were made with which Idempotency-Key, and what they told.

Revision 0010, after 0009, 2026-11-22.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
    created = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "idempotency",
        sa.Column("name", sa.LargeBinary(), primary_key=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("told", text, nullable=False),
        sa.Column("created", created, nullable=False),
        sa.Index("idempotency_created", "created"),
    )


def downgrade() -> None:
    op.drop_table("idempotency")
