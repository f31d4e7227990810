"""Strategies held against each other: searched for with the same means, judged by the same yardstick."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nas.compare.judging import choose, evaluated, reference_point_of, standing, versus_all
from nas.compare.limits import best_known, limit_of
from nas.compare.records import BestKnown, Chosen, Comparison, Outcome, Strategy, Sweep, Yardstick
from nas.compare.searching import Searches, search_all
from nas.compare.statistics import seeds_needed
from nas.compare.sweep import sweep as sweep_bandwidth
from nas.compare.why import why
from nas.compare.yardsticks import FromMeasurements, MeasuredHere, Predicted, write_unknown
from nas.objectives import metric_named
from nas.proposals import MakeSampler
from nas.task import SearchTask
from search_spaces.space import Arch

OUTCOMES_FILE = "outcomes.jsonl"
UNKNOWN_FILE = "to_measure.csv"
FEWEST_TRIALS = 10
"""Every search begins with the smallest and the largest network; what follows is too little for a front."""

_BLIND = ("macs", "num_params")
"""What choosing by latency is held against where the bandwidth is swept: the baseline's own cost, else the first."""

_LEAST_KNOWN = 0.5
"""Of the networks that a search chose, what a table of measurements has to know at least."""


def compare_strategies(
    task: SearchTask | Callable[[int], SearchTask],
    accuracy: Callable[[Arch], float],
    strategies: Sequence[Strategy],
    *,
    baseline: str = "flops_only",
    sampler: MakeSampler,
    sampler_name: str,
    num_trials: int,
    seeds: Sequence[int],
    folder: Path | None,
    yardstick: Yardstick | None = None,
    best: BestKnown | None = None,
    judged: str = "accuracy",
    title: str,
    jobs: int = 1,
    sweep: bool = True,
) -> Comparison:
    """Search with each strategy and each seed, judge what they chose, and hold them against the baseline.

    All get the same sampler, seeds and number of evaluations; "random" draws instead. What is finished is kept in the
    folder: a comparison that was killed goes on with the same call, and one with more seeds or strategies goes on from
    there. `RememberedAccuracy` keeps accuracies that are expensive.

    Args:
        task: what is searched for; its objectives are replaced by each strategy's. Or a function that makes the task of
            a seed, e.g. with a predictor that was calibrated with measurements of that seed; what explains and sweeps
            takes the first seed's.
        accuracy: arch -> share of right answers in [0, 1].
        sampler_name: tells samplers apart; part of what is compared in the folder and of the report.
        num_trials: different networks that each search evaluates.
        folder: of finished searches; None keeps nothing.
        yardstick: None takes the latency that the (first seed's) task predicts.
        best: the best known front; None finds it: exactly where that can be, else among all that was evaluated.
        judged: what `1 - error` is, in words: "top-1".
        title: of the device as deployed.
        jobs: processes that search.
        sweep: the device's bandwidth is swept, which takes some minutes at most.

    Raises:
        ValueError: anything that is wrong with the arguments, a strategy whose metrics the device has no figures for,
            or a yardstick that does not know enough of what was chosen.
        KeyboardInterrupt: Ctrl-C; finished searches are kept.
    """
    check_strategies(strategies, baseline)
    check_budget(num_trials, seeds)
    searches = Searches(
        task=task,
        accuracy=accuracy,
        strategies=tuple(strategies),
        sampler=sampler,
        sampler_name=sampler_name,
        num_trials=num_trials,
        seeds=tuple(seeds),
    )
    first = searches.task_of(searches.seeds[0])
    check_figures(first, strategies)
    outcomes = search_all(searches, path=folder / OUTCOMES_FILE if folder else None, jobs=jobs)
    judge = yardstick or Predicted(task=first, title=title)
    if isinstance(judge, MeasuredHere):
        judge.measure(_archs_chosen(outcomes, first))
    chosen = _by_strategy(outcomes, lambda outcome: choose(outcome, searches.task_of(outcome.seed), judge))
    if folder is not None and isinstance(judge, FromMeasurements):
        _write_unknown(folder / UNKNOWN_FILE, outcomes, first, judge)
    check_known(chosen, judge)
    everything = _by_strategy(outcomes, lambda outcome: evaluated(outcome, searches.task_of(outcome.seed), judge))
    if best is None:
        best = best_known(first, accuracy, judge, [each for found in everything.values() for each in found])
    reference_point = reference_point_of(best)
    standings = {
        name: standing(
            name, chosen[name], everything[name], best, reference_point, [each.seconds for each in outcomes[name]]
        )
        for name in chosen
    }
    device = first.predictor.device
    return Comparison(
        title=title,
        space_name=first.space.name,
        device_name=device.name,
        judged=judged,
        baseline=baseline,
        strategies=tuple(strategies),
        seeds=tuple(seeds),
        num_trials=num_trials,
        sampler=sampler_name,
        yardstick_text=judge.text,
        is_measured=judge.is_measured,
        chosen=chosen,
        best=best,
        reference_point=reference_point,
        limits=_limits(first, accuracy, strategies, judge),
        standings=standings,
        versus=versus_all(chosen, standings, baseline, best),
        whys={each.name: why(first, each.name, chosen[each.name]) for each in strategies},
        ridge_point=device.ridge_point(first.predictor.dtype),
        sweep=_sweep(first, accuracy, outcomes, strategies, baseline) if sweep else None,
        num_seeds_needed=seeds_needed(len(strategies) - 1),
    )


def check_strategies(strategies: Sequence[Strategy], baseline: str) -> None:
    """Raise ValueError unless there are two strategies at least, the baseline among them, and none comes twice."""
    names = [each.name for each in strategies]
    if baseline not in names:
        raise ValueError(f"baseline {baseline!r} is none of the strategies {names}; add it, or choose one of them")
    if len(set(names)) < len(names):
        raise ValueError(f"strategies: each only once, found {names}")
    if len(names) < 2:
        raise ValueError(f"strategies: {names} alone is held against nothing; add another")


def check_budget(num_trials: int, seeds: Sequence[int]) -> None:
    """Raise ValueError for searches that are too short to leave a front, and for seeds that are none."""
    if num_trials < FEWEST_TRIALS:
        raise ValueError(
            f"num_trials must be at least {FEWEST_TRIALS}, found {num_trials}: fewer networks are no front that could "
            "be compared; 200 are usual"
        )
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be different numbers that are not negative, found {list(seeds)}")


def check_figures(task: SearchTask, strategies: Sequence[Strategy]) -> None:
    """Raise ValueError for a strategy that looks at what the device has no figures for."""
    costs = task.costs(task.space.smallest())
    for each in strategies:
        for name in each.objectives:
            if name != "error" and name not in costs:
                device = name.rpartition(".")[0] or task.predictor.device.name
                raise ValueError(
                    f"strategies: {each.name!r} looks at {metric_named(name).title}, for which device {device!r} has "
                    f"no figures; it has {sorted(costs)}"
                )


def check_known(chosen: Mapping[str, Sequence[Chosen]], yardstick: Yardstick) -> None:
    """Raise ValueError where the yardstick knows too few of the networks of a front for all to share it."""
    for name, found in chosen.items():
        for each in found:
            num_known, num = len(each.archs), len(each.archs) + each.num_unknown
            if num_known == 0 or num_known < _LEAST_KNOWN * num:
                raise ValueError(
                    f"the strategies share no yardstick: {yardstick.text} has {num_known} of the {num} networks that "
                    f"{name} chose with seed {each.seed}; it has to have at least half of every front; what it lacks "
                    f"stands in {UNKNOWN_FILE}"
                )


# ------------------------------------------------------------------------------------------------------------ private


def _by_strategy(
    outcomes: Mapping[str, Sequence[Outcome]], see: Callable[[Outcome], Chosen]
) -> dict[str, tuple[Chosen, ...]]:
    return {name: tuple(see(outcome) for outcome in found) for name, found in outcomes.items()}


def _archs_chosen(outcomes: Mapping[str, Sequence[Outcome]], task: SearchTask) -> list[Arch]:
    """All networks of all fronts."""
    rows = [outcome.indices_NK[list(outcome.chosen)] for found in outcomes.values() for outcome in found]
    return task.space.decode(np.unique(np.concatenate(rows), axis=0))


def _write_unknown(
    path: Path, outcomes: Mapping[str, Sequence[Outcome]], task: SearchTask, yardstick: FromMeasurements
) -> None:
    """What was chosen and has no time, as a table to be filled in; no file where there is nothing."""
    archs = _archs_chosen(outcomes, task)
    unknown = [arch for arch, seconds in zip(archs, yardstick.latency_s(archs)) if not np.isfinite(seconds)]
    if unknown:
        write_unknown(path, task.space, unknown, yardstick.column)
    else:
        path.unlink(missing_ok=True)


def _limits(
    task: SearchTask, accuracy: Callable[[Arch], float], strategies: Sequence[Strategy], yardstick: Yardstick
) -> dict[str, Chosen]:
    """What an unlimited budget chooses, as the yardstick sees it, of strategies of which it sees all."""
    found = {}
    for each in strategies:
        archs = limit_of(task, accuracy, each)
        seconds_F = yardstick.latency_s(archs) if archs else np.empty(0)
        if archs and np.isfinite(seconds_F).all():
            losses_F2 = np.column_stack([[1.0 - accuracy(arch) for arch in archs], seconds_F])
            found[each.name] = Chosen(strategy=each.name, seed=-1, archs=archs, losses_F2=losses_F2)
    return found


def _sweep(
    task: SearchTask,
    accuracy: Callable[[Arch], float],
    outcomes: Mapping[str, Sequence[Outcome]],
    strategies: Sequence[Strategy],
    baseline: str,
) -> Sweep:
    """Of all networks that were evaluated, whatever the yardstick: on other bandwidths nobody has measured them."""
    predicted = Predicted(task=task, title="")
    pool = [evaluated(outcome, task, predicted) for found in outcomes.values() for outcome in found]
    costs = [each for strategy in strategies if strategy.name == baseline for each in strategy.objectives[1:]]
    blind = costs[0] if len(costs) == 1 and costs[0] in _BLIND else _BLIND[0]
    return sweep_bandwidth(task, accuracy, pool, baseline=blind)
