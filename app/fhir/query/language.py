"""How a search is written: from name-value pairs to a tree, and back to text.

https://hl7.org/fhir/R4/search.html

A query string is a list of pairs. Pairs are joined by And, the values of a pair by Or: a `Match`
holds the terms of one pair, of which one has to fit. The name of a pair says the rest: a modifier
changes how its values match, `subject.name` is a chain, `_has:Observation:patient:code` one that is
walked backwards. `:not` wraps the Or, so `code:not=a,b` means neither.

Some parameters ask for something of the answer instead: `RESULT_PARAMETERS`.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Any, Literal, cast, get_args
from urllib.parse import quote, urlencode

from app.fhir.definitions import Definitions, SearchParameter
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Pairs
from app.fhir.query.filter import tree
from app.fhir.query.terms import TEXTS, Reader
from app.fhir.query.tree import (
    All,
    And,
    Chain,
    Has,
    Match,
    Member,
    Modifier,
    Not,
    Nothing,
    Or,
    Present,
    Query,
    Term,
)
from app.fhir.values import is_id, split_escaped

CURSOR = "_cursor"
MAX_INTEGER = 2**63 - 1

# What one search may ask: a value takes up to two of the 1000 levels of an SQL expression on SQLite
MOST_PAIRS = 200
MOST_VALUES = 400
MOST_DEEP = 8  # links of a chain
MOST_NODES = 500  # of a tree: a chain without a type is one for each type that it may mean

Total = Literal["", "none", "estimate", "accurate"]
Summary = Literal["", "true", "text", "data", "count", "false"]

# search.html#return and http.html#parameters: asked of the answer, not of the resources
RESULT_PARAMETERS = frozenset(
    (
        *("_count", "_sort", "_total", "_summary", "_elements", "_include", "_revinclude"),
        *("_contained", "_containedType", "_explain", "_type", "_format", "_pretty", CURSOR),
    )
)
REPEATED = frozenset({"_include", "_revinclude", "_type"})
# What changes how an answer is written, not what is in it: a cursor is not bound to it
PRESENTATION = frozenset({"_format", "_pretty"})
SHOWN_ELSEWHERE = PRESENTATION | {CURSOR, "_explain"}

# search.html#modifiers, beside `missing`, which every parameter takes, and the types of a reference
MODIFIERS: Mapping[str, tuple[str, ...]] = {
    "string": ("exact", "contains"),
    "token": ("not", "text", "in", "not-in", "below", "above", "of-type"),
    "reference": ("identifier", "below", "above"),
    "uri": ("below", "above"),
}

# Parameters without an index row: columns of the resource itself
COLUMNS = frozenset({"_id", "_lastUpdated"})

Hidden = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Sort:
    """One key of the order of a result (search.html#sort)."""

    parameter: str
    descending: bool


@dataclass(frozen=True, slots=True)
class Include:
    """What comes along: targets of `parameter` of `source`, or (`reverse`) those that refer to it.

    `parameter` "*" is every reference; `target` "" any type; with `iterate`, of included resources
    as well (search.html#include).
    """

    source: str
    parameter: str
    target: str
    iterate: bool
    reverse: bool


@dataclass(frozen=True, slots=True)
class Search:
    """A parsed search: what to find of each type, in which order, and what to answer of it.

    `applied` is the query string of the pairs that took effect, as the self link shows it;
    `ignored` says which did not (only where the client is lenient).
    """

    arms: tuple[tuple[str, Query], ...]
    sort: tuple[Sort, ...] = ()
    includes: tuple[Include, ...] = ()
    count: int = 20
    total: Total = ""
    summary: Summary = ""
    elements: tuple[str, ...] = ()
    explain: bool = False
    cursor: str = ""
    applied: str = ""
    ignored: tuple[Issue, ...] = ()


def nothing_hidden(type: str, code: str) -> bool:
    """Return that no parameter is hidden from the caller."""
    del type, code
    return False


@dataclass(frozen=True, slots=True)
class Language:
    """What the meaning of a query depends on besides its text.

    `lenient` is what is done where a client says nothing of `Prefer: handling`
    (search.html#errors); `texts` says whether `_text` and `_content` are indexed; `building` names
    the parameters whose index is being built, with how many percent of it are done; `variants` the
    modifiers for which a parameter has rows of its own.
    """

    definitions: Definitions
    base_url: str
    zone: tzinfo
    page_size: int
    max_page_size: int
    lenient: bool = False
    texts: bool = False
    building: Mapping[tuple[str, str], int] = field(default_factory=dict)
    variants: Callable[[str, str], Container[str]] | None = None

    def parse(
        self,
        type: str,
        pairs: Pairs,
        now: int,
        *,
        hidden: Hidden = nothing_hidden,
        lenient: bool = False,
        within: Member | None = None,
    ) -> Search:
        """Return the search that `pairs` ask of `type` ("" for all types, or those of `_type`).

        `now` (microseconds) widens `ap` dates; a parameter that is `hidden` is unknown; `within` is
        the compartment that is searched. A pair without a value is ignored (search.html#general).

        Raises a 400 that names the pair for a parameter, modifier or value that the server does not
        understand. A `lenient` client is told instead: such a pair becomes one of `ignored`.
        """
        used = tuple((name, value) for name, value in pairs if value)
        values = sum(value.count(",") + 1 for _, value in used)
        if len(used) > MOST_PAIRS or values > MOST_VALUES:
            limits = f"{MOST_PAIRS} parameters and {MOST_VALUES} values"
            raise refused("too-costly", f"A search may have {limits}", status=400)
        reading = Reading(self, now, hidden, lenient)
        types = reading.types(type, used)
        parts: dict[str, list[Query]] = {one: [within] if within else [] for one in types}
        for pair in used:
            for one, part in reading.criteria(types, pair).items():
                parts[one].append(part)
        asked = reading.answer(types, used)
        shown = [pair for pair in used if pair[0] not in SHOWN_ELSEWHERE]
        if "_count" in asked:
            asked["count"] = count = asked.pop("_count")
            shown = [(n, str(count) if n == "_count" else v) for n, v in shown]
        applied = [pair for pair in shown if pair not in reading.ignored]
        asked.setdefault("count", self.page_size)
        return Search(
            arms=tuple((one, conjunction(found)) for one, found in parts.items()),
            applied=unparse(applied),
            ignored=tuple(reading.ignored.values()),
            **asked,
        )

    def count(self, text: str | None) -> int:
        """Return the entries on a page: `_count`, at most `max_page_size` (search.html#count)."""
        if text is None:
            return self.page_size
        if not text.isascii() or not text.isdigit() or int(text[:20]) > MAX_INTEGER:
            raise refused("value", "_count must be a whole number from 0", at("_count"), 400)
        return min(int(text), self.max_page_size)

    def supported(self, type: str) -> list[str]:
        """Return the codes of the parameters of `type` that can be searched."""
        known = self.definitions.search_parameters[type].values()
        return [p.code for p in known if self.searchable(p)]

    def searchable(self, parameter: SearchParameter) -> bool:
        """Return whether the server can search by a parameter."""
        if parameter.code in TEXTS:
            return self.texts
        if parameter.type == "special":
            return parameter.code in ("near", "_filter")
        return bool(parameter.expression) or parameter.code in COLUMNS


def listed(value: str) -> Query:
    """Return what is in a List; a 400 for what is no id of one (search.html#list)."""
    ids = value.split(",")
    if not all(is_id(id) for id in ids):
        text = "_list takes the id of a List; lists such as $current-problems are not supported"
        raise refused("value", text, at("_list"), 400)
    return Has("List", "item", Match("_id", "token", tuple(ids)))


def conjunction(parts: list[Query]) -> Query:
    """Return what all parts find."""
    return All() if not parts else And(tuple(parts))


@dataclass(slots=True)
class Reading:
    """One query while it is being read: who reads it, and what was ignored so far."""

    language: Language
    now: int
    hidden: Hidden
    lenient: bool
    ignored: dict[tuple[str, str], Issue] = field(default_factory=dict)
    nodes: int = 0
    spent: dict[str, int] = field(default_factory=dict)

    def spare(self, pair: tuple[str, str], error: FhirError) -> None:
        """Note that a pair is left out, or raise where the client wants to know."""
        issue = error.issues[0]
        if not self.lenient or issue.code in ("too-costly", "transient"):
            raise error
        self.ignored[pair] = replace(issue, severity="warning")

    def types(self, type: str, used: Pairs) -> tuple[str, ...]:
        """Return the types that are searched: of the URL, or of `_type` (search.html#type)."""
        given = [value for name, value in used if name == "_type"]
        if type:
            for value in given:
                text = "_type belongs to a search of all types, at the base URL"
                self.spare(("_type", value), refused("not-supported", text, at("_type")))
            return (type,)
        known = self.language.definitions.type_numbers
        named = dict.fromkeys(one for value in given for one in value.split(","))
        for one in named:
            if one not in known:
                text = f"_type names {one[:64]!r}, which is no R4 resource type"
                raise refused("value", text, at("_type"), 400)
        return tuple(named) or tuple(known)

    # --- criteria ------------------------------------------------------------------------------

    def criteria(self, types: tuple[str, ...], pair: tuple[str, str]) -> dict[str, Query]:
        """Return the tree of a pair for each type; none where it is no criterion, or is ignored."""
        name, value = pair
        if name in RESULT_PARAMETERS or name.partition(":")[0] in ("_include", "_revinclude"):
            return {}
        found = {}
        for type in types:
            self.nodes = self.spent.get(type, 0)
            try:
                found[type] = self.criterion(type, name, value)
            except FhirError as problem:
                issues = [replace(issue, expression=at(name)) for issue in problem.issues]
                error = FhirError(issues, problem.status, problem.headers)
                code = name.partition(":")[0].partition(".")[0]
                if len(types) > 1 and code != "_has" and self.parameter_of(type, code) is None:
                    text = f"Not all of the searched types have a search parameter {code[:80]!r}"
                    error = refused("not-supported", f"{text}: {type} has none", at(name))
                self.spare(pair, error)
                return {}
            self.spent[type] = self.nodes
        return found

    def parameter_of(self, type: str, code: str) -> SearchParameter | None:
        """Return a parameter that this caller may use, None where there is none."""
        found = self.language.definitions.search_parameters[type].get(code)
        return None if found is None or self.hidden(type, code) else found

    def known(self, type: str, code: str, name: str) -> SearchParameter:
        """Return a parameter that can be searched; a 400 that lists those of the type."""
        parameter = self.parameter_of(type, code)
        if parameter is None and code in RESULT_PARAMETERS:
            raise refused("not-supported", f"{code} takes no modifier", at(name))
        if parameter is None:
            codes = (c for c in self.language.supported(type) if not self.hidden(type, c))
            text = f"{type} has no search parameter {code[:80]!r}; it has: "
            raise refused("not-supported", text + ", ".join(sorted(("_list", *codes))), at(name))
        if (done := self.language.building.get((type, code))) is not None:
            text = f"The index of the search parameter {code} of {type} is being built: {done} %"
            issue = Issue("error", "transient", text, at(name))
            raise FhirError([issue], 503, {"Retry-After": "5"})
        if not self.language.searchable(parameter):
            text = f"The search parameter {code} is not supported"
            if code in TEXTS:
                text += "; the setting MILEPOST_TEXT_SEARCH turns it on"
            raise refused("not-supported", text, at(name))
        return parameter

    def criterion(self, type: str, name: str, value: str, deep: int = 0) -> Query:
        """Return the tree of one pair, at a chain's end or outside of any."""
        self.spend(name, deep)
        head, dot, rest = name.partition(".")
        if name.partition(":")[0] == "_has":
            return self.has(type, name, value, deep)
        if dot:
            return self.chain(type, head, rest, name, value, deep)
        code, colon, modifier = name.partition(":")
        if code in ("_list", "_filter"):
            if colon:
                raise refused("not-supported", f"{code} takes no modifier", at(name))
            return listed(value) if code == "_list" else tree(value, type, self)
        parameter = self.known(type, code, name)
        if colon and not modifier:
            raise refused("not-supported", f"{code}: has an empty modifier", at(name))
        return self.match(type, parameter, modifier, value, name)

    def spend(self, name: str, deep: int) -> None:
        """Count one more node of the tree; refuse what no database should be asked."""
        self.nodes += 1
        if deep > MOST_DEEP:
            text = f"A chain may have {MOST_DEEP} links"
            raise refused("too-costly", text, at(name), 400)
        if self.nodes > MOST_NODES:
            text = "This search stands for too many at once; name the type in each link of a chain"
            raise refused("too-costly", text, at(name), 400)

    def chain(self, type: str, head: str, rest: str, name: str, value: str, deep: int) -> Query:
        """Return the tree of `parameter[:Type].rest` (search.html#chaining)."""

        def part(target: str) -> Query:
            return self.criterion(target, rest, value, deep + 1)

        return self.linked(type, head, rest, name, deep, part)

    def linked(
        self, type: str, head: str, rest: str, name: str, deep: int, part: Callable[[str], Query]
    ) -> Query:
        """Return the chain over `parameter[:Type]`; `part` says what `rest` means of a target.

        Without a type it is one chain for each target type that has what follows.
        """
        self.spend(name, deep)
        code, colon, named = head.partition(":")
        parameter = self.known(type, code, name)
        if parameter.type != "reference":
            text = f"{code} is a {parameter.type} parameter; only a reference can be chained"
            raise refused("not-supported", text, at(name))
        definitions = self.language.definitions
        targets = definitions.targets(type, code) or definitions.resource_types
        if colon:
            if named not in targets:
                text = f"{type}.{code} has no target type {named[:64]!r}"
                raise refused("not-supported", text, at(name))
            return Chain(code, named, part(named))
        found: list[Query] = []
        refusals: list[FhirError] = []
        for target in targets:
            try:
                found.append(Chain(code, target, part(target)))
            except FhirError as error:
                if error.issues[0].code == "too-costly":
                    raise
                refusals.append(error)
        if found:
            return found[0] if len(found) == 1 else Or(tuple(found))
        # a value that a target does not accept is the value's fault, not the name's
        told = [error for error in refusals if error.issues[0].code == "value"]
        if told or len(refusals) == 1:
            raise (told or refusals)[0]
        text = f"No target type of {type}.{code} has a search parameter {rest[:80]!r}"
        raise refused("not-supported", text, at(name))

    def has(self, type: str, name: str, value: str, deep: int) -> Query:
        """Return the tree of `_has:[type]:[reference]:[criterion]` (search.html#has)."""
        parts = name.split(":", 3)
        if len(parts) < 4 or not all(parts):
            text = "_has must look like _has:Observation:patient:code"
            raise refused("not-supported", text, at(name))
        _, source, code, rest = parts
        definitions = self.language.definitions
        if source not in definitions.type_numbers:
            text = f"_has names {source[:64]!r}, which is no R4 resource type"
            raise refused("not-supported", text, at(name))
        parameter = self.known(source, code, name)
        targets = definitions.targets(source, code)
        if parameter.type != "reference" or (targets and type not in targets):
            text = f"{source}.{code[:64]} does not refer to a {type}"
            raise refused("not-supported", text, at(name))
        return Has(source, code, self.criterion(source, rest, value, deep + 1))

    def match(
        self, type: str, parameter: SearchParameter, modifier: str, value: str, name: str
    ) -> Query:
        """Return the tree of a parameter with its modifier, which ends every chain."""
        code, kind = parameter.code, parameter.type
        if modifier == "missing" and code not in TEXTS:
            return self.missing(code, value, name)
        negated = modifier in ("not", "not-in")
        effective = {"not": "", "not-in": "in"}.get(modifier, modifier)
        named = ""
        if kind == "reference" and modifier in self.language.definitions.type_numbers:
            named, effective = modifier, ""
            targets = self.language.definitions.targets(type, code)
            if targets and named not in targets:
                text = f"{type}.{code} has no target type {named}"
                raise refused("not-supported", text, at(name))
        elif modifier and not self.takes(type, parameter, modifier):
            raise self.no_modifier(type, parameter, modifier, name)
        found = []
        for text in split_escaped(value, ","):
            try:
                found.append(self.term(type, parameter, effective, named, text))
            except ValueError as error:
                raise refused("value", f"{code}: {error}", at(name), 400) from None
        match = Match(code, kind, tuple(found), cast("Modifier", effective))
        return Not(match) if negated else match

    def term(
        self, type: str, parameter: SearchParameter, modifier: str, named: str, text: str
    ) -> Term:
        """Return what one value asks for; ValueError says what was expected."""
        definitions = self.language.definitions
        reader = Reader(self.language.base_url, self.language.zone, self.now, definitions)
        versions = modifier == "below" and "|" in text  # of a canonical (search.html#versions)
        if modifier in ("below", "above") and parameter.type == "reference" and not versions:
            targets = [named] if named else definitions.targets(type, parameter.code)
            reader.check_hierarchy(tuple(targets))
        return reader.term(type, parameter, modifier, named, text)

    def takes(self, type: str, parameter: SearchParameter, modifier: str) -> bool:
        """Return whether a parameter takes a modifier."""
        variants = self.language.variants
        if modifier == "of-type" and variants and "of-type" not in variants(type, parameter.code):
            return False  # no Identifier
        if parameter.code == "_id":
            return modifier == "not"
        if parameter.code in TEXTS:
            return False
        return modifier in MODIFIERS.get(parameter.type, ())

    def no_modifier(
        self, type: str, parameter: SearchParameter, modifier: str, name: str
    ) -> FhirError:
        """Return the refusal of a modifier, which names those that the parameter takes."""
        known = MODIFIERS.get(parameter.type, ())
        takes = ["missing", *(one for one in known if self.takes(type, parameter, one))]
        if parameter.code in TEXTS:
            takes = []
        if parameter.type == "reference":
            takes.append("[type]")
        legal = f"it takes {', '.join(f':{m}' for m in takes)}" if takes else "it takes none"
        text = f"{parameter.code} has no modifier :{modifier[:40]}; {legal}"
        return refused("not-supported", text, at(name))

    def missing(self, code: str, value: str, name: str) -> Query:
        """Return what has a value for a parameter, or has none (search.html#modifiers)."""
        if value not in ("true", "false"):
            raise refused("value", f"{code}:missing must be true or false", at(name), 400)
        if code in COLUMNS:
            return Nothing() if value == "true" else All()
        return Not(Present(code)) if value == "true" else Present(code)

    # --- the answer ----------------------------------------------------------------------------

    def answer(self, types: tuple[str, ...], used: Pairs) -> dict[str, Any]:
        """Return what is asked of the answer: fields of a Search, and `_count` where given."""
        found: dict[str, Any] = {}
        given = single(used, RESULT_PARAMETERS - REPEATED)
        for name, value in given.items():
            if name in ("_format", "_pretty"):
                continue
            try:
                found |= self.asked(types, name, value)
            except FhirError as error:
                self.spare((name, value), error)
        if found.get("summary", "false") != "false" and "elements" in found:
            text = "_summary and _elements exclude each other"
            raise refused("invalid", text, at("_elements"), 400)
        includes = tuple(self.includes(used))
        if includes:
            found["includes"] = includes
        if includes and found.get("summary") == "text":  # search.html#summary
            text = "_include and _revinclude cannot be combined with _summary=text"
            raise refused("invalid", text, at("_summary"), 400)
        return found

    def asked(self, types: tuple[str, ...], name: str, value: str) -> dict[str, Any]:
        """Return the field of a Search that one parameter of the answer sets."""
        match name:
            case "_count":
                return {"_count": self.language.count(value)}
            case "_sort":
                return {"sort": tuple(self.sort(types, value))}
            case "_total":
                return {"total": self.one_of(name, value, Total)}
            case "_summary":
                return {"summary": self.one_of(name, value, Summary)}
            case "_elements":
                return {"elements": tuple(value.split(","))}
            case "_explain":
                return {"explain": self.flag(name, value)}
            case "_contained" | "_containedType":
                self.contained(name, value)
            case "_cursor":
                return {"cursor": value}
        return {}

    def one_of(self, name: str, value: str, kind: object) -> str:
        """Return a value that must be one of a few."""
        if value not in (words := [word for word in get_args(kind) if word]):
            text = f"{name} must be one of {', '.join(words)}"
            raise refused("value", text, at(name), 400)
        return value

    def flag(self, name: str, value: str) -> bool:
        """Return a value that is a truth."""
        if value not in ("1", "0", "true", "false"):
            raise refused("value", f"{name} must be 1 or 0", at(name), 400)
        return value in ("1", "true")

    def contained(self, name: str, value: str) -> None:
        """Refuse answers that are contained resources: those are never answers of their own."""
        if name != "_contained" or value != "false":
            text = (
                f"{name}: contained resources are not searched; only _contained=false is supported"
            )
            raise refused("not-supported", text, at(name))

    def sort(self, types: tuple[str, ...], value: str) -> Iterable[Sort]:
        """Yield the keys of `_sort`, each a parameter of all searched types (search.html#sort)."""
        names = value.split(",")
        if len(names) > len(dict.fromkeys(name.removeprefix("-") for name in names)):
            raise refused("value", "_sort names a parameter twice", at("_sort"), 400)
        for name in names:
            code = name.removeprefix("-")
            for type in types:
                parameter = self.known(type, code, "_sort")
                if parameter.type in ("composite", "special") or code in TEXTS:
                    kind = "text" if code in TEXTS else parameter.type
                    text = f"{code} is a {kind} parameter, which has no order"
                    raise refused("not-supported", text, at("_sort"))
            yield Sort(code, name.startswith("-"))

    def includes(self, used: Pairs) -> Iterable[Include]:
        """Yield what `_include` and `_revinclude` ask for (search.html#include)."""
        for name, value in used:
            kind, colon, modifier = name.partition(":")
            if kind not in ("_include", "_revinclude"):
                continue
            try:
                if colon and modifier != "iterate":
                    text = f"{kind} has no modifier :{modifier[:40]}; it takes :iterate"
                    raise refused("not-supported", text, at(name))
                yield self.include(name, value, modifier == "iterate", kind == "_revinclude")
            except FhirError as error:
                self.spare((name, value), error)

    def include(self, name: str, value: str, iterate: bool, reverse: bool) -> Include:
        """Return one include: `[source]:[parameter]:[target]`, `[source]:*` or `*`."""
        if value == "*" and not reverse:
            return Include("", "*", "", iterate, reverse)
        source, code, target = (*value.split(":"), "", "")[:3]
        if not source or not code or value.count(":") > 2:
            text = f"{name} must look like Observation:patient or Observation:subject:Patient"
            raise refused("value", text, at(name), 400)
        types = self.language.definitions.type_numbers
        for one in (source, target):
            if one and one not in types:
                raise refused(
                    "value", f"{name} names {one[:64]!r}, which is no type", at(name), 400
                )
        if code == "*":
            return Include(source, "*", target, iterate, reverse)
        parameter = self.known(source, code, name)
        targets = self.language.definitions.targets(source, code)
        if parameter.type != "reference":
            text = f"{name} names {source}.{code}, which is no reference"
            raise refused("value", text, at(name), 400)
        if target and targets and target not in targets:
            text = f"{source}.{code} has no target type {target}"
            raise refused("value", text, at(name), 400)
        return Include(source, code, target, iterate, reverse)


def single(pairs: Pairs, names: Container[str]) -> dict[str, str]:
    """Return the values of parameters that may be given once; a 400 for one given twice."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in names and value:
            if name in found:
                raise refused("invalid", f"{name} is given more than once", at(name))
            found[name] = value
    return found


def at(name: str) -> str:
    """Return how an issue names a parameter (operationoutcome.html: `http.` for the request)."""
    return f"http.{name[:80]}"


def written_as(applied: str, pairs: Pairs) -> str:
    """Return a query string with what `pairs` ask of the format, so that its answer is alike."""
    asked = [pair for pair in pairs if pair[0] in PRESENTATION and pair[1]]
    return "&".join(part for part in (applied, unparse(asked)) if part) if asked else applied


def unparse(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the query string of these pairs."""
    return urlencode(tuple(pairs), quote_via=quote, safe=":/,$")
