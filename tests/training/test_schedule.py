"""Learning rates worked by hand, as shares of the peak."""

import pytest

from trimlab.training.schedule import Schedule, ScheduleName


def shares(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.share(step, planned=8, per_epoch=4) for step in range(steps)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 0.3, 0.3, 0.3]),
        ("restart", [1, 3 / 4, 2 / 4, 0.3, 0.3]),
        ("constant", [1, 1, 1]),
    ],
)
def test_a_rate_falls_to_its_final_share(name: ScheduleName, expected: list[float]) -> None:
    assert shares(Schedule(name, final_share=0.3), len(expected)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [1 / 4, 2 / 4 * 7 / 8, 3 / 4 * 6 / 8, 5 / 8, 4 / 8]),
        ("restart", [1 / 4, 2 / 4 * 3 / 4, 3 / 4 * 2 / 4, 1 / 4, 0]),
        ("constant", [1 / 4, 2 / 4, 3 / 4, 1, 1]),
    ],
)
def test_a_warm_up_rises_to_the_rate_without_it(name: ScheduleName, expected: list[float]) -> None:
    schedule = Schedule(name, final_share=0, warmup_steps=4)
    assert shares(schedule, len(expected)) == pytest.approx(expected)
