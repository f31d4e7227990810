"""Looks of all pages and pictures: one colour, one symbol and one wording for one thing, everywhere.

Colours are those of Okabe and Ito, "Color universal design", 2008: apart for every common kind of colour blindness.
"""

from dataclasses import dataclass

INK, MUTED, FAINT, GRID = "#1c2733", "#5b6b7a", "#b6c0ca", "#e7ecf0"
PROVENANCE_COLORS = {"measured": "#0072b2", "interpolated": "#e69f00", "roofline": "#cc79a7", "unknown": "#000000"}
PROVENANCE_WORDS = {
    "measured": "measured on the device",
    "interpolated": "interpolated between measured kernels",
    "roofline": "modelled by the roofline",
    "unknown": "guessed for operators without a formula",
}
OVERHEAD = "between kernels"
OVERHEAD_COLOR = "#8794a1"


@dataclass(frozen=True, slots=True)
class Symbol:
    """The same mark under the names that plotly and matplotlib have for it."""

    plotly: str
    matplotlib: str


BOUND_COLORS = {"compute": "#d55e00", "memory": "#56b4e9", "launch": "#009e73"}
BOUND_SYMBOLS = {
    "compute": Symbol("circle", "o"),
    "memory": Symbol("square", "s"),
    "launch": Symbol("triangle-up", "^"),
}

DASHES = (("solid", "-"), ("dash", "--"), ("dot", ":"), ("dashdot", "-."))
"""Of the roofs, from the memory that holds everything to the smallest cache: plotly's and matplotlib's names."""


def mark_size(share: float) -> float:
    """Diameter of a kernel's mark in pixels: its area grows with the share of the network's time."""
    return float(5.0 + 40.0 * share**0.5)


CSS = """
:root { color-scheme: light; }
html { overflow-y: scroll; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1c2733; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Liberation Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 16px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 48px 0 8px; padding-top: 16px; border-top: 1px solid #dde3e9; }
h3 { font-size: 17px; margin: 28px 0 4px; }
p { margin: 8px 0; max-width: 76ch; overflow-wrap: anywhere; }
.note { color: #5b6b7a; font-size: 14.5px; }
.lead { font-size: 17px; }
a { color: #00588c; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e7ecf0; }
thead th { color: #5b6b7a; font-weight: 600; white-space: nowrap; border-bottom-color: #b6c0ca; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.text { min-width: 16em; overflow-wrap: anywhere; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
pre { background: #f5f7f9; padding: 14px 16px; overflow-x: auto; border-radius: 6px; margin: 8px 0; }
details { margin: 8px 0; }
summary { cursor: pointer; color: #00588c; padding: 4px 0; }
.bar { display: flex; height: 14px; max-width: 640px; border-radius: 3px; overflow: hidden; margin: 12px 0 4px; }
.key { display: inline-block; margin-right: 20px; font-size: 14.5px; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px; }
.figure { margin: 8px 0; }
.tall { max-height: 560px; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: #fff; }
.tall table { font-size: 13.5px; }
.tall th, .tall td { padding: 5px 9px 5px 0; }
table.sortable th { cursor: pointer; }
td .key { margin-right: 0; font-size: inherit; white-space: nowrap; }
.warning { border-left: 4px solid #d55e00; background: #fdf3ec; padding: 10px 16px; margin: 12px 0; max-width: 76ch; }
.warning ul { margin: 6px 0; padding-left: 20px; }
@media (max-width: 700px) {
  main { padding: 20px 14px 40px; }
  h1 { font-size: 24px; }
  .figure { margin: 8px -8px; }
}
"""
