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
    "OVERHEAD",
    "OVERHEAD_COLOR",
    "PROVENANCE_COLORS",
    "PROVENANCE_WORDS",
    "SYMBOLS",
    "Symbol",
    "mark_size",
]

FRONT, ACCENT = "#009e73", "#d55e00"

SYMBOLS = (Symbol("triangle-up", "^"), Symbol("diamond", "D"), Symbol("square", "s"))
"""Of the chosen subnets, in their order."""
