"""Pareto fronts and exact hypervolumes of plain loss arrays; every objective is minimised."""

from dataclasses import dataclass

import numpy as np
from typing_extensions import Self


def pareto_front(losses: np.ndarray) -> np.ndarray:
    """Indices, increasing, of the rows that no other row dominates.

    A row dominates another when it is nowhere larger and somewhere smaller. Equal rows do not dominate each other, so
    all copies of a front's row are on the front; rows with a nan are never on it and dominate nothing.

    Args:
        losses: shape (num_points, num_objectives).

    >>> pareto_front(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [1.0, 3.0], [np.nan, 0.0]])).tolist()
    [0, 1, 3]
    """
    losses = _as_matrix(losses)
    valid = np.flatnonzero(~np.isnan(losses).any(axis=1))
    unique, member = np.unique(losses[valid], axis=0, return_inverse=True)
    on_front: np.ndarray = valid[_front_of_sorted(unique)[member.reshape(-1)]]
    return on_front


def hypervolume(points: np.ndarray, reference_point: np.ndarray) -> float:
    """Exact volume that the points dominate below the reference point, in the product of the objectives' units.

    Points that are not below the reference point in every objective, and points with a nan, add nothing.

    The last objective is swept; each slice adds the exclusive volume of one point in one objective fewer:
    `exclusive(p, front) = box(p) - hypervolume(max(p, front))`. Three objectives are solved at once on the compressed
    grid, in O(n^2).

    Args:
        points: shape (num_points, num_objectives).
        reference_point: shape (num_objectives,), the worst loss of each objective that still counts.

    Source: While, Bradstreet, Barone, "A fast way of calculating exact hypervolumes", IEEE TEVC 16(1), 2012 (the
    exclusive volume by limiting a set); the grid as in optuna's `_hypervolume/wfg.py`.

    >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([3.0, 3.0]))
    3.0
    """
    points, reference_point = _as_matrix(points), np.asarray(reference_point, dtype=np.float64)
    if reference_point.shape != points.shape[1:] or not np.isfinite(reference_point).all():
        raise ValueError(f"reference point {reference_point} must hold {points.shape[1]} finite losses")
    inside = points[(points < reference_point).all(axis=1)]
    return _volume(_distinct_front(reference_point - inside))


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A front that grows point by point and knows its hypervolume; adding a dominated point costs next to nothing.

    Attributes:
        reference_point: shape (num_objectives,).
        gains: `reference_point - losses` of the front's distinct points, shape (num_points, num_objectives).
        hypervolume: equals `hypervolume(points, reference_point)` of all points added so far.
    """

    reference_point: np.ndarray
    gains: np.ndarray
    hypervolume: float

    @classmethod
    def empty(cls, reference_point: np.ndarray) -> Self:
        reference_point = np.asarray(reference_point, dtype=np.float64)
        return cls(reference_point=reference_point, gains=np.empty((0, len(reference_point))), hypervolume=0.0)

    def add(self, losses: np.ndarray) -> "Front":
        """The front with one more point: losses of shape (num_objectives,)."""
        gain = self.reference_point - np.asarray(losses, dtype=np.float64)
        if not (gain > 0.0).all() or (self.gains >= gain).all(axis=1).any():
            return self
        kept = self.gains[~(self.gains <= gain).all(axis=1)]
        return Front(
            reference_point=self.reference_point,
            gains=np.vstack([kept, gain]),
            hypervolume=self.hypervolume + _exclusive(gain, self.gains),
        )

    def __len__(self) -> int:
        return len(self.gains)


# ------------------------------------------------------------------------------------------------------------ private
# Inside, points are gains: distances below the reference point, larger is better, and the volume is that of the union
# of the boxes between the origin and each gain.


def _as_matrix(losses: np.ndarray) -> np.ndarray:
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 2 or losses.shape[1] == 0:
        raise ValueError(f"losses must have shape (num_points, num_objectives), found {losses.shape}")
    return losses


def _front_of_sorted(unique: np.ndarray) -> np.ndarray:
    """Mask of the front's rows among distinct rows in lexicographic order, where no row dominates an earlier one."""
    on_front = np.zeros(len(unique), dtype=bool)
    remaining = np.arange(len(unique))
    while remaining.size:
        first = remaining[0]
        on_front[first] = True
        remaining = remaining[(unique[remaining] < unique[first]).any(axis=1)]
    return on_front


def _distinct_front(gains: np.ndarray) -> np.ndarray:
    """The gains that no other gain reaches in every objective, once each, by decreasing first objective."""
    unique = np.unique(-gains, axis=0)
    front: np.ndarray = -unique[_front_of_sorted(unique)]
    return front


def _exclusive(gain: np.ndarray, gains: np.ndarray) -> float:
    """Volume that `gain` adds to the union of the others' boxes."""
    if not len(gains):
        return float(gain.prod())
    return float(gain.prod()) - _volume(_distinct_front(np.minimum(gains, gain)))


def _volume(front: np.ndarray) -> float:
    """Volume of the union of the boxes of a distinct front, sorted by decreasing first objective."""
    if len(front) <= 1:
        return float(front[0].prod()) if len(front) else 0.0
    num_objectives = front.shape[1]
    if num_objectives == 1:
        return float(front[0, 0])
    if num_objectives == 2:
        return float(front[:, 0] @ np.diff(front[:, 1], prepend=0.0))
    if num_objectives == 3:
        return _volume_3d(front)
    front = front[np.argsort(-front[:, -1], kind="stable")]
    depths = -np.diff(front[:, -1], append=0.0)
    slice_front, total = Front.empty(np.zeros(num_objectives - 1)), 0.0
    for gain, depth in zip(front[:, :-1], depths):
        slice_front = slice_front.add(-gain)
        total += slice_front.hypervolume * depth
    return total


def _volume_3d(front: np.ndarray) -> float:
    """On the grid of all x and y, each cell is as high as the highest box that covers it."""
    order = np.argsort(-front[:, 1], kind="stable")
    heights = np.zeros((len(front), len(front)))
    heights[order, np.arange(len(front))] = front[order, 2]
    heights = np.maximum.accumulate(np.maximum.accumulate(heights, axis=0), axis=1)
    widths_x = -np.diff(front[:, 0], append=0.0)
    widths_y = -np.diff(front[order, 1], append=0.0)
    return float(widths_x @ heights @ widths_y)
