"""A copy of an SQLite file while others write to it.

https://www.sqlite.org/backup.html
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

PAGES = 4096  # 16 MiB between two looks at how far it is
MANY = 1_000_000_000  # findings of a check
MISTAKEN = "NULL value in "  # as SQLite 3.40 takes columns of tables WITHOUT ROWID to be

DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Damaged(Exception):
    """SQLite finds the copy inconsistent, so the file that was copied is."""

    def __init__(self) -> None:
        super().__init__("SQLite finds the copy damaged, and so the database")


def back_up(source: str, copy: Path, progress: Callable[[int, int], None]) -> None:
    """Copy the database as it is at this moment into a new file that only its owner may read.

    `progress` is told how many pages are left, of how many. Raises FileExistsError, Damaged for a
    copy that is not whole, and OSError where there is no room, say. Whatever goes wrong, no copy is
    left.
    """
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as before,
            closing(sqlite3.connect(copy)) as after,
        ):
            # One snapshot from beginning to end: without it every commit of another process would
            # make the copy begin again
            before.execute("BEGIN")
            before.execute("SELECT count(*) FROM sqlite_master").fetchone()
            before.backup(after, pages=PAGES, progress=lambda _, left, total: progress(left, total))
            found = after.execute(f"PRAGMA integrity_check({MANY})")
            if any(text != "ok" and not text.startswith(MISTAKEN) for (text,) in found):
                raise Damaged
    except BaseException as error:
        remove(copy)
        if not isinstance(error, sqlite3.DatabaseError):
            raise
        if error.sqlite_errorcode & 0xFF in DAMAGE:
            raise Damaged from error
        raise OSError(str(error)) from error


def remove(copy: Path) -> None:
    """Remove a database file, and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def keep(copy: Path, file: Path) -> None:
    """Give a copy its name, durably; raises FileExistsError rather than replace another file."""
    if file.exists():
        raise FileExistsError(file)
    copy.rename(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
