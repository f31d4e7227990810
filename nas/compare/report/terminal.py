"""The comparison in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.compare.records import Comparison, Versus
from nas.compare.report.sentences import (
    headline,
    limit_sentences,
    main_versus,
    other_versus,
    sentence_of,
    sweep_sentence,
    unknown_sentence,
    why_sentences,
    yardstick_line,
)
from nas.compare.report.wording import negated, number_text, p_text, percent_text, points_text, signed_percent_text


def print_comparison(comparison: Comparison, folder: Path, console: Console | None = None) -> None:
    """What latency is judged by, what was found, why, and where the files are."""
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        if text:
            console.print(Text(text, style=style), soft_wrap=True)

    say(yardstick_line(comparison))
    say(headline(comparison), "bold")
    if main_versus(comparison) is not None:
        for versus in other_versus(comparison):
            say(sentence_of(versus, comparison))
    say(unknown_sentence(comparison))
    console.print(_table(comparison))
    for sentence in (*why_sentences(comparison), *limit_sentences(comparison), sweep_sentence(comparison)):
        say(sentence)
    say(f"report        {folder / 'report.html'}")
    say("also there    compare.csv, fronts.csv, pictures as PNG")


# ------------------------------------------------------------------------------------------------------------ private


def _table(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("strategy", no_wrap=True)
    for name in (
        "hypervolume\n(%)",
        "p",
        "latency at\nequal accuracy",
        "p",
        "accuracy at\nequal latency\n(points)",
        "near the\nbest",
    ):
        table.add_column(name, justify="right")
    for strategy in comparison.strategies:
        standing, versus = comparison.standings[strategy.name], comparison.versus.get(strategy.name)
        cells = (
            number_text(standing.hypervolume, 100.0),
            p_text(versus.hypervolume_p_holm) if versus else "",
            _latency(versus),
            p_text(versus.latency_p_holm) if versus else "",
            points_text(negated(versus.error_difference)) if versus else "",
            percent_text(standing.near).partition(" (")[0],
        )
        table.add_row(Text(strategy.name), *(cell.replace(" (", "\n(") for cell in cells))
    return table


def _latency(versus: Versus | None) -> str:
    if versus is None:
        return "baseline"
    return signed_percent_text(versus.latency_ratio) if versus.latency_ratio else "none in common"
