"""Exact optima and fronts against every network of small spaces, and what is said of the distance to them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.objectives import losses, metric_named
from nas.pareto import hypervolume, pareto_front
from nas.report import write_report
from nas.report.yardstick import yardstick_section
from nas.result import Candidate, SearchResult
from nas.surrogate import Surrogate, SurrogateAccuracy, load_surrogate, pairs, terms, terms_of
from nas.tabular import TableAccuracy
from nas.task import SearchTask
from nas.yardstick import (
    BestFront,
    Distance,
    FrontDistance,
    NoYardstickError,
    best_front,
    everything,
    exhaustive_front,
    least,
    most_accurate,
    yardstick_of,
)
from nas.yardstick.sums import cost_sums
from predictors import LatencyPredictor, load_device
from search_spaces import Space, load_space
from search_spaces.space import Arch

METRICS = ("latency_s", "traffic_bytes", "arithmetic_intensity", "peak_memory_bytes", "macs", "num_params")
ELSEWHERE = ("h200.latency_s", "h200.arithmetic_intensity", "h200.peak_memory_bytes", "edge_tpu.energy_j")
BOUNDED = ("latency_s", "traffic_bytes", "peak_memory_bytes", "num_params", "h200.latency_s", "h200.peak_memory_bytes")


@cache
def predictor(name: str) -> LatencyPredictor:
    return LatencyPredictor(load_device(name))


def small_space(num_stages: int = 2, resolutions: tuple[int, ...] = (16, 32)) -> Space:
    """Stages of one or two blocks of two kernels and two expansions: 2 * 4^2 archs a stage, 4 + 16 networks."""
    return load_space(
        "mobilenet_v3_tiny", resolutions=list(resolutions), kernels=[3, 5], expansions=[2, 3], depths=[1, 2],
        stage_widths=[16, 32, 64][:num_stages], stage_strides=[2, 2, 1][:num_stages],
        stage_se=[False, True, True][:num_stages],
        stage_activations=["relu", "hardswish", "hardswish"][:num_stages],
    )  # fmt: skip


def task_of(space: Space, device: str = "mobile_gpu", *others: str, **settings: object) -> SearchTask:
    return SearchTask(
        space=space,
        deployed_space=space,
        predictor=predictor(device),
        other_predictors={name: predictor(name) for name in others},
        **{"objectives": ("error", "latency_s"), **settings},
    )


@cache
def small_task() -> SearchTask:
    """Beside a device on one that queues kernels, in batches so large that it is slower than its host for some
    networks, and on one with figures of energy.
    """
    task = task_of(small_space(), "mobile_gpu", "h200", "edge_tpu")
    return replace(task, deployed_space=task.space.deployed(128, 256))


def all_indices(space: Space) -> np.ndarray:
    return np.array(list(product(*(range(len(values)) for values in space.choices.values()))))


@cache
def small_costs() -> Mapping[str, np.ndarray]:
    return small_task().costs_many(all_indices(small_task().space))


def made_up_surrogate(space: Space, seed: int) -> Surrogate:
    """Random coefficients of either sign for everything that a surrogate may tell apart."""
    rng = np.random.default_rng(seed)
    known = terms(space)
    return Surrogate(
        name="made_up", what="nothing", knows={}, ceiling=0.9, intercept=-0.5,
        single={term.text: rng.normal(-0.1, 0.1) for term in known},
        pairs={(known[i].text, known[j].text): rng.normal(0.0, 0.05) for i, j in pairs(known)},
        spread=np.zeros((len(known) + 1, len(known) + 1)), noise=0.0, rmse=0.001,
    )  # fmt: skip


def errors_of(surrogate: Surrogate, space: Space, indices: np.ndarray) -> np.ndarray:
    return 1.0 - surrogate.estimates(terms_of(space, indices))[0]


def within(costs: Mapping[str, np.ndarray], bounds: Mapping[str, float]) -> np.ndarray:
    return np.all([costs[name] <= bound for name, bound in bounds.items()], axis=0) | (not bounds)


def random_bounds(rng: np.random.Generator, costs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Between the costs of networks, on up to three metrics."""
    names = rng.choice(BOUNDED, size=rng.integers(1, 4), replace=False)
    return {name: float(np.quantile(costs[name], rng.uniform(0.2, 0.9))) * (1.0 + 1e-7) for name in names}


# ---------------------------------------------------------------------------------------------------------- least cost


@pytest.mark.parametrize("metric", [*METRICS, *ELSEWHERE])
def test_the_least_of_every_metric_is_that_of_all_networks_under_any_bounds(metric: str) -> None:
    task, costs = small_task(), small_costs()
    rng = np.random.default_rng(len(metric))
    best = np.max if metric_named(metric).maximise else np.min
    for bounds in ({}, *(random_bounds(rng, costs) for _ in range(6))):
        allowed = within(costs, bounds)
        if not allowed.any():
            with pytest.raises(ValueError, match="that is proven"):
                least(task, metric, bounds)
            continue
        found = least(task, metric, bounds)
        assert found.value == pytest.approx(best(costs[metric][allowed]), rel=1e-9)
        assert found.proven
        assert found.limit == found.value
        predicted = task.costs(found.arch)
        assert predicted[metric] == found.value
        assert all(predicted[name] <= bound for name, bound in bounds.items())
        assert found.arch == task.space.canonical(found.arch)


@settings(max_examples=15, deadline=None)
@given(
    quantile=st.floats(0.0, 1.0), tighter=st.floats(0.0, 1.0), metric=st.sampled_from(["arithmetic_intensity", "macs"])
)
def test_a_tighter_bound_never_gives_a_better_network(quantile: float, tighter: float, metric: str) -> None:
    task, latencies = small_task(), small_costs()["latency_s"]
    loose_s, tight_s = (float(np.quantile(latencies, each)) * (1 + 1e-7) for each in (quantile, quantile * tighter))
    loose, tight = least(task, metric, {"latency_s": loose_s}).value, least(task, metric, {"latency_s": tight_s}).value
    assert tight <= loose if metric == "arithmetic_intensity" else tight >= loose


def test_a_network_meets_a_bound_of_exactly_what_it_costs() -> None:
    task = small_task()
    arch = task.space.canonical(task.space.sample(np.random.default_rng(3)))
    costs = task.costs(arch)
    found = least(task, "arithmetic_intensity", {name: costs[name] for name in BOUNDED})
    assert found.value >= costs["arithmetic_intensity"]


def test_a_bound_just_below_the_least_is_met_by_nobody() -> None:
    """By less than the solver's own tolerance, which is not ours; what rounding alone tells from the bound meets it."""
    task = small_task()
    fewest = least(task, "traffic_bytes").value
    with pytest.raises(ValueError, match=r"traffic_bytes <= .* that is proven"):
        least(task, "macs", {"traffic_bytes": fewest * (1.0 - 1.2e-9)})
    assert least(task, "macs", {"traffic_bytes": fewest * (1.0 - 1e-11)}).proven


@pytest.mark.parametrize("device", ["mobile_gpu", "h200"])
def test_of_six_networks_the_best_is_found(device: str) -> None:
    space = load_space(
        "mobilenet_v3_tiny", resolutions=[32], kernels=[3, 5, 7], expansions=[2, 3], depths=[1], stage_widths=[16],
        stage_strides=[2], stage_se=[False], stage_activations=["relu"],
    )  # fmt: skip
    task = task_of(space, device)
    costs = task.costs_many(all_indices(space))
    assert len(costs["macs"]) == 6
    for metric in costs:
        best = costs[metric].max() if metric_named(metric).maximise else costs[metric].min()
        assert least(task, metric).value == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("name", ["repvgg_tiny", "resnet50d_tiny", "vit_digits", "proxyless_tiny"])
def test_in_every_family_no_random_network_is_better(name: str) -> None:
    space = load_space(name)
    task = task_of(space)
    rng = np.random.default_rng(0)
    sizes = [len(values) for values in space.choices.values()]
    costs = task.costs_many(rng.integers(0, sizes, size=(5_000, len(sizes))))
    bounds = {name: float(np.quantile(costs[name], 0.3)) for name in ("latency_s", "peak_memory_bytes")}
    allowed = within(costs, bounds)
    assert least(task, "arithmetic_intensity", bounds).value >= costs["arithmetic_intensity"][allowed].max()
    assert least(task, "traffic_bytes", bounds).value <= costs["traffic_bytes"][allowed].min()


def test_on_a_device_that_queues_the_larger_of_device_and_host_decides() -> None:
    task = small_task()
    sums, choices, indices = cost_sums(task), task.space.choices, all_indices(task.space)
    rows = []
    for knobs in sums.tables:
        columns = [indices[:, list(choices).index(knob)] for knob in knobs]
        rows.append(np.ravel_multi_index(columns, [len(choices[knob]) for knob in knobs]))
    device_N, host_N = (
        part.constant + np.sum([amounts[row] for amounts, row in zip(part.amounts, rows)], axis=0)
        for part in sums.parts("h200.latency_s")
    )
    np.testing.assert_allclose(np.maximum(device_N, host_N), small_costs()["h200.latency_s"], rtol=1e-12)
    assert (device_N > host_N).any()
    assert (device_N < host_N).any()


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match=r"'latency' is no cost .*'latency_s'"):
        least(small_task(), "latency")
    with pytest.raises(ValueError, match="'error' is no cost"):
        least(small_task(), "latency_s", {"error": 0.1})


def test_where_costs_do_not_add_up_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyPredictor, "position_tables", lambda self, space: None)
    with pytest.raises(NoYardstickError, match=r"'mobilenet_v3_tiny' do not add up over positions under runtime"):
        least(small_task(), "macs")


# ----------------------------------------------------------------------------------------------------- true fronts


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), cost=st.sampled_from(["latency_s", "traffic_bytes", "macs"]))
def test_the_whole_front_of_a_surrogate_is_that_of_all_networks(seed: int, cost: str) -> None:
    space = small_space(3, (32,))
    task, surrogate = task_of(space), made_up_surrogate(space, seed)
    indices = all_indices(space)
    every = np.column_stack([errors_of(surrogate, space, indices), task.costs_many(indices)[cost]])
    front = best_front(task, surrogate, cost)
    assert front.whole
    check_is_front(front, every)
    for arch, (error, of_cost) in zip(front.archs, front.losses_ND):
        assert 1.0 - SurrogateAccuracy(surrogate=surrogate, space=space)(arch) == pytest.approx(error, abs=1e-12)
        assert task.costs(arch)[cost] == pytest.approx(of_cost, rel=1e-12)


@pytest.mark.parametrize("device", ["mobile_gpu", "h200"])
def test_under_more_bounds_the_front_is_bracketed(device: str) -> None:
    space = small_space(3, (32,))
    surrogate, indices = made_up_surrogate(space, 7), all_indices(space)
    costs = task_of(space, device).costs_many(indices)
    bounds = {"peak_memory_bytes": float(np.quantile(costs["peak_memory_bytes"], 0.6)) * (1 + 1e-7)}
    task = task_of(space, device, constraints=bounds)
    allowed = within(costs, bounds)
    every = np.column_stack([errors_of(surrogate, space, indices), costs["latency_s"]])[allowed]
    front = best_front(task, surrogate)
    assert not front.whole
    on_front = every[pareto_front(every)]
    for point in front.losses_ND:
        assert np.isclose(on_front, point, rtol=1e-9, atol=0.0).all(axis=1).any()
    reference = every.max(axis=0) * 1.1
    volumes = [hypervolume(points, reference) for points in (front.losses_ND, every, front.outer_ND)]
    assert volumes == sorted(volumes)
    assert volumes[0] > 0.9 * volumes[2]


def test_a_bound_on_the_cost_itself_cuts_the_whole_front() -> None:
    space = small_space(3, (32,))
    surrogate = made_up_surrogate(space, 1)
    whole = best_front(task_of(space), surrogate)
    bound = float(np.median(whole.losses_ND[:, 1]))
    cut = best_front(task_of(space, constraints={"latency_s": bound}), surrogate)
    assert cut.whole
    np.testing.assert_array_equal(cut.losses_ND, whole.losses_ND[whole.losses_ND[:, 1] <= bound])
    best = most_accurate(task_of(space), surrogate, {"latency_s": bound})
    assert best.value == pytest.approx(cut.losses_ND[-1, 0], abs=1e-9)
    assert best.proven
    with pytest.raises(ValueError, match="no network of space"):
        best_front(task_of(space, constraints={"latency_s": 1e-9}), surrogate)


def test_no_random_network_beats_the_front_of_once_for_all() -> None:
    space = load_space("mobilenet_v3", resolutions=[224])
    task, surrogate = task_of(space), load_surrogate("ofa_mobilenet_v3_w1.0_r224")
    front = best_front(task, surrogate)
    assert len(front.archs) > 1000
    rng = np.random.default_rng(0)
    sizes = [len(values) for values in space.choices.values()]
    for _ in range(3):
        indices = rng.integers(0, sizes, size=(20_000, len(sizes)))
        latency_N, error_N = task.costs_many(indices)["latency_s"], errors_of(surrogate, space, indices)
        at = np.searchsorted(front.losses_ND[:, 1], latency_N * (1 + 1e-12), side="right") - 1
        assert (error_N >= front.losses_ND[at, 0] - 1e-12).all()
    middle = len(front.archs) // 2
    assert least(task, "latency_s").value == pytest.approx(front.losses_ND[0, 1], rel=1e-9)
    best = most_accurate(task, surrogate, {"latency_s": float(front.losses_ND[middle, 1]) * (1 + 1e-9)})
    assert best.value == pytest.approx(front.losses_ND[middle, 0], abs=1e-9)


def test_a_surrogate_of_other_networks_is_refused() -> None:
    with pytest.raises(ValueError, match="knows ImageNet top-1"):
        best_front(small_task(), load_surrogate("ofa_mobilenet_v3_w1.0_r224"))


def test_a_surrogate_with_terms_across_stages_is_refused() -> None:
    space = small_space(3, (32,))
    surrogate = made_up_surrogate(space, 0)
    across = {("stage1_block1_kernel>=5", "stage2_block1_kernel>=5"): 0.01}
    with pytest.raises(NoYardstickError, match="terms of several stages"):
        best_front(task_of(space), replace(surrogate, pairs={**surrogate.pairs, **across}))


def test_costs_of_several_stages_together_are_refused() -> None:
    space = small_space(2)
    with pytest.raises(NoYardstickError, match=r"knobs of several stages together: \('resolution'"):
        best_front(task_of(space), made_up_surrogate(space, 0))


def table_of(space: Space, seed: int = 0) -> TableAccuracy:
    rng = np.random.default_rng(seed)
    networks = {tuple(space.canonical(arch).values()) for arch in space.decode(all_indices(space))}
    return TableAccuracy(
        path=Path("made_up.csv"), space=space, accuracies={each: float(rng.uniform()) for each in sorted(networks)}
    )


def test_a_table_gives_the_front_of_all_its_networks() -> None:
    space = small_space()
    table = table_of(space)
    bounds = {"latency_s": float(np.quantile(small_costs()["latency_s"], 0.8)) * (1 + 1e-7)}
    task = replace(small_task(), objectives=("error", "h200.latency_s", "arithmetic_intensity"), constraints=bounds)
    archs = space.decode(all_indices(space))
    rows = [{"error": 1.0 - table(arch)} for arch in archs]
    for name in ("latency_s", "h200.latency_s", "arithmetic_intensity"):
        for row, cost in zip(rows, small_costs()[name]):
            row[name] = float(cost)
    every = losses([row for row in rows if row["latency_s"] <= bounds["latency_s"]], task.objectives)
    front = exhaustive_front(task, table)
    check_is_front(front, every)
    assert everything(task, table).least("error").value == every[:, 0].min()


def test_a_space_too_large_to_go_through_says_so() -> None:
    space = load_space("mobilenet_v3_tiny")
    with pytest.raises(NoYardstickError, match=r"combinations of knobs, too many .* 200000"):
        everything(task_of(space), lambda arch: 0.5)


def check_is_front(front: BestFront, every: np.ndarray) -> None:
    expected = np.unique(every[pareto_front(every)].round(12), axis=0)
    found = np.unique(front.losses_ND.round(12), axis=0)
    np.testing.assert_allclose(distinct(found), distinct(expected), rtol=1e-9)
    assert len(front.archs) == len(front.losses_ND)
    assert (np.diff(front.losses_ND[:, -1]) >= 0.0).all()


def distinct(points: np.ndarray) -> np.ndarray:
    """One of those that differ by rounding alone."""
    scaled = points / np.abs(points).max(axis=0)
    is_new = np.append(True, (np.abs(np.diff(scaled, axis=0)) > 1e-9).any(axis=1))
    kept: np.ndarray = points[is_new]
    return kept


# ------------------------------------------------------------------------------------------------------- distance


def result_of(task: SearchTask, archs: list[Arch], errors: list[float]) -> SearchResult:
    candidates = tuple(
        Candidate(
            number=number, arch=arch, metrics={"error": error, **task.costs(arch)}, latency_std_s=1e-5, feasible=True
        )
        for number, (arch, error) in enumerate(zip(archs, errors))
    )
    rows = losses([each.metrics for each in candidates], task.objectives)
    return SearchResult(
        space=task.space, deployed_space=task.deployed_space, predictor=task.predictor, objectives=task.objectives,
        constraints=task.constraints, candidates=candidates, front=tuple(map(int, pareto_front(rows))),
        reference_point=task.reference_point, hypervolumes=(0.0,) * len(candidates), accuracy_s=1.0, total_s=2.0,
    )  # fmt: skip


def by_hand() -> FrontDistance:
    """Best: 30 % at 1 s, 20 % at 2 s, 10 % at 5 s. Found: 25 % at 1.5 s, 20 % at 2 s, 16 % at 4 s."""
    best = np.array([[0.30, 1.0], [0.20, 2.0], [0.10, 5.0]])
    trade_off = BestFront(
        objectives=("error", "latency_s"), losses_ND=best, archs=({}, {}, {}), whole=True, outer_ND=best
    )
    return FrontDistance(
        objectives=("error", "latency_s"), hypervolume=4.0, best_hypervolume=5.0, limit_hypervolume=5.0,
        trade_off=trade_off, found_N=np.array([np.inf, 0.20, 0.16]),
    )  # fmt: skip


def test_gaps_are_those_at_the_same_cost() -> None:
    front = by_hand()
    np.testing.assert_allclose(front.gaps, [np.inf, 0.0, 0.06])
    assert front.largest_gap == (pytest.approx(0.06), 5.0)
    assert front.mean_gap == 0.0  # from 2 s, where the search first compares, to 5 s both err 20 %, as far as is known
    assert front.num_found == 1
    assert front.share == 0.8


def test_a_search_that_finds_everything_is_at_no_distance() -> None:
    space = small_space()
    table = table_of(space)
    task = task_of(space, objectives=("error", "latency_s", "arithmetic_intensity"))
    archs = list(
        {tuple(arch.values()): arch for arch in map(space.canonical, space.decode(all_indices(space)))}.values()
    )
    distance = yardstick_of(task, result_of(task, archs, [1.0 - table(arch) for arch in archs]), table)
    assert distance.reasons == ()
    assert [each.metric for each in distance.least] == ["error", "latency_s", "arithmetic_intensity"]
    assert all(each.gap == pytest.approx(0.0, abs=1e-12) for each in distance.least)
    assert distance.front is not None
    assert distance.front.objectives == task.objectives
    assert distance.front.share == pytest.approx(1.0)
    assert distance.front.num_found == len(distance.front.trade_off.archs)
    assert "found the best there is" in yardstick_section(result_of(task, archs[:2], [0.5, 0.4]), distance)


def surrogate_search(num_archs: int, **settings: object) -> tuple[SearchTask, SearchResult, SurrogateAccuracy]:
    space = small_space(3, (32,))
    accuracy = SurrogateAccuracy(surrogate=made_up_surrogate(space, 3), space=space)
    task = task_of(space, **settings)
    rng = np.random.default_rng(0)
    archs = [space.smallest(), *(space.sample(rng) for _ in range(num_archs - 1))]
    return task, result_of(task, archs, [1.0 - accuracy(arch) for arch in archs]), accuracy


def test_the_distance_of_a_search_by_a_surrogate_is_that_to_all_networks() -> None:
    task, result, accuracy = surrogate_search(30)
    indices = all_indices(task.space)
    every = np.column_stack([errors_of(accuracy.surrogate, task.space, indices), task.costs_many(indices)["latency_s"]])
    front = yardstick_of(task, result, accuracy).front
    assert front is not None
    reference = np.array(task.reference_point)
    searched = losses([each.metrics for each in result.candidates], task.objectives)
    assert front.share == pytest.approx(hypervolume(searched, reference) / hypervolume(every, reference))
    assert 0.0 < front.share < 1.0
    for (_, cost), gap in zip(front.trade_off.losses_ND, front.gaps):
        best, found = (points[points[:, 1] <= cost * (1 + 1e-12), 0].min() for points in (every, searched))
        assert gap == pytest.approx(found - best, abs=1e-12)


def test_without_accuracies_of_all_networks_the_costs_alone_are_compared() -> None:
    task, result, _ = surrogate_search(5, objectives=("error", "latency_s", "arithmetic_intensity"))
    distance = yardstick_of(task, result, lambda arch: 0.5)
    assert [each.metric for each in distance.least] == ["latency_s", "arithmetic_intensity"]
    assert distance.front is None
    assert distance.least[0].gap == pytest.approx(0.0, abs=1e-12)  # the smallest network was evaluated
    assert distance.least[1].gap is not None
    assert distance.least[1].gap > 0.0
    html = yardstick_section(result, distance)
    assert "how accurate networks are that were not evaluated is not known" in html
    assert "proven" in html


def test_where_nothing_can_be_computed_the_reason_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    task, result, accuracy = surrogate_search(5)
    monkeypatch.setattr(LatencyPredictor, "position_tables", lambda self, space: None)
    distance = yardstick_of(task, result, accuracy)
    assert (distance.least, distance.front) == ((), None)
    assert "cannot be computed: the costs of space" in yardstick_section(result, distance)


def test_a_search_that_found_nothing_feasible_is_compared_with_what_there_is() -> None:
    task, result, accuracy = surrogate_search(5)
    result = replace(result, candidates=tuple(replace(each, feasible=False) for each in result.candidates), front=())
    distance = yardstick_of(task, result, accuracy)
    assert distance.front is not None
    assert distance.front.share == 0.0
    assert distance.front.largest_gap is None
    assert "no network meets the constraints" in yardstick_section(result, distance)


def test_the_page_says_how_far_the_search_is_from_the_best(tmp_path: Path) -> None:
    task, result, accuracy = surrogate_search(12)
    distance = yardstick_of(task, result, accuracy)
    write_report(result, tmp_path, command="python", config_text="seed: 0", yardstick=distance)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("Progress of the search</h2>") < page.index("How far from the best there is</h2>")
    assert distance.front is not None
    assert distance.front.mean_gap is not None
    assert f"<b>{100 * distance.front.mean_gap:.2f} points</b> more than the best there is on average" in page
    assert f"The true front has {len(distance.front.trade_off.archs)} networks" in page
    assert (tmp_path / "best_front.png").read_bytes().startswith(b"\x89PNG")


def test_a_front_that_is_not_whole_says_so_on_the_page() -> None:
    task, result, accuracy = surrogate_search(5)
    distance = yardstick_of(task, result, accuracy)
    assert distance.front is not None
    trade_off = replace(distance.front.trade_off, whole=False)
    front = replace(distance.front, trade_off=trade_off, limit_hypervolume=2 * distance.front.best_hypervolume)
    html = yardstick_section(result, Distance(least=(), front=front, reasons=(), seconds=1.0))
    assert "at least <b>" in html
    assert "networks are known, by integer programs" in html
    assert "no network lies below" in html
