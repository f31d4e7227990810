"""NAS-Bench-201: CIFAR-100 accuracy against latency that was measured, of which a search knows ten values.

The search sees latency as a device predicts it that was calibrated with ten archs drawn at random; accuracies are
looked up. What it found is judged by the measured latency of every arch that it evaluated, relative to the true front
of all 15,625 archs. For devices that ran TensorFlow Lite the space is searched as it ships, where archs that differ in
dead branches alone are one network; for those that ran PyTorch, whose dead branches cost time, every arch is one.

Source of the accuracies: NATS-Bench (Dong et al., arXiv:2009.00437), trained for 200 epochs; of the latencies:
github.com/HayeonLee/HELP (MIT), raspi4 and pixel3 from HW-NAS-Bench (Li et al., arXiv:2103.10584).
"""

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from nas.benchmark.curves import shares_of_boxes, steps_of
from nas.benchmark.results import Run, append_run
from nas.benchmark.searching import search
from nas.pareto import pareto_front
from nas.proposals import arch_key
from nas.tabular import TableAccuracy, read_table
from nas.task import MARGIN, SearchTask
from predictors.calibration import calibrate
from predictors.device import load_device
from predictors.latency import LatencyPredictor
from predictors.nasbench201 import parse_nb201
from predictors.validation.help_latency import DTYPE, EAGER, NUM_MEASURED, batch_of, runtimes_of, similar
from search_spaces.loading import load_space
from search_spaces.nasbench201 import arch_from_operations
from search_spaces.space import Arch, Space

ACCURACIES = "nasbench201_acc/nb201_accuracy.csv.gz"
COLUMN = "cifar100-test_ep200"
LATENCIES = "help_latency/nasbench201_latency_ms.csv.gz"
DEVICES = ("raspi4", "titan_rtx_256", "pixel3")
NADIR, USEFUL, FAR = "nadir", "useful", "far"
"""Reference points. `MARGIN` times the worst losses on the true front, which decides; the same of the part of the front
with an error of at most `USEFUL_ERROR`, which is stricter, as nothing is gained by networks that know next to nothing;
and an error of 1 with `MARGIN` times the longest measured latency, as `SearchTask.reference_point` is made.
"""
USEFUL_ERROR = 0.5

CHECKPOINTS = (50, 100, 200, 500, 1000)
GOALS = (0.97, 0.99)
BUDGETS: Mapping[str, int] = {"random": 3000, "nsga2": 3000, "nsga2_50": 3000, "tpe": 1000, "predictor": 1000}
"""Evaluations of each sampler: samplers whose own time grows with the trials stop earlier."""
ORACLE = "known accuracies"
"""No sampler: archs in the order of the fronts of predicted latency and true error, the first front first."""
ORACLE_BUDGET = 1000


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Benchmark:
    """A space whose every network has a known accuracy and a measured latency on a device.

    Attributes:
        archs: the N networks that a search can find, canonical.
        losses_ND: error and measured seconds of those.
        reference_points: losses (error, seconds) by name.
        best: by the same names, share of the box below it that the true front of all archs of the table fills.
    """

    name: str
    device: str
    space: Space
    deployed_space: Space
    accuracy: TableAccuracy
    archs: tuple[Arch, ...]
    losses_ND: np.ndarray
    reference_points: Mapping[str, tuple[float, ...]]
    best: Mapping[str, float]


def check(data: Path, devices: Sequence[str]) -> None:
    """Raise ValueError unless both tables are there and the latter has these devices."""
    for file in (ACCURACIES, LATENCIES):
        if not (data / file).is_file():
            raise ValueError(f"{data / file} is not there; --data FOLDER says where such files lie")
    with gzip.open(data / LATENCIES, "rt", encoding="utf-8") as lines:
        known = next(csv.reader(lines))[2:]
    if unknown := [device for device in devices if device not in known]:
        raise ValueError(f"{data / LATENCIES} has no device {unknown[0]!r}; there are {known}")


@lru_cache(maxsize=4)
def read_benchmark(data: Path, device: str) -> Benchmark:
    """The space as searched for a device of HELP's table, with what is known of its networks."""
    keeps = runtimes_of(device)[0] == EAGER
    space, all_archs = (load_space("nasbench201", num_classes=100, keeps_dead_branches=each) for each in (keeps, True))
    with gzip.open(data / LATENCIES, "rt", encoding="utf-8", newline="") as file:
        rows = [(row["arch_str"], float(row[device]) * 1e-3) for row in csv.DictReader(file)]
    every = [arch_from_operations(parse_nb201(text)) for text, _ in rows]
    of_every = read_table(data / ACCURACIES, all_archs, COLUMN, "percent", "strings", "arch_str")
    all_losses = np.array([[1.0 - of_every(arch), latency_s] for arch, (_, latency_s) in zip(every, rows)])
    canonical = [place for place, arch in enumerate(every) if space.canonical(arch) == arch]
    front = all_losses[pareto_front(all_losses)]
    points = {
        NADIR: tuple((MARGIN * front.max(axis=0)).tolist()),
        USEFUL: tuple((MARGIN * front[front[:, 0] <= USEFUL_ERROR].max(axis=0)).tolist()),
        FAR: (1.0, MARGIN * float(all_losses[:, 1].max())),
    }
    return Benchmark(
        name=f"nasbench201 {device}",
        device=device,
        space=space,
        deployed_space=space.deployed(None, batch_of(device)),
        accuracy=of_every if keeps else read_table(data / ACCURACIES, space, COLUMN, "percent", "strings", "arch_str"),
        archs=tuple(every[place] for place in canonical),
        losses_ND=all_losses[canonical],
        reference_points=points,
        best=shares_of_boxes(front, points),
    )


def task_of(benchmark: Benchmark, seed: int) -> SearchTask:
    """Error and the latency that a device predicts which was calibrated with archs drawn by this seed.

    The stand-in's file, the runtime and the batch are those of `predictors.validation.help_calibrate`.
    """
    runtime = runtimes_of(benchmark.device)[0]
    stand_in = replace(load_device(similar(benchmark.device)), runtime=runtime)
    few = np.random.default_rng(seed).permutation(len(benchmark.archs))[:NUM_MEASURED]
    graphs = [benchmark.deployed_space.graph(benchmark.archs[each]) for each in few]
    measured = list(zip(graphs, benchmark.losses_ND[few, 1].tolist()))
    device = calibrate(stand_in, measured, dtype=DTYPE, tables=())
    return SearchTask(
        space=benchmark.space,
        deployed_space=benchmark.deployed_space,
        predictor=LatencyPredictor(device, (), dtype=DTYPE),
        objectives=("error", "latency_s"),
    )


def run_seed(data: Path, device: str, seed: int, budgets: Mapping[str, int], results: Path) -> int:
    """Search once with each sampler, and append each run to the results as soon as it is there; how many there are."""
    benchmark = read_benchmark(data, device)
    task = task_of(benchmark, seed)
    place = {arch_key(arch): index for index, arch in enumerate(benchmark.archs)}
    for sampler, budget in budgets.items():
        if sampler == ORACLE:
            order, search_s, sampler_s, note = *_oracle(benchmark, task, budget), ranks_of(benchmark, task)
        else:
            found = search(task, benchmark.accuracy, sampler, num_evaluations=budget, seed=seed)
            order = [place[arch_key(arch)] for arch in found.archs]
            search_s, sampler_s, note = found.search_s, found.sampler_s, {}
        append_run(results, run_of(benchmark, sampler, seed, budget, order, search_s, sampler_s, note))
    return len(budgets)


def run_of(
    benchmark: Benchmark,
    sampler: str,
    seed: int,
    budget: int,
    order: Sequence[int],
    search_s: float,
    sampler_s: float,
    note: Mapping[str, float],
) -> Run:
    """A search that evaluated these networks, by their places in `benchmark.archs`, judged by measured latency."""
    losses_ND = benchmark.losses_ND[list(order)]
    return Run(
        task=benchmark.name,
        sampler=sampler,
        seed=seed,
        budget=budget,
        num_evaluations=len(order),
        reference_points=benchmark.reference_points,
        steps={name: steps_of(losses_ND, point) for name, point in benchmark.reference_points.items()},
        best=benchmark.best,
        front=tuple(map(tuple, losses_ND[pareto_front(losses_ND)].tolist())),
        search_s=search_s,
        sampler_s=sampler_s,
        note=note,
    )


def ranks_of(benchmark: Benchmark, task: SearchTask) -> dict[str, float]:
    """How well predicted latency ranks the networks: Kendall's tau."""
    from scipy.stats import kendalltau

    predicted_s_N = task.costs_many(benchmark.space.encode(benchmark.archs))["latency_s"]
    return {"kendall": float(kendalltau(predicted_s_N, benchmark.losses_ND[:, 1]).statistic)}


def layers_of(losses_ND: np.ndarray) -> Iterator[np.ndarray]:
    """Places of the front's points, then of the front without those, and so on.

    >>> [layer.tolist() for layer in layers_of(np.array([[1.0, 2.0], [2.0, 3.0], [2.0, 1.0]]))]
    [[0, 2], [1]]
    """
    rest = np.arange(len(losses_ND))
    while len(rest):
        layer = rest[pareto_front(losses_ND[rest])]
        yield layer
        rest = np.setdiff1d(rest, layer)


# ------------------------------------------------------------------------------------------------------------ private


def _oracle(benchmark: Benchmark, task: SearchTask, budget: int) -> tuple[list[int], float, float]:
    """Networks in the order of `ORACLE`, those of a front by predicted latency; it searches nothing, so no seconds."""
    predicted_s_N = task.costs_many(benchmark.space.encode(benchmark.archs))["latency_s"]
    order: list[int] = []
    for layer in layers_of(np.stack([benchmark.losses_ND[:, 0], predicted_s_N], axis=1)):
        order += layer[np.argsort(predicted_s_N[layer], kind="stable")].tolist()
        if len(order) >= budget:
            break
    return order[:budget], 0.0, 0.0
