"""What a comparison is made of: strategies, finished searches, what they chose, and what that says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.pareto import pareto_front
from search_spaces.space import Arch

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """What a search looks at.

    Attributes:
        name: of its file in `configs/objectives`, or "random".
        objectives: names of metrics, `error` among them; of a random one those that choose among what was drawn.
        is_random: networks are drawn instead of searched for.
    """

    name: str
    objectives: tuple[str, ...]
    is_random: bool = False


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Outcome:
    """A finished search: a strategy with a seed.

    Attributes:
        indices_NK: the networks that it evaluated, in order, as `space.encode` gives them.
        errors_N: fractions.
        chosen: positions of its own front, in its own objectives.
        seconds: that the search took.
    """

    strategy: str
    seed: int
    indices_NK: NDArray[np.int64]
    errors_N: Floats
    chosen: tuple[int, ...]
    seconds: float


class Yardstick(Protocol):
    """What every front is judged by, beside the error: the same for all strategies.

    Attributes:
        is_measured: latencies were measured, not predicted.
        text: what they are, the end of a sentence that begins "Judged by": "latency measured on raspi4 (...)".
    """

    @property
    def is_measured(self) -> bool: ...

    @property
    def text(self) -> str: ...

    def latency_s(self, archs: Sequence[Arch]) -> Floats:
        """Seconds of each network, shape (len(archs),); nan where they are not known."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Chosen:
    """The front of a search as the yardstick sees it.

    Attributes:
        archs: all networks of its own front whose latency the yardstick knows, distinct.
        losses_F2: error and seconds of those.
        num_unknown: how many of its front the yardstick does not know.
    """

    strategy: str
    seed: int
    archs: tuple[Arch, ...]
    losses_F2: Floats
    num_unknown: int = 0

    @property
    def useful(self) -> Floats:
        """Error and seconds of the networks that no other of the front beats in both, by increasing seconds; equal ones
        once."""
        rows = np.unique(self.losses_F2[:, ::-1], axis=0)[:, ::-1]
        useful_F2: Floats = rows[pareto_front(rows)]
        return useful_F2


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class BestKnown:
    """The best front of error and the yardstick's latency that is known.

    Attributes:
        archs: of its networks; empty where only their losses are known.
        losses_B2: error and seconds, by increasing seconds.
        text: where it comes from, e.g. "the exact front of the whole space".
    """

    archs: tuple[Arch, ...]
    losses_B2: Floats
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds with its bootstrap interval of 95 %; nan for bounds that are not known (a single seed)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Curve:
    """A paired figure along the front: at each place an estimate over the seeds.

    Attributes:
        places_P: errors (fractions) or seconds.
        values_SP: of each seed; a mean over its P places is what is tested.
        estimates: at each place.
    """

    places_P: Floats
    values_SP: Floats
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Versus:
    """A strategy beside the baseline, paired by seed.

    Attributes:
        latency: ln(seconds / the baseline's seconds) at equal error, over errors that all seeds of both reach; None
            where there is no such error.
        latency_ratio: the mean along the front, as seconds / the baseline's seconds (geometric); None likewise.
        error: error - the baseline's error at equal latency, a fraction; negative is better.
        error_difference: the mean along the front.
        latency_p, hypervolume_p: of Wilcoxon's signed-rank test, two-sided; nan where there are too few seeds to tell.
        latency_p_holm, hypervolume_p_holm: the same, corrected for all strategies that are held against the baseline.
        headline_error: the middle of the errors that both reach, rounded as a person would; None as above.
        headline_ratio: seconds / the baseline's seconds there.
    """

    strategy: str
    baseline: str
    latency: Curve | None
    latency_ratio: Estimate | None
    error: Curve
    error_difference: Estimate
    latency_p: float
    latency_p_holm: float
    hypervolume_p: float
    hypervolume_p_holm: float
    headline_error: float | None
    headline_ratio: Estimate | None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Standing:
    """What a strategy's fronts are by themselves.

    Attributes:
        hypervolumes_S: of what each seed chose, relative to the best known front.
        hypervolume: their mean.
        evaluated_hypervolume: the same of all that each seed evaluated, had it known the yardstick for all of them;
            None where the yardstick does not know all.
        front_size: networks of the search's own front; useful_size: those that the yardstick leaves of them.
        found: share of the best known front's networks that a seed chose; None where they are not known.
        near: share of its useful networks that take at most `NEAR` longer than the best known front at their error.
        least_error: the lowest error that a seed reached.
        seconds: of a search.
    """

    strategy: str
    hypervolumes_S: Floats
    hypervolume: Estimate
    evaluated_hypervolume: Estimate | None
    front_size: Estimate
    useful_size: Estimate
    found: Estimate | None
    near: Estimate
    least_error: Estimate
    seconds: Estimate


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Why:
    """What the networks are like that a strategy chose: means over the networks of a seed, then over seeds.

    Attributes:
        bound_shares: share of the time in kernels bound by "compute", "memory" and "launch", and "overhead" that
            belongs to no kernel; they add up to 1.
        intensity: FLOP per byte; `macs`, `traffic_bytes`, `num_kernels`: of a network.
        depthwise_time, depthwise_macs: shares of depthwise convolutions.
    """

    strategy: str
    bound_shares: Mapping[str, float]
    intensity: Estimate
    macs: Estimate
    traffic_bytes: Estimate
    num_kernels: Estimate
    depthwise_time: Estimate
    depthwise_macs: Estimate
    num_networks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """The device with another bandwidth: what choosing by latency gains there over choosing by the baseline.

    Attributes:
        factor: on the bandwidth of every memory level.
        ridge_point: peak FLOP/s over bandwidth of the memory that holds everything, FLOP per byte.
        latency_ratio: seconds of the networks that latency chooses over those that the baseline chooses, at equal
            error, geometric mean along the front.
        memory_share: share of the time that the networks chosen by latency spend in memory-bound kernels.
    """

    factor: float
    ridge_point: float
    latency_ratio: float
    memory_share: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sweep:
    """By increasing ridge point. `pays_from`: the ridge point from which on the gain is at least `gain`; None: never,
    or at all of them (`points` tell which). `text`: which networks were chosen from, and what was left out."""

    points: tuple[SweepPoint, ...]
    own: SweepPoint
    gain: float
    pays_from: float | None
    text: str


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Comparison:
    """Everything that a report says.

    Attributes:
        title: of the device as deployed: "mobile_gpu", "v100, batch 32".
        judged: "top-1", or what `1 - error` is.
        chosen: by strategy, in the order of `seeds`.
        reference_point: error and seconds that bound hypervolumes: `MARGIN` times the worst of the best known front.
        limits: by strategy with two objectives, what an unlimited budget would choose, where that can be computed.
        standings, whys: by strategy. versus: by strategy, all but the baseline.
    """

    title: str
    space_name: str
    device_name: str
    judged: str
    baseline: str
    strategies: tuple[Strategy, ...]
    seeds: tuple[int, ...]
    num_trials: int
    sampler: str
    yardstick_text: str
    is_measured: bool
    chosen: Mapping[str, tuple[Chosen, ...]]
    best: BestKnown
    reference_point: tuple[float, float]
    limits: Mapping[str, Chosen]
    standings: Mapping[str, Standing]
    versus: Mapping[str, Versus]
    whys: Mapping[str, Why]
    ridge_point: float
    sweep: Sweep | None
    num_seeds_needed: int
    """For the rank test with its correction to be able to tell anything."""
