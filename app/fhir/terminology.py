"""Terminology: which codes a value set holds, and which codes stand above a code.

https://hl7.org/fhir/R4/valueset.html#compositions
https://hl7.org/fhir/R4/codesystem.html

Rule 1: pure. Whoever asks brings the definitions that an answer may need (`Library`).
Rule 2: exact or not at all. What cannot be known raises `Unexpandable` with the reason; nothing
is left out in silence.

A ValueSet or CodeSystem is reduced to a `Definition`, which holds what expansion reads and no
texts for people. A code is compared in the form in which the search index holds it
(`values.stored_code`), so members can be joined with index rows as they are.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from app.fhir.values import split_canonical, stored_code
from app.fhir.wire import Resource

MOST_MEMBERS = 100_000
MOST_PAIRS = 500_000
MOST_STEPS = 20_000_000

Member = tuple[str, str]  # system, code as stored


class Unexpandable(Exception):
    """A value set or a hierarchy cannot be known: an issue code, and why, to follow a `because`."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(text)


class Concept(msgspec.Struct, array_like=True, frozen=True):
    """A code, the codes directly above it, and its other properties as texts."""

    code: str
    parents: tuple[str, ...]
    properties: Mapping[str, tuple[str, ...]]


class CodeSystem(msgspec.Struct, tag=True, frozen=True, omit_defaults=True):
    """What expansion reads of a CodeSystem.

    `value_set` is the URL of the implicit value set of all its codes; `subsumes` says that
    "above" means is-a in it; `properties` are those that it declares.
    """

    url: str
    version: str
    content: str
    value_set: str
    subsumes: bool
    properties: tuple[str, ...]
    concepts: tuple[Concept, ...]


class Filter(msgspec.Struct, array_like=True, frozen=True):
    """A criterion on concepts: https://hl7.org/fhir/R4/valueset-filter-operator.html."""

    property: str
    op: str
    value: str


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One include or exclude; no codes and no filters: all codes of the system."""

    system: str = ""
    version: str = ""
    codes: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    value_sets: tuple[str, ...] = ()


class ValueSet(msgspec.Struct, tag=True, frozen=True, omit_defaults=True):
    """What expansion reads of a ValueSet; `expansion` is None unless it is there and complete."""

    url: str
    version: str
    locked: bool = False
    active_only: bool = False
    include: tuple[Part, ...] = ()
    exclude: tuple[Part, ...] = ()
    expansion: tuple[Member, ...] | None = None

    @property
    def value_set(self) -> str:
        """Return the URL of the value set, as a CodeSystem has it for its implicit one."""
        return self.url


Definition = CodeSystem | ValueSet

write = msgspec.msgpack.Encoder().encode
_DECODER: msgspec.msgpack.Decoder[Definition] = msgspec.msgpack.Decoder(Definition)
read = _DECODER.decode


# --- from resources ----------------------------------------------------------------------------
# A required element may be there as an extension alone, so that its value is missing.


def definition(resource: Resource) -> Definition:
    """Return what expansion reads of a valid ValueSet or CodeSystem."""
    return READERS[resource["resourceType"]](resource)


def _value_set(resource: Resource) -> ValueSet:
    compose = resource.get("compose", {})
    return ValueSet(
        url=resource.get("url", ""),
        version=resource.get("version", ""),
        locked="lockedDate" in compose,
        active_only=compose.get("inactive") is False,
        include=tuple(_part(part) for part in compose.get("include", ())),
        exclude=tuple(_part(part) for part in compose.get("exclude", ())),
        expansion=_expansion(resource.get("expansion")),
    )


def _part(part: Resource) -> Part:
    return Part(
        system=part.get("system", ""),
        version=part.get("version", ""),
        codes=tuple(concept.get("code", "") for concept in part.get("concept", ())),
        filters=tuple(
            Filter(f.get("property", ""), f.get("op", ""), f.get("value", ""))
            for f in part.get("filter", ())
        ),
        value_sets=tuple(url or "" for url in part.get("valueSet", ())),
    )


# Extensions of ValueSet.expansion that say that codes are missing
INCOMPLETE = (
    "http://hl7.org/fhir/StructureDefinition/valueset-toocostly",
    "http://hl7.org/fhir/StructureDefinition/valueset-unclosed",
)
# Parameters of an expansion that hold only with one value: others leave codes out
WHOLE = {"filter": "", "limitedExpansion": "false", "activeOnly": "false", "offset": "0"}


def _expansion(expansion: Resource | None) -> tuple[Member, ...] | None:
    """Return the codes of an expansion; None where there is none, or only a part of one.

    Codes for navigation (`abstract`) count: the flag is not meant to hide them from searches.
    """
    if expansion is None:
        return None
    found = list(_contained(expansion.get("contains", ())))
    given = {p.get("name", ""): _text(p) for p in expansion.get("parameter", ())}
    cut = any(extension["url"] in INCOMPLETE for extension in expansion.get("extension", ()))
    cut |= bool(expansion.get("offset")) or expansion.get("total", 0) > len(found)
    cut |= any(given.get(name, whole) != whole for name, whole in WHOLE.items())
    return None if cut else tuple(found)


def _contained(entries: Iterable[Resource]) -> Iterator[Member]:
    for entry in entries:
        if "code" in entry:
            yield entry.get("system", ""), entry["code"]
        yield from _contained(entry.get("contains", ()))


def _text(holder: Resource) -> str:
    """Return the value of a property or parameter, of whatever type, as a text."""
    value: Any = next((v for name, v in holder.items() if name.startswith("value")), "")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value.get("code", "")) if isinstance(value, dict) else str(value)


# codesystem.html#4.8.8: properties that mean the same in every code system
STANDARD = "http://hl7.org/fhir/concept-properties#"
PARENTS = ("parent", "subsumedBy")
# Hierarchies of these kinds do not say that a code means what the code above it means
NO_SUBSUMPTION = ("grouped-by", "part-of", "classified-with")


def _code_system(resource: Resource) -> CodeSystem:
    declared = [p for p in resource.get("property", ()) if "code" in p]
    names = {p["code"]: p["code"] for p in declared} | {
        p["code"]: p["uri"].removeprefix(STANDARD)
        for p in declared
        if p.get("uri", "").startswith(STANDARD)
    }
    parents: dict[str, dict[str, None]] = {}
    properties: dict[str, dict[str, tuple[str, ...]]] = {}
    for concept, above in _nested(resource.get("concept", ())):
        code = concept["code"]
        own = parents.setdefault(code, {})
        own.update(dict.fromkeys(above))
        held = properties.setdefault(code, {})
        for entry in concept.get("property", ()):
            name, value = entry.get("code", ""), _text(entry)
            name = names.get(name, name)
            if name in PARENTS:
                own[value] = None
            elif name == "child":
                parents.setdefault(value, {})[code] = None
            else:
                held[name] = (*held.get(name, ()), value)
    content = resource.get("content", "not-present")
    return CodeSystem(
        url=resource.get("url", ""),
        version=resource.get("version", ""),
        content=content,
        value_set=split_canonical(resource.get("valueSet", ""))[0] * (content == "complete"),
        subsumes=resource.get("hierarchyMeaning") not in NO_SUBSUMPTION,
        properties=tuple(names.values()),
        concepts=tuple(Concept(c, tuple(parents[c]), held) for c, held in properties.items()),
    )


def _nested(concepts: Iterable[Resource]) -> Iterator[tuple[Resource, tuple[str, ...]]]:
    """Yield each concept with the code that it is nested in, outer ones first."""
    waiting: list[tuple[Resource, tuple[str, ...]]] = [(concept, ()) for concept in concepts]
    for concept, above in waiting:
        if "code" in concept:
            yield concept, above
            above = (concept["code"],)
        waiting += [(inner, above) for inner in concept.get("concept", ())]


READERS: Mapping[str, Callable[[Resource], Definition]] = {
    "CodeSystem": _code_system,
    "ValueSet": _value_set,
}


# --- choosing among versions -------------------------------------------------------------------


def newest(candidates: Iterable[tuple[int, str]], version: str) -> int | None:
    """Return the key of the (key, version) that a canonical names; None if there is none.

    Without a version that is the stored one with the highest version, numbers within a version
    compared as numbers; of equal ones the one stored last. Shipped ones, whose keys are negative,
    come last.
    """
    fitting = [c for c in candidates if not version or c[1] == version]
    return max(fitting, key=lambda c: (c[0] > 0, _order(c[1]), c[0]))[0] if fitting else None


def _order(version: str) -> list[tuple[int, str]]:
    digits = re.findall(r"[0-9]+|[^0-9.]+", version)
    return [
        (len(d.lstrip("0")), d.lstrip("0")) if d[0] in "0123456789" else (-1, d) for d in digits
    ]


# --- code systems ------------------------------------------------------------------------------


class Hierarchy:
    """The concepts of a code system by their stored codes, and what is above and below each."""

    def __init__(self, system: CodeSystem, case_sensitive: Container[str]) -> None:
        self.system = system
        self.concepts = {self._stored(c.code, case_sensitive): c for c in system.concepts}
        self.parents: dict[str, list[str]] = {code: [] for code in self.concepts}
        self.children: dict[str, list[str]] = {code: [] for code in self.concepts}
        for code, concept in self.concepts.items():
            for parent in {self._stored(p, case_sensitive) for p in concept.parents}:
                if parent in self.concepts:
                    self.parents[code].append(parent)
                    self.children[parent].append(code)

    def _stored(self, code: str, case_sensitive: Container[str]) -> str:
        return stored_code(self.system.url, code, case_sensitive)

    def above(self, code: str) -> set[str]:
        """Return the code and all that subsume it; nothing if the system lacks it."""
        return self._reached(code, self.parents)

    def below(self, code: str) -> set[str]:
        """Return the code and all that it subsumes; nothing if the system lacks it."""
        return self._reached(code, self.children)

    def _reached(self, code: str, steps: Mapping[str, list[str]]) -> set[str]:
        if code not in steps:
            return set()
        found, waiting = {code}, [code]
        while waiting and self.system.subsumes:
            fresh = [c for c in steps[waiting.pop()] if c not in found]
            found.update(fresh)
            waiting += fresh
        return found

    def pairs(self) -> set[tuple[str, str]]:
        """Return all (ancestor, descendant), each code with itself included.

        Raises Unexpandable where there are none, or too many.
        """
        if not self.concepts:
            raise Unexpandable("not-supported", "it lists no concepts")
        found: set[tuple[str, str]] = set()
        for code in self.concepts:
            found.update((ancestor, code) for ancestor in self.above(code))
            if len(found) > MOST_PAIRS:
                text = f"its hierarchy has more than {MOST_PAIRS:,} pairs of codes"
                raise Unexpandable("too-costly", text)
        return found

    def values(self, code: str, property: str) -> tuple[str, ...]:
        """Return the values of a property of a concept; a raw code for the concept itself."""
        match property:
            case "concept" | "code":
                return (self.concepts[code].code,)
            case "parent" | "subsumedBy":
                return tuple(self.concepts[parent].code for parent in self.parents[code])
            case "child":
                return tuple(self.concepts[child].code for child in self.children[code])
        return self.concepts[code].properties.get(property, DEFAULTS.get(property, ()))

    def active(self, code: str) -> bool:
        """Return whether a concept may still be used; one that is not here counts as active."""
        if code not in self.concepts:
            return True
        held = self.concepts[code].properties
        return "true" not in held.get("inactive", ()) and "retired" not in held.get("status", ())


DEFAULTS = {"inactive": ("false",), "notSelectable": ("false",)}
CONCEPT = ("concept", "code")
KNOWN = (*CONCEPT, *PARENTS, "child", "deprecated", *DEFAULTS)

# valueset-filter-operator.html: operators on the place in the hierarchy
PLACES: Mapping[str, Callable[[Hierarchy, str], set[str]]] = {
    "is-a": lambda hierarchy, code: hierarchy.below(code),
    "descendent-of": lambda hierarchy, code: hierarchy.below(code) - {code},
    "is-not-a": lambda hierarchy, code: hierarchy.concepts.keys() - hierarchy.below(code),
    "generalizes": lambda hierarchy, code: hierarchy.above(code),
}
# The same page: operators on the values of a property
VALUES: Mapping[str, Callable[[tuple[str, ...], str], bool]] = {
    "=": lambda values, wanted: wanted in values,
    "in": lambda values, wanted: not set(_listed(wanted)).isdisjoint(values),
    "not-in": lambda values, wanted: set(_listed(wanted)).isdisjoint(values),
    "exists": lambda values, wanted: bool(values) == (wanted == "true"),
}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def fitting(hierarchy: Hierarchy, rule: Filter, case_sensitive: Container[str]) -> set[str]:
    """Return the stored codes of the concepts that a filter selects."""
    system = hierarchy.system
    if rule.op in PLACES and rule.property in CONCEPT:
        code = stored_code(system.url, rule.value, case_sensitive)
        if code not in hierarchy.concepts:
            raise Unexpandable("not-found", f"{system.url} has no code {rule.value[:80]!r}")
        return PLACES[rule.op](hierarchy, code)
    if rule.property not in (*system.properties, *KNOWN):
        text = f"{system.url} has no property {rule.property[:80]!r} to filter by"
        raise Unexpandable("not-supported", text)
    if rule.op == "regex":
        return _matching(hierarchy, rule)
    if rule.op not in VALUES:
        text = f"the filter {rule.op[:20]} is not supported for {rule.property[:80]!r}"
        raise Unexpandable("not-supported", text)
    fits, wanted = VALUES[rule.op], rule.value
    return {c for c in hierarchy.concepts if fits(hierarchy.values(c, rule.property), wanted)}


def _matching(hierarchy: Hierarchy, rule: Filter) -> set[str]:
    """Return the concepts of which a value of a property matches a regular expression as a whole.

    The pattern is a stranger's: what could take more than MOST_STEPS is refused, not tried.
    """
    pattern, stars, factor = _pattern(rule.value)
    texts = {code: hierarchy.values(code, rule.property) for code in hierarchy.concepts}
    steps = sum((len(text) + 1) ** stars * factor for held in texts.values() for text in held)
    if steps > MOST_STEPS:
        raise Unexpandable("too-costly", "its regular expression may take too long")
    return {c for c, held in texts.items() if any(pattern.fullmatch(text) for text in held)}


# A regular expression, token by token: escape, class, group, alternative, quantifier, character
TOKEN = re.compile(
    r"(?P<plain>\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?:|[^\\()|*+?{])|(?P<open>\()|(?P<close>\))"
    r"|(?P<either>\|)|(?P<once>\?|\{[0-9]+\})|(?P<star>[*+]\??|\{[0-9]*,[0-9]*\}\??)",
    re.DOTALL,
)

REFUSED = {f"\\{digit}" for digit in range(10)}


def _pattern(text: str) -> tuple[re.Pattern[str], int, int]:
    """Return a compiled pattern, the number of its open repetitions, and its other choices.

    So a text of length n is decided within n ** repetitions * choices steps, because a group
    that repeats, a look around and a back reference are refused.
    """
    stars, factor, before, place = 0, 1, "", 0
    try:
        if len(text) > 200:
            raise re.error("it is longer than 200 characters")
        compiled = re.compile(text)
        while place < len(text):
            token = TOKEN.match(text, place)
            repeats = token is not None and token.lastgroup in ("star", "once")
            if token is None or token[0][:2] in REFUSED or text.startswith("(?", token.end() - 1):
                raise re.error("it uses more than classes, groups, choices and repetitions")
            if repeats and before == ")" and token[0] != "?":
                raise re.error("it repeats a group")
            stars += token.lastgroup == "star"
            factor *= 2 if token[0] in ("?", "|") else 1
            before, place = token[0], token.end()
    except (re.error, OverflowError, RecursionError) as error:
        raise Unexpandable("not-supported", f"its regular expression is refused: {error}") from None
    return compiled, stars, factor


# --- value sets --------------------------------------------------------------------------------


def uses(of: Definition) -> set[str]:
    """Return the URLs of the definitions that an expansion of this one reads, less versions."""
    if isinstance(of, CodeSystem):
        return set()
    parts = (*of.include, *of.exclude)
    found = {split_canonical(url)[0] for part in parts for url in part.value_sets}
    found |= {part.system for part in parts if of.active_only or not part.codes}
    return found - {""}


class Library:
    """Definitions by their keys, and the value sets and hierarchies that follow from them."""

    def __init__(self, given: Mapping[int, Definition], case_sensitive: Container[str]) -> None:
        self.given = given
        self.case_sensitive = case_sensitive
        self.systems: dict[str, list[tuple[int, str]]] = {}
        self.value_sets: dict[str, list[tuple[int, str]]] = {}
        self.implicit: dict[str, list[tuple[int, str]]] = {}
        for key, one in given.items():
            named = self.systems if isinstance(one, CodeSystem) else self.value_sets
            named.setdefault(one.url, []).append((key, one.version))
            if isinstance(one, CodeSystem) and one.value_set:
                self.implicit.setdefault(one.value_set, []).append((key, one.version))
        self.hierarchies: dict[int, Hierarchy] = {}
        self.expanded: dict[int, frozenset[Member] | Unexpandable] = {}
        for key in self._inner_first():
            self.expanded[key] = self._expand(key)

    def hierarchy(self, key: int) -> Hierarchy:
        """Return the hierarchy of the CodeSystem of that key."""
        if key not in self.hierarchies:
            system = self.given[key]
            assert isinstance(system, CodeSystem)
            self.hierarchies[key] = Hierarchy(system, self.case_sensitive)
        return self.hierarchies[key]

    def members(self, key: int) -> frozenset[Member]:
        """Return the codes of a ValueSet, or those of the implicit one of a CodeSystem.

        Raises Unexpandable where they cannot be known.
        """
        found = self.expanded.get(key, Unexpandable("processing", "it includes itself"))
        if isinstance(found, Unexpandable):
            raise found
        return found

    def _inner_first(self) -> Iterator[int]:
        """Yield the keys of all value sets, included ones before those that include them.

        One that includes itself never comes, nor does one that includes such a one.
        """
        graph: dict[int, set[int]] = {}
        for key, one in self.given.items():
            if isinstance(one, ValueSet):
                urls = {url for p in (*one.include, *one.exclude) for url in p.value_sets}
                named = {self._named(url) for url in urls}
                graph[key] = {other for other in named if other is not None}
            elif one.value_set:
                graph[key] = set()
        sorter = TopologicalSorter(graph)
        with suppress(CycleError):
            sorter.prepare()
        while sorter.is_active():
            ready = sorter.get_ready()
            yield from ready
            sorter.done(*ready)

    def _named(self, canonical: str) -> int | None:
        url, version = split_canonical(canonical)
        return newest_of(self.value_sets.get(url, ()), self.implicit.get(url, ()), version)

    def _expand(self, key: int) -> frozenset[Member] | Unexpandable:
        of = self.given[key]
        try:
            if isinstance(of, CodeSystem):
                return frozenset((of.url, code) for code in self.hierarchy(key).concepts)
            members = frozenset(self._selected(of))
        except Unexpandable as error:
            return error
        if len(members) > MOST_MEMBERS:
            return Unexpandable("too-costly", f"it holds more than {MOST_MEMBERS:,} codes")
        return members

    def _selected(self, of: ValueSet) -> Iterable[Member]:
        """Return what the includes select, less what the excludes do.

        An expansion that comes with the value set stands in where its compose cannot be evaluated.
        """
        if not of.include:
            if of.expansion is None:
                raise Unexpandable("not-supported", "it has no compose and no complete expansion")
            return self._listed(of.expansion)
        try:
            return self._composed(of)
        except Unexpandable:
            if of.expansion is None:
                raise
            return self._listed(of.expansion)

    def _listed(self, expansion: Iterable[Member]) -> Iterator[Member]:
        yield from ((s, stored_code(s, code, self.case_sensitive)) for s, code in expansion)

    def _composed(self, of: ValueSet) -> set[Member]:
        if of.locked and any(not part.codes for part in (*of.include, *of.exclude)):
            text = "its lockedDate asks for definitions as they were on a day"
            raise Unexpandable("not-supported", text)
        found: set[Member] = set()
        for part in of.include:
            found |= self._part(part)
        for part in of.exclude:
            found -= self._part(part)
        return set(filter(self._active, found)) if of.active_only else found

    def _part(self, part: Part) -> set[Member]:
        """Return the codes that meet all conditions of one include or exclude.

        "All the conditions in an include must be true": with several value sets, those in each of
        them. The definition of include.valueSet speaks of a union instead; the requirements of
        include and the rules of the page say intersection.
        """
        sets: list[Iterable[Member]] = [self._value_set(url) for url in part.value_sets]
        if part.system and part.codes:
            sets.append(self._listed((part.system, code) for code in part.codes))
        elif part.system:
            sets.append(self._of_system(part.system, part.version, part.filters))
        if not sets:
            raise Unexpandable("processing", "a part of it names no system and no value set")
        return set.intersection(*map(set, sets))

    def _value_set(self, canonical: str) -> frozenset[Member]:
        key = self._named(canonical)
        if key is None:
            text = f"no ValueSet {canonical[:200]}, which it includes, is stored or shipped"
            raise Unexpandable("not-found", text)
        try:
            return self.members(key)
        except Unexpandable as error:
            text = f"ValueSet {canonical[:200]}, which it includes, cannot be expanded"
            raise Unexpandable(error.code, text) from None

    def _of_system(
        self, url: str, version: str, filters: Iterable[Filter] = ()
    ) -> Iterator[Member]:
        """Yield the codes of a whole code system, or those that fit all filters."""
        key = newest(self.systems.get(url, ()), version.removesuffix("*"))
        if key is None:
            named = f"{url}|{version}" if version else url
            text = f"no CodeSystem {named[:200]}, from which it selects, is stored or shipped"
            raise Unexpandable("not-found", text)
        hierarchy = self.hierarchy(key)
        if hierarchy.system.content != "complete":
            text = f"the content of CodeSystem {url[:200]} is {hierarchy.system.content} only"
            raise Unexpandable("not-supported", text)
        found = set(hierarchy.concepts)
        for rule in filters:
            found &= fitting(hierarchy, rule, self.case_sensitive)
        return ((url, code) for code in found)

    def _active(self, member: Member) -> bool:
        system, code = member
        key = newest(self.systems.get(system, ()), "")
        return key is None or self.hierarchy(key).active(code)


def newest_of(
    explicit: Iterable[tuple[int, str]], implicit: Iterable[tuple[int, str]], version: str
) -> int | None:
    """Return the key of a value set: a ValueSet before a CodeSystem, what is stored before all."""
    own, other = newest(explicit, version), newest(implicit, version)
    if own is None or (own < 0 and other is not None and other > 0):
        return other
    return own
