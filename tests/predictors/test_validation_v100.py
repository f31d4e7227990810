from pathlib import Path

import numpy as np
import pytest

from predictors import LatencyPredictor, load_device
from predictors.autotvm import TunedKernel
from predictors.cost import kernel_cost
from predictors.fusion import make_kernel
from predictors.operators import Conv2d
from predictors.roofline import roofline
from predictors.tinynas import read_conv_table
from predictors.validation import v100
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE
from predictors.validation.other_learners import BOOSTED, NEAREST

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not (DATA / v100.FILES[0]).is_file(), reason=f"public measurements {v100.FILES[0]} are not in {DATA}"
)
V100 = load_device("v100")


def tuned(channels, size, batch=1):
    conv = Conv2d(batch=batch, in_channels=channels, out_channels=channels, height=size, width=size, kernel=(1, 1))
    kernel = make_kernel(conv, (), "float32")
    seconds = 3.0 * roofline(kernel_cost(kernel, V100.channel_alignment), V100, "float32").latency_s + 1e-5
    return TunedKernel(kernel=kernel, latency_s=seconds, accumulator="float32", task="Regular", network="fold0")


MEASURED = [tuned(channels, size) for channels in range(16, 272, 16) for size in (7, 14, 28, 56)]
UNSEEN = [tuned(channels, size) for channels in range(24, 256, 40) for size in (10, 20, 40)]


def test_what_is_compared_is_what_the_predictor_says():
    compared = v100.compare_kernels("toy", MEASURED, UNSEEN, V100)
    predictor = LatencyPredictor(V100, [v100.table_of(MEASURED, V100)], dtype="float32")
    for index, each in enumerate(UNSEEN):
        estimate = predictor.estimate(each.kernel)
        assert compared.predicted_s_N[OURS][index] == pytest.approx(estimate.latency_s, rel=1e-9)
        assert compared.std_s_N[index] == pytest.approx(estimate.std_s, rel=1e-9)


def test_a_law_of_two_terms_is_found():
    compared = v100.compare_kernels("toy", MEASURED, UNSEEN, V100)
    scores = compared.scores()
    assert scores[OURS].mape < 0.03
    assert set(scores) == {OURS, NEAREST, BOOSTED, MACS_BASELINE, ROOFLINE_BASELINE}
    assert scores[OURS].mape < min(scores[model].mape for model in scores if model != OURS)


@needs_data
def test_five_per_cent_of_the_convolutions_predict_the_others():
    """Goal: MAPE at most 8 %, Spearman at least 0.99; a part of the table, of it 2,000 kernels are measured."""
    kernels = read_conv_table(DATA / v100.FILES[0], "float32", batch=1)
    order = np.random.default_rng(0).permutation(len(kernels))
    measured, unseen = [kernels[index] for index in order[:2000]], [kernels[index] for index in order[2000:4000]]
    scores = v100.compare_kernels("batch 1", measured, unseen, V100).scores()
    assert scores[OURS].mape <= 0.08
    assert scores[OURS].spearman >= 0.99
    assert scores[OURS].mape < 0.6 * min(scores[MACS_BASELINE].mape, scores[ROOFLINE_BASELINE].mape)
    assert scores[OURS].within_1_std == pytest.approx(0.68, abs=0.07)
    assert scores[OURS].within_2_std == pytest.approx(0.95, abs=0.06)
