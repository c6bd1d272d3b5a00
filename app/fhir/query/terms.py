"""What one value of a search asks for: from its text to a term of the tree.

https://hl7.org/fhir/R4/search.html#ptypes

ValueError says what was expected; the caller knows the name of the parameter.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo

from app.fhir.definitions import Definitions, SearchParameter
from app.fhir.query.tree import Composite, Near, Ordered, Term, TypedIdentifier
from app.fhir.values import (
    NORM_LENGTH,
    Reference,
    fold,
    is_id,
    parse_date,
    parse_number,
    parse_quantity,
    parse_reference,
    parse_token,
    split_escaped,
    split_prefix,
    unescape,
    widen,
    words,
)

# location.html#near: the units of a distance, in kilometres; without a unit it is kilometres
KILOMETRES: Mapping[str, float] = {
    "": 1.0,
    "km": 1.0,
    "m": 0.001,
    "[mi_i]": 1.609344,
    "[mi_us]": 1.609347218694,
    "[ft_i]": 0.0003048,
}
DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,30})?")
NEAR_KILOMETRES = 10.0  # where no distance is given: location.html#near leaves it to the server
# What is searched in whole texts (search.html#text)
TEXTS = frozenset({"_text", "_content"})
MOST_WORDS = 50
# A resource's place below another of its type: the parameter that says so
HIERARCHIES = ("partof", "part-of")


def hierarchy(definitions: Definitions, type: str) -> str:
    """Return the parameter that places a resource of a type below another of it, "" for none."""
    for code in HIERARCHIES:
        if code in definitions.search_parameters[type] and type in definitions.targets(type, code):
            return code
    return ""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads values as of `now`; a zone and a base URL complete what the text leaves out."""

    base_url: str
    zone: tzinfo
    now: int
    definitions: Definitions

    def term(
        self, type: str, parameter: SearchParameter, modifier: str, named: str, text: str
    ) -> Term:
        """Return the term of one value of a parameter under a modifier.

        `named` is the type that the modifier of a reference gives.
        """
        if not text:
            raise ValueError("an empty value between commas")
        if parameter.code in TEXTS:
            return _words(text)
        if parameter.code == "_id":
            if not is_id(text):
                raise ValueError("an id is 1 to 64 characters of A-Z a-z 0-9 - .")
            return text
        if parameter.type == "reference" and modifier != "identifier":
            return self.reference(unescape(text), type, parameter.code, named)
        if modifier in ("below", "above") and parameter.type == "token":
            token = parse_token(text)
            if not token.system or not token.code:
                raise ValueError("a hierarchy is one of a code system: expected system|code")
            return token
        if parameter.type == "uri" and modifier:
            return _tree(text)
        if read := BY_MODIFIER.get(modifier):
            return read(text)
        if parameter.type == "composite":
            return self.composite(type, parameter, text)
        if parameter.type == "date":
            prefix, rest = split_prefix(text)
            interval = parse_date(rest, self.zone)
            return Ordered(prefix, widen(interval, self.now) if prefix == "ap" else interval)
        return BY_TYPE[parameter.type](text)

    def composite(self, type: str, parameter: SearchParameter, text: str) -> Composite:
        """Return the terms of a composite, joined by `$` (search.html#composite)."""
        components = self.definitions.components(type, parameter.code)
        parts = split_escaped(text, "$")
        if len(parts) != len(components):
            form = "$".join(component.code for component, _ in components)
            raise ValueError(f"a value must look like {form}")
        terms = []
        for (component, _), part in zip(components, parts, strict=True):
            try:
                terms.append(self.term(type, component, "", "", part))
            except ValueError as error:
                raise ValueError(f"{component.code}: {error}") from None
        return Composite(tuple(terms))

    def reference(self, text: str, type: str, code: str, named: str) -> Reference:
        """Return where the text points; a bare id leaves the type open (search.html#reference).

        A version is refused, because to leave it out would find other versions as well.
        """
        types = self.definitions.type_numbers
        targets = self.definitions.targets(type, code)
        if is_id(text) and text not in types:
            return Reference(id=text, type=named or (targets[0] if len(targets) == 1 else ""))
        found = parse_reference(text, self.base_url)
        if found.type and found.version and not found.url:
            raise ValueError("a reference to one version of a resource cannot be searched for")
        if found.id and found.type not in types:
            raise ValueError("expected an id, Type/id or a URL")
        if not found.id and not found.url:
            raise ValueError("expected an id, Type/id or a URL")
        if named and found.type != named:
            raise ValueError(f"expected the id of a {named}")
        return found

    def check_hierarchy(self, targets: tuple[str, ...]) -> None:
        """Refuse `:below` and `:above` where no target type can stand below another."""
        if not any(hierarchy(self.definitions, target) for target in targets):
            raise ValueError("its targets are not in a hierarchy, so it has no :below and :above")


def _string(text: str) -> str:
    folded = fold(unescape(text))
    if not folded:
        raise ValueError("a text must have more than white space and accents")
    if len(folded) > NORM_LENGTH:  # the index knows no more of a text
        raise ValueError(f"a text of more than {NORM_LENGTH} characters is too long")
    return folded


def _exact(text: str) -> str:
    _string(text)
    found = unescape(text)
    if len(found) > NORM_LENGTH:
        raise ValueError(f"a text of more than {NORM_LENGTH} characters is too long")
    return found


def _tree(text: str) -> str:
    """Return a URL, which alone has something above and below it (search.html#uri)."""
    found = unescape(text)
    if "://" not in found:
        raise ValueError("only a URL has others above and below it")
    return found


def _number(text: str) -> Ordered:
    prefix, rest = split_prefix(text)
    return Ordered(prefix, parse_number(rest))


def _quantity(text: str) -> Ordered:
    prefix, rest = split_prefix(text)
    return Ordered(prefix, parse_quantity(rest))


def _of_type(text: str) -> TypedIdentifier:
    parts = [unescape(part) for part in split_escaped(text, "|")]
    if len(parts) != 3 or not all(parts):
        raise ValueError("an identifier with its type must look like system|code|value")
    return TypedIdentifier(*parts)


def _near(text: str) -> Near:
    """Return `[latitude]|[longitude]|[distance]|[units]` (location.html#near)."""
    parts = [*text.split("|"), "", ""]
    form = "a place must look like 42.25|-83.69|11.2|km"
    if not 4 <= len(parts) <= 6:
        raise ValueError(form)
    if not all(DECIMAL.fullmatch(part) for part in parts[: 3 if parts[2] else 2]):
        raise ValueError(form)
    latitude, longitude = float(parts[0]), float(parts[1])
    distance = float(parts[2]) if parts[2] else NEAR_KILOMETRES
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError("a latitude is from -90 to 90, a longitude from -180 to 180")
    if distance < 0:
        raise ValueError("a distance is not negative")
    if parts[3] not in KILOMETRES:
        raise ValueError(f"a distance is in one of {', '.join(filter(None, KILOMETRES))}")
    return Near(latitude, longitude, distance * KILOMETRES[parts[3]])


def _words(text: str) -> str:
    found = words(unescape(text))
    if not found:
        raise ValueError("expected words of letters or digits")
    if len(found) > MOST_WORDS:
        raise ValueError(f"a text may have {MOST_WORDS} words")
    return " ".join(found)


BY_TYPE: Mapping[str, Callable[[str], Term]] = {
    "token": parse_token,
    "string": _string,
    "uri": unescape,
    "number": _number,
    "quantity": _quantity,
    "special": _near,
}
BY_MODIFIER: Mapping[str, Callable[[str], Term]] = {
    "exact": _exact,
    "contains": _string,
    "text": _string,
    "in": unescape,
    "of-type": _of_type,
    "identifier": parse_token,
}
