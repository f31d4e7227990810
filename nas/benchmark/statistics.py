"""What seeds say together: means with intervals, counts that some seeds never reached, and a rank test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over seeds; the interval of 95 % is `value` plus or minus `half_width`, nan for a single seed.

    Student's t, so it takes the seeds' values for normally distributed.
    """

    value: float
    half_width: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """Evaluations until a goal, over seeds of which some may never have reached it.

    Attributes:
        mean: a seed that did not reach the goal counts with the evaluations that it had: too few, so that this is
            a lower bound as soon as `num_reached` is less than `mean.count`.
        median: None where it is among those that did not reach the goal.
    """

    mean: Mean
    median: float | None
    num_reached: int

    @property
    def censored(self) -> bool:
        return self.num_reached < self.mean.count


def mean_of(values: Sequence[float]) -> Mean:
    """The mean and the half width of its interval.

    >>> mean_of([1.0, 2.0, 3.0]).value
    2.0
    """
    from scipy.stats import t

    values_S = np.asarray(values, dtype=np.float64)
    count = len(values_S)
    if count < 2:
        return Mean(value=float(values_S.mean()), half_width=float("nan"), count=count)
    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1))
    half_width = quantile * float(values_S.std(ddof=1)) / count**0.5
    return Mean(value=float(values_S.mean()), half_width=half_width, count=count)


def until_of(reached: Sequence[int | None], num_evaluations: Sequence[int]) -> Until:
    """Evaluations until a goal: of each seed the number, or None and how many evaluations it had."""
    counts = [had if number is None else number for number, had in zip(reached, num_evaluations, strict=True)]
    middle = float(np.median([np.inf if number is None else number for number in reached]))
    return Until(
        mean=mean_of(counts),
        median=middle if np.isfinite(middle) else None,
        num_reached=sum(number is not None for number in reached),
    )


def smaller_p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Probability of ranks like these, or more in our favour, if ours were not smaller: Mann and Whitney, one-sided.

    Only ranks count, so a seed that never reached a goal is `inf` on either side.
    """
    from scipy.stats import mannwhitneyu

    largest = max([each for each in (*ours, *theirs) if np.isfinite(each)], default=0.0)
    finite = [[each if np.isfinite(each) else largest + 1.0 for each in side] for side in (ours, theirs)]
    return float(mannwhitneyu(*finite, alternative="less").pvalue)
