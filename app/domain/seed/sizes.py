"""How large a synthetic program is, and how long its history."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

AS_OF = datetime(2026, 6, 30)  # the last day, where nobody names one


@dataclass(frozen=True)
class Size:
    """How much is made.

    `weeks` of history; `tracks` by id (none: all), the day track `times` as large; `groups` of each
    track at most (0: as many as it has). `arriving` says whether others come beside the cases that
    every seed has.
    """

    weeks: int
    tracks: tuple[str, ...] = ()
    times: int = 1
    groups: int = 0
    arriving: bool = True


SIZES: Mapping[str, Size] = {
    "tiny": Size(6, ("day", "evening", "hiop", "adolescent", "tuesday"), groups=1, arriving=False),
    "demo": Size(26),
    "load": Size(13, times=20),
}
