"""What a network costs on average while its architecture is still a probability: differentiable, exact, no sampling.

Costs add up over the positions of a network, and what stands at a position is decided by a few knobs that are chosen
independently. So the expectation of a sum is a sum of products of probabilities and costs. H. Cai et al.,
"ProxylessNAS", ICLR 2019, https://arxiv.org/abs/1812.00332, equation 6, and B. Wu et al., "FBNet", CVPR 2019,
https://arxiv.org/abs/1812.03443, equation 5, have the case of one knob a position.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from predictors.device import Device
from predictors.latency import LatencyPredictor
from predictors.predict_many import COLUMNS, ArchSpace
from predictors.training.probabilities import flat_probabilities
from predictors.training.spaces import HasSpace, predictor_of, space_of
from predictors.whole_network import energy_j

METRICS = (
    "latency_s", "traffic_bytes", "macs", "num_params", "num_kernels", "peak_memory_bytes", "energy_j",
    "arithmetic_intensity",
)  # fmt: skip


class ExpectedCost(nn.Module):
    """Expectation of one cost of the networks of a space, given a probability for each value of each knob.

    Exact for everything that adds up over positions: latency_s (where a device queues kernels, the larger of the
    expectations of device and host, which is at most the expectation of the larger), traffic_bytes, macs, num_params,
    num_kernels, energy_j. arithmetic_intensity is the ratio of the expectations of its parts. peak_memory_bytes is a
    smooth maximum over positions, never below the expectation and above it by at most
    `smoothness * largest * log(number of positions)`.

    It holds no parameters; its tables follow `.to(device)` and are no part of `state_dict`.

    Args:
        space: with positions, e.g. `search_spaces.load_space("mobilenet_v3").deployed(224)`, as it will be deployed; or
            a module that has it as its `space`, e.g. a supernet, also of a network of your own.
        predictor: of the device; or the device or its name, for its usual runtime and dtype.
        metric: one of `METRICS`.
        smoothness: of peak_memory_bytes, as a share of the largest position's.

    Raises:
        ValueError: an unknown device or metric, one that the device has no figures for, a module without space, or a
            space whose costs do not add up over positions.
    """

    def __init__(
        self,
        space: ArchSpace | HasSpace,
        predictor: LatencyPredictor | Device | str,
        metric: str = "latency_s",
        *,
        smoothness: float = 0.02,
    ) -> None:
        super().__init__()
        space, predictor = space_of(space), predictor_of(predictor)
        device = predictor.device
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; known are {list(METRICS)}")
        if metric == "energy_j" and not device.has_energy:
            raise ValueError(f"device {device.name!r} gives no energy per MAC or byte, so energy_j is unknown")
        tables = predictor.position_tables(space)
        if tables is None:
            raise ValueError(
                f"the costs of space {getattr(space, 'name', space)!r} do not add up over positions under runtime "
                f"{predictor.runtime.name!r}: it has none, or kernels are fused across them"
            )
        self.space, self.predictor, self.metric = space, predictor, metric
        self.choices = {knob: len(values) for knob, values in space.choices.items()}
        starts = dict(zip(self.choices, np.cumsum([0, *self.choices.values()]).tolist()))
        rows, sums, peaks = [], [], []
        most_knobs = max(len(table.knobs) for table in tables)
        for table in tables:
            sizes = [self.choices[knob] for knob in table.knobs]
            indices_RK = np.full((len(table.peaks_R), most_knobs), -1, dtype=np.int64)
            for column, (knob, index_R) in enumerate(zip(table.knobs, np.indices(sizes).reshape(len(sizes), -1))):
                indices_RK[:, column] = starts[knob] + index_R
            rows.append(indices_RK)
            sums.append(table.sums_RC[:, : len(COLUMNS)])
            peaks.append(table.peaks_R)
        indices_RK, sums_RC, peaks_R = np.concatenate(rows), np.concatenate(sums), np.concatenate(peaks)
        indices_RK[indices_RK < 0] = sum(self.choices.values())  # a one behind all probabilities
        used = _columns(metric, bool(device.host_launch))
        costs_RC = sums_RC[:, [COLUMNS.index(name) for name in used]]
        self._used = used
        self._num_positions = len(tables)
        self._units = np.maximum(np.abs(costs_RC).max(axis=0), np.finfo(np.float32).tiny).tolist()
        self._largest = float(peaks_R.max())
        self._smoothness = smoothness
        if metric == "peak_memory_bytes":
            swollen_R1 = np.exp((peaks_R / self._largest - 1) / smoothness)[:, None] * (peaks_R > 0)[:, None]
            costs_RC = np.concatenate([costs_RC, swollen_R1], axis=1)
            self._units.append(1.0)
        self._checked = False
        self._indices_KR: torch.Tensor
        self._others_KJ: torch.Tensor
        self._costs_RC: torch.Tensor
        # Each index is a column of its own, so that backward passes add up whole columns; float32 exists everywhere.
        self.register_buffer("_indices_KR", torch.from_numpy(indices_RK.T.copy()), persistent=False)
        others_KJ = [[other for other in range(most_knobs) if other != knob] for knob in range(most_knobs)]
        self.register_buffer("_others_KJ", torch.tensor(others_KJ, dtype=torch.int64), persistent=False)
        self.register_buffer(
            "_costs_RC", torch.from_numpy((costs_RC / self._units).astype(np.float32)), persistent=False
        )

    def forward(self, probabilities: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The expected cost, a scalar in the unit of the metric's name, on the tables' device.

        Args:
            probabilities: for each knob of the space its values' probabilities, floating point of shape
                (number of values,), which sum to 1.

        Raises:
            ValueError: a knob is missing or unknown, a shape is wrong, or probabilities do not sum to 1 or are negative
                (looked at in every call on the CPU, in the first one elsewhere).
        """
        device = self._indices_KR.device.type
        check_values = not torch.compiler.is_compiling() and (device == "cpu" or not self._checked)
        flat_V = flat_probabilities(probabilities, self.choices, check_values=check_values)
        self._checked = self._checked or check_values
        flat_V = torch.cat([flat_V, flat_V.new_ones(1)])
        costs_RC = self._costs_RC.to(flat_V.dtype)
        sums_C: torch.Tensor = _ExpectedSums.apply(  # type: ignore[no-untyped-call]
            flat_V, self._indices_KR, self._others_KJ, costs_RC
        )
        sums = {name: value * unit for name, value, unit in zip((*self._used, "swollen"), sums_C, self._units)}
        return self._whole(sums)

    def extra_repr(self) -> str:
        return f"{self.metric} on {self.predictor.device.name}, {len(self._costs_RC)} rows"

    def _whole(self, sums: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The metric from what its parts add up to; for latency the formula of `whole_network`."""
        device = self.predictor.device
        if self.metric == "latency_s":
            factor = device.in_network.value if device.in_network else 1.0
            per_network = device.network_overhead.value if device.network_overhead else 0.0
            per_kernel = device.kernel_overhead.value if device.kernel_overhead else 0.0
            latency = factor * sums["latency_s"] + per_kernel * sums["num_kernels"] + per_network
            return torch.maximum(latency, sums["host_s"] + per_network) if device.host_launch else latency
        if self.metric == "energy_j":
            found: torch.Tensor = energy_j(device, sums["executed_macs"], sums["traffic_bytes"])
            return found
        if self.metric == "arithmetic_intensity":
            return 2.0 * sums["executed_macs"] / sums["traffic_bytes"]
        if self.metric == "peak_memory_bytes":
            smooth = 1.0 + self._smoothness * sums["swollen"].log()
            return self._largest * smooth + sums["weight_bytes"]
        return sums[self.metric]


class _ExpectedSums(torch.autograd.Function):
    """sum over r of costs[r] * product over k of flat[indices[k, r]].

    A few operations each way, where autograd would take some for each k: a GPU starts them one by one.
    """

    @staticmethod
    def forward(
        ctx: Any, flat_V: torch.Tensor, indices_KR: torch.Tensor, others_KJ: torch.Tensor, costs_RC: torch.Tensor
    ) -> torch.Tensor:
        factors_KR = flat_V.index_select(0, indices_KR.flatten()).view(indices_KR.shape)
        ctx.save_for_backward(factors_KR, indices_KR, others_KJ, costs_RC)
        ctx.num_values = len(flat_V)
        return factors_KR.prod(dim=0) @ costs_RC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        factors_KR, indices_KR, others_KJ, costs_RC = ctx.saved_tensors
        others_KR = factors_KR[others_KJ].prod(dim=1)
        slopes_KR = others_KR * (costs_RC @ gradients[0])
        flat_V = slopes_KR.new_zeros(ctx.num_values)
        return flat_V.index_add_(0, indices_KR.flatten(), slopes_KR.flatten()), None, None, None


def _columns(metric: str, queues: bool) -> tuple[str, ...]:
    """Which sums over positions make a metric."""
    if metric == "latency_s":
        return ("latency_s", "num_kernels", "host_s") if queues else ("latency_s", "num_kernels")
    if metric in ("energy_j", "arithmetic_intensity"):
        return ("executed_macs", "traffic_bytes")
    return ("weight_bytes",) if metric == "peak_memory_bytes" else (metric,)
