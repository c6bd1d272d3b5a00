"""Extensions of ours have the values that their StructureDefinitions say, or nothing is stored."""

from typing import Any

import pytest

from app.domain.extensions import malformed, shapes
from app.domain.vocabulary import (
    ATTENDANCE,
    CAPACITY,
    CLINICAL_MINUTES,
    LOC_PERIOD,
    OVERRIDE,
    PROGRAM,
    TIMEZONE,
)
from tests.domain import clinic
from tests.domain.clinic import V
from tests.domain.office import Iop, rule

GOOD = clinic.episode("p1")["extension"]


def with_extension(extension: dict[str, Any]) -> dict[str, Any]:
    """Return an element with one extension."""
    return {"extension": [extension]}


@pytest.mark.parametrize(
    "extension",
    [
        V.extended(CAPACITY, valueString="many"),
        V.extended(CAPACITY),
        V.extended(PROGRAM, valueString="HealthcareService/day"),
        V.complex(LOC_PERIOD, ("code", "valueCode", "2.1"), ("period", "valuePeriod", {})),
        V.complex(LOC_PERIOD, ("period", "valuePeriod", {})),
        V.complex(OVERRIDE, ("rule", "valueCode", "INV-EC-6")),
        V.extended(OVERRIDE, valueString="INV-EC-6"),
    ],
    ids=[
        "another type",
        "no value",
        "a text for a reference",
        "a part of another type",
        "a part less",
        "no reason",
        "a value for parts",
    ],
)
def test_a_value_that_is_not_as_it_has_to_be_is_found(extension: dict[str, Any]) -> None:
    assert malformed(V, with_extension(extension)) == ["extension[0]"]


def test_extensions_are_found_at_every_depth() -> None:
    inner = with_extension(V.extended(CLINICAL_MINUTES, valueString="180"))

    assert malformed(V, {"action": [{}, inner]}) == ["action[1].extension[0]"]


def test_what_others_define_is_for_them_to_say() -> None:
    assert (
        malformed(V, with_extension({"url": "https://example.org/other", "valueCode": "x"})) == []
    )


@pytest.mark.parametrize("name", [CAPACITY, TIMEZONE, LOC_PERIOD, ATTENDANCE, OVERRIDE])
def test_each_extension_has_a_shape(name: str) -> None:
    shape = shapes(V.base)[V.extension(name)]

    assert shape.key or shape.parts


def test_the_resources_of_a_program_are_as_they_have_to_be() -> None:
    known = [*clinic.program(), *clinic.admitted("p1"), clinic.session()]

    assert [malformed(V, one) for one in known] == [[]] * len(known)


BROKEN = [
    {**clinic.episode("p1"), "extension": [V.extended(PROGRAM, valueString="x"), GOOD[1]]},
    {
        **clinic.episode("p1"),
        "extension": [GOOD[0], V.complex(LOC_PERIOD, ("code", "valueCode", "2.1"))],
    },
    {**clinic.roster(), "extension": [V.extended(CAPACITY, valueString="many")]},
    {**clinic.service(), "extension": [V.extended(TIMEZONE, valueString="UTC")]},
    {**clinic.session(), "extension": [V.extended(CLINICAL_MINUTES, valueString="180")]},
]


@pytest.mark.parametrize("broken", BROKEN, ids=[f"{n} {one['id']}" for n, one in enumerate(BROKEN)])
async def test_a_write_with_such_a_value_is_refused_before_any_other_rule(
    iop: Iop, broken: dict[str, Any]
) -> None:
    reply = await iop.client.put(f"/{broken['resourceType']}/{broken['id']}", json=broken)

    assert (reply.status_code, rule(reply)) == (422, "extension")
    assert len(reply.json()["issue"]) == 1
