"""What of a resource is answered: its summary, the elements asked for, what a mask leaves.

https://hl7.org/fhir/R4/search.html#summary
https://hl7.org/fhir/R4/search.html#elements

Theory of operation. A `Cut` says what goes from the JSON object of a type, and what goes inside the
children that stay; it is made from the definitions once and kept. `cut` applies it to stored bytes:
only objects that hold a name which is to go are taken apart, so that most of a resource is copied
as it is. A cut resource carries the tag SUBSETTED, also where nothing had to go: the tag says how
it was asked for and tells nothing about what is stored.

Rule 1: pure. Rule 2: what a mask takes away is gone wherever it could stand: under every type of a
choice, in nested items, in contained resources, and in the narrative, which may repeat anything.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from app.fhir.definitions import Definitions, Element, SearchParameter
from app.fhir.path import Binary, Call, Expression, Index, Member, TypeTest, Unary, Variable, parse
from app.fhir.wire import Buffer, encode, fields, items, join

Mode = Literal["true", "text", "data"]
Masks = Mapping[str, frozenset[str]]

MODES: Mapping[str, Mode] = {"true": "true", "text": "text", "data": "data"}
NO_MASKS: Masks = {}

SUBSETTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "SUBSETTED",
    "display": "subsetted",
}
TAG = encode(SUBSETTED)

# Stays in every subset: what a resource is, and what changes the meaning of the rest
ALWAYS = frozenset({"id", "meta", "implicitRules", "modifierExtension"})
# Never taken apart for a summary. R4 says nothing about resources in place (Bundle.entry); inside
# a signed Bundle a change would break the signature, so they stay as they are
WHOLE = frozenset({"Extension", "Meta", "Narrative", "Resource"})
# Read all of a resource, the narrative included (search.html#text, search.html#content)
FULL_TEXT = frozenset({"_text", "_content"})


@dataclass(slots=True, eq=False)
class Cut:
    """What goes from an object: properties that are `gone`, and the cuts `inside` others.

    A graph, with cycles where the definitions have them. `resources` has the cuts of a resource in
    place, by its type. `marks` are bytes of which at least one stands wherever there is something
    to cut; the cut of a whole resource has none when it always applies. An object of which nothing
    is left goes too, unless the cut `spares` it whole.
    """

    gone: set[str] = field(default_factory=set)
    inside: dict[str, "Cut"] = field(default_factory=dict)
    resources: dict[str, "Cut"] = field(default_factory=dict)
    marks: tuple[bytes, ...] = ()
    spares: bool = False

    def meets(self, raw: bytes) -> bool:
        """Return whether JSON holds something to cut."""
        return any(mark in raw for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Place:
    """An element as a search parameter or a mask names it.

    `type` is its datatype or backbone, `names` are JSON names from the resource down. `inside` are
    those that come before a child's name: where a backbone refers back to another, its own ones
    (ValueSet.compose.exclude has the children of ValueSet.compose.include).
    """

    type: str
    names: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def touches(self, other: "Place") -> bool:
        """Return whether one of the two places is, or is inside, the other."""
        return any(
            all(a == b for a, b in zip(mine, theirs, strict=False))
            for mine in (self.names, self.inside)
            for theirs in (other.names, other.inside)
        )


# ------------------------------------------------------------------------------------ cutting


def cut(raw: bytes, *cuts: Cut) -> bytes:
    """Return a compact resource after these cuts, tagged as SUBSETTED; without any, as it is."""
    cuts = tuple(each for each in cuts if not each.marks or each.meets(raw))
    if not cuts:
        return raw
    parts: dict[str, Buffer] = {**fields(raw)}
    for each in cuts:
        parts = _left(parts, each)
    parts["meta"] = _tagged(parts.get("meta", b"{}"))
    return join(parts)


def _left(parts: Mapping[str, Buffer], by: Cut) -> dict[str, Buffer]:
    """Return the properties that are left of an object."""
    kept: dict[str, Buffer] = {}
    for name, value in parts.items():
        if name in by.gone:
            continue
        inner = by.inside.get(name)
        left = value if inner is None else _value_left(bytes(value), inner)
        if left:
            kept[name] = left
    return kept


def _value_left(raw: bytes, by: Cut) -> bytes:
    """Return what is left of an object or of each object in an array; b"" for nothing."""
    if not by.meets(raw):
        return raw
    if raw.startswith(b"["):
        left = [part for item in items(raw) if (part := _value_left(item, by))]
        return b"[" + b",".join(left) + b"]" if left else b""
    if not raw.startswith(b"{"):
        return raw
    parts = fields(raw)
    if by.resources:
        found = by.resources.get(bytes(parts["resourceType"]).decode().strip('"'))
        return raw if found is None else cut(raw, found)
    kept = _left(parts, by)
    if not kept:
        return raw if by.spares else b""
    return join(kept)


def _tagged(meta: Buffer) -> bytes:
    """Return a Meta that has the tag SUBSETTED (search.html#summary)."""
    parts: dict[str, Buffer] = {**fields(bytes(meta))}
    tags = items(bytes(parts.get("tag", b"[]")))
    if not any(_is_tag(fields(tag)) for tag in tags):
        parts["tag"] = b"[" + b",".join([*tags, TAG]) + b"]"
    return join(parts)


def _is_tag(coding: Mapping[str, memoryview]) -> bool:
    named = {name: bytes(value) for name, value in coding.items()}
    return all(named.get(name) == encode(SUBSETTED[name]) for name in ("system", "code"))


# ------------------------------------------------------------------------------- making cuts


class Cutter:
    """Makes the cuts of resource types; owns those made so far."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.summaries: Mapping[str, Cut] = {}
        self.asked = lru_cache(512)(self._elements)
        self.masks = lru_cache(64)(self._masks)
        self.read = lru_cache(None)(self._places_read)

    def cuts(
        self, type: str, *, summary: str = "", elements: Iterable[str] = (), masks: Masks = NO_MASKS
    ) -> tuple[Cut, ...]:
        """Return all cuts of an answer's resources of a type: what the client asks, and the masks.

        `summary` is the value of `_summary` ("", false and count cut nothing), `elements` what
        `_elements` names. The result is empty where the resource is answered as it is stored.
        """
        mode = MODES.get(summary)
        names = frozenset(elements)
        cuts = (
            self.mask(type, masks),
            self.summary(type, mode) if mode else None,
            self.elements(type, names) if names else None,
        )
        return tuple(each for each in cuts if each is not None)

    def summary(self, type: str, mode: Mode) -> Cut:
        """Return the cut of `_summary=true`, `text` or `data` (search.html#summary).

        `true` leaves what the definition marks as summary, at every level. Mandatory elements stay
        even where it forgot to mark them (Provenance.agent), so that the answer is valid R4, and
        so does an element that holds nothing but an id or extensions. Contained resources and
        extensions are not marked and go; modifier extensions stay.
        """
        match mode:
            case "text":
                return self.asked(type, frozenset({"text"}))
            case "data":
                return Cut(gone={"text"})
        if type not in self.summaries:
            made = {**self.summaries}
            root = self._summary(type, made)
            _close(root)
            root.marks = ()
            self.summaries = made  # at once: another thread never sees an unfinished cut
        return self.summaries[type]

    def elements(self, type: str, names: Iterable[str]) -> Cut:
        """Return the cut of `_elements`: what is named and what is mandatory stays, whole.

        https://hl7.org/fhir/R4/search.html#elements
        """
        return self.asked(type, frozenset(names))

    def known(self, type: str, name: str) -> bool:
        """Return whether `_elements` of a search for `type` may name this; "" is any type.

        It may name `value`, `value[x]`, `valueQuantity` and `Observation.value`.
        """
        owner, dot, bare = name.rpartition(".")
        types = self.definitions.resource_types if not type else (type,)
        return any(
            True for t in types if not dot or owner == t for _ in self._below(Place(t), bare)
        )

    def mask(self, type: str, masks: Masks) -> Cut | None:
        """Return the cut of a policy's masks for a type, None where they take nothing from it.

        `masks` has element paths by type: "Patient.birthDate", "Observation.component.value[x]",
        "Observation.valueQuantity", "Patient.name.family". Resources in place are cut by the
        masks of their own type. ValueError for a path that names no element, or none that can go.
        """
        return self.masks(frozenset(masks.items())).get(type) if masks else None

    def masked(self, type: str, parameter: SearchParameter, masks: Masks) -> bool:
        """Return whether a search parameter of `type` reads an element that the masks take away.

        Reading a part of it, or the whole that holds it, counts as well.
        """
        if not masks.get(type):
            return False
        if parameter.code in FULL_TEXT:
            return True
        taken = [place for path in masks[type] for place in self._named(type, path)]
        read = self.read(type, parameter)
        return any(place.touches(other) for place in read for other in taken)

    # --- places

    def _forms(self, element: Element) -> Iterator[tuple[str, str]]:
        """Yield the JSON names of an element, each with its type: one, or those of a choice."""
        for type in element.types:
            yield element.name + (f"{type[0].upper()}{type[1:]}" if element.choice else ""), type

    def _below(self, place: Place, name: str) -> Iterator[Place]:
        """Yield the child elements with this name: of a choice all, or the one that is named."""
        structures = self.definitions.structures
        for element in structures[place.type].elements:
            whole = {element.name, f"{element.name}[x]"} if element.choice else {element.name}
            for json, type in self._forms(element):
                if name in whole or name == json:
                    names = (*place.inside, json)
                    head, *own = type.split(".")
                    refers = own and structures[head].kind == "resource"
                    yield Place(type, names, tuple(own) if refers else names)

    def _named(self, type: str, path: str) -> list[Place]:
        """Return the elements that a mask's path names."""
        head, *names = path.split(".")
        found = [Place(type)] if head == type else []
        for name in names:
            found = [c for place in found if self._open(place) for c in self._below(place, name)]
        if not found or not names or names == ["id"]:
            raise ValueError(f"a mask of {type} cannot take {path!r} away")
        return found

    def _open(self, place: Place) -> bool:
        """Return whether a mask can reach the children of an element."""
        resource = self.definitions.structures[place.type].kind == "resource"
        return not self._primitive(place.type) and not (resource and place.names)

    def _primitive(self, type: str) -> bool:
        return self.definitions.structures[type].kind == "primitive-type"

    # --- summaries and elements

    def _elements(self, type: str, names: frozenset[str]) -> Cut:
        kept = {name.removeprefix(f"{type}.").removesuffix("[x]") for name in names} | ALWAYS
        made = Cut()
        for element in self.definitions.structures[type].elements:
            if element.name not in kept and not element.min:
                for json, kind in self._forms(element):
                    if json not in kept:
                        self._drop(made, json, kind)
        return made

    def _drop(self, by: Cut, json: str, type: str) -> None:
        """Let an element go, with what json.html#primitive puts beside a primitive."""
        by.gone.add(json)
        if self._primitive(type):
            by.gone.add(f"_{json}")

    def _summary(self, name: str, made: dict[str, Cut]) -> Cut:
        """Return the cut of a structure, made with those of all that it holds."""
        if name in made:
            return made[name]
        cut = made[name] = Cut(spares=True)
        elements = self.definitions.structures[name].elements
        if not any(e.is_summary and e.name not in ALWAYS for e in elements):
            return cut  # nothing in it is marked: the mark on the element means all of it
        for element in elements:
            stays = element.is_summary or element.min or element.name == "modifierExtension"
            for json, type in self._forms(element):
                if not stays:
                    self._drop(cut, json, type)
                elif type not in WHOLE and not self._primitive(type):
                    cut.inside[json] = self._summary(type, made)
        return cut

    # --- masks

    def _masks(self, masks: frozenset[tuple[str, frozenset[str]]]) -> Mapping[str, Cut]:
        """Return the cut of every type that the masks take something from."""
        taken = {type: paths for type, paths in masks if paths}
        if unknown := taken.keys() - set(self.definitions.resource_types):
            raise ValueError(f"a mask names {sorted(unknown)}, which are no resource types")
        in_place = Cut(marks=tuple(f'"resourceType":"{type}"'.encode() for type in sorted(taken)))
        for type in self.definitions.resource_types:
            root = self._backbone(type, in_place, {})
            for path in taken.get(type, ()):
                for place in self._named(type, path):
                    self._drop(_at(root, place.names[:-1]), place.names[-1], place.type)
            _close(root)
            if root.marks:
                in_place.resources[type] = root
                root.gone.add("text")
        for type in taken:
            in_place.resources[type].marks = ()
        return in_place.resources

    def _backbone(self, name: str, in_place: Cut, made: dict[str, Cut]) -> Cut:
        """Return a cut that takes nothing yet, with those of the backbones and resources in it."""
        if name in made:
            return made[name]
        cut = made[name] = Cut()
        for element in self.definitions.structures[name].elements:
            for json, type in self._forms(element):
                kind = self.definitions.structures[type].kind
                if kind == "resource":
                    cut.inside[json] = in_place
                elif kind == "backbone":
                    cut.inside[json] = self._backbone(type, in_place, made)
        return cut

    # --- what a search parameter reads

    def _places_read(self, type: str, parameter: SearchParameter) -> frozenset[Place]:
        read: set[Place] = set()
        if not parameter.expression:
            return frozenset()
        found = self._resolve(parse(parameter.expression), [Place(type)], read)
        if parameter.components:
            found = [
                place
                for component in parameter.components
                for place in self._resolve(parse(component.expression), found, read)
            ]
        return frozenset(read.union(found))

    def _resolve(self, tree: Expression, focus: list[Place], read: set[Place]) -> list[Place]:
        """Return the elements that an expression yields; what it only looks at goes into `read`.

        Of a function that we know nothing about, the result counts as its source.
        """

        def inside(source: Expression | None) -> list[Place]:
            return focus if source is None else self._resolve(source, focus, read)

        match tree:
            case Member(None, name) if name[0].isupper() and name in self.definitions.structures:
                return [p for p in focus if self._is(p, name)]
            case Member(source, name):
                return [child for place in inside(source) for child in self._below(place, name)]
            case Binary("|", left, right):
                return inside(left) + inside(right)
            case TypeTest("as" | "ofType", source, named):
                return [place for place in inside(source) if self._is(place, named)]
            case TypeTest(_, source, _) | Index(source, _):
                return inside(source)
            case Call(source, name, arguments):
                found = inside(source)
                for argument in arguments:
                    read.update(self._resolve(argument, found, read))
                if name == "extension":
                    return [child for place in found for child in self._below(place, name)]
                return found
            case Binary(_, left, right):
                read.update(inside(left) + inside(right))
            case Unary(_, operand):
                read.update(inside(operand))
            case Variable():
                read.add(Place("Resource"))
        return []

    def _is(self, place: Place, named: str) -> bool:
        """Return whether a place is of a type; R4 writes some types with a wrong capital."""
        line = (place.type, *self.definitions.ancestors(place.type))
        return named.lower() in {name.lower() for name in line}


def _at(root: Cut, names: Iterable[str]) -> Cut:
    """Return the cut of an element inside, made where it was not there."""
    for name in names:
        root = root.inside.setdefault(name, Cut())
    return root


def _reach(root: Cut) -> list[Cut]:
    """Return a cut and all cuts inside it."""
    found = {root: None}
    left = [root]
    while left:
        inner = dict.fromkeys(cut for cut in left.pop().inside.values() if cut not in found)
        found |= inner
        left += inner
    return list(found)


def _close(root: Cut) -> None:
    """Set the marks of all cuts inside, and forget those with nothing to cut."""
    whole = _reach(root)
    for each in whole:
        reached = _reach(each)
        names = {f'"{name}":'.encode() for one in reached for name in one.gone}
        each.marks = tuple(sorted(names.union(*(one.marks for one in reached))))
    for each in whole:
        each.inside = {name: inner for name, inner in each.inside.items() if inner.marks}
