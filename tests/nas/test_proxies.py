import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from search_results import make_result
from torch import nn

from nas.data import ImageData
from nas.data.digits import ClutteredDigits
from nas.proxies import PROXIES, FromProxy, Inputs, RawProxy, Score, grad_norm, naswot, synflow
from nas.report.chosen import choose
from nas.report.page import page
from nas.report.table import pareto_csv
from search_spaces import Space, load_space

torch.set_num_threads(1)
QUICK = {"num_images": 8, "num_inits": 2}


@pytest.fixture(scope="module")
def data() -> ImageData:
    return ClutteredDigits(num_train=60, num_valid=10, num_test=10).load()


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space(
        "mobilenet_v3_tiny", stem_width=8, stage_widths=[8, 8, 8], head_width=8, feature_width=8, resolutions=[16, 32]
    )


def inputs(x: list[list[float]], labels: list[int]) -> Inputs:
    return Inputs(x_BCHW=torch.tensor(x), labels_B=torch.tensor(labels))


# -------------------------------------------------------------------------------------------------------- by hand


def test_naswot_of_two_images_that_agree_in_one_of_two_units() -> None:
    """K = [[2, 1], [1, 2]], whose determinant is 3."""
    assert naswot(nn.Sequential(nn.ReLU()), inputs([[1.0, -1.0], [1.0, 1.0]], [0, 1])) == pytest.approx(math.log(3))


def test_naswot_of_images_that_it_cannot_tell_apart_is_the_worst() -> None:
    assert naswot(nn.Sequential(nn.ReLU()), inputs([[1.0, 2.0], [3.0, 1.0]], [0, 1])) == -math.inf
    assert naswot(nn.Sequential(nn.Identity()), inputs([[1.0, 2.0], [3.0, 1.0]], [0, 1])) == -math.inf


def test_synflow_of_one_linear_layer_is_the_log_of_its_absolute_weights_sum() -> None:
    """R = |1| + |-2|, dR/dw = 1, so the flow is 3; the image itself and the bias do not count."""
    module = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, -2.0]]))
        module[0].bias.fill_(-7.0)
    assert synflow(module, inputs([[5.0, 5.0]], [0])) == pytest.approx(math.log(3))


def test_synflow_of_two_layers_counts_the_flow_through_each() -> None:
    """R = |2| * |-3| = 6; each of the two weights carries all of it: 12."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        module[0].weight.fill_(2.0)
        module[2].weight.fill_(-3.0)
    assert synflow(module, inputs([[1.0]], [0])) == pytest.approx(math.log(12))


def test_grad_norm_of_a_classifier_that_knows_nothing() -> None:
    """Two classes at half each: the gradient is (-1/2, 1/2), its norm sqrt(1/2)."""
    module = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(module.weight)
    assert grad_norm(module, inputs([[1.0]], [0])) == pytest.approx(0.5 * math.log(0.5))


def test_a_network_through_which_nothing_flows_is_the_worst() -> None:
    module = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(module.weight)
    assert synflow(module, inputs([[1.0]], [0])) == -math.inf


# ---------------------------------------------------------------------------------------------------------- as a source


@pytest.mark.parametrize("name", PROXIES)
def test_a_score_lies_between_0_and_1_and_follows_from_the_seed(name: str, space: Space, data: ImageData) -> None:
    source = FromProxy(proxy=name, **QUICK)
    torch.manual_seed(1)
    first = source.load(space, data if source.needs_data else None, None)
    torch.manual_seed(2)
    second = source.load(space, data if source.needs_data else None, None)
    archs = [space.smallest(), space.largest()]
    values = [first.accuracy(arch) for arch in archs]
    assert [second.accuracy(arch) for arch in archs] == values
    assert all(0 < value < 1 for value in values)
    assert values[0] != values[1]
    assert first.judgement.name == "score"
    assert first.extract is None


def test_fresh_weights_differ_from_init_to_init_and_the_mean_is_taken(space: Space, data: ImageData) -> None:
    arch = space.largest()
    one, two = (RawProxy(space, data, FromProxy(num_images=8, num_inits=num))(arch) for num in (1, 2))
    assert one != two
    other = RawProxy(space, data, FromProxy(num_images=8, num_inits=1, seed=1))(arch)
    assert other not in (one, two)


def test_proxies_can_look_at_noise_where_there_are_no_images() -> None:
    space = load_space("mobilenet_v3_tiny", resolutions=[16], num_classes=1000, in_channels=3)
    source = FromProxy(images="noise", **QUICK)
    assert not source.needs_data
    assert math.isfinite(RawProxy(space, None, source)(space.smallest()))


@given(
    values=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=9),
    references=st.lists(st.floats(-1e3, 1e3) | st.just(-math.inf), min_size=1),
)
def test_a_score_keeps_the_rank_of_raw_values(values: list[float], references: list[float]) -> None:
    raw = iter([*sorted(values), -math.inf])
    score = Score(lambda _: next(raw), references)
    scores = [score({}) for _ in values]
    assert scores == sorted(scores)
    assert all(0 <= each <= 1 for each in scores)
    assert score({}) == 0.0


def test_values_apart_get_scores_apart() -> None:
    raw = iter([-500.0, -499.9, 0.0, 0.1, 800.0, 800.1])
    score = Score(lambda _: next(raw), [0.0, 1.0, 2.0, 3.0])
    scores = [score({}) for _ in range(6)]
    assert (np.diff(scores) > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proxy": "zen"}, r"unknown proxy 'zen'.*there are \['naswot', 'synflow', 'grad_norm', 'macs', 'params'\]"),
        ({"num_inits": 0}, "num_inits must be at least 1"),
        ({"num_images": 1}, "num_images must be at least 2"),
        ({"images": "photos"}, "'photos', none of"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_wrong_fields_are_refused(changes: dict[str, object], message: str, space: Space, data: ImageData) -> None:
    with pytest.raises(ValueError, match=message):
        FromProxy(**changes).check(space, data if FromProxy(**changes).needs_data else None)  # type: ignore[arg-type]


def test_data_of_other_classes_are_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match=r"set space\.num_classes=10"):
        FromProxy().check(load_space("mobilenet_v3"), data)


def test_a_report_never_calls_a_score_an_accuracy(space: Space, data: ImageData) -> None:
    scoring = FromProxy(proxy="macs").load(space, None, None)
    result = replace(make_result(12), judgement=scoring.judgement)
    html = page(result, choose(result), command="", config_text="seed: 1\n", exported=False)
    text = html[html.index("<main>") :].lower().replace("no accuracies", "")
    assert "accurac" not in text
    assert "accurate" not in text
    assert "distance from full score" in text
    assert "accuracy" not in next(csv.reader(io.StringIO(pareto_csv(result))))
    assert choose(result)[0].name == "best_score"
