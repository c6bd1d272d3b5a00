"""Files that nobody but their owner may open: the SQLite database, and the private key of TLS.

Whoever can read the file of a database has what every access right keeps, and beside it the keys
that tokens are signed with. So the files are made for their owner alone, and nothing is done with
one that somebody else was let into. PostgreSQL keeps its files itself.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SQLITE = "sqlite:///"
OTHERS = 0o077  # the rights of the group, and of all others
BESIDE = ("", "-wal", "-shm", "-journal")  # the database, and what SQLite keeps beside it


class Exposed(Exception):
    """Somebody else may open what is private; the text says what, and what to run."""


class Private(NamedTuple):
    """What is private: what it is, where, and the rights that it should have."""

    what: str
    place: Path
    mode: int


def privates(database_url: str, tls_certificate: str) -> Iterator[Private]:
    """Yield what is private of these settings, whether it is there or not; none of PostgreSQL.

    Of the folders the one that holds the database counts, wherever a link to it may lie.
    """
    if database_url.startswith(SQLITE):
        file = Path(database_url.removeprefix(SQLITE)).resolve()
        yield Private("folder of the database", file.parent, 0o700)
        for suffix in BESIDE:
            yield Private("database", file.with_name(file.name + suffix), 0o600)
    if tls_certificate:
        yield Private("private key", Path(tls_certificate).resolve(), 0o600)


def check(database_url: str, tls_certificate: str = "") -> None:
    """Raise Exposed where others may open what is private of these settings."""
    for what, place, mode in privates(database_url, tls_certificate):
        if place.exists() and place.stat().st_mode & OTHERS:
            raise Exposed(
                f"Others may open the {what}, {place}: nobody but its owner should."
                f" Run: chmod {mode:o} {place}"
            )


def make(file: Path) -> None:
    """Make a file without content, and its folder, for their owner alone; keep what is there.

    Folders above that are not made: an address with a slip in it should be an error.
    """
    file.parent.mkdir(mode=0o700, exist_ok=True)
    # One that is there is not opened: to close it would end the locks that this process has on it
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
