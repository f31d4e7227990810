"""Kernels measured in their place: in whole networks whose steps the runtime times.

Isolated kernels lie: a stand-alone operator carries changes of layout that a network spares it, finds other data in the
caches, and does not take part in fusion (docs/decisions.md has the figures by runtime).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from predictors.fusion import Kernel, KernelNode, Runtime, fuse
from predictors.graph import Graph
from predictors.lookup_table import Measurement
from predictors.matching import kernel_times
from predictors.measure.backend import Backend, Network, NoKernelError, Profile, queues
from predictors.measure.isolated import EMPTY, Bench, QueuedRotation, Rotation, kernel_graph
from predictors.measure.pieces import Piece
from predictors.measure.rounds import RUNS, Effort, Runnable, Visits, visit_all

UNSETTLED = 0.3
"""A kernel whose standard error stays above this has no usable time."""

_DISTURBED = 2.0
"""A visit of this many times the median was disturbed."""


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
        calm = {kernel: _calm(np.array(levels)) for kernel, levels in self.of_kernel.items()}
        deviations = {
            kernel: float(np.std(levels, ddof=1) / np.median(levels))
            for kernel, levels in calm.items()
            if len(levels) > 1 and np.median(levels) > 0.0
        }
        typical = float(np.median(list(deviations.values()))) if deviations else 0.0
        for kernel, levels in calm.items():
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
    profile adds is taken off in proportion. Where kernels queue, the profile gives the device's own seconds, and what a
    network takes beyond is the host's. Kernels of a network that cannot be run are run by themselves.

    Raises:
        ValueError: the runtime times nothing inside a network.
    """
    backend = bench.backend
    built: list[tuple[tuple[KernelNode, ...], Profile]] = []
    networks: list[Network] = []
    for graph in graphs:
        kernel_nodes = fuse(graph, runtime, backend.dtype)
        try:
            profile = _profile(graph, backend)
            if not queues(backend):
                networks.append(backend.network(graph))
            built.append((kernel_nodes, profile))
        except NoKernelError:
            kernels = {node.kernel: None for node in kernel_nodes if node.kernel not in into.of_kernel}
            measure_isolated(tuple(kernels), bench, rng, into, effort)
    tasks: list[Runnable] = [*(profile for _, profile in built), *networks]
    found = visit_all(tasks, bench.clock, rng, effort)
    into.num_repeated += sum(len(each.rejected) for each in found)
    whole_levels = [float(np.median(each.levels())) for each in found[len(built) :]]
    for index, (kernel_nodes, profile) in enumerate(built):
        _add(kernel_nodes, profile, found[index], into, whole_levels[index] if whole_levels else None)


def measure_pieces(
    pieces: Sequence[Piece], bench: Bench, runtime: Runtime, rng: np.random.Generator, into: Levels, effort: Effort
) -> None:
    """As `measure_in_place`, of pieces of networks; the levels of those kernels that count are added to `into`.

    The pieces run in turn: run by itself again and again, one would find its weights in the nearest cache, which the
    rest of a network does not leave there (in OpenVINO kernels took a fifth less). What calling the runtime costs is
    taken off, since a network is called once for all its pieces.

    Raises:
        ValueError: the runtime times nothing inside a network.
    """
    backend = bench.backend
    built: list[tuple[tuple[KernelNode, ...], Profile, Network, Piece]] = []
    for piece in pieces:
        kernel_nodes = fuse(piece.graph, runtime, backend.dtype)
        try:
            built.append((kernel_nodes, _profile(piece.graph, backend), backend.network(piece.graph), piece))
        except NoKernelError:
            kernels = {kernel_nodes[index].kernel: None for index in piece.kept}
            measure_isolated(tuple(each for each in kernels if each not in into.of_kernel), bench, rng, into, effort)
    if not built:
        return
    profiles = _Turns([profile for _, profile, _, _ in built], bench.clock.now)
    if queues(backend):
        (profiled,) = visit_all([profiles], bench.clock, rng, effort)
        into.num_repeated += len(profiled.rejected)
        for kernel_nodes, profile, _, piece in built:
            _add(kernel_nodes, profile, profiled, into, None, piece.kept)
        return
    networks = _Turns([backend.network(EMPTY), *(network for _, _, network, _ in built)], bench.clock.now)
    profiled, plain = visit_all([profiles, networks], bench.clock, rng, effort)
    into.num_repeated += len(profiled.rejected) + len(plain.rejected)
    empty_level, *whole_levels = (float(np.median(plain.levels(seconds_R))) for seconds_R in networks.seconds().T)
    call_level = max(0.0, empty_level - bench.launch_s / bench.clock.reference_s)
    for (kernel_nodes, profile, _, piece), whole_level in zip(built, whole_levels):
        _add(kernel_nodes, profile, profiled, into, whole_level - call_level, piece.kept)


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
    rotation = QueuedRotation(networks) if queues(bench.backend) else Rotation(networks, bench)
    (found,) = visit_all([rotation], bench.clock, rng, effort)
    into.num_repeated += len(found.rejected)
    _add(tuple(KernelNode(kernel, (index,), ()) for index, kernel in enumerate(networks)), rotation, found, into)


# ------------------------------------------------------------------------------------------------------------ private


def _calm(levels_V: NDArray[np.float64]) -> NDArray[np.float64]:
    """Visits without those, if they are few, in which something else ran for most of a kernel's time: runtimes read the
    clock on the wall.
    """
    disturbed_V = levels_V > _DISTURBED * np.median(levels_V)
    return levels_V[~disturbed_V] if disturbed_V.sum() <= len(levels_V) // 4 else levels_V


class _Turns:
    """Several things one after the other as one task that keeps the seconds of each, of shape (runs, things)."""

    def __init__(self, things: Sequence[Runnable], now: Callable[[], float]) -> None:
        self._things = tuple(things)
        self._now = now
        self._times: list[list[float]] = []

    def run(self) -> None:
        times = [self._now()]
        for thing in self._things:
            thing.run()
            times.append(self._now())
        self._times.append(times)

    def seconds(self) -> NDArray[np.float64]:
        return np.diff(np.array(self._times), axis=1)


def _profile(graph: Graph, backend: Backend) -> Profile:
    profile = backend.profile(graph)
    if profile is None:
        raise ValueError(f"runtime {backend.name!r} times nothing inside a network; measure kernels by themselves")
    return profile


def _add(
    kernel_nodes: Sequence[KernelNode],
    profile: Profile,
    visits: Visits,
    into: Levels,
    whole_level: float | None = None,
    kept: Collection[int] | None = None,
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
        if kept is not None and index not in kept:
            continue
        into.of_kernel.setdefault(kernel_nodes[index].kernel, []).extend((factor * levels + extra).tolist())
    for group in matched.unmatched:
        into.not_told_apart.add(" and ".join(kernel_nodes[index].kernel.text for index in group.kernels))
