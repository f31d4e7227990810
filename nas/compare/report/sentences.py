"""What a comparison says, in sentences: every word that judges is chosen by the numbers."""

from collections.abc import Sequence
from math import exp, isfinite, isnan

from nas.compare.judging import single_versus
from nas.compare.records import Comparison, Estimate, Sweep, SweepPoint, Versus, Why
from nas.compare.report.verdict import Verdict, reason_of, verdict_of
from nas.compare.report.wording import accuracy_text, change_text, negated, p_text, points_change_text
from nas.objectives import metric_named
from predictors.explanation.text import bytes_text, count_text, number_text, share_text

MAIN = "memory_aware"
"""Whose sentence comes first, where it was compared."""

BOUND_WORDS = {
    "compute": "in compute-bound kernels",
    "memory": "in memory-bound kernels",
    "launch": "in launch-bound kernels",
    "overhead": "between kernels",
}
_SAME = 0.02
"""Means that differ by less are called the same."""


def yardstick_line(comparison: Comparison) -> str:
    """The first line of a report: what latency is judged by."""
    apart = "" if comparison.is_measured else " No latency here was measured: the figures are as good as the predictor."
    return f"Judged by {comparison.yardstick_text.rstrip('.')}.{apart}"


def headline(comparison: Comparison) -> str:
    """The sentence that a manager reads: of `memory_aware`, else of the first strategy beside the baseline."""
    versus = main_versus(comparison)
    if versus is None:
        return (
            f"On {comparison.title}, only {comparison.baseline} was searched by: with one more strategy there is a "
            "comparison."
        )
    return sentence_of(versus, comparison)


def main_versus(comparison: Comparison) -> Versus | None:
    """Whose sentence the headline is; None where there is only the baseline."""
    return comparison.versus.get(MAIN) or next(iter(comparison.versus.values()), None)


def other_versus(comparison: Comparison) -> list[Versus]:
    """All but the headline's."""
    return [each for each in comparison.versus.values() if each is not main_versus(comparison)]


def sentence_of(versus: Versus, comparison: Comparison) -> str:
    """Latency at the headline's accuracy: what is claimed, or that nothing is, and why.

    'On mobile_gpu, at 75.5 % top-1, memory_aware search finds networks 11 % faster (7 to 15 %) than flops_only search.'
    """
    ours, theirs = versus.strategy, versus.baseline
    verdict = verdict_of(versus, comparison)
    if versus.headline_ratio is None or versus.headline_error is None:
        return f"On {comparison.title}, {ours} and {theirs} search cannot be compared: {reason_of(versus, comparison)}."
    place = f"On {comparison.title}, at {accuracy_text(versus.headline_error, comparison.judged)}"
    found = change_text(versus.headline_ratio, "faster", "slower", "just as fast")
    if verdict in (Verdict.FASTER, Verdict.SLOWER):
        amount, word, interval = found.partition(f" {verdict.value}")
        return f"{place}, {ours} search finds networks {amount}{interval} {word.strip()} than {theirs} search."
    over = f"over {len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "with one seed"
    what = "nothing can be claimed" if verdict is Verdict.TOO_FEW_SEEDS else "no clear difference was found"
    return (
        f"{place}, {what} between {ours} and {theirs} search: {over} {ours}'s networks were {found}, but "
        f"{reason_of(versus, comparison)}."
    )


def front_sentence(versus: Versus, comparison: Comparison) -> str:
    """Along the whole front: latency at equal accuracy, accuracy at equal latency, hypervolume."""
    parts = []
    if versus.latency is not None and versus.latency_ratio is not None:
        errors, judged = versus.latency.places_P, comparison.judged
        low, high = 100.0 * (1.0 - float(errors.max())), 100.0 * (1.0 - float(errors.min()))
        change = change_text(versus.latency_ratio, "less time", "more time", "just as long")
        corrected = f"{p_text(versus.latency_p_holm)} after Holm's correction"
        p_values = "" if isnan(versus.latency_p) else f" (p = {p_text(versus.latency_p)}, {corrected})"
        parts.append(
            f"Along the whole front, from {low:.1f} to {high:.1f} % {judged}, {versus.strategy}'s networks take "
            f"{change} on average{p_values}"
        )
    if isfinite(versus.error_difference.value):
        change = points_change_text(negated(versus.error_difference), "lower", "higher", "the same")
        parts.append(f"{'at' if parts else 'At'} equal latency their {comparison.judged} is {change}")
    return f"{'; '.join(parts)}." if parts else ""


def unknown_sentence(comparison: Comparison) -> str:
    """How many chosen networks the yardstick does not know; empty where it knows them all."""
    unknown = {
        strategy: number
        for strategy, chosen in comparison.chosen.items()
        if (number := sum(each.num_unknown for each in chosen))
    }
    if not unknown:
        return ""
    total = sum(len(each.archs) + each.num_unknown for chosen in comparison.chosen.values() for each in chosen)
    by_strategy = ", ".join(f"{number:,} by {strategy}" for strategy, number in unknown.items())
    return (
        f"The latency of {sum(unknown.values()):,} of the {total:,} chosen networks is not known ({by_strategy}): they "
        "are left out, as if they had not been found."
    )


# ------------------------------------------------------------------------------------------------------------- limits


def limit_ratios(comparison: Comparison) -> dict[str, float]:
    """By strategy: seconds of what an unlimited budget chooses over the best known front's, at equal accuracy."""
    best_F2 = comparison.best.losses_B2
    return {
        name: exp(single_versus(limit.useful, best_F2, comparison.best)) for name, limit in comparison.limits.items()
    }


def limit_sentences(comparison: Comparison) -> list[str]:
    """The price of the wrong objective itself: no seeds, no noise. Empty where nothing of it can be computed."""
    sentences = []
    for name, ratio in limit_ratios(comparison).items():
        by = _objectives_text(comparison, name)
        start = f"With an unlimited budget, choosing by {by} ({name}) finds networks that"
        if not isfinite(ratio):
            sentences.append(f"{start} reach no accuracy of the best known front.")
            continue
        change = change_text(Estimate(value=ratio, low=float("nan"), high=float("nan")), "less", "more", "")
        took = f"take {change} time than" if change else "are as fast as"
        sentences.append(f"{start} {took} the best known front's at equal {comparison.judged}, on average along it.")
    return sentences


# --------------------------------------------------------------------------------------------------------------- why


def why_sentences(comparison: Comparison) -> list[str]:
    """The mechanism, from the means over the chosen networks: where the time goes, how work and data differ, and
    whether that goes along with the difference in latency. Empty where the networks were not looked into.
    """
    versus = main_versus(comparison)
    base = comparison.whys.get(comparison.baseline)
    ours = comparison.whys.get(versus.strategy) if versus else None
    if base is None or ours is None or versus is None:
        return []
    return [
        _time_sentence(base, comparison),
        _data_sentence(base, ours, comparison),
        _depthwise_sentence(base, ours),
        _fit_sentence(base, ours, versus, comparison),
    ]


# -------------------------------------------------------------------------------------------------------------- sweep


def sweep_sentence(comparison: Comparison) -> str:
    """From which ridge point on choosing by latency pays, and where the device stands; empty without a sweep."""
    sweep = comparison.sweep
    if sweep is None or not sweep.points:
        return ""
    gain, device = share_text(sweep.gain), comparison.device_name
    own = sweep.own
    here = change_text(
        Estimate(value=own.latency_ratio, low=float("nan"), high=float("nan")), "less time", "more time", "just as long"
    )
    stands = (
        f"{device} itself has {number_text(own.ridge_point)} FLOP/byte, where networks chosen by latency take {here}."
        if here != "just as long"
        else f"{device} itself has {number_text(own.ridge_point)} FLOP/byte, where both choose equally fast networks."
    )
    low, high = (number_text(sweep.points[at].ridge_point) for at in (0, -1))
    span = f"from {low} to {high} FLOP/byte"
    if sweep.pays_from is not None:
        start = (
            f"Choosing by latency rather than by MACs saves at least {gain} of the time from a ridge point of "
            f"{number_text(sweep.pays_from)} FLOP/byte on"
        )
        falls = _falls_back(sweep, sweep.pays_from)
        return f"{start}{falls}. {stands}"
    pays = [_pays(point, sweep) for point in sweep.points]
    if all(pays):
        return f"Choosing by latency rather than by MACs saves at least {gain} at all ridge points {span}. {stands}"
    if not any(pays):
        return f"Choosing by latency rather than by MACs saves {gain} at none of the ridge points {span}. {stands}"
    last = sum(pays) - 1
    if all(pays[: last + 1]):
        where = f"up to a ridge point of {number_text(sweep.points[last].ridge_point)} FLOP/byte, and not beyond it"
    else:
        which = [number_text(point.ridge_point) for point, does in zip(sweep.points, pays) if does]
        where = f"at ridge points of {_listed(which)} FLOP/byte, and not at others"
    return f"Choosing by latency rather than by MACs saves at least {gain} {where} ({span}). {stands}"


# ------------------------------------------------------------------------------------------------------------ claimed


def not_claimed(comparison: Comparison) -> list[str]:
    """What the report does not say, and why."""
    found = []
    for versus in comparison.versus.values():
        if reason := reason_of(versus, comparison):
            found.append(f"That {versus.strategy} differs from {versus.baseline} in latency: {reason}.")
    if len(comparison.seeds) < 2:
        found.append("Intervals: they need at least two seeds.")
    if not comparison.is_measured:
        looked = [each.name for each in comparison.strategies if "latency_s" in each.objectives]
        told = f"; {_listed(looked)} looked at the very predictions that all are judged by" if looked else ""
        found.append(f"That the device would agree: all latencies are predictions{told}.")
    if unknown := unknown_sentence(comparison):
        found.append(f"That all chosen networks count. {unknown}")
    if any(standing.found is None for standing in comparison.standings.values()):
        found.append("The share of the best known front's networks that was found: only its losses are known.")
    if missing := [each.name for each in comparison.strategies if each.name not in comparison.limits]:
        found.append(
            f"What an unlimited budget would choose by {_listed(missing)}: exact fronts are computed for the error "
            "against one cost, where the space and the accuracy allow it."
        )
    if comparison.sweep is None:
        found.append("From which ridge point on latency is worth choosing by: the bandwidth was not swept.")
    if len(comparison.versus) > 1:
        found.append("Anything about two strategies of which neither is the baseline: only pairs with it are tested.")
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _time_sentence(base: Why, comparison: Comparison) -> str:
    shares = base.bound_shares
    order = sorted((name for name in BOUND_WORDS if shares.get(name, 0.0) > 0.0005), key=lambda name: -shares[name])
    first, *rest = (f"{share_text(shares[name])} of their time {BOUND_WORDS[name]}" for name in order)
    spent = _listed([first, *(text.replace(" of their time", "") for text in rest)])
    text = f"The networks that {base.strategy} chose spend {spent}."
    if "macs" in _objectives(comparison, base.strategy):
        compute = shares.get("compute", 0.0)
        text += f" MACs, which it looked at, set the pace of {share_text(compute)} of the time"
        text += ", the smaller part." if compute < 0.5 else ", the larger part."
    return text


def _data_sentence(base: Why, ours: Why, comparison: Comparison) -> str:
    """Traffic and kernels are told for as many MACs: the networks of the two fronts are not of one size."""
    ridge = comparison.ridge_point
    pair = f"{number_text(ours.intensity.value)} against {number_text(base.intensity.value)} FLOP/byte"
    compared = _compared(ours.intensity, base.intensity)
    change = (
        f"{share_text(abs(ours.intensity.value / base.intensity.value - 1.0))} {compared}" if compared else "as much"
    )
    text = f"Those of {ours.strategy} do {change} work for each byte that they move ({pair})"
    below = [why.intensity.value < ridge for why in (ours, base)]
    side = (
        "both below"
        if all(below)
        else "both above"
        if not any(below)
        else f"{(ours if below[0] else base).strategy}'s below and {(base if below[0] else ours).strategy}'s above"
    )
    memory = [share_text(why.bound_shares.get("memory", 0.0)) for why in (ours, base)]
    sizes = " and ".join(
        f"{count_text(why.macs.value)} MACs, {bytes_text(why.traffic_bytes.value)} and "
        f"{why.num_kernels.value:.0f} kernels with {why.strategy}"
        for why in (ours, base)
    )
    return (
        f"{text}, {side} the ridge point of {number_text(ridge)}; memory bounds {memory[0]} of their time against "
        f"{memory[1]}. A network has {sizes}, on average."
    )


def _depthwise_sentence(base: Why, ours: Why) -> str:
    if not (base.depthwise_macs.value or ours.depthwise_macs.value):
        return "None of the chosen networks has a depthwise convolution."
    texts = [
        f"{share_text(why.depthwise_time.value)} of the time for {share_text(why.depthwise_macs.value)} of the MACs "
        f"with {why.strategy}"
        for why in (ours, base)
    ]
    return f"Depthwise convolutions take {texts[0]}, {texts[1]}."


def _fit_sentence(base: Why, ours: Why, versus: Versus, comparison: Comparison) -> str:
    """Whether intensity goes along with latency; what goes along need not be the cause, and is not called so."""
    verdict = verdict_of(versus, comparison)
    compared = _compared(ours.intensity, base.intensity)
    intensity = f"{compared} work for each byte" if compared else "as much work for each byte"
    if verdict not in (Verdict.FASTER, Verdict.SLOWER):
        return (
            f"No difference in latency is claimed, so there is none to explain, with {intensity}."
            if not compared
            else f"They do {intensity}, yet no difference in latency is claimed."
        )
    at = f"{verdict.value} at equal {comparison.judged}"
    if not compared:
        return f"They are {at} with {intensity}: the balance of work and data does not explain it."
    fits = (verdict is Verdict.FASTER) == (compared == "more")
    if fits:
        return f"They are {at} and do {intensity}: the two go together here."
    return f"They are {at} although they do {intensity}: moving less data for the same work does not explain it."


def _compared(ours: Estimate, theirs: Estimate) -> str:
    """'more', 'less', or nothing where means are within 2 % or their intervals overlap."""
    if abs(ours.value - theirs.value) <= _SAME * theirs.value:
        return ""
    if ours.low <= theirs.high and theirs.low <= ours.high:
        return ""
    return "more" if ours.value > theirs.value else "less"


def _objectives(comparison: Comparison, name: str) -> tuple[str, ...]:
    return next((each.objectives for each in comparison.strategies if each.name == name), ())


def _objectives_text(comparison: Comparison, name: str) -> str:
    titles = [metric_named(each).title for each in _objectives(comparison, name) if each != "error"]
    return f"{_listed(titles)} alone" if titles else "nothing but the error"


def _pays(point: SweepPoint, sweep: Sweep) -> bool:
    return 1.0 - point.latency_ratio >= sweep.gain


def _falls_back(sweep: Sweep, pays_from: float) -> str:
    beyond = [point for point in sweep.points if point.ridge_point >= pays_from and not _pays(point, sweep)]
    return f", with {len(beyond)} exceptions beyond it" if beyond else ""


def _listed(names: Sequence[str]) -> str:
    """'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
