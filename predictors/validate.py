"""How far predictions lie from measurements, ours beside two baselines.

    python -m predictors.validate                            every task, from public measurements in ../shared/data
    python -m predictors.validate adreno --picture out       some of them, with predicted against measured as PNG
    python -m predictors.validate --networks my.csv --hw my_phone --calibrate 10     your own networks and seconds
    python -m predictors.validate --networks my.csv --hw my_phone --runtime ncnn --calibrate 5 --prior ncnn_cpu
    python -m predictors.validate --measured FILE --hw host --calibrate 10           from predictors.measure_networks

The CSV has the columns `network` and `seconds` (or `milliseconds`); docs/validate.md says what stands under `network`.
"""

import argparse
import csv
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from math import isnan
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from predictors.device import load_device
from predictors.named_networks import read_network
from predictors.network_times import NetworkTimes
from predictors.validation.comparison import OURS, Comparison, Scores, mean_scores, median_scores
from predictors.validation.networks import compare_measured, compare_networks, read_measured, split, table_note

TASKS: tuple[str, ...] = ("adreno", "v100", "neusight", "ncnn", "help_latency", "help_calibrate")
"""Modules of `predictors.validation`, each one source of measurements. `compare(data)` gives its comparisons; `TITLE`,
`GOAL` and `FILES` say what it is, what it shall reach and what it reads; `SUMMARY` how many of them become one row."""

SOURCES: Mapping[str, str] = {
    "tvm_adreno_octoml": "github.com/octoml/qualcomm (Apache-2.0)",
    "ncnn_benchmark": "github.com/Tencent/ncnn, benchmark/README.md (BSD-3-Clause)",
    "help_latency": "github.com/HayeonLee/HELP (MIT), some columns from HW-NAS-Bench",
    "alibaba_tinynas_v100_conv": "github.com/alibaba/lightweight-neural-architecture-search (Apache-2.0)",
    "neusight_ops": "github.com/sitar-lab/NeuSight (MIT)",
}
"""Whose measurements lie in a folder of the data."""

SHOWN = 12
"""A task of more comparisons than this is summarised."""

_WORST = 3
_WARNINGS = 2
_PASS_WIDTH = 150


@dataclass(frozen=True, kw_only=True)
class Task:
    """Comparisons of one source, with what they shall reach.

    Attributes:
        summary: 'median' or 'mean' over comparisons, where there are many.
        notes: what else there is to say.
    """

    name: str
    title: str
    goal: str
    comparisons: Sequence[Comparison]
    summary: str = "median"
    notes: Sequence[str] = field(default=())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _PASS_WIDTH)
    try:
        found: list[Task] = []
        for begin in _tasks(options):
            task = _without_warnings(begin)
            console.print(table_of(task, everything=options.all))
            for note in task.notes:
                console.print(note, highlight=False)
            if options.picture is not None:
                from predictors.validation.picture import draw

                path = options.picture / f"{task.name}.png"
                draw(path, task.title, task.comparisons)
                console.print(f"wrote {path}", highlight=False)
            console.print()
            found.append(task)
        if options.csv is not None:
            write_scores(options.csv, found)
    except (ValueError, OSError) as error:
        print(f"predictors.validate: {error}", file=sys.stderr)
        return 2
    return 0


def table_of(task: Task, *, everything: bool = False) -> Table:
    """Scores of a task: a row for each comparison and model, or of many comparisons a summary and the worst. Draws of
    one comparison count as one, by their mean; those whose names end alike after a semicolon have their own summary.
    """
    table = Table(title=task.title, caption=f"goal: {task.goal}", title_justify="left", caption_justify="left")
    table.add_column("what", overflow="fold", max_width=48)
    table.add_column("model", no_wrap=True)
    for name in ("count", "MAPE", "median", "in 5 %", "in 10 %", "Spearman", "Kendall", "1 std", "2 std"):
        table.add_column(name, justify="right", no_wrap=True)
    scored = _draws_together(task.comparisons)
    if len(scored) > SHOWN:
        statistic = {"median": median_scores, "mean": mean_scores}[task.summary]
        for sort in dict.fromkeys(_sort(name) for name, _ in scored):
            alike = [found for name, found in scored if _sort(name) == sort]
            models = list(dict.fromkeys(model for found in alike for model in found))
            summary = {model: statistic(found[model] for found in alike if model in found) for model in models}
            _add(table, f"{task.summary} of {len(alike)}{sort}", summary)
        if not everything:
            scored = _worst(scored)
            table.add_section()
            table.add_row("[dim]the worst of them[/]")
    for name, found in scored:
        _add(table, name, found)
    return table


def write_scores(path: Path, tasks: Iterable[Task]) -> None:
    """All scores as CSV: a row for each comparison and model; errors as shares, 0.05 is 5 %."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "comparison", "model", *Scores.__slots__])
        for task in tasks:
            for comparison in task.comparisons:
                for model, found in comparison.scores().items():
                    values = [getattr(found, name) for name in Scores.__slots__]
                    writer.writerow([task.name, comparison.name, model, *(f"{value:.6g}" for value in values)])


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictors.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder of the measurements (default: ../shared/data)"
    )
    parser.add_argument("--networks", type=Path, help="your own CSV of networks and seconds")
    parser.add_argument("--measured", type=Path, nargs="+", help="files that predictors.measure_networks wrote")
    parser.add_argument("--hw", help="device of --networks or --measured, a name or a path")
    parser.add_argument("--runtime", help="of --networks; default: the device's")
    parser.add_argument("--dtype", help="of --networks; default: the device's")
    parser.add_argument(
        "--calibrate", metavar="N", help="the first N networks, or those whose names match a pattern, refit the device"
    )
    parser.add_argument(
        "--prior", metavar="NAME", help="what other devices reach, e.g. ncnn_cpu, or a file: used by --calibrate"
    )
    parser.add_argument("--all", action="store_true", help="show every comparison of tasks with many")
    parser.add_argument("--picture", type=Path, metavar="FOLDER", help="draw predicted against measured")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all scores")
    return parser


def _without_warnings(begin: Callable[[], Task]) -> Task:
    """A task with the time that it took and the first of its warnings as notes."""
    begin_s = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = begin()
    said = list(dict.fromkeys(str(each.message) for each in caught))
    notes = [*task.notes, *(f"warning: {text}" for text in said[:_WARNINGS])]
    if len(said) > _WARNINGS:
        notes.append(f"and {len(said) - _WARNINGS} other warnings")
    return replace(task, notes=[*notes, f"took {time.monotonic() - begin_s:.0f} s"])


def _tasks(options: argparse.Namespace) -> Iterable[Callable[[], Task]]:
    """What to do, once the options are known to make sense."""
    own = options.networks is not None or options.measured is not None
    if own and options.tasks:
        raise ValueError(f"tasks {options.tasks} come from --data; --networks and --measured stand for themselves")
    if own and options.hw is None:
        raise ValueError("--hw NAME says on which device the networks were measured")
    if options.prior is not None and (options.networks is None or options.calibrate is None):
        raise ValueError(f"--prior {options.prior} goes with --networks FILE and --calibrate N, which fits with it")
    if options.networks is not None:
        yield lambda: _own_networks(options)
    if options.measured is not None:
        yield lambda: _measured_networks(options)
    if not own:
        yield from _public_tasks(options.tasks, options.data)


def _public_tasks(names: Sequence[str], data: Path) -> list[Callable[[], Task]]:
    if unknown := [name for name in names if name not in TASKS]:
        raise ValueError(f"unknown task {unknown[0]!r}; there are {list(TASKS)}")
    modules = {name: _module(name) for name in names or TASKS}
    for name, module in modules.items():
        for file in module.FILES:
            if not (data / file).exists():
                source = SOURCES.get(Path(file).parts[0], "see its module")
                raise ValueError(
                    f"task {name!r} needs {data / file}, which is not there; it is made from {source}; "
                    "--data FOLDER says where such files lie"
                )
    return [partial(_public_task, name, module, data) for name, module in modules.items()]


def _public_task(name: str, module: ModuleType, data: Path) -> Task:
    return Task(
        name=name,
        title=f"{name}: {module.TITLE}",
        goal=module.GOAL,
        comparisons=module.compare(data),
        summary=getattr(module, "SUMMARY", "median"),
    )


def _module(name: str) -> ModuleType:
    return import_module(f"predictors.validation.{name}")


def _own_networks(options: argparse.Namespace) -> Task:
    device = load_device(options.hw)
    networks = read_measured(options.networks, read_network)
    fitted, scored = split(networks, options.calibrate) if options.calibrate else ([], networks)
    comparison = compare_measured(
        str(options.networks.name),
        scored,
        device,
        calibration=fitted,
        dtype=options.dtype,
        runtime=options.runtime,
        prior=options.prior,
    )
    return Task(
        name=options.networks.stem,
        title=f"{options.networks}: {len(networks)} networks on {device.name}",
        goal="yours",
        comparisons=[comparison],
    )


def _measured_networks(options: argparse.Namespace) -> Task:
    device = load_device(options.hw)
    files = [NetworkTimes.read(path) for path in options.measured]
    return Task(
        name="networks",
        title=f"networks measured on {device.name}: {device.description}",
        goal=(
            "onnxruntime and torch_eager: 98 % within 10 %, MAPE at most 3 %, Kendall at least 0.96; "
            "openvino, litert and ncnn: MAPE at most 1.2 times that of 'measured again'"
        ),
        comparisons=[compare_networks(times, device, calibration=options.calibrate or "10") for times in files],
        notes=[table_note(times, device) for times in files],
    )


def _draws_together(comparisons: Sequence[Comparison]) -> list[tuple[str, dict[str, Scores]]]:
    """Scores by comparison; of those whose names end in ', draw N' and are alike before it, the mean."""
    groups: dict[tuple[str, int], list[Comparison]] = {}
    for index, comparison in enumerate(comparisons):
        name, draw, _ = comparison.name.partition(", draw ")
        groups.setdefault((name, -1 if draw else index), []).append(comparison)
    found = []
    for (name, _), members in groups.items():
        scored = [each.scores() for each in members]
        together = {model: mean_scores(each[model] for each in scored if model in each) for model in scored[0]}
        found.append((f"{name}, mean of {len(members)} draws" if len(members) > 1 else members[0].name, together))
    return found


def _worst(scored: Sequence[tuple[str, dict[str, Scores]]]) -> list[tuple[str, dict[str, Scores]]]:
    """Those where ours has the greatest errors, and those where it ranks worst."""
    by_error = sorted(scored, key=lambda item: -item[1][OURS].mape)[:_WORST]
    by_rank = sorted(scored, key=lambda item: _or_one(item[1][OURS].spearman))[:_WORST]
    return list({name: (name, found) for name, found in (*by_error, *by_rank)}.values())


def _sort(name: str) -> str:
    """What comparisons that are summarised together end in: '; ' and how they differ from others, if they do."""
    _, semicolon, how = name.partition("; ")
    return semicolon + how


def _or_one(value: float) -> float:
    return 1.0 if isnan(value) else value


def _add(table: Table, name: str, found: Mapping[str, Scores]) -> None:
    """Rows of one comparison; ours stands out."""
    table.add_section()
    for place, (model, each) in enumerate(found.items()):
        shares = (each.mape, each.median_error, each.within_5, each.within_10)
        correlations = (each.spearman, each.kendall)
        deviations = (each.within_1_std, each.within_2_std)
        table.add_row(
            name if place == 0 else "",
            model,
            f"{each.count:,}",
            *("" if isnan(value) else f"{value:.1%}" for value in shares),
            *("" if isnan(value) else f"{value:.3f}" for value in correlations),
            *("" if isnan(value) else f"{value:.0%}" for value in deviations),
            style="bold" if model == OURS else "",
        )


if __name__ == "__main__":
    sys.exit(main())
