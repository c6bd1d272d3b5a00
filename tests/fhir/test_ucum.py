"""What UCUM codes mean, and that equal quantities are equal in canonical units."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fhir.ucum import BASE, DEFINED, METRIC, PREFIXES, Unit, canonical


def unit(code: str) -> Unit:
    """Return a unit that is known."""
    found = canonical(code)
    assert found is not None
    return found


def same(value: str, code: str, other_value: str, other_code: str) -> bool:
    """Return whether two quantities are the same."""
    one, other = unit(code), unit(other_code)
    return (one.code, one.scale(Decimal(value))) == (other.code, other.scale(Decimal(other_value)))


@pytest.mark.parametrize(
    ("value", "code", "other_value", "other_code"),
    [
        # prefixes, and both spellings of the litre
        *(("5.4", "mg", "0.0054", "g"), ("1", "kg", "1e6", "mg"), ("5", "mL", "5", "ml")),
        *(("1", "cm", "0.1", "dm"), ("1", "dag", "10", "g"), ("1", "MiBq", "1048576", "Bq")),
        # products, quotients and powers, read from the left
        *(
            ("100", "mg/dL", "1", "g/L"),
            ("1", "g/L/h", "1", "g/(L.h)"),
            ("1", "m/s2", "1", "m.s-2"),
        ),
        *(("7", "10*3/uL", "7", "10*9/L"), ("7", "10^9/L", "7", "10*9/L")),
        *(("60", "/min", "1", "Hz"), ("1", "/(10*6.L)", "1", "10*-6/L"), ("2", "m+3", "2", "m3")),
        *(("3", "/100{WBC}", "3", "%"), ("90", "mL/min/{1.73_m2}", "90", "mL/min")),
        *(("1", "umol/(24.h)", "1", "umol/d"), ("3", "{score}", "3", "1")),
        # units with definitions of their own
        *(("760", "mm[Hg]", "101.32472", "kPa"), ("10", "cm[H2O]", "980.665", "Pa")),
        *(("1", "[lb_av]", "453.59237", "g"), ("16", "[oz_av]", "1", "[lb_av]")),
        *(("1", "[in_i]", "2.54", "cm"), ("1", "[ft_i]", "30.48", "cm")),
        *(("1", "wk", "7", "d"), ("1", "a", "12", "mo"), ("1", "a", "365.25", "d")),
        *(("1", "cal", "4.184", "J"), ("1", "U/L", "1", "umol/min/L"), ("60", "U", "1", "umol/s")),
        *(("20", "[drp]", "1", "mL"), ("1", "Ci", "37", "GBq"), ("1", "bar", "100", "kPa")),
        *(("1", "meq/L", "1", "mmol/L"), ("1", "mosm/kg", "1", "mmol/kg"), ("1", "Sv", "1", "Gy")),
        *(("1", "k[IU]/L", "1", "[iU]/mL"), ("180", "deg", "200", "gon"), ("1", "g%", "1", "g/dL")),
        *(("1", "[ppm]", "0.0001", "%"), ("1", "[ppth]", "0.1", "%"), ("1", "V", "1", "W/A")),
        # scales that do not begin at zero
        *(("37", "Cel", "310.15", "K"), ("98.6", "[degF]", "37", "Cel")),
        *(
            ("-40", "[degF]", "-40", "Cel"),
            ("37000", "mCel", "37", "Cel"),
            ("1", "Cel{oral}", "1", "Cel"),
        ),
    ],
)
def test_these_are_the_same(value: str, code: str, other_value: str, other_code: str) -> None:
    assert same(value, code, other_value, other_code)


@pytest.mark.parametrize(
    ("code", "other"),
    [
        *(("[IU]", "[arb'U]"), ("[IU]", "U"), ("mol/L", "g/L"), ("mol", "1"), ("[pH]", "1")),
        *(("mm[Hg]", "mm"), ("g", "g/L"), ("m", "m2"), ("[CFU]", "[PFU]"), ("Cel", "g")),
    ],
)
def test_these_cannot_be_compared(code: str, other: str) -> None:
    assert unit(code).code != unit(other).code


@pytest.mark.parametrize(
    ("code", "canonical_code"),
    [
        *(("mg/dL", "g.m-3"), ("%", "1"), ("[degF]", "K"), ("m[IU]/mL", "[IU].m-3"), ("m0", "1")),
        *(("N", "g.m.s-2"), ("mm[Hg]", "g.m-1.s-2"), ("[iU]", "[IU]"), ("[pH]", "[pH]")),
    ],
)
def test_a_canonical_code_is_a_product_of_base_units(code: str, canonical_code: str) -> None:
    assert unit(code).code == canonical_code


@pytest.mark.parametrize(
    "code",
    [
        # no UCUM
        *(
            "",
            " ",
            "mg ",
            "m g",
            "mg//dL",
            "mg/",
            ".mg",
            "(mg",
            "mg)",
            "()",
            "{a}{b}",
            "m{a}2",
            "{",
        ),
        *("mg/0", "0", "°C", "µg", "m\n", "m²", "٣", "{ä}", "m123", "10*400"),
        # not known, or not to be had with a prefix, in a product or at all
        *(
            "furlong",
            "mmin",
            "kd",
            "k[arb'U]",
            "m[pH]",
            "Cel/min",
            "Cel2",
            "dB",
            "B[SPL]",
            "Mm2x",
        ),
        "(" * 60 + "m" + ")" * 60,
        "m." * 60 + "m",
    ],
)
def test_what_has_no_canonical_unit(code: str) -> None:
    assert canonical(code) is None


def test_every_unit_of_the_tables_has_a_canonical_unit_in_base_units() -> None:
    for code in (*DEFINED, *METRIC, *(prefix + u for prefix in PREFIXES for u in METRIC)):
        assert canonical(code), code


CODES = st.builds(
    lambda parts: "".join(parts).removeprefix("."),
    st.lists(
        st.builds(
            lambda mark, prefix, base, power: f"{mark}{prefix}{base}{power}",
            st.sampled_from("./"),
            st.sampled_from(["", *PREFIXES]),
            st.sampled_from(sorted(METRIC - {"Cel"})),
            st.sampled_from(["", "2", "-1", "-3", "+2"]),
        ),
        min_size=1,
        max_size=4,
    ),
)
NUMBERS = st.decimals(-(10**12), 10**12, places=6)


@given(CODES, NUMBERS)
def test_canonical_units_are_their_own(code: str, value: Decimal) -> None:
    found = canonical(code)
    if found is None:
        assert len(code) > 100
        return
    again = unit(found.code)

    assert again.code == found.code
    assert again.scale(found.scale(value)) == found.scale(value)


@given(CODES.filter(lambda code: len(code) < 40), NUMBERS)
def test_a_unit_over_itself_is_nothing(code: str, value: Decimal) -> None:
    ratio = unit(f"({code})/({code})")

    assert (ratio.code, ratio.scale(value)) == ("1", value)


@given(st.sampled_from(sorted(PREFIXES)), st.sampled_from(sorted(METRIC - {"Cel"})), NUMBERS)
def test_a_prefix_is_a_factor(prefix: str, metric: str, value: Decimal) -> None:
    plain, prefixed = unit(metric), unit(prefix + metric)
    factor = PREFIXES[prefix]

    assert prefixed.code == plain.code
    assert prefixed.scale(value * factor.denominator) == plain.scale(value * factor.numerator)


@given(NUMBERS)
def test_temperatures_agree_on_all_scales(celsius: Decimal) -> None:
    fahrenheit = celsius * 9 / 5 + 32

    assert unit("Cel").scale(celsius) == unit("[degF]").scale(fahrenheit)
    assert unit("Cel").scale(celsius) == unit("K").scale(celsius + Decimal("273.15"))


@given(NUMBERS, NUMBERS, st.sampled_from(["mg", "[lb_av]", "U/L", "Cel", "[degF]", "mm[Hg]"]))
def test_scaling_keeps_the_order(one: Decimal, other: Decimal, code: str) -> None:
    scaled = unit(code).scale(one), unit(code).scale(other)

    assert (one < other) == (scaled[0] < scaled[1])


@given(st.text(st.sampled_from("mgLskdPa0123456789.*/^-+()[]{}%'_ µ"), max_size=30) | st.text())
def test_no_text_makes_it_raise(code: str) -> None:
    found = canonical(code)

    assert found is None or canonical(found.code) == Unit(found.code, *map(Decimal, (1, 1, 0)))


def test_base_units_are_themselves() -> None:
    assert all(unit(code).code == code for code in BASE)
    assert Fraction(unit("g").scale(Decimal("0.1"))) == Fraction(1, 10)
