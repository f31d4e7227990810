"""What to measure of a space, of given networks, or of a list of kernels; and which of it tells most."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from predictors.fusion import Kernel, Runtime, fuse, kernel_from_text
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.measure.backend import Backend
from predictors.measure.choose import (
    Draw,
    Survey,
    choose_kernels,
    choose_members,
    choose_networks,
    survey,
    time_weights,
)
from predictors.measure.isolated import EMPTY
from predictors.measure.pieces import pieces
from predictors.measure.session import Plan

MakePlan = Callable[[Backend, LatencyPredictor], Plan]
"""A plan once the runtime is open; the predictor knows the peaks. The same plan again goes on where a table stops."""


def times_steps(backend: Backend) -> bool:
    """Whether the runtime times what it launches inside a network."""
    profile = backend.profile(EMPTY)
    if profile is None:
        return False
    profile.run()
    profile.finish()
    return True


def space_plan(draw: Draw, *, fraction: float, num_check: int, seed: int = 0) -> MakePlan:
    """Networks that cover a fraction of a space's kernels, and others to check the table on.

    Where the runtime times nothing inside a network, the kernels themselves.

    Args:
        draw: a random network of the space.
        fraction: of the space's distinct kernels; 1 covers them all.
        num_check: networks that are only timed whole.

    Raises:
        ValueError: the fraction is not in 0 to 1 (when the plan is made).
    """

    def make(backend: Backend, predictor: LatencyPredictor) -> Plan:
        found = survey(draw, predictor.runtime, backend.dtype, seed=seed)
        weights_K = time_weights(found, np.array([predictor.estimate(kernel).latency_s for kernel in found.kernels]))
        rng = np.random.default_rng([seed, 1])
        if not times_steps(backend):
            kernels = choose_kernels(found.kernels, weights_K, fraction=fraction)
            return Plan(kernels=kernels, check=_unseen(found, (), num_check, rng))
        chosen = choose_networks(found, weights_K, fraction=fraction)
        networks = tuple(found.network(index) for index in chosen)
        return Plan(networks=networks, check=_unseen(found, chosen, num_check, rng))

    return make


def graphs_plan(graphs: Sequence[Graph], check: Sequence[Graph] = ()) -> MakePlan:
    """All kernels of given networks: those networks that hold kernels which no earlier one has."""

    def make(backend: Backend, predictor: LatencyPredictor) -> Plan:
        if times_steps(backend):
            networks = new_networks(graphs, predictor.runtime, backend.dtype)
            return Plan(networks=networks, check=tuple(check))
        kernels = {node.kernel: None for graph in graphs for node in fuse(graph, predictor.runtime, backend.dtype)}
        return Plan(kernels=tuple(kernels), check=tuple(check))

    return make


def pieces_plan(graphs: Sequence[Graph], *, fraction: float, check: Sequence[Graph] = ()) -> MakePlan:
    """A fraction of the kernels of given networks: those that take most off the uncertainty of the networks' times.

    Every network's time counts as 1. Kernels are timed in pieces of the networks (`predictors.measure.pieces`), so that
    none runs whole. Where the runtime times nothing inside a network, by themselves.

    Args:
        graphs: whose times are to be predicted.
        fraction: of their distinct kernels, at most; those at the cuts of the pieces are run but not counted.

    Raises:
        ValueError: the fraction is not in 0 to 1 (when the plan is made).
    """

    def make(backend: Backend, predictor: LatencyPredictor) -> Plan:
        runtime, dtype = predictor.runtime, backend.dtype
        share_of: dict[Kernel, float] = {}
        for graph in graphs:
            held = [node.kernel for node in fuse(graph, runtime, dtype)]
            seconds = [predictor.estimate(kernel).latency_s for kernel in held]
            for kernel, kernel_s in zip(held, seconds):
                share_of[kernel] = share_of.get(kernel, 0.0) + kernel_s / sum(seconds) / len(graphs)
        kernels = tuple(share_of)
        weights_K = np.array(list(share_of.values()))
        index_of = {kernel: index for index, kernel in enumerate(kernels)}
        if not times_steps(backend):
            return Plan(kernels=choose_kernels(kernels, weights_K, fraction=fraction), check=tuple(check))
        found = [each for graph in graphs for each in pieces(graph, runtime, dtype)]
        members = [np.array([index_of[kernel] for kernel in held]) for _, held in found]
        chosen = choose_members(kernels, members, weights_K, fraction=fraction, num_candidates=len(members))
        return Plan(pieces=tuple(found[index][0] for index in chosen), check=tuple(check))

    return make


def kernels_plan(path: Path) -> MakePlan:
    """Kernels of a text file, one a line as a table writes them, each by itself; blank lines and # do not count.

    Raises:
        ValueError: a line is no kernel; file and line are named (when the plan is made).
    """

    def make(backend: Backend, predictor: LatencyPredictor) -> Plan:
        found: list[Kernel] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if text := line.partition("#")[0].strip():
                try:
                    found.append(kernel_from_text(text, backend.dtype))
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {error}") from None
        if not found:
            raise ValueError(f"{path}: lists no kernel")
        return Plan(kernels=tuple(found))

    return make


def new_networks(graphs: Sequence[Graph], runtime: Runtime, dtype: str) -> tuple[Graph, ...]:
    """Graphs that hold kernels which are in no earlier graph."""
    seen: set[Kernel] = set()
    found: list[Graph] = []
    for graph in graphs:
        kernels = {node.kernel for node in fuse(graph, runtime, dtype)}
        if not seen.issuperset(kernels):
            found.append(graph)
            seen |= kernels
    return tuple(found)


# ------------------------------------------------------------------------------------------------------------ private


def _unseen(found: Survey, chosen: Collection[int], number: int, rng: np.random.Generator) -> tuple[Graph, ...]:
    others = [int(index) for index in rng.permutation(len(found.members)) if index not in chosen]
    return tuple(found.network(index) for index in others[:number])
