"""What happened to a run's subnets after the search, read from its files: a part of the page that is renewed alone."""

import csv
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from nas.export import ARCH_FILE, INT8_ACCURACY_FILE, INT8_FILE, ONNX_FILE, WEIGHTS_FILE
from nas.files import write_text
from predictors.explanation.document import table

TEST_FILE = "test_accuracy.json"
VERIFY_FILE, VERIFY_SUMMARY, VERIFY_PICTURE = "verify.csv", "verify.json", "verify.png"

BEGIN, END = "<!-- after the search -->", "<!-- end of after the search -->"
_APART = (
    " They were trained on images of another size, and answer accordingly: deploy at the size of training "
    "(<code>deploy.resolution=null</code>), or train on such images (<code>nas.finish ... image_size=deployed</code>)."
)
_FILES = (ARCH_FILE, WEIGHTS_FILE, ONNX_FILE, INT8_FILE)


def after_search(folder: Path) -> str:
    """HTML between two marks: int8 accuracies of exports, test accuracies of fine-tuned subnets, measured latencies.

    What is not there yet is said with the command that makes it.
    """
    parts = [_exports(folder), _finished(folder), _verified(folder)]
    return f"{BEGIN}<section>\n<h2>After the search</h2>\n{''.join(parts)}</section>\n{END}"


def refresh_page(folder: Path) -> None:
    """Renew that part of `report.html`; without a page, or one without the marks, nothing happens."""
    path = folder / "report.html"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        write_text(path, f"{before}{after_search(folder)}{after}")


# ------------------------------------------------------------------------------------------------------------ private


def _exports(folder: Path) -> str:
    rows, apart = [], ""
    for path in sorted(folder.glob(f"subnets/*/{INT8_ACCURACY_FILE}")):
        found = _read(path)
        if {"float_accuracy", "int8_accuracy", "same_answers", "num_images", "image_size"} <= set(found):
            name = escape(path.parent.name)
            links = ", ".join(f'<a href="subnets/{name}/{file}">{file}</a>' for file in (ONNX_FILE, INT8_FILE))
            rows.append([name, *_int8_cells(found), links])
            if found.get("trained_size", found["image_size"]) != found["image_size"]:
                apart = _APART
    if not rows:
        return ""
    header = ["subnet", "float32", "int8", "same answers", "images", "files"]
    return (
        "<h3>Exported models</h3><p>Accuracies of the ONNX files in ONNX Runtime, on validation images at the size of "
        f"deployment.{apart}</p>{table(header, rows, numbers=(1, 2, 3), texts=(5,))}"
    )


def _finished(folder: Path) -> str:
    rows = []
    for path in sorted(folder.glob(f"finished/*/{ARCH_FILE}")):
        found = _read(path).get("finished")
        if not isinstance(found, dict):
            continue
        int8 = _read(path.with_name(INT8_ACCURACY_FILE))
        name = path.parent.name
        links = ", ".join(f'<a href="finished/{escape(name)}/{file}">{file}</a>' for file in _FILES)
        finetuned = found["finetuned"]
        chosen = _read(folder / "subnets" / name / ARCH_FILE)
        former = "" if chosen.get("arch") == _read(path)["arch"] else " (as chosen earlier)"
        rows.append(
            [
                f"{escape(name)}{former}",
                f"{finetuned['num_steps']} steps" if finetuned else "as searched",
                f"{100 * found['valid_before']:.2f} %",
                f"{100 * found['valid_after']:.2f} %",
                f"{100 * found['test_accuracy']:.2f} %",
                *_int8_cells(int8)[:2],
                links,
            ]
        )
    if not rows:
        return _how(
            "Test accuracies", "finish", "fine-tunes the chosen subnets, tests each once and exports it", folder
        )
    entries = _read(folder / TEST_FILE).get("entries", [])
    images = f"{entries[0]['num_images']:,} test images" if entries else "the test images"
    looks = f" They were looked at for {len(entries)} sets of weights." if len(entries) > len(rows) else ""
    header = ["subnet", "fine-tuned", "valid before", "valid now", "test", "float32 ONNX", "int8 ONNX", "files"]
    return (
        f"<h3>Finished subnets</h3><p>Each was evaluated once on {images}, which the search never saw.{looks} ONNX: on "
        f"validation images, as deployed.</p>{table(header, rows, numbers=(2, 3, 4, 5, 6), texts=(7,))}"
    )


def _verified(folder: Path) -> str:
    path, summary = folder / VERIFY_FILE, _read(folder / VERIFY_SUMMARY)
    if not path.is_file() or "sentences" not in summary:
        return _how("Measured latencies", "verify", "measures the front on the device and recalibrates it", folder)
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            [
                escape(row["network"]),
                f"{float(row['predicted_ms']):.3f} ± {float(row['predicted_std_ms']):.3f}",
                f"{float(row['measured_ms']):.3f}",
                f"{float(row['error_percent']):+.1f} %",
            ]
            for row in csv.DictReader(file)
        ]
    header = ["network", "predicted (ms)", "measured (ms)", "error"]
    sentences = "".join(f"<p>{escape(str(each))}</p>" for each in summary["sentences"])
    return (
        f"<h3>Measured latencies</h3>{sentences}<details><summary>Every network</summary>"
        f"{table(header, rows, numbers=(1, 2, 3))}</details>"
        f'<p class="note"><a href="{VERIFY_FILE}">{VERIFY_FILE}</a>, '
        f'<a href="{VERIFY_PICTURE}">{VERIFY_PICTURE}</a></p>'
    )


def _how(title: str, command: str, what: str, folder: Path) -> str:
    shown = f"python -m nas.{command} run={folder}"
    return f"<h3>{title}</h3><p>None yet: <code>{escape(shown)}</code> {what}.</p>"


def _int8_cells(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return ["", "", "", ""]
    size = found["image_size"]
    return [
        f"{100 * found['float_accuracy']:.2f} %",
        f"{100 * found['int8_accuracy']:.2f} %",
        f"{100 * found['same_answers']:.2f} %",
        f"{found['num_images']:,} of {size}x{size}",
    ]


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where it is missing or torn: the page shows what there is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
