from collections.abc import Mapping

import numpy as np
import pytest

from nas.constraints import CONSTRAINTS, constraints_from_mapping, feasible_arch, violations
from nas.objectives import METRICS
from search_spaces import Space, load_space

SPACE = load_space("mobilenet_v3_tiny")


def deepest_is_fastest(arch: Mapping[str, int]) -> dict[str, float]:
    """Costs whose least values are at opposite ends of the space: neither is met by the smallest arch."""
    knobs = [value / SPACE.choices[knob][-1] for knob, value in arch.items()]
    return {"latency_s": 2.0 - float(np.mean(knobs)), "macs": 1e6 * (1.0 + float(np.mean(knobs)))}


def macs(space: Space, arch: Mapping[str, int]) -> dict[str, float]:
    return {"macs": float(space.graph(arch).macs)}


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


def test_without_constraints_the_smallest_arch_is_feasible() -> None:
    assert feasible_arch(SPACE, lambda arch: macs(SPACE, arch), {}, "board") == SPACE.smallest()


def test_an_arch_is_found_where_the_smallest_is_not_feasible() -> None:
    found = feasible_arch(SPACE, deepest_is_fastest, {"latency_s": 1.05}, "board", num_samples=20)
    assert deepest_is_fastest(found)["latency_s"] <= 1.05


def test_a_bound_below_the_least_value_is_refused_with_that_value() -> None:
    least = macs(SPACE, SPACE.smallest())["macs"] / 1e6
    with pytest.raises(
        ValueError, match=r"constraint macs_m=0\.01: the least that the space reaches on board is"
    ) as caught:
        feasible_arch(SPACE, lambda arch: macs(SPACE, arch), {"macs": 1e4}, "board", num_samples=20)
    assert f"{least:.3g} M" in str(caught.value)


def test_the_least_value_is_found_where_it_is_not_at_the_smallest_arch() -> None:
    # The mean of all knobs is 1 at the largest arch, so the least latency is exactly 1 s = 1000 ms.
    with pytest.raises(ValueError, match=r"the least that the space reaches on board is 1e\+03 ms"):
        feasible_arch(SPACE, deepest_is_fastest, {"latency_s": 0.5}, "board", num_samples=20)


def test_bounds_that_cannot_be_met_together_are_refused() -> None:
    bounds = {"latency_s": 1.2, "macs": 1.5e6}  # they add up to 2.7, every arch's costs add up to 3
    with pytest.raises(ValueError, match="none of the archs tried on board meets all; closest: latency_ms="):
        feasible_arch(SPACE, deepest_is_fastest, bounds, "board", num_samples=20)
