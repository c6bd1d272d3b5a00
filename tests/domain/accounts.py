"""Tokens of people who work in a program."""

from app import db
from app.api import grants
from app.config import Settings
from tests.support.tokens import CLIENT, SINCE, UNTIL


async def signed_in(
    settings: Settings, practitioner: str, scope: str = "user/*.cruds"
) -> dict[str, str]:
    """Return the header with a token of a Practitioner ("di1"), who gets an account for it."""
    secret = grants.new_secret()
    database = db.connect(settings.database_url, 30, 1)
    await database.open()
    try:
        account = await grants.add_account(
            database,
            id=practitioner,
            name=practitioner,
            kind="workforce",
            fhir_user=f"Practitioner/{practitioner}",
            password="long-enough-for-a-test",
            once=False,
            now=SINCE,
        )
        await grants.issue(
            database,
            kind="access",
            secret=secret,
            family=secret[:8],
            client=CLIENT,
            account=account.id,
            scope=scope,
            now=SINCE,
            seconds=(UNTIL - SINCE) // 1_000_000,
        )
    finally:
        await database.close()
    return {"Authorization": f"Bearer {secret}"}
