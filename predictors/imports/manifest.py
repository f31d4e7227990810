"""What a folder of exported networks holds, as `manifest.json`: files, and the graphs as text.

    {"format": "ridgeline-exported-models", "version": 1, "models": [
      {"name": "ladder_00", "files": ["ladder_00.tflite"], "nodes": [["input(shape=(1, 3, 32, 32))", [], ""], ...],
       "outputs": [7], "layers": [[1, 2], [3], ...]}]}

A log is read with the graph that stands here, so that it needs neither torch nor the search space that it came from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from predictors.graph import Graph
from predictors.graph_file import graph_from_record, graph_record, integers
from predictors.imports.layers import read_json
from predictors.mapping import check_keys, check_type

NAME = "manifest.json"
FORMAT = "ridgeline-exported-models"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """One network.

    Attributes:
        files: that it was written to, relative to the manifest.
        layers: the graph's nodes of each operator of the model, where its names do not say them; else empty.
    """

    name: str
    files: tuple[str, ...]
    graph: Graph
    layers: tuple[tuple[int, ...], ...] = ()


def manifest_text(models: Sequence[ExportedModel]) -> str:
    """The manifest of these models."""
    entries = [
        {
            "name": model.name,
            "files": list(model.files),
            **graph_record(model.graph),
            "layers": [list(nodes) for nodes in model.layers],
        }
        for model in models
    ]
    return json.dumps({"format": FORMAT, "version": VERSION, "models": entries}, indent=1) + "\n"


def read_manifest(path: Path) -> dict[str, ExportedModel]:
    """Models by name.

    Raises:
        ValueError: no manifest, of another version, or malformed; the model and node are named.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: no manifest of exported models; `python -m predictors.export_models` writes one")
    if content.get("version") != VERSION:
        raise ValueError(f"{path}: version {content.get('version')!r}; this release reads version {VERSION}")
    check_keys(content, ("format", "version", "models"), ("models",), str(path))
    found: dict[str, ExportedModel] = {}
    for index, entry in enumerate(check_type(content["models"], list, f"{path}: models")):
        keys = ("name", "files", "nodes", "outputs", "layers")
        model = _model(check_keys(entry, keys, keys, f"{path}: models[{index}]"), f"{path}: models[{index}]")
        if model.name in found:
            raise ValueError(f"{path}: two models are called {model.name!r}")
        found[model.name] = model
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _model(entry: Mapping[str, object], where: str) -> ExportedModel:
    name = check_type(entry["name"], str, f"{where}: name")
    graph = graph_from_record(entry, where, name)
    layers = [integers(layer, f"{where}: layers") for layer in check_type(entry["layers"], list, f"{where}: layers")]
    if any(not 0 <= node < len(graph.nodes) for layer in layers for node in layer):
        raise ValueError(f"{where}: layers name nodes that the graph of {len(graph.nodes)} nodes does not have")
    files = check_type(entry["files"], list, f"{where}: files")
    return ExportedModel(
        name=name,
        files=tuple(check_type(file, str, f"{where}: files") for file in files),
        graph=graph,
        layers=tuple(layers),
    )
