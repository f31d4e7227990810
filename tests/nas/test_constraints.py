import re
from dataclasses import replace

import numpy as np
import pytest

from nas.constraints import (
    CONSTRAINTS,
    constraints_from_mapping,
    feasible_arch,
    largest_excess,
    other_devices,
    violations,
)
from nas.objectives import METRICS
from nas.task import SearchTask
from predictors import Device, LatencyPredictor, load_device
from search_spaces import load_space

SPACE = load_space("mobilenet_v3_tiny")


SIZES = tuple(len(values) for values in SPACE.choices.values())


def deepest_is_fastest(rows_NK: np.ndarray) -> dict[str, np.ndarray]:
    """Costs whose least values are at opposite ends of the space: neither is met by the smallest arch."""
    share_N = (rows_NK / np.maximum(np.array(SIZES) - 1, 1)).mean(axis=1) / np.mean(np.array(SIZES) > 1)
    return {"latency_s": 2.0 - share_N, "macs": 1e6 * (1.0 + share_N), "other.latency_s": 2.0 - share_N}


def macs(rows_NK: np.ndarray) -> dict[str, np.ndarray]:
    return {"macs": np.array([float(SPACE.graph(arch).macs) for arch in SPACE.decode(rows_NK)])}


def test_bounds_are_read_in_the_unit_of_their_name() -> None:
    bounds = constraints_from_mapping({"latency_ms": 5, "peak_memory_mb": 2.5, "macs_m": None, "energy_mj": 3})
    assert bounds == pytest.approx({"latency_s": 0.005, "peak_memory_bytes": 2.5e6, "energy_j": 0.003})


def test_the_unit_in_every_name_is_that_of_its_metric() -> None:
    for key, name in CONSTRAINTS.items():
        assert key.rpartition("_")[2] == METRICS[name].unit.lower()
        assert not METRICS[name].maximise


def test_an_unknown_constraint_is_named_and_the_allowed_ones_are_listed() -> None:
    with pytest.raises(ValueError, match=r"unknown constraint 'latency_s'; allowed are \['latency_ms'"):
        constraints_from_mapping({"latency_s": 5})


@pytest.mark.parametrize("bound", [0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_not_positive_and_finite_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=r"constraints\.macs_m: must be positive and finite"):
        constraints_from_mapping({"macs_m": bound})


@pytest.mark.parametrize("bound", ["5 ms", True, [5]])
def test_a_bound_that_is_no_number_is_refused(bound: object) -> None:
    with pytest.raises(ValueError, match=r"constraints\.macs_m: expected int or float"):
        constraints_from_mapping({"macs_m": bound})


def test_a_violation_is_relative_to_the_bound() -> None:
    # 6 is 20 % above 5, 1 is 50 % below 2.
    excess = violations({"latency_s": 6.0, "macs": 1.0}, {"latency_s": 5.0, "macs": 2.0})
    assert excess == pytest.approx({"latency_s": 0.2, "macs": -0.5})


def test_what_only_rounding_tells_from_a_bound_keeps_it() -> None:
    # The same costs added up in another order: 0.1 + 0.2 + 0.3 is 0.6000000000000001, 0.3 + 0.2 + 0.1 is 0.6.
    one, other = 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1
    assert one > other
    assert violations({"latency_s": one}, {"latency_s": other}) == {"latency_s": 0.0}
    assert largest_excess({"latency_s": np.array([one, 1.2])}, {"latency_s": other}).tolist() == [
        0.0,
        pytest.approx(1.0),
    ]


def test_the_largest_excess_is_that_of_the_bound_that_is_exceeded_most() -> None:
    costs = {"latency_s": np.array([6.0, 4.0, 4.0]), "macs": np.array([1.0, 3.0, 1.0])}
    # 6/5 - 1 and 1/2 - 1; 4/5 - 1 and 3/2 - 1; 4/5 - 1 and 1/2 - 1.
    assert largest_excess(costs, {"latency_s": 5.0, "macs": 2.0}) == pytest.approx([0.2, 0.5, -0.2])


def test_bounds_on_more_devices_stand_below_their_names() -> None:
    bounds = constraints_from_mapping(
        {"latency_ms": 5, "mobile_cpu": {"latency_ms": 30, "energy_mj": None}, "v100": {"peak_memory_mb": 200}}
    )
    assert bounds == pytest.approx({"latency_s": 0.005, "mobile_cpu.latency_s": 0.03, "v100.peak_memory_bytes": 200e6})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"mobile_cup": {"latency_ms": 3}}, r"constraints\.mobile_cup: no device has that name; there are \['a100'"),
        ({"v100": {"latency": 3}}, r"unknown constraint 'v100\.latency'; allowed are \['latency_ms'"),
        (
            {"v100": {"macs_m": 3}},
            r"constraints\.v100\.macs_m: MACs are the same on every device; write constraints\.macs_m",
        ),
        ({"v100": {"latency_ms": 0}}, r"constraints\.v100\.latency_ms: must be positive and finite, found 0"),
        ({"v100": {"latency_ms": "3 ms"}}, r"constraints\.v100\.latency_ms: expected int or float"),
        ({"v100": 3}, "unknown constraint 'v100'; allowed are .*, or a device's name with such names below it"),
    ],
)
def test_a_wrong_bound_on_another_device_is_refused(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        constraints_from_mapping(mapping)


def test_the_devices_that_objectives_and_bounds_mention_are_listed_once() -> None:
    objectives = ("error", "latency_s", "v100.latency_s", "v100.energy_j")
    assert other_devices(objectives, {"latency_s": 1.0, "mobile_cpu.latency_s": 1.0, "v100.latency_s": 1.0}) == (
        "v100",
        "mobile_cpu",
    )
    assert other_devices(("error",), {}) == ()


def unpowered(name: str) -> Device:
    return replace(load_device(name), energy_per_mac=None, energy_per_byte=None)


@pytest.mark.parametrize(("metric", "device"), [("energy_j", "v100"), ("mobile_cpu.energy_j", "mobile_cpu")])
def test_a_device_without_the_figure_is_named(metric: str, device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' has no figures for '{metric}'; known are"):
        SearchTask(
            space=SPACE,
            deployed_space=SPACE,
            predictor=LatencyPredictor(unpowered("v100")),
            objectives=("error", "latency_s"),
            constraints={metric: 1.0},
            other_predictors={"mobile_cpu": LatencyPredictor(unpowered("mobile_cpu"))},
        )


def test_without_constraints_the_smallest_arch_is_feasible() -> None:
    assert feasible_arch(SPACE, macs, {}, "board") == SPACE.smallest()


def test_an_arch_is_found_where_the_smallest_is_not_feasible() -> None:
    found = feasible_arch(SPACE, deepest_is_fastest, {"latency_s": 1.05}, "board")
    assert deepest_is_fastest(SPACE.encode([found]))["latency_s"] <= 1.05
    assert found == SPACE.canonical(found)


def test_a_bound_below_the_least_value_is_refused_with_that_value() -> None:
    least = SPACE.graph(SPACE.smallest()).macs / 1e6
    sentence = r"constraint macs_m=0\.01: the least that the space reaches on board is"
    with pytest.raises(ValueError, match=sentence) as caught:
        feasible_arch(SPACE.deployed(32), lambda rows: {"macs": 4e6 - least + rows.sum(axis=1)}, {"macs": 1e4}, "board")
    assert "is 4 M" in str(caught.value)


def test_every_bound_below_its_least_value_is_named_with_its_device() -> None:
    # The mean of all knobs is 1 at the largest arch, so the least latency is exactly 1 s = 1000 ms.
    bounds = {"latency_s": 0.5, "macs": 1.1e6, "other.latency_s": 0.25}
    with pytest.raises(ValueError, match="the least") as caught:
        feasible_arch(SPACE, deepest_is_fastest, bounds, "board")
    assert str(caught.value) == (
        "constraint latency_ms=500: the least that the space reaches on board is 1000 ms; "
        "constraint other.latency_ms=250: the least that the space reaches on other is 1000 ms"
    )


def test_bounds_that_cannot_be_met_together_are_refused_with_the_least_of_each_and_of_all() -> None:
    bounds = {"latency_s": 1.2, "macs": 1.5e6}  # they add up to 2.7, every arch's costs add up to 3
    message = (
        "constraints latency_ms=1200, macs_m=1.5: none of the networks tried of space mobilenet_v3_tiny on board meets "
        r"all together; closest: latency_ms=1\d{3}(\.\d)?, macs_m=1\.[56]\d*; the least of each alone: "
        r"latency_ms=1000, macs_m=1$"
    )
    with pytest.raises(ValueError, match=message):
        feasible_arch(SPACE, deepest_is_fastest, bounds, "board")


def test_in_a_small_space_the_least_is_that_of_all_archs() -> None:
    space = load_space("nasbench201")  # 5 ** 6 archs
    sizes = [len(values) for values in space.choices.values()]
    weights_N = np.random.default_rng(3).random(int(np.prod(sizes))) + 1.0  # rugged: no way down leads to the least

    def costs(rows_NK: np.ndarray) -> dict[str, np.ndarray]:
        return {"latency_s": weights_N[np.ravel_multi_index(tuple(rows_NK.T), sizes)]}

    least = float(weights_N.min())
    found = feasible_arch(space, costs, {"latency_s": least}, "board")
    assert space.encode([found]).shape == (1, 6)
    with pytest.raises(ValueError, match=re.escape(f"is {1e3 * least:.4g} ms")):
        feasible_arch(space, costs, {"latency_s": 0.999 * least}, "board")
