"""$census over HTTP: the worked example, what it is broken down by, and who sees small counts."""

from typing import Any

import pytest

from app.config import Settings
from app.domain.vocabulary import (
    DIAGNOSIS_ROLE,
    DISCHARGE_REASON,
    LEVEL,
    LOC_PERIOD,
    PROGRAM,
    STAGE,
    WAIVER,
)
from tests.access.tokens import authorized
from tests.domain import clinic
from tests.domain.clinic import V
from tests.domain.office import Iop, param, said

Resource = dict[str, Any]
ORDER = "ServiceRequest/order-"
SOPT = "https://nahdo.org/sopt"
WEEK = "from=2026-03-02&to=2026-03-08"


async def census(iop: Iop, query: str = WEEK) -> Any:
    return said(await iop.client.get(f"/HealthcareService/day/$census?{query}"))


async def stayed(iop: Iop, patient: str, start: str, end: str = "") -> None:
    """Store an episode that began on a day, and ended on one."""
    await iop.put(*clinic.admitted(patient, start))
    if end:
        order = {**clinic.order(patient, start), "status": "completed"}
        await iop.put(order, finished(await iop.read(f"EpisodeOfCare/ep-{patient}"), end))


def finished(episode: Resource, end: str) -> Resource:
    """Return an episode that ended on a day, without plans for the time after."""
    period = {**episode["period"], "end": f"{end}T00:00:00-08:00"}
    condition = episode["diagnosis"][0]["condition"]
    role = clinic.coded(DIAGNOSIS_ROLE, "DD")
    place = V.extended(PROGRAM, valueReference={"reference": clinic.DAY_TRACK})
    level = V.complex(
        LOC_PERIOD,
        ("code", "valueCodeableConcept", V.concept(LEVEL, "2.1")),
        ("period", "valuePeriod", period),
        ("order", "valueReference", {"reference": episode["id"].replace("ep-", ORDER)}),
    )
    reason = V.concept(DISCHARGE_REASON, "transferred")
    why = V.extended(DISCHARGE_REASON, valueCodeableConcept=reason)
    waiver = V.extended(WAIVER, valueString="Is cared for elsewhere")
    return {
        **episode,
        "status": "finished",
        "period": period,
        "diagnosis": [*episode["diagnosis"], {"condition": condition, "role": role}],
        "extension": [place, level, why, waiver],
    }


@pytest.fixture
async def week(iop: Iop) -> Iop:
    """A program with the four episodes of the worked example."""
    iop.clock.set("2026-03-09T08:00:00-07:00")
    await iop.put(*clinic.program())
    await stayed(iop, "a", "2026-03-01")
    await stayed(iop, "b", "2026-03-03", "2026-03-06")
    await stayed(iop, "c", "2026-03-05", "2026-03-05")
    await stayed(iop, "d", "2026-02-20", "2026-03-04")
    return iop


async def test_the_worked_example(week: Iop) -> None:
    found = await census(week)

    assert [one["active"] for one in found["day"]] == [2, 3, 2, 2, 1, 1, 1]
    assert found["average-daily-census"] == 1.71
    assert found["suppressed"] is False
    assert found["day"][3] == {
        "date": "2026-03-05",
        "active": 2,
        "onhold": 0,
        "waitlist": 0,
        "admissions": 1,
        "discharges": 1,
        "transitions-in": 0,
        "transitions-out": 0,
        "capacity": 30,
        "occupancy": 0.0667,
    }


async def test_a_day_alone_has_no_average(week: Iop) -> None:
    found = await census(week, "date=2026-03-03")

    assert (found["day"]["active"], "average-daily-census" in found) == (3, False)


async def test_without_a_date_it_is_today_where_the_program_is(week: Iop) -> None:
    week.clock.set("2026-03-09T23:30:00-07:00")

    found = await census(week, "")

    assert found["day"]["date"] == "2026-03-09"


async def test_a_post_of_parameters_is_answered_as_a_get(week: Iop) -> None:
    days = param("from", valueDate="2026-03-02"), param("to", valueDate="2026-03-08")

    posted = said(await week.call("/HealthcareService/day/$census", *days))

    assert posted == await census(week)


async def test_days_on_hold_and_on_the_waiting_list_are_counted_apart(week: Iop) -> None:
    begun, turned = "2026-03-01T00:00:00-08:00", "2026-03-07T10:00:00-08:00"
    past = [
        {"status": "active", "period": {"start": begun, "end": turned}},
        {"status": "onhold", "period": {"start": turned}},
    ]
    held = {"status": "onhold", "statusHistory": past}
    await week.put({**await week.read("EpisodeOfCare/ep-a"), **held})
    waiting = clinic.episode("w", status="waitlist")
    waiting["extension"] = [V.extended(PROGRAM, valueReference={"reference": clinic.DAY_TRACK})]
    waiting["statusHistory"] = [{"status": "waitlist", "period": {"start": turned}}]
    del waiting["period"]
    await week.put(*clinic.chart("w"), waiting)

    found = (await census(week))["day"]

    assert [one["onhold"] for one in found] == [0, 0, 0, 0, 0, 1, 1]
    assert [one["active"] for one in found] == [2, 3, 2, 2, 1, 0, 0]
    assert [one["waitlist"] for one in found] == [0, 0, 0, 0, 0, 1, 1]


def cells(found: Any) -> dict[str, Any]:
    by = found["day"]["by"]
    return {one["code"]["code"]: one.get("count") for one in (by if isinstance(by, list) else [by])}


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("level", {"2.1": 3}),
        ("track", {"day": 3}),
        ("stage", {"middle": 1, "unknown": 2}),
        ("payer", {"1": 1, "2": 1, "unknown": 1}),
        ("group", {"Group/day-a": 1, "unknown": 2}),
    ],
)
async def test_who_is_active_is_broken_down(week: Iop, by: str, found: dict[str, int]) -> None:
    episode = await week.read("EpisodeOfCare/ep-a")
    episode["extension"].append(V.extended(STAGE, valueCode="middle"))
    medicaid, medicare = ({"type": clinic.coded(SOPT, code)} for code in "21")
    await week.put(episode, {**clinic.coverage("a"), **medicaid})
    await week.put(
        {**clinic.coverage("b"), **medicare},
        clinic.roster("Patient/a", since="2026-03-01", stage="middle"),
    )

    counted = await census(week, f"date=2026-03-03&by={by}")

    assert cells(counted) == found


async def test_small_counts_are_kept_back_on_request(week: Iop) -> None:
    found = await census(week, f"{WEEK}&by=level&suppress=true")

    assert found["suppressed"] is True
    assert "average-daily-census" not in found
    day = found["day"][3]
    assert not day.keys() & {"active", "admissions", "discharges", "occupancy"}
    assert day["by"]["code"]["code"] == "2.1"
    assert "count" not in day["by"]


async def test_the_token_of_a_patient_sees_no_small_counts(
    week: Iop, program_settings: Settings
) -> None:
    week.client.headers.update(await authorized(program_settings, "patient/*.rs", "Patient/a"))

    found = await census(week)

    assert found["suppressed"] is True
    assert not any("active" in one for one in found["day"])


@pytest.mark.parametrize(
    ("scopes", "query"),
    [
        ("system/HealthcareService.rs", ""),
        ("system/HealthcareService.rs system/EpisodeOfCare.rs", "by=payer"),
        ("system/HealthcareService.rs system/EpisodeOfCare.rs", "by=group"),
    ],
)
async def test_who_may_not_search_what_is_counted_is_refused(
    iop: Iop, program_settings: Settings, scopes: str, query: str
) -> None:
    await iop.put(*clinic.program())
    iop.client.headers.update(await authorized(program_settings, scopes))

    reply = await iop.client.get(f"/HealthcareService/day/$census?{query}")

    assert reply.status_code == 403


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("from=2026-03-02", "http.date"),
        ("date=2026-03-02&from=2026-03-02&to=2026-03-02", "http.date"),
        ("from=2026-03-08&to=2026-03-02", "http.to"),
        ("from=2020-03-08&to=2026-03-02", "http.to"),
        ("by=age", "http.by"),
        ("date=2026-03", "http.date"),
        ("date=9999-12-31", "http.date"),
    ],
)
async def test_what_cannot_be_answered_is_refused(iop: Iop, query: str, place: str) -> None:
    await iop.put(*clinic.program())

    reply = await iop.client.get(f"/HealthcareService/day/$census?{query}")

    assert reply.status_code in (400, 422)
    assert reply.json()["issue"][0]["expression"] == [place]
