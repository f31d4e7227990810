"""Whether a difference is claimed: only where the interval and the rank test both say so."""

from enum import Enum
from math import isfinite, isnan

from nas.compare.records import Comparison, Estimate, Versus
from nas.compare.report.wording import p_text

SIGNIFICANT = 0.05


class Verdict(Enum):
    """What is claimed of a strategy's latency at equal accuracy beside the baseline's; the values stand in tables."""

    FASTER = "faster"
    SLOWER = "slower"
    NO_DIFFERENCE = "no difference found"
    TOO_FEW_SEEDS = "too few seeds to tell"
    NOTHING_IN_COMMON = "no accuracy in common"


def verdict_of(versus: Versus, comparison: Comparison) -> Verdict:
    """A difference is claimed where the interval at the headline's accuracy excludes that there is none, the rank test
    of the whole front does so too after Holm's correction, and both point the same way.
    """
    if versus.latency_ratio is None or versus.headline_ratio is None:
        return Verdict.NOTHING_IN_COMMON
    if len(comparison.seeds) < comparison.num_seeds_needed:
        return Verdict.TOO_FEW_SEEDS
    side = _side(versus.headline_ratio)
    along = 1 if versus.latency_ratio.value > 1.0 else -1
    if isnan(versus.latency_p_holm) or versus.latency_p_holm >= SIGNIFICANT or side != along:
        return Verdict.NO_DIFFERENCE
    return Verdict.FASTER if side < 0 else Verdict.SLOWER


def reason_of(versus: Versus, comparison: Comparison) -> str:
    """Why nothing is claimed; empty where something is."""
    verdict = verdict_of(versus, comparison)
    if verdict is Verdict.NOTHING_IN_COMMON:
        return (
            f"no {comparison.judged} is reached by the fronts of all seeds of both, so their latencies cannot be held "
            "against each other at equal accuracy"
        )
    if verdict is Verdict.TOO_FEW_SEEDS:
        number, needed = len(comparison.seeds), comparison.num_seeds_needed
        return (
            f"{number} seed{'s' if number > 1 else ''} cannot tell a difference from chance: at least {needed} are "
            f"needed for {len(comparison.versus)} comparison{'s' if len(comparison.versus) > 1 else ''}"
        )
    if verdict is not Verdict.NO_DIFFERENCE:
        return ""
    assert versus.headline_ratio is not None
    assert versus.latency_ratio is not None
    reasons = []
    if not _side(versus.headline_ratio):
        reasons.append("the interval includes no difference")
    if isnan(versus.latency_p_holm):
        reasons.append("there is nothing to rank, as their fronts are equally fast")
    elif versus.latency_p_holm >= SIGNIFICANT:
        reasons.append(f"the rank test of the whole front gives p = {p_text(versus.latency_p_holm)}")
    return " and ".join(reasons) or "that is one way there and the other way along the whole front"


# ------------------------------------------------------------------------------------------------------------ private


def _side(ratio: Estimate) -> int:
    """-1 where the whole interval lies below 1, 1 where above, 0 where it has 1 in it or is not known."""
    if not (isfinite(ratio.low) and isfinite(ratio.high)):
        return 0
    return -1 if ratio.high < 1.0 else 1 if ratio.low > 1.0 else 0
