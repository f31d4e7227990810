"""From which ridge point on memory awareness pays: a device's bandwidth swept, all else equal, networks chosen anew.

The same device is imagined with memory from 16 times as slow to 16 times as fast. On each, the front of error against
latency is held against the front of error against MACs, whose networks are the same everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log

import numpy as np

from nas.compare.imagined import with_bandwidth as with_bandwidth
from nas.compare.judging import largest_judged_error, single_versus
from nas.compare.limits import exact_front
from nas.compare.records import BestKnown, Chosen, Floats, Sweep, SweepPoint
from nas.compare.why import bound_shares, spread_over, terms_of
from nas.objectives import metric_named
from nas.pareto import pareto_front
from nas.surrogate import SurrogateAccuracy
from nas.tabular import TableAccuracy
from nas.task import SearchTask
from nas.yardstick import NoYardstickError, everything
from predictors.latency import LatencyPredictor
from search_spaces.space import Arch

FACTORS = tuple(2.0**power for power in range(-4, 5))
"""On the bandwidth."""

_NUM_PREDICTED = 2000
"""Of more networks than these, only such are predicted at all bandwidths as are on the front at `_LOOKED_AT`."""

_LOOKED_AT = (FACTORS[0], 1.0, FACTORS[-1])

_FLAT = 0.002
"""Changes of a gain that are no larger are none."""


def sweep(
    task: SearchTask,
    accuracy: Callable[[Arch], float],
    evaluated: Sequence[Chosen],
    *,
    baseline: str = "macs",
    gain: float = 0.05,
) -> Sweep:
    """What choosing by latency gains over choosing by another cost, from 1/16 to 16 times the device's bandwidth.

    Networks are chosen from the whole space where fronts are exact or a table says every accuracy, else from all that
    were evaluated. The gain is 1 - seconds / the baseline's seconds at equal error, the geometric mean along the front;
    between two bandwidths its logarithm is taken to be linear in that of the ridge point.

    Assumes: the share of the bandwidth that a kernel reaches stays as it is, and so does all that does not depend on
    the bandwidth. Measured tables tell of the device as it is, so all is predicted without them, at the device's own
    bandwidth too. A bound on the device's own latency is left out; the others hold.

    Args:
        evaluated: as `nas.compare.judging.evaluated` gives them; used where the whole space cannot be chosen from.
        baseline: a cost that does not depend on the bandwidth.
        gain: share of the time that has to be saved.

    Raises:
        ValueError: there is nothing to choose from, or a baseline that cannot be one.
    """
    costs = task.costs(task.space.smallest())
    if baseline not in costs or baseline == "latency_s" or metric_named(baseline).maximise:
        allowed = [name for name in costs if name != "latency_s" and not metric_named(name).maximise]
        raise ValueError(f"a sweep of the bandwidth holds latency against one of {allowed}, found {baseline!r}")
    free = {name: bound for name, bound in task.constraints.items() if name != "latency_s"}
    task = replace(task, objectives=("error", "latency_s"), constraints=free)
    choice = _from_whole_space(task, accuracy, baseline) or _from_pool(task, accuracy, evaluated, baseline)
    by_factor = {factor: _point(choice, factor) for factor in FACTORS}
    points = tuple(sorted(by_factor.values(), key=lambda point: point.ridge_point))
    return Sweep(
        points=points,
        own=by_factor[1.0],
        gain=gain,
        pays_from=pays_from(points, gain),
        text=" ".join([choice.text, *_left_out(task), course_text(points)]),
    )


def pays_from(points: Sequence[SweepPoint], gain: float) -> float | None:
    """The ridge point from which on at least `gain` is saved up to the last point; None: not at that one, or at all.

    Args:
        points: by increasing ridge point.
        gain: share of the baseline's time.
    """
    wanted = -log(1.0 - gain)
    saved = [-log(point.latency_ratio) for point in points]
    missing = [number for number, each in enumerate(saved) if not each >= wanted]  # a nan is missing too
    if not missing or missing[-1] == len(points) - 1:
        return None
    before, after = points[missing[-1]], points[missing[-1] + 1]
    short, enough = saved[missing[-1]], saved[missing[-1] + 1]
    share = (wanted - short) / (enough - short) if short == short else 1.0
    return exp(log(before.ridge_point) + share * (log(after.ridge_point) - log(before.ridge_point)))


def course_text(points: Sequence[SweepPoint]) -> str:
    """Which way the gain goes with the ridge point, a sentence.

    Args:
        points: by increasing ridge point.
    """
    saved = [1.0 - point.latency_ratio for point in points]
    steps = [after - before for before, after in pairwise(saved)]
    if max(saved) - min(saved) <= _FLAT:
        return "The gain hardly depends on the ridge point."
    if min(steps) >= -_FLAT:
        return "The gain only grows with the ridge point."
    if max(steps) <= _FLAT:
        return "The gain only shrinks as the ridge point rises, so memory is not what it comes from."
    least, most = int(np.argmin(saved)), int(np.argmax(saved))
    return (
        f"The gain both grows and shrinks as the ridge point rises: it is least at {points[least].ridge_point:.3g} and "
        f"largest at {points[most].ridge_point:.3g} FLOP/byte."
    )


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What is chosen from.

    Attributes:
        task: without a bound on latency.
        front_at: by a task on another device, networks on the front of error against latency, and error and seconds.
        seconds: of networks, by such a task.
        baseline, baseline_errors_N: networks on the front of error against the baseline's cost, and their errors.
        text: which networks there are.
    """

    task: SearchTask
    front_at: Callable[[SearchTask], tuple[Sequence[Arch], Floats]]
    seconds: Callable[[SearchTask, Sequence[Arch]], Floats]
    baseline: Sequence[Arch]
    baseline_errors_N: Floats
    text: str


def _from_whole_space(task: SearchTask, accuracy: Callable[[Arch], float], baseline: str) -> _Choice | None:
    """By exact fronts; None where there are none, or where integer programs would have to find each of their points."""
    if not isinstance(accuracy, SurrogateAccuracy) or task.constraints:
        return None
    by_baseline, by_latency = (
        exact_front(_with_predictor(task, 1.0), accuracy, cost) for cost in (baseline, "latency_s")
    )
    if by_baseline is None or by_latency is None or not (by_baseline.whole and by_latency.whole):
        return None

    def front_at(there: SearchTask) -> tuple[Sequence[Arch], Floats]:
        found = exact_front(there, accuracy, "latency_s")
        assert found is not None
        return found.archs, found.losses_ND

    return _Choice(
        task=task,
        front_at=front_at,
        seconds=_seconds_many,
        baseline=by_baseline.archs,
        baseline_errors_N=by_baseline.losses_ND[:, 0],
        text="Networks are chosen from the whole space, by exact fronts.",
    )


def _from_pool(
    task: SearchTask, accuracy: Callable[[Arch], float], evaluated: Sequence[Chosen], baseline: str
) -> _Choice:
    """Every network of a small space whose accuracies a table says, else all that were evaluated.

    Where there are many, those on the front of error and latency at the smallest, the own and the largest bandwidth:
    all that can be best in between where a kernel's time is the sum of arithmetic and transfers, not the larger of the
    two.
    """
    archs, errors_N, of_what = _pool(task, accuracy, evaluated)
    baseline_N = task.costs_many(task.space.encode(archs))[baseline]
    by_baseline = pareto_front(np.column_stack([errors_N, baseline_N]))
    text = f"Networks are chosen from {of_what}."
    kept = list(range(len(archs)))
    if len(archs) > _NUM_PREDICTED:
        seconds = [_seconds_many(_with_predictor(task, factor), archs) for factor in _LOOKED_AT]
        kept = pareto_front(np.column_stack([errors_N, *seconds])).tolist()
        text = (
            f"Networks are chosen from {len(kept):,} of {of_what}: those that no other beats in error and in latency "
            "at the smallest, the own and the largest bandwidth."
        )
    few, few_errors_N = [archs[index] for index in kept], errors_N[kept]

    def front_at(there: SearchTask) -> tuple[Sequence[Arch], Floats]:
        losses_N2 = np.column_stack([few_errors_N, _seconds(there, few)])
        on_front = pareto_front(losses_N2)
        return [few[index] for index in on_front], losses_N2[on_front]

    return _Choice(
        task=task,
        front_at=front_at,
        seconds=_seconds,
        baseline=[archs[index] for index in by_baseline],
        baseline_errors_N=errors_N[by_baseline],
        text=text,
    )


def _pool(
    task: SearchTask, accuracy: Callable[[Arch], float], evaluated: Sequence[Chosen]
) -> tuple[Sequence[Arch], Floats, str]:
    """Networks, each once, their errors, and what they are in words."""
    if isinstance(accuracy, TableAccuracy):
        try:
            networks = everything(task, accuracy)
        except NoYardstickError:
            pass
        else:
            return networks.archs, networks.metrics["error"], f"all {len(networks.archs):,} networks of the space"
    found = {
        tuple(arch.values()): (arch, float(error))
        for each in evaluated
        for arch, error in zip(each.archs, each.losses_F2[:, 0])
    }
    if not found:
        raise ValueError("a sweep of the bandwidth needs networks to choose from; none were evaluated")
    archs, errors = zip(*found.values())
    return archs, np.array(errors), f"the {len(archs):,} networks that the searches evaluated"


def _point(choice: _Choice, factor: float) -> SweepPoint:
    there = _with_predictor(choice.task, factor)
    device = there.predictor.device
    archs, losses_F2 = choice.front_at(there)
    baseline_F2 = np.column_stack([choice.baseline_errors_N, choice.seconds(there, choice.baseline)])
    best = BestKnown(archs=(), losses_B2=losses_F2, text="")
    looked_at = spread_over(losses_F2, largest_judged_error(best))
    terms = terms_of(there.predictor)
    memory = [bound_shares(there.predict(archs[index]), terms)["memory"] for index in looked_at]
    return SweepPoint(
        factor=factor,
        ridge_point=device.ridge_point(there.predictor.dtype),
        latency_ratio=exp(single_versus(losses_F2, baseline_F2, best)),
        memory_share=float(np.mean(memory)),
    )


def _with_predictor(task: SearchTask, factor: float) -> SearchTask:
    """The task on its device with another bandwidth, predicted without tables."""
    now = task.predictor
    device = with_bandwidth(now.device, factor)
    return replace(task, predictor=LatencyPredictor(device, tables=[], dtype=now.dtype, runtime=now.runtime))


def _seconds(task: SearchTask, archs: Sequence[Arch]) -> Floats:
    """Network by network, which is faster for few of a space whose blocks are many."""
    return np.array([task.predict(arch).latency_s for arch in archs], dtype=np.float64)


def _seconds_many(task: SearchTask, archs: Sequence[Arch]) -> Floats:
    return task.costs_many(task.space.encode(archs))["latency_s"]


def _left_out(task: SearchTask) -> list[str]:
    """Sentences on what the sweep does not look at."""
    tables = "Measured tables tell of the device as it is, so all is predicted without them, at its own bandwidth too."
    return [tables] if task.predictor.device.tables or task.predictor.tables else []
