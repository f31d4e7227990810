"""The most probable arch under limits, against enumeration of every network of a small space."""

import numpy as np
import pytest
import torch
from small_space import all_archs, likelihoods, random_probabilities, small_space

from predictors import LatencyPredictor, load_device
from predictors.predict_many import COLUMNS
from predictors.training import (
    ArchitectureLogits,
    CostConstraint,
    ExpectedCost,
    Limit,
    check_reachable,
    cost_penalty,
    most_probable_arch,
)
from search_spaces import Space, load_space

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def space() -> Space:
    return small_space()


@pytest.fixture(scope="module")
def archs() -> np.ndarray:
    return all_archs()


@pytest.mark.parametrize(
    ("device", "metric"),
    [
        ("mobile_gpu", "latency_s"), ("h200", "latency_s"), ("jetson_nano", "traffic_bytes"), ("mobile_cpu", "macs"),
        ("mobile_cpu", "peak_memory_bytes"), ("edge_tpu", "energy_j"), ("mobile_gpu", "num_kernels"),
        ("mobile_gpu", "num_params"),
    ],
)  # fmt: skip
def test_no_arch_that_keeps_the_limit_is_more_probable(
    space: Space, archs: np.ndarray, device: str, metric: str
) -> None:
    predictor = LatencyPredictor(load_device(device), tables=[])
    costs = getattr(predictor.predict_many(space, archs), metric)
    for seed in range(3):
        probabilities = random_probabilities(seed)
        weights = likelihoods(archs, probabilities)
        value = float(np.quantile(costs, 0.02 + 0.2 * seed, method="lower"))  # one that some arch has exactly
        limits = [Limit(predictor=predictor, metric=metric, value=value)]
        found = most_probable_arch(space, probabilities, limits, use=0.0)
        at = int(np.flatnonzero((archs == space.encode([found])).all(axis=1))[0])
        assert costs[at] <= value
        assert weights[at] == pytest.approx(weights[costs <= value].max(), rel=1e-9)


@pytest.mark.parametrize(("device", "metric"), [("mobile_gpu", "latency_s"), ("h200", "latency_s"), ("v100", "macs")])
def test_the_arch_uses_most_of_a_limit_that_the_most_probable_one_exceeds(
    space: Space, archs: np.ndarray, device: str, metric: str
) -> None:
    predictor = LatencyPredictor(load_device(device), tables=[])
    costs = getattr(predictor.predict_many(space, archs), metric)
    for seed in range(3):
        probabilities = random_probabilities(seed)
        weights = likelihoods(archs, probabilities)
        value = float(costs[costs < costs[weights.argmax()]].max())  # some arch has exactly this
        limits = [Limit(predictor=predictor, metric=metric, value=value)]
        found = most_probable_arch(space, probabilities, limits, use=0.97)
        at = int(np.flatnonzero((archs == space.encode([found])).all(axis=1))[0])
        near = (costs <= value) & (costs >= 0.97 * value)
        assert near[at]
        assert weights[at] == pytest.approx(weights[near].max(), rel=1e-9)
    with pytest.raises(ValueError, match="use is a share from 0 to 1, found 95"):
        most_probable_arch(space, probabilities, limits, use=95)


def test_where_costs_do_not_add_up_a_search_climbs_nearly_as_high(space: Space, archs: np.ndarray) -> None:
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    std_s = predictor.predict_many(space, archs).std_s
    for seed in range(3):
        probabilities = random_probabilities(seed)
        weights = likelihoods(archs, probabilities)
        value = float(np.quantile(std_s, 0.1 + 0.3 * seed))
        found = most_probable_arch(space, probabilities, [Limit(predictor="mobile_gpu", metric="std_s", value=value)])
        at = int(np.flatnonzero((archs == space.encode([found])).all(axis=1))[0])
        assert std_s[at] <= value
        assert weights[at] >= 0.5 * weights[std_s <= value].max()
    with pytest.raises(ValueError, match=r"no arch was found that keeps std_s <= 1e-09 on mobile_gpu \("):
        check_reachable(space, [Limit(predictor="mobile_gpu", metric="std_s", value=1e-9)])


def test_several_limits_on_several_devices_hold_together(space: Space, archs: np.ndarray) -> None:
    limits = []
    for name, metric in (("mobile_gpu", "latency_s"), ("mobile_cpu", "latency_s"), ("mobile_cpu", "peak_memory_bytes")):
        predictor = LatencyPredictor(load_device(name))
        values = getattr(predictor.predict_many(space, archs), metric)
        limits.append(Limit(predictor=predictor, metric=metric, value=float(np.quantile(values, 0.4))))
    found = most_probable_arch(space, random_probabilities(), limits, use=0.0)
    keep = np.ones(len(archs), dtype=bool)
    for limit in limits:
        assert getattr(limit.of_device.predict(space.graph(found)), limit.metric) <= limit.value
        keep &= limit.costs(space, archs) <= limit.value
    weights = likelihoods(archs, random_probabilities())
    at = int(np.flatnonzero((archs == space.encode([found])).all(axis=1))[0])
    assert weights[at] == pytest.approx(weights[keep].max(), rel=1e-9)


def test_without_a_limit_that_binds_it_is_the_most_probable_of_all(space: Space, archs: np.ndarray) -> None:
    probabilities = random_probabilities()
    most = space.decode(archs[np.argmax(likelihoods(archs, probabilities))][None])[0]
    assert most_probable_arch(space, probabilities, []) == most
    generous = Limit(predictor=LatencyPredictor(load_device("v100")), metric="latency_s", value=1.0)
    assert most_probable_arch(space, probabilities, [generous]) == most


def test_a_limit_that_no_arch_keeps_is_refused_with_the_least(space: Space, archs: np.ndarray) -> None:
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    least = predictor.predict_many(space, archs).latency_s.min()
    limit = Limit(predictor=predictor, metric="latency_s", value=float(least / 2))
    with pytest.raises(
        ValueError, match=rf"keeps latency_s <= .* on mobile_gpu: the least that any has is {least:.4g}"
    ):
        most_probable_arch(space, random_probabilities(), [limit])
    with pytest.raises(ValueError, match=f"the least that any has is {least:.4g}"):
        check_reachable(space.supernet(), [limit])
    check_reachable(space, [Limit(predictor="mobile_gpu", metric="latency_s", value=float(least))])
    with pytest.raises(ValueError, match="limit must be positive"):
        Limit(predictor=predictor, metric="latency_s", value=0.0)
    with pytest.raises(ValueError, match="'mobile_gpu' has no figures for 'energy_j'"):
        most_probable_arch(space, random_probabilities(), [Limit(predictor=predictor, metric="energy_j", value=1.0)])


def test_limits_that_only_together_exclude_every_arch_say_by_how_much() -> None:
    """The least of one cost has more of the other than its least: with both at their least, none is left."""
    space = load_space(
        "mobilenet_v3_tiny", resolutions=[16], kernels=[3, 5], expansions=[2, 3], depths=[1], stage_widths=[16],
        stage_strides=[2], stage_se=[False], stage_activations=["relu"],
    )  # fmt: skip

    class Opposed(LatencyPredictor):
        """Of whose networks those of most traffic are said to have the least parameters."""

        def position_tables(self, space):  # type: ignore[no-untyped-def]
            tables = super().position_tables(space)
            assert tables is not None
            column = COLUMNS.index("num_params")
            for table in tables:
                table.sums_RC[:, column] = 1e6 - table.sums_RC[:, COLUMNS.index("traffic_bytes")]
            return tables

    predictor = Opposed(load_device("mobile_gpu"))
    archs = np.array([[kernel, expansion] for kernel in range(2) for expansion in range(2)])
    assert space.decode(archs)
    limits = [
        Limit(
            predictor=predictor, metric=metric, value=float(getattr(predictor.predict_many(space, archs), metric).min())
        )
        for metric in ("traffic_bytes", "num_params")
    ]
    with pytest.raises(ValueError, match=r"traffic_bytes .*, num_params .* together, though each alone .* above one"):
        check_reachable(space, limits)


def test_penalties_have_their_closed_forms() -> None:
    """At twice the target: log 2, 1 above, 2^0.07 - 1; weights scale them."""
    cost = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    assert cost_penalty(cost, 2.0, 3.0, "log_ratio").item() == pytest.approx(3 * np.log(2))
    assert cost_penalty(cost, 2.0, 3.0, "hinge").item() == pytest.approx(3.0)
    assert cost_penalty(cost, 2.0, 3.0, "power").item() == pytest.approx(3 * (2**0.07 - 1))
    assert cost_penalty(cost, 5.0, 3.0, "hinge").item() == 0.0
    assert cost_penalty(cost, 5.0, 3.0, "log_ratio").item() < 0.0
    for form in ("log_ratio", "hinge", "power"):
        assert torch.autograd.gradcheck(lambda x, form=form: cost_penalty(x, 2.0, 3.0, form), (cost,))
    with pytest.raises(ValueError, match="target must be positive"):
        cost_penalty(cost, 0.0, 1.0)
    with pytest.raises(ValueError, match="unknown form 'square'"):
        cost_penalty(cost, 1.0, 1.0, "square")  # type: ignore[arg-type]


def test_a_constraint_finds_the_multiplier_of_a_problem_with_a_known_one() -> None:
    """min (x - 3)^2 under x <= 1: at x = 1 the gradient is -4, so the multiplier of x / 1 - 1 <= 0 is 4."""
    x = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    constraint = CostConstraint(x=1.0, stiffness=5.0, rate=0.1)
    optimizer = torch.optim.SGD([x], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        ((x - 3) ** 2 + constraint({"x": x})).backward()
        optimizer.step()
        constraint.update({"x": x})
    assert x.item() == pytest.approx(1.0, abs=1e-3)
    assert constraint.multipliers.item() == pytest.approx(4.0, abs=1e-2)
    assert "multipliers" in constraint.state_dict()


def test_a_constraint_names_what_it_was_not_given() -> None:
    constraint = CostConstraint(latency_s=1e-3, traffic_bytes=1e6)
    with pytest.raises(ValueError, match=r"limits are .*'traffic_bytes'\], costs were given for \['macs'\]"):
        constraint({"macs": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="no limit was given"):
        CostConstraint()
    with pytest.raises(ValueError, match="latency_s must be positive"):
        CostConstraint(latency_s=0.0)


def test_learned_under_a_constraint_the_expected_cost_ends_at_the_limit(space: Space, archs: np.ndarray) -> None:
    """Logits that want the largest network, held by a limit on its latency."""
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    costs = predictor.predict_many(space, archs).latency_s
    limit = float(np.quantile(costs, 0.3))
    torch.manual_seed(0)
    logits, cost = ArchitectureLogits(space), ExpectedCost(space, predictor)
    constraint = CostConstraint(latency_s=limit)
    optimizer = torch.optim.Adam(logits.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        found = logits()
        wish = -sum(each.log()[-1] for each in found.values()) / len(found)
        expected = {"latency_s": cost(found)}
        (wish + constraint(expected)).backward()
        optimizer.step()
        constraint.update(expected)
    assert cost(logits()).item() == pytest.approx(limit, rel=0.05)
    arch = most_probable_arch(space, logits(), [Limit(predictor=predictor, metric="latency_s", value=limit)])
    assert predictor.predict(space.graph(arch)).latency_s <= limit
