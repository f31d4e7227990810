from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nas.pareto import Front, hypervolume, pareto_front

# Few distinct values, so that ties, duplicates and dominated points are common.
GRID_LOSSES = st.integers(2, 5).flatmap(
    lambda num_objectives: arrays(
        np.float64, st.tuples(st.integers(0, 12), st.just(num_objectives)), elements=st.integers(0, 6).map(float)
    )
)
REFERENCE = 5.0


def front_by_definition(losses: np.ndarray) -> list[int]:
    return [
        index
        for index, row in enumerate(losses)
        if not any((other <= row).all() and (other < row).any() for other in losses)
    ]


def volume_by_inclusion_and_exclusion(points: np.ndarray, reference_point: np.ndarray) -> float:
    """Sum over all subsets of the volume of the intersection of their boxes, with alternating sign."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in combinations(points, size):
            total -= (-1.0) ** size * np.clip(reference_point - np.max(subset, axis=0), 0.0, None).prod()
    return total


@given(GRID_LOSSES)
def test_the_front_is_the_rows_that_no_row_dominates(losses: np.ndarray) -> None:
    assert pareto_front(losses).tolist() == front_by_definition(losses)


def test_all_copies_of_a_row_are_on_the_front() -> None:
    assert pareto_front(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])).tolist() == [0, 1, 2]


def test_rows_with_nan_are_not_on_the_front_and_dominate_nothing() -> None:
    assert pareto_front(np.array([[np.nan, 0.0], [1.0, 1.0], [0.0, np.nan]])).tolist() == [1]


def test_the_front_of_nothing_is_empty() -> None:
    assert pareto_front(np.empty((0, 3))).tolist() == []
    assert pareto_front(np.full((2, 2), np.nan)).tolist() == []


@pytest.mark.parametrize("shape", [(3,), (3, 0), (1, 2, 3)])
def test_losses_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(num_points, num_objectives\)"):
        pareto_front(np.zeros(shape))


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4, 5])
def test_one_point_has_the_volume_of_its_box(num_objectives: int) -> None:
    point = np.arange(num_objectives, dtype=float)
    # The edges are 6 - 0, 6 - 1, 6 - 2, ...
    expected = np.prod([6.0 - each for each in range(num_objectives)])
    assert hypervolume(point[None], np.full(num_objectives, 6.0)) == expected


def test_a_staircase_in_two_objectives_has_the_area_under_it() -> None:
    points = np.array([[0.0, 3.0], [1.0, 2.0], [3.0, 0.0]])
    # Columns below 4: x 0..1 of height 1, x 1..3 of height 2, x 3..4 of height 4.
    assert hypervolume(points, np.array([4.0, 4.0])) == 1 * 1 + 2 * 2 + 1 * 4


@pytest.mark.parametrize(("num_objectives", "steps"), [(3, 40), (4, 12)])
def test_a_discrete_simplex_has_its_known_volume(num_objectives: int, steps: int) -> None:
    """All points of sum `steps - 1` on a grid: a cell below `steps` is covered where its lower corner's sum reaches
    that, which is counted here cell by cell."""
    axes = np.indices((steps,) * num_objectives).reshape(num_objectives, -1).T
    points = axes[axes.sum(axis=1) == steps - 1].astype(float)
    covered = (axes.sum(axis=1) >= steps - 1).sum()
    assert hypervolume(points, np.full(num_objectives, float(steps))) == covered


@given(GRID_LOSSES)
def test_the_hypervolume_equals_inclusion_and_exclusion(losses: np.ndarray) -> None:
    reference_point = np.full(losses.shape[1], REFERENCE)
    expected = volume_by_inclusion_and_exclusion(losses[:8], reference_point)
    assert hypervolume(losses[:8], reference_point) == pytest.approx(expected)


def test_the_hypervolume_is_the_share_of_random_points_that_are_dominated() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((60, 4))
    darts = rng.random((40_000, 4))
    share = np.mean([(points <= dart).all(axis=1).any() for dart in darts])
    # The standard deviation of a share of 40,000 darts is at most 0.0025.
    assert hypervolume(points, np.ones(4)) == pytest.approx(share, abs=0.01)


@given(GRID_LOSSES, st.randoms(use_true_random=False))
def test_the_hypervolume_ignores_order_duplicates_and_dominated_points(losses: np.ndarray, random: object) -> None:
    reference_point = np.full(losses.shape[1], REFERENCE)
    order = list(range(len(losses)))
    random.shuffle(order)  # type: ignore[attr-defined]
    more = np.vstack([losses[order], losses[:2], losses[:3] + 0.5])
    assert hypervolume(more, reference_point) == pytest.approx(hypervolume(losses, reference_point))


@given(GRID_LOSSES)
def test_a_front_that_grows_point_by_point_knows_the_hypervolume_after_each(losses: np.ndarray) -> None:
    reference_point = np.full(losses.shape[1], REFERENCE)
    front = Front.empty(reference_point)
    for count, point in enumerate(losses, start=1):
        front = front.add(point)
        assert front.hypervolume == pytest.approx(hypervolume(losses[:count], reference_point))
        inside = np.unique(losses[:count][(losses[:count] < reference_point).all(axis=1)], axis=0)
        assert len(front) == len(pareto_front(inside))


def test_points_beyond_the_reference_point_and_nan_add_nothing() -> None:
    points = np.array([[0.5, 0.5], [0.1, 1.0], [2.0, 0.0], [np.nan, 0.0], [0.0, np.nan]])
    assert hypervolume(points, np.ones(2)) == 0.25
    front = Front.empty(np.ones(2))
    for point in points:
        front = front.add(point)
    assert front.hypervolume == 0.25
    assert len(front) == 1


def test_no_points_have_no_volume() -> None:
    assert hypervolume(np.empty((0, 4)), np.ones(4)) == 0.0


@pytest.mark.parametrize("reference_point", [[1.0], [1.0, np.inf], [np.nan, 1.0]])
def test_a_reference_point_that_does_not_bound_is_refused(reference_point: list[float]) -> None:
    with pytest.raises(ValueError, match="must hold 2 finite losses"):
        hypervolume(np.zeros((1, 2)), np.array(reference_point))
