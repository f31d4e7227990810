"""Predictions of measured things by several models, and how far off each of them is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

OURS = "ridgeline"
MACS_BASELINE = "proportional to MACs"
ROOFLINE_BASELINE = "bare roofline"


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """N things held out from every model, as measured and as each model predicts them.

    Attributes:
        name: what was predicted where, e.g. 'kernels, Adreno 660, float16'.
        labels: a name for each thing, for the picture; may be empty.
        measured_s_N: seconds.
        predicted_s_N: by model; `OURS` is among them, and for a fair comparison both baselines.
        std_s_N: standard deviations that our model claims; None where it claims none.
    """

    name: str
    measured_s_N: NDArray[np.float64]
    predicted_s_N: Mapping[str, NDArray[np.float64]]
    std_s_N: NDArray[np.float64] | None = None
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = len(self.measured_s_N)
        arrays = {**self.predicted_s_N, "standard deviation": self.std_s_N, "measured": self.measured_s_N}
        for model, values in arrays.items():
            if values is not None and (values.shape != (count,) or not np.isfinite(values).all()):
                raise ValueError(f"{self.name}: {model} needs {count} finite numbers, found {values!r}")

    def scores(self) -> dict[str, "Scores"]:
        """How well each model did."""
        return {
            model: scores(self.measured_s_N, predicted_s_N, self.std_s_N if model == OURS else None)
            for model, predicted_s_N in self.predicted_s_N.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of one model: relative errors as shares (0.05 is 5 %), rank correlations, and how true its deviations are.

    Attributes:
        count: how many things were predicted; of a mean over comparisons the sum.
        mape, median_error: mean and median of |predicted / measured - 1|.
        within_5, within_10: share of errors of at most 5 and 10 %.
        spearman, kendall: rank correlations of predicted and measured; nan below three things.
        within_1_std, within_2_std: share of things within one and two of the claimed deviations; nan without any.
    """

    count: int
    mape: float
    median_error: float
    within_5: float
    within_10: float
    spearman: float
    kendall: float
    within_1_std: float
    within_2_std: float


def scores(
    measured_s_N: NDArray[np.float64], predicted_s_N: NDArray[np.float64], std_s_N: NDArray[np.float64] | None = None
) -> Scores:
    """Scores of one model."""
    error_N = np.abs(predicted_s_N / measured_s_N - 1.0)
    ranked = len(measured_s_N) >= 3 and np.ptp(predicted_s_N) > 0.0 and np.ptp(measured_s_N) > 0.0
    distance_N = None if std_s_N is None else np.abs(predicted_s_N - measured_s_N) / std_s_N
    return Scores(
        count=len(error_N),
        mape=float(error_N.mean()),
        median_error=float(np.median(error_N)),
        within_5=float((error_N <= 0.05).mean()),
        within_10=float((error_N <= 0.10).mean()),
        spearman=float(spearmanr(measured_s_N, predicted_s_N).statistic) if ranked else float("nan"),
        kendall=float(kendalltau(measured_s_N, predicted_s_N).statistic) if ranked else float("nan"),
        within_1_std=float("nan") if distance_N is None else float((distance_N <= 1.0).mean()),
        within_2_std=float("nan") if distance_N is None else float((distance_N <= 2.0).mean()),
    )


def median_scores(found: Iterable[Scores]) -> Scores:
    """Median of each figure over comparisons (devices, draws); what is nan is left out."""
    return _over(found, np.nanmedian)


def mean_scores(found: Iterable[Scores]) -> Scores:
    """Mean of each figure over comparisons (devices, draws); what is nan is left out."""
    return _over(found, np.nanmean)


# ------------------------------------------------------------------------------------------------------------ private


def _over(found: Iterable[Scores], statistic: Callable[[NDArray[np.float64]], float]) -> Scores:
    rows = list(found)
    assert rows, "scores of no comparison"
    values = {}
    for name in Scores.__slots__:
        column = np.array([getattr(each, name) for each in rows], dtype=np.float64)
        values[name] = float("nan") if np.isnan(column).all() else float(statistic(column))
    return Scores(**{**values, "count": sum(each.count for each in rows)})  # type: ignore[arg-type]
