"""What a runtime does between its kernels, fitted on a few whole networks whose kernels are in a table.

measured = in_network * sum of kernels + network_overhead + num_kernels * kernel_overhead

in_network is near 1: warm caches, and what the table is as a whole fast or slow by. The overheads are not negative.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from predictors.device import Device, Quantity
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.lookup_table import LookupTable

MIN_NETWORKS = 3

_IN_NETWORK_STD = 0.3
_OVERHEAD_STD = 0.1
_NOISE = 0.03
_LEAST_SPREAD = 0.01
"""Prior: a table as a whole errs by `_IN_NETWORK_STD`; overheads are about so much of a usual network's time; a network
errs by `_NOISE`. They only decide what ten networks cannot tell. `_LEAST_SPREAD` is what networks err at least: ten
that agree better do so by chance."""

_PASS_STD = 0.011
"""What one pass over the networks is off from the mean of 8 to 12 of them as a whole, which networks of one pass cannot
show: root mean square over five runtimes on one CPU, 60 networks, 2026-11-26."""


def correct(
    device: Device,
    measured: Sequence[tuple[Graph, float]],
    *,
    dtype: str | None = None,
    runtime: str | None = None,
    tables: Sequence[LookupTable] | None = None,
) -> Device:
    """The device under one runtime with `in_network`, overheads and `network_spread` that fit whole networks.

    Least squares of relative errors with a Gaussian prior, all three not negative (Lawson and Hanson's NNLS). The
    spread is what networks err that were left out of the fit, beyond what their kernels err each by themselves,
    and what passes differ by as a whole.

    Args:
        measured: networks and their seconds.
        dtype, runtime, tables: as of `LatencyPredictor`.

    Raises:
        ValueError: fewer than `MIN_NETWORKS` networks.

    Source: Lawson, Hanson, "Solving Least Squares Problems", 1974, chapter 23.
    """
    if len(measured) < MIN_NETWORKS:
        raise ValueError(f"a correction needs at least {MIN_NETWORKS} measured networks, found {len(measured)}")
    device = device.in_runtime(runtime or device.runtime)
    plain = replace(device, in_network=None, network_overhead=None, kernel_overhead=None, network_spread=None)
    predictor = LatencyPredictor(plain, tables, dtype=dtype)
    predictions = [predictor.predict(graph) for graph, _ in measured]
    measured_s_N = np.array([seconds for _, seconds in measured])
    terms_N3 = np.array([[each.latency_s, 1.0, len(each.kernel_nodes)] for each in predictions])
    kernel_variance_N = np.array([each.parts[0].sums.variance_s2 for each in predictions]) / measured_s_N**2

    fitted_3 = _fit(terms_N3, measured_s_N)
    left_out_N = np.array(
        [
            terms_N3[index] @ _fit(np.delete(terms_N3, index, 0), np.delete(measured_s_N, index)) / seconds - 1.0
            for index, seconds in enumerate(measured_s_N)
        ]
    )
    own = max(float(np.mean(left_out_N**2) - median(kernel_variance_N)), _LEAST_SPREAD**2)
    spread = float(np.sqrt(own + _PASS_STD**2))
    source = f"fitted on {len(measured)} whole networks"
    in_network, per_network, per_kernel = map(float, fitted_3)
    return replace(
        device,
        in_network=Quantity(value=in_network, source=source),
        network_overhead=Quantity(value=per_network, source=source) if per_network else None,
        kernel_overhead=Quantity(value=per_kernel, source=source) if per_kernel else None,
        network_spread=Quantity(value=spread, source=f"{source}, each left out in turn"),
    )


# ------------------------------------------------------------------------------------------------------------ private


def _fit(terms_N3: NDArray[np.float64], measured_s_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The three numbers, not negative."""
    from scipy.optimize import nnls

    usual_s = float(np.median(measured_s_N))
    usual_kernels = float(np.median(terms_N3[:, 2]))
    mean_3 = np.array([1.0, 0.0, 0.0])
    std_3 = np.array([_IN_NETWORK_STD, _OVERHEAD_STD * usual_s, _OVERHEAD_STD * usual_s / usual_kernels])
    # In units of the prior's deviations, so that NNLS sees numbers of one size.
    rows = np.concatenate([terms_N3 * std_3 / measured_s_N[:, None] / _NOISE, np.eye(3)])
    wanted = np.concatenate([np.ones(len(measured_s_N)) / _NOISE, mean_3 / std_3])
    found_3, _ = nnls(rows, wanted)
    fitted_3: NDArray[np.float64] = found_3 * std_3
    return fitted_3
