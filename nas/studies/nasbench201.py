"""NAS-Bench-201: real CIFAR-100 accuracies, and fronts judged by latency that was measured.

A search sees the latency that a device predicts which was calibrated with ten measured networks, drawn anew by each
seed; it is judged by the measured latency of every network that it chose. Sources as of `nas.benchmark.nasbench201`.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from nas.benchmark.nasbench201 import COLUMN, Benchmark, check, read_benchmark
from nas.benchmark.nasbench201 import task_of as calibrated_task
from nas.compare.comparing import compare_strategies
from nas.compare.records import Comparison
from nas.compare.strategies import strategies_from_names
from nas.compare.yardsticks import FromMeasurements
from nas.proposals import sampler_from_mapping
from nas.studies.devices import add_options, check_options, compared, parts_of
from nas.studies.document import write_study
from nas.studies.ofa import STRATEGIES
from nas.task import SearchTask
from predictors.mapping import read_yaml
from predictors.paths import shipped
from predictors.validation.help_latency import NUM_MEASURED, batch_of

NAME, TITLE = "nasbench201", "Does memory awareness pay? NAS-Bench-201, judged by measured latency"
DEVICES = (
    "1080ti_1", "1080ti_32", "1080ti_256", "titan_rtx_1", "titan_rtx_32", "titan_rtx_256", "gold_6226", "silver_4114",
    "samsung_a50", "pixel3", "raspi4", "eyeriss", "fpga",
)  # fmt: skip
CAVEATS = {
    "eyeriss": "estimated, not measured",
    "fpga": "estimated, not measured",
    "samsung_a50": "given in whole milliseconds",
}
"""Of columns: the estimates are HW-NAS-Bench's, arXiv:2103.10584."""
NUM_TRIALS = 200
SAMPLER = "nsga2"


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The study's command."""
    parser = subparsers.add_parser(NAME, help="CIFAR-100 accuracies and measured latencies of 13 devices")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of both tables")
    parser.add_argument("--devices", nargs="+", default=list(DEVICES), help="columns of HELP's table (default: all)")
    add_options(parser, NAME, NUM_TRIALS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Compare, write the document, and say where it is.

    Raises:
        ValueError: the tables are not there, an unknown device, or numbers that are none.
    """
    check_options(options)
    check(options.data, options.devices)
    begin_s = time.perf_counter()
    seeds = range(options.seeds)
    work = [
        (device, partial(compare_on, options.data, device, options.trials, seeds, options.jobs))
        for device in options.devices
    ]
    title = f"{options.trials:,} evaluations by `{SAMPLER}`"
    route = compared(SAMPLER, title, options.out / SAMPLER, work, console, options.command)
    caveats = [f"{device}: {CAVEATS[device]}" for device in options.devices if device in CAVEATS]
    introduction = (
        "Each strategy searches with the same sampler, seeds and number of evaluations, and sees what a device "
        f"predicts that was calibrated with {NUM_MEASURED} measured networks, drawn anew by each seed. What it chose, "
        f"its own Pareto front in its own objectives, is judged by the error on CIFAR-100 (`{COLUMN}` of the table) "
        "against the latency in the table. What an unlimited budget would choose looks at every network, by the costs "
        "that the first seed's device predicts." + (f" Latencies of {'; of '.join(caveats)}." if caveats else "")
    )
    parts = [introduction, *parts_of([route], begin_s, options.jobs)]
    path = write_study(NAME, TITLE, options.command, seeds, parts, options.docs)
    console.print(f"wrote {path}; the searches are in {options.out}", highlight=False)


def task_of(data: Path, device: str, seed: int) -> SearchTask:
    """The task as a seed sees it, whose device was calibrated with its measurements."""
    return calibrated_task(read_benchmark(data, device), seed)


def yardstick_of(benchmark: Benchmark) -> FromMeasurements:
    """The latency in the table, which knows every network that a search can find."""
    keys = [tuple(arch.values()) for arch in benchmark.archs]
    device = benchmark.device
    how = "estimated for" if CAVEATS.get(device, "").startswith("estimated") else "measured on"
    batch = f", batch {batch_of(device)}" if batch_of(device) > 1 else ""
    caveat = f"; {CAVEATS[device]}" if device in CAVEATS else ""
    return FromMeasurements(
        space=benchmark.space,
        seconds=dict(zip(keys, benchmark.losses_ND[:, 1].tolist())),
        text=f"latency {how} {device}{batch} (HELP's table of NAS-Bench-201{caveat})",
        column=device,
    )


def compare_on(data: Path, device: str, num_trials: int, seeds: Sequence[int], jobs: int, folder: Path) -> Comparison:
    """All strategies on a device of the table."""
    benchmark = read_benchmark(data, device)
    return compare_strategies(
        partial(task_of, data, device),
        benchmark.accuracy,
        strategies_from_names(STRATEGIES),
        sampler=sampler_from_mapping(read_yaml(shipped("sampler") / f"{SAMPLER}.yaml")),
        sampler_name=SAMPLER,
        num_trials=num_trials,
        seeds=seeds,
        folder=folder,
        yardstick=yardstick_of(benchmark),
        judged="CIFAR-100 accuracy",
        title=device,
        jobs=jobs,
    )
