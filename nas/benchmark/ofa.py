"""Once-for-All's MobileNetV3 with an ImageNet surrogate: error against the latency that a device predicts.

Runs are relative to the exact front of the whole space, which `nas.yardstick` finds where latency adds up; elsewhere to
the front of everything that the runs in the results file found.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from nas.benchmark.curves import shares_of_boxes, steps_of
from nas.benchmark.results import Run, append_run
from nas.benchmark.searching import search
from nas.pareto import pareto_front
from nas.surrogate import SurrogateAccuracy, load_surrogate
from nas.task import MARGIN, SearchTask
from nas.yardstick import NoYardstickError, best_front
from predictors.device import load_device
from predictors.latency import LatencyPredictor
from search_spaces.loading import load_space
from search_spaces.space import Arch

SURROGATE = "ofa_mobilenet_v3_w1.0_r224"
NEAR, FAR = "near", "far"
"""Reference points: `MARGIN` times the error of the smallest and the latency of the largest network, which decides; and
that of `SearchTask.reference_point`, with an error of 1."""

CHECKPOINTS = (200, 500, 800, 2000)
BUDGETS: Mapping[str, int] = {
    "random": 2000, "nsga2": 2000, "nsga2_50": 2000, "nsga3": 2000, "tpe": 800, "predictor": 2000, "gp": 200,
}  # fmt: skip
"""Evaluations of each sampler: samplers whose own time grows with the trials stop earlier."""
SLOW = ("gp",)
"""Only when it is asked for: it takes ten minutes and more a seed."""


@lru_cache(maxsize=2)
def read_task(device: str) -> tuple[SearchTask, Callable[[Arch], float]]:
    """The task and the accuracy."""
    space = load_space("mobilenet_v3", resolutions=[224])
    task = SearchTask(
        space=space,
        deployed_space=space.deployed(),
        predictor=LatencyPredictor(load_device(device)),
        objectives=("error", "latency_s"),
    )
    return task, SurrogateAccuracy(surrogate=load_surrogate(SURROGATE), space=space)


def reference_points_of(task: SearchTask, accuracy: Callable[[Arch], float]) -> dict[str, tuple[float, ...]]:
    """Losses (error, seconds) by name, known before any search."""
    smallest, largest = task.space.smallest(), task.space.largest()
    worst = (1.0 - accuracy(smallest), task.costs(largest)["latency_s"])
    return {NEAR: (MARGIN * worst[0], MARGIN * worst[1]), FAR: task.reference_point}


@lru_cache(maxsize=2)
def best_of(device: str) -> Mapping[str, float] | None:
    """By reference point, the share of its box that the exact front of the space fills; None if it is not known."""
    task, accuracy = read_task(device)
    try:
        front = best_front(task, load_surrogate(SURROGATE))
    except NoYardstickError:
        return None
    return shares_of_boxes(front.losses_ND, reference_points_of(task, accuracy)) if front.whole else None


def run_seed(device: str, seed: int, budgets: Mapping[str, int], results: Path) -> int:
    """Search once with each sampler, and append each run to the results as soon as it is there; how many there are."""
    task, accuracy = read_task(device)
    points = reference_points_of(task, accuracy)
    for sampler, budget in budgets.items():
        found = search(task, accuracy, sampler, num_evaluations=budget, seed=seed)
        append_run(
            results,
            Run(
                task=f"ofa {device}",
                sampler=sampler,
                seed=seed,
                budget=budget,
                num_evaluations=len(found.archs),
                reference_points=points,
                steps={name: steps_of(found.losses_ND, point) for name, point in points.items()},
                best=best_of(device),
                front=tuple(map(tuple, found.losses_ND[pareto_front(found.losses_ND)].tolist())),
                search_s=found.search_s,
                sampler_s=found.sampler_s,
                note={},
            ),
        )
    return len(budgets)
