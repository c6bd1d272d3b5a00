"""Whatever the scopes, the data and the question: no answer holds what the scopes do not admit.

What they admit is worked out by the slow reference search, which knows neither SQL nor policies. A
search then finds what that search finds in a world of nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote, urlencode

from hypothesis import given
from hypothesis import strategies as st

from app.fhir.access import Caller, Grant, Kind, parse_scopes, policy_of
from tests.access.door import Door, content
from tests.properties.conftest import START, fresh
from tests.properties.test_reference import MANY, page, questions, resources, stored, walked
from tests.reference.asking import Asking, Pair
from tests.reference.paths import Resource
from tests.reference.search import Found, World, name
from tests.reference.worlds import MAKERS, Dice, made

# Types of this world that belong to nobody: a patient may read them, and no more
DIRECTORY = ("Organization", "Practitioner", "Location", "Questionnaire")
WHOSE = "Patient/p0"


class Asker(NamedTuple):
    """A kind of account, whose scopes are in a context; and whether these are about one patient."""

    kind: Kind
    context: str
    own: bool


ASKERS = [
    Asker("patient", "patient", own=True),
    Asker("patient", "user", own=True),
    Asker("workforce", "patient", own=True),
    Asker("workforce", "user", own=False),
    Asker("system", "system", own=False),
]


class Drawn(NamedTuple):
    """A scope: a type or `*`, letters, and criteria."""

    type: str
    letters: str
    criteria: tuple[Pair, ...]

    def text(self, context: str) -> str:
        """Return the scope as it is written."""
        query = urlencode(self.criteria, quote_via=quote)
        return f"{context}/{self.type}.{self.letters}{'?' if query else ''}{query}"


def drawn(asking: Asking, dice: Dice, *types: str) -> Drawn:
    """Return a scope of one of some types."""
    type = dice.one(*types)
    letters = dice.one("r", "s", "rs", "rs", "rs", "cruds")
    criteria: list[Pair] = []
    if type == "*":
        criteria += [("_tag", "one"), ("_id:not", "p0")][: dice.one(0, 0, 1, 2)]
    elif dice.one(True, False, False):
        criteria.append(asking.criterion(dice, type, 1))
    return Drawn(type, letters, tuple(criteria))


def owners(world: World, one: Resource) -> set[str]:
    """Return the Patients in whose compartments a resource lies."""
    if one["resourceType"] == "Patient":
        return {name(one)}
    codes = world.definitions.compartments["Patient"].get(one["resourceType"], ())
    named = {world.pointed(value) for code in codes for value in world.values(one, code)}
    return {place for place in named if place.startswith("Patient/")}


def admitted(
    world: World, asker: Asker, scopes: Sequence[Drawn], one: Resource, letter: str
) -> bool:
    """Return whether one of the scopes admits a right to a resource."""
    mine = owners(world, one) == {WHOSE} or one["resourceType"] in DIRECTORY
    return (mine or not asker.own) and any(
        scope.type in ("*", one["resourceType"])
        and letter in scope.letters
        and all(world.fits(one, *criterion) for criterion in scope.criteria)
        for scope in scopes
    )


def part(world: World, shown: Sequence[Resource]) -> World:
    """Return the world of these resources and no others."""
    return World(shown, world.definitions, world.base_url, world.now)


def expected(finding: World, showing: World, path: str, pairs: Sequence[Pair]) -> Found:
    """Return what a search finds among what may be found, with what may be shown beside it."""
    centre, _, _ = path.rpartition("/")
    if centre and centre not in showing.resources:
        return Found([], set())  # a compartment of what is not there
    matches = finding.search(path, pairs).matches
    includes = [pair for pair in pairs if pair[0].split(":")[0] in ("_include", "_revinclude")]
    return Found(matches, showing.included([finding.resources[m] for m in matches], includes))


def outside(world: World, pairs: Sequence[Pair]) -> bool:
    """Return whether a search asks what is above or below a place that is not there.

    For the server that is nothing at all, for the reference search the place itself.
    """
    places = [value for key, value in pairs if key.endswith((":above", ":below"))]
    return any(
        place.split("/")[0] in DIRECTORY and place not in world.resources
        for value in places
        for place in value.split(",")
    )


def types_of(path: str, pairs: Sequence[Pair]) -> list[str]:
    """Return the types that a search names, none for all."""
    named = path.rpartition("/")[2].replace("*", "")
    given = [value.split(",") for key, value in pairs if key == "_type"]
    return [named] if named else [type for types in given for type in types]


@MANY
@given(resources=resources, questions=questions, asker=st.sampled_from(ASKERS))
async def test_a_search_finds_what_the_scopes_admit_and_the_reference_search_finds(
    door: Door, resources: list[tuple[str, int]], questions: list[int], asker: Asker
) -> None:
    bodies = made([("Patient", 1), *resources])
    door = await fresh(door)
    door = Door(replace(door.server, trail=None), door.caller)
    world = await stored(door, bodies)
    asking = Asking(world)
    language = door.server.language

    for question in questions[:6]:
        dice = Dice((question, asker.kind), bodies)
        path, pairs = asking.search(dice)
        types = types_of(path, pairs)
        scopes = [drawn(asking, dice, "*", *asking.types) for _ in range(dice.one(0, 1, 2))]
        scopes += [drawn(asking, dice, "*", type) for type in types or ["*"]]
        texts = " ".join(scope.text(asker.context) for scope in scopes)
        parsed = parse_scopes(texts, language)
        user = WHOSE if asker.kind == "patient" else ""
        grant = Grant(asker.kind, parsed.granted, patient=WHOSE, fhir_user=user)
        policy = policy_of(grant, language, START)
        somebody = Door(door.server, Caller("somebody", policy))
        finding, reading = (
            [one for one in world.resources.values() if admitted(world, asker, scopes, one, letter)]
            for letter in "sr"
        )
        either = [one for one in world.resources.values() if one in finding or one in reading]
        shown = part(world, finding), part(world, either)

        url = f"{path}?{urlencode([*pairs, ('_total', 'accurate')], quote_via=quote)}"
        if refused(scopes, path, types):
            assert (await somebody.get(url)).status == 403, (texts, url)
        elif not outside(shown[0], pairs):
            found, total, _ = await page(somebody, f"{url}&_count=1000")
            pages = await walked(somebody, f"{url}&_count=2")
            if any(one.startswith("503") for one in (*found.matches, *pages.matches)):
                continue  # nested too deeply for SQLite: the policy is in every part of the search
            told = expected(*shown, path, pairs)
            assert {*found.matches, *found.included} <= {*shown[1].resources}, (texts, url)
            assert (found, total, pages) == (told, len(told.matches), told), (texts, url)
        seen = {one for one in world.resources if (await somebody.get(one)).status == 200}
        assert seen == set(part(world, reading).resources), texts
        assert parsed.refused == ()


def refused(scopes: Sequence[Drawn], path: str, types: Sequence[str]) -> bool:
    """Return whether no scope gives a right that a search of these types needs.

    That is s for each of them, and r or s for the centre of a compartment.
    """

    def may(type: str, letters: str) -> bool:
        return any(
            scope.type in ("*", type) and set(letters) & set(scope.letters) for scope in scopes
        )

    centre = path.partition("/")[0] if "/" in path else ""
    if centre and not may(centre, "rs"):
        return True
    if not types:
        return not any("s" in scope.letters for scope in scopes)
    return not all(may(type, "s") for type in types)


async def test_the_worlds_have_something_to_hide(door: Door) -> None:
    """The property would prove little about worlds of which everybody sees all or nothing."""
    bodies = made([(type, seed) for type in MAKERS for seed in range(12)])
    world = await stored(await fresh(door), bodies)

    own = [one for one in world.resources.values() if owners(world, one) == {WHOSE}]
    shared = [one for one in world.resources.values() if len(owners(world, one)) > 1]

    assert len(own) > 3
    assert shared
    assert content(await door.get("?_summary=count&_lastUpdated=gt1990"))["total"] == len(bodies)
