"""How well and how fast samplers search.

    python -m nas.benchmark nasbench201 --jobs 2      CIFAR-100 accuracy x measured latency, from ../shared/data
    python -m nas.benchmark ofa --device mobile_gpu   OFA-MobileNetV3 with the ImageNet surrogate
    python -m nas.benchmark speed                     beside Optuna's study.optimize, and how much memory it takes
    python -m nas.benchmark workers                   trials a second with several workers and storages

The first two append each finished search to a results file and skip what is in it: the same command goes on where it
was stopped, and prints its tables from the file. docs/samplers.md says what they mean.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from nas.benchmark import nasbench201, ofa, speed, workers
from nas.benchmark.command import exit_code_of
from nas.benchmark.processes import run_all
from nas.benchmark.results import Run, is_done, read_runs
from nas.benchmark.searching import PREDICTOR
from nas.benchmark.summary import Asked, after_sentence, best_of, table_of, until_sentence

_BASELINE = "nsga2"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    return exit_code_of("nas.benchmark", partial(options.run, options))


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nas.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(required=True, metavar="TASK")
    nb201 = tasks.add_parser("nasbench201", help="CIFAR-100 accuracy against latency that was measured")
    nb201.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of both tables")
    nb201.add_argument("--devices", nargs="+", default=list(nasbench201.DEVICES), help="columns of HELP's table")
    samplers = [*nasbench201.BUDGETS, nasbench201.ORACLE]
    _add_searching(nb201, samplers, "outputs/benchmark/nasbench201.jsonl")
    nb201.set_defaults(run=_nasbench201)
    supernet = tasks.add_parser("ofa", help="OFA-MobileNetV3 with the ImageNet surrogate")
    supernet.add_argument("--device", default="mobile_gpu", help="name or path (default: %(default)s)")
    samplers = [sampler for sampler in ofa.BUDGETS if sampler not in ofa.SLOW]
    _add_searching(supernet, samplers, "outputs/benchmark/ofa.jsonl")
    supernet.set_defaults(run=_ofa)
    speed.add_arguments(tasks)
    workers.add_arguments(tasks)
    return parser


def _add_searching(parser: argparse.ArgumentParser, samplers: Sequence[str], results: str) -> None:
    parser.add_argument(
        "--samplers", nargs="+", default=list(samplers), metavar="NAME[=EVALUATIONS]", help=f"default: {samplers}"
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--max-evaluations", type=int, metavar="N", help="of each search; default: a sampler's own")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path(results), help="file of JSON lines (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="default: beside the results")


def _nasbench201(options: argparse.Namespace, console: Console) -> None:
    known = {**nasbench201.BUDGETS, nasbench201.ORACLE: nasbench201.ORACLE_BUDGET}
    budgets = _budgets(options, known)
    nasbench201.check(options.data, options.devices)
    work = {
        (f"nasbench201 {device}", seed): partial(nasbench201.run_seed, options.data, device, seed)
        for seed in range(options.seeds)
        for device in options.devices
    }
    runs = _run(options, budgets, work)
    asked = Asked(checkpoints=nasbench201.CHECKPOINTS, goals=nasbench201.GOALS)
    _show(options, console, runs, [f"nasbench201 {device}" for device in options.devices], asked)


def _ofa(options: argparse.Namespace, console: Console) -> None:
    budgets = _budgets(options, ofa.BUDGETS)
    ofa.read_task(options.device)
    name = f"ofa {options.device}"
    work = {(name, seed): partial(ofa.run_seed, options.device, seed) for seed in range(options.seeds)}
    runs = _run(options, budgets, work)
    _show(options, console, runs, [name], Asked(checkpoints=ofa.CHECKPOINTS))


def _budgets(options: argparse.Namespace, known: Mapping[str, int]) -> dict[str, int]:
    """Evaluations of each sampler that is asked for."""
    budgets = {}
    for text in options.samplers:
        sampler, _, number = text.partition("=")
        if sampler not in known:
            raise ValueError(f"unknown sampler {sampler!r}; this benchmark has {list(known)}")
        if number and not (number.isascii() and number.isdigit() and int(number)):
            raise ValueError(f"--samplers {text}: {number!r} is no number of evaluations")
        budgets[sampler] = int(number) if number else known[sampler]
    for name in ("seeds", "jobs", "max_evaluations"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {value}")
    return {sampler: min(budget, options.max_evaluations or budget) for sampler, budget in budgets.items()}


def _run(
    options: argparse.Namespace,
    budgets: Mapping[str, int],
    work: Mapping[tuple[str, int], Callable[[Mapping[str, int], Path], int]],
) -> list[Run]:
    """What is in the results file once everything that is asked for is."""
    before = read_runs(options.results)
    missing: list[Callable[[], object]] = []
    for (task, seed), search in work.items():
        todo = {name: budget for name, budget in budgets.items() if not is_done(before, task, name, seed, budget)}
        if todo:
            missing.append(partial(search, todo, options.results))
    run_all(missing, options.jobs)
    asked = {(task, sampler, seed) for task, seed in work for sampler in budgets}
    return [run for run in read_runs(options.results) if (run.task, run.sampler, run.seed) in asked]


def _show(
    options: argparse.Namespace, console: Console, runs: Sequence[Run], tasks: Sequence[str], asked: Asked
) -> None:
    from nas.benchmark.picture import draw

    best = {task: best_of([run for run in runs if run.task == task]) for task in tasks}
    for task in tasks:
        points = next(run for run in runs if run.task == task).reference_points
        console.print(table_of(runs, task, asked, best[task]))
        for point in points:
            sentences = [
                until_sentence(runs, task, goal, best[task], point, PREDICTOR, _BASELINE) for goal in asked.goals
            ]
            if not asked.goals:
                sentences.append(after_sentence(runs, task, best[task], point, (PREDICTOR, 200), (_BASELINE, 800)))
            for sentence in sentences:
                if sentence is not None:
                    console.print(sentence, highlight=False)
        console.print()
    path = options.picture or options.results.with_suffix(".png")
    draw(path, runs, best, next(iter(points)))
    console.print(f"wrote {path}; the searches are in {options.results}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
