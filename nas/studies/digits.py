"""The digits supernet on this machine: strategies search, what they choose is measured, fronts are exported.

This machine is profiled on kernels of the space at the size that it was trained at, since these networks take a tenth
of a millisecond and the shipped file of a processor knows no kernels so small; the document says how far either lies
from what is measured. Latency is measured under ONNX Runtime, on one thread, visits in random order beside a reference.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from nas.compare.comparing import compare_strategies
from nas.compare.judging import single_versus
from nas.compare.records import Chosen, Comparison, Estimate
from nas.compare.remembered import RememberedAccuracy
from nas.compare.report.wording import signed_percent_text
from nas.compare.strategies import strategies_from_names
from nas.compare.yardsticks import MeasuredHere
from nas.data import load_data
from nas.export import export_onnx, input_shape
from nas.pareto import pareto_front
from nas.proposals import sampler_from_mapping
from nas.scoring import FromSupernet
from nas.studies.devices import add_options, check_options, compared, parts_of
from nas.studies.document import Cell, Part, Table, write_study
from nas.task import SearchTask
from nas.training import recipe_from_mapping
from nas.verify_times import ExportedRun, Measuring
from predictors.device import Device, load_device
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.mapping import read_yaml
from predictors.measure.backend import open_backend
from predictors.measure.clock import Clock, keep_freed_memory
from predictors.measure.device_file import processor_name
from predictors.measure.plan import space_plan
from predictors.measure.rounds import Effort, Runnable, visit_all
from predictors.measure.session import INSTANCES, Settings
from predictors.paths import shipped
from predictors.profile import profile_machine
from search_spaces.loading import load_space
from search_spaces.space import Arch, Space

NAME, TITLE = "digits", "Does memory awareness pay? A supernet of digits, its fronts measured on this machine"
SPACE, DATA = "mobilenet_v3_tiny", "cluttered_digits"
STRATEGIES = ("flops_only", "latency_only", "memory_aware")
RUNTIME, DTYPE = "onnxruntime", "float32"
DEVICE, SHIPPED = "digits_cpu", "cpu_x86"
NUM_TRIALS = 80
SAMPLER = "nsga2"

_PROFILE_BUDGET_S = 240.0
_PROFILE_PRECISION = 0.02
_MEASURE_BUDGET_S = 300.0
_PRECISION, _MOST_VISITS = 0.01, 6
"""Of exported files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A network as its ONNX file, with its weights, beside the one that is built from its graph.

    Attributes:
        file_s, graph_s: seconds of either, measured in turn.
    """

    strategy: str
    error: float
    file_s: float
    graph_s: float


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The study's command."""
    parser = subparsers.add_parser(NAME, help="the digits supernet, its fronts exported and measured on this machine")
    add_options(parser, NAME, NUM_TRIALS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Train, profile, search, measure and export what is not there yet; write the document, and say where it is.

    Raises:
        ValueError: numbers that are none.
    """
    check_options(options)
    begin_s = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = _study(options, console, begin_s)
    finally:
        torch.set_num_threads(threads)
    seeds = range(options.seeds)
    path = write_study(NAME, TITLE, options.command, seeds, parts, options.docs, packages=("torch", "onnxruntime"))
    console.print(f"wrote {path}; searches and times are in {options.out}", highlight=False)


def profiled_device(folder: Path, space: Space) -> Device:
    """This machine under ONNX Runtime, profiled on kernels of the space; its file and its table are kept."""
    path = folder / f"{DEVICE}.yaml"
    if path.is_file():
        return load_device(path)

    def draw(rng: np.random.Generator) -> Graph:
        return space.graph(space.sample(rng))

    plan = space_plan(draw, fraction=1.0, num_check=0)
    settings = Settings(budget_s=_PROFILE_BUDGET_S, precision=_PROFILE_PRECISION)
    return profile_machine(plan, name=DEVICE, folder=folder, runtime=RUNTIME, settings=settings).device


def prediction_sentence(name: str, predicted_s_N: np.ndarray, measured_s_N: np.ndarray) -> str:
    """How far predictions lie from what was measured, as seconds and in their order."""
    from scipy.stats import kendalltau

    ratio_N = predicted_s_N / measured_s_N
    error = float(np.abs(ratio_N - 1.0).mean())
    tau = float(kendalltau(predicted_s_N, measured_s_N).statistic)
    bias = float(np.median(ratio_N)) - 1.0
    return f"{name} errs by {error:.1%} in the mean ({bias:+.1%} in the median), Kendall's tau {tau:.3f}"


def useful_archs(chosen: Chosen) -> list[tuple[Arch, float]]:
    """Networks of a front that the yardstick leaves, with their errors."""
    return [(chosen.archs[at], float(chosen.losses_F2[at, 0])) for at in pareto_front(chosen.losses_F2)]


def export_and_measure(
    comparison: Comparison,
    task: SearchTask,
    extract: Callable[[Arch], torch.nn.Module],
    out: Path,
) -> list[Exported]:
    """The first seed's fronts as ONNX files, timed beside the networks built from their graphs.

    Args:
        extract: gives a subnet with its weights.
        out: of the files; those that are there stay.
    """
    networks: dict[str, tuple[Arch, Graph, Path]] = {}
    fronts: list[tuple[str, str, float]] = []
    for strategy, found in comparison.chosen.items():
        for arch, error in useful_archs(found[0]):
            name = "front_" + "-".join(map(str, arch.values()))
            fronts.append((strategy, name, error))
            if name not in networks:
                graph = task.deployed_space.graph(arch)
                networks[name] = arch, graph, out / "exported" / f"{name}.onnx"
    for arch, graph, path in networks.values():
        if not path.is_file():
            export_onnx(extract(arch), input_shape(graph), path)
    times = _times(networks, task.predictor)
    return [
        Exported(strategy=strategy, error=error, file_s=times[name][0], graph_s=times[name][1])
        for strategy, name, error in fronts
    ]


def exported_part(exported: Sequence[Exported], comparison: Comparison) -> list[Part]:
    """What the exported files say beside the networks that are built from graphs."""
    strategies = list(dict.fromkeys(each.strategy for each in exported))
    fronts = {
        name: np.array([[each.error, each.file_s] for each in exported if each.strategy == name]) for name in strategies
    }
    rows: list[dict[str, Cell]] = []
    for name in strategies:
        ratio_N = np.array([each.file_s / each.graph_s for each in exported if each.strategy == name])
        versus = single_versus(fronts[name], fronts[comparison.baseline], comparison.best)
        rows.append(
            {
                "chosen by": name,
                "networks": len(ratio_N),
                "ratio": float(np.exp(np.log(ratio_N).mean())),
                "spread": float(np.log(ratio_N).std()),
                "beside the baseline": ""
                if name == comparison.baseline
                else signed_percent_text(_single(float(np.exp(versus)))),
            }
        )
    return [
        "## Exported",
        Table(
            name="exported",
            caption=f"The front of seed {comparison.seeds[0]} of each strategy, exported to ONNX with its weights and "
            "timed in ONNX Runtime, in turn with the networks that are built from graphs, by which all seeds "
            "are judged: time of the file over that of the graph (geometric mean, and standard deviation of its "
            f"logarithm), and time beside {comparison.baseline}'s files at equal accuracy, along the whole front.",
            rows=rows,
            headings={
                "chosen by": "chosen by", "networks": "networks", "ratio": "file / graph", "spread": "spread",
                "beside the baseline": f"files beside {comparison.baseline}'s",
            },
            formats={"ratio": ".3f", "spread": ".1%"},
        ),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ private


def _study(options: argparse.Namespace, console: Console, begin_s: float) -> list[Part]:
    space, data = load_space(SPACE), load_data(DATA)
    recipe = recipe_from_mapping(read_yaml(shipped("training") / "default.yaml"))
    source = FromSupernet()
    console.print(f"the supernet of {SPACE} on {DATA} is trained, or read where it is", highlight=False)
    scoring = source.load(space, data, recipe)
    assert scoring.extract is not None
    digest = source.digest(space, data, recipe)[:12]
    accuracy = RememberedAccuracy(scoring.accuracy, space, options.out / f"accuracies-{digest}.jsonl")
    console.print(f"{processor_name()} is profiled under {RUNTIME}, or read where it is", highlight=False)
    predictor = LatencyPredictor(profiled_device(options.out / "hw", space), dtype=DTYPE, runtime=RUNTIME)
    task = SearchTask(
        space=space, deployed_space=space.deployed(), predictor=predictor, objectives=("error", "latency_s")
    )
    title = processor_name()
    measured = options.out / "measured"
    settings = Settings(budget_s=_MEASURE_BUDGET_S)
    yardstick = MeasuredHere(task, predictor, title, measured, Measuring(settings=settings, here=True))

    def compare(folder: Path) -> Comparison:
        return compare_strategies(
            task,
            accuracy,
            strategies_from_names(STRATEGIES),
            sampler=sampler_from_mapping(read_yaml(shipped("sampler") / f"{SAMPLER}.yaml")),
            sampler_name=SAMPLER,
            num_trials=options.trials,
            seeds=range(options.seeds),
            folder=folder,
            yardstick=yardstick,
            judged="accuracy",
            title=title,
            jobs=options.jobs,
        )

    heading = f"{options.trials:,} evaluations by `{SAMPLER}`"
    route = compared(SAMPLER, heading, options.out / SAMPLER, [("here", compare)], console, options.command)
    (comparison,) = route.comparisons
    exported = export_and_measure(comparison, task, scoring.extract, options.out)
    return [
        f"Each strategy searches `{SPACE}` with the same sampler, seeds and number of evaluations; accuracies are "
        f"those of the subnets of one supernet on the {len(data.valid)} validation images of `{DATA}`; each has "
        f"a standard error of up to {100.0 * 0.5 / len(data.valid) ** 0.5:.1f} points, the same for all strategies. "
        "Every network of every front was measured on this machine, at the size of its images, under ONNX Runtime on "
        "one thread.",
        _predictions(comparison, predictor, task),
        *parts_of([route], begin_s, options.jobs),
        *exported_part(exported, comparison),
    ]


def _predictions(comparison: Comparison, predictor: LatencyPredictor, task: SearchTask) -> str:
    """What the searches saw, held against what was measured; and what the shipped file would have said."""
    seconds = {
        tuple(arch.values()): (arch, float(loss[1]))
        for found in comparison.chosen.values()
        for each in found
        for arch, loss in zip(each.archs, each.losses_F2)
    }
    graphs = [task.deployed_space.graph(arch) for arch, _ in seconds.values()]
    measured_s_N = np.array([each for _, each in seconds.values()])
    shipped_predictor = LatencyPredictor(load_device(SHIPPED), dtype=DTYPE, runtime=RUNTIME)
    sentences = [
        prediction_sentence(name, np.array([each.predict(graph).latency_s for graph in graphs]), measured_s_N)
        for name, each in (
            ("the profile that the searches saw", predictor),
            (f"the shipped file `{SHIPPED}`", shipped_predictor),
        )
    ]
    return f"Of the {len(graphs)} networks that were measured: {'; '.join(sentences)}."


def _times(
    networks: Mapping[str, tuple[Arch, Graph, Path]], predictor: LatencyPredictor
) -> dict[str, tuple[float, float]]:
    """Seconds of each file and of the network that is built from its graph, visited in turn in one random order."""
    backend = open_backend(RUNTIME, threads=1, dtype=predictor.dtype, processor="cpu")
    keep_freed_memory()
    clock = Clock(1)
    names = [name for name in networks for _ in range(INSTANCES)]
    runs: list[Runnable] = [ExportedRun(networks[name][2], input_shape(networks[name][1]), 1) for name in names]
    runs += [backend.network(networks[name][1]) for name in names]
    visits = visit_all(runs, clock, np.random.default_rng(0), Effort(precision=_PRECISION, max_visits=_MOST_VISITS))
    levels: dict[tuple[str, bool], list[float]] = {}
    for at, each in enumerate(visits):
        levels.setdefault((names[at % len(names)], at < len(names)), []).extend(each.levels().tolist())
    median_s = {key: float(np.median(found)) * clock.reference_s for key, found in levels.items()}
    return {name: (median_s[name, True], median_s[name, False]) for name in networks}


def _single(ratio: float) -> Estimate:
    return Estimate(value=ratio, low=float("nan"), high=float("nan"))
