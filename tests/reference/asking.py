"""Searches of a world that have something to find: they ask for what is there, more or less.

The parameters are those of the definitions; the values are read from the resources and written in
one of the ways in which they can be asked for, or come from somewhere else.
"""

from collections.abc import Iterator
from functools import cache

from app.fhir.definitions import SearchParameter
from tests.reference.paths import Resource, Value, within
from tests.reference.rules import EVER, UCUM, amounts, labels, strings
from tests.reference.search import World
from tests.reference.worlds import ELSEWHERE, FORMS, MAKERS, TYPES, Dice

Pair = tuple[str, str]
Search = tuple[str, list[Pair]]

PREFIXES = ("", "", "", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
ORDERED = ("date", "number", "quantity")
LEFT_OUT = ("_text", "_content", "_filter", "_query", "near")  # no FHIRPath says what they mean
SHARED = ("_tag", "_security", "_profile", "_lastUpdated", "_id")
MODIFIERS = {
    "token": ("not", "text", "of-type", "missing"),
    "string": ("exact", "contains", "missing"),
    "reference": (*MAKERS, *["identifier", "missing"] * 3, "below", "above"),
    "uri": ("below", "above", "missing"),
}
OTHERS = {
    "token": ("one", "urn:a|two", "urn:a|", "|One", "final", "true", "a\\,b"),
    "string": ("a", "v", "o'n", "the", "MARSH"),
    "date": ("2020", "2020-02", "2020-02-29", "2020-02-29T12:00", "2019", "2021-07-01T00:00:00Z"),
    "quantity": ("5", "5.4", "5e3", f"0.005|{UCUM}|g", f"5|{UCUM}|", "5||mg"),
    "number": ("1", "0.8", "8e-1", "70"),
    "reference": ("p0", "Patient/nobody", ELSEWHERE, "Organization/g1"),
    "uri": (FORMS, FORMS + "phq", "http://example.org/p"),
}


FEW = 10  # types of targets: a chain without a type is one for each of them


def escaped(text: str) -> str:
    """Return a text as a part of a value (search.html#escaping)."""
    for special in ("\\", ",", "|", "$"):
        text = text.replace(special, f"\\{special}")
    return text


class Asking:
    """What can be asked about a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.types = sorted({one["resourceType"] for one in world.resources.values()})
        self.links = sorted(
            {
                (type, code, target["resourceType"])
                for type in self.types
                for one in world.of_type(type)
                for code in world.reference_codes(one)
                for target in world.targets(one, code)
            }
        )
        self.lively = cache(self._lively)
        self.terms = cache(self._terms)

    def search(self, dice: Dice) -> Search:
        """Return a path and the pairs of a search: of one type or all, perhaps in a compartment."""
        about = dice.one(*["type"] * 6, "compartment", "everything")
        if about == "everything":
            return self.everything(dice)
        type = dice.one(*self.types)
        pairs = [self.criterion(dice, type, 2) for _ in range(dice.one(1, 1, 1, 2, 2, 3, 0))]
        if dice.one(True, False):
            codes = dice.random.sample(self.sortable(type), dice.one(1, 2))
            pairs.append(("_sort", ",".join(dice.one("", "-") + code for code in codes)))
        if self.links:
            pairs += [self.include(dice, type) for _ in range(dice.one(0, 0, 1, 2))]
        places = self.compartments(type) if about == "compartment" else []
        return f"{dice.one(*places)}/{type}" if places else type, pairs

    def everything(self, dice: Dice) -> Search:
        """Return a search of several types, or of all in a compartment."""
        code = dice.one(*SHARED)
        type = dice.one(*self.types)
        pairs = [(code, dice.one(*self.terms(type, code), *self.others(self.known(type)[code])))]
        if dice.one(True, False):
            pairs.append(("_type", ",".join(dict.fromkeys((type, dice.one(*self.types))))))
        if dice.one(True, False):
            pairs.append(("_sort", dice.one("_lastUpdated", "-_lastUpdated,_id", "_id", "-_tag")))
        places = self.compartments("")
        return f"{dice.one(*places)}/*" if places and dice.one(True, False) else "", pairs

    def compartments(self, type: str) -> list[str]:
        """Return the places in whose compartment there may be resources of a type ("" for any)."""
        defined = self.world.definitions.compartments
        kinds = [kind for kind in defined if not type or (type in defined[kind] and type != kind)]
        return [place for place in self.world.resources if place.split("/")[0] in kinds]

    def criterion(self, dice: Dice, type: str, depth: int) -> Pair:
        """Return one criterion, perhaps at the end of a chain."""
        way = dice.one("own", "own", "chain", "has", "list") if depth else "own"
        onward = [link for link in self.links if link[0] == type]
        back = [link for link in self.links if link[2] == type]
        if way == "chain" and onward:
            _, code, target = dice.one(*onward)
            name, value = self.criterion(dice, target, depth - 1)
            few = len(self.known(type)[code].target) <= FEW
            return f"{code}{dice.one(f':{target}', '') if few else f':{target}'}.{name}", value
        if way == "has" and back:
            source, code, _ = dice.one(*back)
            name, value = self.criterion(dice, source, depth - 1)
            return f"_has:{source}:{code}:{name}", value
        if way == "list" and depth == 2 and ("List", "item", type) in self.links:
            return "_list", dice.one("z0", "z1")
        return self.own(dice, type)

    def own(self, dice: Dice, type: str) -> Pair:
        """Return one criterion about the resource itself, perhaps with a modifier."""
        about = dice.one("own", "own", "own", "own", "inherited", "any")
        codes = [code for code in self.lively(type) if code.startswith("_") == (about != "own")]
        code = dice.one(*(codes if codes and about != "any" else self.known(type)))
        kind = self.known(type)[code].type
        modifier = dice.one(*[""] * 4, *MODIFIERS.get(kind, ("missing",)))
        if modifier == "missing" and code not in ("_id", "_lastUpdated"):
            return f"{code}:missing", dice.one("true", "false")
        if modifier and (asked := self.modified(type, code, modifier)):
            return f"{code}:{modifier}", dice.one(*asked)
        seen = self.terms(type, code)
        others = self.others(self.known(type)[code])
        prefixes = PREFIXES if kind in ORDERED else ("",)
        terms = [
            dice.one(*prefixes) + dice.one(*seen * 3, *others) for _ in range(dice.one(1, 1, 2))
        ]
        return code, ",".join(terms)

    def include(self, dice: Dice, type: str) -> Pair:
        """Return one `_include` or `_revinclude`."""
        way = dice.one("_include", "_revinclude")
        iterate = dice.one("", "", ":iterate")
        place = 0 if way == "_include" else 2
        fitting = [link for link in self.links if iterate or link[place] == type] or self.links
        form = dice.one("{}:{}", "{}:{}", "{}:{}:{}", "{}:*")
        return way + iterate, form.format(*dice.one(*fitting))

    # --- what there is --------------------------------------------------------------------------

    def known(self, type: str) -> dict[str, SearchParameter]:
        """Return the parameters of a type that are asked for."""
        own = self.world.definitions.search_parameters[type]
        return {code: one for code, one in own.items() if code not in LEFT_OUT}

    def sortable(self, type: str) -> list[str]:
        """Return the parameters of a type by which it is sorted."""
        lively = [code for code in self.lively(type) if self.known(type)[code].type != "composite"]
        return list(dict.fromkeys([*lively, "_id", "_lastUpdated"]))

    def _lively(self, type: str) -> tuple[str, ...]:
        """Return the parameters for which some resource of the type has a value to ask for."""
        return tuple(code for code in sorted(self.known(type)) if self.terms(type, code))

    def _terms(self, type: str, code: str) -> tuple[str, ...]:
        """Return ways to ask for the values that the resources of a type have."""
        if code == "_id":
            return tuple(sorted(one["id"] for one in self.world.of_type(type)))
        if code == "_lastUpdated":
            return ("2026", "2026-05-28")
        parameter = self.known(type)[code]
        found = {
            term
            for one in self.world.of_type(type)
            for value in self.world.values(one, code)
            for term in (
                self.composed(parameter, value, one)
                if parameter.type == "composite"
                else self.written(parameter, value)
            )
        }
        return tuple(sorted(found))

    def others(self, parameter: SearchParameter) -> tuple[str, ...]:
        """Return values for a parameter that come from nowhere."""
        if parameter.type == "composite":
            kinds = [self.world.by_url[component.code].type for component in parameter.components]
            return ("$".join(OTHERS[kind][0] for kind in kinds),)
        return OTHERS[parameter.type] if parameter.code != "_id" else ("nobody",)

    def composed(
        self, parameter: SearchParameter, element: Value, resource: Resource
    ) -> Iterator[str]:
        """Yield terms for the parts of one element, joined by dollar signs."""
        parts = [
            [
                term
                for value in within(element, component.expression, resource)
                for term in self.written(self.world.by_url[component.code], value)
            ]
            for component in parameter.components
        ]
        if all(parts):
            for n in range(max(map(len, parts))):
                yield "$".join(part[n % len(part)] for part in parts)

    def written(self, parameter: SearchParameter, value: Value) -> Iterator[str]:
        """Yield ways to ask for one value."""
        match parameter.type:
            case "token":
                for one in self.world.codes.of(value):
                    if one.code:
                        yield escaped(one.code)
                        yield escaped(one.code).upper()
                        yield f"{one.system}|{escaped(one.code)}"
                    if one.system:
                        yield f"{one.system}|"
            case "string":
                for text in strings(value):
                    yield from (escaped(text), escaped(text[:1]), escaped(text[:3].upper()))
            case "date" if isinstance(value.data, str):
                yield value.data
                yield value.data[:7]
            case "date":
                yield from (text for text in value.data.values() if isinstance(text, str))
            case "quantity" | "number":
                for amount in amounts(value):
                    number = next(str(end) for end, _ in amount.span if end not in (-EVER, EVER))
                    yield number
                    if parameter.type == "number":
                        continue
                    yield f"{number}||{amount.unit or amount.code}"
                    yield f"{number}|{amount.system}|{amount.code}"
                    yield f"{number}|{UCUM}|{amount.code or 'g'}"
            case "uri" | "reference" if value.type in ("canonical", "uri"):
                yield escaped(value.data)
                yield value.data.partition("|")[0]
            case "reference":
                place = self.world.pointed(value)
                if place:
                    yield place
                if place in self.world.resources:
                    yield place.split("/")[1]
                    yield f"{self.world.base_url}/{place}"

    def modified(self, type: str, code: str, modifier: str) -> tuple[str, ...]:
        """Return what can be asked with a modifier, () where that makes no sense here."""
        values = [
            value for one in self.world.of_type(type) for value in self.world.values(one, code)
        ]
        match modifier:
            case "missing":
                return ()
            case "not":
                return self.terms(type, code)
            case "text":
                return tuple(
                    sorted({text[:n] for v in values for text in labels(v) for n in (3, 9) if text})
                )
            case "of-type":
                found = {v.data["value"] for v in values if v.type == "Identifier"}
                return tuple(f"{TYPES}|MR|{text}" for text in sorted(found))
            case "exact" | "contains":
                texts = {text for v in values for text in strings(v)}
                return tuple(escaped(t) for t in sorted(texts | {t[1:4] for t in texts}))
            case _ if modifier in MAKERS:
                known = (type, code, modifier) in self.links
                return tuple(one["id"] for one in self.world.of_type(modifier)) if known else ()
            case "identifier":
                return ("urn:a|1", "1") if values and values[0].type == "Reference" else ()
            case _ if self.known(type)[code].type == "reference":
                trees = [place for place in self.world.resources if place[:2] in ("Lo", "Or")]
                kinds = [link[2] for link in self.links if link[:2] == (type, code)]
                return tuple(place for place in trees if place.split("/")[0] in kinds)
            case _:
                uris = {v.data.partition("|")[0] for v in values}
                below = {uri.rpartition("/")[0] + "/" for uri in uris}
                above = {f"{uri}/more" for uri in uris}
                return tuple(sorted(uris | (below if modifier == "below" else above)))
