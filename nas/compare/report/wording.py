"""Estimates, shares and p-values as a person reads them: no more digits than the interval allows, and never -0."""

from math import floor, isfinite, isnan, log10

from nas.compare.records import Estimate

_MOST_DECIMALS = 3


def percent_text(estimate: Estimate) -> str:
    """A share with its interval.

    >>> percent_text(Estimate(value=0.1123, low=0.0712, high=0.1534))
    '11 % (7 to 15 %)'
    >>> percent_text(Estimate(value=0.1123, low=float("nan"), high=float("nan")))
    '11 %'
    """
    if isnan(estimate.value):
        return "not known"
    value, low, high = _texts(estimate, 100.0)
    return f"{value} %" if not _has_interval(estimate) else f"{value} % ({low} to {high} %)"


def number_text(estimate: Estimate, scale: float = 1.0) -> str:
    """A figure with its interval, in units of `1 / scale`.

    >>> number_text(Estimate(value=14.2, low=12.61, high=15.9))
    '14 (13 to 16)'
    """
    if isnan(estimate.value):
        return "not known"
    value, low, high = _texts(estimate, scale)
    return value if not _has_interval(estimate) else f"{value} ({low} to {high})"


def change_text(ratio: Estimate, less: str, more: str, none: str) -> str:
    """What a ratio to another says, in words; an interval with 1 in it is told from both ends.

    >>> change_text(Estimate(value=0.89, low=0.85, high=0.93), "faster", "slower", "as fast")
    '11 % faster (7 to 15 %)'
    >>> change_text(Estimate(value=0.98, low=0.95, high=1.01), "faster", "slower", "as fast")
    '2 % faster (5 % faster to 1 % slower)'
    """
    away = Estimate(value=ratio.value - 1.0, low=ratio.low - 1.0, high=ratio.high - 1.0)
    return _words(away, " %", " %", less, more, none)


def points_change_text(difference: Estimate, less: str, more: str, none: str) -> str:
    """The same of a difference between two shares.

    >>> points_change_text(Estimate(value=0.0042, low=-0.0021, high=0.0113), "lower", "higher", "the same")
    '0.4 points higher (0.2 lower to 1.1 higher)'
    """
    return _words(difference, " points", "", less, more, none)


def points_text(difference: Estimate) -> str:
    """A difference of two shares in points, with its interval and signs.

    >>> points_text(Estimate(value=0.0042, low=0.0021, high=0.0063))
    '+0.4 (+0.2 to +0.6)'
    """
    if isnan(difference.value):
        return "not known"
    value, low, high = (_signed(text) for text in _texts(difference, 100.0))
    return value if not _has_interval(difference) else f"{value} ({low} to {high})"


def signed_percent_text(ratio: Estimate) -> str:
    """A ratio as its difference from 1.

    >>> signed_percent_text(Estimate(value=0.89, low=0.85, high=0.93))
    '-11 % (-15 to -7 %)'
    """
    away = Estimate(value=ratio.value - 1.0, low=ratio.low - 1.0, high=ratio.high - 1.0)
    value, low, high = (_signed(text) for text in _texts(away, 100.0))
    return f"{value} %" if not _has_interval(ratio) else f"{value} % ({low} to {high} %)"


def negated(estimate: Estimate) -> Estimate:
    """Of an error's difference, the accuracy's."""
    return Estimate(value=-estimate.value, low=-estimate.high, high=-estimate.low)


def p_text(p_value: float) -> str:
    """
    >>> [p_text(p_value) for p_value in (0.0234, 0.00195, 1e-5, float("nan"))]
    ['0.023', '0.002', '<0.001', 'not known']
    """
    if isnan(p_value):
        return "not known"
    return "<0.001" if p_value < 0.0005 else f"{p_value:.3f}" if p_value < 0.0995 else f"{p_value:.2f}"


def accuracy_text(error: float, judged: str) -> str:
    """
    >>> [accuracy_text(error, "top-1") for error in (0.245, 0.25, 0.2467)]
    ['75.5 % top-1', '75 % top-1', '75.33 % top-1']
    """
    return f"{100.0 * (1.0 - error):.2f}".rstrip("0").rstrip(".") + f" % {judged}"


def times_text(factor: float) -> str:
    """
    >>> [times_text(factor) for factor in (0.0625, 0.5, 1.0, 4.0)]
    ['1/16', '1/2', '1', '4']
    """
    over = 1.0 / factor
    return f"1/{over:.3g}" if factor < 1.0 and abs(over - round(over)) < 1e-6 else f"{factor:.3g}"


# ------------------------------------------------------------------------------------------------------------ private


def _words(away: Estimate, unit: str, bound_unit: str, less: str, more: str, none: str) -> str:
    value, low, high = (text.lstrip("-") for text in _texts(away, 100.0))
    words = [less if number < 0.0 else more for number in (away.value, away.low, away.high)]
    shown = none if not float(value) else f"{value}{unit} {words[0]}"
    if not _has_interval(away) or not (float(value) or float(low) or float(high)):
        return shown
    if away.low * away.high > 0.0:
        near, far = (low, high) if away.low > 0.0 else (high, low)
        return f"{shown} ({near} to {far}{bound_unit})"
    ends = [
        none if not float(text) else f"{text}{bound_unit} {word}" for text, word in ((low, words[1]), (high, words[2]))
    ]
    return f"{shown} ({ends[0]} to {ends[1]})"


def _has_interval(estimate: Estimate) -> bool:
    """Seeds that all say the same have none to tell."""
    return isfinite(estimate.low) and isfinite(estimate.high) and estimate.low < estimate.high


def _texts(estimate: Estimate, scale: float) -> tuple[str, str, str]:
    """The value and its bounds with as many decimals as tell them apart."""
    numbers = [scale * each for each in (estimate.value, estimate.low, estimate.high)]
    decimals = _decimals(*numbers)
    value, low, high = (_plain(f"{number:.{decimals}f}") for number in numbers)
    return value, low, high


def _decimals(value: float, low: float, high: float) -> int:
    """A bound that excludes 0 does not read 0, if two decimals more avoid that."""
    width = high - low
    size = width / 3.0 if isfinite(width) and width > 0.0 else abs(value) / 10.0
    decimals = min(max(-floor(log10(size)), 0), _MOST_DECIMALS) if size > 0.0 else 0
    nearest = min(abs(low), abs(high))
    if low * high > 0.0:
        for more in (1, 2):
            if float(f"{nearest:.{decimals}f}") == 0.0 < float(f"{nearest:.{decimals + more}f}"):
                return decimals + more
    return decimals


def _plain(text: str) -> str:
    """Without the sign of a zero."""
    return text.lstrip("-") if text.strip("-0.") == "" else text


def _signed(text: str) -> str:
    return text if text.startswith("-") or text.strip("0.") == "" else f"+{text}"
