"""Trials a second with several workers and storages, for an accuracy that takes a stated time."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from nas.benchmark.ofa import read_task
from nas.benchmark.searching import make_sampler, run_task
from nas.storage import storage_from_mapping
from search_spaces.space import Arch

DEVICE = "mobile_gpu"
SAMPLER = "nsga2"
MIN_TRIALS = 20
KINDS = ("memory", "journal", "postgresql")


@dataclass(frozen=True, slots=True, kw_only=True)
class TakesTime:
    """An accuracy that takes this many seconds: waiting, as for a GPU, or computing on the core."""

    accuracy: Callable[[Arch], float]
    seconds: float
    computes: bool

    def __call__(self, arch: Arch) -> float:
        if self.computes:
            begin_s = time.thread_time()
            while time.thread_time() - begin_s < self.seconds:
                pass
        else:
            time.sleep(self.seconds)
        return self.accuracy(arch)


def add_arguments(tasks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `workers`."""
    parser = tasks.add_parser("workers", help="trials a second with several workers and storages")
    parser.add_argument("--url", help="of a PostgreSQL database to use too, e.g. postgresql://user@host/name")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="default: 1 2 4")
    parser.add_argument("--seconds", type=float, default=0.05, help="of an evaluation (default: %(default)s)")
    parser.add_argument("--computes", action="store_true", help="evaluations keep a core busy instead of waiting")
    parser.add_argument("--trials", type=int, default=400, help="of each search (default: %(default)s)")
    parser.set_defaults(run=show)


def show(options: argparse.Namespace, console: Console) -> None:
    """Measure and print."""
    if options.trials < MIN_TRIALS or min(options.workers) < 1 or options.seconds < 0.0:
        raise ValueError(f"--workers must be at least 1, --trials {MIN_TRIALS}, --seconds not negative")
    kinds = [kind for kind in KINDS if kind != "postgresql" or options.url is not None]
    doing = "computing" if options.computes else "waiting"
    console.print(
        f"trials a second, {options.trials} of {options.seconds * 1e3:g} ms ({doing}), {SAMPLER} on OFA-MobileNetV3",
        highlight=False,
    )
    table = Table()
    table.add_column("storage")
    for num_workers in options.workers:
        table.add_column(f"{num_workers} worker{'s' * (num_workers > 1)}", justify="right")
    for kind in kinds:
        rates = [_rate(kind, options, num_workers) for num_workers in options.workers]
        table.add_row(kind, *(f"{rate:,.1f}" for rate in rates))
    console.print(table)


def rate_of(finished_s: Sequence[float]) -> float:
    """Trials a second from the times at which they were finished, without the first quarter, while workers come up.

    >>> rate_of([9.0, 10.0, 10.5, 11.0, 11.5])
    2.0
    """
    times = sorted(finished_s)[len(finished_s) // 4 :]
    return (len(times) - 1) / (times[-1] - times[0])


# ------------------------------------------------------------------------------------------------------------ private


def _rate(kind: str, options: argparse.Namespace, num_workers: int) -> float:
    task, accuracy = read_task(DEVICE)
    judged = TakesTime(accuracy=accuracy, seconds=options.seconds, computes=options.computes)
    name = f"ridgeline-benchmark-{token_hex(6)}"
    with tempfile.TemporaryDirectory() as folder:
        described = {"kind": "url", "url": options.url} if kind == "postgresql" else {"kind": kind}
        storage = storage_from_mapping(described, Path(folder))
        run_task(
            task, judged, num_evaluations=options.trials, sampler=make_sampler(SAMPLER, task), seed=0, storage=storage,
            study_name=name, num_workers=num_workers,
        )  # fmt: skip
        study_id = storage.get_study_id_from_name(name)
        trials = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        storage.delete_study(study_id)
    return rate_of([trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete is not None])
