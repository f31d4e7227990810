"""Whole networks measured in passes that lie apart in time, each written down as soon as it is known."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from predictors.graph import Graph
from predictors.measure.backend import Backend, NoKernelError
from predictors.measure.clock import Clock
from predictors.measure.session import CHECK_VISITS, Settings, whole_network_levels
from predictors.network_times import NetworkTime, NetworkTimes, append_failure, append_time

_NETWORKS_AT_ONCE = 5
_LEAST_S = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """How often each network is measured.

    What one pass finds of a network is 2 to 4 % off another, by where its memory lies and by what else the machine
    does, however often an instance is visited; so many passes of one instance tell more than few passes of several.

    Attributes:
        passes: through all networks; every pass builds each network anew.
        instances: of a network in a pass.
        visits: to each instance, at least.
    """

    passes: int = 8
    instances: int = 1
    visits: int = CHECK_VISITS

    def __post_init__(self) -> None:
        if min(self.passes, self.instances, self.visits) < 1:
            raise ValueError(f"passes, instances and visits must be at least 1, found {self}")


def measure_networks(
    path: Path,
    networks: Mapping[str, Graph],
    backend: Backend,
    clock: Clock,
    settings: Settings,
    repeats: Repeats,
) -> None:
    """Append the times of whole networks, unprofiled, to the file at `path`, which has been opened; what stands there
    already is not measured again.

    Args:
        networks: by name.
        settings: its budget is shared out among the networks; each is visited again as long as its share lasts and
            the precision is not reached. The least number of visits is made whatever the budget.

    Raises:
        ValueError: the file holds another network of the same name.
    """
    known = NetworkTimes.read(path)
    for name, graph in known.graphs.items():
        if name in networks and networks[name] != graph:
            raise ValueError(f"{path}: {name!r} is another network there; take another file")
    end_s = time.monotonic() + settings.budget_s
    rng = np.random.default_rng(settings.seed)
    with tqdm(total=repeats.passes * len(networks), disable=not settings.progress, desc="networks") as bar:
        for number in range(1, repeats.passes + 1):
            done = set(known.of_pass(number)) | set(known.failures)
            waiting = [name for name in map(str, rng.permutation(list(networks))) if name not in done]
            bar.update(len(networks) - len(waiting))
            for start in range(0, len(waiting), _NETWORKS_AT_ONCE):
                some = waiting[start : start + _NETWORKS_AT_ONCE]
                num_left = len(waiting) - start + (repeats.passes - number) * len(networks)
                share_s = max(0.0, end_s - time.monotonic()) * len(some) / num_left
                chunk = replace(settings, budget_s=max(share_s, _LEAST_S), seed=settings.seed + number)
                _measure(path, {name: networks[name] for name in some}, number, backend, clock, chunk, repeats)
                bar.update(len(some))
            known = NetworkTimes.read(path)


# ------------------------------------------------------------------------------------------------------------ private


def _measure(
    path: Path,
    networks: Mapping[str, Graph],
    number: int,
    backend: Backend,
    clock: Clock,
    settings: Settings,
    repeats: Repeats,
) -> None:
    runnable: dict[str, Graph] = {}
    for name, graph in networks.items():
        try:
            backend.network(graph)
            runnable[name] = graph
        except NoKernelError as error:
            append_failure(path, name, number, str(error))
    if not runnable:
        return
    levels = whole_network_levels(
        list(runnable.values()), backend, clock, settings, instances=repeats.instances, visits=repeats.visits
    )
    for (name, graph), levels_V in zip(runnable.items(), levels):
        append_time(
            path,
            NetworkTime(
                name=name,
                graph=graph,
                number=number,
                latency_p50_s=float(np.median(levels_V)) * clock.reference_s,
                spread=_spread(levels_V),
                num_visits=len(levels_V),
                reference_s=clock.reference_s,
            ),
        )


def _spread(levels_V: NDArray[np.float64]) -> float:
    """Relative standard deviation of the median of the visits."""
    if len(levels_V) < 2:
        return 0.0
    return float(np.std(levels_V, ddof=1) / np.median(levels_V)) / sqrt(len(levels_V))
