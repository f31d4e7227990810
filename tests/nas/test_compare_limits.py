"""What an unlimited budget chooses and the best known front, against every network of small spaces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from test_yardstick import all_indices, made_up_surrogate, small_space, table_of, task_of

from nas.compare.judging import single_versus
from nas.compare.limits import best_known, exact_front, limit_of
from nas.compare.records import Chosen, Floats, Strategy
from nas.compare.yardsticks import Predicted
from nas.pareto import pareto_front
from nas.surrogate import SurrogateAccuracy, terms_of
from nas.task import SearchTask
from predictors import LatencyPredictor, load_device
from search_spaces.space import Arch, Space

FLOPS_ONLY = Strategy(name="flops_only", objectives=("error", "macs"))
LATENCY_ONLY = Strategy(name="latency_only", objectives=("latency_s", "error"))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A yardstick that knows some networks, by the sum of their knobs."""

    space: Space
    most: float = np.inf
    is_measured: bool = True
    text: str = "latency measured on a board"

    def latency_s(self, archs: Sequence[Arch]) -> Floats:
        sums_N = np.array([sum(arch.values()) for arch in archs], dtype=np.float64)
        return np.where(sums_N <= self.most, 1e-3 * sums_N, np.nan)


@cache
def predictor(device: str) -> LatencyPredictor:
    """Without tables, which take seconds to learn from."""
    return LatencyPredictor(load_device(device), tables=[])


def surrogate_task(device: str, batch: int = 1) -> tuple[SearchTask, SurrogateAccuracy]:
    """A space of three stages that is small enough to go through."""
    space = small_space(3, (32,))
    task = SearchTask(
        space=space,
        deployed_space=space.deployed(128 if batch > 1 else None, batch),
        predictor=predictor(device),
        objectives=("error", "latency_s"),
    )
    return task, SurrogateAccuracy(surrogate=made_up_surrogate(space, 7), space=space)


def every_loss(task: SearchTask, accuracy: SurrogateAccuracy, cost: str) -> np.ndarray:
    indices_NK = all_indices(task.space)
    errors_N = 1.0 - accuracy.surrogate.estimates(terms_of(task.space, indices_NK))[0]
    return np.column_stack([errors_N, task.costs_many(indices_NK)[cost]])


def losses_of(task: SearchTask, accuracy: SurrogateAccuracy, archs: Sequence[Arch], cost: str) -> np.ndarray:
    return np.array([[1.0 - accuracy(arch), task.costs(arch)[cost]] for arch in archs])


def same_points(found_N2: np.ndarray, every_N2: np.ndarray) -> None:
    """The front of all is what was found, as far as rounding does not tell points apart."""
    expected = distinct(every_N2[pareto_front(every_N2)])
    np.testing.assert_allclose(distinct(found_N2), expected, rtol=1e-9)


def distinct(points_N2: np.ndarray) -> np.ndarray:
    points_N2 = points_N2[np.lexsort((points_N2[:, 0], points_N2[:, 1]))]
    apart = (np.abs(np.diff(points_N2, axis=0)) > 1e-9 * points_N2.max(axis=0)).all(axis=1)
    kept: np.ndarray = points_N2[np.append(True, apart)]
    return kept


def seen(space: Space, archs: Sequence[Arch], losses_F2: np.ndarray) -> Chosen:
    return Chosen(strategy="flops_only", seed=0, archs=tuple(archs), losses_F2=losses_F2)


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("device", "batch", "cost"),
    [
        ("mobile_gpu", 1, "macs"),
        ("mobile_gpu", 1, "latency_s"),
        ("mobile_gpu", 1, "num_params"),
        ("edge_tpu", 1, "traffic_bytes"),
        ("h200", 1, "latency_s"),
        ("h200", 256, "latency_s"),
    ],
)
def test_what_an_unlimited_budget_chooses_is_the_front_of_all_networks(device: str, batch: int, cost: str) -> None:
    task, accuracy = surrogate_task(device, batch)
    archs = limit_of(task, accuracy, Strategy(name="ours", objectives=("error", cost)))
    assert archs is not None
    assert all(arch == task.space.canonical(arch) for arch in archs)
    same_points(losses_of(task, accuracy, archs, cost), every_loss(task, accuracy, cost))


def test_where_kernels_queue_some_networks_wait_for_the_device_and_some_for_the_host() -> None:
    """Else the case of h200 above would not show that the larger of the two counts."""
    task, _ = surrogate_task("h200", 256)
    device = task.predictor.device
    waits_for_host = [
        task.predict(arch).overhead_s > device.network_overhead.value * 1.001  # type: ignore[union-attr]
        for arch in task.space.decode(all_indices(task.space)[::200])
    ]
    assert any(waits_for_host)
    assert not all(waits_for_host)


def test_of_a_table_the_limit_is_the_front_of_all_its_networks() -> None:
    space = small_space()
    task, table = task_of(space), table_of(space)
    archs = limit_of(task, table, FLOPS_ONLY)
    assert archs is not None
    every = space.decode(all_indices(space))
    every_N2 = np.array([[1.0 - table(arch), task.costs(arch)["macs"]] for arch in every])
    same_points(np.array([[1.0 - table(arch), task.costs(arch)["macs"]] for arch in archs]), every_N2)


def test_the_order_of_the_objectives_does_not_matter() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    assert limit_of(task, accuracy, LATENCY_ONLY) == limit_of(
        task, accuracy, replace(LATENCY_ONLY, objectives=("error", "latency_s"))
    )


def test_under_constraints_the_limit_keeps_them() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    costs_N = task.costs_many(all_indices(task.space))["macs"]
    bound = float(np.median(costs_N))
    archs = limit_of(replace(task, constraints={"macs": bound}), accuracy, FLOPS_ONLY)
    assert archs is not None
    every_N2 = every_loss(task, accuracy, "macs")
    same_points(losses_of(task, accuracy, archs, "macs"), every_N2[costs_N <= bound])


def test_what_cannot_be_known_is_none() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    memory_aware = Strategy(name="memory_aware", objectives=("error", "latency_s", "traffic_bytes"))
    assert limit_of(task, accuracy, memory_aware) is None
    assert limit_of(task, accuracy, replace(LATENCY_ONLY, name="random", is_random=True)) is None
    assert limit_of(task, accuracy, Strategy(name="dense", objectives=("error", "arithmetic_intensity"))) is None
    assert limit_of(task, accuracy, Strategy(name="blind", objectives=("macs", "latency_s"))) is None
    assert limit_of(task, lambda arch: 0.5, FLOPS_ONLY) is None  # any function: a supernet, say


def test_a_front_of_which_points_are_missing_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bounds leave integer programs, which find the front at some costs only."""
    task, accuracy = surrogate_task("mobile_gpu")
    monkeypatch.setattr(import_module("nas.yardstick.best_front"), "NUM_BOUNDS", 3)
    bounded = replace(task, constraints={"traffic_bytes": 1.0})
    with pytest.raises(ValueError, match="no network"):
        limit_of(bounded, accuracy, FLOPS_ONLY)
    most = task.costs(task.space.largest())["traffic_bytes"]
    assert limit_of(replace(task, constraints={"traffic_bytes": most}), accuracy, FLOPS_ONLY) is None


# ---------------------------------------------------------------------------------------------------------- best known


def test_of_a_surrogate_the_best_known_front_is_the_exact_one() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    smallest = task.space.smallest()
    evaluated = [seen(task.space, [smallest], losses_of(task, accuracy, [smallest], "latency_s"))]
    best = best_known(task, accuracy, Predicted(task=task, title="mobile_gpu"), evaluated)
    assert best.text == "the exact front of the whole space"
    same_points(best.losses_B2, every_loss(task, accuracy, "latency_s"))
    np.testing.assert_allclose(losses_of(task, accuracy, best.archs, "latency_s"), best.losses_B2, rtol=1e-12)
    assert (np.diff(best.losses_B2[:, 1]) > 0.0).all()
    assert single_versus(best.losses_B2, best.losses_B2, best) == 0.0


def test_no_other_objective_has_a_limit_faster_than_the_best_known_front() -> None:
    task, accuracy = surrogate_task("edge_tpu")
    smallest = task.space.smallest()
    evaluated = [seen(task.space, [smallest], losses_of(task, accuracy, [smallest], "latency_s"))]
    best = best_known(task, accuracy, Predicted(task=task, title="edge_tpu"), evaluated)
    by_latency = limit_of(task, accuracy, LATENCY_ONLY)
    assert by_latency == best.archs
    slower = []
    for cost in ("macs", "num_params", "traffic_bytes"):
        archs = limit_of(task, accuracy, Strategy(name=cost, objectives=("error", cost)))
        assert archs is not None
        slower.append(single_versus(losses_of(task, accuracy, archs, "latency_s"), best.losses_B2, best))
    assert min(slower) >= -1e-12
    assert max(slower) > 0.001


def test_measured_networks_are_the_best_known_and_of_equal_ones_one_is_kept() -> None:
    """Evaluated: (30 %, 2 s) twice, (20 %, 3 s), (25 %, 3 s), (10 %, 9 s), by two searches."""
    task, accuracy = surrogate_task("mobile_gpu")
    archs = [{"number": number} for number in range(5)]
    losses = np.array([[0.3, 2.0], [0.2, 3.0], [0.25, 3.0], [0.3, 2.0], [0.1, 9.0]])
    evaluated = [seen(task.space, archs[:3], losses[:3]), seen(task.space, archs[3:], losses[3:])]
    best = best_known(task, accuracy, Measured(space=task.space), evaluated)
    assert best.losses_B2.tolist() == [[0.3, 2.0], [0.2, 3.0], [0.1, 9.0]]
    assert [arch["number"] for arch in best.archs] == [0, 1, 4]
    assert best.text == "the best of all networks that the searches evaluated"


def test_a_yardstick_of_another_device_makes_the_exact_front_no_yardstick() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    other = replace(task, predictor=LatencyPredictor(load_device("edge_tpu")))
    archs = [task.space.smallest(), task.space.largest()]
    evaluated = [seen(task.space, archs, losses_of(other, accuracy, archs, "latency_s"))]
    best = best_known(task, accuracy, Predicted(task=other, title="edge_tpu"), evaluated)
    assert len(best.archs) <= 2
    assert "searches evaluated" in best.text


def test_where_all_networks_of_a_table_were_measured_the_best_front_is_that_of_all() -> None:
    space = small_space()
    task, table = task_of(space), table_of(space)
    yardstick = Measured(space=space)
    every = space.decode(all_indices(space))
    canonical = [space.canonical(arch) for arch in every]
    every_N2 = np.column_stack([[1.0 - table(arch) for arch in canonical], yardstick.latency_s(canonical)])
    evaluated = [seen(space, canonical[:1], every_N2[:1])]
    best = best_known(task, table, yardstick, evaluated)
    assert best.text == "the exact front of the whole space"
    same_points(best.losses_B2, every_N2)
    some = best_known(task, table, replace(yardstick, most=60.0), evaluated)
    assert some.text == "the best of all networks that the searches evaluated"


def test_strategies_without_a_network_of_known_latency_share_no_yardstick() -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    nothing = [seen(task.space, [], np.empty((0, 2)))]
    with pytest.raises(ValueError, match=r"share no yardstick.*latency measured on a board"):
        best_known(task, accuracy, Measured(space=task.space), nothing)


def test_a_front_by_bounds_is_joined_with_what_was_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    task, accuracy = surrogate_task("mobile_gpu")
    monkeypatch.setattr(import_module("nas.yardstick.best_front"), "NUM_BOUNDS", 3)
    task = replace(task, constraints={"traffic_bytes": task.costs(task.space.largest())["traffic_bytes"]})
    front = exact_front(task, accuracy, "latency_s")
    assert front is not None
    assert not front.whole
    whole = exact_front(replace(task, constraints={}), accuracy, "latency_s")
    assert whole is not None
    middle = len(whole.archs) // 2
    evaluated = [seen(task.space, [whole.archs[middle]], whole.losses_ND[[middle]])]
    best = best_known(task, accuracy, Predicted(task=task, title="mobile_gpu"), evaluated)
    assert whole.archs[middle] in best.archs
    assert len(best.archs) > 1
    assert best.text.endswith("the most accurate ones of the space within some bounds on the latency")


def test_a_space_too_large_for_its_table_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    space = small_space()
    task, table = task_of(space), table_of(space)
    monkeypatch.setattr("nas.yardstick.exhaustive.MAX_NETWORKS", 10)
    assert limit_of(task, table, FLOPS_ONLY) is None
    archs = [space.smallest()]
    evaluated = [seen(space, archs, np.array([[0.5, 1.0]]))]
    assert best_known(task, table, Measured(space=space), evaluated).archs == tuple(archs)


def test_costs_that_do_not_add_up_leave_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyPredictor, "position_tables", lambda self, space: None)
    task, accuracy = surrogate_task("mobile_gpu")
    assert exact_front(task, accuracy, "macs") is None
