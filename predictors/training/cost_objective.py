"""Predicted costs as objectives and constraints of an Optuna study that is not ours."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from predictors.latency import LatencyPredictor, Prediction
from predictors.training.expected_cost import METRICS
from predictors.training.predicted_costs import Devices, deployed_graph, device_predictors

UNBOUNDED = ("arithmetic_intensity",)
"""Metrics that are good when large."""


class Trial(Protocol):
    """What is asked of `optuna.Trial`, 5 or later."""

    def set_constraint(self, key: str, value: float) -> None: ...


class CostObjective:
    """What a network costs, for the objective of a study.

        cost = CostObjective("mobile_gpu", torch.zeros(1, 3, 224, 224), limits={"peak_memory_bytes": 8e6})

        def objective(trial):
            net = build(trial)
            if not cost.constrain(trial, net):
                raise optuna.TrialPruned()  # nothing is trained that could not be deployed
            return train(net), *cost(net)

    >>> import torch
    >>> cost = CostObjective(["mobile_gpu", "v100"], torch.zeros(1, 64), metrics=("macs", "v100.traffic_bytes"))
    >>> cost(nn.Linear(64, 10))  # 2 bytes each: 64 inputs, 65 * 16 parameters, 16 outputs
    (640.0, 2240.0)

    Args:
        devices: as of `predicted_costs`; their files and tables are read once.
        example_input: what the network is deployed for, as of `predicted_costs`.
        metrics: names of `METRICS`, in seconds, bytes, joules: of the first device, or `DEVICE.METRIC`. All but
            arithmetic_intensity are to be minimised.
        limits: upper bounds by the same names, in the same units.

    Raises:
        ValueError: an unknown device or metric, one that the device has no figures for, or a limit that is not
            positive or on a metric that should grow.
    """

    def __init__(
        self,
        devices: Devices,
        example_input: Any,
        metrics: Sequence[str] = ("latency_s",),
        *,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.predictors = device_predictors(devices)
        self.example_input = example_input
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        self.limits = dict(limits or {})
        if not self.metrics:
            raise ValueError(f"CostObjective: no metric was given; known are {list(METRICS)}")
        for name in (*self.metrics, *self.limits):
            _check(name, self.predictors)
        for name, limit in self.limits.items():
            if name.rpartition(".")[2] in UNBOUNDED:
                raise ValueError(f"CostObjective: {name} is good when large, so no limit can be on it")
            if not limit > 0:
                raise ValueError(f"CostObjective: the limit of {name} must be positive, found {limit}")

    def __call__(self, module: nn.Module) -> tuple[float, ...]:
        """The metrics in their order, in SI units: `return error, *cost(module)`.

        Raises:
            ValueError: as `predicted_costs`.
        """
        return tuple(self._costs(module, self.metrics).values())

    def constrain(self, trial: Trial, module: nn.Module) -> bool:
        """Tell the trial by what share each limit is exceeded; whether all limits hold.

        Optuna's samplers prefer trials whose constraints are zero or less, and fronts hold no others.

        Raises:
            ValueError: as `predicted_costs`.
        """
        excess = {name: cost / self.limits[name] - 1.0 for name, cost in self._costs(module, self.limits).items()}
        for name, value in excess.items():
            trial.set_constraint(name, value)
        return all(value <= 0 for value in excess.values())

    def _costs(self, module: nn.Module, names: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
        graph = deployed_graph(module, self.example_input)
        predictions: dict[str, Prediction] = {}
        costs = {}
        for name in names:
            device, metric = _parts(name, self.predictors)
            if device not in predictions:
                predictions[device] = self.predictors[device].predict(graph)
            costs[name] = float(getattr(predictions[device], metric))
        return costs


# ------------------------------------------------------------------------------------------------------------ private


def _parts(name: str, predictors: Mapping[str, LatencyPredictor]) -> tuple[str, str]:
    device, _, metric = name.rpartition(".")
    return device or next(iter(predictors)), metric


def _check(name: str, predictors: Mapping[str, LatencyPredictor]) -> None:
    device, metric = _parts(name, predictors)
    if metric not in METRICS or device not in predictors:
        raise ValueError(
            f"CostObjective: unknown metric {name!r}; known are {list(METRICS)}, also as DEVICE.METRIC, of the devices "
            f"{list(predictors)}"
        )
    if metric == "energy_j" and not predictors[device].device.has_energy:
        raise ValueError(f"device {device!r} gives no energy per MAC or byte, so energy_j is unknown")
