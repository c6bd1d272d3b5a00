"""The command `milepost`: each command a few lines over `app.main`."""

from collections.abc import Callable, Mapping

import typer

from app import db
from app.cli import (
    auditing,
    clients,
    keys,
    loading,
    maintaining,
    seeding,
    serving,
    tokens,
    users,
)
from app.cli.terminal import err
from app.logs import fault

app = typer.Typer(
    help="Milepost: a FHIR R4 server for intensive outpatient programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    serving.serve,
    serving.migrate,
    loading.load,
    seeding.seed,
    maintaining.reindex,
    maintaining.fsck,
    maintaining.backup,
    tokens.token,
):
    app.command()(command)

GROUPS: Mapping[str, tuple[str, Mapping[str, Callable[..., None]]]] = {
    "user": (
        "People who can sign in.",
        {
            "add": users.add,
            "list": users.list_all,
            "disable": users.disable,
            "password": users.password,
        },
    ),
    "client": (
        "Applications that people, or the system, let in.",
        {"add": clients.add, "list": clients.list_all, "revoke": clients.revoke},
    ),
    "keys": (
        "Keys that id tokens are signed with.",
        {"rotate": keys.rotate, "list": keys.list_all},
    ),
    "audit": ("The record of who did what.", {"verify": auditing.check}),
}
for group, (about, members) in GROUPS.items():
    under = typer.Typer(help=about, no_args_is_help=True)
    for name, member in members.items():
        under.command(name)(member)
    app.add_typer(under, name=group)


def main() -> None:
    """Run the command line; a database that cannot be used is a sentence, without its own words."""
    try:
        app()
    except db.FAILURES as error:
        err.print(f"[red]The database failed[/red]: {fault(getattr(error, 'orig', None) or error)}")
        err.print("Is it running, and is MILEPOST_DATABASE_URL its address?")
        raise SystemExit(1) from None
