"""What a person gets: tables, a page, pictures, deployable subnets, and a summary in the terminal."""

import shutil
from collections.abc import Callable
from pathlib import Path

from torch import nn

from nas.export import export_subnet
from nas.files import write_text
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
from nas.result import SearchResult
from search_spaces.space import Arch

__all__ = ["ChosenSubnet", "choose", "print_summary", "write_report"]


def write_report(
    result: SearchResult,
    folder: Path,
    *,
    command: str,
    config_text: str,
    data_name: str,
    extract: Callable[[Arch], nn.Module] | None = None,
) -> None:
    """Write everything about a search into its folder; every file appears whole or not at all.

    `pareto.csv`, `candidates.csv`, `report.html`, `front.png`, `hypervolume.png`, `kernels.png`, `roofline.png` and,
    for each chosen subnet, `subnets/<name>/arch.json`, `weights.safetensors` and `model.onnx`.

    Args:
        command: what the user typed.
        config_text: the composed config, YAML.
        data_name: what the accuracies were measured on.
        extract: the trained stand-alone subnet of an arch; without it no weights and no ONNX are written.

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
    exported = extract is not None
    if extract is not None:
        _export(result, chosen, folder / "subnets", extract)
    text = page(result, chosen, command=command, config_text=config_text, data_name=data_name, exported=exported)
    write_text(folder / "report.html", text)


def _export(
    result: SearchResult, chosen: tuple[ChosenSubnet, ...], folder: Path, extract: Callable[[Arch], nn.Module]
) -> None:
    """Subnets that an earlier, shorter run of this search chose for roles that nobody plays now are removed."""
    for subnet in chosen:
        export_subnet(extract(subnet.candidate.arch), subnet.candidate, result, folder / subnet.name)
    for name in set(map(folder_name, ROLES)) - {subnet.name for subnet in chosen}:
        shutil.rmtree(folder / name, ignore_errors=True)
