"""Readers of what runtimes' own tools say about the time of each layer. Logs are data: nothing in them is run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from predictors.fusion import KernelNode
from predictors.imports.layers import LayerTimes
from predictors.imports.manifest import ExportedModel
from predictors.imports.ncnn import read_ncnn
from predictors.imports.onnxruntime import read_onnxruntime
from predictors.imports.tflite import read_tflite
from predictors.imports.trtexec import read_trtexec

LayerReader = Callable[[Path, ExportedModel, Sequence[KernelNode]], LayerTimes]

LAYER_READERS: dict[str, LayerReader] = {
    "ncnn": read_ncnn,
    "onnxruntime": read_onnxruntime,
    "tflite": read_tflite,
    "trtexec": read_trtexec,
}
"""Readers of logs that time the layers of an exported network, by format.

A reader takes the log's path, the model and its kernels.

Raises:
    ValueError: the log is malformed or that of another network; file and line or record are named.
"""
