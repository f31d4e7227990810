"""What a person gets: tables, a page, pictures, deployable subnets, and a summary in the terminal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import nn
from tqdm import tqdm

from nas.data.images import ImageData
from nas.export import ARCH_FILE, describe, export_subnet
from nas.files import write_text
from nas.report.after import after_search
from nas.report.chosen import ROLES, ChosenSubnet, choose, folder_name
from nas.report.page import page
from nas.report.pictures import (
    front_picture,
    hypervolume_picture,
    kernels_picture,
    roofline_picture,
    save_picture,
)
from nas.report.summary import print_summary
from nas.report.table import candidates_csv, pareto_csv
from nas.report.yardstick import best_front_picture, yardstick_section
from nas.result import SearchResult
from nas.yardstick import Distance
from search_spaces.space import Arch

__all__ = ["ChosenSubnet", "choose", "print_summary", "write_report"]


def write_report(
    result: SearchResult,
    folder: Path,
    *,
    command: str,
    config_text: str,
    extract: Callable[[Arch], nn.Module] | None = None,
    data: ImageData | None = None,
    yardstick: Distance | None = None,
) -> None:
    """Write everything about a search into its folder; every file appears whole or not at all.

    `pareto.csv`, `candidates.csv`, `report.html`, `front.png`, `hypervolume.png`, `kernels.png`, `roofline.png` and,
    for each chosen subnet, `subnets/<name>/arch.json`; with `extract` also `weights.safetensors` and `model.onnx`, and
    with `data` its int8 copy `model.int8.onnx` with `int8.json`, which says how accurate both are; where the true front
    is known, `best_front.png`.

    Args:
        command: what the user typed.
        config_text: the composed config, YAML.
        extract: the trained stand-alone subnet of an arch; without it no weights and no ONNX are written.
        data: what the subnets were trained on.
        yardstick: how far the search is from the best there is, from `nas.yardstick.yardstick_of`.

    Raises:
        ValueError: the search has no candidate.
    """
    chosen = choose(result)
    write_text(folder / "pareto.csv", pareto_csv(result))
    write_text(folder / "candidates.csv", candidates_csv(result))
    save_picture(front_picture(result, chosen), folder / "front.png")
    save_picture(hypervolume_picture(result), folder / "hypervolume.png")
    save_picture(kernels_picture(chosen), folder / "kernels.png")
    save_picture(roofline_picture(result, chosen), folder / "roofline.png")
    measured = yardstick_section(result, yardstick) if yardstick else ""
    if yardstick and yardstick.front:
        save_picture(best_front_picture(result, yardstick.front), folder / "best_front.png")
    _write_page(result, chosen, folder, command=command, config_text=config_text, exported=False, yardstick=measured)
    _remove_former(chosen, folder / "subnets")
    if extract is None:
        for subnet in chosen:
            description = json.dumps(describe(subnet.candidate, result), indent=2)
            write_text(folder / "subnets" / subnet.name / ARCH_FILE, f"{description}\n")
        return
    for subnet in tqdm(chosen, desc="exports", unit="subnet", disable=None, leave=False):
        module = extract(subnet.candidate.arch)
        export_subnet(module, subnet.candidate, result, folder / "subnets" / subnet.name, data)
    _write_page(result, chosen, folder, command=command, config_text=config_text, exported=True, yardstick=measured)


def _write_page(
    result: SearchResult,
    chosen: tuple[ChosenSubnet, ...],
    folder: Path,
    *,
    command: str,
    config_text: str,
    exported: bool,
    yardstick: str,
) -> None:
    after = after_search(folder)
    text = page(
        result,
        chosen,
        command=command,
        config_text=config_text,
        exported=exported,
        after=after,
        yardstick=yardstick,
    )
    write_text(folder / "report.html", text)


def _remove_former(chosen: tuple[ChosenSubnet, ...], folder: Path) -> None:
    """Subnets that an earlier, shorter run of this search chose for roles that nobody plays now are removed."""
    for name in set(map(folder_name, ROLES)) - {subnet.name for subnet in chosen}:
        shutil.rmtree(folder / name, ignore_errors=True)
