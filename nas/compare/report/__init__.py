"""What a person gets from a comparison: a page, tables, pictures, a summary in the terminal, and one page for all
devices.
"""

from pathlib import Path

from nas.compare.records import Comparison
from nas.compare.report.devices import write_devices
from nas.compare.report.page import page
from nas.compare.report.pictures import pictures_of
from nas.compare.report.sentences import headline, yardstick_line
from nas.compare.report.tables import COMPARE_FILE, FRONTS_FILE, csv_text, front_rows, rows_of
from nas.compare.report.terminal import print_comparison
from nas.files import write_text
from nas.report.pictures import save_picture

__all__ = ["headline", "print_comparison", "write_devices", "write_report", "yardstick_line"]


def write_report(comparison: Comparison, folder: Path, *, command: str, config_text: str) -> None:
    """Write `report.html`, `compare.csv`, `fronts.csv` and the pictures; every file appears whole or not at all.

    Args:
        command: what the user typed.
        config_text: the composed config, YAML.
    """
    pictures = pictures_of(comparison)
    write_text(folder / COMPARE_FILE, csv_text(rows_of(comparison)))
    write_text(folder / FRONTS_FILE, csv_text(front_rows(comparison)))
    for name, picture in pictures.items():
        save_picture(picture(comparison), folder / name)
    text = page(comparison, command=command, config_text=config_text, pictures=list(pictures))
    write_text(folder / "report.html", text)
