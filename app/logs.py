"""What the server tells whoever runs it: one line for each thing, and nothing of what is stored.

Rule 1: a line names routes, never addresses that somebody asked for: ids and queries are clinical.
Rule 2: the text of an exception is never written, because a database quotes rows in it. Of an
exception there are its class, its code and its constraint (`fault`), and where it was raised.
"""

import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Literal

import msgspec

Form = Literal["json", "text"]
Told = dict[str, str | int | float]

OWN = "told"  # the attribute of a record that holds fields of its own


def fault(error: BaseException) -> str:
    """Return what may be told of an error: its class, and the database's code and constraint.

    SQLite tells a constraint in the text alone, as the names of its columns.
    """
    code = getattr(error, "sqlstate", "") or getattr(error, "sqlite_errorname", "")
    constraint = getattr(error, "constraint_name", "")
    if str(code).startswith("SQLITE_CONSTRAINT"):
        constraint = str(error).partition("constraint failed: ")[2]
    return " ".join(str(part) for part in (type(error).__name__, code, constraint) if part)


def trace(error: BaseException | None, frames: TracebackType | None) -> str:
    """Return where an error was raised, and what it is, without its text."""
    told = "".join(traceback.format_tb(frames))
    return told + (fault(error) if error is not None else "")


class Lines(logging.Formatter):
    """A record as one line: a JSON object, or text for people."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        told: Told = {"message": record.getMessage(), **getattr(record, OWN, {})}
        if record.exc_info:
            told["trace"] = trace(record.exc_info[1], record.exc_info[2])
        return line(self.form, record.created, record.levelname, record.name, told)


def line(form: Form, seconds: float, level: str, logger: str, told: Told) -> str:
    """Return what is told, with a message, as one line."""
    time = f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"
    if form == "json":
        told = {"time": time, "level": level.lower(), "logger": logger, **told}
        return msgspec.json.encode(told).decode()
    rest = "".join(f" {name}={value}" for name, value in told.items() if name != "message")
    return f"{time} {level.lower()} {logger}: {told['message']}{rest}"


@lru_cache(8)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def configure(level: str, form: Form) -> None:
    """Make every logger of this process write such lines to standard error, from a level upward."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("authlib").setLevel(logging.INFO)  # below it writes tokens


Access = Callable[[float, Told], None]


def access_log(form: Form, level: str) -> Access | None:
    """Return what writes a line for each request, given its time; None where nobody wants them.

    It goes around `logging`, whose records cost more than a tenth of a read.
    """
    if logging.getLevelName(level.upper()) > logging.INFO:
        return None
    write = sys.stderr.write

    def told(seconds: float, about: Told) -> None:
        text = line(form, seconds, "INFO", "milepost.access", {"message": "request", **about})
        with suppress(OSError):  # as `logging` does: requests are answered though nobody listens
            write(text + "\n")

    return told
