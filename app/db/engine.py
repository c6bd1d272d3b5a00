"""What both engines offer: where work runs, and how it fails."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from app.db.statements import Change, Dialect, Row, Statement

T = TypeVar("T")


class Unavailable(Exception):
    """The database cannot take the work now: busy, out of connections, or gone."""


class TooSlow(Exception):
    """A search, a read or a transaction ran into its time limit: nothing of it was written."""


class Outdated(Exception):
    """The definitions have changed since the rows of a change were made: nothing was written."""


@dataclass(slots=True)
class Meter:
    """What connections have done so far: statements, and seconds in them. One thread adds."""

    statements: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a database has done since it was opened, and what it is doing now.

    `records` and `searches` are under way or wait, each of them for one of so many places: of
    PostgreSQL the connections, of SQLite the one writer and the reader threads.
    """

    done: Meter
    records: int
    searches: int
    record_places: int
    search_places: int


class Connection(Protocol):
    """Where statements run: inside one read, one snapshot or one transaction."""

    async def rows(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Row]:
        """Return the rows of a statement in its order."""

    async def snapshot(self) -> None:
        """Make all statements of a search see the same data; one statement needs no snapshot."""

    async def begin(self) -> None:
        """Make what follows, and what is locked, part of one transaction."""

    async def change(
        self, changes: Sequence[Change], *, final: bool = False, version: int | None = None
    ) -> None:
        """Apply the changes, all or none, one statement a table.

        Where they are the `final` statement of the work, and nothing before began a transaction,
        they need none of their own. Raises Outdated if `version` is given and is not that of the
        definitions; what was changed under a version is committed before the next one begins.
        """

    async def add(self, changes: Sequence[Change]) -> None:
        """Add rows that every transaction may need and none minds to find: they stay in any case.

        Two transactions that add the same row never wait for each other.
        """

    async def keys(self, count: int) -> list[int]:
        """Return `count` fresh resource keys in ascending order."""

    async def systems(self, uris: Iterable[str]) -> Mapping[str, int]:
        """Return the number of each system, giving new ones a number."""

    async def known_systems(self, uris: Iterable[str]) -> Mapping[str, int]:
        """Return the number of each system that has one."""

    async def exclusive(self, names: Iterable[str]) -> None:
        """Wait until no other transaction holds any of these names; hold them until the end."""

    async def claim(self, name: str) -> bool:
        """Return whether no other transaction holds this name, which is then held until the end."""


Work = Callable[[Connection], Coroutine[Any, Any, T]]


class Database(Protocol):
    """One of the two engines."""

    dialect: Dialect

    async def revision(self) -> str:
        """Return the migration revision of the schema, "" where there is none; needs no `open`."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Finish what runs and disconnect."""

    async def read(self, work: Work[T]) -> T:
        """Return the result of a few cheap statements; raise TooSlow past the limit."""

    async def search(self, work: Work[T], *, long: bool = False) -> T:
        """Return the result of statements that see one snapshot; raise TooSlow past the limit.

        `long` work is known to need many statements.
        """

    async def write(self, work: Work[T]) -> T:
        """Return the result of `work`, committed as one transaction; on any error nothing stays.

        Raises TooSlow past the limit, but never once the commit has begun: what was committed is
        answered. `work` may run again from its start when PostgreSQL finds a deadlock.
        """

    async def limit(self, seconds: float) -> None:
        """Give each read and each transaction from now on so much time; before, it has any."""

    def load(self) -> Load:
        """Return what is under way, and what was done so far."""
