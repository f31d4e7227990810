"""Looks of the page and the pictures: those of `predictors.explanation.style`, and those of a search's results."""

from predictors.explanation.style import (
    CSS,
    DASHES,
    FAINT,
    GRID,
    INK,
    MUTED,
    OVERHEAD,
    OVERHEAD_COLOR,
    PROVENANCE_COLORS,
    PROVENANCE_WORDS,
    Symbol,
    mark_size,
)

__all__ = [
    "ACCENT",
    "CSS",
    "DASHES",
    "FAINT",
    "FRONT",
    "GRID",
    "INK",
    "MUTED",
    "NEUTRAL",
    "OVERHEAD",
    "OVERHEAD_COLOR",
    "PALETTE",
    "PROVENANCE_COLORS",
    "PROVENANCE_WORDS",
    "SYMBOLS",
    "Symbol",
    "mark_size",
]

FRONT, ACCENT = "#009e73", "#d55e00"

PALETTE = {
    "blue": "#0072b2", "sky": "#56b4e9", "pink": "#cc79a7", "orange": "#e69f00", "green": "#009e73", "red": "#d55e00",
}  # fmt: skip
"""Of Okabe and Ito, which people who confuse colours tell apart."""

NEUTRAL = "#8a8f98"
"""Of what is drawn at random."""

SYMBOLS = (Symbol("triangle-up", "^"), Symbol("diamond", "D"), Symbol("square", "s"))
"""Of the chosen subnets, in their order."""
