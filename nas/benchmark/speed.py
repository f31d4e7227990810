"""What a search costs beside its evaluations: `run_search` beside Optuna's `study.optimize`, and its peak memory."""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from rich.console import Console

from nas.benchmark.ofa import read_task
from nas.benchmark.searching import make_sampler, search
from nas.proposals import MakeSampler
from nas.task import SearchTask
from search_spaces.space import Arch

DEVICE = "mobile_gpu"
SAMPLER = "nsga2"
LIMIT_BYTES = 2e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Of a whole search: on the wall, and of this process on its core, which other processes change less."""

    wall_s: float
    core_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A search in a process of its own, and the most memory that it had, imports and tables included."""

    wall_s: float
    peak_bytes: int


def add_arguments(tasks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `speed`."""
    parser = tasks.add_parser("speed", help="run_search beside study.optimize, and peak memory")
    parser.add_argument("--trials", type=int, default=10_000, help="of both (default: %(default)s)")
    parser.add_argument("--large", type=int, default=50_000, help="of the search whose memory is measured, 0 for none")
    parser.set_defaults(run=show)


def show(options: argparse.Namespace, console: Console) -> None:
    """Measure and print."""
    if options.trials < 1 or options.large < 0:
        raise ValueError(f"--trials must be at least 1 and --large 0, found {options.trials} and {options.large}")
    ours, plain = compare(options.trials)
    console.print(f"{options.trials:,} evaluations with {SAMPLER}, OFA-MobileNetV3 on {DEVICE} with the surrogate:")
    for name, found in (("run_search", ours), ("study.optimize", plain)):
        console.print(f"  {name:<15}{found.wall_s:8.1f} s, {found.core_s:8.1f} s of a core", highlight=False)
    ratios = f"{ours.wall_s / plain.wall_s:8.2f}    {ours.core_s / plain.core_s:8.2f}"
    console.print(f"  ratio          {ratios}", highlight=False)
    if options.large:
        memory = measure_memory(options.large)
        kept = "under" if memory.peak_bytes < LIMIT_BYTES else "OVER"
        console.print(
            f"{options.large:,} evaluations by run_search: {memory.wall_s:.0f} s, {memory.peak_bytes / 1e6:,.0f} MB of "
            f"memory at most, {kept} {LIMIT_BYTES / 1e9:.0f} GB",
            highlight=False,
        )


def compare(num_trials: int) -> tuple[Seconds, Seconds]:
    """The same number of evaluations by `run_search` and by `study.optimize`, one after the other.

    Both have the sampler's class, its settings, the space, the accuracy and the predictor in common. `study.optimize`
    keeps less (two values a trial, no other costs) and evaluates networks that it had before.
    """
    task, accuracy = read_task(DEVICE)
    for warm_up in (_by_run_search, _by_optuna):  # what predictor and libraries keep
        warm_up(task, accuracy, min(200, num_trials))
    return (
        _seconds(lambda: _by_run_search(task, accuracy, num_trials)),
        _seconds(lambda: _by_optuna(task, accuracy, num_trials)),
    )


def measure_memory(num_trials: int) -> Memory:
    """Search in a fresh process; with it ends what it had."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_searched, (num_trials,))


# ------------------------------------------------------------------------------------------------------------ private


def _by_run_search(task: SearchTask, accuracy: Callable[[Arch], float], num_trials: int) -> None:
    search(task, accuracy, SAMPLER, num_evaluations=num_trials, seed=0, timed=False)


def _by_optuna(task: SearchTask, accuracy: Callable[[Arch], float], num_trials: int) -> None:
    make: MakeSampler = make_sampler(SAMPLER, task)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(seed=0))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        proposed = {knob: trial.suggest_categorical(knob, values) for knob, values in task.space.choices.items()}
        arch = task.space.canonical(proposed)
        return 1.0 - accuracy(arch), task.costs(arch)["latency_s"]

    study.optimize(objective, n_trials=num_trials)


def _seconds(call: Callable[[], None]) -> Seconds:
    wall_s, core_s = time.perf_counter(), time.process_time()
    call()
    return Seconds(wall_s=time.perf_counter() - wall_s, core_s=time.process_time() - core_s)


def _searched(num_trials: int) -> Memory:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task, accuracy = read_task(DEVICE)
    found = _seconds(lambda: _by_run_search(task, accuracy, num_trials))
    unit = 1 if sys.platform == "darwin" else 1024
    return Memory(wall_s=found.wall_s, peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
