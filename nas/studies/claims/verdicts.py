"""Verdicts from figures, by rules that stand here: nothing is typed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

from nas.compare.records import Estimate

CONFIRMED, REFUTED, UNDECIDED, NOT_TESTABLE = "confirmed", "refuted", "undecided", "not testable"
MIXED = "mixed"
"""Findings, or devices, contradict each other."""
MOST = 0.8
"""Share of a device's findings, and of the devices, that must say the same, of those that decide."""
FEWEST_DEVICES = 2
_RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """From which value on a figure confirms a claim, and from which on it refutes it.

    An interval must not reach the other one's value. Whichever of the two is larger says which way is which.
    """

    confirmed: float
    refuted: float

    def verdict(self, figure: Estimate) -> str:
        """
        >>> Rule(confirmed=0.05, refuted=0.0).verdict(Estimate(value=0.3, low=0.1, high=0.4))
        'confirmed'
        >>> Rule(confirmed=0.0, refuted=0.05).verdict(Estimate(value=0.3, low=-0.1, high=0.4))
        'undecided'
        """
        if isnan(figure.value):
            return NOT_TESTABLE
        sign = 1.0 if self.confirmed > self.refuted else -1.0
        value = sign * figure.value
        low, high = sorted((sign * _or(figure.low, figure.value), sign * _or(figure.high, figure.value)))
        if value >= sign * self.confirmed and low > sign * self.refuted:
            return CONFIRMED
        if value <= sign * self.refuted and high < sign * self.confirmed:
            return REFUTED
        return UNDECIDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one device, or one runtime on it, says of a claim.

    Attributes:
        claim: its name.
        device: a machine; several findings of a claim can be of one.
        group: devices that belong together in the short table; the runtime and dtype of what was measured.
        figure: with its interval of 95 %; what it is stands at the claim.
        num_values: it is of so many networks, kernels or pairs.
        verdict: of this device alone.
        note: what else there is to say of it.
    """

    claim: str
    device: str
    group: str
    figure: Estimate
    num_values: int
    verdict: str
    note: str = ""


def by_device(findings: Sequence[Finding]) -> dict[str, str]:
    """The verdict of each device that could be tested: undecided unless half of its findings decide, else what `MOST`
    of those say."""
    told = [finding for finding in findings if finding.verdict != NOT_TESTABLE]
    found = {}
    for device in dict.fromkeys(finding.device for finding in told):
        verdicts = [finding.verdict for finding in told if finding.device == device]
        decided = [verdict for verdict in verdicts if verdict != UNDECIDED]
        found[device] = _most(decided) if 2 * len(decided) >= len(verdicts) else UNDECIDED
    return found


def overall(findings: Sequence[Finding]) -> str:
    """Of a claim: what `MOST` of the devices say that decide it; not testable with fewer than `FEWEST_DEVICES`."""
    decided = [verdict for verdict in by_device(findings).values() if verdict != UNDECIDED]
    return _most(decided) if len(decided) >= FEWEST_DEVICES else NOT_TESTABLE


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], count: int, num_resamples: int = _RESAMPLES) -> Estimate:
    """A statistic of `count` things and its interval: things are drawn anew.

    Args:
        statistic: of those at the given positions.
    """
    if count < 3:
        return Estimate(value=nan, low=nan, high=nan)
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(0, count, count)) for _ in range(num_resamples)]
    low, high = np.nanquantile(drawn, (0.025, 0.975)) if not np.isnan(drawn).all() else (nan, nan)
    return Estimate(value=statistic(np.arange(count)), low=float(low), high=float(high))


def median_of(values_K: Floats, num_resamples: int = _RESAMPLES) -> Estimate:
    """The median of some values and its interval."""
    return bootstrap(lambda drawn: float(np.median(values_K[drawn])), len(values_K), num_resamples)


def share(successes: int, count: int) -> Estimate:
    """A share and Wilson's interval of 95 % (E. B. Wilson, 1927, JASA 22).

    >>> found = share(8, 10)
    >>> round(found.low, 3), round(found.high, 3)
    (0.49, 0.943)
    """
    if not count:
        return Estimate(value=nan, low=nan, high=nan)
    z = 1.959964
    value = successes / count
    middle = (value + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(value * (1 - value) / count + z**2 / (4 * count**2))
    return Estimate(value=value, low=float(middle - half), high=float(middle + half))


# ------------------------------------------------------------------------------------------------------------ private


def _most(verdicts: Sequence[str]) -> str:
    for verdict in (CONFIRMED, REFUTED):
        if verdicts.count(verdict) >= MOST * len(verdicts):
            return verdict
    return MIXED


def _or(value: float, instead: float) -> float:
    return instead if isnan(value) else value
