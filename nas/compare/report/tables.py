"""The comparison as rows: compare.csv has a strategy in each, fronts.csv a chosen network."""

import csv
import io
from collections.abc import Mapping, Sequence
from math import isfinite, isnan

from nas.compare.records import Comparison, Estimate, Standing, Versus, Why
from nas.compare.report.sentences import limit_ratios, sentence_of
from nas.compare.report.verdict import verdict_of
from nas.compare.report.wording import negated
from search_spaces.space import Arch

Cell = str | int | float | None
Row = Mapping[str, Cell]

COMPARE_FILE, FRONTS_FILE = "compare.csv", "fronts.csv"

CHOSEN, LIMIT, BEST = "chosen", "unlimited budget", "best known"
"""Kinds of rows of fronts.csv."""


def rows_of(comparison: Comparison) -> list[dict[str, Cell]]:
    """A row for each strategy, every figure with its unit in the column's name; None where it is not known.

    Differences are told from the baseline: latencies in per cent of its, negative is faster; accuracies in points,
    positive is better.
    """
    ratios = limit_ratios(comparison)
    return [
        {
            "title": comparison.title,
            "device": comparison.device_name,
            "space": comparison.space_name,
            "strategy": strategy.name,
            "baseline": comparison.baseline,
            "objectives": " ".join(strategy.objectives),
            "judged": comparison.judged,
            "latency": "measured" if comparison.is_measured else "predicted",
            "num_seeds": len(comparison.seeds),
            "num_seeds_needed": comparison.num_seeds_needed,
            "num_evaluations": comparison.num_trials,
            "sampler": comparison.sampler,
            **_versus_cells(comparison.versus.get(strategy.name), comparison),
            **_standing_cells(comparison.standings[strategy.name]),
            "limit_latency_vs_best_percent": _known(100.0 * (ratios[strategy.name] - 1.0))
            if strategy.name in ratios
            else None,
            **_why_cells(comparison.whys.get(strategy.name)),
            "ridge_point_flop_per_byte": _known(comparison.ridge_point),
            "pays_from_ridge_point_flop_per_byte": comparison.sweep.pays_from if comparison.sweep else None,
            "num_unknown": sum(each.num_unknown for each in comparison.chosen[strategy.name]),
            "yardstick": comparison.yardstick_text,
            "sentence": sentence_of(comparison.versus[strategy.name], comparison)
            if strategy.name in comparison.versus
            else None,
        }
        for strategy in comparison.strategies
    ]


def front_rows(comparison: Comparison) -> list[dict[str, Cell]]:
    """A row for each chosen network, by strategy, seed and latency; then what unlimited budgets choose, then the best
    known front, where its networks are known.
    """
    rows: list[dict[str, Cell]] = []
    for strategy in comparison.strategies:
        for each in comparison.chosen[strategy.name]:
            rows += _network_rows(CHOSEN, strategy.name, each.seed, each.archs, each.losses_F2.tolist())
    for name, limit in comparison.limits.items():
        rows += _network_rows(LIMIT, name, None, limit.archs, limit.losses_F2.tolist())
    best = comparison.best
    rows += _network_rows(BEST, None, None, best.archs, best.losses_B2.tolist() if best.archs else [])
    return rows


def csv_text(rows: Sequence[Row]) -> str:
    """All columns of any row, in the order in which they first come; what is None or missing is left empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------------ private


def _versus_cells(versus: Versus | None, comparison: Comparison) -> dict[str, Cell]:
    """The baseline's are empty."""
    headline = versus.headline_error if versus else None
    return {
        "claim": verdict_of(versus, comparison).value if versus else None,
        "headline_accuracy_percent": None if headline is None else 100.0 * (1.0 - headline),
        **_bounds("headline_latency_vs_baseline_percent", _away(versus.headline_ratio if versus else None)),
        **_bounds("latency_vs_baseline_percent", _away(versus.latency_ratio if versus else None)),
        "latency_p": _known(versus.latency_p) if versus else None,
        "latency_p_holm": _known(versus.latency_p_holm) if versus else None,
        **_bounds("accuracy_vs_baseline_points", negated(versus.error_difference) if versus else None, 100.0),
        "hypervolume_p": _known(versus.hypervolume_p) if versus else None,
        "hypervolume_p_holm": _known(versus.hypervolume_p_holm) if versus else None,
    }


def _standing_cells(standing: Standing) -> dict[str, Cell]:
    return {
        **_bounds("hypervolume_percent", standing.hypervolume, 100.0),
        **_bounds("evaluated_hypervolume_percent", standing.evaluated_hypervolume, 100.0),
        **_bounds("front_size", standing.front_size),
        **_bounds("useful_size", standing.useful_size),
        **_bounds("found_percent", standing.found, 100.0),
        **_bounds("near_percent", standing.near, 100.0),
        **_bounds("least_error_percent", standing.least_error, 100.0),
        **_bounds("search_s", standing.seconds),
    }


def _why_cells(why: Why | None) -> dict[str, Cell]:
    shares = why.bound_shares if why else {}
    bounds = {
        f"{name}_percent": 100.0 * shares[name] if name in shares else None
        for name in ("compute", "memory", "launch", "overhead")
    }
    return {
        **bounds,
        **_bounds("arithmetic_intensity_flop_per_byte", why.intensity if why else None),
        "macs_m": why.macs.value / 1e6 if why else None,
        "traffic_mb": why.traffic_bytes.value / 1e6 if why else None,
        "num_kernels": why.num_kernels.value if why else None,
        "depthwise_time_percent": 100.0 * why.depthwise_time.value if why else None,
        "depthwise_macs_percent": 100.0 * why.depthwise_macs.value if why else None,
    }


def _network_rows(
    kind: str, strategy: str | None, seed: int | None, archs: Sequence[Arch], losses: Sequence[Sequence[float]]
) -> list[dict[str, Cell]]:
    by_seconds = sorted(zip(archs, losses), key=lambda each: each[1][1])
    return [
        {
            "kind": kind,
            "strategy": strategy,
            "seed": seed,
            "error_percent": 100.0 * error,
            "latency_ms": 1e3 * seconds,
            **arch,
        }
        for arch, (error, seconds) in by_seconds
    ]


def _bounds(name: str, estimate: Estimate | None, scale: float = 1.0) -> dict[str, Cell]:
    """'x_percent', 'x_low_percent', 'x_high_percent': the unit stays last."""
    stem, unit = name, ""
    for known in ("_percent", "_points", "_flop_per_byte", "_s"):
        if name.endswith(known):
            stem, unit = name[: -len(known)], known
            break
    if estimate is None:
        return {name: None, f"{stem}_low{unit}": None, f"{stem}_high{unit}": None}
    return {
        name: _known(scale * estimate.value),
        f"{stem}_low{unit}": _known(scale * estimate.low),
        f"{stem}_high{unit}": _known(scale * estimate.high),
    }


def _away(ratio: Estimate | None) -> Estimate | None:
    if ratio is None:
        return None
    value, low, high = (100.0 * (each - 1.0) for each in (ratio.value, ratio.low, ratio.high))
    return Estimate(value=value, low=low, high=high)


def _known(value: float) -> float | None:
    return value if isfinite(value) else None


def _cell(value: Cell) -> str:
    """Six digits; a zero has no sign.

    >>> [_cell(value) for value in (None, 3, 0.1234567, -0.0, "a")]
    ['', '3', '0.123457', '0', 'a']
    """
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)
