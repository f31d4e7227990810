"""ONNX models of hand-written nodes, and what exporters write of a module."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from predictors import Graph, fuse, kernel_cost, load_runtime
from predictors.cost import Cost

FLOAT = TensorProto.FLOAT


def node(op_type: str, inputs: str, outputs: str = "y", name: str = "", **attributes: Any) -> onnx.NodeProto:
    """`inputs` and `outputs` are names with spaces between; '-' is one that is left out."""
    names = [["" if each == "-" else each for each in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op_type, *names, name, **attributes)


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def body(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], inputs: Sequence[str] = (),
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.GraphProto:  # fmt: skip
    """A branch or the body of a loop, whose tensors say no shapes."""
    return helper.make_graph(
        nodes, "body", [helper.make_empty_tensor_value_info(name) for name in inputs],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )  # fmt: skip


def model(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], outputs: Sequence[str] = ("y",),
    weights: dict[str, np.ndarray] | None = None, opset: int = 20, further: Sequence[onnx.TensorProto] = (),
    kind: int = FLOAT, domains: Sequence[str] = (),
) -> onnx.ModelProto:  # fmt: skip
    """`inputs` by name: a shape, or a shape and an ONNX type."""
    typed = {name: given if isinstance(given, tuple) and given and isinstance(given[0], tuple) else (given, kind)
             for name, given in inputs.items()}  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, each, shape) for name, (shape, each) in typed.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [*(numpy_helper.from_array(array, name) for name, array in (weights or {}).items()), *further],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def saved(path: Path, nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], *args: Any, **options: Any) -> Path:
    path.write_bytes(model(nodes, inputs, *args, **options).SerializeToString())
    return path


def exported(net: nn.Module, inputs: Any, path: Path, *, seed: int = 0, **options: Any) -> Path:
    """Weights are random, since exporters leave out what is zero and join what is equal."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    with quietly():
        torch.onnx.export(net.eval(), given, path, **options)
    return path


@contextlib.contextmanager
def quietly() -> Any:
    """What exporters and quantisers warn of and print is not ours to mend."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def texts(graph: Graph) -> list[str]:
    return [each.operator.text for each in graph.nodes]


def variants(graph: Graph) -> list[str]:
    return [each.operator.variant for each in graph.nodes]


def kernels(graph: Graph) -> list[str]:
    """Variants of what moves data."""
    return [each.operator.variant for each in graph.nodes if each.operator.moves_data]


def cost(graph: Graph, runtime: str = "onnxruntime") -> Cost:
    """Macs and bytes as executed: a batch norm is folded, wherever it was done."""
    found = fuse(graph, load_runtime(runtime), "float32")
    return sum((kernel_cost(each.kernel) for each in found), Cost())
