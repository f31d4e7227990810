"""Rates by class and extent that a device file holds: the mixture's own seconds, its errors, and what it never saw."""

from dataclasses import replace
from functools import cache
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from predictors.cost import kernel_cost
from predictors.device import ClassEfficiency, Device, load_device
from predictors.device_sheet import device_sheet, sheet_classes
from predictors.extent_rates import ExtentRates, extent_rates
from predictors.fitted_rates import (
    ANY_RATES,
    ClassRates,
    FittedRates,
    WorkRates,
    kernel_extent,
    place,
    rate_class,
    work_amounts,
)
from predictors.fusion import Kernel, kernel_from_text, load_runtime
from predictors.regimes import (
    KernelWork,
    Mixture,
    count_kernels,
    fit_mixture,
    fit_regimes,
    kernel_times,
    kernel_work,
    leave_networks_out,
)
from predictors.unmeasured import UNKNOWN_EFFICIENCY
from predictors.validation.cell_graphs import fbnet_graph

Array = NDArray[np.float64]
NUM_FEW = 10
_KNOWN = ClassEfficiency(compute=0.5, read=0.4, write=0.9, fixed_s=4e-6, spread=0.1, source="made up")
_CLASSES = {"conv2d_3x3_s1": _KNOWN, "conv2d": replace(_KNOWN, compute=0.2), "pool_ragged": _KNOWN, "any": _KNOWN}
DEVICE = replace(load_device("mobile_cpu"), efficiency={"float32": _CLASSES})


@cache
def fbnet() -> tuple[tuple[Kernel, ...], Array, KernelWork]:
    archs = np.random.default_rng(1).integers(0, 9, (80, 22))
    kernels, counts_NK = count_kernels(
        [fbnet_graph(arch.tolist()) for arch in archs], load_runtime("torch_eager"), "float32"
    )
    return kernels, counts_NK, kernel_work(kernels)


def simulated_s(flops: float, bytes_: float, launch_s: float, *, longer: bool) -> Array:
    """All kernels' launch and work, or the longer of the two."""
    _, counts_NK, work = fbnet()
    work_s_K = work.amounts_KR[:, 0] / flops + work.amounts_KR[:, 1:3].sum(1) / bytes_
    seconds_N: Array = counts_NK @ (np.maximum(work_s_K, launch_s) if longer else work_s_K + launch_s)
    return seconds_N


def mixture_of(measured_s_N: Array) -> Mixture:
    _, counts_NK, work = fbnet()
    return fit_mixture(work, counts_NK[:NUM_FEW], measured_s_N[:NUM_FEW])


def applied(found: ExtentRates) -> tuple[Array, Array, Array]:
    """Seconds of all kernels, what they err by themselves, and by factor, (K,), (K,), (K, F)."""
    kernels, _, _ = fbnet()
    times = [found.rates[kernel.dtype].time(kernel, kernel_cost(kernel)) for kernel in kernels]
    groups = sorted({group for time in times for group, _ in time.shared_std_s})
    shared_KF = np.array([[dict(time.shared_std_s).get(group, 0.0) for group in groups] for time in times])
    return np.array([time.latency_s for time in times]), np.array([time.own_std_s for time in times]), shared_KF


def conv(extent: int, channels: int = 8, kernel: int = 1) -> Kernel:
    fields = (
        f"in_channels={channels}, out_channels={channels}, height={extent}, width={extent}, kernel=({kernel}, {kernel})"
    )
    return kernel_from_text(f"conv2d({fields}, padding=({kernel // 2}, {kernel // 2}))", "float32")


RATES = FittedRates(
    extents=(16.0, 64.0),
    classes={
        "conv2d_1x1": ClassRates(
            added=WorkRates(launch_s=1e-6, per_unit_s={"flop": (1e-9, 3e-9)}),
            longer=WorkRates(launch_s=4e-6, per_unit_s={"byte": (1e-9, 1e-9)}),
            own_X=(0.1, 0.3),
            shared_FX=((0.2, -0.2),),
            num_kernels=5,
        ),
        ANY_RATES: ClassRates(added=WorkRates(launch_s=2e-6), own_X=(0.5, 0.5)),
    },
    source="made up",
)


# ------------------------------------------------------------------------------------------------------ fitted rates


def test_seconds_are_what_adds_up_and_the_longer_of_launch_and_work() -> None:
    # 8 channels at 4x4: 2 * 8 * 8 * 16 = 2,048 flops, (128 + 128) * 4 = 1,024 bytes of activations.
    time = RATES.time(conv(4), kernel_cost(conv(4)))
    assert time.latency_s == pytest.approx(1e-6 + 2048e-9 + 4e-6)
    # 64 channels: 131,072 flops, 8,192 bytes; now the bytes take longer than the launch.
    large = conv(4, 64)
    assert RATES.time(large, kernel_cost(large)).latency_s == pytest.approx(1e-6 + 131072e-9 + 8192e-9)


def test_rates_are_linear_in_the_logarithm_of_the_extent_and_hold_beyond_the_ends() -> None:
    def flop_rate(extent: int) -> float:
        kernel = conv(extent)
        cost = kernel_cost(kernel)
        added_s = RATES.time(kernel, cost).latency_s - 1e-6
        return (added_s - max(4e-6, (cost.read_bytes + cost.write_bytes) * 1e-9)) / cost.flops

    assert flop_rate(4) == pytest.approx(1e-9)
    assert flop_rate(8) == pytest.approx(3e-9)
    halfway = log(36.0 / 16.0) / log(4.0)
    assert flop_rate(6) == pytest.approx((1.0 - halfway) * 1e-9 + halfway * 3e-9)
    assert flop_rate(2) == pytest.approx(1e-9)
    assert flop_rate(100) == pytest.approx(3e-9)


def test_a_class_that_nobody_measured_errs_as_a_whole_and_a_measured_kernel_by_itself() -> None:
    measured = RATES.time(conv(4), kernel_cost(conv(4)))
    assert measured.own_std_s == pytest.approx(0.1 * measured.latency_s)
    assert measured.shared_std_s == (("fitted 0", pytest.approx(0.2 * measured.latency_s)),)
    other = conv(4, kernel=5)
    assert RATES.class_of(other) == ANY_RATES
    unmeasured = RATES.time(other, kernel_cost(other))
    assert unmeasured.own_std_s == 0.0
    assert unmeasured.shared_std_s == ((f"fitted float32 {ANY_RATES}", pytest.approx(1e-6)),)
    assert unmeasured.std_s == pytest.approx(1e-6)


def test_the_sign_of_a_factor_is_kept_so_that_errors_may_cancel() -> None:
    large = RATES.time(conv(8), kernel_cost(conv(8)))
    assert dict(large.shared_std_s)["fitted 0"] == pytest.approx(-0.2 * large.latency_s)


@pytest.mark.parametrize(("at", "expected"), [(0.0, (0, 0.0)), (5.0, (0, 0.0)), (-1.0, (0, 0.0))])
def test_one_known_extent_serves_all(at: float, expected: tuple[int, float]) -> None:
    assert place(at, (2.0,)) == expected


# ------------------------------------------------------------------------------------------------------ of a mixture


@pytest.mark.parametrize("longer", [False, True], ids=["adds up", "longer counts"])
@pytest.mark.parametrize(
    ("flops", "bytes_", "launch_s"), [(1e9, 1e12, 1e-9), (2e10, 1e10, 2e-5)], ids=["compute", "mixed"]
)
def test_what_a_file_can_hold_says_what_the_mixture_says(
    flops: float, bytes_: float, launch_s: float, longer: bool
) -> None:
    _, counts_NK, _ = fbnet()
    mixture = mixture_of(simulated_s(flops, bytes_, launch_s, longer=longer))
    exact_s_N = kernel_times(mixture).predict(counts_NK)
    found = extent_rates(mixture, "a test")
    kernel_s_K, own_K, shared_KF = applied(found)
    held_s_N = counts_NK @ kernel_s_K + found.overhead_s
    assert np.abs(held_s_N / exact_s_N - 1.0).mean() < 0.01
    exact_std_N = kernel_times(mixture).std_s(counts_NK)
    held_std_N = np.sqrt(((counts_NK @ shared_KF) ** 2).sum(1) + counts_NK @ own_K**2 + (mixture.noise * held_s_N) ** 2)
    assert 0.7 < np.median(held_std_N / exact_std_N) < 2.5


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_no_rate_is_negative_whatever_the_times(seed: int) -> None:
    found = extent_rates(mixture_of(np.exp(np.random.default_rng(seed).normal(size=80))), "a test")
    for rates in found.rates["float32"].classes.values():
        for part in (rates.added, rates.longer):
            assert part.launch_s >= 0.0
            assert all(value >= 0.0 for row in part.per_unit_s.values() for value in row)
        assert all(value >= 0.0 for value in rates.own_X)
    assert found.overhead_s > 0.0


def test_a_class_that_no_network_had_is_claimed_less_surely() -> None:
    found = extent_rates(mixture_of(simulated_s(2e10, 1e10, 2e-5, longer=False)), "a test", [("float32", "linear_9")])
    rates = found.rates["float32"]
    assert rates.classes["linear_9"].num_kernels == 0
    usual, unknown = (max(rates.classes[name].own_X) for name in ("conv2d_1x1", "linear_9"))
    assert unknown > 2.0 * usual
    assert rates.classes["conv2d_1x1"].num_kernels > 0


def test_leaving_a_network_out_is_nearly_fitting_the_others() -> None:
    _, counts_NK, work = fbnet()
    measured_s_N = simulated_s(2e10, 1e10, 2e-5, longer=False) * np.random.default_rng(0).lognormal(0.0, 0.03, 80)
    residual_N, expected_N = leave_networks_out(mixture_of(measured_s_N))
    for left_out in (0, 7):
        keep_N = np.arange(NUM_FEW) != left_out
        times = fit_regimes(work, counts_NK[:NUM_FEW][keep_N], measured_s_N[:NUM_FEW][keep_N])
        row_1K = counts_NK[left_out : left_out + 1]
        predicted_s = times.predict(row_1K)[0]
        assert residual_N[left_out] == pytest.approx(np.log(measured_s_N[left_out] / predicted_s), abs=0.01)
        assert expected_N[left_out] == pytest.approx(times.std_s(row_1K)[0] / predicted_s, rel=0.5)


# --------------------------------------------------------------------------------------------------- what is known


def sheet_seconds(device: Device, kernel: Kernel) -> float:
    sheet = device_sheet(device, [kernel], UNKNOWN_EFFICIENCY)
    at = log(kernel_extent(kernel))
    amounts = (*work_amounts(kernel, kernel_cost(kernel)), 1.0)
    return sum(
        amount * np.exp(sheet("float32", rate_class(kernel), sort, at)) for sort, amount in enumerate(amounts) if amount
    )


def test_a_sheet_says_what_the_class_efficiency_says() -> None:
    kernel = conv(56, 64, 3)
    efficiency = DEVICE.efficiency["float32"]["conv2d_3x3_s1"]
    cost = kernel_cost(kernel)
    both = (efficiency.read * efficiency.write) ** 0.5 * DEVICE.bandwidth
    expected_s = (
        cost.flops / (efficiency.compute * DEVICE.peak_flops("float32"))
        + (cost.read_bytes + cost.write_bytes) / both
        + cost.weight_bytes / (efficiency.read * DEVICE.bandwidth)
        + efficiency.fixed_s
    )
    assert sheet_seconds(DEVICE, kernel) == pytest.approx(expected_s)


def test_networks_of_a_device_like_its_sheet_prefer_the_sheet() -> None:
    kernels, counts_NK, work = fbnet()
    sheet = device_sheet(DEVICE, kernels, UNKNOWN_EFFICIENCY)
    measured_s_N = counts_NK @ np.array([sheet_seconds(DEVICE, kernel) for kernel in kernels])
    with_sheet, without = (fit_regimes(work, counts_NK[:4], measured_s_N[:4], sheets) for sheets in ([sheet], []))
    errors = [np.abs(times.predict(counts_NK) / measured_s_N - 1.0).mean() for times in (with_sheet, without)]
    assert with_sheet.log_evidence > without.log_evidence
    assert errors[0] < min(0.01, errors[1])


def test_classes_of_a_sheet_have_the_names_of_fitted_rates() -> None:
    assert sheet_classes(DEVICE, "float32") == ("conv2d",)
    assert sheet_classes(DEVICE, "int8") == ()
