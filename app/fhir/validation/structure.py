"""The structure of a resource: every element known, of its type, as often as allowed.

https://hl7.org/fhir/R4/json.html and https://hl7.org/fhir/R4/conformance-rules.html

Rule 1: one traversal. Rule 2: what is accepted costs no path: a check returns None, or its issues
with places relative to the value it was given, and whoever called it puts its own name in front.
Rule 3: a text never quotes a value.

Each structure becomes one closure, made when a resource first needs it. It walks the properties
that are there (not those that could be): `accept` answers for single texts, which are most, by one
call into C; `checks` holds a closure for every property, also for the texts that were refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from app.fhir.definitions import Definitions, Element, Structure
from app.fhir.errors import Issue
from app.fhir.path import Model
from app.fhir.validation.invariants import IN_WORDS, Rule, Within, rules
from app.fhir.validation.primitives import Accepts, Fault, Primitive, coded, primitive
from app.fhir.validation.references import faults, is_plain

Resource = dict[str, Any]
Found = list[Issue] | None
Check = Callable[[Any, Within], Found]
Property = Callable[[Any, Resource, Within], Found]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

# An issue of these types leaves the shape of the JSON in doubt, so invariants are not asked
SHAPELESS = {"structure", "value", "too-long"}

# The invariants that only a resource with contained ones can break: asked where these are checked
OF_CONTAINED = {"dom-2", "dom-3", "dom-4", "dom-5"}

ELE_1 = "ele-1: Must have a value or children"

# Issues that one answer may carry, so that a hostile body cannot make it grow without end
MOST = 500

# terminologies.html#required: the types whose codes are compared with a value set
CODED = {"Coding", "CodeableConcept", "Quantity"}


def error(code: str, text: str, place: str = "") -> Issue:
    """Return an issue of severity error."""
    return Issue("error", code, text, place)


def found(faults: Iterable[Fault], place: str) -> Found:
    """Return faults as issues at a place, None for no fault."""
    return [error(code, text, place) for code, text in faults] or None


def under(issues: list[Issue], place: str) -> list[Issue]:
    """Return issues with their places named from one level higher."""
    return [issue.under(place) for issue in issues]


class Tables(NamedTuple):
    """What is known of a structure's properties, by JSON key.

    `accept` answers for single texts by one call, `checks` for everything; `needed` are required
    elements (a key, the other keys that will do, the name), `choices` the keys of each choice and
    its name, `own` the structure's invariants.
    """

    accept: dict[str, Accepts]
    checks: dict[str, Property]
    needed: list[tuple[str, frozenset[str], str]]
    choices: list[tuple[frozenset[str], str]]
    own: list[Rule]


class Validator:
    """Checks resources against the base specification; keeps what it compiled, not what it saw."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.model = Model(definitions)
        self.resource_types = frozenset(definitions.resource_types)
        self.shapes: dict[str, Check] = {}
        self.primitives: dict[str, Primitive] = {}
        domain = definitions.structures["DomainResource"]
        lent = rules(domain.constraints, domain.name, self.model)
        self.of_contained = [rule for rule in lent if rule.key in OF_CONTAINED]
        element = next(one for one in domain.elements if one.name == "contained")
        self.all_contained = several(self.resource, element)

    def validate(self, resource: dict[str, Any], *, place: str | None = None) -> list[Issue]:
        """Return every problem of a resource, in the order of its JSON; empty for a valid one.

        Places start with the resource's type (`Patient.name[0].family`), or with `place`
        (`Bundle.entry[3].resource`).
        """
        issues = self.resource(resource, None)
        if not issues:
            return []
        name = resource.get("resourceType")
        if len(issues) > MOST:
            issues = [
                *issues[:MOST],
                error("too-costly", f"More than {MOST} problems; these are the first"),
            ]
        start = place or (name if isinstance(name, str) and name in self.resource_types else "")
        return under(issues, start) if start else issues

    def resource(self, value: Any, around: Within | None) -> Found:
        """Check a resource by the type that it says it has; `around` is where it is contained."""
        if type(value) is not dict:
            return [error("structure", "Must be an object: a resource")]
        name = value.get("resourceType")
        if type(name) is not str or name not in self.resource_types:
            return [error("structure", "resourceType must be the name of an R4 resource type")]
        return self.shape(name)(value, Within(value, around))

    def shape(self, name: str) -> Check:
        """Return the check of a structure; its tables are filled when it is first used."""
        if name not in self.shapes:
            self.shapes[name] = self.compiled(self.definitions.structures[name])
        return self.shapes[name]

    def compiled(self, structure: Structure) -> Check:
        """Return the closure that checks one object of a structure."""
        name = structure.name
        may_be_bare = name == "Element"  # what stands beside a primitive, whose value is elsewhere
        tables: Tables | None = None

        def check(value: Any, within: Within) -> Found:
            nonlocal tables
            if type(value) is not dict:
                return [error("structure", f"Must be an object ({name})")]
            if tables is None:
                tables = self.tables(structure)
            accept, checks, needed, choices, own = tables
            issues: list[Issue] = []
            for key, one in value.items():
                test = accept.get(key)
                if test is not None and type(one) is str and test(one):
                    continue
                inner = checks.get(key)
                if inner is None:
                    issues.append(unknown(key, name))
                elif more := inner(one, value, within):
                    issues += more
                if len(issues) > MOST:
                    break
            for first, others, label in needed:
                if first not in value and others.isdisjoint(value):
                    issues.append(error("required", f"{label} is required", label))
            if len(value) < 2 and (not value or ("id" in value and not may_be_bare)):
                issues.append(error("structure", ELE_1))
            for keys, label in choices:
                if len(keys & value.keys()) > 1 and several_types(keys, value):
                    text = f"{label}[x] must have one type only"
                    issues.append(error("structure", text, label))
            if not issues or sound(issues):
                for rule in own:
                    if not rule.holds(value, within):
                        issues.append(broken(rule))
            return issues

        return check

    def tables(self, structure: Structure) -> "Tables":
        """Return the tables of a structure's check."""
        made = Tables({}, {}, [], [], [])
        for element in structure.elements:
            properties = dict(self.properties(structure, element))
            made.checks.update(properties)
            if element.min:
                key, *others = properties
                made.needed.append((key, frozenset(others), element.name))
            if element.choice:
                made.choices.append((frozenset(properties), element.name))
            elif not (element.many or element.constraints):
                code = self.type_of(structure, element, element.types[0])
                if self.is_primitive(code) and (test := self.primitive(code, element).accepts):
                    made.accept[element.name] = test
        if structure.kind == "resource":
            made.accept["resourceType"] = structure.name.__eq__
        if structure.name == "Extension":
            made.own.append(EXT_1)
            made.choices.clear()  # EXT_1 counts them
        made.own.extend(IN_WORDS.get(structure.name, ()))
        lent = rules(structure.constraints, structure.name, self.model)
        made.own.extend(rule for rule in lent if rule.key not in OF_CONTAINED)
        return made

    def properties(self, structure: Structure, element: Element) -> Iterator[tuple[str, Property]]:
        """Yield the JSON properties of an element, each with its check."""
        for given in element.types:
            key = element.name + given[0].upper() + given[1:] if element.choice else element.name
            code = self.type_of(structure, element, given)
            if code == "Resource":
                yield key, self.contained if element.name == "contained" else self.nested(element)
            elif not self.is_primitive(code):
                held = several if element.many else single
                yield key, held(self.object(element, code), element)
            else:
                alone, beside = (values, extras) if element.many else (lone, extra)
                check = alone(self.primitive(code, element), element, key)
                yield key, self.ruled(check, element)
                if not is_attribute(structure, element):
                    yield "_" + key, beside(self.shape("Element"), element, key)

    def type_of(self, structure: Structure, element: Element, given: str) -> str:
        """Return an element's type; a resource's own id is an `id`, not the string defined."""
        return "id" if structure.kind == "resource" and element.name == "id" else given

    def is_primitive(self, code: str) -> bool:
        """Return whether a type is a primitive."""
        return self.definitions.structures[code].kind == "primitive-type"

    def primitive(self, code: str, element: Element) -> Primitive:
        """Return the checks of a primitive, with the value set of a required binding."""
        codes = self.definitions.codes.get(element.binding or "")
        if codes and element.binding and code in {"code", "uri", "string"}:
            return coded(code, codes, element.binding)
        if code not in self.primitives:
            self.primitives[code] = primitive(self.definitions.structures[code])
        return self.primitives[code]

    def object(self, element: Element, code: str) -> Check:
        """Return the check of an object as this element holds it: type, target, binding, rules."""
        further = [*self.of_reference(element, code), *self.of_binding(element, code)]
        lent = rules(element.constraints, code, self.model)
        return followed(self.shape(code), further, lent) if further or lent else self.shape(code)

    def of_reference(self, element: Element, code: str) -> Iterator[Check]:
        """Yield the check of what a Reference points at."""
        if code == "Reference":
            known = self.resource_types
            targets = frozenset(element.targets)
            common = targets or known

            def check(value: Any, within: Within) -> Found:
                if is_plain(value, common):
                    return None
                return found(faults(value, targets, known, within), "reference")

            yield check

    def of_binding(self, element: Element, code: str) -> Iterator[Check]:
        """Yield the check of a required binding of an object (terminologies.html#required).

        Codings without a code are left alone, as is a CodeableConcept with text only.
        """
        codes = self.definitions.codes.get(element.binding or "")
        if codes and code in CODED:
            text = f"None of the codes is in the value set {element.binding}"

            def check(value: Any, _: Within) -> Found:
                codings = value.get("coding", ()) if code == "CodeableConcept" else (value,)
                pairs = [(one["code"], one.get("system")) for one in codings if "code" in one]
                if not pairs or any(codes.get(c) == system and system for c, system in pairs):
                    return None
                return [error("code-invalid", text)]

            yield check

    def ruled(self, check: Property, element: Element) -> Property:
        """Return a primitive's check with the invariants of its element (eld-3, ...)."""
        lent = rules(element.constraints, element.types[0], self.model)
        if not lent:
            return check

        def ruled(value: Any, owner: Resource, within: Within) -> Found:
            return check(value, owner, within) or [
                issue
                for one in (value if element.many else (value,))
                for issue in under(asked(lent, one, within), element.name)
            ]

        return ruled

    def nested(self, element: Element) -> Property:
        """Return the check of a property that holds a resource, as Bundle.entry.resource does."""
        return single(lambda value, _: self.resource(value, None), element)

    def contained(self, value: Any, owner: Resource, within: Within) -> Found:
        """Check contained resources: each by its type, with an id of its own (references.html)."""
        issues = self.all_contained(value, owner, within) or []
        if type(value) is list:
            seen: set[Any] = set()
            for n, one in enumerate(value):
                name = one.get("id") if isinstance(one, dict) else None
                if isinstance(one, dict) and name is None:
                    issues.append(error("required", "id is required", f"contained[{n}].id"))
                elif isinstance(name, str) and name in seen:
                    text = "Contained resources must have different ids"
                    issues.append(error("invariant", text, f"contained[{n}].id"))
                seen.add(name if isinstance(name, str) else None)
        if sound(issues):
            issues += asked(self.of_contained, owner, within)
        return issues


# --- Objects --------------------------------------------------------------------------------------


def single(check: Check, element: Element) -> Property:
    """Return the check of a property that holds one value."""
    label = element.name

    def property(value: Any, owner: Resource, within: Within) -> Found:  # noqa: ARG001
        more = check(value, within)
        return under(more, label) if more else None

    return property


def several(check: Check, element: Element) -> Property:
    """Return the check of a property that holds an array."""
    label, most = element.name, element.max

    def property(value: Any, owner: Resource, within: Within) -> Found:  # noqa: ARG001
        if type(value) is not list or not value or (most and len(value) > most):
            return array_fault(value, element)
        issues: list[Issue] = []
        for n, one in enumerate(value):
            if more := check(one, within):
                issues += under(more, f"{label}[{n}]")
                if len(issues) > MOST:
                    break
        return issues

    return property


def followed(check: Check, further: list[Check], lent: tuple[Rule, ...]) -> Check:
    """Return a check with others behind it, which are asked when the shape is right."""

    def both(value: Any, within: Within) -> Found:
        issues = check(value, within) or []
        if issues and not sound(issues):
            return issues
        for one in further:
            if more := one(value, within):
                issues += more
        if lent:
            issues += asked(lent, value, within)
        return issues

    return both


# --- Primitives -----------------------------------------------------------------------------------


def lone(checks: Primitive, element: Element, key: str) -> Property:  # noqa: ARG001
    """Return the check of a property that holds one primitive."""
    label, accepts, fault = element.name, checks.accepts, checks.fault

    def property(value: Any, owner: Resource, within: Within) -> Found:  # noqa: ARG001
        if type(value) is str and accepts is not None and accepts(value):
            return None
        faults = fault(value)
        return found(faults, label) if faults else None

    return property


def values(checks: Primitive, element: Element, key: str) -> Property:
    """Return the check of an array of primitives; null only where `_key` has something to say."""
    accepts, fault, beside = checks.accepts, checks.fault, "_" + key

    def property(value: Any, owner: Resource, within: Within) -> Found:  # noqa: ARG001
        if type(value) is not list or not value or (element.max and len(value) > element.max):
            return array_fault(value, element)
        issues: list[Issue] = []
        for n, one in enumerate(value):
            if type(one) is str and accepts is not None and accepts(one):
                continue
            if len(issues) > MOST:
                break
            place = f"{element.name}[{n}]"
            if one is not None:
                issues += found(fault(one), place) or ()
            elif not at(owner.get(beside), n):
                text = f"null needs an id or an extension at the same place of {beside}"
                issues.append(error("structure", text, place))
        return issues

    return property


def extra(check: Check, element: Element, key: str) -> Property:
    """Return the check of the object beside a primitive: an id alone needs a value (ele-1)."""
    label = element.name

    def property(value: Any, owner: Resource, within: Within) -> Found:
        if type(value) is dict and owner.get(key) is None and value.keys() == {"id"}:
            return [error("structure", ELE_1, label)]
        return under(check(value, within) or [], label)

    return property


def extras(check: Check, element: Element, key: str) -> Property:
    """Return the check of the array beside an array of primitives (json.html#null)."""
    label = element.name

    def property(value: Any, owner: Resource, within: Within) -> Found:
        if type(value) is not list or not value:
            return array_fault(value, element)
        issues: list[Issue] = []
        array = owner.get(key)
        if type(array) is list and len(array) != len(value):
            text = f"{label} and _{label} must have the same length"
            issues.append(error("structure", text, label))
        for n, one in enumerate(value):
            if len(issues) > MOST:
                break
            place = f"{label}[{n}]"
            if type(one) is dict and one.keys() == {"id"} and at(array, n) is None:
                issues.append(error("structure", ELE_1, place))
            elif one is not None:
                issues += under(check(one, within) or [], place)
            elif array is None:
                text = f"null needs a value at the same place of {label}"
                issues.append(error("structure", text, place))
        return issues

    return property


def at(array: Any, place: int) -> Any:
    """Return what an array holds at a place, None where it does not reach."""
    return array[place] if type(array) is list and place < len(array) else None


# --- Issues ---------------------------------------------------------------------------------------


def array_fault(value: Any, element: Element) -> list[Issue]:
    """Return what is wrong with a value that should be an array of so many items."""
    if type(value) is not list:
        return [error("structure", "Must be an array", element.name)]
    if not value:
        return [error("structure", "Must not be an empty array", element.name)]
    return [error("structure", f"Must have at most {element.max} items", element.name)]


def unknown(key: str, name: str) -> Issue:
    """Return the issue of a property that the structure does not have."""
    if NAME.fullmatch(key):
        return error("structure", f"{name} has no property {key}", key)
    return error("structure", f"{name} has a property whose name no element has")


def is_attribute(structure: Structure, element: Element) -> bool:
    """Return whether an element is an attribute in XML, or XHTML, and so without extensions."""
    return (
        element.name == "id"
        or element.types == ("xhtml",)
        or (structure.name == "Extension" and element.name == "url")
    )


def is_value_or_extensions(value: Any, within: Within) -> bool:  # noqa: ARG001
    """ext-1, and the choice of value[x]: an extension holds extensions or one value, not both."""
    nested = "extension" in value
    others = len(value) - nested - ("url" in value) - ("id" in value)
    if others < 2:
        return nested is not (others == 1)
    return not nested and others == 2 and not several_types(frozenset(value) - {"url", "id"}, value)


EXT_1 = Rule(
    "ext-1", "Must have either extensions or one value[x], not both", is_value_or_extensions
)


def several_types(keys: Iterable[str], value: Resource) -> bool:
    """Return whether an object has more than one of `keys`; `_x` is part of `x`."""
    return len({key.removeprefix("_") for key in keys if key in value}) > 1


def sound(issues: list[Issue]) -> bool:
    """Return whether the shape of a value is right in spite of its issues."""
    return not any(issue.code in SHAPELESS for issue in issues)


def asked(lent: Iterable[Rule], value: Any, within: Within) -> list[Issue]:
    """Return the issues of the rules that do not hold."""
    return [broken(rule) for rule in lent if not rule.holds(value, within)]


def broken(rule: Rule) -> Issue:
    """Return the issue of an invariant that does not hold."""
    return error("invariant", f"{rule.key}: {rule.human}")
