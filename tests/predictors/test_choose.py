from itertools import product

import numpy as np
import pytest

from predictors import GraphBuilder, fuse, load_runtime
from predictors.graph import Graph
from predictors.measure.choose import Uncertainty, choose_kernels, choose_networks, survey, time_weights
from search_spaces import load_space

EAGER = load_runtime("torch_eager")
SIZES, WIDTHS = (16, 24, 32), (8, 12, 16, 24)


def toy_network(size: int, *widths: int) -> Graph:
    builder = GraphBuilder()
    x = builder.input((1, 3, size, size))
    for width in widths:
        x = builder.activation(builder.conv2d(x, width, kernel=3, stride=2), "relu")
    return builder.graph(x)


def draw(rng: np.random.Generator) -> Graph:
    return toy_network(*(int(rng.choice(each)) for each in (SIZES, WIDTHS, WIDTHS)))


def kernels_of(graph: Graph) -> set:
    return {node.kernel for node in fuse(graph, EAGER, "float32")}


def test_a_survey_finds_every_kernel_of_the_space_and_gives_its_networks_again() -> None:
    found = survey(draw, EAGER, "float32", patience=300)
    every = set().union(*(kernels_of(toy_network(*choice)) for choice in product(SIZES, WIDTHS, WIDTHS)))
    assert set(found.kernels) == every
    assert len(found.kernels) == len(every)
    assert found.unseen == 0.0
    for index in (0, 7):
        assert kernels_of(found.network(index)) == {found.kernels[kernel] for kernel in found.members[index]}


def test_a_survey_that_ends_early_says_how_much_it_may_have_missed() -> None:
    found = survey(draw, EAGER, "float32", most=3)
    counts = np.bincount(np.concatenate(found.members))
    assert found.unseen == (counts == 1).sum() / counts.sum() > 0.1


def test_a_survey_of_a_real_space_has_every_kernel_of_its_stages() -> None:
    """Kernels of a stage depend on the resolution and on the stage's own choices: those are few enough to list."""
    space = load_space("mobilenet_v3_tiny")
    found = survey(lambda rng: space.graph(space.sample(rng)), EAGER, "float32")
    listed = set()
    choices = space.choices
    for stage in ("stage1", "stage2", "stage3"):
        own = [f"{stage}_depth", *(f"{stage}_block{n}_{what}" for n in (1, 2) for what in ("kernel", "expansion"))]
        for resolution in choices["resolution"]:
            for values in product(*(choices[knob] for knob in own)):
                arch = {**space.smallest(), "resolution": resolution, **dict(zip(own, values))}
                listed |= kernels_of(space.graph(space.canonical(arch)))
    assert len(listed) > 200
    assert listed <= set(found.kernels)


def test_weights_are_shares_of_the_time_of_the_networks() -> None:
    found = survey(draw, EAGER, "float32", patience=50)
    seconds_K = np.arange(1.0, len(found.kernels) + 1)
    weights_K = time_weights(found, seconds_K)
    counts_K = np.bincount(np.concatenate(found.members), minlength=len(found.kernels))
    assert weights_K.sum() == pytest.approx(1.0)
    assert weights_K[3] / weights_K[0] == pytest.approx(4.0 * counts_K[3] / counts_K[0])


def test_networks_that_cover_all_kernels_are_few() -> None:
    found = survey(draw, EAGER, "float32", patience=300)
    chosen = choose_networks(found, time_weights(found, np.ones(len(found.kernels))), fraction=1.0)
    assert {kernel for index in chosen for kernel in found.members[index]} == set(range(len(found.kernels)))
    # each network has one kernel of 3 * 4 * 4 second convolutions, so none can do with fewer than 48
    assert len(chosen) == 48


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_no_more_kernels_are_measured_than_were_asked_for(fraction: float) -> None:
    found = survey(draw, EAGER, "float32", patience=300)
    chosen = choose_networks(found, time_weights(found, np.ones(len(found.kernels))), fraction=fraction)
    covered = {kernel for index in chosen for kernel in found.members[index]}
    assert 0.8 * fraction * len(found.kernels) < len(covered) <= fraction * len(found.kernels)


def left_uncertainty(found, weights_K, indices) -> float:
    uncertainty = Uncertainty(found.kernels, weights_K)
    for index in indices:
        uncertainty.measure(index)
    return float(((weights_K * uncertainty.std) ** 2).sum())


def test_chosen_kernels_leave_less_uncertainty_than_random_ones() -> None:
    found = survey(draw, EAGER, "float32", patience=300)
    weights_K = time_weights(found, np.linspace(1.0, 5.0, len(found.kernels)))
    chosen = [found.kernels.index(kernel) for kernel in choose_kernels(found.kernels, weights_K, fraction=0.2)]
    assert len(chosen) == round(0.2 * len(found.kernels)) == len(set(chosen))
    rng = np.random.default_rng(0)
    by_chance = [
        left_uncertainty(found, weights_K, rng.choice(len(found.kernels), len(chosen), replace=False))
        for _ in range(20)
    ]
    assert left_uncertainty(found, weights_K, chosen) < min(by_chance)


def test_a_measured_kernel_is_known_and_tells_of_its_like_but_not_of_other_kinds() -> None:
    found = survey(draw, EAGER, "float32", patience=100)
    uncertainty = Uncertainty(found.kernels, np.ones(len(found.kernels)))
    before_K = uncertainty.std
    first = next(index for index, kernel in enumerate(found.kernels) if kernel.kind == "conv2d")
    uncertainty.measure(first)
    after_K = uncertainty.std
    assert after_K[first] < 0.06  # the noise of a measurement
    kinds = np.array([kernel.kind for kernel in found.kernels])
    assert (after_K[kinds == "conv2d"] < before_K[kinds == "conv2d"]).all()
    assert (after_K[kinds == "relu"] == before_K[kinds == "relu"]).all()


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_refused(fraction: float) -> None:
    found = survey(draw, EAGER, "float32", most=5)
    weights_K = np.ones(len(found.kernels))
    with pytest.raises(ValueError, match="fraction must be above 0 and at most 1"):
        choose_networks(found, weights_K, fraction=fraction)
    with pytest.raises(ValueError, match="fraction must be above 0 and at most 1"):
        choose_kernels(found.kernels, weights_K, fraction=fraction)
