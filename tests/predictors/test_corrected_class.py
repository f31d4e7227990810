from dataclasses import replace
from math import log

import numpy as np
import pytest

from predictors import LatencyPredictor, LookupTable, Measurement, TableHeader, load_device
from predictors.corrected_class import MAX_KERNELS
from predictors.cost import kernel_cost
from predictors.efficiency import learn_efficiency
from predictors.fusion import make_kernel
from predictors.operators import Conv2d, Elementwise
from predictors.roofline import roofline
from predictors.transfer import transferred

GPU = replace(load_device("a100"), name="gpu", runtime="torch_eager", dtype="float32", efficiency={}, tables=())
HEADER = TableHeader(
    device="gpu", runtime="torch_eager", runtime_version="1", dtype="float32", threads=1, date="2026-01-01",
    reference_kernel="",
)  # fmt: skip


def conv(channels, size=28, groups=1, window=3):
    operator = Conv2d(
        in_channels=channels, out_channels=channels, height=size, width=size, kernel=(window, window),
        padding=(window // 2, window // 2), groups=groups,
    )  # fmt: skip
    return make_kernel(operator, (), "float32")


def add(elements):
    return make_kernel(Elementwise(function="add", shapes=((elements,),) * 2), (), "float32")


def said_s(kernel):
    """What other GPUs say of a kernel, seconds."""
    cost = kernel_cost(kernel)
    return roofline(cost, GPU).latency_s * np.exp(-transferred(kernel, cost, GPU).mean)


def learned(seconds, device=GPU):
    entries = {kernel: Measurement(latency_p50_s=each, spread=0.01, num_runs=1) for kernel, each in seconds.items()}
    return learn_efficiency([LookupTable(header=HEADER, entries=entries)], device)


def seconds_of(model, kernel):
    cost = kernel_cost(kernel)
    return roofline(cost, GPU).latency_s * np.exp(-model.at(kernel, cost).mean)


CONVOLUTIONS = [conv(channels, size) for channels in (32, 64, 128, 256) for size in (7, 14, 28)]


def test_what_all_measured_kernels_err_alike_is_taken_off_their_relatives():
    slower = learned({kernel: 1.6 * said_s(kernel) for kernel in CONVOLUTIONS})
    between = conv(96, 20)
    assert seconds_of(slower, between) == pytest.approx(1.6 * said_s(between), rel=0.1)


def test_one_measured_kernel_draws_the_others_towards_itself():
    kernel, relative = add(1000), add(1200)
    one = learned({kernel: 2.0 * said_s(kernel)})
    assert 1.05 * said_s(relative) < seconds_of(one, relative) < 2.0 * said_s(relative)
    apart = one.at(relative, kernel_cost(relative)).std
    assert apart < transferred(relative, kernel_cost(relative), GPU).std


def test_far_from_what_was_measured_other_gpus_are_believed_and_the_deviation_grows():
    small = [conv(channels, 4) for channels in (8, 12, 16, 20)]
    model = learned({kernel: 3.0 * said_s(kernel) for kernel in small})
    near, far = conv(14, 4), conv(2048, 112)
    assert seconds_of(model, near) == pytest.approx(3.0 * said_s(near), rel=0.25)
    found = model.at(far, kernel_cost(far))
    assert found.mean == pytest.approx(transferred(far, kernel_cost(far), GPU).mean, abs=0.05)
    assert found.std > 1.5 * model.at(near, kernel_cost(near)).std
    agreeing = learned({kernel: said_s(kernel) for kernel in small}).at(far, kernel_cost(far))
    assert agreeing.std == pytest.approx(transferred(far, kernel_cost(far), GPU).std, rel=0.2)
    assert agreeing.std < found.std, "others are trusted less where they were wrong"


def test_kernels_of_another_dtype_than_the_measured_ones_are_warned_of():
    model = learned({kernel: 1.6 * said_s(kernel) for kernel in CONVOLUTIONS})
    other = make_kernel(CONVOLUTIONS[0].anchor, (), "float16")
    with pytest.warns(UserWarning, match="times the largest measured of 'conv2d' on 'gpu'"):
        model.at(other, kernel_cost(other))


def test_a_measured_kernels_estimate_does_not_depend_on_its_own_entry():
    odd = CONVOLUTIONS[4]
    times = {kernel: said_s(kernel) for kernel in CONVOLUTIONS}
    usual, slow = learned(times), learned({**times, odd: 1.3 * times[odd]})
    # The hyperparameters see every entry; with one changed by a third they hardly move.
    assert seconds_of(slow, odd) == pytest.approx(seconds_of(usual, odd), rel=0.03)


def test_a_kernel_that_other_gpus_tell_nothing_of_does_not_keep_its_class_from_being_corrected():
    grouped = conv(64, 28, groups=4)
    assert transferred(grouped, kernel_cost(grouped), GPU) is None
    times = {kernel: 1.6 * said_s(kernel) for kernel in CONVOLUTIONS}
    with_it = learned({**times, grouped: 1e-3})
    between = conv(96, 20)
    assert seconds_of(with_it, between) == pytest.approx(seconds_of(learned(times), between))
    assert with_it.at(conv(96, 20, groups=4), kernel_cost(conv(96, 20, groups=4))) is None


def test_many_measured_kernels_tell_by_themselves():
    many = [conv(channels, 14) for channels in range(16, 16 + 8 * (MAX_KERNELS + 1), 8)]
    assert "conv2d" not in learned({kernel: said_s(kernel) for kernel in many}).corrected
    assert "conv2d" in learned({kernel: said_s(kernel) for kernel in many[:-1]}).corrected


def test_on_other_devices_few_kernels_correct_the_efficiency_of_their_class():
    device = replace(GPU, compute_units=None)  # nothing is known of it but its peaks: the default efficiency
    default = LatencyPredictor(device)
    few = {add(elements): 3.0 * default.estimate(add(elements)).latency_s for elements in (10_000, 20_000, 40_000)}
    relative = add(30_000)
    said = default.estimate(relative).latency_s
    assert seconds_of(learned(few, device), relative) == pytest.approx(3.0 * said, rel=0.25)
    many = {add(elements): 1e-5 for elements in range(1000, 9000, 1000)}
    assert learned(many, device).corrected == {}


def test_what_a_few_kernels_leave_open_of_a_class_is_shared_by_the_class():
    device = replace(GPU, compute_units=None)
    entries = {add(10_000): Measurement(latency_p50_s=1e-5, spread=0.01, num_runs=1)}
    predictor = LatencyPredictor(device, [LookupTable(header=HEADER, entries=entries)])
    estimate = predictor.estimate(add(20_000))
    [(group, shared_std_s)] = estimate.shared
    assert group == "corrected add"
    assert estimate.std_s == pytest.approx((estimate.variance_s2 + shared_std_s**2) ** 0.5)
    assert shared_std_s > 0.5 * estimate.std_s


def test_claimed_deviations_hold_for_errors_that_no_feature_explains():
    random = np.random.default_rng(0)
    within = []
    for _ in range(10):
        times = {kernel: said_s(kernel) * np.exp(random.normal(0.2, 0.15)) for kernel in CONVOLUTIONS}
        model = learned(times)
        for kernel in (conv(96, 14), conv(48, 28), conv(200, 7), conv(80, 20)):
            found = model.at(kernel, kernel_cost(kernel))
            truth_s = said_s(kernel) * np.exp(random.normal(0.2, 0.15))
            within.append(abs(log(truth_s / seconds_of(model, kernel))) / found.std)
    assert 0.5 <= np.mean(np.array(within) < 1.0) <= 0.9
    assert np.mean(np.array(within) < 2.0) >= 0.9


def test_a_predictor_with_a_small_table_interpolates_its_classes_and_believes_other_gpus_of_the_rest():
    entries = {
        kernel: Measurement(latency_p50_s=1.6 * said_s(kernel), spread=0.01, num_runs=1) for kernel in CONVOLUTIONS[:3]
    }
    predictor = LatencyPredictor(GPU, [LookupTable(header=HEADER, entries=entries)])
    measured, relative, other = (predictor.estimate(each) for each in (CONVOLUTIONS[0], conv(40, 10), add(5000)))
    assert [each.provenance for each in (measured, relative, other)] == ["measured", "interpolated", "roofline"]
    assert other.latency_s == pytest.approx(said_s(add(5000)))
    assert measured.latency_s == pytest.approx(1.6 * said_s(CONVOLUTIONS[0]), rel=0.02)
