"""A hard limit that holds: the widths that keep the most important channels at costs at or under it."""

from collections.abc import Iterable, Mapping, Sequence
from math import gcd, inf, lcm
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from predictors.training.differentiable_cost import DifferentiableCost


def widths_within(
    scores: Mapping[str, torch.Tensor], limits: Sequence[tuple["DifferentiableCost", float]]
) -> dict[str, int]:
    """How many units each group keeps, those of the highest scores, so that every cost is at or under its limit.

    From the whole network, the aligned step that loses the least score for the excess that it removes is taken again
    and again, then what still fits is put back, the most score for its cost first. The costs are exact, so the limits
    hold for what is predicted of the cut network.

    Args:
        scores: for each group its units' importance, shape (units,): trained gates, norms of weights. Scores of
            different groups are compared.
        limits: costs of the same network, on one or several devices, each with the most that it may be, in its unit.

    Raises:
        ValueError: scores of wrong groups, shapes or values; a limit that is not positive; costs of different networks;
            no widths keep a limit (the message has the least).
    """
    costs = [cost for cost, _ in limits]
    first = costs[0]
    for cost, limit in limits:
        if not 0 < limit < inf:
            raise ValueError(f"widths_within: a limit must be positive, found {cost.metric} <= {limit}")
        if cost.groups != first.groups or cost.graph != first.graph:
            raise ValueError("widths_within: the costs are of different networks")
    kept_G = [_cumulated(name, size, scores) for name, size in first.groups.items()]
    unknown = [name for name in scores if name not in first.groups]
    if unknown:
        raise ValueError(f"widths_within: scores of unknown groups {unknown}; there are {list(first.groups)}")
    search = _Search(limits, kept_G)
    search.remove()
    search.put_back()
    return dict(zip(first.groups, search.units_G.tolist()))


def kept(scores: Mapping[str, torch.Tensor], widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Boolean masks of the units of the highest scores, as many of each group as its width; the first of equal ones."""
    found = {}
    for name, width in widths.items():
        order = torch.argsort(scores[name].detach(), descending=True, stable=True)
        mask = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        mask[order[:width]] = True
        found[name] = mask
    return found


# ------------------------------------------------------------------------------------------------------------ private

_VECTOR = 8
_LOOK_AHEAD = 4
"""Aligned steps that are looked at together: a plateau may be longer than one."""


class _Search:
    """Widths on their way to the limits, with the costs' sums at them."""

    def __init__(
        self, limits: Sequence[tuple["DifferentiableCost", float]], scores_GW: Sequence[NDArray[np.float64]]
    ) -> None:
        self.limits = limits
        self._costs = [cost.width_cost for cost, _ in limits]
        widths = self._costs[0].widths
        self._least_G = np.max([each.widths.least_G for each in self._costs], axis=0)
        self._sizes_G = widths.sizes_G
        self._scores_GW = scores_GW
        self.units_G = widths.sizes_G.copy()
        self._sums = [each.sums(self.units_G) for each in self._costs]
        self._changes: list[dict[int, list[NDArray[np.float64]]]] = [{} for _ in self._sizes_G]
        self._knots = [
            _knots(group.size, group.channels // group.size, int(least), _alignment(limits))
            for group, least in zip(limits[0][0].channels.values(), self._least_G)
        ]
        touching = [[set(cost.touched[group]) for cost in self._costs] for group in range(len(self._sizes_G))]
        self._near = [
            [
                other
                for other in range(len(touching))
                if any(mine & theirs for mine, theirs in zip(touching[group], touching[other]))
            ]
            for group in range(len(touching))
        ]

    def remove(self) -> None:
        """Take steps until every limit holds.

        Raises:
            ValueError: nothing reaches one of them.
        """
        while (excess := self._excess(self._sums)) > 0:
            step = self._best_step(excess, _LOOK_AHEAD) or self._best_step(excess, max(map(len, self._knots)))
            if step is not None:
                self._go(*step)
            elif self._excess([cost.sums(self._least_G) for cost in self._costs]) > 0:
                self._give_up()
            else:
                self.units_G = self._least_G.copy()
                self._look_again(range(len(self.units_G)))

    def put_back(self) -> None:
        """Give groups more units as long as every limit holds, the most score for its cost first."""
        while True:
            best: tuple[float, int, int] | None = None
            now = self._relative(self._sums)
            for group, knots in enumerate(self._knots):
                at = int(self.units_G[group])
                above = [knot for knot in knots if knot > at][:_LOOK_AHEAD]
                for to in dict.fromkeys([at + 1, *above]) if above else ():
                    sums = self._sums_at(group, to)
                    if self._excess(sums) > 0:
                        continue
                    added = max(self._relative(sums) - now, 1e-9)
                    worth = self._score(group, at, to) / added
                    if best is None or worth > best[0]:
                        best = worth, group, to
            if best is None:
                return
            self._go(best[1], best[2])

    def _best_step(self, excess: float, look_ahead: int) -> tuple[int, int] | None:
        """A group and its next width: the least score lost for the excess that goes."""
        best: tuple[float, int, int] | None = None
        for group, knots in enumerate(self._knots):
            at = int(self.units_G[group])
            for to in [knot for knot in knots if knot < at][-look_ahead:]:
                gain = excess - self._excess(self._sums_at(group, to))
                if gain <= 1e-12:
                    continue
                ratio = self._score(group, to, at) / gain
                if best is None or ratio < best[0]:
                    best = ratio, group, to
        return None if best is None else best[1:]

    def _score(self, group: int, fewer: int, more: int) -> float:
        """Of the units between two widths; where it is 0 more units count for more."""
        cumulated = self._scores_GW[group]
        return float(cumulated[more] - cumulated[fewer]) + 1e-9 * (more - fewer)

    def _excess(self, sums: Sequence[NDArray[np.float64]]) -> float:
        """Shares by which limits are exceeded, added up; 0 where all hold. Sums err in their last digits."""
        found = [cost.metric_of(each) / limit for cost, (_, limit), each in zip(self._costs, self.limits, sums)]
        return sum(max(each - (1.0 - 1e-12), 0.0) for each in found)

    def _relative(self, sums: Sequence[NDArray[np.float64]]) -> float:
        return max(cost.metric_of(each) / limit for cost, (_, limit), each in zip(self._costs, self.limits, sums))

    def _sums_at(self, group: int, to: int) -> list[NDArray[np.float64]]:
        known = self._changes[group]
        if to not in known:
            known[to] = [cost.change(self.units_G, group, to) for cost in self._costs]
        return [each + change for each, change in zip(self._sums, known[to])]

    def _go(self, group: int, to: int) -> None:
        self.units_G[group] = to
        self._look_again([group, *self._near[group]])

    def _look_again(self, groups: Iterable[int]) -> None:
        self._sums = [cost.sums(self.units_G) for cost in self._costs]
        for group in groups:
            self._changes[group] = {}

    def _give_up(self) -> None:
        found = []
        for cost, (asked, limit), sums in zip(self._costs, self.limits, self._sums):
            value, narrowest = cost.metric_of(sums), cost.exact(cost.widths.least_G)
            found.append(
                f"{asked.metric} <= {limit:.4g} on {asked.predictor.device.name} (the least that was reached is "
                f"{min(value, narrowest):.4g})"
            )
        raise ValueError(f"no widths keep {', '.join(found)}: every group was tried down to one unit")


def _cumulated(name: str, size: int, scores: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
    """Score that the best units have together, for each number of them."""
    if name not in scores:
        raise ValueError(f"widths_within: the scores of group {name!r} are missing")
    found = scores[name].detach().double().cpu().numpy()
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ValueError(
            f"widths_within: scores of {name!r} must be {size} finite numbers, found {scores[name]!r:.100}"
        )
    ordered = np.sort(found)[::-1]
    ordered = ordered - min(float(ordered[-1]), 0.0)  # logits: importance is not below 0
    return np.concatenate([[0.0], np.cumsum(ordered)])


def _alignment(limits: Sequence[tuple["DifferentiableCost", float]]) -> int:
    """Channels of one aligned step on all of the devices."""
    return lcm(_VECTOR, *(cost.predictor.device.channel_alignment for cost, _ in limits))


def _knots(size: int, channels: int, least: int, alignment: int) -> list[int]:
    """Aligned widths in units, with the least and the whole."""
    step = alignment // gcd(channels, alignment)
    return sorted({least, size, *range(step, size, step)} - set(range(least)))
