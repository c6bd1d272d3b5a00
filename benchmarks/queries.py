"""The searches that are measured: each as a client asks it, and as SQL written by hand.

The SQL reads the same tables and returns the same rows with their bodies; it is the best that we
could write for this data, so it may take for granted what the server has to find out. `:name` is a
parameter. `:Observation.code` stands for the number of a search parameter, `:Observation` for that
of a type, `:[uri]` for that of a system.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from app import db
from app.fhir.values import fold_code
from benchmarks import population as made

Values = Mapping[str, Any]

COUNT = 20
DEEP = 200
LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
CATEGORY = f"{made.TERMINOLOGY}/observation-category"
STATUS = "http://hl7.org/fhir/observation-status"
GENDER = "http://hl7.org/fhir/administrative-gender"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SURVEYS = {made.PHQ9: LOINC, made.GAD7: LOINC, made.CRAVING: made.LOCAL}


@dataclass(frozen=True)
class Facts:
    """What is in the database: ids of patients, families of their practitioners, when it came."""

    patients: list[str]
    families: list[str]
    moments: list[int]  # microseconds: the quantiles of lastUpdated
    deep: Mapping[str, tuple[int, int]]  # by category: date and key of the last row before DEEP


@dataclass(frozen=True)
class Case:
    """One request, and the values of the parameters of the SQL."""

    path: str
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """One row of the table: its cases, and one or more statements for each engine.

    `total` marks one whose exact total may read more than a page may. `pages` is the page that
    the path of a case leads to by following the `next` links.
    """

    name: str
    cases: Callable[[Facts], list[Case]]
    sql: Callable[[db.Dialect], tuple[str, ...]]
    total: bool = False
    pages: int = 1


def page(keys: str, order: str = "k.key DESC") -> tuple[str, ...]:
    """Return the statement that gives id and body of the rows of a statement in an order."""
    return (
        f"SELECT r.id, v.body FROM ({keys}) k CROSS JOIN resource r CROSS JOIN resource_version v"
        " WHERE r.key = k.key AND v.key = r.key AND v.version = r.version AND r.state = 1"
        f" ORDER BY {order}",
    )


def probe(table: str, fits: str, *, key: str = "t.key") -> str:
    """Return whether a table has a row of `key` that fits; a planner cannot make it a join."""
    return f"EXISTS (SELECT 1 FROM {table} x WHERE x.key = {key} AND {fits} LIMIT 1 OFFSET 0)"


def same(sql: tuple[str, ...]) -> Callable[[db.Dialect], tuple[str, ...]]:
    """Return the statements for either engine."""
    return lambda _: sql


def micros(moment: datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def months(first: int, count: int, length: int = 30) -> list[tuple[datetime, datetime]]:
    """Return so many ranges of `length` days, a month apart."""
    starts = [made.START + timedelta(days=30 * n) for n in range(first, first + count)]
    return [(start, start + timedelta(days=length)) for start in starts]


def between(start: datetime, end: datetime) -> str:
    """Return the two parameters that ask for the dates in a range."""
    return f"date=ge{start:%Y-%m-%d}&date=lt{end:%Y-%m-%d}"


def range_of(start: datetime, end: datetime) -> dict[str, int]:
    """Return the values of a range."""
    return {"start": micros(start), "end": micros(end)}


# --- the statements ----------------------------------------------------------------------------

CODE = "param = :Observation.code AND {0}.code = :code AND {0}.system = :[{1}]"
SURVEY = f"x.param = :Observation.category AND x.code = :category AND x.system = :[{CATEGORY}]"
HIGH = (
    "x.param = :Observation.value-quantity AND x.code = '{{score}}' AND x.lo > :value"
    f" AND x.unit = :[{UCUM}]"
)
PATIENT = "(SELECT p.key FROM resource p WHERE p.type = :Patient AND p.id = :patient)"


def coded(name: str = "t") -> str:
    """Return the condition on the code of an observation in LOINC."""
    return f"{name}.{CODE.format(name, LOINC)}"


def newest(fits: str, *also: str, limit: str = ":limit") -> str:
    """Return the newest keys of a walk over tokens of which all other conditions hold."""
    where = " AND ".join([fits, *also])
    return f"SELECT t.key FROM index_token t WHERE {where} ORDER BY t.key DESC LIMIT {limit}"


def by_date(*also: str) -> tuple[str, ...]:
    """Return a page of observations in order of their dates, the latest first.

    Dates are walked in two ranges: short ones and the few that last longer than a day.
    """
    arms = [
        "SELECT t.key, t.lo FROM index_date t WHERE"
        + " AND ".join([f" t.param = :Observation.date AND t.long = {long}", *also])
        + " ORDER BY t.lo DESC, t.key DESC LIMIT :limit"
        for long in (0, 1)
    ]
    both = " UNION ALL ".join(f"SELECT * FROM ({arm}) a" for arm in arms)
    keys = f"SELECT key, lo FROM ({both}) u ORDER BY lo DESC, key DESC LIMIT :limit"
    return page(keys, "k.lo DESC, k.key DESC")


def in_range() -> str:
    """Return the condition on a walk over dates that they are in the range."""
    return "t.lo >= :start AND t.lo < :end"


def of_patient() -> tuple[str, ...]:
    """Return the observations of a patient with a code in a range of dates, the latest first."""
    keys = (
        "SELECT t.key, d.lo FROM index_reference t CROSS JOIN index_date d"
        f" WHERE t.param = :Observation.patient AND t.target = {PATIENT}"
        f" AND {probe('index_token', coded('x'))} AND d.key = t.key"
        " AND d.param = :Observation.date AND d.lo >= :start AND d.lo < :end"
        " ORDER BY d.lo DESC, t.key DESC LIMIT :limit"
    )
    return page(keys, "k.lo DESC, k.key DESC")


def composed(parameter: str, unit: str) -> str:
    """Return the newest keys of which one element has both the code and a value above one."""
    return (
        f"SELECT DISTINCT t.key FROM index_composite t WHERE t.param = :Observation.{parameter}"
        f" AND t.code = :code AND t.system = :[{LOINC}] AND t.code2 = '{unit}'"
        f" AND t.system2 = :[{UCUM}] AND t.lo > :value ORDER BY t.key DESC LIMIT :limit"
    )


NAMED = page(
    "SELECT n.key, min(f.norm) AS family FROM"
    " (SELECT DISTINCT t.key FROM index_string t WHERE t.param = :Patient.name"
    " AND t.norm >= :prefix AND t.norm < :after) n CROSS JOIN index_string f"
    " WHERE f.key = n.key AND f.param = :Patient.family"
    " GROUP BY n.key ORDER BY family, n.key DESC LIMIT :limit",
    "k.family, k.key DESC",
)
# Few patients have a practitioner of that name: what is about them is put in order, then looked at
CHAINED = page(
    "SELECT o.key FROM (SELECT DISTINCT o.key FROM index_string s CROSS JOIN index_reference g"
    " CROSS JOIN index_reference o WHERE s.param = :Practitioner.family AND s.norm >= :family"
    " AND s.norm < :after AND g.target = s.key AND g.param = :Patient.general-practitioner"
    " AND o.target = g.key AND o.param = :Observation.subject"
    " ORDER BY o.key DESC LIMIT 1000000 OFFSET 0) o"
    f" WHERE {probe('index_token', coded('x'), key='o.key')} ORDER BY o.key DESC LIMIT :limit"
)
REVERSED = page(
    "SELECT p.key FROM (SELECT f.target AS key FROM index_composite t"
    " CROSS JOIN index_reference f WHERE t.param = :Observation.code-value-quantity"
    f" AND t.code = :code AND t.system = :[{LOINC}] AND t.code2 = '{{score}}'"
    f" AND t.system2 = :[{UCUM}] AND t.lo > :value"
    " AND f.key = t.key AND f.param = :Observation.patient"
    " INTERSECT SELECT f.target AS key FROM index_token t CROSS JOIN index_reference f"
    f" WHERE t.param = :Condition.code AND t.code = :diagnosis AND t.system = :[{made.ICD}]"
    " AND f.key = t.key AND f.param = :Condition.patient) p WHERE "
    + probe(
        "index_token",
        f"x.param = :Patient.gender AND x.code = 'female' AND x.system = :[{GENDER}]",
        key="p.key",
    )
    + " ORDER BY p.key DESC LIMIT :limit"
)
NOT_FINAL = f"x.param = :Observation.status AND x.code = 'final' AND x.system = :[{STATUS}]"
INCLUDED = (
    f"WITH matched AS MATERIALIZED ({newest(coded())}),"
    " shown AS MATERIALIZED (SELECT key FROM matched ORDER BY key DESC LIMIT :count),"
    " wanted AS MATERIALIZED (SELECT key FROM shown"
    " UNION SELECT f.target FROM shown s CROSS JOIN index_reference f WHERE f.key = s.key"
    " AND f.param IN (:Observation.encounter, :Observation.performer)"
    " UNION SELECT f.key FROM shown s CROSS JOIN index_reference f WHERE f.target = s.key"
    " AND f.param = :Provenance.target)"
    " SELECT r.id, v.body FROM wanted k CROSS JOIN resource r CROSS JOIN resource_version v"
    " WHERE r.key = k.key AND v.key = r.key AND v.version = r.version AND r.state = 1",
)
COUNTED = (
    "SELECT count(DISTINCT t.key) FROM index_token t CROSS JOIN index_date d"
    f" WHERE {coded()} AND d.key = t.key AND d.param = :Observation.date"
    " AND d.lo >= :start AND d.lo < :end",
)


def updated() -> tuple[str, ...]:
    """Return what of two types was written in a window, the latest first."""
    arms = [
        f"SELECT * FROM (SELECT r.key, r.updated FROM resource r WHERE r.type = :{type}"
        " AND r.state = 1 AND r.updated >= :start AND r.updated < :end"
        " ORDER BY r.updated DESC, r.key DESC LIMIT :limit) a"
        for type in ("Observation", "Condition")
    ]
    keys = f"SELECT key, updated AS n FROM ({' UNION ALL '.join(arms)}) u"
    return page(f"{keys} ORDER BY n DESC, key DESC LIMIT :limit", "k.n DESC, k.key DESC")


def of_value_set(_: db.Dialect) -> tuple[str, ...]:
    """Return the newest diagnoses with one of seventy codes.

    Most diagnoses of such a program are of that kind: hence a walk over all of them.
    """
    codes = ", ".join(f"'{fold_code(code)}'" for code in made.SUBSTANCE_USE)
    fits = f"x.param = :Condition.code AND x.code IN ({codes}) AND x.system = :[{made.ICD}]"
    return page(
        "SELECT t.key FROM resource t WHERE t.type = :Condition AND t.state = 1"
        f" AND {probe('index_token', fits)} ORDER BY t.key DESC LIMIT :limit"
    )


def timeline(type: str) -> tuple[str, ...]:
    """Return what of a type is in the compartment of a patient, the latest first."""
    own = (
        f"SELECT r.key, r.occurred FROM resource r WHERE r.owner = {PATIENT} AND r.type = :{type}"
        " AND r.state = 1 ORDER BY r.occurred DESC, r.key DESC LIMIT :limit"
    )
    shared = (
        f"SELECT c.key, c.occurred FROM compartment c WHERE c.comp = {PATIENT}"
        f" AND c.type = :{type} ORDER BY c.occurred DESC, c.key DESC LIMIT :limit"
    )
    keys = f"SELECT * FROM ({own}) a UNION ALL SELECT * FROM ({shared}) b"
    return page(
        f"SELECT key, occurred FROM ({keys}) u ORDER BY occurred DESC, key DESC LIMIT :limit",
        "k.occurred DESC, k.key DESC",
    )


# --- the requests ------------------------------------------------------------------------------


def of_codes(query: str, **values: Any) -> Callable[[Facts], list[Case]]:
    """Return the cases of a query for each of the two questionnaires in LOINC."""
    return lambda _: [
        Case(query.replace("{code}", f"{LOINC}|{code}"), {"code": code, **values})
        for code in (made.PHQ9, made.GAD7)
    ]


def of_patients(query: str) -> Callable[[Facts], list[Case]]:
    """Return the cases of a query for each of some patients."""
    return lambda facts: [Case(query.format(patient=id), {"patient": id}) for id in facts.patients]


def patient_code_date(facts: Facts) -> list[Case]:
    """Return what a chart asks: the scores of a patient in ten weeks."""
    start, end = made.START, made.START + timedelta(days=made.DAYS + 70)
    return [
        Case(
            f"/Observation?patient=Patient/{id}&code={LOINC}|{made.PHQ9}"
            f"&{between(start, end)}&_sort=-date",
            {"patient": id, "code": made.PHQ9, **range_of(start, end)},
        )
        for id in facts.patients
    ]


def category_date(query: str) -> Callable[[Facts], list[Case]]:
    """Return the cases of a query for a category in each of some months."""
    return lambda _: [
        Case(
            query.format(category=f"{CATEGORY}|{category}", range=between(start, end)),
            {"category": category, **range_of(start, end)},
        )
        for category in ("survey", "laboratory")
        for start, end in months(4, 4)
    ]


def prefixes(_: Facts) -> list[Case]:
    """Return the beginnings of names, frequent and rare ones."""
    return [
        Case(
            f"/Patient?name={prefix}&_sort=family&_count={COUNT}",
            {"prefix": prefix, "after": prefix[:-1] + chr(ord(prefix[-1]) + 1)},
        )
        for prefix in ("mar", "hal", "jar", "tor", "sel", "bren")
    ]


def chains(facts: Facts) -> list[Case]:
    """Return the surveys of whose patients' practitioners have a name."""
    return [
        Case(
            "/Observation?subject:Patient.general-practitioner:Practitioner.family="
            f"{family}&code={LOINC}|{made.PHQ9}",
            {"family": family, "after": family + "\U0010ffff", "code": made.PHQ9},
        )
        for family in facts.families
    ]


def evidence(_: Facts) -> list[Case]:
    """Return the women with a high score and a diagnosis."""
    high = f"{LOINC}|{made.PHQ9}$gt22|{UCUM}|{{score}}"
    return [
        Case(
            f"/Patient?_has:Observation:patient:code-value-quantity={high}"
            f"&_has:Condition:patient:code={made.ICD}|{code}&gender=female",
            {"code": made.PHQ9, "value": 22.0, "diagnosis": fold_code(code)},
        )
        for code in ("F32.1", "F41.1", "I10", "E11.9")
    ]


def counted(_: Facts) -> list[Case]:
    """Return a page and the exact total of a code in half a year."""
    return [
        Case(
            f"/Observation?code={system}|{code}&{between(start, end)}&_total=accurate",
            {"code": code, **range_of(start, end)},
        )
        for code, system in SURVEYS.items()
        if system == LOINC
        for start, end in months(15, 2, 180)
    ]


def deep(facts: Facts) -> list[Case]:
    """Return a long list, of which page 200 is asked."""
    return [
        Case(
            f"/Observation?category={CATEGORY}|{category}&_sort=-date",
            {"category": category, "lo": lo, "key": key},
        )
        for category, (lo, key) in facts.deep.items()
    ]


def windows(facts: Facts) -> list[Case]:
    """Return what was written between one moment and the next."""
    return [
        Case(
            "/?_type=Observation,Condition&_sort=-_lastUpdated"
            f"&_lastUpdated=ge{stamp(start)}&_lastUpdated=lt{stamp(end)}",
            {"start": start, "end": end},
        )
        for start, end in zip(facts.moments, facts.moments[1:], strict=False)
    ]


def stamp(moment: int) -> str:
    """Return microseconds as an instant with milliseconds."""
    text = (EPOCH + timedelta(microseconds=moment)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


SCORE = f"{UCUM}|{{score}}"
MMHG = f"{UCUM}|mm[Hg]"
IN_CATEGORY = probe("index_token", SURVEY)
QUERIES = (
    Query("token, newest", of_codes("/Observation?code={code}"), same(page(newest(coded())))),
    Query("patient, code, date; by date", patient_code_date, same(of_patient())),
    Query(
        "category, date; by date",
        category_date("/Observation?category={category}&{range}&_sort=-date"),
        same(by_date(in_range(), IN_CATEGORY)),
    ),
    Query(
        "category, date; in any order",
        category_date("/Observation?category={category}&{range}"),
        same(by_date(in_range(), IN_CATEGORY)),
    ),
    Query(
        "code, value",
        of_codes(f"/Observation?code={{code}}&value-quantity=gt18|{SCORE}", value=18.0),
        same(page(newest(coded(), probe("index_quantity", HIGH.format())))),
    ),
    Query(
        "composite: code with value",
        of_codes(f"/Observation?code-value-quantity={{code}}$gt18|{SCORE}", value=18.0),
        same(page(composed("code-value-quantity", "{score}"))),
    ),
    Query(
        "composite: of a component",
        lambda _: [
            Case(
                f"/Observation?component-code-value-quantity={LOINC}|{code}$gt{value}|{MMHG}",
                {"code": code, "value": float(value)},
            )
            for code, value in ((made.SYSTOLIC, 155), (made.DIASTOLIC, 97))
        ],
        same(page(composed("component-code-value-quantity", "mm[Hg]"))),
    ),
    Query("name begins with; by family", prefixes, same(NAMED)),
    Query("chain of two hops", chains, same(CHAINED)),
    Query("_has twice", evidence, same(REVERSED)),
    Query(
        "status:not",
        lambda _: [
            Case(
                f"/Observation?category={CATEGORY}|{category}&status:not=final",
                {"category": category},
            )
            for category in ("survey", "laboratory", "vital-signs")
        ],
        same(page(newest(SURVEY.replace("x.", "t."), "NOT " + probe("index_token", NOT_FINAL)))),
    ),
    Query(
        "page with includes",
        of_codes(
            "/Observation?code={code}&_include=Observation:encounter"
            "&_include=Observation:performer&_revinclude=Provenance:target"
        ),
        same(INCLUDED),
    ),
    Query(
        "exact total",
        counted,
        same(by_date(in_range(), probe("index_token", coded("x"))) + COUNTED),
        total=True,
    ),
    Query(
        "page 200; by date",
        deep,
        same(by_date("(t.lo, t.key) < (:lo, :key)", IN_CATEGORY)),
        pages=DEEP,
    ),
    Query("_lastUpdated, two types", windows, same(updated())),
    Query(
        ":in with 70 codes",
        lambda _: [Case(f"/Condition?code:in={made.VALUE_SET}")],
        of_value_set,
    ),
    Query(
        "timeline of encounters",
        of_patients("/Patient/{patient}/Encounter?_sort=-date"),
        same(timeline("Encounter")),
    ),
    Query(
        "timeline of appointments",
        of_patients("/Patient/{patient}/Appointment?_sort=-date"),
        same(timeline("Appointment")),
    ),
)
