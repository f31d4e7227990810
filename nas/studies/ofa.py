"""Once-for-All's MobileNetV3 with a surrogate of its ImageNet accuracies, on devices whose figures are predicted.

Two routes lead to each answer: NSGA-II with many evaluations, and our own sampler with few. Beside them stand exact
fronts, which no search blurs. Source of the accuracies: `configs/surrogate`, fitted to Dynast's (github.com/
IntelLabs/DyNAS-T) evaluations of Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from nas.benchmark.ofa import SURROGATE
from nas.compare.comparing import compare_strategies
from nas.compare.records import Comparison
from nas.compare.strategies import strategies_from_names
from nas.proposals import sampler_from_mapping
from nas.studies.devices import Route, add_options, check_options, compared, parts_of
from nas.studies.document import write_study
from nas.surrogate import SurrogateAccuracy, load_surrogate
from nas.task import SearchTask
from predictors.device import load_device
from predictors.latency import LatencyPredictor
from predictors.mapping import read_yaml
from predictors.paths import shipped
from search_spaces.loading import load_space

NAME, TITLE = "ofa", "Does memory awareness pay? Once-for-All's MobileNetV3 on predicted devices"
DEVICES = ("mobile_gpu", "mobile_cpu", "v100", "v100@32", "h200", "edge_tpu")
STRATEGIES = ("flops_only", "params_only", "latency_only", "memory_aware", "traffic_only", "random")
FEW_STRATEGIES = ("flops_only", "latency_only", "memory_aware")
"""Of the second route, whose own time is many times the first's."""
NUM_TRIALS, FEW_TRIALS = 1000, 150
RESOLUTION = 224
"""Of the networks that the surrogate was fitted to."""


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The study's command."""
    parser = subparsers.add_parser(NAME, help="Once-for-All with the ImageNet surrogate, on predicted devices")
    parser.add_argument(
        "--devices", nargs="+", default=list(DEVICES), metavar="DEVICE[@BATCH]", help=f"default: {' '.join(DEVICES)}"
    )
    add_options(parser, NAME, NUM_TRIALS)
    parser.add_argument(
        "--few-trials", type=int, default=FEW_TRIALS, help="of the second route; 0 leaves it out (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Compare, write the document, and say where it is.

    Raises:
        ValueError: an unknown device, or numbers that are none.
    """
    check_options(options)
    begin_s = time.perf_counter()
    seeds = range(options.seeds)
    tasks = [(device, task_of(device)) for device in options.devices]
    asked: list[tuple[str, int, tuple[str, ...]]] = [("nsga2", options.trials, STRATEGIES)]
    if options.few_trials:
        asked.append(("predictor", options.few_trials, FEW_STRATEGIES))
    routes: list[Route] = []
    for sampler, num_trials, names in asked:
        routes.append(
            compared(
                sampler,
                f"{num_trials:,} evaluations by `{sampler}`",
                options.out / sampler,
                [
                    (
                        device.replace("@", "-batch"),
                        partial(
                            compare_on, task, title_of(device), names, sampler, num_trials, seeds, options.jobs,
                            sweep=not routes,
                        ),
                    )
                    for device, task in tasks
                ],
                console,
                options.command,
            )
        )  # fmt: skip
    introduction = (
        "Each strategy searches with the same sampler, seeds and number of evaluations; what it chose, its own Pareto "
        "front in its own objectives, is judged by error against the latency that the device's file predicts. "
        f"Accuracies are those of the surrogate `{SURROGATE}`. Nothing here was measured: what the predictions are "
        "worth is in [validate.md](../validate.md)."
    )
    parts = [introduction, *parts_of(routes, begin_s, options.jobs)]
    path = write_study(NAME, TITLE, options.command, seeds, parts, options.docs)
    console.print(f"wrote {path}; the searches are in {options.out}", highlight=False)


def task_of(device: str) -> SearchTask:
    """The space as deployed on a device, DEVICE or DEVICE@BATCH.

    Raises:
        ValueError: an unknown device, or a batch that is no number.
    """
    name, _, batch = device.partition("@")
    if batch and not (batch.isascii() and batch.isdigit() and int(batch)):
        raise ValueError(f"--devices {device}: {batch!r} is no batch; write DEVICE@BATCH, e.g. v100@32")
    space = load_space("mobilenet_v3", resolutions=[RESOLUTION])
    return SearchTask(
        space=space,
        deployed_space=space.deployed(None, int(batch or 1)),
        predictor=LatencyPredictor(load_device(name)),
        objectives=("error", "latency_s"),
    )


def title_of(device: str) -> str:
    """
    >>> title_of("v100@32"), title_of("h200")
    ('v100, batch 32', 'h200')
    """
    name, _, batch = device.partition("@")
    return f"{name}, batch {batch}" if batch else name


def compare_on(
    task: SearchTask,
    title: str,
    names: Sequence[str],
    sampler: str,
    num_trials: int,
    seeds: Sequence[int],
    jobs: int,
    folder: Path,
    *,
    sweep: bool,
) -> Comparison:
    """The strategies of these names on a device."""
    return compare_strategies(
        task,
        SurrogateAccuracy(surrogate=load_surrogate(SURROGATE), space=task.space),
        strategies_from_names(names),
        sampler=sampler_from_mapping(read_yaml(shipped("sampler") / f"{sampler}.yaml")),
        sampler_name=sampler,
        num_trials=num_trials,
        seeds=seeds,
        folder=folder,
        judged="top-1",
        title=title,
        jobs=jobs,
        sweep=sweep,
    )
