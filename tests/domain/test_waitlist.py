"""The waiting list: an episode that begins later, and the admission that it becomes."""

from typing import Any

from tests.domain import clinic
from tests.domain.office import Iop, param, rule, said
from tests.domain.test_admit import ADMIT, V, asking, counted, ready

WAIT = param("waitlist", valueBoolean=True)


async def waiting(iop: Iop) -> dict[str, Any]:
    """Return the episode of who was put on the waiting list."""
    answer = said(await iop.call(ADMIT, *asking(), WAIT))
    return await iop.read(answer["episode"]["reference"])


async def test_the_waiting_list_is_an_episode_and_nothing_else(iop: Iop) -> None:
    await ready(iop)

    episode = await waiting(iop)

    assert episode["status"] == "waitlist"
    assert [one["status"] for one in episode["statusHistory"]] == ["waitlist"]
    assert await counted(iop, "ServiceRequest", "CareTeam", "CarePlan", "Task") == [0, 0, 0, 0]
    assert "member" not in await iop.read(clinic.GROUP)


async def test_the_answer_names_the_episode_alone(iop: Iop) -> None:
    await ready(iop)

    answer = said(await iop.call(ADMIT, *asking(), WAIT))

    assert answer.keys() == {"episode", "outcome"}


async def test_who_waits_needs_no_evidence_yet(iop: Iop) -> None:
    await ready(iop)
    await iop.put({**clinic.intake("p1"), "status": "in-progress"})

    reply = await iop.call(ADMIT, *asking(), WAIT)

    assert reply.status_code == 200


async def test_nobody_waits_twice(iop: Iop) -> None:
    await ready(iop)
    await waiting(iop)

    reply = await iop.call(ADMIT, *asking(), WAIT)

    assert (reply.status_code, rule(reply)) == (409, "duplicate-episode")


async def test_nobody_waits_who_is_in_treatment(iop: Iop) -> None:
    await ready(iop)
    said(await iop.call(ADMIT, *asking()))

    reply = await iop.call(ADMIT, *asking(), WAIT)

    assert (reply.status_code, rule(reply)) == (409, "duplicate-episode")


async def test_a_full_program_has_a_waiting_list(iop: Iop) -> None:
    await ready(iop, "p1", "p2")
    await iop.put(clinic.service(capacity=1))
    said(await iop.call(ADMIT, *asking("p1")))

    reply = await iop.call(ADMIT, *asking("p2"), WAIT)

    assert reply.status_code == 200


async def test_the_episode_of_who_waits_becomes_the_active_one(iop: Iop) -> None:
    await ready(iop)
    episode = await waiting(iop)
    iop.clock.set("2026-03-05T07:00:00-08:00")

    answer = said(await iop.call(ADMIT, *asking()))

    assert answer["episode"] == {"reference": f"EpisodeOfCare/{episode['id']}"}
    active = await iop.read(answer["episode"]["reference"])
    assert active["identifier"] == episode["identifier"]
    assert [one["status"] for one in active["statusHistory"]] == ["waitlist", "active"]
    first, second = active["statusHistory"]
    assert first["period"]["end"] == second["period"]["start"] == active["period"]["start"]
    assert len(list(V.all(active, "iop-loc-period"))) == 1
