"""An index that says where a history since some moment begins.

Revision 0007, after 0006, 2026-11-22.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("resource_version_updated", "resource_version", ["updated", "seq"])


def downgrade() -> None:
    op.drop_index("resource_version_updated", "resource_version")
