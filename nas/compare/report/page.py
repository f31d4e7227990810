"""report.html: one file with everything in it, readable without a network."""

import importlib.metadata
import platform
from collections.abc import Iterable, Sequence
from html import escape
from math import isnan

from nas.compare.judging import NEAR
from nas.compare.records import Comparison, Estimate
from nas.compare.report import figures
from nas.compare.report.curves import accuracy_bands, latency_bands, whys_of
from nas.compare.report.sentences import (
    front_sentence,
    headline,
    limit_ratios,
    limit_sentences,
    main_versus,
    not_claimed,
    other_versus,
    sentence_of,
    sweep_sentence,
    unknown_sentence,
    why_sentences,
    yardstick_line,
)
from nas.compare.report.wording import (
    accuracy_text,
    negated,
    number_text,
    p_text,
    percent_text,
    points_text,
    signed_percent_text,
    times_text,
)
from nas.objectives import metric_named
from nas.task import MARGIN
from predictors.explanation import text
from predictors.explanation.document import document, figure_html, section, table

_NARROW = (
    "<style>.narrow thead th { white-space: normal; vertical-align: bottom; max-width: 9em; } "
    ".narrow td, .narrow th { padding-right: 9px; }</style>"
)
_DISTRIBUTIONS = ("ridgeline-nas", "optuna", "numpy", "scipy", "plotly")


def page(comparison: Comparison, *, command: str, config_text: str, pictures: Sequence[str] = ()) -> str:
    """The whole report as one HTML text. `pictures`: names of PNG files that lie beside it."""
    title = f"What to search by: {comparison.space_name} on {comparison.title}"
    sections = (
        _lead(comparison),
        section("Standings", _standings(comparison)),
        section("What each strategy finds", _fronts(comparison)),
        section("How much of the best known front is covered", _hypervolume(comparison)),
        section(f"Latency at equal {comparison.judged}", _latency(comparison)),
        section(f"{_capital(comparison.judged)} at equal latency", _accuracy(comparison)),
        section("With an unlimited budget", _limits(comparison)),
        section("Why", _why(comparison)),
        section("From which ridge point on latency is worth choosing by", _sweep(comparison)),
        section("What is not claimed", _items(not_claimed(comparison))),
        section("How this was made", _how(comparison, command, config_text, pictures)),
    )
    return document(title, "".join(sections))


# ----------------------------------------------------------------------------------------------------------- sections


def _lead(comparison: Comparison) -> str:
    others = "".join(f"<p>{_prose(sentence_of(each, comparison))}</p>" for each in other_versus(comparison))
    versus = main_versus(comparison)
    along = f"<p>{_prose(front_sentence(versus, comparison))}</p>" if versus else ""
    unknown = unknown_sentence(comparison)
    return (
        f"<p>{_prose(yardstick_line(comparison))}</p>"
        f'<p class="lead"><b>{_prose(headline(comparison))}</b></p>{along}{others}'
        f"{f'<p>{_prose(unknown)}</p>' if unknown else ''}"
        f'<p class="note">{escape(_made_of(comparison))} A network that takes 10 % less time than another is called '
        "10 % "
        "faster. Intervals in brackets are of 95 %.</p>"
    )


def _made_of(comparison: Comparison) -> str:
    number = len(comparison.seeds)
    return (
        f"{len(comparison.strategies)} strategies, each with {number} seed{'s' if number > 1 else ''} of "
        f"{comparison.num_trials:,} evaluated networks of {comparison.space_name}, by the sampler {comparison.sampler}."
    )


def _standings(comparison: Comparison) -> str:
    header = [
        "strategy", "hypervolume (%)", "p", f"time at equal {comparison.judged}", "p",
        f"{comparison.judged} at equal latency (points)", "front, useful", "best found", "near the best",
        f"best {comparison.judged} (%)", "search (s)",
    ]  # fmt: skip
    rows = []
    for strategy in comparison.strategies:
        standing, versus = comparison.standings[strategy.name], comparison.versus.get(strategy.name)
        none = "baseline" if versus is None else "none in common"
        rows.append(
            [
                f"<b>{escape(strategy.name)}</b>",
                _cell(number_text(standing.hypervolume, 100.0)),
                p_text(versus.hypervolume_p_holm) if versus else "",
                _cell(signed_percent_text(versus.latency_ratio)) if versus and versus.latency_ratio else none,
                p_text(versus.latency_p_holm) if versus else "",
                _cell(points_text(negated(versus.error_difference))) if versus else none,
                f"{standing.front_size.value:.0f}, {standing.useful_size.value:.0f}",
                "not known" if standing.found is None else _cell(percent_text(standing.found)),
                _cell(percent_text(standing.near)),
                _cell(_best_text(standing.least_error)),
                _cell(number_text(standing.seconds)),
            ]
        )
    looks = "; ".join(
        f"{escape(each.name)} looks at {escape(_looks_at(each.objectives, each.is_random))}"
        for each in comparison.strategies
    )
    return (
        f"<p>All beside <b>{escape(comparison.baseline)}</b>, paired by seed. Of time less is better, of all else "
        "more. p is of Wilcoxon's signed-rank test, after Holm's correction for all strategies; differences count "
        "where it is below 0.05.</p>"
        f'{_NARROW}<div class="narrow">{table(header, rows, numbers=range(1, len(header)))}</div>'
        f'<p class="note">{looks}. <a href="compare.csv">compare.csv</a> has all of it, '
        '<a href="fronts.csv">fronts.csv</a> every chosen network. What the columns mean stands at the end.</p>'
    )


def _fronts(comparison: Comparison) -> str:
    number = len(comparison.seeds)
    half = (
        f"Each line is the median of {number} searches: half of them find a network at least as good. Within the band "
        "lie the middle half of the searches. "
        if number > 1
        else "Each line is one search. "
    )
    limits = (
        "Thin and dashed is what an unlimited budget would choose by the same objectives, seen by the same yardstick. "
        if comparison.limits
        else ""
    )
    caption = (
        f"Upper left is better. {half}{limits}Dotted is the best known front: {escape(comparison.best.text)}. A click "
        "on a name of the legend hides it, dragging zooms, a double click goes back."
    )
    return f"<p>{caption}</p>{figure_html(figures.fronts_figure(comparison))}"


def _hypervolume(comparison: Comparison) -> str:
    error, seconds = comparison.reference_point
    known = any(standing.evaluated_hypervolume for standing in comparison.standings.values())
    evaluated = (
        " A triangle is what a strategy would have reached with all that it evaluated, had it known the latencies: the "
        "way from the diamond to it is lost by choosing, the rest by searching."
        if known
        else ""
    )
    return (
        "<p>Further right is better: the area between a front and the corner at "
        f"{escape(accuracy_text(error, comparison.judged))} and {text.number_text(1e3 * seconds)} ms, of which the "
        f"best known front has 100 %. A dot is a seed, a diamond the mean with its interval.{evaluated}</p>"
        f"{figure_html(figures.hypervolume_figure(comparison))}"
    )


def _latency(comparison: Comparison) -> str:
    if not latency_bands(comparison):
        return (
            f"<p>No {escape(comparison.judged)} is reached by all seeds of a strategy and of "
            f"{escape(comparison.baseline)}, so there is nothing to hold against each other.</p>"
        )
    sentences = _items(front_sentence(each, comparison) for each in comparison.versus.values())
    return (
        f"<p>Below the line of {escape(comparison.baseline)} is faster: the time of the fastest network of at least "
        f"that {escape(comparison.judged)}, beside the baseline's with the same seed. {_bands_text(comparison)}</p>"
        f"{figure_html(figures.latency_figure(comparison))}{sentences}"
    )


def _accuracy(comparison: Comparison) -> str:
    if not accuracy_bands(comparison):
        return "<p>There is no latency within which all seeds have a network, so there is nothing to compare.</p>"
    return (
        f"<p>Above the line of {escape(comparison.baseline)} is better: the best {escape(comparison.judged)} within "
        f"that latency, beside the baseline's with the same seed. {_bands_text(comparison)}</p>"
        f"{figure_html(figures.accuracy_figure(comparison))}"
    )


def _bands_text(comparison: Comparison) -> str:
    if len(comparison.seeds) < 2:
        return "With one seed there is no interval."
    return "Lines are means over seeds, bands their intervals."


def _limits(comparison: Comparison) -> str:
    if not comparison.limits:
        return (
            "<p>Exact fronts of the error against one cost could not be computed here, so what the wrong objective "
            "costs by itself, without the luck of a search, is not known.</p>"
        )
    best = len(comparison.best.losses_B2)
    rows = [
        [
            f"<b>{escape(name)}</b>",
            escape(_looks_at(_objectives(comparison, name), False)),
            f"{len(limit.archs) + limit.num_unknown:,}",
            f"{len(limit.useful):,}",
            signed_percent_text(_single(ratio)) if not isnan(ratio) else "none in common",
        ]
        for (name, limit), ratio in zip(comparison.limits.items(), limit_ratios(comparison).values())
    ]
    header = ["strategy", "looks at", "chosen", "useful", "time beside the best known front"]
    return (
        f"<p>What a search with these objectives would choose that looked at every network of the space: no seeds, no "
        f"luck, only the price of the objective itself. The best known front has {best:,} networks.</p>"
        f"{table(header, rows, numbers=(2, 3, 4))}{_items(limit_sentences(comparison))}"
    )


def _why(comparison: Comparison) -> str:
    if not comparison.whys:
        return "<p>The chosen networks were not looked into.</p>"
    sentences = "".join(f"<p>{_prose(sentence)}</p>" for sentence in why_sentences(comparison))
    whys = whys_of(comparison)
    header = ["strategy", "M MACs", "MB moved", "FLOP/byte", "kernels", "depthwise: time", "MACs", "networks"]
    rows = [
        [
            f"<b>{escape(each.strategy)}</b>",
            _cell(number_text(each.macs, 1e-6)),
            _cell(number_text(each.traffic_bytes, 1e-6)),
            _cell(number_text(each.intensity)),
            _cell(number_text(each.num_kernels)),
            _cell(percent_text(each.depthwise_time)),
            _cell(percent_text(each.depthwise_macs)),
            f"{each.num_networks:,}",
        ]
        for each in whys
    ]
    return (
        f"{sentences}<p>A bar is the time of a strategy's networks, split by what bounds their kernels: arithmetic, "
        f"moving data, being launched.</p>{figure_html(figures.bounds_figure(comparison))}"
        "<p>Left of the dashed line a network as a whole moves too much data for the device's arithmetic to be "
        f"busy.</p>{figure_html(figures.intensity_figure(comparison))}"
        "<p>Depthwise convolutions do little with each byte: where the blue bar is much longer than the grey one, they "
        f"cost much more time than MACs.</p>{figure_html(figures.depthwise_figure(comparison))}"
        f"{table(header, rows, numbers=range(1, len(header)))}"
        '<p class="note">Predicted kernel by kernel, also where latencies were measured: means over networks spread '
        "along each front, then over seeds.</p>"
    )


def _sweep(comparison: Comparison) -> str:
    sweep = comparison.sweep
    if sweep is None or not sweep.points:
        return "<p>The device's bandwidth was not swept.</p>"
    rows = [
        [
            times_text(point.factor),
            text.number_text(point.ridge_point),
            signed_percent_text(_single(point.latency_ratio)),
            text.share_text(point.memory_share),
        ]
        for point in sweep.points
    ]
    header = [
        "bandwidth, times the device's",
        "ridge point (FLOP/byte)",
        "time beside choosing by MACs",
        "memory-bound",
    ]
    return (
        f"<p>{_prose(sweep_sentence(comparison))}</p><p>The same device with slower (right) and faster memory (left), "
        "all else equal, and networks chosen anew for each. Above: the time that networks chosen by latency save "
        f"beside networks chosen by MACs, at equal {escape(comparison.judged)}. Below: how much of their time is "
        f"bound by memory. {escape(_capital(sweep.text).rstrip('.'))}.</p>"
        f"{figure_html(figures.sweep_figure(comparison))}"
        f"<details><summary>All points</summary>{table(header, rows, numbers=range(4))}</details>"
    )


def _how(comparison: Comparison, command: str, config_text: str, pictures: Sequence[str]) -> str:
    versions = {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}
    facts = {
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "seeds": ", ".join(map(str, comparison.seeds)),
        "evaluated networks of a search": f"{comparison.num_trials:,}",
        "sampler": comparison.sampler,
    }
    files = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in pictures)
    return (
        f"<h3>Command</h3><pre>{escape(command)}</pre><h3>Versions and seeds</h3>"
        f"{table(['what', 'value'], [[escape(name), escape(value)] for name, value in facts.items()])}"
        f"<h3>What the figures are</h3>{_definitions(comparison)}"
        f"{f'<p>The pictures as PNG: {files}.</p>' if files else ''}"
        f"<details><summary>Composed config</summary><pre>{escape(config_text)}</pre></details>"
    )


def _definitions(comparison: Comparison) -> str:
    error, seconds = comparison.reference_point
    judged = escape(comparison.judged)
    rows = {
        "chosen": "the networks on a search's own front, in its own objectives: what its user would take home. The "
        "yardstick then sees them as error against latency",
        "hypervolume": "area that the chosen networks dominate below an error of "
        f"{100 * error:.3g} % and {text.number_text(1e3 * seconds)} ms ({MARGIN:g} times the worst of the best known "
        "front, without networks that err more than twice as much as its best), over the best known front's",
        f"time at equal {judged}": "ln(L / L of the baseline) with the same seed, L(e) the least latency among a "
        "front's networks that err at most e; the mean over 50 evenly spaced errors that all seeds of both reach, as "
        "a ratio",
        f"{judged} at equal latency": "E(t), the least error among a front's networks that take at most t, beside the "
        "baseline's with the same seed: the mean over 50 latencies, evenly spaced in their logarithm",
        "front, useful": "networks on the search's own front, and those of them that no other of it beats in both "
        "error and latency, as means",
        "best found": "share of the best known front's networks that a search chose",
        "near the best": "share of the useful networks that take at most "
        f"{text.share_text(NEAR)} longer than the best known front at their error",
        "best known front": f"{escape(comparison.best.text)}: {len(comparison.best.losses_B2):,} networks",
        "interval": "95 %, by bootstrap over seeds (expanded percentiles: Hesterberg 2015); below six, Student's t",
        "p": "Wilcoxon's signed-rank test over seeds, two-sided, after Holm's correction for "
        f"{len(comparison.versus)} comparison{'s' if len(comparison.versus) != 1 else ''} with the baseline; at least "
        f"{comparison.num_seeds_needed} seeds are needed for it to be able to fall below 0.05",
        "a claim": f"that a strategy is faster or slower is only claimed where the interval at the headline's {judged} "
        "excludes that there is no difference, and p of the whole front is below 0.05",
        "memory-bound": "of a kernel: moving its data takes longer than its arithmetic; compute-bound: the other way "
        "round; launch-bound: starting it takes longest",
        "ridge point": "peak FLOP/s over the bandwidth of the memory that holds everything: "
        f"{text.number_text(comparison.ridge_point)} FLOP/byte here",
    }
    return table(["figure", "is"], [[f"<b>{name}</b>", meaning] for name, meaning in rows.items()], texts=(1,))


# -------------------------------------------------------------------------------------------------------------- pieces


def _prose(sentence: str) -> str:
    """No line begins with a sign of per cent."""
    return escape(sentence).replace(" %", "&nbsp;%")


def _items(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_prose(sentence)}</li>' for sentence in sentences if sentence)}</ul>"


def _cell(shown: str) -> str:
    """An interval under its value: columns stay narrow."""
    value, bracket, interval = shown.partition(" (")
    return f'{escape(value)}<br><span class="note">{escape(interval.rstrip(")"))}</span>' if bracket else escape(shown)


def _looks_at(objectives: Sequence[str], is_random: bool) -> str:
    if is_random:
        return "nothing: it draws, and error and latency choose among what was drawn"
    return ", ".join(metric_named(name).title for name in objectives)


def _objectives(comparison: Comparison, name: str) -> tuple[str, ...]:
    return next(each.objectives for each in comparison.strategies if each.name == name)


def _best_text(error: Estimate) -> str:
    """As accuracy in per cent; seeds that all have the most accurate network of the space have no interval."""
    if not error.low < error.high:
        return "not known" if isnan(error.value) else f"{100.0 * (1.0 - error.value):.2f}"
    return number_text(Estimate(value=1.0 - error.value, low=1.0 - error.high, high=1.0 - error.low), 100.0)


def _single(ratio: float) -> Estimate:
    return Estimate(value=ratio, low=float("nan"), high=float("nan"))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
