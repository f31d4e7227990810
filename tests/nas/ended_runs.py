"""The folder of a search that has ended, made without searching: a small real space, made-up accuracies and weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from search_results import make_result

from nas.export import describe
from nas.files import write_text
from nas.report import choose
from nas.report.table import pareto_csv
from nas.result import SearchResult
from predictors.mapping import read_yaml
from predictors.paths import shipped

SMALL: Mapping[str, Any] = {
    "resolutions": [8, 16], "kernels": [3], "expansions": [2, 3], "depths": [1, 2], "stage_widths": [8, 8, 8],
    "stem_width": 8, "head_width": 8, "feature_width": 8,
}  # fmt: skip
DATA: Mapping[str, Any] = {"source": "nas.data.digits.Digits", "name": "digits", "size": 16}
TRAINING: Mapping[str, Any] = {"num_steps": 1, "batch_size": 8, "learning_rate": 0.01}


def small_result(num_candidates: int = 12) -> SearchResult:
    return make_result(num_candidates, resolution=16, **SMALL)


def ended_run(folder: Path, device: str, *, weights: bool = True, num_candidates: int = 12, **changes: Any) -> Path:
    """Config, front, and of each chosen subnet `arch.json` and fresh weights; `changes` are keys of the config."""
    result = small_result(num_candidates)
    config: dict[str, Any] = {
        "hw": {"name": device},
        "runtime": None,
        "space": read_yaml(shipped("space") / "mobilenet_v3_tiny.yaml") | dict(SMALL),
        "data": dict(DATA),
        "training": dict(TRAINING),
        "accuracy": {"source": "nas.scoring.FromSupernet"},
        "deploy": {"resolution": 16, "batch": 1, "dtype": None},
        "seed": 0,
    }
    write_text(folder / "config.yaml", yaml.safe_dump(config | changes))
    write_text(folder / "pareto.csv", pareto_csv(result))
    for subnet in choose(result):
        place, arch = folder / "subnets" / subnet.name, subnet.candidate.arch
        write_text(place / "arch.json", json.dumps(describe(subnet.candidate, result)))
        if weights:
            torch.manual_seed(0)
            state = result.space.build(arch).state_dict()
            metadata = {"space": result.space.name, "arch": json.dumps(arch)}
            (place / "weights.safetensors").write_bytes(save(state, metadata))
    return folder
