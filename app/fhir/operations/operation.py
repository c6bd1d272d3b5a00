"""An operation as data: where it may be called, what it takes, and what performs it.

https://hl7.org/fhir/R4/operations.html
https://hl7.org/fhir/R4/operationdefinition.html

Rule 1: what a client may send follows from the OperationDefinition that the server shows, so that
it cannot say what is not so. Rule 2: nothing in this package opens a transaction or writes a
version: an operation answers, or it says which writes are to be made, and `rest` makes them as it
makes any other.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from app.fhir.access import SYSTEM, Right
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.query import Hidden, Language
from app.fhir.reader import Reader
from app.fhir.store import Store
from app.fhir.validation import Validator
from app.fhir.values import parse_reference
from app.fhir.wire import Resource

Level = Literal["system", "type", "instance", "version"]
Labels = frozenset[tuple[str, str]]

ANY_TYPE = frozenset({"Resource", "DomainResource"})
# The address of a call, by level; `[type]` is each of the operation's own
ADDRESSES: Mapping[Level, str] = {
    "system": "$",
    "type": "[type]/$",
    "instance": "[type]/[id]/$",
    "version": "[type]/[id]/_history/[vid]/$",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation, and what it may use.

    `operation` is what is called, `given` are the values of its parameters by name; `hidden` says
    which search parameters its caller may not use; `kept` are the security labels and tags, as
    (system, code), that no client may take away.
    """

    operation: "Operation"
    asked: Interaction
    given: Mapping[str, Sequence[Any]]
    store: Store
    language: Language
    validator: Validator
    hidden: Hidden
    now: int
    new_id: Callable[[], str]
    kept: Labels = frozenset()

    def one(self, name: str) -> Any:
        """Return the value of a parameter that may be given once, None where it is not."""
        return next(iter(self.given.get(name, ())), None)

    def named(self, given: Resource, name: str, *types: str) -> str:
        """Return the relative reference in a Reference; a 422 for what is none of these types."""
        found = parse_reference(str(given.get("reference", "")), self.language.base_url)
        if found.type not in types or not found.id:
            text = f"{name} must be a reference to a {' or '.join(types)} of this server"
            raise refused("value", text, f"http.{name}", 422)
        return f"{found.type}/{found.id}"

    @property
    def reader(self) -> Reader:
        """Return a new reader of what the caller may see."""
        return Reader(self.store, self.language, self.now, self.hidden)

    @property
    def overview(self) -> Reader:
        """Return a new reader that sees everything: for what decides, never for what is said."""
        store = Store(self.store.connection, self.store.catalogue, SYSTEM)
        return Reader(store, self.language, self.now)


@dataclass(frozen=True, slots=True)
class Plan:
    """Writes to be made in one transaction, that of the call if it has one; then the answer.

    The answer is made by `answer`, or, where the operation has a `tell`, by that from what is
    `told`: references and such, as JSON, which is kept for calls that come again.
    """

    writes: Sequence[Interaction]
    answer: Callable[[Store], Awaitable[Reply]] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """A write that is made and undone; `answer` gets what was found wrong, or worth a warning."""

    write: Interaction
    answer: Callable[[Sequence[Issue]], Reply]


Perform = Callable[[Call], Awaitable[Reply | Plan | Trial]]
# The answer to a call, from what its Plan told and what was found worth a warning. It reads what
# it says through the store of whoever asks, so that it may be made again later, for another call
Tell = Callable[[Call, Mapping[str, Any], Sequence[Issue]], Awaitable[Reply]]


@dataclass(frozen=True)
class Operation:
    """One operation: its OperationDefinition, and what performs it.

    With `writes` it runs in a transaction, else in one snapshot; a `long` one reads hundreds of
    resources. `on_versions` says that it may be called on a version as well; `criteria` that it
    takes the search parameters of its type beside its own; `paged` that its answers have pages;
    `right` names one that not every caller has. `needs` are the rights for the type of the call, by
    its level; any one where nothing is said.
    """

    definition: Resource
    perform: Perform
    writes: bool = False
    long: bool = False
    on_versions: bool = False
    criteria: bool = False
    paged: bool = False
    right: str = ""
    tell: Tell | None = None
    needs: Mapping[Level, tuple[Right, ...]] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """Return its name, without the $."""
        return str(self.definition["code"])

    @property
    def affects_state(self) -> bool:
        """Return whether a call changes anything, so that a GET must not make it."""
        return bool(self.definition["affectsState"])

    @cached_property
    def inputs(self) -> Mapping[str, Resource]:
        """Return what its definition says of each parameter that it takes, by name."""
        parameters = self.definition.get("parameter", ())
        return {p["name"]: p for p in parameters if p["use"] == "in"}

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Return where it may be called."""
        said: dict[Level, bool] = {
            "system": self.definition["system"],
            "type": self.definition["type"],
            "instance": self.definition["instance"],
            "version": self.on_versions,
        }
        return tuple(level for level, there in said.items() if there)

    def of(self, type: str) -> bool:
        """Return whether it is one of a type."""
        types = self.definition.get("resource", ())
        return type in types or not ANY_TYPE.isdisjoint(types)

    def addresses(self) -> Iterator[tuple[Level, str]]:
        """Yield where it may be called: the level, and the address as http.html writes it."""
        types = self.definition.get("resource", ())
        shown = ["[type]"] if not ANY_TYPE.isdisjoint(types) else types
        for level in self.levels:
            for type in shown if level != "system" else [""]:
                yield level, ADDRESSES[level].replace("[type]", type) + self.code


@dataclass(frozen=True)
class Operations:
    """The operations of a server; `kept` are the labels that no client may take away."""

    rows: tuple[Operation, ...]
    kept: Labels = field(default=frozenset())

    def called(self, asked: Interaction) -> Operation:
        """Return the operation that is called.

        Raises a 404 where there is none of that name, or not there, and a 405 for a GET of one
        that changes something (operations.html#invocation).
        """
        named = [operation for operation in self.rows if operation.code == asked.operation]
        where = level(asked)
        for operation in named:
            if where in operation.levels and (not asked.type or operation.of(asked.type)):
                break
        else:
            places = ", ".join(place for one in named for _, place in one.addresses())
            text = f"There is no operation ${asked.operation[:64]} here"
            raise refused("not-found", f"{text}; it is at {places}" if named else text)
        if asked.method == "GET" and operation.affects_state:
            text = f"${operation.code} changes the record; POST it"
            raise FhirError([Issue("error", "not-supported", text)], 405, {"Allow": "POST"})
        return operation

    def at(self, level: Level, type: str = "") -> list[Operation]:
        """Return the operations that may be called at a level, of a type where it is not system."""
        return [
            operation
            for operation in self.rows
            if level in operation.levels and (not type or operation.of(type))
        ]

    @cached_property
    def definitions(self) -> Mapping[tuple[str, str], Resource]:
        """Return the OperationDefinitions by type and id."""
        found = (operation.definition for operation in self.rows)
        return {(one["resourceType"], one["id"]): one for one in found}


def level(asked: Interaction) -> Level:
    """Return at which level an operation is called."""
    if asked.version:
        return "version"
    if asked.id:
        return "instance"
    return "type" if asked.type else "system"
