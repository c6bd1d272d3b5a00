"""How the resources of one type get to a page: what drives, what is probed, in which way.

https://hl7.org/fhir/R4/search.html

A *driver* is the criterion whose index is walked. Candidates are counted, never further than
PROBE_LIMIT rows, and the fewest win; a chain can drive when what it hangs on is found by few rows.
A count brings the keys that it passed: they are the driver then, and are not looked for again.
`app.fhir.sql.statements` says which ways there are.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from app import db
from app.fhir.query import (
    All,
    And,
    Chain,
    Composite,
    Has,
    Match,
    Member,
    Or,
    Owned,
    Query,
    Same,
    Search,
)
from app.fhir.sql import (
    CANONICAL,
    CERTAIN,
    NOBODY,
    PROBE_LIMIT,
    TABLES,
    WALKABLE,
    Arm,
    Key,
    Lowering,
    Plan,
    Shape,
    of_one_type,
    operation,
    ranges,
)
from app.fhir.store.catalogue import Catalogue

COUNT_SECONDS = 60.0  # a count is old news then; it only chooses a way, never an answer
MOST_COUNTS = 10_000
SOME = 501  # rows that are counted where there is another way anyhow
MOST_NESTED = 2  # links that are walked inside each other: SQLite's parser has no more room
FEW = 300  # rows that are few enough to look no further for a driver
UNSURE = 9  # behind all that is CERTAIN


class Candidate(NamedTuple):
    """A criterion that can drive, or at least something that it implies (not `exact`).

    `about` is what its rows are counted as; "" for its shape and values.
    """

    place: int
    shape: Shape
    values: list[Any]
    ordered: bool
    certain: int = UNSURE
    parameter: str = ""
    exact: bool = True
    about: str = ""


class Choice(NamedTuple):
    """What drives (None for a walk along the type), and how many index rows it has.

    `known` are the keys of all rows of those candidates, by their places, that were found while
    they were counted: they need not be looked for again.
    """

    candidate: Candidate | None
    size: int
    known: Mapping[int, list[int]] = {}


class OwnPart(NamedTuple):
    """What the gate says of the owner: its place among the criteria, whether it is the `whole`."""

    place: int
    whole: bool


class Driven(NamedTuple):
    """An arm in the making: its criteria and gate, and the values of driver, type, rest, gate."""

    driver: Shape
    rest: Shape
    gate: Shape
    values: list[Any]
    ordered: bool
    size: int


@dataclass(frozen=True, slots=True)
class Planner:
    """Decides how a search is done; `run` answers its bounded counts, in one `snapshot`."""

    catalogue: Catalogue
    lowering: Lowering
    run: Callable[[str, Plan], Awaitable[Sequence[db.Row]]]
    snapshot: Callable[[], Awaitable[None]]

    def values(
        self,
        type: str,
        arm: Arm,
        driven: Driven,
        order: tuple[Key, ...],
        search: Search,
    ) -> list[Any]:
        """Return the values of one arm in the order in which its statement asks for them."""
        if arm.way == "walk":
            first = order[0]
            own: list[Any] = []
            if first.kind in TABLES:
                param = self.lowering.params[type, search.sort[0].parameter]
                own = [param, *self.bounds(type, search)[1]]
                own += [] if arm.single else [param]
            own += driven.values
            for n, key in enumerate(order[1:], 1):
                own += self.sort_values(type, key, search.sort[n].parameter)
            return own * 2 if first.kind == "date" else own
        own = list(driven.values)
        for n, key in enumerate(order):
            values = self.sort_values(type, key, search.sort[n].parameter)
            own += values[:1] if n == 0 and arm.way == "missing" else values
        return own

    def sort_values(self, type: str, key: Key, code: str) -> list[Any]:
        """Return the values that the sort value of a key asks for."""
        if key.kind not in TABLES:
            return []
        param = self.lowering.params[type, code]
        if key.kind == "quantity":
            return [param, self.lowering.systems.get(CANONICAL, NOBODY), param]
        return [param, param] if key.kind == "reference" else [param]

    # --- how an arm gets to its page -----------------------------------------------------------

    async def way(
        self,
        type: str,
        where: Query,
        order: tuple[Key, ...],
        search: Search,
    ) -> tuple[Arm, Driven, Driven]:
        """Return the arm of a type, one of the ways to a page; what drives it, and could else."""
        driven = await self.driven(type, where, sorted_by=search if order else None)
        if not order:
            unordered = not driven.ordered and driven.driver[0] != "all"
            way = "sorted" if unordered else "keys"
            return Arm(cast("Any", way), *driven[:3]), driven, driven
        first = order[0]
        if driven.size < PROBE_LIMIT or first.kind not in WALKABLE:
            return Arm("gather", *driven[:3]), driven, driven
        return (*self.walk(type, where, first, search), driven)

    def walk(self, type: str, where: Query, first: Key, search: Search) -> tuple[Arm, Driven]:
        """Return the arm that walks the index of the first sort key.

        A criterion on that parameter is a range of the walk where a resource has one value.
        """
        code = search.sort[0].parameter
        single = False
        if first.kind in TABLES:
            single = self.lowering.kinds(type)[code].single
        operations, _ = self.bounds(type, search)
        parts = [part for part in _joined(self.lowering, type, where)
                 if not (operations and _bounds(part, code))]  # fmt: skip
        gate, values = self.lowered(type, parts)
        driven = Driven(("all",), gate[0], gate[1], values, ordered=True, size=PROBE_LIMIT)
        return Arm("walk", *driven[:3], operations, single), driven

    def bounds(self, type: str, search: Search) -> tuple[tuple[tuple[str, ...], ...], list[Any]]:
        """Return the operations on the first sort key that bound a walk, and their values."""
        code = search.sort[0].parameter
        kinds = self.lowering.kinds(type)
        if code not in kinds or not kinds[code].single or "date" not in kinds[code].tables:
            return (), []
        where = next(where for one, where in search.arms if one == type)
        for part in _joined(self.lowering, type, where):
            if isinstance(part, Same) and _bounds(part, code):
                shape, values = self.lowering.same(part, type)
                return shape[2:], values[1:]
            if isinstance(part, Match) and _bounds(part, code):
                ((shape, values),) = self.lowering.matches(part, type)
                return (shape[2:],), values[1:]
        return (), []

    def walked_by(self, type: str, search: Search) -> str:
        """Return the first sort key, if the search is about a range of it that can be walked."""
        code = search.sort[0].parameter
        return code if code == "_lastUpdated" or self.bounds(type, search)[0] else ""

    def lowered(self, type: str, parts: Iterable[Query]) -> tuple[tuple[Shape, Shape], list[Any]]:
        """Return criteria and gate as shapes; type, criteria, gate as values."""
        values: list[Any] = [self.catalogue.definitions.type_numbers[type]]
        kept = tuple(parts)
        rest = self.lowering.tree(And(kept) if kept else All(), type, values)
        gate = self.lowering.gate(type, values)
        return (rest, gate), values

    async def driven(self, type: str, where: Query, *, sorted_by: Search | None = None) -> Driven:
        """Return the driver of a type's criteria, the rest, and the gate.

        A reference, an id or a URL is taken as it is where the order does not matter. Else every
        candidate's rows are counted up to PROBE_LIMIT: the fewest win; above the limit only an
        index in key order is worth it.
        """
        parts, own = self.parts(type, where)
        able = [c for n, part in enumerate(parts)
                if (c := await self.candidate(type, part, n))]  # fmt: skip
        few = {c.place: c for c in able if c.shape[0] == "through"}
        able += [c for n, part in enumerate(parts)
                 if (c := self.first_half(type, part, n))]  # fmt: skip
        walked = self.walked_by(type, sorted_by) if sorted_by else ""
        sorts = sorted_by is not None
        chosen, size, known = await self.choose(able, walked, sorts=sorts)
        done: Collection[int] = ()
        if chosen and chosen.place in known and (sorts or not chosen.ordered):
            sure = any(of_one_type(c.shape) for c in able if c.exact and c.place in known)
            keys = sorted(common(known), reverse=True)
            chosen = chosen._replace(shape=("listed", sure), values=[keys], ordered=False)
            done = known
        rest: list[Shape] = []
        if own and own.place not in done and (chosen is None or chosen.place != own.place):
            parts = parts[: own.place]  # the gate asks for it as well
        values = [] if chosen is None else [*chosen.values]
        values.append(self.catalogue.definitions.type_numbers[type])
        for n, part in enumerate(parts):
            if n in done or (chosen is not None and n == chosen.place and chosen.exact):
                continue
            if n in few and n in known:
                rest.append(("listed", few[n].shape[1] == "chain"))
                values.append(known[n])
            elif n in few:
                rest.append(("of few", *few[n].shape[1:]))
                values += few[n].values
            else:
                rest.append(self.lowering.tree(part, type, values))
        owned = own and (own.place in done or (chosen and chosen.place == own.place))
        gate: Shape = ("all",)
        if not (owned and own and own.whole):  # what drives passes the gate as it is
            gate = self.lowering.gate(type, values)
        driver, in_key_order = (
            (("all",), True) if chosen is None else (chosen.shape, chosen.ordered)
        )
        return Driven(driver, _all_of(rest), gate, values, ordered=in_key_order, size=size)

    def parts(self, type: str, where: Query) -> tuple[tuple[Query, ...], OwnPart | None]:
        """Return the criteria of which all have to fit, and what the gate adds that can drive.

        Who sees but what one Patient owns walks that, not all there is of a type. It comes last.
        """
        parts = _joined(self.lowering, type, where)
        policy = self.lowering.policy
        tree = policy.of(type, self.lowering.right) if policy else All()
        owned = next(iter(_owners(tree)), None)
        if owned is None:
            return parts, None
        return (*parts, owned), OwnPart(len(parts), tree == owned)

    async def choose(self, able: Sequence[Candidate], walked_by: str, *, sorts: bool) -> Choice:
        """Return the candidate that drives, or none for a walk along the type.

        `walked_by` is the parameter whose range could be walked in the order of the search.
        """
        if not able:
            return Choice(None, PROBE_LIMIT)
        able = sorted(able, key=lambda c: c.certain)
        best = able[0]
        if not sorts and (best.certain < UNSURE or (len(able) == 1 and best.ordered)):
            return Choice(best, 0)
        walked = [c for c in able if walked_by and c.parameter == walked_by]
        if walked and len(able) == 1:
            return Choice(walked[0], PROBE_LIMIT)  # its range is the walk
        await self.snapshot()
        otherwise = bool(walked) or any(c.ordered and c.exact for c in able)
        fewest, size = None, PROBE_LIMIT
        known: dict[int, list[int]] = {}
        for candidate in able:
            if candidate in walked or not candidate.exact:
                continue  # a walk is there anyhow; what is implied by another has as many rows
            through = candidate.shape[0] == "through"
            sure = candidate.certain < UNSURE or through
            limit = PROBE_LIMIT if sure or not otherwise else SOME
            if not through:  # whose keys are worth more than its number: else it is a set to find
                limit = min(limit, size)
            found, keys = await self.counted(candidate, limit)
            if found < min(limit, size):
                fewest, size = candidate, found
            if keys is not None:
                known[candidate.place] = keys
                size = min(size, len(common(known)))
            if size <= FEW:
                break
        if fewest is not None:
            return Choice(fewest, size, known)
        if sorts:
            return Choice((walked or able)[0], PROBE_LIMIT, known)
        return Choice(next((c for c in able if c.ordered), None), PROBE_LIMIT, known)

    async def counted(self, candidate: Candidate, limit: int) -> tuple[int, list[int] | None]:
        """Return how many index rows a candidate has, as far as `limit`, and their keys.

        There are no keys where the number is known from before, or the limit was reached.
        """
        known, now = self.catalogue.counts, time.monotonic()
        about = candidate.about or f"{candidate.shape}{candidate.values}"
        keys = None
        count, counted_to, until = known.get(about, (0, 0, 0.0))
        if until < now or (count == counted_to < limit):
            plan = self.catalogue.compiler.probe(candidate.shape, candidate.values, limit)
            ((count, gathered),) = await self.run("probe", plan)
            if len(known) > MOST_COUNTS:
                known.clear()
            known[about] = count, limit, now + COUNT_SECONDS
            keys = db.keys_in(gathered) if count < limit else None
        return min(count, limit), keys

    def first_half(self, type: str, part: Query, place: int) -> Candidate | None:
        """Return the codes that a composite begins with: in key order, as its own rows are not."""
        if not isinstance(part, Match) or part.type != "composite" or len(part.terms) != 1:
            return None
        (term,) = part.terms
        (component, _), *_ = self.catalogue.definitions.components(type, part.parameter)
        if not isinstance(term, Composite) or component.type != "token":
            return None
        code = self.lowering.definitions.search_parameters[type].get(component.code)
        if code is None:
            return None
        found = self.lowering.matches(Match(component.code, "token", term.parts[:1]), type)
        if len(found) != 1 or not operation(found[0][0][2]).ordered:
            return None
        shape, values = found[0]
        return Candidate(place, shape, values, ordered=True, exact=False)

    async def candidate(self, type: str, part: Query, place: int) -> Candidate | None:
        """Return how a criterion can drive, None if it cannot."""
        number = self.catalogue.definitions.type_numbers[type]
        if isinstance(part, Same):
            shape, values = self.lowering.same(part, type)
            if not all(operation(op).drives for names in shape[2:] for op in names):
                return None
            code = part.parts[0].parameter
            own = values * ranges(shape) if shape[1] else [number, *values]
            return Candidate(place, shape, own, False, parameter=code)
        if isinstance(part, Match):
            found = self.lowering.matches(part, type)
            if not found:
                return None
            candidates = []
            for shape, values in found:
                if shape[0] != "match" or not all(operation(op).drives for op in shape[2:]):
                    return None
                own = values * ranges(shape) if shape[1] else [number, *values]
                ordered = len(shape) == 3 and operation(shape[2]).ordered
                certain = max(CERTAIN.get(op, UNSURE) for op in shape[2:])
                candidates.append(Candidate(place, shape, own, ordered, certain, part.parameter))
            return candidates[0] if len(candidates) == 1 else united(place, candidates)
        if isinstance(part, Member):
            center = [self.catalogue.definitions.type_numbers[part.type], part.id]
            return Candidate(place, ("member",), [number, *center, *center], False, 2)
        if isinstance(part, Owned):
            center = [self.catalogue.definitions.type_numbers[part.type], part.id]
            return Candidate(place, ("owned",), [number, *center], False, 2)
        if isinstance(part, Chain | Has):
            return await self.through(type, part, place)
        if isinstance(part, Or):
            every = []
            for one in part.parts:
                candidate = await self.candidate(type, one, place)
                if candidate is None:
                    return None
                every.append(candidate)
            return united(place, every)
        return None

    async def through(self, type: str, part: Chain | Has, place: int) -> Candidate | None:
        """Return how a chain can drive: by the links of the few resources that it hangs on."""
        if isinstance(part, Chain):
            far, owner, kind = part.target, type, "chain"
            links = self.lowering.links(type, part.parameter, part.target)
        else:
            far, owner, kind = part.type, part.type, "has"
            links = self.lowering.links(part.type, part.parameter, type)
        if not links:
            return None
        inner = await self.driven(far, part.part)
        if inner.driver[0] == "all" or inner.size >= PROBE_LIMIT:
            return None
        if inner.driver[0] == "listed":
            inner = await self.fitting(far, inner)
        if nested(inner.driver) + nested(inner.rest) >= MOST_NESTED:
            return None
        candidates = []
        policy = self.lowering.policy.digest if self.lowering.policy else ""
        for table in links:
            values: list[Any] = [self.lowering.params[owner, part.parameter]]
            if table == "uri":
                named = part.target if isinstance(part, Chain) else type
                values += [self.lowering.params[named, name] for name in ("url", "version")]
            shape = ("through", kind, table, inner.driver, inner.rest, inner.gate)
            own = [*values, *inner.values]
            about = f"{table} {type} {part} {policy}"
            candidates.append(Candidate(place, shape, own, ordered=False, about=about))
        return candidates[0] if len(candidates) == 1 else united(place, candidates)

    async def fitting(self, type: str, found: Driven) -> Driven:
        """Return, of keys that are at hand, those that fulfil the rest and pass the gate."""
        if (found.driver, found.rest, found.gate) == (("listed", True), ("all",), ("all",)):
            return found
        plan = self.catalogue.compiler.fitting(*found[:4])
        ((gathered,),) = await self.run("fitting", plan)
        values = [db.keys_in(gathered), self.catalogue.definitions.type_numbers[type]]
        return found._replace(driver=("listed", True), rest=("all",), gate=("all",), values=values)


def common(known: Mapping[int, list[int]]) -> set[int]:
    """Return the keys that are in all of some lists, of which there is one at least."""
    first, *others = known.values()
    return set(first).intersection(*others)


def nested(shape: Shape) -> int:
    """Return how many links are walked inside each other."""
    inside = max((nested(part) for part in shape if isinstance(part, tuple)), default=0)
    return inside + (shape[0] in ("through", "of few"))


def _owners(tree: Query) -> set[Owned]:
    """Return what a tree says of the owner of all that it finds."""
    match tree:
        case Owned():
            return {tree}
        case And(parts):
            return {owned for part in parts for owned in _owners(part)}
        case Or(parts):
            return set.intersection(*(_owners(part) for part in parts))
    return set()


def _all_of(shapes: Sequence[Shape]) -> Shape:
    return ("and", *shapes) if shapes else ("all",)


def united(place: int, candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate that finds what any of these find."""
    shape = ("union", *(c.shape for c in candidates))
    about = " or ".join(c.about or f"{c.shape}{c.values}" for c in candidates)
    values = [v for c in candidates for v in c.values]
    return Candidate(place, shape, values, ordered=False, about=about)


def _joined(lowering: Lowering, type: str, where: Query) -> tuple[Query, ...]:
    """Return the criteria of which all have to fit, those on the same single value as one."""
    found: list[Query] = []
    ranges: dict[str, list[Match]] = {}
    for part in parts_of(where):
        if isinstance(part, Match) and part.type in ("date", "number"):
            ranges.setdefault(part.parameter, []).append(part)
        else:
            found.append(part)
    for code, matches in ranges.items():
        single = code == "_lastUpdated" or lowering.kinds(type)[code].single
        if single and len(matches) > 1:
            found.append(Same(tuple(matches)))
        else:
            found += matches
    return tuple(found)


def parts_of(where: Query) -> tuple[Query, ...]:
    """Return the criteria of which all have to fit."""
    if isinstance(where, And):
        return tuple(one for part in where.parts for one in parts_of(part))
    return () if isinstance(where, All) else (where,)


def _bounds(part: Query, code: str) -> bool:
    one = part.parts[0] if isinstance(part, Same) else part
    return isinstance(one, Match) and one.parameter == code and one.type == "date"
