"""Networks as model files, to be timed where Python does not run: a phone, a board.

    python -m predictors.export_models --space mobilenet_v3 --networks 8 --format tflite --out models

The vendor's tool times their layers there, and `python -m predictors.import_table` turns what it prints into a lookup
table. docs/bring_your_device.md goes through it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import numpy as np

from predictors.graph import Graph
from predictors.imports import manifest
from predictors.imports.manifest import ExportedModel, manifest_text
from predictors.measure.backend import NoKernelError
from predictors.measure.ladder import ladder
from predictors.measure.values import input_indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A network in a format.

    Attributes:
        contents: of the files, by their suffix.
        layers: the graph's nodes of each operator of the model, where its names do not say them.
    """

    contents: Mapping[str, bytes]
    layers: tuple[tuple[int, ...], ...] = ()


def _onnx(graph: Graph) -> Written:
    from predictors.measure.onnx_model import onnx_bytes

    return Written(contents={".onnx": onnx_bytes(graph, spelt_out=True)})


def _tflite(graph: Graph) -> Written:
    from predictors.measure.tflite_model import tflite_model

    model = tflite_model(graph)
    return Written(contents={".tflite": model.data}, layers=tuple(operator.nodes for operator in model.operators))


def _ncnn(graph: Graph) -> Written:
    from predictors.measure.ncnn_model import ncnn_files

    files = ncnn_files(graph)
    return Written(contents={".param": files.param.encode(), ".bin": files.weights})


FORMATS: Mapping[str, Callable[[Graph], Written]] = {"onnx": _onnx, "tflite": _tflite, "ncnn": _ncnn}
"""Writers by format; what they need is imported when they are called."""


def export_models(
    graphs: Mapping[str, Graph], model_format: str, folder: Path
) -> tuple[list[ExportedModel], list[str]]:
    """Write each graph as a model and the manifest of all last.

    Args:
        graphs: by the name of the model, which becomes that of its files.
        model_format: one of `FORMATS`.
        folder: made where it is missing; it must not hold a manifest yet.

    Returns:
        The models, and why the other graphs could not be written.

    Raises:
        ValueError: the folder has a manifest, the format's package is missing, or no graph could be written.
    """
    if (folder / manifest.NAME).exists():
        raise ValueError(f"{folder} already holds exported models, whose logs would not fit new ones; choose another")
    models, refused = [], []
    for name, graph in graphs.items():
        try:
            written = FORMATS[model_format](graph)
        except NoKernelError as error:
            refused.append(f"{name}: {error}")
            continue
        except ImportError as error:
            raise ValueError(f"format {model_format!r} needs {error.name!r}, which cannot be imported") from None
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, content in written.contents.items():
            (folder / f"{name}{suffix}").write_bytes(content)
        files = tuple(f"{name}{suffix}" for suffix in written.contents)
        models.append(ExportedModel(name=name, files=files, graph=graph, layers=written.layers))
    if not models:
        raise ValueError(f"no network can be written as {model_format}: {refused[0] if refused else 'there is none'}")
    (folder / manifest.NAME).write_text(manifest_text(models), encoding="utf-8")
    return models, refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit code 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(
        prog="python -m predictors.export_models", description="Write networks as model files, to be timed elsewhere."
    )
    parser.add_argument("--space", help="search space that random networks are taken from")
    parser.add_argument("--networks", type=int, default=8, help="how many of them")
    parser.add_argument("--resolution", type=int, help="of the space as deployed, in pixels; by default its own")
    parser.add_argument("--batch", type=int, default=1, help="images at a time, of the space's networks")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice")
    parser.add_argument("--ladder", action="store_true", help="networks of the usual kernels at many sizes")
    parser.add_argument("--format", choices=list(FORMATS), required=True, help="of the model files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        graphs: dict[str, Graph] = {}
        if options.space:
            graphs |= _graphs_of(options.space, options.networks, options.resolution, options.batch, options.seed)
        if options.ladder:
            graphs |= {f"ladder_{index:02d}": graph for index, graph in enumerate(ladder())}
        if not graphs:
            raise ValueError("nothing to export; name a space with --space, or ask for the usual kernels with --ladder")
        models, refused = export_models(graphs, options.format, options.out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for reason in refused:
        print(f"left out {reason}", file=sys.stderr)
    for model in models:
        print(f"{', '.join(model.files)}: takes {' and '.join(_inputs(model.graph))}")
    operators = {node.operator for model in models for node in model.graph.nodes if node.operator.moves_data}
    print(f"wrote {len(models)} networks with {len(operators)} distinct operators, and {options.out / manifest.NAME}")
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _graphs_of(space_name: str, num_networks: int, resolution: int | None, batch: int, seed: int) -> dict[str, Graph]:
    """Random networks of a search space. Spaces stand on this floor, so only this command reaches up, by name."""
    if num_networks < 1 or batch < 1:
        raise ValueError(f"networks and batch must be at least 1, found {num_networks} and {batch}")
    space = resolve_name("search_spaces:load_space")(space_name).deployed(resolution=resolution, batch=batch)
    rng = np.random.default_rng(seed)
    return {f"{space.name}_{index:02d}": space.graph(space.sample(rng)) for index in range(num_networks)}


def _inputs(graph: Graph) -> list[str]:
    return ["x".join(map(str, graph.nodes[index].operator.output_shape)) for index in input_indices(graph)]


if __name__ == "__main__":
    sys.exit(main())
