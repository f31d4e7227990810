"""What a network costs on a device: latency, memory traffic, arithmetic intensity, peak memory, energy.

Needs numpy and PyYAML only; torch is imported by `trace`, when it is used.
"""

from typing import TYPE_CHECKING, Any

from predictors.cost import Cost, kernel_cost, peak_memory_bytes
from predictors.device import Device, DeviceNotMeasuredError, available_devices, device_from_mapping, load_device
from predictors.fusion import Kernel, Runtime, fuse, load_runtime
from predictors.graph import Graph, GraphBuilder, Node
from predictors.latency import KernelPrediction, LatencyPredictor, Prediction
from predictors.lookup_table import LookupTable, Measurement, TableHeader, append_measurement
from predictors.operators import Operator, UnknownOperatorError
from predictors.roofline import Roofline, roofline

if TYPE_CHECKING:
    from predictors.tracing import trace as trace

__all__ = [
    "Cost",
    "Device",
    "DeviceNotMeasuredError",
    "Graph",
    "GraphBuilder",
    "Kernel",
    "KernelPrediction",
    "LatencyPredictor",
    "LookupTable",
    "Measurement",
    "Node",
    "Operator",
    "Prediction",
    "Roofline",
    "Runtime",
    "TableHeader",
    "UnknownOperatorError",
    "append_measurement",
    "available_devices",
    "device_from_mapping",
    "fuse",
    "kernel_cost",
    "load_device",
    "load_runtime",
    "peak_memory_bytes",
    "roofline",
    "trace",
]


def __getattr__(name: str) -> Any:
    """`trace` needs torch, so it is imported when it is asked for."""
    if name == "trace":
        from predictors.tracing import trace

        return trace
    raise AttributeError(f"module 'predictors' has no attribute {name!r}")
