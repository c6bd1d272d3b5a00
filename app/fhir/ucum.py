"""Units of measure: what a UCUM code means in base units, so that quantities can be compared.

https://ucum.org/ucum (grammar: section 2; the tables of units: section 4)
https://hl7.org/fhir/R4/search.html#quantity

A code becomes a factor, an offset, and a product of powers of base units; `canonical` writes that
product as a code of its own, so that two codes are commensurable when their canonical codes are
equal. All arithmetic is exact: fractions for the factors, and Decimal for the numbers.

Rule 1: units in case-sensitive form, those that clinical data uses. Units on a logarithmic scale
have no canonical unit, except that [pH] stands for itself. Rule 2: an arbitrary unit ([IU],
[arb'U]) is a base unit: it may have a prefix, and converts to nothing else. So is `mol`, which
UCUM counts as a pure number: 5 mmol/L are not some count of particles per litre. Rule 3: what is
no UCUM code, or no unit that we know, gives None and never raises.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

SYSTEM: Final = "http://unitsofmeasure.org"
CANONICAL: Final = SYSTEM + "#canonical"
"""The system under which the index holds quantities in canonical units."""

BASE: Final = frozenset(("m", "s", "g", "rad", "K", "C", "cd", "mol", "[pH]"))

_ARBITRARY: Final = """
    [IU] [arb'U] [USP'U] [GPL'U] [MPL'U] [APL'U] [beth'U] [anti'Xa'U] [todd'U] [dye'U] [smgy'U]
    [bdsk'U] [bclm'U] [ka'U] [knk'U] [mclg'U] [tb'U] [Amb'a'1'U] [PNU] [Lf] [D'ag'U] [FEU] [ELU]
    [EU] [CCID_50] [TCID_50] [EID_50] [PFU] [FFU] [CFU] [IR] [BAU] [AU]
"""
ARBITRARY: Final = frozenset(_ARBITRARY.split())

_PREFIXES: Final = """
    Y 24, Z 21, E 18, P 15, T 12, G 9, M 6, k 3, h 2, da 1, d -1, c -2, m -3, u -6, n -9, p -12,
    f -15, a -18, z -21, y -24
"""
PREFIXES: Final = {
    text: Fraction(10) ** int(power) for text, power in map(str.split, _PREFIXES.split(","))
} | {"Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40)}

_METRIC: Final = """
    m s g rad K C cd mol [IU] [iU] sr Hz N Pa J W A V F Ohm S Wb T H lm lx Bq Gy Sv Cel l L ar t
    bar u eV dyn erg P G Ci R RAD REM m[H2O] m[Hg] cal cal_th cal_IT cal_m U kat eq osm g% st [g]
"""
METRIC: Final = frozenset(_METRIC.split())
"""The units that take a prefix."""

# A unit, how many, and of what; the order is UCUM's
_DEFINED: Final = """
    10* 10 1, 10^ 10 1, % 1/100 1, [ppth] 1/1000 1, [ppm] 1e-6 1, [ppb] 1e-9 1, [pptr] 1e-12 1,
    [pi] 3.1415926535897932384626433832795028841971693993751058209749445923 1, sr 1 rad2,
    Hz 1 s-1, N 1 kg.m/s2, Pa 1 N/m2, J 1 N.m, W 1 J/s, A 1 C/s, V 1 J/C, F 1 C/V, Ohm 1 V/A,
    S 1 Ohm-1, Wb 1 V.s, T 1 Wb/m2, H 1 Wb/A, lm 1 cd.sr, lx 1 lm/m2, Bq 1 s-1, Gy 1 J/kg,
    Sv 1 J/kg, deg 2/360 [pi].rad, ' 1/60 deg, '' 1/60 ', gon 0.9 deg, circ 2 [pi].rad,
    l 1 dm3, L 1 l, ar 100 m2, st 1 m3, min 60 s, h 60 min, d 24 h, wk 7 d, a_t 365.24219 d,
    a_j 365.25 d, a_g 365.2425 d, a 1 a_j, mo_s 29.53059 d, mo_j 1/12 a_j, mo_g 1/12 a_g,
    mo 1 mo_j, t 1000 kg, bar 100000 Pa, u 1.6605402e-24 g, eV 1.60217733e-19 J,
    [g] 9.80665 m/s2, dyn 1 g.cm/s2, erg 1 dyn.cm, P 1 dyn.s/cm2, G 1e-4 T, atm 101325 Pa,
    Ci 37e9 Bq, R 2.58e-4 C/kg, RAD 100 erg/g, REM 1 RAD, [in_i] 2.54 cm, [ft_i] 12 [in_i],
    [yd_i] 3 [ft_i], [mi_i] 5280 [ft_i], [sin_i] 1 [in_i]2, [sft_i] 1 [ft_i]2,
    [cin_i] 1 [in_i]3, [cft_i] 1 [ft_i]3, [gal_us] 231 [in_i]3, [qt_us] 1/4 [gal_us],
    [pt_us] 1/2 [qt_us], [foz_us] 1/16 [pt_us], [cup_us] 8 [foz_us], [tbs_us] 1/2 [foz_us],
    [tsp_us] 1/3 [tbs_us], [tsp_m] 5 mL, [tbs_m] 15 mL, [foz_m] 30 mL, [cup_m] 240 mL,
    [drp] 1/20 ml, [gr] 64.79891 mg, [lb_av] 7000 [gr], [oz_av] 1/16 [lb_av],
    [dr_av] 1/16 [oz_av], [stone_av] 14 [lb_av], [lbf_av] 1 [lb_av].[g],
    [psi] 1 [lbf_av]/[in_i]2, [degR] 5/9 K, m[H2O] 9.80665 kPa, m[Hg] 133.3220 kPa,
    [in_i'H2O] 1 m[H2O].[in_i]/m, [in_i'Hg] 1 m[Hg].[in_i]/m, cal_IT 4.1868 J, cal_m 4.19002 J,
    cal_th 4.184 J, cal 1 cal_th, [Cal] 1 kcal_th, U 1 umol/min, kat 1 mol/s, eq 1 mol,
    osm 1 mol, g% 1 g/dl, [iU] 1 [IU], [HPF] 1 1, [LPF] 100 1, [diop] 1 m-1,
    [MET] 3.5 mL/min/kg, [PRU] 1 mm[Hg].s/ml
"""
DEFINED: Final[Mapping[str, tuple[str, str]]] = {
    unit: (amount, term) for unit, amount, term in map(str.split, _DEFINED.split(","))
}

# What is added to a number on a scale before its factor, so that it counts from absolute zero
SCALES: Final[Mapping[str, tuple[str, str]]] = {"Cel": ("273.15", "1"), "[degF]": ("459.67", "5/9")}

TOKEN: Final = re.compile(
    r"(?P<unit>10[*^]|(?:[A-Za-z%'_]|\[[A-Za-z0-9_'/^.]+\])+)(?P<power>[+-]?\d{1,2}(?!\d))?"
    r"|(?P<number>\d+)|(?P<note>\{[!-z|~]*\})|(?P<mark>[./()])",
    re.ASCII,
)
LONGEST: Final = 100  # characters of a code: a limit of ours, as is the power of two digits
EXACT: Final = Context(prec=150)

Powers = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Factor:
    """How many of a product of powers of base units; `offset` is added to a number first."""

    amount: Fraction
    powers: Powers
    offset: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit by its canonical form: the code in base units, and the way from a number to it."""

    code: str
    numerator: Decimal
    denominator: Decimal
    offset: Decimal

    def scale(self, value: Decimal) -> Decimal:
        """Return how many canonical units `value` of this unit are.

        Equal quantities give equal numbers, whatever their units; ArithmeticError beyond the
        range of Decimal.
        """
        if self.offset:
            value = EXACT.add(value, self.offset)
        product = EXACT.multiply(value, self.numerator)
        return product if self.denominator == 1 else EXACT.divide(product, self.denominator)


@lru_cache(4096)
def canonical(code: str) -> Unit | None:
    """Return the unit that a UCUM code means; None for what is no code or no unit we know."""
    if not 0 < len(code) <= LONGEST:
        return None
    try:
        found = _Reader(code).whole()
    except ValueError:
        return None
    powers = sorted((unit, power) for unit, power in found.powers.items() if power)
    text = ".".join(unit + (str(power) if power != 1 else "") for unit, power in powers)
    numerator, denominator = _decimals(found.amount)
    return Unit(text or "1", numerator, denominator, EXACT.divide(*_pair(found.offset)))


def _pair(value: Fraction) -> tuple[Decimal, Decimal]:
    return Decimal(value.numerator), Decimal(value.denominator)


def _decimals(value: Fraction) -> tuple[Decimal, Decimal]:
    """Return a fraction as two decimals, the second of them 1 where the first can say it all."""
    numerator, denominator = _pair(value)
    quotient = EXACT.divide(numerator, denominator)
    exact = Fraction(quotient) == value
    return (quotient, Decimal(1)) if exact else (numerator, denominator)


class _Reader:
    """Reads one code from its beginning to its end; ValueError where it is no UCUM."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.at = 0

    def whole(self) -> Factor:
        """Return what the code means; a scale (Cel) may stand by itself only."""
        unit = re.sub(r"\{[!-z|~]*\}$", "", self.code)
        return _scale(unit) or self.end(self.term())

    def end(self, found: Factor) -> Factor:
        if self.at < len(self.code):
            raise ValueError("a code must end where its unit does")
        return found

    def term(self) -> Factor:
        """Return the product of components, read from the left: a/b.c is (a/b).c."""
        found = Factor(Fraction(1), {})
        mark = "/" if self.take("/") else "."
        while True:
            found = _times(found, self.component(), 1 if mark == "." else -1)
            if self.take("."):
                mark = "."
            elif self.take("/"):
                mark = "/"
            else:
                return found

    def component(self) -> Factor:
        """Return a unit with its power, a number, an annotation, or a term in parentheses."""
        if self.take("("):
            found = self.term()
            if not self.take(")"):
                raise ValueError("a parenthesis must be closed")
            return found
        match = TOKEN.match(self.code, self.at)
        if match is None or match["mark"]:
            raise ValueError("a unit must stand on both sides of a point or a slash")
        self.at = match.end()
        if match["note"]:
            return Factor(Fraction(1), {})
        if match["number"]:
            found = Factor(_amount(match["number"]), {})
        else:
            found = _times(
                Factor(Fraction(1), {}), _unit(match["unit"]), int(match["power"] or "1")
            )
        note = TOKEN.match(self.code, self.at)
        if note and note["note"]:
            self.at = note.end()
        return found

    def take(self, mark: str) -> bool:
        """Return whether the next character is this one, and go past it."""
        here = self.code.startswith(mark, self.at)
        self.at += here
        return here


def _times(left: Factor, right: Factor, power: int) -> Factor:
    """Return the product of one factor and a power of another."""
    powers = dict(left.powers)
    for unit, own in right.powers.items():
        powers[unit] = powers.get(unit, 0) + own * power
    return Factor(left.amount * right.amount**power, powers)


def _amount(text: str) -> Fraction:
    """Return a number of a code; a unit cannot be nothing."""
    if not (found := Fraction(text)):
        raise ValueError("a unit must not be zero")
    return found


@lru_cache(1024)
def _unit(symbol: str) -> Factor:
    """Return what a unit with or without a prefix means; ValueError if it is none."""
    if found := _atom(symbol):
        return found
    for length in (1, 2):
        prefix, rest = PREFIXES.get(symbol[:length]), symbol[length:]
        if prefix and rest in METRIC and (found := _atom(rest)):
            return replace(found, amount=found.amount * prefix)
    raise ValueError("a unit must be one of those we know")


def _atom(symbol: str) -> Factor | None:
    """Return what a unit of the tables means, None if it is in none."""
    if symbol in BASE or symbol in ARBITRARY:
        return Factor(Fraction(1), {symbol: 1})
    if symbol in DEFINED:
        amount, term = DEFINED[symbol]
        return _times(Factor(Fraction(amount), {}), _Reader(term).term(), 1)
    return None


def _scale(symbol: str) -> Factor | None:
    """Return a scale that does not begin at zero, with or without a prefix, None if it is none."""
    for prefix, size in (("", Fraction(1)), *PREFIXES.items()):
        name = symbol.removeprefix(prefix)
        if symbol == prefix + name and name in SCALES and (not prefix or name in METRIC):
            offset, amount = map(Fraction, SCALES[name])
            return Factor(amount * size, {"K": 1}, offset / size)
    return None
