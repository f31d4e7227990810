"""Networks by what a person writes: a file, a published network's name, an arch of a search space.

models/mine.onnx                         an ONNX file
models/mine.pt2                          what torch.export.save wrote
networks.graphs.jsonl#small              a network in a file of networks (predictors.graph_file)
timm:resnet18@224                        a network of timm, at a resolution
space:mobilenet_v3@224:{"stage1_depth": 2, ...}    an arch of a search space, or the path of a JSON file with one
"""

import json
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from predictors.graph import Graph
from predictors.graph_file import SUFFIX, read_graphs

FORMS = (
    "FILE.onnx", "FILE.pt2", f"FILE{SUFFIX}#NAME", "timm:NAME[@RESOLUTION]",
    "space:NAME[@RESOLUTION]:{arch or a JSON file's path}",
)  # fmt: skip

_TIMM_RESOLUTION = 224


def read_network(text: str, folder: Path = Path()) -> Graph:
    """The graph of a network.

    Args:
        text: in one of `FORMS`.
        folder: that relative paths start from.

    Raises:
        ValueError: another form, a file that is not there, a package that is missing, a network that cannot be read.
    """
    if text.startswith("timm:"):
        return timm_network(text.removeprefix("timm:"))
    if text.startswith("space:"):
        return _space_network(text, folder)
    name, _, member = text.partition("#")
    path = folder / Path(name).expanduser()
    if name.endswith(SUFFIX):
        return _member(_existing(path, text), member)
    if path.suffix == ".pt2":
        return _exported(_existing(path, text))
    if path.suffix == ".onnx":
        return _onnx(_existing(path, text))
    raise ValueError(f"network {text!r} has none of the forms {list(FORMS)}")


def timm_network(text: str) -> Graph:
    """A network of timm, without its weights.

    Args:
        text: its name, and behind an @ the height and width of the image; by default 224.
    """
    name, resolution = _at(text, _TIMM_RESOLUTION)
    try:
        import timm
        import torch
    except (ImportError, RuntimeError) as error:  # a torchvision that was built for another torch raises RuntimeError
        raise ValueError(f"network 'timm:{text}' needs timm, which cannot be imported: {error}") from None
    from predictors.tracing import trace

    try:
        module = timm.create_model(name)
    except RuntimeError as error:
        raise ValueError(f"network 'timm:{text}': {error}") from None
    return trace(module, torch.zeros(1, 3, resolution, resolution))


def load_space(name: str, resolution: int | None = None, batch: int = 1) -> Any:
    """A search space as deployed. Spaces stand on this floor, so commands reach up, by name."""
    return resolve_name("search_spaces:load_space")(name).deployed(resolution=resolution, batch=batch)


# ------------------------------------------------------------------------------------------------------------ private


def _at(text: str, default: int | None) -> tuple[str, Any]:
    name, has, resolution = text.partition("@")
    if has and not (resolution.isdigit() and int(resolution) > 0):
        raise ValueError(f"network {text!r}: behind @ stands a resolution in pixels, found {resolution!r}")
    return name, int(resolution) if has else default


def _existing(path: Path, text: str) -> Path:
    if not path.is_file():
        raise ValueError(f"network {text!r}: there is no file {path}")
    return path


def _member(path: Path, name: str) -> Graph:
    graphs = read_graphs(path)
    if not name and len(graphs) == 1:
        return next(iter(graphs.values()))
    if name not in graphs:
        raise ValueError(f"{path} has no network {name!r}; it has {_few(list(graphs))}")
    return graphs[name]


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} others" if len(names) > 12 else "")


def _exported(path: Path) -> Graph:
    import torch

    from predictors.tracing import trace

    program = torch.export.load(path)
    if program.example_inputs is None:
        raise ValueError(f"{path}: was saved without example inputs, so there is nothing to trace it on")
    return trace(program.module(), program.example_inputs[0])


def _onnx(path: Path) -> Graph:
    from predictors.onnx_reader import read_onnx

    return read_onnx(path)


def _space_network(text: str, folder: Path) -> Graph:
    name, separator, arch = text.removeprefix("space:").partition(":")
    if not separator:
        raise ValueError(f"network {text!r} names no arch; the form is {FORMS[-1]}")
    source = arch if arch.lstrip().startswith("{") else _existing(folder / arch, text).read_text(encoding="utf-8")
    try:
        knobs = json.loads(source)
    except json.JSONDecodeError as error:
        raise ValueError(f"network {text!r}: the arch is not valid JSON: {error}") from None
    name, resolution = _at(name, None)
    graph: Graph = load_space(name, resolution).graph(knobs)
    return graph
