"""A network as files that other tools read: its arch and metrics, its weights, and ONNX as deployed, float and int8."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from nas.data.images import ImageData
from nas.data.inputs import evaluation_input
from nas.files import replacing, replacing_folder
from nas.quantisation import NUM_COMPARED, OnnxModel, quantise_and_compare
from nas.result import Candidate, SearchResult
from predictors.graph import Graph
from predictors.operators import Input, Shape
from search_spaces.deployment import as_deployed
from search_spaces.space import Space

ARCH_FILE, WEIGHTS_FILE, ONNX_FILE = "arch.json", "weights.safetensors", "model.onnx"
INT8_FILE, INT8_ACCURACY_FILE = "model.int8.onnx", "int8.json"

TOLERANCE = 1e-4
"""So far may ONNX Runtime's logits lie from PyTorch's, or in units of the largest logit where that is above 1."""

_CHATTER = {
    "onnx_ir": logging.WARNING,
    "onnxscript": logging.WARNING,
    "torch.onnx._internal.exporter._registration": logging.ERROR,  # warns that torchvision, used by nobody, is missing
}
"""The least that these loggers may say."""


def input_shape(graph: Graph) -> Shape:
    """Shape (batch, channels, height, width) of the only input of a network.

    Raises:
        ValueError: the network has several inputs or none.
    """
    shapes = [node.operator.output_shape for node in graph.nodes if isinstance(node.operator, Input)]
    if len(shapes) != 1:
        raise ValueError(f"network {graph.name!r} has {len(shapes)} inputs {shapes}; one image is expected")
    return shapes[0]


def describe(candidate: Candidate, result: SearchResult) -> dict[str, Any]:
    """What `arch.json` says of a candidate, JSON-able, in SI units."""
    return {
        "space": result.space.name,
        "number": candidate.number,
        "arch": dict(candidate.arch),
        "metrics": dict(candidate.metrics),
        "latency_std_s": candidate.latency_std_s,
        "device": result.predictor.device.name,
        "dtype": result.predictor.dtype,
        "input_shape": list(input_shape(result.deployed_space.graph(candidate.arch))),
    }


def export_subnet(
    module: nn.Module, candidate: Candidate, result: SearchResult, folder: Path, data: ImageData | None = None
) -> None:
    """Write the files of a candidate into a folder, as `write_network` does.

    Args:
        module: the stand-alone subnet with its weights, as trained.
        data: what it was trained on; None writes no int8 model.
    """
    symmetric = result.predictor.runtime.name == "tensorrt"
    write_network(module, describe(candidate, result), result.space, folder, data=data, symmetric=symmetric)


def write_network(
    module: nn.Module,
    description: Mapping[str, Any],
    space: Space,
    folder: Path,
    *,
    data: ImageData | None = None,
    trained_size: int | None = None,
    symmetric: bool = False,
    num_compared: int = NUM_COMPARED,
) -> None:
    """Write `arch.json`, `weights.safetensors`, `model.onnx`, and with data `model.int8.onnx` and `int8.json`.

    The folder appears whole or not at all; one that has the same network already is left as it is. Weights are those of
    the module as it was trained, so that `space.build` takes them and training goes on; both ONNX files are the network
    as deployed, at the resolution and batch of `description["input_shape"]`.

    Args:
        description: the content of `arch.json`, with `arch` and `input_shape`.
        data: calibrates the int8 model on its training images, and compares both models on its validation images.
        trained_size: height and width of the images that it was trained on; None takes the arch's.
        symmetric: as of `nas.quantisation.quantise`.
        num_compared: validation images that both models answer, at most.

    Raises:
        ValueError: ONNX Runtime computes something else than PyTorch (see `export_onnx`).
    """
    batch, channels, height, width = (int(size) for size in description["input_shape"])
    shape = (batch, channels, height, width)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    metadata = {
        "space": space.name,
        "arch": json.dumps(description["arch"]),
        "identity": json.dumps(dict(space.identity), default=str),
    }
    text = f"{json.dumps(description, indent=2)}\n"
    models = (ONNX_FILE,) if data is None else (ONNX_FILE, INT8_FILE, INT8_ACCURACY_FILE)
    if all((folder / name).is_file() for name in models) and _holds(folder, text, weights, metadata):
        return
    with replacing_folder(folder) as temporary:
        images = []
        if data is not None:
            chosen = data.valid.read(np.arange(min(batch, len(data.valid)))).images
            images = [evaluation_input(data, np.resize(chosen, (batch, *chosen.shape[1:])), height)]
        export_onnx(module, shape, temporary / ONNX_FILE, images)
        if data is not None:
            compared = quantise_and_compare(
                temporary / ONNX_FILE,
                temporary / INT8_FILE,
                data,
                shape,
                trained_size=trained_size or space.image_size(description["arch"]),
                symmetric=symmetric,
                num_compared=num_compared,
            )
            (temporary / INT8_ACCURACY_FILE).write_text(json.dumps(compared.record, indent=2) + "\n", encoding="utf-8")
        (temporary / WEIGHTS_FILE).write_bytes(save(weights, metadata))
        (temporary / ARCH_FILE).write_text(text, encoding="utf-8")


def export_onnx(module: nn.Module, shape: Shape, path: Path, images: Sequence[torch.Tensor] = ()) -> float:
    """Write a network as deployed, in evaluation mode, as ONNX: one float32 input `image` of a fixed shape, one output
    `logits`. Returns the greatest difference between ONNX Runtime's and PyTorch's logits.

    Training-time branches are folded by `as_deployed`, batch norms and constants by the exporter's optimiser.

    Args:
        shape: (batch, channels, height, width).
        images: real inputs of that shape, on which both are compared beside random ones.

    Raises:
        ValueError: the logits differ by more than `TOLERANCE`; nothing is left at `path`.
        onnx.checker.ValidationError: what torch's exporter wrote is no valid ONNX; nothing is left at `path`.
    """
    # Weights that lie channels last would be exported with gathers that restore that order.
    deployed: nn.Module = as_deployed(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with _quiet(_CHATTER), warnings.catch_warnings(), torch.no_grad():
        # 2026-11-24: torch 2.13's exporter copies tree specs in the way that its own pytree module deprecates.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        program = torch.onnx.export(
            deployed,
            (torch.zeros(shape),),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    with replacing(path) as temporary:
        program.save(temporary)
        onnx.checker.check_model(temporary, full_check=True)
        return _check_logits(temporary, module, [*_random_inputs(shape), *images])


# ------------------------------------------------------------------------------------------------------------ private


def _holds(folder: Path, text: str, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether a folder has this `arch.json` and these weights. (Bytes would differ: the metadata have no order.)"""
    try:
        if (folder / ARCH_FILE).read_text(encoding="utf-8") != text:
            return False
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            names = set(file.keys())
            return (
                file.metadata() == metadata
                and names == set(weights)
                and all(torch.equal(file.get_tensor(name), weights[name]) for name in names)
            )
    except (OSError, ValueError, SafetensorError):
        return False


def _random_inputs(shape: Shape) -> list[torch.Tensor]:
    """Images as normalised ones are on average, and brighter ones of more contrast."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn((2, *shape), generator=generator)
    return [first, 1.0 + 2.0 * second]


def _check_logits(path: Path, module: nn.Module, inputs: Sequence[torch.Tensor]) -> float:
    """The greatest difference of the logits of a file from those of the module as trained, in double precision.

    Raises:
        ValueError: relative to the largest logit, if above 1, it is more than `TOLERANCE`, and more than ten times what
            PyTorch errs in single precision. (Networks amplify noise unlike any image by factors of thousands.)
    """
    trained = copy.deepcopy(module).eval()
    exact = copy.deepcopy(trained).double()
    model = OnnxModel(path)
    worst = 0.0
    for x_BCHW in inputs:
        with torch.no_grad():
            single = trained(x_BCHW).numpy()
            expected = exact(x_BCHW.double()).numpy()
        found = model.logits(x_BCHW.contiguous().numpy())
        if found.shape != expected.shape:
            raise ValueError(f"ONNX Runtime gives logits of shape {found.shape}, PyTorch of {expected.shape}")
        difference = float(np.abs(found - expected).max())
        largest = max(1.0, float(np.abs(expected).max()))
        allowed = max(TOLERANCE * largest, 10 * float(np.abs(single - expected).max()))
        if not difference <= allowed:
            raise ValueError(
                f"the ONNX export computes something else than the network: its logits in ONNX Runtime differ from "
                f"PyTorch's by up to {difference:.3g}, allowed is {allowed:.3g} where the largest is {largest:.3g}; "
                "nothing was written"
            )
        worst = max(worst, difference)
    return worst


@contextmanager
def _quiet(least: Mapping[str, int]) -> Iterator[None]:
    """Loggers say nothing below their level, even where an application, as Hydra does, lets everything through."""
    levels = {name: logging.getLogger(name).level for name in least}
    for name, level in least.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
