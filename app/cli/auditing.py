"""The command `audit verify`: whether the record of who did what was touched."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from app.cli.engine import stop, with_engine
from app.cli.terminal import PROGRESS, err, out
from app.fhir.audit import Report, verify
from app.fhir.rest import Server


def check(
    known: Annotated[
        str, typer.Option(help="Last seal of before, as NUMBER:HASH: it has to be there still")
    ] = "",
) -> None:
    """Prove that no sealed row of the audit trail was changed; names the first that was."""

    async def work(server: Server) -> Report:
        report = Report(0, 0, 0, "")
        with Progress(*PROGRESS, console=err) as progress:
            task = progress.add_task("Verifying", total=None)
            async for report in verify(server.database, known):
                progress.update(task, total=report.sealed, completed=report.checked)
        return report

    report = with_engine(work)
    if report.broken:
        out.print(f"{report.checked:,} rows are as they were; then: {escape(report.broken)}.")
        stop("The audit trail was touched.", 1)
    out.print(f"{report.checked:,} rows are as they were; {report.waiting:,} wait for a seal.")
    if report.last:
        out.print(f"The last seal: {report.last}", highlight=False, soft_wrap=True)
