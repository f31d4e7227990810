"""How far the search is from the best networks there are: a section of report.html, and a picture."""

from html import escape

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nas.objectives import metric_named
from nas.report import style
from nas.report.breakdown import axis_title, constraint_texts, error_axis_title, error_name, metric_text, staircase
from nas.report.pictures import picture_of
from nas.result import SearchResult
from nas.yardstick import EQUAL, Distance, FrontDistance, LeastDistance
from predictors.explanation.document import figure_html, table
from predictors.explanation.figures import figure_of
from predictors.explanation.text import share_text

TITLE = "How far from the best there is"

_MAX_DRAWN = 2000
"""Points of a line; more cannot be told apart."""


def yardstick_section(result: SearchResult, distance: Distance) -> str:
    """The section's HTML, without its heading."""
    parts = []
    if distance.front is not None:
        parts.append(_sentences(result, distance.front))
    if distance.least:
        parts.append(_least_table(result, distance))
    if distance.front is not None:
        parts.append(figure_html(best_front_figure(result, distance.front)))
    if distance.reasons:
        because = "; ".join(escape(reason) for reason in distance.reasons)
        what = "Not everything is known" if parts else "The best networks there are cannot be computed"
        parts.append(f"<p>{what}: {because}.</p>")
    parts.append(f'<p class="note">Computed in {distance.seconds:.1f} s.</p>')
    return "".join(parts)


def best_front_figure(result: SearchResult, front: FrontDistance) -> go.Figure:
    """Error against a cost: the true front and what the search found."""
    best, cost = front.trade_off, front.trade_off.objectives[1]
    x_N, y_N = _drawn(best.losses_ND, cost)
    figure = figure_of(height=460, hovermode="closest")
    candidates = [each.metrics for each in result.candidates if each.feasible]
    error_pp, unit = [100.0 * each["error"] for each in candidates], metric_named(cost)
    hover = f"%{{x:.4g}} {unit.unit}, %{{y:.2f}} %"
    figure.add_trace(
        go.Scatter(
            x=[each[cost] / unit.scale for each in candidates], y=error_pp, mode="markers", name="candidate",
            marker={"size": 6, "color": style.FAINT}, hovertemplate=f"candidate: {hover}<extra></extra>",
        )
    )  # fmt: skip
    if not best.whole:
        outer_x, outer_y = _drawn(best.outer_ND[np.argsort(best.outer_ND[:, 1])], cost)
        figure.add_trace(
            go.Scatter(
                x=outer_x, y=outer_y, mode="lines", name="no network lies below", hoverinfo="skip",
                line={"color": style.ACCENT, "width": 1, "dash": "dot", "shape": "hv"},
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=x_N, y=y_N, name="best there is", mode="lines" if best.whole else "markers",
            line={"color": style.ACCENT, "width": 2, "shape": "hv"}, marker={"size": 8, "color": style.ACCENT},
            hovertemplate=f"best there is: {hover}<extra></extra>",
        )
    )  # fmt: skip
    steps = staircase(candidates, cost)
    figure.add_trace(
        go.Scatter(
            x=[each[cost] / unit.scale for each in steps], y=[100.0 * each["error"] for each in steps],
            name="found by the search", mode="lines+markers", marker={"size": 7},
            line={"color": style.FRONT, "width": 2, "shape": "hv"},
            hovertemplate=f"found: {hover}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text=axis_title(cost))
    figure.update_yaxes(title_text=error_axis_title(result), range=_error_range(result, front))
    return figure


def best_front_picture(result: SearchResult, front: FrontDistance) -> Figure:
    """The same as a PNG would show it."""
    best, cost = front.trade_off, front.trade_off.objectives[1]
    figure, axes = picture_of(7.5, 4.6)
    candidates = [each.metrics for each in result.candidates if each.feasible]
    scale = metric_named(cost).scale
    axes.plot(
        [each[cost] / scale for each in candidates], [100.0 * each["error"] for each in candidates], "o",
        color=style.FAINT, markersize=4, label="candidate",
    )  # fmt: skip
    if best.whole:
        axes.step(*_drawn(best.losses_ND, cost), where="post", color=style.ACCENT, label="best there is")
    else:
        axes.plot(*_drawn(best.losses_ND, cost), "o", color=style.ACCENT, markersize=5, label="best there is")
    steps = staircase(candidates, cost)
    axes.step(
        [each[cost] / scale for each in steps], [100.0 * each["error"] for each in steps], "o-", where="post",
        color=style.FRONT, markersize=4, label="found by the search",
    )  # fmt: skip
    axes.set_xlabel(axis_title(cost))
    axes.set_ylabel(error_axis_title(result))
    axes.set_ylim(_error_range(result, front))
    axes.set_title(
        f"{result.space.name} on {result.predictor.device.name}: the search and the best there is", fontsize=11
    )
    axes.legend(frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------------------ private


def _error_range(result: SearchResult, front: FrontDistance) -> tuple[float, float]:
    """What shows both fronts, in per cent; candidates may err much more."""
    cost = front.trade_off.objectives[1]
    steps = staircase([each.metrics for each in result.candidates if each.feasible], cost)
    errors = [*front.trade_off.losses_ND[:, 0], *(each["error"] for each in steps)]
    low, high = 100.0 * min(errors), 100.0 * max(errors)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _sentences(result: SearchResult, front: FrontDistance) -> str:
    best, cost = front.trade_off, metric_named(front.trade_off.objectives[1])
    largest, mean, text = front.largest_gap, front.mean_gap, ""
    if largest is not None and mean is not None:
        most = metric_text({cost.name: largest[1]}, cost.name)
        text = (
            f"At the same {escape(cost.title)}, the search's best network errs <b>{_points(mean)}</b> more than the "
            f"best there is on average, and {_points(largest[0])} where it is most, at {most}. "
            if largest[0] > EQUAL
            else f"At every {escape(cost.title)} from its cheapest network on, the search found the best there is. "
        )
    names = ", ".join(error_name(result) if each == "error" else metric_named(each).title for each in front.objectives)
    at_least = "" if front.limit_hypervolume == front.best_hypervolume else "at least "
    text += (
        f"It reached {at_least}<b>{_percent(front.share)}</b> of the hypervolume that the best networks reach "
        f"({escape(names)}, up to the search's reference point)."
    )
    bounds = " and ".join(constraint_texts(result.constraints))
    under = f", {escape(bounds)}" if bounds else ""
    known = (
        f"The true front has {len(best.archs)} networks of error against {escape(cost.title)}{under}"
        if best.whole
        else f"Of the true front {len(best.archs)} networks are known, by integer programs for as many bounds on "
        f"{escape(cost.title)}{under}"
    )
    return (
        f'<p class="lead">{text}</p><p>{known}; the search found {front.num_found} of them, or networks as good. '
        "That is by the accuracies and predicted costs that the search itself was given: it says how well it searched, "
        "and nothing of how right they are.</p>"
    )


def _least_table(result: SearchResult, distance: Distance) -> str:
    bounds = " and ".join(constraint_texts(result.constraints))
    header = ["objective", f"best there is{f' with {bounds}' if bounds else ''}", "found by the search", "behind", ""]
    rows = [
        [
            escape(error_name(result) if each.metric == "error" else metric_named(each.metric).title),
            _text(each.best.value, each.metric),
            "none" if each.found is None else _text(each.found, each.metric),
            _behind(each),
            "proven" if each.best.proven else f"not proven; none is better than {_text(each.best.limit, each.metric)}",
        ]
        for each in distance.least
    ]
    return table(header, rows, numbers=(1, 2, 3))


def _behind(each: LeastDistance) -> str:
    if each.gap is None:
        return "no network meets the constraints"
    if each.gap <= EQUAL:
        return "nothing"
    return _points(each.gap) if each.metric == "error" else share_text(each.gap)


def _text(value: float, name: str) -> str:
    """Errors to a hundredth of a point: what is behind is often less than a tenth."""
    return f"{100.0 * value:.2f} %" if name == "error" else metric_text({name: value}, name)


def _points(gap: float) -> str:
    """'0.42 points'."""
    return f"{100.0 * gap:.2f} points"


def _percent(share: float) -> str:
    """Never rounded up to all of it.

    >>> [_percent(share) for share in (0.98764, 0.99999, 1.0)]
    ['98.8 %', '99.9 %', '100 %']
    """
    return "100 %" if share >= 1.0 - EQUAL else f"{min(100.0 * share, 99.9):.1f} %"


def _drawn(losses_ND: NDArray[np.float64], cost: str) -> tuple[list[float], list[float]]:
    """The cost and the error in a person's units, of so many points as can be told apart."""
    places = np.unique(np.linspace(0, len(losses_ND) - 1, min(len(losses_ND), _MAX_DRAWN)).astype(int))
    points = losses_ND[places]
    return (points[:, 1] / metric_named(cost).scale).round(6).tolist(), (100.0 * points[:, 0]).round(4).tolist()
