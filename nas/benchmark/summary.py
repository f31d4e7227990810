"""Runs as tables: how far samplers came after so many evaluations, how many they needed, and how long it took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan

import numpy as np
from rich.table import Table

from nas.benchmark.curves import Steps, evaluations_until, relative, shares_of_boxes, value_after
from nas.benchmark.results import Run
from nas.benchmark.statistics import Mean, Until, mean_of, smaller_p_value, until_of
from nas.pareto import pareto_front

_CAPTION = (
    ">: some seeds ended before they were there, and count with the evaluations that they had (in brackets how many "
    "got there, and the median if it is known)"
)

Points = Sequence[tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a table shows: evaluations after which, and shares of the best hypervolume until which."""

    checkpoints: Sequence[int]
    goals: Sequence[float] = ()


def of_task(runs: Sequence[Run], task: str) -> dict[str, list[Run]]:
    """Runs of a task by sampler, by increasing seed."""
    found: dict[str, list[Run]] = {}
    for run in sorted((run for run in runs if run.task == task), key=lambda run: run.seed):
        found.setdefault(run.sampler, []).append(run)
    return found


def best_of(runs: Sequence[Run], known: Points = ()) -> dict[str, float]:
    """By reference point, the hypervolume that counts as 1: of the true front if the runs say it, else of the front of
    all that any of them found and of `known` points.
    """
    if runs[0].best is not None:
        return dict(runs[0].best)
    points = np.array([*known, *(point for run in runs for point in run.front)])
    return shares_of_boxes(points[pareto_front(points)], runs[0].reference_points)


def curves_of(runs: Sequence[Run], point: str, best: Mapping[str, float]) -> list[Steps]:
    """A relative curve for each run."""
    return [relative(run.steps[point], best[point]) for run in runs]


def table_of(runs: Sequence[Run], task: str, asked: Asked, best: Mapping[str, float]) -> Table:
    """A row for each reference point and sampler: relative hypervolume in percent, evaluations, and seconds."""
    by_sampler = of_task(runs, task)
    points = next(iter(by_sampler.values()))[0].reference_points
    table = Table(
        title=f"{task}: hypervolume in % of the best, means ± half of Student's 95 % interval over seeds",
        title_justify="left",
        caption=_CAPTION if asked.goals else None,
        caption_justify="left",
    )
    table.add_column("sampler", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for checkpoint in asked.checkpoints:
        table.add_column(f"after {checkpoint:,}", justify="right", no_wrap=True)
    for goal in asked.goals:
        table.add_column(f"until {goal:.0%}", justify="right", no_wrap=True)
    table.add_column("search s", justify="right", no_wrap=True)
    table.add_column("sampler s", justify="right", no_wrap=True)
    for point, reference in points.items():
        table.add_section()
        table.add_row(f"[bold]{point}[/] [dim]{reference[0]:.3f}, {reference[1] * 1e3:.3g} ms[/]")
        for sampler, of_sampler in by_sampler.items():
            curves = curves_of(of_sampler, point, best)
            cells = [
                _percent(mean_of([value_after(steps, checkpoint) for steps in curves]))
                if all(run.num_evaluations >= checkpoint for run in of_sampler)
                else ""
                for checkpoint in asked.checkpoints
            ]
            cells += [_count(_until(of_sampler, curves, goal)) for goal in asked.goals]
            for seconds_S in ([run.search_s for run in of_sampler], [run.sampler_s for run in of_sampler]):
                mean = mean_of(seconds_S)
                cells.append(_with_interval(mean, 1) if mean.value else "")
            table.add_row(sampler, str(len(of_sampler)), *cells)
    return table


def until_sentence(
    runs: Sequence[Run], task: str, goal: float, best: Mapping[str, float], point: str, ours: str, theirs: str
) -> str | None:
    """How many evaluations ours needed beside theirs, with a rank test; None where one of them is missing."""
    by_sampler = of_task(runs, task)
    if not (ours in by_sampler and theirs in by_sampler):
        return None
    sides = [by_sampler[ours], by_sampler[theirs]]
    curves = [curves_of(side, point, best) for side in sides]
    found = [_until(side, each, goal) for side, each in zip(sides, curves)]
    ours_S, theirs_S = ([float(evaluations_until(steps, goal) or inf) for steps in each] for each in curves)
    bounds = {(False, False): "", (False, True): "at least ", (True, False): "at most ", (True, True): "perhaps "}
    bound = bounds[found[0].censored, found[1].censored]
    return (
        f"{task}, {goal:.0%}, {point}: {theirs} needs {bound}{found[1].mean.value / found[0].mean.value:.1f} times as "
        f"many evaluations as {ours} ({_count(found[1])} against {_count(found[0])}); "
        f"p = {smaller_p_value(ours_S, theirs_S):.2g} (Mann-Whitney, one-sided)"
    )


def after_sentence(
    runs: Sequence[Run],
    task: str,
    best: Mapping[str, float],
    point: str,
    ours: tuple[str, int],
    theirs: tuple[str, int],
) -> str | None:
    """Where ours stands after so many evaluations, beside theirs after more; None where one of them is missing."""
    by_sampler = of_task(runs, task)
    values = []
    for sampler, num_evaluations in (ours, theirs):
        side = by_sampler.get(sampler, [])
        if not side or any(run.num_evaluations < num_evaluations for run in side):
            return None
        values.append([value_after(steps, num_evaluations) for steps in curves_of(side, point, best)])
    p_value = smaller_p_value([-value for value in values[0]], [-value for value in values[1]])
    one, other = (_percent(mean_of(each)) for each in values)
    return (
        f"{task}, {point}: {ours[0]} after {ours[1]:,} is at {one} %, {theirs[0]} after {theirs[1]:,} at {other} %; "
        f"p = {p_value:.2g} (Mann-Whitney, one-sided)"
    )


# ------------------------------------------------------------------------------------------------------------ private


def _until(runs: Sequence[Run], curves: Sequence[Steps], goal: float) -> Until:
    return until_of([evaluations_until(steps, goal) for steps in curves], [run.num_evaluations for run in runs])


def _percent(mean: Mean) -> str:
    return _with_interval(Mean(value=100 * mean.value, half_width=100 * mean.half_width, count=mean.count), 2)


def _count(until: Until) -> str:
    """E.g. '> 812 ± 95 (7/10, 760)'."""
    text = _with_interval(until.mean, 0)
    if not until.censored:
        return text
    median = "" if until.median is None else f", {until.median:,.0f}"
    return f"> {text} ({until.num_reached}/{until.mean.count}{median})"


def _with_interval(mean: Mean, digits: int) -> str:
    interval = "" if isnan(mean.half_width) else f" ± {mean.half_width:,.{digits}f}"
    return f"{mean.value:,.{digits}f}{interval}"
