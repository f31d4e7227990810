"""What a network costs on a device: latency, memory traffic, arithmetic intensity, peak memory, energy.

Needs numpy and PyYAML only; torch is imported by `trace` and `read_onnx`, when they are used.
"""

from typing import TYPE_CHECKING, Any

from predictors import dynamic_conv, indexing, recurrent, volumes  # noqa: F401  # so that tables know their operators
from predictors.calibration import MeasuredNetwork, calibrate, choose_networks
from predictors.class_prior import ClassPrior, learn_class_prior, read_class_prior, write_class_prior
from predictors.cost import Cost, kernel_cost, peak_memory_bytes
from predictors.device import Device, DeviceNotMeasuredError, available_devices, device_from_mapping, load_device
from predictors.device_writing import device_to_mapping, save_device
from predictors.fusion import Kernel, Runtime, fuse, load_runtime
from predictors.graph import Graph, GraphBuilder, Node
from predictors.latency import KernelPrediction, LatencyPredictor, Prediction
from predictors.lookup_table import LookupTable, Measurement, TableHeader, append_measurement
from predictors.ncnn_param import read_ncnn_param
from predictors.operators import Operator, UnknownOperatorError
from predictors.precision import with_precision
from predictors.predict_many import Predictions
from predictors.roofline import Roofline, roofline
from predictors.sections import Position, Section, join

if TYPE_CHECKING:
    from predictors.explanation.summary import summary as summary
    from predictors.onnx.reader import read_onnx as read_onnx
    from predictors.tracing import trace as trace

__all__ = [
    "ClassPrior",
    "Cost",
    "Device",
    "DeviceNotMeasuredError",
    "Graph",
    "GraphBuilder",
    "Kernel",
    "KernelPrediction",
    "LatencyPredictor",
    "LookupTable",
    "MeasuredNetwork",
    "Measurement",
    "Node",
    "Operator",
    "Position",
    "Prediction",
    "Predictions",
    "Roofline",
    "Runtime",
    "Section",
    "TableHeader",
    "UnknownOperatorError",
    "append_measurement",
    "available_devices",
    "calibrate",
    "choose_networks",
    "device_from_mapping",
    "device_to_mapping",
    "fuse",
    "join",
    "kernel_cost",
    "learn_class_prior",
    "load_device",
    "load_runtime",
    "peak_memory_bytes",
    "read_class_prior",
    "read_ncnn_param",
    "read_onnx",
    "roofline",
    "save_device",
    "summary",
    "trace",
    "with_precision",
    "write_class_prior",
]


def __getattr__(name: str) -> Any:
    """`trace` and `read_onnx` need torch, `summary` more than most users do; each is imported when it is asked for."""
    if name == "trace":
        from predictors.tracing import trace

        return trace
    if name == "read_onnx":
        from predictors.onnx.reader import read_onnx

        return read_onnx
    if name == "summary":
        from predictors.explanation.summary import summary

        return summary
    raise AttributeError(f"module 'predictors' has no attribute {name!r}")
