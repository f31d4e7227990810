"""What is searched for, as plain objects: a space, its costs on devices, objectives and bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from nas.constraints import feasible_arch, largest_excess
from nas.objectives import METRICS, check_objectives, cost_columns, cost_metrics, metric_named
from predictors.latency import LatencyPredictor, Prediction
from search_spaces.space import Arch, Space

MARGIN = 1.1
"""The reference point lies so much beyond the larger cost of the smallest and the largest arch."""


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What is searched for: networks of a space, their costs as deployed, and what to minimise under which bounds.

    Args:
        deployed_space: whose graphs are costed; its knobs are those of `space`.
        objectives: names in `METRICS`; on another device `DEVICE.METRIC`, e.g. `mobile_cpu.latency_s`.
        constraints: upper bounds by metric name, in SI units; see `constraints_from_mapping`.
        hard: networks beyond a bound are never evaluated; else the sampler is told by how much they are.
        other_predictors: of more devices, by the name that stands before the dot of a metric's name.

    Raises:
        ValueError: an unknown objective or constraint, or one that the device has no figures for.
    """

    space: Space
    deployed_space: Space
    predictor: LatencyPredictor
    objectives: tuple[str, ...]
    constraints: Mapping[str, float] = field(default_factory=dict)
    hard: bool = True
    other_predictors: Mapping[str, LatencyPredictor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_objectives(self.objectives)
        known = {"error", *self.costs(self.space.smallest())}
        for name in (*self.objectives, *self.constraints):
            if name not in known:
                device = name.rpartition(".")[0] or self.predictor.device.name
                raise ValueError(f"device {device!r} has no figures for {name!r}; known are {sorted(known)}")

    def predict(self, arch: Arch) -> Prediction:
        return self.predictor.predict(self.deployed_space.graph(arch))

    def costs(self, arch: Arch) -> dict[str, float]:
        """All metrics but the error, in SI units, by name; those of other devices with the device before a dot."""
        return self.predicted(arch)[0]

    def predicted(self, arch: Arch) -> tuple[dict[str, float], float]:
        """The costs, and the standard deviation of the latency in seconds."""
        graph = self.deployed_space.graph(arch)
        prediction = self.predictor.predict(graph)
        found = cost_metrics(prediction)
        for device, predictor in self.other_predictors.items():
            there = cost_metrics(predictor.predict(graph))
            found |= {f"{device}.{name}": cost for name, cost in there.items() if METRICS[name].on_device}
        return found, float(prediction.std_s)

    def costs_many(self, indices_NK: np.ndarray) -> dict[str, np.ndarray]:
        """What `costs` says of many archs, arrays of shape (N,) by name; rows are archs as `space.encode` gives them.

        A hundred thousand take a fraction of a second where the space has positions.
        """
        found = cost_columns(self.predictor.predict_many(self.deployed_space, indices_NK))
        for device, predictor in self.other_predictors.items():
            there = cost_columns(predictor.predict_many(self.deployed_space, indices_NK))
            found |= {f"{device}.{name}": cost for name, cost in there.items() if METRICS[name].on_device}
        return found

    def excess_many(self, indices_NK: np.ndarray) -> np.ndarray:
        """By how much archs exceed the bound that they exceed most, relative to it: shape (N,), feasible up to 0."""
        if not self.constraints:
            return np.full(len(indices_NK), -1.0)
        return largest_excess(self.costs_many(indices_NK), self.constraints)

    @cached_property
    def feasible_arch(self) -> Arch:
        """An arch that meets the constraints.

        Raises:
            ValueError: there seems to be none; the message has the least value that the space reaches.
        """
        return feasible_arch(self.space, self.costs_many, self.constraints, self.predictor.device.name)

    @cached_property
    def reference_point(self) -> tuple[float, ...]:
        """Losses that bound the hypervolume, known before the search, so that searches of one task compare.

        1.0 for the error, 0 for metrics that should grow, and `MARGIN` times the larger of the smallest and the largest
        arch's cost for the others. A candidate beyond it adds nothing.
        """
        smallest, largest = self.costs(self.space.smallest()), self.costs(self.space.largest())
        return tuple(
            1.0
            if name == "error"
            else 0.0
            if metric_named(name).maximise
            else MARGIN * max(smallest[name], largest[name])
            for name in self.objectives
        )

    @cached_property
    def unit_volume(self) -> float:
        """The hypervolume of a free and faultless network, as intense as the largest arch: what 1.0 on the bar is."""
        intense = self.costs(self.space.largest())
        return prod(
            intense[name] if metric_named(name).maximise else bound
            for name, bound in zip(self.objectives, self.reference_point)
        )

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """JSON-able; differs when the space, the device, its tables or anything else that is predicted differs."""
        ends = {"smallest": self.costs(self.space.smallest()), "largest": self.costs(self.space.largest())}
        return {
            "space": self.space.name,
            "choices": {knob: list(values) for knob, values in self.space.choices.items()},
            "device": self.predictor.device.name,
            "dtype": self.predictor.dtype,
            "objectives": list(self.objectives),
            "constraints": {name: float(bound) for name, bound in self.constraints.items()},
            "hard": self.hard,
            "costs": {
                end: {name: float(f"{cost:.9g}") for name, cost in metrics.items()} for end, metrics in ends.items()
            },
        }
