"""Calibration: a device whose rates are known is found again from a few of its networks; bad times are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import (
    ClassPrior,
    Device,
    Graph,
    GraphBuilder,
    LatencyPredictor,
    LookupTable,
    Measurement,
    TableHeader,
    available_devices,
    calibrate,
    choose_networks,
    device_from_mapping,
    device_to_mapping,
    learn_class_prior,
    load_device,
    load_runtime,
    save_device,
)
from predictors.class_terms import (
    FLOAT,
    NETWORK,
    Term,
    all_terms,
    efficiency_names,
    extended,
    fitted_class,
    prior_from_device,
    term_amounts,
    term_matrix,
)
from predictors.device import ClassEfficiency, DeviceNotMeasuredError, Quantity
from predictors.fitted_rates import kernel_extent
from predictors.fusion import Runtime, fuse, kernel_from_text
from predictors.rates import RatePrior, choose_rows, fit_rates, learn_prior, leave_one_out
from predictors.unmeasured import UNKNOWN_EFFICIENCY
from search_spaces import load_space

DEVICE = load_device("mobile_cpu")


def network(width: int, depth: int, size: int = 32, *, tail: int = 0) -> Graph:
    """Convolutions of three classes, a pool and a linear layer; a tail of dead convolutions where asked."""
    builder = GraphBuilder()
    x = builder.input((1, 3, size, size))
    x = builder.activation(builder.conv2d(x, width, kernel=3, stride=2), "relu")
    for _ in range(depth):
        y = builder.activation(builder.batch_norm(builder.conv2d(x, width, kernel=1)), "relu")
        y = builder.activation(builder.batch_norm(builder.conv2d(y, width, kernel=3, groups=width)), "relu")
        x = builder.elementwise("add", x, builder.conv2d(y, width, kernel=1))
    dead = x
    for _ in range(tail):
        dead = builder.conv2d(dead, width, kernel=1)
    x = builder.linear(builder.flatten(builder.global_pool(x)), 10)
    return builder.graph(x, name=f"{width}x{depth}@{size}")


SIZES = [(16, 1, 32), (32, 4, 64), (64, 2, 128), (96, 8, 32), (24, 12, 96), (128, 3, 64), (48, 6, 48), (64, 10, 112)]
NETWORKS = [network(*size[:2], size=size[2]) for size in SIZES]
OTHERS = [network(40, 5, 72), network(112, 7, 40), network(20, 9, 160)]


def other_device(slower: float, **changes: float) -> Device:
    """`DEVICE` with other shares of its peaks for all classes."""
    numbers = {"compute": 0.5, "read": 0.4, "write": 0.4, "fixed_s": 4e-6, **changes}
    numbers = {key: value * slower if key == "fixed_s" else value / slower for key, value in numbers.items()}
    efficiency = ClassEfficiency(**numbers, spread=0.1, source="made up for this test")  # type: ignore[arg-type]
    return replace(DEVICE, efficiency={"float32": {"any": efficiency}})


def seconds(device: Device, graphs: list[Graph], runtime: str | None = None) -> list[float]:
    predictor = LatencyPredictor(device, [], runtime=runtime)
    return [predictor.predict(graph).latency_s for graph in graphs]


def measured(device: Device, graphs: list[Graph] = NETWORKS) -> list[tuple[Graph, float]]:
    return list(zip(graphs, seconds(device, graphs)))


def errors(found: Device, truth: Device) -> np.ndarray:
    return np.abs(np.array(seconds(found, OTHERS)) / np.array(seconds(truth, OTHERS)) - 1.0)


# ------------------------------------------------------------------------------------------------------------- rates


def test_one_network_and_one_term_give_the_mean_of_prior_and_time_weighted_by_precision() -> None:
    # ln rate ~ N(0, 1), ln(3 * rate) measured as ln 12 with noise 1: halfway between 0 and ln 4.
    prior = RatePrior(mean_T=np.zeros(1), covariance_TT=np.eye(1), noise=1.0)
    fit = fit_rates(np.array([[3.0]]), np.array([12.0]), prior)
    assert fit.log_T[0] == pytest.approx(0.5 * np.log(4.0))
    assert fit.covariance_TT[0, 0] == pytest.approx(0.5)
    assert fit.log_std(np.array([[3.0]]))[0] == pytest.approx(np.sqrt(1.5))


def test_the_fit_is_where_the_posterior_is_flat() -> None:
    rng = np.random.default_rng(3)
    terms_NT, measured_s_N = rng.uniform(0.1, 5.0, (6, 4)), rng.uniform(1.0, 9.0, 6)
    root_TT = rng.normal(size=(4, 4))
    prior = RatePrior(mean_T=rng.normal(size=4), covariance_TT=root_TT @ root_TT.T + np.eye(4), noise=0.2)

    def loss(log_T: np.ndarray) -> float:
        residual_N = np.log(measured_s_N / (terms_NT @ np.exp(log_T)))
        away_T = log_T - prior.mean_T
        return 0.5 * residual_N @ residual_N / 0.04 + 0.5 * away_T @ np.linalg.solve(prior.covariance_TT, away_T)

    log_T = fit_rates(terms_NT, measured_s_N, prior).log_T
    for step_T in np.eye(4) * 1e-3:
        assert loss(log_T) < min(loss(log_T + step_T), loss(log_T - step_T))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_fitted_rates_are_positive_and_more_work_never_takes_less_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms_NT = rng.uniform(0.0, 5.0, (5, 8)) + 0.01
    prior = RatePrior(mean_T=np.zeros(8), covariance_TT=np.eye(8) + 1.0, noise=0.1)
    fit = fit_rates(terms_NT, rng.lognormal(0.0, 2.0, 5), prior)
    more_NT = terms_NT + rng.uniform(0.0, 1.0, terms_NT.shape)
    assert (fit.predict(more_NT) >= fit.predict(terms_NT)).all()


def test_leaving_a_network_out_is_fitting_the_others() -> None:
    rng = np.random.default_rng(0)
    terms_NT, measured_s_N = rng.uniform(0.1, 5.0, (4, 3)), rng.uniform(1.0, 9.0, 4)
    prior = RatePrior(mean_T=np.zeros(3), covariance_TT=np.eye(3), noise=0.1)
    residual_N, expected_N = leave_one_out(terms_NT, measured_s_N, prior)
    fit = fit_rates(terms_NT[1:], measured_s_N[1:], prior)
    assert residual_N[0] == pytest.approx(np.log(measured_s_N[0] / fit.predict(terms_NT[:1])[0]))
    assert expected_N[0] == pytest.approx(fit.log_std(terms_NT[:1])[0])


def test_a_prior_learned_from_devices_finds_their_rates_and_a_new_one_better_than_none() -> None:
    rng = np.random.default_rng(1)
    terms_NT = rng.uniform(0.0, 4.0, (20, 4)) ** 3 + 1e-3
    truth_DT = np.array([1.0, -2.0, 0.5, -1.0]) + rng.normal(0.0, 1.0, (12, 1)) + rng.normal(0.0, 0.3, (12, 4))
    times_DN = [terms_NT @ np.exp(log_T) * rng.lognormal(0.0, 0.02, 20) for log_T in truth_DT]
    start = RatePrior(mean_T=np.zeros(4), covariance_TT=np.eye(4) + 1.0, noise=0.2)
    learned = learn_prior([terms_NT] * 11, times_DN[:11], start)
    assert learned.mean_T - learned.mean_T.mean() == pytest.approx(np.array([1.375, -1.625, 0.875, -0.625]), abs=0.3)
    assert learned.noise < 0.05
    for_three = [
        np.abs(fit_rates(terms_NT[:3], times_DN[11][:3], prior).predict(terms_NT) / times_DN[11] - 1.0).mean()
        for prior in (learned, start)
    ]
    assert for_three[0] < for_three[1]


def test_the_most_telling_network_is_the_one_that_has_the_unknown_work() -> None:
    # Term 0 is known, term 1 is not: only the second network tells of it.
    prior = RatePrior(mean_T=np.zeros(2), covariance_TT=np.diag([1e-4, 4.0]), noise=0.1)
    assert choose_rows(np.array([[1.0, 0.0], [1.0, 9.0], [1.0, 1.0]]), prior, 1) == [1]
    assert sorted(choose_rows(np.array([[1.0, 0.0], [1.0, 9.0]]), prior, 7)) == [0, 1]


# ------------------------------------------------------------------------------------------------------------- terms


def test_amounts_are_seconds_at_the_peaks_and_counts() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 8, 4, 4))
    graph = builder.graph(builder.activation(builder.conv2d(x, 8, kernel=1), "tanh"))
    amounts = term_amounts(graph, DEVICE, load_runtime("ncnn"), "float32")
    peak, bandwidth = DEVICE.peak_flops("float32"), DEVICE.bandwidth
    assert amounts == pytest.approx(
        {
            Term("float32", "conv2d_1x1", "compute"): 2 * 8 * 8 * 16 / peak,
            Term("float32", "conv2d_1x1", "bytes"): 4 * (128 + 64 + 128) / bandwidth,
            Term("float32", "conv2d_1x1", "kernels"): 1e-6,
            Term(FLOAT, "activation", "bytes"): 4 * (128 + 128) / bandwidth,
            Term(FLOAT, "activation", "kernels"): 1e-6,
            NETWORK: 1e-6,
        }
    )


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ("in_channels=8, out_channels=8, kernel=(3, 3)", "conv2d_3x3_s1"),
        ("in_channels=8, out_channels=6, kernel=(3, 3)", "conv2d_3x3_s1_ragged"),
        ("in_channels=3, out_channels=8, kernel=(3, 3), stride=(2, 2)", "conv2d"),
        ("in_channels=6, out_channels=6, kernel=(3, 3), groups=6", "depthwise_conv2d_3x3"),
        ("in_channels=8, out_channels=8, kernel=(1, 1), groups=2", "grouped_conv2d"),
    ],
)
def test_classes_that_are_fitted_are_names_under_which_the_predictor_looks(fields: str, name: str) -> None:
    kernel = kernel_from_text(f"conv2d(height=8, width=8, {fields})", "float32")
    assert fitted_class(kernel) == name
    assert name in efficiency_names(kernel)


def test_a_term_that_a_prior_does_not_know_is_like_the_mean_of_its_resource() -> None:
    known = [Term("float32", "a", "bytes"), Term("float32", "b", "bytes"), Term("float32", "a", "kernels")]
    prior = RatePrior(mean_T=np.array([1.0, 3.0, 7.0]), covariance_TT=np.eye(3), noise=0.1)
    new = extended(prior, known, [*known, Term("float32", "c", "bytes")])
    assert new.mean_T.tolist() == [1.0, 3.0, 7.0, 2.0]
    assert new.covariance_TT[3, :3].tolist() == [0.5, 0.5, 0.0]
    assert new.covariance_TT[3, 3] > 0.5
    assert np.linalg.eigvalsh(new.covariance_TT).min() > 0.0


# ------------------------------------------------------------------------------------------------------- calibration


def test_a_device_three_times_slower_than_its_file_is_found_from_eight_networks() -> None:
    truth = other_device(3.0)
    found = calibrate(DEVICE, measured(truth), runtime="litert")
    assert errors(DEVICE, truth).min() > 0.3
    assert errors(found, truth).max() < 0.1


def test_the_devices_predictions_are_those_of_the_fitted_class_rates() -> None:
    truth = other_device(2.0)
    runtime = load_runtime("litert")
    amounts = [term_amounts(graph, DEVICE, runtime, "float32") for graph in NETWORKS]
    terms = all_terms(amounts)
    start = prior_from_device(DEVICE, terms, UNKNOWN_EFFICIENCY, "float32")
    prior = ClassPrior(terms=tuple(terms), rates=replace(start, noise=0.01), source="the same file, surer")
    found = calibrate(DEVICE, measured(truth), runtime="litert", prior=prior)
    fit = fit_rates(term_matrix(amounts, terms), np.array(seconds(truth, NETWORKS)), prior.rates)
    others = [term_amounts(graph, DEVICE, runtime, "float32") for graph in OTHERS]
    assert not found.fitted
    assert seconds(found, OTHERS) == pytest.approx(fit.predict(term_matrix(others, terms)).tolist(), rel=1e-9)


def test_a_device_that_is_calibrated_again_starts_from_what_was_fitted_before() -> None:
    truth = other_device(3.0)
    once = calibrate(DEVICE, measured(truth), runtime="litert")
    assert once.fitted
    twice = calibrate(once, measured(truth)[:3], runtime="litert")
    assert errors(twice, truth).mean() < errors(calibrate(DEVICE, measured(truth)[:3], runtime="litert"), truth).mean()


def test_rates_by_extent_are_found_where_large_pictures_are_slow() -> None:
    # Class efficiencies cannot say that kernels slow down with the extent of their output: 1.15 times for each 4 times.
    def times(graphs: list[Graph]) -> list[float]:
        truth = LatencyPredictor(other_device(1.0), [])
        return [
            sum(
                truth.estimate(node.kernel).latency_s * kernel_extent(node.kernel) ** 0.1
                for node in fuse(graph, load_runtime("litert"), "float32")
            )
            for graph in graphs
        ]

    found = calibrate(DEVICE, list(zip(NETWORKS, times(NETWORKS))), runtime="litert")
    assert found.fitted
    assert np.abs(np.array(seconds(found, OTHERS)) / np.array(times(OTHERS)) - 1.0).max() < 0.15


def test_bulk_costs_of_a_calibrated_device_are_those_of_each_arch() -> None:
    space = load_space("mobilenet_v3_tiny")
    device = calibrate(DEVICE, measured(other_device(2.0)), runtime="litert")
    assert device.fitted
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(20)]
    predictor = LatencyPredictor(device)
    many, each = predictor.predict_many(space, archs), [predictor.predict(space.graph(arch)) for arch in archs]
    np.testing.assert_allclose(many.latency_s, [one.latency_s for one in each], rtol=1e-9)
    np.testing.assert_allclose(many.std_s, [one.std_s for one in each], rtol=1e-9)
    # Kernels err together: far more than if each erred by itself.
    alone_s = sum(row.std_s**2 for row in each[0].kernels) ** 0.5
    assert each[0].std_s > alone_s


def test_a_prior_that_hurts_is_dropped_with_a_warning() -> None:
    truth = other_device(3.0)
    runtime = load_runtime("litert")
    terms = all_terms([term_amounts(graph, DEVICE, runtime, "float32") for graph in NETWORKS])
    start = prior_from_device(DEVICE, terms, UNKNOWN_EFFICIENCY, "float32")
    # Sure of it, and wrong: launches take hundreds of times as long, and nothing may deviate.
    wrong = RatePrior(
        mean_T=start.mean_T + np.array([6.0 if term.resource == "kernels" else 0.0 for term in terms]),
        covariance_TT=1e-4 * start.covariance_TT,
        noise=0.05,
    )
    prior = ClassPrior(terms=tuple(terms), rates=wrong, source="made up devices")
    with pytest.warns(UserWarning, match="the prior of made up devices .* is not used"):
        found = calibrate(DEVICE, measured(truth), runtime="litert", prior=prior)
    assert errors(found, truth).max() < 0.2


def test_a_prior_of_other_devices_helps_where_networks_are_few() -> None:
    truth = other_device(5.0, compute=0.1, read=0.9, fixed_s=1e-6)
    devices = [other_device(slower, compute=0.1, read=0.9, fixed_s=1e-6) for slower in (0.7, 1.0, 2.0, 3.0, 8.0)]
    prior = learn_class_prior([(DEVICE, measured(device)) for device in devices], source="made up devices")
    few = measured(truth)[:3]
    with_prior = calibrate(DEVICE, few, runtime="litert", prior=prior)
    without = calibrate(DEVICE, few, runtime="litert")
    assert errors(with_prior, truth).mean() < errors(without, truth).mean()
    assert "made up devices" in with_prior.network_overhead.source  # type: ignore[union-attr]


def test_every_fitted_number_says_what_it_was_calibrated_on() -> None:
    found = calibrate(DEVICE, measured(other_device(2.0)), runtime="litert")
    sources = found.sources()
    for name in ("network overhead", "network spread", "fitted rates float32"):
        assert sources[name].startswith("calibrated on 8 whole networks, 20")
    assert found.fitted["float32"].classes["linear"].num_kernels == len(NETWORKS)
    assert "float32" not in found.efficiency
    assert sources["peak float32"] == DEVICE.sources()["peak float32"]


def test_noisy_times_give_a_larger_spread_and_a_longer_claimed_deviation() -> None:
    truth = other_device(2.0)
    noise = np.random.default_rng(0).lognormal(0.0, 0.5, len(NETWORKS))
    noisy = [(graph, float(time * factor)) for (graph, time), factor in zip(measured(truth), noise)]
    clean_device, noisy_device = (calibrate(DEVICE, each, runtime="litert") for each in (measured(truth), noisy))
    assert noisy_device.network_spread.value > 1.5 * clean_device.network_spread.value  # type: ignore[union-attr]
    assert LatencyPredictor(noisy_device).predict(OTHERS[0]).std_s > 0.0


def test_int8_networks_are_calibrated_beside_float_ones() -> None:
    peaks = {**DEVICE.peaks, "int8": Quantity(value=2e11, source="made up")}
    device = replace(DEVICE, peaks=peaks)
    fast = other_device(1.0).efficiency["float32"]
    truth = replace(device, efficiency={"float32": fast, "int8": fast})
    float_s, int8_s = (
        seconds(truth, NETWORKS),
        [LatencyPredictor(truth, [], dtype="int8").predict(graph).latency_s for graph in NETWORKS],
    )
    times = [(graph, time, dtype) for dtype, all_s in (("float32", float_s), ("int8", int8_s))
             for graph, time in zip(NETWORKS, all_s)]  # fmt: skip
    found = calibrate(device, times, runtime="litert")
    for dtype in ("float32", "int8"):
        predictions, wanted = (
            [LatencyPredictor(each, [], dtype=dtype).predict(graph).latency_s for graph in OTHERS]
            for each in (found, truth)
        )
        assert predictions == pytest.approx(wanted, rel=0.15)


def test_dead_branches_that_do_not_run_are_noticed() -> None:
    # Under torch_eager dead branches run; the times are those of a runtime that removes them.
    graphs = [network(*size[:2], size=size[2], tail=9 * (index % 3)) for index, size in enumerate(SIZES)]
    truth = replace(other_device(1.0), runtime="litert")
    found = calibrate(replace(DEVICE, runtime="torch_eager"), measured(truth, graphs))
    assert load_runtime(found.runtime).removes_dead_branches
    assert calibrate(
        replace(DEVICE, runtime="torch_eager"), measured(truth, graphs), runtime="torch_eager"
    ).runtime == ("torch_eager")


def test_the_devices_own_runtime_stays_where_another_explains_the_times_no_better() -> None:
    assert calibrate(DEVICE, measured(other_device(2.0))).runtime == DEVICE.runtime


def test_rules_that_no_file_has_stay_with_the_device() -> None:
    own = load_runtime("litert")
    plain = Runtime(name="mine", description="", source="", rules=(), removes_dead_branches=own.removes_dead_branches)
    found = calibrate(DEVICE, measured(other_device(2.0)), runtime=plain)
    assert found.fusion == ()
    assert LatencyPredictor(found).predict(OTHERS[0]).num_kernels == len(fuse(OTHERS[0], plain, "float32"))


def test_with_a_table_only_what_comes_between_the_kernels_is_fitted() -> None:
    truth = other_device(1.0)
    runtime = load_runtime(truth.runtime)
    estimates = LatencyPredictor(truth, [])
    entries = {
        node.kernel: Measurement(latency_p50_s=estimates.estimate(node.kernel).latency_s, spread=0.0, num_runs=9)
        for graph in [*NETWORKS, *OTHERS]
        for node in fuse(graph, runtime, "float32")
    }
    header = TableHeader(
        device=truth.name, runtime=runtime.name, runtime_version="1", dtype="float32", threads=1, date="2026-01-01",
        reference_kernel="none",
    )  # fmt: skip
    table = LookupTable(header=header, entries=entries)
    sums = [LatencyPredictor(truth, [table]).predict(graph) for graph in NETWORKS]
    times = [(graph, 1.1 * each.latency_s + 2e-6 * each.num_kernels) for graph, each in zip(NETWORKS, sums)]
    found = calibrate(DEVICE, times, tables=[table])
    assert found.efficiency == DEVICE.efficiency
    assert found.in_network.value == pytest.approx(1.1, rel=0.02)  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="the prior of .* is not used: tables hold measured kernels"):
        assert calibrate(DEVICE, times, tables=[table], prior="ncnn_cpu") == found


def test_advised_networks_predict_the_others_better_than_the_smallest_ones() -> None:
    truth = other_device(3.0, compute=0.05, read=0.9)
    terms = all_terms([term_amounts(graph, DEVICE, load_runtime("litert"), "float32") for graph in NETWORKS])
    start = prior_from_device(DEVICE, terms, UNKNOWN_EFFICIENCY, "float32")
    prior = ClassPrior(terms=tuple(terms), rates=start, source="the device's own file")
    advised = choose_networks(DEVICE, NETWORKS, 3)
    smallest = sorted(range(len(NETWORKS)), key=lambda index: NETWORKS[index].macs)[:3]
    all_times = measured(truth)
    found = [
        errors(calibrate(DEVICE, [all_times[index] for index in chosen], runtime="litert", prior=prior), truth).mean()
        for chosen in (advised, smallest)
    ]
    assert found[0] < found[1]


# --------------------------------------------------------------------------------------------------------- bad input


def test_fewer_than_three_different_networks_are_refused() -> None:
    times = measured(other_device(1.0))
    with pytest.raises(ValueError, match="at least 3 different networks, found 2"):
        calibrate(DEVICE, times[:2])
    with pytest.raises(ValueError, match=r"found 2 \(4 times in all\)"):
        calibrate(DEVICE, times[:2] * 2)


@pytest.mark.parametrize("bad", [0.0, -1e-3, float("nan"), float("inf"), None, "0.1", True])
def test_a_time_that_is_no_positive_number_is_refused_with_its_network(bad: object) -> None:
    times = measured(other_device(1.0))
    times[2] = (times[2][0], bad)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="measured network 2 '64x2@128'"):
        calibrate(DEVICE, times)


@pytest.mark.parametrize(
    ("factor", "cause"),
    [(1e3, "are these milliseconds"), (1e6, "are these milliseconds"), (1e-3, "divided by 1000 twice")],
)
def test_times_in_another_unit_are_refused_with_the_likely_cause(factor: float, cause: str) -> None:
    times = [(graph, factor * time) for graph, time in measured(other_device(1.5))]
    with pytest.raises(ValueError, match=cause):
        calibrate(DEVICE, times)


def test_one_time_in_another_unit_is_named() -> None:
    times = measured(other_device(1.0))
    times[1] = (times[1][0], 1e3 * times[1][1])
    with pytest.raises(ValueError, match=r"network 1 '32x4@64'.* more than the other times"):
        calibrate(DEVICE, times)


def test_a_network_with_contradicting_times_is_mentioned() -> None:
    times = measured(other_device(1.0))
    with pytest.warns(UserWarning, match="'16x1@32' was measured several times, and its times contradict"):
        calibrate(DEVICE, [*times, (times[0][0], 2.0 * times[0][1])], runtime="litert")


def test_a_dtype_without_peak_is_refused() -> None:
    with pytest.raises(ValueError, match="no peak for dtype 'int8'"):
        calibrate(DEVICE, measured(other_device(1.0)), dtype="int8")


# ------------------------------------------------------------------------------------------------------------ saving


@pytest.mark.parametrize("name", available_devices())
def test_a_shipped_device_survives_being_written(name: str, tmp_path: Path) -> None:
    try:
        device = load_device(name)
    except DeviceNotMeasuredError:
        pytest.skip(f"device {name!r} has not been measured on this machine")
    assert device_from_mapping(device_to_mapping(device)) == device
    save_device(device, tmp_path / "my_copy.yaml")
    assert load_device(tmp_path / "my_copy.yaml") == device


def test_a_calibrated_device_survives_being_written_and_predicts_the_same(tmp_path: Path) -> None:
    found = calibrate(DEVICE, measured(other_device(2.0)))
    save_device(found, tmp_path / "mine.yaml")
    again = load_device(tmp_path / "mine.yaml")
    assert again == found
    assert seconds(again, OTHERS) == seconds(found, OTHERS)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    save_device(DEVICE, path)
    before = path.read_text(encoding="utf-8")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("predictors.device_writing.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_device(other_device(9.0), path)
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_device_is_not_written_where_it_would_not_be_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.yaml"):
        save_device(DEVICE, tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="does not exist"):
        save_device(DEVICE, tmp_path / "nowhere" / "mine.yaml")
