import time
from collections.abc import Iterator

import numpy as np
import pytest

from predictors.measure.clock import Sample
from predictors.measure.rounds import RUNS, Effort, Visits, visit_all


class Scripted:
    """Stands for a clock: each visit of a task gets the level that the script says, and its warm-up ten times that."""

    def __init__(self, *levels: float, wall: float = 1.0) -> None:
        self.levels: Iterator[float] = iter(levels)
        self.wall = wall
        self.run_of_visit = 0

    def samples(self, run, number: int) -> list[Sample]:
        return [self.sample(run) for _ in range(number)]

    def sample(self, run) -> Sample:
        run()
        if self.run_of_visit == 0:
            self.level = next(self.levels)
        seconds = self.level * (10.0 if self.run_of_visit == 0 else 1.0)
        self.run_of_visit = (self.run_of_visit + 1) % (RUNS + 1)
        return Sample(seconds * 2.0, seconds * 2.0 * self.wall, 2.0)


class Task:
    def __init__(self, log: list[str] | None = None, name: str = "") -> None:
        self.log, self.name = log if log is not None else [], name

    def run(self) -> None:
        self.log.append(self.name)


def visits_of(*levels: float, precision: float = 0.01, **options) -> Visits:
    clock = Scripted(*levels)
    (found,) = visit_all([Task()], clock, np.random.default_rng(0), Effort(precision=precision, **options))  # type: ignore[arg-type]
    return found


def test_levels_are_in_units_of_the_reference_and_leave_the_warm_up_out() -> None:
    found = visits_of(3.0, 3.0, 3.0)
    assert found.levels().tolist() == [3.0, 3.0, 3.0]
    assert len(found.samples) == 3 * (RUNS + 1)
    assert found.standard_error == 0.0


def test_a_part_of_each_run_has_levels_of_its_own() -> None:
    found = visits_of(3.0, 3.0, 3.0)
    assert found.levels([1.0] * len(found.samples)).tolist() == [0.5, 0.5, 0.5]


def test_a_task_is_visited_until_its_standard_error_is_small_enough() -> None:
    assert visits_of(1.0, 1.0, 1.0).num_visits == 3
    # 1.00, 1.04, 1.02: deviation 0.02, over 1.02 and the root of 3: 1.1 %; a fourth at 1.02 makes it 0.8 %
    assert visits_of(1.0, 1.04, 1.02, 1.02).num_visits == 4
    assert visits_of(1.0, 1.04, 1.02, precision=0.02).num_visits == 3


def test_visits_end_with_the_budget_or_their_greatest_number() -> None:
    restless = [1.0 + 0.09 * (number % 2) for number in range(100)]
    assert visits_of(*restless, precision=1e-6).num_visits == Effort(precision=1e-6).max_visits
    assert visits_of(*restless, precision=1e-6, end_s=time.monotonic() - 1.0).num_visits == 3


def test_a_visit_that_the_reference_does_not_explain_is_left_out_and_taken_again() -> None:
    found = visits_of(1.0, 1.5, 1.0, 1.0)
    assert found.rejected == {1}
    assert found.levels().tolist() == [1.0, 1.0, 1.0]
    assert found.num_visits == 3


def test_two_levels_that_are_visited_alike_are_no_outliers() -> None:
    """Of 1, 2, 1, 2, ... neither is the odd one: all are kept, and the spread says so."""
    found = visits_of(*[1.0, 2.0] * 10, max_visits=6)
    assert found.rejected == set()
    assert found.standard_error > 0.1


def test_runs_during_which_others_had_the_processor_do_not_count() -> None:
    calm, disturbed = Sample(1.0, 1.01, 1.0), Sample(9.0, 30.0, 1.0)
    found = Visits(samples=[calm, calm, disturbed, disturbed, calm], visit_of=[-1, 0, 0, 0, 0])
    assert found.levels().tolist() == [1.0]
    all_disturbed = Visits(samples=[calm, disturbed], visit_of=[-1, 0])
    assert all_disturbed.levels().tolist() == [9.0], "better than nothing"


def test_tasks_are_interleaved_in_random_order() -> None:
    log: list[str] = []
    tasks = [Task(log, name) for name in "abcd"]
    clock = Scripted(*[1.0] * 100)
    visit_all(tasks, clock, np.random.default_rng(3), Effort(precision=0.1))  # type: ignore[arg-type]
    runs_of_a_round = 4 * (RUNS + 1)
    rounds = [log[begin : begin + runs_of_a_round] for begin in range(0, len(log), runs_of_a_round)]
    orders = ["".join(dict.fromkeys(names)) for names in rounds]
    assert len(orders) == 3
    assert all(sorted(order) == list("abcd") for order in orders)
    assert len(set(orders)) > 1


def test_before_the_second_visit_nothing_is_known_of_the_error() -> None:
    assert Visits(samples=[Sample(1.0, 1.0, 1.0)], visit_of=[0]).standard_error == pytest.approx(float("inf"))
