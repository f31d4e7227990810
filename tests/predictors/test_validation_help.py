"""Few networks of an unknown device: simulated devices are found again, and HELP's tables are ranked."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from predictors.fusion import Kernel, load_runtime
from predictors.graph import Graph
from predictors.nasbench201 import NB201_OPERATIONS
from predictors.regimes import (
    KernelTimes,
    choose_runtime,
    count_kernels,
    fit_regimes,
    kernel_work,
    predict_from_few,
)
from predictors.validation.cell_graphs import fbnet_graph, nb201_graph
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE
from predictors.validation.help_latency import Space, batch_of, compare_space, count_runs, read_space, read_spaces

Array = NDArray[np.float64]
DATA = Path("../shared/data")
needs_data = pytest.mark.skipif(
    not (DATA / "help_latency").is_dir(), reason="HELP's tables are not in ../shared/data/help_latency"
)
NUM_FEW = 10
EAGER = load_runtime("torch_eager")
LITERT = load_runtime("litert")


@cache
def fbnet() -> tuple[list[Graph], tuple[Kernel, ...], Array]:
    archs = np.random.default_rng(1).integers(0, 9, (150, 22))
    graphs = [fbnet_graph(arch.tolist()) for arch in archs]
    return graphs, *count_kernels(graphs, EAGER, "float32")


@cache
def nb201() -> list[Graph]:
    archs = np.random.default_rng(2).integers(0, 5, (150, 6))
    return [nb201_graph([NB201_OPERATIONS[each] for each in arch]) for arch in archs]


def simulated_s(kernels: Sequence[Kernel], counts_NK: Array, flops: float, bytes_: float, launch_s: float) -> Array:
    """Every kernel takes the longer of its launch and its work."""
    amounts_KR = kernel_work(kernels).amounts_KR
    work_s_K = amounts_KR[:, 0] / flops + amounts_KR[:, 1:3].sum(1) / bytes_
    latency_s_N: Array = counts_NK @ np.maximum(work_s_K, launch_s)
    return latency_s_N


@pytest.mark.parametrize(
    ("flops", "bytes_", "launch_s"),
    [(1e9, 1e12, 1e-9), (1e12, 1e9, 1e-9), (1e13, 1e12, 2e-5), (2e10, 1e10, 2e-5)],
    ids=["compute", "memory", "launches", "mixed"],
)
def test_ten_networks_of_a_simulated_device_rank_the_others(flops: float, bytes_: float, launch_s: float) -> None:
    _, kernels, counts_NK = fbnet()
    measured_s_N = simulated_s(kernels, counts_NK, flops, bytes_, launch_s)
    times = fit_regimes(kernel_work(kernels), counts_NK[:NUM_FEW], measured_s_N[:NUM_FEW])
    predicted_s_N = times.predict(counts_NK)
    assert spearmanr(predicted_s_N[NUM_FEW:], measured_s_N[NUM_FEW:]).statistic > 0.98
    assert np.median(np.abs(predicted_s_N / measured_s_N - 1.0)) < 0.03


def test_no_kernel_takes_negative_time() -> None:
    _, kernels, counts_NK = fbnet()
    measured_s_N = np.exp(np.random.default_rng(0).normal(size=NUM_FEW))  # nothing that any device would do
    times = fit_regimes(kernel_work(kernels), counts_NK[:NUM_FEW], measured_s_N)
    assert (times.kernel_s_K >= 0.0).all()
    assert times.overhead_s > 0.0


def test_predictions_follow_the_unit_of_the_times() -> None:
    _, kernels, counts_NK = fbnet()
    measured_s_N = simulated_s(kernels, counts_NK, 2e10, 1e10, 2e-5)[:NUM_FEW]
    seconds, milliseconds = (
        fit_regimes(kernel_work(kernels), counts_NK[:NUM_FEW], factor * measured_s_N) for factor in (1.0, 1e3)
    )
    np.testing.assert_allclose(milliseconds.predict(counts_NK), 1e3 * seconds.predict(counts_NK), rtol=1e-6)
    np.testing.assert_allclose(milliseconds.std_s(counts_NK), 1e3 * seconds.std_s(counts_NK), rtol=1e-5)
    assert milliseconds.log_evidence == pytest.approx(seconds.log_evidence, abs=1e-6)


def test_one_disturbed_measurement_hardly_counts() -> None:
    _, kernels, counts_NK = fbnet()
    work = kernel_work(kernels)
    measured_s_N = simulated_s(kernels, counts_NK, 1e9, 1e12, 1e-9)[:NUM_FEW]
    others_N = np.arange(NUM_FEW) != 3
    without = fit_regimes(work, counts_NK[:NUM_FEW][others_N], measured_s_N[others_N]).predict(counts_NK)
    measured_s_N[3] *= 4.0
    disturbed = fit_regimes(work, counts_NK[:NUM_FEW], measured_s_N).predict(counts_NK)
    assert np.median(np.abs(disturbed / without - 1.0)) < 0.05
    assert np.abs(disturbed / without - 1.0).max() < 0.25


def test_the_claimed_deviation_covers_networks_with_noise() -> None:
    _, kernels, counts_NK = fbnet()
    clean_s_N = simulated_s(kernels, counts_NK, 2e10, 1e10, 2e-5)
    distances = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        few_N, rest_N = np.split(rng.permutation(len(clean_s_N)), [NUM_FEW])
        noisy_s_N = clean_s_N * np.exp(0.05 * rng.normal(size=len(clean_s_N)))
        times = fit_regimes(kernel_work(kernels), counts_NK[few_N], noisy_s_N[few_N])
        distances.append(np.abs(times.predict(counts_NK) - noisy_s_N)[rest_N] / times.std_s(counts_NK)[rest_N])
    assert 0.55 < np.mean(np.array(distances) < 1.0) < 0.8
    assert np.mean(np.array(distances) < 2.0) > 0.88


@pytest.mark.parametrize("truth", [EAGER, LITERT], ids=["eager", "converted"])
def test_the_runtime_that_removes_dead_branches_is_told_from_the_other(truth: object) -> None:
    graphs = nb201()
    runtime = EAGER if truth is EAGER else LITERT
    other = LITERT if truth is EAGER else EAGER
    measured_s_N = simulated_s(*count_kernels(graphs, runtime, "float32"), 1e9, 1e10, 1e-6)
    measured = list(zip(graphs[:20], measured_s_N[:20].tolist()))
    found = predict_from_few(measured, graphs[20:], [other, runtime])
    assert found.runtime == runtime
    assert spearmanr(found.latency_s_N, measured_s_N[20:]).statistic > 0.98


def test_the_first_runtime_has_the_benefit_of_the_doubt() -> None:
    def fit(log_evidence: float) -> KernelTimes:
        nothing = np.zeros(0)
        return KernelTimes(
            kernel_s_K=nothing, overhead_s=0.0, noise=0.0, log_evidence=log_evidence, factor_JF=np.zeros((1, 0))
        )

    assert choose_runtime([fit(0.0), fit(4.0)]) == 0
    assert choose_runtime([fit(0.0), fit(5.0), fit(6.0)]) == 2  # ln 100 is 4.6


def test_predicting_graphs_equals_predicting_their_counts() -> None:
    graphs, kernels, counts_NK = fbnet()
    measured_s_N = simulated_s(kernels, counts_NK, 2e10, 1e10, 2e-5)[:NUM_FEW]
    found = predict_from_few(list(zip(graphs[:NUM_FEW], measured_s_N.tolist())), graphs[NUM_FEW:], [EAGER])
    times = fit_regimes(kernel_work(kernels), counts_NK[:NUM_FEW], measured_s_N)
    np.testing.assert_allclose(found.latency_s_N, times.predict(counts_NK[NUM_FEW:]), rtol=1e-9)
    np.testing.assert_allclose(found.std_s_N, times.std_s(counts_NK[NUM_FEW:]), rtol=1e-9)


def test_too_few_networks_and_impossible_times_are_refused() -> None:
    _, kernels, counts_NK = fbnet()
    work = kernel_work(kernels)
    with pytest.raises(ValueError, match="at least 3 measured networks"):
        fit_regimes(work, counts_NK[:2], np.ones(2))
    with pytest.raises(ValueError, match="positive seconds"):
        fit_regimes(work, counts_NK[:3], np.array([1.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("column", "batch"), [("titan_rtx_256", 256), ("1080ti_1", 1), ("gold_6226", 1), ("silver_4114", 1), ("pixel3", 1)]
)
def test_batches_are_read_from_the_columns(column: str, batch: int) -> None:
    assert batch_of(column) == batch


@needs_data
def test_ten_archs_rank_both_spaces_better_than_the_baselines() -> None:
    for space in read_spaces(DATA, num_archs=300):
        kept = [space.devices.index(name) for name in ("titan_rtx_1", "pixel3")]
        few = replace(space, devices=[space.devices[each] for each in kept], measured_s_ND=space.measured_s_ND[:, kept])
        found = [comparison.scores() for comparison in compare_space(few, num_draws=3)]
        mean = {model: np.mean([each[model].spearman for each in found]) for model in found[0]}
        assert mean[OURS] > 0.95
        assert mean[OURS] > max(mean[MACS_BASELINE], mean[ROOFLINE_BASELINE]) + 0.02


@needs_data
@pytest.mark.slow
def test_another_space_that_the_prior_was_not_chosen_on_is_ranked_as_well() -> None:
    from search_spaces import load_space

    ofa = replace(load_space("mobilenet_v3"), resolutions=tuple(range(128, 225, 4)))

    def graph(text: str, batch: int, runtime: str) -> Graph:
        written = json.loads(text)
        arch = {"resolution": written["r"]}
        for stage, depth in enumerate(written["d"]):
            arch[f"stage{stage + 1}_depth"] = depth
            for block in range(4):
                arch[f"stage{stage + 1}_block{block + 1}_kernel"] = written["ks"][4 * stage + block]
                arch[f"stage{stage + 1}_block{block + 1}_expansion"] = written["e"][4 * stage + block]
        return replace(ofa, batch=batch).graph(arch)

    space = read_space("OFA-MobileNetV3", DATA / "help_latency" / "ofa_latency_ms.csv.gz", graph, num_archs=200)
    at_64 = space.devices.index("v100_64")
    space = replace(space, devices=["v100_64"], measured_s_ND=space.measured_s_ND[:, [at_64]])
    spearman = [comparison.scores()[OURS].spearman for comparison in compare_space(space, num_draws=3)]
    assert min(spearman) > 0.99


def test_kernels_with_a_batch_are_those_of_graphs_with_that_batch() -> None:
    archs = [" ".join(map(str, arch)) for arch in np.random.default_rng(4).integers(0, 9, (20, 22))]

    def graph(arch: str, batch: int, runtime: str) -> Graph:
        return fbnet_graph([int(block) for block in arch.split()], batch)

    space = Space(name="", archs=archs, devices=(), measured_s_ND=np.zeros((20, 0)), graph=graph)
    for runtime in (EAGER, LITERT):
        runs = count_runs(space, runtime.name, 32)
        kernels, counts_NK = count_kernels([graph(arch, 32, runtime.name) for arch in archs], runtime, "float32")
        assert runs.kernels == kernels
        np.testing.assert_array_equal(runs.counts_NK, counts_NK)
