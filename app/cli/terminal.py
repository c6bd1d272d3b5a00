"""What every command shares: where it prints, how it shows progress, and its settings."""

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from app import private
from app.config import Settings

out = Console()
err = Console(stderr=True)
WIDE = 10_000  # characters, more than any row has

PROGRESS = (
    TextColumn("{task.description}"),
    BarColumn(),
    TaskProgressColumn(),
    TimeRemainingColumn(),
)


def show(table: Table) -> None:
    """Print a table; where nobody looks at a terminal, each row on a line of its own, and whole."""
    place = out if out.is_terminal else Console(file=out.file, width=WIDE)
    place.print(table)


def settings_or_exit() -> Settings:
    """Return the settings; say which are wrong, or what others may open, and stop if need be."""
    try:
        settings = Settings()
        private.check(settings.database_url, settings.tls_certificate)
        return settings
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["MILEPOST", *(str(part) for part in problem["loc"])]).upper()
            text = problem["msg"].removeprefix("Value error, ")
            err.print(f"[red]{name}[/red]: {escape(text)}", soft_wrap=True)
        raise typer.Exit(2) from None
    except private.Exposed as error:
        err.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        raise typer.Exit(1) from None
