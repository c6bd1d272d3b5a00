"""Random values of any structure, as the definitions describe it, small and of the right shape."""

from decimal import Decimal
from random import Random
from typing import Any

from app.fhir.path import Field, Model

TEXTS = ("a", "b", "http://example.org/a", "x.y")
DATES = ("2020", "2020-02", "2020-02-29", "2019-12-31")
MOMENTS = (
    *DATES,
    "2020-02-29T12:30:00Z",
    "2020-02-29T12:30:00.5+02:00",
    "2020-03-01T00:00:00-05:00",
)
PRIMITIVES: dict[str, tuple[Any, ...]] = {
    "boolean": (True, False),
    "integer": (-1, 0, 1, 2),
    "unsignedInt": (0, 1, 2),
    "positiveInt": (1, 2),
    "decimal": (0, 1, Decimal("1.50"), Decimal("-2.5"), 100),
    "date": DATES,
    "dateTime": MOMENTS,
    "instant": MOMENTS[4:],
    "time": ("12:30:00", "12:30:00.5"),
    "base64Binary": ("AAAA",),
    "xhtml": ('<div xmlns="http://www.w3.org/1999/xhtml">a</div>', "<div/>"),
}
EXTENSION = {"url": "http://example.org/e", "valueString": "a"}
RESOURCES = ("Patient", "Organization", "Composition", "Practitioner")


class Specimens:
    """Makes values: strings are drawn from `texts`, elements in `names` are preferred."""

    def __init__(
        self,
        model: Model,
        random: Random,
        texts: tuple[str, ...] = TEXTS,
        names: frozenset[str] = frozenset(),
    ) -> None:
        self.model = model
        self.random = random
        self.texts = texts
        self.names = names

    def value(self, type: str, depth: int = 3) -> Any:
        """Return a value of a type: a primitive's, or an object with some of its properties."""
        structure = self.model.definitions.structures[type]
        if structure.kind == "primitive-type":
            return self.random.choice(PRIMITIVES.get(type, self.texts))
        if type == "Resource":
            return self.value(self.random.choice(RESOURCES), depth)
        made: dict[str, Any] = {"resourceType": type} if structure.kind == "resource" else {}
        for name, fields in self.model.named(type).items():
            likely = 0.7 if name in self.names else 2 / len(self.model.named(type))
            if self.random.random() < likely:
                self.add(made, self.random.choice(fields), depth)
        return made

    def add(self, made: dict[str, Any], field: Field, depth: int) -> None:
        """Put one property into an object; a primitive may have only an extension."""
        if depth == 0 and not field.primitive:
            return
        values = [self.value(field.type, depth - 1) for _ in range(self.random.choice((1, 1, 2)))]
        if field.primitive and self.random.random() < 0.1:
            only = {"extension": [dict(EXTENSION)]}  # its own: tests change what they are given
            made["_" + field.key] = [only] if field.many else only
        elif {} not in values:
            made[field.key] = values if field.many else values[0]
