"""Numbers as a person reads them."""

from math import floor, log10


def number_text(value: float) -> str:
    """At least three significant digits, never an exponent.

    >>> [number_text(value) for value in (0.012345, 3.14159, 42.25, 1234.5)]
    ['0.0123', '3.14', '42.2', '1234']
    """
    return f"{value:.{_decimals(value, 3)}f}" if value else "0"


def time_text(latency_s: float, std_s: float) -> str:
    """Two significant digits of the standard deviation, and as many decimals of the time.

    >>> time_text(3.14159e-3, 2.04e-4)
    '3.14 ± 0.20 ms'
    """
    digits = _decimals(1e3 * std_s, 2)
    return f"{1e3 * latency_s:.{digits}f} ± {1e3 * std_s:.{digits}f} ms"


def gain_text(gain_s: float, std_s: float, share: float) -> str:
    """What a change saves, with a minus sign, and its share of the network's time.

    >>> gain_text(4.2e-4, 1.1e-4, 0.09)
    '-0.42 ± 0.11 ms (-9.0 %)'
    """
    return f"{time_text(-gain_s, std_s)} (-{share_text(share)})"


def share_text(share: float) -> str:
    """Per cent, with a decimal below ten.

    >>> [share_text(share) for share in (0.876, 0.0123, 0.0001, 0.0)]
    ['88 %', '1.2 %', '<0.1 %', '0 %']
    """
    if 0.0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.{1 if 0.0 < share < 0.0995 else 0}f} %"


def bytes_text(num_bytes: float) -> str:
    """In units of a thousand.

    >>> [bytes_text(num_bytes) for num_bytes in (48, 48_000, 12_300_000, 2.5e9)]
    ['48 B', '48.0 kB', '12.3 MB', '2.50 GB']
    """
    return f"{count_text(num_bytes)}B" if num_bytes >= 1e3 else f"{num_bytes:.0f} B"


def count_text(count: float) -> str:
    """In units of a thousand.

    >>> [count_text(count) for count in (224, 38_700, 11_700_000, 1.82e9)]
    ['224', '38.7 k', '11.7 M', '1.82 G']
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{number_text(count / size)} {unit}"
    return f"{count:.0f}"


def some_text(names: list[str], limit: int = 3) -> str:
    """The first few names and how many others there are.

    >>> some_text(["a", "b", "c", "d", "e"])
    'a, b, c and 2 others'
    """
    rest = len(names) - limit
    if rest == 1:
        limit, rest = limit + 1, 0
    return ", ".join(names[:limit]) + (f" and {rest} others" if rest > 0 else "")


def _decimals(value: float, num_significant: int) -> int:
    """Decimals that show so many significant digits of a value."""
    return max(0, num_significant - 1 - floor(log10(abs(value)))) if value else num_significant
