"""What a server should answer: the interactions of http.html over a few values in memory.

A resource is what of it can be asked for: the code that criteria find it by, a gender, a family
name. A write with criteria is resolved to plain writes first, as the specification words it; a
transaction is its writes one after the other, all or none.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

Method = Literal["POST", "PUT", "PATCH", "DELETE"]
ORDER: Sequence[Method] = ("DELETE", "POST", "PUT", "PATCH")


class Identity(NamedTuple):
    """A resource: its type and its id."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


class Content(NamedTuple):
    """What a resource says."""

    code: str
    gender: str
    family: str


class Patch(NamedTuple):
    """A patch that sets the gender; where it `expects` another family, it fails."""

    gender: str
    expects: str = ""
    fhirpath: bool = False


@dataclass(frozen=True)
class Write:
    """One request that writes: to an id, or (`code`) to what has that code; creates may have one.

    `if_match` is the version that has to be the current one, 0 for any.
    """

    method: Method
    type: str
    id: str = ""
    code: str = ""
    content: Content | None = None
    patch: Patch | None = None
    if_match: int = 0
    if_none_match: bool = False

    @property
    def identity(self) -> Identity:
        """What the write is about, once its criteria are resolved."""
        return Identity(self.type, self.id)


@dataclass(frozen=True)
class Told:
    """The answer to a write: the status, and the version (0: none) of what it is about.

    A deletion does not say what it was about.
    """

    status: int
    identity: Identity | None = None
    version: int = 0


class Refused(Exception):
    """A write is refused with this status."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass
class Model:
    """All versions of all resources, None for a deletion; and in which order they were written."""

    versions: dict[Identity, list[Content | None]] = field(default_factory=dict)
    log: list[tuple[Identity, int]] = field(default_factory=list)

    def current(self, identity: Identity) -> Content | None:
        """Return what a resource says now, None where there is none."""
        return self.versions.get(identity, [None])[-1]

    def version(self, identity: Identity) -> int:
        """Return the newest version of a resource, a deletion counted."""
        return len(self.versions.get(identity, ()))

    def found(self, type: str, code: str) -> list[Identity]:
        """Return what has a code."""
        return sorted(
            identity
            for identity, versions in self.versions.items()
            if identity.type == type and versions[-1] is not None and versions[-1].code == code
        )

    def deleted(self, identity: Identity) -> bool:
        """Return whether a resource was there and is no more."""
        return bool(self.version(identity)) and self.current(identity) is None

    # --- writes ----------------------------------------------------------------------------------

    def alone(self, write: Write, new_id: str) -> Told:
        """Return the answer to one write; what it creates has `new_id`."""
        try:
            plain = self.resolved(write, new_id)
            return self.plain(plain) if isinstance(plain, Write) else plain
        except Refused as refused:
            return Told(refused.status)

    def together(self, writes: Sequence[Write], new_ids: Sequence[str]) -> list[Told] | None:
        """Return the answers to a transaction; None if it is refused, and nothing was written."""
        trial = deepcopy(self)
        try:
            answers = trial.all_of(writes, new_ids)
        except Refused:
            return None
        self.versions, self.log = trial.versions, trial.log
        return answers

    def all_of(self, writes: Sequence[Write], new_ids: Sequence[str]) -> list[Told]:
        """Return the answers to some writes, which are about as many resources."""
        criteria: dict[tuple[str, str], int] = {}
        answers: dict[int, Told] = {}
        twins: dict[int, int] = {}
        plain: dict[int, Write] = {}
        for n, (write, new_id) in enumerate(zip(writes, new_ids, strict=True)):
            if write.code:
                first = criteria.setdefault((write.type, write.code), n)
                if first != n and {write.method, writes[first].method} != {"POST"}:
                    raise Refused(400)
                if first != n:
                    twins[n] = first
                    continue
            resolved = self.resolved(write, new_id)
            if isinstance(resolved, Told):
                answers[n] = resolved
            else:
                plain[n] = resolved
        about = [write.identity for write in plain.values()]
        about += [told.identity for told in answers.values() if told.identity]
        if len(set(about)) < len(about):
            raise Refused(400)
        for n, write in sorted(plain.items(), key=lambda item: ORDER.index(item[1].method)):
            answers[n] = self.plain(write)
        answers |= {n: replace(answers[first], status=200) for n, first in twins.items()}
        return [answers[n] for n in range(len(writes))]

    def resolved(self, write: Write, new_id: str) -> Write | Told:
        """Return the write of one resource that a write comes to, or its answer if it writes none.

        http.html#ccreate, #cond-update, #delete, #patch
        """
        if write.method == "POST" and not write.code:
            return replace(write, id=new_id)
        if not write.code:
            return write
        found = self.found(write.type, write.code)
        if len(found) > 1:
            raise Refused(412)
        if write.method == "POST":
            if found:
                return Told(200, found[0], self.version(found[0]))
            return replace(write, id=new_id)
        if found:
            if write.method == "PUT" and write.id not in ("", found[0].id):
                raise Refused(400)
            return replace(write, id=found[0].id)
        if write.if_match:
            raise Refused(412)
        if write.method == "DELETE":
            return Told(204)
        if write.method == "PATCH":
            raise Refused(404)
        if write.id:
            return replace(write, if_none_match=True)
        return replace(write, method="POST", id=new_id)

    def plain(self, write: Write) -> Told:
        """Return the answer to a write that names its resource."""
        identity = write.identity
        current = self.current(identity)
        there = current is not None
        if write.method == "PATCH" and not there:
            raise Refused(410 if self.deleted(identity) else 404)
        if there and write.if_none_match:
            raise Refused(412)
        if write.if_match and not (there and write.if_match == self.version(identity)):
            raise Refused(412)
        if write.method == "DELETE":
            told = self.written(identity, None, 204) if there else Told(204)
            return replace(told, identity=None)
        content = write.content
        if write.patch is not None and current is not None:
            if write.patch.expects not in ("", current.family):
                raise Refused(422)
            content = current._replace(gender=write.patch.gender)
        if there and content == current:
            return Told(200, identity, self.version(identity))
        return self.written(identity, content, 200 if there else 201)

    def written(self, identity: Identity, content: Content | None, status: int) -> Told:
        """Add a version."""
        self.versions.setdefault(identity, []).append(content)
        self.log.append((identity, self.version(identity)))
        return Told(status, identity, self.version(identity))


Sent = tuple[Write, ...]
Answers = list[Told] | None


def orders(
    model: Model, one: Sequence[tuple[Sent, Answers]], other: Sequence[tuple[Sent, Answers]]
) -> Iterator[Model]:
    """Yield what the model is after each order of two clients' requests that explains the answers.

    A request of several writes is a transaction; answers are what each client was told.
    """
    if not one and not other:
        yield model
    for mine, theirs in ((one, other), (other, one)):
        if not mine:
            continue
        (sent, told), rest = mine[0], mine[1:]
        trial = deepcopy(model)
        if answered(trial, sent, told) == told:
            yield from orders(trial, rest, theirs)


def answered(model: Model, sent: Sent, told: Answers) -> Answers:
    """Return the model's answers to a request; what it creates has the ids that were told."""
    ids = [answer.identity.id if answer.identity else "" for answer in told or ()]
    ids = ids or [""] * len(sent)
    if len(sent) > 1:
        return model.together(sent, ids)
    return [model.alone(sent[0], ids[0])]
