"""What a verification found, in the terminal, as CSV and as a picture."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from nas.files import replacing
from nas.report.after import VERIFY_FILE, VERIFY_PICTURE
from nas.run_folder import FrontNetwork
from nas.verify_times import NetworkSeconds
from predictors.device import Device
from predictors.latency import LatencyPredictor, Prediction
from predictors.validation.comparison import OURS, Comparison, Scores

RECALIBRATED = "recalibrated, left out"

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """One network of the front.

    Attributes:
        subnet: name in `subnets/`, where the report chose it; else empty.
        left_out_s: what the device predicts once it is refitted to the other networks; None where they are too few.
    """

    network: FrontNetwork
    subnet: str
    prediction: Prediction
    measured: NetworkSeconds
    left_out_s: float | None = None

    @property
    def measured_s(self) -> float:
        return self.measured.seconds

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.prediction.latency_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verification found.

    Attributes:
        before: scores of the device as it was.
        after: of the refitted device, each network predicted without itself; None where nothing was refitted.
        saved: file of the refitted device.
        kept: where the file that it replaced lies; None where there was none.
        notes: sentences on what to be careful about.
    """

    rows: tuple[Verified, ...]
    device: Device
    before: Scores
    after: Scores | None = None
    saved: Path | None = None
    kept: Path | None = None
    notes: tuple[str, ...] = ()


def print_verification(found: Verification, folder: Path) -> None:
    """Predicted against measured, network by network, and what it says."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    refitted = ("refitted",) if found.after is not None else ()
    for column in ("network", "", "predicted (ms)", "measured (ms)", "error", *refitted):
        table.add_column(column, justify="left" if column in ("network", "") else "right", no_wrap=True)
    for each in found.rows:
        again = () if each.left_out_s is None else (f"{each.left_out_s / each.measured_s - 1.0:+.1%}",)
        table.add_row(
            each.network.name,
            each.subnet,
            f"{1e3 * each.prediction.latency_s:.3f} ± {1e3 * each.prediction.std_s:.3f}",
            f"{1e3 * each.measured_s:.3f}",
            f"{each.error:+.1%}",
            *again,
        )
    console.print(table)
    for sentence in sentences_of(found):
        console.print(sentence, soft_wrap=True)
    console.print(f"files: {folder / VERIFY_FILE}, {folder / VERIFY_PICTURE}, {folder / 'report.html'}", soft_wrap=True)


def verification_csv(found: Verification, predictor: LatencyPredictor) -> str:
    """A row for each network, the unit in the name of each column."""
    text = io.StringIO()
    columns = (
        "network", "subnet", "predicted_ms", "predicted_std_ms", "measured_ms", "measured_spread_percent",
        "error_percent", "left_out_ms", "left_out_error_percent", "exported_onnx_ms", "device", "runtime", "dtype",
    )  # fmt: skip
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for each in found.rows:
        left_out = each.left_out_s
        writer.writerow(
            {
                "network": each.network.name,
                "subnet": each.subnet,
                "predicted_ms": f"{1e3 * each.prediction.latency_s:.6g}",
                "predicted_std_ms": f"{1e3 * each.prediction.std_s:.6g}",
                "measured_ms": f"{1e3 * each.measured_s:.6g}",
                "measured_spread_percent": "" if each.measured.spread is None else f"{100 * each.measured.spread:.3g}",
                "error_percent": f"{100 * each.error:.4g}",
                "left_out_ms": "" if left_out is None else f"{1e3 * left_out:.6g}",
                "left_out_error_percent": ("" if left_out is None else f"{100 * (left_out / each.measured_s - 1):.4g}"),
                "exported_onnx_ms": "" if each.measured.exported_s is None else f"{1e3 * each.measured.exported_s:.6g}",
                "device": found.device.name,
                "runtime": predictor.runtime.name,
                "dtype": predictor.dtype,
            }
        )
    return text.getvalue()


def draw_verification(path: Path, title: str, found: Verification) -> None:
    """Predicted against measured as PNG, before and after the refit."""
    from predictors.validation.picture import draw

    rows = found.rows
    predicted: dict[str, Array] = {OURS: np.array([each.prediction.latency_s for each in rows])}
    if found.after is not None:
        predicted[RECALIBRATED] = np.array([each.left_out_s for each in rows], dtype=np.float64)
    comparison = Comparison(
        name="the front",
        measured_s_N=np.array([each.measured_s for each in rows]),
        predicted_s_N=predicted,
        labels=[each.subnet or each.network.name for each in rows],
    )
    with replacing(path) as temporary:
        picture = temporary.with_suffix(".png")
        try:
            draw(picture, title, [comparison])
            picture.replace(temporary)
        finally:
            picture.unlink(missing_ok=True)


def sentences_of(found: Verification) -> list[str]:
    """What a person has to know, for the terminal and the page."""
    before = found.before
    ranked = (
        "" if np.isnan(before.spearman) else f", rank correlation {before.spearman:.3f} (Kendall {before.kendall:.3f})"
    )
    sentences = [
        f"{before.count} networks of the front on {found.device.name}: mean error {before.mape:.1%}, "
        f"{before.within_10:.0%} within 10 %, {before.within_1_std:.0%} within one standard deviation{ranked}."
    ]
    if exported := [
        each.measured.exported_s / each.measured_s for each in found.rows if each.measured.exported_s is not None
    ]:
        least, most = min(exported), max(exported)
        sentences.append(
            f"The exported ONNX files of {len(exported)} of them take {least:.2f} to {most:.2f} times as long."
        )
    if found.saved is not None:
        judged = (
            f": mean error {found.after.mape:.1%}, {found.after.within_10:.0%} within 10 %, each network predicted by "
            "a fit that has not seen it"
            if found.after is not None
            else ", which three networks cannot judge"
        )
        sentences.append(f"Recalibrated{judged}.")
        kept = f" The old file is kept as {found.kept}." if found.kept is not None else ""
        sentences.append(f"The device is written to {found.saved}: use it as hw={found.saved.stem}.{kept}")
    return [*sentences, *(f"Note: {note}." for note in found.notes)]
