"""Kernels measured in their place: in whole networks whose steps the runtime times.

Isolated kernels lie: a stand-alone operator carries changes of layout that a network spares it, finds other data in the
caches, and does not take part in fusion (docs/decisions.md has the figures by runtime).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from predictors.fusion import Kernel, KernelNode, Runtime, fuse
from predictors.graph import Graph
from predictors.lookup_table import Measurement
from predictors.matching import kernel_times
from predictors.measure.backend import Network, NoKernelError, Profile
from predictors.measure.isolated import Bench, Rotation, kernel_graph
from predictors.measure.rounds import RUNS, Effort, Runnable, Visits, visit_all

UNSETTLED = 0.3
"""A kernel whose standard error stays above this has no usable time."""


@dataclass(slots=True, kw_only=True)
class Levels:
    """What visits found of kernels, in units of the reference.

    Attributes:
        of_kernel: one number for each visit and place of the kernel.
        failed: reasons, of kernels that could not be run.
        not_told_apart: groups of kernels that the runtime runs as one although its rules say they are several.
        num_repeated: visits that were taken again since the reference did not explain their drift.
    """

    of_kernel: dict[Kernel, list[float]] = field(default_factory=dict)
    failed: dict[Kernel, str] = field(default_factory=dict)
    not_told_apart: set[str] = field(default_factory=set)
    num_repeated: int = 0

    def measurements(self, reference_s: float) -> dict[Kernel, Measurement | str]:
        """Median of the visits in seconds, or the reason why there is none.

        The spread is the standard deviation between visits and places over the root of their number. A few can agree
        by chance, so a kernel's deviation counts as at least the median of all kernels that are measured with it.
        """
        found: dict[Kernel, Measurement | str] = dict(self.failed)
        deviations = {
            kernel: float(np.std(levels, ddof=1) / np.median(levels))
            for kernel, levels in self.of_kernel.items()
            if len(levels) > 1 and np.median(levels) > 0.0
        }
        typical = float(np.median(list(deviations.values()))) if deviations else 0.0
        for kernel, levels in self.of_kernel.items():
            if np.median(levels) <= 0.0:
                found[kernel] = "too fast to be told from calling the runtime"
                continue
            spread = max(deviations.get(kernel, typical), typical) / sqrt(len(levels))
            if spread > UNSETTLED:
                found[kernel] = f"never settled: standard error {spread:.0%} after {RUNS * len(levels)} runs"
            else:
                found[kernel] = Measurement(
                    latency_p50_s=float(np.median(levels)) * reference_s,
                    spread=spread,
                    num_runs=RUNS * len(levels),
                    num_visits=len(levels),
                )
        return found


def measure_in_place(
    graphs: Sequence[Graph], bench: Bench, runtime: Runtime, rng: np.random.Generator, into: Levels, effort: Effort
) -> None:
    """Profile networks beside unprofiled runs of the same networks; their kernels' levels are added to `into`.

    What a network takes beyond the sum of its kernels is shared among them equally, as cost of launching; what the
    profile adds is taken off in proportion. Kernels of a network that cannot be run are run by themselves.

    Raises:
        ValueError: the runtime times nothing inside a network.
    """
    backend = bench.backend
    built: list[tuple[tuple[KernelNode, ...], Profile, Network]] = []
    for graph in graphs:
        kernel_nodes = fuse(graph, runtime, backend.dtype)
        try:
            profile, network = backend.profile(graph), backend.network(graph)
        except NoKernelError:
            kernels = {node.kernel: None for node in kernel_nodes if node.kernel not in into.of_kernel}
            measure_isolated(tuple(kernels), bench, rng, into, effort)
            continue
        if profile is None:
            raise ValueError(f"runtime {backend.name!r} times nothing inside a network; measure kernels by themselves")
        built.append((kernel_nodes, profile, network))
    tasks: list[Runnable] = [task for _, profile, network in built for task in (profile, network)]
    found = visit_all(tasks, bench.clock, rng, effort)
    into.num_repeated += sum(len(each.rejected) for each in found)
    for index, (kernel_nodes, profile, _) in enumerate(built):
        whole_level = float(np.median(found[2 * index + 1].levels()))
        _add(kernel_nodes, profile, found[2 * index], into, whole_level)


def measure_isolated(
    kernels: Sequence[Kernel], bench: Bench, rng: np.random.Generator, into: Levels, effort: Effort
) -> None:
    """Run kernels by themselves, in rotation; their levels are added to `into`, and those that cannot be run."""
    networks: dict[Kernel, Network] = {}
    for kernel in kernels:
        try:
            network = bench.backend.network(kernel_graph(kernel))
            network.run()
            networks[kernel] = network
        except NoKernelError as error:
            into.failed[kernel] = str(error)
    if not networks:
        return
    rotation = Rotation(networks, bench)
    (found,) = visit_all([rotation], bench.clock, rng, effort)
    into.num_repeated += len(found.rejected)
    _add(tuple(KernelNode(kernel, (index,), ()) for index, kernel in enumerate(networks)), rotation, found, into)


# ------------------------------------------------------------------------------------------------------------ private


def _add(
    kernel_nodes: Sequence[KernelNode],
    profile: Profile,
    visits: Visits,
    into: Levels,
    whole_level: float | None = None,
) -> None:
    steps, seconds_RS = profile.finish()
    matched = kernel_times(kernel_nodes, [step.nodes for step in steps], seconds_RS)
    levels_of = {index: visits.levels(seconds_R) for index, seconds_R in matched.seconds_R.items()}
    factor = 1.0
    extra = 0.0
    if whole_level is not None:
        # Of the steps' own medians: a run that was disturbed somewhere is longer, each of its steps mostly is not.
        total = sum(float(np.median(visits.levels(seconds_R))) for seconds_R in seconds_RS.T)
        factor = min(1.0, whole_level / total)
        extra = max(0.0, whole_level - total) / len(kernel_nodes)
    for index, levels in levels_of.items():
        into.of_kernel.setdefault(kernel_nodes[index].kernel, []).extend((factor * levels + extra).tolist())
    for group in matched.unmatched:
        into.not_told_apart.add(" and ".join(kernel_nodes[index].kernel.text for index in group.kernels))
