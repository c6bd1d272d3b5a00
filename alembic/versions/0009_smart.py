"""Who may ask, and who did what: accounts, clients, tokens, keys; the audit trail.

Revision 0009, after 0008, 2026-11-22.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
SEQUENCE = sa.Sequence("audit_seq")


TRAIL = ("audit", "audit_patient", "audit_seal")
REFUSAL = "a row of the audit trail stays as it is"
FUNCTION = f"""
    CREATE OR REPLACE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''{REFUSAL}''; END'
"""


def _column(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", TEXT, primary_key=True),
        _column("name", TEXT),
        _column("kind", TEXT),
        _column("roles", TEXT),
        _column("organization", TEXT),
        _column("fhir_user", TEXT),
        _column("password", TEXT),
        _column("once", sa.SmallInteger()),
        _column("state", sa.SmallInteger()),
        _column("created", BIG),
        _column("failures", sa.Integer()),
        _column("locked", BIG),
        sa.UniqueConstraint("name", name="account_name"),
    )
    op.create_table(
        "client",
        sa.Column("id", TEXT, primary_key=True),
        _column("name", TEXT),
        _column("kind", TEXT),
        _column("secret", sa.LargeBinary()),
        _column("jwks", TEXT),
        _column("jwks_uri", TEXT),
        _column("redirect_uris", TEXT),
        _column("grant_types", TEXT),
        _column("scope", TEXT),
        _column("launch_uri", TEXT),
        _column("logo_uri", TEXT),
        _column("state", sa.SmallInteger()),
        _column("created", BIG),
        sa.UniqueConstraint("name", name="client_name"),
    )
    op.create_table(
        "token",
        sa.Column("hash", sa.LargeBinary(), primary_key=True),
        _column("kind", TEXT),
        _column("family", TEXT),
        _column("client", TEXT),
        _column("account", TEXT),
        _column("scope", TEXT),
        _column("context", TEXT),
        _column("issued", BIG),
        _column("expires", BIG),
        _column("state", sa.SmallInteger()),
        sa.Index("token_family", "family"),
        sa.Index("token_expires", "expires"),
    )
    op.create_table(
        "signing_key",
        sa.Column("kid", TEXT, primary_key=True),
        _column("jwk", TEXT),
        _column("created", BIG),
        _column("retired", BIG),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.schema.CreateSequence(SEQUENCE))
    op.create_table(
        "audit",
        sa.Column("id", BIG, primary_key=True, autoincrement=False),
        _column("at", BIG),
        _column("xid", BIG),
        _column("seq", BIG),
        _column("agent", TEXT),
        _column("code", TEXT),
        _column("action", TEXT),
        _column("outcome", sa.SmallInteger()),
        _column("type", sa.SmallInteger()),
        _column("detail", TEXT),
        sa.Index("audit_agent", "agent", "id"),
        sa.Index("audit_feed", "xid", "seq"),
    )
    op.create_table(
        "audit_patient",
        _column("owner", BIG),
        _column("id", BIG),
        sa.PrimaryKeyConstraint("owner", "id", name="audit_patient_pkey"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_seal",
        sa.Column("n", BIG, primary_key=True, autoincrement=False),
        _column("audit_id", BIG),
        _column("hash", sa.LargeBinary()),
    )
    for table in TRAIL:
        protect(table)


def protect(table: str) -> None:
    """Make the database refuse to change or remove rows of a table."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(" ".join(FUNCTION.split()))
        op.execute(
            f"CREATE TRIGGER {table}_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit_stays()"
        )
        return
    for event in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{event} BEFORE {event.upper()} ON {table}"
            f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )


def downgrade() -> None:
    for table in reversed(TRAIL):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.schema.DropSequence(SEQUENCE))
        op.execute("DROP FUNCTION audit_stays()")
    for table in ("signing_key", "token", "client", "account"):
        op.drop_table(table)
