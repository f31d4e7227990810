"""One HTML file with everything in it, readable without a network: its frame, and the pieces that it is made of."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from predictors.explanation import style

_ONLY_WHAT_IS_IN_THE_FILE = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def document(title: str, body: str) -> str:
    """The whole file; `body` is HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_ONLY_WHAT_IS_IN_THE_FILE}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{style.CSS}</style>\n<script>{get_plotlyjs()}</script>\n"
        f"</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>\n"


def figure_html(figure: go.Figure) -> str:
    """A figure as a piece of the page, which brings plotly.js itself."""
    config = {"responsive": True, "displayModeBar": False}
    return f'<div class="figure">{figure.to_html(full_html=False, include_plotlyjs=False, config=config)}</div>'


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Iterable[int] = (),
    texts: Iterable[int] = (),
    *,
    sortable: bool = False,
) -> str:
    """A table of cells that are HTML already; `numbers` and `texts` are the columns to set as such.

    A sortable one scrolls in a box of its own, under its headings.
    """
    kinds = {**dict.fromkeys(numbers, ' class="number"'), **dict.fromkeys(texts, ' class="text"')}
    head = "".join(f"<th{kinds.get(index, '')}>{escape(name)}</th>" for index, name in enumerate(header))
    body = "".join(
        "<tr>" + "".join(f"<td{kinds.get(index, '')}>{cell}</td>" for index, cell in enumerate(row)) + "</tr>\n"
        for row in rows
    )
    of_box, of_table = (" tall", ' class="sortable"') if sortable else ("", "")
    content = f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody>"
    return f'<div class="scroll{of_box}"><table{of_table}>{content}</table></div>'


def shares_bar(shares: Mapping[str, float], colors: Mapping[str, str], words: Mapping[str, str] | None = None) -> str:
    """Shares that sum to 1 as one bar, with a key under it."""
    words = words or {}
    parts = "".join(
        f'<span style="width:{100 * share:.2f}%;background:{colors[name]}"></span>' for name, share in shares.items()
    )
    keys = "".join(
        f'<span class="key"><i style="background:{colors[name]}"></i>{share:.0%} {escape(words.get(name, name))}</span>'
        for name, share in shares.items()
    )
    return f'<div class="bar">{parts}</div><p>{keys}</p>'


def sources_table(sources: Mapping[str, str]) -> str:
    """Names of numbers and where they come from, one row for each source."""
    names: dict[str, list[str]] = {}
    for name, source in sources.items():
        names.setdefault(source, []).append(name)
    rows = [[escape(", ".join(of_source)), escape(source)] for source, of_source in names.items()]
    return table(["number", "source"], rows, texts=(0, 1))
