"""The bandwidth of devices swept: what follows it and what does not, and from where on latency is worth choosing by."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_results import make_predictor
from small_search import BOARD
from test_yardstick import all_indices, made_up_surrogate, small_space, table_of

import nas.compare.sweep
from nas.compare.judging import single_versus
from nas.compare.records import BestKnown, Chosen, Sweep, SweepPoint
from nas.compare.sweep import FACTORS, course_text, pays_from, sweep, with_bandwidth
from nas.pareto import pareto_front
from nas.surrogate import SurrogateAccuracy
from nas.task import SearchTask
from predictors import Graph, GraphBuilder, LatencyPredictor, device_from_mapping, load_device
from predictors.device import ClassEfficiency, Device, RuntimeNumbers
from predictors.fitted_rates import ClassRates, FittedRates, WorkRates
from search_spaces.space import Arch

DEVICES = ("mobile_gpu", "mobile_cpu", "v100", "h200", "edge_tpu", "a100", "jetson_nano", "cpu_x86")
WHOLE = ClassEfficiency(compute=1.0, read=1.0, write=1.0, spread=0.1, source="made up for tests")


@cache
def shipped(name: str) -> Device:
    return load_device(name)


def one_kernel() -> Graph:
    """64 * 64 * 256 MACs; 65,536 bytes read, as many written, and 16,384 of weights."""
    builder = GraphBuilder()
    return builder.graph(builder.conv2d(builder.input((1, 64, 16, 16)), 64, kernel=1))


def compute_bound() -> Graph:
    builder = GraphBuilder()
    return builder.graph(builder.conv2d(builder.input((64, 4096, 64, 64)), 4096, kernel=3))


def memory_bound() -> Graph:
    builder = GraphBuilder()
    return builder.graph(builder.activation(builder.input((512, 256, 112, 112)), "relu"))


def seconds(device: Device, graph: Graph) -> float:
    return float(LatencyPredictor(device, tables=[]).predict(graph).latency_s)


# ----------------------------------------------------------------------------------------------------- the bandwidth


@pytest.mark.parametrize("name", DEVICES)
def test_what_memory_bounds_follows_the_bandwidth_and_what_arithmetic_bounds_hardly_does(name: str) -> None:
    device = shipped(name)
    slow, fast = with_bandwidth(device, 0.25), with_bandwidth(device, 4.0)
    memory_s, compute_s = seconds(device, memory_bound()), seconds(device, compute_bound())
    assert seconds(slow, memory_bound()) == pytest.approx(4.0 * memory_s, rel=0.01)
    assert seconds(fast, memory_bound()) == pytest.approx(0.25 * memory_s, rel=0.02)
    assert 0.8 * compute_s < seconds(fast, compute_bound()) <= compute_s
    for each, factor in ((slow, 0.25), (fast, 4.0)):
        assert each.ridge_point() == pytest.approx(device.ridge_point() / factor)
        assert [level.bandwidth.value for level in each.memory] == pytest.approx(
            [factor * level.bandwidth.value for level in device.memory]
        )
        assert [level.capacity for level in each.memory] == [level.capacity for level in device.memory]
        assert each.memory[-1].bandwidth.source.endswith(f"; bandwidth times {factor:g}")


@pytest.mark.parametrize("name", DEVICES)
def test_with_its_own_bandwidth_a_device_is_as_fast_as_before_and_its_tables_are_gone(name: str) -> None:
    device = shipped(name)
    same = with_bandwidth(device, 1.0)
    for graph in (one_kernel(), compute_bound(), memory_bound()):
        assert seconds(same, graph) == seconds(device, graph)
    assert same.tables == ()
    assert all(numbers.tables == () for numbers in same.runtimes.values())
    assert (same.launch, same.efficiency, same.host_launch) == (device.launch, device.efficiency, device.host_launch)


def fitted_rates() -> FittedRates:
    """1 ms, 1 ns a FLOP, 2 ns a byte of activations; or what is longer of 3 ms and 4 ns a byte of weights."""
    rates = ClassRates(
        added=WorkRates(launch_s=1e-3, per_unit_s={"flop": (1e-9,), "byte": (2e-9,)}),
        longer=WorkRates(launch_s=3e-3, per_unit_s={"weight_byte": (400e-9,)}),
        own_X=(0.1,),
    )
    return FittedRates(extents=(1.0,), classes={"any": rates}, source="fitted for tests")


def test_rates_that_were_fitted_for_bytes_follow_the_bandwidth_and_launches_and_arithmetic_do_not() -> None:
    """2,097,152 FLOP, 131,072 bytes of activations and 16,384 of weights: 1 ms + 2.1 ms + 0.26 ms + max(3, 6.55 ms)."""
    device = replace(device_from_mapping(BOARD), fitted={"float32": fitted_rates()})
    assert seconds(device, one_kernel()) == pytest.approx(1e-3 + 2.097152e-3 + 0.262144e-3 + 6.5536e-3)
    slow, fast = with_bandwidth(device, 0.5), with_bandwidth(device, 8.0)
    assert seconds(slow, one_kernel()) == pytest.approx(1e-3 + 2.097152e-3 + 2 * 0.262144e-3 + 2 * 6.5536e-3)
    assert seconds(fast, one_kernel()) == pytest.approx(1e-3 + 2.097152e-3 + 0.262144e-3 / 8 + 3e-3)
    assert fast.fitted["float32"].source == "fitted for tests; bandwidth times 8"


def test_numbers_of_other_runtimes_follow_too() -> None:
    numbers = RuntimeNumbers(fitted={"float32": fitted_rates()})
    device = replace(device_from_mapping(BOARD), runtimes={"onnxruntime": numbers})
    fast = with_bandwidth(device, 8.0).in_runtime("onnxruntime")
    assert seconds(fast, one_kernel()) == pytest.approx(1e-3 + 2.097152e-3 + 0.262144e-3 / 8 + 3e-3)


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(DEVICES), factors=st.tuples(st.floats(0.05, 20.0), st.floats(0.05, 20.0)))
def test_more_bandwidth_never_takes_longer(name: str, factors: tuple[float, float]) -> None:
    slow, fast = (with_bandwidth(shipped(name), factor) for factor in sorted(factors))
    for graph in (one_kernel(), compute_bound(), memory_bound()):
        assert seconds(fast, graph) <= seconds(slow, graph) * (1 + 1e-12)


def test_no_bandwidth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bandwidth of 'mobile_gpu' times 0\.0: a factor is positive"):
        with_bandwidth(load_device("mobile_gpu"), 0.0)


# --------------------------------------------------------------------------------------------------------- the sweep


@cache
def predictor(name: str) -> LatencyPredictor:
    return LatencyPredictor(shipped(name), tables=[])


def surrogate_task(
    device: str, batch: int = 1, num_stages: int = 2, **settings: object
) -> tuple[SearchTask, SurrogateAccuracy]:
    """20 networks of each stage times those of the others."""
    space = small_space(num_stages, (32,))
    task = SearchTask(
        space=space,
        deployed_space=space.deployed(128 if batch > 1 else None, batch),
        predictor=predictor(device),
        **{"objectives": ("error", "macs"), **settings},  # type: ignore[arg-type]
    )
    return task, SurrogateAccuracy(surrogate=made_up_surrogate(space, 7), space=space)


def every_network(task: SearchTask, accuracy: object) -> tuple[list[Arch], np.ndarray]:
    """All networks once, and their errors."""
    archs = [task.space.canonical(arch) for arch in task.space.decode(all_indices(task.space))]
    archs = list({tuple(arch.values()): arch for arch in archs}.values())
    if isinstance(accuracy, SurrogateAccuracy):
        return archs, 1.0 - accuracy.surrogate.of_many(task.space, archs)[0]
    return archs, np.array([1.0 - accuracy(arch) for arch in archs])  # type: ignore[operator]


def by_brute_force(task: SearchTask, archs: list[Arch], errors_N: np.ndarray, baseline: str) -> dict[float, float]:
    """The latency ratio by factor, from all networks."""
    indices_NK = task.space.encode(archs)
    cost_N = task.costs_many(indices_NK)[baseline]
    of_baseline = pareto_front(np.column_stack([errors_N, cost_N]))
    found = {}
    for factor in FACTORS:
        device = with_bandwidth(task.predictor.device, factor)
        seconds_N = LatencyPredictor(device, tables=[]).predict_many(task.deployed_space, indices_NK).latency_s
        losses_N2 = np.column_stack([errors_N, seconds_N])
        front_F2 = losses_N2[pareto_front(losses_N2)]
        best = BestKnown(archs=(), losses_B2=front_F2, text="")
        found[factor] = exp(single_versus(front_F2, losses_N2[of_baseline], best))
    return found


def ratios(found: Sweep) -> dict[float, float]:
    return {point.factor: point.latency_ratio for point in found.points}


@pytest.mark.parametrize(
    ("device", "batch", "num_stages"), [("mobile_gpu", 1, 3), ("h200", 256, 2), ("edge_tpu", 1, 2), ("v100", 32, 2)]
)
def test_exact_fronts_say_what_all_networks_say(device: str, batch: int, num_stages: int) -> None:
    task, accuracy = surrogate_task(device, batch, num_stages)
    found = sweep(task, accuracy, [])
    assert ratios(found) == pytest.approx(by_brute_force(task, *every_network(task, accuracy), "macs"), rel=1e-9)
    assert found.text.startswith("Networks are chosen from the whole space, by exact fronts.")
    assert found.own.factor == 1.0
    assert found.own.ridge_point == pytest.approx(task.predictor.device.ridge_point())
    assert [point.factor for point in found.points] == sorted(FACTORS, reverse=True)
    assert all(point.latency_ratio <= 1.0 + 1e-12 for point in found.points)  # choosing by latency cannot lose


def test_against_another_baseline_too() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    expected = by_brute_force(task, *every_network(task, accuracy), "num_params")
    assert ratios(sweep(task, accuracy, [], baseline="num_params")) == pytest.approx(expected, rel=1e-9)


def test_a_supernets_networks_are_chosen_from_those_that_were_evaluated() -> None:
    task, surrogate = surrogate_task("mobile_gpu")
    archs, errors_N = every_network(task, surrogate)
    some, some_errors_N = archs[::3], errors_N[::3]
    halves = [seen(some[::2], some_errors_N[::2]), seen(some[1::2], some_errors_N[1::2]), seen(some, some_errors_N)]
    found = sweep(task, lambda arch: surrogate(arch), halves)
    assert ratios(found) == pytest.approx(by_brute_force(task, some, some_errors_N, "macs"), rel=1e-9)
    assert f"chosen from the {len(some)} networks that the searches evaluated." in found.text.replace(",", "")


def test_of_many_networks_those_are_chosen_from_that_may_be_best_at_some_bandwidth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arithmetic and transfers add up on this device, so nothing is lost."""
    monkeypatch.setattr(nas.compare.sweep, "_NUM_PREDICTED", 10)
    task, surrogate = surrogate_task("mobile_gpu")
    board = replace(task.predictor.device, efficiency={"float16": {"any": replace(WHOLE, compute=0.3, fixed_s=1e-5)}})
    task = replace(task, predictor=LatencyPredictor(board, tables=[]))
    archs, errors_N = every_network(task, surrogate)
    found = sweep(task, lambda arch: surrogate(arch), [seen(archs, errors_N)])
    assert ratios(found) == pytest.approx(by_brute_force(task, archs, errors_N, "macs"), rel=1e-9)
    assert "that no other beats in error and in latency at the smallest, the own and the largest" in found.text


def test_of_a_table_every_network_is_chosen_from() -> None:
    space = small_space()
    table = table_of(space)
    task = SearchTask(
        space=space, deployed_space=space, predictor=predictor("mobile_gpu"), objectives=("error", "latency_s")
    )
    archs, errors_N = every_network(task, table)
    found = sweep(task, table, [])
    assert ratios(found) == pytest.approx(by_brute_force(task, archs, errors_N, "macs"), rel=1e-9)
    assert f"all {len(archs):,} networks of the space" in found.text


def test_where_arithmetic_alone_takes_time_macs_choose_as_well_as_latency() -> None:
    """The board's 5 FLOP/byte become 0.1 and are swept from 0.006 to 1.6: the fewest FLOP a byte of all kernels is less
    than 1, so that transfers begin to count at the end.
    """
    task, accuracy = surrogate_task("mobile_gpu", num_stages=3)
    base = device_from_mapping(BOARD)
    device = with_bandwidth(replace(base, efficiency={"float32": {"any": WHOLE}}), 50.0)
    found = sweep(replace(task, predictor=LatencyPredictor(device, tables=[])), accuracy, [])
    assert found.points[0].latency_ratio == pytest.approx(1.0, abs=1e-5)
    assert found.points[0].memory_share < 0.05
    assert found.points[-1].latency_ratio < found.points[0].latency_ratio
    assert found.text.endswith("The gain hardly depends on the ridge point.")
    for before, after in pairwise(found.points):
        assert after.ridge_point == pytest.approx(2.0 * before.ridge_point)
        assert after.memory_share >= before.memory_share - 1e-9


def test_a_bound_on_the_own_latency_is_left_out_and_others_hold() -> None:
    """16 times slower no network would meet it; a bound on MACs cuts the fronts, so that they are no exact ones."""
    task, accuracy = surrogate_task("mobile_gpu")
    archs, errors_N = every_network(task, accuracy)
    bound_s = 1.01 * task.costs(task.space.smallest())["latency_s"]
    assert ratios(sweep(replace(task, constraints={"latency_s": bound_s}), accuracy, [])) == ratios(
        sweep(task, accuracy, [])
    )
    macs_N = task.costs_many(task.space.encode(archs))["macs"]
    bounded = replace(task, constraints={"macs": float(np.median(macs_N)), "latency_s": bound_s})
    kept = np.flatnonzero(macs_N <= np.median(macs_N))
    evaluated = [seen([archs[index] for index in kept], errors_N[kept])]
    found = sweep(bounded, accuracy, evaluated)
    assert ratios(found) == pytest.approx(
        by_brute_force(task, [archs[index] for index in kept], errors_N[kept], "macs"), rel=1e-9
    )


def test_measured_tables_are_left_out_and_that_is_said() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    with_table = make_predictor()
    measured = sweep(replace(task, predictor=with_table), accuracy, [])
    plain = sweep(replace(task, predictor=LatencyPredictor(with_table.device, tables=[])), accuracy, [])
    assert ratios(measured) == ratios(plain)
    assert "Measured tables tell of the device as it is" in measured.text
    assert "Measured tables" not in plain.text


def test_what_cannot_be_a_baseline_is_refused_and_nothing_to_choose_from_too() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    for baseline in ("latency_s", "arithmetic_intensity", "flops"):
        with pytest.raises(ValueError, match=rf"one of \[.*'macs'.*\], found '{baseline}'"):
            sweep(task, accuracy, [], baseline=baseline)
    with pytest.raises(ValueError, match="none were evaluated"):
        sweep(task, lambda arch: 0.5, [])


def seen(archs: list[Arch], errors_N: np.ndarray) -> Chosen:
    return Chosen(
        strategy="flops_only", seed=0, archs=tuple(archs),
        losses_F2=np.column_stack([errors_N, np.ones(len(archs))]),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- where it pays


def points(ratio_of: Mapping[float, float]) -> tuple[SweepPoint, ...]:
    """Latency ratios by ridge point."""
    return tuple(
        SweepPoint(factor=1.0 / ridge, ridge_point=ridge, latency_ratio=ratio, memory_share=0.5)
        for ridge, ratio in ratio_of.items()
    )


def test_between_two_points_the_ridge_point_is_interpolated() -> None:
    """ln(ratio) falls from 0 to 2 ln(0.95) between 2 and 8 FLOP/byte: half way, in logarithms, are 4 and 5 %."""
    found = pays_from(points({1.0: 1.0, 2.0: 1.0, 8.0: 0.95**2, 16.0: 0.9}), 0.05)
    assert found == pytest.approx(4.0)


def test_it_pays_from_where_on_it_always_does() -> None:
    swinging = points({1.0: 0.90, 2.0: 0.99, 4.0: 0.93, 8.0: 0.99, 16.0: 0.90})
    found = pays_from(swinging, 0.05)
    assert found is not None
    assert log(found) == pytest.approx(log(8.0) + log(2.0) * log(0.95 / 0.99) / log(0.90 / 0.99))


def test_where_it_pays_everywhere_or_not_at_the_end_there_is_no_ridge_point() -> None:
    assert pays_from(points({1.0: 0.9, 2.0: 0.9}), 0.05) is None
    assert pays_from(points({1.0: 0.99, 2.0: 0.98}), 0.05) is None
    assert pays_from(points({1.0: 0.99, 2.0: 0.8, 4.0: 0.97}), 0.05) is None


def test_a_point_without_a_common_error_does_not_pay() -> None:
    assert pays_from(points({1.0: 0.9, 2.0: float("nan"), 4.0: 0.9}), 0.05) == pytest.approx(4.0)
    assert pays_from(points({1.0: 0.9, 2.0: float("nan")}), 0.05) is None


@settings(max_examples=50, deadline=None)
@given(ratio_of=st.lists(st.floats(0.7, 1.0), min_size=2, max_size=9), gain=st.floats(0.01, 0.2))
def test_beyond_the_ridge_point_from_which_it_pays_it_always_does(ratio_of: list[float], gain: float) -> None:
    swept = points({2.0**number: ratio for number, ratio in enumerate(ratio_of)})
    found = pays_from(swept, gain)
    pays = [1.0 - point.latency_ratio >= gain for point in swept]
    if found is None:
        assert all(pays) or not pays[-1]
    else:
        assert all(does for point, does in zip(swept, pays) if point.ridge_point > found * (1 + 1e-9))
        assert not all(pays)


@pytest.mark.parametrize(
    ("ratio_of", "text"),
    [
        ({1.0: 0.95, 2.0: 0.951, 4.0: 0.95}, "hardly depends on the ridge point."),
        ({1.0: 0.99, 2.0: 0.991, 4.0: 0.95}, "only grows with the ridge point."),
        (
            {1.0: 0.80, 2.0: 0.91, 4.0: 0.95},
            "only shrinks as the ridge point rises, so memory is not what it comes from.",
        ),
        ({1.0: 0.95, 2.0: 0.99, 4.0: 0.90}, "both grows and shrinks .* least at 2 and largest at 4 FLOP/byte."),
    ],
)
def test_which_way_the_gain_goes_is_said(ratio_of: Mapping[float, float], text: str) -> None:
    assert re.search(text, course_text(points(ratio_of)))
