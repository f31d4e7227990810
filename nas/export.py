"""A subnet as files that other tools read: its arch and metrics, its weights, and ONNX as deployed."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from safetensors.torch import save
from torch import nn

from nas.files import replacing, replacing_folder
from nas.result import Candidate, SearchResult
from predictors.graph import Graph
from predictors.operators import Input, Shape

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


def export_subnet(module: nn.Module, candidate: Candidate, result: SearchResult, folder: Path) -> None:
    """Write `arch.json`, `weights.safetensors` and `model.onnx` of a candidate.

    The folder appears whole or not at all. `module` is the stand-alone subnet with its weights. The ONNX file has the
    resolution and the batch of deployment.
    """
    shape = input_shape(result.deployed_space.graph(candidate.arch))
    description = {
        "space": result.space.name,
        "number": candidate.number,
        "arch": candidate.arch,
        "metrics": dict(candidate.metrics),
        "latency_std_s": candidate.latency_std_s,
        "device": result.predictor.device.name,
        "dtype": result.predictor.dtype,
        "input_shape": list(shape),
    }
    with replacing_folder(folder) as temporary:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        metadata = {"space": result.space.name, "arch": json.dumps(candidate.arch)}
        (temporary / "weights.safetensors").write_bytes(save(weights, metadata))
        export_onnx(module, shape, temporary / "model.onnx")
        (temporary / "arch.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def export_onnx(module: nn.Module, shape: Shape, path: Path) -> None:
    """Write a module in evaluation mode as ONNX: one float32 input `image` of a fixed shape, one output `logits`.

    Raises:
        onnx.checker.ValidationError: what torch's exporter wrote is no valid ONNX; nothing is left at `path`.
    """
    was_training = module.training
    module.eval()
    try:
        with _quiet(_CHATTER), warnings.catch_warnings(), torch.no_grad():
            # 2026-11-24: torch 2.13's exporter copies tree specs in the way that its own pytree module deprecates.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            program = torch.onnx.export(
                module,
                (torch.zeros(shape),),
                input_names=["image"],
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
    finally:
        module.train(was_training)
    assert program is not None
    with replacing(path) as temporary:
        program.save(temporary)
        onnx.checker.check_model(temporary, full_check=True)


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
