"""All devices that the same question was asked of: one table, one picture, one page, from their compare.csv."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan
from pathlib import Path
from urllib.parse import quote

import plotly.graph_objects as go
from matplotlib.figure import Figure

from nas.compare.records import Estimate
from nas.compare.report.curves import bounds_of, colors_of
from nas.compare.report.sentences import MAIN
from nas.compare.report.tables import COMPARE_FILE, Cell, csv_text
from nas.compare.report.verdict import Verdict
from nas.compare.report.wording import p_text, signed_percent_text
from nas.files import one_at_a_time, write_text
from nas.report import style
from nas.report.pictures import picture_of, save_picture
from predictors.explanation.document import document, figure_html, section, table
from predictors.explanation.figures import figure_of
from predictors.explanation.text import number_text

PICTURE_FILE = "devices.png"

_FIRST = (MAIN, "latency_only")
_SHOWN = (
    "claim", "headline_accuracy_percent", "headline_latency_vs_baseline_percent",
    "headline_latency_vs_baseline_low_percent", "headline_latency_vs_baseline_high_percent",
    "latency_vs_baseline_percent", "latency_vs_baseline_low_percent", "latency_vs_baseline_high_percent",
    "latency_p_holm",
)  # fmt: skip
"""Columns of a device's compare.csv that stand in the table of all, for each strategy."""
_NEEDED = frozenset(
    ("title", "space", "strategy", "baseline", "latency", "num_seeds", "sentence", "ridge_point_flop_per_byte", *_SHOWN)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRows:
    """The compare.csv of a device: rows by strategy, as text. `folder` is the name of where it lies."""

    folder: str
    rows: Mapping[str, Mapping[str, str]]

    @property
    def any(self) -> Mapping[str, str]:
        """Of the baseline's row, what all rows share."""
        return next(iter(self.rows.values()))

    @property
    def ridge_point(self) -> float:
        return _number(self.any["ridge_point_flop_per_byte"])


def write_devices(folder: Path) -> None:
    """Write `compare.csv`, `report.html` and `devices.png` of all devices whose comparisons lie in subfolders.

    One process after the other, so that comparisons which end at the same time leave one table of all. Nothing happens
    where no subfolder has a comparison.
    """
    with one_at_a_time(folder / ".devices.lock"):
        devices, others = read_devices(folder)
        if not devices:
            return
        write_text(folder / COMPARE_FILE, csv_text(device_rows(devices)))
        save_picture(devices_picture(devices), folder / PICTURE_FILE)
        write_text(folder / "report.html", devices_page(devices, others))


def read_devices(folder: Path) -> tuple[list[DeviceRows], list[str]]:
    """Devices by increasing ridge point, and names of subfolders whose table another version has left."""
    devices, others = [], []
    for path in sorted(folder.glob(f"*/{COMPARE_FILE}")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and set(rows[0]) >= _NEEDED:
            devices.append(DeviceRows(folder=path.parent.name, rows={row["strategy"]: row for row in rows}))
        else:
            others.append(path.parent.name)
    return sorted(devices, key=lambda device: (device.ridge_point, device.any["title"])), others


def device_rows(devices: Sequence[DeviceRows]) -> list[dict[str, Cell]]:
    """A row for each device: its ridge point, and of each strategy what compare.csv of the device says beside the
    baseline, with the strategy's name before the column's.
    """
    return [
        {
            "title": device.any["title"],
            "space": device.any["space"],
            "baseline": device.any["baseline"],
            "latency": device.any["latency"],
            "num_seeds": device.any["num_seeds"],
            "ridge_point_flop_per_byte": device.any["ridge_point_flop_per_byte"],
            **{
                f"{name}_{column}": device.rows[name][column] if name in device.rows else None
                for name in strategies_of(devices)
                for column in _SHOWN
            },
            "folder": device.folder,
        }
        for device in devices
    ]


def strategies_of(devices: Sequence[DeviceRows]) -> list[str]:
    """All but baselines, those first that the question is about."""
    found = dict.fromkeys(name for device in devices for name in device.rows if name != device.any["baseline"])
    return [*(name for name in _FIRST if name in found), *(name for name in found if name not in _FIRST)]


def devices_page(devices: Sequence[DeviceRows], others: Sequence[str] = ()) -> str:
    """The whole page as HTML that needs no network; reports of the devices are linked."""
    strategies = strategies_of(devices)
    sentences = "".join(
        f"<li>{escape(device.rows[name]['sentence'])} ({_link(device, 'report')})</li>"
        for device in devices
        if (name := next((name for name in strategies if name in device.rows), None)) is not None
    )
    header = ["device", "ridge point (FLOP/byte)", "latency", "seeds", *strategies]
    rows = [
        [
            _link(device, device.any["title"]),
            number_text(device.ridge_point),
            escape(device.any["latency"]),
            escape(device.any["num_seeds"]),
            *(_cell(device.rows.get(name)) for name in strategies),
        ]
        for device in devices
    ]
    spaces = ", ".join(dict.fromkeys(device.any["space"] for device in devices))
    left_out = (
        f"<p>Not shown, as another version wrote them: {escape(', '.join(others))}. Comparing again, with the searches "
        "that are finished, renews them.</p>"
        if others
        else ""
    )
    baselines = ", ".join(dict.fromkeys(device.any["baseline"] for device in devices))
    ways = " and ".join(dict.fromkeys(device.any["latency"] for device in devices))
    body = (
        f"<p>Judged by {escape(ways)} latency, each device by its own.</p><ul>{sentences}</ul>{left_out}"
        + section(
            "All devices",
            f"<p>Time of a strategy's networks beside those of {escape(baselines)} at equal accuracy, the mean along "
            "the whole front: less than 0 is faster. p is of the rank test over seeds, after Holm's correction for the "
            "strategies of a device; devices are not corrected for. Bold is claimed, anything else is not.</p>"
            f"{table(header, rows, numbers=(1, *range(3, len(header))))}"
            f'<p class="note"><a href="{COMPARE_FILE}">{COMPARE_FILE}</a>, '
            f'<a href="{PICTURE_FILE}">{PICTURE_FILE}</a></p>',
        )
        + section(
            "By ridge point",
            "<p>Devices from the one with the fastest memory for its arithmetic (top) to the one with the slowest. "
            f"Left of the line is faster than {escape(baselines)}; bars are intervals of 95 %, hollow marks claim "
            f"nothing.</p>{figure_html(devices_figure(devices))}",
        )
    )
    return document(f"What to search by: {spaces} on {len(devices)} device{'s' if len(devices) > 1 else ''}", body)


def devices_figure(devices: Sequence[DeviceRows]) -> go.Figure:
    """Time beside the baseline's of every device and strategy."""
    strategies = strategies_of(devices)
    figure = figure_of(height=140 + len(devices) * (24 + 16 * len(strategies)), hovermode="closest")
    for at, (name, color) in enumerate(colors_of(strategies).items()):
        marks = _marks(devices, name, at, len(strategies))
        figure.add_trace(
            go.Scatter(
                x=[each.away.value for each in marks], y=[each.at for each in marks], mode="markers", name=escape(name),
                marker={
                    "size": 11, "symbol": ["circle" if each.is_claimed else "circle-open" for each in marks],
                    "color": color, "line": {"width": 2, "color": color},
                },
                error_x={
                    "type": "data", "symmetric": False, "color": color, "thickness": 2, "width": 0,
                    "array": [bounds_of(each.away)[1] for each in marks],
                    "arrayminus": [bounds_of(each.away)[0] for each in marks],
                },
                text=[escape(each.title) for each in marks],
                hovertemplate=f"%{{text}}, {escape(name)}: %{{x:.1f}} %<extra></extra>", showlegend=True,
            )
        )  # fmt: skip
    figure.add_vline(x=0.0, line={"color": style.INK, "width": 1.5})
    figure.update_xaxes(title_text="time beside the baseline's networks at equal accuracy (%)")
    figure.update_yaxes(
        tickvals=list(range(len(devices))), ticktext=[escape(_row_name(device)) for device in devices],
        automargin=True, showgrid=False, range=[len(devices) - 0.45, -0.55],
    )  # fmt: skip
    return figure


def devices_picture(devices: Sequence[DeviceRows]) -> Figure:
    """The same as a PNG."""
    strategies = strategies_of(devices)
    figure, axes = picture_of(8.2, 1.7 + len(devices) * (0.26 + 0.14 * len(strategies)))
    axes.grid(False, axis="y")
    for at, (name, color) in enumerate(colors_of(strategies).items()):
        axes.plot([], [], "o-", color=color, markersize=6, linewidth=1.5, label=name)
        for each in _marks(devices, name, at, len(strategies)):
            minus, plus = bounds_of(each.away)
            axes.errorbar(
                [each.away.value], [each.at], xerr=[[minus], [plus]], fmt="o", color=color, capsize=2.5, elinewidth=1.5,
                markersize=6, markerfacecolor=color if each.is_claimed else "white",
            )  # fmt: skip
    axes.axvline(0.0, color=style.INK, linewidth=1.2)
    axes.set_yticks(range(len(devices)), [_row_name(device).replace("$", r"\$") for device in devices])
    axes.set_ylim(len(devices) - 0.45, -0.55)
    axes.set_xlabel("time beside the baseline's networks at equal accuracy (%)\nleft is faster; hollow claims nothing")
    figure.legend(loc="outside lower left", ncols=min(len(strategies), 5), frameon=False, fontsize=9)
    return figure


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    title: str
    at: float
    away: Estimate
    is_claimed: bool


def _marks(devices: Sequence[DeviceRows], name: str, at: int, count: int) -> list[_Mark]:
    """`away` in per cent."""
    offset = 0.7 * ((at + 0.5) / count - 0.5)
    return [
        _Mark(
            title=device.any["title"],
            at=row + offset,
            away=_away(device.rows[name]),
            is_claimed=_is_claimed(device.rows[name]),
        )
        for row, device in enumerate(devices)
        if name in device.rows and device.rows[name]["latency_vs_baseline_percent"]
    ]


def _cell(row: Mapping[str, str] | None) -> str:
    """What is claimed is bold; the interval and p stand under it, or why nothing is known."""
    if row is None:
        return ""
    if not row["latency_vs_baseline_percent"]:
        return escape(row["claim"])
    away = _away(row)
    ratio = Estimate(value=1.0 + away.value / 100.0, low=1.0 + away.low / 100.0, high=1.0 + away.high / 100.0)
    value, _, interval = signed_percent_text(ratio).rstrip(")").partition(" (")
    p_value = _number(row["latency_p_holm"])
    told = escape(row["claim"]) if isnan(p_value) else f"p = {p_text(p_value)}"
    below = f"{interval}<br>{told}" if interval else told
    shown = f"<b>{value}</b>" if _is_claimed(row) else value
    return f'{shown}<br><span class="note">{below}</span>'


def _away(row: Mapping[str, str]) -> Estimate:
    value, low, high = (_number(row[f"latency_vs_baseline{bound}_percent"]) for bound in ("", "_low", "_high"))
    return Estimate(value=value, low=low, high=high)


def _is_claimed(row: Mapping[str, str]) -> bool:
    return row["claim"] in (Verdict.FASTER.value, Verdict.SLOWER.value)


def _row_name(device: DeviceRows) -> str:
    return f"{device.any['title']} ({number_text(device.ridge_point)})"


def _link(device: DeviceRows, text: str) -> str:
    return f'<a href="{quote(device.folder)}/report.html">{escape(text)}</a>'


def _number(text: str) -> float:
    return float(text) if text else float("nan")
