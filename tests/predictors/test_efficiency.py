from math import exp, log, sqrt

import numpy as np
import pytest

from predictors import LookupTable, Measurement, TableHeader, device_from_mapping, kernel_cost, roofline
from predictors.efficiency import MIN_KERNELS, LogEstimate, combine, latency_of, learn_efficiency
from predictors.fusion import make_kernel
from predictors.operators import Conv2d, Linear

HEADER = TableHeader(
    device="toy", runtime="torch_eager", runtime_version="1", dtype="float32", threads=1, date="2026-01-01",
    reference_kernel="",
)  # fmt: skip


def quantity(value, unit):
    return {"value": value, "unit": unit, "source": "made for tests"}


TOY = device_from_mapping(
    {
        "name": "toy", "description": "", "runtime": "torch_eager", "dtype": "float32",
        "peak": {"float32": quantity(100, "GFLOP/s")},
        "memory": [{"name": "dram", "bandwidth": quantity(10, "GB/s")}],
    }
)  # fmt: skip


def pointwise(channels, size):
    conv = Conv2d(in_channels=channels, out_channels=channels, height=size, width=size, kernel=(1, 1))
    return make_kernel(conv, (), "float32")


KERNELS = [pointwise(channels, size) for channels in range(8, 200, 12) for size in (4, 7, 12, 20, 33, 56)]
UNSEEN = [pointwise(channels, size) for channels in range(14, 180, 24) for size in (5, 9, 15, 25, 40)]


def log_efficiency(kernel):
    """The made-up device reaches more of its roofline the larger the kernel, smoothly."""
    return -2.0 / (1.0 + kernel.anchor.macs / 1e5) - 0.3


def table(kernels, noise=0.0, spread=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return LookupTable(
        header=HEADER,
        entries={
            kernel: Measurement(
                latency_p50_s=roofline(kernel_cost(kernel), TOY).latency_s
                * exp(-log_efficiency(kernel) + noise * rng.standard_normal()),
                spread=spread,
                num_runs=10,
            )
            for kernel in kernels
        },
    )


def estimates(learned, kernels):
    return [learned.at(kernel, kernel_cost(kernel)) for kernel in kernels]


def test_a_smooth_efficiency_is_recovered_between_the_measured_kernels():
    found = estimates(learn_efficiency([table(KERNELS)], TOY), UNSEEN)
    errors = [each.mean - log_efficiency(kernel) for each, kernel in zip(found, UNSEEN)]
    assert max(map(abs, errors)) < 0.1
    assert np.std([log_efficiency(kernel) for kernel in UNSEEN]) > 0.3, "a constant would do"


def test_noisy_entries_are_smoothed_by_their_neighbours():
    noisy = table(KERNELS, noise=0.2, spread=0.2)
    found = estimates(learn_efficiency([noisy], TOY), KERNELS)
    smoothed = [each.mean - log_efficiency(kernel) for each, kernel in zip(found, KERNELS)]
    assert np.std(smoothed) < 0.1, "half of what the entries err"


def test_the_deviation_covers_unseen_kernels():
    found = estimates(learn_efficiency([table(KERNELS, noise=0.2, spread=0.0)], TOY), UNSEEN)
    rng = np.random.default_rng(1)
    seen = [log_efficiency(kernel) - 0.2 * rng.standard_normal() for kernel in UNSEEN]
    within = [abs(each.mean - value) < 2.0 * each.std for each, value in zip(found, seen)]
    assert np.mean(within) > 0.85
    assert np.mean([each.std for each in found]) < 0.4, "not by being boundless"


def test_the_deviation_grows_away_from_the_measured_kernels():
    learned = learn_efficiency([table(KERNELS)], TOY)
    near, far = estimates(learned, [pointwise(100, 14), pointwise(4000, 500)])
    assert far.std > 2.0 * near.std


def test_a_kind_with_few_kernels_is_not_interpolated():
    assert learn_efficiency([table(KERNELS[: MIN_KERNELS - 1])], TOY).processes == {}
    assert set(learn_efficiency([table(KERNELS[:MIN_KERNELS])], TOY).processes) == {"conv2d"}
    linear = make_kernel(Linear(shape=(1, 64), out_features=10), (), "float32")
    assert learn_efficiency([table(KERNELS)], TOY).at(linear, kernel_cost(linear)) is None


def test_equal_kernels_with_equal_times_leave_nothing_to_fit_and_are_still_interpolated():
    """A kind whose efficiency never changes has no variance; its interpolation is that constant."""
    linears = [make_kernel(Linear(shape=(1, 64), out_features=10 * n), (), "float32") for n in range(1, 12)]
    entries = {
        kernel: Measurement(latency_p50_s=2.0 * roofline(kernel_cost(kernel), TOY).latency_s, spread=0.0, num_runs=1)
        for kernel in linears
    }
    learned = learn_efficiency([LookupTable(header=HEADER, entries=entries)], TOY)
    (found,) = estimates(learned, [linears[5]])
    assert found.mean == pytest.approx(log(0.5))
    assert found.std < 0.05


def test_measurement_and_neighbours_are_weighted_by_the_inverse_of_their_variances():
    found = combine(measured_log=1.0, spread=0.1, interpolated=LogEstimate(0.0, 0.2))
    assert found.mean == pytest.approx(0.8)  # (1.0 / 0.01 + 0.0 / 0.04) / (1 / 0.01 + 1 / 0.04)
    assert found.std == pytest.approx(sqrt(1 / (1 / 0.01 + 1 / 0.04)))


def test_a_clean_measurement_is_kept_and_a_lone_one_too():
    assert combine(1.0, 0.0, LogEstimate(0.0, 0.2)) == LogEstimate(1.0, 0.0)
    assert combine(1.0, 0.1, None) == LogEstimate(1.0, 0.1)


def test_latency_is_the_roofline_over_the_efficiency():
    latency_s, std_s = latency_of(1e-3, LogEstimate(log(0.5), 0.1))
    assert latency_s == pytest.approx(2e-3)
    assert std_s == pytest.approx(2e-4)
