"""The table of the operations and rules of a program."""

from app.domain import extensions, shipped, workforce
from app.domain.admission import (
    admitting,
    conditions,
    eligibility,
    episodes,
    evidence,
    groups,
    levels,
    overrides,
    rosters,
)
from app.domain.attendance import encounters, recording
from app.domain.figures import adherence, census
from app.domain.program import staff, tracks
from app.domain.sessions import appointments, generating
from app.domain.vocabulary import ISSUE, Vocabulary
from app.fhir.operations import Operation
from app.fhir.rules import Rules

RULED = (
    workforce,
    extensions,
    tracks,
    staff,
    appointments,
    conditions,
    overrides,
    episodes,
    levels,
    evidence,
    rosters,
    encounters,
)
PERFORMING = (groups, generating, eligibility, admitting, recording, adherence, census)


def operations(vocabulary: Vocabulary) -> tuple[Operation, ...]:
    """Return the operations of a program, in the order of the modules."""
    rows = [row for module in PERFORMING for row in module.operations(vocabulary).items()]
    definitions = shipped.operations(vocabulary.base)
    return tuple(Operation(definitions[code], **known) for code, known in rows)


def rules(vocabulary: Vocabulary) -> Rules:
    """Return the rules that hold for every write."""
    rows = tuple(rule for module in RULED for rule in module.rules(vocabulary))
    return Rules(rows, vocabulary.system(ISSUE))
