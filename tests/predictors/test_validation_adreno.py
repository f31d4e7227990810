from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictors.autotvm import read_tuned_kernels
from predictors.fusion import fuse, load_runtime, make_kernel
from predictors.operators import Conv2d
from predictors.validation import adreno
from predictors.validation.adreno_networks import NETWORKS
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not all((DATA / file).is_file() for file in adreno.FILES),
    reason=f"public measurements {adreno.FILES} are not in {DATA}",
)


@pytest.fixture(scope="module")
def comparisons():
    return {each.name: each for each in adreno.compare(DATA)}


def pointwise(channels, size=28):
    conv = Conv2d(in_channels=channels, out_channels=channels, height=size, width=size, kernel=(1, 1))
    return make_kernel(conv, (), "float16")


def kernels(seconds_of):
    """Three networks of 16 kernels each; the second shares half of the first's."""
    shapes = {"a": range(8, 136, 8), "b": range(72, 200, 8), "c": range(10, 138, 8)}
    return [
        adreno.NetworkKernel(network=network, kernel=pointwise(channels), latency_s=seconds_of(network, channels))
        for network, widths in shapes.items()
        for channels in widths
    ]


def test_published_networks_do_the_published_work():
    """Multiply-accumulates: 569 M of MobileNetV1 and 15.5 G of VGG16, Howard et al. 2017 and Simonyan, Zisserman 2015;
    Inception V3 5.7 G, Szegedy et al. 2016; YOLOv3 65.9 G operations at 416x416, Redmon, Farhadi 2018."""
    macs = {name: network().macs for name, network in NETWORKS.items()}
    assert macs["mace_mobilenetv1"] == pytest.approx(569e6, rel=0.01)
    assert macs["mxnet_vgg16"] == pytest.approx(15.47e9, rel=0.01)
    assert macs["mace_inceptionv3"] == pytest.approx(5.72e9, rel=0.01)
    assert 2 * macs["mace_yolov3"] == pytest.approx(65.9e9, rel=0.01)


@needs_data
def test_the_measured_shapes_of_a_network_are_those_of_its_graph():
    tuned = read_tuned_kernels(DATA / adreno.FILES[0], "660")
    runtime = load_runtime("tvm_opencl")
    missing = {}
    for name, network in NETWORKS.items():
        measured = {each.kernel.anchor for each in tuned if each.network == name and each.kernel.dtype == "float16"}
        launched = {node.kernel.anchor for node in fuse(network(), runtime, "float16")}
        assert measured <= launched, name
        weighted = {anchor for anchor in launched if anchor.num_params and anchor.kind in ("conv2d", "linear")}
        missing[name] = [anchor.text for anchor in weighted - measured]
    assert missing.pop("mxnet_vgg16") == ["linear(shape=(1, 25088), out_features=4096)"]
    assert not any(missing.values())


def test_a_shape_that_both_networks_have_teaches_nothing():
    """Shared shapes have an absurd time in the other network; it must not be seen."""

    def seconds_of(network, channels):
        return 1.0 if network == "b" and channels < 136 else 1e-6 * channels

    compared = adreno.compare_kernels("toy", [each for each in kernels(seconds_of) if each.network != "c"],
                                      adreno.adreno_660())  # fmt: skip
    of_a = [label.startswith("a:") for label in compared.labels]
    assert (compared.predicted_s_N[OURS][of_a] < 0.1).all()


def test_the_fastest_of_a_shape_counts_and_modes_stay_apart():
    one = read_like("float16", "float16", 3e-4)
    two = read_like("float16", "float16", 2e-4)
    wide = read_like("float16", "float32", 1e-4)
    (found,) = adreno.fastest([one, two, wide], ("float16", "float16"))
    assert found.latency_s == 2e-4


def read_like(dtype, accumulator, seconds):
    from predictors.autotvm import TunedKernel

    kernel = replace(pointwise(8), dtype=dtype)
    return TunedKernel(kernel=kernel, latency_s=seconds, accumulator=accumulator, task="conv2d", network="a")


def test_each_network_is_corrected_by_the_median_of_the_others():
    factor_N, spread_N = adreno.factors_of_others(np.array([1.0, 2.0, 8.0]))
    assert factor_N == pytest.approx([4.0, np.sqrt(8.0), np.sqrt(2.0)])  # of two in logs: the geometric mean
    assert spread_N[0] == pytest.approx(np.std(np.log([2.0, 8.0]), ddof=1))


@needs_data
def test_kernels_of_other_networks_predict_a_network_s_kernels(comparisons):
    """Goal: median error at most 12 %; and better than both baselines in every mode."""
    for gpu in ("adreno_660", "adreno_730"):
        scores = comparisons[f"kernels, {gpu}, all"].scores()
        assert scores[OURS].median_error <= 0.121, gpu
        assert scores[OURS].within_1_std == pytest.approx(0.68, abs=0.08)
        assert scores[OURS].within_2_std == pytest.approx(0.95, abs=0.07)
    for name, compared in comparisons.items():
        if name.startswith("kernels"):
            scores = compared.scores()
            baselines = (scores[MACS_BASELINE].median_error, scores[ROOFLINE_BASELINE].median_error)
            assert scores[OURS].median_error < 0.5 * min(baselines), name


@needs_data
def test_whole_networks_are_predicted_from_their_kernels(comparisons):
    """Goal: mean error at most 10 %."""
    scores = comparisons["networks, adreno_660, all"].scores()
    assert scores[OURS].count == 18
    assert scores[OURS].mape <= 0.10
    assert scores[OURS].mape < 0.7 * min(scores[MACS_BASELINE].mape, scores[ROOFLINE_BASELINE].mape)
