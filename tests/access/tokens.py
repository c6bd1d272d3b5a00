"""Tokens of somebody in particular, in the database of a test."""

from app import db
from app.api import grants
from app.config import Settings
from tests.support.tokens import CLIENT, SINCE, UNTIL


async def authorized(settings: Settings, scope: str, patient: str = "") -> dict[str, str]:
    """Return the header with a new token of these scopes, and of that patient (`Patient/1`)."""
    secret = grants.new_secret()
    database = db.connect(settings.database_url, 30, 1)
    await database.open()
    try:
        await grants.issue(
            database,
            kind="access",
            secret=secret,
            family=secret[:8],
            client=CLIENT,
            scope=scope,
            context={"patient": patient} if patient else {},
            now=SINCE,
            seconds=(UNTIL - SINCE) // 1_000_000,
        )
    finally:
        await database.close()
    return {"Authorization": f"Bearer {secret}"}
