"""A profile: fill a table with what a plan asks for, in passes that lie apart in time, and check it on whole networks.

Every few networks their kernels go into the table, by appending, so a killed profile goes on where it stopped: a kernel
that has been visited often enough is not measured again.
"""

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from predictors.fusion import Kernel, Runtime, fuse
from predictors.graph import Graph
from predictors.lookup_table import LookupTable, Measurement, append_entries
from predictors.measure.backend import Backend, Network
from predictors.measure.clock import Clock
from predictors.measure.in_place import Levels, measure_in_place, measure_isolated, measure_pieces
from predictors.measure.isolated import Bench
from predictors.measure.pieces import Piece
from predictors.measure.rounds import Effort, visit_all

PASSES = 2
"""So often everything is gone through, so that the visits of a kernel lie minutes apart."""

VISITS = 3
"""Of each pass, at least."""

INSTANCES = 3
"""So often a whole network is built: where its memory happens to lie makes one instance up to 10 % slower than another
for as long as it lives, in runtimes that lay out their memory once."""

CHECK_VISITS = 4
"""To each instance, at least."""

_NETWORKS_AT_ONCE = 6
_PIECES_AT_ONCE = 8
_KERNELS_AT_ONCE = 40
_SAME = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        networks: run whole, each kernel timed in its place.
        pieces: of networks, run for the kernels in them that count, each timed in its place.
        kernels: run by themselves, where the runtime times nothing inside a network, or where just these are wanted.
        check: networks whose whole time is held against what the table predicts; none of them is in `networks`.
    """

    networks: tuple[Graph, ...] = ()
    pieces: tuple[Piece, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    check: tuple[Graph, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much to measure.

    Attributes:
        precision: relative standard error that every network is visited for again, as long as the budget lasts.
        budget_s: seconds for the table; a first batch is always measured.
        seed: of the random order.
        progress: show a bar.
    """

    precision: float = 0.01
    budget_s: float = 600.0
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if not (self.budget_s > 0 and self.precision > 0):
            raise ValueError(f"budget_s and precision must be positive, found {self.budget_s:g} and {self.precision:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What happened while the table was filled.

    Attributes:
        num_left_out: networks and kernels that the budget left out.
        num_repeated: visits that were taken again since the reference did not explain their drift.
        not_told_apart: kernels that the runtime runs as one although its rules say they are several.
    """

    num_left_out: int
    num_repeated: int
    not_told_apart: tuple[str, ...]


def fill_table(path: Path, plan: Plan, bench: Bench, runtime: Runtime, settings: Settings) -> Filled:
    """Measure what the plan asks for and the table at `path` does not have yet, or not often enough."""
    rng = np.random.default_rng(settings.seed)
    end_s = time.monotonic() + settings.budget_s
    jobs = list(_jobs(plan, runtime, bench.backend.dtype))
    not_told_apart: set[str] = set()
    num_left_out = num_repeated = 0
    with tqdm(total=PASSES * sum(job.size for job in jobs), disable=not settings.progress, desc="kernels") as bar:
        for number in range(PASSES):
            before = LookupTable.read(path)
            levels = Levels()
            written: dict[Kernel, Measurement | str] = {}
            for position, job in enumerate(jobs):
                now_s = time.monotonic()
                if (number or position) and now_s > end_s:
                    if number == 0:
                        num_left_out = sum(later.size for later in jobs[position:])
                    break
                if not _has(before, job.kernels, (number + 1) * VISITS):
                    num_jobs = (PASSES - number) * len(jobs) - position
                    effort = _until(now_s + (end_s - now_s) / num_jobs, settings, VISITS)
                    if job.networks:
                        measure_in_place(job.networks, bench, runtime, rng, levels, effort)
                    elif job.pieces:
                        measure_pieces(job.pieces, bench, runtime, rng, levels, effort)
                    else:
                        measure_isolated(job.kernels, bench, rng, levels, effort)
                    _append(path, before, levels.measurements(bench.clock.reference_s), written, new_only=True)
                bar.update(job.size)
            _append(path, before, levels.measurements(bench.clock.reference_s), written)
            num_repeated += levels.num_repeated
            not_told_apart |= levels.not_told_apart
    if num_left_out:
        warnings.warn(
            f"the budget of {settings.budget_s:g} s left {num_left_out} networks or kernels out", stacklevel=2
        )
    return Filled(num_left_out=num_left_out, num_repeated=num_repeated, not_told_apart=tuple(sorted(not_told_apart)))


def whole_network_seconds(graphs: Sequence[Graph], backend: Backend, clock: Clock, settings: Settings) -> list[float]:
    """Median seconds of whole networks, unprofiled, with the reference at its best.

    Raises:
        NoKernelError: the runtime cannot run one of them.
    """
    instances = 1 if clock.processor == "cuda" else INSTANCES  # a GPU's memory has no pages that others took first
    levels = whole_network_levels(graphs, backend, clock, settings, instances=instances)
    return [float(np.median(each)) * clock.reference_s for each in levels]


def whole_network_levels(
    graphs: Sequence[Graph],
    backend: Backend,
    clock: Clock,
    settings: Settings,
    *,
    instances: int = INSTANCES,
    visits: int = CHECK_VISITS,
) -> list[NDArray[np.float64]]:
    """Levels of whole networks in units of the reference: one number for each visit to each instance.

    Raises:
        NoKernelError: the runtime cannot run one of them.
    """
    networks = [backend.network(graph) for _ in range(instances) for graph in graphs]
    found = visit_all(networks, clock, np.random.default_rng(settings.seed), _effort(settings, visits))
    return [np.concatenate([each.levels() for each in found[index :: len(graphs)]]) for index in range(len(graphs))]


def repeated_seconds(backend: Backend, clock: Clock) -> Callable[[Sequence[Graph]], list[float]]:
    """A function that gives the least seconds of networks in one short visit to each, and keeps what it has built.

    It raises NoKernelError for a network that the runtime cannot run.
    """
    built: dict[Graph, Network] = {}

    def measure(graphs: Sequence[Graph]) -> list[float]:
        found = []
        for graph in graphs:
            if graph not in built:
                built[graph] = backend.network(graph)
            (visits,) = visit_all([built[graph]], clock, np.random.default_rng(0), Effort(precision=inf, min_visits=1))
            found.append(min(sample.seconds for sample in visits.samples[1:]))  # of few runs, the least disturbed
        return found

    return measure


def isolated_seconds(kernels: Collection[Kernel], bench: Bench, settings: Settings) -> dict[Kernel, float]:
    """Seconds of kernels by themselves, in rotation; those that cannot be run are missing."""
    levels = Levels()
    rng = np.random.default_rng(settings.seed)
    for some in _chunks(sorted(kernels, key=lambda kernel: kernel.text), _KERNELS_AT_ONCE):
        measure_isolated(some, bench, rng, levels, _effort(settings, PASSES * VISITS))
    return {kernel: float(np.median(found)) * bench.clock.reference_s for kernel, found in levels.of_kernel.items()}


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A few networks, pieces of them, or kernels, that are interleaved; `kernels` come into the table."""

    kernels: tuple[Kernel, ...]
    networks: tuple[Graph, ...] = ()
    pieces: tuple[Piece, ...] = ()

    @property
    def size(self) -> int:
        return len(self.networks) or len(self.pieces) or len(self.kernels)


def _jobs(plan: Plan, runtime: Runtime, dtype: str) -> Iterator[_Job]:
    for networks in _chunks(plan.networks, _NETWORKS_AT_ONCE):
        kernels = {node.kernel for graph in networks for node in fuse(graph, runtime, dtype)}
        yield _Job(networks=tuple(networks), kernels=tuple(kernels))
    for some in _chunks(plan.pieces, _PIECES_AT_ONCE):
        found = {fuse(piece.graph, runtime, dtype)[index].kernel: None for piece in some for index in piece.kept}
        yield _Job(pieces=tuple(some), kernels=tuple(found))
    for chunk in _chunks(plan.kernels, _KERNELS_AT_ONCE):
        yield _Job(kernels=tuple(chunk))


def _effort(settings: Settings, min_visits: int) -> Effort:
    return _until(time.monotonic() + settings.budget_s, settings, min_visits)


def _until(end_s: float, settings: Settings, min_visits: int) -> Effort:
    return Effort(precision=settings.precision, end_s=end_s, min_visits=min_visits)


def _has(table: LookupTable, kernels: Sequence[Kernel], num_visits: int) -> bool:
    """Each kernel is in the table, failed or visited often enough."""
    return all(
        kernel in table.failures or (kernel in table.entries and table.entries[kernel].num_visits >= num_visits)
        for kernel in kernels
    )


def _append(
    path: Path,
    before: LookupTable,
    found: Mapping[Kernel, Measurement | str],
    written: dict[Kernel, Measurement | str],
    *,
    new_only: bool = False,
) -> None:
    """Append what this pass has not written yet, and unless `new_only` what has changed since, as the reference's best
    may have."""
    entries: dict[Kernel, Measurement | str] = {}
    for kernel, measurement in found.items():
        known, last = before.entries.get(kernel), written.get(kernel)
        if last is not None and (new_only or _alike(last, measurement)):
            continue
        written[kernel] = measurement
        if isinstance(measurement, Measurement):
            entries[kernel] = _combined(known, measurement) if known else measurement
        elif known is None:
            entries[kernel] = measurement
    append_entries(path, entries)


def _alike(first: Measurement | str, second: Measurement | str) -> bool:
    if isinstance(first, str) or isinstance(second, str):
        return first == second
    return abs(log(second.latency_p50_s / first.latency_p50_s)) < _SAME and first.num_visits == second.num_visits


def _combined(first: Measurement, second: Measurement) -> Measurement:
    """Two passes as one: the mean of the logarithms weighted by visits; passes that disagree widen the spread."""
    num_visits = first.num_visits + second.num_visits
    share = second.num_visits / num_visits
    apart = log(second.latency_p50_s / first.latency_p50_s)
    within = sqrt(((1.0 - share) * first.spread) ** 2 + (share * second.spread) ** 2)
    between = abs(apart) * sqrt(share * (1.0 - share))
    return Measurement(
        latency_p50_s=first.latency_p50_s * float(np.exp(share * apart)),
        spread=max(within, between),
        num_runs=first.num_runs + second.num_runs,
        num_visits=num_visits,
    )


def _chunks(items: Sequence, size: int) -> Iterator[Sequence]:  # type: ignore[type-arg]
    for start in range(0, len(items), size):
        yield items[start : start + size]
